"""The server in memory and its faults, as an application's tests use them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import (
    BlobNotFound,
    ConnectionFailed,
    QuotaExceeded,
    ServerFailed,
    TransferTimeout,
    Unauthorized,
    UserExists,
)
from soledad.model.blob import ByteRange, SyncStatus
from soledad.model.ids import BlobId
from soledad.streams import BytesProducer, MemoryConsumer
from soledad.testing import MemoryServer, make_store

ID = BlobId("some-blob")
DATA = bytes(range(256)) * 1024


class MemoryServerTests(SynchronousTestCase):
    """Calls have ended when they return; time is what the test makes of it."""

    def setUp(self) -> None:
        """Make a server."""
        self.server = MemoryServer()
        self.client = self.server.connect("alice")
        self.blobs: Any = self.client.blobs

    def put(self, data: bytes = DATA, blob_id: BlobId = ID) -> Any:
        """Store some bytes."""
        return self.blobs.write_blob(blob_id, BytesProducer(data))

    def get(self, wanted: ByteRange | None = None) -> bytes:
        """Return what is stored."""
        consumer = MemoryConsumer()
        options = {} if wanted is None else {"wanted": wanted}
        self.successResultOf(self.blobs.read_blob(ID, consumer, **options))
        return consumer.value()

    def test_in_place(self) -> None:
        """What is stored can be read, without a reactor."""
        self.successResultOf(self.put())
        self.assertEqual(self.get(), DATA)

    def test_second_device(self) -> None:
        """A second store of a user has the keys of the first; one that began apart joins when it is opened again."""
        first, second = make_store(self, self.server), make_store(self, self.server)
        self.assertEqual(first._local.keyring.keyring, second._local.keyring.keyring)
        self.assertNotEqual(first._local.keyring.device_key, second._local.keyring.device_key)
        self.server.disconnect()
        folder = self.mktemp()
        third = make_store(self, self.server, data_dir=folder)
        self.assertNotEqual(third._local.keyring.roots, first._local.keyring.roots)
        self.successResultOf(third.close())
        self.server.heal()
        third = make_store(self, self.server, data_dir=folder)
        self.assertEqual(third._local.keyring.keyring.account, first._local.keyring.keyring.account)
        self.assertEqual(len(third._local.keyring.roots), 2)

    def test_users(self) -> None:
        """Users are made on demand, once; their blobs are their own."""
        self.successResultOf(self.put())
        others: Any = self.server.connect("bob").blobs
        self.failureResultOf(others.stat_blob(ID), BlobNotFound)
        same: Any = self.server.connect("alice").blobs
        self.successResultOf(same.stat_blob(ID))
        self.assertRaises(UserExists, self.server.add_user, "bob")

    def test_tokens(self) -> None:
        """A token that is revoked is good no more; another one is."""
        self.server.revoke_tokens("alice")
        self.failureResultOf(self.blobs.stat_blob(ID), Unauthorized)
        self.client.set_token(self.server.add_token("alice"))
        self.failureResultOf(self.blobs.stat_blob(ID), BlobNotFound)

    def test_quota(self) -> None:
        """A quota holds for each user."""
        blobs: Any = MemoryServer(quota=10).connect("alice").blobs
        self.successResultOf(blobs.write_blob(ID, BytesProducer(bytes(10))))
        self.failureResultOf(blobs.write_blob(BlobId("b"), BytesProducer(b"x")), QuotaExceeded)

    def test_agent(self) -> None:
        """The agent takes requests for any host."""
        self.assertIs(self.server.agent, self.server.agent)
        response = self.successResultOf(self.server.agent.request(b"GET", b"http://anywhere.example/"))
        self.assertEqual(response.code, 200)

    def test_refuse(self) -> None:
        """Every request gets the error, or the bare status, until the server is healed."""
        self.server.refuse(QuotaExceeded(5, 3))
        error = self.failureResultOf(self.put(), QuotaExceeded).value
        self.assertEqual(error.available, 3)
        self.server.refuse(503)
        self.failureResultOf(self.put(), ServerFailed)
        self.server.heal()
        self.successResultOf(self.put())

    def test_cut_upload(self) -> None:
        """A connection that is cut in an upload leaves nothing; the next one is whole."""
        self.server.cut_after(1000)
        self.failureResultOf(self.put(), ConnectionFailed)
        self.failureResultOf(self.blobs.stat_blob(ID), BlobNotFound)
        self.successResultOf(self.put())

    def test_cut_download(self) -> None:
        """A connection that is cut in a download gave no more bytes than were to cross it."""
        self.successResultOf(self.put())
        self.server.cut_after(1000)
        consumer = MemoryConsumer()
        self.failureResultOf(self.blobs.read_blob(ID, consumer), ConnectionFailed)
        self.assertLess(len(consumer.value()), 1000)
        self.assertEqual(self.get(), DATA)

    def test_flip(self) -> None:
        """One bit is wrong, in the whole blob and in each range of it, until the server is healed."""
        self.successResultOf(self.put())
        wrong = DATA[:70_000] + bytes([DATA[70_000] ^ 1]) + DATA[70_001:]
        self.server.flip(70_000)
        self.assertEqual(self.get(), wrong)
        for start, length in ((69_999, 3), (70_000, 1), (70_001, 5), (0, 70_000)):
            self.assertEqual(self.get(ByteRange(start, length)), wrong[start : start + length])
        self.server.heal()
        self.assertEqual(self.get(), DATA)

    def test_stall(self) -> None:
        """Nothing arrives; the client gives up when its time is over."""
        self.server.stall()
        work = self.put()
        self.server.clock.advance(59)
        self.assertNoResult(work)
        # The first minute saw the request go out; the second sees nothing.
        self.server.clock.pump([31] * 4)
        self.failureResultOf(work, TransferTimeout)
        self.server.heal()
        self.successResultOf(self.put())

    def test_stall_passes(self) -> None:
        """What stood still goes on when the server is healed in time."""
        self.server.stall()
        work = self.put()
        self.assertNoResult(work)
        self.server.heal()
        self.successResultOf(work)

    def test_disconnect(self) -> None:
        """The server is out of reach, also for what is under way."""
        self.server.stall()
        work = self.put()
        self.server.disconnect()
        self.failureResultOf(work, ConnectionFailed)
        self.failureResultOf(self.put(), ConnectionFailed)
        self.server.heal()
        self.successResultOf(self.put())

    def test_cancel(self) -> None:
        """A call that is cancelled ends as soon as that has arrived."""
        self.server.stall()
        work = self.put()
        work.cancel()
        self.server.flush()
        self.failureResultOf(work, CancelledError)

    def test_close(self) -> None:
        """A client that is closed leaves nothing scheduled, on either side."""
        self.successResultOf(self.put())
        self.successResultOf(self.client.close())
        self.server.flush()
        left = [call for call in self.server.clock.getDelayedCalls() if call.time > 0]
        self.assertEqual(left, [])


class ClockTests(SynchronousTestCase):
    """The time of a store."""

    def test_clock(self) -> None:
        """A clock that was handed in says when a transfer is tried again."""
        clock, server = Clock(), MemoryServer()
        store = make_store(self, server, clock=clock)
        self.successResultOf(store.blobs.put("a", b"data"))
        server.disconnect()
        self.failureResultOf(store.blobs.send_missing(), ConnectionFailed)
        server.heal()
        self.assertEqual(self.successResultOf(store.blobs.count(status=SyncStatus.SYNCED)), 0)
        clock.advance(60)
        self.assertEqual(self.successResultOf(store.blobs.count(status=SyncStatus.SYNCED)), 1)
