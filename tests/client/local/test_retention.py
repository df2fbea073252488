"""Tests of what stays on this device and what goes, as rows on a database in memory, and with files."""

from __future__ import annotations

from pathlib import Path

from soledad.client.interfaces import Scope, Spooled
from soledad.client.local import blobs, queue, retention
from soledad.client.local.database import Cursor, Database
from soledad.client.local.files import BlobFiles
from soledad.client.local.retention import PAGES, SPARE_PAGES, KeptBlobs
from soledad.client.local.schema import BLOBS, BLOBS_PAGE
from soledad.deferreds import InPlace
from soledad.errors import BlobNotFound, NotEvictable
from soledad.model.blob import BlobKey, SyncEvent, SyncStatus
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId
from soledad.model.retention import GRACE, LONGEST, Plan
from soledad.model.transfer import Direction
from tests.client.local.test_blobs import FILE, ID, ID_2, INLINE, KEY, KEY_2, SEALED, RowsTestCase, pointer
from tests.client.local.test_files import LIMIT

S, E = SyncStatus, SyncEvent


class RetentionTestCase(RowsTestCase):
    """Blobs that are condemned, and time that passes."""

    def put(self, key: BlobKey = KEY, spooled: Spooled = INLINE) -> None:
        """Put a blob as attachments are put."""
        self.insert(key=key, spooled=spooled)

    def refer(self, *blob_ids: BlobId) -> None:
        """Save a document that points at blobs."""
        retention.refer_and_condemn(self.cursor, [pointer(one) for one in blob_ids], [])

    def condemn(self, *blob_ids: BlobId) -> None:
        """Let nothing refer to blobs any more."""
        retention.refer_and_condemn(self.cursor, [], blob_ids)

    def expire(self, key: BlobKey = KEY) -> None:
        """Let the grace period of a condemned blob be over."""
        query = "UPDATE blob SET condemned = ? WHERE namespace = ? AND blob_id = ? AND condemned IS NOT NULL"
        self.cursor.execute(query, (GRACE, key.namespace, key.blob_id))
        assert self.cursor.rowcount == 1

    def due(self) -> list[BlobId]:
        """Return what is due."""
        return [one.blob_id for one in retention.due(self.cursor, 0, 10)]

    def is_ours(self, key: BlobKey = KEY) -> bool:
        """Tell whether this device answers for a blob."""
        query = "SELECT ours FROM blob WHERE namespace = ? AND blob_id = ?"
        return bool(self.cursor.execute(query, (key.namespace, key.blob_id)).fetchone()[0])

    def set_status(self, status: SyncStatus, key: BlobKey = KEY) -> None:
        """Let a blob have a status."""
        query = "UPDATE blob SET status = ? WHERE namespace = ? AND blob_id = ?"
        self.cursor.execute(query, (status.value, key.namespace, key.blob_id))


class PassTimeTests(RetentionTestCase):
    """How the grace period is counted."""

    def pass_days(self, count: int, start: float = 0.0) -> None:
        """Have a run each day."""
        for day in range(count):
            retention.pass_time(self.cursor, start + day * LONGEST)

    def test_thirty_days(self) -> None:
        """A blob is due when thirty days were counted since the first run that saw it, and not before."""
        self.put()
        self.pass_days(30)
        self.assertEqual(self.due(), [])
        self.pass_days(1, 30 * LONGEST)
        self.assertEqual(self.due(), [ID])

    def test_time_before(self) -> None:
        """What passed before a blob was condemned does not count for it."""
        self.put()
        self.pass_days(20)
        self.put(KEY_2)
        self.pass_days(30, 20 * LONGEST)
        self.assertEqual(self.due(), [ID])
        self.pass_days(1, 50 * LONGEST)
        self.assertEqual(self.due(), [ID, ID_2])

    def test_often(self) -> None:
        """How often there are runs does not matter."""
        self.put()
        for hour in range(30 * 24):
            retention.pass_time(self.cursor, hour * 3600.0)
        self.assertEqual(self.due(), [])
        retention.pass_time(self.cursor, 30 * 24 * 3600.0)
        self.assertEqual(self.due(), [ID])

    def test_jumps(self) -> None:
        """A clock that jumps ahead, back and ahead again counts a day for each jump ahead."""
        self.put()
        for jump in range(29):
            retention.pass_time(self.cursor, 1e9 if jump % 2 else -1e9)
        self.assertEqual(self.row().condemned, 1 + 14 * LONGEST)
        self.assertEqual(self.due(), [])

    def test_only_condemned(self) -> None:
        """Nothing is counted for what is referred to; what is revived begins anew when it is condemned again."""
        self.put()
        self.pass_days(20)
        self.refer(ID)
        self.assertIsNone(self.row().condemned)
        self.pass_days(20, 20 * LONGEST)
        self.assertIsNone(self.row().condemned)
        self.condemn(ID)
        self.assertEqual(self.row().condemned, 0)

    def test_nothing_waits(self) -> None:
        """Where nothing waits, nothing is written."""
        self.put()
        self.refer(ID)
        before = self.cursor.connection.total_changes
        self.pass_days(3)
        self.assertEqual(self.cursor.connection.total_changes, before)

    def test_other_namespaces(self) -> None:
        """Only attachments have a grace period."""
        self.insert(key=BlobKey(DEFAULT, ID))
        self.pass_days(40)
        self.assertEqual(self.due(), [])

    def test_pages(self) -> None:
        """What is due comes in pages, by row."""
        for key in (KEY, KEY_2):
            self.put(key)
            self.expire(key)
        (first,) = retention.due(self.cursor, 0, 1)
        (second,) = retention.due(self.cursor, first.id, 1)
        self.assertEqual([first.blob_id, second.blob_id], [ID, ID_2])
        self.assertEqual(retention.due(self.cursor, second.id, 1), [])


class AnswerTests(RetentionTestCase):
    """For which blobs this device answers on the server."""

    def test_put(self) -> None:
        """For what was put here, until a saved document refers to it."""
        self.put()
        self.assertTrue(self.is_ours())
        self.refer(ID)
        self.assertFalse(self.is_ours())

    def test_arrived(self) -> None:
        """Not for what came from elsewhere."""
        self.refer(ID)
        blobs.arrive(self.cursor, KEY, SEALED, INLINE)
        self.condemn(ID)
        self.assertFalse(self.is_ours())

    def test_unsent(self) -> None:
        """For what is condemned before it was sent: it may still go there."""
        self.put()
        self.refer(ID)
        self.condemn(ID)
        self.assertTrue(self.is_ours())

    def test_sent(self) -> None:
        """Not for what was sent, and is condemned later: who dropped it does."""
        self.put()
        self.refer(ID)
        blobs.change(self.cursor, KEY, E.CONFIRMED)
        self.condemn(ID)
        self.assertFalse(self.is_ours())

    def test_sent_again(self) -> None:
        """For what the server had lost, and got from here again, when its reference goes and when it stays."""
        self.put()
        self.refer(ID)
        for event in (E.CONFIRMED, E.MISSED, E.CONFIRMED):
            blobs.change(self.cursor, KEY, event)
        self.refer(ID)
        self.condemn(ID)
        self.assertTrue(self.is_ours())


class CarryOutTests(RetentionTestCase):
    """What becomes of rows and bytes."""

    def carry_out(self, **lists: list[BlobId]) -> list[str]:
        """Carry out a plan."""
        return retention.carry_out(self.cursor, Plan(**lists))  # type: ignore[arg-type]

    def test_forgotten(self) -> None:
        """Row and bytes go; the file is named, to be removed."""
        self.put()
        self.put(KEY_2, FILE)
        for key in (KEY, KEY_2):
            self.expire(key)
        self.assertEqual(self.carry_out(forgotten=[ID, ID_2]), ["a file"])
        for table in ("blob", "container"):
            self.assertEqual(self.cursor.execute(f"SELECT count(*) FROM {table}").fetchone(), (0,))

    def test_deleted(self) -> None:
        """The bytes go; the row waits for the server, and is asked for."""
        self.put(spooled=FILE)
        self.put(KEY_2)
        for key in (KEY, KEY_2):
            self.expire(key)
        self.assertEqual(self.carry_out(deleted=[ID, ID_2]), ["a file"])
        self.assertEqual(self.cursor.execute("SELECT count(*) FROM container").fetchone(), (0,))
        for key in (KEY, KEY_2):
            self.assertEqual((self.row(key).status, self.row(key).file), (S.PENDING_DELETE, None))
        queued = queue.due(self.cursor, None, 1000.0, 10)
        self.assertEqual([one.direction for one in queued], [Direction.DELETE] * 2)
        self.assertEqual(self.due(), [])

    def test_asked_again(self) -> None:
        """A sync asks for deletions of what is condemned, too."""
        self.put()
        self.expire()
        self.carry_out(deleted=[ID])
        self.cursor.execute("UPDATE blob SET retry_at = NULL")
        queue.ask(self.cursor, Scope(frozenset(Direction)), 5.0)
        self.assertEqual(len(queue.due(self.cursor, None, 5.0, 10)), 1)

    def test_any_status(self) -> None:
        """Whatever the status was, it can be let go."""
        for status in SyncStatus:
            if status is not S.PENDING_DELETE:
                self.put()
                self.expire()
                self.set_status(status)
                self.carry_out(deleted=[ID])
                self.assertEqual(self.row().status, S.PENDING_DELETE, status)
                queue.remove(self.cursor, KEY)

    def test_revived_since(self) -> None:
        """What was revived since the plan was made stays; so does what is not due."""
        self.put()
        self.put(KEY_2)
        self.expire()
        self.refer(ID)
        self.assertEqual(self.carry_out(deleted=[ID], forgotten=[ID_2]), [])
        self.assertEqual(self.row().status, S.PENDING_UPLOAD)
        self.assertEqual(self.row(KEY_2).status, S.UNREFERENCED)

    def test_revive(self) -> None:
        """What is referred to after all is kept."""
        self.put()
        self.expire()
        retention.carry_out(self.cursor, Plan([pointer()]))
        self.assertEqual((self.row().status, self.row().condemned), (S.PENDING_UPLOAD, None))

    def test_referred_to_again(self) -> None:
        """A reference revives even what waits to be deleted; its bytes are to be seen then."""
        self.put()
        self.expire()
        self.carry_out(deleted=[ID])
        self.assertEqual(blobs.compare(self.cursor, {ID}), ({ID}, set()))
        self.refer(ID)
        self.assertEqual((self.row().status, self.row().condemned), (S.AWAITED, None))
        self.assertFalse(self.is_ours())

    def test_kept(self) -> None:
        """What is not condemned is listed in pages, attachments only."""
        for key in (KEY, KEY_2, BlobKey(DEFAULT, ID)):
            self.put(key)
        self.refer(ID, ID_2)
        self.assertEqual(retention.kept(self.cursor, BlobId(""), 1), [ID])
        self.assertEqual(retention.kept(self.cursor, ID, 10), [ID_2])
        self.condemn(ID)
        self.assertEqual(retention.kept(self.cursor, BlobId(""), 10), [ID_2])

    def test_gone(self) -> None:
        """Gone is what has no row, or only waits for the server."""
        self.put()
        self.put(KEY_2)
        self.expire()
        self.carry_out(deleted=[ID])
        self.assertEqual(retention.gone(self.cursor, [ID, ID_2, BlobId("unknown")]), [ID, BlobId("unknown")])


class EvictTests(RetentionTestCase):
    """What may make room."""

    def synced(self, key: BlobKey = KEY, spooled: Spooled = INLINE) -> None:
        """Have an attachment here and on the server."""
        self.put(key, spooled)
        self.refer(key.blob_id)
        blobs.change(self.cursor, key, E.CONFIRMED)

    def candidates(self, budget: int = 0) -> list[BlobId]:
        """Return what may go."""
        return [known.key.blob_id for known in retention.excess(self.cursor, budget, 10)[1]]

    def test_evict(self) -> None:
        """The bytes go, the row stays and knows that it is on the server; it does not come back by itself."""
        self.synced(spooled=FILE)
        self.assertEqual(retention.evict(self.cursor, KEY), (S.REMOTE, ["a file"]))
        self.assertEqual((self.row().status, self.row().file), (S.REMOTE, None))
        self.assertEqual(self.cursor.execute("SELECT evicted FROM blob").fetchone(), (1,))
        self.assertEqual(retention.evict(self.cursor, KEY), (S.REMOTE, []))

    def test_only_here(self) -> None:
        """What is here only stays, in whatever status."""
        self.synced()
        for status in SyncStatus:
            if status.is_local and status is not S.SYNCED:
                self.set_status(status)
                with self.assertRaises(NotEvictable):
                    retention.evict(self.cursor, KEY)
                self.assertEqual(self.candidates(), [], status)

    def test_pinned(self) -> None:
        """What is pinned stays, until it is unpinned."""
        self.synced()
        self.assertEqual(retention.pin(self.cursor, KEY, True), S.SYNCED)
        with self.assertRaises(NotEvictable):
            retention.evict(self.cursor, KEY)
        self.assertEqual(self.candidates(), [])
        retention.pin(self.cursor, KEY, False)
        self.assertEqual(self.candidates(), [ID])

    def test_pin_wants(self) -> None:
        """What is pinned and not here is wanted; unpinning changes nothing about that."""
        for status, then in (
            (S.REMOTE, S.PENDING_DOWNLOAD),
            (S.AWAITED, S.AWAITED),
            (S.FAILED_DOWNLOAD, S.FAILED_DOWNLOAD),
            (S.UNREFERENCED, S.UNREFERENCED),
        ):
            self.insert(status, KEY_2)
            self.assertEqual(retention.pin(self.cursor, KEY_2, True), then)
            self.assertEqual(retention.pin(self.cursor, KEY_2, False), then)
            queue.remove(self.cursor, KEY_2)

    def test_unknown(self) -> None:
        """What this device does not know can be neither pinned nor evicted."""
        for call in (lambda: retention.pin(self.cursor, KEY, True), lambda: retention.evict(self.cursor, KEY)):
            self.assertRaises(BlobNotFound, call)

    def test_order(self) -> None:
        """What was used last goes last; what was never read goes first."""
        keys = [BlobKey(ATTACHMENTS, BlobId(str(number) * 32)) for number in range(3)]
        for key in keys:
            self.synced(key)
        retention.note_uses(self.cursor, [keys[2], keys[0]])
        self.assertEqual(self.candidates(), [keys[1].blob_id, keys[2].blob_id, keys[0].blob_id])
        retention.note_uses(self.cursor, [keys[1], keys[2]])
        self.assertEqual(self.candidates(), [keys[0].blob_id, keys[1].blob_id, keys[2].blob_id])

    def test_excess(self) -> None:
        """The bytes of attachments that are here count, whatever their status; others do not."""
        self.synced()
        self.put(KEY_2)
        self.insert(key=BlobKey(DEFAULT, ID))
        self.insert(S.REMOTE, BlobKey(ATTACHMENTS, BlobId("3")), None)
        self.assertEqual(retention.excess(self.cursor, 2 * SEALED.size, 10), (0, []))
        excess, candidates = retention.excess(self.cursor, SEALED.size, 10)
        self.assertEqual((excess, [known.key for known in candidates]), (SEALED.size, [KEY]))

    def test_plan(self) -> None:
        """Candidates are found by the index, in order, however many blobs there are."""
        query = """EXPLAIN QUERY PLAN SELECT blob_id FROM blob
            WHERE namespace = ? AND status = ? AND pinned = 0 ORDER BY used, size LIMIT 1"""
        text = " ".join(row[3] for row in self.cursor.execute(query, ("", "")))
        self.assertIn("SEARCH blob USING INDEX blob_kept", text)
        self.assertNotIn("TEMP B-TREE", text)

    def test_budget(self) -> None:
        """The budget is kept, 0 and none included."""
        for budget in (None, 0, 10**15, None):
            retention.set_budget(self.cursor, budget)
            self.assertEqual(retention.budget(self.cursor), budget)


class FilesTests(RetentionTestCase):
    """Rows and files."""

    def setUp(self) -> None:
        """Open a database, and a folder."""
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        database = Database.open(folder / "blobs.db", bytes(32), "user", BLOBS, BLOBS_PAGE, (InPlace(), InPlace()))
        self.addCleanup(database.abandon)
        self.files = BlobFiles(folder / "files", LIMIT)
        self.files.prepare()
        self.blobs = KeptBlobs(database, self.files, InPlace())

    def put_file(self, size: int) -> None:
        """Put a container."""
        spool = self.blobs.spool()
        spool.write(bytes(size))
        self.successResultOf(self.blobs.put(KEY, SEALED, spool.finish()))

    def test_file_goes_last(self) -> None:
        """When the file goes, the row has gone: an end between the two leaves a file that is swept."""
        self.put_file(10_000)
        database = self.blobs.database
        database.write_now(lambda cursor: cursor.execute("UPDATE blob SET condemned = ?", (GRACE,)) and None)
        found: list[object] = []
        remove = self.files.remove

        def removing(name: str) -> None:
            found.append((name in self.files.names(), database.read_now(blobs.get, KEY)))
            remove(name)

        self.patch(type(self.files), "remove", lambda files, name: removing(name))
        self.successResultOf(self.blobs.carry_out(Plan(forgotten=[ID])))
        self.assertEqual(found, [(True, None)])
        self.assertEqual(self.files.names(), set())

    def test_open_stays_readable(self) -> None:
        """Who has a container open reads on when it was evicted, from a file as from the database."""
        for size in (10_000, 10):
            self.put_file(size)
            self.successResultOf(self.blobs.refer([pointer()], []))
            self.successResultOf(self.blobs.change(KEY, E.CONFIRMED))
            _, container = self.successResultOf(self.blobs.open(KEY))
            self.assertEqual(self.successResultOf(self.blobs.evict(KEY)), S.REMOTE)
            self.assertEqual(self.files.names(), set())
            self.assertEqual(container.read(0, size), bytes(size))
            container.close()
            self.failureResultOf(self.blobs.open(KEY), BlobNotFound)
            self.blobs.database.write_now(queue.remove, KEY)

    def test_room_is_given_back(self) -> None:
        """Free pages go back to the file system in small slices, but for some."""
        database = self.blobs.database
        pages = SPARE_PAGES + 2 * PAGES + 10
        database.write_now(lambda cursor: cursor.execute("CREATE TABLE much (bytes BLOB)") and None)
        query = "INSERT INTO much VALUES (zeroblob(?))"
        database.write_now(lambda cursor: cursor.execute(query, (pages * BLOBS_PAGE,)) and None)
        before = database.read_now(page_count)
        self.assertFalse(self.successResultOf(self.blobs.give_back()))
        database.write_now(lambda cursor: cursor.execute("DELETE FROM much") and None)
        slices = 0
        while self.successResultOf(self.blobs.give_back()):
            slices += 1
        self.assertEqual(slices, 3)
        self.assertLess(database.read_now(page_count), before - 2 * PAGES)


def page_count(cursor: Cursor) -> int:
    """Return how many pages a database has."""
    return int(cursor.execute("PRAGMA page_count").fetchone()[0])
