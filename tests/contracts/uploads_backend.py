"""What every backend of the server keeps to when uploads are resumed; mixed in beside `BlobsBackendContract`."""

from __future__ import annotations

from hashlib import sha1, sha256
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.iweb import UNKNOWN_LENGTH

from soledad.errors import (
    BlobExists,
    ChecksumMismatch,
    LengthRequired,
    NoSuchUser,
    QuotaExceeded,
    StorageFailed,
    TooLarge,
    UploadBusy,
    UploadNotFound,
    WrongOffset,
)
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.backends.blobs import STRAY_AGE
from soledad.server.interfaces import Checksum, Upload
from soledad.server.pending import UPLOAD_LIFETIME
from soledad.streams import BytesProducer
from tests.contracts.blobs_backend import BLOB, OTHER, QUOTA, USER, BlobsBackendContract, ManualProducer

if TYPE_CHECKING:
    _Mixin = BlobsBackendContract
else:
    _Mixin = object

DATA = b"0123456789"


class UploadsBackendContract(_Mixin):
    """To be mixed in before `BlobsBackendContract`."""

    def create(self, length: int = len(DATA), blob: str = BLOB, **options: Any) -> Upload:
        """Begin an upload of USER's."""
        return self.successResultOf(self.backend.create_upload(USER, BlobId(blob), length, **options))

    def appending(self, upload: Upload, offset: int, body: Any, check: Checksum | None = None) -> Deferred[Upload]:
        """Go on with an upload."""
        producer = BytesProducer(body) if isinstance(body, bytes) else body
        return self.backend.append_upload(USER, upload.name, offset, producer, check)

    def append(self, upload: Upload, offset: int, data: bytes, check: Checksum | None = None) -> Upload:
        """Go on with an upload; that succeeds."""
        return self.successResultOf(self.appending(upload, offset, data, check))

    def state(self, upload: Upload) -> tuple[int, bool]:
        """Return how many bytes it has, and whether it became a blob."""
        now = self.successResultOf(self.backend.get_upload(USER, upload.name))
        return now.received, now.done

    def assert_gone(self, upload: Upload) -> None:
        """Look whether nothing is left of an upload."""
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.assert_nothing_kept()

    def test_whole(self) -> None:
        """All bytes in one request make a blob, which is there when that ends, and not before."""
        upload = self.create()
        self.assertEqual(self.page().blobs, ())
        done = self.append(upload, 0, DATA)
        self.assertEqual((done.received, done.done), (10, True))
        self.assertEqual(self.read(), DATA)
        self.assertEqual(self.successResultOf(self.backend.get_tag(USER, BLOB)), sha256(DATA).hexdigest())
        self.assertEqual(self.successResultOf(self.backend.get_total_storage(USER)), 10)

    def test_in_parts(self) -> None:
        """Bytes come in several requests, with no blob before the last; the tag is that of all of them."""
        upload = self.create()
        self.assertEqual(self.state(upload), (0, False))
        for start, stop in ((0, 3), (3, 3), (3, 9)):
            now = self.append(upload, start, DATA[start:stop])
            self.assertEqual((now.received, now.done), (stop, False))
            self.assertEqual(self.state(upload), (stop, False))
            self.assertEqual(self.page().blobs, ())
        self.append(upload, 9, DATA[9:])
        self.assertEqual(self.read(), DATA)
        self.assertEqual(self.successResultOf(self.backend.get_tag(USER, BLOB)), sha256(DATA).hexdigest())

    def test_large(self) -> None:
        """Parts may be larger than any buffer, and than what is made durable at a time."""
        data = bytes(range(256)) * 80_000
        created = self.backend.create_upload(OTHER, BLOB, len(data))
        name = self.successResultOf(created).name
        for start, stop in ((0, 12_000_000), (12_000_000, len(data))):
            body = BytesProducer(data[start:stop])
            self.successResultOf(self.backend.append_upload(OTHER, name, start, body))
        self.assertEqual(self.successResultOf(self.backend.get_tag(OTHER, BLOB)), sha256(data).hexdigest())

    def test_empty(self) -> None:
        """An upload of no bytes is a blob at once."""
        upload = self.create(0)
        self.assertTrue(upload.done)
        self.assertEqual(self.read(), b"")
        self.assertEqual(self.append(upload, 0, b"").received, 0)

    def test_remembered(self) -> None:
        """What became of an upload can be asked for a day, and asking for its end once more is no mistake."""
        upload = self.create()
        self.append(upload, 0, DATA)
        self.assertEqual(self.state(upload), (10, True))
        self.assertTrue(self.append(upload, 10, b"").done)
        error = self.failureResultOf(self.appending(upload, 0, DATA), WrongOffset).value
        self.assertEqual(error.offset, 10)
        self.clock.advance(UPLOAD_LIFETIME)
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.successResultOf(self.backend.sweep())
        self.assertEqual(self.read(), DATA)

    def test_forgotten(self) -> None:
        """Ending an upload that became a blob leaves the blob as it is."""
        upload = self.create()
        self.append(upload, 0, DATA)
        self.successResultOf(self.backend.abandon_upload(USER, upload.name))
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.assertEqual(self.read(), DATA)
        self.write(b"x" * (QUOTA - 10), "the-rest")

    def test_described(self) -> None:
        """What the client said of an upload is kept with it."""
        upload = self.create(described="blob_id YQ==")
        self.assertEqual(self.successResultOf(self.backend.get_upload(USER, upload.name)).described, "blob_id YQ==")

    def test_names(self) -> None:
        """Names cannot be guessed, and one of another user is none."""
        first, second = self.create(), self.create()
        self.assertRegex(first.name, r"^[0-9a-f]{32}$")
        self.assertNotEqual(first.name, second.name)
        for name in (first.name, "", "x", "../" * 3):
            for call in (self.backend.get_upload, self.backend.abandon_upload):
                work: Deferred[Any] = call(OTHER, name)
                self.failureResultOf(work, UploadNotFound)
            self.failureResultOf(self.backend.append_upload(OTHER, name, 0, BytesProducer(b"")), UploadNotFound)
        self.failureResultOf(self.backend.create_upload(UserId("nobody"), BLOB, 1), NoSuchUser)

    # --- what is refused ------------------------------------------------------------------------------

    def test_wrong_offset(self) -> None:
        """Bytes for another place are refused before one of them is read, and the right place is told."""
        upload = self.create()
        self.append(upload, 0, DATA[:4])
        for offset in (0, 3, 5, 11):
            body = ManualProducer(1)
            error = self.failureResultOf(self.appending(upload, offset, body), WrongOffset).value
            self.assertEqual((error.offset, body.consumer), (4, None))
        self.assertEqual(self.state(upload), (4, False))

    def test_too_many(self) -> None:
        """More bytes than are missing are refused before one of them is read."""
        upload = self.create()
        self.append(upload, 0, DATA[:4])
        body = ManualProducer(7)
        error = self.failureResultOf(self.appending(upload, 4, body), TooLarge).value
        self.assertEqual((error.limit, body.consumer), (6, None))
        body = ManualProducer(UNKNOWN_LENGTH)
        self.failureResultOf(self.appending(upload, 4, body), LengthRequired)

    def test_taken(self) -> None:
        """The id of a blob is taken for uploads too; one that is taken meanwhile ends the upload."""
        upload = self.create()
        self.append(upload, 0, DATA[:4])
        self.write(b"quicker")
        self.failureResultOf(self.backend.create_upload(USER, BLOB, 1), BlobExists)
        self.failureResultOf(self.appending(upload, 4, DATA[4:]), BlobExists)
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.assertEqual(self.read(), b"quicker")
        self.assertEqual(len(self.successResultOf(self.backend.store.list())), 1)
        self.write(b"x" * (QUOTA - 7), "the-rest")

    def test_taken_before(self) -> None:
        """Whose id was taken is told so before a byte is asked for; the room is free."""
        upload = self.create()
        self.write(b"quicker")
        body = ManualProducer(len(DATA))
        self.failureResultOf(self.appending(upload, 0, body), BlobExists)
        self.assertIs(body.consumer, None)
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.assertEqual(len(self.successResultOf(self.backend.store.list())), 1)
        self.write(b"x" * (QUOTA - 7), "the-rest")

    def test_taken_while_it_comes(self) -> None:
        """Whose id is taken while the last bytes come is told so at their end."""
        upload = self.create()
        body = ManualProducer(len(DATA))
        work = self.appending(upload, 0, body)
        self.write(b"quicker")
        body.consumer.write(DATA)
        body.done.callback(None)
        self.failureResultOf(work, BlobExists)
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.assertEqual(len(self.successResultOf(self.backend.store.list())), 1)

    def test_two_of_one_id(self) -> None:
        """Of two uploads of one id the first to end wins."""
        first, second = self.create(), self.create()
        self.append(second, 0, b"abcdefghij")
        self.failureResultOf(self.appending(first, 0, DATA), BlobExists)
        self.assertEqual(self.read(), b"abcdefghij")

    def test_namespaces(self) -> None:
        """An upload is for one namespace."""
        upload = self.create(namespace=Namespace("other"))
        self.append(upload, 0, DATA)
        self.assertEqual(self.page().blobs, ())
        self.assertEqual(self.names(self.page(namespace=Namespace("other"))), [BLOB])

    # --- room -----------------------------------------------------------------------------------------

    def test_room(self) -> None:
        """The whole length is set aside from the beginning, to the byte, and given back by the end."""
        upload = self.create(600)
        error = self.failureResultOf(self.backend.create_upload(USER, BlobId("b"), 401), QuotaExceeded).value
        self.assertEqual((error.asked, error.available), (401, 400))
        self.write(b"x" * 400, "beside")
        self.append(upload, 0, b"y" * 599)
        self.failureResultOf(self.backend.create_upload(USER, BlobId("b"), 1), QuotaExceeded)
        self.append(upload, 599, b"y")
        self.assertEqual(self.successResultOf(self.backend.get_total_storage(USER)), QUOTA)

    def test_abandoned(self) -> None:
        """Nothing is left of what is abandoned, with bytes or without."""
        for data in (b"", DATA[:4]):
            upload = self.create(QUOTA)
            self.append(upload, 0, data)
            self.successResultOf(self.backend.abandon_upload(USER, upload.name))
            self.failureResultOf(self.appending(upload, len(data), DATA), UploadNotFound)
            self.failureResultOf(self.backend.abandon_upload(USER, upload.name), UploadNotFound)
        self.assert_gone(upload)

    def test_slow(self) -> None:
        """With what somebody goes on at the last moment does not expire while bytes come."""
        upload = self.create()
        self.clock.advance(UPLOAD_LIFETIME - 1)
        body = ManualProducer(len(DATA))
        work = self.appending(upload, 0, body)
        body.consumer.write(DATA[:4])
        self.clock.advance(3600)
        self.successResultOf(self.backend.sweep())
        body.consumer.write(DATA[4:])
        body.done.callback(None)
        self.assertTrue(self.successResultOf(work).done)

    def test_expiry(self) -> None:
        """A day after its last byte an upload is no more; its room is there for who needs it, before any sweep."""
        upload = self.create(QUOTA)
        self.clock.advance(UPLOAD_LIFETIME - 1)
        self.assertEqual(self.append(upload, 0, DATA).expires, int(self.clock.seconds()) + UPLOAD_LIFETIME)
        self.clock.advance(UPLOAD_LIFETIME - 1)
        self.assertEqual(self.state(upload), (10, False))
        self.failureResultOf(self.backend.create_upload(USER, BLOB, 1), QuotaExceeded)
        self.clock.advance(1)
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)
        self.failureResultOf(self.appending(upload, 10, DATA), UploadNotFound)
        self.create(QUOTA, "another")

    def test_sweep(self) -> None:
        """The bytes of an upload stay as long as it does, and are swept after that."""
        upload = self.create(QUOTA)
        self.append(upload, 0, DATA)
        self.clock.advance(UPLOAD_LIFETIME - 60)
        self.append(upload, 10, DATA)
        self.clock.advance(STRAY_AGE - 60)
        self.assertEqual(self.successResultOf(self.backend.sweep()), 0)
        self.assertEqual(self.state(upload), (20, False))
        self.clock.advance(120)
        self.assertEqual(self.successResultOf(self.backend.sweep()), 1)
        self.assert_gone(upload)

    def test_user_removed(self) -> None:
        """With their user, uploads are gone; one that is under way cannot end as a blob."""
        upload = self.create()
        body = ManualProducer(10)
        work = self.appending(upload, 0, body)
        body.consumer.write(DATA)
        self.successResultOf(self.accounts.remove_user(USER))
        body.done.callback(None)
        self.failureResultOf(work, UploadNotFound)
        self.successResultOf(self.accounts.add_user(USER, QUOTA))
        self.failureResultOf(self.backend.get_upload(USER, upload.name), UploadNotFound)

    # --- what is cut ----------------------------------------------------------------------------------

    def test_cut(self) -> None:
        """What came before a body failed, or was cancelled, is kept, and is not needed again."""
        upload = self.create()
        body = ManualProducer(10)
        work = self.appending(upload, 0, body)
        body.consumer.write(DATA[:4])
        body.done.errback(ZeroDivisionError())
        self.failureResultOf(work, ZeroDivisionError)
        self.assertEqual(self.state(upload), (4, False))
        body = ManualProducer(6)
        work = self.appending(upload, 4, body)
        body.consumer.write(DATA[4:7])
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.assertTrue(body.stopped)
        self.assertEqual(self.state(upload), (7, False))
        self.append(upload, 7, DATA[7:])
        self.assertEqual(self.read(), DATA)

    def test_takeover(self) -> None:
        """A newer request for an upload ends an older one, whose bytes are kept."""
        upload = self.create()
        old = ManualProducer(10)
        work = self.appending(upload, 0, old)
        old.consumer.write(DATA[:4])
        self.assertEqual(self.state(upload), (4, False))
        self.failureResultOf(work, UploadBusy)
        old = ManualProducer(6)
        work = self.appending(upload, 4, old)
        old.consumer.write(DATA[4:6])
        self.failureResultOf(self.appending(upload, 4, b"x"), WrongOffset)
        self.failureResultOf(work, UploadBusy)
        old.consumer.write(b"late")
        self.append(upload, 6, DATA[6:])
        self.assertEqual(self.read(), DATA)

    def test_abandoned_meanwhile(self) -> None:
        """Abandoning ends what is under way."""
        upload = self.create(QUOTA)
        body = ManualProducer(10)
        work = self.appending(upload, 0, body)
        body.consumer.write(DATA[:4])
        self.successResultOf(self.backend.abandon_upload(USER, upload.name))
        self.failureResultOf(work, UploadBusy)
        self.assert_gone(upload)

    def test_other_process(self) -> None:
        """An upload that another process is at is left to it; it may be asked how much is durable."""
        upload = self.create()
        part = self.successResultOf(self.backend.store.resume(upload.place))
        for work in (self.appending(upload, 0, DATA), self.backend.abandon_upload(USER, upload.name)):
            self.failureResultOf(work, UploadBusy)
        self.assertEqual(self.state(upload), (0, False))
        self.successResultOf(part.close())
        self.append(upload, 0, DATA)

    def test_bytes_are_lost(self) -> None:
        """An upload whose bytes are not there any more is none: its client begins anew."""
        upload = self.create(QUOTA)
        self.append(upload, 0, DATA)
        self.successResultOf(self.backend.store.delete(upload.place))
        self.failureResultOf(self.appending(upload, 10, DATA), UploadNotFound)
        self.assert_gone(upload)

    def test_last_byte_does_not_count_alone(self) -> None:
        """When all bytes came and no blob could be made of them, the upload is not taken for one that has ended."""
        upload = self.create()
        self.append(upload, 0, DATA[:4])
        real = self.backend.pending
        self.backend.pending = _Failing(real)  # type: ignore[assignment]
        self.failureResultOf(self.appending(upload, 4, DATA[4:]), StorageFailed)
        self.backend.pending = real
        self.assertEqual(self.state(upload), (9, False))
        self.append(upload, 9, DATA[9:])
        self.assertEqual(self.read(), DATA)

    # --- checksums ------------------------------------------------------------------------------------

    def test_checksum(self) -> None:
        """Bytes with the right checksum are taken; with a wrong one, none of them."""
        upload = self.create()
        right = Checksum("sha256", sha256(DATA[:4]).digest())
        self.failureResultOf(self.appending(upload, 0, b"0125", right), ChecksumMismatch)
        self.assertEqual(self.state(upload), (0, False))
        self.append(upload, 0, DATA[:4], right)
        wrong = Checksum("sha1", sha1(DATA).digest())
        self.failureResultOf(self.appending(upload, 4, DATA[4:], wrong), ChecksumMismatch)
        self.assertEqual(self.state(upload), (4, False))
        self.append(upload, 4, DATA[4:], Checksum("sha1", sha1(DATA[4:]).digest()))
        self.assertEqual(self.read(), DATA)
        self.assertEqual(self.successResultOf(self.backend.get_tag(USER, BLOB)), sha256(DATA).hexdigest())

    def test_cut_with_checksum(self) -> None:
        """Of bytes with a checksum that did not all come, none is taken."""
        upload = self.create()
        body = ManualProducer(10)
        work = self.appending(upload, 0, body, Checksum("sha256", sha256(DATA).digest()))
        body.consumer.write(DATA[:9])
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.assertEqual(self.state(upload), (0, False))
        self.append(upload, 0, DATA)
        self.assertEqual(self.read(), DATA)


class _Failing:
    """Notes everything but the end of an upload."""

    def __init__(self, pending: Any) -> None:
        self._pending = pending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pending, name)

    async def commit(self, *args: Any) -> Any:
        """Fail."""
        raise StorageFailed("the disk")
