"""How many blobs are on their way to or from the server at a time."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import AttachmentStates
from soledad.client.sync.engine import TRANSFERS
from soledad.testing import MemoryServer, make_store


@define(eq=False)
class Slow:
    """A server's blobs that take as long as a test wants."""

    #: The uploads that have begun, to be let through.
    begun: list[Deferred[None]] = field(factory=list)

    def write_blob(self, *args: Any) -> Deferred[None]:
        """See `IRemoteBlobs`."""
        self.begun.append(Deferred())
        return self.begun[-1]


class TransfersTests(SynchronousTestCase):
    """More uploads than are on their way at a time."""

    def setUp(self) -> None:
        """Begin to upload two more."""
        self.slow = Slow()
        memory = MemoryServer()
        memory.add_user("user")
        server = memory.connect("user")
        server.blobs = self.slow  # type: ignore[assignment]
        store = make_store(self, server)
        self.uploads = []
        for _ in range(TRANSFERS + 2):
            doc = self.successResultOf(store.create_doc({}))
            self.successResultOf(doc.put_attachment(b"hello"))
            self.uploads.append(doc.upload_attachment())

    def let_through(self) -> None:
        """Let all that have begun end, and those that begin then."""
        while waiting := [work for work in self.slow.begun if not work.called]:
            waiting[0].callback(None)

    def test_some_wait(self) -> None:
        """Only so many have begun; each that ends lets another begin, and all end."""
        self.assertEqual(len(self.slow.begun), TRANSFERS)
        self.slow.begun[3].callback(None)
        self.assertEqual(len(self.slow.begun), TRANSFERS + 1)
        self.let_through()
        for upload in self.uploads:
            self.assertEqual(self.successResultOf(upload), AttachmentStates.SYNCED)

    def test_cancelled_while_it_waits(self) -> None:
        """One that is cancelled before its turn has come never begins, and holds up nobody."""
        self.uploads[TRANSFERS].cancel()
        self.failureResultOf(self.uploads.pop(TRANSFERS), CancelledError)
        self.let_through()
        self.assertEqual(len(self.slow.begun), TRANSFERS + 1)
        for upload in self.uploads:
            self.assertEqual(self.successResultOf(upload), AttachmentStates.SYNCED)
