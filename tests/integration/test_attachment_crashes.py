"""Clients and servers that are killed in the middle of a transfer, and started again."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from soledad import AttachmentStates, Document, Soledad
from soledad.errors import QuotaExceeded, RetriableTransferError
from soledad.model.ids import DEFAULT, BlobId
from soledad.server.cli import main as soledad_server
from soledad.streams import BytesProducer
from soledad.wire.container import Layout, Purpose
from tests.integration.devices import (
    ALICE,
    Case,
    Link,
    attached,
    copy_device,
    new_user,
    open_device,
    opened,
    reactor,
    received,
)
from tests.integration.serving import ServerProcess, environment
from tests.limits import seconds

#: Its container is a file.
SIZE = 300 * 1024
MiB = 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that look random, and are the same each time."""
    return Random(seed).randbytes(size)


def sealed_size(size: int) -> int:
    """Return the bytes of the container of so many."""
    return Layout.of_data(size, Purpose.BLOB.floor).size


class ServerKilledTests(TestCase):
    """A server that is killed while it takes an upload."""

    timeout = seconds(60)

    async def test_kill_and_restart(self) -> None:
        """The upload is worth another try, nothing half is visible, and no room stays set aside."""
        size = 8 * MiB
        quota = sealed_size(size) + 1000
        folder = Path(self.mktemp())
        token = new_user(folder, quota)
        server = await ServerProcess.start(self, folder)
        link = Link(server.port)
        self.addCleanup(link.stop)
        device = await open_device(Path(self.mktemp()), link.url, token)
        self.addCleanup(device.close)
        doc = await attached(device, noise(size))

        reached = link.fail_after("stall", "up", size // 2)
        upload = doc.upload_attachment()
        await reached
        # What has passed the link is being written.
        await deferLater(reactor, 0.1)
        await server.kill()
        link.heal()
        await self.assertFailure(upload, RetriableTransferError)
        self.assertEqual(await doc.get_attachment_state(), AttachmentStates.LOCAL)

        server = await ServerProcess.start(self, folder)
        link.target = server.port
        self.assertEqual(self.operator(folder, "user", "list"), f"{ALICE}\t0\t{quota}\n")
        self.assertEqual(await doc.get_attachment_state(refresh=True), AttachmentStates.LOCAL)
        # All of the quota is there again, and no more.
        self.assertEqual(await doc.upload_attachment(), AttachmentStates.SYNCED)
        self.assertEqual(await doc.get_attachment_state(refresh=True), AttachmentStates.SYNCED)
        remote: Any = device._server
        await self.assertFailure(
            remote.blobs.write_blob(BlobId("more"), BytesProducer(bytes(1001)), DEFAULT), QuotaExceeded
        )
        await remote.blobs.write_blob(BlobId("rest"), BytesProducer(bytes(1000)), DEFAULT)
        self.assertEqual(self.operator(folder, "check"), "")

    async def test_killed_before_it_answers(self) -> None:
        """What was durable when the server was killed is there, though nobody heard of it: the next upload does."""
        folder = Path(self.mktemp())
        token = new_user(folder)
        server = await ServerProcess.start(self, folder)
        link = Link(server.port)
        self.addCleanup(link.stop)
        device = await open_device(Path(self.mktemp()), link.url, token)
        self.addCleanup(device.close)
        doc = await attached(device, noise(3 * MiB))
        # The keyring is backed up first: what is answered next is the upload.
        await device._keys.ready()
        answered = link.fail_after("stall", "down", 0)
        upload = doc.upload_attachment()
        await answered
        await server.kill()
        link.heal()
        await self.assertFailure(upload, RetriableTransferError)
        self.assertEqual(await doc.get_attachment_state(), AttachmentStates.LOCAL)
        link.target = (await ServerProcess.start(self, folder)).port
        sent = link.up
        # So slowly that the server's answer comes first, however busy the machine is.
        device.blobs.limit(up=MiB // 4)
        self.assertEqual(await self.sent_again(doc), AttachmentStates.SYNCED)
        # The header was compared; what the network had not taken yet was not sent again.
        self.assertLess(link.up - sent, 2 * MiB)
        self.assertEqual(self.operator(folder, "user", "list"), f"{ALICE}\t{sealed_size(3 * MiB)}\t-\n")
        self.assertEqual(self.operator(folder, "check"), "")

    async def sent_again(self, doc: Document) -> AttachmentStates:
        """Upload; a refusal in the middle of a body may be lost with its connection, which is worth another try."""
        for _ in range(3):
            # By its whole name: trial takes `suppress` in a test module for its own.
            with contextlib.suppress(RetriableTransferError):
                return await doc.upload_attachment()
        return await doc.upload_attachment()

    def operator(self, folder: Path, *command: str) -> str:
        """Return what a command of the operator's prints."""
        out = io.StringIO()
        self.assertEqual(soledad_server(["--data-dir", str(folder), *command], out), 0)
        return out.getvalue()


class ClientKilledTests(Case):
    """A client that is killed at every step of a transfer, and opened again."""

    async def forks(self, folder: Path) -> Forks:
        """Start what forks the children."""
        forks = Forks()
        arguments = [sys.executable, "-m", "tests.integration.crashing", str(folder), self.link.url, self.server.token]
        reactor.spawnProcess(forks, sys.executable, arguments, env=environment())
        self.addCleanup(forks.stop)
        self.assertEqual(await forks.next_word(), "ready")
        return forks

    async def test_upload(self) -> None:
        """
        Killed at any step of an upload: the attachment is here, whole, and can be sent again.

        The server has it whole or not at all; what the client was told stands.
        """
        folder = Path(self.mktemp())
        device = await self.open(folder)
        forks = await self.forks(folder)
        for point in range(1, 100):
            data = noise(SIZE, point)
            doc = await attached(device, data)
            await device.close()
            words = await forks.run("upload_attachment", str(doc.doc_id), point)
            device = await self.open(folder)
            (doc,) = await device.get_docs([str(doc.doc_id)])
            state = await doc.get_attachment_state()
            if "acknowledged" in words:
                self.assertEqual(state, AttachmentStates.SYNCED)
            self.assertIn(state, (AttachmentStates.LOCAL, AttachmentStates.SYNCED))
            self.assertEqual(await opened(doc), data)
            self.assertEqual(await doc.upload_attachment(), AttachmentStates.SYNCED)
            self.assertEqual(await doc.get_attachment_state(refresh=True), AttachmentStates.SYNCED)
            self.assertEqual(len(self.files(folder)), point)
            if words[-1] == "ended":
                break
            self.assertEqual(words[-1], "killed")
        await device.close()
        self.assertGreater(point, 7)
        self.link.cut()
        await self.server._root.idle()
        self.assertEqual(len(await self.server.blob_ids()), point)
        self.assertEqual(await self.server.used(), point * sealed_size(SIZE))
        self.assertEqual(len(self.server.files()), point)

    async def test_download(self) -> None:
        """Killed at any step of a download: the attachment is here, whole, or not at all, and no file is left over."""
        folder, other = Path(self.mktemp()), Path(self.mktemp())
        source = await self.device(other)
        await source.close()
        device = await self.open_copy(other, folder)
        source = await self.device(other)
        forks = await self.forks(folder)
        for point in range(1, 100):
            data = noise(SIZE, point)
            sent = await attached(source, data)
            await sent.upload_attachment()
            doc = await received(sent, device)
            await device.close()
            words = await forks.run("download_attachment", str(doc.doc_id), point)
            device = await self.open(folder)
            (doc,) = await device.get_docs([str(doc.doc_id)])
            state = await doc.get_attachment_state()
            if "acknowledged" in words:
                self.assertEqual(state, AttachmentStates.SYNCED)
            self.assertIn(state, (AttachmentStates.REMOTE, AttachmentStates.SYNCED))
            # Strays were swept: what is there is what is known, or has come so far.
            self.assertIn(len(self.files(folder)), (point, point - (state == AttachmentStates.REMOTE)))
            self.assertEqual(await doc.download_attachment(), AttachmentStates.SYNCED)
            self.assertEqual(await opened(doc), data)
            self.assertEqual(len(self.files(folder)), point)
            if words[-1] == "ended":
                break
            self.assertEqual(words[-1], "killed")
        await device.close()
        self.assertGreater(point, 10)

    async def open(self, folder: Path) -> Soledad:
        """Open the device, until the next child has it."""
        device = await open_device(folder, self.link.url, self.server.token)
        self.addCleanup(device.close)
        return device

    async def open_copy(self, folder: Path, copy: Path) -> Soledad:
        """Open a copy of a closed store."""
        return await self.open(copy_device(folder, copy))

    def files(self, folder: Path) -> list[Path]:
        """Return the files of sealed blobs."""
        return list((folder / f"{ALICE}_blobs").iterdir())


class Forks(ProcessProtocol):
    """The other end of `tests.integration.crashing`."""

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._words: list[str] = []
        self._rest = b""
        self._waiting: Deferred[None] | None = None
        self._complaint = b""

    async def run(self, operation: str, doc_id: str, point: int) -> list[str]:
        """Fork a child; return what was said of it."""
        self.transport.write(f"{operation} {doc_id} {point}\n".encode())
        words: list[str] = []
        while not words or words[-1] == "acknowledged":
            words.append(await self.next_word())
        return words

    async def next_word(self) -> str:
        """Return what is said next."""
        while not self._words:
            self._waiting = Deferred()
            await self._waiting
        return self._words.pop(0)

    def outReceived(self, data: bytes) -> None:
        """Take what is said."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._words += [line.decode() for line in lines]
        self._tell()

    def errReceived(self, data: bytes) -> None:
        """Keep what went wrong."""
        self._complaint += data

    def processEnded(self, reason: Failure) -> None:
        """See `ProcessProtocol`."""
        self._words.append(f"over: {self._complaint.decode(errors='replace')}")
        self._tell()
        self.ended.callback(None)

    async def stop(self) -> None:
        """End it."""
        try:
            self.transport.signalProcess("TERM")
        except ProcessExitedAlready:
            return
        await self.ended

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self._words:
            waiting.callback(None)
