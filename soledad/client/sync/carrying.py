"""One transfer, or a batch of small ones, carried out: what the queue says, and what it is told afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from soledad.client.interfaces import Arrival, IBlobQueue, ILocalBlobs, Outcome
from soledad.client.sync.deleting import Deleting
from soledad.client.sync.fetching import Fetching
from soledad.client.sync.retry import REJECTIONS, Remedy, pause_after, reason_of, remedy
from soledad.client.sync.sending import Sending
from soledad.deferreds import completed
from soledad.errors import BlobNotFound, SoledadError, UnexpectedAnswer
from soledad.model.blob import SyncEvent, SyncStatus
from soledad.model.transfer import Direction, Queued
from soledad.streams import Progress

#: Batches that are in memory at a time: one is stored there while another is on its way.
BATCHES = 3
#: What a batch has for each of its blobs.
Result = SyncStatus | SoledadError | None


@define(eq=False)
class Carrying:
    """Carries transfers out, and keeps account of them in the queue."""

    _clock: IReactorTime
    _local: ILocalBlobs
    _queue: IBlobQueue
    sending: Sending
    fetching: Fetching
    _deleting: Deleting
    #: From 0 to 1.
    _chance: Callable[[], float] = field(repr=False)
    _batches: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(BATCHES), init=False)

    async def carry(self, row: Queued, direction: Direction, progress: Progress) -> SyncStatus | None:
        """
        Carry out one transfer; return the status after it, `None` if the blob is not the same any more.

        What failed is noted before it is raised.
        """
        try:
            if direction is Direction.UPLOAD:
                return await self._send(row, progress)
            if direction is Direction.DOWNLOAD:
                return await self._keep(await self.fetching.fetch(row, progress))
            await self._deleting.delete(row)
            return None
        except SoledadError as error:
            await completed(self._queue_failure(row, direction, error))
            raise

    async def carry_together(self, rows: Sequence[Queued], direction: Direction) -> list[Result]:
        """Carry out small transfers of one direction; return what became of each.  Raises what concerns all."""
        return await self._batches.run(self._carry_together, rows, direction)

    async def _carry_together(self, rows: Sequence[Queued], direction: Direction) -> list[Result]:
        try:
            if direction is Direction.UPLOAD:
                results = await self.sending.send_together(rows)
                return await self._note_sent(rows, results)
            arrivals = await self.fetching.fetch_together(rows)
        except UnexpectedAnswer:
            # One of them may be to blame for it: the others are not to suffer.
            return [await self._by_itself(row, direction) for row in rows]
        except SoledadError as error:
            until = self._clock.seconds() + pause_after(error, direction, rows[0].attempts, self._chance())
            keys = [row.key for row in rows]
            await completed(self._queue.postpone(keys, until, reason_of(error), failed=True, rejected=False))
            raise
        return await self._note_arrived(rows, arrivals)

    # --- one ------------------------------------------------------------------------------------------

    async def _send(self, row: Queued, progress: Progress) -> SyncStatus | None:
        if row.replaces is not None:
            await self._deleting.delete(row)
        outcome = await self.sending.send(row, progress)
        settled = await completed(self._queue.settle([outcome]))
        return settled[0]

    async def _keep(self, arrival: Arrival) -> SyncStatus:
        (status,) = await self._queue.arrive([arrival])
        if status is None:
            raise BlobNotFound(arrival.key.blob_id, arrival.key.namespace)
        return status

    # --- many -----------------------------------------------------------------------------------------

    async def _note_sent(self, rows: Sequence[Queued], results: Sequence[Outcome | SoledadError]) -> list[Result]:
        good = [result for result in results if isinstance(result, Outcome)]
        settled = await completed(self._queue.settle(good))
        statuses = iter(settled)
        noted: list[Result] = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, SoledadError):
                await completed(self._queue_failure(row, Direction.UPLOAD, result))
            noted.append(next(statuses) if isinstance(result, Outcome) else result)
        return noted

    async def _note_arrived(self, rows: Sequence[Queued], results: Sequence[Arrival | SoledadError]) -> list[Result]:
        good = [result for result in results if isinstance(result, Arrival)]
        settled = await self._queue.arrive(good)
        statuses = iter(settled)
        return [
            next(statuses) if isinstance(result, Arrival) else await self._again(row, result)
            for row, result in zip(rows, results, strict=True)
        ]

    async def _again(self, row: Queued, error: SoledadError) -> Result:
        """Fetch one by itself whose size may have been a guess; note another failure."""
        if not isinstance(error, UnexpectedAnswer) or row.sealed.header is not None:
            await completed(self._queue_failure(row, Direction.DOWNLOAD, error))
            return error
        return await self._by_itself(row, Direction.DOWNLOAD)

    async def _by_itself(self, row: Queued, direction: Direction) -> Result:
        try:
            return await self.carry(row, direction, Progress(self.fetching.worker, None))
        except SoledadError as error:
            return error

    # --- failures -------------------------------------------------------------------------------------

    def _queue_failure(self, row: Queued, direction: Direction, error: SoledadError) -> Deferred[None]:
        return Deferred.fromCoroutine(self._note_failure(row, direction, error))

    async def _note_failure(self, row: Queued, direction: Direction, error: SoledadError) -> None:
        """Let the queue know what a failure means."""
        remedied = remedy(error, direction)
        if remedied is Remedy.AWAIT:
            await self._miss(row)
        elif remedied is Remedy.GIVE_UP:
            await self._settle(row, SyncEvent.REFUSED, error)
        elif remedied is Remedy.VERIFY and row.rejections + 1 >= REJECTIONS:
            await self._settle(row, SyncEvent.REJECTED, error)
        elif remedied is not Remedy.STOP:
            until = self._clock.seconds() + pause_after(error, direction, row.attempts, self._chance())
            is_rejected = remedied is Remedy.VERIFY
            await self._queue.postpone([row.key], until, reason_of(error), failed=True, rejected=is_rejected)

    async def _miss(self, row: Queued) -> None:
        if row.sealed.is_known and await self._queue.look_up(row.key) is None:
            await self._local.learn(row.key, row.sealed, SyncEvent.MISSED)
        else:
            await self._queue.settle([Outcome(row.key, row.sealed.commitment, SyncEvent.MISSED)])

    async def _settle(self, row: Queued, event: SyncEvent, error: SoledadError) -> None:
        await self._queue.settle([Outcome(row.key, row.sealed.commitment, event, None, reason_of(error))])
