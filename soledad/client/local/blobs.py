"""
Blobs on this device: rows that say where their bytes are and what is to be done, and the sealed bytes.

The functions take a cursor and are jobs of the blobs' `Database`; `LocalBlobs` joins them with the files.  The bytes
are opaque here: who seals and opens them is `soledad.client.blobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import Container, ILocalBlobs, Spooled
from soledad.client.local.database import Cursor, Database
from soledad.client.local.durable import file_faults
from soledad.client.local.files import BlobFiles, Spool, StoredContainer
from soledad.deferreds import Worker, completed, deferred
from soledad.errors import BlobExists, BlobNotFound, StorageFailed, StorageFull
from soledad.model.attachment import Pointer
from soledad.model.blob import BlobKey, KnownBlob, Priority, Sealed, SyncEvent, SyncStatus, after, is_taken
from soledad.model.ids import ATTACHMENTS, BlobId, Namespace
from soledad.wire.container import Layout, Purpose

T = TypeVar("T")


@frozen
class BlobRow:
    """A blob's row, without its bytes."""

    id: int
    known: KnownBlob
    #: The name of its file, if its container is one.
    file: str | None
    #: Seconds of its grace period that are over; `None`: it is not condemned.
    condemned: float | None

    @property
    def status(self) -> SyncStatus:
        """Where its bytes are."""
        return self.known.status


_SELECT = "SELECT id, namespace, blob_id, status, length, size, header, commitment, file, condemned FROM blob"


def get(cursor: Cursor, key: BlobKey) -> BlobRow | None:
    """Return a blob's row."""
    query = f"{_SELECT} WHERE namespace = ? AND blob_id = ?"
    row = cursor.execute(query, (key.namespace, key.blob_id)).fetchone()
    return None if row is None else _row(row)


def must_get(cursor: Cursor, key: BlobKey) -> BlobRow:
    """:raise BlobNotFound: this device knows no such blob."""
    row = get(cursor, key)
    if row is None:
        raise BlobNotFound(key.blob_id, key.namespace)
    return row


def insert(
    cursor: Cursor,
    key: BlobKey,
    status: SyncStatus,
    sealed: Sealed,
    spooled: Spooled | None = None,
    priority: Priority = Priority.MEDIUM,
) -> None:
    """
    Add a blob; one that nothing refers to yet is condemned until something does.

    :raise BlobExists: the id is taken.
    """
    row = get(cursor, key)
    if row is not None:
        _put_again(cursor, row, status, sealed, spooled, priority)
        return
    cursor.execute(
        """
        INSERT INTO blob (namespace, blob_id, status, priority, length, size, header, commitment, condemned, ours)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (
            key.namespace,
            key.blob_id,
            status.value,
            priority.value,
            sealed.length,
            sealed.size,
            sealed.header,
            sealed.commitment,
            0.0 if status is SyncStatus.UNREFERENCED else None,
            # What comes with its bytes was made here.
            spooled is not None,
        ),
    )
    if spooled is not None:
        _keep_bytes(cursor, cursor.lastrowid, spooled)


def _put_again(
    cursor: Cursor, row: BlobRow, status: SyncStatus, sealed: Sealed, spooled: Spooled | None, priority: Priority
) -> None:
    """Let something else take an id that is free: the deletion of what had it may not have reached the server yet."""
    if is_taken(row.status, row.known.sealed) or spooled is None:
        raise BlobExists(row.known.key.blob_id, row.known.key.namespace)
    then = after(row.status, SyncEvent.PUT)
    if status is SyncStatus.LOCAL_ONLY:
        then = after(then, SyncEvent.KEPT_LOCAL)
    cursor.execute(
        f"""
        UPDATE blob SET status = ?, priority = ?, length = ?, size = ?, header = ?,
            replaces = CASE WHEN status = ? THEN coalesce(replaces, commitment) ELSE replaces END, commitment = ?,
            etag = NULL, condemned = NULL, evicted = 0, pinned = 0, {IDLE}
        WHERE id = ?
        """,
        (
            then.value,
            priority.value,
            sealed.length,
            sealed.size,
            sealed.header,
            SyncStatus.PENDING_DELETE.value,
            sealed.commitment,
            row.id,
        ),
    )
    _keep_bytes(cursor, row.id, spooled)


def arrive(cursor: Cursor, key: BlobKey, sealed: Sealed, spooled: Spooled) -> SyncStatus:
    """
    Take the verified bytes of a blob that was not here; return its status.

    :raise BlobNotFound: it was deleted in the meantime, or is not the same any more.
    """
    row = get(cursor, key)
    if row is None:
        insert(cursor, key, SyncStatus.REMOTE, sealed)
        row = must_get(cursor, key)
    is_other = row.known.sealed.is_known and row.known.sealed.commitment != sealed.commitment
    if is_other or row.status is SyncStatus.PENDING_DELETE:
        raise BlobNotFound(key.blob_id, key.namespace)
    status = after(row.status, SyncEvent.ARRIVED)
    cursor.execute(
        f"""
        UPDATE blob SET status = ?, length = ?, size = ?, header = ?, commitment = ?, evicted = 0, partial = NULL,
            {IDLE} WHERE id = ?
        """,
        (status.value, sealed.length, sealed.size, sealed.header, sealed.commitment, row.id),
    )
    _keep_bytes(cursor, row.id, spooled)
    return status


#: What is set in a row when no transfer is under way any more, and none is asked for.
IDLE = "reason = NULL, progress = 0, attempts = 0, rejections = 0, retry_at = NULL, upload = NULL, seen = 1"


def change(cursor: Cursor, key: BlobKey, event: SyncEvent, reason: str | None = None) -> SyncStatus:
    """Note what happened to a blob; return its status after it."""
    row = must_get(cursor, key)
    status = after(row.status, event)
    cursor.execute("UPDATE blob SET status = ?, reason = ? WHERE id = ?", (status.value, reason, row.id))
    if event in _EVICTED:
        cursor.execute("UPDATE blob SET evicted = ? WHERE id = ?", (_EVICTED[event], row.id))
    return status


#: After these, what is on the server only does not come back by itself, or does.
_EVICTED = {SyncEvent.EVICTED: 1, SyncEvent.WANTED: 0}


def learn(cursor: Cursor, key: BlobKey, sealed: Sealed, event: SyncEvent) -> SyncStatus:
    """Note what the server says of a blob, which this device may not have known; return its status after it."""
    if get(cursor, key) is None:
        insert(cursor, key, SyncStatus.AWAITED, sealed)
    return change(cursor, key, event)


def refer(cursor: Cursor, pointers: Iterable[Pointer]) -> None:
    """Keep the blobs that a saved document points at; those that are here only are to be sent."""
    for pointer in pointers:
        key = BlobKey(ATTACHMENTS, pointer.blob_id)
        row = get(cursor, key)
        if row is None:
            size = Layout.of_data(pointer.length, Purpose.BLOB.floor).size
            insert(cursor, key, SyncStatus.AWAITED, Sealed(pointer.length, size, None, pointer.commitment))
        elif row.status is SyncStatus.UNREFERENCED or row.condemned is not None:
            status = after(row.status, SyncEvent.REFERENCED)
            cursor.execute("UPDATE blob SET status = ?, condemned = NULL WHERE id = ?", (status.value, row.id))


def condemn(cursor: Cursor, blob_ids: Iterable[BlobId]) -> None:
    """Begin the grace period of attachments that nothing refers to."""
    query = "UPDATE blob SET condemned = 0 WHERE namespace = ? AND blob_id = ? AND condemned IS NULL"
    cursor.executemany(query, [(ATTACHMENTS, blob_id) for blob_id in blob_ids])


def lose(cursor: Cursor, files: set[str]) -> set[str]:
    """
    Note which blobs have lost their file; return the files that are known, those that are not complete included.

    :param files: all that are there.
    """
    rows = [_row(row) for row in cursor.execute(f"{_SELECT} WHERE file IS NOT NULL")]
    for row in rows:
        if row.file not in files:
            lose_one(cursor, row)
    partial = {row[0] for row in cursor.execute("SELECT partial FROM blob WHERE partial IS NOT NULL")}
    lost = [(name,) for name in partial - files]
    cursor.executemany("UPDATE blob SET partial = NULL, progress = 0 WHERE partial = ?", lost)
    return partial | {row.file for row in rows if row.file is not None}


def lose_one(cursor: Cursor, lost: BlobRow) -> None:
    """Note that a blob has lost its file, unless it is not the same any more; what is pinned comes back by itself."""
    row = get(cursor, lost.known.key)
    if row is None or row.file != lost.file:
        return
    status = after(row.status, SyncEvent.LOST)
    cursor.execute("UPDATE blob SET status = ?, file = NULL WHERE id = ?", (status.value, row.id))
    if status is SyncStatus.REMOTE:
        wanted = after(status, SyncEvent.WANTED).value
        query = "UPDATE blob SET status = ?, retry_at = coalesce(retry_at, 0) WHERE id = ? AND pinned = 1"
        cursor.execute(query, (wanted, row.id))


def compare(cursor: Cursor, referenced: set[BlobId]) -> tuple[set[BlobId], set[BlobId]]:
    """
    Compare attachments with what documents refer to.

    :return: those that are referred to but not kept for that, and those that are kept but not referred to.
    """
    query = "SELECT blob_id, condemned IS NULL AND status != ? FROM blob WHERE namespace = ?"
    rows = cursor.execute(query, (SyncStatus.UNREFERENCED.value, ATTACHMENTS)).fetchall()
    kept = {BlobId(blob_id) for blob_id, is_kept in rows if is_kept}
    return referenced - kept, kept - referenced


def inline_bytes(cursor: Cursor, row_id: int) -> bytes | None:
    """Return the bytes that are kept in the database."""
    row = cursor.execute("SELECT bytes FROM container WHERE id = ?", (row_id,)).fetchone()
    return None if row is None else row[0]


def _keep_bytes(cursor: Cursor, row_id: int, spooled: Spooled) -> None:
    cursor.execute("UPDATE blob SET file = ? WHERE id = ?", (spooled.file, row_id))
    if spooled.inline is not None:
        cursor.execute("INSERT INTO container VALUES (?, ?)", (row_id, spooled.inline))


def _row(row: tuple[Any, ...]) -> BlobRow:
    row_id, namespace, blob_id, status, length, size, header, commitment, file, condemned = row
    key = BlobKey(Namespace(namespace), BlobId(blob_id))
    known = KnownBlob(key, SyncStatus(status), Sealed(length, size, header, commitment))
    return BlobRow(row_id, known, file, condemned)


@implementer(ILocalBlobs)
@define(eq=False)
class LocalBlobs:
    """The sealed blobs of this device, rows and bytes."""

    database: Database
    files: BlobFiles
    #: Where files are read and written.
    worker: Worker

    @deferred
    async def get(self, key: BlobKey) -> KnownBlob | None:
        """See `ILocalBlobs`."""
        row = await self.database.read(get, key)
        return None if row is None else row.known

    @deferred
    async def open(self, key: BlobKey) -> tuple[KnownBlob, Container]:
        """See `ILocalBlobs`."""
        row, inline = await self.database.read(_row_and_bytes, key)
        if inline is not None:
            return row.known, StoredContainer(len(inline), inline=inline)
        if row.file is None:
            raise BlobNotFound(key.blob_id, key.namespace)
        try:
            # Once it is open, the caller must get it, to close it.
            return row.known, await completed(self.worker.run(self._open_file, row))
        except BlobNotFound:
            # What cannot be noted is found again by the next reading.
            with suppress(StorageFailed, StorageFull):
                await completed(self.database.write(lose_one, row))
            raise

    def spool(self) -> Spool:
        """See `ILocalBlobs`."""
        return self.files.spool()

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
        await self._keep(spooled, insert, key, status, sealed, spooled, priority)

    def put_made(
        self, key: BlobKey, make: Callable[[], tuple[Sealed, bytes]], status: SyncStatus, priority: Priority
    ) -> Deferred[Sealed]:
        """See `ILocalBlobs`."""
        return self.database.write(self._put_made, key, make, status, priority)

    def _put_made(
        self,
        cursor: Cursor,
        key: BlobKey,
        make: Callable[[], tuple[Sealed, bytes]],
        status: SyncStatus,
        priority: Priority,
    ) -> Sealed:
        sealed, data = make()
        spool = self.files.spool()
        spool.write(data)
        # If it is a file after all, and the row does not get there, the next opening sweeps it.
        insert(cursor, key, status, sealed, spool.finish(), priority)
        return sealed

    @deferred
    async def arrive(self, key: BlobKey, sealed: Sealed, spooled: Spooled) -> SyncStatus:
        """See `ILocalBlobs`."""
        return await self._keep(spooled, arrive, key, sealed, spooled)

    def change(self, key: BlobKey, event: SyncEvent) -> Deferred[SyncStatus]:
        """See `ILocalBlobs`."""
        return self.database.write(change, key, event)

    def learn(self, key: BlobKey, sealed: Sealed, event: SyncEvent) -> Deferred[SyncStatus]:
        """See `ILocalBlobs`."""
        return self.database.write(learn, key, sealed, event)

    def refer(self, pointers: Sequence[Pointer], dropped: Collection[BlobId]) -> Deferred[None]:
        """See `ILocalBlobs`."""
        return self.database.write(refer_and_condemn, pointers, dropped)

    async def _keep(self, spooled: Spooled, job: Callable[..., T], *args: Any) -> T:
        """Commit the row of a container; if that fails, or is cancelled before, nothing is left of its file."""
        try:
            return await self.database.write(job, *args)
        except BaseException:
            if spooled.file is not None:
                await completed(self.worker.run(self.files.remove, spooled.file))
            raise

    def _open_file(self, row: BlobRow) -> StoredContainer:
        assert row.file is not None
        key, sealed = row.known.key, row.known.sealed
        with file_faults(self.files.folder):
            try:
                return StoredContainer(sealed.size, descriptor=self.files.open(row.file))
            except FileNotFoundError:
                if not self.files.folder.is_dir():
                    # That is no loss of this one file: all of them may be back in a moment.
                    raise
                raise BlobNotFound(key.blob_id, key.namespace) from None


def _row_and_bytes(cursor: Cursor, key: BlobKey) -> tuple[BlobRow, bytes | None]:
    row = must_get(cursor, key)
    return row, inline_bytes(cursor, row.id)


def refer_and_condemn(cursor: Cursor, pointers: Sequence[Pointer], dropped: Collection[BlobId]) -> None:
    """Do as `refer` and `condemn`, in one job."""
    refer(cursor, pointers)
    condemn(cursor, dropped)
