"""The tests of `notes`, with real stores and a server in memory: no sockets, no threads, no waiting."""

from __future__ import annotations

import shutil

from notes import Notes
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import AttachmentStates, Document
from soledad.errors import AuthenticationFailed, QuotaExceeded
from soledad.testing import MemoryServer, make_store

PICTURE = b"\x89PNG" + bytes(500_000)


class NotesTests(SynchronousTestCase):
    """One person, one device."""

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
