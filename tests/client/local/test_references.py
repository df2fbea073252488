"""Tests of what refers to which blob."""

from __future__ import annotations

from soledad.client.local import documents, references
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
