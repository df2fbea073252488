"""Blobs without a document, over sockets and threads: devices and servers that are killed, and go on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from soledad import Soledad, SyncStatus
from soledad.errors import TransferError
from tests.integration.devices import Case, Link, new_user, open_device, reactor
from tests.integration.serving import ServerProcess, environment
from tests.integration.test_attachment_crashes import Forks as _Forks
from tests.integration.test_attachment_crashes import MiB, noise
from tests.limits import LONG, seconds

S = SyncStatus
SIZE = 16 * MiB


class DeviceKilledTests(Case):
    """A device that is killed at a step of a sync, and opened again."""

    timeout = seconds(120)

    async def open(self, folder: Path) -> Soledad:
        """Open a store that is at home here."""
        device = await open_device(folder, self.link.url, self.server.token)
        self.addCleanup(device.close)
        return device

    async def forks(self, folder: Path) -> _Forks:
        """Start what forks the children."""
        forks = _Forks()
        arguments = [sys.executable, "-m", "tests.integration.crashing", str(folder), self.link.url, self.server.token]
        reactor.spawnProcess(forks, sys.executable, arguments, env=environment())
        self.addCleanup(forks.stop)
        self.assertEqual(await forks.next_word(), "ready")
        return forks

    async def test_sync(self) -> None:
        """Wherever it was killed, the next sync ends it: nothing is lost, deleted ones are gone, on both sides."""
        folder = Path(self.mktemp())
        device = await self.open(folder)
        forks = await self.forks(folder)
        last = ""
        for point in range(1, 200, 1 if LONG else 3):
            for blob_id, size in ((f"s{point}", 1000), (f"t{point}", 2000), (f"l{point}", 300 * 1024)):
                await device.blobs.put(blob_id, noise(size, point))
            if last:
                await device.blobs.delete(last)
            await device.close()
            words = await forks.run("sync", "-", point)
            device = await self.open(folder)
            self.assertEqual(await self.read(device, f"l{point}"), noise(300 * 1024, point))
            await device.blobs.sync()
            counts = await device.blobs.sync_progress()
            self.assertEqual(list(counts), [S.SYNCED])
            self.assertEqual(counts[S.SYNCED], await device.blobs.remote_count())
            last = f"t{point}"
            if words[-1] == "ended":
                break
            self.assertEqual(words[-1], "killed")
        self.assertGreater(point, 10)
        await device.close()
        self.link.cut()
        await self.server._root.idle()

    async def read(self, device: Soledad, blob_id: str) -> bytes:
        """Return a blob's data."""
        with await device.blobs.get(blob_id) as file:
            return file.read()


class ServerKilledTests(TestCase):
    """A server that is killed in the middle of a transfer."""

    timeout = seconds(120)

    async def make(self, size: int = SIZE) -> None:
        """Start a server, and a device with a large blob."""
        self.folder = Path(self.mktemp())
        self.token = new_user(self.folder)
        self.server = await ServerProcess.start(self, self.folder)
        self.link = Link(self.server.port)
        self.addCleanup(self.link.stop)
        self.device = await open_device(Path(self.mktemp()), self.link.url, self.token)
        self.addCleanup(self.device.close)
        await self.device.blobs.put("a", noise(size))

    async def kill_at(self, direction: str, size: int, work: Any) -> None:
        """Kill the server when so much has been carried, and start it again."""
        reached = self.link.fail_after("stall", direction, size)
        call = work()
        await reached
        # What has passed the link is being written.
        await deferLater(reactor, 0.2)
        await self.server.kill()
        self.link.heal()
        await self.assertFailure(call, TransferError)
        self.server = await ServerProcess.start(self, self.folder)
        self.link.target = self.server.port

    async def test_upload(self) -> None:
        """What was durable there does not go again: of a long body, all but the last 16 MiB."""
        await self.make(3 * SIZE)
        await self.kill_at("up", SIZE * 9 // 4, self.device.blobs.send_missing)
        before = self.link.up
        await self.device.blobs.send_missing()
        self.assertEqual(await self.device.blobs.sync_progress(), {S.SYNCED: 1})
        self.assertLess(self.link.up - before, SIZE * 1.1)

    async def test_download(self) -> None:
        """What came does not come again."""
        await self.make()
        await self.device.blobs.send_missing()
        await self.device.close()
        folder = self.device._local.folder
        shutil.rmtree(folder / "alice_blobs")
        self.device = await open_device(folder, self.link.url, self.token)
        self.addCleanup(self.device.close)
        await self.kill_at("down", SIZE // 2, self.device.blobs.fetch_missing)
        before = self.link.down
        with await self.device.blobs.get("a") as file:
            self.assertEqual(file.read(), noise(SIZE))
        self.assertLess(self.link.down - before, SIZE * 0.51)

    async def test_goes_on_by_itself(self) -> None:
        """A device that is left alone goes on when the server is there again."""
        await self.make()
        await self.kill_at("up", SIZE // 2, self.device.blobs.send_missing)
        for _ in range(200):
            if await self.device.blobs.count(status=S.SYNCED):
                break
            await deferLater(reactor, 0.1)
        self.assertEqual(await self.device.blobs.sync_progress(), {S.SYNCED: 1})
