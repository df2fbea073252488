"""The queue of transfers of this device: rows, and the files that go with them."""

from __future__ import annotations

from builtins import list as builtin_list
from collections.abc import Sequence
from os import urandom

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import Arrival, IBlobQueue, Listed, Outcome, Scope
from soledad.client.local import listings, queue
from soledad.client.local.partial import PartialFile
from soledad.client.local.retention import KeptBlobs
from soledad.deferreds import completed, deferred
from soledad.model.blob import BlobKey, Priority, Sealed, SyncEvent, SyncStatus
from soledad.model.ids import Namespace
from soledad.model.transfer import Queued


@implementer(IBlobQueue)
@define(eq=False)
class BlobQueue:
    """See `IBlobQueue`."""

    _blobs: KeptBlobs

    def ask(self, scope: Scope, now: float) -> Deferred[int]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.ask, scope, now)

    def due(self, scope: Scope | None, now: float, limit: int) -> Deferred[builtin_list[Queued]]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.due, scope, now, limit)

    def next_time(self, now: float) -> Deferred[float | None]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.next_time, now)

    def look_up(self, key: BlobKey) -> Deferred[Queued | None]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.look_up, key)

    def contents(self, keys: Sequence[BlobKey]) -> Deferred[builtin_list[bytes | None]]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.contents, keys)

    def note_upload(self, key: BlobKey, upload: str | None) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.note_upload, key, upload)

    def note_progress(self, key: BlobKey, size: int, etag: str | None) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.note_progress, key, size, etag)

    def note_known(self, key: BlobKey, sealed: Sealed, etag: str | None) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.note_known, key, sealed, etag)

    @deferred
    async def partial(self, key: BlobKey) -> PartialFile:
        """See `IBlobQueue`."""
        # The row first: a file that no row knows is swept when the store is opened.
        name = await self._blobs.database.write(queue.name_partial, key, urandom(16).hex())
        return await completed(self._blobs.worker.run(PartialFile.open, self._blobs.files, name))

    @deferred
    async def drop_partial(self, key: BlobKey) -> None:
        """See `IBlobQueue`."""
        await self._remove(await self._blobs.database.write(queue.drop_partial, key))

    @deferred
    async def arrive(self, arrivals: Sequence[Arrival]) -> builtin_list[SyncStatus | None]:
        """See `IBlobQueue`."""
        statuses = await self._blobs.database.write(queue.arrive_all, arrivals)
        pairs = zip(arrivals, statuses, strict=True)
        await self._remove([a.spooled.file for a, status in pairs if status is None and a.spooled.file is not None])
        for arrival, status in zip(arrivals, statuses, strict=True):
            if status is not None:
                self._blobs.came(arrival.key)
        return statuses

    def settle(self, outcomes: Sequence[Outcome]) -> Deferred[builtin_list[SyncStatus | None]]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.settle, outcomes)

    def postpone(
        self, keys: Sequence[BlobKey], until: float, reason: str, failed: bool, rejected: bool
    ) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.postpone, keys, until, reason, failed, rejected)

    def postpone_all(self, scope: Scope | None, until: float, reason: str) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.postpone_all, scope, until, reason)

    def hold(self, key: BlobKey) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.hold, key)

    @deferred
    async def withdraw(self, key: BlobKey, event: SyncEvent | None) -> None:
        """See `IBlobQueue`."""
        await self._remove(await self._blobs.database.write(queue.withdraw, key, event))

    @deferred
    async def delete(self, key: BlobKey) -> bool:
        """See `IBlobQueue`."""
        files = await self._blobs.database.write(queue.delete, key)
        await self._remove(files or [])
        return files is not None

    @deferred
    async def forget(self, key: BlobKey, commitment: bytes) -> None:
        """See `IBlobQueue`."""
        await self._remove(await self._blobs.database.write(queue.forget, key, commitment))

    def buried(self, key: BlobKey, limit: int) -> Deferred[builtin_list[bytes]]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.buried, key, limit)

    def head(self, namespace: Namespace) -> Deferred[str | None]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(listings.head, namespace)

    def namespaces(self) -> Deferred[builtin_list[Namespace]]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.namespaces)

    def begin_comparing(self, namespace: Namespace) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(listings.begin_comparing, namespace)

    @deferred
    async def compare(self, listed: Sequence[Listed]) -> builtin_list[Queued]:
        """See `IBlobQueue`."""
        uncertain, files = await self._blobs.database.write(listings.compare, listed)
        await self._remove(files)
        return uncertain

    def end_comparing(self, namespace: Namespace) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(listings.end_comparing, namespace)

    def note_head(self, namespace: Namespace, head: str) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(listings.note_head, namespace, head)

    def is_waiting(self) -> Deferred[bool]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.is_waiting)

    def is_settled(self, changes: str) -> Deferred[bool]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(listings.is_settled, changes)

    def note_settled(self, changes: str) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(listings.note_settled, changes)

    @deferred
    async def replace(self, key: BlobKey, commitment: bytes, size: int, etag: str | None) -> None:
        """See `IBlobQueue`."""
        await self._remove(await self._blobs.database.write(listings.replace_named, key, commitment, size, etag))

    def list(self, namespace: Namespace, status: SyncStatus | None) -> Deferred[builtin_list[Queued]]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.list_blobs, namespace, status)

    def count(self, namespace: Namespace | None) -> Deferred[dict[SyncStatus, int]]:
        """See `IBlobQueue`."""
        return self._blobs.database.read(queue.count, namespace)

    def set_priority(self, key: BlobKey, priority: Priority) -> Deferred[None]:
        """See `IBlobQueue`."""
        return self._blobs.database.write(queue.set_priority, key, priority)

    async def _remove(self, files: Sequence[str]) -> None:
        """Remove files behind the commit after which nothing refers to them."""
        for name in files:
            await completed(self._blobs.worker.run(self._blobs.files.remove, name))
