"""Tests of the rules of what is kept, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.model.attachment import Pointer
from soledad.model.blob import SyncStatus
from soledad.model.ids import BlobId
from soledad.model.retention import LONGEST, ON_SERVER, Condemned, Plan, Referring, counted, plan

BLOB = BlobId("blob")
POINTER = Pointer(BLOB, 5, None, b"commitment")
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NOBODY: frozenset[BlobId] = frozenset()


class CountedTests(SynchronousTestCase):
    """How much time counts as over."""

    def test_passes(self) -> None:
        """The time that passed counts."""
        self.assertEqual(counted(1000.0, 1060.0), 60.0)

    def test_first(self) -> None:
        """Before the first run no time has been counted."""
        self.assertEqual(counted(None, 1e9), 0.0)

    def test_jumps(self) -> None:
        """A clock that jumps far ahead counts for a day, one that goes back for nothing."""
        self.assertEqual(counted(0.0, 1e9), LONGEST)
        self.assertEqual(counted(1e9, 0.0), 0.0)

    @given(FINITE, FINITE)
    def test_bounded(self, last: float, now: float) -> None:
        """Whatever the clock shows, a run counts at least nothing and at most a day."""
        self.assertTrue(0.0 <= counted(last, now) <= LONGEST)


class PlanTests(SynchronousTestCase):
    """What becomes of a condemned blob whose time is over."""

    def plan(
        self,
        status: SyncStatus = SyncStatus.SYNCED,
        ours: bool = False,
        referring: Referring | None = None,
        held: frozenset[BlobId] = NOBODY,
        online: bool = True,
    ) -> Plan:
        """Plan for one blob."""
        return plan([Condemned(1, BLOB, status, ours)], referring or Referring(), held, online)

    def test_referred(self) -> None:
        """What a version refers to after all is revived, whoever dropped it, and whatever holds it."""
        referring = Referring([POINTER], frozenset({BLOB}))
        self.assertEqual(self.plan(ours=True, referring=referring, held=frozenset({BLOB})), Plan([POINTER]))

    def test_held(self) -> None:
        """What an object in memory points at is let be."""
        self.assertEqual(self.plan(ours=True, held=frozenset({BLOB})), Plan())

    def test_whose(self) -> None:
        """On the server it is deleted by who dropped it, or put it and never referred to it; nobody else."""
        dropped = Referring(dropped=frozenset({BLOB}))
        self.assertEqual(self.plan(), Plan(forgotten=[BLOB]))
        self.assertEqual(self.plan(ours=True), Plan(deleted=[BLOB]))
        self.assertEqual(self.plan(referring=dropped), Plan(deleted=[BLOB]))
        self.assertEqual(self.plan(referring=dropped).collected, [BLOB])

    def test_without_a_server(self) -> None:
        """Without a server only what is known to be on one waits to be deleted there."""
        for status in SyncStatus:
            expected = Plan(deleted=[BLOB]) if status in ON_SERVER else Plan(forgotten=[BLOB])
            self.assertEqual(self.plan(status, ours=True, online=False), expected, status)
            self.assertEqual(self.plan(status, ours=True), Plan(deleted=[BLOB]), status)
