"""So many bytes a second."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.throttle import LEAST, Rate, ThrottledBody, Valve
from soledad.deferreds import InPlace
from soledad.errors import InvalidLimit
from soledad.streams import Budget, MemoryConsumer, WorkerProducer


class Source:
    """A producer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self.told.append("pause")

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self.told.append("resume")

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self.told.append("stop")


class ThrottleCase(SynchronousTestCase):
    """A clock and a rate."""

    def setUp(self) -> None:
        """Make them."""
        self.clock = Clock()
        self.rate = Rate(self.clock)
        self.consumer = MemoryConsumer()

    def size(self) -> int:
        """Return how many bytes arrived."""
        return len(self.consumer.value())


class RateTests(ThrottleCase):
    """One rate for all."""

    def test_shared(self) -> None:
        """What goes here waits for what went elsewhere; time that passes is not saved up."""
        self.rate.limit = 4096
        self.assertEqual(self.rate.spend(4096), 1.0)
        self.assertEqual(self.rate.spend(2048), 1.5)
        self.clock.advance(60)
        self.assertEqual(self.rate.spend(4096), 1.0)

    def test_none(self) -> None:
        """Without a limit nothing waits."""
        self.assertEqual(self.rate.spend(1 << 40), 0)
        self.assertIsNone(self.rate.piece)
        self.successResultOf(self.rate.wait(1 << 40))

    def test_wait(self) -> None:
        """Who sends all at once waits as long as it may take."""
        self.rate.limit = 1024
        waiting = self.rate.wait(2048)
        self.clock.pump([0.5] * 3)
        self.assertNoResult(waiting)
        self.clock.advance(0.5)
        self.successResultOf(waiting)

    def test_wait_beside_others(self) -> None:
        """Who waits for much does not make the others wait for all of it, nor owe what does not go after all."""
        self.rate.limit = 1024
        waiting = self.rate.wait(1 << 20)
        self.assertEqual(self.rate.spend(1024), 2.0)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(2)
        self.assertEqual(self.rate.spend(1024), 1.0)

    def test_changed(self) -> None:
        """Who waits when the limit changes waits as the new one says."""
        for limit, seconds in ((2048, 1.0), (1024, 2.0), (4096, 0.5), (None, 0.0)):
            self.setUp()
            self.rate.limit = 1024
            ended: list[bool] = []
            self.rate.later(self.rate.spend(4096) - 2.0, lambda ended=ended: ended.append(True))
            self.rate.limit = limit
            self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [seconds])
            self.clock.advance(seconds)
            self.assertEqual(ended, [True])

    def test_clock_goes_back(self) -> None:
        """A clock that goes back by years makes nobody wait for years."""
        self.clock.advance(1e9)
        self.rate.limit = 1024
        self.rate.spend(1024)
        self.clock.rightNow = 5.0
        self.assertEqual(self.rate.spend(1024), 2.0)

    def test_limits(self) -> None:
        """Less than a little is a mistake, and so is what is no number."""
        for limit in (0, -1, LEAST - 1, 1e6, "many", True):
            with self.assertRaises(InvalidLimit):
                self.rate.limit = limit  # type: ignore[assignment]
        self.assertIsNone(self.rate.limit)


class ValveTests(ThrottleCase):
    """Between a producer and a consumer."""

    def setUp(self) -> None:
        """Put one there."""
        super().setUp()
        self.source = Source()
        self.valve = Valve(self.consumer, self.rate)
        self.valve.registerProducer(self.source, True)

    def test_open(self) -> None:
        """Without a limit all passes at once, and pauses pass the other way."""
        self.valve.write(b"data")
        self.assertEqual(self.consumer.value(), b"data")
        self.valve.pauseProducing()
        self.valve.resumeProducing()
        self.assertEqual(self.source.told, ["pause", "resume"])

    def test_slow(self) -> None:
        """With a limit it passes piece by piece; the source is paused meanwhile, and then goes on."""
        self.rate.limit = 4096
        self.valve.write(bytes(4096))
        self.assertEqual(self.size(), 1024)
        self.assertEqual(self.source.told, ["pause"])
        for _ in range(3):
            self.clock.advance(0.25)
        self.assertEqual(self.size(), 4096)
        self.clock.advance(0.25)
        self.assertEqual(self.source.told, ["pause", "resume"])

    def test_shut(self) -> None:
        """While the consumer wants nothing, nothing passes, whatever time it is."""
        self.rate.limit = 4096
        self.valve.write(bytes(2048))
        self.valve.pauseProducing()
        self.clock.advance(10)
        self.assertEqual(self.size(), 1024)
        self.valve.resumeProducing()
        self.assertEqual(self.size(), 2048)

    def test_stopped(self) -> None:
        """What was held is dropped, and no timer is left."""
        self.rate.limit = 4096
        self.valve.write(bytes(4096))
        self.valve.stopProducing()
        self.assertEqual(self.source.told[-1], "stop")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.size(), 1024)

    def test_end(self) -> None:
        """After the end of the producer what is held goes on as before, and then no timer is left."""
        self.rate.limit = 4096
        self.valve.write(bytes(4096))
        self.valve.pauseProducing()
        self.valve.unregisterProducer()
        emptied = self.valve.emptied()
        self.assertEqual(self.size(), 1024)
        self.clock.pump([0.25] * 2)
        self.assertNoResult(emptied)
        self.clock.advance(0.25)
        self.successResultOf(emptied)
        self.assertEqual(self.size(), 4096)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_cancelled(self) -> None:
        """Who does not wait for that any more gets nothing more."""
        self.rate.limit = 4096
        self.valve.write(bytes(4096))
        self.valve.unregisterProducer()
        emptied = self.valve.emptied()
        emptied.cancel()
        self.failureResultOf(emptied, CancelledError)
        self.clock.advance(60)
        self.assertEqual(self.size(), 1024)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BodyTests(ThrottleCase):
    """Bodies of requests."""

    def body(self, data: bytes) -> ThrottledBody:
        """Return a body with some data."""
        left = bytearray(data)

        def read(size: int) -> bytes:
            piece = bytes(left[:size])
            del left[:size]
            return piece

        return ThrottledBody(WorkerProducer(InPlace(), read, Budget(), len(data)), self.rate)

    @given(st.binary(max_size=20_000), st.one_of(st.none(), st.integers(LEAST, 20_000)))
    def test_all_arrives(self, data: bytes, limit: int | None) -> None:
        """All bytes arrive in their order, in the time that they may take, and then it is done."""
        self.setUp()
        self.rate.limit = limit
        body = self.body(data)
        self.assertEqual(body.length, len(data))
        producing: Any = body.startProducing(self.consumer)
        for _ in range(200):
            self.clock.advance(0.25)
        self.successResultOf(producing)
        self.assertEqual(self.consumer.value(), data)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped(self) -> None:
        """A body that is stopped writes nothing any more."""
        self.rate.limit = 4096
        body = self.body(bytes(100_000))
        producing: Any = body.startProducing(self.consumer)
        body.pauseProducing()
        body.resumeProducing()
        body.stopProducing()
        size = self.size()
        self.clock.advance(60)
        self.assertEqual(self.size(), size)
        self.assertNoResult(producing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_early(self) -> None:
        """One that never began can be stopped."""
        self.body(b"data").stopProducing()
