"""Attachments over bad links, cancelled and closed at every stage: what is left, and that nothing runs any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from threading import enumerate as all_threads
from typing import Any, TypeVar

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from soledad import AttachmentStates, Soledad
from soledad.client.document import Document
from soledad.client.remote.connection import Limits
from soledad.deferreds import gather, unawaited
from soledad.errors import (
    BlobExists,
    BlobNotFound,
    CryptoError,
    InvalidIdentifier,
    RetriableTransferError,
    SoledadError,
    StoreClosed,
    TransferError,
    TransferTimeout,
)
from soledad.model.blob import BlobKey, SyncStatus
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId, blob_id, namespace
from soledad.streams import BytesProducer, MemoryConsumer
from tests.integration.devices import (
    ALICE,
    Case,
    attached,
    copy_device,
    open_device,
    opened,
    reactor,
    received,
    start_thread_worker,
)
from tests.limits import rounds

T = TypeVar("T")

#: A container that is a row, one that is a file, and one larger than what fits into all buffers on the way.
SMALL, MEDIUM, LARGE = 100, 300 * 1024, 12 * 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that look random, and are the same each time."""
    return Random(seed).randbytes(size)


class Stages:
    """Counts what happens to a call, in workers and on the wire, and does something when it is so far."""

    def __init__(self) -> None:
        self.count = 0
        self._at = 0
        self._act: Callable[[], object] = lambda: None

    def at(self, stage: int, act: Callable[[], object]) -> None:
        """Call ``act`` at the ``stage``-th thing that happens from now on."""
        self.count, self._at, self._act = 0, stage, act

    def tick(self) -> None:
        """Something happens, on the reactor's thread."""
        self.count += 1
        if self.count == self._at:
            # Not from within: what happens is in the middle of something.
            reactor.callLater(0, self._act)

    def make_worker(self, threads: int, name: str) -> Any:
        """Make workers whose calls are counted."""
        return _CountedWorker(start_thread_worker(threads, name), self.tick)


@define(eq=False)
class _CountedWorker:
    """A worker that tells of each call, before and after it."""

    _worker: Any
    _tick: Callable[[], None]

    def run(self, call: Callable[..., T], *args: Any, stop: Event | None = None) -> Deferred[T]:
        """See `Worker`."""
        self._tick()
        work: Deferred[T] = self._worker.run(call, *args, stop=stop)
        return work

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """See `Worker`."""
        self._worker.report(call, *args)

    def close(self) -> None:
        """See `ThreadWorker`."""
        self._worker.close()


def store_threads() -> list[str]:
    """Return the threads of open stores."""
    return [thread.name for thread in all_threads() if "soledad-" in thread.name]


class StagesCase(Case):
    """Two devices whose every stage can be interrupted."""

    def setUp(self) -> None:
        """Start the server."""
        super().setUp()
        self.stages = Stages()
        self.link.on_carried = self.stages.tick

    async def pair(self) -> tuple[Soledad, Soledad]:
        """Open two devices that have the same keyring, and nothing else."""
        self.folders = [Path(self.mktemp()), Path(self.mktemp())]
        await (await open_device(self.folders[0], None)).close()
        copy_device(self.folders[0], self.folders[1])
        first, second = [await self.device(folder, make_worker=self.stages.make_worker) for folder in self.folders]
        return first, second

    def files(self, device: int) -> list[Path]:
        """Return the files of sealed blobs that a device has."""
        return list((self.folders[device] / f"{ALICE}_blobs").iterdir())

    async def forget(self, device: Soledad, doc: Document) -> None:
        """Let the second device have no bytes of the attachment any more, as when it is evicted."""
        local: Any = device._local
        key = BlobKey(ATTACHMENTS, doc.attachments["default"].blob_id)
        file = await local.blobs.database.write(_evict, key)
        if file is not None:
            (self.folders[1] / f"{ALICE}_blobs" / file).unlink()

    async def outcome(self, work: Deferred[Any]) -> Any:
        """Return the result or the error."""
        try:
            return await work
        except (SoledadError, CancelledError) as error:
            return error


class CancellingTests(StagesCase):
    """A call that is cancelled: before its commit nothing of it is left, after it the result stands."""

    async def at_every_stage(
        self, call: Callable[[], Deferred[Any]], after: Callable[[bool], Any], most: int = 200
    ) -> None:
        """
        Cancel ``call()`` at its first stage, its second, and so on until it is through before that.

        :param after: looks at what is left; told whether the call succeeded.
        """
        for stage in range(1, most):
            work = call()
            self.stages.at(stage, work.cancel)
            outcome = await self.outcome(work)
            reached, self.stages.count = self.stages.count >= stage, 0
            self.assertNotIsInstance(outcome, SoledadError)
            await after(not isinstance(outcome, CancelledError))
            if not reached:
                self.assertNotIsInstance(outcome, CancelledError)
                return
        self.fail("it did not end")

    async def test_upload(self) -> None:
        """An upload: the server has all or nothing of it, and it can be repeated."""
        here, _ = await self.pair()
        for size in (SMALL, MEDIUM):
            doc = await attached(here, noise(size))
            blob_id = doc.attachments["default"].blob_id

            async def look(succeeded: bool, doc: Document = doc, blob_id: BlobId = blob_id) -> None:
                if succeeded:
                    self.assertEqual(await doc.get_attachment_state(refresh=True), AttachmentStates.SYNCED)
                    await self.server.parts.backend.delete_blob(ALICE, blob_id, ATTACHMENTS)
                    self.assertEqual(await doc.get_attachment_state(refresh=True), AttachmentStates.LOCAL)
                elif blob_id in await self.server.blob_ids():
                    # It was there before the cancelling was: another upload finds that out.
                    self.assertEqual(await doc.upload_attachment(), AttachmentStates.SYNCED)
                    await look(True)

            await self.at_every_stage(doc.upload_attachment, look)
            await self.settled()
            self.assertEqual(self.server.files(), [])
            self.assertEqual(await self.server.used(), 0)

    async def settled(self) -> None:
        """Wait until the server has heard of all that was cancelled."""
        self.link.cut()
        await self.server._root.idle()

    async def test_download(self) -> None:
        """Downloads and gets: the device has all of it, or what came so far, and they can be repeated."""
        here, there = await self.pair()
        for size in (SMALL, MEDIUM):
            for call in (_download, _get):
                doc = await attached(here, noise(size))
                await doc.upload_attachment()
                docs = [await received(doc, there)]

                async def look(succeeded: bool, size: int = size, docs: list[Document] = docs) -> None:
                    state = await docs[0].get_attachment_state()
                    self.assertIn(state, (AttachmentStates.REMOTE, AttachmentStates.SYNCED))
                    if state == AttachmentStates.REMOTE:
                        self.assertFalse(succeeded)
                        self.assertLessEqual(len(self.files(1)), 1)
                    else:
                        self.assertEqual(await opened(docs[0]), noise(size))
                        await self.forget(there, docs[0])

                await docs[0].get_attachment_state()
                await self.at_every_stage(lambda call=call, docs=docs: call(docs[0]), look)  # type: ignore[misc]

    async def test_reading(self) -> None:
        """Reads and states: they change nothing, and can be repeated."""
        here, there = await self.pair()
        doc = await attached(here, noise(MEDIUM))
        await doc.upload_attachment()
        other = await received(doc, there)

        async def look(succeeded: bool) -> None:
            self.assertEqual(self.files(1), [])

        for call in (
            other.read_attachment,
            lambda: other.write_attachment_to(MemoryConsumer(), start=70_000, length=100_000),
            lambda: other.get_attachment_state(refresh=True),
        ):
            await self.at_every_stage(call, look)
        self.assertEqual(await other.read_attachment(), noise(MEDIUM))


def _download(doc: Document) -> Deferred[Any]:
    return doc.download_attachment()


def _get(doc: Document) -> Deferred[Any]:
    return Deferred.fromCoroutine(opened(doc))


def _evict(cursor: Any, key: BlobKey) -> str | None:
    """Do to a row what an eviction does; return the name of its file."""
    where = "WHERE namespace = ? AND blob_id = ?"
    at = (key.namespace, key.blob_id)
    row_id, file = cursor.execute(f"SELECT id, file FROM blob {where}", at).fetchone()
    cursor.execute("DELETE FROM container WHERE id = ?", (row_id,))
    cursor.execute("UPDATE blob SET status = ?, file = NULL WHERE id = ?", (SyncStatus.REMOTE.value, row_id))
    return str(file) if file is not None else None


class ClosingTests(StagesCase):
    """A store that is closed in the middle of everything."""

    async def test_close(self) -> None:
        """
        Whenever it is closed: all calls end, no thread and no connection is left, and what succeeded is there.

        Fifty times, at moments that chance picked once.
        """
        chance = Random(2)
        here, there = await self.pair()
        sent = [await attached(here, noise(size, size)) for size in (SMALL, MEDIUM, 2 * MEDIUM)]
        for doc in sent:
            await doc.upload_attachment()
        await here.close()
        await there.close()
        acknowledged: dict[str, bytes] = {}
        interrupted = 0
        for attempt in range(rounds(50)):
            device = await open_device(
                self.folders[1], self.link.url, self.server.token, make_worker=self.stages.make_worker
            )
            for doc_id, data in acknowledged.items():
                (doc,) = await device.get_docs([doc_id])
                self.assertTrue(await doc.get_attachment_state() & AttachmentStates.LOCAL)
                self.assertEqual(await opened(doc), data)
            works = await self.begin(device, sent, attempt)
            closing: list[Deferred[None]] = []
            self.stages.at(chance.randrange(1, 40), partial(self.close, device, works, closing))
            acknowledged = {str(work[0].doc_id): work[1] for work in works if work[2] is None}
            for doc, data, work in works:
                outcome = None if work is None else await self.outcome(work)
                self.assertNotIsInstance(outcome, CancelledError)
                if isinstance(outcome, SoledadError):
                    self.assertIsInstance(outcome, StoreClosed)
                    interrupted += 1
                else:
                    acknowledged[str(doc.doc_id)] = data
            self.stages.at(0, lambda: None)
            await gather(closing)
            await device.close()
            self.assertEqual(store_threads(), [])
            await self.assertFailure(device.create_doc({}), StoreClosed)
        # Neither too late nor too early.
        self.assertGreater(interrupted, 50)

    def close(
        self, device: Soledad, works: list[tuple[Document, bytes, Deferred[Any] | None]], closing: list[Deferred[None]]
    ) -> None:
        """Close the device; once that is done nothing may be under way."""

        def closed(ignored: None) -> None:
            self.assertTrue(all(work.called for _, _, work in works if work is not None))
            self.assertEqual(store_threads(), [])

        closing.append(device.close().addCallback(closed))

    async def begin(
        self, device: Soledad, sent: list[Document], attempt: int
    ) -> list[tuple[Document, bytes, Deferred[Any] | None]]:
        """Start a few of everything: what succeeds leaves the document with its bytes on the device."""
        mine, data = await attached(device, noise(MEDIUM, attempt)), noise(MEDIUM, attempt)
        others = []
        for number, doc in enumerate(sent):
            other = await device.create_doc({}, f"{attempt}-{number}")
            other.attach("default", doc.attachments["default"])
            await device.put_doc(other)
            await self.forget(device, other)
            others.append(other)
        # No await from here on: all of them are under way at once.
        works: list[tuple[Document, bytes, Deferred[Any] | None]] = [
            (mine, data, None),
            (mine, data, mine.upload_attachment()),
            (mine, data, mine.upload_attachment()),
        ]
        for other, source in zip(others, sent, strict=True):
            size = source.attachments["default"].length
            works.append((other, noise(size, size), other.download_attachment()))
        return works


class LinkTests(Case):
    """A link that breaks or goes silent in the middle of much data."""

    async def test_cut(self) -> None:
        """A cut upload or download is worth another try, which goes on behind what went, and then succeeds."""
        here, there = await self.pair()
        doc = await attached(here, noise(LARGE))
        for size in (1, 200, LARGE // 3, LARGE // 3):
            unawaited(self.link.fail_after("cut", "up", size))
            await self.assertFailure(doc.upload_attachment(), RetriableTransferError)
            self.assertEqual(await doc.get_attachment_state(), AttachmentStates.LOCAL)
        self.assertEqual(await doc.upload_attachment(), AttachmentStates.SYNCED)
        # Once, and what broke off: not each time all of it.
        self.assertLess(self.link.up, LARGE * 1.3)
        other = await received(doc, there)
        for size in (1, 200, LARGE // 3, LARGE // 3):
            unawaited(self.link.fail_after("cut", "down", size))
            await self.assertFailure(other.download_attachment(), RetriableTransferError)
            self.assertEqual(await other.get_attachment_state(refresh=True), AttachmentStates.REMOTE)
        self.assertEqual(await other.download_attachment(), AttachmentStates.SYNCED)
        self.assertEqual(await opened(other), noise(LARGE))

    async def test_silence(self) -> None:
        """When nothing moves any more, the call fails after the limit; the next one succeeds."""
        here, there = await self.pair_with(Limits(stall=0.4))
        doc = await attached(here, noise(LARGE))
        unawaited(self.link.fail_after("stall", "up", LARGE // 2))
        await self.assertFailure(doc.upload_attachment(), TransferTimeout)
        self.link.heal()
        self.assertEqual(await doc.upload_attachment(), AttachmentStates.SYNCED)
        other = await received(doc, there)
        unawaited(self.link.fail_after("stall", "down", LARGE // 2))
        await self.assertFailure(other.download_attachment(), TransferTimeout)
        self.link.heal()
        self.assertEqual(await other.download_attachment(), AttachmentStates.SYNCED)

    async def pair_with(self, limits: Limits) -> tuple[Soledad, Soledad]:
        """Open two devices that have less patience."""
        first, second = Path(self.mktemp()), Path(self.mktemp())
        await (await open_device(first, None)).close()
        copy_device(first, second)
        return await self.device(first, limits=limits), await self.device(second, limits=limits)

    async def test_cancelled_in_silence(self) -> None:
        """A transfer on a silent link is cancelled at once, and closing does not wait for it either."""
        here, _ = await self.pair()
        doc = await attached(here, noise(LARGE))
        silent = self.link.fail_after("stall", "up", LARGE // 2)
        work = doc.upload_attachment()
        await silent
        work.cancel()
        await self.assertFailure(work, CancelledError)
        work = doc.upload_attachment()
        await deferLater(reactor, 0.05)
        await here.close()
        await self.assertFailure(work, StoreClosed)


class NonsenseTests(Case):
    """Things that listen where a server should be."""

    async def test_nonsense(self) -> None:
        """Whatever they say, each call ends with an error of the exchange, and the store is as it was."""
        here, there = await self.pair()
        kept, sent = await attached(here, noise(MEDIUM)), await attached(here, noise(MEDIUM, 2))
        await sent.upload_attachment()
        other = await received(sent, there)
        await other.get_attachment_state()
        good = self.link.target
        for answer in NONSENSE:
            babbler = _Babbler(answer)
            listening = reactor.listenTCP(0, babbler, interface="127.0.0.1")
            self.addCleanup(listening.stopListening)
            self.link.heal()
            self.link.target = listening.getHost().port
            works: tuple[Deferred[Any], ...] = (
                kept.upload_attachment(),
                other.download_attachment(),
                other.read_attachment(),
                kept.get_attachment_state(refresh=True),
            )
            for work in works:
                await self.assertFailure(work, TransferError, CryptoError)
            self.assertEqual(await kept.get_attachment_state(), AttachmentStates.LOCAL)
            self.assertEqual(await other.get_attachment_state(), AttachmentStates.REMOTE)
            self.link.cut()
        self.link.target = good
        self.link.heal()
        self.assertEqual(await kept.upload_attachment(), AttachmentStates.SYNCED)
        self.assertEqual(await opened(other), noise(MEDIUM, 2))


_ETAG = b'ETag: "' + b"0" * 64 + b'"\r\n'

#: What is said in the place of any answer; then the connection ends.
NONSENSE = (
    b"",
    b"\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in to the hotel's network</html>",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n" + _ETAG + b"\r\n" + bytes(1000),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + _ETAG + b"\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/5\r\n" + _ETAG + b"\r\nhello",
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100000000\r\n\r\n" + bytes(200_000),
    b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000,
)


class _Babbler(Factory):
    """Says the same to everybody."""

    noisy = False

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def buildProtocol(self, addr: Any) -> Protocol:
        """See `Factory`."""
        return _Babble(self.answer)


class _Babble(Protocol):
    """Answers what comes, whatever it is."""

    transport: Any

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        """Say it once."""
        answer, self._answer = self._answer, b""
        self.transport.write(answer)
        self.transport.loseConnection()


class NamesTests(Case):
    """Names of blobs, on a real file system."""

    async def test_case(self) -> None:
        """Ids that differ only by case are different blobs, and so are equal ones of two namespaces."""
        device = await self.device()
        remote: Any = device._server.blobs if device._server is not None else None
        places = [("Blob", DEFAULT), ("blob", DEFAULT), ("BLOB", DEFAULT), ("blob", ATTACHMENTS)]
        for number, (name, space) in enumerate(places):
            await remote.write_blob(blob_id(name), BytesProducer(b"%d" % number), space)
        for number, (name, space) in enumerate(places):
            consumer = MemoryConsumer()
            await remote.read_blob(blob_id(name), consumer, space)
            self.assertEqual(consumer.value(), b"%d" % number)
            await self.assertFailure(remote.write_blob(blob_id(name), BytesProducer(b"x"), space), BlobExists)
        await remote.delete_blob(blob_id("Blob"), DEFAULT)
        await self.assertFailure(remote.stat_blob(blob_id("Blob"), DEFAULT), BlobNotFound)
        self.assertEqual((await remote.stat_blob(blob_id("blob"), DEFAULT)).length, 1)

    async def test_bad_names(self) -> None:
        """A name that could be a path, or none, is refused at either end; the server stays where it is."""
        device = await self.device()
        remote: Any = device._server.blobs if device._server is not None else None
        bad = ["", ".", "..", "a/b", "../../x", "a\0b", "a\n", "a b", "a%2Fb", "ä", "a" * 129, "a.b", "a\\b"]
        for name in bad:
            self.assertRaises(InvalidIdentifier, blob_id, name)
            # One that got past the client's own check.
            for call in (
                lambda name=name: remote.write_blob(BlobId(name), BytesProducer(b"x"), DEFAULT),
                lambda name=name: remote.stat_blob(BlobId(name), DEFAULT),
                lambda name=name: remote.delete_blob(BlobId(name), DEFAULT),
            ):
                await self.assertFailure(call(), SoledadError)
        for name in [*bad, "Default", "-a", "a" * 65]:
            self.assertRaises(InvalidIdentifier, namespace, name)
        self.assertEqual(self.server.files(), [])
        names = {path.name for path in self.server.folder.iterdir()}
        self.assertEqual({name for name in names if not name.startswith("index.db")}, {"blobs", "processes"})
