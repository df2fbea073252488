"""`Soledad.blobs`: blobs without a document, by namespace and id, and the transfers of all blobs."""

from __future__ import annotations

from builtins import list as builtin_list
from collections.abc import Callable, Iterable
from os import urandom

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.web.iweb import IBodyProducer

from soledad.client.blob import Blob
from soledad.client.blobs import Blobs, Source
from soledad.client.interfaces import IBlobQueue, ILocalBlobs, Listed, Scope
from soledad.client.keeping import Keeping
from soledad.client.operations import Operations, local_operation, network_operation
from soledad.client.reading import SealedFile
from soledad.client.sync.blobs import ALL, FETCHING, SENDING
from soledad.client.sync.remote import Remote
from soledad.client.throttle import check_limit
from soledad.client.transfers import Transfer
from soledad.deferreds import Worker, completed
from soledad.errors import BlobNotFound, InvalidArgument, InvalidFlags, InvalidIdentifier, NoServer
from soledad.model.blob import BlobInfo, BlobKey, Flag, Priority, SyncEvent, SyncStatus, is_taken
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId, Namespace, blob_id, namespace, random_blob_id
from soledad.model.transfer import Direction, Queued
from soledad.streams import Progress
from soledad.wire.routes import ORDERS, ListRoute

ProgressCallback = Callable[[int, int], object]


@frozen
class StoredBlob:
    """What this device knows of a blob."""

    blob_id: BlobId
    namespace: Namespace
    status: SyncStatus
    priority: Priority
    #: Bytes of data; `None`: not known before it comes here.
    length: int | None

    @property
    def is_local(self) -> bool:
        """Whether its bytes are on this device."""
        return self.status.is_local


@define(eq=False)
class BlobStore:
    """
    Blobs without a document: immutable bytes under a namespace and an id, on this device, the server, and the other
    devices.

    The namespace ``attachments`` has those of documents; here it can be looked at, and not be written.  Methods fail
    with `InvalidIdentifier` when a namespace or an id is none, with `NoServer` when they need the server and the store
    was opened without one, and with a `TransferError` when the exchange with it fails.
    """

    operations: Operations
    _blobs: Blobs
    _local: ILocalBlobs
    _queue: IBlobQueue
    _worker: Worker
    _remote: Remote | None
    _keeping: Keeping
    #: Who wants to hear that something waits to be sent.
    _listeners: list[Callable[[], object]] = field(factory=builtin_list, init=False)

    # --- on this device -------------------------------------------------------------------------------

    def put(
        self,
        blob_id: str | None,
        fd: Source,
        namespace: str = DEFAULT,
        *,
        priority: Priority = Priority.MEDIUM,
        local_only: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Deferred[str]:
        """
        Seal a blob and keep it until it is deleted; it is queued to be sent.

        :param blob_id: 1 to 128 of ``[A-Za-z0-9_-]``; `None`: a random one.
        :param fd: a binary file, bytes, or an `IBodyProducer`, as for `Document.put_attachment`.
        :param local_only: it is never sent, until `set_local_only` says otherwise.
        :param progress: is called with bytes done and bytes in all.
        :return: fires with the id, once the blob is durable on this device.
        :raise BlobExists: the id is taken (`exists`), as far as this device knows.
        :raise InvalidArgument: there is no such priority.
        """
        status = SyncStatus.LOCAL_ONLY if local_only else SyncStatus.PENDING_UPLOAD

        async def put() -> str:
            key = _own(random_blob_id(urandom(16)) if blob_id is None else blob_id, namespace)
            report = Progress(self._worker, progress)
            await self._blobs.put(key, fd, report, status, _priority(priority))
            report.finished()
            self._tell()
            return key.blob_id

        # A producer may have no end; a file has one, so what was begun with it is finished.
        return self.operations.start(put, finishes=not IBodyProducer.providedBy(fd))

    @network_operation
    async def get(self, blob_id: str, namespace: str = DEFAULT) -> SealedFile:
        """
        Return a blob as a read-only, seekable binary file; it is fetched first, if it is not here.

        :raise BlobNotFound: it is neither here nor on the server; worth another try if it `exists`.
        :raise CryptoError: what the server has is not what was put.
        """
        key = _key(blob_id, namespace)
        with self._keeping.using(key):
            row = await self._queue.look_up(key)
            if row is not None and row.status.is_local:
                try:
                    return await self._blobs.open(Blob.of(row))
                except BlobNotFound:
                    # Its file was lost, or it was evicted just now.
                    row = await self._queue.look_up(key)
            return await self._blobs.open(Blob.of(await self._fetched(key, row)))

    async def _fetched(self, key: BlobKey, row: Queued | None) -> Queued:
        if self._remote is None or (row is not None and row.status is SyncStatus.PENDING_DELETE):
            raise BlobNotFound(key.blob_id, key.namespace)
        if row is None:
            info = await self._remote.blobs.stat_blob(key.blob_id, key.namespace)
            # It is known from now on, so that what comes of it can be kept.
            await self._queue.compare([Listed(info)])
            row = await self._must_have(key)
        await self._remote.engine.move(row, Direction.DOWNLOAD, Progress(self._worker, None))
        return await self._must_have(key)

    async def _must_have(self, key: BlobKey) -> Queued:
        row = await self._queue.look_up(key)
        if row is None:
            raise BlobNotFound(key.blob_id, key.namespace)
        return row

    async def _delete(self, key: BlobKey) -> None:
        if self._remote is not None:
            # What goes together with others finds at its end that the blob is deleted.
            await self._remote.engine.release(key, wholly=False)
        if not await self._queue.delete(key):
            raise BlobNotFound(key.blob_id, key.namespace)
        self._tell()

    @local_operation
    async def delete(self, blob_id: str, namespace: str = DEFAULT) -> None:
        """
        Delete a blob: here at once, on the server and the other devices with the next `sync` or `send_missing`.

        Its id may be used again at once.

        :raise BlobNotFound: this device knows no such blob.
        """
        await self._delete(_own(blob_id, namespace))

    @local_operation
    async def exists(self, blob_id: str, namespace: str = DEFAULT) -> bool:
        """
        Tell whether there is such a blob, as far as this device knows: its id is taken, until it is deleted.

        It may be ``AWAITED``: not here, and not on the server either, which lost it, or has not got it yet.  It comes
        when a device that has it sends it (again).
        """
        row = await self._queue.look_up(_key(blob_id, namespace))
        return row is not None and is_taken(row.status, row.sealed)

    @local_operation
    async def list(self, namespace: str = DEFAULT, *, status: SyncStatus | None = None) -> builtin_list[StoredBlob]:
        """Return the blobs that this device knows, by id; only those of a status, if one is given."""
        return [_stored(row) for row in await self._queue.list(_namespace(namespace), status)]

    @local_operation
    async def count(self, namespace: str = DEFAULT, *, status: SyncStatus | None = None) -> int:
        """Return how many blobs `list` returns."""
        counts = await self._queue.count(_namespace(namespace))
        if status is not None:
            return counts.get(status, 0)
        return sum(number for each, number in counts.items() if each is not SyncStatus.PENDING_DELETE)

    @local_operation
    async def set_priority(self, blob_id: str, priority: Priority, namespace: str = DEFAULT) -> None:
        """
        Let a blob go, or come, before those of lower priority; it works on what is queued already.

        :raise BlobNotFound: this device knows no such blob.
        :raise InvalidArgument: there is no such priority.
        """
        await self._queue.set_priority(_key(blob_id, namespace), _priority(priority))

    @local_operation
    async def set_local_only(self, blob_id: str, local_only: bool, namespace: str = DEFAULT) -> None:
        """
        Keep a blob on this device for ever, or let it go to the server.

        :raise BlobNotFound: its bytes are not here.
        """
        key = _own(blob_id, namespace)
        row = await self._queue.look_up(key)
        if row is None or not row.status.is_local:
            raise BlobNotFound(key.blob_id, key.namespace)
        if local_only is (row.status is SyncStatus.LOCAL_ONLY):
            return
        if local_only and self._remote is not None:
            await self._remote.engine.release(key)
        await self._local.change(key, SyncEvent.KEPT_LOCAL if local_only else SyncEvent.RETRIED)
        self._tell()

    # --- room -----------------------------------------------------------------------------------------

    @local_operation
    async def pin(self, blob_id: str, namespace: str = DEFAULT) -> SyncStatus:
        """
        Keep the bytes of a blob on this device; if they are not here, they come by themselves.  Attachments' too.

        :return: fires with the status after it.
        :raise BlobNotFound: this device knows no such blob.
        """
        return await self._keeping.pin(_key(blob_id, namespace))

    @local_operation
    async def unpin(self, blob_id: str, namespace: str = DEFAULT) -> SyncStatus:
        """Let the bytes of a blob go again; answer and errors as `pin`."""
        return await self._keeping.unpin(_key(blob_id, namespace))

    @network_operation
    async def evict(self, blob_id: str, namespace: str = DEFAULT) -> SyncStatus:
        """
        Drop the bytes of a blob on this device, when the server has confirmed that it has the same ones.

        :return: fires with the status after it.
        :raise NotEvictable: it is pinned, in use, or not known to be on the server; nothing was dropped.
        :raise BlobNotFound: this device knows no such blob.
        """
        return await self._keeping.evict(_key(blob_id, namespace))

    # --- on the server --------------------------------------------------------------------------------

    @network_operation
    async def remote_list(
        self,
        namespace: str = DEFAULT,
        *,
        order_by: str | None = None,
        deleted: bool = False,
        filter_flag: Flag | None = None,
    ) -> builtin_list[BlobInfo]:
        """
        Return what the server says it has.

        :param order_by: ``date`` or ``+date``, the oldest first, or ``-date``.
        :param deleted: tombstones instead of blobs.
        :param filter_flag: only blobs that have the flag.
        :raise InvalidArgument: there is no such order.
        :raise InvalidFlags: there is no such flag.
        """
        remote = self._server()
        return await remote.changes.list_all(self._route(remote, namespace, order_by, deleted, filter_flag))

    @network_operation
    async def remote_count(
        self, namespace: str = DEFAULT, *, deleted: bool = False, filter_flag: Flag | None = None
    ) -> int:
        """Return how many blobs `remote_list` returns; errors as that."""
        remote = self._server()
        return await remote.blobs.count_blobs(self._route(remote, namespace, None, deleted, filter_flag, True))

    @network_operation
    async def get_flags(self, blob_id: str, namespace: str = DEFAULT) -> tuple[Flag, ...]:
        """
        Return the flags that a blob has on the server.

        :raise BlobNotFound: the server has no such blob.
        """
        key = _key(blob_id, namespace)
        return await self._server().blobs.get_flags(key.blob_id, key.namespace)

    @network_operation
    async def set_flags(self, blob_id: str, flags: Iterable[Flag], namespace: str = DEFAULT) -> None:
        """
        Let a blob have these flags on the server, and no others.

        :raise BlobNotFound: the server has no such blob.
        :raise InvalidFlags: these are no flags.
        """
        key = _own(blob_id, namespace)
        await self._server().blobs.set_flags(key.blob_id, _flags(flags), key.namespace)

    def _route(
        self,
        remote: Remote,
        namespace: str,
        order_by: str | None,
        deleted: bool,
        flag: Flag | None,
        only_count: bool = False,
    ) -> ListRoute:
        if order_by is not None and order_by not in ORDERS:
            raise InvalidArgument("order_by", str(order_by))
        name = None if flag is None else _flags([flag])[0].value
        return ListRoute(remote.user, _namespace(namespace), order_by, name, deleted, only_count)

    # --- to and from the server -----------------------------------------------------------------------

    @network_operation
    async def send_missing(self, namespace: str | None = None, *, progress: ProgressCallback | None = None) -> None:
        """
        Send what waits to be sent, deletions too; of one namespace, or of all.

        What fails for a reason of its own does not hold up the others, and is tried again later: by itself, as long as
        the store is open, and from the next opening on.  What the server takes no more is ``FAILED_UPLOAD``.

        :raise TransferError: it is no use to go on: the server is out of reach, or does not know the user.
        :raise KeyringError: nothing is sent before a person has seen to `Soledad.keyring_problem`.
        """
        await self._run(Scope(SENDING, _optional(namespace)), progress)

    @network_operation
    async def fetch_missing(self, namespace: str | None = None, *, progress: ProgressCallback | None = None) -> None:
        """
        Fetch what is on the server and not here, of one namespace, or of all; errors and failures as `send_missing`.

        What is not on the server yet is waited for; what fails verification three times is ``FAILED_DOWNLOAD``.
        """
        await self._server().changes.refresh(_optional(namespace))
        await self._run(Scope(FETCHING, _optional(namespace)), progress)

    @network_operation
    async def sync(self, namespace: str | None = None, *, progress: ProgressCallback | None = None) -> None:
        """
        Note what changed on the server, then send and fetch: one namespace, or all that any device has used.

        Errors and failures as `send_missing`; what keeps it from sending keeps it not from fetching.
        """
        await self.sync_blobs(_optional(namespace), progress)

    async def sync_blobs(self, only: Namespace | None = None, progress: ProgressCallback | None = None) -> None:
        """Do as `sync`, as a part of another operation."""
        await self._server().changes.refresh(only)
        await self._run(Scope(ALL.directions, only), progress)

    async def follow_documents(self, changes: str, progress: ProgressCallback) -> bool:
        """
        Do as `sync`, as the part of a store's sync that comes after the documents.

        :param changes: what the server told of its blobs: if that is known, and nothing waits, nothing is asked.
        :return: whether anything was asked.
        """
        if changes and await self._queue.is_settled(changes):
            return False
        await self.sync_blobs(None, progress)
        await completed(self._queue.note_settled(changes))
        return True

    def send(self, blob_id: str, namespace: str = DEFAULT, *, progress: ProgressCallback | None = None) -> Transfer:
        """
        Send one blob now; the handle tells what becomes of it.

        One that is to stay here stays here: its transfer ends at once, well, with ``LOCAL_ONLY``.
        One that this device does not know, or has deleted, fails with `BlobNotFound`; one that is deleted meanwhile,
        with a `CancelledError`.
        """
        return self._server().engine.start(_key(blob_id, namespace), Direction.UPLOAD, progress)

    def fetch(self, blob_id: str, namespace: str = DEFAULT, *, progress: ProgressCallback | None = None) -> Transfer:
        """
        Fetch one blob now, of which this device knows; the handle tells what becomes of it.

        It fails for blobs that are unknown here, or deleted, as `send` does; `get` asks the server for them.
        """
        return self._server().engine.start(_key(blob_id, namespace), Direction.DOWNLOAD, progress)

    def transfers(self) -> builtin_list[Transfer]:
        """Return the transfers that are under way, wait for their turn, or are paused; attachments' too."""
        return [] if self._remote is None else self._remote.engine.transfers

    @local_operation
    async def sync_progress(self, namespace: str | None = None) -> dict[SyncStatus, int]:
        """Return how many blobs have which status; of one namespace, or of all."""
        return await self._queue.count(_optional(namespace))

    def limit(self, *, up: int | None = None, down: int | None = None) -> None:
        """
        Send and fetch at most so many bytes a second, all transfers together; `None`: as fast as it goes.

        :raise InvalidLimit: it is no whole number from 1024 on.
        """
        carrying = self._server().engine.carrying
        for limit in (up, down):
            check_limit(limit)
        carrying.sending.rate.limit, carrying.fetching.rate.limit = up, down

    def go_on(self) -> None:
        """Go on by itself with what waits to be sent, fetched or deleted."""
        if self._remote is not None:
            self._remote.engine.go_on()

    def listen(self, call: Callable[[], object]) -> Callable[[], None]:
        """Call ``call()`` whenever something is put, deleted or let go to the server; what this returns ends that."""
        self._listeners.append(call)
        return lambda: self._listeners.remove(call)

    def _tell(self) -> None:
        for call in self._listeners.copy():
            call()

    async def has_work(self) -> bool:
        """Tell whether anything waits to go, to come, or to be deleted."""
        return await self._queue.is_waiting()

    def stop(self) -> None:
        """Begin no transfers by themselves any more: the store is closed."""
        if self._remote is not None:
            self._remote.engine.stop()

    async def _run(self, scope: Scope, progress: ProgressCallback | None) -> None:
        report = Progress(self._worker, progress)
        await self._server().engine.run(scope, report)
        report.finished()

    def _server(self) -> Remote:
        if self._remote is None:
            raise NoServer()
        return self._remote


_namespace, _blob_id = namespace, blob_id


def _key(blob_id: str, namespace: str) -> BlobKey:
    return BlobKey(_namespace(namespace), _blob_id(blob_id))


def _own(blob_id: str, namespace: str) -> BlobKey:
    """:raise InvalidIdentifier: it is the namespace of attachments."""
    if namespace == ATTACHMENTS:
        raise InvalidIdentifier("namespace of one's own", namespace)
    return _key(blob_id, namespace)


def _priority(priority: Priority) -> Priority:
    """:raise InvalidArgument: it is none."""
    try:
        return Priority(priority)
    except ValueError:
        raise InvalidArgument("priority", str(priority)) from None


def _flags(flags: Iterable[Flag]) -> builtin_list[Flag]:
    """:raise InvalidFlags: one of them is none, or they are no list."""
    try:
        return [Flag(flag) for flag in flags]
    except (ValueError, TypeError) as error:
        raise InvalidFlags(str(error)) from None


def _optional(namespace: str | None) -> Namespace | None:
    return None if namespace is None else _namespace(namespace)


def _stored(row: Queued) -> StoredBlob:
    length = row.sealed.length if row.sealed.is_known else None
    return StoredBlob(row.key.blob_id, row.key.namespace, row.status, row.priority, length)
