"""Tests of documents as rows: every rule of writing, reading and the log, on a database in memory."""

from __future__ import annotations

from collections.abc import Iterable

import sqlcipher3.dbapi2 as sqlcipher
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local import documents, references, rows
from soledad.client.local.database import Connection
from soledad.client.local.schema import DOCUMENTS
from soledad.errors import (
    DocumentAlreadyDeleted,
    DocumentDoesNotExist,
    DocumentTooBig,
    RevisionConflict,
)
from soledad.model.attachment import Pointer
from soledad.model.document import Stored, Written
from soledad.model.ids import BlobId, DocId, doc_id

REPLICA = "a" * 32
DOC, OTHER, MISSING = DocId("doc"), DocId("other"), DocId("missing")
BLOB, BLOB_2 = BlobId("1" * 32), BlobId("2" * 32)


def in_memory() -> Connection:
    """Return a connection to a new database in memory, with the documents' tables."""
    connection = sqlcipher.connect(":memory:", isolation_level=None)
    for statements in DOCUMENTS:
        connection.executescript(statements)
    return connection


def pointer(blob_id: BlobId) -> Pointer:
    """Return a pointer to a blob."""
    return Pointer(blob_id, 5, "text/plain", bytes(32))


class DocumentsTestCase(SynchronousTestCase):
    """A database with the documents' tables."""

    def setUp(self) -> None:
        """Make it."""
        self.connection = in_memory()
        self.addCleanup(self.connection.close)
        self.cursor = self.connection.cursor()

    def put(
        self,
        doc_id: DocId = DOC,
        rev: str = "",
        content: str | None = "{}",
        blobs: Iterable[BlobId] = (),
        limit: int | None = None,
    ) -> Written:
        """Put a document that has attachments named after their blobs."""
        pointers = {f"name of {blob_id}": pointer(blob_id) for blob_id in blobs}
        return documents.put(self.cursor, REPLICA, Stored(doc_id, rev, content, pointers), limit)

    def get(self, doc_id: DocId = DOC) -> Stored:
        """Return a stored document."""
        (stored,) = documents.get_many(self.cursor, [doc_id])
        return stored

    def delete(self, doc_id: DocId = DOC, rev: str = "") -> Written:
        """Delete a document."""
        return documents.delete(self.cursor, REPLICA, doc_id, rev)

    def generation(self) -> int:
        """Return the newest generation."""
        return documents.generation(self.cursor)[0]


class PutTests(DocumentsTestCase):
    """What may be put, and what it comes to."""

    def test_new(self) -> None:
        """A new document begins with this replica's first count."""
        self.assertEqual(self.put(content='{"a": 1}').rev, f"{REPLICA}:1")
        self.assertEqual(self.get(), Stored(DOC, f"{REPLICA}:1", '{"a": 1}', {}))

    def test_text_as_it_is(self) -> None:
        """JSON text is kept byte for byte."""
        text = '{ "b" :1.0,\t"a":"\\u00e4\\/",  "b":2 }\n'
        self.put(content=text)
        self.assertEqual(self.get().content, text)

    def test_next(self) -> None:
        """The stored revision may be followed, again and again."""
        rev = self.put().rev
        for count in range(2, 5):
            rev = self.put(rev=rev).rev
            self.assertEqual(rev, f"{REPLICA}:{count}")

    def test_other_replica(self) -> None:
        """The next revision keeps what other replicas counted."""
        self.put()
        self.cursor.execute("UPDATE document SET rev = 'b:7|c:1'")
        self.assertEqual(self.put(rev="b:7|c:1").rev, f"{REPLICA}:1|b:7|c:1")

    def test_conflicts(self) -> None:
        """Any revision but the stored one is refused, the error has both, and nothing is changed."""
        first = self.put().rev
        current = self.put(rev=first, content='{"kept": 1}').rev
        for rev in ("", first, f"{REPLICA}:3", f"{current}|b:1", "nonsense"):
            with self.assertRaises(RevisionConflict, msg=rev) as caught:
                self.put(rev=rev, content='{"lost": 1}')
            self.assertEqual((caught.exception.given or "", caught.exception.stored), (rev, current))
        self.assertEqual(self.get().content, '{"kept": 1}')
        self.assertEqual(self.generation(), 2)

    def test_revision_of_nothing(self) -> None:
        """A document that is not there has no revision to follow."""
        with self.assertRaises(RevisionConflict):
            self.put(rev=f"{REPLICA}:1")
        self.assertEqual(self.generation(), 0)

    def test_size(self) -> None:
        """The limit counts bytes, not characters, and is allowed itself; tombstones have no size."""
        text = '{"a":"ää"}'
        size = len(text.encode())
        with self.assertRaises(DocumentTooBig) as caught:
            self.put(content=text, limit=size - 1)
        self.assertEqual((caught.exception.size, caught.exception.limit), (size, size - 1))
        rev = self.put(content=text, limit=size).rev
        self.put(rev=rev, content=None, limit=0)

    def test_size_before_revision(self) -> None:
        """The size is looked at before the revision."""
        self.put()
        with self.assertRaises(DocumentTooBig):
            self.put(rev="nonsense", limit=1)

    def test_all(self) -> None:
        """Several are put in their order."""
        written = documents.put_all(self.cursor, REPLICA, [Stored(DOC, "", "{}"), Stored(OTHER, "", "{}")])
        self.assertEqual([one.rev for one in written], [f"{REPLICA}:1"] * 2)
        self.assertEqual([doc for doc, _, _ in documents.whats_changed(self.cursor, 0)[2]], [DOC, OTHER])

    def test_attachments(self) -> None:
        """Pointers are stored beside the content, with all that they say."""
        self.put(blobs=[BLOB, BLOB_2])
        self.assertEqual(
            self.get().attachments, {f"name of {BLOB}": pointer(BLOB), f"name of {BLOB_2}": pointer(BLOB_2)}
        )

    def test_any_name(self) -> None:
        """A name and a content type may be any text."""
        pointers = {'"ä\n\\': Pointer(BLOB, 2**60, 'a/b; c="d"', bytes(range(32))), "": Pointer(BLOB_2, 0, None, b"")}
        self.assertEqual(rows.decode_pointers(rows.encode_pointers(pointers)), pointers)


class DeleteTests(DocumentsTestCase):
    """Tombstones, and what follows them."""

    def test_delete(self) -> None:
        """A tombstone has a revision and an entry in the log, no content, no attachments and no references."""
        rev = self.put(blobs=[BLOB]).rev
        self.assertEqual(self.delete(rev=rev), Written(f"{REPLICA}:2", frozenset({BLOB}), 2))
        self.assertEqual(self.get(), Stored(DOC, f"{REPLICA}:2", None, {}))
        self.assertEqual(self.generation(), 2)
        self.assertEqual(references.referenced(self.cursor), set())

    def test_missing(self) -> None:
        """What does not exist cannot be deleted, whatever the revision."""
        with self.assertRaises(DocumentDoesNotExist):
            self.delete(rev="nonsense")

    def test_conflict(self) -> None:
        """Only the stored revision can be deleted; also a tombstone's revision is looked at first."""
        first = self.put().rev
        current = self.put(rev=first).rev
        with self.assertRaises(RevisionConflict):
            self.delete(rev=first)
        self.delete(rev=current)
        with self.assertRaises(RevisionConflict):
            self.delete(rev=current)

    def test_twice(self) -> None:
        """A tombstone is deleted already."""
        gone = self.delete(rev=self.put().rev).rev
        with self.assertRaises(DocumentAlreadyDeleted):
            self.delete(rev=gone)
        self.assertEqual(self.generation(), 2)

    def test_superseded(self) -> None:
        """A tombstone is followed by its own revision, or by a document that has none."""
        for rev in (None, ""):
            gone = self.delete(rev=self.put(rev=documents.get_rev(self.cursor, DOC) or "").rev).rev
            count = int(gone.rpartition(":")[2])
            self.assertEqual(self.put(rev=gone if rev is None else rev).rev, f"{REPLICA}:{count + 1}")

    def test_still_a_conflict(self) -> None:
        """A tombstone is not followed by the revision before it."""
        rev = self.put().rev
        self.delete(rev=rev)
        with self.assertRaises(RevisionConflict):
            self.put(rev=rev)


class GetTests(DocumentsTestCase):
    """What is read."""

    def test_order(self) -> None:
        """Documents come in the order asked, without those that are missing."""
        for name in (DOC, OTHER):
            self.put(name)
        got = documents.get_many(self.cursor, [OTHER, MISSING, DOC])
        self.assertEqual([stored.doc_id for stored in got], [OTHER, DOC])

    def test_many(self) -> None:
        """Any number can be asked for at once."""
        names = [doc_id(f"D-{number}") for number in range(2500)]
        for name in names:
            self.put(name)
        backwards = names[::-1]
        self.assertEqual([stored.doc_id for stored in documents.get_many(self.cursor, backwards)], backwards)

    def test_none(self) -> None:
        """Asking for nothing gives nothing."""
        self.assertEqual(documents.get_many(self.cursor, []), [])

    def test_case(self) -> None:
        """Ids that differ in case are different."""
        self.put(DocId("Doc"), content='{"a": 1}')
        self.put(DocId("doc"), content='{"a": 2}')
        self.assertEqual(self.get(DocId("Doc")).content, '{"a": 1}')

    def test_all(self) -> None:
        """All documents come ordered by id, with the generation; tombstones when they are asked for."""
        for name in ("b", "c", "a"):
            self.put(DocId(name))
        self.delete(DocId("c"), f"{REPLICA}:1")
        generation, living = documents.get_all(self.cursor, False)
        self.assertEqual((generation, [stored.doc_id for stored in living]), (4, ["a", "b"]))
        everything = documents.get_all(self.cursor, True)[1]
        self.assertEqual(
            [(stored.doc_id, stored.content) for stored in everything], [("a", "{}"), ("b", "{}"), ("c", None)]
        )

    def test_nothing_there(self) -> None:
        """An empty database has generation 0, and nothing changed in it."""
        self.assertEqual(documents.get_all(self.cursor, True), (0, []))
        self.assertEqual(documents.whats_changed(self.cursor, 0), (0, "", []))

    def test_rev(self) -> None:
        """The revision alone can be had, a tombstone's too."""
        self.assertIsNone(documents.get_rev(self.cursor, DOC))
        self.put()
        self.assertEqual(documents.get_rev(self.cursor, DOC), f"{REPLICA}:1")
        self.delete(rev=f"{REPLICA}:1")
        self.assertEqual(documents.get_rev(self.cursor, DOC), f"{REPLICA}:2")


class LogTests(DocumentsTestCase):
    """The log of changes."""

    def test_generations(self) -> None:
        """Each write is one generation with an id of its own."""
        self.put()
        self.put(OTHER)
        self.delete(rev=f"{REPLICA}:1")
        found = self.cursor.execute("SELECT generation, doc_id, transaction_id FROM transaction_log").fetchall()
        self.assertEqual([row[:2] for row in found], [(1, DOC), (2, OTHER), (3, DOC)])
        self.assertEqual(len({row[2] for row in found}), 3)
        for row in found:
            self.assertRegex(row[2], r"\AT-[0-9a-f]{32}\Z")

    def test_whats_changed(self) -> None:
        """Each document comes once, at its latest change, ascending, and only what changed since."""
        rev = self.put().rev
        self.put(OTHER)
        self.put(rev=rev)
        ids = dict(self.cursor.execute("SELECT generation, transaction_id FROM transaction_log"))
        other, doc = (OTHER, 2, ids[2]), (DOC, 3, ids[3])
        expected = {-1: [other, doc], 0: [other, doc], 1: [other, doc], 2: [doc], 3: [], 99: []}
        for since, changes in expected.items():
            self.assertEqual(documents.whats_changed(self.cursor, since), (3, ids[3], changes), since)

    def test_generations_are_not_used_again(self) -> None:
        """A generation that was rolled back may come again; one that was committed never does."""
        self.put()
        self.cursor.execute("DELETE FROM transaction_log")
        self.put(OTHER)
        self.assertEqual(self.generation(), 2)


class ReplicaTests(DocumentsTestCase):
    """The name of this replica."""

    def test_made_once(self) -> None:
        """It is random, made once, and stays."""
        name = documents.replica(self.cursor)
        self.assertRegex(name, r"\A[0-9a-f]{32}\Z")
        self.assertEqual(documents.replica(self.cursor), name)
        self.assertNotEqual(documents.replica(in_memory().cursor()), name)


class PlanTests(DocumentsTestCase):
    """That nothing scans a table as it grows."""

    def test_search(self) -> None:
        """What a put does is answered by indexes."""
        queries = {
            f"SELECT {rows.COLUMNS} FROM document WHERE doc_id = ?": 1,
            "SELECT 1 FROM alternative WHERE doc_id = ?": 1,
            "SELECT content FROM alternative WHERE doc_id = ? ORDER BY rev": 1,
            "DELETE FROM alternative WHERE doc_id = ?": 1,
            "SELECT blob_id FROM blob_refs WHERE doc_id = ?": 1,
            "DELETE FROM blob_refs WHERE doc_id = ?": 1,
            "SELECT 1 FROM blob_refs WHERE namespace = ? AND blob_id = ? LIMIT 1": 2,
            "SELECT generation, transaction_id FROM transaction_log ORDER BY generation DESC LIMIT 1": 0,
        }
        for query, count in queries.items():
            plan = self.cursor.execute(f"EXPLAIN QUERY PLAN {query}", ["x"] * count).fetchall()
            if count:
                self.assertIn("SEARCH", plan[0][3], query)
            else:
                # From its end, and no sorting.
                self.assertEqual([row[3] for row in plan], ["SCAN transaction_log"])
