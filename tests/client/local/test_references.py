"""Tests of what refers to which blob."""

from __future__ import annotations

from soledad.client.local import documents, references
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import BlobId
from tests.client.local.test_documents import BLOB, BLOB_2, DOC, MISSING, OTHER, REPLICA, DocumentsTestCase, pointer


class ReferencesTests(DocumentsTestCase):
    """References, which come and go with the revisions of documents."""

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return all references."""
        return list(self.cursor.execute("SELECT * FROM blob_refs ORDER BY doc_id, blob_id"))

    def test_of_the_current_revision(self) -> None:
        """The current revision refers to its blobs, an older one to none any more."""
        rev = self.put(blobs=[BLOB, BLOB_2]).rev
        self.assertEqual(self.rows(), [(DOC, rev, "attachments", BLOB), (DOC, rev, "attachments", BLOB_2)])
        written = self.put(rev=rev, blobs=[BLOB])
        self.assertEqual(self.rows(), [(DOC, written.rev, "attachments", BLOB)])
        self.assertEqual(written.dropped, {BLOB_2})

    def test_shared(self) -> None:
        """A blob is dropped by the last document that referred to it."""
        for doc in (DOC, OTHER):
            self.put(doc, blobs=[BLOB])
        self.assertEqual(self.delete(DOC, f"{REPLICA}:1").dropped, set())
        self.assertTrue(references.is_referenced(self.cursor, BLOB))
        self.assertEqual(self.put(OTHER, f"{REPLICA}:1").dropped, {BLOB})
        self.assertFalse(references.is_referenced(self.cursor, BLOB))

    def test_twice_in_one(self) -> None:
        """A document may have a blob under two names; that is one reference."""
        stored = Stored(DOC, "", "{}", {"a": pointer(BLOB), "b": pointer(BLOB)})
        documents.put(self.cursor, REPLICA, stored)
        self.assertEqual(len(self.rows()), 1)
        stored = Stored(DOC, f"{REPLICA}:1", "{}", {"a": pointer(BLOB)})
        self.assertEqual(documents.put(self.cursor, REPLICA, stored).dropped, set())

    def test_referenced(self) -> None:
        """All blobs that are referred to, each once."""
        self.put(DOC, blobs=[BLOB])
        self.put(OTHER, blobs=[BLOB, BLOB_2])
        self.put(MISSING)
        self.assertEqual(references.referenced(self.cursor), {BLOB, BLOB_2})

    def test_pointers(self) -> None:
        """The pointers that lead to some blobs are found, each blob's once."""
        self.put(DOC, blobs=[BLOB])
        self.put(OTHER, blobs=[BLOB, BLOB_2])
        found = documents.pointers_to(self.cursor, {BLOB, BlobId("unknown")})
        self.assertEqual(found, [pointer(BLOB)])
        self.assertEqual(documents.pointers_to(self.cursor, set()), [])


class DroppedTests(DocumentsTestCase):
    """What versions that were written here refer to no more: for that this device answers."""

    def dropped(self) -> set[BlobId]:
        """Return all of them."""
        return set(references.all_dropped(self.cursor, BlobId(""), 10))

    def test_written_here(self) -> None:
        """Replacing and deleting drop, even while another document refers to the blob; putting drops nothing."""
        self.put(blobs=[BLOB])
        rev = self.put(OTHER, blobs=[BLOB, BLOB_2]).rev
        self.assertEqual(self.dropped(), set())
        rev = self.put(OTHER, rev, blobs=[BLOB]).rev
        self.assertEqual(self.dropped(), {BLOB_2})
        self.delete(OTHER, rev)
        self.assertEqual(self.dropped(), {BLOB, BLOB_2})
        self.assertEqual(references.dropped(self.cursor, [BLOB, BlobId("unknown")]), {BLOB})

    def test_written_elsewhere(self) -> None:
        """What another device's version drops is that device's affair."""
        rev = self.put(blobs=[BLOB]).rev
        written = documents.apply(self.cursor, REPLICA, Versions(Stored(DOC, f"{rev}|x:1", "{}"))).written
        assert written is not None
        self.assertEqual((written.dropped, self.dropped()), ({BLOB}, set()))

    def test_resolved_here(self) -> None:
        """Settling a conflict drops what the settled versions referred to."""
        rev = self.put(blobs=[BLOB]).rev
        theirs = Stored(DOC, "x:1", '{"a": 1}', {"a": pointer(BLOB_2)})
        documents.apply(self.cursor, REPLICA, Versions(theirs))
        self.assertEqual(self.dropped(), set())
        documents.resolve(self.cursor, REPLICA, theirs, [rev, "x:1"])
        self.assertEqual(self.dropped(), {BLOB})

    def test_forget(self) -> None:
        """What is gone is forgotten, unless something refers to it again."""
        rev = self.put(blobs=[BLOB, BLOB_2]).rev
        self.put(rev=rev)
        self.put(OTHER, blobs=[BLOB_2])
        references.forget_dropped(self.cursor, [BLOB, BLOB_2])
        self.assertEqual(self.dropped(), {BLOB_2})

    def test_pages(self) -> None:
        """They are listed in pages, ascending."""
        rev = self.put(blobs=[BLOB, BLOB_2]).rev
        self.put(rev=rev)
        first = references.all_dropped(self.cursor, BlobId(""), 1)
        self.assertEqual([*first, *references.all_dropped(self.cursor, first[0], 10)], sorted([BLOB, BLOB_2]))

    def test_referring(self) -> None:
        """Of some blobs it is told who refers to them, and whether this device dropped them."""
        rev = self.put(blobs=[BLOB, BLOB_2]).rev
        self.put(rev=rev, blobs=[BLOB])
        found = documents.referring(self.cursor, [BLOB, BLOB_2, BlobId("unknown")])
        self.assertEqual((found.pointers, found.dropped), ([pointer(BLOB)], {BLOB_2}))
