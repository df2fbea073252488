"""Of requests for one thing the newest goes on."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import completed, unawaited
from soledad.server.turns import Superseded, Turn, Turns


class TurnsTests(SynchronousTestCase):
    """Who may go on, and when."""

    def setUp(self) -> None:
        """Nobody is at anything."""
        self.turns = Turns()
        self.events: list[str] = []

    def run_it(
        self, name: str, work: Deferred[None], key: str = "key", tidy: Deferred[None] | None = None
    ) -> Deferred[str]:
        """Be at something until ``work`` fires, and then until ``tidy`` does."""

        async def body(turn: Turn) -> str:
            self.events.append(f"{name} begins")
            try:
                await work
            finally:
                if tidy is not None:
                    await completed(tidy)
                self.events.append(f"{name} ends")
            return name

        return Deferred.fromCoroutine(self.turns.run(key, body))

    def test_newest(self) -> None:
        """A newer one begins when the older one has ended and tidied up, not before."""
        tidy: Deferred[None] = Deferred()
        old = self.run_it("old", Deferred(), tidy=tidy)
        work: Deferred[None] = Deferred()
        new = self.run_it("new", work)
        self.assertEqual(self.events, ["old begins"])
        tidy.callback(None)
        self.failureResultOf(old, Superseded)
        self.assertEqual(self.events, ["old begins", "old ends", "new begins"])
        work.callback(None)
        self.assertEqual(self.successResultOf(new), "new")

    def test_of_several(self) -> None:
        """Of several that wait only the newest begins."""
        tidy: Deferred[None] = Deferred()
        works = [self.run_it("old", Deferred(), tidy=tidy)]
        works += [self.run_it(name, Deferred()) for name in ("second", "third", "fourth")]
        tidy.callback(None)
        self.assertEqual(self.events, ["old begins", "old ends", "fourth begins"])
        for work in works[:3]:
            self.failureResultOf(work, Superseded)
        works[3].cancel()
        self.failureResultOf(works[3], CancelledError)

    def test_check(self) -> None:
        """One that was stopped where nothing can be cancelled finds out when it checks."""
        for stop, expected in (
            (lambda work: work.cancel(), CancelledError),
            (lambda work: unawaited(self.run_it("new", succeed(None))), Superseded),
        ):
            uncancellable: Deferred[None] = Deferred()

            async def body(turn: Turn, work: Deferred[None] = uncancellable) -> None:
                await completed(work)
                turn.check()
                self.events.append("goes on")

            old = Deferred.fromCoroutine(self.turns.run("key", body))
            stop(old)
            self.assertNoResult(old)
            uncancellable.callback(None)
            self.failureResultOf(old, expected)
        self.assertEqual(self.events, ["new begins", "new ends"])

    def test_separate(self) -> None:
        """Different things are different, and one that has ended disturbs nobody."""
        works: list[Deferred[None]] = [Deferred() for _ in range(3)]
        first, second = self.run_it("1", works[0], "a"), self.run_it("2", works[1], "b")
        works[0].callback(None)
        self.assertEqual(self.successResultOf(first), "1")
        third = self.run_it("3", works[2], "a")
        works[1].callback(None)
        works[2].callback(None)
        self.assertEqual([self.successResultOf(second), self.successResultOf(third)], ["2", "3"])

    def test_nothing_is_kept(self) -> None:
        """Whoever has ended is forgotten."""
        works = [self.run_it("old", Deferred()), self.run_it("new", Deferred())]
        for work, expected in zip(works, (Superseded, CancelledError), strict=True):
            work.cancel()
            self.failureResultOf(work, expected)
        self.assertEqual(self.turns._newest, {})
