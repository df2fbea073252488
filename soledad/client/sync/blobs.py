"""
What to do next with the blobs that wait, as plain functions of what the queue says.

Who does it is `soledad.client.sync.engine`.  Source: docs/spec/blob-sync.rst.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum

from soledad.client.interfaces import Scope
from soledad.model.blob import BlobKey
from soledad.model.transfer import Direction, Queued

#: Containers up to this many bytes go together with others in one request.
TOGETHER = 256 * 1024
#: Bytes, and blobs, that go in one such request.
BATCH_SIZE, BATCH_LENGTH = 2 * 1024 * 1024, 1000
#: Transfers that are looked at to find the next, at most.
MOST = 1200
#: Containers above this are sent so that the rest can follow later.
RESUMABLE = 4 * 1024 * 1024

#: Everything.
ALL = Scope(frozenset(Direction))
SENDING = frozenset({Direction.UPLOAD, Direction.DELETE})
FETCHING = frozenset({Direction.DOWNLOAD})


class Way(Enum):
    """How a container crosses the wire."""

    TOGETHER = "TOGETHER"
    WHOLE = "WHOLE"
    RESUMABLE = "RESUMABLE"


def way_of(row: Queued) -> Way:
    """Choose by size; of what is not known, or has to wait for something else first, one at a time."""
    if 0 < row.sealed.size <= TOGETHER and row.replaces is None and row.direction is not Direction.DELETE:
        return Way.TOGETHER
    return Way.RESUMABLE if row.sealed.size > RESUMABLE else Way.WHOLE


def enough(free: Sequence[Queued], size: int = BATCH_SIZE) -> int:
    """
    Return how many rows to look at for a batch of ``size`` bytes, as far as the first ones tell; 0: for none.

    :param free: the first that nobody has, in the order in which they are to go.
    """
    if not free or way_of(free[0]) is not Way.TOGETHER:
        return 0
    together = sum(row.sealed.size for row in free if _goes_with(row, free[0]))
    # And some more: those that follow may be smaller.
    return min(MOST, max(1, size * len(free) * 5 // (together * 4)))


def _goes_with(row: Queued, first: Queued) -> bool:
    alike = row.direction is first.direction and row.key.namespace == first.key.namespace
    return alike and way_of(row) is Way.TOGETHER


def next_work(
    rows: Sequence[Queued], taken: Collection[BlobKey], size: int = BATCH_SIZE, length: int = BATCH_LENGTH
) -> list[Queued]:
    """
    Return what one transfer does next: the first blob that nobody else has, or as many small ones as go with it.

    :param rows: in the order in which they are to go.
    :param size: bytes that go together at most.
    :param length: blobs that go together at most.
    """
    free = [row for row in rows if row.key not in taken]
    if not free or way_of(free[0]) is not Way.TOGETHER:
        return free[:1]
    first, room = free[0], size
    batch: list[Queued] = []
    for row in free:
        if not _goes_with(row, first):
            continue
        room -= row.sealed.size
        if batch and (room < 0 or len(batch) == length):
            break
        batch.append(row)
    return batch
