"""Tests of the queue as rows, on a database in memory; and of files that are not complete yet."""

from __future__ import annotations

import os
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.interfaces import Arrival, Listed, Outcome, Scope, Spooled
from soledad.client.local import blobs, listings, queue
from soledad.client.local.files import BlobFiles
from soledad.client.local.partial import PartialFile
from soledad.client.sync.blobs import ALL, FETCHING, SENDING
from soledad.errors import BlobExists, BlobNotFound, StorageFailed, StorageFull
from soledad.model.blob import BlobInfo, BlobKey, Priority, Sealed, SyncEvent, SyncStatus
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.model.transfer import Queued
from tests.client.local.test_blobs import INLINE, RowsTestCase
from tests.client.local.test_files import FaultyFiles

S, E = SyncStatus, SyncEvent
MAILS = Namespace("mails")
ONE, TWO = b"1" * 32, b"2" * 32


def key(blob_id: str, namespace: Namespace = DEFAULT) -> BlobKey:
    """Return a key."""
    return BlobKey(namespace, BlobId(blob_id))


def sealed(commitment: bytes = ONE) -> Sealed:
    """Return what a row says of a container."""
    return Sealed(5, 100, b"header", commitment)


class QueueCase(RowsTestCase):
    """Rows of blobs without a document."""

    def add(self, blob_id: str, status: SyncStatus = S.PENDING_UPLOAD, namespace: Namespace = DEFAULT) -> BlobKey:
        """Add a blob."""
        spooled = INLINE if status.is_local else None
        blobs.insert(self.cursor, key(blob_id, namespace), status, sealed(), spooled)
        return key(blob_id, namespace)

    def get(self, blob_id: str) -> Queued:
        """Return what the queue has of a blob."""
        row = queue.look_up(self.cursor, key(blob_id))
        assert row is not None
        return row

    def due(self, now: float = 0.0, scope: Scope | None = None) -> str:
        """Return the ids of what is due."""
        return "".join(row.key.blob_id for row in queue.due(self.cursor, scope, now, 100))


class AskingTests(QueueCase):
    """What is asked for, and when its time has come."""

    def test_scopes(self) -> None:
        """A scope is directions and perhaps a namespace; what is nobody's business is never asked for."""
        for blob_id, status in zip("abcdefgh", (S.PENDING_UPLOAD, S.PENDING_DOWNLOAD, S.PENDING_DELETE, S.AWAITED,
                                                S.SYNCED, S.LOCAL_ONLY, S.FAILED_UPLOAD, S.FAILED_DOWNLOAD),
                                   strict=True):  # fmt: skip
            self.add(blob_id, status)
        self.add("m", namespace=MAILS)
        self.assertEqual(self.due(), "")
        self.assertEqual(queue.ask(self.cursor, Scope(SENDING, DEFAULT), 5.0), 200)
        self.assertEqual((self.due(4.0), self.due(5.0)), ("", "ac"))
        queue.ask(self.cursor, Scope(FETCHING), 5.0)
        self.assertEqual(self.due(5.0), "abcd")
        self.assertEqual(self.due(5.0, Scope(FETCHING)), "bd")
        queue.ask(self.cursor, ALL, 5.0)
        self.assertEqual(self.due(5.0), "abcdm")
        self.assertEqual(self.due(5.0, Scope(SENDING, MAILS)), "m")

    def test_remote(self) -> None:
        """What is only on the server is wanted then, but for what was evicted, until it is wanted again."""
        self.add("a", S.REMOTE)
        self.add("b", S.SYNCED)
        blobs.change(self.cursor, key("b"), E.EVICTED)
        queue.ask(self.cursor, Scope(FETCHING), 0.0)
        self.assertEqual(self.due(), "a")
        self.assertIs(self.get("a").status, S.PENDING_DOWNLOAD)
        blobs.change(self.cursor, key("b"), E.WANTED)
        queue.ask(self.cursor, Scope(FETCHING), 0.0)
        self.assertEqual(self.due(), "ab")

    def test_condemned(self) -> None:
        """What nothing refers to any more is not worth the way."""
        self.add("a")
        self.cursor.execute("UPDATE blob SET condemned = 0")
        queue.ask(self.cursor, ALL, 0.0)
        self.assertEqual(self.due(), "")

    def test_order(self) -> None:
        """The most urgent first, then the oldest; it can be said otherwise at any time."""
        for blob_id in "abc":
            self.add(blob_id)
        queue.ask(self.cursor, ALL, 0.0)
        self.assertEqual(self.due(), "abc")
        queue.set_priority(self.cursor, key("c"), Priority.URGENT)
        queue.set_priority(self.cursor, key("a"), Priority.LOW)
        self.assertEqual(self.due(), "cba")
        self.assertRaises(BlobNotFound, queue.set_priority, self.cursor, key("x"), Priority.LOW)

    def test_wrong_clock(self) -> None:
        """A time that lies further ahead than any pause is taken for the present."""
        self.add("a")
        queue.ask(self.cursor, ALL, 1e9)
        self.assertEqual(self.due(1e9 - queue.LONGEST_WAIT + 1), "")
        self.assertEqual(self.due(1e9 - queue.LONGEST_WAIT - 1), "a")

    def test_later(self) -> None:
        """What failed waits; its attempts are counted; what nobody asked for is not asked for by that."""
        self.add("a")
        self.add("b")
        queue.ask(self.cursor, ALL, 0.0)
        queue.hold(self.cursor, key("b"))
        queue.postpone(self.cursor, [key("a"), key("b")], 9.0, "why", failed=True, rejected=True)
        self.assertEqual((self.due(8.0), self.due(9.0)), ("", "a"))
        self.assertEqual((self.get("b").attempts, self.get("a").rejections), (1, 1))
        self.assertEqual(queue.next_time(self.cursor, 0.0), 9.0)
        queue.postpone_all(self.cursor, None, 20.0, "all")
        self.assertEqual(queue.next_time(self.cursor, 0.0), 20.0)

    def test_withdrawn_late(self) -> None:
        """A download that is cancelled while it is held, after its blob came or was deleted, only ends."""
        for blob_id, status in (("a", S.SYNCED), ("b", S.PENDING_DELETE)):
            self.add(blob_id, status)
            self.assertEqual(queue.withdraw(self.cursor, key(blob_id), SyncEvent.UNWANTED), [])
            self.assertIs(self.get(blob_id).status, status)

    def test_next_time_of_a_wrong_clock(self) -> None:
        """A time too far ahead is the present for who waits, as it is for who takes what is due."""
        self.add("a")
        queue.ask(self.cursor, ALL, 1e9)
        self.assertEqual(queue.next_time(self.cursor, 5.0), 5.0)
        self.assertEqual(self.due(5.0), "a")

    def test_plan(self) -> None:
        """The next transfers are found in order, without sorting, however many blobs there are."""
        statements: list[str] = []
        self.cursor.connection.set_trace_callback(statements.append)
        queue.due(self.cursor, None, 0.0, 5)
        self.cursor.connection.set_trace_callback(None)
        plan = " ".join(str(row) for row in self.cursor.execute(f"EXPLAIN QUERY PLAN {statements[-1]}"))
        self.assertIn("blob_queue", plan)
        self.assertNotIn("TEMP B-TREE", plan)


class OutcomeTests(QueueCase):
    """What becomes of transfers."""

    def test_settled(self) -> None:
        """A status follows, and nothing is asked for any more; what came of it before is kept."""
        self.add("a")
        queue.ask(self.cursor, ALL, 0.0)
        queue.note_upload(self.cursor, key("a"), "u")
        outcome = Outcome(key("a"), ONE, E.CONFIRMED, "t" * 64)
        self.assertEqual(queue.settle(self.cursor, [outcome]), [S.SYNCED])
        self.assertEqual((self.due(9.0), self.get("a").upload, self.get("a").etag), ("", None, "t" * 64))

    def test_not_the_same(self) -> None:
        """What was sent of another blob of the same id says nothing of this one."""
        self.add("a")
        self.assertEqual(queue.settle(self.cursor, [Outcome(key("a"), TWO, E.CONFIRMED)]), [None])
        self.assertIs(self.get("a").status, S.PENDING_UPLOAD)
        self.assertEqual(queue.settle(self.cursor, [Outcome(key("x"), ONE, E.CONFIRMED)]), [None])

    def test_meanwhile(self) -> None:
        """What became something else while it was under way stays what it is."""
        self.add("a", S.LOCAL_ONLY)
        self.assertEqual(queue.settle(self.cursor, [Outcome(key("a"), ONE, E.REFUSED)]), [S.LOCAL_ONLY])

    def test_arrived(self) -> None:
        """What came is here; what was deleted in the meantime, or is another one, is not taken."""
        for blob_id, status in (("a", S.PENDING_DOWNLOAD), ("b", S.PENDING_DELETE), ("c", S.AWAITED)):
            self.add(blob_id, status)
        arrivals = [Arrival(key(blob_id), sealed(), INLINE, "t" * 64) for blob_id in "abc"]
        arrivals[2] = evolve(arrivals[2], sealed=sealed(TWO))
        self.assertEqual(queue.arrive_all(self.cursor, arrivals), [S.SYNCED, None, None])
        self.assertEqual(queue.contents(self.cursor, [key(blob_id) for blob_id in "abx"]), [INLINE.inline, None, None])

    def test_withdrawn(self) -> None:
        """Nothing is left of what came of a transfer that is not wanted any more."""
        self.add("a", S.PENDING_DOWNLOAD)
        self.assertEqual(queue.name_partial(self.cursor, key("a"), "file"), "file")
        self.assertEqual(queue.name_partial(self.cursor, key("a"), "other"), "file")
        self.assertEqual(queue.withdraw(self.cursor, key("a"), E.UNWANTED), ["file"])
        self.assertIs(self.get("a").status, S.REMOTE)
        self.assertRaises(BlobNotFound, queue.name_partial, self.cursor, key("x"), "file")
        self.assertEqual(queue.withdraw(self.cursor, key("x"), None), [])

    def test_lost_partial(self) -> None:
        """A file that is not complete is known when strays are swept; if it is gone, that is noted."""
        self.add("a", S.PENDING_DOWNLOAD)
        queue.name_partial(self.cursor, key("a"), "file")
        self.assertEqual(blobs.lose(self.cursor, {"file", "stray"}), {"file"})
        self.assertEqual(self.get("a").partial, "file")
        blobs.lose(self.cursor, set())
        self.assertIsNone(self.get("a").partial)


class DeletingTests(QueueCase):
    """Deleting, and putting again."""

    def test_while_under_way(self) -> None:
        """A deletion that was asked for while the blob was on its way is still asked for when that ends."""
        blob = self.add("a")
        queue.delete(self.cursor, blob)
        queue.ask(self.cursor, ALL, 5.0)
        for event in (E.CONFIRMED, E.MISSED):
            self.assertEqual(queue.settle(self.cursor, [Outcome(blob, ONE, event)]), [S.PENDING_DELETE])
            self.assertEqual(self.due(5.0), "a")

    def test_deleted(self) -> None:
        """The bytes go at once, the row when the deletion was carried out; what it was is remembered."""
        blobs.insert(self.cursor, key("a"), S.SYNCED, sealed(), Spooled(100, file="file"))
        self.assertEqual(queue.delete(self.cursor, key("a")), ["file"])
        self.assertIs(self.get("a").status, S.PENDING_DELETE)
        self.assertIsNone(queue.delete(self.cursor, key("a")))
        self.assertIsNone(queue.delete(self.cursor, key("x")))
        self.assertEqual(queue.list_blobs(self.cursor, DEFAULT, None), [])
        queue.forget(self.cursor, key("a"), ONE)
        self.assertIsNone(queue.look_up(self.cursor, key("a")))
        self.assertEqual(queue.buried(self.cursor, key("a"), 5), [ONE])

    def test_put_again(self) -> None:
        """What is put under a deleted id waits for the deletion of what was there; a third one is refused."""
        self.add("a")
        queue.delete(self.cursor, key("a"))
        blobs.insert(self.cursor, key("a"), S.PENDING_UPLOAD, sealed(TWO), INLINE)
        row = self.get("a")
        self.assertEqual((row.status, row.replaces, row.sealed.commitment), (S.PENDING_UPLOAD, ONE, TWO))
        self.assertRaises(BlobExists, blobs.insert, self.cursor, key("a"), S.PENDING_UPLOAD, sealed(), INLINE)
        queue.forget(self.cursor, key("a"), ONE)
        self.assertEqual((self.get("a").replaces, self.get("a").status), (None, S.PENDING_UPLOAD))
        self.assertEqual(queue.buried(self.cursor, key("a"), 5), [ONE])

    def test_put_again_local(self) -> None:
        """It may be one that is to stay here."""
        self.add("a")
        queue.delete(self.cursor, key("a"))
        blobs.insert(self.cursor, key("a"), S.LOCAL_ONLY, sealed(TWO), INLINE)
        self.assertIs(self.get("a").status, S.LOCAL_ONLY)

    def test_remembered(self) -> None:
        """So many are remembered, the latest first."""
        self.patch(queue, "BURIED", 3)
        for number in range(5):
            queue.bury(self.cursor, key("a"), [bytes([number]) * 32, None])
        self.assertEqual([each[0] for each in queue.buried(self.cursor, key("a"), 9)], [4, 3, 2])
        self.assertEqual(len(queue.buried(self.cursor, key("a"), 2)), 2)


class ListingTests(QueueCase):
    """What lists say, in rows."""

    def info(self, blob_id: str, **options: Any) -> BlobInfo:
        """Return an entry of a list."""
        return evolve(BlobInfo(BlobId(blob_id), DEFAULT, 100, "t" * 64), **options)

    def test_discovered(self) -> None:
        """What is new is known to be there, and nothing else of it."""
        listings.compare(self.cursor, [Listed(self.info("a"))])
        row = self.get("a")
        self.assertEqual((row.status, row.sealed, row.etag), (S.REMOTE, Sealed.unseen(100), "t" * 64))
        queue.note_known(self.cursor, key("a"), sealed(), None)
        self.assertEqual(self.get("a").sealed, sealed())
        queue.note_known(self.cursor, key("a"), sealed(TWO), None)
        self.assertEqual(self.get("a").sealed, sealed())

    def test_gone(self) -> None:
        """What the user deleted goes, with its file."""
        blobs.insert(self.cursor, key("a"), S.SYNCED, sealed(), Spooled(100, file="file"))
        listed = Listed(self.info("a", deleted=True), frozenset({ONE}))
        self.assertEqual(listings.compare(self.cursor, [listed]), ([], ["file"]))
        self.assertIsNone(queue.look_up(self.cursor, key("a")))

    def test_in_full(self) -> None:
        """What ought to be there and was not seen is missed; what went there meanwhile is not."""
        for blob_id in "abc":
            self.add(blob_id, S.SYNCED)
        self.add("r", S.REMOTE)
        self.add("u")
        listings.begin_comparing(self.cursor, DEFAULT)
        listings.compare(self.cursor, [Listed(self.info("a"))])
        queue.settle(self.cursor, [Outcome(key("u"), ONE, E.CONFIRMED)])
        listings.end_comparing(self.cursor, DEFAULT)
        statuses = {row.key.blob_id: row.status for row in queue.list_blobs(self.cursor, DEFAULT, None)}
        self.assertEqual(statuses, {"a": S.SYNCED, "b": S.PENDING_UPLOAD, "c": S.PENDING_UPLOAD, "r": S.AWAITED,
                                    "u": S.SYNCED})  # fmt: skip

    def test_heads(self) -> None:
        """How far this device has heard, by namespace; namespaces are known by it, too."""
        self.assertIsNone(listings.head(self.cursor, MAILS))
        for token in ("1", "2"):
            listings.note_head(self.cursor, MAILS, token)
        self.add("a")
        self.assertEqual(listings.head(self.cursor, MAILS), "2")
        self.assertEqual(queue.namespaces(self.cursor), [DEFAULT, MAILS])
        self.assertEqual(queue.count(self.cursor, None), {S.PENDING_UPLOAD: 1})
        self.assertEqual(queue.count(self.cursor, MAILS), {})


class PartialFileTests(SynchronousTestCase):
    """Files that grow, and are kept."""

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = Path(self.mktemp())
        self.files = BlobFiles(self.folder)
        self.files.prepare()

    def test_grows(self) -> None:
        """What was written is there when it is opened again, and can be cut; whole, it is a container's file."""
        file = PartialFile.open(self.files, "name")
        file.write(b"some bytes")
        file.close()
        file.close()
        file = PartialFile.open(self.files, "name")
        self.assertEqual(file.size, 10)
        file.cut(5)
        file.write(b"more")
        out = bytearray(20)
        self.assertEqual(file.read_into(0, memoryview(out)), 9)
        self.assertEqual(file.finish(), Spooled(9, file="name"))
        self.assertEqual((self.folder / "name").read_bytes(), b"some more")
        self.assertEqual(os.stat(self.folder / "name").st_mode & 0o777, 0o600)

    def test_faults(self) -> None:
        """A full disk, or one that fails, is told as such."""
        for number, error in ((ENOSPC, StorageFull), (EIO, StorageFailed)):
            faulty = FaultyFiles(self.folder, faults={"write": number})
            file = PartialFile.open(faulty, "name")
            self.assertRaises(error, file.write, b"data")
            file.close()
