"""
The container's outside: its header, and where in it which bytes are.  No keys, no bytes of data.

Whoever copies, cuts or counts containers needs this; who opens them needs `soledad.crypto.container`.
Source: docs/spec/container.rst.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from attrs import field, frozen

from soledad.errors import MalformedContainer
from soledad.model.blob import ByteRange

MAGIC = b"SLDC"
VERSION = 1
#: HKDF-SHA256 and AES-256-GCM.
SUITE = 1

#: Bytes of the header, and of its fields.
HEADER_SIZE = 72
KEY_ID_SIZE = 8
SALT_SIZE = 24
COMMITMENT_SIZE = 32
#: Bytes that sealing adds to each chunk.
TAG_SIZE = 16
#: Bytes of the length at the end of the stream.
TRAILER_SIZE = 8

#: Chunk sizes, as exponents of 2: what writers use, and what readers accept.
CHUNK_LOG2 = 16
CHUNK_LOG2_RANGE = range(12, 21)
MAX_CHUNKS = 2**31


class Purpose(Enum):
    """What a container is for: the first field of its info list, and the least it is padded to (bytes)."""

    BLOB = ("soledad/blob", 1024)
    TOMBSTONE = ("soledad/tombstone", 256)
    RECORD = ("soledad/record", 256)
    CHECKPOINT = ("soledad/checkpoint", 256)
    KEYRING = ("soledad/keyring", 1024)
    DEVICE = ("soledad/device", 256)

    def __init__(self, label: str, floor: int) -> None:
        """Name the two halves of the value."""
        self.label = label
        self.floor = floor


@frozen
class Header:
    """The first 72 bytes of a container."""

    key_id: bytes
    salt: bytes
    commitment: bytes
    log2: int = CHUNK_LOG2

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Header:
        """
        Read a header from the first bytes of ``data``.

        :raise MalformedContainer: too few bytes, or not a header of this version.
        """
        head = bytes(data[:HEADER_SIZE])
        if len(head) < HEADER_SIZE:
            raise MalformedContainer("short header")
        # Most begin as writers make them.
        log2 = CHUNK_LOG2 if head.startswith(_USUAL) else _log2(head)
        return cls(head[8:16], head[16:40], head[40:], log2)

    @property
    def prefix(self) -> bytes:
        """The part that goes into the derivation of the key: all before the salt."""
        return header_prefix(self.key_id, self.log2)

    def encode(self) -> bytes:
        """Return the 72 bytes."""
        return self.prefix + self.salt + self.commitment


@lru_cache(maxsize=64)
def header_prefix(key_id: bytes, log2: int) -> bytes:
    """Return the first 16 bytes of a header."""
    return MAGIC + bytes((VERSION, SUITE, log2, 0)) + key_id


#: How a header begins whose chunks have the usual size.
_USUAL = header_prefix(b"", CHUNK_LOG2)


def _log2(head: bytes) -> int:
    """Return the size of the chunks behind a header. :raise MalformedContainer: it is not one of this version."""
    if head[:4] != MAGIC:
        raise MalformedContainer("magic")
    version, suite, log2, flags = head[4:8]
    if version != VERSION:
        raise MalformedContainer("version")
    if suite != SUITE:
        raise MalformedContainer("suite")
    if log2 not in CHUNK_LOG2_RANGE:
        raise MalformedContainer("chunk size")
    if flags:
        raise MalformedContainer("flags")
    return log2


def padme(length: int) -> int:
    """Return ``length`` rounded up so that little of it shows, for at most 12 % more."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    low_bits = max(0, exponent - exponent.bit_length())
    mask = (1 << low_bits) - 1
    return (length + mask) & ~mask


def sealed_size(length: int, floor: int, log2: int = CHUNK_LOG2) -> int:
    """Return the size of a container that holds ``length`` bytes of data."""
    return Layout.of_data(length, floor, log2).size


@frozen
class Layout:
    """
    Where things are in one container: chunks, stream and data, as arithmetic.

    Positions in the data and in the stream are the same, as the data comes first.
    """

    #: Bytes of the stream: data, zeros and the trailer.
    stream: int
    log2: int = CHUNK_LOG2
    #: Bytes of a whole chunk's part of the stream, and of the whole chunk sealed.
    chunk_size: int = field(init=False)
    sealed_chunk_size: int = field(init=False)
    #: How many chunks there are: at least one.
    chunks: int = field(init=False)
    #: Bytes of the container.
    size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """:raise MalformedContainer: more chunks than there may be."""
        put = object.__setattr__
        put(self, "chunk_size", 1 << self.log2)
        put(self, "sealed_chunk_size", self.chunk_size + TAG_SIZE)
        put(self, "chunks", self.stream // self.chunk_size + 1)
        put(self, "size", HEADER_SIZE + self.stream + TAG_SIZE * self.chunks)
        if self.chunks > MAX_CHUNKS:
            raise MalformedContainer("too many chunks")

    @classmethod
    def of_data(cls, length: int, floor: int, log2: int = CHUNK_LOG2) -> Layout:
        """Return the layout for ``length`` bytes of data."""
        return cls(max(floor, padme(length)) + TRAILER_SIZE, log2)

    @classmethod
    def of_size(cls, size: int, floor: int, log2: int = CHUNK_LOG2) -> Layout:
        """
        Return the layout of a container of ``size`` bytes.

        :raise MalformedContainer: no container has this size.
        """
        whole, last = divmod(size - HEADER_SIZE, (1 << log2) + TAG_SIZE)
        padded = (whole << log2) + last - TAG_SIZE - TRAILER_SIZE
        if last < TAG_SIZE or padded < floor or padded != max(floor, padme(padded)):
            raise MalformedContainer("size")
        return cls(padded + TRAILER_SIZE, log2)

    def stream_part(self, index: int) -> tuple[int, int]:
        """Return start and stop, in the stream, of what chunk ``index`` holds."""
        start = index * self.chunk_size
        return start, min(start + self.chunk_size, self.stream)

    def chunks_of(self, start: int, stop: int) -> range:
        """Return the chunks that hold the stream's bytes from ``start`` to ``stop`` (not included)."""
        if stop <= start:
            return range(start // self.chunk_size, start // self.chunk_size)
        return range(start // self.chunk_size, (stop - 1) // self.chunk_size + 1)

    def place_of(self, chunks: range) -> ByteRange:
        """Return where in the container ``chunks`` lie: what has to be fetched to open them."""
        start = HEADER_SIZE + chunks.start * self.sealed_chunk_size
        stop = min(HEADER_SIZE + chunks.stop * self.sealed_chunk_size, self.size)
        return ByteRange(start, max(0, stop - start))

    @property
    def all_chunks(self) -> range:
        """Every chunk."""
        return range(self.chunks)

    @property
    def tail(self) -> range:
        """The last chunk: as what is padded has a multiple of 16 bytes, it holds the whole trailer."""
        return range(self.chunks - 1, self.chunks)
