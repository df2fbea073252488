"""
What stays on this device, and what goes: grace periods, pins, evictions, the budget.

The functions take a cursor and are jobs of the blobs' `Database`.  Everywhere the row commits before a file goes; files
that are left by an end in the middle are swept when the store is opened.  Who decides is elsewhere:
`soledad.client.sync.collect` and `soledad.client.keeping`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import IRetention, Spooled
from soledad.client.local import blobs
from soledad.client.local.blobs import IDLE, BlobRow, LocalBlobs
from soledad.client.local.database import Cursor
from soledad.client.local.queue import drop_bytes, remove
from soledad.deferreds import completed, deferred
from soledad.errors import NotEvictable
from soledad.model.attachment import Pointer
from soledad.model.blob import TRANSITIONS, BlobKey, KnownBlob, Priority, Sealed, SyncEvent, SyncStatus, after
from soledad.model.ids import ATTACHMENTS, BlobId, Namespace
from soledad.model.retention import GRACE, Condemned, Plan, counted

#: Free pages that a database keeps for what comes next, and pages that are given back at a time.
SPARE_PAGES, PAGES = 64, 64

#: Statuses of blobs that are here and of which the server may still get bytes from here.
_UNSENT = (SyncStatus.UNREFERENCED, SyncStatus.LOCAL_ONLY, SyncStatus.PENDING_UPLOAD, SyncStatus.FAILED_UPLOAD)
_LOCAL = [status for status in SyncStatus if status.is_local]

#: What a condemned blob has when a run of the collector has seen it: its time counts from then on.
_SEEN = 1.0


# --- grace periods ------------------------------------------------------------------------------------


def refer_and_condemn(cursor: Cursor, pointers: Sequence[Pointer], dropped: Collection[BlobId]) -> None:
    """
    Keep what saved versions of documents point at; begin the grace period of what nothing refers to.

    For what was put here this device answers until a document refers to it; and for what was not sent when it is
    condemned, as it may be on its way.
    """
    query = "UPDATE blob SET ours = 0 WHERE namespace = ? AND blob_id = ? AND condemned IS NOT NULL"
    cursor.executemany(query, [(ATTACHMENTS, pointer.blob_id) for pointer in pointers])
    unsent = [status.value for status in _UNSENT]
    query = f"""
        UPDATE blob SET ours = 1
        WHERE namespace = ? AND blob_id = ? AND condemned IS NULL AND status IN ({_marks(unsent)})
    """
    cursor.executemany(query, [(ATTACHMENTS, blob_id, *unsent) for blob_id in dropped])
    blobs.refer_and_condemn(cursor, pointers, dropped)


def pass_time(cursor: Cursor, now: float) -> None:
    """
    Count the time since the last run for all that is condemned; what was condemned since begins with this run.

    :param now: what the clock shows.
    """
    waiting = "namespace = ? AND condemned < ? AND status != ?"
    values = (ATTACHMENTS, GRACE, SyncStatus.PENDING_DELETE.value)
    if cursor.execute(f"SELECT 1 FROM blob WHERE {waiting} LIMIT 1", values).fetchone() is None:
        return
    seconds = counted(_meta(cursor, "collected_at"), now)
    _set_meta(cursor, "collected_at", now)
    query = f"UPDATE blob SET condemned = CASE condemned WHEN 0 THEN ? ELSE condemned + ? END WHERE {waiting}"
    cursor.execute(query, (_SEEN, seconds, *values))


def due(cursor: Cursor, after_id: int, limit: int) -> list[Condemned]:
    """Return attachments whose grace period is over, by their row's number, from behind ``after_id`` on."""
    query = """
        SELECT id, blob_id, status, ours FROM blob
        WHERE namespace = ? AND condemned >= ? AND status != ? AND id > ? ORDER BY id LIMIT ?
    """
    rows = cursor.execute(query, (ATTACHMENTS, GRACE, SyncStatus.PENDING_DELETE.value, after_id, limit))
    return [
        Condemned(row_id, BlobId(blob_id), SyncStatus(status), bool(ours)) for row_id, blob_id, status, ours in rows
    ]


def carry_out(cursor: Cursor, plan: Plan) -> list[str]:
    """
    Do what was decided about condemned blobs, unless they were revived since.

    :return: the files that are to be removed after the commit.
    """
    refer_and_condemn(cursor, plan.revived, ())
    files: list[str] = []
    for ids, let_go in ((plan.deleted, _let_delete), (plan.forgotten, remove)):
        for blob_id in ids:
            row = blobs.get(cursor, BlobKey(ATTACHMENTS, blob_id))
            if row is not None and row.condemned is not None and row.condemned >= GRACE:
                files += let_go(cursor, row.known.key)
    return files


def _let_delete(cursor: Cursor, key: BlobKey) -> list[str]:
    """Let a blob be deleted on the server, and ask for that; it stays condemned, so that a reference revives it."""
    files = drop_bytes(cursor, key)
    row = blobs.must_get(cursor, key)
    status = after(row.status, SyncEvent.DELETED)
    cursor.execute(f"UPDATE blob SET status = ?, {IDLE}, retry_at = 0 WHERE id = ?", (status.value, row.id))
    return files


def kept(cursor: Cursor, after_id: BlobId, limit: int) -> list[BlobId]:
    """Return attachments that are not condemned, ascending, from behind ``after_id`` on."""
    query = """
        SELECT blob_id FROM blob WHERE namespace = ? AND blob_id > ? AND condemned IS NULL ORDER BY blob_id LIMIT ?
    """
    return [BlobId(row[0]) for row in cursor.execute(query, (ATTACHMENTS, after_id, limit))]


def gone(cursor: Cursor, blob_ids: Collection[BlobId]) -> list[BlobId]:
    """Return those that have no row, or one that only waits for the server."""
    rows = ((blob_id, blobs.get(cursor, BlobKey(ATTACHMENTS, blob_id))) for blob_id in blob_ids)
    return [blob_id for blob_id, row in rows if row is None or row.status is SyncStatus.PENDING_DELETE]


# --- bytes that may go, and bytes that stay -----------------------------------------------------------


def pin(cursor: Cursor, key: BlobKey, pinned: bool) -> SyncStatus:
    """
    Let a blob's bytes stay here, or not any longer; what is to stay and is not here is wanted.

    :raise BlobNotFound: this device knows no such blob.
    """
    row = blobs.must_get(cursor, key)
    cursor.execute("UPDATE blob SET pinned = ? WHERE id = ?", (pinned, row.id))
    if pinned and (row.status, SyncEvent.WANTED) in TRANSITIONS:
        status = blobs.change(cursor, key, SyncEvent.WANTED)
        if status is SyncStatus.PENDING_DOWNLOAD:
            cursor.execute("UPDATE blob SET retry_at = coalesce(retry_at, 0) WHERE id = ?", (row.id,))
        return status
    return row.status


def is_pinned(cursor: Cursor, key: BlobKey) -> bool:
    """Tell whether a blob's bytes are to stay here."""
    query = "SELECT pinned FROM blob WHERE namespace = ? AND blob_id = ?"
    return bool(cursor.execute(query, (key.namespace, key.blob_id)).fetchone() == (1,))


def must_be_evictable(cursor: Cursor, key: BlobKey) -> BlobRow:
    """
    Return the row of a blob whose bytes may go, if they are here and the server has them.

    :raise NotEvictable: they are pinned, or here only.
    """
    row = blobs.must_get(cursor, key)
    if is_pinned(cursor, key):
        raise NotEvictable(key.blob_id, key.namespace, "it is pinned")
    if row.status.is_local and row.status is not SyncStatus.SYNCED:
        raise NotEvictable(key.blob_id, key.namespace, "it is on this device only")
    return row


def evict(cursor: Cursor, key: BlobKey) -> tuple[SyncStatus, list[str]]:
    """
    Drop the bytes of a blob that the server has; errors as `must_be_evictable`.

    :return: the status after it, and the files that are to be removed after the commit.
    """
    row = must_be_evictable(cursor, key)
    if not row.status.is_local:
        return row.status, []
    # What was asked for before was for bytes that were to be here, or there.
    cursor.execute("UPDATE blob SET retry_at = NULL WHERE id = ?", (row.id,))
    return blobs.change(cursor, key, SyncEvent.EVICTED), drop_bytes(cursor, key)


def note_uses(cursor: Cursor, keys: Sequence[BlobKey]) -> None:
    """Note which blobs were used, the last one last."""
    count = int(_meta(cursor, "uses") or 0)
    query = "UPDATE blob SET used = ? WHERE namespace = ? AND blob_id = ?"
    cursor.executemany(query, [(number, key.namespace, key.blob_id) for number, key in enumerate(keys, count + 1)])
    _set_meta(cursor, "uses", count + len(keys))


def excess(cursor: Cursor, budget: int, limit: int) -> tuple[int, list[KnownBlob]]:
    """
    Return by how many bytes the attachments that are here exceed a budget, and which of them may go.

    :return: these in the order in which they go, ``limit`` at most.
    """
    query = f"SELECT coalesce(sum(size), 0) FROM blob WHERE namespace = ? AND status IN ({_marks(_LOCAL)})"
    (size,) = cursor.execute(query, (ATTACHMENTS, *(status.value for status in _LOCAL))).fetchone()
    if size <= budget:
        return size - budget, []
    query = """
        SELECT blob_id, length, size, header, commitment FROM blob
        WHERE namespace = ? AND status = ? AND pinned = 0 ORDER BY used, size LIMIT ?
    """
    rows = cursor.execute(query, (ATTACHMENTS, SyncStatus.SYNCED.value, limit))
    return size - budget, [
        KnownBlob(BlobKey(Namespace(ATTACHMENTS), BlobId(blob_id)), SyncStatus.SYNCED, Sealed(*sealed))
        for blob_id, *sealed in rows
    ]


def budget(cursor: Cursor) -> int | None:
    """Return how many bytes of attachments are to be here at most."""
    found = _meta(cursor, "budget")
    return None if found is None else int(found)


def set_budget(cursor: Cursor, limit: int | None) -> None:
    """Note how many bytes of attachments are to be here at most."""
    if limit is None:
        cursor.execute("DELETE FROM meta WHERE key = 'budget'")
    else:
        _set_meta(cursor, "budget", limit)


def give_back(cursor: Cursor) -> bool:
    """Give some free pages back to the file system; return whether there are more."""
    (free,) = cursor.execute("PRAGMA freelist_count").fetchone()
    if free <= SPARE_PAGES:
        return False
    # A row for each page: it goes on as long as they are read.
    cursor.execute(f"PRAGMA incremental_vacuum({min(PAGES, free - SPARE_PAGES)})").fetchall()
    return True


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))


def _meta(cursor: Cursor, key: str) -> float | None:
    row = cursor.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _set_meta(cursor: Cursor, key: str, value: float) -> None:
    cursor.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


# --- with files ---------------------------------------------------------------------------------------


@define(eq=False)
class Uses:
    """What was used in this session, the last one last, until it is noted in the database."""

    _keys: dict[BlobKey, None] = field(factory=dict, init=False)

    def add(self, key: BlobKey) -> None:
        """Remember that a blob was used just now."""
        self._keys.pop(key, None)
        self._keys[key] = None

    def take(self) -> list[BlobKey]:
        """Return all, and forget them."""
        keys, self._keys = list(self._keys), {}
        return keys


@implementer(IRetention)
@define(eq=False)
class KeptBlobs(LocalBlobs):
    """The sealed blobs of this device; it also knows which were used when, and lets them go."""

    _uses: Uses = field(factory=Uses, init=False)
    _on_bytes: Callable[[], object] | None = field(default=None, init=False)

    # --- as what holds them ---------------------------------------------------------------------------

    @deferred
    async def put(
        self,
        key: BlobKey,
        sealed: Sealed,
        spooled: Spooled,
        status: SyncStatus = SyncStatus.UNREFERENCED,
        priority: Priority = Priority.MEDIUM,
    ) -> None:
        """See `ILocalBlobs`."""
        await LocalBlobs.put(self, key, sealed, spooled, status, priority)
        self.came(key)

    @deferred
    async def put_made(
        self, key: BlobKey, make: Callable[[], tuple[Sealed, bytes]], status: SyncStatus, priority: Priority
    ) -> Sealed:
        """See `ILocalBlobs`."""
        sealed = await LocalBlobs.put_made(self, key, make, status, priority)
        self.came(key)
        return sealed

    @deferred
    async def arrive(self, key: BlobKey, sealed: Sealed, spooled: Spooled) -> SyncStatus:
        """See `ILocalBlobs`."""
        status = await LocalBlobs.arrive(self, key, sealed, spooled)
        self.came(key)
        return status

    def refer(self, pointers: Sequence[Pointer], dropped: Collection[BlobId]) -> Deferred[None]:
        """See `ILocalBlobs`."""
        return self.database.write(refer_and_condemn, pointers, dropped)

    def came(self, key: BlobKey) -> None:
        """Note that bytes of a blob have come to be here."""
        self._uses.add(key)
        if self._on_bytes is not None:
            self._on_bytes()

    # --- as what lets them go -------------------------------------------------------------------------

    def pass_time(self, now: float) -> Deferred[None]:
        """See `IRetention`."""
        return self.database.write(pass_time, now)

    def due(self, after_id: int, limit: int) -> Deferred[list[Condemned]]:
        """See `IRetention`."""
        return self.database.read(due, after_id, limit)

    @deferred
    async def carry_out(self, plan: Plan) -> None:
        """See `IRetention`."""
        files = await self.database.write(carry_out, plan)
        await completed(self.worker.run(self._remove, files))

    def kept(self, after_id: BlobId, limit: int) -> Deferred[list[BlobId]]:
        """See `IRetention`."""
        return self.database.read(kept, after_id, limit)

    def gone(self, blob_ids: Collection[BlobId]) -> Deferred[list[BlobId]]:
        """See `IRetention`."""
        return self.database.read(gone, blob_ids)

    @deferred
    async def give_back(self) -> bool:
        """See `IRetention`."""
        await self.database.idle()
        return await self.database.write(give_back)

    def pin(self, key: BlobKey, pinned: bool) -> Deferred[SyncStatus]:
        """See `IRetention`."""
        return self.database.write(pin, key, pinned)

    @deferred
    async def evictable(self, key: BlobKey) -> KnownBlob:
        """See `IRetention`."""
        return (await self.database.read(must_be_evictable, key)).known

    @deferred
    async def evict(self, key: BlobKey) -> SyncStatus:
        """See `IRetention`."""
        status, files = await self.database.write(evict, key)
        await completed(self.worker.run(self._remove, files))
        return status

    @deferred
    async def note_uses(self) -> None:
        """See `IRetention`."""
        keys = self._uses.take()
        if keys:
            await self.database.write(note_uses, keys)

    def used(self, key: BlobKey) -> None:
        """See `IRetention`."""
        self._uses.add(key)

    def excess(self, budget: int, limit: int) -> Deferred[tuple[int, list[KnownBlob]]]:
        """See `IRetention`."""
        return self.database.read(excess, budget, limit)

    def set_budget(self, limit: int | None) -> Deferred[None]:
        """See `IRetention`."""
        return self.database.write(set_budget, limit)

    def on_bytes(self, callback: Callable[[], object]) -> None:
        """See `IRetention`."""
        self._on_bytes = callback

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            self.files.remove(name)
