"""Tests of blobs on this device: rows on a database in memory, and rows and files together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlcipher3.dbapi2 as sqlcipher
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.interfaces import Spooled
from soledad.client.local import blobs
from soledad.client.local.blobs import BlobRow, LocalBlobs
from soledad.client.local.database import Cursor, Database
from soledad.client.local.schema import BLOBS, BLOBS_PAGE
from soledad.deferreds import InPlace
from soledad.errors import BlobExists, BlobNotFound, StorageFailed, StorageFull
from soledad.model.attachment import Pointer
from soledad.model.blob import BlobKey, Sealed, SyncEvent, SyncStatus
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId
from tests.client.local.test_files import LIMIT, FaultyFiles, open_files
from tests.workers import HeldWorker

ID, ID_2 = BlobId("1" * 32), BlobId("2" * 32)
KEY, KEY_2 = BlobKey(ATTACHMENTS, ID), BlobKey(ATTACHMENTS, ID_2)
SEALED = Sealed(5, 100, b"header", b"commitment")
INLINE = Spooled(100, inline=b"x" * 100)
FILE = Spooled(1000, file="a file")

S, E = SyncStatus, SyncEvent


def pointer(blob_id: BlobId = ID) -> Pointer:
    """Return a pointer to a blob."""
    return Pointer(blob_id, SEALED.length, None, SEALED.commitment)


class RowsTestCase(SynchronousTestCase):
    """A database in memory with the blobs' tables."""

    def setUp(self) -> None:
        """Make it."""
        connection = sqlcipher.connect(":memory:", isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        for statements in BLOBS:
            connection.executescript(statements)
        self.addCleanup(connection.close)
        self.cursor: Cursor = connection.cursor()

    def insert(self, status: SyncStatus = S.UNREFERENCED, key: BlobKey = KEY, spooled: Spooled | None = INLINE) -> None:
        """Add a blob."""
        blobs.insert(self.cursor, key, status, SEALED, spooled)

    def row(self, key: BlobKey = KEY) -> BlobRow:
        """Return a blob's row."""
        return blobs.must_get(self.cursor, key)


class RowTests(RowsTestCase):
    """What rows say."""

    def test_inline(self) -> None:
        """A small container is beside its row."""
        self.insert()
        row = self.row()
        self.assertEqual((row.known.key, row.known.sealed, row.status, row.file), (KEY, SEALED, S.UNREFERENCED, None))
        self.assertEqual(blobs.inline_bytes(self.cursor, row.id), INLINE.inline)

    def test_file(self) -> None:
        """Of a large one the row has the file's name."""
        self.insert(spooled=FILE)
        self.assertEqual(self.row().file, FILE.file)
        self.assertIsNone(blobs.inline_bytes(self.cursor, self.row().id))

    def test_written_once(self) -> None:
        """An id is taken once, in its namespace; the row is untouched."""
        self.insert()
        with self.assertRaises(BlobExists):
            self.insert(S.SYNCED, spooled=FILE)
        self.assertEqual((self.row().status, self.row().file), (S.UNREFERENCED, None))
        self.insert(key=BlobKey(DEFAULT, ID))

    def test_missing(self) -> None:
        """What is not known is not there."""
        self.assertIsNone(blobs.get(self.cursor, KEY))
        with self.assertRaises(BlobNotFound):
            blobs.must_get(self.cursor, KEY)
        with self.assertRaises(BlobNotFound):
            blobs.change(self.cursor, KEY, E.CONFIRMED)

    def test_condemned_from_the_beginning(self) -> None:
        """What nothing refers to yet is condemned, and nothing else is."""
        self.insert()
        self.insert(S.AWAITED, KEY_2, None)
        self.assertEqual((self.row().condemned, self.row(KEY_2).condemned), (0, None))


class StatusTests(RowsTestCase):
    """What happens to blobs."""

    def test_refer(self) -> None:
        """What a saved document points at is kept, and is to be sent."""
        self.insert()
        blobs.refer(self.cursor, [pointer()])
        self.assertEqual((self.row().status, self.row().condemned), (S.PENDING_UPLOAD, None))

    def test_refer_to_what_was_sent_already(self) -> None:
        """One that was uploaded before its document was saved is kept, and not sent again."""
        self.insert()
        blobs.change(self.cursor, KEY, E.CONFIRMED)
        blobs.refer(self.cursor, [pointer()])
        self.assertEqual((self.row().status, self.row().condemned), (S.SYNCED, None))

    def test_refer_to_the_unknown(self) -> None:
        """One that is not known is awaited; the pointer says what it is."""
        blobs.refer(self.cursor, [pointer()])
        row = self.row()
        self.assertEqual((row.status, row.condemned), (S.AWAITED, None))
        self.assertEqual((row.known.sealed.length, row.known.sealed.commitment), (SEALED.length, SEALED.commitment))

    def test_refer_again(self) -> None:
        """Referring again changes nothing."""
        self.insert()
        for _ in range(2):
            blobs.refer(self.cursor, [pointer(), pointer()])
        self.assertEqual(self.row().status, S.PENDING_UPLOAD)

    def test_condemn_and_revive(self) -> None:
        """What nothing refers to is condemned, keeps its status and its bytes, and is revived by a reference."""
        self.insert()
        blobs.refer(self.cursor, [pointer()])
        blobs.condemn(self.cursor, [ID, ID_2])
        self.assertEqual((self.row().status, self.row().condemned), (S.PENDING_UPLOAD, 0))
        self.assertIsNotNone(blobs.inline_bytes(self.cursor, self.row().id))
        blobs.refer(self.cursor, [pointer()])
        self.assertIsNone(self.row().condemned)

    def test_condemned_goes_on(self) -> None:
        """Condemning again does not begin the period again."""
        self.insert()
        self.cursor.execute("UPDATE blob SET condemned = 77")
        blobs.condemn(self.cursor, [ID])
        self.assertEqual(self.row().condemned, 77)

    def test_both_at_once(self) -> None:
        """A document that drops one blob and points at another does both."""
        self.insert()
        self.insert(key=KEY_2)
        blobs.refer_and_condemn(self.cursor, [pointer()], [])
        blobs.refer_and_condemn(self.cursor, [pointer(ID_2)], [ID])
        self.assertEqual((self.row().condemned, self.row(KEY_2).condemned), (0, None))

    def test_learn(self) -> None:
        """News of the server is noted, of a blob that was not known too."""
        self.assertEqual(blobs.learn(self.cursor, KEY, SEALED, E.MISSED), S.AWAITED)
        self.assertEqual(blobs.learn(self.cursor, KEY, SEALED, E.CONFIRMED), S.REMOTE)
        self.assertEqual(blobs.learn(self.cursor, KEY_2, SEALED, E.CONFIRMED), S.REMOTE)

    def test_arrive(self) -> None:
        """Bytes that came are here, of a blob that was not known too."""
        blobs.refer(self.cursor, [pointer()])
        for key, spooled in ((KEY, INLINE), (KEY_2, FILE)):
            self.assertEqual(blobs.arrive(self.cursor, key, SEALED, spooled), S.SYNCED)
            self.assertEqual(self.row(key).known.sealed, SEALED)
        self.assertEqual(self.row(KEY_2).file, FILE.file)

    def test_a_reason(self) -> None:
        """A failure keeps its reason."""
        blobs.learn(self.cursor, KEY, SEALED, E.CONFIRMED)
        self.assertEqual(blobs.change(self.cursor, KEY, E.REJECTED, "altered"), S.FAILED_DOWNLOAD)
        self.assertEqual(self.cursor.execute("SELECT reason FROM blob").fetchone(), ("altered",))


class ReconcileTests(RowsTestCase):
    """What opening finds, and mends."""

    def test_lost(self) -> None:
        """A blob whose file is gone is on the server, if it was there, and awaited otherwise; the others stay."""
        for number, (status, expected) in enumerate(
            {
                S.SYNCED: S.REMOTE,
                S.PENDING_UPLOAD: S.AWAITED,
                S.UNREFERENCED: S.AWAITED,
                S.FAILED_UPLOAD: S.AWAITED,
            }.items()
        ):
            gone, kept = (BlobKey(ATTACHMENTS, BlobId(f"{name}-{number}")) for name in ("gone", "kept"))
            self.insert(status, gone, Spooled(1000, file=gone.blob_id))
            self.insert(status, kept, Spooled(1000, file=kept.blob_id))
            known = blobs.lose(self.cursor, {kept.blob_id, "stray"})
            self.assertIn(kept.blob_id, known)
            self.assertNotIn("stray", known)
            self.assertEqual((self.row(gone).status, self.row(gone).file), (expected, None))
            self.assertEqual((self.row(kept).status, self.row(kept).file), (status, kept.blob_id))

    def test_nothing_lost(self) -> None:
        """Small ones have no file to lose."""
        self.insert()
        self.assertEqual(blobs.lose(self.cursor, set()), set())
        self.assertEqual(self.row().status, S.UNREFERENCED)

    def test_compare(self) -> None:
        """Where documents and blobs disagree is found, both ways; other namespaces are nobody's business."""
        names = [BlobId(name) for name in ("unsaved", "saved", "forgotten", "new")]
        for name in names[:3]:
            self.insert(key=BlobKey(ATTACHMENTS, name))
        blobs.refer(self.cursor, [pointer(name) for name in names[1:3]])
        self.insert(S.PENDING_UPLOAD, BlobKey(DEFAULT, BlobId("application's")))
        wanted, unreferred = blobs.compare(self.cursor, {names[0], names[1], names[3]})
        self.assertEqual(wanted, {names[0], names[3]})
        self.assertEqual(unreferred, {names[2]})

    def test_condemned_is_not_kept(self) -> None:
        """A condemned blob that a document refers to is one that is wanted."""
        self.insert(S.SYNCED)
        blobs.condemn(self.cursor, [ID])
        self.assertEqual(blobs.compare(self.cursor, {ID}), ({ID}, set()))
        self.assertEqual(blobs.compare(self.cursor, set()), (set(), set()))


class PlanTests(RowsTestCase):
    """That nothing scans the table as it grows."""

    def test_search(self) -> None:
        """A blob is found by an index, and so are those that wait for something."""
        for query in (
            "SELECT id FROM blob WHERE namespace = ? AND blob_id = ?",
            "UPDATE blob SET condemned = 0 WHERE namespace = ? AND blob_id = ? AND condemned IS NULL",
        ):
            plan = self.cursor.execute(f"EXPLAIN QUERY PLAN {query}", ("a", "b")).fetchall()
            self.assertIn("SEARCH", plan[0][3])


class LocalBlobsTests(SynchronousTestCase):
    """Rows and files together."""

    def setUp(self) -> None:
        """Make a database and a folder."""
        self.writing, self.worker = HeldWorker(), HeldWorker()
        database = Database.open(Path(self.mktemp()), bytes(32), "user", BLOBS, BLOBS_PAGE, (self.writing, InPlace()))
        self.addCleanup(database.abandon)
        self.files = FaultyFiles(Path(self.mktemp()), LIMIT)
        self.files.prepare()
        self.blobs = LocalBlobs(database, self.files, self.worker)

    def spooled(self, data: bytes) -> Spooled:
        """Spool a container."""
        spool = self.blobs.spool()
        spool.write(data)
        return spool.finish()

    def drain(self) -> None:
        """Let everything run that waits."""
        while self.writing.waiting or self.worker.waiting:
            self.writing.drain()
            self.worker.drain()

    def put(self, data: bytes, key: BlobKey = KEY) -> Any:
        """Put a container; return the Deferred when all has run."""
        putting = self.blobs.put(key, Sealed(5, len(data), b"header", b"commitment"), self.spooled(data))
        self.drain()
        return putting

    def test_small_and_large(self) -> None:
        """What was put can be read, wherever it is kept."""
        for key, data in ((KEY, b"x" * LIMIT), (KEY_2, b"y" * (LIMIT + 1))):
            self.successResultOf(self.put(data, key))
            opening = self.blobs.open(key)
            self.drain()
            known, container = self.successResultOf(opening)
            self.assertEqual((known.key, known.sealed.size), (key, len(data)))
            self.assertEqual(container.read(0, 1000), data)
            container.close()
        self.assertEqual(len(self.files.names()), 1)

    def test_appears_with_its_row(self) -> None:
        """A blob is there when its row commits, not before."""
        putting = self.blobs.put(KEY, SEALED, self.spooled(b"x" * 200))
        self.assertIsNone(self.successResultOf(self.blobs.get(KEY)))
        self.drain()
        self.successResultOf(putting)
        known = self.successResultOf(self.blobs.get(KEY))
        assert known is not None
        self.assertEqual(known.status, S.UNREFERENCED)

    def test_id_taken(self) -> None:
        """Of two puts under one id the first stays, and nothing is left of the other's file."""
        first = self.blobs.put(KEY, SEALED, self.spooled(b"x" * 200))
        second = self.blobs.put(KEY, SEALED, self.spooled(b"y" * 200))
        self.drain()
        self.successResultOf(first)
        self.failureResultOf(second, BlobExists)
        self.assertEqual([p.read_bytes() for p in self.files.folder.iterdir()], [b"x" * 200])

    def test_cancelled_before(self) -> None:
        """A put that is cancelled before its turn leaves nothing, and says so when that is done."""
        first = self.blobs.put(KEY, SEALED, self.spooled(b"x" * 200))
        second = self.blobs.put(KEY_2, SEALED, self.spooled(b"y" * 200))
        second.cancel()
        self.assertNoResult(second)
        self.drain()
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
        self.assertEqual(len(self.files.names()), 1)
        self.assertIsNone(self.successResultOf(self.blobs.get(KEY_2)))

    def test_cancelled_too_late(self) -> None:
        """Later the result stands."""
        putting = self.blobs.put(KEY, SEALED, self.spooled(b"x" * 200))
        self.writing.step(before=putting.cancel)
        self.successResultOf(putting)
        self.assertEqual(len(self.files.names()), 1)

    def test_row_cannot_be_stored(self) -> None:
        """When the row finds the disk full, the file goes too."""
        self.blobs.database.write_now(
            lambda cursor: cursor.execute(
                f"PRAGMA max_page_count = {cursor.execute('PRAGMA page_count').fetchone()[0]}"
            )
        )
        for number in range(100):
            outcome = self.put(b"x" * (LIMIT + 1), BlobKey(ATTACHMENTS, BlobId(f"{number:0100}")))
            if number + 1 != len(self.files.names()):
                break
        self.failureResultOf(outcome, StorageFull)
        self.assertEqual(len(self.files.names()), number)

    def test_lost_file(self) -> None:
        """A file that is gone while the store is open is a blob that is not here; a failing disk is something else."""
        self.successResultOf(self.put(b"x" * 200))
        (name,) = self.files.names()
        (self.files.folder / name).rename(self.files.folder / "away")
        (self.files.folder / name).symlink_to(name)
        for error in (StorageFailed, BlobNotFound):
            opening = self.blobs.open(KEY)
            self.drain()
            self.failureResultOf(opening, error)
            (self.files.folder / name).unlink(missing_ok=True)
        known = self.successResultOf(self.blobs.get(KEY))
        assert known is not None
        self.assertIs(known.status, SyncStatus.AWAITED)

    def test_not_here(self) -> None:
        """A blob that is not here, or not known, cannot be opened."""
        self.failureResultOf(self.blobs.open(KEY), BlobNotFound)
        referring = self.blobs.refer([pointer()], [])
        self.drain()
        self.successResultOf(referring)
        self.failureResultOf(self.blobs.open(KEY), BlobNotFound)

    def test_opening_cancelled(self) -> None:
        """A file that was opened for somebody who went away is theirs to close all the same: none leaks."""
        self.successResultOf(self.put(b"x" * 200))
        before = open_files()
        opening = self.blobs.open(KEY)
        opening.cancel()
        self.drain()
        _, container = self.successResultOf(opening)
        container.close()
        self.assertEqual(open_files(), before)
