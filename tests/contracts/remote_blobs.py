"""What holds for every `IRemoteBlobs`, whatever lies between it and the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from soledad.client.interfaces import IRemoteBlobs
from soledad.client.remote.connect import Server
from soledad.deferreds import InPlace, gather
from soledad.errors import (
    BlobExists,
    BlobNotFound,
    ConnectionFailed,
    Forbidden,
    LengthRequired,
    PreconditionFailed,
    Unauthorized,
    UnsatisfiableRange,
    WrongLength,
)
from soledad.model.blob import WHOLE, ByteRange
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId
from soledad.streams import PIECE, Budget, BytesProducer, MemoryConsumer, WorkerProducer
from soledad.wire.listing import Namespaces
from soledad.wire.routes import ListRoute

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Case
else:
    # A mixin: alone it is not to be run.
    _Case = object

ALICE = UserId("alice")
ID, OTHER = BlobId("a-Blob_1"), BlobId("another")
#: More than all buffers on the way together.
LARGE = 24 * 1024 * 1024


@implementer(IBodyProducer)
@define(eq=False)
class Source:
    """A body that a test ends, and of which it knows what was done to it."""

    length: Any
    consumer: Any = field(default=None, init=False)
    done: Deferred[None] = field(factory=Deferred, init=False)
    stopped: int = field(default=0, init=False)
    started: Deferred[None] = field(factory=Deferred, init=False)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write nothing yet."""
        self.consumer = consumer
        self.started.callback(None)
        return self.done

    def pauseProducing(self) -> None:
        """A test pays no attention."""

    def resumeProducing(self) -> None:
        """A test pays no attention."""

    def stopProducing(self) -> None:
        """Count it."""
        self.stopped += 1


class Held(MemoryConsumer):
    """A consumer that lets its producer wait after the first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Deferred[None] = Deferred()
        self.producer: Any = None
        self.size = 0

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        self.producer = producer

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        super().write(data)
        self.size += len(data)
        if not self.first.called:
            self.producer.pauseProducing()
            self.first.callback(None)


class Broken(MemoryConsumer):
    """A consumer that can take nothing."""

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        raise ZeroDivisionError


def zeros(size: int, sent: list[int]) -> WorkerProducer:
    """Return a body of so many zeros, which notes the sizes of the pieces that were taken of it."""
    left = size

    def read(wanted: int) -> bytes:
        nonlocal left
        piece = min(wanted, left)
        left -= piece
        return bytes(piece)

    return WorkerProducer(InPlace(), read, Budget(), size, on_sent=sent.append)


class RemoteCase(_Case):
    """Make a server in `make_server`; every test begins with an empty one."""

    timeout = 60
    server: Server

    async def make_server(self) -> Server:
        """Return a client of an empty server, as the user alice; the test cleans up behind it."""
        raise NotImplementedError

    def connect(self, user: str, token: str) -> Server:
        """Return another client of the same server."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let everything arrive; over sockets it does so by itself."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the server."""
        self.server = await self.make_server()
        self.blobs: Any = self.server.blobs

    async def put(self, data: bytes, blob_id: BlobId = ID, **options: Any) -> None:
        """Store some bytes."""
        await self.blobs.write_blob(blob_id, BytesProducer(data), **options)

    async def get(self, blob_id: BlobId = ID, **options: Any) -> bytes:
        """Return what is stored."""
        consumer = MemoryConsumer()
        await self.blobs.read_blob(blob_id, consumer, **options)
        return consumer.value()

    async def fails(self, work: Awaitable[Any], *kinds: type[BaseException]) -> Any:
        """Return the error with which ``work`` fails; it must be of one of ``kinds``."""
        try:
            result = await work
        except BaseException as error:
            self.assertIsInstance(error, kinds)
            return error
        raise self.failureException(f"succeeded: {result!r}")

    async def a_while(self) -> None:
        """Let some time pass in which something could arrive."""
        self.settle()


class RemoteBlobsContract(RemoteCase):
    """What is asked about blobs."""

    # --- what goes there and comes back ---------------------------------------------------------------

    def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IRemoteBlobs, self.blobs)

    async def test_round_trip(self) -> None:
        """Bytes come back as they went: none, one, and many."""
        for number, data in enumerate((b"", b"x", bytes(range(256)) * 8192)):
            blob_id = BlobId(f"b{number}")
            await self.put(data, blob_id)
            self.assertEqual(await self.get(blob_id), data)

    async def test_ranges(self) -> None:
        """A range gives just its bytes; one that ends behind the end is cut there."""
        await self.put(b"0123456789")
        for wanted, expected in (
            (ByteRange(0, 10), b"0123456789"),
            (ByteRange(3, 4), b"3456"),
            (ByteRange(9, 1), b"9"),
            (ByteRange(5), b"56789"),
            (ByteRange(8, 100), b"89"),
            (ByteRange(4, 0), b""),
        ):
            self.assertEqual(await self.get(wanted=wanted), expected)

    async def test_tags(self) -> None:
        """The tag is told before the bytes; a read that names it goes on, one that names another gets nothing."""
        await self.put(b"0123456789")
        told: list[str] = []
        self.assertEqual(await self.get(on_tag=told.append), b"0123456789")
        tag = sha256(b"0123456789").hexdigest()
        self.assertEqual(told, [tag])
        self.assertEqual(await self.get(etag=tag), b"0123456789")
        self.assertEqual(await self.get(etag=tag, wanted=ByteRange(4)), b"456789")
        for wanted in (ByteRange(4), ByteRange(4, 2), WHOLE):
            consumer = MemoryConsumer()
            other = sha256(b"other").hexdigest()
            reading = self.blobs.read_blob(ID, consumer, wanted=wanted, etag=other, on_tag=told.append)
            await self.fails(reading, PreconditionFailed)
            self.assertEqual(consumer.value(), b"")
        self.assertEqual(told, [tag])
        # What was refused leaves the connection as it should be.
        self.assertEqual(await self.get(), b"0123456789")

    async def test_range_behind_the_end(self) -> None:
        """There is nothing behind the end, and the error says where it is."""
        await self.put(b"0123456789")
        error = await self.fails(self.get(wanted=ByteRange(10, 1)), UnsatisfiableRange)
        self.assertEqual(error.size, 10)

    async def test_stat(self) -> None:
        """A blob's length and tag can be had without its bytes."""
        await self.put(b"hello")
        info = await self.blobs.stat_blob(ID)
        self.assertEqual((info.blob_id, info.length, info.etag), (ID, 5, sha256(b"hello").hexdigest()))

    async def test_missing(self) -> None:
        """What is not there cannot be had, asked about, or deleted; the error names it."""
        for work in (self.get(), self.blobs.stat_blob(ID), self.blobs.delete_blob(ID)):
            error = await self.fails(work, BlobNotFound)
            self.assertEqual((error.blob_id, error.namespace), (ID, "default"))

    async def test_namespaces(self) -> None:
        """The same id in two namespaces is two blobs."""
        await self.put(b"here")
        await self.put(b"there", namespace=Namespace("other"))
        self.assertEqual(await self.get(), b"here")
        self.assertEqual(await self.get(namespace=Namespace("other")), b"there")

    async def test_write_once(self) -> None:
        """A second write under the same id is refused and changes nothing."""
        await self.put(b"first")
        await self.fails(self.put(b"second"), BlobExists)
        self.assertEqual(await self.get(), b"first")

    async def test_early_refusal(self) -> None:
        """A refusal is heard before the whole body is sent, and the next request finds a sound connection."""
        await self.put(b"first")
        sent: list[int] = []
        await self.fails(self.blobs.write_blob(ID, zeros(LARGE, sent)), BlobExists)
        self.assertLess(sum(sent), LARGE)
        self.assertEqual(await self.get(), b"first")

    async def test_large(self) -> None:
        """What is larger than all buffers goes both ways."""
        sent: list[int] = []
        await self.blobs.write_blob(ID, zeros(LARGE, sent))
        self.assertEqual(sum(sent), LARGE)
        self.assertEqual(await self.get(), bytes(LARGE))

    async def test_delete(self) -> None:
        """A deleted blob is gone; what came with the deletion is listed in its place."""
        await self.put(b"hello")
        await self.blobs.delete_blob(ID, tombstone=b"sealed")
        await self.fails(self.get(), BlobNotFound)
        page = await self.blobs.list_blobs(ListRoute(ALICE, deleted=True))
        self.assertEqual([(info.blob_id, info.deleted, info.tombstone) for info in page.blobs], [(ID, True, b"sealed")])

    async def test_list(self) -> None:
        """A list comes in pages, each with where the next begins; the count needs none of them."""
        names = [BlobId(f"b{number}") for number in range(5)]
        for name in names:
            await self.put(name.encode(), name)
        found, after = [], None
        for size in (2, 2, 1):
            page = await self.blobs.list_blobs(ListRoute(ALICE, order_by="date", limit=2, after=after))
            self.assertEqual(len(page.blobs), size)
            found += [info.blob_id for info in page.blobs]
            after = page.next
        self.assertEqual((found, after), (names, None))
        self.assertEqual(await self.blobs.count_blobs(ListRoute(ALICE, only_count=True)), 5)

    async def test_all_namespaces(self) -> None:
        """The namespaces are told, those of deleted blobs too, with the head that their lists have."""
        self.assertEqual((await self.blobs.list_namespaces()).names, ())
        await self.put(b"mail", namespace=Namespace("mails"))
        await self.put(b"default")
        await self.blobs.delete_blob(ID)
        told = await self.blobs.list_namespaces()
        page = await self.blobs.list_blobs(ListRoute(ALICE))
        self.assertEqual(told, Namespaces((DEFAULT, Namespace("mails")), page.head))

    async def test_overlap(self) -> None:
        """Many calls at a time do not mix anything up."""
        names = [BlobId(f"b{number}") for number in range(30)]
        await gather([Deferred.fromCoroutine(self.put(name.encode() * 5000, name)) for name in names])
        read = await gather([Deferred.fromCoroutine(self.get(name)) for name in names])
        self.assertEqual(read, [name.encode() * 5000 for name in names])

    # --- who may --------------------------------------------------------------------------------------

    async def test_wrong_token(self) -> None:
        """A token that the server does not know opens nothing; another one can be set without connecting anew."""
        self.server.set_token("wrong")
        await self.fails(self.blobs.stat_blob(ID), Unauthorized)
        await self.fails(self.put(bytes(LARGE)), Unauthorized)

    async def test_other_user(self) -> None:
        """A path of another user is forbidden, with a token that is good."""
        with_alices = ListRoute(UserId("bob"))
        await self.fails(self.blobs.list_blobs(with_alices), Forbidden)

    # --- sources that fail ----------------------------------------------------------------------------

    async def test_unknown_length(self) -> None:
        """A body of unknown length is not even begun."""
        source = Source(UNKNOWN_LENGTH)
        await self.fails(self.blobs.write_blob(ID, source), LengthRequired)
        self.assertIsNone(source.consumer)

    async def test_source_fails(self) -> None:
        """The error of a source is the error of the call; nothing is stored."""
        source = Source(10)
        work = self.blobs.write_blob(ID, source)
        await source.started
        source.consumer.write(b"12345")
        source.done.errback(ZeroDivisionError())
        await self.fails(work, ZeroDivisionError)
        await self.fails(self.get(), BlobNotFound)

    async def test_wrong_length(self) -> None:
        """A source that gives fewer or more bytes than it had announced stores nothing."""
        for given in (b"123456789", b"12345678901"):
            source = Source(10)
            work = self.blobs.write_blob(ID, source)
            await source.started
            source.consumer.write(given)
            if len(given) < 10:
                source.done.callback(None)
            error = await self.fails(work, WrongLength)
            self.assertEqual((error.announced, error.given), (10, len(given)))
            await self.fails(self.get(), BlobNotFound)

    # --- consumers that are slow, fail, or leave ------------------------------------------------------

    async def test_back_pressure(self) -> None:
        """A consumer that pauses gets no more than what was on its way to the client already."""
        await self.blobs.write_blob(ID, zeros(LARGE, []))
        consumer = Held()
        work = self.blobs.read_blob(ID, consumer)
        await consumer.first
        await self.a_while()
        self.assertLessEqual(consumer.size, PIECE)
        consumer.producer.resumeProducing()
        self.settle()
        await work
        self.assertEqual(consumer.size, LARGE)

    async def test_consumer_fails(self) -> None:
        """The error of a consumer is the error of the call."""
        await self.put(b"hello")
        await self.fails(self.blobs.read_blob(ID, Broken()), ZeroDivisionError)

    async def test_consumer_leaves(self) -> None:
        """A consumer that stops its producer ends the call."""
        await self.blobs.write_blob(ID, zeros(LARGE, []))
        consumer = Held()
        work = self.blobs.read_blob(ID, consumer)
        await consumer.first
        consumer.producer.stopProducing()
        self.settle()
        await self.fails(work, ConnectionFailed)

    # --- cancelling -----------------------------------------------------------------------------------

    async def cancelled(self, work: Deferred[Any]) -> None:
        """Cancel ``work``, and see that it ends so."""
        work.cancel()
        self.settle()
        await self.fails(work, CancelledError)

    async def test_cancel_at_once(self) -> None:
        """Each call can be cancelled as soon as it is made."""
        calls: list[Callable[[], Deferred[Any]]] = [
            lambda: self.blobs.write_blob(ID, Source(10)),
            lambda: self.blobs.read_blob(OTHER, Held()),
        ]
        await self.blobs.write_blob(OTHER, zeros(LARGE, []))
        for call in calls:
            await self.cancelled(call())
        await self.fails(self.get(), BlobNotFound)

    async def test_cancel_upload(self) -> None:
        """An upload that is cancelled half-way stops its source and leaves nothing."""
        source = Source(10)
        work = self.blobs.write_blob(ID, source)
        await source.started
        source.consumer.write(b"12345")
        await self.a_while()
        await self.cancelled(work)
        self.assertEqual(source.stopped, 1)
        await self.fails(self.get(), BlobNotFound)

    async def test_cancel_download(self) -> None:
        """A download that is cancelled half-way gives no more bytes."""
        await self.blobs.write_blob(ID, zeros(LARGE, []))
        consumer = Held()
        work = self.blobs.read_blob(ID, consumer)
        await consumer.first
        await self.cancelled(work)
        size = consumer.size
        await self.a_while()
        self.assertEqual(consumer.size, size)

    async def test_close(self) -> None:
        """Closing ends what is under way, and what is asked later."""
        await self.blobs.write_blob(ID, zeros(LARGE, []))
        consumer, source = Held(), Source(10)
        download, upload = self.blobs.read_blob(ID, consumer), self.blobs.write_blob(OTHER, source)
        await gather([consumer.first, source.started])
        closing = self.server.close()
        self.settle()
        await closing
        await self.fails(download, CancelledError)
        await self.fails(upload, CancelledError)
        self.assertEqual(source.stopped, 1)
        await self.fails(self.blobs.stat_blob(ID), CancelledError)
