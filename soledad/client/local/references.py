"""Which version of a document refers to which blob: kept in the documents' database, in the document's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from soledad.client.local.database import Cursor
from soledad.model.document import Stored
from soledad.model.ids import ATTACHMENTS, BlobId, DocId


def replace(cursor: Cursor, doc_id: DocId, versions: Iterable[Stored], ours: bool = True) -> set[BlobId]:
    """
    Let all versions of a document, the current one and the alternatives, refer to their blobs, and no others to any.

    :param ours: whether they were written here: then this device answers for what they refer to no more.
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
    if ours:
        left = before - {blob_id for _, blob_id in wanted}
        cursor.executemany("INSERT OR IGNORE INTO dropped_ref VALUES (?, ?)", [(ATTACHMENTS, one) for one in left])
    return {blob_id for blob_id in before if not is_referenced(cursor, blob_id)}


def is_referenced(cursor: Cursor, blob_id: BlobId) -> bool:
    """Tell whether any version refers to the blob."""
    query = "SELECT 1 FROM blob_refs WHERE namespace = ? AND blob_id = ? LIMIT 1"
    return cursor.execute(query, (ATTACHMENTS, blob_id)).fetchone() is not None


def referenced(cursor: Cursor) -> set[BlobId]:
    """Return all blobs that any version refers to."""
    query = "SELECT DISTINCT blob_id FROM blob_refs WHERE namespace = ?"
    return {BlobId(row[0]) for row in cursor.execute(query, (ATTACHMENTS,))}


def dropped(cursor: Cursor, blob_ids: Collection[BlobId]) -> set[BlobId]:
    """Return those of ``blob_ids`` that a version written here refers to no more."""
    query = "SELECT 1 FROM dropped_ref WHERE namespace = ? AND blob_id = ?"
    return {one for one in blob_ids if cursor.execute(query, (ATTACHMENTS, one)).fetchone() is not None}


def all_dropped(cursor: Cursor, after: BlobId, limit: int) -> list[BlobId]:
    """Return all blobs that a version written here refers to no more, ascending, from behind ``after`` on."""
    query = "SELECT blob_id FROM dropped_ref WHERE namespace = ? AND blob_id > ? ORDER BY blob_id LIMIT ?"
    return [BlobId(row[0]) for row in cursor.execute(query, (ATTACHMENTS, after, limit))]


def forget_dropped(cursor: Cursor, blob_ids: Collection[BlobId]) -> None:
    """Answer no longer for blobs that are gone, unless something refers to them again."""
    query = "DELETE FROM dropped_ref WHERE namespace = ? AND blob_id = ?"
    gone = [(ATTACHMENTS, one) for one in blob_ids if not is_referenced(cursor, one)]
    cursor.executemany(query, gone)
