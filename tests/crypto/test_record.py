"""Records: vectors, every document there and back, and bytes that are none."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad import errors
from soledad.crypto.cipher import KeyMaterial
from soledad.crypto.record import MAX_RECORD, RecordNames, RecordOpener, encode, parse, record_name, seal_record
from soledad.errors import DocumentTooBig, MalformedRecord
from soledad.model.attachment import Pointer
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import BlobId, DocId, RecordName
from soledad.wire.changes import RECORD_LIMIT, SealedRecord
from tests.vectors import load
from tests.vectors.make import ROOT
from tests.vectors.sync import DOC, NAMES_KEY, POINTER, RECORDS, SIMPLE, version_case

SALT = bytes(24)
KEYS = {ROOT.key_id: ROOT}

REVISIONS = st.dictionaries(
    st.sampled_from(["aa" * 16, "bb" * 16, "cc" * 16, "aa" * 16 + "-1"]), st.integers(1, 10**18 - 1), min_size=1
).map(lambda vector: "|".join(f"{replica}:{vector[replica]}" for replica in sorted(vector)))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=8,
)
CONTENT = st.builds(
    lambda content, options: json.dumps(content, **options),
    st.dictionaries(TEXT, VALUES, max_size=4),
    st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}]),
)
POINTERS = st.builds(
    Pointer,
    st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True).map(BlobId),
    st.integers(0, 2**63 - 1),
    st.none() | TEXT,
    st.binary(min_size=32, max_size=32),
)
ATTACHMENTS = st.dictionaries(TEXT.filter(len), POINTERS, max_size=3)


@st.composite
def versions(draw: st.DrawFn) -> Versions:
    """Return any set of versions; no two are equal."""
    doc_id = DocId(draw(st.from_regex(r"[A-Za-z0-9.%_-]{1,40}", fullmatch=True)))
    tombstone = st.builds(Stored, st.just(doc_id), REVISIONS)
    document = st.builds(Stored, st.just(doc_id), REVISIONS, CONTENT, ATTACHMENTS)
    some = draw(st.lists(document | tombstone, min_size=1, max_size=4, unique_by=lambda one: (one.rev, one.content)))
    return Versions(some[0], tuple(some[1:]))


class VectorTests(SynchronousTestCase):
    """The files of vectors mean the same to everyone."""

    def opened(self, case: dict[str, Any]) -> Versions:
        """Open the record of a case."""
        root = KeyMaterial(bytes.fromhex(case["secret"]), bytes.fromhex(case["account_id"]))
        record = SealedRecord(RecordName(case["record_name"]), b64decode(case["record"]))
        names = RecordNames.under(bytes.fromhex(case["names_key"]))
        return RecordOpener({root.key_id: root}, names).open(record)

    def test_open(self) -> None:
        """What must open, opens to the same versions, and its inside is what is written."""
        for case in load("record.json", "open"):
            opened = self.opened(case)
            self.assertEqual(opened.doc_id, case["doc_id"])
            self.assertEqual([version_case(version) for version in opened], case["versions"], case["name"])
            self.assertEqual(encode(opened), b64decode(case["inside"]))

    def test_refuse(self) -> None:
        """What must not open fails with the error that is told."""
        for case in load("record.json", "refuse"):
            with self.assertRaises(getattr(errors, case["error"]), msg=case["name"]):
                self.opened(case)


class NameTests(SynchronousTestCase):
    """What a record is called."""

    def test_name(self) -> None:
        """The HMAC of the id, in hex: another key or another id is another name."""
        name = record_name(NAMES_KEY, DOC)
        self.assertEqual(name, hmac.new(NAMES_KEY, DOC.encode(), "sha256").hexdigest())
        self.assertNotEqual(name, record_name(bytes(32), DOC))
        self.assertNotEqual(name, record_name(NAMES_KEY, DocId(DOC + "x")))


class InsideTests(SynchronousTestCase):
    """There and back."""

    @given(versions())
    def test_round_trip(self, some: Versions) -> None:
        """Any document comes out as it went in, its text byte for byte."""
        parsed = parse(encode(some))
        self.assertEqual(parsed.current, some.current)
        self.assertCountEqual(parsed.alternatives, some.alternatives)
        self.assertEqual(encode(parsed), encode(some))

    @given(st.sampled_from(list(RECORDS.values())), st.data())
    def test_mutated(self, some: Versions, data: st.DataObject) -> None:
        """However bytes are changed, what is still read has just this encoding."""
        inside = encode(some)
        at = data.draw(st.integers(0, len(inside) - 1))
        count, replacement = data.draw(st.integers(0, 9)), data.draw(st.binary(max_size=9))
        changed = inside[:at] + replacement + inside[at + count :]
        try:
            parsed = parse(changed)
        except MalformedRecord:
            return
        self.assertEqual(encode(parsed), changed)

    def test_cut(self) -> None:
        """No beginning of an inside is one."""
        for some in RECORDS.values():
            inside = encode(some)
            for size in range(len(inside)):
                with self.assertRaises(MalformedRecord):
                    parse(inside[:size])

    def test_order(self) -> None:
        """The order in which alternatives are given makes no difference, also where they have one revision."""
        one, two = (Stored(DOC, "a:1", f'{{"n":{number}}}') for number in range(2))
        current = Stored(DOC, "b:1")
        self.assertEqual(encode(Versions(current, (one, two))), encode(Versions(current, (two, one))))

    def test_error_tells_nothing(self) -> None:
        """What is wrong with a document's inside is told without its text."""
        inside = encode(SIMPLE).replace(b'{"a": 1}', b"a secret")
        error = self.assertRaises(MalformedRecord, parse, inside)
        self.assertNotIn("secret", str(error))


class SizeTests(SynchronousTestCase):
    """What is too large does not leave the device."""

    def test_limit(self) -> None:
        """The inside has up to 4 MiB, to the byte; its record is one that the server takes."""
        rest = len(encode(Versions(Stored(DOC, "a:1", ""))))
        content = json.dumps("x" * (MAX_RECORD - rest - 8))
        some = Versions(Stored(DOC, "a:1", f'{{"a":{content}}}'))
        self.assertEqual(len(encode(some)), MAX_RECORD)
        record = seal_record(ROOT, record_name(NAMES_KEY, DOC), SALT, some)
        self.assertLessEqual(len(record.data), RECORD_LIMIT)
        self.assertEqual(RecordOpener(KEYS, RecordNames.under(NAMES_KEY)).open(record), some)
        larger = Versions(evolve(some.current, content=some.current.content + " "))  # type: ignore[operator]
        error = self.assertRaises(DocumentTooBig, seal_record, ROOT, record.name, SALT, larger)
        self.assertEqual((error.size, error.limit), (MAX_RECORD + 1, MAX_RECORD))
        with self.assertRaises(MalformedRecord):
            parse(encode(some) + b"\0")

    def test_long_fields(self) -> None:
        """So does what cannot be written down: an id, a type or a number of attachments that is too large."""
        many = dict.fromkeys(map(str, range(65536)), POINTER)
        for version in (
            Stored(DocId("x" * 65536), "a:1", "{}"),
            Stored(DOC, "a:1", "{}", {"a": evolve(POINTER, content_type="x" * 65536)}),
            Stored(DOC, "a:1", "{}", many),
        ):
            with self.assertRaises(DocumentTooBig):
                encode(Versions(version))

    def test_padded(self) -> None:
        """Small documents, and tombstones, have records of one size."""
        some = [RECORDS[name] for name in ("a document", "a tombstone")]
        sizes = {len(seal_record(ROOT, record_name(NAMES_KEY, one.doc_id), SALT, one).data) for one in some}
        self.assertEqual(sizes, {72 + 256 + 8 + 16})
