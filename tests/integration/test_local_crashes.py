"""
Local work that is killed between any two of its steps, and what the next opening finds.

What was acknowledged is there, whole; what was under way is there as a whole or not at all; nothing else shows, and
no file is left over.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.testing import TEST_KEY, make_store
from tests.client.stores import count_blobs
from tests.integration.local_crashing import LARGE, OTHER, SMALL
from tests.limits import rounds, seconds

ROOT = Path(__file__).resolve().parents[2]

#: What a store shows: for each document its text and what is attached to it.
Shown = dict[str, tuple[str | None, bytes | None]]

NOTHING: Shown = {}
ONE, TWO = '{"n":1}', '{"n":2}'
GONE: Shown = {"doc": (None, None)}

#: For each scenario what the store shows at first, and after each acknowledgement.
STATES: dict[str, list[Shown]] = {
    "create": [NOTHING, NOTHING],
    "save": [NOTHING, {"doc": (ONE, None)}, {"doc": (TWO, None)}, GONE],
    "save-all": [NOTHING, {"doc": ("{}", None), "other": ("{}", None)}],
    "attach-small": [
        NOTHING,
        {"doc": (ONE, None)},
        {"doc": (ONE, None)},
        {"doc": (ONE, SMALL)},
        {"doc": (ONE, OTHER)},
        GONE,
    ],
    "attach-large": [
        NOTHING,
        {"doc": (ONE, None)},
        {"doc": (ONE, None)},
        {"doc": (ONE, LARGE)},
        {"doc": (ONE, OTHER)},
        GONE,
    ],
    "collect": [NOTHING, {"doc": (ONE, LARGE)}, GONE, GONE],
}

#: Saves documents with attachments, with threads, until it is killed; says what was acknowledged.
BUSY = """
import sys
from functools import partial
from pathlib import Path
from twisted.internet import task
from soledad.client.api import open_store
from soledad.client.local.store import Workers
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker, gather
from soledad.model.ids import user_id
from soledad.testing import TEST_KEY
from twisted.internet.defer import Deferred

async def save(store, name, size):
    doc = await store.create_doc({"size": size}, name)
    await doc.put_attachment(name.encode() * size)
    await store.put_doc(doc)
    print(name, flush=True)

async def main(reactor):
    workers = Workers.start(partial(ThreadWorker.start, reactor))
    store = await open_store(reactor, workers, user_id("user"), HandedInKey(TEST_KEY), Path(sys.argv[1]), None)
    print("open", flush=True)
    for number in range(1_000_000):
        await gather([
            Deferred.fromCoroutine(save(store, f"{sys.argv[2]}-{number}-{size}", size)) for size in (1, 1000, 100_000)
        ])

task.react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


class CrashTestCase(SynchronousTestCase):
    """Stores that are opened again after somebody died."""

    def opened(self, folder: Path) -> Soledad:
        """Open a store after a crash, and look at its files: each has a row, and each row its file."""
        store = make_store(self, data_dir=folder, key=TEST_KEY)
        rows = store._local.blobs.database.read_now(
            lambda cursor: {row[0] for row in cursor.execute("SELECT file FROM blob WHERE file IS NOT NULL")}
        )
        self.assertEqual(store._local.blobs.files.names(), rows)
        names = {path.name for path in folder.iterdir()}
        databases = {f"{name}{suffix}" for name in ("user.db", "user_blobs.db") for suffix in ("", "-wal", "-shm")}
        self.assertEqual(names, databases | {"user.keyring", "user.lock", "user_blobs"})
        return store

    def shown(self, store: Soledad) -> Shown:
        """Return what the store shows."""
        _, docs = self.successResultOf(store.get_all_docs(include_deleted=True))
        return {
            str(doc.doc_id): (
                doc.get_json(),
                self.successResultOf(doc.read_attachment()) if doc.attachments else None,
            )
            for doc in docs
        }


class StepTests(CrashTestCase):
    """Killed at each step."""

    def play(self, scenario: str) -> Path:
        """Kill a child at every step of a scenario, and look at what each left; return what the last one left."""
        folder = Path(self.mktemp())
        folder.mkdir()
        command = [sys.executable, "-m", "tests.integration.local_crashing", str(folder.resolve()), scenario]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=seconds(60))
        lines = [line.split() for line in done.stdout.splitlines()]
        states = STATES[scenario]
        for number, *acknowledged in lines:
            self.assertNotIn("failed", " ".join(acknowledged))
            store = self.opened(folder / number)
            reached = len(acknowledged)
            self.assertIn(self.shown(store), states[reached : reached + 2], (number, acknowledged))
            # And it works: what comes next is acknowledged too.
            self.successResultOf(store.create_doc({}, "next"))
            self.successResultOf(store.close())
        # The last one got to its end, and there were as many to be killed as one would think.
        self.assertEqual(len(lines[-1]), len(states))
        self.assertGreater(len(lines), 2 * len(states))
        return folder / lines[-1][0]

    def test_create(self) -> None:
        """While a store is made."""
        self.play("create")

    def test_save(self) -> None:
        """While a document is saved, saved again and deleted."""
        self.play("save")

    def test_save_all(self) -> None:
        """While several are saved at once: all or none."""
        self.play("save-all")

    def test_attach_small(self) -> None:
        """While what is small is attached, saved, replaced and deleted."""
        self.play("attach-small")

    def test_attach_large(self) -> None:
        """While what is large is."""
        self.play("attach-large")

    def test_collect(self) -> None:
        """While the collector removes rows and files: in the end nothing is left."""
        store = self.opened(self.play("collect"))
        self.assertEqual(store._local.blobs.database.read_now(count_blobs), 0)


class AnyMomentTests(CrashTestCase):
    """Killed at any moment, in the middle of threads."""

    def test_busy(self) -> None:
        """Again and again: all that was ever acknowledged is there, whole, and nothing is left over."""
        folder = Path(self.mktemp())
        chance = random.Random(3)  # the same each time
        acknowledged: set[str] = set()
        for number in range(rounds(3)):
            acknowledged |= self.killed(folder, str(number), 0.05 + chance.random() * 0.3)
            store = self.opened(folder)
            _, docs = self.successResultOf(store.get_all_docs())
            self.assertLessEqual(acknowledged, {doc.doc_id for doc in docs})
            for doc in docs:
                assert doc.content is not None
                self.assertTrue(doc.attachments or doc.doc_id not in acknowledged)
                if doc.attachments:
                    expected = str(doc.doc_id).encode() * doc.content["size"]
                    self.assertTrue(self.successResultOf(doc.read_attachment()) == expected)
            self.successResultOf(store.close())
        self.assertGreater(len(acknowledged), 3)

    def killed(self, folder: Path, name: str, pause: float) -> set[str]:
        """Let a child work for a while (seconds), and kill it; return what it had acknowledged."""
        command = [sys.executable, "-c", BUSY, str(folder.resolve()), name]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            self.assertEqual(child.stdout.readline(), "open\n")
            time.sleep(pause)
            child.send_signal(signal.SIGKILL)
            # A line that was cut was not said.
            return {line.strip() for line in child.stdout if line.endswith("\n")}
