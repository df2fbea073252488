"""Syncs that are interrupted, joined, stopped, and disturbed: the next one goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError

from soledad import Document, Reason, Soledad
from soledad.client.local import database
from soledad.deferreds import unawaited
from soledad.errors import ConnectionFailed, PreconditionFailed, QuotaExceeded, StoreClosed
from soledad.testing import MemoryServer
from tests.client.sync.devices import DevicesTestCase, put_between
from tests.client.sync.evil import Evil

MANY = 2100


def losing(method: str) -> Any:
    """Return what loses the answer to the first call of a method."""
    lost: list[bool] = []

    def lose(name: str, number: int, answer: Any) -> Any:
        if name == method and not lost:
            lost.append(True)
            raise ConnectionFailed()
        return answer

    return lose


class InterruptedTests(DevicesTestCase):
    """Networks and processes that end."""

    def many(self, store: Soledad) -> None:
        """Have more documents than go into two pages."""
        self.now(store.put_docs([Document(f"D-{number}", content={"n": number}) for number in range(MANY)]))

    def count(self, store: Soledad) -> int:
        """Return how many documents there are."""
        return len(self.now(store.get_all_docs())[1])

    def test_lost_answer(self) -> None:
        """A push whose answer was lost is found to have arrived, and is not made again."""
        doc = self.put(self.one, "a", {"n": 1})
        put_between(self.one, after=losing("push"))
        self.fails(self.one.sync(), ConnectionFailed)
        tag = Evil(self.server).checkpoint()
        one = self.reopen(self.one)
        between = put_between(one)
        self.sync(one)
        self.assertEqual((between.calls, Evil(self.server).checkpoint()), (["pull"], tag))
        self.sync(one)
        self.assertEqual(self.now(one.incidents()), [])
        doc = self.put(one, "a", {"n": 2})
        two = self.another_of(one)
        self.sync(one, two)
        self.assertEqual(self.now(two.get_doc("a")), doc)

    def another_of(self, store: Soledad) -> Soledad:
        """Open another device."""
        self.one = store
        return self.another()

    def test_not_sent(self) -> None:
        """A push that did not arrive is made again, byte for byte; what was changed since goes with the next one."""
        self.put(self.one, "a", {"n": 1})
        tags: list[str | None] = []

        def lose(name: str, number: int) -> None:
            if name == "push":
                raise ConnectionFailed()

        put_between(self.one, before=lose)
        self.fails(self.one.sync(), ConnectionFailed)
        kept = self.now(self.one._journal.look()).pending
        assert kept is not None
        self.put(self.one, "a", {"n": 2})
        one = self.reopen(self.one)

        def see(name: str, number: int, answer: Any) -> Any:
            tags.append(self.now(between.remote.head()).tag)
            return answer

        between = put_between(one, after=see)
        self.sync(one)
        self.assertEqual(between.calls, ["pull", "push", "push"])
        self.assertEqual(tags[1], kept.tag)
        two = self.another_of(one)
        self.sync(two)
        self.assertEqual(self.content(two, "a"), {"n": 2})

    def test_lost_and_overtaken(self) -> None:
        """A push that arrived, and was followed by another device's, is found in the head."""
        self.put(self.one, "a", {"n": 1})
        two = self.another()
        put_between(self.one, after=losing("push"))
        self.fails(self.one.sync(), ConnectionFailed)
        self.put(two, "b", {"n": 2})
        self.sync(two, self.one)
        self.assertIsNone(self.now(self.one._journal.look()).pending)
        self.assertEqual(self.content(self.one, "b"), {"n": 2})
        self.assertEqual(self.now(self.one.incidents()), [])

    def test_pages(self) -> None:
        """Pages that came are not asked for again."""
        self.many(self.one)
        self.sync(self.one)
        two = self.another()
        put_between(two, before=lambda name, number: self.lose_at(number, 2))
        self.fails(two.sync(), ConnectionFailed)
        self.assertEqual(self.count(two), 2000)
        two = self.reopen(two)
        between = put_between(two)
        self.sync(two)
        self.assertEqual((self.count(two), between.calls), (MANY, ["pull"]))

    def lose_at(self, number: int, at: int) -> None:
        """Lose a request."""
        if number == at:
            raise ConnectionFailed()

    def test_changed_meanwhile(self) -> None:
        """What is changed while a push is under way goes out with the same sync, as a change of its own."""
        self.put(self.one, "a", {"n": 1})
        changed: list[bool] = []

        def change(name: str, number: int) -> None:
            if name == "push" and not changed:
                changed.append(True)
                self.put(self.one, "a", {"n": 2})

        between = put_between(self.one, before=change)
        self.sync(self.one)
        self.assertEqual(between.calls, ["pull", "push", "push"])
        two = self.another()
        self.sync(two)
        self.assertEqual(self.content(two, "a"), {"n": 2})

    def test_quicker(self) -> None:
        """When another device is quicker, its changes are taken, and then it is pushed again, after a pause."""
        two = self.another()
        self.sync(self.one, two)
        self.put(self.one, "a", {"n": 1})
        self.put(two, "b", {"n": 2})

        def be_quicker(name: str, number: int) -> None:
            if name == "push" and number == 1:
                self.sync(two)

        put_between(self.one, before=be_quicker)
        work = self.one.sync()
        self.assertNoResult(work)
        self.one._reactor.advance(1)
        self.now(work)
        self.assertEqual(self.content(self.one, "b"), {"n": 2})
        self.sync(two)
        self.assertEqual(self.content(two, "a"), {"n": 1})

    def test_always_quicker(self) -> None:
        """It gives up in the end."""
        self.put(self.one, "a", {})

        def refuse(name: str, number: int) -> None:
            if name == "push":
                raise PreconditionFailed()

        put_between(self.one, before=refuse)
        work = self.one.sync()
        for _ in range(20):
            self.one._reactor.advance(10)
        self.fails(work, PreconditionFailed)

    def test_quota(self) -> None:
        """A server that has no room says so, and takes what is less afterwards."""
        server = MemoryServer(quota=3000)
        folder = self.folders[self.one]
        self.now(self.one.close())
        one = self.open(folder, server)
        self.put(one, "a", {"text": "x" * 3000})
        for _ in range(2):
            self.fails(one.sync(), QuotaExceeded)
        self.put(one, "a", {})
        self.sync(one)
        self.assertEqual(len(Evil(server).names()), 1)


class WaitingTests(DevicesTestCase):
    """A sync that stands still, and those who wait for it."""

    def setUp(self) -> None:
        """Let the server not answer."""
        super().setUp()
        self.put(self.one, "a", {})
        self.server.stall()

    def test_joined(self) -> None:
        """Who asks while one runs joins it; both hear of its progress."""
        told: list[tuple[int, int]] = []
        first, second = self.one.sync(), self.one.sync(lambda *now: told.append(now))
        self.assertTrue(self.one.syncing)
        self.server.heal()
        self.assertEqual((self.now(first), self.now(second)), (1, 1))
        self.assertFalse(self.one.syncing)
        done, total = told[-1]
        self.assertTrue(done == total > 0)
        self.assertEqual(self.one.sync_progress, told[-1])

    def test_cancelled(self) -> None:
        """Who cancels no longer waits; the last one ends it."""
        first, second = self.one.sync(), self.one.sync()
        first.cancel()
        self.fails(first, CancelledError)
        self.assertTrue(self.one.syncing)
        second.cancel()
        self.server.flush()
        self.fails(second, CancelledError)
        self.assertFalse(self.one.syncing)
        self.server.heal()
        self.sync(self.one)

    def test_stopped(self) -> None:
        """Stopping ends it for all."""
        works = [self.one.sync(), self.one.sync()]
        stopped = self.one.stop_sync()
        self.server.flush()
        self.now(stopped)
        for work in works:
            self.fails(work, CancelledError)
        self.now(self.one.stop_sync())

    def test_closed(self) -> None:
        """Closing the store ends it."""
        work = self.one.sync()
        closed = self.one.close()
        self.server.flush()
        self.fails(work, StoreClosed)
        self.now(closed)

    def test_local(self) -> None:
        """Local reads and writes go on."""
        work = self.one.sync()
        self.put(self.one, "b", {"n": 1})
        self.assertEqual(self.content(self.one, "b"), {"n": 1})
        self.server.heal()
        self.now(work)

    def test_restore_waits(self) -> None:
        """Saying that the server was restored waits for the sync that runs."""
        work, restored = self.one.sync(), self.one.accept_server_restore()
        self.assertNoResult(restored)
        self.server.heal()
        self.now(work)
        self.now(restored)


class CancelledTests(DevicesTestCase):
    """Cancelling at every request, and after it."""

    def test_every_stage(self) -> None:
        """Whenever it is cancelled, it ends there, and the next one finishes what is left."""
        two = self.another()
        self.put(two, "b", {"n": 1})
        self.sync(two)
        for at in range(3):
            for after in (False, True):
                self.put(self.one, "a", {"n": at, "after": after})
                self.put(two, "b", {"n": at, "after": after})
                self.sync(two)
                self.cancel_at(self.one, at, after)
                self.assertFalse(self.one.syncing)
                put_between(self.one)
                self.sync(self.one, two)
                self.assertEqual(self.content(two, "a"), {"n": at, "after": after})
                self.assertEqual(self.content(self.one, "b"), {"n": at, "after": after})
        self.assertEqual(self.now(self.one.incidents()) + self.now(two.incidents()), [])

    def cancel_at(self, store: Soledad, at: int, after: bool) -> None:
        """Sync, and cancel that at a request, or at its answer."""

        def cancel(name: str, number: int, answer: Any = None) -> Any:
            if number == at:
                store._syncing._stop()  # type: ignore[union-attr]
            return answer

        between = put_between(store, **{"after" if after else "before": cancel})
        outcome: list[Any] = []
        unawaited(store.sync().addBoth(outcome.append))
        if len(between.calls) > at:
            outcome[0].trap(CancelledError)
        self.assertLessEqual(len(between.calls), at + 1)


class KilledTests(DevicesTestCase):
    """A process that is gone after any of its commits."""

    def setUp(self) -> None:
        """See each commit."""
        self.commits: list[Any] = []
        self.at = -1
        self.left: Path | None = None
        original = database.commit_group

        def commit_group(*args: Any) -> Any:
            outcomes = original(*args)
            if self.at >= 0:
                self.commits.append(outcomes)
                if len(self.commits) == self.at + 1:
                    self.left = self.copy(self.one)
            return outcomes

        self.patch(database, "commit_group", commit_group)
        super().setUp()

    def die(self, name: str, number: int) -> None:
        """Send nothing any more."""
        if self.left is not None:
            raise ConnectionFailed()

    def test_every_commit(self) -> None:
        """Wherever it ends, the next sync brings what is left, and nothing is amiss."""
        two = self.another()
        for at in range(8):
            self.put(self.one, "a", {"n": at})
            self.put(two, "b", {"n": at})
            self.sync(two)
            put_between(self.one, before=self.die)
            self.left, self.at = None, at
            self.commits.clear()
            outcome: list[Any] = []
            unawaited(self.one.sync().addBoth(outcome.append))
            self.at = -1
            self.now(self.one.close())
            self.one = self.open(self.left or self.folders[self.one])
            self.sync(self.one, two)
            self.assertEqual(self.content(self.one, "b"), {"n": at})
            self.assertEqual(self.content(two, "a"), {"n": at})
        # The last round found fewer commits: it was through all of them.
        self.assertIsNone(self.left)
        self.assertEqual(self.now(self.one.incidents()) + self.now(two.incidents()), [])


class ProblemTests(DevicesTestCase):
    """Documents that take no part."""

    def test_too_big(self) -> None:
        """One that is too large is not sent, and reported; the others are; it goes when it is smaller."""
        self.put(self.one, "a", {"text": "x" * (5 << 20)})
        self.put(self.one, "b", {"n": 1})
        two = self.another()
        self.sync(self.one, two)
        self.assertEqual((self.content(two, "a"), self.content(two, "b")), (None, {"n": 1}))
        (problem,) = self.now(self.one.sync_problems())
        self.assertEqual((problem.reason, problem.doc_id), (Reason.TOO_BIG, "a"))
        between = put_between(self.one)
        self.sync(self.one)
        self.assertEqual(between.calls, ["pull"])
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, two)
        self.assertEqual(self.content(two, "a"), {"n": 1})
        self.assertEqual(self.now(self.one.sync_problems()), [])

    def test_set_aside(self) -> None:
        """While the server's record of a document is set aside, the document is not sent; afterwards it is."""
        two = self.another()
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, two)
        evil = Evil(self.server)
        (name,) = evil.names()
        good = evil.record(name)
        self.put(self.one, "b", {})
        self.sync(self.one)
        evil.replace(name, good[:-1] + bytes([good[-1] ^ 1]))
        self.put(two, "a", {"n": 2})
        self.sync(two)
        self.assertNotEqual(evil.record(name), good)
        self.assertEqual(self.content(two, "a"), {"n": 2})
        evil.replace(name, good)
        self.sync(two, self.one)
        self.assertEqual(self.now(two.sync_problems()), [])
        self.assertEqual(self.content(self.one, "a"), {"n": 2})

    def test_another_server(self) -> None:
        """With another server everything is sent, under another name; back at the first one all is well."""
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        folder = self.folders[self.one]
        self.now(self.one.close())
        other = MemoryServer()
        other.url = "http://other.invalid"
        one = self.open(folder, other)
        self.sync(one)
        self.assertEqual(len(Evil(other).names()), 1)
        self.now(one.close())
        one = self.open(folder)
        self.put(one, "b", {"n": 1})
        self.sync(one)
        self.assertEqual(len(Evil(self.server).names()), 2)
        self.assertEqual(self.now(one.incidents()), [])
        self.assertTrue(Path(folder).exists())
