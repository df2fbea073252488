"""Syncs of documents on a disk that is full, and on one that loses power: nothing is lost, and the next one goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from soledad import Document, Soledad
from soledad.deferreds import unawaited
from soledad.errors import ConnectionFailed, StorageFull
from tests.client.sync.devices import DevicesTestCase, put_between, second_device
from tests.crash.mounts import fill_up, image, mount_image, run, small_disk

MIB = 1024 * 1024
#: Characters of a document.
LARGE = 20_000


class SyncTestCase(DevicesTestCase):
    """A person's devices."""

    def save(self, store: Soledad, *numbers: int, text: str = "x") -> None:
        """Save large documents, all at once."""
        docs = [Document(f"D-{number}", content={"text": text * LARGE}) for number in numbers]
        self.now(store.put_docs(docs))

    def contents(self, store: Soledad) -> dict[str, Any]:
        """Return all that a device has."""
        return {str(doc.doc_id): doc.content for doc in self.now(store.get_all_docs())[1]}

    def assertConverge(self, *stores: Soledad) -> None:
        """After each has synced, all have the same, nobody has noticed anything, and all are done."""
        self.sync(*stores, *stores)
        for store in stores:
            self.assertEqual(self.contents(store), self.contents(stores[0]))
            self.assertEqual((self.now(store.incidents()), self.now(store.sync_problems())), ([], []))
            self.assertIsNone(self.now(store._journal.look()).pending)
            between = put_between(store)
            self.sync(store)
            self.assertEqual(between.calls, ["pull"])


class FullDiskTests(SyncTestCase):
    """A device on a small disk."""

    def small(self) -> tuple[Soledad, Path]:
        """Open a device on a small disk; return the disk too."""
        disk = small_disk(self, 3 * MIB)
        return self.open(second_device(self.one, disk / "store")), disk

    def grow(self, disk: Path) -> None:
        """Let there be room."""
        run("mount", "-o", f"remount,size={32 * MIB}", disk)

    def test_pull(self) -> None:
        """What comes does not fit; what came is whole, and the rest comes when there is room."""
        two, disk = self.small()
        self.put(two, "mine", {"n": 1})
        self.save(self.one, *range(200))
        self.sync(self.one)
        for _ in range(3):
            self.fails(two.sync(), StorageFull)
            self.assertEqual(self.content(two, "mine"), {"n": 1})
            self.assertLessEqual(self.contents(two).items(), {**self.contents(self.one), "mine": {"n": 1}}.items())
        self.grow(disk)
        self.assertConverge(two, self.one)
        self.assertEqual(len(self.contents(two)), 201)

    def test_push(self) -> None:
        """There is no room for what is to be sent: all that was saved is still there, and goes when there is room."""
        two, disk = self.small()
        saved = 0
        try:
            while True:
                self.save(two, saved)
                saved += 1
        except self.failureException:
            self.assertGreater(saved, 10)
        ballast = fill_up(disk)
        for _ in range(3):
            self.fails(two.sync(), StorageFull)
            self.assertEqual(set(self.contents(two)), {f"D-{number}" for number in range(saved)})
        ballast.unlink()
        self.grow(disk)
        two = self.reopen(two)
        self.assertConverge(two, self.one)
        self.assertEqual(set(self.contents(self.one)), {f"D-{number}" for number in range(saved)})

    def test_acknowledged(self) -> None:
        """The server has taken a push, and that cannot be noted: the next sync finds out that it arrived."""
        two, disk = self.small()
        self.put(two, "mine", {"n": 1})
        filled: list[Path] = []

        def fill(name: str, number: int, answer: Any) -> Any:
            if name == "push":
                filled.append(fill_up(disk))
                for number in range(200):
                    if self.is_full(two, number):
                        break
            return answer

        put_between(two, after=fill)
        self.fails(two.sync(), StorageFull)
        self.assertEqual(self.content(two, "mine"), {"n": 1})
        self.grow(disk)
        self.assertConverge(two, self.one)
        self.assertEqual(self.content(self.one, "mine"), {"n": 1})

    def is_full(self, store: Soledad, number: int) -> bool:
        """Save one more document; tell whether there was no room for it."""
        outcome: list[Any] = []
        unawaited(store.create_doc({"text": "x" * LARGE}, f"more-{number}").addBoth(outcome.append))
        return not isinstance(outcome[0], Document)


class PowerCutTests(SyncTestCase):
    """A device whose power is cut, beside a server and another device that go on."""

    def setUp(self) -> None:
        """Have two devices, of which the second can be cut."""
        super().setUp()
        self.disk = image(self, 24 * MIB)
        folder = second_device(self.one, mount_image(self, self.disk) / "store")
        # What brought the keyring there is not what is tested.
        run("sync", "--file-system", folder)
        self.two = self.open(folder)
        self.sync(self.one, self.two)

    def copy_disk(self) -> Path:
        """Return what the disk would have after a power cut now."""
        return Path(shutil.copy(self.disk, self.mktemp())).resolve()

    def revive(self, disk: Path) -> None:
        """Open the second device again, from what its disk had."""
        self.disk = disk
        self.two = self.open(mount_image(self, disk) / "store")

    def change(self, number: int) -> None:
        """Let there be something to push and something to pull, and a conflict."""
        self.put(self.one, "a", {"n": number})
        self.put(self.one, f"c-{number}", {"one": number})
        self.sync(self.one)
        self.put(self.two, "b", {"n": number})
        self.put(self.two, f"c-{number}", {"two": number})

    def test_acknowledged(self) -> None:
        """What a sync has done is still done: nothing is sent or asked for again, and nobody notices anything."""
        for number in range(4):
            self.change(number)
            self.sync(self.two)
            before = self.contents(self.two)
            self.revive(self.copy_disk())
            self.assertEqual(self.contents(self.two), before)
            between = put_between(self.two)
            self.sync(self.two)
            self.assertEqual(between.calls, ["pull"])
            self.assertConverge(self.two, self.one)

    def test_at_each_request(self) -> None:
        """Before or behind each request of a sync: the next one ends what it began."""
        cuts = 0
        for number in range(4):
            for after in (False, True):
                self.change(2 * number + after)
                disk = self.cut_at(number, after)
                if disk is None:
                    continue
                cuts += 1
                self.revive(disk)
                self.assertEqual(self.content(self.two, "b"), {"n": 2 * number + after})
                self.assertConverge(self.two, self.one)
                self.assertEqual(self.content(self.one, "b"), {"n": 2 * number + after})
        self.assertGreater(cuts, 3)

    def cut_at(self, at: int, after: bool) -> Path | None:
        """Sync, and cut the power at a request, or at its answer; return the disk, if there were so many."""
        disks: list[Path] = []

        def cut(name: str, number: int, answer: Any = None) -> Any:
            if number == at:
                disks.append(self.copy_disk())
                raise ConnectionFailed()
            return answer

        put_between(self.two, **{"after" if after else "before": cut})
        work = self.two.sync()
        if not disks:
            self.now(work)
            return None
        self.fails(work, ConnectionFailed)
        return disks[0]
