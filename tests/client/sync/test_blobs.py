"""What goes next, and with what."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.sync.blobs import (
    BATCH_LENGTH,
    BATCH_SIZE,
    MOST,
    RESUMABLE,
    TOGETHER,
    Way,
    enough,
    next_work,
    way_of,
)
from soledad.model.blob import BlobKey, Priority, Sealed, SyncStatus
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.model.transfer import Queued

S = SyncStatus


def row(blob_id: str, size: int, status: SyncStatus = S.PENDING_UPLOAD, namespace: Namespace = DEFAULT) -> Queued:
    """Return a blob that waits."""
    key = BlobKey(namespace, BlobId(blob_id))
    return Queued(key, status, Priority.MEDIUM, Sealed(size, size, None, b"c" * 32))


def ids(rows: list[Queued]) -> str:
    """Return the ids."""
    return "".join(each.key.blob_id for each in rows)


class WayTests(SynchronousTestCase):
    """Source: docs/spec/blob-sync.rst, "The queue"."""

    def test_sizes(self) -> None:
        """By size; one whose size is not known goes by itself, as a deletion does, and what waits for one."""
        for size, way in ((1, Way.TOGETHER), (TOGETHER, Way.TOGETHER), (TOGETHER + 1, Way.WHOLE),
                          (RESUMABLE, Way.WHOLE), (RESUMABLE + 1, Way.RESUMABLE), (0, Way.WHOLE)):  # fmt: skip
            self.assertIs(way_of(row("a", size)), way)
        self.assertIs(way_of(row("a", 10, S.PENDING_DELETE)), Way.WHOLE)
        self.assertIs(way_of(evolve(row("a", 10), replaces=b"c" * 32)), Way.WHOLE)


class NextWorkTests(SynchronousTestCase):
    """The first that is free, and what goes with it."""

    def test_none(self) -> None:
        """Nothing waits, or somebody else has it."""
        self.assertEqual(next_work([], set()), [])
        self.assertEqual(next_work([row("a", 10)], {row("a", 10).key}), [])

    def test_first(self) -> None:
        """The first goes, by itself if it is large."""
        rows = [row("a", TOGETHER + 1), row("b", 10), row("c", 10)]
        self.assertEqual(ids(next_work(rows, set())), "a")
        self.assertEqual(ids(next_work(rows, {rows[0].key})), "bc")

    def test_together(self) -> None:
        """Small ones of one direction and one namespace go together, as many as fit."""
        rows = [
            row("a", 10),
            row("b", 10, S.PENDING_DOWNLOAD),
            row("c", 10, namespace=Namespace("mails")),
            row("d", TOGETHER + 1),
            row("e", 10, S.PENDING_DELETE),
            row("f", 10),
        ]
        self.assertEqual(ids(next_work(rows, set())), "af")
        self.assertEqual(ids(next_work(rows[1:], set())), "b")
        self.assertEqual(ids(next_work([row("a", 10, S.AWAITED), row("b", 10, S.PENDING_DOWNLOAD)], set())), "ab")

    def test_bounds(self) -> None:
        """A batch has so many bytes and blobs at most, and one at least."""
        half = BATCH_SIZE // 16
        self.assertEqual(len(next_work([row(str(n), half) for n in range(30)], set())), 16)
        self.assertEqual(len(next_work([row(str(n), 1) for n in range(BATCH_LENGTH * 2)], set())), BATCH_LENGTH)
        self.assertEqual(len(next_work([row(str(n), 1) for n in range(5)], set(), length=2)), 2)
        self.assertEqual(ids(next_work([row("a", 100), row("b", 10)], set(), size=50)), "a")

    def test_enough(self) -> None:
        """As many are looked at as hold a batch, by the first ones: for small ones more, for large ones none."""
        small = BATCH_SIZE // 100
        self.assertEqual(enough([row("a", small)] * 8), 125)
        self.assertEqual(enough([row("a", small), row("b", small, S.PENDING_DOWNLOAD)] * 4), 250)
        self.assertEqual(enough([row("a", 1)] * 8), MOST)
        self.assertEqual(enough([row("a", 100)], size=50), 1)
        self.assertEqual(enough([row("a", RESUMABLE), row("b", 10)]), 0)
        self.assertEqual(enough([]), 0)
