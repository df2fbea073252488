"""Which version of a document refers to which blob: kept in the documents' database, in the document's transaction."""

from __future__ import annotations

from collections.abc import Iterable

from soledad.client.local.database import Cursor
from soledad.model.document import Stored
from soledad.model.ids import ATTACHMENTS, BlobId, DocId


def replace(cursor: Cursor, doc_id: DocId, versions: Iterable[Stored]) -> set[BlobId]:
    """
    Let all versions of a document, the current one and the alternatives, refer to their blobs, and no others to any.

    :return: the blobs that nothing refers to any more.
    """
    wanted = {(version.rev, pointer.blob_id) for version in versions for pointer in version.attachments.values()}
    before = {row[0] for row in cursor.execute("SELECT blob_id FROM blob_refs WHERE doc_id = ?", (doc_id,))}
    if before or wanted:
        cursor.execute("DELETE FROM blob_refs WHERE doc_id = ?", (doc_id,))
        cursor.executemany(
            "INSERT INTO blob_refs VALUES (?, ?, ?, ?)",
            [(doc_id, rev, ATTACHMENTS, blob_id) for rev, blob_id in wanted],
        )
    return {blob_id for blob_id in before if not is_referenced(cursor, blob_id)}


def is_referenced(cursor: Cursor, blob_id: BlobId) -> bool:
    """Tell whether any version refers to the blob."""
    query = "SELECT 1 FROM blob_refs WHERE namespace = ? AND blob_id = ? LIMIT 1"
    return cursor.execute(query, (ATTACHMENTS, blob_id)).fetchone() is not None


def referenced(cursor: Cursor) -> set[BlobId]:
    """Return all blobs that any version refers to."""
    query = "SELECT DISTINCT blob_id FROM blob_refs WHERE namespace = ?"
    return {BlobId(row[0]) for row in cursor.execute(query, (ATTACHMENTS,))}
