"""
Streams of bytes between the reactor and blocking code, with back-pressure, in bounded memory.

`WorkerConsumer` takes what a producer writes and lets a blocking function handle it; `WorkerProducer` reads from a
blocking function and writes to a consumer.  All streams of one client or server share a `Budget` of buffers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from soledad.deferreds import Worker, outlasting, unawaited
from soledad.errors import ConnectionFailed, WrongLength

#: Bytes that are read at a time, and the least when buffers are scarce.  Each time threads have to be woken.
PIECE, LEAST = 2 * 1024 * 1024, 16 * 1024
#: The part of what is left of a budget that a stream may read next.
SHARE = 3
#: A consumer asks its producer to pause above HIGH bytes that wait to be handled, or less when buffers are scarce.
HIGH = PIECE
#: Batches that a consumer handles before others have the thread.
TURN = 16
#: Bytes that all streams together may hold before each of them gets less.
BUDGET = 8 * 1024 * 1024
#: Seconds between two reports of progress.
REPORT_INTERVAL = 0.1

_log = Logger()
T = TypeVar("T")


@define(eq=False)
class Budget:
    """
    How many bytes the buffers of all streams hold together.

    It never makes a stream wait that has nothing buffered, so that streams whose peers are slow cannot starve the
    others: the less is left, the smaller pieces get, and above the limit consumers take one piece at a time.
    """

    limit: int = BUDGET
    #: Twice as many bytes stay with the C library when they are free.
    kept: int = PIECE + LEAST
    used: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        """
        Let the C library keep the memory of buffers.

        glibc takes what is freed for a measure of what is needed again and again: above it, each piece would be fresh
        memory from the system, which takes longer than what is done with the piece, and above twice as much what is
        free goes back there (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD).
        """
        bytes(self.kept)

    @property
    def crowded(self) -> bool:
        """Tell whether the limit is reached."""
        return self.used >= self.limit

    def piece(self) -> int:
        """Return how many bytes a stream should read next: a power of two, so that pieces are whole chunks."""
        share = max(LEAST, (self.limit - self.used) // SHARE)
        return min(PIECE, 1 << share.bit_length() - 1)

    def waiting(self) -> int:
        """Return how many bytes may wait to be handled before their producer is to pause."""
        return 0 if self.crowded else min(HIGH, 2 * self.piece())

    def take(self, size: int) -> None:
        """Count ``size`` bytes that are now held."""
        self.used += size

    def give(self, size: int) -> None:
        """Count ``size`` bytes that are held no more."""
        self.used -= size


@implementer(IConsumer)
@define(eq=False)
class WorkerConsumer:
    """
    Hands the bytes that are written to it to a blocking function, one batch after the other.

    ``handle`` gets a list of pieces and runs in the worker, never twice at a time.  While it runs, what comes
    gathers for the next batch, so batches are as large as the speed of both sides makes them.  The worker takes the
    next batch by itself: it would wait for the reactor each time, which has enough to do.
    """

    _worker: Worker
    _handle: Callable[[list[bytes]], object]
    _budget: Budget
    _producer: Any = field(default=None, init=False)
    _streaming: bool = field(default=True, init=False)
    #: What waits to be handled; the worker takes from it, too.
    _pieces: deque[bytes] = field(factory=deque, init=False, repr=False)
    #: Bytes that wait, or are being handled.
    _pending: int = field(default=0, init=False)
    _busy: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _asking: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _idle: Deferred[None] | None = field(default=None, init=False)
    _failure: Failure | None = field(default=None, init=False)
    #: Called with the failure when the handler fails, so that whoever writes can be stopped.
    on_failure: Callable[[Failure], object] = field(default=lambda failure: None, init=False)
    #: All bytes that were written so far.
    received: int = field(default=0, init=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        self._producer, self._streaming, self._paused = producer, streaming, False
        self._ask()

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._producer, self._paused = None, False

    def write(self, data: bytes) -> None:
        """Take ``data``; after a failure it is dropped."""
        if self._failure is not None or self._ended:
            return
        self._pieces.append(data)
        self._pending += len(data)
        self.received += len(data)
        self._budget.take(len(data))
        self._pump()
        if self._pending > self._budget.waiting():
            self._pause()

    def finish(self) -> Deferred[None]:
        """Fire when everything that was written has been handled; fail as the handler failed."""
        self._idle = Deferred()
        idle = self._idle
        self._pump()
        return idle

    def abort(self, keep: bool = False) -> Deferred[None]:
        """Drop what waits unless ``keep``, take no more, and fire when the handler does not run any more."""
        self._ended = True
        if not keep:
            self._drop()
        done = self.finish()
        return outlasting(done.addErrback(lambda failure: None), lambda: None)

    def _pump(self) -> None:
        if self._busy:
            return
        if self._failure is None and (batch := self._take()):
            self._busy = True
            unawaited(self._worker.run(self._work, batch).addErrback(self._failed).addBoth(self._rested))
        elif self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None) if self._failure is None else idle.errback(self._failure)

    def _take(self) -> list[bytes]:
        """Take all that waits: piece by piece, each of which one thread gets."""
        batch: list[bytes] = []
        with suppress(IndexError):
            while True:
                batch.append(self._pieces.popleft())
        return batch

    def _work(self, batch: list[bytes]) -> None:
        """Handle a batch, and what came meanwhile; in the worker."""
        for _ in range(TURN - 1):
            self._handle_one(batch)
            batch = self._take()
            if not batch:
                return
        self._handle_one(batch)

    def _handle_one(self, batch: list[bytes]) -> None:
        self._handle(batch)
        self._worker.report(self._handled, sum(map(len, batch)))

    def _handled(self, size: int) -> None:
        self._release(size)
        # At once, and not when little is left: what comes then takes a while, in which the worker would wait.
        if self._pending <= self._budget.waiting():
            self._resume()

    def _rested(self, ignored: object) -> None:
        self._busy = False
        self._pump()

    def _failed(self, failure: Failure) -> None:
        self._failure = failure
        self._pieces.clear()
        self._release(self._pending)
        self.on_failure(failure)

    def _drop(self) -> None:
        self._release(sum(map(len, self._take())))

    def _release(self, size: int) -> None:
        self._pending -= size
        self._budget.give(size)

    def _pause(self) -> None:
        if self._producer is not None and self._streaming and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def _resume(self) -> None:
        if not self._streaming:
            self._ask()
        elif self._paused and self._failure is None and not self._ended:
            self._paused = False
            self._producer.resumeProducing()

    def _ask(self) -> None:
        """Ask a pull producer for its next piece: once for each time that nothing waits to be handled."""
        # A loop, not recursion: with a worker that runs in place the piece has been handled when this returns.
        if self._asking:
            return
        self._asking = True
        try:
            while self._wants_more():
                received = self.received
                self._producer.resumeProducing()
                if self.received == received:
                    # It writes later; the next question comes when that has been handled.
                    break
        finally:
            self._asking = False

    def _wants_more(self) -> bool:
        pulls = self._producer is not None and not self._streaming
        return pulls and not self._pending and self._failure is None and not self._ended


async def pour(producer: IBodyProducer, consumer: WorkerConsumer, keep: bool = False) -> int:
    """
    Let ``producer`` write all it has to ``consumer``; return the number of bytes once all of them were handled.

    If either side fails, or this is cancelled, the other is stopped, and nothing runs any more when this ends.

    :param keep: what came until then is handled all the same.
    :raise WrongLength: the producer gave more or fewer bytes than its ``length``.
    """
    outcome: Deferred[None] = Deferred()
    gate = _Exact(consumer, producer.length, lambda error: failed(Failure(error)))

    def failed(failure: Failure) -> None:
        if not outcome.called:
            outcome.errback(failure)

    def ended(ignored: object) -> None:
        gate.closed = True
        consumer.unregisterProducer()
        if not outcome.called:
            outcome.callback(None)

    consumer.on_failure = failed
    consumer.registerProducer(producer, True)
    produced = maybeDeferred(producer.startProducing, gate)
    unawaited(produced.addCallbacks(ended, failed))
    try:
        await outcome
        await consumer.finish()
        gate.check()
    except BaseException:
        consumer.unregisterProducer()
        if not produced.called:
            _stop(producer)
        await consumer.abort(keep)
        raise
    finally:
        if isinstance(producer, WorkerProducer):
            await producer.stopped()
    return consumer.received


def _stop(producer: IBodyProducer) -> None:
    """Stop a producer, whatever it has to say about that: somebody else failed before."""
    try:
        producer.stopProducing()
    except Exception:
        _log.failure("A producer could not be stopped")


@implementer(IConsumer)
@define(eq=False)
class _Exact:
    """Passes on what a producer writes, but not more than it had announced."""

    _consumer: WorkerConsumer
    _length: Any
    _on_excess: Callable[[WrongLength], object]
    _written: int = field(default=0, init=False)
    #: The producer said that this was all: what it writes behind that came too late.
    closed: bool = field(default=False, init=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`: a body that wants to be driven otherwise than bodies are may say so."""
        self._consumer.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._consumer.unregisterProducer()

    def write(self, data: bytes) -> None:
        """Pass on ``data``; the first byte too many ends it all."""
        if self.closed:
            return
        self._written += len(data)
        if self._length is UNKNOWN_LENGTH or self._written <= self._length:
            self._consumer.write(data)
        else:
            self._on_excess(WrongLength(self._length, self._written))

    def check(self) -> None:
        """:raise WrongLength: not all came that was announced."""
        if self._length is not UNKNOWN_LENGTH and self._written != self._length:
            raise WrongLength(self._length, self._written)


@implementer(IBodyProducer, IPushProducer)
@define(eq=False)
class WorkerProducer:
    """
    Writes what a blocking function reads to a consumer, and reads one piece ahead of it.

    ``read(size)`` runs in the worker, never twice at a time, and returns about ``size`` bytes, none at the end.
    ``close`` runs there too, once, after the last read, however it ends.
    """

    _worker: Worker
    _read: Callable[[int], bytes]
    _budget: Budget
    #: Bytes there will be; a source that ends earlier or later fails with `WrongLength`.
    length: Any = UNKNOWN_LENGTH
    _close: Callable[[], object] = field(default=lambda: None, kw_only=True)
    _on_sent: Callable[[int], object] = field(default=lambda size: None, kw_only=True)
    _consumer: Any = field(default=None, init=False)
    _done: Deferred[None] = field(factory=Deferred, init=False)
    _closed: Deferred[None] = field(factory=Deferred, init=False)
    _ready: bytes | None = field(default=None, init=False, repr=False)
    #: Bytes that count in the budget; of them, those that a consumer has which asked to pause when it got them.
    _held: int = field(default=0, init=False)
    _passed: int = field(default=0, init=False)
    _sent: int = field(default=0, init=False)
    _busy: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _advancing: bool = field(default=False, init=False)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write all to ``consumer``; fires when the last piece was written."""
        self._consumer = consumer
        self._advance()
        return self._done

    def pauseProducing(self) -> None:
        """Write nothing until `resumeProducing`."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on; what the consumer had is gone."""
        self._paused = False
        self._give(self._passed)
        self._passed = 0
        self._advance()

    def stopProducing(self) -> None:
        """Write nothing any more; the Deferred of `startProducing` does not fire then, as `IBodyProducer` has it."""
        self._end(None)

    def stopped(self) -> Deferred[None]:
        """Stop, and fire when nothing is read any more and the source is closed, not before, even if cancelled."""
        self._end(None)
        return self.closed()

    def closed(self) -> Deferred[None]:
        """Fire when the source is closed: after all was written, after a failure, or after it was stopped."""
        waiter: Deferred[None] = Deferred()
        unawaited(self._closed.addCallback(lambda ignored: waiter.callback(None)))
        return outlasting(waiter, lambda: None)

    def _advance(self) -> None:
        # A loop, not recursion: a worker that runs in place has read the next piece when `_fetch` returns.
        if self._advancing or self._consumer is None:
            return
        self._advancing = True
        try:
            while self._step():
                pass
        finally:
            self._advancing = False

    def _step(self) -> bool:
        if self._ended or self._paused:
            return False
        if self._ready is None:
            if not self._busy:
                self._fetch()
            return self._ready is not None
        data, self._ready = self._ready, None
        if not data or self._exceeds(len(data)):
            self._end(self._complete(len(data)))
        else:
            self._sent += len(data)
            self._fetch()
            self._deliver(data)
        return True

    def _exceeds(self, size: int) -> bool:
        return self.length is not UNKNOWN_LENGTH and self._sent + size > self.length

    def _deliver(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            self._consumer.write(data)
            self._on_sent(len(data))
        except Exception:
            # Whatever it is: who started this hears of it.
            self._end(Failure())
        if self._paused:
            self._passed += len(data)
        else:
            self._give(len(data))

    def _fetch(self) -> None:
        size = self._budget.piece()
        self._busy = True
        self._take(size)
        unawaited(self._worker.run(self._read, size).addBoth(self._ended_read, size))

    def _ended_read(self, result: bytes | Failure, size: int) -> None:
        self._give(size)
        if isinstance(result, Failure):
            self._failed(result)
        else:
            self._take(len(result))
            self._fetched(result)

    def _take(self, size: int) -> None:
        self._held += size
        self._budget.take(size)

    def _give(self, size: int) -> None:
        # When it has ended, all was given back already.
        size = min(size, self._held)
        self._held -= size
        self._budget.give(size)

    def _fetched(self, data: bytes) -> None:
        self._busy = False
        if self._ended:
            self._release()
        else:
            self._ready = data
            self._advance()

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        if self._ended:
            self._release()
        else:
            self._end(failure)

    def _complete(self, excess: int) -> Failure | bool:
        given = self._sent + excess
        if self.length is not UNKNOWN_LENGTH and given != self.length:
            return Failure(WrongLength(self.length, given))
        return True

    def _end(self, outcome: Failure | bool | None) -> None:
        if self._ended:
            return
        self._ended = True
        if isinstance(outcome, Failure):
            self._done.errback(outcome)
        elif outcome:
            self._done.callback(None)
        if not self._busy:
            self._release()

    def _release(self) -> None:
        self._ready = None
        self._give(self._held)
        closing = self._worker.run(self._close).addErrback(_logged)
        unawaited(closing.addBoth(lambda ignored: self._closed.callback(None)))


async def send(producer: WorkerProducer, consumer: IConsumer) -> None:
    """
    Register ``producer`` with ``consumer`` and let it write all it has.

    A failure or a cancellation stops it; nothing is read any more, and the source is closed, when this ends.

    :raise ConnectionFailed: the consumer stopped the producer: it has gone away.
    """
    try:
        consumer.registerProducer(producer, True)
    except BaseException:
        # It has another producer, for instance.
        await producer.stopped()
        raise
    done = producer.startProducing(consumer)

    def cancelled() -> None:
        # First: once it is stopped, nothing of this may be left to do.
        if not done.called:
            done.errback(CancelledError())
        producer.stopProducing()

    await outlasting(producer.closed(), cancelled)
    if not done.called:
        # A producer that its consumer stops never says that it is done; nor is it registered any more.
        raise ConnectionFailed("the consumer has gone away")
    consumer.unregisterProducer()
    await done


@implementer(IPushProducer)
@define(eq=False)
class Gate:
    """A push producer for who writes to a consumer piece by piece: lets it wait while the consumer wants nothing."""

    _closed: Deferred[None] | None = field(default=None, init=False)
    _work: Deferred[Any] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def shut(self) -> bool:
        """Whether the consumer wants nothing now."""
        return self._closed is not None

    async def passed(self) -> None:
        """Wait until the consumer wants more. :raise ConnectionFailed: it has gone away."""
        if self._closed is not None:
            await self._closed
        self._check()

    async def during(self, work: Deferred[T]) -> T:
        """
        Wait for what the consumer is to get, then until it wants it.

        :raise ConnectionFailed: it has gone away; ``work`` was cancelled.
        """
        self._work = work
        try:
            result = await work
        except CancelledError:
            self._check()
            raise
        finally:
            self._work = None
        await self.passed()
        return result

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        if self._closed is None:
            self._closed = Deferred()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        closed, self._closed = self._closed, None
        if closed is not None and not closed.called:
            closed.callback(None)

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self._stopped = True
        if self._work is not None:
            self._work.cancel()
        self.resumeProducing()

    def _check(self) -> None:
        if self._stopped:
            raise ConnectionFailed("the consumer has gone away")


@implementer(IConsumer)
@define(eq=False)
class MemoryConsumer:
    """Keeps what is written to it: for what is known to be small."""

    _pieces: list[bytes] = field(factory=list, init=False, repr=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`; a pull producer is not driven."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """Keep ``data``."""
        self._pieces.append(data)

    def value(self) -> bytes:
        """Return all that was written."""
        return b"".join(self._pieces)


@implementer(IBodyProducer)
@define(eq=False)
class BytesProducer:
    """Writes bytes that are in memory already."""

    _data: bytes = field(repr=False)

    @property
    def length(self) -> int:
        """The number of bytes."""
        return len(self._data)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write all at once."""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Everything is written already."""

    def resumeProducing(self) -> None:
        """Everything is written already."""

    def stopProducing(self) -> None:
        """Everything is written already."""


@define(eq=False)
class Progress:
    """
    Tells ``callback(done_bytes, total_bytes)`` how far long work is: on the reactor, at most ten times a second.

    `add` and `at` may be called from any thread; `finished` tells the end once more, whatever was told before.
    """

    _worker: Worker
    _callback: Callable[[int, int], object] | None
    total: int = 0
    done: int = field(default=0, init=False)
    _told_at: float = field(default=float("-inf"), init=False)

    def add(self, size: int) -> None:
        """``size`` more bytes are done."""
        self.at(self.done + size)

    def at(self, done: int) -> None:
        """``done`` bytes are done in all."""
        self.done = done
        now = monotonic()
        if self._callback is not None and now - self._told_at >= REPORT_INTERVAL:
            self._told_at = now
            self._worker.report(self._tell, done, max(done, self.total))

    def finished(self) -> None:
        """All is done; called on the reactor's thread."""
        if self._callback is not None:
            self._told_at = float("inf")
            self._tell(self.done, self.done)

    def _tell(self, done: int, total: int) -> None:
        # What the application does with the news must not harm the work.
        try:
            assert self._callback is not None
            self._callback(done, total)
        except Exception:
            _log.failure("A progress callback failed")


def _logged(failure: Failure) -> None:
    _log.failure("A source could not be closed", failure=failure)
