"""Observers of a store as it is in life: with threads, and with the reactor that they are called on."""

from __future__ import annotations

from pathlib import Path
from threading import current_thread
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from soledad import Document, Soledad
from soledad.deferreds import gather
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import DocId
from tests.integration.devices import open_device
from tests.limits import rounds, seconds

reactor = cast("Any", global_reactor)


class ObserverTests(TestCase):
    """Who is told of what, and when."""

    timeout = seconds(60)

    async def device(self) -> Soledad:
        """Open a store without a server."""
        device = await open_device(Path(self.mktemp()), None)
        self.addCleanup(device.close)
        return device

    async def turns(self) -> None:
        """Let the reactor go round a few times."""
        for _ in range(3):
            await deferLater(reactor, 0, lambda: None)

    async def test_on_the_reactor(self) -> None:
        """An observer is called on the reactor's thread, not within the call that writes, and finds what it is told."""
        device = await self.device()
        found: list[Any] = []
        told: Deferred[None] = Deferred()
        within = False

        async def observe(doc_id: str, rev: str, generation: int) -> None:
            found.extend([current_thread(), within, await device.get_doc(doc_id), (rev, generation)])
            told.callback(None)

        device.subscribe(observe)
        within = True
        work = device.create_doc({"number": 1}, "doc")
        within = False
        doc = await work
        await told
        self.assertEqual(found, [current_thread(), False, doc, (doc.rev, 1)])

    async def test_many(self) -> None:
        """Of many writes at once, each document's last one is told, and all of them in the order of generations."""
        device, told = await self.device(), cast("list[tuple[str, str, int]]", [])
        device.subscribe(lambda *one: told.append(one))
        docs = [Document(f"doc-{number}") for number in range(5)]
        writes = rounds(20)
        await gather(device.put_doc(doc) for _ in range(writes) for doc in docs)
        await self.turns()
        last = {doc_id: rev for doc_id, rev, _ in told}
        self.assertEqual(last, {doc.doc_id: doc.rev for doc in docs})
        generations = [generation for _, _, generation in told]
        self.assertEqual(generations, sorted(set(generations)))
        self.assertEqual(generations[-1], writes * len(docs))

    async def test_coalesced(self) -> None:
        """What shares a commit is told in one turn: each document once."""
        device, told = await self.device(), cast("list[tuple[str, str, int]]", [])
        device.subscribe(lambda *one: told.append(one))
        versions = [Versions(Stored(DocId("doc"), f"b:{number}", "{}")) for number in range(1, 51)]
        await Deferred.fromCoroutine(device._documents.apply_all(versions))
        await self.turns()
        self.assertEqual(told, [("doc", "b:50", 50)])

    async def test_slow_observer(self) -> None:
        """Nothing waits for what an observer does; writes go on."""
        device = await self.device()
        never: list[Deferred[None]] = []

        def observe(*told: Any) -> Deferred[None]:
            never.append(Deferred())
            return never[-1]

        device.subscribe(observe)
        for number in range(3):
            await device.create_doc({}, f"doc-{number}")
        await self.turns()
        self.assertEqual(len(never), 3)

    async def test_cancelled_after_the_commit(self) -> None:
        """A write that is cancelled too late stands, and is told."""
        device, told = await self.device(), cast("list[tuple[str, str, int]]", [])
        device.subscribe(lambda *one: told.append(one))
        work = device.put_doc(Document("doc"))
        await self.turns()
        work.cancel()
        rev = await work
        await self.turns()
        self.assertEqual(told, [("doc", rev, 1)])

    async def test_never_after_close(self) -> None:
        """From the moment at which closing begins nobody is told, though what was accepted is still written."""
        for _ in range(rounds(3)):
            folder, told = Path(self.mktemp()), cast("list[tuple[str, str, int]]", [])
            device = await open_device(folder, None)
            device.subscribe(lambda *one, told=told: told.append(one))
            works = [device.create_doc({}, f"doc-{number}") for number in range(20)]
            closing = device.close()
            before = list(told)
            await gather(works)
            await closing
            await self.turns()
            self.assertEqual(told, before)
            device = await open_device(folder, None)
            self.addCleanup(device.close)
            self.assertEqual((await device.whats_changed())[0], 20)
