"""Tests of what closing does to the calls that are under way."""

from __future__ import annotations

from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.operations import Operations, local_operation, local_read, network_operation
from soledad.deferreds import completed, unawaited
from soledad.errors import StoreClosed


@define(eq=False)
class Store:
    """Two methods that end when the test lets them."""

    operations: Operations = field(factory=Operations)
    waiting: list[Deferred[Any]] = field(factory=list)

    @local_operation
    async def local(self, result: object = None) -> object:
        """Do something on this device."""
        return await self._wait() or result

    @network_operation
    async def network(self) -> object:
        """Do something that closing ends."""
        return await self._wait()

    @network_operation
    async def stubborn(self) -> object:
        """Do something that is past the point where it can be ended."""
        return await completed(self._wait())

    @local_read
    def read(self, number: int) -> Deferred[Any]:
        """Ask a database something that takes its time; zero is no question."""
        number // number
        return self._wait()

    @local_operation
    async def at_once(self, result: object) -> object:
        """Do something that takes no time."""
        return result

    def _wait(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


class OperationsTests(SynchronousTestCase):
    """Local calls finish, others are ended, new ones are refused."""

    def setUp(self) -> None:
        """Make a store."""
        self.store = Store()

    def close(self) -> Deferred[None]:
        """Begin to close it."""
        return Deferred.fromCoroutine(self.store.operations.close())

    def test_nothing_under_way(self) -> None:
        """With nothing to wait for it is closed at once, as often as one likes."""
        self.assertEqual(self.successResultOf(self.store.at_once(5)), 5)
        self.successResultOf(self.close())
        self.successResultOf(self.close())

    def test_refused(self) -> None:
        """What is called afterwards fails, and does not begin."""
        self.successResultOf(self.close())
        for call in (self.store.local, self.store.network, partial(self.store.read, 1)):
            self.failureResultOf(call(), StoreClosed)
        self.assertEqual(self.store.waiting, [])

    def test_read(self) -> None:
        """What only reads has its result, and raises nothing; closing leaves waiting for it to the database."""
        self.failureResultOf(self.store.read(0), ZeroDivisionError)
        call = self.store.read(1)
        self.successResultOf(self.close())
        self.store.waiting[0].callback("done")
        self.assertEqual(self.successResultOf(call), "done")

    def test_local_finishes(self) -> None:
        """Closing waits for what is under way on this device; what is called meanwhile fails."""
        call, closing = self.store.local(), self.close()
        self.assertNoResult(closing)
        self.failureResultOf(self.store.local(), StoreClosed)
        self.store.waiting[0].callback("done")
        self.assertEqual(self.successResultOf(call), "done")
        self.successResultOf(closing)

    def test_local_fails(self) -> None:
        """It waits for what fails, too."""
        call, closing = self.store.local(), self.close()
        self.store.waiting[0].errback(ZeroDivisionError())
        self.failureResultOf(call, ZeroDivisionError)
        self.successResultOf(closing)

    def test_network_ends(self) -> None:
        """What closing ends fails with `StoreClosed`, not as if its caller had cancelled it."""
        call, closing = self.store.network(), self.close()
        self.failureResultOf(call, StoreClosed)
        self.successResultOf(closing)

    def test_cancelled_before(self) -> None:
        """What its caller cancelled was cancelled."""
        for call in (self.store.local(), self.store.network()):
            call.cancel()
            self.failureResultOf(call, CancelledError)
        self.successResultOf(self.close())

    def test_cannot_be_ended(self) -> None:
        """What cannot be ended any more is waited for, and keeps its result."""
        call, closing = self.store.stubborn(), self.close()
        self.assertNoResult(closing)
        self.store.waiting[0].callback("done")
        self.assertEqual(self.successResultOf(call), "done")
        self.successResultOf(closing)

    def test_all(self) -> None:
        """It waits for the last of many, and several may wait for it."""
        calls = [self.store.local(number) for number in range(3)]
        closing = [self.close(), self.close()]
        for waiting in self.store.waiting:
            for one in closing:
                self.assertNoResult(one)
            waiting.callback(None)
        self.assertEqual([self.successResultOf(call) for call in calls], [0, 1, 2])
        for one in closing:
            self.successResultOf(one)

    def test_called_from_a_callback(self) -> None:
        """A call that follows another one is refused like any other."""
        outcome: list[Any] = []
        call = self.store.local()
        unawaited(call.addCallback(lambda ignored: self.store.local()).addErrback(outcome.append))
        closing = self.close()
        self.store.waiting[0].callback(None)
        self.assertIsInstance(outcome[0].value, StoreClosed)
        self.successResultOf(closing)
