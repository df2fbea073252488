"""What lists of the server's say, applied to the rows of blobs: jobs of the blobs' `Database`."""

from __future__ import annotations

from collections.abc import Sequence

from soledad.client.interfaces import Listed
from soledad.client.local.blobs import IDLE
from soledad.client.local.database import Cursor
from soledad.client.local.queue import SELECT, bury, drop_bytes, is_waiting, look_up, queued, remove
from soledad.model.blob import BlobKey, Priority, Sealed, SyncEvent, SyncStatus, after
from soledad.model.ids import Namespace
from soledad.model.transfer import EVENTS, Finding, Queued, find

#: What the server ought to have.
_THERE = (SyncStatus.SYNCED, SyncStatus.REMOTE, SyncStatus.PENDING_DOWNLOAD, SyncStatus.FAILED_DOWNLOAD)


def head(cursor: Cursor, namespace: Namespace) -> str | None:
    """Return what to go on from."""
    row = cursor.execute("SELECT head FROM listing WHERE namespace = ?", (namespace,)).fetchone()
    return None if row is None else str(row[0])


def note_head(cursor: Cursor, namespace: Namespace, token: str) -> None:
    """Keep what to go on from."""
    cursor.execute("INSERT OR REPLACE INTO listing VALUES (?, ?)", (namespace, token))


def is_settled(cursor: Cursor, changes: str) -> bool:
    """Tell whether all that the server had at a change of its blobs was looked at, and nothing waits since."""
    row = cursor.execute("SELECT value FROM meta WHERE key = 'settled'").fetchone()
    return row is not None and row[0] == changes and not is_waiting(cursor)


def note_settled(cursor: Cursor, changes: str) -> None:
    """Keep up to which change of its blobs all that the server had was looked at."""
    cursor.execute("INSERT OR REPLACE INTO meta VALUES ('settled', ?)", (changes,))


def begin_comparing(cursor: Cursor, namespace: Namespace) -> None:
    """Note that nothing was seen yet."""
    cursor.execute("UPDATE blob SET seen = 0 WHERE namespace = ?", (namespace,))


def compare(cursor: Cursor, listed: Sequence[Listed]) -> tuple[list[Queued], list[str]]:
    """
    Note what entries say.

    :return: the blobs of which only the header on the server can tell more, and the files that nothing refers to any
        more.
    """
    uncertain: list[Queued] = []
    files: list[str] = []
    for item in listed:
        key = BlobKey(item.entry.namespace, item.entry.blob_id)
        row = look_up(cursor, key)
        found = find(row, item.entry, item.deleted)
        if found is Finding.UNCERTAIN and row is not None:
            uncertain.append(row)
        if row is not None:
            bury(cursor, key, item.deleted)
        files += _apply(cursor, key, row, item, found)
        if not item.entry.deleted:
            cursor.execute(f"UPDATE blob SET seen = 1 {_WHERE_KEY}", (key.namespace, key.blob_id))
    return uncertain, files


def _apply(cursor: Cursor, key: BlobKey, row: Queued | None, item: Listed, found: Finding) -> list[str]:
    if found is Finding.NEW:
        _discover(cursor, key, item)
    elif found is Finding.GONE:
        return remove(cursor, key)
    elif found in EVENTS and row is not None:
        return _happen(cursor, row, item, EVENTS[found])
    return []


def _discover(cursor: Cursor, key: BlobKey, item: Listed) -> None:
    cursor.execute(
        """
        INSERT INTO blob (namespace, blob_id, status, priority, length, size, commitment, etag)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (key.namespace, key.blob_id, SyncStatus.REMOTE.value, Priority.MEDIUM.value, -1, item.entry.length, b"",
         item.entry.etag),
    )  # fmt: skip


def _happen(cursor: Cursor, row: Queued, item: Listed, event: SyncEvent) -> list[str]:
    key = row.key
    status = after(row.status, event)
    place = (key.namespace, key.blob_id)
    if event is SyncEvent.REPLACED:
        return replace(cursor, row, item.entry.length, item.entry.etag)
    if event is SyncEvent.CONFIRMED:
        cursor.execute(f"UPDATE blob SET status = ?, etag = ? {_WHERE_KEY}", (status.value, item.entry.etag, *place))
        return []
    cursor.execute(
        f"UPDATE blob SET status = ?, etag = NULL, upload = NULL, replaces = NULL {_WHERE_KEY}", (status.value, *place)
    )
    return []


def replace(cursor: Cursor, row: Queued, size: int, etag: str | None) -> list[str]:
    """Let a blob be the one that is on the server under its id now; return the files of the one before."""
    files = drop_bytes(cursor, row.key)
    unseen = Sealed.unseen(size)
    cursor.execute(
        f"""
        UPDATE blob SET status = ?, length = ?, size = ?, header = NULL, commitment = ?, etag = ?, replaces = NULL,
            evicted = 0, condemned = NULL, {IDLE} {_WHERE_KEY}
        """,
        (after(row.status, SyncEvent.REPLACED).value, unseen.length, size, unseen.commitment, etag, *_place(row.key)),
    )
    return files


def replace_named(cursor: Cursor, key: BlobKey, commitment: bytes, size: int, etag: str | None) -> list[str]:
    """Do as `replace`, if the blob is still the one that had ``commitment``."""
    row = look_up(cursor, key)
    if row is None or row.sealed.commitment != commitment:
        return []
    return replace(cursor, row, size, etag)


def end_comparing(cursor: Cursor, namespace: Namespace) -> None:
    """Note what the server ought to have, and was not seen there."""
    marks = ", ".join("?" * len(_THERE))
    query = f"{SELECT} WHERE namespace = ? AND seen = 0 AND status IN ({marks})"
    values = (namespace, *(status.value for status in _THERE))
    for row in [queued(row) for row in cursor.execute(query, values)]:
        status = after(row.status, SyncEvent.MISSED)
        cursor.execute(
            f"UPDATE blob SET status = ?, etag = NULL, upload = NULL {_WHERE_KEY}", (status.value, *_place(row.key))
        )
    cursor.execute("UPDATE blob SET seen = 1 WHERE namespace = ?", (namespace,))


_WHERE_KEY = "WHERE namespace = ? AND blob_id = ?"


def _place(key: BlobKey) -> tuple[str, str]:
    return key.namespace, key.blob_id
