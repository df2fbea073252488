"""Documents on two devices and a server that really run: threads, sockets, processes, and their ends."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from soledad import Document, Soledad
from soledad.deferreds import gather
from soledad.errors import RetriableTransferError
from tests.client.sync.devices import second_device
from tests.integration.devices import Link, new_user, open_device, reactor
from tests.integration.serving import ServerProcess
from tests.limits import seconds

MANY = 1500


class SyncTests(TestCase):
    """A person's two devices."""

    timeout = seconds(90)

    async def begin(self) -> tuple[Soledad, Soledad]:
        """Have a server, and two devices."""
        self.folder = Path(self.mktemp())
        self.token = new_user(self.folder)
        self.server = await ServerProcess.start(self, self.folder)
        # Whatever port a server has: it is the same one to its devices.
        self.link = Link(self.server.port)
        self.addCleanup(self.link.stop)
        one = await self.device(Path(self.mktemp()))
        return one, await self.device(second_device(one, Path(self.mktemp())))

    async def device(self, folder: Path) -> Soledad:
        """Open a device."""
        device = await open_device(folder, self.link.url, self.token)
        self.addCleanup(device.close)
        return device

    async def contents(self, device: Soledad) -> dict[str, Any]:
        """Return everything that a device has."""
        _, docs = await device.get_all_docs()
        return {str(doc.doc_id): doc.content for doc in docs}

    async def test_both_at_once(self) -> None:
        """Both sync at the same time, again and again, and have the same in the end."""
        one, two = await self.begin()
        await one.put_docs([Document(f"one-{number}", content={"n": number}) for number in range(MANY)])
        await two.put_docs([Document(f"two-{number}", content={"n": number}) for number in range(MANY)])
        await gather([one.sync(), two.sync()])
        await gather([one.sync(), two.sync()])
        contents = await self.contents(one)
        self.assertEqual(len(contents), 2 * MANY)
        self.assertEqual(contents, await self.contents(two))
        self.assertEqual(await one.checkpoint_code(), await two.checkpoint_code())
        self.assertEqual([*await one.incidents(), *await two.incidents()], [])

    async def test_writing_meanwhile(self) -> None:
        """What is written while a sync runs is in one of the next."""
        one, two = await self.begin()
        await one.put_docs([Document(f"doc-{number}", content={"n": number}) for number in range(MANY)])
        work = one.sync()
        for number in range(0, MANY, 100):
            doc = await one.get_doc(f"doc-{number}")
            assert doc is not None
            doc.content = {"n": -number}
            await one.put_doc(doc)
        await work
        await one.sync()
        await two.sync()
        self.assertEqual(await self.contents(two), await self.contents(one))

    async def test_server_killed(self) -> None:
        """The server is killed in the middle, and started again: everything arrives."""
        one, two = await self.begin()
        await one.put_docs([Document(f"doc-{number}", content={"n": number}) for number in range(MANY)])
        for pause in (0.02, 0.1, 0.2):
            work = one.sync()
            await deferLater(reactor, pause)
            await self.server.kill()
            with contextlib.suppress(RetriableTransferError):
                await work
            self.server = await ServerProcess.start(self, self.folder)
            self.link.target = self.server.port
        await one.sync()
        await two.sync()
        self.assertEqual(len(await self.contents(two)), MANY)
        self.assertEqual([*await one.incidents(), *await two.incidents()], [])

    async def test_follow(self) -> None:
        """Stores that follow are in step a second after all their connections were cut, and stop cleanly."""
        one, two = await self.begin()
        followings = [store.follow() for store in (one, two)]
        for number in range(3):
            while not all(following.listening for following in followings):
                await deferLater(reactor, 0.02)
            self.link.cut()
            start = reactor.seconds()
            await one.create_doc({"n": number}, f"doc-{number}")
            while await two.get_doc(f"doc-{number}") is None:
                await deferLater(reactor, 0.02)
            # A second to connect again, and what it takes to send, hear and fetch on a machine that has other work.
            self.assertLess(reactor.seconds() - start, 6)
        await gather([following.stop() for following in followings])
        self.assertEqual([*await one.incidents(), *await two.incidents()], [])
