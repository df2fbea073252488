"""The tests of `notes`, with real stores and a server in memory: no sockets, no threads, no waiting."""

from __future__ import annotations

import shutil

from notes import Notes
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import AttachmentStates, Document
from soledad.errors import AuthenticationFailed, QuotaExceeded, RetriableTransferError
from soledad.testing import MemoryServer, make_store

PICTURE = b"\x89PNG" + bytes(500_000)


class NotesTests(SynchronousTestCase):
    """One person, and their devices."""

    def setUp(self) -> None:
        """Open a store that is closed when the test ends, by itself."""
        self.server = MemoryServer()
        self.folder = self.mktemp()
        self.store = make_store(self, self.server, data_dir=self.folder)
        self.notes = Notes(self.store)

    def add(self) -> Document:
        """Add a note."""
        return self.successResultOf(Deferred.fromCoroutine(self.notes.add("a note", PICTURE)))

    def back_up(self, doc: Document) -> bool:
        """Upload its picture."""
        return self.successResultOf(Deferred.fromCoroutine(self.notes.back_up(doc)))

    def test_offline(self) -> None:
        """A note is added without a network, and backed up when it is there again."""
        self.server.disconnect()
        doc = self.add()
        self.assertFalse(self.back_up(doc))
        self.server.heal()
        self.assertTrue(self.back_up(doc))

    def test_cut(self) -> None:
        """A connection that breaks in the middle is no reason to give up."""
        doc = self.add()
        self.server.cut_after(100_000)
        self.assertFalse(self.back_up(doc))
        self.assertTrue(self.back_up(doc))

    def test_refused(self) -> None:
        """A server without room is not tried again: a person must act."""
        doc = self.add()
        self.server.refuse(QuotaExceeded())
        self.failureResultOf(Deferred.fromCoroutine(self.notes.back_up(doc)), QuotaExceeded)

    def test_tampered(self) -> None:
        """What was altered on the server is refused, here by a store that lost its blobs' files."""
        self.assertTrue(self.back_up(self.add()))
        self.server.flip(200_000)
        self.successResultOf(self.store.close())
        shutil.rmtree(f"{self.folder}/user_blobs")
        store = make_store(self, self.server, data_dir=self.folder)
        _, (doc,) = self.successResultOf(store.get_all_docs())
        self.assertEqual(self.successResultOf(doc.get_attachment_state("picture")), AttachmentStates.REMOTE)
        self.failureResultOf(doc.download_attachment("picture"), AuthenticationFailed)

    def test_second_device(self) -> None:
        """A note is on the person's other device, with its picture, when both have synced."""
        self.add()
        self.successResultOf(self.store.sync())
        other = make_store(self, self.server)
        self.successResultOf(other.sync())
        _, (doc,) = self.successResultOf(other.get_all_docs())
        self.assertEqual(doc.content, {"text": "a note"})
        self.assertEqual(self.successResultOf(doc.read_attachment("picture")), PICTURE)

    def test_sync_offline(self) -> None:
        """A server that is out of reach fails a sync, and nothing is lost: the next one goes on."""
        self.add()
        self.server.disconnect()
        self.failureResultOf(self.store.sync(), RetriableTransferError)
        self.server.heal()
        self.successResultOf(self.store.sync())
        self.assertEqual(self.store.sync_progress[0], self.store.sync_progress[1])
