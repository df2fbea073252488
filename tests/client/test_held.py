"""Tests of what objects in memory point at."""

from __future__ import annotations

import gc
from copy import copy, deepcopy

from twisted.trial.unittest import SynchronousTestCase

from soledad import Document
from soledad.client.held import Held
from soledad.model.attachment import Pointer
from soledad.model.ids import BlobId

BLOB = BlobId("blob")


def pointer() -> Pointer:
    """Return a pointer, a new object each time."""
    return Pointer(BLOB, 5, None, b"commitment")


class HeldTests(SynchronousTestCase):
    """As long as an object lives, and not longer."""

    def setUp(self) -> None:
        """Have nothing held."""
        self.held = Held()

    def is_held(self) -> bool:
        """Tell whether the blob is held, by what still can be reached."""
        gc.collect()
        return BLOB in self.held.blob_ids()

    def test_lives(self) -> None:
        """A pointer holds its blob until it is gone."""
        one = pointer()
        self.held.hold([one])
        self.assertTrue(self.is_held())
        del one
        self.assertFalse(self.is_held())

    def test_equal_ones(self) -> None:
        """Of two equal pointers each holds it by itself."""
        one, other = pointer(), pointer()
        self.held.hold([one, other])
        del one
        self.assertTrue(self.is_held())
        del other
        self.assertFalse(self.is_held())

    def test_copies(self) -> None:
        """Copies of a document hold what it pointed at."""
        for copied in (copy, deepcopy):
            doc = Document("doc")
            doc.attach("default", pointer())
            self.held.hold(doc.attachments.values())
            other = copied(doc)
            del doc
            self.assertTrue(self.is_held())
            self.assertEqual(other.attachments["default"].blob_id, BLOB)
            del other
            self.assertFalse(self.is_held())

    def test_snapshots(self) -> None:
        """A write that is under way holds what the document pointed at when it began."""
        doc = Document("doc")
        doc.attach("default", pointer())
        self.held.hold(doc.attachments.values())
        snapshot = doc.snapshot()
        doc.attach("default", None)
        self.assertTrue(self.is_held())
        del snapshot
        self.assertFalse(self.is_held())
