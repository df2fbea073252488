"""The local store as it is in life: threads, the real reactor, a passphrase, and being closed at any moment."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase

from soledad import AttachmentStates, Document, Soledad
from soledad.client.api import open_store
from soledad.client.local.files import INLINE_LIMIT
from soledad.client.local.store import Workers
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker, gather
from soledad.errors import StoreClosed, StoreInUse, WrongPassphrase
from soledad.model.ids import user_id
from tests.client.local.test_files import open_files
from tests.client.stores import PiecesProducer
from tests.limits import rounds, seconds

reactor = cast("Any", global_reactor)
ROOT = Path(__file__).resolve().parents[2]
KEY = HandedInKey(bytes(range(32)))


class DawdlingFile(io.BytesIO):
    """Takes half a second for 64 MiB."""

    def readinto(self, buffer: Any) -> int:
        """Wait, and read."""
        time.sleep(0.008 * len(buffer) / 2**20)
        return super().readinto(buffer)


class LocalStoreTestCase(TestCase):
    """Stores with threads, whose key is handed in, which saves the time of a passphrase."""

    timeout = seconds(60)

    def setUp(self) -> None:
        """Choose a folder."""
        self.folder = Path(self.mktemp())

    async def open(self) -> Soledad:
        """Open the store; who opens it closes it."""
        workers = Workers.start(partial(ThreadWorker.start, reactor))
        try:
            return await open_store(reactor, workers, user_id("user"), KEY, self.folder, None)
        except BaseException:
            workers.close()
            raise

    def files(self) -> list[Path]:
        """Return the sealed files."""
        return list((self.folder / "user_blobs").iterdir())


class LifeTests(LocalStoreTestCase):
    """Opening with a passphrase, using it, closing."""

    async def test_passphrase(self) -> None:
        """What was stored is there again with the same passphrase, and not with another, also after it was changed."""
        store = await Soledad.open("user", "first", data_dir=self.folder)
        doc = await store.create_doc({"a": 1}, "doc")
        await doc.put_attachment(io.BytesIO(b"data"))
        await store.put_doc(doc)
        with self.assertRaises(StoreInUse):
            await Soledad.open("user", "first", data_dir=self.folder)
        await store.change_passphrase("second")
        await store.close()
        with self.assertRaises(WrongPassphrase):
            await Soledad.open("user", "first", data_dir=str(self.folder))
        store = await Soledad.open("user", "second", data_dir=str(self.folder))
        again = await store.get_doc("doc")
        assert again is not None
        self.assertEqual(await again.get_attachment_state(), AttachmentStates.LOCAL)
        file = await again.get_attachment()
        assert file is not None
        self.assertEqual((again.content, file.read()), ({"a": 1}, b"data"))
        file.close()
        await gather([store.close(), store.close()])
        await store.close()

    async def test_opening_cancelled(self) -> None:
        """An opening that is cancelled gives back the lock and its threads, and another one works."""
        opening = Soledad.open("user", "passphrase", data_dir=self.folder)
        await deferLater(reactor, 0.01)
        opening.cancel()
        with self.assertRaises(CancelledError):
            await opening
        await (await Soledad.open("user", "passphrase", data_dir=self.folder)).close()

    async def test_nothing_left_open(self) -> None:
        """A store that is closed has given back every descriptor."""
        # The reactor opens its own when it starts.
        await deferLater(reactor, 0)
        before = open_files()
        store = await self.open()
        doc = await store.create_doc({})
        await doc.put_attachment(b"x" * INLINE_LIMIT)
        self.assertEqual(await doc.read_attachment("default", 1, 2), b"xx")
        await store.close()
        self.assertEqual(open_files(), before)

    async def test_snapshot(self) -> None:
        """What is saved is what the object held when `put_doc` was called, whatever happens to it meanwhile."""
        store = await self.open()
        doc = Document("doc")
        saving = []
        for number in range(20):
            doc.content = {"n": number}
            saving.append(store.put_doc(doc))
            doc.content["n"] = "changed later"
        revs = await gather(saving)
        self.assertEqual([rev.rpartition(":")[2] for rev in revs], [str(number) for number in range(1, 21)])
        stored = await store.get_doc("doc")
        assert stored is not None
        self.assertEqual(stored.content, {"n": 19})
        await store.close()

    async def test_many_at_once(self) -> None:
        """Hundreds of calls at once are all carried out, and a refusal concerns its own."""
        store = await self.open()
        docs = [Document(f"doc-{number}", "r:1" if number % 10 == 0 else None) for number in range(500)]
        outcomes: list[bool] = []
        saving = [store.put_doc(doc).addCallbacks(lambda rev: True, lambda failure: False) for doc in docs]
        outcomes = await gather(saving)
        self.assertEqual(outcomes, [number % 10 != 0 for number in range(500)])
        self.assertEqual((await store.get_all_docs())[0], 450)
        await store.close()

    async def test_reactor_is_free(self) -> None:
        """While 64 MiB are attached and read, the reactor does other things."""
        store = await self.open()
        doc = await store.create_doc({})
        ticks: list[float] = []
        ticking = LoopingCall(lambda: ticks.append(time.monotonic()))
        ended = ticking.start(0.002)
        await doc.put_attachment(DawdlingFile(bytes(64 * 1024 * 1024)))
        await doc.read_attachment()
        ticking.stop()
        await ended
        await store.close()
        # Generous, as other work on the machine takes its time too; the file alone takes more than this.
        self.assertLess(max(after - before for before, after in pairwise(ticks)), 0.25)


class ClosingTests(LocalStoreTestCase):
    """Closed, or cancelled, in the middle of anything."""

    async def test_close_at_any_moment(self) -> None:
        """
        Fifty times: what was acknowledged is there, whole, and nothing of what was not is left over.

        All calls have ended when the store is closed, each with a result, or `StoreClosed`.
        """
        for seed in range(rounds(1)):
            # What is stored is read each time: many rounds in one store would take longer and longer.
            self.folder = Path(self.mktemp())
            await self.close_again_and_again(random.Random(5 + seed))

    async def close_again_and_again(self, chance: random.Random) -> None:
        """Do so in a store that is new."""
        expected: dict[str, bytes] = {}
        number, longest = 0, 0.02
        while number < 50 or (len(expected) <= 10 and number < 100):
            store = await self.open()
            await self.assertHas(store, expected)
            works = self.work(store, number, chance)
            number += 1
            if number > 50:
                # A busy machine got little done before the closings: then they come later.
                longest = 0.2
            await deferLater(reactor, chance.random() * longest)
            await store.close()
            for doc_id, data, work in works:
                self.assertTrue(work.called, doc_id)
                if await work:
                    expected[doc_id] = data
        store = await self.open()
        try:
            await self.assertHas(store, expected)
        finally:
            # Threads of a store that stays open would keep the process from ending.
            await store.close()
        self.assertGreater(len(expected), 10)

    def work(self, store: Soledad, number: int, chance: random.Random) -> list[tuple[str, bytes, Deferred[bool]]]:
        """Begin many things; return what each would have stored, and whether it did."""
        works = []
        for kind in range(6):
            doc_id, data = f"doc-{number}-{kind}", chance.randbytes(chance.choice([10, 1000, INLINE_LIMIT + 10]))
            work = Deferred.fromCoroutine(self.save(store, doc_id, data, kind))
            works.append((doc_id, data, work))
        return works

    async def save(self, store: Soledad, doc_id: str, data: bytes, kind: int) -> bool:
        """Save a document with an attachment; tell whether all of it was acknowledged."""
        source: Any = [data, io.BytesIO(data), PiecesProducer([data]), PiecesProducer([data], ends=kind != 3)][kind % 4]
        try:
            doc = await store.create_doc({"kind": kind}, doc_id)
            await doc.put_attachment(source)
            await store.put_doc(doc)
        except StoreClosed:
            return False
        return True

    async def assertHas(self, store: Soledad, expected: dict[str, bytes]) -> None:
        """All that was acknowledged is there, and every attachment that shows is whole; no file is left over."""
        attached = {}
        for doc in (await store.get_all_docs())[1]:
            for name in doc.attachments:
                attached[str(doc.doc_id)] = await doc.read_attachment(name)
        for doc_id, data in expected.items():
            self.assertTrue(attached.get(doc_id) == data, doc_id)
        # As the store does it: the collector may be reading.
        rows = await store._local.blobs.database.read(
            lambda cursor: {row[0] for row in cursor.execute("SELECT file FROM blob WHERE file IS NOT NULL")}
        )
        self.assertEqual({path.name for path in self.files()}, rows)

    async def test_cancelled_at_any_moment(self) -> None:
        """A put that is cancelled, whenever that is, has stored nothing or has its result."""
        chance = random.Random(7)  # the same each time
        store = await self.open()
        doc = await store.create_doc({}, "doc")
        for _ in range(rounds(50)):
            doc.attach("default", None)
            files, data = len(self.files()), chance.randbytes(INLINE_LIMIT * chance.choice([1, 8]))
            work = doc.put_attachment(io.BytesIO(data))
            await deferLater(reactor, chance.random() * 0.01)
            work.cancel()
            try:
                await work
            except CancelledError:
                self.assertEqual((len(self.files()), dict(doc.attachments)), (files, {}))
            else:
                self.assertEqual(len(self.files()), files + 1)
                self.assertTrue(await doc.read_attachment() == data)
        await store.close()

    async def test_slow_file(self) -> None:
        """Closing waits for a file that is slow; one whose call is cancelled is left at its next piece."""
        store = await self.open()
        doc = await store.create_doc({})
        go_on, began = Event(), Event()

        class SlowFile(io.BytesIO):
            def readinto(self, buffer: Any) -> int:
                began.set()
                go_on.wait(30)
                return super().readinto(buffer)

        putting = doc.put_attachment(SlowFile(b"slow"))
        while not began.is_set():
            await deferLater(reactor, 0.001)
        closing = store.close()
        await deferLater(reactor, 0.01)
        self.assertFalse(closing.called)
        go_on.set()
        await closing
        self.assertTrue(putting.called)
        await putting
        self.assertEqual(doc.attachments["default"].length, 4)


#: A script that forgets to close its store.
FORGETFUL = """
import sys
from twisted.internet import task
from twisted.internet.defer import inlineCallbacks
from soledad import Soledad

@inlineCallbacks
def main(reactor):
    store = yield Soledad.open("user", "passphrase", data_dir=sys.argv[1])
    doc = yield store.create_doc({"a": 1}, "doc")
    store.put_doc(doc).addErrback(print)
    if sys.argv[2:]:
        raise ValueError("and fails")

task.react(main)
"""

#: Coroutines of asyncio.
ASYNCIO = """
import asyncio, sys
from twisted.internet import asyncioreactor

async def main(loop):
    from soledad import Soledad
    store = await Soledad.open("user", "passphrase", data_dir=sys.argv[1]).asFuture(loop)
    doc = await store.create_doc({"a": 1}, "doc").asFuture(loop)
    await doc.put_attachment(b"data").asFuture(loop)
    print(await doc.read_attachment().asFuture(loop))
    await store.close().asFuture(loop)

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)
loop.run_until_complete(main(loop))
"""


#: Begins to open a store, and ends.
IDLE = """
import sys
from soledad import Soledad
opening = Soledad.open("user", "passphrase", data_dir=sys.argv[1])
"""

#: Ends in the middle: the reactor is left without a word to anybody, while more is being written.
ABRUPT = """
import sys
from functools import partial
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from soledad.client.api import open_store
from soledad.client.local.store import Workers
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker

async def main():
    workers = Workers.start(partial(ThreadWorker.start, reactor))
    key = HandedInKey(bytes(range(32)))
    store = await open_store(reactor, workers, "user", key, Path(sys.argv[1]), None)
    blob_id = await store.blobs.put(None, bytes(1000000))
    puts = [store.create_doc({}, str(number)) for number in range(300)]
    print(blob_id, (await puts[0]).doc_id)
    reactor.crash()

ensureDeferred(main()).addErrback(print)
reactor.run()
"""


class ScriptTests(LocalStoreTestCase):
    """Scripts that use a store, each a process of its own."""

    def run_script(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, which comes."""
        command = [sys.executable, "-c", code, str(self.folder.resolve()), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds(50))

    def test_forgetful(self) -> None:
        """A script that forgets to close its store ends all the same, well or badly; the store is unlocked."""
        done = self.run_script(FORGETFUL)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        failed = self.run_script(FORGETFUL.replace('"doc")', "None)"), "fail")
        self.assertEqual(failed.returncode, 1)
        self.assertIn("and fails", failed.stdout + failed.stderr)

    def test_never_run(self) -> None:
        """A script that opens a store and never runs the reactor ends, too."""
        done = self.run_script(IDLE)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    async def test_abrupt(self) -> None:
        """So does one that leaves a running reactor, closing nothing; what it was told is stored is there."""
        done = self.run_script(ABRUPT)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        blob_id, doc_id = done.stdout.split()
        store = await self.open()
        try:
            with await store.blobs.get(blob_id) as file:
                self.assertEqual(file.read(), bytes(1000000))
            self.assertIsNotNone(await store.get_doc(doc_id))
        finally:
            await store.close()

    def test_asyncio(self) -> None:
        """Under asyncio, Deferreds become Futures."""
        done = self.run_script(ASYNCIO)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "b'data'\n", ""))
