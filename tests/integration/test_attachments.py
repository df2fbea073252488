"""An attachment from end to end: devices and a server that really run, and sockets between them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any, BinaryIO, cast

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from soledad import AttachmentState, AttachmentStates, Soledad, streams
from soledad.client import api
from soledad.client.local.files import BlobFiles
from soledad.deferreds import gather, unawaited
from soledad.errors import ConnectionFailed
from soledad.streams import MemoryConsumer
from tests.integration.devices import (
    ALICE,
    Case,
    PeakBudget,
    attached,
    budget_of,
    copy_device,
    new_user,
    opened,
    reactor,
    received,
)
from tests.integration.serving import ServerProcess
from tests.limits import seconds

MiB = 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that look random, and are the same each time."""
    return Random(seed).randbytes(size)


def enter_folder(folder: Path) -> None:
    """Work where there is a file to attach."""
    folder.mkdir()
    os.chdir(folder)
    Path("hackers.txt").write_bytes(noise(3 * MiB + 17))


def contents(*folders: Path) -> list[bytes]:
    """Return what all files in some folders hold."""
    return [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]


class Noise(io.RawIOBase):
    """A file of so many bytes that are not kept anywhere."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left, self._piece = size, noise(MiB)

    def readinto(self, buffer: Any) -> int:
        """Give the next bytes."""
        count = min(len(buffer), MiB, self._left)
        buffer[:count] = self._piece[:count]
        self._left -= count
        return count


class ExampleTests(TestCase):
    """The example that everything starts from, with everything as an application has it."""

    timeout = seconds(60)

    async def test_example(self) -> None:
        """It runs as it stands, against ``twist soledad``, with a passphrase."""
        folder = Path(self.mktemp())
        token = new_user(folder)
        server = await ServerProcess.start(self, folder)
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        enter_folder(Path(self.mktemp()))

        soledad = await Soledad.open(ALICE, "correct horse", data_dir="store", server_url=server.url, auth_token=token)
        self.addCleanup(soledad.close)
        await attachment_example(soledad)


@inlineCallbacks
def attachment_example(soledad):  # type: ignore[no-untyped-def]
    """See the design; nothing in here is ours."""
    doc = yield soledad.create_doc({})
    state = yield doc.get_attachment_state()
    dirty = yield doc.is_dirty()
    assert state == AttachmentStates.NONE
    assert dirty == False  # noqa: E712
    yield doc.put_attachment(open('hackers.txt', 'rb'))  # noqa: SIM115 # fmt: skip
    state = yield doc.get_attachment_state()
    dirty = yield doc.is_dirty()
    assert state & AttachmentState.LOCAL
    assert dirty == True  # noqa: E712
    yield soledad.put_doc(doc)
    dirty = yield doc.is_dirty()
    assert dirty == False  # noqa: E712
    yield doc.upload_attachment()
    state = yield doc.get_attachment_state()
    assert state & AttachmentState.REMOTE
    assert state == AttachmentState.SYNCED
    fd = yield doc.get_attachment()
    assert fd.read() == open('hackers.txt', 'rb').read()  # noqa: SIM115 # fmt: skip


class TwoDevicesTests(Case):
    """What one device attaches, another has."""

    async def test_all_sizes(self) -> None:
        """Empty, tiny, about a chunk, about the inline limit, and large: each arrives as it was, and stays there."""
        here, there = await self.pair()
        for size in (0, 1, 65535, 65536, 65537, 256 * 1024, 256 * 1024 + 1, 5 * MiB + 3):
            data = noise(size)
            doc = await attached(here, data)
            self.assertEqual(await doc.upload_attachment(), AttachmentStates.SYNCED)
            other = await received(doc, there)
            self.assertEqual(await other.get_attachment_state(), AttachmentStates.REMOTE)
            third, half = size // 3, size // 2
            self.assertEqual(await other.read_attachment(start=third, length=half), data[third:][:half])
            consumer = MemoryConsumer()
            await other.write_attachment_to(consumer)
            self.assertEqual(consumer.value(), data)
            self.assertEqual(await other.get_attachment_state(), AttachmentStates.REMOTE)
            self.assertEqual(await other.download_attachment(), AttachmentStates.SYNCED)
            self.assertEqual(await opened(other), data)

    async def test_copied_store(self) -> None:
        """A copy of a closed store without its blobs' files opens, and finds its attachments on the server."""
        folder = Path(self.mktemp())
        device = await self.device(folder)
        sent, kept = await attached(device, noise(MiB)), await attached(device, noise(MiB, 2))
        await sent.upload_attachment()
        await device.close()

        copy = await self.device(copy_device(folder, Path(self.mktemp())))
        (first, second) = await copy.get_docs([str(sent.doc_id), str(kept.doc_id)])
        self.assertEqual(await first.get_attachment_state(), AttachmentStates.REMOTE)
        self.assertEqual(await second.get_attachment_state(), AttachmentStates.AWAITED)
        self.assertEqual(await opened(first), noise(MiB))
        self.assertEqual(await first.get_attachment_state(), AttachmentStates.SYNCED)

    async def test_nothing_readable_on_the_server(self) -> None:
        """Neither the server's files nor the device's hold a piece of what was attached, or its title."""
        folder = Path(self.mktemp())
        device = await self.device(folder)
        secret = b"a very private sentence, " * 20_000
        doc = await attached(device, secret)
        await doc.upload_attachment()
        await device.close()
        for content in contents(folder, self.server.folder):
            self.assertNotIn(secret[:25], content)
            self.assertNotIn(b"a document", content)

    async def test_one_transfer(self) -> None:
        """Two uploads of one blob at once are one, and so are two downloads, and a download and a get."""
        here, there = await self.pair()
        doc = await attached(here, noise(2 * MiB))
        self.assertEqual(
            await gather([doc.upload_attachment(), doc.upload_attachment()]), [AttachmentStates.SYNCED] * 2
        )
        self.assertLess(self.link.up, 3 * MiB)
        other = await received(doc, there)
        reading = Deferred.fromCoroutine(opened(other))
        works: list[Deferred[Any]] = [other.download_attachment(), reading, other.download_attachment()]
        self.assertEqual(await gather(works), [AttachmentStates.SYNCED, noise(2 * MiB), AttachmentStates.SYNCED])
        self.assertLess(self.link.down, 3 * MiB)

    async def test_uploads_of_two_devices(self) -> None:
        """Two devices that upload the same blob at the same time both succeed; the server has it once."""
        folder = Path(self.mktemp())
        here = await self.device(folder)
        doc = await attached(here, noise(3 * MiB))
        await here.close()
        here, there = await self.device(folder), None
        copied = Path(self.mktemp())
        await here.close()
        copy_device(folder, copied)
        for path in (folder / f"{ALICE}_blobs").iterdir():
            (copied / f"{ALICE}_blobs").mkdir(exist_ok=True)
            (copied / f"{ALICE}_blobs" / path.name).write_bytes(path.read_bytes())
        here, there = await self.device(folder), await self.device(copied)
        docs = [(await device.get_all_docs())[1][0] for device in (here, there)]
        self.assertEqual(await gather([one.upload_attachment() for one in docs]), [AttachmentStates.SYNCED] * 2)
        self.assertEqual(await self.server.blob_ids(), [doc.attachments["default"].blob_id])
        self.assertEqual(len(self.server.files()), 1)


class ProgressTests(Case):
    """What the user sees of a transfer."""

    async def test_progress(self) -> None:
        """Transfers tell how far they are: never backwards, not too often, and once at the end."""
        # Not ten times a second: it would be over before.
        self.patch(streams, "REPORT_INTERVAL", 0.005)
        here, there = await self.pair()
        doc = await attached(here, noise(24 * MiB))
        other = await received(doc, there)
        for transfer in (doc.upload_attachment, other.download_attachment):
            told: list[tuple[int, int]] = []
            began = monotonic()
            await transfer(progress=lambda done, total: told.append((done, total)))  # noqa: B023
            spent = monotonic() - began
            # Were there fewer, nobody would see anything; were there more, the reactor would have work.
            self.assertGreaterEqual(len(told), 5)
            self.assertLessEqual(len(told), 3 + spent / 0.005)
            self.assertEqual([done for done, _ in told], sorted(done for done, _ in told))
            self.assertTrue(all(done <= total for done, total in told))
            self.assertEqual(told[-1][0], told[-1][1])
            self.assertGreater(told[-1][0], 24 * MiB)
            count = len(told)
            await deferLater(reactor, 0.02)
            self.assertEqual(len(told), count)

    async def test_progress_that_fails(self) -> None:
        """A progress callback that raises is logged, and harms nothing."""
        device = await self.device()
        doc = await attached(device, noise(MiB))
        self.assertEqual(await doc.upload_attachment(progress=lambda done, total: 1 // 0), AttachmentStates.SYNCED)
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))


class MemoryTests(Case):
    """However large a blob is, what is held of it is bounded."""

    async def test_large_blob(self) -> None:
        """While 64 MiB go to the server and come back, both ends hold a few buffers, and nothing afterwards."""
        self.patch(api, "Budget", PeakBudget)
        here, there = await self.pair()
        doc = await here.create_doc({})
        resident = Resident()
        await doc.put_attachment(cast("BinaryIO", Noise(64 * MiB)))
        await doc.upload_attachment()
        other = await received(doc, there)
        await other.download_attachment()
        await other.write_attachment_to(Discarding())
        growth = resident.stop()
        for budget in (self.server.budget, budget_of(here), budget_of(there)):
            self.assertEqual(budget.used, 0)
            self.assertLess(budget.peak, 16 * MiB)
        # Of both ends and two devices together: less than the blob.
        self.assertLess(growth, 48 * MiB)

    async def test_many_at_once(self) -> None:
        """Twenty transfers at once share the bound, and all arrive."""
        self.patch(api, "Budget", PeakBudget)
        here, there = await self.pair()
        docs = [await attached(here, noise(3 * MiB, seed)) for seed in range(20)]
        await gather([doc.upload_attachment() for doc in docs])
        others = [await received(doc, there) for doc in docs]
        consumers = [MemoryConsumer() for _ in others]
        await gather([other.write_attachment_to(consumer) for other, consumer in zip(others, consumers, strict=True)])
        await gather([other.download_attachment() for other in others])
        for seed, consumer in enumerate(consumers):
            self.assertEqual(consumer.value(), noise(3 * MiB, seed))
        for budget in (self.server.budget, budget_of(here), budget_of(there)):
            self.assertEqual(budget.used, 0)
            self.assertLess(budget.peak, 36 * MiB)

    async def test_slow_disk(self) -> None:
        """A device that writes more slowly than the server sends lets it wait."""
        self.patch(api, "Budget", PeakBudget)
        here, there = await self.pair()
        doc = await attached(here, noise(24 * MiB))
        await doc.upload_attachment()
        other = await received(doc, there)
        write = BlobFiles.write

        def slow(files: BlobFiles, descriptor: int, data: Any) -> int:
            sleep(0.005)
            return write(files, descriptor, data)

        self.patch(BlobFiles, "write", slow)
        await other.download_attachment()
        self.assertLess(budget_of(there).peak, 6 * MiB)


class ConsumerTests(Case):
    """Who takes an attachment decides how fast it comes."""

    async def test_slow_consumer(self) -> None:
        """While the consumer wants nothing, hardly more is fetched than it has; then the rest comes."""
        here, there = await self.pair()
        doc = await attached(here, noise(16 * MiB))
        await doc.upload_attachment()
        other = await received(doc, there)
        before, consumer = self.link.down, Hesitating(MiB)
        writing = other.write_attachment_to(consumer)
        await consumer.paused
        await deferLater(reactor, 0.2)
        # A window was, and no other.
        self.assertLess(self.link.down - before, 3 * MiB)
        self.assertLess(len(consumer.value()), 3 * MiB)
        consumer.go_on()
        await writing
        self.assertEqual(consumer.value(), noise(16 * MiB))

    async def test_consumer_that_goes_away(self) -> None:
        """A consumer that stops the producer gets nothing more; the call fails, and nothing of it runs."""
        here, there = await self.pair()
        doc = await attached(here, noise(8 * MiB))
        await doc.upload_attachment()
        other = await received(doc, there)
        for stop_while_paused in (True, False):
            consumer = Hesitating(MiB)
            writing = other.write_attachment_to(consumer)
            await consumer.paused
            await deferLater(reactor, 0)
            if not stop_while_paused:
                # Nothing arrives any more: only what was asked of the server can be waited for.
                self.link.stalled = True
                consumer.go_on()
                await deferLater(reactor, 0)
            consumer.producer.stopProducing()
            given = len(consumer.value())
            await self.assertFailure(writing, ConnectionFailed)
            self.assertEqual(len(consumer.value()), given)


class Resident:
    """How much memory the process uses, above what it used at the beginning."""

    def __init__(self) -> None:
        self._before = self._most = self._now()
        self._watch = LoopingCall(self._look)
        unawaited(self._watch.start(0.01))

    def stop(self) -> int:
        """Return the most, in bytes."""
        self._watch.stop()
        return self._most - self._before

    def _look(self) -> None:
        self._most = max(self._most, self._now())

    def _now(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@implementer(IConsumer)
class Discarding:
    """Takes everything, and keeps nothing."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""


@implementer(IConsumer)
class Hesitating(MemoryConsumer):
    """Pauses once it has so many bytes, until it is told to go on."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self.paused: Deferred[None] = Deferred()
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        assert streaming
        self.producer = producer

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        super().write(data)
        if len(self.value()) >= self._size and not self.paused.called:
            self.producer.pauseProducing()
            self.paused.callback(None)

    def go_on(self) -> None:
        """Want the rest."""
        self.producer.resumeProducing()
