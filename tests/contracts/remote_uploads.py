"""What holds for every `IRemoteUploads`, whatever lies between it and the server."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface.verify import verifyObject

from soledad.client.interfaces import IRemoteUploads
from soledad.errors import (
    BlobExists,
    LengthRequired,
    QuotaExceeded,
    TooLarge,
    Unauthorized,
    UploadNotFound,
    WrongLength,
    WrongOffset,
)
from soledad.model.ids import BlobId, Namespace
from soledad.streams import BytesProducer
from tests.contracts.remote_blobs import ID, LARGE, RemoteCase, Source, zeros

DATA = b"0123456789"
QUOTA = 2 * LARGE
NOT_THERE = "0" * 32


class RemoteUploadsContract(RemoteCase):
    """Make a server in `make_server`, where a user may have `QUOTA` bytes; every test begins with an empty one."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the server."""
        await super().setUp()
        self.uploads: Any = self.server.uploads

    async def create(self, length: int = len(DATA), blob_id: BlobId = ID, **options: Any) -> str:
        """Begin an upload."""
        upload: str = await self.uploads.create(blob_id, length, **options)
        return upload

    def append(self, upload: str, offset: int, data: bytes) -> Deferred[int]:
        """Go on with an upload."""
        work: Deferred[int] = self.uploads.append(upload, offset, BytesProducer(data))
        return work

    def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IRemoteUploads, self.uploads)

    async def test_in_parts(self) -> None:
        """A blob is there when its last byte is, and then the upload has ended."""
        upload = await self.create(namespace=Namespace("other"))
        self.assertEqual(await self.uploads.offset(upload), 0)
        self.assertEqual(await self.append(upload, 0, DATA[:4]), 4)
        self.assertEqual(await self.uploads.offset(upload), 4)
        self.assertEqual(await self.append(upload, 4, DATA[4:]), 10)
        self.assertEqual(await self.get(namespace=Namespace("other")), DATA)
        info = await self.blobs.stat_blob(ID, Namespace("other"))
        self.assertEqual(info.etag, sha256(DATA).hexdigest())
        await self.fails(self.uploads.offset(upload), UploadNotFound)

    async def test_empty(self) -> None:
        """A blob of no bytes needs none sent; sending none is no mistake."""
        upload = await self.create(0)
        self.assertEqual(await self.append(upload, 0, b""), 0)
        self.assertEqual(await self.get(), b"")

    async def test_large(self) -> None:
        """Bytes go in pieces, with back-pressure."""
        upload = await self.create(LARGE)
        sent: list[int] = []
        self.assertEqual(await self.uploads.append(upload, 0, zeros(LARGE, sent)), LARGE)
        self.assertEqual(sum(sent), LARGE)
        self.assertEqual((await self.blobs.stat_blob(ID)).length, LARGE)

    async def test_lost_answer(self) -> None:
        """Whoever did not hear that the last byte arrived finds no upload, and the blob with its tag."""
        upload = await self.create()
        await self.append(upload, 0, DATA)
        error = await self.fails(self.uploads.offset(upload), UploadNotFound)
        self.assertEqual(error.upload, upload)
        error = await self.fails(self.append(upload, 0, DATA), WrongOffset)
        self.assertEqual(error.offset, 10)
        self.assertEqual((await self.blobs.stat_blob(ID)).etag, sha256(DATA).hexdigest())

    async def test_wrong_offset(self) -> None:
        """Bytes for another place are refused; the error tells the right one."""
        upload = await self.create()
        await self.append(upload, 0, DATA[:4])
        error = await self.fails(self.append(upload, 2, DATA[2:]), WrongOffset)
        self.assertEqual(error.offset, 4)

    async def test_refused_at_the_beginning(self) -> None:
        """What cannot be stored is told before a byte is sent."""
        await self.put(b"first")
        error = await self.fails(self.create(), BlobExists)
        self.assertEqual((error.blob_id, error.namespace), (ID, "default"))
        error = await self.fails(self.create(QUOTA, BlobId("b")), QuotaExceeded)
        self.assertEqual((error.asked, error.available), (QUOTA, QUOTA - 5))
        await self.fails(self.create(2**50, BlobId("b")), TooLarge)

    async def test_taken_meanwhile(self) -> None:
        """Another blob of that id ends the upload."""
        upload = await self.create()
        await self.put(b"quicker")
        await self.fails(self.append(upload, 0, DATA), BlobExists)
        await self.fails(self.uploads.offset(upload), UploadNotFound)
        self.assertEqual(await self.get(), b"quicker")

    async def test_abandon(self) -> None:
        """Nothing is left of what is abandoned, and its room is free."""
        upload = await self.create(QUOTA)
        await self.append(upload, 0, DATA)
        await self.uploads.abandon(upload)
        await self.create(QUOTA)

    async def test_not_there(self) -> None:
        """An upload that does not exist cannot be used; the error names it."""
        for work in (
            self.uploads.offset(NOT_THERE),
            self.append(NOT_THERE, 0, DATA),
            self.uploads.abandon(NOT_THERE),
        ):
            self.assertEqual((await self.fails(work, UploadNotFound)).upload, NOT_THERE)

    async def test_early_refusal(self) -> None:
        """A refusal is heard before the whole body is sent."""
        sent: list[int] = []
        await self.fails(self.uploads.append(NOT_THERE, 0, zeros(LARGE, sent)), UploadNotFound)
        self.assertLess(sum(sent), LARGE)

    async def test_wrong_token(self) -> None:
        """A token that the server does not know opens nothing."""
        self.server.set_token("wrong")
        await self.fails(self.create(), Unauthorized)
        await self.fails(self.uploads.offset(NOT_THERE), Unauthorized)

    async def test_unknown_length(self) -> None:
        """A body of unknown length is not even begun."""
        upload = await self.create()
        source = Source(UNKNOWN_LENGTH)
        await self.fails(self.uploads.append(upload, 0, source), LengthRequired)
        self.assertIsNone(source.consumer)

    async def test_source_fails(self) -> None:
        """What a source gave before it failed is kept."""
        upload = await self.create()
        source = Source(10)
        work = self.uploads.append(upload, 0, source)
        await source.started
        source.consumer.write(DATA[:4])
        await self.a_while()
        source.done.errback(ZeroDivisionError())
        await self.fails(work, ZeroDivisionError)
        self.assertEqual(await self.uploads.offset(upload), 4)

    async def test_short_source(self) -> None:
        """A source that ends too early is the caller's mistake; what it gave is kept."""
        upload = await self.create()
        source = Source(10)
        work = self.uploads.append(upload, 0, source)
        await source.started
        source.consumer.write(DATA[:4])
        await self.a_while()
        source.done.callback(None)
        await self.fails(work, WrongLength)
        self.assertEqual(await self.uploads.offset(upload), 4)

    async def test_cancel(self) -> None:
        """What went before a call was cancelled is kept, and need not go again."""
        upload = await self.create()
        source = Source(10)
        work = self.uploads.append(upload, 0, source)
        await source.started
        source.consumer.write(DATA[:7])
        await self.a_while()
        work.cancel()
        self.settle()
        await self.fails(work, CancelledError)
        self.assertEqual(source.stopped, 1)
        self.assertEqual(await self.uploads.offset(upload), 7)
        self.assertEqual(await self.append(upload, 7, DATA[7:]), 10)
        self.assertEqual(await self.get(), DATA)
