"""Tables of heads, and what they come to."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.sync.watch import Verdict, as_error, found_in, judge
from soledad.crypto.checkpoint import Checkpoint, Commit, KeyringMark
from soledad.errors import ServerRolledBack, TamperingDetected
from soledad.model.ids import DocId, RecordName
from soledad.model.tampering import IncidentKind, Problem, Reason

ME, OTHER = "a" * 32, "b" * 32
LAST = Checkpoint(
    "c" * 32,
    5,
    7,
    KeyringMark(2, bytes(32)),
    1,
    {ME: Commit(2, "1" * 32, 0), OTHER: Commit(3, "2" * 32, 0)},
)


class JudgeTests(SynchronousTestCase):
    """`judge`."""

    def judge(self, head: Checkpoint, known: Checkpoint | None = LAST, pending: Commit | None = None) -> Verdict:
        """Judge a head whose records are what it says."""
        return judge(known, head, ME, pending, 7)

    def test_table(self) -> None:
        """What is found in which head."""
        next_ = evolve(LAST, number=6)
        for found, head in (
            (set(), LAST),
            (set(), evolve(next_, devices={**LAST.devices, OTHER: Commit(4, "3" * 32, 9)})),
            ({IncidentKind.STATE_BACK}, evolve(LAST, number=4)),
            ({IncidentKind.HISTORY_SPLIT}, evolve(LAST, keyring=KeyringMark(3, bytes(32)))),
            ({IncidentKind.STATE_BACK}, evolve(next_, restarts=0)),
            ({IncidentKind.STATE_BACK}, evolve(next_, devices={ME: LAST.devices[ME]})),
            ({IncidentKind.STATE_BACK}, evolve(next_, devices={**LAST.devices, OTHER: Commit(2, "3" * 32, 0)})),
            ({IncidentKind.HISTORY_SPLIT}, evolve(next_, devices={**LAST.devices, OTHER: Commit(3, "3" * 32, 0)})),
            ({IncidentKind.HISTORY_SPLIT}, evolve(next_, history="d" * 32)),
            (
                {IncidentKind.COMMITS_MISSING, IncidentKind.HISTORY_SPLIT},
                evolve(next_, devices={**LAST.devices, ME: Commit(2, "3" * 32, 0)}),
            ),
            (
                {IncidentKind.COMMITS_MISSING, IncidentKind.STATE_BACK},
                evolve(next_, devices={**LAST.devices, ME: Commit(1, "3" * 32, 0)}),
            ),
            ({IncidentKind.STATE_DIFFERS}, evolve(next_, digest=8)),
            ({IncidentKind.KEYRING_BACK}, evolve(next_, keyring=KeyringMark(1, bytes(32)))),
            ({IncidentKind.KEYRING_BACK}, evolve(next_, keyring=KeyringMark(2, b"x" * 32))),
        ):
            with self.subTest(found=found, head=head):
                self.assertEqual(self.judge(head).found, found)

    def test_restarted(self) -> None:
        """More restarts excuse what went back, and nothing else."""
        head = evolve(LAST, number=2, restarts=2, devices={})
        self.assertEqual(self.judge(head), Verdict(has_restarted=True))
        self.assertEqual(self.judge(evolve(head, digest=8)).found, {IncidentKind.STATE_DIFFERS})

    def test_own_entry(self) -> None:
        """A pending commit arrived, or a copy of this store made one."""
        head = evolve(LAST, number=6, devices={**LAST.devices, ME: Commit(3, "4" * 32, 0)})
        self.assertTrue(self.judge(head, pending=Commit(3, "4" * 32, 0)).has_arrived)
        self.assertTrue(self.judge(head, pending=Commit(3, "5" * 32, 0)).is_copy)
        self.assertTrue(self.judge(head).is_copy)
        self.assertTrue(self.judge(head, known=None).is_copy)
        self.assertEqual(self.judge(evolve(head, devices={OTHER: LAST.devices[OTHER]}), known=None), Verdict())

    def test_met_before(self) -> None:
        """A server whose history was seen before must have it, even if nothing else is known."""
        head = evolve(LAST, devices={OTHER: LAST.devices[OTHER]})
        self.assertEqual(judge(None, head, ME, None, 7, "d" * 32).found, {IncidentKind.HISTORY_SPLIT})
        self.assertEqual(judge(None, head, ME, None, 7, head.history).found, frozenset())


class ErrorTests(SynchronousTestCase):
    """What is raised."""

    def test_rolled_back(self) -> None:
        """What a restored backup looks like has an error of its own."""
        error = as_error([IncidentKind.STATE_BACK, IncidentKind.COMMITS_MISSING])
        self.assertIsInstance(error, ServerRolledBack)
        self.assertEqual(error.kinds, ("STATE_BACK", "COMMITS_MISSING"))
        self.assertIs(type(as_error([IncidentKind.STATE_BACK, IncidentKind.RECORD_FORGED])), TamperingDetected)

    def test_problems(self) -> None:
        """A key that is not here yet, and what is too large, accuse nobody."""
        problems = [Problem(reason, RecordName("1" * 64)) for reason in Reason]
        self.assertEqual(found_in(problems), {IncidentKind.RECORD_BACK, IncidentKind.RECORD_FORGED})

    def test_stated(self) -> None:
        """A record that was never good, and that a checkpoint speaks of, is nobody's offence any more."""
        name = RecordName("0" * 64)
        for reason, doc_id, is_found in (
            (Reason.FORGED, None, False),
            (Reason.FORGED, DocId("a"), True),
            (Reason.OLDER, None, True),
        ):
            self.assertEqual(bool(found_in([Problem(reason, name, doc_id)], is_stated=True)), is_found)
