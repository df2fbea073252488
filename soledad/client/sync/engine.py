"""
The engine: takes what the queue says is due, several at a time, the most urgent first, and tries again later.

How one blob crosses the wire is elsewhere; here is who goes when, and what is told to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from soledad.client.interfaces import IBlobQueue, Scope
from soledad.client.operations import Operations
from soledad.client.sync.blobs import ALL, BATCH_LENGTH, FETCHING, SENDING, enough, next_work
from soledad.client.sync.carrying import Carrying
from soledad.client.sync.retry import IN_A_ROW, LATE, SOON, Backoff, Remedy, reason_of, remedy
from soledad.client.transfers import Hands, Holder, Transfer, TransferState, silently
from soledad.deferreds import Serial, SerialByKey, Worker, completed, deferred, gather, unawaited
from soledad.errors import (
    BlobNotFound,
    RetriableTransferError,
    SoledadError,
    StorageFailed,
    StorageFull,
    StoreClosed,
)
from soledad.model.blob import BlobKey, SyncEvent, SyncStatus
from soledad.model.transfer import Direction, Queued
from soledad.streams import Progress

#: Blobs, or batches of small ones, that are on their way at a time: more are not faster.
TRANSFERS = 8
#: Seconds before anything is tried again, at least.
_LEAST_PAUSE = 1.0

_log = Logger()
T = TypeVar("T")


@define(eq=False)
class Run:
    """One call for everything in a scope that is due."""

    scope: Scope
    progress: Progress
    #: Nothing is left, or it is no use to go on.
    over: bool = field(default=False, init=False)
    error: SoledadError | None = field(default=None, init=False)
    #: Why nothing more is sent.
    unsent: SoledadError | None = field(default=None, init=False)
    _in_a_row: int = field(default=0, init=False)
    _good: int = field(default=0, init=False)
    _last: RetriableTransferError | None = field(default=None, init=False)
    #: What there was no room for on this device: perhaps not even to note that it has to wait.
    stuck: set[BlobKey] = field(factory=set, init=False)

    def went_well(self) -> None:
        """The server is there."""
        self._in_a_row = 0
        self._good += 1

    @property
    def was_in_vain(self) -> SoledadError | None:
        """Why nothing was sent, or else the last failure, if nothing at all went well."""
        return self.unsent or (None if self._good else self._last)

    def failed(self, error: SoledadError, direction: Direction, keys: Iterable[BlobKey]) -> None:
        """Note a failure: some concern all transfers, and others do so when they come one after the other."""
        if isinstance(error, StorageFull | StorageFailed):
            self.stuck.update(keys)
        if isinstance(error, RetriableTransferError):
            self._in_a_row += 1
            self._last = error
        remedied = remedy(error, direction)
        if remedied is Remedy.SEND_NO_MORE:
            self.unsent, self.scope = error, evolve(self.scope, directions=self.scope.directions & FETCHING)
        if remedied is Remedy.STOP or self._in_a_row >= IN_A_ROW:
            self.error, self.over = error, True


@define(eq=False)
class Engine(Holder):
    """The transfers of one store."""

    _operations: Operations
    _clock: IReactorTime
    _worker: Worker
    _queue: IBlobQueue
    carrying: Carrying
    #: From 0 to 1.
    _chance: Callable[[], float] = field(repr=False)
    #: Small blobs that go in one request, at most.
    batch: int = BATCH_LENGTH
    _slots: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(TRANSFERS), init=False)
    _turns: SerialByKey = field(factory=SerialByKey, init=False)
    _picking: Serial = field(factory=Serial, init=False)
    _transfers: dict[BlobKey, Transfer] = field(factory=dict, init=False)
    #: Rows that a batch took when the last one was put together.
    _ahead: int = field(default=0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    #: Runs, one after the other, that could not go on.
    _vain: int = field(default=0, init=False)
    #: Runs, one after the other, in which this device had no room.
    _stuck: int = field(default=0, init=False)

    # --- what is asked for ----------------------------------------------------------------------------

    async def run(self, scope: Scope, progress: Progress) -> None:
        """
        Ask for all transfers of a scope, and carry out what can be; what fails for now is tried again by itself.

        :raise TransferError: it is no use to go on: the server is out of reach, or does not know the user.
        :raise KeyringError: nothing can be sent before a person acts; what was to come was tried.
        """
        progress.total = await self._queue.ask(scope, self._clock.seconds())
        await self._work(Run(scope, progress))

    async def move(self, row: Queued, direction: Direction, progress: Progress) -> SyncStatus | None:
        """Carry out one transfer now, and once: what it fails with is raised."""
        return await self._one(row, Transfer(row.key, direction, progress, self))

    def start(self, key: BlobKey, direction: Direction, callback: Callable[[int, int], object] | None) -> Transfer:
        """Begin a transfer, whose outcome the handle tells."""
        transfer = Transfer(key, direction, Progress(self._worker, callback), self)
        self.resumed(transfer)
        return transfer

    @property
    def transfers(self) -> list[Transfer]:
        """Those that are under way, wait for their turn, or are held."""
        return list(self._transfers.values())

    async def release(self, key: BlobKey, wholly: bool = True) -> None:
        """
        End what is under way with a blob, before something else happens to it.

        :param wholly: also what goes together with others, which is waited for; it may take as long as all of them.
        """
        while (transfer := self._transfers.get(key)) is not None and (wholly or not transfer.together):
            ended = transfer.done.addCallbacks(lambda status: None, lambda failure: None)
            transfer.cancel()
            await ended
        # Nothing is under way, but some of it may be there since it last was.
        self._abandon(await self._queue.look_up(key))

    # --- over time ------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Go on with what was asked for before: when the store is opened."""
        silently(self._operations.start(self._schedule, finishes=False))

    def stop(self) -> None:
        """Begin nothing by itself any more; what is under way is ended by who keeps track of it."""
        self._stopped = True
        self._cancel_timer()
        for transfer in self.transfers:
            if transfer.state is TransferState.PAUSED:
                transfer.end(StoreClosed())

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    async def _schedule(self, least: float = _LEAST_PAUSE) -> None:
        """See to it that the next transfer is tried when its time has come; what is due by now, after ``least``."""
        now = self._clock.seconds()
        time = await self._queue.next_time(now)
        self._cancel_timer()
        if time is not None and not self._stopped:
            pause = max(_LEAST_PAUSE, time - now) if time > now else least
            self._timer = self._clock.callLater(pause, self._wake)

    def _wake(self) -> None:
        self._timer = None
        run = Run(ALL, Progress(self._worker, None))
        unawaited(self._operations.start(lambda: self._work(run), finishes=False).addErrback(self._told))

    def _told(self, failure: Failure) -> None:
        if not failure.check(CancelledError, StoreClosed):
            _log.info("Transfers will go on later: {reason}", reason=reason_of(failure.value))

    # --- many -----------------------------------------------------------------------------------------

    async def _work(self, run: Run) -> None:
        await self._lanes(run)
        while run.error is None and (others := self._others(run)):
            for transfer in others:
                await transfer.still()
            # Of what was on its way something else may be asked for by now, such as to delete it.
            run.over = False
            await self._lanes(run)
        await self._conclude(run)

    async def _lanes(self, run: Run) -> None:
        await gather([Deferred.fromCoroutine(self._lane(run)) for _ in range(TRANSFERS)])

    def _others(self, run: Run) -> list[Transfer]:
        """Return what is meant, too, and somebody else began."""
        running = [transfer for transfer in self.transfers if transfer.state is TransferState.RUNNING]
        return [transfer for transfer in running if run.scope.includes(transfer.key, transfer.direction)]

    async def _conclude(self, run: Run) -> None:
        if run.unsent is not None:
            await self._put_off(Scope(SENDING, run.scope.namespace), LATE, run.unsent)
        elif run.error is None:
            self._vain = 0
        if run.error is None:
            self._stuck = self._stuck + 1 if run.stuck else 0
            await self._schedule(LATE.pause(self._stuck - 1, self._chance()) if run.stuck else _LEAST_PAUSE)
            if run.was_in_vain is not None:
                raise run.was_in_vain
            return
        if isinstance(run.error, RetriableTransferError):
            await self._put_off(run.scope, SOON, run.error)
            await self._schedule()
        raise run.error

    async def _put_off(self, scope: Scope, backoff: Backoff, error: SoledadError) -> None:
        """Let all transfers of a scope wait, the longer the more often this was in vain."""
        until = self._clock.seconds() + backoff.pause(self._vain, self._chance())
        self._vain += 1
        await self._queue.postpone_all(scope, until, reason_of(error))

    async def _lane(self, run: Run) -> None:
        """Take one piece of work after the other."""
        while not run.over:
            await self._slots.acquire()
            try:
                work = await self._picking.run(lambda: self._pick(run))
                if work:
                    await self._carry(work, run)
            finally:
                self._slots.release()

    async def _pick(self, run: Run) -> list[tuple[Queued, Transfer]]:
        if run.over:
            return []
        # What ends while this reads, is in what is read as it was before.
        before = run.stuck.union(self._transfers)
        looked_at = max(TRANSFERS, self._ahead)
        rows, is_all = await self._due(run, looked_at + len(before))
        # Those that come next are most often like these.
        self._ahead = enough([row for row in rows if row.key not in before]) if self.batch > 1 else 0
        if self._ahead > looked_at and not is_all:
            rows, is_all = await self._due(run, self._ahead + len(before))
        work = next_work(rows, before | self._transfers.keys(), length=self.batch)
        if not work and is_all:
            run.over = True
        return [(row, self._begin(row, run)) for row in work]

    async def _due(self, run: Run, limit: int) -> tuple[list[Queued], bool]:
        """Return what is to go first, and whether that is all."""
        if not run.scope.directions:
            return [], True
        rows = await self._queue.due(run.scope, self._clock.seconds(), limit)
        return rows, len(rows) < limit

    def _begin(self, row: Queued, run: Run) -> Transfer:
        assert row.direction is not None
        progress = Hands(self._worker, None, run.progress)
        progress.total = row.sealed.size
        transfer = self._transfers[row.key] = Transfer(row.key, row.direction, progress, self)
        return transfer

    async def _carry(self, work: list[tuple[Queued, Transfer]], run: Run) -> None:
        try:
            if len(work) == 1:
                await self._carry_one(*work[0], run)
            else:
                await self._carry_together(work, run)
        finally:
            for row, transfer in work:
                self._finished(row.key, transfer, CancelledError())

    async def _carry_one(self, row: Queued, transfer: Transfer, run: Run) -> None:
        try:
            status = await self._turns.run(row.key, lambda: self._watched(row, transfer))
            run.went_well()
            self._finished(row.key, transfer, status)
        except SoledadError as error:
            run.failed(error, transfer.direction, [row.key])
            self._finished(row.key, transfer, error)
        except CancelledError:
            if transfer.stopped is None:
                raise

    async def _carry_together(self, work: list[tuple[Queued, Transfer]], run: Run) -> None:
        rows, direction = [row for row, _ in work], work[0][1].direction
        for _, transfer in work:
            transfer.together = True
        try:
            results = await self.carrying.carry_together(rows, direction)
        except SoledadError as error:
            run.failed(error, direction, [row.key for row in rows])
            for row, transfer in work:
                self._finished(row.key, transfer, error)
            return
        run.went_well()
        for (row, transfer), result in zip(work, results, strict=True):
            if isinstance(result, SoledadError):
                run.failed(result, direction, [row.key])
            else:
                transfer.report.at(row.sealed.size)
            # Whatever the application wanted meanwhile: it was too late.
            transfer.stopped = None
            self._finished(row.key, transfer, result)

    # --- one ------------------------------------------------------------------------------------------

    async def _one(self, row: Queued, transfer: Transfer) -> SyncStatus | None:
        return await self._turns.run(row.key, lambda: self._in_turn(row, transfer))

    async def _in_turn(self, row: Queued, transfer: Transfer) -> SyncStatus | None:
        while (other := self._transfers.get(row.key)) is not None and other is not transfer:
            if other.state is TransferState.PAUSED:
                # Whoever asks for it now wants it more than who held it.
                other.stopped = None
                self._finished(row.key, other, CancelledError())
                break
            await other.still()
        self._transfers[row.key] = transfer
        try:
            status = await self._in_slot(row, transfer)
        except (SoledadError, CancelledError) as error:
            self._finished(row.key, transfer, error)
            raise
        self._finished(row.key, transfer, status)
        return status

    async def _in_slot(self, row: Queued, transfer: Transfer) -> SyncStatus | None:
        # Others may take hours: whoever ends it or holds it meanwhile does not wait for them.
        await self._stoppable(row.key, transfer, self._slots.acquire())
        try:
            return await self._latest(row, transfer)
        finally:
            self._slots.release()

    async def _latest(self, row: Queued, transfer: Transfer) -> SyncStatus | None:
        """Carry it out as things are by now: another transfer may have done it."""
        known = await self._queue.look_up(row.key)
        if known is not None and _is_done(known, transfer.direction):
            return known.status
        if known is None or (row.sealed.is_known and row.sealed.commitment != known.sealed.commitment):
            # What the caller knows of it comes from a document, and is surer.
            known = row
        return await self._watched(known, transfer)

    async def _watched(self, row: Queued, transfer: Transfer) -> SyncStatus | None:
        carrying = Deferred.fromCoroutine(self._carried(row, transfer))
        return await self._stoppable(row.key, transfer, carrying)

    async def _carried(self, row: Queued, transfer: Transfer) -> SyncStatus | None:
        if transfer.stopped is not None:
            # While it waited for its turn.
            raise CancelledError()
        return await self.carrying.carry(row, transfer.direction, transfer.report)

    async def _stoppable(self, key: BlobKey, transfer: Transfer, work: Deferred[T]) -> T:
        """Wait for a part of a transfer, which the handle can end."""
        try:
            transfer.runs_as(work)
            return await work
        except CancelledError:
            if transfer.stopped is TransferState.ENDED:
                await completed(self._withdrawn(key, transfer))
            raise
        finally:
            transfer.runs_as(None)

    def _finished(self, key: BlobKey, transfer: Transfer, outcome: SyncStatus | BaseException | None) -> None:
        """Let go of a transfer that has ended, unless it is only held."""
        if transfer.stopped is TransferState.PAUSED and transfer.state is TransferState.PAUSED:
            transfer.rest()
            return
        if self._transfers.get(key) is transfer:
            del self._transfers[key]
        transfer.end(outcome)

    # --- what the application does with a handle ------------------------------------------------------

    def paused(self, transfer: Transfer) -> None:
        """See `Holder`."""
        self._transfers.setdefault(transfer.key, transfer)
        # Until it is resumed, or asked for again.
        silently(self._operations.start(lambda: self._held(transfer), finishes=True))

    async def _held(self, transfer: Transfer) -> None:
        await self._queue.hold(transfer.key)

    def resumed(self, transfer: Transfer) -> None:
        """See `Holder`."""

        async def go_on() -> None:
            row = await self._queue.look_up(transfer.key)
            if row is None or row.status is SyncStatus.PENDING_DELETE:
                raise BlobNotFound(transfer.blob_id, transfer.namespace)
            await self._one(row, transfer)

        self._transfers.setdefault(transfer.key, transfer)
        turn = transfer.turn

        def failed(failure: Failure) -> None:
            if transfer.turn == turn:
                self._finished(transfer.key, transfer, failure.value)

        unawaited(self._operations.start(go_on, finishes=False).addErrback(failed))

    def cancelled(self, transfer: Transfer) -> None:
        """See `Holder`."""

        async def end() -> None:
            await completed(self._withdrawn(transfer.key, transfer))
            transfer.state = TransferState.RUNNING
            self._finished(transfer.key, transfer, CancelledError())

        silently(self._operations.start(end, finishes=True))

    @deferred
    async def _withdrawn(self, key: BlobKey, transfer: Transfer) -> None:
        event = SyncEvent.UNWANTED if transfer.direction is Direction.DOWNLOAD else None
        row = await self._queue.look_up(key)
        await self._queue.withdraw(key, event)
        self._abandon(row)

    def _abandon(self, row: Queued | None) -> None:
        """Give back the room that an upload has on the server, if that is in reach now: else it expires there."""
        if row is not None and row.upload is not None:
            upload = row.upload
            silently(self._operations.start(lambda: self.carrying.sending.abandon(upload), finishes=False))


def _is_done(row: Queued, direction: Direction) -> bool:
    """Tell whether there is nothing to do any more."""
    if direction is Direction.UPLOAD:
        return row.status in (SyncStatus.SYNCED, SyncStatus.REMOTE, SyncStatus.LOCAL_ONLY)
    return row.status.is_local if direction is Direction.DOWNLOAD else False
