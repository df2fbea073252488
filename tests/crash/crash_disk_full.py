"""A store on a disk that is really full: clear errors, nothing half, nothing lost, and it works when there is room."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.client.local.files import INLINE_LIMIT
from soledad.deferreds import unawaited
from soledad.errors import StorageError, StorageFailed, StorageFull
from soledad.testing import make_store
from tests.crash.mounts import fill_up, run, small_disk

MIB = 1024 * 1024


class FullDiskTests(SynchronousTestCase):
    """A small disk, filled to the last byte in several ways."""

    def setUp(self) -> None:
        """Make the disk, and a store on it."""
        self.disk = small_disk(self, 4 * MIB)
        self.folder = self.disk / "store"
        self.store = make_store(self, data_dir=self.folder)
        self.saved: dict[str, bytes] = {}

    def tearDown(self) -> None:
        """Forget what the log was told: that a blob could not be told of its document, which the next opening does."""
        self.flushLoggedErrors(StorageFull)

    def save(self, store: Soledad, size: int) -> None:
        """Save a document with an attachment; what is acknowledged is remembered. Raises what the store raises."""
        name = f"doc-{len(self.saved)}"
        data = name.encode() * (size // len(name))
        doc = self.result(store.create_doc({}, name))
        self.result(doc.put_attachment(data))
        self.result(store.put_doc(doc))
        self.saved[name] = data

    def result(self, work: Deferred[Any]) -> Any:
        """Return a result that is there; raise a failure that is."""
        outcome: list[Any] = []
        unawaited(work.addBoth(outcome.append))
        if hasattr(outcome[0], "raiseException"):
            outcome[0].raiseException()
        return outcome[0]

    def fill(self, size: int) -> None:
        """Save until there is no room, and a few times more."""
        refused = 0
        for _ in range(10_000):
            try:
                self.save(self.store, size)
            except StorageFull:
                refused += 1
                self.remove_unfinished()
            if refused > 5:
                return
        self.fail("the disk is not full")

    def remove_unfinished(self) -> None:
        """Forget a document whose attachment was refused, as far as there is room to do so."""
        name = f"doc-{len(self.saved)}"
        doc = self.successResultOf(self.store.get_doc(name))
        if doc is not None:
            try:
                self.result(self.store.delete_doc(doc))
            except StorageError:
                self.saved[name] = b""

    def assertWhole(self, store: Soledad) -> None:
        """All that was acknowledged is there, and no file is left over."""
        for name, data in self.saved.items():
            doc = self.successResultOf(store.get_doc(name))
            assert doc is not None, name
            if data:
                self.assertTrue(self.successResultOf(doc.read_attachment()) == data, name)
        rows = store._local.blobs.database.read_now(
            lambda cursor: {row[0] for row in cursor.execute("SELECT file FROM blob WHERE file IS NOT NULL")}
        )
        self.assertEqual(store._local.blobs.files.names(), rows)

    def play(self, size: int) -> None:
        """Fill the disk, look, open again with and without room, and go on."""
        self.fill(size)
        self.assertGreater(len(self.saved), 3)
        self.assertWhole(self.store)
        self.successResultOf(self.store.close())
        ballast = fill_up(self.disk)
        try:
            self.store = make_store(self, data_dir=self.folder)
        except self.failureException as error:
            # There may be no room for what SQLite needs beside a database; then that is said.
            self.assertTrue(any(cls.__name__ in str(error) for cls in (StorageFull, StorageFailed)), str(error))
        else:
            self.assertWhole(self.store)
            self.successResultOf(self.store.close())
        ballast.unlink()
        run("mount", "-o", f"remount,size={16 * MIB}", self.disk)
        self.store = make_store(self, data_dir=self.folder)
        self.assertWhole(self.store)
        for _ in range(5):
            self.save(self.store, size)
        self.assertWhole(self.store)

    def test_documents(self) -> None:
        """With what is kept in databases only."""
        self.play(1000)

    def test_inline(self) -> None:
        """With the largest attachments that are kept in a database."""
        self.play(INLINE_LIMIT // 2)

    def test_files(self) -> None:
        """With attachments that are files."""
        self.play(2 * INLINE_LIMIT)
