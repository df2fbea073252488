"""
The queue of transfers: functions of a cursor that read and write the columns of blobs that are on their way.

They are jobs of the blobs' `Database`; `soledad.client.local.transfers` joins them with the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from soledad.client.interfaces import Arrival, Outcome, Scope
from soledad.client.local.blobs import IDLE, arrive, inline_bytes, must_get
from soledad.client.local.database import Cursor
from soledad.errors import BlobNotFound
from soledad.model.blob import TRANSITIONS, BlobKey, Priority, Sealed, SyncEvent, SyncStatus, after
from soledad.model.ids import BlobId, Namespace
from soledad.model.transfer import DIRECTIONS, Direction, Queued

#: Seconds beyond which no transfer waits; a time that lies further ahead is one of a clock that was wrong.
LONGEST_WAIT = 24 * 3600.0

#: Deletions that are remembered at most.
BURIED = 10_000

SELECT = """SELECT namespace, blob_id, status, priority, length, size, header, commitment, etag, upload, partial,
    attempts, rejections, replaces FROM blob"""
_WHERE_KEY = "WHERE namespace = ? AND blob_id = ?"


def queued(row: tuple[Any, ...]) -> Queued:
    """Return what a row of `SELECT` says."""
    namespace, blob_id, status, priority, length, size, header, commitment, *rest = row
    key = BlobKey(Namespace(namespace), BlobId(blob_id))
    return Queued(key, SyncStatus(status), Priority(priority), Sealed(length, size, header, commitment), *rest)


def look_up(cursor: Cursor, key: BlobKey) -> Queued | None:
    """Return what is known of a blob."""
    row = cursor.execute(f"{SELECT} {_WHERE_KEY}", _of(key)).fetchone()
    return None if row is None else queued(row)


# --- what is to be done -------------------------------------------------------------------------------


def ask(cursor: Cursor, scope: Scope, now: float) -> int:
    """Ask for all transfers of a scope; return how many bytes these are."""
    if Direction.DOWNLOAD in scope.directions:
        where, values = _of_scope([SyncStatus.REMOTE], scope.namespace)
        wanted = after(SyncStatus.REMOTE, SyncEvent.WANTED).value
        cursor.execute(f"UPDATE blob SET status = ? WHERE {where} AND evicted = 0", (wanted, *values))
    where, values = _worthwhile(scope)
    cursor.execute(f"UPDATE blob SET retry_at = ? WHERE {where}", (now, *values))
    (size,) = cursor.execute(f"SELECT coalesce(sum(size), 0) FROM blob WHERE {where}", values).fetchone()
    return int(size)


def due(cursor: Cursor, scope: Scope | None, now: float, limit: int) -> list[Queued]:
    """Return transfers whose time has come."""
    where, values = _of_scope(_statuses(scope), None if scope is None else scope.namespace)
    query = f"""
        {SELECT} INDEXED BY blob_queue WHERE retry_at IS NOT NULL AND (retry_at <= ? OR retry_at > ?) AND {where}
        ORDER BY priority DESC, id LIMIT ?
    """
    return [queued(row) for row in cursor.execute(query, (now, now + LONGEST_WAIT, *values, limit))]


def next_time(cursor: Cursor, now: float) -> float | None:
    """Return when the next transfer is to be tried: what `due` returns by now has a time that is not ahead."""
    where, values = _of_scope(_statuses(None), None)
    time = "CASE WHEN retry_at > ? THEN ? ELSE retry_at END"
    query = f"SELECT min({time}) FROM blob WHERE retry_at IS NOT NULL AND {where}"
    (time,) = cursor.execute(query, (now + LONGEST_WAIT, now, *values)).fetchone()
    return None if time is None else float(time)


def is_waiting(cursor: Cursor) -> bool:
    """Tell whether any blob waits to go or to come, asked for or not: what a sync makes wanted, too."""
    where, values = _worthwhile(None)
    query = f"""
        SELECT EXISTS (SELECT 1 FROM blob WHERE status = 'REMOTE' AND evicted = 0)
            OR EXISTS (SELECT 1 FROM blob WHERE {where})
    """
    return bool(cursor.execute(query, values).fetchone()[0])


def contents(cursor: Cursor, keys: Sequence[BlobKey]) -> list[bytes | None]:
    """Return the containers that are kept in the database."""
    query = f"SELECT id FROM blob {_WHERE_KEY}"
    rows = [cursor.execute(query, _of(key)).fetchone() for key in keys]
    return [None if row is None else inline_bytes(cursor, row[0]) for row in rows]


# --- what becomes of it -------------------------------------------------------------------------------


def note_upload(cursor: Cursor, key: BlobKey, upload: str | None) -> None:
    """Keep the name of an upload that the server keeps."""
    cursor.execute(f"UPDATE blob SET upload = ? {_WHERE_KEY}", (upload, *_of(key)))


def note_progress(cursor: Cursor, key: BlobKey, size: int, etag: str | None) -> None:
    """Keep how far a download is; a blob that is here by now has none."""
    waiting = [status for status in SyncStatus if not status.is_local]
    where, values = _of_scope(waiting, key.namespace)
    query = f"UPDATE blob SET progress = ?, etag = coalesce(?, etag) WHERE {where} AND blob_id = ?"
    cursor.execute(query, (size, etag, *values, key.blob_id))


def note_known(cursor: Cursor, key: BlobKey, sealed: Sealed, etag: str | None) -> None:
    """Keep what authentic bytes say of a blob that only a list had told of."""
    query = f"""
        UPDATE blob SET length = ?, size = ?, header = ?, commitment = ?, etag = coalesce(?, etag)
        {_WHERE_KEY} AND length = -1
    """
    cursor.execute(query, (sealed.length, sealed.size, sealed.header, sealed.commitment, etag, *_of(key)))


def name_partial(cursor: Cursor, key: BlobKey, name: str) -> str:
    """Return the name of the file with what has come of a blob; ``name``, if there was none."""
    cursor.execute(f"UPDATE blob SET partial = coalesce(partial, ?) {_WHERE_KEY}", (name, *_of(key)))
    row = cursor.execute(f"SELECT partial FROM blob {_WHERE_KEY}", _of(key)).fetchone()
    if row is None:
        raise BlobNotFound(key.blob_id, key.namespace)
    kept: str = row[0]
    return kept


def drop_partial(cursor: Cursor, key: BlobKey) -> list[str]:
    """Forget what has come of a blob; return the files that nothing refers to any more."""
    row = look_up(cursor, key)
    cursor.execute(f"UPDATE blob SET partial = NULL, progress = 0 {_WHERE_KEY}", _of(key))
    return [] if row is None or row.partial is None else [row.partial]


def settle(cursor: Cursor, outcomes: Sequence[Outcome]) -> list[SyncStatus | None]:
    """Note what became of transfers of blobs that are still the same."""
    return [_settle(cursor, outcome) for outcome in outcomes]


def _settle(cursor: Cursor, outcome: Outcome) -> SyncStatus | None:
    row = look_up(cursor, outcome.key)
    if row is None or row.sealed.commitment != outcome.commitment:
        return None
    status = TRANSITIONS.get((row.status, outcome.event))
    if status is None or status is SyncStatus.PENDING_DELETE:
        # It was kept local, or deleted, while it was under way: what was asked for meanwhile is still to be done.
        return row.status
    cursor.execute(
        f"UPDATE blob SET status = ?, etag = coalesce(?, etag), {IDLE}, reason = ? {_WHERE_KEY}",
        (status.value, outcome.etag, outcome.reason, *_of(outcome.key)),
    )
    return status


def arrive_all(cursor: Cursor, arrivals: Sequence[Arrival]) -> list[SyncStatus | None]:
    """Take blobs that came; `None` for those that are not wanted any more."""
    return [_arrive(cursor, arrival) for arrival in arrivals]


def _arrive(cursor: Cursor, arrival: Arrival) -> SyncStatus | None:
    try:
        status = arrive(cursor, arrival.key, arrival.sealed, arrival.spooled)
    except BlobNotFound:
        return None
    cursor.execute(f"UPDATE blob SET etag = coalesce(?, etag) {_WHERE_KEY}", (arrival.etag, *_of(arrival.key)))
    return status


def postpone(cursor: Cursor, keys: Sequence[BlobKey], until: float, reason: str, failed: bool, rejected: bool) -> None:
    """Try transfers again later, those that were asked for."""
    cursor.executemany(
        f"""
        UPDATE blob SET retry_at = CASE WHEN retry_at IS NULL THEN NULL ELSE ? END, reason = ?,
            attempts = attempts + ?, rejections = rejections + ? {_WHERE_KEY}
        """,
        [(until, reason, int(failed), int(rejected), *_of(key)) for key in keys],
    )


def postpone_all(cursor: Cursor, scope: Scope | None, until: float, reason: str) -> None:
    """Let no transfer be tried before a time."""
    where, values = _of_scope(_statuses(scope), None if scope is None else scope.namespace)
    query = f"""
        UPDATE blob SET retry_at = ?, reason = coalesce(reason, ?)
        WHERE retry_at IS NOT NULL AND retry_at <= ? AND {where}
    """
    cursor.execute(query, (until, reason, until, *values))


def hold(cursor: Cursor, key: BlobKey) -> None:
    """Ask no more for a transfer, and keep what has gone or come."""
    cursor.execute(f"UPDATE blob SET retry_at = NULL {_WHERE_KEY}", _of(key))


def withdraw(cursor: Cursor, key: BlobKey, event: SyncEvent | None) -> list[str]:
    """Ask no more for a transfer; return the files that nothing refers to any more."""
    row = look_up(cursor, key)
    if row is None:
        return []
    # It may have come, or was deleted, while it was held.
    status = row.status if event is None else TRANSITIONS.get((row.status, event), row.status)
    cursor.execute(f"UPDATE blob SET status = ?, partial = NULL, {IDLE} {_WHERE_KEY}", (status.value, *_of(key)))
    return [] if row.partial is None else [row.partial]


# --- deleting -----------------------------------------------------------------------------------------


def delete(cursor: Cursor, key: BlobKey) -> list[str] | None:
    """Let a blob be deleted; return the files that nothing refers to any more, `None` when there was no such blob."""
    row = look_up(cursor, key)
    if row is None or row.status is SyncStatus.PENDING_DELETE:
        return None
    files = drop_bytes(cursor, key)
    status = after(row.status, SyncEvent.DELETED)
    # The header is of no use any more, and what was asked for is over.
    cursor.execute(f"UPDATE blob SET status = ?, {IDLE} {_WHERE_KEY}", (status.value, *_of(key)))
    return files


def drop_bytes(cursor: Cursor, key: BlobKey) -> list[str]:
    """Let nothing of a blob's bytes be here; return the files that nothing refers to any more."""
    row = must_get(cursor, key)
    files = cursor.execute("SELECT file, partial FROM blob WHERE id = ?", (row.id,)).fetchone()
    cursor.execute("DELETE FROM container WHERE id = ?", (row.id,))
    cursor.execute("UPDATE blob SET file = NULL, partial = NULL, progress = 0 WHERE id = ?", (row.id,))
    return [name for name in files if name is not None]


def remove(cursor: Cursor, key: BlobKey) -> list[str]:
    """Let there be no such blob; return the files that nothing refers to any more."""
    files = drop_bytes(cursor, key)
    cursor.execute(f"DELETE FROM blob {_WHERE_KEY}", _of(key))
    return files


def forget(cursor: Cursor, key: BlobKey, commitment: bytes) -> list[str]:
    """Note that a deletion was carried out; return the files that nothing refers to any more."""
    row = look_up(cursor, key)
    if row is None:
        return []
    is_gone = row.status is SyncStatus.PENDING_DELETE and row.sealed.commitment == commitment
    bury(cursor, key, [row.replaces, row.sealed.commitment if is_gone else None])
    cursor.execute(f"UPDATE blob SET replaces = NULL, etag = NULL {_WHERE_KEY}", _of(key))
    return remove(cursor, key) if is_gone else []


def bury(cursor: Cursor, key: BlobKey, commitments: Iterable[bytes | None]) -> None:
    """Remember what was deleted under an id: who deletes what comes after it, says so again."""
    named = [(*_of(key), commitment) for commitment in commitments if commitment]
    if named:
        cursor.executemany("INSERT OR IGNORE INTO buried (namespace, blob_id, commitment) VALUES (?, ?, ?)", named)
        cursor.execute("DELETE FROM buried WHERE id <= (SELECT max(id) FROM buried) - ?", (BURIED,))


def buried(cursor: Cursor, key: BlobKey, limit: int) -> list[bytes]:
    """Return what was deleted under an id before, the latest first."""
    query = f"SELECT commitment FROM buried {_WHERE_KEY} ORDER BY id DESC LIMIT ?"
    return [bytes(row[0]) for row in cursor.execute(query, (*_of(key), limit))]


# --- what there is ------------------------------------------------------------------------------------


def list_blobs(cursor: Cursor, namespace: Namespace, status: SyncStatus | None) -> list[Queued]:
    """Return the blobs of a namespace that are not deleted, by id."""
    where, values = _of_scope([status] if status is not None else _NOT_DELETED, namespace)
    return [queued(row) for row in cursor.execute(f"{SELECT} WHERE {where} ORDER BY blob_id", values)]


def count(cursor: Cursor, namespace: Namespace | None) -> dict[SyncStatus, int]:
    """Return how many blobs have which status."""
    where, values = _of_scope(list(SyncStatus), namespace)
    query = f"SELECT status, count(*) FROM blob WHERE {where} GROUP BY status"
    return {SyncStatus(status): number for status, number in cursor.execute(query, values)}


def namespaces(cursor: Cursor) -> list[Namespace]:
    """Return all namespaces that this device knows."""
    query = "SELECT DISTINCT namespace FROM blob UNION SELECT namespace FROM listing ORDER BY 1"
    return [Namespace(row[0]) for row in cursor.execute(query)]


def set_priority(cursor: Cursor, key: BlobKey, priority: Priority) -> None:
    """Let a blob go sooner or later."""
    must_get(cursor, key)
    cursor.execute(f"UPDATE blob SET priority = ? {_WHERE_KEY}", (priority.value, *_of(key)))


_NOT_DELETED = [status for status in SyncStatus if status is not SyncStatus.PENDING_DELETE]


def _of(key: BlobKey) -> tuple[Namespace, BlobId]:
    return key.namespace, key.blob_id


def _statuses(scope: Scope | None) -> list[SyncStatus]:
    """Return the statuses of the transfers that are meant."""
    return [status for status, direction in DIRECTIONS.items() if scope is None or direction in scope.directions]


def _worthwhile(scope: Scope | None) -> tuple[str, list[str]]:
    """Return a condition for the transfers of a scope that are worth the way, and its values."""
    where, values = _of_scope(_statuses(scope), None if scope is None else scope.namespace)
    # What is condemned is not, unless it is to be deleted; nor what was evicted, even if the server has lost it since.
    there = "(condemned IS NULL OR status = ?) AND (evicted = 0 OR status != ?)"
    return f"{where} AND {there}", [*values, SyncStatus.PENDING_DELETE.value, SyncStatus.AWAITED.value]


def _of_scope(statuses: Sequence[SyncStatus], namespace: Namespace | None) -> tuple[str, list[str]]:
    """Return a condition and its values."""
    where = f"status IN ({', '.join('?' * len(statuses))})"
    values = [status.value for status in statuses]
    return (where, values) if namespace is None else (f"{where} AND namespace = ?", [*values, namespace])
