"""Tests of the collector: two devices in place, and a clock that is told what to show."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from twisted.internet.defer import Deferred, fail, succeed

from soledad.client.local import blobs, documents
from soledad.client.local.database import Cursor
from soledad.client.local.documents import LocalDocuments
from soledad.client.local.transfers import BlobQueue
from soledad.client.sync import collect
from soledad.client.sync.collect import INTERVAL
from soledad.errors import StorageFull
from soledad.model.attachment import Pointer
from soledad.model.blob import BlobKey, SyncStatus
from soledad.model.ids import ATTACHMENTS, BlobId, DocId
from soledad.model.retention import GRACE, LONGEST, Referring
from soledad.testing import make_store
from tests.client.stores import count_blobs
from tests.client.sync.homes import INLINE, HomesTestCase, all_versions

S = SyncStatus
LARGE = b"large" * INLINE
#: Days after which what was condemned before the first of them is collected, and before which it is not.
ENOUGH, TOO_FEW = 31, 30


class CollectTests(HomesTestCase):
    """What goes, and what does not."""

    def test_never_saved(self) -> None:
        """What was put for a document that was never saved goes, row and file, and from the server if it got there."""
        doc = self.now(self.store.create_doc({}))
        self.now(doc.put_attachment(LARGE))
        self.now(doc.upload_attachment())
        (blob_id,) = self.on_server()
        del doc
        self.pass_days(TOO_FEW)
        self.assertEqual((self.status(blob_id), self.on_server()), (S.SYNCED, {blob_id}))
        self.assertEqual(len(self.files()), 1)
        self.pass_days(1)
        self.assertEqual((self.status(blob_id), self.on_server(), self.files()), (None, set(), set()))

    def test_deleted(self) -> None:
        """What a deleted document pointed at goes, after the grace period and not before."""
        blob_id = self.attached(LARGE)
        self.pass_days(40)
        self.assertEqual(self.status(blob_id), S.SYNCED)
        self.delete()
        self.pass_days(TOO_FEW)
        self.assertEqual((self.status(blob_id), self.on_server()), (S.SYNCED, {blob_id}))
        self.pass_days(1)
        self.assertEqual((self.status(blob_id), self.on_server(), self.files()), (None, set(), set()))
        self.assertEqual(self.dropped(), [])

    def test_replaced(self) -> None:
        """What was replaced goes, what replaced it stays."""
        first = self.attached()
        doc = self.now(self.store.get_doc("doc"))
        assert doc is not None
        self.now(doc.put_attachment(b"other"))
        self.now(self.store.put_doc(doc))
        second = doc.attachments["default"].blob_id
        self.pass_days(ENOUGH)
        self.assertEqual((self.status(first), self.status(second)), (None, S.PENDING_UPLOAD))

    def test_linked(self) -> None:
        """What another document points at stays, and goes when that is deleted too."""
        blob_id = self.linked()
        self.delete()
        self.pass_days(ENOUGH)
        self.assertEqual(self.status(blob_id), S.SYNCED)
        self.delete("other")
        self.pass_days(ENOUGH)
        self.assertEqual((self.status(blob_id), self.on_server()), (None, set()))

    def test_alternatives(self) -> None:
        """What only an alternative of a document in conflict points at stays."""
        blob_id = self.attached()
        self.exchange()
        doc = self.now(self.stores["b"].get_doc("doc"))
        assert doc is not None
        self.delete()
        doc.content = {"changed": True}
        self.now(self.stores["b"].put_doc(doc))
        del doc
        self.exchange()
        self.assertEqual(len(self.now(self.store.get_doc_conflicts("doc"))), 2)
        self.pass_days(ENOUGH)
        self.assertEqual((self.status(blob_id), self.on_server()), (S.SYNCED, {blob_id}))

    def test_unsaved(self) -> None:
        """What an object in memory points at stays as long as the object lives; saving it keeps it."""
        doc = self.now(self.store.create_doc({}, "doc"))
        self.now(doc.put_attachment(b"data"))
        blob_id = doc.attachments["default"].blob_id
        self.pass_days(100)
        self.assertEqual(self.status(blob_id), S.UNREFERENCED)
        self.now(self.store.put_doc(doc))
        del doc
        gc.collect()
        self.pass_days(ENOUGH)
        self.assertEqual(self.status(blob_id), S.PENDING_UPLOAD)

    def test_loaded(self) -> None:
        """What an object from any getter points at stays, though the document is deleted, and can be linked."""
        blob_id = self.attached()
        (old,) = self.now(self.store.get_all_docs())[1]
        self.delete()
        self.pass_days(ENOUGH)
        self.assertEqual(self.status(blob_id), S.SYNCED)
        other = self.now(self.store.create_doc({}, "other"))
        self.now(other.link_attachment(old))
        self.now(self.store.put_doc(other))
        del old
        self.pass_days(ENOUGH)
        self.assertEqual(self.status(blob_id), S.SYNCED)

    def test_later_session(self) -> None:
        """Nothing outlasts its session by being held: another one collects it."""
        doc = self.now(self.store.create_doc({}, "doc"))
        self.now(doc.put_attachment(b"data"))
        self.now(self.store.close())
        self.stores["a"] = self.opened("a")
        self.pass_days(ENOUGH)
        self.assertEqual(self.status(doc.attachments["default"].blob_id), None)

    def test_revived(self) -> None:
        """A reference ends the grace period; when it goes, the period begins anew."""
        blob_id = self.attached()
        self.delete()
        self.pass_days(20)
        self.attach_again(blob_id)
        self.pass_days(20)
        self.delete("again")
        self.pass_days(TOO_FEW)
        self.assertEqual(self.status(blob_id), S.SYNCED)
        self.pass_days(1)
        self.assertEqual(self.status(blob_id), None)

    def attach_again(self, blob_id: BlobId) -> None:
        """Save another document that points at a blob."""
        known = self.now(self.store._local.blobs.get(BlobKey(ATTACHMENTS, blob_id)))
        assert known is not None
        other = self.now(self.store.create_doc({}, "again"))
        other.attach("default", Pointer(blob_id, known.sealed.length, None, known.sealed.commitment))
        self.now(self.store.put_doc(other))

    def test_late_reference(self) -> None:
        """When the references are read again, a blob that has one is revived, though the note of it was lost."""
        blob_id = self.attached()
        database = self.store._local.blobs.database
        database.write_now(lambda cursor: cursor.execute("UPDATE blob SET condemned = ?", (GRACE,)) and None)
        self.collect()
        row = database.read_now(blobs.must_get, BlobKey(ATTACHMENTS, blob_id))
        self.assertEqual((row.status, row.condemned), (S.SYNCED, None))

    def test_versions_wait(self) -> None:
        """Between the last look at the references and the deletion no version comes from elsewhere."""
        blob_id = self.attached()
        self.exchange()
        self.delete()
        self.pass_days(TOO_FEW, "a")
        self.clock.rightNow += LONGEST
        looking: list[Deferred[Referring]] = []
        referring = LocalDocuments.referring

        def look(documents: LocalDocuments, blob_ids: Collection[BlobId]) -> Deferred[Referring]:
            looking.append(Deferred())
            return looking[-1]

        self.patch(LocalDocuments, "referring", look)
        collecting = Deferred.fromCoroutine(self.store._collector.run())
        self.assertEqual(len(looking), 1)
        coming = self.stores["b"]._local.documents.database.read_now(all_versions)
        applying = Deferred.fromCoroutine(self.store._documents.apply_all(coming))
        self.assertNoResult(applying)
        self.patch(LocalDocuments, "referring", referring)
        looking[0].callback(Referring(dropped=frozenset({blob_id})))
        self.now(collecting)
        self.now(applying)

    def test_not_noted(self) -> None:
        """What is kept though nothing refers to it is condemned by the next run, and goes in its time."""
        blob_id = self.attached()
        with self.not_noting():
            self.delete()
        self.pass_days(ENOUGH)
        self.assertEqual(self.status(blob_id), None)

    @contextmanager
    def not_noting(self) -> Iterator[None]:
        """Let the disk be full when the blobs are told of references."""
        kind = type(self.store._local.blobs)
        refer = kind.refer
        kind.refer = lambda *args: fail(StorageFull("here"))  # type: ignore[method-assign]
        try:
            yield
        finally:
            kind.refer = refer  # type: ignore[method-assign]
        self.assertEqual(len(self.flushLoggedErrors(StorageFull)), 1)

    def test_without_a_server(self) -> None:
        """A store without a server collects, and leaves nothing."""
        store = make_store(self, clock=self.clock)
        doc = self.now(store.create_doc({}))
        self.now(doc.put_attachment(b"data"))
        self.now(store.put_doc(doc))
        self.now(store.delete_doc(doc))
        del doc
        for _ in range(ENOUGH):
            self.clock.rightNow += LONGEST
            self.now(Deferred.fromCoroutine(store._collector.run()))
        self.assertEqual(store._local.blobs.database.read_now(count_blobs), 0)

    def test_many(self) -> None:
        """However many there are, each is looked at."""
        self.patch(collect, "SLICE", 2)
        kept = [self.attached(doc_id=f"kept-{number}", upload=False) for number in range(3)]
        gone = [self.attached(doc_id=f"gone-{number}", upload=False) for number in range(5)]
        for number in range(5):
            self.delete(f"gone-{number}")
        self.pass_days(ENOUGH)
        self.assertEqual([self.status(blob_id) for blob_id in gone], [None] * 5)
        self.assertEqual([self.status(blob_id) for blob_id in kept], [S.PENDING_UPLOAD] * 3)
        self.assertEqual(self.dropped(), [])


class WhoseTests(HomesTestCase):
    """Which device deletes on the server."""

    def queued(self, name: str) -> list[SyncStatus]:
        """Return what a device has queued."""
        queue = BlobQueue(self.stores[name]._local.blobs)
        return [one.status for one in self.now(queue.due(None, 1e12, 100))]

    def shared(self) -> BlobId:
        """Have a document with an attachment on both devices."""
        blob_id = self.attached()
        self.exchange()
        doc = self.now(self.stores["b"].get_doc("doc"))
        assert doc is not None
        self.now(doc.download_attachment())
        return blob_id

    def test_who_dropped_it(self) -> None:
        """The device that deleted the document does, not the one that heard of it, though that one had put it."""
        blob_id = self.shared()
        self.delete(name="b")
        self.exchange()
        self.pass_days(ENOUGH, "a")
        self.assertEqual((self.status(blob_id, "a"), self.on_server()), (None, {blob_id}))
        self.pass_days(ENOUGH, "b")
        self.assertEqual((self.status(blob_id, "b"), self.on_server()), (None, set()))

    def test_both_dropped_one_reference(self) -> None:
        """When each drops a reference that the other had left, each answers for the blob: it does not stay."""
        blob_id = self.linked()
        self.exchange()
        self.delete("doc", "a")
        self.delete("other", "b")
        self.exchange()
        self.pass_days(ENOUGH)
        self.assertEqual(self.on_server(), set())
        self.assertEqual([self.status(blob_id, name) for name in "ab"], [None, None])

    def test_dropped_by_a_kill(self) -> None:
        """That a reference was dropped here is known after a kill between the documents' commit and the blobs'."""
        blob_id = self.shared()
        self.stores["b"]._local.documents.database.write_now(delete_row)
        self.now(self.stores["b"].close())
        self.stores["b"] = self.opened("b")
        self.exchange()
        self.pass_days(ENOUGH)
        self.assertEqual((self.status(blob_id, "b"), self.on_server()), (None, set()))

    def test_ended_before_it_was_forgotten(self) -> None:
        """What an end in the middle left noted of a blob that is gone is forgotten by the next run."""
        blob_id = self.shared()
        self.delete()
        forget = LocalDocuments.forget_dropped
        self.patch(LocalDocuments, "forget_dropped", lambda *args: succeed(None))
        self.pass_days(ENOUGH, "a")
        self.assertEqual((self.status(blob_id), self.dropped()), (None, [blob_id]))
        self.patch(LocalDocuments, "forget_dropped", forget)
        self.collect()
        self.assertEqual(self.dropped(), [])

    def test_out_of_reach(self) -> None:
        """Without the server the bytes go here; the deletion waits, over closing too."""
        blob_id = self.shared()
        self.delete()
        for _ in range(ENOUGH):
            self.clock.rightNow += LONGEST
            self.now(Deferred.fromCoroutine(self.store._collector.run()))
        self.assertEqual((self.status(blob_id), self.on_server()), (S.PENDING_DELETE, {blob_id}))
        self.now(self.store.close())
        self.stores["a"] = self.opened("a")
        self.assertEqual(self.queued("a"), [S.PENDING_DELETE])
        self.collect()
        self.assertEqual((self.status(blob_id), self.on_server()), (None, set()))


class ClockTests(HomesTestCase):
    """Clocks that jump."""

    def test_jumps(self) -> None:
        """A clock that jumps ahead by years, and back, deletes nothing."""
        blob_id = self.attached()
        self.delete()
        for jump in (1e9, -1e9, 1e12, 0.0, 5e9):
            self.clock.rightNow = jump
            self.collect()
        self.assertEqual(self.status(blob_id), S.SYNCED)

    def test_closed(self) -> None:
        """The time in which the store is closed counts, for a day at most."""
        blob_id = self.attached()
        self.delete()
        for _ in range(ENOUGH):
            self.now(self.store.close())
            self.clock.rightNow += 10 * LONGEST
            self.stores["a"] = self.opened("a")
            self.collect()
        self.assertEqual(self.status(blob_id), None)


class RoundsTests(HomesTestCase):
    """When the collector runs."""

    def count_runs(self) -> list[float]:
        """Note when it runs, from now on."""
        runs: list[float] = []
        run = collect.Collector.run

        async def counted(collector: collect.Collector) -> int:
            runs.append(self.clock.seconds())
            return await run(collector)

        self.patch(collect.Collector, "run", counted)
        return runs

    def test_by_the_clock(self) -> None:
        """It runs soon after opening, without being waited for, then each hour, and no more once it is closed."""
        self.now(self.stores.pop("b").close())
        runs = self.count_runs()
        self.now(self.store.close())
        self.stores["a"] = self.opened("a")
        self.assertEqual(runs, [])
        self.clock.advance(0)
        self.assertEqual(len(runs), 1)
        self.clock.pump([INTERVAL / 2] * 6)
        self.assertEqual(len(runs), 4)
        self.now(self.store.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_collects(self) -> None:
        """What is due goes without anybody asking for it, from the server too."""
        blob_id = self.attached()
        self.delete()
        for _ in range(ENOUGH):
            self.clock.advance(LONGEST)
        self.assertEqual((self.status(blob_id), self.on_server()), (S.PENDING_DELETE, {blob_id}))
        self.clock.advance(60)
        self.assertEqual((self.status(blob_id), self.on_server()), (None, set()))

    def test_failure(self) -> None:
        """A round that fails is logged, and the next one tries again."""
        runs: list[None] = []

        async def failing(collector: collect.Collector) -> None:
            runs.append(None)
            raise ValueError("no")

        self.patch(collect.Collector, "run", failing)
        self.clock.advance(0)
        self.clock.advance(INTERVAL)
        self.assertEqual(len(runs), 4)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 4)

    def test_closed_before(self) -> None:
        """A store that is closed at once leaves nothing scheduled."""
        for store in self.stores.values():
            self.now(store.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])


def delete_row(cursor: Cursor) -> None:
    """Delete the document, as far as the documents' database is concerned."""
    rev = documents.get_rev(cursor, DocId("doc"))
    documents.delete(cursor, documents.replica(cursor), DocId("doc"), str(rev))
