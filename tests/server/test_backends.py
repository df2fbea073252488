"""Both backends keep the contract; the filesystem has faults of its own."""

from __future__ import annotations

import errno
import os
import string
from collections.abc import Callable

from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import InPlace
from soledad.errors import BlobExists, BlobNotFound, StorageError, StorageFailed, StorageFull
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends import files
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.files import Files, walk
from soledad.server.backends.filesystem import FileBytes
from soledad.server.backends.memory import memory_backend, memory_database
from soledad.server.backends.naming import file_name, folded, folders_of, parse_path, unfolded
from soledad.server.backends.syncing import can_sync_file_system, sync_file_system
from soledad.server.folder import DataFolder
from soledad.server.index import Index
from soledad.server.interfaces import Place, Stored
from soledad.server.processes import Alone
from soledad.server.service import Workers, open_parts
from soledad.streams import Budget, BytesProducer, MemoryConsumer
from tests.contracts.blobs_backend import BLOB, QUOTA, USER, BlobsBackendContract, ManualProducer
from tests.contracts.uploads_backend import UploadsBackendContract


class MemoryBackendTests(UploadsBackendContract, BlobsBackendContract, SynchronousTestCase):
    """The backend in memory."""

    def make_backend(self, clock: Clock) -> tuple[BlobsBackend, Accounts]:
        """See the contract."""
        database = memory_database()
        return memory_backend(database, clock=clock.seconds), Accounts(database, clock.seconds)


class FilesystemBackendTests(UploadsBackendContract, BlobsBackendContract, SynchronousTestCase):
    """The backend over files, as a server has it but for the threads."""

    def make_backend(self, clock: Clock) -> tuple[BlobsBackend, Accounts]:
        """See the contract."""
        folder = DataFolder(self.mktemp())
        folder.make()
        parts = open_parts(folder, Workers(), Budget(), clock=clock.seconds)
        self.addCleanup(parts.close)
        return parts.backend, parts.accounts


class NamedFiles(Files):
    """A system that has no files without names."""

    def create(self, folder: str, name: str) -> tuple[int, bool]:
        """See `Files`."""
        return os.open(os.path.join(folder, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), False


class NamedFilesTests(UploadsBackendContract, BlobsBackendContract, SynchronousTestCase):
    """The same on a file system without ``O_TMPFILE``."""

    def make_backend(self, clock: Clock) -> tuple[BlobsBackend, Accounts]:
        """See the contract."""
        database = memory_database()
        root = self.mktemp()
        os.mkdir(root)
        store = FileBytes(root, InPlace(), Budget(), NamedFiles(), clock.seconds)
        return BlobsBackend(Index(database, Alone(), clock.seconds), store), Accounts(database, clock.seconds)


@define(eq=False)
class FailingFiles(Files):
    """A system on which one call fails."""

    failing: str
    error: int
    on_call: Callable[[str], object] = lambda call: None

    def _maybe(self, call: str) -> None:
        self.on_call(call)
        if call == self.failing:
            raise OSError(self.error, os.strerror(self.error))

    def make_folder(self, path: str) -> None:
        """See `Files`."""
        self._maybe("make_folder")
        super().make_folder(path)

    def write(self, file: int, data: bytes) -> None:
        """See `Files`."""
        self._maybe("write")
        super().write(file, data)

    def sync(self, file: int) -> None:
        """See `Files`."""
        self._maybe("sync")
        super().sync(file)

    def create_named(self, path: str) -> int:
        """See `Files`."""
        self._maybe("create_named")
        return super().create_named(path)

    def sync_file_system(self, anchor: int) -> None:
        """See `Files`."""
        self._maybe("sync_file_system")
        super().sync_file_system(anchor)

    def name(self, file: int, folder: str, name: str) -> None:
        """See `Files`."""
        self._maybe("name")
        super().name(file, folder, name)

    def sync_folder(self, path: str) -> None:
        """See `Files`."""
        self._maybe("sync_last_folder" if path.endswith(BLOB[:6]) else "sync_folder")
        super().sync_folder(path)

    def read(self, file: int, size: int, start: int) -> bytes:
        """See `Files`."""
        self._maybe("read")
        return super().read(file, size, start)

    def remove(self, path: str) -> None:
        """See `Files`."""
        if self.failing == "remove":
            self._maybe("remove")
        super().remove(path)


class FaultTests(SynchronousTestCase):
    """Disks that are full or broken."""

    #: Whether the file system can be synced as a whole.
    whole = True

    def setUp(self) -> None:
        """Make a backend over files that can fail."""
        database = memory_database()
        self.root = self.mktemp()
        os.mkdir(self.root)
        self.files = FailingFiles("", errno.EIO)
        self.store = FileBytes(self.root, InPlace(), Budget(), self.files)
        self.backend = BlobsBackend(Index(database, Alone(), Clock().seconds), self.store)
        self.successResultOf(Accounts(database, Clock().seconds).add_user(USER, QUOTA))

    def test_every_step(self) -> None:
        """Whichever step fails, the write fails with it, and neither bytes nor room are left."""
        for failing in ("make_folder", "sync_folder", "write", "sync", "name", "sync_last_folder"):
            for error, expected in (
                (errno.ENOSPC, StorageFull),
                (errno.EDQUOT, StorageFull),
                (errno.EIO, StorageFailed),
            ):
                self.files.failing, self.files.error = failing, error
                body = BytesProducer(b"x" * QUOTA)
                self.failureResultOf(self.backend.write_blob(USER, BLOB, body), expected)
                self.failureResultOf(self.backend.stat_blob(USER, BLOB), BlobNotFound)
                self.assertEqual(list(walk(self.root)), [], failing)
        self.files.failing = ""
        self.successResultOf(self.backend.write_blob(USER, BLOB, BytesProducer(b"x" * QUOTA)))

    def test_order(self) -> None:
        """The file and every folder above it are synced before the row is written."""
        calls: list[str] = []

        def called(call: str) -> None:
            calls.append(call)
            self.failureResultOf(self.backend.stat_blob(USER, BLOB), BlobNotFound)

        self.files.on_call = called
        self.successResultOf(self.backend.write_blob(USER, BLOB, BytesProducer(b"x")))
        self.assertEqual(calls, ["make_folder", "sync_folder"] * 5 + ["write", "sync", "name", "sync_last_folder"])

    def batch(self, *names: str) -> Deferred[list[Stored | StorageError | None]]:
        """Store a batch of blobs, which use up the quota."""
        size = QUOTA // len(names)
        body = BytesProducer(b"x" * size * len(names))
        return self.backend.write_blobs(USER, [(BlobId(name), size) for name in names], body)

    def test_every_step_of_a_batch(self) -> None:
        """Whichever step of a batch fails, all of it fails, and neither bytes nor room are left."""
        self.patch(files, "can_sync_file_system", lambda file: self.whole)
        names = [BLOB, *(f"blob-1-{number}" for number in range(9))]
        for self.whole, failing in (
            *((False, step) for step in ("make_folder", "create_named", "write", "sync", "sync_folder")),
            (False, "sync_last_folder"),
            (True, "sync_file_system"),
        ):
            for error, expected in ((errno.ENOSPC, StorageFull), (errno.EIO, StorageFailed)):
                self.files.failing, self.files.error = failing, error
                self.failureResultOf(self.batch(*names), expected)
                self.failureResultOf(self.backend.stat_blob(USER, BLOB), BlobNotFound)
                self.assertEqual(list(walk(self.root)), [], failing)
        self.files.failing = ""
        stored = self.successResultOf(self.batch(*names))
        self.assertEqual({type(outcome) for outcome in stored}, {Stored})

    def test_order_of_a_batch(self) -> None:
        """All files and all folders above them are synced before the rows are written, together or one by one."""
        calls: list[str] = []

        def called(call: str) -> None:
            calls.append(call)
            self.failureResultOf(self.backend.stat_blob(USER, BLOB), BlobNotFound)

        self.files.on_call = called
        for self.whole, syncs in (
            (True, ["sync_file_system"] * 2),
            (False, ["sync"] * 8 + ["sync_folder"] * 5 + ["sync_last_folder"]),
        ):
            self.patch(files, "can_sync_file_system", lambda file: self.whole)
            names = [BLOB, *(f"blob-1-{number}" for number in range(7))]
            self.successResultOf(self.batch(*names))
            written = [call for call in calls if not call.startswith("sync")]
            self.assertEqual(written[-16:], ["create_named", "write"] * 8)
            self.assertEqual(sorted(calls[len(written) :]), sorted(syncs))
            for name in names:
                self.files.on_call = lambda call: None
                self.successResultOf(self.backend.delete_blob(USER, BlobId(name)))
            self.store._durable.clear()
            self.files.on_call = called
            calls.clear()

    def test_small_batch(self) -> None:
        """A batch of a few files does not wait for what others have written to the file system."""
        self.patch(files, "can_sync_file_system", lambda file: True)
        self.files.failing = "sync_file_system"
        self.successResultOf(self.batch("a", "b"))

    def test_folder_goes_during_a_batch(self) -> None:
        """When another process removes a folder just before a file of a batch is made there, it is made again."""
        removed: list[str] = []

        def called(call: str) -> None:
            if call == "create_named" and not removed:
                (folder,) = (path for path, _, files in os.walk(self.root) if path.endswith(BLOB[:6]))
                os.rmdir(folder)
                removed.append(folder)

        self.files.on_call = called
        stored = self.successResultOf(self.batch(BLOB, "blob-1-2"))
        self.assertEqual({type(outcome) for outcome in stored}, {Stored})
        self.assertEqual((len(removed), len(list(walk(self.root)))), (1, 2))

    def test_failing_removal(self) -> None:
        """Bytes of a blob that was slower, and cannot be removed, change nothing of what is told of it."""
        one, many = ManualProducer(1), ManualProducer(2)
        slower = self.backend.write_blob(USER, BLOB, one)
        batch = self.backend.write_blobs(USER, [(BLOB, 1), (BlobId("other"), 1)], many)
        self.successResultOf(self.backend.write_blob(USER, BLOB, BytesProducer(b"x")))
        self.files.failing = "remove"
        for body in (one, many):
            body.consumer.write(b"y" * body.length)
            body.done.callback(None)
        self.failureResultOf(slower, BlobExists)
        self.assertEqual([type(outcome) for outcome in self.successResultOf(batch)], [BlobExists, Stored])
        self.assertEqual(len(self.flushLoggedErrors(StorageFailed)), 2)

    def test_file_system(self) -> None:
        """Where it is known that a file system can be synced as a whole, it can."""
        folder = os.open(self.root, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        if can_sync_file_system(folder):
            sync_file_system(folder)
        with open("/proc/self/status", "rb") as other:
            self.assertFalse(can_sync_file_system(other.fileno()))
        self.assertRaises(OSError, sync_file_system, -1)

    def test_failing_read(self) -> None:
        """A file that cannot be read is an error, not a short blob."""
        self.successResultOf(self.backend.write_blob(USER, BLOB, BytesProducer(b"x")))
        self.files.failing = "read"
        body = MemoryConsumer()
        self.failureResultOf(self.backend.read_blob(USER, BLOB, body), StorageFailed)

    def test_missing_file(self) -> None:
        """A blob whose file is gone is a failure of the storage, not a blob that does not exist."""
        self.successResultOf(self.backend.write_blob(USER, BLOB, BytesProducer(b"x")))
        (found,) = self.successResultOf(self.store.list())
        os.unlink(self.store.path(found.place))
        self.failureResultOf(self.backend.read_blob(USER, BLOB, MemoryConsumer()), StorageFailed)

    def test_folder_goes_meanwhile(self) -> None:
        """When the last file of a folder goes, another that is being written there is not lost."""
        self.successResultOf(self.backend.write_blob(USER, BlobId("blob-1"), BytesProducer(b"x")))
        body = ManualProducer(1)
        work = self.backend.write_blob(USER, BlobId("blob-1-2"), body)
        self.successResultOf(self.backend.delete_blob(USER, BlobId("blob-1")))
        body.consumer.write(b"y")
        body.done.callback(None)
        self.successResultOf(work)
        self.assertEqual(self.successResultOf(self.backend.get_blob_size(USER, BlobId("blob-1-2"))), 1)
        self.assertEqual(len(list(walk(self.root))), 1)


IDS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=128)


class NameTests(SynchronousTestCase):
    """Where files are."""

    @given(IDS)
    def test_names_come_back(self, text: str) -> None:
        """A name tells its text, has no capitals, and is short enough for any file system."""
        name = folded(text)
        self.assertEqual(unfolded(name), text)
        self.assertEqual(name, name.lower())
        self.assertLessEqual(len(name) + 33, 255)

    @given(IDS.map(lambda text: text[:64]), IDS, st.sampled_from([DEFAULT, Namespace("a-b_c")]))
    def test_paths_come_back(self, user: str, blob: str, namespace: Namespace) -> None:
        """The path of a file tells its place; a folder's name is never a file's."""
        place = Place(UserId(user), namespace, BlobId(blob), "0123456789abcdef" * 2)
        path = "/".join((*folders_of(place), file_name(place)))
        self.assertEqual(parse_path(path), place)
        self.assertFalse(any("." in name for name in folders_of(place)[1:]))

    def test_layout(self) -> None:
        """The layout is the one of docs/server.rst."""
        place = Place(UserId("user"), Namespace("namespace"), BlobId("some-blob-id"), "f" * 32)
        self.assertEqual(
            "/".join((*folders_of(place), file_name(place))),
            "user/namespace/s/som/some-b/some-blob-id." + "f" * 32,
        )
        self.assertEqual(folded("aBC"), "abc.6")

    def test_foreign_files(self) -> None:
        """Files that are not ours are left alone."""
        for path in ("x", "user/ns/b/b/b/b.xyz", "user/ns/c/b/b/b." + "0" * 32, "user/ns/b/b/b/B." + "0" * 32):
            self.assertIs(parse_path(path), None, path)

    def test_foreign_folders(self) -> None:
        """Folders that cannot be ours are not looked into: those of a file system may be for nobody to read."""
        root = self.mktemp()
        for path in ("alice/default", "bob.3/default", "lost+found/deeper", "Old", "x.z"):
            os.makedirs(os.path.join(root, path))
            open(os.path.join(root, path, "file"), "wb").close()
        self.assertEqual(list(walk(root)), ["alice/default/file", "bob.3/default/file"])

    def test_walk_goes_on(self) -> None:
        """A walk can go on behind any path of the one before."""
        root = self.mktemp()
        for path in ("a/b/1", "a/b/2", "a/b.c/1", "a/c", "b/1/1", "c"):
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            open(os.path.join(root, path), "wb").close()
        whole = list(walk(root))
        self.assertEqual(len(whole), 6)
        for at, path in enumerate(whole):
            self.assertEqual(list(walk(root, tuple(path.split("/")))), whole[at + 1 :])
