"""Sealed records on their way: pages, lists of names, pushes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import BadRequest, SoledadError, UnexpectedAnswer
from soledad.model.ids import RecordName
from soledad.wire.changes import (
    CHECKPOINT_LIMIT,
    CURSOR_SIZE,
    NAMES_LIMIT,
    RECORD_LIMIT,
    RECORDS_LIMIT,
    NamedHash,
    NamesPage,
    Push,
    Reader,
    SealedRecord,
    SyncHead,
    SyncPage,
    decode_names,
    decode_page,
    decode_push,
    encode_names,
    encode_page,
    encode_push,
    is_cursor,
    names_reader,
    page_reader,
    push_reader,
)

NAMES = st.binary(min_size=32, max_size=32).map(lambda data: RecordName(data.hex()))
RECORDS = st.builds(SealedRecord, NAMES, st.binary(min_size=1, max_size=300))
SEVERAL = st.lists(RECORDS, max_size=6, unique_by=lambda record: record.name).map(tuple)
ASCENDING = SEVERAL.map(lambda records: tuple(sorted(records, key=lambda record: record.name)))
CURSORS = st.from_regex(r"[0-9A-Za-z.]{1,64}", fullmatch=True)
HEADS = st.builds(SyncHead, CURSORS, st.binary(min_size=1, max_size=300))
PAGES = st.builds(SyncPage, SEVERAL, HEADS, st.just(False)) | st.builds(
    SyncPage, SEVERAL.filter(len), HEADS, st.just(True)
)
HASHES = st.dictionaries(NAMES, st.binary(min_size=32, max_size=32), max_size=6).map(
    lambda hashes: tuple(NamedHash(name, hashes[name]) for name in sorted(hashes))
)
PUSHES = st.builds(Push, ASCENDING, st.binary(min_size=1, max_size=300))

NAME, LATER = RecordName("01" * 32), RecordName("02" * 32)
HEAD = SyncHead("7.ab", b"checkpoint")
PAGE = SyncPage((SealedRecord(LATER, b"two"), SealedRecord(NAME, b"one")), HEAD, True)


class FormTests(SynchronousTestCase):
    """The bytes are the specification's."""

    def test_page(self) -> None:
        """A page: kind 1, more, cursor, checkpoint, frames."""
        expected = b"SLDP\1\1\1\4" + b"7.ab" + b"\0\0\0\x0acheckpoint" + b"\0\0\0\2"
        expected += b"\2" * 32 + b"\0\0\0\3two" + b"\1" * 32 + b"\0\0\0\3one"
        self.assertEqual(encode_page(PAGE), expected)

    def test_names(self) -> None:
        """A page of names: kind 2, and hashes instead of containers."""
        expected = b"SLDP\1\2\0\4" + b"7.ab" + b"\0\0\0\x0acheckpoint" + b"\0\0\0\1" + b"\1" * 32 + b"h" * 32
        self.assertEqual(encode_names(NamesPage((NamedHash(NAME, b"h" * 32),), HEAD, False)), expected)

    def test_push(self) -> None:
        """A push: kind 3, without a cursor."""
        push = Push((SealedRecord(NAME, b"one"),), b"checkpoint")
        expected = b"SLDP\1\3" + b"\0\0\0\x0acheckpoint" + b"\0\0\0\1" + b"\1" * 32 + b"\0\0\0\3one"
        self.assertEqual(encode_push(push), expected)

    def test_nothing(self) -> None:
        """Before the first push there is no checkpoint, no cursor and no record."""
        page = SyncPage((), SyncHead("", None), False)
        self.assertEqual(encode_page(page), b"SLDP\1\1\0\0" + bytes(8))
        self.assertEqual(decode_page(encode_page(page)), page)

    def test_tags(self) -> None:
        """A head's tag is the hash of its checkpoint, a record's hash that of its container."""
        self.assertEqual(HEAD.tag, sha256(b"checkpoint").hexdigest())
        self.assertIsNone(SyncHead("", None).tag)
        self.assertEqual(SealedRecord(NAME, b"one").hash, sha256(b"one").digest())

    def test_secrets(self) -> None:
        """What is sealed is in no representation."""
        self.assertNotIn("one", repr(PAGE))
        self.assertNotIn("checkpoint=", repr(HEAD))


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return the bytes in pieces."""
    stops = sorted({min(place, len(data)) for place in places})
    return [data[start:stop] for start, stop in pairwise([0, *stops, len(data)])]


class SplitTests(SynchronousTestCase):
    """However the network cuts it, the same comes out."""

    def read(self, reader: Reader[Any], pieces: list[bytes]) -> tuple[list[Any], str, bytes, bool]:
        """Feed the pieces; return what the reader gave."""
        items = [item for piece in pieces for item in reader.feed(piece)]
        reader.end()
        return items, reader.cursor, reader.checkpoint, reader.more

    @given(PAGES, st.lists(st.integers(0, 3000), max_size=12))
    def test_page(self, page: SyncPage, places: list[int]) -> None:
        """A page."""
        expected = list(page.records), page.head.cursor, page.head.checkpoint, page.more
        self.assertEqual(self.read(page_reader(RECORDS_LIMIT), cut(encode_page(page), places)), expected)

    @given(HASHES, HEADS, st.lists(st.integers(0, 1000), max_size=12))
    def test_names(self, names: tuple[NamedHash, ...], head: SyncHead, places: list[int]) -> None:
        """A list of names."""
        data = encode_names(NamesPage(names, head, False))
        expected = list(names), head.cursor, head.checkpoint, False
        self.assertEqual(self.read(names_reader(NAMES_LIMIT), cut(data, places)), expected)

    @given(PUSHES, st.lists(st.integers(0, 3000), max_size=12))
    def test_push(self, push: Push, places: list[int]) -> None:
        """A push."""
        expected = list(push.records), "", push.checkpoint, False
        self.assertEqual(self.read(push_reader(), cut(encode_push(push), places)), expected)

    def test_byte_by_byte(self) -> None:
        """Every byte alone; a record is given out with its last byte."""
        reader = page_reader(2)
        data = encode_page(PAGE)
        given = [len(reader.feed(bytes((byte,)))) for byte in data]
        self.assertEqual([at for at, count in enumerate(given) if count], [len(data) - 1 - 39, len(data) - 1])

    def test_large_record(self) -> None:
        """The largest record comes out whole when it comes in small pieces."""
        page = SyncPage((SealedRecord(NAME, bytes(RECORD_LIMIT)),), HEAD, False)
        data = encode_page(page)
        reader = page_reader(1)
        fed = [record for at in range(0, len(data), 4096) for record in reader.feed(data[at : at + 4096])]
        self.assertEqual(fed, list(page.records))


class StrictTests(SynchronousTestCase):
    """There is one encoding, and nothing else is read."""

    def refused(self, decode: Callable[[bytes], object], data: bytes, kind: type[SoledadError]) -> None:
        """See that bytes are refused, whole and byte by byte."""
        with self.assertRaises(kind):
            decode(data)

    def check_mutation(
        self,
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
        data: bytes,
        change: tuple[int, int, bytes],
        kind: type[SoledadError],
    ) -> None:
        """Change some bytes: what is still read has just these bytes; what is not is the one error."""
        at, count, replacement = change
        at %= len(data)
        changed = data[:at] + replacement + data[at + count :]
        try:
            value = decode(changed)
        except kind:
            return
        self.assertEqual(encode(value), changed)

    @given(PAGES, st.tuples(st.integers(0, 3000), st.integers(0, 40), st.binary(max_size=40)))
    def test_mutated_page(self, page: SyncPage, change: tuple[int, int, bytes]) -> None:
        """A page."""
        self.check_mutation(decode_page, encode_page, encode_page(page), change, UnexpectedAnswer)

    @given(HASHES, HEADS, st.tuples(st.integers(0, 1000), st.integers(0, 70), st.binary(max_size=70)))
    def test_mutated_names(self, names: tuple[NamedHash, ...], head: SyncHead, change: tuple[int, int, bytes]) -> None:
        """A list of names."""
        data = encode_names(NamesPage(names, head, False))
        self.check_mutation(decode_names, encode_names, data, change, UnexpectedAnswer)

    @given(PUSHES, st.tuples(st.integers(0, 3000), st.integers(0, 40), st.binary(max_size=40)))
    def test_mutated_push(self, push: Push, change: tuple[int, int, bytes]) -> None:
        """A push."""
        self.check_mutation(decode_push, encode_push, encode_push(push), change, BadRequest)

    @given(st.binary(max_size=200))
    def test_rubbish(self, data: bytes) -> None:
        """Bytes of no form at all."""
        for decode, kind in (
            (decode_page, UnexpectedAnswer),
            (decode_names, UnexpectedAnswer),
            (decode_push, BadRequest),
        ):
            self.refused(decode, data, kind)

    def test_cut_short(self) -> None:
        """Every beginning of one is not one."""
        for decode, data, kind in (
            (decode_page, encode_page(PAGE), UnexpectedAnswer),
            (decode_push, encode_push(Push(PAGE.records[:1], b"c")), BadRequest),
        ):
            for size in range(len(data)):
                self.refused(decode, data[:size], kind)
            self.refused(decode, data + b"\0", kind)

    def test_pages(self) -> None:
        """What a page cannot say."""
        good = encode_page(PAGE)
        checkpoint = good.index(b"checkpoint")
        for what, data in (
            ("version", b"SLDP\2" + good[5:]),
            ("kind", b"SLDP\1\2" + good[6:]),
            ("more than true", good[:6] + b"\2" + good[7:]),
            ("a long cursor", good[:7] + bytes((CURSOR_SIZE + 1,)) + b"7" * (CURSOR_SIZE + 1) + good[12:]),
            ("a cursor of other characters", good.replace(b"7.ab", b"7/ab")),
            ("no cursor", good[:7] + b"\0" + good[12:]),
            ("no checkpoint", good[: checkpoint - 4] + bytes(4) + good[checkpoint + 10 :]),
            ("a checkpoint that is too large", good[: checkpoint - 4] + b"\0\1\0\1" + good[checkpoint:]),
            ("a record without bytes", good.replace(b"\0\0\0\3two", bytes(4))),
            ("more than nothing", good[: checkpoint + 10] + bytes(4)),
        ):
            with self.assertRaises(UnexpectedAnswer, msg=what):
                decode_page(data)

    def test_too_many(self) -> None:
        """More than was asked for is refused by the count, and too large a record by its length, before they come."""
        head = encode_page(PAGE)[: encode_page(PAGE).index(b"checkpoint") + 10]
        for data in (
            head + (RECORDS_LIMIT + 1).to_bytes(4, "big"),
            head + b"\0\0\0\1" + b"\1" * 32 + (RECORD_LIMIT + 1).to_bytes(4, "big"),
            head[:12] + (CHECKPOINT_LIMIT + 1).to_bytes(4, "big"),
        ):
            with self.assertRaises(UnexpectedAnswer):
                page_reader(RECORDS_LIMIT).feed(data)
        with self.assertRaises(UnexpectedAnswer):
            page_reader(1).feed(encode_page(PAGE))
        self.assertEqual(len(page_reader(2).feed(encode_page(PAGE))), 2)

    def test_order(self) -> None:
        """Names ascend in pushes, in lists, and where records were asked for by name."""
        first, second = SealedRecord(NAME, b"one"), SealedRecord(LATER, b"two")
        for records in ((second, first), (first, first)):
            with self.assertRaises(BadRequest):
                decode_push(encode_push(Push(records, b"c")))
            with self.assertRaises(UnexpectedAnswer):
                page_reader(2, chosen=True).feed(encode_page(SyncPage(records, HEAD, False)))
            names = tuple(NamedHash(record.name, record.hash) for record in records)
            with self.assertRaises(UnexpectedAnswer):
                decode_names(encode_names(NamesPage(names, HEAD, False)))

    def test_cursors(self) -> None:
        """What may be a cursor."""
        for text, good in (
            ("7.ab", True),
            ("", False),
            ("7" * 65, False),
            ("7\n", False),
            ("7-a", False),
            ("٣", False),
        ):
            self.assertEqual(is_cursor(text), good, text)
