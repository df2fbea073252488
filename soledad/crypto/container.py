"""
The container's inside: sealing and opening, incrementally and in any order.  No files, no network.

`Sealer` and `Opener` take and give bytes as they come.  `Chunks` opens single chunks, `RangeOpener` those of a
range as they arrive.  Nothing here gives out a byte before it is authenticated.  Source: docs/spec/container.rst.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field
from cryptography.exceptions import InvalidTag

from soledad.crypto.cipher import Buffer, Cipher, Context, KeyMaterial, Keys, derived, derived_behind
from soledad.errors import AuthenticationFailed, MalformedContainer
from soledad.model.blob import WHOLE, ByteRange
from soledad.wire.container import (
    CHUNK_LOG2,
    HEADER_SIZE,
    TAG_SIZE,
    TRAILER_SIZE,
    Header,
    Layout,
    header_prefix,
    padme,
)

__all__ = [
    "Buffer",
    "Chunks",
    "Context",
    "KeyMaterial",
    "Keys",
    "Opener",
    "RangeOpener",
    "Sealer",
    "open_",
    "seal",
    "tail_place",
]

#: Bytes of the pieces in which the padding is made: it may be much, and memory is not.
_PIECE = 1 << 20


@define(eq=False)
class _Cutter:
    """Cuts what comes in pieces of any size into pieces of one size."""

    _size: int
    #: What is too little for a piece yet.
    rest: bytearray = field(factory=bytearray, init=False, repr=False)

    def cut(self, data: Buffer) -> Iterator[memoryview]:
        """Yield the pieces that ``data`` completes; what is left over is kept (a copy)."""
        view = memoryview(data).cast("B")
        start = 0
        if self.rest:
            start = min(self._size - len(self.rest), len(view))
            self.rest += view[:start]
            if len(self.rest) < self._size:
                return
            whole, self.rest = self.rest, bytearray()
            yield memoryview(whole)
        stop = start + (len(view) - start) // self._size * self._size
        for at in range(start, stop, self._size):
            yield view[at : at + self._size]
        self.rest += view[stop:]


class Sealer:
    """
    Seals one stream of data, of a length that need not be known.

    Write ``header``, then what `seal` gives, then what `finish` (or `tail`) gives.
    """

    def __init__(self, material: KeyMaterial, context: Context, salt: bytes, log2: int = CHUNK_LOG2) -> None:
        """Make the header.  ``salt``: 24 random bytes, never used before."""
        prefix = header_prefix(material.key_id, log2)
        self._cipher = Cipher.derive(material, context, prefix, salt)
        header = Header(material.key_id, salt, self._cipher.commitment, log2)
        #: The container's first 72 bytes.
        self.header: bytes = header.encode()
        #: What a pointer keeps.
        self.commitment: bytes = header.commitment
        #: Bytes of data so far.
        self.length = 0
        self._floor = context.purpose.floor
        self._log2 = log2
        self._sealed_chunk = (1 << log2) + TAG_SIZE
        self._index = 0
        self._cutter = _Cutter(1 << log2)
        self._finished = False

    def room(self, length: int) -> int:
        """Return how many bytes `seal_into` needs at most, at any time, for ``length`` bytes of data."""
        return (length + (1 << self._log2) - 1 >> self._log2) * self._sealed_chunk

    def seal_into(self, data: Buffer, out: Buffer) -> int:
        """
        Seal ``data``, the next of the stream, into a buffer that has `room` for it; return how much was written.

        The way for much data: fresh memory costs more than the sealing does.

        :raise ValueError: the buffer is too small; nothing was sealed.
        """
        if memoryview(out).nbytes < self._sealed_size(data):
            raise ValueError("the buffer is too small")
        self.length += memoryview(data).nbytes
        return self._seal_into(data, memoryview(out))

    def seal(self, data: Buffer) -> bytes:
        """Seal ``data``, the next of the stream, and return the chunks it completes."""
        self.length += memoryview(data).nbytes
        return self._seal(data)

    def tail(self) -> Iterator[bytes]:
        """Yield the rest of the container, piece by piece; nothing can be sealed afterwards."""
        layout = Layout.of_data(self.length, self._floor, self._log2)
        zeros = layout.stream - TRAILER_SIZE - self.length
        for start in range(0, zeros, _PIECE):
            yield self._seal(bytes(min(_PIECE, zeros - start)))
        end = self._seal(self.length.to_bytes(TRAILER_SIZE, "big"))
        last = bytearray(len(self._cutter.rest) + TAG_SIZE)
        self._cipher.seal_into(self._index, self._cutter.rest, memoryview(last))
        # From here on, more data would be sealed under a nonce that is used.
        self._finished = True
        yield end + last

    def finish(self) -> bytes:
        """Return the rest of the container; nothing can be sealed afterwards."""
        return b"".join(self.tail())

    def _seal(self, data: Buffer) -> bytes:
        """Seal the next bytes of the stream."""
        out = bytearray(self._sealed_size(data))
        self._seal_into(data, memoryview(out))
        return bytes(out)

    def _sealed_size(self, data: Buffer) -> int:
        """Return how many bytes of chunks ``data`` completes now."""
        return (len(self._cutter.rest) + memoryview(data).nbytes >> self._log2) * self._sealed_chunk

    def _seal_into(self, data: Buffer, out: memoryview) -> int:
        """Seal the next bytes of the stream into ``out``; return how much was written."""
        if self._finished:
            raise ValueError("the container is finished")
        at = 0
        for piece in self._cutter.cut(data):
            self._cipher.seal_into(self._index, piece, out[at : at + self._sealed_chunk])
            self._index += 1
            at += self._sealed_chunk
        return at


class Chunks:
    """The chunks of one container, to be opened in any order: made by `of_length` or `of_size`."""

    def __init__(self, cipher: Cipher, layout: Layout, length: int) -> None:
        """Take what opens the chunks, where they are, and how much data they hold."""
        self._cipher = cipher
        #: Where everything is.
        self.layout = layout
        #: Bytes of data.
        self.length = length
        #: The container's, which was found right.
        self.commitment: bytes = cipher.commitment

    @classmethod
    def of_length(
        cls, keys: Keys, context: Context, header: Buffer, length: int, expected_commitment: bytes | None = None
    ) -> Chunks:
        """
        Take a container's header, and the length of its data.

        :raise MalformedContainer: the header is none.
        :raise UnknownKey: it names a key that is not there.
        :raise AuthenticationFailed: it is not of this context, or not the expected one.
        """
        parsed = Header.parse(header)
        layout = Layout.of_data(length, context.purpose.floor, parsed.log2)
        return cls(Cipher.behind(parsed, keys, context, expected_commitment), layout, length)

    @classmethod
    def of_size(
        cls,
        keys: Keys,
        context: Context,
        header: Buffer,
        size: int,
        tail: Buffer,
        expected_commitment: bytes | None = None,
    ) -> Chunks:
        """
        Take a container's header, its size, and the bytes at its `tail_place`: the length of the data is in these.

        :raise MalformedContainer: no container has this header or size, or they do not go with the trailer.
        :raise UnknownKey: the header names a key that is not there.
        :raise AuthenticationFailed: header or tail are not what was sealed in this context, or not the expected.
        """
        parsed = Header.parse(header)
        layout = Layout.of_size(size, context.purpose.floor, parsed.log2)
        cipher = Cipher.behind(parsed, keys, context, expected_commitment)
        length = _trailer(cipher, layout, tail)
        if Layout.of_data(length, context.purpose.floor, parsed.log2) != layout:
            raise MalformedContainer("trailer")
        return cls(cipher, layout, length)

    def open_into(self, index: int, sealed: Buffer, out: memoryview) -> int:
        """
        Open one chunk into ``out``, which has room for a chunk; return how many bytes of it are data.

        :raise AuthenticationFailed: it is not what was sealed, or not all of it is there.
        :raise MalformedContainer: what it has behind the data does not go with the length.
        """
        start, stop = self.layout.stream_part(index)
        if len(sealed) != stop - start + TAG_SIZE:
            raise AuthenticationFailed(index)
        plain = out[: stop - start]
        self._cipher.open_into(index, sealed, plain)
        count = max(0, min(self.length, stop) - start)
        if count < len(plain) and plain[count:] != self._behind_data(start + count, stop):
            raise MalformedContainer("padding")
        return count

    def open(self, index: int, sealed: Buffer) -> bytes:
        """Open one chunk and return the data in it; errors as `open_into`."""
        out = memoryview(bytearray(self.layout.chunk_size))
        return bytes(out[: self.open_into(index, sealed, out)])

    def _behind_data(self, start: int, stop: int) -> bytes:
        """Return what the stream must have from ``start`` on, where the data has ended, up to ``stop``."""
        trailer_at = self.layout.stream - TRAILER_SIZE
        zeros = bytes(max(0, min(stop, trailer_at) - start))
        trailer = self.length.to_bytes(TRAILER_SIZE, "big")
        return zeros + trailer[max(0, start - trailer_at) : max(0, stop - trailer_at)]


class RangeOpener:
    """Opens the chunks that hold a range of the data, as they arrive, and gives out just the range."""

    def __init__(self, chunks: Chunks, data_range: ByteRange = WHOLE) -> None:
        """
        Prepare to open a range of the data; all of it means every chunk, those without data as well.

        :raise InvalidRange: it does not lie in the data.
        """
        self._chunks = chunks
        self._start, self._stop = data_range.within(chunks.length)
        layout = chunks.layout
        whole = (self._start, self._stop) == (0, chunks.length)
        indexes = layout.all_chunks if whole else layout.chunks_of(self._start, self._stop)
        #: What of the container has to be fed.
        self.place: ByteRange = layout.place_of(indexes)
        self._index, self._end = indexes.start, indexes.stop
        #: Bytes of the container that are still to come.
        self.missing: int = self.place.length or 0
        self._cutter = _Cutter(layout.sealed_chunk_size)

    @classmethod
    def behind(cls, chunks: Chunks, index: int) -> RangeOpener:
        """Return what opens chunk ``index`` and all behind it: those before it were opened, and found right."""
        opener = cls(chunks)
        indexes = range(index, chunks.layout.chunks)
        opener.place = chunks.layout.place_of(indexes)
        opener.missing = opener.place.length or 0
        opener._index = index
        return opener

    def room(self, length: int) -> int:
        """Return how many bytes `feed_into` needs at most, at any time, for ``length`` bytes of the container."""
        return min(length + self._chunks.layout.sealed_chunk_size, self.place.length or 0)

    def feed_into(self, data: Buffer, out: Buffer) -> int:
        """
        Take the next bytes of the container, put the data they complete into ``out``, and return how much it is.

        :raise AuthenticationFailed: a chunk is not what was sealed; there is no going on.
        :raise MalformedContainer: padding that does not go with the length, or more bytes than there should be.
        """
        fed = memoryview(data).cast("B")
        ours = fed[: self.missing]
        self.missing -= len(ours)
        view = memoryview(out)
        at = 0
        for sealed in self._cutter.cut(ours):
            at += self._open_into(sealed, view[at:])
        if not self.missing and self._cutter.rest:
            # The container's last chunk is shorter than the others.
            at += self._open_into(self._cutter.rest, view[at:])
            self._cutter.rest = bytearray()
        # Only now, so that the error is the same whatever the split.
        if len(ours) < len(fed):
            raise MalformedContainer("too long")
        return at

    def feed(self, data: Buffer) -> bytes:
        """Take the next bytes of the container and return the data they complete; errors as `feed_into`."""
        out = bytearray(self.room(memoryview(data).nbytes))
        return bytes(memoryview(out)[: self.feed_into(data, out)])

    def finish(self) -> bytes:
        """
        Make sure that all was fed and opened.

        :return: nothing: all data was given out when it was complete.
        :raise AuthenticationFailed: bytes are missing, or did not open when they were fed.
        """
        if self._index != self._end:
            raise AuthenticationFailed(self._index)
        return b""

    def _open_into(self, sealed: Buffer, out: memoryview) -> int:
        """Open the next chunk; return how many bytes of the range it gave."""
        index = self._index
        count = self._chunks.open_into(index, sealed, out)
        self._index += 1
        at = index * self._chunks.layout.chunk_size
        skip, stop = max(0, self._start - at), min(count, self._stop - at)
        if skip:
            out[: stop - skip] = out[skip:stop]
        return max(0, stop - skip)


class Opener:
    """
    Opens one container from its first byte to its last.

    :raise MalformedContainer: from `feed`: not a container, or not of this length.
    :raise UnknownKey: from `feed`: sealed under a key that is not there.
    :raise AuthenticationFailed: from `feed` and `finish`: not what was sealed, or not all of it.
    """

    def __init__(self, keys: Keys, context: Context, length: int, expected_commitment: bytes | None = None) -> None:
        """``length``: of the data, as the pointer or the local row has it."""
        self._arguments = (keys, context, length, expected_commitment)
        self._header = bytearray()
        self._rest: RangeOpener | None = None

    def room(self, length: int) -> int:
        """Return how many bytes `feed_into` needs at most, now, for ``length`` more bytes of the container."""
        return self._rest.room(length) if self._rest else length

    def feed_into(self, data: Buffer, out: Buffer) -> int:
        """
        Take the next bytes of the container, put the data they complete into ``out``; return how much it is.

        The first bytes, up to and with the header, are best given to `feed`, as `room` cannot tell before.
        """
        view = self._behind_header(data)
        return self._rest.feed_into(view, out) if self._rest else 0

    def feed(self, data: Buffer) -> bytes:
        """Take the next bytes of the container and return the data they complete."""
        view = self._behind_header(data)
        return self._rest.feed(view) if self._rest else b""

    def _behind_header(self, data: Buffer) -> memoryview:
        """Take what the header still lacks from ``data``, and return the rest."""
        view = memoryview(data).cast("B")
        if self._rest:
            return view
        taken = HEADER_SIZE - len(self._header)
        self._header += view[:taken]
        if len(self._header) == HEADER_SIZE:
            keys, context, length, expected = self._arguments
            self._rest = RangeOpener(Chunks.of_length(keys, context, self._header, length, expected))
        return view[taken:]

    def finish(self) -> bytes:
        """Make sure that all was fed and opened; return nothing, as all data was given out before."""
        if self._rest is None:
            raise MalformedContainer("short header")
        return self._rest.finish()


def tail_place(context: Context, header: Buffer, size: int) -> ByteRange:
    """
    Return where in a container of ``size`` bytes the tail is, which tells the length of the data.

    :raise MalformedContainer: no container has this header or size.
    """
    layout = Layout.of_size(size, context.purpose.floor, Header.parse(header).log2)
    return layout.place_of(layout.tail)


def _trailer(cipher: Cipher, layout: Layout, tail: Buffer) -> int:
    """Return the length that the last chunk ends with. :raise AuthenticationFailed: it is not what was sealed."""
    (index,) = layout.tail
    start, stop = layout.stream_part(index)
    if memoryview(tail).nbytes != stop - start + TAG_SIZE:
        raise AuthenticationFailed(index)
    plain = bytearray(stop - start)
    cipher.open_into(index, tail, memoryview(plain))
    return int.from_bytes(plain[-TRAILER_SIZE:], "big")


def seal(material: KeyMaterial, context: Context, salt: bytes, data: Buffer, log2: int = CHUNK_LOG2) -> bytes:
    """Return the container of ``data``.  ``salt``: 24 random bytes, never used before."""
    view = memoryview(data).cast("B")
    padded = max(context.purpose.floor, padme(len(view)))
    if padded + TRAILER_SIZE < 1 << log2:
        return _sealed_alone(material, context, salt, log2, view, padded)
    sealer = Sealer(material, context, salt, log2)
    return b"".join((sealer.header, sealer.seal(view), sealer.finish()))


def _sealed_alone(
    material: KeyMaterial, context: Context, salt: bytes, log2: int, data: memoryview, padded: int
) -> bytes:
    """Return the container of what is one chunk: several times as fast as a `Sealer` is."""
    prefix = header_prefix(material.key_id, log2)
    aead, nonce, commitment = derived(material, context, prefix, salt)
    stream = b"".join((data, bytes(padded - len(data)), len(data).to_bytes(TRAILER_SIZE, "big")))
    return b"".join((prefix, salt, commitment, aead.encrypt(nonce, stream, None)))


def open_(
    keys: Keys,
    context: Context,
    container: Buffer,
    length: int | None = None,
    expected_commitment: bytes | None = None,
) -> bytes:
    """
    Return the data of a whole container; without a length, the trailer is believed, which is authentic.

    :raise CryptoError: as `Opener`.
    """
    view = memoryview(container).cast("B")
    if length is None:
        header = Header.parse(view)
        if len(view) - HEADER_SIZE < (1 << header.log2) + TAG_SIZE:
            return _opened_alone(keys, context, header, view, expected_commitment)
        tail = view[tail_place(context, view, len(view)).start :]
        chunks = Chunks.of_size(keys, context, view, len(view), tail, expected_commitment)
    else:
        chunks = Chunks.of_length(keys, context, view, length, expected_commitment)
    opener = RangeOpener(chunks)
    return opener.feed(view[HEADER_SIZE:]) + opener.finish()


def _opened_alone(keys: Keys, context: Context, header: Header, view: memoryview, expected: bytes | None) -> bytes:
    """Return the data of a container of one chunk: several times as fast as `Chunks` are."""
    floor = context.purpose.floor
    padded = len(view) - HEADER_SIZE - TAG_SIZE - TRAILER_SIZE
    if padded < floor or padded != max(floor, padme(padded)):
        raise MalformedContainer("size")
    aead, nonce = derived_behind(header, keys, context, expected)
    try:
        stream = aead.decrypt(nonce, view[HEADER_SIZE:], None)
    except InvalidTag:
        raise AuthenticationFailed(0) from None
    length = int.from_bytes(stream[padded:], "big")
    if max(floor, padme(length)) != padded:
        raise MalformedContainer("trailer")
    if stream.count(0, length, padded) != padded - length:
        raise MalformedContainer("padding")
    return stream[:length]
