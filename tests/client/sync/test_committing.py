"""A write of which only the commit is left: what it waits for, and how it is given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.client.local.journal import LocalJournal
from soledad.client.sync.committing import Committing, abandoned
from soledad.crypto.record import RecordNames, RecordOpener
from soledad.deferreds import Outlasting, deferred, unawaited
from soledad.errors import ConnectionFailed, StorageFull
from soledad.model.conflict import Applied
from soledad.model.syncing import Following, Outgoing, Pulled, Standing
from tests.client.sync.devices import DevicesTestCase, put_between


class CommittingTests(SynchronousTestCase):
    """`Committing`, alone."""

    def setUp(self) -> None:
        """Make one, and note what is done."""
        self.committing = Committing()
        self.writes: list[Deferred[None]] = []
        self.tells: list[Callable[[], None]] = []

    def write(self, tell: Callable[[], None]) -> Deferred[None]:
        """Begin a write."""
        self.tells.append(tell)
        self.writes.append(Deferred())
        return self.writes[-1]

    def begin(self) -> Deferred[None]:
        """Begin one through it."""
        return Deferred.fromCoroutine(self.committing.begin(self.write))

    def end(self) -> Deferred[None]:
        """Wait for the end."""
        return Deferred.fromCoroutine(self.committing.end())

    def test_written(self) -> None:
        """It has begun when only the commit is left, and ended with the commit."""
        begun = self.begin()
        self.assertNoResult(begun)
        self.tells[0]()
        self.successResultOf(begun)
        # A job may be run twice.
        self.tells[0]()
        ended = self.end()
        self.assertNoResult(ended)
        self.writes[0].callback(None)
        self.successResultOf(ended)
        self.successResultOf(self.end())

    def test_one_at_a_time(self) -> None:
        """The next one begins after the end of the one before."""
        begun = self.begin()
        self.tells[0]()
        self.successResultOf(begun)
        following = self.begin()
        self.assertEqual(len(self.writes), 1)
        self.writes[0].callback(None)
        self.assertEqual(len(self.writes), 2)
        self.writes[1].callback(None)
        self.successResultOf(following)

    def test_failed(self) -> None:
        """A write that fails, before or after, fails its end and what comes next."""
        self.successResultOf(Deferred.fromCoroutine(self.committing.begin(lambda tell: fail(StorageFull("disk")))))
        self.failureResultOf(self.end(), StorageFull)
        unawaited(self.begin())
        self.writes[0].errback(StorageFull("disk"))
        self.failureResultOf(self.begin(), StorageFull)
        self.assertEqual(len(self.writes), 1)

    def test_given_up(self) -> None:
        """What is given up is cancelled, and waited for, however it ends."""
        self.successResultOf(Deferred.fromCoroutine(self.committing.give_up()))
        for outcome in (None, Failure(StorageFull("disk"))):
            stopped: list[Outlasting[None]] = []
            # As the database's: what runs ends as it does.
            work: Outlasting[None] = Outlasting(stopped.append)
            begun = Deferred.fromCoroutine(self.committing.begin(partial(_given, work)))
            begun.cancel()
            self.failureResultOf(begun, CancelledError)
            given_up = Deferred.fromCoroutine(self.committing.give_up())
            self.assertEqual((stopped, given_up.called), ([work], False))
            work.callback(outcome)
            self.successResultOf(given_up)

    def test_abandoned(self) -> None:
        """What nobody wants any more may fail as it likes, but not by a mistake."""
        for work in (succeed(None), fail(StorageFull("disk")), Deferred[None]()):
            self.successResultOf(Deferred.fromCoroutine(abandoned(work)))
        self.failureResultOf(Deferred.fromCoroutine(abandoned(fail(ZeroDivisionError()))), ZeroDivisionError)


@define(eq=False)
class Late:
    """A journal whose commits take a second, and cannot be stopped; reading what comes behind a push takes two."""

    _journal: Any
    _clock: Clock
    #: Whether the disk is full when the commits end.
    is_full: bool = False
    #: How many are under way.
    commits: int = 0
    #: How often something else was begun meanwhile.
    meanwhile: int = 0

    def __getattr__(self, name: str) -> Any:
        """Return a method."""
        if self.commits and name == "known_and_sent":
            self.meanwhile += 1
        return getattr(self._journal, name)

    def take(self, arrivals: Sequence[Pulled], now: Standing, written: Callable[[], object]) -> Deferred[list[Applied]]:
        """Do it in a second."""
        return self._commit(lambda: self._journal.take(arrivals, now, written), written)

    def go_on(self, now: Standing, following: Following, written: Callable[[], object]) -> Deferred[None]:
        """Do it in a second."""
        return self._commit(lambda: self._journal.go_on(now, following, written), written)

    @deferred
    async def outgoing_behind(self, *arguments: Any) -> list[Outgoing]:
        """Do it in two seconds."""
        self.meanwhile += self.commits
        await self._passed(2)
        found: list[Outgoing] = await self._journal.outgoing_behind(*arguments)
        return found

    @deferred
    async def _commit(self, work: Callable[[], Deferred[Any]], written: Callable[[], object]) -> Any:
        self.commits += 1
        passed = self._passed(1)
        written()
        await passed
        self.commits -= 1
        if self.is_full:
            raise StorageFull("disk")
        return await work()

    def _passed(self, seconds: float) -> Deferred[None]:
        passed: Outlasting[None] = Outlasting(lambda _: None)
        self._clock.callLater(seconds, passed.callback, None)
        return passed


class MeanwhileTests(DevicesTestCase):
    """Syncs in which commits take long."""

    def setUp(self) -> None:
        """Let there be documents of which each fills a page, and a push."""
        super().setUp()
        self.big = "x" * 3_000_000
        for doc_id in ("a", "b", "c"):
            self.put(self.one, doc_id, {"n": doc_id, "big": self.big})

    def late(self, store: Soledad) -> Late:
        """Let a device's commits take long."""
        assert store._syncing is not None
        parts = store._syncing.parts
        late = Late(parts.journal, store._reactor)
        journal: Any = late
        store._syncing.parts = evolve(parts, journal=journal)
        return late

    def sync_slowly(self, store: Soledad, **what: Any) -> None:
        """Sync, and let time go by."""
        if what:
            put_between(store, **what)
        syncing = store.sync()
        for _ in range(20):
            store._reactor.advance(1)
        self.now(syncing)

    def assert_well(self, *stores: Soledad) -> None:
        """There is nothing to complain about."""
        for store in stores:
            self.assertEqual((self.now(store.incidents()), self.now(store.sync_problems())), ([], []))

    def test_push(self) -> None:
        """What comes behind a push is planned before that is committed; all goes out."""
        late = self.late(self.one)
        self.sync_slowly(self.one)
        self.assertGreater(late.meanwhile, 0)
        two = self.another()
        self.sync(two)
        self.assertEqual([self.content(two, doc_id)["n"] for doc_id in "abc"], ["a", "b", "c"])
        self.assert_well(self.one, two)

    def test_changed_meanwhile(self) -> None:
        """What is changed while pushes are made goes out once more, at the end."""

        def change(name: str, number: int) -> None:
            if name == "push":
                self.put(self.one, "c", {"n": f"c{number}"})
                self.put(self.one, "a", {"n": f"a{number}"})

        self.late(self.one)
        between = put_between(self.one, before=lambda name, number: change(name, number) if number < 3 else None)
        self.sync_slowly(self.one)
        last = max(number for number, name in enumerate(between.calls[:3]) if name == "push")
        two = self.another()
        self.sync(two)
        self.assertEqual([self.content(two, doc_id)["n"] for doc_id in "abc"], [f"a{last}", "b", f"c{last}"])
        self.assert_well(self.one, two)

    def test_pull(self) -> None:
        """A page is opened before the one before it is committed, unless one record is in both."""
        self.sync(self.one)
        for is_again in (False, True):
            two = self.another()
            late = self.late(two)

            def change(name: str, number: int, answer: Any, two: Soledad = two, is_again: bool = is_again) -> Any:
                if is_again and (name, number) == ("pull", 0):
                    # Last the one that has just come.
                    first = answer_id(two, answer)
                    for doc_id in sorted("abc", key=lambda doc_id: doc_id == first):
                        self.put(self.one, doc_id, {"n": f"{doc_id} again"})
                    self.sync(self.one)
                return answer

            self.sync_slowly(two, after=change)
            self.assertEqual(late.meanwhile > 0, not is_again)
            expected = [f"{doc_id} again" if is_again else doc_id for doc_id in "abc"]
            self.assertEqual([self.content(two, doc_id)["n"] for doc_id in "abc"], expected)
            self.assert_well(self.one, two)

    def test_no_answer_meanwhile(self) -> None:
        """A sync that fails while a page is committed ends when that has ended."""
        self.sync(self.one)
        two = self.another()
        self.late(two)

        def lose(name: str, number: int) -> None:
            if number == 2:
                raise ConnectionFailed()

        put_between(two, before=lose)
        syncing = two.sync()
        # The page before the one that is committed when the answer does not come.
        two._reactor.advance(1)
        self.assertNoResult(syncing)
        two._reactor.advance(1)
        self.failureResultOf(syncing, ConnectionFailed)
        self.sync_slowly(two)
        self.assertEqual([self.content(two, doc_id)["n"] for doc_id in "abc"], ["a", "b", "c"])
        self.assert_well(self.one, two)

    def test_full_meanwhile(self) -> None:
        """A sync that fails while the next push is planned ends when that has ended."""
        late = self.late(self.one)
        syncing = self.one.sync()
        self.one._reactor.advance(2)
        late.is_full = True
        self.assertEqual(late.commits, 1)
        self.one._reactor.advance(1)
        self.assertEqual(late.commits, 0)
        self.assertNoResult(syncing)
        self.one._reactor.advance(1)
        self.failureResultOf(syncing, StorageFull)
        late.is_full = False
        self.sync_slowly(self.one)
        two = self.another()
        self.sync(two)
        self.assertEqual([self.content(two, doc_id)["n"] for doc_id in "abc"], ["a", "b", "c"])
        self.assert_well(self.one, two)

    def test_stopped(self) -> None:
        """A sync that is stopped while a push is committed ends when that has ended, and the next one goes on."""
        late = self.late(self.one)
        syncing = self.one.sync()
        self.one._reactor.advance(2)
        self.assertEqual(late.commits, 1)
        stopping = self.one.stop_sync()
        self.assertNoResult(syncing)
        for _ in range(5):
            self.one._reactor.advance(1)
        self.now(stopping)
        self.failureResultOf(syncing, CancelledError)
        self.sync_slowly(self.one)
        two = self.another()
        self.sync(two)
        self.assertEqual([self.content(two, doc_id)["n"] for doc_id in "abc"], ["a", "b", "c"])
        self.assert_well(self.one, two)

    def test_stopped_while_planning(self) -> None:
        """A sync that is stopped while the next push is planned ends as one that was stopped."""
        self.patch(LocalJournal, "outgoing_behind", lambda *arguments: Deferred())
        syncing = self.one.sync()
        self.assertNoResult(syncing)
        self.now(self.one.stop_sync())
        self.failureResultOf(syncing, CancelledError)


def _given(work: Deferred[None], tell: Callable[[], None]) -> Deferred[None]:
    """Write what is begun already."""
    return work


def answer_id(store: Soledad, page: Any) -> str:
    """Return the id of the document whose record is in a page."""
    (record,) = page.records
    keyring = store._local.keyring.keyring
    return RecordOpener(keyring.roots, RecordNames.under(keyring.names_key)).open(record).doc_id
