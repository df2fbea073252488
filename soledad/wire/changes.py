"""
What goes to ``/sync/{uuid}`` and comes from there: sealed records, pages of them or of their hashes, and pushes.

Nothing here looks into a container.  Readers take bytes as they come, keep no more than the limits allow, and refuse
whatever is not the one encoding.  Source: docs/spec/documents-sync.rst, "Over HTTP".
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from soledad.errors import BadRequest, SoledadError, UnexpectedAnswer
from soledad.model.ids import RecordName

T = TypeVar("T")

MAGIC = b"SLDP"
VERSION = 1
#: What follows: a page of records, a page of names and hashes, a push.
_RECORDS, _NAMES, _PUSH = (MAGIC + bytes((VERSION, kind)) for kind in (1, 2, 3))

NAME_SIZE = HASH_SIZE = 32
#: Bytes of a sealed record, of a sealed checkpoint, and of a whole push, at most.
RECORD_LIMIT = 4 * 1024 * 1024 + 4096
CHECKPOINT_LIMIT = 64 * 1024
PUSH_LIMIT = 5 * 1024 * 1024
#: Records of a push or a page, at most; and of a page as a server ends it (bytes), unless the first one is longer.
RECORDS_LIMIT = 1000
PAGE_SIZE = 1024 * 1024
#: Entries of a page of names, and names that are asked for at once, at most.
NAMES_LIMIT = 10_000
CHOSEN_LIMIT = 100
#: Bytes of a page of records, at most.
PAGE_LIMIT = PAGE_SIZE + RECORD_LIMIT + CHECKPOINT_LIMIT + 1024
#: Bytes of a page of names, at most.
NAMES_PAGE_LIMIT = NAMES_LIMIT * (NAME_SIZE + HASH_SIZE) + CHECKPOINT_LIMIT + 1024
#: Bytes of a cursor, at most.
CURSOR_SIZE = 64

_CURSOR = re.compile(r"[0-9A-Za-z.]{1,64}", re.ASCII)


@frozen
class SealedRecord:
    """A document's record as it lies on the server: a container."""

    name: RecordName
    data: bytes = field(repr=False)

    @property
    def hash(self) -> bytes:
        """The SHA-256 of the container, as digests and lists of names have it."""
        return sha256(self.data).digest()


@frozen
class NamedHash:
    """A record without its bytes."""

    name: RecordName
    #: SHA-256 of the container.
    hash: bytes


@frozen
class SyncHead:
    """The state after the last push, as far as a page tells it."""

    #: Where to go on from: see the page.  Empty: there was no push yet.
    cursor: str
    #: The sealed checkpoint; `None`: there was no push yet.
    checkpoint: bytes | None = field(repr=False)
    #: The ``head`` of the user's blobs at that time.  Not in the page's bytes, but beside them.
    blobs: str = ""

    @property
    def tag(self) -> str | None:
        """What the next push has to name: the SHA-256 of the checkpoint in hex; `None`: there was no push yet."""
        return None if self.checkpoint is None else sha256(self.checkpoint).hexdigest()


@frozen
class SyncPage:
    """Records, and the head of the moment that they are of."""

    records: tuple[SealedRecord, ...]
    #: Its cursor: of the last record here while there are more, else of the head.
    head: SyncHead
    #: Whether there are more records behind the cursor (or, of chosen ones, behind the last one here).
    more: bool


@frozen
class Idle:
    """The head is the one that is known already."""

    #: The ``head`` of the user's blobs.
    blobs: str


@frozen
class NamesPage:
    """Names and hashes, ascending, and the head of the moment that they are of."""

    names: tuple[NamedHash, ...]
    head: SyncHead
    more: bool


@frozen
class Push:
    """Records, ascending by name, and the checkpoint that is true after them."""

    records: tuple[SealedRecord, ...]
    checkpoint: bytes = field(repr=False)


def is_cursor(text: str) -> bool:
    """Tell whether a text has the form of a cursor."""
    return _CURSOR.fullmatch(text) is not None


# --- values to bytes ------------------------------------------------------------------------------------------------


def encode_page(page: SyncPage) -> bytes:
    """Return the bytes of a page of records."""
    return b"".join((_RECORDS, *_head(page.head, page.more), *_frames(page.records)))


def encode_names(page: NamesPage) -> bytes:
    """Return the bytes of a page of names."""
    count = len(page.names).to_bytes(4, "big")
    entries = (bytes.fromhex(entry.name) + entry.hash for entry in page.names)
    return b"".join((_NAMES, *_head(page.head, page.more), count, *entries))


def encode_push(push: Push) -> bytes:
    """Return the bytes of a push."""
    return b"".join((_PUSH, *_sized(push.checkpoint), *_frames(push.records)))


def _head(head: SyncHead, more: bool) -> Iterable[bytes]:
    cursor = head.cursor.encode("ascii")
    return (bytes((more, len(cursor))), cursor, *_sized(head.checkpoint or b""))


def _frames(records: Sequence[SealedRecord]) -> Iterable[bytes]:
    parts = [len(records).to_bytes(4, "big")]
    for record in records:
        data = record.data
        parts += (bytes.fromhex(record.name), len(data).to_bytes(4, "big"), data)
    return parts


def _sized(data: bytes) -> tuple[bytes, bytes]:
    return len(data).to_bytes(4, "big"), data


# --- bytes to values ------------------------------------------------------------------------------------------------

#: Bytes of a record's frame before the container, and of a name with its hash.
_FRAME = NAME_SIZE + 4
_ENTRY = NAME_SIZE + HASH_SIZE


@define(eq=False)
class Reader(ABC, Generic[T]):
    """
    Takes bytes as they come, and gives the items that they complete: a head, a count, and so many items.

    What is held back is less than an item, or less than what comes before the first.
    """

    #: The first bytes.
    _kind: bytes
    #: Items, at most.
    _limit: int
    _error: Callable[[str], SoledadError]
    #: What comes before the items.
    more: bool = field(default=False, init=False)
    cursor: str = field(default="", init=False)
    checkpoint: bytes = field(default=b"", init=False, repr=False)
    #: Items that are still to come; negative: their number is still to come.
    _left: int = field(default=-1, init=False)
    #: The last name.
    _last: bytes = field(default=b"", init=False)
    _pieces: list[bytes] = field(factory=list, init=False, repr=False)
    _held: int = field(default=0, init=False)
    #: Bytes without which there is no going on.
    _needed: int = field(default=0, init=False)

    def feed(self, data: bytes) -> list[T]:
        """Take the next bytes; return the items that they complete."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._needed:
            return []
        joined = b"".join(self._pieces)
        at = 0
        items: list[T] = []
        if self._left < 0:
            at = self._begin(joined)
        if self._left > 0:
            items, at = self._items(joined, at)
        if not self._left and at < len(joined):
            raise self._error("bytes behind the end")
        self._pieces, self._held = [joined[at:]], len(joined) - at
        return items

    def end(self) -> None:
        """Make sure that all of it was fed."""
        if self._left:
            raise self._error("cut off")

    def _begin(self, data: bytes) -> int:
        """Take what comes before the items, if all of it is there; return where the items begin."""
        if not data.startswith(self._kind[: len(data)]):
            raise self._error("not of this kind")
        at = len(self._kind)
        if self._kind != _PUSH:
            at = self._position(data, at)
        size = self._number(data, at)
        if size > CHECKPOINT_LIMIT:
            raise self._error("the checkpoint is too large")
        count = self._number(data, at + 4 + size)
        self._needed = at + 8 + size
        if len(data) < self._needed:
            return 0
        self.checkpoint = data[at + 4 : at + 4 + size]
        self._check(count)
        self._left = count
        self._needed = 0
        return at + 8 + size

    def _position(self, data: bytes, at: int) -> int:
        """Take ``more`` and the cursor; return where what follows begins."""
        more, size = data[at : at + 1], data[at + 1 : at + 2]
        if more > b"\1" or size > bytes((CURSOR_SIZE,)):
            raise self._error("not a page")
        stop = at + 2 + (size[0] if size else 0)
        self.more = more == b"\1"
        self.cursor = data[at + 2 : stop].decode("latin-1")
        return stop

    def _check(self, count: int) -> None:
        """Look whether the parts go together, all of them being there."""
        if count > self._limit:
            raise self._error("too many")
        if self._kind == _PUSH:
            if not self.checkpoint:
                raise self._error("no checkpoint")
            return
        if not self.checkpoint and (count or self.more or self.cursor):
            raise self._error("no checkpoint")
        if self.checkpoint and not is_cursor(self.cursor):
            raise self._error("no cursor")
        if self.more and not count:
            raise self._error("more than nothing")

    @abstractmethod
    def _items(self, data: bytes, at: int) -> tuple[list[T], int]:
        """Return the items that are whole, and where the rest begins; count them."""

    def _number(self, data: bytes, at: int) -> int:
        """Return the number at a place, or, of one that is not all there, one that is not greater."""
        return int.from_bytes(data[at : at + 4].ljust(4, b"\0"), "big")


@define(eq=False)
class RecordsReader(Reader[SealedRecord]):
    """Reads a page of records, or a push."""

    #: Whether names have to ascend.
    _ascending: bool = False

    def _items(self, data: bytes, at: int) -> tuple[list[SealedRecord], int]:
        records: list[SealedRecord] = []
        self._needed = _FRAME
        # What is asked again for each of many records has short names.
        end, left, last = len(data), self._left, self._last
        while left and end - at >= _FRAME:
            start = at + _FRAME
            stop = start + int.from_bytes(data[at + NAME_SIZE : start], "big")
            if not 1 <= stop - start <= RECORD_LIMIT:
                raise self._error("a record of no possible size")
            if end < stop:
                self._needed = stop - at
                break
            name = data[at : at + NAME_SIZE]
            if self._ascending and name <= last:
                raise self._error("names do not ascend")
            last = name
            records.append(SealedRecord(RecordName(name.hex()), data[start:stop]))
            at = stop
            left -= 1
        self._left, self._last = left, last
        return records, at


@define(eq=False)
class NamesReader(Reader[NamedHash]):
    """Reads a page of names and hashes."""

    def _items(self, data: bytes, at: int) -> tuple[list[NamedHash], int]:
        names: list[NamedHash] = []
        self._needed = _ENTRY
        while self._left and len(data) - at >= _ENTRY:
            name = data[at : at + NAME_SIZE]
            if name <= self._last:
                raise self._error("names do not ascend")
            self._last = name
            names.append(NamedHash(RecordName(name.hex()), data[at + NAME_SIZE : at + _ENTRY]))
            at += _ENTRY
            self._left -= 1
        return names, at


def page_reader(limit: int, chosen: bool = False) -> RecordsReader:
    """
    Return what reads a page of at most ``limit`` records.

    :param chosen: they were asked for by their names, and come in the order of these.
    :raise UnexpectedAnswer: from it, and from those below: it is not such a page.
    """
    return RecordsReader(_RECORDS, limit, UnexpectedAnswer, chosen)


def names_reader(limit: int) -> NamesReader:
    """Return what reads a page of at most ``limit`` names."""
    return NamesReader(_NAMES, limit, UnexpectedAnswer)


def push_reader() -> RecordsReader:
    """Return what reads a push. :raise BadRequest: from it: it is none."""
    return RecordsReader(_PUSH, RECORDS_LIMIT, BadRequest, True)


def head_of(reader: Reader[Any], blobs: str = "") -> SyncHead:
    """Return the head that the page had which was read."""
    reader.end()
    return SyncHead(reader.cursor, reader.checkpoint or None, blobs)


def decode_page(body: bytes, limit: int = RECORDS_LIMIT) -> SyncPage:
    """:raise UnexpectedAnswer: it is not a page of at most ``limit`` records."""
    reader = page_reader(limit)
    records = reader.feed(body)
    return SyncPage(tuple(records), head_of(reader), reader.more)


def decode_names(body: bytes, limit: int = NAMES_LIMIT) -> NamesPage:
    """:raise UnexpectedAnswer: it is not a page of at most ``limit`` names."""
    reader = names_reader(limit)
    names = reader.feed(body)
    return NamesPage(tuple(names), head_of(reader), reader.more)


def decode_push(body: bytes) -> Push:
    """:raise BadRequest: it is not a push."""
    reader = push_reader()
    records = reader.feed(body)
    reader.end()
    return Push(tuple(records), reader.checkpoint)
