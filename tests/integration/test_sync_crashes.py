"""A process that is killed at any step of a sync of documents and attachments, over sockets and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soledad import Soledad
from tests.client.sync.devices import second_device
from tests.integration import test_blob_crashes
from tests.integration.devices import opened
from tests.limits import LONG, seconds


class DeviceKilledTests(test_blob_crashes.DeviceKilledTests):
    """Two devices, of which one is killed while both have something that the other has not."""

    timeout = seconds(120)

    async def test_sync(self) -> None:
        """Wherever it was killed: nothing that was saved is lost, the next sync ends it, and nothing is amiss."""
        folder = Path(self.mktemp())
        device = await self.open(folder)
        other = await self.open(second_device(device, Path(self.mktemp())))
        forks = await self.forks(folder)
        for point in range(1, 300, 1 if LONG else 4):
            await self.change(device, "mine", point)
            await self.change(device, f"mine-{point}", point)
            await self.change(other, "theirs", point)
            await other.sync()
            await device.close()
            words = await forks.run("sync_all", "-", point)
            device = await self.open(folder)
            self.assertEqual(await self.read_both(device, "mine"), (point, b"%d" % point))
            for store in (device, other, device):
                await store.sync()
            for store in (device, other):
                for doc_id in ("mine", f"mine-{point}", "theirs"):
                    self.assertEqual(await self.read_both(store, doc_id), (point, b"%d" % point))
                self.assertEqual([*await store.incidents(), *await store.sync_problems()], [])
            self.assertEqual(await device.checkpoint_code(), await other.checkpoint_code())
            if words[-1] == "ended":
                break
            self.assertEqual(words[-1], "killed")
        self.assertGreater(point, 20)
        self.assertEqual(words, ["acknowledged", "ended"])
        await device.close()
        await other.close()
        self.link.cut()
        await self.server._root.idle()

    async def change(self, store: Soledad, doc_id: str, number: int) -> None:
        """Save a number, and attach it."""
        doc = await store.get_doc(doc_id) or await store.create_doc({}, doc_id)
        doc.content = {"n": number}
        await doc.put_attachment(b"%d" % number)
        await store.put_doc(doc)

    async def read_both(self, store: Soledad, doc_id: str) -> tuple[Any, bytes]:
        """Return the number, and what is attached."""
        doc = await store.get_doc(doc_id)
        assert doc is not None
        assert doc.content is not None
        return doc.content["n"], await opened(doc)
