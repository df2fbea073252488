"""Files of blobs that are lost while their store is open: it is noticed by whoever reads, and mended at once."""

from __future__ import annotations

from pathlib import Path

from soledad import AttachmentStates, Document
from soledad.errors import AttachmentNotAvailable, BlobNotFound, StorageFailed
from soledad.model.blob import SyncStatus
from soledad.streams import MemoryConsumer
from tests.client.test_blob_store import INLINE, TwoDevices, noise

S = SyncStatus
DATA = noise(INLINE * 2)


class LostFileCase(TwoDevices):
    """A device with a blob that is a file."""

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.folders[0] / "alice_blobs"

    def lose(self) -> None:
        """Remove all files of the open store."""
        for file in self.folder.iterdir():
            file.unlink()

    def put_and_lose(self, send: bool = True) -> None:
        """Put a blob, perhaps send it, and lose its file."""
        self.put(DATA)
        if send:
            self.now(self.here.blobs.send_missing())
        self.lose()


class BlobTests(LostFileCase):
    """Blobs without a document."""

    def test_get(self) -> None:
        """What the server has is fetched, and stays here from then on."""
        self.put_and_lose()
        self.assertEqual(self.read(device=self.here), DATA)
        self.assertIs(self.status(), S.SYNCED)
        self.server.disconnect()
        self.assertEqual(self.read(device=self.here), DATA)

    def test_out_of_reach(self) -> None:
        """Without the server the loss is noted, and the blob comes with the next sync."""
        self.put_and_lose()
        self.server.disconnect()
        self.outcome(self.here.blobs.get("a"))
        self.assertIs(self.status(), S.REMOTE)
        self.server.heal()
        self.sync(self.here)
        self.assertIs(self.status(), S.SYNCED)

    def test_only_here(self) -> None:
        """What was here only is gone: reading says so, and nothing is tried again and again."""
        self.put_and_lose(send=False)
        self.now(self.here.blobs.send_missing())
        self.assertIs(self.status(), S.AWAITED)
        self.fails(self.here.blobs.get("a"), BlobNotFound)
        self.here._reactor.advance(3600)
        requests = self.watch_requests()
        self.here._reactor.advance(24 * 3600)
        self.server.flush()
        self.assertEqual(requests, [])
        self.now(self.here.blobs.delete("a"))
        self.put(DATA)
        self.sync(self.here)
        self.assertIs(self.status(), S.SYNCED)

    def test_pinned(self) -> None:
        """What is pinned is wanted at once, when the store is opened too."""
        self.put_and_lose()
        self.now(self.here.blobs.pin("a"))
        self.reopen_here()
        self.assertIs(self.status(), S.PENDING_DOWNLOAD)
        self.here._reactor.advance(2)
        self.server.flush()
        self.assertIs(self.status(), S.SYNCED)

    def test_evicted(self) -> None:
        """There is nothing to evict any more."""
        self.put_and_lose()
        self.assertIs(self.now(self.here.blobs.evict("a")), S.REMOTE)
        self.assertEqual(self.read(device=self.here), DATA)

    def test_folder(self) -> None:
        """A folder that is away for a moment is no loss of what is in it."""
        self.put(DATA)
        away = self.folder.rename(self.folder.with_name("away"))
        self.fails(self.here.blobs.get("a"), StorageFailed)
        self.assertIs(self.status(), S.PENDING_UPLOAD)
        away.rename(self.folder)
        self.assertEqual(self.read(device=self.here), DATA)


class AttachmentTests(LostFileCase):
    """Attachments of documents."""

    def attach(self, upload: bool = True) -> Document:
        """Return a document whose attachment has lost its file."""
        doc = self.now(self.here.create_doc({}))
        self.now(doc.put_attachment(DATA))
        self.now(self.here.put_doc(doc))
        if upload:
            self.now(doc.upload_attachment())
        self.lose()
        return doc

    def test_get(self) -> None:
        """The file is fetched."""
        doc = self.attach()
        file = self.now(doc.get_attachment())
        assert file is not None
        with file:
            self.assertEqual(file.read(), DATA)
        self.assertEqual(self.now(doc.get_attachment_state()), AttachmentStates.SYNCED)

    def test_read(self) -> None:
        """Ranges are fetched as ranges."""
        doc = self.attach()
        self.assertEqual(self.now(doc.read_attachment(start=5, length=10)), DATA[5:15])
        self.assertEqual(self.now(doc.get_attachment_state()), AttachmentStates.REMOTE)
        consumer = MemoryConsumer()
        self.now(doc.write_attachment_to(consumer))
        self.assertEqual(consumer.value(), DATA)

    def test_upload(self) -> None:
        """What cannot be sent any more is an attachment to wait for."""
        doc = self.attach(upload=False)
        self.fails(doc.upload_attachment(), AttachmentNotAvailable)
        self.assertEqual(self.now(doc.get_attachment_state()), AttachmentStates.AWAITED)
