"""
What changed on the server, namespace by namespace: read as a list of changes, or compared in full.

The server is believed in what it has, not in what it has not: absence deletes nothing, and neither does a tombstone
that the keys do not open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from attrs import define

from soledad.client.blob import Keyring
from soledad.client.interfaces import IBlobQueue, IRemoteBlobs, Listed, Outcome
from soledad.client.sync.deleting import Deleting
from soledad.crypto.tombstone import deleted_by
from soledad.deferreds import Worker, completed
from soledad.errors import BlobNotFound, StaleToken, UnexpectedAnswer
from soledad.model.blob import BlobInfo, BlobKey, ByteRange, SyncEvent
from soledad.model.ids import ATTACHMENTS, DEFAULT, Namespace, UserId
from soledad.model.transfer import Queued
from soledad.streams import MemoryConsumer
from soledad.wire.container import HEADER_SIZE
from soledad.wire.listing import Page
from soledad.wire.routes import NAMESPACES_LIMIT, ListRoute


@define(eq=False)
class Changes:
    """Brings what this device knows of the server up to date."""

    _user: UserId
    _queue: IBlobQueue
    _blobs: IRemoteBlobs
    _keyring: Keyring
    _worker: Worker
    _deleting: Deleting

    async def refresh(self, namespace: Namespace | None) -> None:
        """Note what changed in one namespace, or in all that there are; errors as `IRemoteBlobs`."""
        if namespace is not None:
            await self._refresh(namespace)
            return
        there = await self._blobs.list_namespaces()
        heads = {there.head}
        for each in await self._all(there.names):
            # A head stands for the last change of all namespaces: what has heard of it, has nothing to ask for.
            if await self._queue.head(each) not in heads:
                heads.add(await self._refresh(each))

    async def _all(self, told: Sequence[Namespace]) -> list[Namespace]:
        """Return the namespaces that this device knows, and those that it is told of; these are known from then on."""
        known = dict.fromkeys((*await self._queue.namespaces(), DEFAULT, ATTACHMENTS))
        new = [name for name in told if name not in known]
        # Each is asked for at every change: a server that always has other names must not keep a device busy for ever.
        return [*known, *new[: max(0, NAMESPACES_LIMIT - len(known))]]

    async def _refresh(self, namespace: Namespace) -> str:
        """Return the head that was read up to."""
        head = await self._queue.head(namespace)
        if head is not None:
            try:
                return await self._read_changes(namespace, head)
            except StaleToken:
                # The server was restored, or this device was away for longer than tombstones live.
                pass
        return await self._compare_fully(namespace)

    async def _read_changes(self, namespace: Namespace, since: str) -> str:
        token: str | None = since
        while token is not None:
            page = await self._blobs.list_blobs(ListRoute(self._user, namespace, since=token))
            await self._compare(page)
            since, token = page.next or page.head, _moved(token, page)
            await completed(self._queue.note_head(namespace, since))
        return since

    async def _compare_fully(self, namespace: Namespace) -> str:
        await completed(self._queue.begin_comparing(namespace))
        head = None
        for deleted in (False, True):
            async for page in self._pages(ListRoute(self._user, namespace, deleted=deleted)):
                # What changes while this reads comes again with what changed since its beginning.
                head = page.head if head is None else head
                await self._compare(page)
        assert head is not None
        await completed(self._queue.end_comparing(namespace))
        await completed(self._queue.note_head(namespace, head))
        return head

    async def _pages(self, route: ListRoute) -> AsyncIterator[Page]:
        after: str | None = None
        while True:
            page = await self._blobs.list_blobs(
                ListRoute(route.user, route.namespace, route.order_by, route.filter_flag, route.deleted, after=after)
            )
            yield page
            after = _moved(after, page)
            if after is None:
                return

    async def list_all(self, route: ListRoute) -> list[BlobInfo]:
        """Return all entries of a list."""
        return [info async for page in self._pages(route) for info in page.blobs]

    async def _compare(self, page: Page) -> None:
        listed = await self._worker.run(self._listed, page.blobs)
        for row in await completed(self._queue.compare(listed)):
            await self._look(row)

    def _listed(self, infos: Sequence[BlobInfo]) -> list[Listed]:
        """Open tombstones; blocks."""
        roots = self._keyring.roots
        return [
            Listed(info, deleted_by(roots, BlobKey(info.namespace, info.blob_id), info.tombstone)) for info in infos
        ]

    async def _look(self, row: Queued) -> None:
        """Look at the header of what the server has under an id, of which its list does not tell enough."""
        header, tags = MemoryConsumer(), [""]
        try:
            await self._blobs.read_blob(
                row.key.blob_id, header, row.key.namespace, ByteRange(0, HEADER_SIZE), None, tags.append
            )
        except BlobNotFound:
            # Deleted in the meantime: that comes with the next changes.
            return
        there = self._deleting.authentic(row.key, header.value())
        if there == row.sealed.commitment:
            await self._settle(row, SyncEvent.CONFIRMED, tags[-1])
        elif row.status.is_local:
            # What is here is nowhere else: it is kept, and that it cannot go there will be told.
            await self._settle(row, SyncEvent.MISSED, None)
        elif there is not None:
            info = await self._blobs.stat_blob(row.key.blob_id, row.key.namespace)
            await completed(self._queue.replace(row.key, row.sealed.commitment, info.length, info.etag))

    async def _settle(self, row: Queued, event: SyncEvent, etag: str | None) -> None:
        await completed(self._queue.settle([Outcome(row.key, row.sealed.commitment, event, etag)]))


def _moved(token: str | None, page: Page) -> str | None:
    """Return what to go on with. :raise UnexpectedAnswer: it leads nowhere."""
    if page.next is not None and page.next == token:
        raise UnexpectedAnswer("a list that does not go on")
    return page.next
