"""A transfer as an application sees it: how far it is, how it ends, and a way to hold or end it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from soledad.deferreds import Worker, unawaited
from soledad.model.blob import BlobKey, SyncStatus
from soledad.model.ids import BlobId, Namespace
from soledad.model.transfer import Direction
from soledad.streams import Progress


class TransferState(Enum):
    """Where a transfer stands."""

    #: It waits for its turn, or is under way.
    RUNNING = "RUNNING"
    #: It was paused; what came so far is kept.
    PAUSED = "PAUSED"
    #: It went well, failed, or was cancelled: see `Transfer.done`.
    ENDED = "ENDED"


class Hands(Progress):
    """The progress of one transfer, which is also a part of that of many."""

    def __init__(self, worker: Worker, callback: Callable[[int, int], object] | None, whole: Progress | None) -> None:
        super().__init__(worker, callback)
        self._whole = whole

    def at(self, done: int) -> None:
        """See `Progress`."""
        if self._whole is not None:
            self._whole.add(done - self.done)
        super().at(done)


class Holder:
    """Who carries transfers out."""

    def paused(self, transfer: Transfer) -> None:
        """The application wants it to be held."""

    def resumed(self, transfer: Transfer) -> None:
        """The application wants it to go on."""

    def cancelled(self, transfer: Transfer) -> None:
        """The application wants it to end, while it is held."""


@define(eq=False)
class Transfer:
    """
    One blob on its way to or from the server.

    It goes on by itself; nobody needs to keep this object.
    """

    key: BlobKey = field(repr=False)
    #: What it does.
    direction: Direction
    #: How far it is.
    report: Progress = field(repr=False)
    _holder: Holder = field(repr=False)
    state: TransferState = field(default=TransferState.RUNNING, init=False)
    _work: Deferred[Any] | None = field(default=None, init=False, repr=False)
    #: What the application wanted when it stopped the work.
    stopped: TransferState | None = field(default=None, init=False, repr=False)
    #: It goes with others, and cannot be stopped without them.
    together: bool = field(default=False, init=False, repr=False)
    #: How often it was resumed: what ends late is not told of the turn after it.
    turn: int = field(default=0, init=False, repr=False)
    _resumes: bool = field(default=False, init=False, repr=False)
    _outcome: Any = field(default=None, init=False, repr=False)
    _waiting: list[Deferred[Any]] = field(factory=list, init=False, repr=False)
    _watching: list[Deferred[None]] = field(factory=list, init=False, repr=False)

    @property
    def blob_id(self) -> BlobId:
        """The blob's id."""
        return self.key.blob_id

    @property
    def namespace(self) -> Namespace:
        """The blob's namespace."""
        return self.key.namespace

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of the container that have gone or come, and bytes it has (0: not known yet)."""
        return self.report.done, self.report.total

    @property
    def done(self) -> Deferred[SyncStatus]:
        """A Deferred that fires with the blob's status when it went well; a new one each time."""
        waiter: Deferred[SyncStatus] = Deferred(self._waiting_no_more)
        if self.state is TransferState.ENDED:
            waiter.callback(self._outcome)
        else:
            self._waiting.append(waiter)
        return waiter

    def pause(self) -> None:
        """Hold it: its connection is given up, what has gone or come is kept, until `resume`, or the store closes."""
        self._resumes = False
        if self.state is TransferState.RUNNING:
            self.state = self.stopped = TransferState.PAUSED
            self._holder.paused(self)
            self._stop()
            self._tell_still()

    def resume(self) -> None:
        """Go on; if what was stopped has not ended yet, as soon as it has."""
        if self.state is TransferState.PAUSED:
            self._resumes = True
            if self._work is None:
                self.rest()

    def cancel(self) -> None:
        """
        End it.

        What came of a download is dropped, and it is not wanted any more; a blob that is here stays here, and goes
        to the server when that is asked for again.
        """
        self._resumes = False
        if self.state is TransferState.PAUSED:
            self.stopped = TransferState.ENDED
            self._holder.cancelled(self)
        elif self.state is TransferState.RUNNING and self.stopped is None:
            self.stopped = TransferState.ENDED
            self._stop()

    # --- for who carries it out -----------------------------------------------------------------------

    def runs_as(self, work: Deferred[Any] | None) -> None:
        """Note what to cancel."""
        self._work = work

    def rest(self) -> None:
        """Wait to be resumed, now that what was stopped has ended; perhaps it was already."""
        if self._resumes:
            self._resumes = False
            self.turn += 1
            self.state, self.stopped = TransferState.RUNNING, None
            self._holder.resumed(self)

    def end(self, outcome: SyncStatus | BaseException | None) -> None:
        """Tell everybody how it ended."""
        if self.state is TransferState.ENDED:
            return
        self.state, self._work = TransferState.ENDED, None
        self._outcome = Failure(outcome) if isinstance(outcome, BaseException) else outcome
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(self._outcome)
        self._tell_still()

    def still(self) -> Deferred[None]:
        """Return a Deferred that fires when it has ended, however, or is held."""
        watcher: Deferred[None] = Deferred(self._watching_no_more)
        self._watching.append(watcher)
        if self.state is not TransferState.RUNNING:
            self._tell_still()
        return watcher

    def _tell_still(self) -> None:
        watching, self._watching = self._watching, []
        for watcher in watching:
            watcher.callback(None)

    def _watching_no_more(self, watcher: Deferred[Any]) -> None:
        if watcher in self._watching:
            self._watching.remove(watcher)

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _waiting_no_more(self, waiter: Deferred[Any]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)


def silently(work: Deferred[Any]) -> None:
    """Let work go on whose outcome is told elsewhere."""
    unawaited(work.addErrback(lambda failure: None))
