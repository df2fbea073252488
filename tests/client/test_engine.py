"""The engine of transfers over a server in memory: faults, retries in the time of a `Clock`, and going on."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed

from soledad import Soledad
from soledad.client.interfaces import IBlobQueue, Scope
from soledad.client.local import queue, retention
from soledad.client.remote.blobs import RemoteBlobs
from soledad.client.remote.uploads import RemoteUploads
from soledad.client.sync.blobs import FETCHING
from soledad.client.sync.carrying import Carrying
from soledad.client.sync.engine import TRANSFERS, Engine, Run
from soledad.client.transfers import Transfer, TransferState
from soledad.crypto.container import Context, KeyMaterial, seal
from soledad.deferreds import outlasting
from soledad.errors import (
    AuthenticationFailed,
    BlobExists,
    BlobNotFound,
    ConnectionFailed,
    InvalidLimit,
    MalformedKeyring,
    RetriableTransferError,
    ServerFailed,
    StorageFailed,
    StoreClosed,
    TransferError,
    Unauthorized,
)
from soledad.model.attachment import Pointer
from soledad.model.blob import BlobKey, Priority, SyncStatus
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId, UserId
from soledad.model.transfer import Direction, Queued
from soledad.server.keyrings import Keyrings
from soledad.streams import BytesProducer
from soledad.wire.container import Purpose
from tests.client.test_blob_store import ALICE, INLINE, TwoDevices, noise
from tests.client.test_blobs import bytes_carried, steps
from tests.workers import HeldWorker

S = SyncStatus
#: Sent and fetched by itself, and so that the rest can follow.
MEDIUM, LARGE = INLINE * 2, 6 * 1024 * 1024
#: A chunk is little of it.
HUGE = 12 * 1024 * 1024


class EngineCase(TwoDevices):
    """Two devices, and their clocks."""

    def advance(self, seconds: float, device: Soledad | None = None) -> None:
        """Let time pass on a device."""
        (device or self.here)._reactor.advance(seconds)
        self.server.flush()

    def seconds(self, work: Any, device: Soledad, most: float = 60) -> float:
        """Let time pass, here and on the server, until something has ended; return how long it took."""
        taken = 0.0
        while not work.called and taken < most:
            self.advance(0.25, device)
            self.server.clock.advance(0.25)
            taken += 0.25
        return taken

    def row(self, blob_id: str = "a", device: Soledad | None = None) -> Queued:
        """Return what the queue has of a blob."""
        key = BlobKey(DEFAULT, BlobId(blob_id))
        row = self.now((device or self.here).blobs._queue.look_up(key))
        assert row is not None
        return row

    def reason(self, blob_id: str = "a", device: Soledad | None = None) -> str | None:
        """Return why a transfer failed."""
        database = (device or self.here)._local.blobs.database
        query = "SELECT reason FROM blob WHERE blob_id = ?"
        reason: str | None = database.read_now(lambda cursor: cursor.execute(query, (blob_id,)).fetchone())[0]
        return reason

    def on_server(self, data: bytes, blob_id: str) -> None:
        """Let the server have something that nobody sealed."""
        self.now(self.server.connect("alice").blobs.write_blob(BlobId(blob_id), BytesProducer(data), DEFAULT))


class ThreadTests(EngineCase):
    """Where the work is done."""

    def test_large_ones(self) -> None:
        """A large blob is verified where streams are: who waits for a file does not wait for it."""
        self.put(noise(MEDIUM))
        self.now(self.here.blobs.send_missing())
        engine = self.there.blobs._blobs._engine
        assert engine is not None
        streams = engine.carrying.fetching._mover = HeldWorker()
        fetching = self.there.blobs.fetch_missing()
        self.server.flush()
        self.assertNoResult(fetching)
        while streams.waiting:
            streams.step()
            self.server.flush()
        self.now(fetching)
        self.assertIs(self.status(device=self.there), S.SYNCED)


class RetryTests(EngineCase):
    """What fails for now is tried again by itself, once it was asked for."""

    def test_again(self) -> None:
        """After a failure of the server, all goes when it works again: by itself, when time has passed."""
        for number in range(5):
            self.put(noise(1000 + number * MEDIUM // 4), str(number))
        self.server.refuse(ServerFailed(503))
        self.fails(self.here.blobs.send_missing(), ServerFailed)
        self.server.heal()
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.PENDING_UPLOAD: 5})
        self.advance(10)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 5})

    def test_went_before(self) -> None:
        """What an attempt that failed has left on the server is found there, and not sent again."""
        self.put(noise(1000))
        self.server.refuse(ServerFailed(503))
        self.fails(self.here.blobs.send_missing(), ServerFailed)
        self.server.heal()
        (sealed,) = self.now(self.here.blobs._queue.contents([BlobKey(DEFAULT, BlobId("a"))]))
        assert sealed is not None
        self.on_server(sealed, "a")
        requests = self.watch_requests()
        self.advance(10)
        self.assertIs(self.status(), S.SYNCED)
        self.assertEqual([request.split()[0] for request in requests], ["GET"])

    def test_all_wait(self) -> None:
        """A server that fails is not asked for each of many blobs, neither at once nor all the time."""
        for number in range(40):
            self.put(noise(MEDIUM), str(number))
        self.server.refuse(ServerFailed(503))
        requests = self.watch_requests()
        self.fails(self.here.blobs.send_missing(), ServerFailed)
        self.assertLess(len(requests), 20)
        for _ in range(60):
            self.advance(1)
        self.assertLess(len(requests), 100)
        self.server.heal()
        self.advance(300)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 40})

    def test_hours(self) -> None:
        """The pauses get longer, and never too long; after a day out of reach it takes minutes until all is there."""
        self.put(noise(1000))
        self.server.disconnect()
        self.fails(self.here.blobs.send_missing(), ConnectionFailed)
        for _ in range(24 * 12):
            self.advance(300)
        self.assertIs(self.status(), S.PENDING_UPLOAD)
        self.assertGreater(self.row().attempts, 20)
        self.assertLess(self.row().attempts, 24 * 12)
        self.server.heal()
        self.advance(15 * 60)
        self.assertIs(self.status(), S.SYNCED)

    def test_next_opening(self) -> None:
        """What was asked for goes on when the store is opened again."""
        self.put(noise(1000))
        self.server.disconnect()
        self.fails(self.here.blobs.send_missing(), ConnectionFailed)
        self.reopen_here()
        self.server.heal()
        self.advance(10)
        self.assertIs(self.status(), S.SYNCED)

    def test_wrong_clock(self) -> None:
        """After a clock went back by years, what was asked for goes by itself when the store is opened again."""
        self.advance(30 * 365 * 24 * 3600.0)
        self.put(noise(1000))
        self.server.disconnect()
        self.fails(self.here.blobs.send_missing(), ConnectionFailed)
        self.server.heal()
        # Its clock begins at 0.
        self.reopen_here()
        self.advance(60)
        self.assertIs(self.status(), S.SYNCED)

    def test_not_asked_for(self) -> None:
        """Nothing is sent that nobody asked to send."""
        self.put(noise(1000))
        requests = self.watch_requests()
        self.reopen_here()
        self.advance(24 * 3600)
        # The keyring is looked at when a store is opened.
        self.assertEqual(requests, ["GET /keys/alice"])

    def test_unauthorized(self) -> None:
        """With a token that is not good the first answer ends it all, and nothing is tried again by itself."""
        for number in range(30):
            self.put(noise(MEDIUM), str(number))
        self.server.revoke_tokens("alice")
        requests = self.watch_requests()
        self.fails(self.here.blobs.send_missing(), Unauthorized)
        self.assertLessEqual(len(requests), 8)
        self.advance(24 * 3600)
        self.assertLessEqual(len(requests), 8)
        self.here.set_token(self.server.add_token("alice"))
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 30})

    def test_each_its_own(self) -> None:
        """What the server never takes fails for good, with its reason, and holds up no other."""
        for blob_id, size in (("a", 1000), ("b", 1000), ("c", MEDIUM), ("d", MEDIUM)):
            self.put(noise(size), blob_id)
        for blob_id in "ac":
            self.on_server(noise(2000), blob_id)
        self.now(self.here.blobs.send_missing())
        for blob_id, status in zip("abcd", (S.FAILED_UPLOAD, S.SYNCED, S.FAILED_UPLOAD, S.SYNCED), strict=True):
            self.assertIs(self.status(blob_id), status)
        self.assertIn("BlobExists", str(self.reason()))
        self.assertEqual(self.read("c", self.here), noise(MEDIUM))
        self.fails(self.here.blobs.send("c").done, BlobExists)

    def test_one_request(self) -> None:
        """Many small blobs go in one request, and come in one."""
        for number in range(50):
            self.put(noise(1000, number), str(number))
        requests = self.watch_requests()
        self.now(self.here.blobs.send_missing())
        self.assertEqual(requests, ["POST /stream/alice"])
        self.now(self.there.blobs.fetch_missing())
        self.assertEqual([request for request in requests[1:] if "stream" in request], ["POST /stream/alice"])
        self.server.disconnect()
        self.assertEqual(self.read("49"), noise(1000, 49))

    def test_priorities(self) -> None:
        """What is urgent goes first, also if that was said when it had waited for long."""
        for number in range(20):
            self.put(noise(MEDIUM), f"n{number:02}")
        self.put(noise(MEDIUM), "high", priority=Priority.HIGH)
        self.now(self.here.blobs.set_priority("n19", Priority.URGENT))
        self.now(self.here.blobs.set_priority("n00", Priority.LOW))
        requests = self.watch_requests()
        self.now(self.here.blobs.send_missing())
        order = [request.rpartition("/")[2] for request in requests]
        self.assertEqual(order[:2], ["n19", "high"])
        self.assertEqual(order[-1], "n00")


class BatchTests(EngineCase):
    """Many small ones."""

    def test_rows(self) -> None:
        """For each batch about as many rows are read as go with it, besides those of others that are under way."""
        for number in range(150):
            self.put(noise(100_000), str(number))
        read: list[int] = []
        due = Engine._due

        def counted(engine: Engine, run: Run, limit: int) -> Any:
            read.append(limit)
            return due(engine, run, limit)

        self.patch(Engine, "_due", counted)
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 150})
        self.assertLess(max(read), 250)


class PickingTests(EngineCase):
    """What goes next, while other things end."""

    def test_ended_meanwhile(self) -> None:
        """What ends while the queue is read is not sent once more, though it stands there as it was before."""
        for name in "abcdef":
            self.put(noise(MEDIUM), name)
        assert self.here.blobs._remote is not None
        engine = self.here.blobs._remote.engine
        queue: Any = _Late(engine._queue)
        engine._queue = engine.carrying._queue = queue
        requests = self.watch_requests()
        work = self.here.blobs.send_missing()
        queue.finish()
        self.now(work)
        self.assertGreater(queue.late, 2)
        self.assertEqual(len(requests), 6)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 6})

    def test_one_at_a_time(self) -> None:
        """An engine that is told so sends small ones apart, too."""
        assert self.here.blobs._remote is not None
        self.here.blobs._remote.engine.batch = 1
        for name in "abc":
            self.put(noise(100), name)
        requests = self.watch_requests()
        self.now(self.here.blobs.send_missing())
        self.assertEqual(len(requests), 3)


class _Late:
    """A queue in which one transfer ends while what is due is read, each time."""

    def __init__(self, queue: IBlobQueue) -> None:
        self._queue = queue
        self._waiting: list[Deferred[None]] = []
        self.late = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def settle(self, outcomes: Any) -> Deferred[Any]:
        """See `IBlobQueue`."""
        waiting: Deferred[Any] = Deferred()
        self._waiting.append(waiting)
        return waiting.addCallback(lambda _: self._queue.settle(outcomes))

    def due(self, *arguments: Any) -> Deferred[Any]:
        """See `IBlobQueue`."""
        rows = self._queue.due(*arguments)
        if self._waiting:
            self.late += 1
            self._waiting.pop(0).callback(None)
        return rows

    def finish(self) -> None:
        """Let all end that are under way still."""
        while self._waiting:
            self._waiting.pop(0).callback(None)


class FullDiskTests(EngineCase):
    """No room on this device, not even to note that there is none."""

    def write(self, work: Any, *args: Any) -> None:
        """Write into the other device's database."""
        self.now(self.there._local.blobs.database.write(work, *args))

    def test_not_all_the_time(self) -> None:
        """What cannot be kept is fetched once a run, and seldom; when there is room, all comes by itself."""
        for number in range(4):
            self.put(noise(1000, number), str(number))
        self.now(self.here.blobs.sync())
        self.now(Deferred.fromCoroutine(self.there.blobs._server().changes.refresh(None)))
        self.write(queue.ask, Scope(FETCHING), 0.0)
        self.there._local.blobs.database._writer.execute("PRAGMA query_only = 1")
        begun: list[int] = []
        carry_together = Carrying.carry_together

        async def counted(carrying: Carrying, rows: Any, direction: Direction) -> Any:
            begun.append(len(rows))
            if len(begun) > 50:
                # Else a loop without end would be one here, too.
                raise Unauthorized()
            return await carry_together(carrying, rows, direction)

        self.patch(Carrying, "carry_together", counted)
        self.there.blobs.go_on()
        for _ in range(120):
            self.advance(1, self.there)
        self.assertIn(sum(begun), range(4, 20))
        # The collector, which counts how long it waits.
        self.flushLoggedErrors(StorageFailed)
        self.fails(self.there.blobs.set_priority("0", Priority.HIGH), StorageFailed)
        self.there._local.blobs.database._writer.execute("PRAGMA query_only = 0")
        self.advance(2 * 3600, self.there)
        self.assertEqual(self.now(self.there.blobs.sync_progress()), {S.SYNCED: 4})


class QuotaTests(EngineCase):
    """A server with little room."""

    quota = MEDIUM * 3

    def test_later(self) -> None:
        """What has no room waits, and goes when there is some; what has room is not held up."""
        self.put(noise(MEDIUM), "first")
        self.now(self.here.blobs.send_missing())
        self.put(noise(MEDIUM * 2), "big", priority=Priority.HIGH)
        self.put(noise(1000), "small")
        self.now(self.here.blobs.send_missing())
        self.assertIs(self.status("big"), S.PENDING_UPLOAD)
        self.assertIn("QuotaExceeded", str(self.reason("big")))
        self.assertIs(self.status("small"), S.SYNCED)
        self.now(self.here.blobs.delete("first"))
        self.now(self.here.blobs.send_missing())
        self.advance(3600)
        self.assertIs(self.status("big"), S.SYNCED)


class KeyringTests(EngineCase):
    """A server whose keyring is not ours: other devices could not read what is sent."""

    def setUp(self) -> None:
        """Let blobs of all sizes wait to go, and to come, and the server show rubbish."""
        super().setUp()
        for number, size in enumerate((1000, 1000, MEDIUM, LARGE)):
            self.put(noise(size, number), f"theirs-{number}", self.there)
        self.sync(self.there)
        keyrings, user = Keyrings(self.server._accounts.database), UserId(ALICE)
        self.good, etag = self.now(keyrings.read_keyring(user))
        self.now(keyrings.write_keyring(user, b"rubbish", etag))
        self.mend = lambda: self.now(keyrings.write_keyring(user, self.good, sha256(b"rubbish").hexdigest()))
        self.reopen_here()
        # All of these are to go before anything comes.
        for number, size in enumerate((1000, 1000, *[MEDIUM] * 10, LARGE)):
            self.put(noise(size, number), f"ours-{number}", priority=Priority.URGENT)
        self.requests = self.watch_requests()

    def test_told(self) -> None:
        """Nothing is sent, which is told; what is on the server comes all the same."""
        self.fails(self.here.blobs.sync(), MalformedKeyring)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.PENDING_UPLOAD: 13, S.SYNCED: 4})
        self.assertEqual([request for request in self.requests if request.split()[0] in ("PUT", "PATCH")], [])
        self.assertEqual(self.now(self.here.blobs.remote_count()), 4)
        self.assertIn("MalformedKeyring", str(self.reason("ours-0")))
        self.fails(self.here.blobs.send("ours-0").done, MalformedKeyring)

    def test_only_one_way(self) -> None:
        """Who wants to send only, hears it at once; who wants to fetch only, does not hear of it."""
        self.fails(self.here.blobs.send_missing(), MalformedKeyring)
        # One for each of those that went at the same time.
        self.assertLessEqual(len(self.requests), TRANSFERS)
        self.now(self.here.blobs.fetch_missing())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.PENDING_UPLOAD: 13, S.SYNCED: 4})

    def test_later(self) -> None:
        """It is looked at again from time to time, and when all is well, all goes by itself."""
        self.fails(self.here.blobs.sync(), MalformedKeyring)
        del self.requests[:]
        for _ in range(60):
            self.advance(60)
        self.assertTrue(1 < len(self.requests) < 100, len(self.requests))
        self.mend()
        self.advance(3600)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 17})

    def test_deleted(self) -> None:
        """A tombstone is something that is sent, too."""
        self.now(self.here.blobs.fetch_missing())
        # Nothing else is to be sent.
        for number in range(13):
            self.now(self.here.blobs.delete(f"ours-{number}"))
        self.now(self.here.blobs.delete("theirs-0"))
        self.fails(self.here.blobs.sync(), MalformedKeyring)
        self.assertEqual(self.now(self.here.blobs.remote_count()), 4)
        self.assertEqual(self.now(self.here.blobs.sync_progress())[S.PENDING_DELETE], 1)
        self.mend()
        self.now(self.here.blobs.sync())
        self.assertEqual(self.now(self.here.blobs.remote_count()), 3)

    def test_mended(self) -> None:
        """When all is well, the next call sends all."""
        self.fails(self.here.blobs.sync(), MalformedKeyring)
        self.mend()
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 17})


class VerificationTests(EngineCase):
    """What comes is verified, and what fails that too often is given up."""

    def test_three_times(self) -> None:
        """Three failures end it, with the reason; the others arrive."""
        for size in (1000, 100_000, MEDIUM):
            self.put(noise(size), str(size))
        self.sync(self.here)
        self.server.flip(50_000)
        self.now(self.there.blobs.fetch_missing())
        for blob_id in ("100000", str(MEDIUM)):
            self.assertIs(self.status(blob_id, self.there), S.PENDING_DOWNLOAD)
            self.assertEqual(self.row(blob_id, self.there).rejections, 1)
        self.advance(60, self.there)
        self.advance(60, self.there)
        for blob_id in ("100000", str(MEDIUM)):
            self.assertIs(self.status(blob_id, self.there), S.FAILED_DOWNLOAD)
            self.assertIn("AuthenticationFailed", str(self.reason(blob_id, self.there)))
        self.assertIs(self.status("1000", self.there), S.SYNCED)
        self.fails(self.there.blobs.get(str(MEDIUM)), AuthenticationFailed)
        self.server.heal()
        self.assertEqual(self.read(str(MEDIUM)), noise(MEDIUM))

    def test_other_chunks(self) -> None:
        """Containers with chunks of another size are longer than was thought, and arrive all the same."""
        doc = self.now(self.here.create_doc({}))
        for number in range(3):
            blob_id = BlobId(f"chunks{number}")
            context = Context(Purpose.BLOB, ATTACHMENTS, blob_id)
            sealed = seal(self.here._local.current, context, bytes(24), noise(20_000, number), 12)
            self.now(self.server.connect("alice").blobs.write_blob(blob_id, BytesProducer(sealed), ATTACHMENTS))
            doc.attach(str(number), Pointer(blob_id, 20_000, None, sealed[40:72]))
        self.now(self.here.put_doc(doc))
        self.sync(self.here)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 3})
        self.assertEqual(self.now(doc.read_attachment("2")), noise(20_000, 2))

    def test_unknown_key(self) -> None:
        """What is sealed under a key that is not there waits for the key, and never fails."""
        other = KeyMaterial(b"another root".ljust(32), bytes(16))
        for blob_id, size in (("a", 1000), ("b", MEDIUM)):
            sealed = seal(other, Context(Purpose.BLOB, DEFAULT, blob_id), bytes(24), noise(size))
            self.on_server(sealed, blob_id)
        self.sync(self.here)
        for _ in range(5):
            self.advance(3600)
        for blob_id in "ab":
            self.assertIs(self.status(blob_id), S.PENDING_DOWNLOAD)
            self.assertIn("UnknownKey", str(self.reason(blob_id)))
            self.assertEqual(self.row(blob_id).rejections, 0)

    def test_nothing_kept(self) -> None:
        """Of what is not right nothing is kept, not even what was right of it."""
        self.put(noise(MEDIUM))
        self.sync(self.here)
        self.server.flip(MEDIUM - 1000)
        self.fails(self.there.blobs.get("a"), AuthenticationFailed)
        self.assertEqual(list((self.folders[1] / "alice_blobs").iterdir()), [])

    def test_awaited(self) -> None:
        """An attachment that is not there yet is asked for at each sync, and not in between; it never fails."""
        doc = self.now(self.here.create_doc({}))
        self.now(doc.put_attachment(noise(1000)))
        self.now(self.here.put_doc(doc))
        other = self.now(self.there.create_doc({}, doc.doc_id))
        other.attach("default", doc.attachments["default"])
        self.now(self.there.put_doc(other))
        requests = self.watch_requests()
        for _ in range(5):
            self.sync(self.there)
        blob_id = doc.attachments["default"].blob_id
        self.assertIs(self.status(blob_id, self.there, ATTACHMENTS), S.AWAITED)
        asked = len(requests)
        self.advance(24 * 3600, self.there)
        self.assertEqual(len(requests), asked)
        self.sync()
        self.assertIs(self.status(blob_id, self.there, ATTACHMENTS), S.SYNCED)


class ResumeTests(EngineCase):
    """What went, or came, does not do so again."""

    def carried(self, work: Any) -> int:
        """Return how many bytes crossed the wire."""
        return bytes_carried(self.server, work)

    def test_download(self) -> None:
        """A download that broke half-way moves half of its bytes, also after the store was opened again."""
        self.put(noise(HUGE))
        self.sync(self.here)
        for reopened in (False, True):
            device, folder = self.there, self.folders[1]
            self.server.cut_after(HUGE // 2)
            self.fails(device.blobs.get("a"), RetriableTransferError)
            if reopened:
                self.now(device.close())
                self.there = device = self.open(folder)
            moved = self.carried(lambda device=device: self.now(device.blobs.get("a")))
            self.assertLess(moved, HUGE * 0.51)
            self.assertEqual(self.read(), noise(HUGE))
            self.lose()

    def lose(self) -> None:
        """Let the other device be without the blob."""
        self.now(self.there.close())
        for path in (self.folders[1] / "alice_blobs").iterdir():
            path.unlink()
        self.there = self.open(self.folders[1])

    def test_upload(self) -> None:
        """An upload that broke half-way moves half of its bytes, also after the store was opened again."""
        for blob_id, reopened in (("a", False), ("b", True)):
            self.put(noise(LARGE), blob_id)
            self.server.cut_after(LARGE // 2)
            self.fails(self.here.blobs.send_missing(), RetriableTransferError)
            if reopened:
                self.reopen_here()
            moved = self.carried(lambda: self.now(self.here.blobs.send_missing()))
            self.assertLess(moved, LARGE * 0.51)
            self.assertIs(self.status(blob_id), S.SYNCED)
            self.assertEqual(self.read(blob_id), noise(LARGE))

    def test_every_cut(self) -> None:
        """Wherever the connection breaks, trying again ends well, on both sides; nothing is sent or kept twice."""
        for number, size in enumerate((5000, MEDIUM, LARGE)):
            whole = size + 4000
            for cut in steps(whole, whole // 6):
                blob_id = f"{number}-{cut}"
                self.put(noise(size), blob_id)
                self.server.cut_after(cut)
                self.outcome(self.here.blobs.send_missing())
                self.server.heal()
                self.now(self.here.blobs.send_missing())
                self.assertIs(self.status(blob_id), S.SYNCED)
                self.server.cut_after(cut)
                self.outcome(self.there.blobs.get(blob_id))
                self.server.heal()
                self.assertEqual(self.read(blob_id), noise(size))

    def test_damaged_beginning(self) -> None:
        """What lies here of a download, and is damaged, is fetched again from there on."""
        self.put(noise(LARGE))
        self.sync(self.here)
        self.server.cut_after(LARGE // 2)
        self.fails(self.there.blobs.get("a"), RetriableTransferError)
        (partial,) = (self.folders[1] / "alice_blobs").iterdir()
        data = bytearray(partial.read_bytes())
        data[LARGE // 4] ^= 1
        partial.write_bytes(data)
        moved = self.carried(lambda: self.now(self.there.blobs.get("a")))
        self.assertLess(moved, LARGE * 0.77)
        self.assertEqual(self.read(), noise(LARGE))

    def test_expired(self) -> None:
        """An upload that the server does not know any more begins anew."""
        self.put(noise(LARGE))
        self.server.cut_after(LARGE // 2)
        self.fails(self.here.blobs.send_missing(), RetriableTransferError)
        upload = self.row().upload
        assert upload is not None
        self.now(self.server.connect("alice").uploads.abandon(upload))
        self.now(self.here.blobs.send_missing())
        self.assertIs(self.status(), S.SYNCED)
        self.assertEqual(self.read(), noise(LARGE))

    def test_more_than_there_is(self) -> None:
        """Nor is one believed of which the server has more than there is: another one begins."""
        self.put(noise(LARGE))
        self.server.cut_after(LARGE // 2)
        self.fails(self.here.blobs.send_missing(), RetriableTransferError)
        self.patch(RemoteUploads, "offset", lambda uploads, upload: succeed(2 * LARGE))
        self.now(self.here.blobs.send_missing())
        self.assertIs(self.status(), S.SYNCED)
        self.assertEqual(self.read(), noise(LARGE))


class HandleTests(EngineCase):
    """Transfers as an application sees them."""

    def test_done(self) -> None:
        """A handle tells how far it is, and how it ends; afterwards there is none."""
        self.put(noise(MEDIUM))
        transfer = self.here.blobs.send("a")
        self.assertIs(self.now(transfer.done), S.SYNCED)
        self.assertIs(self.now(transfer.done), S.SYNCED)
        done, total = transfer.progress
        self.assertEqual(done, total)
        self.assertGreater(total, MEDIUM)
        self.assertEqual(self.here.blobs.transfers(), [])
        self.assertIs(transfer.state, TransferState.ENDED)
        self.assertEqual((transfer.blob_id, transfer.namespace), ("a", "default"))

    def test_failed(self) -> None:
        """A handle tells why it failed."""
        self.put(noise(MEDIUM))
        self.server.disconnect()
        self.fails(self.here.blobs.send("a").done, ConnectionFailed)

    def held_download(self) -> Transfer:
        """Return a transfer to the other device, which is held."""
        self.put(noise(LARGE))
        self.sync(self.here)
        self.now(Deferred.fromCoroutine(self.there.blobs._server().changes.refresh(DEFAULT)))
        self.server.stall()
        transfer = self.there.blobs.fetch("a")
        transfer.pause()
        self.server.heal()
        return transfer

    def test_unknown(self) -> None:
        """There is none of a blob that this device does not know, or has deleted; nothing is asked for it."""
        self.put(noise(LARGE))
        self.sync(self.here)
        self.now(self.here.blobs.delete("a"))
        requests = self.watch_requests()
        for blob_id in ("a", "nowhere"):
            for start in (self.here.blobs.send, self.here.blobs.fetch):
                transfer = start(blob_id)
                self.fails(transfer.done, BlobNotFound)
                self.assertIs(transfer.state, TransferState.ENDED)
        self.assertEqual(requests, [])
        self.assertEqual(self.here.blobs.transfers(), [])

    def test_gone_meanwhile(self) -> None:
        """One that is held while its blob is deleted elsewhere finds that there is none."""
        transfer = self.held_download()
        self.now(self.here.blobs.delete("a"))
        self.sync()
        self.assertNoResult(done := transfer.done)
        transfer.resume()
        self.fails(done, BlobNotFound)

    def test_paused(self) -> None:
        """A transfer that is paused gives up its connection, waits, and goes on where it was."""
        self.put(noise(LARGE))
        before = self.here._reactor.getDelayedCalls()
        self.server.stall()
        sending = self.here.blobs.send_missing()
        (transfer,) = self.here.blobs.transfers()
        transfer.pause()
        self.assertIs(transfer.state, TransferState.PAUSED)
        self.server.heal()
        self.now(sending)
        self.assertEqual(self.here.blobs.transfers(), [transfer])
        self.assertEqual(self.here._reactor.getDelayedCalls(), before)
        self.advance(3600)
        self.assertIs(self.status(), S.PENDING_UPLOAD)
        self.assertNoResult(done := transfer.done)
        transfer.resume()
        self.assertIs(self.now(done), S.SYNCED)
        self.assertEqual(self.here.blobs.transfers(), [])

    def test_paused_while_others_wait(self) -> None:
        """Who waits for a transfer of somebody else's does not wait for one that is held."""
        self.put(noise(LARGE))
        self.server.stall()
        transfer = self.here.blobs.send("a")
        sending = self.here.blobs.send_missing()
        self.assertNoResult(sending)
        transfer.pause()
        self.server.heal()
        self.now(sending)
        transfer.resume()
        self.assertIs(self.now(transfer.done), S.SYNCED)

    def test_resumed_at_once(self) -> None:
        """What is resumed before its work has ended goes on when it has; who sends everything is not disturbed."""
        for number, begin in enumerate((self.by_handle, self.with_all)):
            self.put(noise(MEDIUM), str(number))
            stuck = self.hold_next_upload()
            transfer, done = begin(str(number))
            for call in (transfer.pause, transfer.resume, transfer.pause, transfer.resume):
                call()
            stuck.errback(CancelledError())
            self.assertIs(self.now(transfer.done), S.SYNCED)
            self.now(done)
            self.assertEqual(self.here.blobs.transfers(), [])

    def by_handle(self, blob_id: str) -> tuple[Transfer, Deferred[Any]]:
        """Begin one transfer; return it, and what ends with it."""
        transfer = self.here.blobs.send(blob_id)
        self.server.flush()
        return transfer, transfer.done

    def with_all(self, blob_id: str) -> tuple[Transfer, Deferred[Any]]:
        """Begin to send everything; return the one transfer, and what ends with everything."""
        sending = self.here.blobs.send_missing()
        self.server.flush()
        (transfer,) = self.here.blobs.transfers()
        return transfer, sending

    def hold_next_upload(self) -> Deferred[None]:
        """Let the next upload end only with what this returns, even if it is cancelled."""
        stuck: Deferred[None] = Deferred()
        write_blob, begun = RemoteBlobs.write_blob, []

        def held(blobs: RemoteBlobs, *args: Any, **options: Any) -> Deferred[None]:
            begun.append(args)
            return outlasting(stuck, lambda: None) if len(begun) == 1 else write_blob(blobs, *args, **options)

        self.patch(RemoteBlobs, "write_blob", held)
        return stuck

    def test_paused_and_asked_for(self) -> None:
        """Whoever asks for the blob itself does not wait either, and ends what was held."""
        transfer = self.held_download()
        self.assertEqual(self.read(), noise(LARGE))
        self.fails(transfer.done, CancelledError)
        self.assertEqual(self.there.blobs.transfers(), [])

    def test_paused_download(self) -> None:
        """What came before a pause is not fetched again."""
        self.put(noise(LARGE))
        self.sync(self.here)
        self.now(Deferred.fromCoroutine(self.there.blobs._server().changes.refresh(DEFAULT)))
        self.server.clock.callLater(0, lambda: None)
        transfer = self.there.blobs.fetch("a", progress=lambda done, total: transfers[0].pause() if done else None)
        transfers = [transfer]
        self.server.flush()
        transfer.resume()
        self.assertIs(self.now(transfer.done), S.SYNCED)

    def test_cancelled(self) -> None:
        """A cancelled upload leaves the blob where it is; it is not tried again before it is asked for."""
        self.put(noise(LARGE))
        self.server.stall()
        sending = self.here.blobs.send_missing()
        (transfer,) = self.here.blobs.transfers()
        done = transfer.done
        transfer.cancel()
        self.server.heal()
        self.now(sending)
        self.fails(done, CancelledError)
        self.advance(3600)
        self.assertIs(self.status(), S.PENDING_UPLOAD)
        self.now(self.here.blobs.send_missing())
        self.assertIs(self.status(), S.SYNCED)

    def under_way(self) -> int:
        """Return how many uploads the server keeps room for."""
        store: Any = self.server._bytes._bytes
        return len(store._parts)

    def cut_upload(self) -> None:
        """Let an upload break half-way."""
        self.put(noise(LARGE))
        self.server.cut_after(LARGE // 2)
        self.fails(self.here.blobs.send_missing(), RetriableTransferError)
        self.assertEqual(self.under_way(), 1)

    def test_room_of_the_deleted(self) -> None:
        """Of what is deleted, or kept here from now on, nothing takes room on the server that had gone there."""
        for end in (
            lambda: self.here.blobs.delete("a"),
            lambda: self.here.blobs.set_local_only("a", True),
        ):
            self.cut_upload()
            self.now(end())
            self.server.flush()
            self.assertEqual(self.under_way(), 0)
            self.outcome(self.here.blobs.delete("a"))
            self.now(self.here.blobs.send_missing())

    def test_room_of_the_cancelled(self) -> None:
        """So it is with an upload that is cancelled; one that is held, or out of reach, goes on where it was."""
        self.cut_upload()
        self.server.stall()
        sending = self.here.blobs.send_missing()
        (transfer,) = self.here.blobs.transfers()
        transfer.pause()
        self.server.heal()
        self.now(sending)
        self.assertEqual(self.under_way(), 1)
        done = transfer.done
        transfer.cancel()
        self.fails(done, CancelledError)
        self.server.flush()
        self.assertEqual(self.under_way(), 0)
        self.assertIs(self.status(), S.PENDING_UPLOAD)
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.read(), noise(LARGE))

    def test_room_out_of_reach(self) -> None:
        """A server that is out of reach keeps nobody from deleting."""
        self.cut_upload()
        self.server.refuse(ServerFailed(503))
        self.now(self.here.blobs.delete("a"))
        self.server.heal()
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.under_way(), 1)

    def test_cancelled_download(self) -> None:
        """A cancelled download leaves nothing; the blob is known still."""
        self.put(noise(LARGE))
        self.sync(self.here)
        self.server.cut_after(LARGE // 2)
        self.fails(self.there.blobs.get("a"), RetriableTransferError)
        self.now(Deferred.fromCoroutine(self.there.blobs._server().changes.refresh(DEFAULT)))
        self.server.stall()
        transfer = self.there.blobs.fetch("a")
        transfer.pause()
        self.server.heal()
        done = transfer.done
        transfer.cancel()
        self.fails(done, CancelledError)
        self.assertEqual(list((self.folders[1] / "alice_blobs").iterdir()), [])
        self.assertEqual(self.read(), noise(LARGE))

    def test_closed(self) -> None:
        """Closing ends what is under way, at once, and what is held."""
        for blob_id in "ab":
            self.put(noise(LARGE), blob_id)
        self.server.stall()
        sending = self.here.blobs.send_missing()
        first, second = self.here.blobs.transfers()
        held = second.done
        second.pause()
        done = first.done
        self.now(self.here.close())
        self.fails(sending, StoreClosed)
        self.fails(held, StoreClosed)
        self.fails(done, CancelledError)
        self.server.heal()
        self.here = self.open(self.folders[0])
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 2})

    def test_deleted_meanwhile(self) -> None:
        """What is deleted while it is on its way is gone, on both sides."""
        self.put(noise(LARGE))
        self.server.stall()
        sending = self.here.blobs.send_missing()
        deleting = self.here.blobs.delete("a")
        self.server.heal()
        self.now(deleting)
        self.now(sending)
        self.sync(self.here)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {})
        self.assertEqual(self.now(self.here.blobs.remote_count()), 0)

    def test_cancelled_behind_others(self) -> None:
        """What waits for its turn behind others ends at once: cancelled, held, or because its blob is deleted."""
        for number in range(12):
            self.put(noise(MEDIUM, number), str(number))
        self.server.stall()
        sending = self.here.blobs.send_missing()
        for blob_id in ("9", "10", "11"):
            transfer = self.here.blobs.send(blob_id)
            done = transfer.done
            if blob_id == "9":
                transfer.cancel()
            elif blob_id == "10":
                transfer.pause()
                transfer.resume()
                transfer.cancel()
            else:
                self.successResultOf(self.here.blobs.delete(blob_id))
            self.failureResultOf(done, CancelledError)
        self.server.heal()
        self.now(sending)
        self.now(self.here.blobs.send_missing())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 11})

    def test_deleted_with_others(self) -> None:
        """What goes together with others is deleted here at once, and there when it has come; its id is free."""
        for blob_id in "abc":
            self.put(noise(1000), blob_id)
        self.server.stall()
        sending = self.here.blobs.send_missing()
        for blob_id in "ab":
            self.successResultOf(self.here.blobs.delete(blob_id))
        self.successResultOf(self.here.blobs.put("b", b"again"))
        again = self.here.blobs.send_missing()
        self.server.heal()
        self.now(sending)
        self.now(again)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 2})
        self.assertEqual(self.now(self.here.blobs.remote_count()), 2)
        self.assertEqual(self.read("b"), b"again")

    def test_deleted_while_they_come(self) -> None:
        """The same on the way down."""
        for blob_id in "abc":
            self.put(noise(1000), blob_id)
        self.now(self.here.blobs.send_missing())
        self.there.blobs.limit(down=1024)
        fetching = self.there.blobs.fetch_missing()
        self.now(self.there.blobs.delete("a"))
        self.now(self.there.blobs.send_missing())
        self.seconds(fetching, self.there)
        self.now(fetching)
        self.advance(2, self.there)
        self.assertEqual(self.now(self.there.blobs.sync_progress()), {S.SYNCED: 2})
        self.assertEqual(self.now(self.here.blobs.remote_count()), 2)

    def test_collected_meanwhile(self) -> None:
        """What the collector lets go while it is on its way goes there, too, by itself."""
        for size in (1000, MEDIUM, LARGE):
            self.put(noise(size))
            self.server.stall()
            sending = self.here.blobs.send_missing()
            key = BlobKey(DEFAULT, BlobId("a"))
            self.here._local.blobs.database.write_now(retention._let_delete, key)
            self.server.heal()
            self.now(sending)
            self.advance(2)
            self.assertEqual(self.now(self.here.blobs.sync_progress()), {})
            self.assertEqual(self.now(self.here.blobs.remote_count()), 0)


class LimitTests(EngineCase):
    """So many bytes a second."""

    def test_up(self) -> None:
        """An upload takes as long as it may."""
        self.put(noise(MEDIUM))
        self.here.blobs.limit(up=MEDIUM // 10)
        sending = self.here.blobs.send_missing()
        taken = self.seconds(sending, self.here)
        self.assertTrue(9 < taken < 14, taken)
        self.now(sending)

    def test_down(self) -> None:
        """A download takes as long as it may; without a limit it takes no time."""
        self.put(noise(LARGE))
        self.now(self.here.blobs.send_missing())
        self.there.blobs.limit(down=LARGE // 10)
        fetching = self.there.blobs.fetch_missing()
        taken = self.seconds(fetching, self.there)
        self.assertTrue(9 < taken < 14, taken)
        self.now(fetching)
        self.assertEqual(self.read(), noise(LARGE))

    def test_down_in_one_piece(self) -> None:
        """What comes in one piece from a fast server takes as long as it may, too; together, and one by one."""
        for number in range(4):
            self.put(noise(INLINE + 1000), str(number))
        for blob_id in ("a", "b", "c"):
            self.put(noise(100_000), blob_id)
        self.now(self.here.blobs.send_missing())
        self.there.blobs.limit(down=100_000)
        fetching = self.there.blobs.fetch_missing()
        taken = self.seconds(fetching, self.there)
        self.assertTrue(13 < taken < 17, taken)
        self.now(fetching)
        self.put(noise(200_000), "d")
        self.now(self.here.blobs.send_missing())
        getting = self.there.blobs.get("d")
        taken = self.seconds(getting, self.there)
        self.assertTrue(1.5 < taken < 3, taken)
        self.now(getting).close()

    def test_small_ones_beside(self) -> None:
        """Many small ones, which go together, do not hold up another until its connection is given up."""
        for number in range(60):
            self.put(noise(100_000), str(number))
        self.put(noise(MEDIUM), "z")
        self.here.blobs.limit(up=20_000)
        requests = self.watch_requests()
        sending = self.here.blobs.send_missing()
        self.assertLess(self.seconds(sending, self.here, 600), 350)
        self.now(sending)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 61})
        self.assertEqual(len([request for request in requests if request.startswith("PUT")]), 1)

    def test_changed(self) -> None:
        """Another limit holds at once for what is under way."""
        for number in range(20):
            self.put(noise(100_000), str(number))
        self.put(noise(MEDIUM), "z")
        self.here.blobs.limit(up=1024)
        sending = self.here.blobs.send_missing()
        self.advance(5)
        self.assertNoResult(sending)
        self.here.blobs.limit()
        self.advance(0.1)
        self.now(sending)

    def test_closed(self) -> None:
        """A store that is closed leaves no timer, and neither does what went."""
        self.put(noise(MEDIUM))
        self.here.blobs.limit(up=100_000)
        self.there.blobs.limit(down=100_000)
        sending = self.here.blobs.send_missing()
        self.seconds(sending, self.here)
        self.now(sending)
        self.put(noise(MEDIUM), "b")
        sending = self.here.blobs.send_missing()
        fetching = self.there.blobs.fetch_missing()
        self.advance(1)
        for device in (self.here, self.there):
            self.now(device.close())
            self.assertEqual(device._reactor.getDelayedCalls(), [])
        self.fails(sending, StoreClosed)
        self.fails(fetching, StoreClosed)

    def test_refused(self) -> None:
        """A mistake in one of both limits changes neither."""
        with self.assertRaises(InvalidLimit):
            self.here.blobs.limit(up=5000, down=5)
        self.assertIsNone(self.here.blobs._server().engine.carrying.sending.rate.limit)


class ProgressTests(EngineCase):
    """What is told while a run goes on."""

    def test_told(self) -> None:
        """Bytes of all transfers together; all of them at the end."""
        told: list[tuple[int, int]] = []
        for size in (1000, MEDIUM, LARGE):
            self.put(noise(size), str(size))
        self.now(self.here.blobs.sync(progress=lambda done, total: told.append((done, total))))
        done, total = told[-1]
        self.assertEqual(done, total)
        self.assertGreater(total, 1000 + MEDIUM + LARGE)
        self.assertEqual(sorted(told), told)

    def test_failing(self) -> None:
        """A failure is no end."""
        told: list[tuple[int, int]] = []
        self.put(noise(1000))
        self.server.disconnect()
        self.fails(self.here.blobs.sync(progress=lambda done, total: told.append((done, total))), TransferError)
        self.assertEqual(told, [])
