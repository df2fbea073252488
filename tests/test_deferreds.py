"""The bridge to Twisted: what waits, what is cancelled, what runs in which order."""

from __future__ import annotations

import gc
from threading import Event, get_ident
from typing import Any, cast
from weakref import ref

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase

from soledad.deferreds import (
    InPlace,
    Serial,
    SerialByKey,
    ThreadWorker,
    completed,
    deferred,
    gather,
    outlasting,
    unawaited,
)

reactor = cast("Any", _reactor)


class DeferredTests(SynchronousTestCase):
    """Coroutine functions that start when they are called."""

    def test_starts(self) -> None:
        """The body runs at once, not when somebody waits for it."""
        ran: list[int] = []

        @deferred
        async def body(value: int) -> int:
            ran.append(value)
            return value

        work = body(3)
        self.assertEqual(ran, [3])
        self.assertEqual(self.successResultOf(work), 3)


class OutlastingTests(SynchronousTestCase):
    """Cancelling that waits for the end."""

    def setUp(self) -> None:
        """Begin some work."""
        self.work: Deferred[int] = Deferred()
        self.stops = 0
        self.waiting = outlasting(self.work, self.stop)

    def stop(self) -> None:
        """Count the requests to end."""
        self.stops += 1

    def test_result(self) -> None:
        """Without cancelling it fires as the work does."""
        self.work.callback(1)
        self.assertEqual(self.successResultOf(self.waiting), 1)
        self.assertEqual(self.stops, 0)

    def test_failure(self) -> None:
        """The failure of the work is its failure."""
        self.work.errback(ZeroDivisionError())
        self.failureResultOf(self.waiting, ZeroDivisionError)

    def test_cancelled(self) -> None:
        """Cancelling, however often, asks the work to end, and waits until it does."""
        for _ in range(3):
            self.waiting.cancel()
            self.assertNoResult(self.waiting)
        self.assertEqual(self.stops, 3)
        self.work.errback(CancelledError())
        self.failureResultOf(self.waiting, CancelledError)

    def test_too_late(self) -> None:
        """Work that was past the point where it could be stopped gives its result."""
        self.waiting.cancel()
        self.work.callback(1)
        self.assertEqual(self.successResultOf(self.waiting), 1)

    def test_stops_at_once(self) -> None:
        """Work may end while it is asked to."""
        work: Deferred[int] = Deferred()
        waiting = outlasting(work, lambda: work.errback(CancelledError()))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_completed(self) -> None:
        """What follows a commit is waited for whether or not the caller still wants it."""
        work: Deferred[int] = Deferred()
        waiting = Deferred.fromCoroutine(completed(work))
        waiting.cancel()
        self.assertNoResult(waiting)
        work.callback(2)
        self.assertEqual(self.successResultOf(waiting), 2)

    def test_nothing_left(self) -> None:
        """When it has fired, nothing keeps the result but who has it: no cycle waits for the garbage collector."""
        self.addCleanup(gc.enable)
        gc.disable()
        result = Vanishing()
        seen = ref(result)
        work: Deferred[Vanishing] = Deferred()
        waiting = outlasting(work, self.stop)
        work.callback(result)
        self.successResultOf(waiting)
        del result, work, waiting
        self.assertIsNone(seen())


class Vanishing:
    """A result that can be seen to go."""


class GatherTests(SynchronousTestCase):
    """Waiting for several."""

    def gather(self, works: list[Deferred[int]]) -> Deferred[list[int]]:
        """Begin to wait."""
        return Deferred.fromCoroutine(gather(works))

    def test_results(self) -> None:
        """The results come in the order of the works, whatever the order of their ends."""
        works: list[Deferred[int]] = [Deferred(), Deferred()]
        waiting = self.gather(works)
        works[1].callback(2)
        works[0].callback(1)
        self.assertEqual(self.successResultOf(waiting), [1, 2])

    def test_none(self) -> None:
        """There is nothing to wait for."""
        self.assertEqual(self.successResultOf(self.gather([])), [])

    def test_failure_waits(self) -> None:
        """A failure is told when the others have ended, too; it cancels none of them."""
        other: Deferred[int] = Deferred()
        waiting = self.gather([fail(ZeroDivisionError()), other])
        self.assertNoResult(waiting)
        self.assertFalse(other.called)
        other.callback(1)
        self.failureResultOf(waiting, ZeroDivisionError)

    def test_several_failures(self) -> None:
        """The first failure is raised; the others are not left unheard."""
        self.failureResultOf(self.gather([succeed(1), fail(ZeroDivisionError()), fail(KeyError())]), ZeroDivisionError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancel(self) -> None:
        """Cancelling cancels all, even when the first does not heed it, and waits for all."""
        stubborn: Deferred[int] = Deferred()
        ready: Deferred[int] = Deferred()
        waiting = self.gather([outlasting(stubborn, lambda: None), ready])
        waiting.cancel()
        self.assertTrue(ready.called)
        self.assertNoResult(waiting)
        stubborn.callback(1)
        self.failureResultOf(waiting, CancelledError)


class SerialTests(SynchronousTestCase):
    """One after the other."""

    def setUp(self) -> None:
        """Note what ran."""
        self.serial = Serial()
        self.ran: list[str] = []

    def turn(self, name: str, until: Deferred[None] | None = None) -> Deferred[str]:
        """Ask for a turn that notes its name, and lasts."""

        async def body() -> str:
            self.ran.append(name)
            if until is not None:
                await until
            return name

        return self.serial.run(body)

    def test_order(self) -> None:
        """Turns come in the order in which they were asked for."""
        until: Deferred[None] = Deferred()
        first, second, third = self.turn("a", until), self.turn("b"), self.turn("c")
        self.assertEqual(self.ran, ["a"])
        until.callback(None)
        self.assertEqual(self.ran, ["a", "b", "c"])
        self.assertEqual([self.successResultOf(work) for work in (first, second, third)], ["a", "b", "c"])

    def test_failure(self) -> None:
        """A turn that fails lets the next one go on."""
        until: Deferred[None] = Deferred()
        first, second = self.turn("a", until), self.turn("b")
        until.errback(ZeroDivisionError())
        self.failureResultOf(first, ZeroDivisionError)
        self.assertEqual(self.successResultOf(second), "b")

    def test_cancelled_while_waiting(self) -> None:
        """A turn that is cancelled before it began never runs, and lets nobody overtake."""
        until: Deferred[None] = Deferred()
        first, second, third = self.turn("a", until), self.turn("b"), self.turn("c")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.ran, ["a"])
        until.callback(None)
        self.assertEqual(self.ran, ["a", "c"])
        self.successResultOf(first)
        self.successResultOf(third)

    def test_asked_within_a_turn(self) -> None:
        """A turn that is asked for while others wait comes after them."""
        until: Deferred[None] = Deferred()
        first, second = self.turn("a", until), self.turn("b")
        unawaited(first.addCallback(lambda ignored: self.turn("c")))
        until.callback(None)
        self.assertEqual(self.ran, ["a", "b", "c"])
        self.successResultOf(first)
        self.successResultOf(second)

    def test_many(self) -> None:
        """Any number of turns may end at once."""
        until: Deferred[None] = Deferred()
        turns = [self.turn("a", until)] + [self.turn("b") for _ in range(5000)]
        until.callback(None)
        self.assertEqual(len(self.ran), 5001)
        for work in turns:
            self.successResultOf(work)

    def test_by_key(self) -> None:
        """Turns of different keys do not wait for each other; a key that nobody uses is forgotten."""
        serials = SerialByKey()
        until: Deferred[None] = Deferred()

        async def wait() -> None:
            await until

        async def note() -> None:
            self.ran.append("note")

        first = Deferred.fromCoroutine(serials.run("a", wait))
        second = Deferred.fromCoroutine(serials.run("a", note))
        other = Deferred.fromCoroutine(serials.run("b", note))
        self.successResultOf(other)
        self.assertNoResult(second)
        until.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(serials._serials, {})


class InPlaceTests(SynchronousTestCase):
    """A worker without threads."""

    def test_run(self) -> None:
        """The call has ended when `run` returns, well or not."""
        self.assertEqual(self.successResultOf(InPlace().run(lambda a, b: a + b, 1, 2)), 3)
        self.failureResultOf(InPlace().run(lambda: 1 // 0), ZeroDivisionError)


class ThreadWorkerTests(TestCase):
    """A worker with a thread."""

    def setUp(self) -> None:
        """Start it."""
        self.worker = ThreadWorker.start(reactor, 1, "test")
        self.addCleanup(self.worker.close)

    async def test_run(self) -> None:
        """The call runs in another thread, and what follows it on the reactor's."""
        here = get_ident()
        self.assertNotEqual(await self.worker.run(get_ident), here)
        self.assertEqual(get_ident(), here)
        await self.assertFailure(self.worker.run(lambda: 1 // 0), ZeroDivisionError)

    async def test_cancel_before(self) -> None:
        """What is cancelled before its turn never runs; its Deferred fires when its turn would have come."""
        ran: list[int] = []
        hold, stop = Event(), Event()
        running, waiting = self.worker.run(hold.wait), self.worker.run(ran.append, 1, stop=stop)
        waiting.cancel()
        self.assertFalse(waiting.called and not isinstance(waiting.result, Deferred))
        self.assertTrue(stop.is_set())
        hold.set()
        await running
        await self.assertFailure(waiting, CancelledError)
        self.assertEqual(ran, [])

    async def test_cancel_while_it_runs(self) -> None:
        """What is cancelled while it runs is asked to stop, and waited for."""
        started, stop = Event(), Event()
        ended: list[bool] = []

        def call() -> None:
            started.set()
            ended.append(stop.wait(5))
            raise CancelledError

        work = self.worker.run(call, stop=stop)
        started.wait(5)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        self.assertEqual(ended, [True])

    async def test_cancel_too_late(self) -> None:
        """A call that does not look gives its result."""
        started, hold = Event(), Event()

        def call() -> int:
            started.set()
            hold.wait(5)
            return 1

        work = self.worker.run(call)
        started.wait(5)
        work.cancel()
        hold.set()
        self.assertEqual(await work, 1)

    async def test_report(self) -> None:
        """A thread's report comes on the reactor's thread."""
        told: Deferred[int] = Deferred()
        await self.worker.run(self.worker.report, lambda: told.callback(get_ident()))
        self.assertEqual(await told, get_ident())

    async def test_closed(self) -> None:
        """A worker that was closed says so, and does not keep anybody waiting."""
        worker = ThreadWorker.start(reactor, 1, "test")
        worker.close()
        await self.assertFailure(worker.run(get_ident), RuntimeError)
