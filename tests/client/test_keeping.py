"""Tests of what stays on this device: pins, evictions, the budget; in place, with a server in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from soledad import AttachmentStates, Document
from soledad.client.interfaces import IRemoteBlobs
from soledad.client.keeping import PAUSE
from soledad.client.local import blobs, retention
from soledad.client.remote.blobs import RemoteBlobs
from soledad.errors import (
    AttachmentNotAvailable,
    BlobNotFound,
    ConnectionFailed,
    InvalidLimit,
    NoAttachment,
    NoServer,
    NotEvictable,
    RetriableTransferError,
    StorageFull,
)
from soledad.model.blob import BlobKey, SyncStatus
from soledad.model.ids import ATTACHMENTS, BlobId
from soledad.streams import BytesProducer, MemoryConsumer
from soledad.testing import make_store
from tests.client.sync.homes import HomesTestCase

S, A = SyncStatus, AttachmentStates
DATA = bytes(range(256)) * 200
#: Bytes that a container of `DATA` has.
SIZE = 53400


class KeepingTestCase(HomesTestCase):
    """A device with attachments, and a server."""

    def doc(self, number: int = 0, upload: bool = True) -> Document:
        """Return a document with a large attachment, on the server too."""
        self.attached(DATA + bytes([number]), f"doc-{number}", upload)
        (doc,) = self.now(self.store.get_docs([f"doc-{number}"]))
        return doc

    def state(self, doc: Document) -> AttachmentStates:
        """Return where the bytes are."""
        return self.now(doc.get_attachment_state())

    def local(self, *docs: Document) -> list[bool]:
        """Tell which attachments are here."""
        return [bool(self.state(doc) & A.LOCAL) for doc in docs]

    def reasons(self, work: Deferred[Any]) -> str:
        """Return why something was not evicted."""
        error: NotEvictable = self.failureResultOf(work, NotEvictable).value
        return error.reason


class EvictTests(KeepingTestCase):
    """Dropping bytes that the server has."""

    def test_evict(self) -> None:
        """The bytes go here, and are fetched when they are read: ranges as ranges, and the whole when it is opened."""
        doc = self.doc()
        self.assertEqual(len(self.files()), 1)
        self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)
        self.assertEqual((self.state(doc), self.files()), (A.REMOTE, set()))
        asked: list[Any] = []
        read_blob = RemoteBlobs.read_blob

        def watched(remote: RemoteBlobs, *args: Any, **options: Any) -> Deferred[None]:
            asked.append(args[-1])
            return read_blob(remote, *args, **options)

        self.patch(RemoteBlobs, "read_blob", watched)
        self.assertEqual(self.now(doc.read_attachment(start=300, length=5)), DATA[300:305])
        self.assertTrue(all(place.length is not None for place in asked), asked)
        consumer = MemoryConsumer()
        self.now(doc.write_attachment_to(consumer, start=100))
        self.assertEqual(consumer.value(), DATA[100:] + b"\0")
        self.assertEqual(self.state(doc), A.REMOTE)
        file = self.now(doc.get_attachment())
        assert file is not None
        with file:
            self.assertEqual(file.read(), DATA + b"\0")
        self.assertEqual(self.state(doc), A.SYNCED)

    def test_small(self) -> None:
        """What is kept in the database goes, too."""
        self.attached(b"small")
        (doc,) = self.now(self.store.get_docs(["doc"]))
        self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)
        self.assertEqual(self.now(doc.read_attachment()), b"small")

    def test_again(self) -> None:
        """What is not here is no error, and nobody is asked."""
        doc = self.doc()
        self.now(doc.evict_attachment())
        self.server.disconnect()
        self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)

    def test_only_here(self) -> None:
        """What was not sent stays: saved or not."""
        doc = self.doc(upload=False)
        self.assertEqual(self.reasons(doc.evict_attachment()), "it is on this device only")
        self.now(doc.put_attachment(b"unsaved"))
        self.assertEqual(self.reasons(doc.evict_attachment()), "it is on this device only")
        self.assertEqual(self.local(doc), [True])

    def test_lost_by_the_server(self) -> None:
        """What the server does not have any more stays, and is to be sent again."""
        doc = self.doc()
        assert self.store._server is not None
        self.now(self.store._server.blobs.delete_blob(doc.attachments["default"].blob_id, ATTACHMENTS))
        self.assertEqual(self.reasons(doc.evict_attachment()), "the server does not have it")
        self.assertEqual(self.status(doc.attachments["default"].blob_id), S.PENDING_UPLOAD)
        self.assertEqual(self.now(doc.upload_attachment()), A.SYNCED)
        self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)

    def test_other_bytes(self) -> None:
        """What differs from what the server has stays: the tag tells."""
        doc = self.doc()
        (name,) = self.files()
        path = self.store._local.blobs.files.folder / name
        altered = bytearray(path.read_bytes())
        altered[-1] ^= 1
        path.write_bytes(bytes(altered))
        self.assertEqual(self.reasons(doc.evict_attachment()), "the server has something else")
        self.assertEqual(self.files(), {name})

    def test_offline(self) -> None:
        """Without the server nothing goes: the exchange's error is raised."""
        doc = self.doc()
        self.server.disconnect()
        self.failureResultOf(doc.evict_attachment(), ConnectionFailed, RetriableTransferError)
        self.assertEqual(self.local(doc), [True])

    def test_no_server(self) -> None:
        """A store without a server evicts nothing."""
        doc = self.doc()
        self.now(self.store.close())
        self.stores["a"] = make_store(self, data_dir=self.folders["a"], clock=self.clock)
        (doc,) = self.now(self.store.get_docs(["doc-0"]))
        self.failureResultOf(doc.evict_attachment(), NoServer)
        self.assertEqual(self.local(doc), [True])

    def test_in_use(self) -> None:
        """What is being written to somebody stays until that is done."""
        doc = self.doc()
        consumer = PausedConsumer()
        writing = doc.write_attachment_to(consumer)
        self.assertNoResult(writing)
        self.assertEqual(self.reasons(doc.evict_attachment()), "it is in use")
        consumer.go_on()
        self.now(writing)
        self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)

    def test_open_file(self) -> None:
        """A file that is open stays readable."""
        doc = self.doc()
        file = self.now(doc.get_attachment())
        assert file is not None
        with file:
            self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)
            self.server.disconnect()
            self.assertEqual(file.read(), DATA + b"\0")

    def test_full(self) -> None:
        """That a full disk does not let it remember what was read is no failure, for those who close the store."""
        doc = self.doc()
        self.now(doc.read_attachment())
        refused: list[Any] = []

        def refuse(cursor: Any, keys: Any) -> None:
            refused.extend(keys)
            raise StorageFull("blobs")

        self.patch(retention, "note_uses", refuse)
        self.now(self.store.close())
        self.assertEqual(len(refused), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_nothing_attached(self) -> None:
        """Nothing can be pinned or evicted where nothing is attached."""
        doc = self.now(self.store.create_doc({}))
        for method in (doc.pin_attachment, doc.unpin_attachment, doc.evict_attachment):
            self.failureResultOf(method(), NoAttachment)

    def test_unknown(self) -> None:
        """An old document may point at what is not known here any more."""
        doc = self.doc()
        key = BlobKey(ATTACHMENTS, doc.attachments["default"].blob_id)
        database = self.store._local.blobs.database
        database.write_now(lambda cursor: cursor.execute("DELETE FROM blob") and None)
        self.assertIsNone(database.read_now(blobs.get, key))
        for method in (doc.pin_attachment, doc.unpin_attachment, doc.evict_attachment):
            self.failureResultOf(method(), AttachmentNotAvailable)


class PinTests(KeepingTestCase):
    """Bytes that are to stay."""

    def test_pinned(self) -> None:
        """What is pinned is not evicted, in later sessions neither, until it is unpinned."""
        doc = self.doc()
        self.assertEqual(self.now(doc.pin_attachment()), A.SYNCED)
        self.assertEqual(self.reasons(doc.evict_attachment()), "it is pinned")
        self.now(self.store.close())
        self.stores["a"] = self.opened("a")
        (doc,) = self.now(self.store.get_docs(["doc-0"]))
        self.assertEqual(self.reasons(doc.evict_attachment()), "it is pinned")
        self.assertEqual(self.now(doc.unpin_attachment()), A.SYNCED)
        self.assertEqual(self.now(doc.evict_attachment()), A.REMOTE)

    def test_wanted(self) -> None:
        """What is pinned and not here is to come; downloading it works, and it stays then."""
        doc = self.doc()
        self.now(doc.evict_attachment())
        self.assertEqual(self.now(doc.pin_attachment()), A.REMOTE)
        self.assertEqual(self.status(doc.attachments["default"].blob_id), S.PENDING_DOWNLOAD)
        self.assertEqual(self.now(doc.download_attachment()), A.SYNCED)
        self.assertEqual(self.reasons(doc.evict_attachment()), "it is pinned")

    def test_wanted_comes(self) -> None:
        """What is pinned and not here comes by itself, an attachment as any blob."""
        doc = self.doc()
        self.now(doc.evict_attachment())
        self.now(doc.pin_attachment())
        self.stores["a"]._reactor.advance(2)
        self.server.flush()
        self.assertEqual(self.now(doc.get_attachment_state()), A.SYNCED)

    def test_not_kept_for_ever(self) -> None:
        """A pin keeps nothing that no document points at."""
        doc = self.doc()
        blob_id = doc.attachments["default"].blob_id
        self.now(doc.pin_attachment())
        self.now(self.store.delete_doc(doc))
        del doc
        self.pass_days(31)
        self.assertEqual((self.status(blob_id), self.on_server()), (None, set()))


class BudgetTests(KeepingTestCase):
    """Room that is to be kept."""

    def set_budget(self, containers: float | None) -> None:
        """Let there be room for so many containers, and time for that."""
        limit = None if containers is None else int(containers * SIZE)
        self.now(self.store.set_storage_budget(limit))
        self.pause()

    def pause(self) -> None:
        """Let what happens in the background happen."""
        self.clock.advance(PAUSE)

    def test_size(self) -> None:
        """What the tests reckon with is so."""
        doc = self.doc()
        row = self.store._local.blobs.database.read_now(
            blobs.must_get, BlobKey(ATTACHMENTS, doc.attachments["default"].blob_id)
        )
        self.assertLessEqual(row.known.sealed.size, SIZE)
        self.assertGreater(row.known.sealed.size, 0.9 * SIZE)

    def test_least_recently_read(self) -> None:
        """When it is lowered, what was read least recently goes, and no more than has to."""
        docs = [self.doc(number) for number in range(4)]
        for number in (2, 0, 3, 1):
            self.now(docs[number].read_attachment(length=1))
        self.set_budget(2)
        self.assertEqual(self.local(*docs), [False, True, False, True])
        self.assertEqual(len(self.files()), 2)

    def test_every_reading_counts(self) -> None:
        """Each way of reading is one; what is only looked at is not."""
        docs = [self.doc(number) for number in range(4)]
        self.now(docs[0].write_attachment_to(MemoryConsumer()))
        self.now(docs[1].read_attachment())
        file = self.now(docs[2].get_attachment())
        assert file is not None
        file.close()
        self.state(docs[3])
        self.set_budget(3)
        self.assertEqual(self.local(*docs), [True, True, True, False])

    def test_over_sessions(self) -> None:
        """What was read last is known in later sessions."""
        for number in range(3):
            self.doc(number)
        docs = self.now(self.store.get_docs(["doc-0", "doc-1", "doc-2"]))
        self.now(docs[0].read_attachment())
        self.now(self.store.close())
        self.stores["a"] = self.opened("a")
        docs = self.now(self.store.get_docs(["doc-0", "doc-1", "doc-2"]))
        self.now(docs[1].read_attachment())
        self.set_budget(2)
        self.assertEqual(self.local(*docs), [True, True, False])

    def test_puts(self) -> None:
        """What is put makes others go once it has been sent; while it waits, it stays, and so do the others then."""
        self.set_budget(1)
        first = self.doc(0)
        self.pause()
        self.assertEqual(self.local(first), [True])
        second = self.doc(1, upload=False)
        self.pause()
        self.assertEqual(self.local(first, second), [False, True])
        third = self.doc(2, upload=False)
        self.pause()
        self.assertEqual(self.local(second, third), [True, True])

    def test_arrivals(self) -> None:
        """What is fetched makes others go, after it was opened."""
        docs = [self.doc(number) for number in range(2)]
        self.set_budget(1)
        self.assertEqual(self.local(*docs), [False, True])
        file = self.now(docs[0].get_attachment())
        assert file is not None
        self.pause()
        self.assertEqual(self.local(*docs), [True, False])
        with file:
            self.assertEqual(file.read(), DATA + b"\0")

    def test_nothing_fits(self) -> None:
        """With no room at all everything that may go goes, and can be read."""
        docs = [self.doc(number) for number in range(2)]
        self.set_budget(0)
        self.assertEqual(self.local(*docs), [False, False])
        file = self.now(docs[0].get_attachment())
        assert file is not None
        file.close()
        self.pause()
        self.assertEqual(self.local(*docs), [False, False])

    def test_pinned(self) -> None:
        """What is pinned never goes; when it is unpinned, it does."""
        docs = [self.doc(number) for number in range(2)]
        self.now(docs[0].pin_attachment())
        self.set_budget(0)
        self.assertEqual(self.local(*docs), [True, False])
        self.now(docs[0].unpin_attachment())
        self.pause()
        self.assertEqual(self.local(*docs), [False, False])

    def test_refused_is_passed_over(self) -> None:
        """What the server has lost stays, and the next one goes in its place."""
        docs = [self.doc(number) for number in range(2)]
        assert self.store._server is not None
        self.now(self.store._server.blobs.delete_blob(docs[0].attachments["default"].blob_id, ATTACHMENTS))
        self.set_budget(1)
        self.assertEqual(self.local(*docs), [True, False])

    def test_unreadable(self) -> None:
        """One that the disk does not give back is passed over."""
        docs = [self.doc(number) for number in range(2)]
        (file,) = {self.store._local.blobs.files.folder / name for name in self.files()} - self.known_files(docs[1])
        file.unlink()
        file.symlink_to(file.name)
        self.set_budget(1)
        self.assertEqual(self.local(*docs), [True, False])

    def known_files(self, doc: Document) -> set[Path]:
        """Return the file of a document's attachment."""
        key = BlobKey(ATTACHMENTS, doc.attachments["default"].blob_id)
        row = self.store._local.blobs.database.read_now(blobs.get, key)
        assert row is not None
        return {self.store._local.blobs.files.folder / str(row.file)}

    def test_offline(self) -> None:
        """Without the server nothing goes, and nothing is logged; an hour later there is another try."""
        doc = self.doc()
        self.server.disconnect()
        self.set_budget(0)
        self.assertEqual(self.local(doc), [True])
        self.server.heal()
        self.clock.advance(3600)
        self.pause()
        self.assertEqual(self.local(doc), [False])

    def test_kept(self) -> None:
        """The budget is known when the store is opened again; none is none."""
        self.assertIsNone(self.store.storage_budget)
        for limit in (12345, None):
            self.now(self.store.set_storage_budget(limit))
            self.assertEqual(self.store.storage_budget, limit)
            self.now(self.store.close())
            self.stores["a"] = self.opened("a")
            self.assertEqual(self.store.storage_budget, limit)

    def test_invalid(self) -> None:
        """Anything but a whole number from 0 on is refused."""
        wrong: list[Any] = [-1, 1.5, True, "1"]
        for limit in wrong:
            self.failureResultOf(self.store.set_storage_budget(limit), InvalidLimit)
        self.assertIsNone(self.store.storage_budget)

    def test_closed(self) -> None:
        """A store that is closed leaves nothing scheduled."""
        self.set_budget(1)
        self.doc()
        for store in self.stores.values():
            self.now(store.close())
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])


class BlobStoreTests(KeepingTestCase):
    """Blobs without a document."""

    def test_pinned_comes(self) -> None:
        """What is pinned and not here comes by itself, though it was evicted."""
        store = self.store.blobs
        self.now(store.put("id", DATA))
        self.now(store.send_missing())
        self.now(store.evict("id"))
        self.assertEqual(self.now(store.pin("id")), S.PENDING_DOWNLOAD)
        self.store._reactor.advance(2)
        self.server.flush()
        self.assertEqual(self.now(store.list(status=S.SYNCED))[0].blob_id, "id")

    def test_any_namespace(self) -> None:
        """They are pinned, unpinned and evicted by id and namespace, and come back when they are asked for."""
        store = self.store.blobs
        self.now(store.put("id", DATA, "films"))
        self.failureResultOf(store.evict("id", "films"), NotEvictable)
        self.now(store.send_missing("films"))
        self.assertEqual(self.now(store.pin("id", "films")), S.SYNCED)
        self.assertEqual(self.reasons(store.evict("id", "films")), "it is pinned")
        self.assertEqual(self.now(store.unpin("id", "films")), S.SYNCED)
        self.assertEqual(self.now(store.evict("id", "films")), S.REMOTE)
        self.now(store.fetch_missing("films"))
        (known,) = self.now(store.list("films"))
        self.assertEqual(known.status, S.REMOTE)
        with self.now(store.get("id", "films")) as file:
            self.assertEqual(file.read(), DATA)

    def test_pinned_comes_back(self) -> None:
        """What is pinned after it was evicted comes with the next fetching."""
        store = self.store.blobs
        self.now(store.put("id", DATA))
        self.now(store.send_missing())
        self.now(store.evict("id"))
        self.assertEqual(self.now(store.pin("id")), S.PENDING_DOWNLOAD)
        self.now(store.fetch_missing())
        (known,) = self.now(store.list())
        self.assertEqual(known.status, S.SYNCED)

    def evicted_and_lost(self) -> bytes:
        """Evict a blob that the server loses then, which is noted; return what the server had."""
        container = MemoryConsumer()
        self.now(self.store.blobs.put("id", DATA))
        self.now(self.store.blobs.send_missing())
        self.now(self.store.blobs.evict("id"))
        self.now(self.remote.read_blob(BlobId("id"), container))
        self.now(self.remote.delete_blob(BlobId("id")))
        self.now(self.store.blobs.sync())
        self.assertEqual(self.now(self.store.blobs.list())[0].status, S.AWAITED)
        return container.value()

    @property
    def remote(self) -> IRemoteBlobs:
        """What the server has."""
        assert self.store._server is not None
        return self.store._server.blobs

    def test_evicted_and_lost(self) -> None:
        """What was evicted, and lost by the server then, is not asked for, even when the server has it again."""
        container = self.evicted_and_lost()
        asked: list[Any] = []
        read_blob = RemoteBlobs.read_blob

        def watched(remote: RemoteBlobs, *args: Any, **options: Any) -> Deferred[None]:
            asked.append(args)
            return read_blob(remote, *args, **options)

        self.patch(RemoteBlobs, "read_blob", watched)
        self.now(self.store.blobs.sync())
        self.assertFalse(self.now(self.store.blobs._queue.is_waiting()))
        self.assertEqual(asked, [])
        self.now(self.remote.write_blob(BlobId("id"), BytesProducer(container)))
        for _ in range(2):
            self.now(self.store.blobs.sync())
        self.assertEqual(self.now(self.store.blobs.list())[0].status, S.REMOTE)
        with self.now(self.store.blobs.get("id")) as file:
            self.assertEqual(file.read(), DATA)

    def test_evicted_and_lost_but_wanted(self) -> None:
        """It comes with a sync if it was pinned meanwhile."""
        container = self.evicted_and_lost()
        self.assertEqual(self.now(self.store.blobs.pin("id")), S.AWAITED)
        self.now(self.remote.write_blob(BlobId("id"), BytesProducer(container)))
        self.now(self.store.blobs.sync())
        self.assertEqual(self.now(self.store.blobs.list())[0].status, S.SYNCED)

    def test_unknown(self) -> None:
        """What this device does not know is said so."""
        for method in (self.store.blobs.pin, self.store.blobs.unpin, self.store.blobs.evict):
            self.failureResultOf(method("id"), BlobNotFound)

    def test_budget(self) -> None:
        """The budget is for attachments only; what is fetched by itself counts."""
        self.now(self.store.blobs.put("id", DATA))
        self.now(self.store.blobs.send_missing())
        blob_id = self.attached(DATA)
        self.exchange()
        other = self.stores["b"]
        self.now(other.set_storage_budget(0))
        self.clock.advance(PAUSE)
        self.now(other.blobs.sync())
        self.assertEqual(self.status(blob_id, "b"), S.SYNCED)
        self.clock.advance(PAUSE)
        self.assertEqual(self.status(blob_id, "b"), S.REMOTE)
        self.assertTrue(all(one.is_local for one in self.now(other.blobs.list())))


class PausedConsumer(MemoryConsumer):
    """Takes nothing more after the first piece, until it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._producer: Any = None
        self._pauses = True

    def write(self, data: bytes) -> None:
        """Take it, and no more."""
        super().write(data)
        if self._pauses:
            self._producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Keep what writes."""
        self._producer = producer

    def go_on(self) -> None:
        """Take all that comes."""
        self._pauses = False
        self._producer.resumeProducing()
