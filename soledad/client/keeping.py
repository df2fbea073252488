"""
Which bytes of blobs stay on this device: pins, evictions, and a budget.

Bytes go only when the server has just said that it has the very same ones; they come back when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from threading import Event

from attrs import define, field
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from soledad.client.interfaces import Container, ILocalBlobs, IRemoteBlobs, IRetention
from soledad.client.operations import Operations
from soledad.deferreds import Serial, Worker, completed, unawaited
from soledad.errors import (
    BlobNotFound,
    InvalidLimit,
    NoServer,
    NotEvictable,
    StorageError,
    StorageFailed,
    StoreClosed,
    TransferError,
)
from soledad.model.blob import BlobKey, KnownBlob, SyncEvent, SyncStatus

#: Seconds after which bytes that came are looked at: more may come, and whoever asked for them opens them first.
PAUSE = 1.0
#: Blobs that are considered at a time when there are too many bytes.
SLICE = 64
#: Bytes that are read at a time to compare what is here with what the server has.
PIECE = 256 * 1024

_log = Logger()


@define(eq=False)
class Keeping:
    """What stays here, and what need not."""

    _blobs: ILocalBlobs
    _local: IRetention
    _remote: IRemoteBlobs | None
    _worker: Worker
    _clock: IReactorTime
    _operations: Operations
    #: Begins transfers that were asked for.
    _go_on: Callable[[], object]
    #: Bytes of attachments that are to be here at most; `None`: any number.
    budget: int | None
    _due: IDelayedCall | None = field(default=None, init=False)
    _fitting: Serial = field(factory=Serial, init=False)
    _spared: dict[BlobKey, int] = field(factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    # --- beginning and end ----------------------------------------------------------------------------

    def start(self) -> None:
        """Look after bytes that come."""
        self._local.on_bytes(self.soon)

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopped = True
        if self._due is not None and self._due.active():
            self._due.cancel()

    async def flush(self) -> None:
        """Keep what is known of uses, for the next session."""
        try:
            await self._local.note_uses()
        except StorageError as error:
            # It is only an order in which blobs go: no failure of anything.
            _log.warn("Uses of blobs could not be noted: {error}", error=error)

    # --- what is asked for ----------------------------------------------------------------------------

    async def pin(self, key: BlobKey) -> SyncStatus:
        """
        Let the bytes of a blob stay here; if they are not here, they come by themselves.

        :raise BlobNotFound: this device knows no such blob.
        """
        status = await self._local.pin(key, True)
        if status is SyncStatus.PENDING_DOWNLOAD:
            self._go_on()
        return status

    async def unpin(self, key: BlobKey) -> SyncStatus:
        """Let the bytes of a blob go when there is no room for them; errors as `pin`."""
        status = await self._local.pin(key, False)
        self.soon()
        return status

    async def evict(self, key: BlobKey) -> SyncStatus:
        """
        Drop the bytes of a blob, when the server has confirmed that it has them; return the status after it.

        What is not here is no error.

        :raise NotEvictable: it is pinned, is on this device only, or the server does not have these bytes.
        :raise NoServer: the store has no server.
        :raise TransferError: the server could not be asked.
        """
        known = await self._local.evictable(key)
        if not known.status.is_local:
            return known.status
        self._must_be_idle(key)
        try:
            await self._confirm(known)
        except BlobNotFound:
            known = await self._local.evictable(key)
            if known.status.is_local:
                raise
            # That its file was lost is noted by now: there is nothing to drop.
            return known.status
        self._must_be_idle(key)
        return await completed(self._local.evict(key))

    async def set_budget(self, limit: int | None) -> None:
        """
        Let only so many bytes of attachments be here, from now on and at later openings.

        :raise InvalidLimit: it is no whole number from 0 on.
        """
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise InvalidLimit("storage budget")
        await self._local.set_budget(limit)
        self.budget = limit
        self.soon()

    @contextmanager
    def using(self, key: BlobKey) -> Iterator[None]:
        """Note that a blob is read; let it stay while it is fetched and opened."""
        self._local.used(key)
        self._spared[key] = self._spared.get(key, 0) + 1
        try:
            yield
        finally:
            self._spared[key] -= 1
            if not self._spared[key]:
                del self._spared[key]

    # --- what happens by itself -----------------------------------------------------------------------

    def soon(self) -> None:
        """See to it, soon, that the budget is kept."""
        waits = self._due is not None and self._due.active()
        if self.budget is not None and not waits and not self._stopped:
            self._due = self._clock.callLater(PAUSE, self._begin)

    def _begin(self) -> None:
        unawaited(self._operations.start(self.fit, finishes=False).addErrback(_tell))

    async def fit(self) -> None:
        """Evict what was used least recently, one after the other, until the budget is kept, or nothing may go."""
        await self._fitting.run(self._fit)

    async def _fit(self) -> None:
        await self.flush()
        refused: set[BlobKey] = set()
        while (budget := self.budget) is not None:
            excess, candidates = await self._local.excess(budget, SLICE + len(refused))
            candidates = [known for known in candidates if known.key not in refused]
            if excess <= 0 or not candidates:
                return
            await self._evict_some(excess, candidates, refused)

    async def _evict_some(self, excess: int, candidates: list[KnownBlob], refused: set[BlobKey]) -> None:
        for known in candidates:
            if excess <= 0:
                return
            try:
                await self.evict(known.key)
            except (NotEvictable, BlobNotFound, StorageFailed):
                # What the disk does not give back is not to hold up the others.
                refused.add(known.key)
            else:
                excess -= known.sealed.size

    def _must_be_idle(self, key: BlobKey) -> None:
        """:raise NotEvictable: it is being read."""
        if key in self._spared:
            raise NotEvictable(key.blob_id, key.namespace, "it is in use")

    async def _confirm(self, known: KnownBlob) -> None:
        """:raise NotEvictable: the server does not have these bytes."""
        key = known.key
        if self._remote is None:
            raise NoServer()
        try:
            info = await self._remote.stat_blob(key.blob_id, key.namespace)
        except BlobNotFound:
            await completed(self._blobs.learn(key, known.sealed, SyncEvent.MISSED))
            raise NotEvictable(key.blob_id, key.namespace, "the server does not have it") from None
        if info.length != known.sealed.size or info.etag != await self._digest(key):
            raise NotEvictable(key.blob_id, key.namespace, "the server has something else")

    async def _digest(self, key: BlobKey) -> str:
        """Return the tag that the bytes of this device have."""
        _, container = await self._blobs.open(key)
        stop = Event()
        try:
            return await self._worker.run(_digest, container, stop, stop=stop)
        finally:
            await completed(self._worker.run(container.close))


def _digest(container: Container, stop: Event) -> str:
    digest, place = sha256(), 0
    while piece := container.read(place, PIECE):
        digest.update(piece)
        place += len(piece)
        if stop.is_set():
            raise CancelledError()
    return digest.hexdigest()


def _tell(failure: Failure) -> None:
    """What could not go now goes the next time that bytes come, or in the next round."""
    if failure.check(StoreClosed, TransferError, NoServer) is None:
        _log.failure("The storage budget could not be kept", failure)
