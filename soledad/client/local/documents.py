"""
Documents as rows: revisions, tombstones, conflicts, the log of changes.

Functions of a cursor, run as jobs of the documents' `Database`.  Rules: docs/spec/documents.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice
from os import urandom
from typing import Any, NamedTuple, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import IDocuments, IReferences
from soledad.client.local import bulk, references
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
from soledad.model.document import Changes, Snapshot, Stored, Written
from soledad.model.ids import ATTACHMENTS, BlobId, DocId, random_replica_id, random_transaction_id
from soledad.model.retention import Referring

T = TypeVar("T")

_SELECT = f"SELECT {COLUMNS} FROM document"
#: The query for the current version of one document.
ONE = f"{_SELECT} WHERE doc_id = ?"


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


def put_all(cursor: Cursor, this_replica: str, documents: Iterable[Stored], limit: int | None = None) -> list[Written]:
    """Store several documents, all or none; see `put`."""
    each = ((one.rev, one if one.rev else _following(one, "", this_replica)) for one in documents)
    return _put_all(cursor, this_replica, each, limit)


def _put_all(
    cursor: Cursor, this_replica: str, documents: Iterable[tuple[str, Stored]], limit: int | None
) -> list[Written]:
    """
    Store documents, each behind the revision that it is to follow; those that follow none have their own already.

    They are asked for as they are stored, and not kept.
    """
    with _writing(cursor, this_replica) as writing:
        trying = (((rev, document), _seems_new(rev, document, limit)) for rev, document in documents)
        return [_put(writing, rev, document, row_id) for (rev, document), row_id in _insert_new(cursor, trying)]


def _following(document: Stored, rev: str, this_replica: str) -> Stored:
    """Return a document as what follows the version ``rev``."""
    following = revision.incremented(rev, this_replica)
    return Stored(document.doc_id, following, document.content, document.attachments, value=document.value)


def _seems_new(rev: str, document: Stored, limit: int | None) -> Stored | None:
    """Return what is to be stored if there is no such document, and there seems to be none."""
    _check_size(document, limit)
    return None if rev else document


def _put(writing: _Writing, rev: str, document: Stored, row_id: int | None) -> Written:
    if row_id is not None:
        return _note(writing, row_id, None, document)
    row = _row(writing.cursor, document.doc_id)
    if row is None:
        raise RevisionConflict(document.doc_id, rev, None)
    if row.has_conflicts:
        raise ConflictedDoc(document.doc_id)
    if rev != row.rev and not (row.content is None and not rev):
        raise RevisionConflict(document.doc_id, rev or None, row.rev)
    return _store(writing, row, _following(document, row.rev, writing.replica))


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
    with _writing(cursor, this_replica) as writing:
        return _store(writing, row, _following(Stored(doc_id, rev), rev, this_replica))


def apply(cursor: Cursor, this_replica: str, incoming: Versions) -> Applied:
    """
    Join the versions of a document that another store has with those of this one; `soledad.model.conflict.merge`.

    When nothing comes of it, nothing is written, not even to the log.
    """
    (applied,) = apply_all(cursor, this_replica, [incoming])
    return applied


def apply_all(cursor: Cursor, this_replica: str, incoming: Sequence[Versions]) -> list[Applied]:
    """Apply the versions of several documents, all or none; see `apply`."""
    with _writing(cursor, this_replica) as writing:
        trying = ((versions, None if versions.alternatives else versions.current) for versions in incoming)
        return [_apply(writing, versions, row_id) for versions, row_id in _insert_new(cursor, trying)]


def _apply(writing: _Writing, incoming: Versions, row_id: int | None) -> Applied:
    if row_id is not None:
        new = _note(writing, row_id, None, incoming.current, ours=False)
        return Applied(conflict.Outcome.INSERTED, incoming, False, False, new)
    before = get_versions(writing.cursor, incoming.doc_id)
    merged = conflict.merge(before, incoming, writing.replica)
    after, written = merged.versions, None
    if before is None or not conflict.is_same_set(before, after):
        row = None if before is None else _row(writing.cursor, incoming.doc_id)
        written = _store(writing, row, after.current, after.alternatives, ours=False)
    goes_out = not conflict.is_same_set(after, incoming)
    return Applied(merged.outcome, after, goes_out, merged.copied, written)


def replace(cursor: Cursor, versions: Versions) -> Written:
    """Let these be the versions of a document, whatever there was."""
    with _writing(cursor, replica(cursor)) as writing:
        return _store(writing, _row(cursor, versions.doc_id), versions.current, versions.alternatives)


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
    with _writing(cursor, this_replica) as writing:
        return _store(writing, _row(cursor, document.doc_id), after.current, after.alternatives)


def get_each(cursor: Cursor, doc_ids: Iterable[DocId]) -> Iterator[Stored | None]:
    """Give documents and tombstones, one after the other, and `None` for those that are missing."""
    for doc_id in doc_ids:
        row = cursor.execute(ONE, (doc_id,)).fetchone()
        yield None if row is None else from_row(row)


def get_many(cursor: Cursor, doc_ids: Iterable[DocId]) -> list[Stored]:
    """Return documents and tombstones in the order asked; those that are missing are left out."""
    return [stored for stored in get_each(cursor, doc_ids) if stored is not None]


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


# --- writing ------------------------------------------------------------------------------------------


@define(eq=False)
class _Writing:
    """The writes of one job, and what they have in common."""

    cursor: Cursor
    replica: str
    indexes: Upkeep
    _newest: int
    _changed: list[DocId] = field(factory=list, init=False)

    def log(self, doc_id: DocId) -> int:
        """Note that a document has changed; return the generation."""
        self._changed.append(doc_id)
        return self._newest + len(self._changed)

    def write_log(self) -> None:
        """Write what was noted."""
        entropy = urandom(16 * len(self._changed))
        rows = (
            (self._newest + number, doc_id, random_transaction_id(entropy[16 * (number - 1) : 16 * number]))
            for number, doc_id in enumerate(self._changed, 1)
        )
        bulk.insert(self.cursor, "INSERT INTO transaction_log", rows)


@contextmanager
def _writing(cursor: Cursor, this_replica: str) -> Iterator[_Writing]:
    """Begin the writes of a job; what they change in the indexes and in the log is written at the end, together."""
    with Upkeep(cursor) as upkeep:
        # Also those that nobody can see any more are not used again.
        row = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'transaction_log'").fetchone()
        writing = _Writing(cursor, this_replica, upkeep, 0 if row is None else row[0])
        yield writing
    writing.write_log()


def _store(
    writing: _Writing,
    row: _Row | None,
    current: Stored,
    alternatives: Sequence[Stored] = (),
    ours: bool = True,
) -> Written:
    """Let these be all versions of a document."""
    row_id = _insert_one(writing.cursor, current) if row is None else _update(writing.cursor, row, current)
    assert row_id is not None
    return _note(writing, row_id, row, current, alternatives, ours)


def _insert_new(cursor: Cursor, trying: Iterable[tuple[T, Stored | None]]) -> Iterator[tuple[T, int | None]]:
    """
    Add those documents that there are not yet: most likely all, and that is tried, and not looked up before.

    It is done many at a time, as the answers are taken; what stands behind a `None` not before that has its answer.

    :return: for each the id of its row; `None` if there is such a document already, which was not changed, or if `None`
        stood there.
    """
    for seems_new, some in groupby(trying, lambda one: one[1] is not None):
        if not seems_new:
            yield from ((one, None) for one, _ in some)
            continue
        while block := list(islice(some, bulk.BLOCK)):
            ids = _insert_some(cursor, [version for _, version in block if version is not None])
            yield from zip((one for one, _ in block), ids, strict=True)


def _insert_some(cursor: Cursor, versions: Sequence[Stored]) -> Iterable[int | None]:
    """Add up to a block of documents; see `_insert_one`."""
    if len(versions) < bulk.BLOCK or sum(len(version.content or "") for version in versions) > _LARGE:
        return map(partial(_insert_one, cursor), versions)
    bulk.insert_block(cursor, _INSERT, [_row_of(version) for version in versions], _UNLESS_THERE)
    count, last = cursor.rowcount, cursor.lastrowid
    if count == len(versions):
        # SQLite counts on from the greatest, with no gaps.
        return range(last - count + 1, last + 1)
    query = "SELECT doc_id, id FROM document WHERE id > ?"
    inserted = dict(cursor.execute(query, (last - count,)).fetchall()) if count else {}
    # Of two with one id the first was inserted.
    return [inserted.pop(version.doc_id, None) for version in versions]


def _insert_one(cursor: Cursor, version: Stored) -> int | None:
    """Add a document, and return its row's id; `None`: there is one already, and nothing was changed."""
    cursor.execute(f"{_INSERT} VALUES (?, ?, ?, ?) {_UNLESS_THERE}", _row_of(version))
    return cursor.lastrowid if cursor.rowcount else None


#: Characters of documents from which on they are added one by one: SQLite copies all that a statement has.
_LARGE = 1024 * 1024

_INSERT, _UNLESS_THERE = (
    "INSERT INTO document (doc_id, rev, content, attachments)",
    "ON CONFLICT (doc_id) DO NOTHING",
)


def _row_of(version: Stored) -> tuple[str, str, str | None, str | None]:
    return version.doc_id, version.rev, version.content, encode_pointers(version.attachments)


def _update(cursor: Cursor, row: _Row, current: Stored) -> int:
    query = "UPDATE document SET rev = ?, content = ?, attachments = ? WHERE id = ?"
    cursor.execute(query, (current.rev, current.content, encode_pointers(current.attachments), row.id))
    return row.id


def _note(
    writing: _Writing,
    row_id: int,
    before: _Row | None,
    current: Stored,
    alternatives: Sequence[Stored] = (),
    ours: bool = True,
) -> Written:
    """Note what all versions of a document are now: in the indexes, the log, the alternatives and the references."""
    cursor = writing.cursor
    found_in = writing.indexes.reindex(row_id, None if before is None else before.content, current, ours)
    number = writing.log(current.doc_id)
    if before is None and not current.attachments and not alternatives:
        return Written(current.rev, _NO_BLOBS, number, found_in, False, current.content)
    if before is not None and before.has_conflicts:
        cursor.execute("DELETE FROM alternative WHERE doc_id = ?", (current.doc_id,))
    query = "INSERT INTO alternative (doc_id, rev, content, attachments) VALUES (?, ?, ?, ?)"
    for one in alternatives:
        cursor.execute(query, (one.doc_id, one.rev, one.content, encode_pointers(one.attachments)))
    dropped = references.replace(cursor, current.doc_id, [current, *alternatives], ours)
    return Written(current.rev, frozenset(dropped), number, found_in, bool(alternatives), current.content)


_NO_BLOBS: frozenset[BlobId] = frozenset()


def _check_size(document: Stored, limit: int | None) -> None:
    if limit is not None and document.content is not None:
        size = len(document.content.encode())
        if size > limit:
            raise DocumentTooBig(size, limit)


def _put_snapshots(
    cursor: Cursor,
    this_replica: str,
    ids: Sequence[DocId],
    revs: Sequence[str],
    snapshots: Sequence[Snapshot],
    limit: int | None,
) -> list[Written]:
    first = revision.incremented(None, this_replica)
    each = zip(ids, revs, snapshots, strict=True)
    return _put_all(cursor, this_replica, ((rev, one.stored(doc_id, rev or first)) for doc_id, rev, one in each), limit)


@implementer(IDocuments, IReferences)
@define(eq=False)
class LocalDocuments:
    """The documents' database."""

    database: Database
    #: The name that changes are counted under from now on; it changes when the store turns out to be a copy.
    replica: str

    def put_all(
        self, ids: Sequence[DocId], revs: Sequence[str], snapshots: Sequence[Snapshot], limit: int | None
    ) -> Deferred[list[Written]]:
        """See `IDocuments`."""
        return self._write(_put_snapshots, ids, revs, snapshots, limit)

    def delete(self, doc_id: DocId, rev: str) -> Deferred[Written]:
        """See `IDocuments`."""
        return self._write(delete, doc_id, rev)

    def apply_all(self, incoming: Sequence[Versions]) -> Deferred[list[Applied]]:
        """See `IDocuments`."""
        return self._write(apply_all, incoming)

    def resolve(
        self, doc_id: DocId, rev: str, snapshot: Snapshot, settled: Collection[str], limit: int | None
    ) -> Deferred[Written]:
        """See `IDocuments`."""
        return self.database.write(
            lambda cursor: resolve(cursor, self.replica, snapshot.stored(doc_id, rev), settled, limit)
        )

    def get_conflicts(self, doc_id: DocId) -> Deferred[list[Stored]]:
        """See `IDocuments`."""
        return self.database.read(get_conflicts, doc_id)

    def get(self, doc_id: DocId) -> Deferred[Stored | None]:
        """See `IDocuments`."""
        return self.database.ask(get_each, doc_id)

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

    def _write(self, job: Callable[..., T], *args: Any) -> Deferred[T]:
        # The name that it has when the job is carried out: it may have changed while the job waited.
        return self.database.write(lambda cursor: job(cursor, self.replica, *args))

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
