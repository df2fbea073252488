"""Tests of the keyring's part in a sync, and of stores that follow a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from soledad import Soledad
from soledad.client.follow import BACKOFF, GATHER
from soledad.client.sync.syncing import Syncing
from soledad.crypto.keyring import SharedPart
from soledad.errors import KeyringRolledBack, NoServer, StoreClosed, TamperingDetected, UnknownKey
from soledad.model.ids import UserId
from soledad.model.tampering import IncidentKind, TamperPolicy
from soledad.server.keyrings import Keyrings
from soledad.testing import make_store
from tests.client.sync.devices import DevicesTestCase


class KeyringCase(DevicesTestCase):
    """What the server has as keyring, and devices that ask for it."""

    def device(self) -> Soledad:
        """Open a new device, as a person does."""
        return self.open(Path(self.mktemp()))

    @property
    def keyrings(self) -> Keyrings:
        """The server's keyrings."""
        return Keyrings(self.server._accounts.database)

    def on_server(self) -> bytes:
        """Return what the server has."""
        return self.now(self.keyrings.read_keyring(UserId("user")))[0]

    def put_back(self, data: bytes) -> None:
        """Let the server have another one."""
        _, etag = self.now(self.keyrings.read_keyring(UserId("user")))
        self.now(self.keyrings.write_keyring(UserId("user"), data, etag))

    def kinds(self, store: Soledad) -> list[IncidentKind]:
        """Return what a device has found."""
        return [incident.kind for incident in self.now(store.incidents())]


class KeyringTests(KeyringCase):
    """Keys that change between two syncs."""

    def test_new_device(self) -> None:
        """A new device has all documents after a sync."""
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        two = self.device()
        self.sync(two)
        self.assertEqual(self.content(two, "a"), {"n": 1})

    def test_began_apart(self) -> None:
        """What two devices wrote before they met is everywhere, conflicts included."""
        self.put(self.one, "a", {"n": 1})
        self.put(self.one, "both", {"n": 1})
        self.server.disconnect()
        two = self.device()
        self.put(two, "b", {"n": 2})
        self.put(two, "both", {"n": 2})
        self.server.heal()
        self.sync(self.one)
        self.sync(two, self.one, two)
        self.assertEqual(two._local.keyring.keyring.account, self.one._local.keyring.keyring.account)
        for store in (self.one, two):
            self.assertEqual([self.content(store, name) for name in ("a", "b")], [{"n": 1}, {"n": 2}])
            self.assertEqual(len(self.now(store.get_doc_conflicts("both"))), 2)
            self.assertEqual((self.kinds(store), self.now(store.sync_problems())), ([], []))

    def test_new_root(self) -> None:
        """A device that meets what it cannot open looks for a newer keyring, and goes on."""
        two = self.device()
        self.sync(self.one, two)
        self.now(self.one.rotate_root())
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, two)
        self.assertEqual(self.content(two, "a"), {"n": 1})
        self.assertEqual(two._local.keyring.current, self.one._local.keyring.current)
        self.assertEqual(self.kinds(two), [])

    def test_told_by_the_checkpoint(self) -> None:
        """A device takes a newer keyring that the checkpoint tells of, though it could do without."""
        two = self.device()
        self.sync(self.one, two)
        self.now(self.one.create_recovery_code())
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, two)
        self.assertEqual(two._local.keyring.keyring, self.one._local.keyring.keyring)
        self.assertEqual(self.kinds(two), [])

    def test_put_back(self) -> None:
        """An older keyring is noticed by who had a newer one, and by who hears of one; the others are told."""
        two, old = self.device(), self.on_server()
        self.now(self.one.create_recovery_code())
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        self.put_back(old)
        self.sync(two)
        self.assertEqual(self.kinds(two), [IncidentKind.KEYRING_BACK])
        self.assertEqual(self.content(two, "a"), {"n": 1})
        one = self.reopen(self.one)
        self.assertIsInstance(one.keyring_problem, KeyringRolledBack)
        self.sync(one)
        self.assertIn(IncidentKind.KEYRING_BACK, self.kinds(one))
        self.sync(two, one)
        self.assertEqual(self.kinds(one).count(IncidentKind.KEYRING_BACK), 2)

    def test_withheld(self) -> None:
        """A device that is refused the keyring it needs says so, and takes nothing."""
        two, old = self.device(), self.on_server()
        self.now(self.one.rotate_root())
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        self.put_back(old)
        self.fails(two.sync(), UnknownKey)
        self.assertEqual(self.kinds(two), [IncidentKind.KEYRING_BACK])
        self.assertIsNone(self.content(two, "a"))

    def test_policy(self) -> None:
        """With another policy than to warn, a sync ends there."""
        two, old = self.device(), self.on_server()
        self.now(self.one.create_recovery_code())
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        self.put_back(old)
        self.now(two.set_tamper_policy(TamperPolicy.REFUSE))
        self.fails(two.sync(), TamperingDetected)

    def test_policies_and_blobs(self) -> None:
        """With the stricter policies a sync that fails stops before the blobs; these go on by a sync of their own."""
        for number, policy in enumerate((TamperPolicy.READ_ONLY, TamperPolicy.REFUSE)):
            blob_id = str(number)
            two = self.device()
            self.now(two.set_tamper_policy(policy))
            old = self.on_server()
            self.now(self.one.rotate_root())
            self.put(self.one, blob_id, {"n": 1})
            self.now(self.one.blobs.put(blob_id, b"data"))
            self.sync(self.one, two)
            self.now(self.one.blobs.put(f"{blob_id}-late", b"late"))
            self.now(self.one.blobs.sync())
            self.now(two.blobs.put(f"{blob_id}-mine", b"mine"))
            self.put_back(old)
            two = self.reopen(two)
            for _ in range(2):
                self.fails(two.sync(), TamperingDetected)
            self.assertFalse(self.now(two.blobs.exists(f"{blob_id}-late")))
            there = self.now(self.one.blobs.remote_list())
            self.assertNotIn(f"{blob_id}-mine", [info.blob_id for info in there])
            self.now(two.blobs.sync())
            self.assertEqual(self.now(two.blobs.get(f"{blob_id}-late")).read(), b"late")
            self.now(self.one.blobs.sync())
            self.assertEqual(self.now(self.one.blobs.get(f"{blob_id}-mine")).read(), b"mine")
            self.now(self.one.accept_server_restore())

    def test_restored(self) -> None:
        """Who says that the server was restored puts the newer keyring there."""
        old = self.on_server()
        self.now(self.one.rotate_root())
        self.sync(self.one)
        self.put_back(old)
        one = self.reopen(self.one)
        self.now(one.accept_server_restore())
        self.assertIsNone(one.keyring_problem)
        self.assertEqual(SharedPart.parse(self.on_server()), one._local.keyring.shared)
        self.sync(self.device())


class FollowTests(KeyringCase):
    """Stores that follow."""

    def follow(self, store: Soledad) -> Any:
        """Follow, and let the first sync be over."""
        following = store.follow()
        self.pass_time(store)
        return following

    def pass_time(self, *stores: Soledad) -> None:
        """Let changes gather and be sent."""
        for store in stores:
            self.server.flush()
            store._reactor.advance(GATHER)
            self.server.flush()

    def test_two(self) -> None:
        """What is written on one device is on the other; then it is quiet."""
        two = self.device()
        followings = [self.follow(store) for store in (self.one, two)]
        self.put(self.one, "a", {"n": 1})
        self.pass_time(self.one, two)
        self.assertEqual(self.content(two, "a"), {"n": 1})
        syncs: list[str] = []
        self.patch(Syncing, "_begin", lambda syncing: syncs.append("another"))
        self.pass_time(self.one, two, self.one, two)
        self.assertEqual(syncs, [])
        for following in followings:
            self.assertTrue(following.listening)
            self.assertIsNone(following.problem)
            self.stopped(following.stop())

    def stopped(self, ending: Deferred[None]) -> None:
        """See that something ends, once everything has arrived."""
        self.server.flush()
        self.now(ending)

    def test_keyring(self) -> None:
        """A change of the keyring is followed, too."""
        two = self.device()
        self.follow(two)
        self.now(self.one.rotate_root())
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        self.pass_time(two)
        self.assertEqual(two._local.keyring.current, self.one._local.keyring.current)

    def test_blobs(self) -> None:
        """A blob that has no document goes as well, and its deletion does; then nobody is told any more."""
        two = self.device()
        followings = [self.follow(store) for store in (self.one, two)]
        self.now(self.one.blobs.put("b", b"bytes"))
        self.pass_time(self.one, two)
        self.assertEqual(self.now(two.blobs.get("b")).read(), b"bytes")
        self.now(two.blobs.delete("b"))
        self.pass_time(two, self.one)
        self.assertFalse(self.now(self.one.blobs.exists("b")))
        for following in followings:
            self.stopped(following.stop())
        self.now(self.one.blobs.put("b", b"others"))
        self.assertEqual(self.now(self.one.blobs.remote_count()), 0)
        self.assertEqual(self.one.blobs._listeners, [])

    def test_let_go(self) -> None:
        """A blob that was to stay here goes as soon as it may."""
        two = self.device()
        followings = [self.follow(store) for store in (self.one, two)]
        self.now(self.one.blobs.put("b", b"bytes", local_only=True))
        self.pass_time(self.one, two)
        self.assertFalse(self.now(two.blobs.exists("b")))
        self.now(self.one.blobs.set_local_only("b", False))
        self.pass_time(self.one, two)
        self.assertEqual(self.now(two.blobs.get("b")).read(), b"bytes")
        for following in followings:
            self.stopped(following.stop())

    def test_reconnects(self) -> None:
        """After an interruption it goes on."""
        two = self.device()
        following = self.follow(two)
        self.server.disconnect()
        self.assertIsNotNone(following.problem)
        self.server.heal()
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        two._reactor.advance(BACKOFF[0])
        self.pass_time(two)
        self.assertEqual(self.content(two, "a"), {"n": 1})
        self.assertIsNone(following.problem)

    def test_ends(self) -> None:
        """Stopped or closed, nothing of it is left."""
        before = self.one._reactor.getDelayedCalls()
        following = self.follow(self.one)
        self.stopped(following.stop())
        self.stopped(following.stop())
        self.assertEqual(self.one._reactor.getDelayedCalls(), before)
        self.follow(self.one)
        self.stopped(self.one.close())
        self.assertEqual(self.one._reactor.getDelayedCalls(), [])
        self.assertRaises(StoreClosed, self.one.follow)
        self.assertRaises(NoServer, make_store(self).follow)
