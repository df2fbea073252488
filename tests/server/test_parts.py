"""Files that come in parts: what is durable when, disks that are full or broken, and who may write."""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import InPlace
from soledad.errors import BlobNotFound, StorageError, StorageFailed, StorageFull, UploadBusy
from soledad.model.ids import BlobId
from soledad.server.accounts import Accounts
from soledad.server.backends import naming, parts
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.files import walk
from soledad.server.backends.filesystem import FileBytes
from soledad.server.backends.memory import memory_database
from soledad.server.database import Database
from soledad.server.index import Index
from soledad.server.interfaces import Upload
from soledad.server.processes import Alone
from soledad.streams import Budget, BytesProducer, MemoryConsumer
from tests.contracts.blobs_backend import BLOB, USER, ManualProducer
from tests.server.support import HeldWorker
from tests.server.test_backends import FailingFiles

LENGTH = 1000
STRETCH = 100


class CountingFiles(FailingFiles):
    """A system that fails at one call, and knows what would survive a power cut."""

    def __init__(self) -> None:
        super().__init__("", errno.EIO)
        #: How often the failing call succeeds before.
        self.before = 0
        #: Whether it succeeds again after it failed.
        self.once = False
        self.calls: list[str] = []
        #: The size of each file, by inode, when it was last synced.
        self.synced: dict[int, int] = {}

    def _maybe(self, call: str) -> None:
        self.calls.append("sync_folder" if call == "sync_last_folder" else call)
        if self.calls[-1] == self.failing:
            self.before -= 1
            if self.before < 0:
                if self.once:
                    self.failing = ""
                raise OSError(self.error, os.strerror(self.error))

    def create_part(self, path: str) -> None:
        """See `Files`."""
        self._maybe("create")
        super().create_part(path)

    def sync(self, file: int) -> None:
        """See `Files`."""
        super().sync(file)
        status = os.fstat(file)
        self.synced[status.st_ino] = status.st_size

    def rename(self, old: str, new: str) -> None:
        """See `Files`."""
        if old.endswith(naming.PART):
            self._maybe("rename")
        super().rename(old, new)


class PartsTestCase(SynchronousTestCase):
    """A backend over such files, and an upload."""

    def setUp(self) -> None:
        """Make it."""
        self.patch(parts, "SYNC_STRETCH", STRETCH)
        self.database = memory_database()
        self.root = self.mktemp()
        os.mkdir(self.root)
        self.files = CountingFiles()
        self.clock = Clock()
        self.backend = self.another()
        self.successResultOf(Accounts(self.database, self.clock.seconds).add_user(USER, 10 * LENGTH))

    def another(self) -> BlobsBackend:
        """Return the backend of another process."""
        store = FileBytes(self.root, InPlace(), Budget(), self.files)
        return BlobsBackend(Index(self.database, Alone(), self.clock.seconds), store)

    def create(self, blob: BlobId = BLOB) -> Upload:
        """Begin an upload."""
        return self.successResultOf(self.backend.create_upload(USER, blob, LENGTH))

    def received(self, upload: Upload) -> int:
        """Return how many bytes an upload has."""
        return self.successResultOf(self.backend.get_upload(USER, upload.name)).received

    def finish(self, upload: Upload, data: bytes) -> None:
        """Send what is missing; look whether it all came together."""
        offset = self.received(upload)
        body = BytesProducer(data[offset:])
        self.successResultOf(self.backend.append_upload(USER, upload.name, offset, body))
        stored = MemoryConsumer()
        self.successResultOf(self.backend.read_blob(USER, BLOB, stored))
        self.assertEqual(stored.value(), data)
        tag = self.successResultOf(self.backend.get_tag(USER, BLOB))
        self.assertEqual(tag, sha256(data).hexdigest())


DATA = bytes(range(250)) * 4


class FaultTests(PartsTestCase):
    """What fails, and what is left to go on with."""

    def test_every_step(self) -> None:
        """Whatever fails while bytes come, what was durable before counts, and with the rest a whole blob is made."""
        for failing, error, before, expected in (
            ("write", errno.ENOSPC, 0, 0),
            ("write", errno.EDQUOT, 5, 250),
            ("write", errno.EIO, 17, 850),
            ("sync", errno.EIO, 0, 0),
            ("sync", errno.ENOSPC, 3, 300),
            ("rename", errno.EIO, 0, LENGTH - 1),
        ):
            upload = self.create()
            self.files.failing, self.files.error, self.files.before = failing, error, before
            body = ManualProducer(LENGTH)
            work = self.backend.append_upload(USER, upload.name, 0, body)
            for start in range(0, LENGTH, 50):
                body.consumer.write(DATA[start : start + 50])
            if not body.stopped:
                body.done.callback(None)
            full = error != errno.EIO
            self.failureResultOf(work, StorageFull if full else StorageFailed)
            self.files.failing = ""
            self.assertEqual(self.received(upload), expected, failing)
            self.failureResultOf(self.backend.stat_blob(USER, BLOB), BlobNotFound)
            self.finish(upload, DATA)
            self.successResultOf(self.backend.delete_blob(USER, BLOB))
            self.assertEqual(list(walk(self.root)), [])

    def test_sync_fails_once(self) -> None:
        """After a sync that failed no other is believed: what was written before it may be lost all the same."""
        upload = self.create()
        self.files.failing, self.files.before, self.files.once = "sync", 3, True
        body = ManualProducer(LENGTH)
        work = self.backend.append_upload(USER, upload.name, 0, body)
        for start in range(0, LENGTH, 50):
            body.consumer.write(DATA[start : start + 50])
        self.failureResultOf(work, StorageFailed)
        self.assertEqual(self.received(upload), 300)
        self.finish(upload, DATA)

    def test_creating(self) -> None:
        """An upload that cannot be created leaves nothing."""
        for failing in ("create", "sync_folder"):
            self.files.failing = failing
            self.failureResultOf(self.backend.create_upload(USER, BLOB, 10 * LENGTH), StorageError)
            self.files.failing = ""
            self.assertEqual(list(walk(self.root)), [])
        self.successResultOf(self.backend.create_upload(USER, BLOB, 10 * LENGTH))

    def test_reading_back(self) -> None:
        """A resumed upload that cannot be read back is not lost: its last byte is sent again."""
        upload = self.create()
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA[:500])))
        self.backend = self.another()
        self.files.failing = "read"
        work = self.backend.append_upload(USER, upload.name, 500, BytesProducer(DATA[500:]))
        self.failureResultOf(work, StorageFailed)
        self.files.failing = ""
        self.assertEqual(self.received(upload), LENGTH - 1)
        self.finish(upload, DATA)


class DurableTests(PartsTestCase):
    """What is told as there would survive a power cut."""

    def test_before_it_counts(self) -> None:
        """However far a long part is, what counts was synced; it counts while more comes."""
        upload = self.create()
        body = ManualProducer(LENGTH)
        work = self.backend.append_upload(USER, upload.name, 0, body)
        (path,) = walk(self.root)
        inode = os.stat(os.path.join(self.root, path)).st_ino
        counted = []
        for start in range(0, LENGTH, 10):
            body.consumer.write(DATA[start : start + 10])
            found = self.successResultOf(self.backend.pending.find(USER, upload.name))
            counted.append(found.received)
            self.assertLessEqual(found.received, self.files.synced.get(inode, 0))
            self.assertLess(start + 10 - found.received, STRETCH + 10)
        self.assertEqual(max(counted), LENGTH - 1)
        body.done.callback(None)
        self.assertTrue(self.successResultOf(work).done)
        self.assertLess(self.files.calls.count("sync"), LENGTH // STRETCH + 4)

    def test_what_counts(self) -> None:
        """So is what other processes tell of it, which is what the index has: also while more comes."""
        upload = self.create()
        told: list[bool] = []
        write = Database.write

        def written(database: Database, unit: Any, durable: bool = True) -> Deferred[Any]:
            told.append(durable)
            return write(database, unit, durable)

        self.patch(Database, "write", written)
        body = ManualProducer(LENGTH)
        work = self.backend.append_upload(USER, upload.name, 0, body)
        body.consumer.write(DATA[:500])
        self.assertNotIn(True, told)
        self.assertEqual(self.successResultOf(self.another().get_upload(USER, upload.name)).received, 500)
        self.assertEqual(told.count(True), 1)
        work.cancel()
        self.failureResultOf(work, CancelledError)

    def test_order(self) -> None:
        """The bytes are synced before they have the blob's name, and that is before the row is written."""
        upload = self.create()
        self.assertEqual(self.files.calls[-1], "sync_folder")
        self.files.calls.clear()
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA)))
        self.assertEqual(self.files.calls, ["write", "sync", "sync", "rename", "sync_folder"])

    def test_read_once(self) -> None:
        """One process reads nothing back, in however many parts the bytes come; another does so once."""
        upload = self.create()
        for start in (0, 400, 600):
            part = BytesProducer(DATA[start : {0: 400, 400: 600, 600: LENGTH}[start]])
            self.successResultOf(self.backend.append_upload(USER, upload.name, start, part))
        self.assertNotIn("read", self.files.calls)
        upload = self.create(BlobId("other"))
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA[:400])))
        self.successResultOf(self.another().append_upload(USER, upload.name, 400, BytesProducer(DATA[400:])))
        self.assertEqual(self.files.calls.count("read"), 1)
        tag = self.successResultOf(self.backend.get_tag(USER, BlobId("other")))
        self.assertEqual(tag, sha256(DATA).hexdigest())


class TakeoverTests(PartsTestCase):
    """Requests that are ended while a thread is at work for them."""

    def test_cancelled_too_early(self) -> None:
        """One that is taken over while its file is opened does not begin to wait for its body after that."""
        upload = self.create()
        worker = HeldWorker()
        self.backend.store = FileBytes(self.root, worker, Budget(), self.files)
        for _ in range(2):
            body = ManualProducer(LENGTH)
            work = self.backend.append_upload(USER, upload.name, 0, body)
            asking = self.backend.get_upload(USER, upload.name)
            self.assertNoResult(asking)
            worker.release()
            self.failureResultOf(work, UploadBusy)
            self.assertIs(body.consumer, None)
            self.assertEqual(self.successResultOf(asking).received, 0)

    def test_waiting_bytes(self) -> None:
        """What arrived and still waited for the disk when a request was cut counts as well."""
        upload = self.create()
        worker = HeldWorker()
        self.backend.store = FileBytes(self.root, worker, Budget(), self.files)
        body = ManualProducer(LENGTH)
        work = self.backend.append_upload(USER, upload.name, 0, body)
        worker.release()
        for start in range(0, 500, 50):
            body.consumer.write(DATA[start : start + 50])
        work.cancel()
        self.assertNoResult(work)
        worker.release()
        self.failureResultOf(work, CancelledError)
        self.backend = self.another()
        self.assertEqual(self.received(upload), 500)
        self.finish(upload, DATA)


class ProcessTests(PartsTestCase):
    """Several processes at one upload."""

    def test_busy(self) -> None:
        """While one is at it the other is not; it may ask, and hears what is durable."""
        upload = self.create()
        other = self.another()
        body = ManualProducer(LENGTH)
        work = self.backend.append_upload(USER, upload.name, 0, body)
        body.consumer.write(DATA[:250])
        asked = other.append_upload(USER, upload.name, 250, BytesProducer(DATA[250:]))
        self.failureResultOf(asked, UploadBusy)
        self.failureResultOf(other.abandon_upload(USER, upload.name), UploadBusy)
        self.assertEqual(self.successResultOf(other.get_upload(USER, upload.name)).received, 250)
        body.consumer.write(DATA[250:])
        body.done.callback(None)
        self.assertTrue(self.successResultOf(work).done)

    def test_killed_behind_the_last_byte(self) -> None:
        """A process that was killed between the file's name and the row leaves an upload that can be ended."""
        upload = self.create()
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA[:999])))
        path = self.backend.store.path(upload.place)  # type: ignore[attr-defined]
        with open(path + naming.PART, "ab") as file:
            file.write(DATA[999:])
        os.rename(path + naming.PART, path)
        self.backend = self.another()
        self.finish(upload, DATA)
        self.assertEqual(len(list(walk(self.root))), 1)

    def test_cut_under_its_own_name(self) -> None:
        """What such a process left is not cut off under the name of a blob: that is for what is whole."""
        upload = self.create()
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA[:500])))
        path = self.backend.store.path(upload.place)  # type: ignore[attr-defined]
        os.rename(path + naming.PART, path)
        with open(path, "ab") as file:
            file.write(DATA[500:])
        names: list[list[str]] = []
        truncate = CountingFiles.truncate

        def truncated(files: CountingFiles, file: int, size: int) -> None:
            names.append(os.listdir(os.path.dirname(path)))
            truncate(files, file, size)

        self.patch(CountingFiles, "truncate", truncated)
        self.finish(upload, DATA)
        self.assertEqual(names, [[os.path.basename(path) + naming.PART]])

    def test_killed_while_writing(self) -> None:
        """What a killed process wrote behind what counts is not taken for the client's bytes."""
        upload = self.create()
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA[:400])))
        path = self.backend.store.path(upload.place)  # type: ignore[attr-defined]
        with open(path + naming.PART, "ab") as file:
            file.write(bytes(599))
        self.backend = self.another()
        self.assertEqual(self.received(upload), 400)
        self.successResultOf(self.backend.append_upload(USER, upload.name, 400, BytesProducer(DATA[400:410])))
        self.assertEqual(os.stat(path + naming.PART).st_size, 410)
        self.finish(upload, DATA)

    def test_ended_by_the_other(self) -> None:
        """What another process did meanwhile is seen, whatever this one remembers."""
        upload = self.create()
        self.successResultOf(self.backend.append_upload(USER, upload.name, 0, BytesProducer(DATA[:400])))
        other = self.another()
        self.successResultOf(other.append_upload(USER, upload.name, 400, BytesProducer(DATA[400:600])))
        self.assertEqual(self.received(upload), 600)
        self.finish(upload, DATA)
