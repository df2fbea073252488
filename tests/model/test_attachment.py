"""The state of an attachment: what an application is told of where the bytes are."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from soledad.model.attachment import AttachmentState, AttachmentStates, state_of
from soledad.model.blob import SyncStatus
from tests.model.test_blob import table


class StateTests(SynchronousTestCase):
    """States as applications use them."""

    def test_flags(self) -> None:
        """``SYNCED`` is both ``LOCAL`` and ``REMOTE``; ``AWAITED`` stands alone; nothing is nothing."""
        self.assertEqual(AttachmentStates.LOCAL | AttachmentStates.REMOTE, AttachmentStates.SYNCED)
        self.assertTrue(AttachmentStates.SYNCED & AttachmentStates.REMOTE)
        self.assertFalse(AttachmentStates.AWAITED & AttachmentStates.SYNCED)
        self.assertFalse(AttachmentStates.NONE)
        self.assertEqual([int(state) for state in AttachmentStates], [1, 2, 4])

    def test_other_name(self) -> None:
        """Both names are one class."""
        self.assertIs(AttachmentState, AttachmentStates)

    def test_of_each_status(self) -> None:
        """Each status of a blob gives the state that the specification says."""
        told = {SyncStatus(row[0]): AttachmentStates[row[2]] for row in table("Statuses")}
        self.assertEqual(told, {status: state_of(status) for status in SyncStatus})

    def test_local_is_local(self) -> None:
        """``LOCAL`` is told of just those blobs whose bytes are here."""
        for status in SyncStatus:
            self.assertEqual(bool(state_of(status) & AttachmentStates.LOCAL), status.is_local)

    def test_unknown(self) -> None:
        """A blob that this device has never heard of is awaited."""
        self.assertIs(state_of(None), AttachmentStates.AWAITED)
