"""
Attachments and a server in memory: what crosses the wire, what is believed, and what is left when it fails.

Devices are real stores that run in place, the server is the real one over connections in memory; so each exchange
can be broken at every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from shutil import copytree, rmtree
from typing import Any, TypeVar

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad import AttachmentStates, Soledad
from soledad.client import blobs as client_blobs
from soledad.client.document import Document
from soledad.client.interfaces import IRemoteBlobs
from soledad.crypto.container import Context, KeyMaterial, RangeOpener, seal
from soledad.deferreds import unawaited
from soledad.errors import (
    AttachmentNotAvailable,
    AuthenticationFailed,
    BlobExists,
    ConnectionFailed,
    CryptoError,
    Forbidden,
    InvalidServerURL,
    MalformedContainer,
    NoAttachment,
    NoServer,
    QuotaExceeded,
    RetriableTransferError,
    ServerFailed,
    SoledadError,
    StorageFailed,
    StorageFull,
    StoreClosed,
    TransferError,
    TransferTimeout,
    Unauthorized,
    UnexpectedAnswer,
    UnknownKey,
)
from soledad.model.blob import WHOLE, BlobInfo, ByteRange, Flag
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId, Namespace
from soledad.streams import BytesProducer, MemoryConsumer
from soledad.testing import MemoryServer, make_store
from soledad.wire.container import HEADER_SIZE, SALT_SIZE, TAG_SIZE, Layout, Purpose
from soledad.wire.listing import Namespaces, Page
from soledad.wire.routes import ListRoute
from tests.limits import examples

T = TypeVar("T")

ALICE = "alice"
CHUNK = 65536
SEALED_CHUNK = CHUNK + TAG_SIZE
#: A container above this is a file.
INLINE = 256 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that look random, and are the same each time."""
    return Random(seed).randbytes(size)


@implementer(IRemoteBlobs)
@define(eq=False)
class Watched:
    """The server's blobs, and what was asked for."""

    _blobs: Any
    reads: list[ByteRange] = field(factory=list)
    writes: int = 0
    stats: int = 0
    #: What is read instead of what the server has.
    given: bytes | None = None

    def write_blob(self, blob_id: BlobId, producer: IBodyProducer, namespace: Namespace = DEFAULT) -> Deferred[None]:
        """See `IRemoteBlobs`."""
        self.writes += 1
        written: Deferred[None] = self._blobs.write_blob(blob_id, producer, namespace)
        return written

    def read_blob(
        self,
        blob_id: BlobId,
        consumer: IConsumer,
        namespace: Namespace = DEFAULT,
        wanted: ByteRange = WHOLE,
        etag: str | None = None,
        on_tag: Callable[[str], object] | None = None,
    ) -> Deferred[None]:
        """See `IRemoteBlobs`."""
        self.reads.append(wanted)
        if self.given is not None:
            start, stop = wanted.within(len(self.given))
            consumer.write(self.given[start:stop])
            return succeed(None)
        read: Deferred[None] = self._blobs.read_blob(blob_id, consumer, namespace, wanted, etag, on_tag)
        return read

    def stat_blob(self, blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[BlobInfo]:
        """See `IRemoteBlobs`."""
        self.stats += 1
        info: Deferred[BlobInfo] = self._blobs.stat_blob(blob_id, namespace)
        return info

    def delete_blob(
        self, blob_id: BlobId, namespace: Namespace = DEFAULT, tombstone: bytes | None = None
    ) -> Deferred[None]:
        """See `IRemoteBlobs`."""
        deleted: Deferred[None] = self._blobs.delete_blob(blob_id, namespace, tombstone)
        return deleted

    def list_blobs(self, route: ListRoute) -> Deferred[Page]:
        """See `IRemoteBlobs`."""
        page: Deferred[Page] = self._blobs.list_blobs(route)
        return page

    def list_namespaces(self) -> Deferred[Namespaces]:
        """See `IRemoteBlobs`."""
        namespaces: Deferred[Namespaces] = self._blobs.list_namespaces()
        return namespaces

    def count_blobs(self, route: ListRoute) -> Deferred[int]:
        """See `IRemoteBlobs`."""
        count: Deferred[int] = self._blobs.count_blobs(route)
        return count

    def get_flags(self, blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[tuple[Flag, ...]]:
        """See `IRemoteBlobs`."""
        flags: Deferred[tuple[Flag, ...]] = self._blobs.get_flags(blob_id, namespace)
        return flags

    def set_flags(self, blob_id: BlobId, flags: Sequence[Flag], namespace: Namespace = DEFAULT) -> Deferred[None]:
        """See `IRemoteBlobs`."""
        done: Deferred[None] = self._blobs.set_flags(blob_id, flags, namespace)
        return done

    def claim(self, blob_id: BlobId, seconds: int, namespace: Namespace = DEFAULT) -> Deferred[None]:
        """See `IRemoteBlobs`."""
        done: Deferred[None] = self._blobs.claim(blob_id, seconds, namespace)
        return done


class Case(SynchronousTestCase):
    """A server, two devices of one person with the same keyring, and what the server is asked directly."""

    #: Bytes.
    quota: int | None = None

    def setUp(self) -> None:
        """Start with empty stores."""
        self.server = MemoryServer(quota=self.quota)
        self.remote = self.server.connect(ALICE).blobs
        self.folders = [Path(self.mktemp()), Path(self.mktemp())]
        self.success(make_store(self, uuid=ALICE, data_dir=self.folders[0]).close())
        copytree(self.folders[0], self.folders[1])
        self.here, self.watched = self.open(self.folders[0])
        self.there, self.watched_there = self.open(self.folders[1])

    def open(self, folder: Path) -> tuple[Soledad, Watched]:
        """Open a device."""
        server = self.server.connect(ALICE)
        watched = Watched(server.blobs)
        server.blobs = watched
        return make_store(self, server, uuid=ALICE, data_dir=folder), watched

    def success(self, work: Deferred[T]) -> T:
        """Return the result of what has ended, once everything arrived."""
        self.server.flush()
        result: T = self.successResultOf(work)
        return result

    def failure(self, work: Deferred[Any], *errors: type[BaseException]) -> BaseException:
        """Return the error of what has failed."""
        self.server.flush()
        error: BaseException = self.failureResultOf(work, *errors).value
        return error

    def outcome(self, work: Deferred[Any]) -> Any:
        """Return a result or an error."""
        results: list[Any] = []
        unawaited(work.addBoth(results.append))
        self.server.flush()
        (result,) = results
        return getattr(result, "value", result)

    def attached(self, data: bytes, device: Soledad | None = None) -> Document:
        """Save a document with an attachment."""
        device = self.here if device is None else device
        doc = self.success(device.create_doc({}))
        self.success(doc.put_attachment(data))
        self.success(device.put_doc(doc))
        return doc

    def received(self, doc: Document) -> Document:
        """Save on the other device what the sync of documents would bring there."""
        other = self.success(self.there.create_doc({}, doc.doc_id))
        for name, pointer in doc.attachments.items():
            other.attach(name, pointer)
        self.success(self.there.put_doc(other))
        return other

    def sent(self, data: bytes) -> Document:
        """Attach something here and send it; return the document on the other device."""
        doc = self.attached(data)
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
        return self.received(doc)

    def state(self, doc: Document, refresh: bool = False) -> AttachmentStates:
        """Return the state of the attachment."""
        return self.success(doc.get_attachment_state(refresh=refresh))

    def on_server(self) -> dict[str, bytes]:
        """Return all blobs of the user, id -> bytes."""
        found = {}
        for info in self.success(self.remote.list_blobs(ListRoute(self.here.uuid, ATTACHMENTS))).blobs:
            consumer = MemoryConsumer()
            self.success(self.remote.read_blob(info.blob_id, consumer, ATTACHMENTS))
            found[str(info.blob_id)] = consumer.value()
        return found

    def put_on_server(self, doc: Document, container: bytes) -> None:
        """Let the server have something else under the id of the document's attachment."""
        blob_id = doc.attachments["default"].blob_id
        self.success(self.remote.write_blob(blob_id, BytesProducer(container), ATTACHMENTS))

    def files(self, device: int = 1) -> list[Path]:
        """Return the files of sealed blobs that a device has."""
        return list((self.folders[device] / f"{ALICE}_blobs").iterdir())

    def assertNothingWhole(self) -> None:
        """There is no file but for what has come of a download that may go on."""
        database = self.there._local.blobs.database
        partial = database.read_now(lambda cursor: cursor.execute("SELECT partial FROM blob").fetchall())
        self.assertLessEqual({path.name for path in self.files()}, {name for (name,) in partial})

    def assertReads(self, doc: Document, data: bytes) -> None:
        """All ways of reading give ``data``."""
        self.assertEqual(self.success(doc.read_attachment()), data)
        consumer = MemoryConsumer()
        self.success(doc.write_attachment_to(consumer))
        self.assertEqual(consumer.value(), data)
        file = self.success(doc.get_attachment())
        assert file is not None
        with file:
            self.assertEqual(file.read(), data)


class StatesTests(Case):
    """Where the bytes are, as far as a device knows."""

    def test_way_of_an_attachment(self) -> None:
        """Nothing, then here, then here and there; elsewhere awaited, then there, then on both."""
        doc = self.success(self.here.create_doc({}))
        self.assertEqual(self.state(doc), AttachmentStates.NONE)
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.NONE)
        self.assertEqual(self.success(doc.download_attachment()), AttachmentStates.NONE)
        self.success(doc.put_attachment(b"data"))
        self.assertEqual(self.state(doc), AttachmentStates.LOCAL)
        self.success(self.here.put_doc(doc))
        other = self.received(doc)
        self.assertEqual(self.state(other), AttachmentStates.AWAITED)
        self.assertEqual(self.state(other, refresh=True), AttachmentStates.AWAITED)
        self.assertEqual(self.state(doc, refresh=True), AttachmentStates.LOCAL)
        self.success(doc.upload_attachment())
        for refresh in (False, True):
            self.assertEqual(self.state(doc, refresh), AttachmentStates.SYNCED)
            self.assertEqual(self.state(other, refresh), AttachmentStates.REMOTE)
        self.assertEqual(self.success(other.download_attachment()), AttachmentStates.SYNCED)
        self.assertEqual(self.state(other), AttachmentStates.SYNCED)

    def test_before_saving(self) -> None:
        """Uploading before the document is saved works, and saving keeps the state."""
        doc = self.success(self.here.create_doc({}))
        self.success(doc.put_attachment(b"data"))
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
        self.success(self.here.put_doc(doc))
        self.assertEqual(self.state(doc, refresh=True), AttachmentStates.SYNCED)

    def test_what_the_row_settles(self) -> None:
        """The server is asked, once, only for what this device has neither seen here nor there."""
        doc = self.attached(b"data")
        other = self.received(doc)
        self.state(doc)
        self.success(doc.upload_attachment())
        self.state(doc)
        self.assertEqual((self.watched.stats, self.watched_there.stats), (0, 0))
        self.state(other)
        self.state(other)
        self.assertEqual(self.watched_there.stats, 1)

    def test_offline(self) -> None:
        """Without a connection the state is what is known; asking for more raises what the network says."""
        other = self.received(self.attached(b"data"))
        mine = self.attached(b"data", self.there)
        self.server.disconnect()
        self.assertEqual(self.state(other), AttachmentStates.AWAITED)
        self.assertEqual(self.state(mine), AttachmentStates.LOCAL)
        for doc in (other, mine):
            self.failure(doc.get_attachment_state(refresh=True), ConnectionFailed)
        for call in (other.download_attachment, other.get_attachment, other.read_attachment, mine.upload_attachment):
            self.failure(call(), ConnectionFailed)
        self.assertReads(mine, b"data")

    def test_any_answer_is_no_reason_to_fail(self) -> None:
        """A state can be had without an error whatever the server, or what stands in its way, says."""
        other = self.received(self.attached(b"data"))
        for refusal in (Unauthorized(), Forbidden(), ServerFailed(), 200, 302, 418, 500):
            self.server.refuse(refusal)
            self.assertEqual(self.state(other), AttachmentStates.AWAITED)
            self.failure(other.get_attachment_state(refresh=True), TransferError)

    def test_no_server(self) -> None:
        """A store without a server says so when one is needed, and only then."""
        doc = self.attached(b"data")
        alone = make_store(self, uuid=ALICE)
        other = self.success(alone.create_doc({}))
        other.attach("default", doc.attachments["default"])
        self.success(alone.put_doc(other))
        self.assertEqual(self.state(other), AttachmentStates.AWAITED)
        for work in (
            other.get_attachment_state(refresh=True),
            other.get_attachment(),
            other.read_attachment(),
            other.write_attachment_to(MemoryConsumer()),
            other.download_attachment(),
            self.attached(b"mine", alone).upload_attachment(),
        ):
            self.failure(work, NoServer)
        self.assertRaises(NoServer, alone.set_token, "token")

    def test_not_there_yet(self) -> None:
        """What no one has uploaded yet is not available, in every way of asking, and is awaited still."""
        other = self.received(self.attached(b"data"))
        for work in (
            other.get_attachment(),
            other.read_attachment(),
            other.write_attachment_to(MemoryConsumer()),
            other.download_attachment(),
            other.upload_attachment(),
        ):
            self.failure(work, AttachmentNotAvailable)
        self.assertEqual(self.state(other), AttachmentStates.AWAITED)

    def test_lost_by_the_server(self) -> None:
        """What the server has lost is seen by asking, by fetching and by reading, and is sent again by who has it."""
        doc = self.attached(b"data")
        blob_id = doc.attachments["default"].blob_id
        ways: list[Callable[[Document], Deferred[Any]]] = [
            lambda other: other.download_attachment(),
            lambda other: other.read_attachment(),
        ]
        other = self.received(doc)
        for way in ways:
            self.success(doc.upload_attachment())
            self.assertEqual(self.state(other), AttachmentStates.REMOTE)
            self.success(self.remote.delete_blob(blob_id, ATTACHMENTS))
            self.failure(way(other), AttachmentNotAvailable)
            self.assertEqual(self.state(other), AttachmentStates.AWAITED)
            self.assertEqual(self.state(doc), AttachmentStates.SYNCED)
            self.assertEqual(self.state(doc, refresh=True), AttachmentStates.LOCAL)
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
        self.assertReads(other, b"data")

    def test_upload_of_what_is_not_here(self) -> None:
        """What is on the server only needs no upload: the state says so, and nothing is sent."""
        other = self.sent(b"data")
        self.assertEqual(self.state(other), AttachmentStates.REMOTE)
        self.assertEqual(self.success(other.upload_attachment()), AttachmentStates.REMOTE)
        self.assertEqual(self.watched_there.writes, 0)

    def test_another_size(self) -> None:
        """A server that says the blob has another size has something else: that is not what was asked about."""
        doc = self.attached(b"data")
        self.put_on_server(doc, b"something else")
        self.failure(doc.get_attachment_state(refresh=True), UnexpectedAnswer)
        self.assertEqual(self.state(doc), AttachmentStates.LOCAL)

    def test_copy_without_files(self) -> None:
        """A copy of a closed store that lacks the blobs' files opens, and has its attachments from the server."""
        data = noise(INLINE * 2)
        doc = self.attached(data)
        self.success(doc.upload_attachment())
        lost = self.attached(noise(INLINE * 2, 2))
        self.success(self.here.close())
        rmtree(self.folders[0] / f"{ALICE}_blobs")
        device, _ = self.open(self.folders[0])
        again, gone = self.success(device.get_docs([str(doc.doc_id), str(lost.doc_id)]))
        self.assertEqual(self.state(again), AttachmentStates.REMOTE)
        self.assertEqual(self.state(gone), AttachmentStates.AWAITED)
        self.assertReads(again, data)
        self.assertEqual(self.state(again), AttachmentStates.SYNCED)


class RangesTests(Case):
    """Of an attachment that is not here, what is read is fetched, and hardly more."""

    def test_all_sizes(self) -> None:
        """Attachments of every kind of size can be read in part and as a whole, and fetched."""
        for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, INLINE, INLINE + 1, 3 * 1024 * 1024 + 5):
            data = noise(size)
            other = self.sent(data)
            self.assertEqual(self.success(other.read_attachment(start=size)), b"")
            self.assertEqual(self.success(other.read_attachment(length=size + 1)), data)
            self.assertEqual(self.success(other.read_attachment(start=size // 2)), data[size // 2 :])
            self.assertEqual(self.state(other), AttachmentStates.REMOTE)
            self.assertEqual(self.success(other.download_attachment()), AttachmentStates.SYNCED)
            self.assertReads(other, data)

    def test_outside(self) -> None:
        """A range that begins behind the end, or is negative, is refused before anybody is asked."""
        other = self.sent(b"data")
        before = len(self.watched_there.reads)
        for start, length in ((5, None), (-1, None), (0, -1)):
            self.failure(other.read_attachment(start=start, length=length), SoledadError)
            self.failure(other.write_attachment_to(MemoryConsumer(), start=start, length=length), SoledadError)
        self.assertEqual(len(self.watched_there.reads), before)

    def test_nothing_attached(self) -> None:
        """Without an attachment there is no range of it."""
        doc = self.success(self.here.create_doc({}))
        self.failure(doc.read_attachment(), NoAttachment)
        self.failure(doc.write_attachment_to(MemoryConsumer()), NoAttachment)

    def test_no_more_than_needed(self) -> None:
        """A few bytes cost the header, once, and the chunks they lie in."""
        other = self.sent(noise(20 * CHUNK))
        self.watched_there.reads.clear()
        self.success(other.read_attachment(start=5 * CHUNK - 1, length=2))
        self.assertEqual(
            self.watched_there.reads,
            [ByteRange(0, HEADER_SIZE), ByteRange(HEADER_SIZE + 4 * SEALED_CHUNK, 2 * SEALED_CHUNK)],
        )

    def test_no_bytes(self) -> None:
        """No bytes at all are had without asking for chunks."""
        other = self.sent(noise(3 * CHUNK))
        self.watched_there.reads.clear()
        self.assertEqual(self.success(other.read_attachment(start=CHUNK, length=0)), b"")
        self.assertEqual(self.watched_there.reads, [ByteRange(0, HEADER_SIZE)])

    def test_any_range(self) -> None:
        """Any range is right, fetched in windows of which each chunk is in one, and no chunk beside it."""
        self.patch(client_blobs, "WINDOW", 2 * CHUNK)
        size = 11 * CHUNK + 100
        data = noise(size)
        other = self.sent(data)
        reads = self.watched_there.reads

        @settings(max_examples=examples(60))
        @given(st.integers(0, size), st.integers(0, size))
        def check(start: int, length: int) -> None:
            reads.clear()
            consumer = MemoryConsumer()
            self.success(other.write_attachment_to(consumer, start=start, length=length))
            self.assertEqual(consumer.value(), data[start : start + length])
            places = [(one.start, one.start + (one.length or 0)) for one in reads[1:]]
            self.assertTrue(all(before[1] == after[0] for before, after in pairwise(places)))
            stop = min(size, start + length)
            if start < stop:
                first, last = start // CHUNK, (stop - 1) // CHUNK
                self.assertEqual(places[0][0], HEADER_SIZE + first * SEALED_CHUNK)
                whole = (start, stop) == (0, size)
                end = Layout.of_data(size, Purpose.BLOB.floor).size
                self.assertLessEqual(places[-1][1], end if whole else HEADER_SIZE + (last + 1) * SEALED_CHUNK)
                self.assertLessEqual(max(stop - start for start, stop in places), 2 * SEALED_CHUNK)

        check()

    def test_crowded(self) -> None:
        """When buffers are scarce, windows get small; what is read is the same, and all is given back."""
        data = noise(5 * CHUNK)
        other = self.sent(data)
        attachments: Any = other.home
        budget = attachments._blobs._budget
        budget.take(budget.limit)
        self.watched_there.reads.clear()
        self.assertEqual(self.success(other.read_attachment()), data)
        self.assertEqual(len(self.watched_there.reads), 1 + 5)
        self.assertEqual(budget.used, budget.limit)


class LargeTests(SynchronousTestCase):
    """Arithmetic of what is too large to be tried."""

    def test_five_gib(self) -> None:
        """Windows over 5 GiB touch each chunk of the data once, in order, and never more than their size at once."""
        size = 5 * 1024**3 + 12345
        layout = Layout.of_data(size, Purpose.BLOB.floor)
        chunks: Any = _MadeUpChunks(size, layout)
        at, place = 0, HEADER_SIZE
        while at < size:
            end = min(size, (at + client_blobs.WINDOW) // client_blobs.WINDOW * client_blobs.WINDOW)
            opener = RangeOpener(chunks, ByteRange(at, end - at))
            self.assertEqual(opener.place.start, place)
            assert opener.place.length is not None
            self.assertLessEqual(opener.place.length, client_blobs.WINDOW // CHUNK * SEALED_CHUNK)
            place += opener.place.length
            at = end
        self.assertEqual(place, HEADER_SIZE + (size // CHUNK + 1) * SEALED_CHUNK)
        self.assertLess(place, layout.size + 1)


@define(eq=False)
class _MadeUpChunks:
    """What a `RangeOpener` asks of chunks before any are there."""

    length: int
    layout: Layout


class AlreadyThereTests(Case):
    """An id that is taken on the server: by our own bytes, or by others."""

    def test_lost_answer(self) -> None:
        """When the answer to an upload is lost, uploading again finds the blob there, and all is well."""
        doc = self.attached(b"data")
        self.server.cut_after(self.exchange_size(doc) - 1)
        self.failure(doc.upload_attachment(), RetriableTransferError)
        self.assertEqual(list(self.on_server()), [doc.attachments["default"].blob_id])
        self.assertEqual(self.state(doc), AttachmentStates.LOCAL)
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
        self.assertEqual(self.watched.reads, [ByteRange(0, HEADER_SIZE)])

    def exchange_size(self, doc: Document) -> int:
        """Return how many bytes the upload of a blob of that size takes, both ways; the blob is another one."""
        size = bytes_carried(self.server, lambda: self.success(self.attached(b"data").upload_attachment()))
        (other,) = self.on_server()
        self.success(self.remote.delete_blob(BlobId(other), ATTACHMENTS))
        return size

    def test_something_else(self) -> None:
        """Something else under the id is told as what it is; neither side loses anything."""
        doc = self.attached(b"data")
        for other in (b"short", bytes(2000), self.sealed_again(doc)):
            self.put_on_server(doc, other)
            error = self.failure(doc.upload_attachment(), BlobExists)
            self.assertEqual(str(error), str(BlobExists(doc.attachments["default"].blob_id, ATTACHMENTS)))
            self.assertEqual(self.state(doc), AttachmentStates.LOCAL)
            self.assertReads(doc, b"data")
            self.assertEqual(list(self.on_server().values()), [other])
            self.success(self.remote.delete_blob(doc.attachments["default"].blob_id, ATTACHMENTS))
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)

    def sealed_again(self, doc: Document) -> bytes:
        """Return another container of the same data under the same name, with our own key."""
        return seal(root_of(self.here), context_of(doc), noise(SALT_SIZE), b"data")


class RefusalsTests(Case):
    """What a server may say to an upload: told as what it is, and worth another try."""

    def test_every_refusal(self) -> None:
        """The error is the server's, the blob is here still, nothing is on the server, and trying again works."""
        cases: list[tuple[SoledadError | int, type[SoledadError]]] = [
            (StorageFull(), StorageFull),
            (StorageFailed(), StorageFailed),
            (QuotaExceeded(10, 5), QuotaExceeded),
            (Unauthorized(), Unauthorized),
            (Forbidden(), Forbidden),
            (ServerFailed(), ServerFailed),
            (TransferTimeout(), TransferTimeout),
            (500, ServerFailed),
            (502, ServerFailed),
            (302, UnexpectedAnswer),
            (200, UnexpectedAnswer),
            (204, UnexpectedAnswer),
            (409, SoledadError),
            (418, UnexpectedAnswer),
        ]
        for size in (4, INLINE * 2):
            doc = self.attached(noise(size))
            for refusal, error in cases:
                self.server.refuse(refusal)
                self.failure(doc.upload_attachment(), error)
                self.server.heal()
                self.assertEqual(self.state(doc), AttachmentStates.LOCAL, refusal)
                self.assertEqual(self.on_server(), {})
            self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
            self.success(self.remote.delete_blob(doc.attachments["default"].blob_id, ATTACHMENTS))

    def test_refused_downloads(self) -> None:
        """The same for what comes: typed, nothing stored, and trying again works."""
        data = noise(INLINE * 2)
        other = self.sent(data)
        for refusal in (StorageFailed(), Unauthorized(), Forbidden(), ServerFailed(), 200, 206, 302, 416, 500):
            self.server.refuse(refusal)
            for call in (other.download_attachment, other.get_attachment, other.read_attachment):
                self.failure(call(), SoledadError)
            self.assertNothingWhole()
        self.server.heal()
        self.assertEqual(self.state(other), AttachmentStates.REMOTE)
        self.assertReads(other, data)

    def test_token(self) -> None:
        """A wrong or revoked token is `Unauthorized`; with a new one it goes on."""
        doc = self.attached(b"data")
        self.server.revoke_tokens(ALICE)
        for work in (
            doc.upload_attachment(),
            doc.get_attachment_state(refresh=True),
            self.received(doc).download_attachment(),
        ):
            self.failure(work, Unauthorized)
        self.assertEqual(self.state(doc), AttachmentStates.LOCAL)
        for nonsense in ("", None):
            self.assertRaises(InvalidServerURL, self.here.set_token, nonsense)
        self.here.set_token("wrong")
        self.failure(doc.upload_attachment(), Unauthorized)
        token = self.server.add_token(ALICE)
        self.here.set_token(token)
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)


class QuotaTests(Case):
    """A server with little room."""

    quota = 4096

    def test_quota(self) -> None:
        """What does not fit is refused, with nothing left on the server; what fits still fits."""
        large, small, exact = self.attached(noise(8192)), self.attached(b"data"), 4096
        self.failure(large.upload_attachment(), QuotaExceeded)
        self.assertEqual(self.on_server(), {})
        self.assertEqual(self.state(large), AttachmentStates.LOCAL)
        self.assertEqual(self.success(small.upload_attachment()), AttachmentStates.SYNCED)
        left = exact - sum(map(len, self.on_server().values()))
        self.success(self.remote.write_blob(BlobId("rest"), BytesProducer(bytes(left)), DEFAULT))
        self.failure(self.remote.write_blob(BlobId("more"), BytesProducer(b"1"), DEFAULT), QuotaExceeded)
        self.success(self.remote.delete_blob(BlobId("rest"), DEFAULT))

    def test_broken_upload(self) -> None:
        """The room that was set aside for an upload is there again when it breaks off."""
        doc = self.attached(noise(2500))
        for size in (1000, 2000, 2500):
            self.server.cut_after(size)
            self.failure(doc.upload_attachment(), RetriableTransferError)
        # Twice it would not fit.
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)


class TamperingTests(Case):
    """What the server gives is believed only as far as it can be verified."""

    def test_every_byte(self) -> None:
        """
        A bit flipped at any position of a small container: nothing wrong is ever read, and nothing is stored.

        What is read is the right data, as far as the flipped byte is not needed for it, or a typed error.
        """
        data = b"x"
        other = self.sent(data)
        (container,) = self.on_server().values()
        for position in range(len(container)):
            flipped = bytearray(container)
            flipped[position] ^= 1 << position % 8
            self.watched_there.given = bytes(flipped)
            self.assertIsInstance(self.outcome(other.download_attachment()), CryptoError)
            for work in (other.read_attachment(), other.read_attachment(length=1), other.read_attachment(start=1)):
                outcome = self.outcome(work)
                self.assertTrue(isinstance(outcome, CryptoError) or outcome in (data, b""), outcome)
        self.watched_there.given = None
        self.assertEqual(self.state(other), AttachmentStates.REMOTE)
        self.assertReads(other, data)

    def test_large(self) -> None:
        """The same at the edges of a large one, by each way of reading; no file is left of what failed."""
        size = 4 * CHUNK + 10
        data = noise(size)
        other = self.sent(data)
        (container,) = self.on_server().values()
        for position in edges(len(container)):
            self.server.flip(position)
            self.failure(other.download_attachment(), CryptoError)
            self.failure(other.get_attachment(), CryptoError)
            self.failure(other.read_attachment(), CryptoError)
            self.assertNothingWhole()
            for start in (0, CHUNK, 2 * CHUNK + 1, size - 1):
                consumer = MemoryConsumer()
                outcome = self.outcome(other.write_attachment_to(consumer, start=start, length=CHUNK))
                # What came before the failure was verified: it may be there, but it is right.
                self.assertTrue(data[start : start + CHUNK].startswith(consumer.value()))
                if not isinstance(outcome, CryptoError):
                    self.assertEqual(consumer.value(), data[start : start + CHUNK])
        self.server.heal()
        self.assertReads(other, data)
        self.assertEqual(len(self.files()), 1)

    def test_foreign_containers(self) -> None:
        """Containers of another account, namespace, id, pointer or keyring are refused in every way of reading."""
        data = b"data"
        doc = self.attached(data)
        other = self.received(doc)
        context, root, salt = context_of(doc), root_of(self.here), noise(SALT_SIZE)
        account = KeyMaterial(root.secret, bytes(16))
        cases: list[tuple[bytes, type[CryptoError]]] = [
            (seal(account, context, salt, data), AuthenticationFailed),
            (seal(root, Context(Purpose.BLOB, DEFAULT, context.id), salt, data), AuthenticationFailed),
            (seal(root, Context(Purpose.BLOB, ATTACHMENTS, "another"), salt, data), AuthenticationFailed),
            (seal(root, Context(Purpose.TOMBSTONE, ATTACHMENTS, context.id), salt, data), AuthenticationFailed),
            # The right name and key, but not what the document points at.
            (seal(root, context, salt, data), AuthenticationFailed),
            (seal(root, context, salt, b"DATA"), AuthenticationFailed),
            (seal(KeyMaterial(bytes(32), bytes(16)), context, salt, data), AuthenticationFailed),
            (bytes(1120), MalformedContainer),
            (b"SLDC", MalformedContainer),
            (b"<html>" * 500, MalformedContainer),
        ]
        for container, error in cases:
            self.put_on_server(doc, container)
            for call in (other.download_attachment, other.get_attachment, other.read_attachment):
                self.failure(call(), error, UnexpectedAnswer)
            self.failure(other.download_attachment(), error)
            self.success(self.remote.delete_blob(doc.attachments["default"].blob_id, ATTACHMENTS))
        self.success(doc.upload_attachment())
        self.assertReads(other, data)

    def test_unknown_key(self) -> None:
        """A pointer at what was sealed under a key that this keyring lacks: another error than damage."""
        self.success(self.here.rotate_root())
        doc = self.attached(b"data", self.here)
        self.success(doc.upload_attachment())
        other = self.received(doc)
        for call in (other.download_attachment, other.get_attachment, other.read_attachment):
            self.failure(call(), UnknownKey)
        self.assertEqual(self.state(other), AttachmentStates.REMOTE)

    def test_other_lengths(self) -> None:
        """A container that was cut, or made longer, is none; nothing is kept."""
        for size in (4, 5 * CHUNK):
            doc = self.attached(noise(size))
            other = self.received(doc)
            self.success(doc.upload_attachment())
            container = self.on_server()[doc.attachments["default"].blob_id]
            for wrong in (b"", container[:1], container[:HEADER_SIZE], container[:-1], container + b"\0",
                          container[:-TAG_SIZE], container * 2):  # fmt: skip
                self.success(self.remote.delete_blob(doc.attachments["default"].blob_id, ATTACHMENTS))
                self.put_on_server(doc, wrong)
                self.failure(other.download_attachment(), CryptoError)
                self.failure(other.get_attachment_state(refresh=True), UnexpectedAnswer)
                self.assertNothingWhole()


class BrokenConnectionsTests(Case):
    """Connections that break after any number of bytes."""

    def test_upload(self) -> None:
        """Wherever an upload is cut, it can be repeated, and the server has the blob once, whole."""
        whole = bytes_carried(self.server, lambda: self.success(self.attached(b"data").upload_attachment()))
        for size in steps(whole, 17):
            doc = self.attached(b"data")
            self.server.cut_after(size)
            self.failure(doc.upload_attachment(), RetriableTransferError)
            self.server.heal()
            self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED, size)
        containers = self.on_server().values()
        self.assertEqual({len(container) for container in containers}, {1120})

    def test_large_upload(self) -> None:
        """The same for one that is a file, cut at many places."""
        doc = self.attached(noise(INLINE + CHUNK))
        whole = bytes_carried(self.server, lambda: self.success(doc.upload_attachment()))
        (expected,) = self.on_server().values()
        self.success(self.remote.delete_blob(doc.attachments["default"].blob_id, ATTACHMENTS))
        self.success(doc.get_attachment_state(refresh=True))
        for size in steps(whole, 32_771):
            self.server.cut_after(size)
            self.failure(doc.upload_attachment(), RetriableTransferError)
            self.server.heal()
            # Cut in the answer, it is there.
            self.assertIn(list(self.on_server().values()), ([], [expected]))
            self.assertTrue(size > INLINE + CHUNK or not self.on_server())
        self.success(doc.upload_attachment())
        self.assertEqual(list(self.on_server().values()), [expected])

    def test_download(self) -> None:
        """Wherever a download or a read is cut, nothing is stored, and it can be repeated."""
        for data, step in ((b"data", 11), (noise(INLINE + CHUNK), 32_771)):
            other = self.sent(data)
            for call in (other.read_attachment, other.download_attachment):
                for size in self.until_it_succeeds(call, step):
                    self.assertEqual(self.state(other), AttachmentStates.REMOTE, size)
                    self.assertEqual(self.files(), [])
            self.assertReads(other, data)

    def until_it_succeeds(self, call: Callable[[], Deferred[Any]], step: int) -> Iterator[int]:
        """Cut the connection after more and more bytes until that is more than there are."""
        for size in range(1, 1 << 20, step):
            self.server.cut_after(size)
            outcome = self.outcome(call())
            self.server.heal()
            if not isinstance(outcome, TransferError):
                self.assertNotIsInstance(outcome, Exception)
                return
            self.assertIsInstance(outcome, RetriableTransferError)
            yield size

    def test_silence(self) -> None:
        """A server that says nothing any more is given up after a while; nothing is lost."""
        doc, other = self.attached(noise(INLINE * 2)), self.sent(noise(INLINE * 2))
        for call in (doc.upload_attachment, other.download_attachment, other.read_attachment):
            self.server.stall()
            work = call()
            self.server.flush()
            self.assertNoResult(work)
            for _ in range(20):
                self.server.clock.advance(10)
                self.server.flush()
            self.failure(work, TransferTimeout)
            self.server.heal()
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
        self.assertReads(other, noise(INLINE * 2))


class CancellingTests(Case):
    """Calls that are cancelled while the server is silent."""

    def test_cancel(self) -> None:
        """A cancelled call fails at once, leaves nothing, and can be made again."""
        doc, other = self.attached(noise(INLINE * 2)), self.sent(noise(INLINE * 2))
        for call in (
            doc.upload_attachment,
            lambda: doc.get_attachment_state(refresh=True),
            other.download_attachment,
            other.get_attachment,
            other.read_attachment,
            lambda: other.write_attachment_to(MemoryConsumer()),
        ):
            self.server.stall()
            work = call()
            self.server.flush()
            work.cancel()
            self.failure(work, CancelledError)
            self.server.heal()
        self.assertNothingWhole()
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)
        self.assertReads(other, noise(INLINE * 2))

    def test_close(self) -> None:
        """Closing the store ends what waits for the server, and what comes after it is refused."""
        doc, other = self.attached(b"data"), self.sent(noise(INLINE * 2))
        self.server.stall()
        works: list[Deferred[Any]] = [other.download_attachment(), other.read_attachment(), other.get_attachment()]
        self.server.flush()
        closing = self.there.close()
        self.server.flush()
        for work in works:
            self.failure(work, StoreClosed)
        self.success(closing)
        self.failure(other.download_attachment(), StoreClosed)
        self.assertRaises(StoreClosed, self.there.set_token, "token")
        self.server.heal()
        self.assertEqual(self.success(doc.upload_attachment()), AttachmentStates.SYNCED)

    def test_waiting_for_another(self) -> None:
        """Of two uploads of one blob, the one that waits goes on when the other is cancelled."""
        doc = self.attached(noise(INLINE * 2))
        self.server.stall()
        first, second = doc.upload_attachment(), doc.upload_attachment()
        self.server.flush()
        first.cancel()
        self.failure(first, CancelledError)
        self.server.heal()
        self.assertEqual(self.success(second), AttachmentStates.SYNCED)
        self.assertEqual(len(self.on_server()), 1)


def root_of(device: Soledad) -> KeyMaterial:
    """Return the key that a device seals under."""
    local: Any = device._local
    root: KeyMaterial = local.current
    return root


def context_of(doc: Document) -> Context:
    """Return what the document's attachment is sealed for."""
    return Context(Purpose.BLOB, ATTACHMENTS, doc.attachments["default"].blob_id)


def bytes_carried(server: MemoryServer, exchange: Callable[[], object]) -> int:
    """Return how many bytes cross the wire while ``exchange()`` runs."""
    enough = 1 << 40
    server.cut_after(enough)
    exchange()
    network: Any = server._network
    carried: int = enough - network.cut_in
    network.cut_in = None
    return carried


def steps(whole: int, step: int) -> Iterator[int]:
    """Give sizes from 1 to below ``whole``: some, and all of the last few."""
    yield from range(1, whole - 8, step)
    yield from range(max(1, whole - 8), whole)


def edges(size: int) -> set[int]:
    """Return the positions in a container that stand for all: in the header, at each chunk's ends, at the end."""
    chunks = range(HEADER_SIZE, size, SEALED_CHUNK)
    ends = {at + offset for at in chunks for offset in (-TAG_SIZE - 1, -TAG_SIZE, -1, 0, 1)}
    header = {0, 3, 4, 5, 6, 7, 8, 15, 16, 39, 40, 71}
    return {at for at in header | ends | {size - TAG_SIZE - 1, size - TAG_SIZE - 9, size - 1} if 0 <= at < size}
