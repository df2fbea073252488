"""When the disk begins with a file."""

from __future__ import annotations

import os

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from soledad.writeback import STRETCH, Writeback


@define(eq=False)
class Noted(Writeback):
    """Notes which parts were begun with."""

    begun: list[tuple[int, int]] = field(factory=list, init=False)

    def begin(self, start: int, size: int) -> None:
        """See `Writeback`."""
        self.begun.append((start, size))


class WritebackTests(SynchronousTestCase):
    """Stretch by stretch, and never the same twice: pages that were written already would be forgotten."""

    def test_stretches(self) -> None:
        """It is told of a stretch when it is complete; what is left at the end is fsync's."""
        writeback = Noted(-1)
        for size in (1, STRETCH - 2, 1, 3 * STRETCH + 5, STRETCH - 1):
            writeback.wrote(size)
        self.assertEqual(writeback.begun, [(0, STRETCH), (STRETCH, 3 * STRETCH + 5)])

    def test_only_advice(self) -> None:
        """What cannot be advised of is no error: a closed file, a pipe."""
        reading, writing = os.pipe()
        Writeback(writing).wrote(STRETCH)
        os.close(reading)
        os.close(writing)
        Writeback(writing).wrote(STRETCH)
