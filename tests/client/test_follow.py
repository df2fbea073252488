"""Tests of following: a store is kept in step, whatever fails, until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from soledad.client.follow import BACKOFF, GATHER, Following, spread
from soledad.client.interfaces import IRemoteEvents
from soledad.client.operations import Operations
from soledad.deferreds import outlasting, unawaited
from soledad.errors import AuthenticationFailed, ConnectionFailed, SoledadError, StoreClosed, Unauthorized
from soledad.wire.events import Heads


def heads(number: int) -> Heads:
    """Return one of many states."""
    return Heads(f"{number:x}", f"c.aa.{number}", None)


@implementer(IRemoteEvents)
@define(eq=False)
class Events:
    """A server whose events a test makes."""

    #: What to fail with at once.
    error: Exception | None = None
    #: Whether a stream that is cancelled ends as if it had not been.
    ends_well: bool = False
    attempts: int = field(default=0, init=False)
    on_heads: Callable[[Heads], object] | None = field(default=None, init=False)
    listening: Deferred[None] | None = field(default=None, init=False)

    def listen(self, on_heads: Callable[[Heads], object]) -> Deferred[None]:
        """See `IRemoteEvents`."""
        self.attempts += 1
        if self.error is not None:
            return fail(self.error)
        self.on_heads = on_heads
        self.listening = Deferred(lambda listening: listening.callback(None) if self.ends_well else None)
        return self.listening

    def tell(self, number: int) -> None:
        """Tell of a state."""
        assert self.on_heads is not None
        self.on_heads(heads(number))

    def end(self, error: Exception | None = None) -> None:
        """End the stream."""
        assert self.listening is not None
        listening, self.listening = self.listening, None
        if error is None:
            listening.callback(None)
        else:
            listening.errback(error)


class FollowingTests(SynchronousTestCase):
    """With a sync that a test lets end."""

    def setUp(self) -> None:
        """Begin to follow."""
        self.clock = Clock()
        self.events = Events()
        self.operations = Operations()
        self.syncs: list[Deferred[Any]] = []
        self.known: Heads | None = None
        self.has_unsent = True
        self.end_of_stopped: Exception = CancelledError()
        self.follow()

    def follow(self) -> Following:
        """Follow with the events that there are."""
        self.following = Following(
            self.clock, self.events, self.sync, self.unsent, lambda: self.known, spread=lambda pause: pause
        )
        self.following.start(self.operations.start(self.following.run, finishes=False))
        return self.following

    def sync(self) -> Deferred[Any]:
        """Begin a sync."""
        self.syncs.append(Deferred(lambda syncing: syncing.errback(self.end_of_stopped)))
        return self.syncs[-1]

    def unsent(self) -> Deferred[bool]:
        """Tell whether there is something to send."""
        return succeed(self.has_unsent)

    def synced(self, count: int, error: SoledadError | None = None) -> None:
        """See that so many syncs have begun, of which the last one ends now."""
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), count)
        if error is None:
            self.syncs[-1].callback(0)
        else:
            self.syncs[-1].errback(error)

    def test_at_first(self) -> None:
        """It syncs at first, whatever the server tells."""
        self.synced(1)
        self.clock.advance(100)
        self.assertEqual(len(self.syncs), 1)

    def test_news(self) -> None:
        """It syncs when there is something new, after a moment in which more may come; not when there is not."""
        self.events.tell(1)
        self.synced(1)
        self.events.tell(1)
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), 1)
        for number in (2, 3, 4):
            self.events.tell(number)
        self.synced(2)
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), 2)

    def test_what_it_did_itself(self) -> None:
        """What a sync brought to the server is no news."""
        self.clock.advance(GATHER)
        self.known = heads(7)
        self.events.tell(7)
        self.synced(1)
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), 1)

    def test_during_a_sync(self) -> None:
        """What comes while a sync runs may have been too late for it."""
        self.events.tell(1)
        self.clock.advance(GATHER)
        self.events.tell(2)
        self.synced(1)
        self.synced(2)
        self.following.local_change()
        self.clock.advance(GATHER)
        self.following.local_change()
        self.synced(3)
        self.synced(4)
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), 4)

    def test_local_change(self) -> None:
        """A change on this device is sent, unless it is one that a sync has brought."""
        self.synced(1)
        self.has_unsent = False
        self.following.local_change()
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), 1)
        self.has_unsent = True
        self.following.local_change()
        self.following.local_change()
        self.synced(2)
        self.clock.advance(GATHER)
        self.assertEqual(len(self.syncs), 2)

    def test_sync_fails(self) -> None:
        """A sync that fails is tried again, with growing pauses; what is wrong can be seen."""
        count = 0
        for pause in (*BACKOFF, BACKOFF[-1]):
            count += 1
            error = Unauthorized() if count % 2 else AuthenticationFailed()
            self.synced(count, error)
            self.assertIs(self.following.problem, error)
            self.clock.advance(pause - 0.5)
            self.assertEqual(len(self.syncs), count)
            self.clock.advance(0.6)
        self.synced(count + 1)
        self.assertIsNone(self.following.problem)
        self.following.local_change()
        self.synced(count + 2, ConnectionFailed())
        self.clock.advance(BACKOFF[0])
        self.synced(count + 3)

    def test_listening_fails(self) -> None:
        """It listens again, with growing pauses, which begin anew when something was heard."""
        self.synced(1)
        for number, pause in enumerate((*BACKOFF, BACKOFF[-1]), 1):
            self.events.error = ConnectionFailed()
            if number == 1:
                self.events.end(ConnectionFailed())
            self.assertIsInstance(self.following.problem, ConnectionFailed)
            self.assertEqual(self.events.attempts, number)
            self.clock.advance(pause)
        self.events.error = None
        self.clock.advance(BACKOFF[-1])
        self.events.tell(1)
        self.assertTrue(self.following.listening)
        self.assertIsNone(self.following.problem)
        attempts = self.events.attempts
        self.events.end()
        self.assertFalse(self.following.listening)
        self.clock.advance(BACKOFF[0])
        self.assertEqual(self.events.attempts, attempts + 1)

    def test_problems_apart(self) -> None:
        """What is wrong with listening is over when the server is heard again, and with a sync when one succeeds."""
        unheard, unsynced = ConnectionFailed(), Unauthorized()
        self.events.end(unheard)
        self.synced(1, unsynced)
        self.assertIs(self.following.problem, unsynced)
        self.clock.advance(BACKOFF[0] - GATHER)
        self.events.tell(1)
        self.assertIs(self.following.problem, unsynced)
        self.events.end(unheard)
        self.clock.advance(GATHER)
        self.synced(2)
        self.assertIs(self.following.problem, unheard)
        self.clock.advance(BACKOFF[0])
        self.events.tell(1)
        self.assertIsNone(self.following.problem)

    def test_bug(self) -> None:
        """What nobody expected is logged, and tried again too."""
        self.clock.advance(GATHER)
        self.syncs[-1].errback(ZeroDivisionError())
        self.events.end(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.clock.advance(BACKOFF[0])
        self.synced(2)
        self.assertEqual(self.events.attempts, 2)

    def test_stop(self) -> None:
        """Stopped at any moment, it is over when that fires, and nothing is left; once more is no harm."""
        moments: list[Callable[[], object]] = [
            lambda: None,
            lambda: self.clock.advance(GATHER),
            lambda: self.synced(1),
            lambda: self.synced(1, ConnectionFailed()),
            lambda: self.events.end(),
            lambda: self.events.tell(3),
        ]
        for moment in moments:
            self.syncs = []
            following = self.follow()
            moment()
            if self.syncs:
                unawaited(self.syncs[-1].addErrback(lambda failure: failure.trap(CancelledError)))
            self.successResultOf(following.stop())
            self.successResultOf(following.stop())
        self.successResultOf(self.follow().stop())

    def test_failed_when_stopped(self) -> None:
        """A sync that fails when it is stopped does not keep it going."""
        self.end_of_stopped = ConnectionFailed()
        self.clock.advance(GATHER)
        self.successResultOf(self.following.stop())

    def tearDown(self) -> None:
        """Nothing is left on the clock."""
        if self.syncs:
            unawaited(self.syncs[-1].addErrback(lambda failure: failure.trap(CancelledError)))
        self.successResultOf(self.following.stop())
        self.successResultOf(Deferred.fromCoroutine(self.operations.close()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close(self) -> None:
        """The store's closing ends it."""
        self.successResultOf(Deferred.fromCoroutine(self.operations.close()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.follow().stop())

    def test_closed_store(self) -> None:
        """A sync that finds the store closed is the end."""
        self.clock.advance(GATHER)
        self.syncs[-1].errback(StoreClosed())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.following.stop())

    def test_waits_for_the_sync(self) -> None:
        """Stopping waits for a sync that does not end at once."""
        ended: Deferred[None] = Deferred()
        self.following._sync = lambda: outlasting(ended, lambda: None)
        self.clock.advance(GATHER)
        stopped = self.following.stop()
        self.assertNoResult(stopped)
        ended.callback(None)
        self.successResultOf(stopped)

    def test_stopped_by_others(self) -> None:
        """A sync that somebody else stops is not repeated at once, and following goes on."""
        self.clock.advance(GATHER)
        self.syncs[-1].cancel()
        self.clock.advance(1000)
        self.assertEqual(len(self.syncs), 1)
        self.events.tell(1)
        self.synced(2)

    def test_stream_ends_meanwhile(self) -> None:
        """A stream that ends by itself just when it is stopped does not keep it going."""
        self.events.ends_well = True
        following = self.follow()
        self.successResultOf(following.stop())
        attempts = self.events.attempts
        self.clock.advance(1000)
        self.assertEqual(self.events.attempts, attempts)

    def test_spread(self) -> None:
        """Pauses differ, and are neither longer nor shorter than half."""
        pauses = {spread(10.0) for _ in range(50)}
        self.assertGreater(len(pauses), 40)
        self.assertTrue(all(5.0 <= pause <= 10.0 for pause in pauses))
