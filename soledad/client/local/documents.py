"""
Documents as rows: revisions, tombstones, conflicts, the log of changes.

Functions of a cursor, run as jobs of the documents' `Database`.  Rules: docs/spec/documents.rst.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from os import urandom
from typing import NamedTuple

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import IDocuments, IReferences
from soledad.client.local import references
from soledad.client.local.database import Cursor, Database
from soledad.client.local.indexes import Upkeep
from soledad.client.local.rows import ALTERNATIVE, COLUMNS, decode_pointers, encode_pointers, from_row
from soledad.errors import (
    ConflictedDoc,
    DocumentAlreadyDeleted,
    DocumentDoesNotExist,
    DocumentTooBig,
    RevisionConflict,
)
from soledad.model import conflict, revision
from soledad.model.attachment import Pointer
from soledad.model.conflict import Applied, Versions
from soledad.model.document import Changes, Stored, Written
from soledad.model.ids import ATTACHMENTS, BlobId, DocId, random_replica_id, random_transaction_id
from soledad.model.retention import Referring

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
    :raise ConflictedDoc: there are other versions, which have to be resolved first.
    :raise RevisionConflict: the stored revision is another one.
    :raise TooManyKeys: it has too many keys for an index.
    """
    (written,) = put_all(cursor, this_replica, [document], limit)
    return written


def put_all(cursor: Cursor, this_replica: str, documents: Sequence[Stored], limit: int | None = None) -> list[Written]:
    """Store several documents, all or none; see `put`."""
    with Upkeep(cursor) as upkeep:
        return [_put(cursor, upkeep, this_replica, document, limit) for document in documents]


def _put(cursor: Cursor, upkeep: Upkeep, this_replica: str, document: Stored, limit: int | None) -> Written:
    _check_size(document, limit)
    row = _row(cursor, document.doc_id)
    if row is None:
        if document.rev:
            raise RevisionConflict(document.doc_id, document.rev, None)
    elif row.has_conflicts:
        raise ConflictedDoc(document.doc_id)
    elif document.rev != row.rev and not (row.content is None and not document.rev):
        raise RevisionConflict(document.doc_id, document.rev or None, row.rev)
    return _write(cursor, upkeep, this_replica, row, document)


def delete(cursor: Cursor, this_replica: str, doc_id: DocId, rev: str) -> Written:
    """
    Leave a tombstone.

    :raise DocumentDoesNotExist: there is no such document.
    :raise RevisionConflict: the stored revision is another one.
    :raise DocumentAlreadyDeleted: it is a tombstone already.
    :raise ConflictedDoc: there are other versions, which have to be resolved first.
    """
    row = _row(cursor, doc_id)
    if row is None:
        raise DocumentDoesNotExist(doc_id)
    if row.rev != rev:
        raise RevisionConflict(doc_id, rev or None, row.rev)
    if row.content is None:
        raise DocumentAlreadyDeleted(doc_id)
    if row.has_conflicts:
        raise ConflictedDoc(doc_id)
    with Upkeep(cursor) as upkeep:
        return _write(cursor, upkeep, this_replica, row, Stored(doc_id, rev))


def apply(cursor: Cursor, this_replica: str, incoming: Versions) -> Applied:
    """
    Join the versions of a document that another store has with those of this one; `soledad.model.conflict.merge`.

    When nothing comes of it, nothing is written, not even to the log.
    """
    (applied,) = apply_all(cursor, this_replica, [incoming])
    return applied


def apply_all(cursor: Cursor, this_replica: str, incoming: Sequence[Versions]) -> list[Applied]:
    """Apply the versions of several documents, all or none; see `apply`."""
    with Upkeep(cursor) as upkeep:
        return [_apply(cursor, upkeep, this_replica, versions) for versions in incoming]


def _apply(cursor: Cursor, upkeep: Upkeep, this_replica: str, incoming: Versions) -> Applied:
    before = get_versions(cursor, incoming.doc_id)
    merged = conflict.merge(before, incoming, this_replica)
    after, written = merged.versions, None
    if before is None or not conflict.is_same_set(before, after):
        row = _row(cursor, incoming.doc_id)
        written = _store(cursor, upkeep, row, after.current, after.alternatives, ours=False)
    goes_out = not conflict.is_same_set(after, incoming)
    return Applied(merged.outcome, after, goes_out, merged.copied, written)


def resolve(
    cursor: Cursor, this_replica: str, document: Stored, revs: Collection[str], limit: int | None = None
) -> Written:
    """
    Let a document be current in the place of the versions that have one of ``revs``; the others remain.

    :raise DocumentTooBig: its text has more than ``limit`` bytes.
    :raise DocumentDoesNotExist: there is no such document.
    :raise RevisionConflict: the current revision is not among ``revs``.
    """
    _check_size(document, limit)
    before = get_versions(cursor, document.doc_id)
    if before is None:
        raise DocumentDoesNotExist(document.doc_id)
    after = conflict.resolve(before, document, revs, this_replica)
    with Upkeep(cursor) as upkeep:
        return _store(cursor, upkeep, _row(cursor, document.doc_id), after.current, after.alternatives)


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
    row = _row(cursor, doc_id)
    return None if row is None else row.rev


def get_versions(cursor: Cursor, doc_id: DocId) -> Versions | None:
    """Return all versions of a document."""
    current = get_many(cursor, [doc_id])
    return Versions(current[0], _alternatives(cursor, current[0])) if current else None


def get_conflicts(cursor: Cursor, doc_id: DocId) -> list[Stored]:
    """Return the current version and then the alternatives; nothing if there is no conflict."""
    current = get_many(cursor, [doc_id])
    return [*current, *_alternatives(cursor, current[0])] if current and current[0].has_conflicts else []


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
        WITH referring AS (SELECT doc_id FROM blob_refs WHERE namespace = ? AND blob_id = ?)
        SELECT attachments FROM document WHERE doc_id IN referring
        UNION ALL SELECT attachments FROM alternative WHERE doc_id IN referring
    """
    for blob_id in wanted:
        for (text,) in cursor.execute(query, (ATTACHMENTS, blob_id)).fetchall():
            pointers = decode_pointers(text).values()
            found |= {pointer.blob_id: pointer for pointer in pointers if pointer.blob_id in wanted}
    return list(found.values())


def referring(cursor: Cursor, blob_ids: Collection[BlobId]) -> Referring:
    """Return what documents say of some blobs."""
    wanted = {one for one in blob_ids if references.is_referenced(cursor, one)}
    return Referring(pointers_to(cursor, wanted), references.dropped(cursor, blob_ids))


_SELECT = f"SELECT {COLUMNS} FROM document"


class _Row(NamedTuple):
    """What a write has to know of the current version."""

    id: int
    rev: str
    content: str | None
    has_conflicts: int


def _row(cursor: Cursor, doc_id: DocId) -> _Row | None:
    query = """
        SELECT id, rev, content, EXISTS (SELECT 1 FROM alternative WHERE alternative.doc_id = document.doc_id)
        FROM document WHERE doc_id = ?
    """
    row = cursor.execute(query, (doc_id,)).fetchone()
    return None if row is None else _Row(*row)


def _alternatives(cursor: Cursor, current: Stored) -> list[Stored]:
    if not current.has_conflicts:
        return []
    query = f"SELECT {ALTERNATIVE} FROM alternative WHERE doc_id = ? ORDER BY rev"
    return [from_row(row) for row in cursor.execute(query, (current.doc_id,))]


def _write(cursor: Cursor, upkeep: Upkeep, this_replica: str, row: _Row | None, document: Stored) -> Written:
    """Store what follows the version in ``row``, which is the only one."""
    rev = revision.incremented(None if row is None else row.rev, this_replica)
    return _store(cursor, upkeep, row, Stored(document.doc_id, rev, document.content, document.attachments))


def _store(
    cursor: Cursor,
    upkeep: Upkeep,
    row: _Row | None,
    current: Stored,
    alternatives: Sequence[Stored] = (),
    ours: bool = True,
) -> Written:
    """Let these be all versions of a document, and note that in the log, the indexes and the references."""
    pointers = encode_pointers(current.attachments)
    if row is None:
        query = "INSERT INTO document (doc_id, rev, content, attachments) VALUES (?, ?, ?, ?)"
        cursor.execute(query, (current.doc_id, current.rev, current.content, pointers))
        row_id, content = cursor.lastrowid, None
    else:
        query = "UPDATE document SET rev = ?, content = ?, attachments = ? WHERE id = ?"
        cursor.execute(query, (current.rev, current.content, pointers, row.id))
        row_id, content = row.id, row.content
    found_in = upkeep.reindex(row_id, content, current, ours)
    if row is not None and row.has_conflicts:
        cursor.execute("DELETE FROM alternative WHERE doc_id = ?", (current.doc_id,))
    query = "INSERT INTO alternative (doc_id, rev, content, attachments) VALUES (?, ?, ?, ?)"
    for one in alternatives:
        cursor.execute(query, (one.doc_id, one.rev, one.content, encode_pointers(one.attachments)))
    transaction = random_transaction_id(urandom(16))
    query = "INSERT INTO transaction_log (doc_id, transaction_id) VALUES (?, ?)"
    cursor.execute(query, (current.doc_id, transaction))
    number = cursor.lastrowid
    dropped: Set[BlobId] = frozenset()
    if row is not None or current.attachments or alternatives:
        dropped = references.replace(cursor, current.doc_id, [current, *alternatives], ours)
    return Written(current.rev, frozenset(dropped), number, found_in, bool(alternatives))


def _check_size(document: Stored, limit: int | None) -> None:
    if limit is not None and document.content is not None:
        size = len(document.content.encode())
        if size > limit:
            raise DocumentTooBig(size, limit)


@implementer(IDocuments, IReferences)
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

    def apply_all(self, incoming: Sequence[Versions]) -> Deferred[list[Applied]]:
        """See `IDocuments`."""
        return self.database.write(apply_all, self._replica, incoming)

    def resolve(self, document: Stored, revs: Collection[str], limit: int | None) -> Deferred[Written]:
        """See `IDocuments`."""
        return self.database.write(resolve, self._replica, document, revs, limit)

    def get_conflicts(self, doc_id: DocId) -> Deferred[list[Stored]]:
        """See `IDocuments`."""
        return self.database.read(get_conflicts, doc_id)

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

    def referring(self, blob_ids: Collection[BlobId]) -> Deferred[Referring]:
        """See `IReferences`."""
        # Among the writes, though it changes nothing: those that were asked for before have been answered then.
        return self.database.write(referring, blob_ids)

    def all_dropped(self, after: BlobId, limit: int) -> Deferred[list[BlobId]]:
        """See `IReferences`."""
        return self.database.write(references.all_dropped, after, limit)

    def forget_dropped(self, blob_ids: Collection[BlobId]) -> Deferred[None]:
        """See `IReferences`."""
        return self.database.write(references.forget_dropped, blob_ids)
