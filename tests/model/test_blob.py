"""What a blob is: ranges of it, and the table of its statuses, which is the specification's."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidRange
from soledad.model.blob import TRANSITIONS, WHOLE, ByteRange, Priority, SyncEvent, SyncStatus, after

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "blob-status.rst"


def table(heading: str) -> list[list[str]]:
    """Return the rows of the specification's table under ``heading``."""
    section = SPEC.read_text().split(f"\n{heading}\n---", 1)[1].split("\n---", 1)[0]
    rows = [line.strip().split(" | ") for line in section.splitlines() if line.startswith("   ``")]
    return [[cell.strip("`") for cell in row] for row in rows]


class RangeTests(SynchronousTestCase):
    """Ranges within a size."""

    def test_within(self) -> None:
        """What lies behind the end is cut off."""
        for wanted, expected in (
            (WHOLE, (0, 10)),
            (ByteRange(3), (3, 10)),
            (ByteRange(3, 4), (3, 7)),
            (ByteRange(3, 100), (3, 10)),
            (ByteRange(10), (10, 10)),
            (ByteRange(4, 0), (4, 4)),
        ):
            self.assertEqual(wanted.within(10), expected)

    def test_outside(self) -> None:
        """A start behind the end, and negative numbers, are mistakes."""
        for wanted in (ByteRange(11), ByteRange(11, 0), ByteRange(-1), ByteRange(0, -1)):
            error = self.assertRaises(InvalidRange, wanted.within, 10)
            self.assertEqual((error.start, error.length, error.available), (wanted.start, wanted.length, 10))

    @given(st.integers(0, 50), st.none() | st.integers(0, 50), st.binary(max_size=40))
    def test_as_a_slice(self, start: int, length: int | None, data: bytes) -> None:
        """A range is what a slice is, where it is anything."""
        if start <= len(data):
            first, stop = ByteRange(start, length).within(len(data))
            self.assertEqual(data[first:stop], data[start:][:length])


class StatusTests(SynchronousTestCase):
    """The table in the code is the table in the specification, pair by pair."""

    def test_transitions(self) -> None:
        """Each pair leads where the specification says, and the others are in neither."""
        told = {
            (SyncStatus(status), SyncEvent(event)): SyncStatus(then) for status, event, then in table("Transitions")
        }
        for status in SyncStatus:
            for event in SyncEvent:
                expected = told.get((status, event))
                self.assertIs(TRANSITIONS.get((status, event)), expected, f"{status.name}, {event.name}")

    def test_statuses(self) -> None:
        """The specification knows the statuses, and which of them have their bytes here."""
        here = {SyncStatus(row[0]): row[1] == "yes" for row in table("Statuses")}
        self.assertEqual(here, {status: status.is_local for status in SyncStatus})

    def test_events(self) -> None:
        """The specification knows the events; each occurs somewhere."""
        self.assertEqual([row[0] for row in table("Events")], [event.name for event in SyncEvent])
        self.assertEqual({event for _, event in TRANSITIONS}, set(SyncEvent))

    def test_missing_pair(self) -> None:
        """A pair that is not in the table is a fault, not a no-op."""
        with self.assertRaises(KeyError):
            after(SyncStatus.REMOTE, SyncEvent.EVICTED)

    def test_reachable(self) -> None:
        """Each status can be reached from where blobs begin, and each can be left but by way of deletion."""
        reached = {SyncStatus.UNREFERENCED}
        for _ in SyncStatus:
            reached |= {then for (status, _), then in TRANSITIONS.items() if status in reached}
        self.assertEqual(reached, set(SyncStatus))

    def test_bytes_do_not_appear(self) -> None:
        """Bytes come here only by arriving, or by being put: no other event makes what is not here be here."""
        for (status, event), then in TRANSITIONS.items():
            if then.is_local and not status.is_local:
                self.assertIn(event, (SyncEvent.ARRIVED, SyncEvent.PUT))

    def test_the_server_deletes_nothing(self) -> None:
        """Whatever the server says or misses, bytes that are here stay here."""
        for (status, event), then in TRANSITIONS.items():
            if event in (SyncEvent.MISSED, SyncEvent.CONFIRMED, SyncEvent.REFUSED) and status.is_local:
                self.assertTrue(then.is_local)

    def test_names_are_values(self) -> None:
        """What a row keeps is the name."""
        for member in (*SyncStatus, *SyncEvent):
            self.assertEqual(member.name, member.value)

    def test_priorities(self) -> None:
        """What is urgent goes first."""
        self.assertEqual(max(Priority), Priority.URGENT)
