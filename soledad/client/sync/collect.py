"""
The collector: what no document refers to goes when its grace period is over.

The rules are in `soledad.model.retention`, the rows in `soledad.client.local.retention`.  Deletions on the server are
queued here, and carried out with the other transfers.  Algorithm: docs/spec/store.rst, "Collecting".
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from soledad.client.held import Held
from soledad.client.interfaces import ILocalBlobs, IReferences, IRetention
from soledad.client.operations import Operations
from soledad.deferreds import Serial, completed, unawaited
from soledad.errors import StoreClosed
from soledad.model.ids import BlobId
from soledad.model.retention import Condemned, plan

#: Seconds from one run to the next while a store is open.
INTERVAL = 3600.0
#: Blobs that are looked at in one go.
SLICE = 200

_log = Logger()


@define(eq=False)
class Collector:
    """Condemns, waits, looks again, and collects: all of it may end in the middle, at any time."""

    _blobs: ILocalBlobs
    _local: IRetention
    _documents: IReferences
    _held: Held
    #: Whoever takes versions of documents from elsewhere has a turn here, too.
    _applying: Serial
    _clock: IReactorTime
    #: Whether there is a server to delete blobs on.
    _online: bool
    _runs: Serial = field(factory=Serial, init=False)

    async def run(self) -> int:
        """Collect what is to be collected now, one run at a time; return how many deletions wait for the server."""
        return await self._runs.run(self._run)

    async def _run(self) -> int:
        await self._condemn()
        await self._local.pass_time(self._clock.seconds())
        queued = await self._collect()
        await self._forget()
        while await self._local.give_back():
            pass
        return queued

    async def _condemn(self) -> None:
        """Condemn what is kept though nothing refers to it: it was not noted when the last reference went."""
        last = BlobId("")
        while kept := await self._local.kept(last, SLICE):
            last = kept[-1]
            await self._applying.run(partial(self._condemn_some, kept))

    async def _condemn_some(self, kept: Sequence[BlobId]) -> None:
        found = await self._documents.referring(kept)
        unreferred = set(kept) - {pointer.blob_id for pointer in found.pointers}
        if unreferred:
            await completed(self._blobs.refer((), unreferred))

    async def _collect(self) -> int:
        last = queued = 0
        while due := await self._local.due(last, SLICE):
            last = due[-1].id
            queued += await self._applying.run(partial(self._collect_some, due))
        return queued

    async def _collect_some(self, due: Sequence[Condemned]) -> int:
        found = await self._documents.referring([one.blob_id for one in due])
        # No await from here to the deletion: what a document gets hold of later, it got from one that is held now.
        planned = plan(due, found, self._held.blob_ids(), self._online)
        await completed(self._local.carry_out(planned))
        await completed(self._documents.forget_dropped(planned.collected))
        return len(planned.deleted)

    async def _forget(self) -> None:
        """Answer no more for blobs that are gone: an end in the middle may have left that."""
        last = BlobId("")
        while dropped := await self._documents.all_dropped(last, SLICE):
            last = dropped[-1]
            gone = await self._local.gone(dropped)
            if gone:
                await self._documents.forget_dropped(gone)


@define(eq=False)
class Rounds:
    """Does something when a store has been opened, and then again and again, until it is closed."""

    _clock: IReactorTime
    _operations: Operations
    _work: Callable[[], Coroutine[Deferred[Any], Any, None]]
    _loop: LoopingCall = field(init=False)
    _first: IDelayedCall | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Let the clock be the one that was handed in."""
        self._loop = LoopingCall(self._round)
        self._loop.clock = self._clock

    def start(self) -> None:
        """Begin soon: nobody waits for it."""
        self._first = self._clock.callLater(0, self._begin)

    def stop(self) -> None:
        """Begin no more rounds."""
        if self._first is not None and self._first.active():
            self._first.cancel()
        if self._loop.running:
            self._loop.stop()

    def _begin(self) -> None:
        unawaited(self._loop.start(INTERVAL))

    def _round(self) -> Deferred[None]:
        return self._operations.start(self._work, finishes=False).addErrback(_tell)


def _tell(failure: Failure) -> None:
    """The next round tries again."""
    if failure.check(StoreClosed) is None:
        _log.failure("What is kept on this device could not be looked after", failure)
