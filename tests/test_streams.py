"""Streams: every byte in order, pauses passed on, and whatever the end, nothing held and nothing running."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, Cooperator
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import FileBodyProducer
from twisted.web.iweb import UNKNOWN_LENGTH

from soledad import streams
from soledad.deferreds import InPlace, outlasting, unawaited
from soledad.errors import ConnectionFailed, WrongLength
from soledad.streams import (
    HIGH,
    LEAST,
    PIECE,
    REPORT_INTERVAL,
    TURN,
    Budget,
    BytesProducer,
    MemoryConsumer,
    Progress,
    WorkerConsumer,
    WorkerProducer,
    pour,
    send,
)

T = TypeVar("T")


class Later:
    """A worker whose calls end when a test says so."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Deferred[Any], Callable[[], Any]]] = deque()

    def run(self, call: Callable[..., Any], *args: Any, stop: Any = None) -> Deferred[Any]:
        """See `Worker`."""
        work: Deferred[Any] = Deferred()
        self.waiting.append((work, lambda: call(*args)))
        return outlasting(work, lambda: None)

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """See `Worker`."""
        call(*args)

    def step(self) -> None:
        """Let the oldest call run to its end."""
        work, call = self.waiting.popleft()
        try:
            result = call()
        except Exception:
            work.errback(Failure())
        else:
            work.callback(result)

    def finish(self) -> None:
        """Let all calls run to their end."""
        while self.waiting:
            self.step()


class Producer:
    """A producer that notes what it was told."""

    length: Any = UNKNOWN_LENGTH

    def __init__(self, length: Any = UNKNOWN_LENGTH) -> None:
        self.told: list[str] = []
        self.length = length
        self.consumer: Any = None
        self.done: Deferred[None] = Deferred()

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Begin, and leave it to the test."""
        self.consumer = consumer
        return self.done

    def pauseProducing(self) -> None:
        """Note it."""
        self.told.append("pause")

    def resumeProducing(self) -> None:
        """Note it."""
        self.told.append("resume")

    def stopProducing(self) -> None:
        """Note it."""
        self.told.append("stop")


class Pull:
    """A pull producer of so many pieces."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.consumer: Any = None

    def resumeProducing(self) -> None:
        """Write a piece; after the last, take leave."""
        if self.left:
            self.left -= 1
            self.consumer.write(b"x" * 10)
        if not self.left:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        """Write no more."""
        self.left = 0


class StreamCase(SynchronousTestCase):
    """A budget that has to come out even, and a worker that takes its time."""

    def setUp(self) -> None:
        """Begin with nothing held."""
        self.budget = Budget()
        self.later = Later()
        self.handled: list[bytes] = []
        self.addCleanup(lambda: self.assertEqual(self.budget.used, 0))

    def consumer(self, worker: Any = None, handle: Callable[[list[bytes]], object] | None = None) -> WorkerConsumer:
        """Return a consumer that keeps what it handles."""
        return WorkerConsumer(worker or self.later, handle or self.handled.extend, self.budget)

    def producer(self, data: bytes, worker: Any = None, length: Any = UNKNOWN_LENGTH) -> WorkerProducer:
        """Return a producer of ``data``, which notes whether its source was closed."""
        self.source = BytesIO(data)
        return WorkerProducer(worker or self.later, self.source.read, self.budget, length, close=self.source.close)

    def fail_to_handle(self, pieces: list[bytes]) -> None:
        """Handle nothing."""
        raise ZeroDivisionError

    def settle(self, work: Deferred[T]) -> Deferred[T]:
        """Let everything run."""
        self.later.finish()
        return work


class WorkerConsumerTests(StreamCase):
    """From the reactor to blocking code."""

    def test_batches(self) -> None:
        """What comes while a batch is handled makes the next batch; nothing overlaps."""
        batches: list[list[bytes]] = []
        consumer = self.consumer(handle=batches.append)
        for piece in (b"a", b"b", b"c"):
            consumer.write(piece)
        self.assertEqual(len(self.later.waiting), 1)
        self.later.finish()
        self.assertEqual(batches, [[b"a"], [b"b", b"c"]])

    def test_finish(self) -> None:
        """The end is told when all has been handled."""
        consumer = self.consumer()
        consumer.write(b"a")
        done = consumer.finish()
        self.assertNoResult(done)
        self.later.finish()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(consumer.received, 1)

    def test_pauses(self) -> None:
        """Above `HIGH` its producer is paused, once; when little waits, it goes on."""
        producer, consumer = Producer(), self.consumer()
        consumer.registerProducer(producer, True)
        for _ in range(HIGH // PIECE + 2):
            consumer.write(bytes(PIECE))
        self.assertEqual(producer.told, ["pause"])
        self.later.finish()
        self.assertEqual(producer.told, ["pause", "resume"])

    def test_crowded(self) -> None:
        """When buffers are scarce it takes one piece at a time, and goes on although others hold theirs."""
        self.budget.take(self.budget.limit)
        producer, consumer = Producer(), self.consumer()
        consumer.registerProducer(producer, True)
        for _ in range(3):
            consumer.write(b"a")
            self.assertEqual(producer.told, ["pause"])
            self.later.step()
            self.assertEqual(producer.told, ["pause", "resume"])
            producer.told.clear()
        self.assertEqual(self.budget.piece(), LEAST)
        self.budget.give(self.budget.limit)
        self.assertEqual(self.budget.piece(), PIECE)

    def test_shares(self) -> None:
        """However many streams there are, each of which reads ahead of what it passed on, the budget is kept."""
        pieces = []
        for _ in range(64):
            pieces.append(self.budget.piece())
            self.budget.take(2 * pieces[-1])
        self.assertEqual((pieces[0], pieces[-1]), (PIECE, LEAST))
        self.assertEqual(pieces, sorted(pieces, reverse=True))
        self.assertLess(self.budget.used, self.budget.limit + 2 * 64 * LEAST)
        self.budget.give(self.budget.used)

    def test_failure(self) -> None:
        """A handler that fails is told at once; the rest is dropped, and the end is that failure."""
        consumer = self.consumer(handle=self.fail_to_handle)
        told: list[Failure] = []
        consumer.on_failure = told.append
        consumer.write(b"a")
        consumer.write(b"b")
        self.later.step()
        self.assertEqual(len(told), 1)
        consumer.write(b"c")
        self.assertEqual(list(self.later.waiting), [])
        self.failureResultOf(consumer.finish(), ZeroDivisionError)

    def test_failure_does_not_resume(self) -> None:
        """A producer that was paused is not asked for more after a failure."""
        producer, consumer = Producer(), self.consumer(handle=self.fail_to_handle)
        consumer.registerProducer(producer, True)
        consumer.write(bytes(HIGH + 1))
        self.later.finish()
        self.assertEqual(producer.told, ["pause"])

    def test_abort(self) -> None:
        """Aborting drops what waits, and waits for what runs, even if that is cancelled."""
        consumer = self.consumer()
        consumer.write(b"a")
        consumer.write(b"b")
        done = consumer.abort()
        done.cancel()
        consumer.write(b"c")
        self.assertNoResult(done)
        self.later.finish()
        self.successResultOf(done)
        self.assertEqual(self.handled, [b"a"])

    def test_pull_producer(self) -> None:
        """A pull producer is asked for one piece after the other, however many: without recursion."""
        for worker in (self.later, InPlace()):
            self.handled.clear()
            producer, consumer = Pull(5000), self.consumer(worker)
            producer.consumer = consumer
            consumer.registerProducer(producer, False)
            self.later.finish()
            self.assertEqual(len(b"".join(self.handled)), 50_000)

    def test_pull_producer_waits(self) -> None:
        """A pull producer is not asked again while its last piece is being handled."""
        producer, left = Pull(3), list[int]()
        consumer = self.consumer(handle=lambda pieces: left.append(producer.left))
        producer.consumer = consumer
        consumer.registerProducer(producer, False)
        self.later.finish()
        self.assertEqual(left, [2, 1, 0])

    def test_turn(self) -> None:
        """The worker goes on with what came meanwhile, by itself, but not for ever."""
        producer, turns = Pull(2 * TURN), list[int]()
        consumer = self.consumer(handle=lambda pieces: turns.append(len(turns)))
        producer.consumer = consumer
        consumer.registerProducer(producer, False)
        self.later.step()
        self.assertEqual(len(turns), TURN)
        self.later.step()
        self.assertEqual(len(turns), 2 * TURN)
        self.assertEqual(list(self.later.waiting), [])

    def test_resumes_early(self) -> None:
        """A producer goes on as soon as there is room, while the worker still has something to do."""
        producer, resumed = Producer(), list[int]()
        consumer = self.consumer(handle=lambda pieces: resumed.append(producer.told.count("resume")))
        consumer.registerProducer(producer, True)
        consumer.write(b"x")
        consumer.write(bytes(HIGH))
        self.assertEqual(producer.told, ["pause"])
        self.later.finish()
        self.assertEqual(resumed, [0, 1])


class PourTests(StreamCase):
    """A body into a consumer, whole or not at all."""

    def pour(self, producer: Any, consumer: WorkerConsumer) -> Deferred[int]:
        """Begin to pour."""
        return Deferred.fromCoroutine(pour(producer, consumer))

    def test_whole(self) -> None:
        """The number of bytes is told when all were handled."""
        done = self.pour(BytesProducer(b"hello"), self.consumer())
        self.assertNoResult(done)
        self.assertEqual(self.successResultOf(self.settle(done)), 5)

    def test_pauses(self) -> None:
        """A body that is faster than the handler is paused."""
        producer = Producer()
        done = self.pour(producer, self.consumer())
        producer.consumer.write(bytes(HIGH + 1))
        self.assertEqual(producer.told, ["pause"])
        self.later.finish()
        self.assertEqual(producer.told, ["pause", "resume"])
        producer.done.callback(None)
        self.successResultOf(self.settle(done))

    def test_late(self) -> None:
        """What a producer writes behind its end is dropped: the end may have been sealed already."""
        for announced in (UNKNOWN_LENGTH, 5):
            self.setUp()
            producer = Producer(announced)
            done = self.pour(producer, self.consumer())
            producer.consumer.write(b"hello")
            producer.done.callback(None)
            producer.consumer.write(b"late")
            self.assertEqual(self.successResultOf(self.settle(done)), 5)
            producer.consumer.write(b"later")
            self.later.finish()
            self.assertEqual(self.handled, [b"hello"])

    def test_unstoppable(self) -> None:
        """A producer that fails when it is stopped changes nothing of why it was."""

        def fail(pieces: list[bytes]) -> None:
            raise KeyError

        producer = Producer()
        self.patch(producer, "stopProducing", lambda: 1 // 0)
        done = self.pour(producer, self.consumer(handle=fail))
        producer.consumer.write(b"hello")
        self.later.finish()
        self.assertIs(self.failureResultOf(self.settle(done), KeyError).type, KeyError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_twisteds_own(self) -> None:
        """A body of Twisted's can be poured, though it may not be resumed once it has ended."""
        clock = Clock()
        cooperator = Cooperator(scheduler=lambda tick: clock.callLater(0, tick))
        producer = FileBodyProducer(BytesIO(bytes(3 * HIGH)), cooperator, HIGH + 1)
        done = self.pour(producer, self.consumer())
        while clock.getDelayedCalls() or self.later.waiting:
            clock.advance(0)
            if self.later.waiting:
                self.later.step()
        self.assertEqual(self.successResultOf(done), 3 * HIGH)

    def test_producer_fails(self) -> None:
        """The failure of the body is told when nothing is handled any more."""
        producer = Producer()
        done = self.pour(producer, self.consumer())
        producer.consumer.write(b"a")
        producer.done.errback(ZeroDivisionError())
        self.assertNoResult(done)
        self.failureResultOf(self.settle(done), ZeroDivisionError)
        self.assertNotIn("stop", producer.told)

    def test_handler_fails(self) -> None:
        """The failure of the handler stops the body, at once."""
        producer = Producer()
        done = self.pour(producer, self.consumer(handle=self.fail_to_handle))
        producer.consumer.write(b"a")
        self.later.step()
        self.assertEqual(producer.told, ["stop"])
        self.failureResultOf(self.settle(done), ZeroDivisionError)

    def test_last_handler_fails(self) -> None:
        """The failure of the handler counts though the body has ended."""
        done = self.pour(BytesProducer(b"hello"), self.consumer(handle=self.fail_to_handle))
        self.failureResultOf(self.settle(done), ZeroDivisionError)

    def test_too_few(self) -> None:
        """A body that ends early is refused."""
        producer = Producer(3)
        done = self.pour(producer, self.consumer())
        producer.consumer.write(b"ab")
        producer.done.callback(None)
        self.assertEqual(self.failureResultOf(self.settle(done), WrongLength).value.given, 2)

    def test_too_many(self) -> None:
        """A body that does not end is stopped with the first byte too many, which is not handled."""
        producer = Producer(3)
        done = self.pour(producer, self.consumer(InPlace()))
        producer.consumer.write(b"abc")
        producer.consumer.write(b"d")
        self.assertEqual(producer.told, ["stop"])
        self.failureResultOf(self.settle(done), WrongLength)
        self.assertEqual(self.handled, [b"abc"])

    def test_cancelled(self) -> None:
        """Cancelling, even twice, stops the body and waits for the handler."""
        producer = Producer()
        done = self.pour(producer, self.consumer())
        producer.consumer.write(b"a")
        done.cancel()
        done.cancel()
        self.assertEqual(producer.told, ["stop"])
        self.assertNoResult(done)
        self.failureResultOf(self.settle(done), CancelledError)

    def test_cancelled_at_the_end(self) -> None:
        """Cancelling while the last bytes are handled waits for them."""
        done = self.pour(BytesProducer(b"hello"), self.consumer())
        done.cancel()
        self.assertNoResult(done)
        self.failureResultOf(self.settle(done), CancelledError)

    def test_from_blocking_code(self) -> None:
        """A body that is read by blocking code is closed when the pouring has ended, well or not."""
        reading = Later()
        done = self.pour(self.producer(b"hello", reading), self.consumer(InPlace()))
        done.cancel()
        self.assertNoResult(done)
        reading.finish()
        self.failureResultOf(done, CancelledError)
        self.assertTrue(self.source.closed)

    def test_cannot_begin(self) -> None:
        """A body that fails to begin is a failure as any other."""
        producer = Producer()
        producer.startProducing = lambda consumer: 1 // 0  # type: ignore[method-assign, assignment, return-value]
        self.failureResultOf(self.pour(producer, self.consumer()), ZeroDivisionError)


class WorkerProducerTests(StreamCase):
    """From blocking code to the reactor."""

    def send(self, producer: WorkerProducer, consumer: Any) -> Deferred[None]:
        """Begin to send."""
        return Deferred.fromCoroutine(send(producer, consumer))

    def test_whole(self) -> None:
        """All is written, and the source is closed before the end is told."""
        consumer = Sink()
        done = self.send(self.producer(b"x" * (3 * PIECE + 1)), consumer)
        while self.later.waiting:
            self.assertNoResult(done)
            self.later.step()
        self.successResultOf(done)
        self.assertEqual(len(consumer.value()), 3 * PIECE + 1)
        self.assertTrue(self.source.closed)
        self.assertEqual(consumer.told, ["register", "unregister"])

    def test_reads_ahead(self) -> None:
        """One piece is read while another is written, and no more while the consumer pauses."""
        consumer = Sink()
        producer = self.producer(bytes(10 * PIECE))
        done = self.send(producer, consumer)
        producer.pauseProducing()
        self.later.finish()
        self.assertEqual((self.source.tell(), self.budget.used, consumer.value()), (PIECE, PIECE, b""))
        producer.resumeProducing()
        producer.pauseProducing()
        self.later.finish()
        self.assertEqual((self.source.tell(), len(consumer.value())), (2 * PIECE, PIECE))
        producer.resumeProducing()
        self.successResultOf(self.settle(done))

    def test_in_place(self) -> None:
        """Any number of pieces goes without recursion when reading needs no thread."""
        left = 5000

        def read(size: int) -> bytes:
            nonlocal left
            left -= 1
            return b"x" if left >= 0 else b""

        consumer = Sink()
        self.successResultOf(self.send(WorkerProducer(InPlace(), read, self.budget, 5000), consumer))
        self.assertEqual(len(consumer.value()), 5000)

    def test_wrong_length(self) -> None:
        """A source that shrank or grew while it was read is an error; no byte too many is written."""
        for length in (4, 6):
            consumer = Sink()
            error = self.failureResultOf(self.settle(self.send(self.producer(b"hello", length=length), consumer)))
            self.assertEqual((error.value.announced, error.value.given), (length, 5))
            self.assertLessEqual(len(consumer.value()), length)
            self.assertTrue(self.source.closed)

    def test_read_fails(self) -> None:
        """The failure of the source is told when it is closed; the worker may run in place, too."""
        for worker in (self.later, InPlace()):
            source = Failing(b"ab")
            producer = WorkerProducer(worker, source.read, self.budget, close=source.close)
            self.failureResultOf(self.settle(self.send(producer, Sink())), ZeroDivisionError)
            self.assertTrue(source.closed)
            self.assertEqual(self.budget.used, 0)

    def test_nothing_behind_the_end(self) -> None:
        """Once the failure was told nothing more is written, not even what had been read before it."""
        consumer = Sink()
        producer = WorkerProducer(InPlace(), Failing(b"ab").read, self.budget)
        producer.pauseProducing()
        done = producer.startProducing(consumer)
        unawaited(done.addErrback(lambda failure: consumer.unregisterProducer()))
        producer.resumeProducing()
        self.assertEqual(consumer.told, ["unregister"])

    def test_write_fails(self) -> None:
        """The failure of the consumer is told, too."""
        consumer = Sink()
        consumer.fails = True
        self.failureResultOf(self.settle(self.send(self.producer(b"hello"), consumer)), ZeroDivisionError)
        self.assertTrue(self.source.closed)

    def test_consumer_leaves(self) -> None:
        """A consumer that stops its producer ends the sending; it is not told that it is unregistered."""
        consumer = Sink()
        producer = self.producer(b"hello")
        done = self.send(producer, consumer)
        producer.stopProducing()
        self.assertNoResult(done)
        self.failureResultOf(self.settle(done), ConnectionFailed)
        self.assertTrue(self.source.closed)
        self.assertEqual(consumer.told, ["register"])

    def test_cancelled(self) -> None:
        """Cancelling, at any stage and even twice, waits until nothing is read and the source is closed."""
        for stage in range(4):
            producer = self.producer(bytes(3 * PIECE))
            done = self.send(producer, Sink())
            for _ in range(stage):
                self.later.step()
            done.cancel()
            done.cancel()
            self.assertNoResult(done)
            self.failureResultOf(self.settle(done), CancelledError)
            self.assertTrue(self.source.closed)
            self.assertEqual(self.budget.used, 0)

    def test_cancelled_while_paused(self) -> None:
        """Cancelling ends it though the consumer never comes back, also where reading and closing take no time."""
        producer = self.producer(bytes(3 * PIECE), InPlace())
        producer.pauseProducing()
        done = self.send(producer, Sink())
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertTrue(self.source.closed)
        self.assertEqual(self.budget.used, 0)

    def test_stopped_while_paused(self) -> None:
        """A piece that waits for a consumer that never comes back is given up."""
        producer = self.producer(bytes(10 * PIECE))
        producer.pauseProducing()
        done = self.send(producer, Sink())
        producer.resumeProducing()
        producer.pauseProducing()
        self.later.finish()
        self.assertEqual(self.budget.used, PIECE)
        done.cancel()
        self.failureResultOf(self.settle(done), CancelledError)

    def test_never_started(self) -> None:
        """The source of a producer that nobody wanted is closed, too."""
        self.successResultOf(self.settle(self.producer(b"hello").stopped()))
        self.assertTrue(self.source.closed)

    def test_close_fails(self) -> None:
        """A source that cannot be closed is logged; what was written was written."""

        def close() -> None:
            raise ZeroDivisionError

        producer = WorkerProducer(InPlace(), BytesIO(b"hello").read, self.budget, close=close)
        self.successResultOf(self.send(producer, Sink()))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @given(st.binary(max_size=200), st.integers(1, 50), st.text("prs"))
    def test_any_pauses(self, content: bytes, size: int, moves: str) -> None:
        """Whenever the consumer pauses and goes on, all bytes come, once and in order."""
        budget, later, consumer = Budget(), Later(), Sink()
        source = BytesIO(content)
        producer = WorkerProducer(later, lambda wanted: source.read(size), budget, len(content))
        done = self.send(producer, consumer)
        for move in moves:
            if move == "p":
                producer.pauseProducing()
            elif move == "r":
                producer.resumeProducing()
            elif later.waiting:
                later.step()
        producer.resumeProducing()
        later.finish()
        self.successResultOf(done)
        self.assertEqual((consumer.value(), budget.used), (content, 0))

    def test_refused(self) -> None:
        """The source is closed when the consumer does not take a producer: it has one."""

        class Taken(MemoryConsumer):
            def registerProducer(self, producer: Any, streaming: bool) -> None:
                """See `IConsumer`."""
                raise RuntimeError

        done = self.send(self.producer(b"hello"), Taken())
        self.failureResultOf(self.settle(done), RuntimeError)
        self.assertTrue(self.source.closed)


class Sink(MemoryConsumer):
    """A consumer that notes who writes to it."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        self.told.append("register")

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self.told.append("unregister")

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        if self.fails:
            raise ZeroDivisionError
        if "unregister" in self.told:
            self.told.append("late")
        super().write(data)


class Failing(BytesIO):
    """A source that gives a byte at a time, and fails where it should end."""

    def read(self, size: int | None = None, /) -> bytes:
        """Read a byte."""
        data = super().read(1)
        if not data:
            raise ZeroDivisionError
        return data


class ProgressTests(SynchronousTestCase):
    """News of long work."""

    def setUp(self) -> None:
        """Note what is told, at times that a test makes."""
        self.now = 100.0
        self.told: list[tuple[int, int]] = []
        self.patch(streams, "monotonic", lambda: self.now)
        self.progress = Progress(InPlace(), lambda done, total: self.told.append((done, total)), 10)

    def test_rate(self) -> None:
        """It is told at most ten times a second, and once at the end."""
        for _ in range(9):
            self.progress.add(1)
        self.now += 2 * REPORT_INTERVAL
        self.progress.add(1)
        self.progress.finished()
        self.assertEqual(self.told, [(1, 10), (10, 10), (10, 10)])

    def test_more_than_expected(self) -> None:
        """Never is more done than there is."""
        self.progress.at(11)
        self.assertEqual(self.told, [(11, 11)])

    def test_nobody_listens(self) -> None:
        """Without a callback nothing is told."""
        progress = Progress(InPlace(), None)
        progress.add(1)
        progress.finished()
        self.assertEqual(progress.done, 1)

    def test_callback_fails(self) -> None:
        """A callback that fails harms nothing but the log."""
        Progress(InPlace(), lambda done, total: 1 // 0).add(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
