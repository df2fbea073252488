"""
Documents as rows: revisions, tombstones, the log of changes.

Functions of a cursor, run as jobs of the documents' `Database`.  Rules: docs/spec/documents.rst.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from os import urandom

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import IDocuments
from soledad.client.local import indexes, references
from soledad.client.local.database import Cursor, Database
from soledad.client.local.rows import COLUMNS, decode_pointers, encode_pointers, from_row
from soledad.errors import (
    DocumentAlreadyDeleted,
    DocumentDoesNotExist,
    DocumentTooBig,
    RevisionConflict,
)
from soledad.model import revision
from soledad.model.attachment import Pointer
from soledad.model.document import Changes, Stored, Written
from soledad.model.ids import ATTACHMENTS, BlobId, DocId, random_replica_id, random_transaction_id

#: SQLite takes this many parameters in a statement, at the very least.
_PARAMETERS = 900


def replica(cursor: Cursor) -> str:
    """Return this replica's name in revisions; it is made with the database."""
    query = "SELECT value FROM meta WHERE key = 'replica'"
    row = cursor.execute(query).fetchone()
    if row is None:
        cursor.execute("INSERT INTO meta VALUES ('replica', ?)", (random_replica_id(urandom(16)),))
        row = cursor.execute(query).fetchone()
    return str(row[0])


def put(cursor: Cursor, this_replica: str, document: Stored, limit: int | None = None) -> Written:
    """
    Store a revision that follows ``document.rev`` (empty: a new document, or one that was deleted).

    :raise DocumentTooBig: its text has more than ``limit`` bytes.
    :raise RevisionConflict: the stored revision is another one.
    """
    _check_size(document, limit)
    stored = _row(cursor, document.doc_id)
    if stored is None:
        if document.rev:
            raise RevisionConflict(document.doc_id, document.rev, None)
        return _write(cursor, this_replica, None, document)
    row_id, rev, deleted = stored
    if document.rev != rev and not (deleted and not document.rev):
        raise RevisionConflict(document.doc_id, document.rev or None, rev)
    return _write(cursor, this_replica, (row_id, rev), document)


def put_all(cursor: Cursor, this_replica: str, documents: Sequence[Stored], limit: int | None = None) -> list[Written]:
    """Store several documents, all or none; see `put`."""
    return [put(cursor, this_replica, document, limit) for document in documents]


def delete(cursor: Cursor, this_replica: str, doc_id: DocId, rev: str) -> Written:
    """
    Leave a tombstone.

    :raise DocumentDoesNotExist: there is no such document.
    :raise RevisionConflict: the stored revision is another one.
    :raise DocumentAlreadyDeleted: it is a tombstone already.
    """
    stored = _row(cursor, doc_id)
    if stored is None:
        raise DocumentDoesNotExist(doc_id)
    row_id, current, deleted = stored
    if current != rev:
        raise RevisionConflict(doc_id, rev or None, current)
    if deleted:
        raise DocumentAlreadyDeleted(doc_id)
    return _write(cursor, this_replica, (row_id, current), Stored(doc_id, rev))


def get_many(cursor: Cursor, doc_ids: Sequence[DocId]) -> list[Stored]:
    """Return documents and tombstones in the order asked; those that are missing are left out."""
    found: dict[str, Stored] = {}
    for start in range(0, len(doc_ids), _PARAMETERS):
        some = doc_ids[start : start + _PARAMETERS]
        marks = ",".join("?" * len(some))
        for row in cursor.execute(f"{_SELECT} WHERE doc_id IN ({marks})", some):
            found[row[0]] = from_row(row)
    return [found[doc_id] for doc_id in doc_ids if doc_id in found]


def get_all(cursor: Cursor, include_deleted: bool) -> tuple[int, list[Stored]]:
    """Return the generation, and all documents ordered by id."""
    condition = "" if include_deleted else "WHERE content IS NOT NULL"
    stored = [from_row(row) for row in cursor.execute(f"{_SELECT} {condition} ORDER BY doc_id")]
    return generation(cursor)[0], stored


def get_rev(cursor: Cursor, doc_id: DocId) -> str | None:
    """Return the stored revision of a document."""
    stored = _row(cursor, doc_id)
    return None if stored is None else stored[1]


def generation(cursor: Cursor) -> tuple[int, str]:
    """Return the newest generation and its transaction id; 0 and the empty text for an empty database."""
    query = "SELECT generation, transaction_id FROM transaction_log ORDER BY generation DESC LIMIT 1"
    row = cursor.execute(query).fetchone()
    return (0, "") if row is None else (row[0], row[1])


def whats_changed(cursor: Cursor, since: int) -> Changes:
    """Return what changed after a generation, each document once, at its latest change, ascending."""
    # SQLite gives the other columns of the row that has the maximum.
    query = """
        SELECT doc_id, max(generation), transaction_id FROM transaction_log
        WHERE generation > ? GROUP BY doc_id ORDER BY 2
    """
    changes = [(DocId(doc_id), number, transaction) for doc_id, number, transaction in cursor.execute(query, (since,))]
    return *generation(cursor), changes


def pointers_to(cursor: Cursor, wanted: Set[BlobId]) -> list[Pointer]:
    """Return the pointers of all documents that lead to ``wanted`` blobs, each blob's once."""
    found: dict[BlobId, Pointer] = {}
    query = """
        SELECT attachments FROM document WHERE doc_id IN
            (SELECT doc_id FROM blob_refs WHERE namespace = ? AND blob_id = ?)
    """
    for blob_id in wanted:
        for (text,) in cursor.execute(query, (ATTACHMENTS, blob_id)).fetchall():
            pointers = decode_pointers(text).values()
            found |= {pointer.blob_id: pointer for pointer in pointers if pointer.blob_id in wanted}
    return list(found.values())


_SELECT = f"SELECT {COLUMNS} FROM document"


def _row(cursor: Cursor, doc_id: DocId) -> tuple[int, str, bool] | None:
    query = "SELECT id, rev, content IS NULL FROM document WHERE doc_id = ?"
    row = cursor.execute(query, (doc_id,)).fetchone()
    return None if row is None else (row[0], row[1], bool(row[2]))


def _write(cursor: Cursor, this_replica: str, stored: tuple[int, str] | None, document: Stored) -> Written:
    pointers = encode_pointers(document.attachments)
    if stored is None:
        rev = revision.incremented(None, this_replica)
        query = "INSERT INTO document (doc_id, rev, content, attachments) VALUES (?, ?, ?, ?)"
        cursor.execute(query, (document.doc_id, rev, document.content, pointers))
        row_id, content = cursor.lastrowid, None
    else:
        row_id, before = stored
        (content,) = cursor.execute("SELECT content FROM document WHERE id = ?", (row_id,)).fetchone()
        rev = revision.incremented(before, this_replica)
        query = "UPDATE document SET rev = ?, content = ?, attachments = ? WHERE id = ?"
        cursor.execute(query, (rev, document.content, pointers, row_id))
    indexes.reindex(cursor, row_id, content, document)
    transaction = random_transaction_id(urandom(16))
    query = "INSERT INTO transaction_log (doc_id, transaction_id) VALUES (?, ?)"
    cursor.execute(query, (document.doc_id, transaction))
    blob_ids = [pointer.blob_id for pointer in document.attachments.values()]
    return Written(rev, frozenset(references.replace(cursor, document.doc_id, rev, blob_ids)))


def _check_size(document: Stored, limit: int | None) -> None:
    if limit is not None and document.content is not None:
        size = len(document.content.encode())
        if size > limit:
            raise DocumentTooBig(size, limit)


@implementer(IDocuments)
@define(eq=False)
class LocalDocuments:
    """The documents' database."""

    database: Database
    _replica: str

    def put_all(self, wanted: Sequence[Stored], limit: int | None) -> Deferred[list[Written]]:
        """See `IDocuments`."""
        return self.database.write(put_all, self._replica, wanted, limit)

    def delete(self, doc_id: DocId, rev: str) -> Deferred[Written]:
        """See `IDocuments`."""
        return self.database.write(delete, self._replica, doc_id, rev)

    def get_many(self, doc_ids: Sequence[DocId]) -> Deferred[list[Stored]]:
        """See `IDocuments`."""
        return self.database.read(get_many, doc_ids)

    def get_all(self, include_deleted: bool) -> Deferred[tuple[int, list[Stored]]]:
        """See `IDocuments`."""
        return self.database.read(get_all, include_deleted)

    def get_rev(self, doc_id: DocId) -> Deferred[str | None]:
        """See `IDocuments`."""
        return self.database.read(get_rev, doc_id)

    def whats_changed(self, generation: int) -> Deferred[Changes]:
        """See `IDocuments`."""
        return self.database.read(whats_changed, generation)
