"""Tests of a store's files together: what is a store, whose it is, and what opening mends."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.interfaces import Spooled
from soledad.client.local import blobs, documents
from soledad.client.local.files import INLINE_LIMIT
from soledad.client.local.keyring import database_paths, keyring_path
from soledad.client.local.store import LocalStore, Workers
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import InPlace
from soledad.errors import (
    ForeignStore,
    KeyringMissing,
    NewerSchema,
    NotADatabase,
    SoledadError,
    StoreInUse,
    WrongPassphrase,
)
from soledad.model.attachment import Pointer
from soledad.model.blob import BlobKey, Sealed, SyncEvent, SyncStatus
from soledad.model.document import Stored
from soledad.model.ids import ATTACHMENTS, BlobId, DocId, user_id
from tests.client.local.test_files import open_files

USER = user_id("user-1")
KEY = HandedInKey(bytes(range(32)))
ID = BlobId("1" * 32)
BLOB = BlobKey(ATTACHMENTS, ID)
DOC = DocId("doc")
POINTER = Pointer(ID, 5, None, b"commitment")

#: Opens a store in a process of its own, whose only use is to be refused; prints the error's name.
OPENER = """
import sys
from pathlib import Path
from tests.client.local.test_store import KEY, USER, LocalStore, SoledadError, workers
try:
    LocalStore.open(Path(sys.argv[1]), USER, KEY, workers())
except SoledadError as error:
    print(type(error).__name__)
else:
    print("opened")
"""


def workers() -> Workers:
    """Return workers that work in place."""
    return Workers.start(lambda threads, name: InPlace())


def digest(path: Path) -> str:
    """Return what tells whether a file has changed."""
    return sha256(path.read_bytes()).hexdigest()


class StoreTestCase(SynchronousTestCase):
    """A folder for a store."""

    def setUp(self) -> None:
        """Choose it."""
        self.folder = Path(self.mktemp())

    def open(self, user: str = USER, key: HandedInKey = KEY) -> LocalStore:
        """Open the store in the folder, until `close` or the end of the test."""
        self.store = LocalStore.open(self.folder, user_id(user), key, workers())
        self.addCleanup(self.store.abandon)
        return self.store

    def close(self) -> None:
        """Close the store."""
        self.successResultOf(Deferred.fromCoroutine(self.store.close()))

    def put_blob(self, size: int, status: SyncStatus = SyncStatus.UNREFERENCED) -> Spooled:
        """Put a blob whose container has so many bytes."""
        local = self.store.blobs
        spool = local.spool()
        spool.write(b"x" * size)
        spooled = spool.finish()
        sealed = Sealed(5, size, b"header", POINTER.commitment)
        local.database.write_now(blobs.insert, BLOB, status, sealed, spooled)
        return spooled

    def put_document(self, *pointers: Pointer, rev: str = "") -> str:
        """Commit a document that points at blobs, and tell the blobs nothing."""
        stored = Stored(DOC, rev, "{}", {pointer.blob_id: pointer for pointer in pointers})
        return self.store.documents.database.write_now(documents.put, "a", stored).rev

    def blob(self) -> blobs.BlobRow:
        """Return the blob's row."""
        return self.store.blobs.database.read_now(blobs.must_get, BLOB)


class OpeningTests(StoreTestCase):
    """What is a store, and whose."""

    def assertRefused(self, error: type[SoledadError], user: str = USER, key: HandedInKey = KEY) -> None:
        """Opening fails with the error, gives the lock and all files back, and changes nothing."""
        before, descriptors = self.contents(), open_files()
        with self.assertRaises(error):
            LocalStore.open(self.folder, user_id(user), key, workers())
        self.assertEqual(self.contents(), before)
        self.assertEqual(open_files(), descriptors)

    def contents(self) -> dict[str, str]:
        """Return what is in the folder, locks apart."""
        files = {str(p.relative_to(self.folder)): p for p in self.folder.rglob("*") if p.is_file()}
        return {name: digest(p) for name, p in files.items() if p.suffix != ".lock"}

    def test_names(self) -> None:
        """A new store has just these files, each its owner's only."""
        self.addCleanup(os.umask, os.umask(0))
        self.open()
        self.put_blob(INLINE_LIMIT + 1)
        modes = {p.name: S_IMODE(p.stat().st_mode) for p in self.folder.iterdir()}
        databases = {
            f"{name}{suffix}": 0o600 for name in ("user-1.db", "user-1_blobs.db") for suffix in ("", "-wal", "-shm")
        }
        self.assertEqual(modes, databases | {"user-1.keyring": 0o600, "user-1.lock": 0o600, "user-1_blobs": 0o700})
        self.close()
        self.assertEqual(
            {p.name for p in self.folder.iterdir()},
            {"user-1.db", "user-1_blobs.db", "user-1.keyring", "user-1.lock", "user-1_blobs"},
        )

    def test_again(self) -> None:
        """What was stored is there again, and so is the replica's name."""
        replica = self.open().documents.replica
        rev = self.put_document()
        self.close()
        self.assertEqual(self.open().documents.replica, replica)
        self.assertEqual(self.store.documents.database.read_now(documents.get_rev, DOC), rev)

    def test_in_use_here(self) -> None:
        """A second opener in the same process is refused; the first goes on."""
        self.open()
        with self.assertRaises(StoreInUse):
            self.open()
        self.put_document()

    def test_in_use_elsewhere(self) -> None:
        """So is one in another process, as long as the store is open."""
        self.open()
        self.assertEqual(self.opener(), "StoreInUse")
        self.close()
        self.assertEqual(self.opener(), "opened")

    def opener(self) -> str:
        """Try to open the store in another process; return what came of it."""
        root = str(Path(__file__).resolve().parents[3])
        command = [sys.executable, "-c", OPENER, str(self.folder.resolve())]
        return subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout.strip()

    def test_wrong_key(self) -> None:
        """A wrong secret is told as such, before any database is touched."""
        self.open()
        self.close()
        self.assertRefused(WrongPassphrase, key=HandedInKey(bytes(32)))

    def test_keyring_missing(self) -> None:
        """A store without its keyring gets no new one."""
        self.open()
        self.close()
        keyring_path(self.folder, USER).unlink()
        self.assertRefused(KeyringMissing)

    def test_other_user(self) -> None:
        """A folder has one user's store."""
        self.open()
        self.close()
        self.assertRefused(ForeignStore, user="somebody-else")

    def test_swapped_databases(self) -> None:
        """Each database has a key of its own: one in place of the other is refused."""
        self.open()
        self.close()
        for wrong, right in (database_paths(self.folder, USER), database_paths(self.folder, USER)[::-1]):
            kept = wrong.read_bytes()
            shutil.copy(right, wrong)
            self.assertRefused(NotADatabase)
            wrong.write_bytes(kept)

    def test_foreign_databases(self) -> None:
        """Another store's databases, and files that are none, are refused whichever of the two they replace."""
        self.open()
        self.close()
        other = Path(self.mktemp())
        LocalStore.open(other, USER, KEY, workers()).abandon()
        plain = Path(self.mktemp())
        connection = sqlite3.connect(plain)
        connection.execute("CREATE TABLE document (a)")
        connection.close()
        for number, path in enumerate(database_paths(self.folder, USER)):
            kept = path.read_bytes()
            for data in (
                database_paths(other, USER)[number].read_bytes(),
                plain.read_bytes(),
                b"text" * 5000,
                kept[:9000],
            ):
                path.write_bytes(data)
                self.assertRefused(NotADatabase)
            path.write_bytes(kept)
        self.open()

    def test_newer(self) -> None:
        """A store that a later version wrote is refused, whichever database it is."""
        for name in ("documents", "blobs"):
            self.folder = Path(self.mktemp())
            self.open()
            database = getattr(self.store, name).database
            database._writer.execute("PRAGMA user_version = 99")
            self.close()
            self.assertRefused(NewerSchema)

    def test_passphrase_changed(self) -> None:
        """The databases keep their keys, whatever the keyring opens with."""
        self.open()
        rev = self.put_document()
        replaced = self.store.keyring
        self.close()
        self.assertEqual(self.open().keyring.keyring, replaced.keyring)
        self.assertEqual(self.store.documents.database.read_now(documents.get_rev, DOC), rev)


class ReconcileTests(StoreTestCase):
    """What an end in the middle leaves, and what the next opening makes of it."""

    def reopen(self) -> None:
        """End without closing, as a process that is killed does, and open again."""
        self.store.abandon()
        self.open()

    def test_strays(self) -> None:
        """A file whose row was never committed goes."""
        self.open()
        kept = self.put_blob(INLINE_LIMIT + 1)
        spool = self.store.blobs.spool()
        spool.write(b"y" * (INLINE_LIMIT + 1))
        stray = spool.finish()
        self.assertEqual(self.store.blobs.files.names(), {kept.file, stray.file})
        self.reopen()
        self.assertEqual(self.store.blobs.files.names(), {kept.file})

    def test_blob_committed_document_not(self) -> None:
        """A blob whose document was not saved is still there, condemned, not queued."""
        self.open()
        self.put_blob(100)
        self.reopen()
        self.assertEqual((self.blob().status, self.blob().condemned), (SyncStatus.UNREFERENCED, 0))

    def test_document_committed_reference_not(self) -> None:
        """A blob whose document was saved, and which was not told, is kept and queued."""
        self.open()
        self.put_blob(100)
        self.put_document(POINTER)
        self.assertEqual(self.blob().status, SyncStatus.UNREFERENCED)
        self.reopen()
        self.assertEqual((self.blob().status, self.blob().condemned), (SyncStatus.PENDING_UPLOAD, None))

    def test_document_committed_blob_unknown(self) -> None:
        """A pointer to what this device knows nothing of is awaited."""
        self.open()
        self.put_document(POINTER)
        self.reopen()
        self.assertEqual((self.blob().status, self.blob().condemned), (SyncStatus.AWAITED, None))
        self.assertEqual(self.blob().known.sealed.commitment, POINTER.commitment)

    def test_document_gone_blob_not_told(self) -> None:
        """A blob that a saved document dropped is condemned; one that comes back is revived."""
        self.open()
        self.put_blob(100)
        rev = self.put_document(POINTER)
        self.reopen()
        rev = self.put_document(rev=rev)
        self.assertIsNone(self.blob().condemned)
        self.reopen()
        self.assertEqual((self.blob().status, self.blob().condemned), (SyncStatus.PENDING_UPLOAD, 0))
        self.put_document(POINTER, rev=rev)
        self.reopen()
        self.assertIsNone(self.blob().condemned)

    def test_without_files(self) -> None:
        """A store without its blob files opens; what was sent is on the server, the rest is awaited."""
        for status, expected in ((SyncStatus.SYNCED, SyncStatus.REMOTE), (SyncStatus.UNREFERENCED, SyncStatus.AWAITED)):
            self.folder = Path(self.mktemp())
            self.open()
            self.put_blob(INLINE_LIMIT + 1, status)
            self.put_document(POINTER)
            self.close()
            shutil.rmtree(self.store.blobs.files.folder)
            self.open()
            self.assertEqual((self.blob().status, self.blob().file, self.blob().condemned), (expected, None, None))

    def test_quiet(self) -> None:
        """Where there is nothing to mend, nothing is written."""
        self.open()
        self.put_blob(100)
        self.put_document(POINTER)
        self.reopen()
        self.store.blobs.database.write_now(blobs.change, BLOB, SyncEvent.CONFIRMED)
        self.close()
        before = [digest(path) for path in database_paths(self.folder, USER)]
        self.open()
        self.close()
        self.assertEqual([digest(path) for path in database_paths(self.folder, USER)], before)
