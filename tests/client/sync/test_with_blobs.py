"""`Soledad.sync` with attachments, and with blobs that have no document: documents first, then bytes."""

from __future__ import annotations

from os import urandom
from typing import Any

from soledad import AttachmentStates, Document, SyncStatus
from soledad.errors import ConnectionFailed
from soledad.testing import MemoryServer
from tests.client.sync.devices import DevicesTestCase


class Counted(MemoryServer):
    """A server that counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        render = self._door.render

        def counted(request: Any) -> Any:
            self.asked.append(f"{request.method.decode()} {request.path.decode().split('/')[1]}")
            return render(request)

        self._door.render = counted  # type: ignore[method-assign]


class AttachmentTests(DevicesTestCase):
    """What a person with two devices sees of an attachment."""

    server: Counted

    def make_server(self) -> MemoryServer:
        """Let the server count."""
        return Counted()

    def attached(self, data: bytes) -> Document:
        """Save a document with an attachment."""
        doc = self.now(self.one.create_doc({"title": "Hackers"}, "a"))
        self.now(doc.put_attachment(data))
        self.now(self.one.put_doc(doc))
        return doc

    def test_travels(self) -> None:
        """Of any size, it is on the other device after both have synced, and nobody had to ask for it."""
        for size in (0, 10_000, 300_000, 5_000_000):
            data = urandom(size)
            doc = self.now(self.one.create_doc({}))
            self.now(doc.put_attachment(data))
            self.now(self.one.put_doc(doc))
            two = self.another()
            self.sync(self.one, two)
            self.assertEqual(self.now(doc.get_attachment_state()), AttachmentStates.SYNCED)
            assert doc.doc_id is not None
            other = self.now(two.get_doc(doc.doc_id))
            assert other is not None
            self.assertEqual(self.now(other.get_attachment_state()), AttachmentStates.SYNCED)
            self.assertEqual(self.now(other.read_attachment()), data)

    def test_document_first(self) -> None:
        """The document does not wait for the attachment: it can be seen before the bytes have come, or gone."""
        self.attached(b"some bytes")
        two = self.another()
        seen: list[AttachmentStates] = []

        async def look(doc_id: str, rev: str, generation: int) -> None:
            doc = await two.get_doc(doc_id)
            assert doc is not None
            seen.append(await doc.get_attachment_state())

        two.subscribe(look)
        self.sync(self.one, two)
        self.assertFalse(seen[0] & AttachmentStates.LOCAL)
        doc = self.now(two.get_doc("a"))
        assert doc is not None
        self.assertEqual(self.now(doc.read_attachment()), b"some bytes")

    def test_idle(self) -> None:
        """When nothing has changed, a sync is a single request, after the one that saw its own changes."""
        self.attached(urandom(1000))
        two = self.another()
        self.now(two.blobs.put("b", b"other bytes"))
        self.sync(self.one, two, self.one, two)
        for store in (self.one, two):
            self.server.asked.clear()
            self.sync(store)
            self.assertEqual(self.server.asked, ["GET sync"])

    def test_without_document(self) -> None:
        """A blob that has no document travels as well, and its deletion does."""
        two = self.another()
        self.now(self.one.blobs.put("b", b"bytes"))
        self.sync(self.one, two)
        self.assertEqual(self.now(two.blobs.get("b")).read(), b"bytes")
        self.now(two.blobs.delete("b"))
        self.sync(two, self.one)
        self.assertFalse(self.now(self.one.blobs.exists("b")))

    def test_document_after_its_blob(self) -> None:
        """A blob that was on the server before anybody told of it is fetched with the document that does."""
        doc = self.now(self.one.create_doc({}, "a"))
        self.now(doc.put_attachment(b"some bytes"))
        self.now(doc.upload_attachment())
        two = self.another()
        self.sync(two, two)
        self.now(self.one.put_doc(doc))
        self.sync(self.one)
        self.sync(two)
        other = self.now(two.get_doc("a"))
        assert other is not None
        self.assertEqual(self.now(other.get_attachment_state()), AttachmentStates.SYNCED)

    def test_interrupted_blobs(self) -> None:
        """Documents that have come stay when the connection ends in the bytes, and the next sync brings these."""
        data = urandom(1_000_000)
        self.attached(data)
        self.sync(self.one)
        two = self.another()
        self.server.cut_after(500_000)
        self.fails(two.sync(), ConnectionFailed)
        self.assertEqual(self.content(two, "a"), {"title": "Hackers"})
        self.sync(two)
        doc = self.now(two.get_doc("a"))
        assert doc is not None
        self.assertEqual(self.now(doc.read_attachment()), data)

    def test_progress(self) -> None:
        """Bytes of documents and of blobs are told together, ascending, and the end is."""
        told: list[tuple[int, int]] = []
        data = urandom(1_000_000)
        self.attached(data)
        self.now(self.one.sync(progress=lambda done, total: told.append((done, total))))
        self.assertEqual(told, sorted(told))
        done, total = told[-1]
        self.assertEqual(done, total)
        self.assertGreater(done, len(data))

    def test_local_only(self) -> None:
        """What is to stay here does not go."""
        self.now(self.one.blobs.put("b", b"bytes", local_only=True))
        self.sync(self.one)
        self.assertEqual([blob.status for blob in self.now(self.one.blobs.list())], [SyncStatus.LOCAL_ONLY])
        self.assertEqual(self.now(self.one.blobs.remote_count()), 0)
