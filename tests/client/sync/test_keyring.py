"""Tests of the keyring's part in a sync, and of stores that follow a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from soledad import Soledad
from soledad.client.follow import BACKOFF, GATHER, Following
from soledad.client.sync.syncing import Syncing
from soledad.crypto.keyring import SharedPart, unlock
from soledad.crypto.slots import Passphrase
from soledad.errors import KeyringRolledBack, NoServer, StoreClosed, TamperingDetected, UnknownKey, WrongPassphrase
from soledad.model.blob import BlobKey
from soledad.model.ids import DEFAULT, BlobId, UserId
from soledad.model.tampering import IncidentKind, TamperPolicy
from soledad.server.keyrings import Keyrings
from soledad.testing import make_store
from soledad.wire.container import Header
from tests.client.sync.devices import DevicesTestCase, put_between
from tests.client.sync.evil import Evil


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

    def requests(self, store: Soledad) -> list[str]:
        """Return what a device asks the server for while it syncs."""
        between = put_between(store)
        self.sync(store)
        return between.calls

    def change(self, change: str) -> None:
        """Let the first device change the keyring."""
        work: dict[str, Callable[[], Deferred[Any]]] = {
            "root": self.one.rotate_root,
            "passphrase": lambda: self.one.change_passphrase("another"),
            "code": self.one.create_recovery_code,
        }
        self.now(work[change]())

    def test_told_alone(self) -> None:
        """A changed keyring reaches a device that is open with the next sync, though no document was changed."""
        two = self.device()
        self.sync(self.one, two)
        for change in ("root", "code", "root"):
            self.change(change)
            self.sync(self.one, two)
            self.assertEqual(two._local.keyring.shared, self.one._local.keyring.shared)
            self.put(self.one, "a", {"n": 1})
            self.sync(self.one, two)
        self.assertEqual(self.kinds(two), [])

    def test_new_passphrase(self) -> None:
        """Once it is in step, the other device opens with the new passphrase, and with the old one no more."""
        two = self.device()
        self.now(two.change_passphrase("before"))
        self.sync(two, self.one)
        self.change("passphrase")
        self.sync(self.one, two)
        uuid, data = UserId("user"), (self.folders[two] / "user.keyring").read_bytes()
        self.assertEqual(unlock(uuid, data, Passphrase("another")).keyring, self.one._local.keyring.keyring)
        self.assertRaises(WrongPassphrase, unlock, uuid, data, Passphrase("before"))

    def test_sealed_under_the_new_root(self) -> None:
        """What the other device makes after that is sealed under the new root: blobs, records, the checkpoint."""
        two, evil = self.device(), Evil(self.server)
        self.sync(self.one, two)
        self.change("root")
        self.sync(self.one, two)
        self.put(two, "a", {"n": 1})
        self.now(two.blobs.put("b", b"bytes"))
        self.sync(two)
        blob = self.now(two._local.blobs.get(BlobKey(DEFAULT, BlobId("b"))))
        assert blob is not None and blob.sealed is not None and blob.sealed.header is not None
        sealed = [blob.sealed.header, evil.checkpoint(), *(evil.record(name) for name in evil.names())]
        current = self.one._local.keyring.current.key_id
        self.assertEqual([Header.parse(one).key_id for one in sealed], 3 * [current])

    def test_told_once(self) -> None:
        """One device tells of a keyring, whichever has it; then a sync with nothing to do is one request again."""
        two, three = self.device(), self.device()
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, two, three)
        self.assertEqual(self.requests(self.one), ["pull"])
        self.change("root")
        two = self.reopen(two)
        self.assertEqual(two._local.keyring.current, self.one._local.keyring.current)
        self.assertEqual(self.requests(two), ["pull", "push"])
        for store in (self.one, three, two):
            self.assertNotIn("push", self.requests(store))
            self.assertEqual(self.requests(store), ["pull"])
        self.assertEqual(three._local.keyring.current, self.one._local.keyring.current)

    def test_not_told(self) -> None:
        """A device that sends nothing, as the server does not tell the truth, does not tell of its keyring either."""
        evil = Evil(self.server)
        for policy in (TamperPolicy.READ_ONLY, TamperPolicy.REFUSE):
            store = self.device()
            self.now(store.set_tamper_policy(policy))
            self.put(store, policy.value, {"n": 1})
            self.sync(store)
            before = evil.snapshot()
            self.put(store, policy.value, {"n": 2})
            self.sync(store)
            evil.put_back(before)
            self.now(store.rotate_root())
            between = put_between(store)
            self.fails(store.sync(), TamperingDetected)
            self.assertNotIn("push", between.calls)
            self.now(store.accept_server_restore())

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

    def test_keyring_alone(self) -> None:
        """So it is if no document is changed, on whichever device; then it is quiet."""
        two = self.device()
        for store in (self.one, two):
            self.follow(store)
        for store in (self.one, two):
            self.now(store.rotate_root())
            self.pass_time(store, self.one, two, self.one, two)
            self.assertEqual(two._local.keyring.current, self.one._local.keyring.current)
        syncs: list[str] = []
        self.patch(Syncing, "_begin", lambda syncing: syncs.append("another"))
        self.pass_time(self.one, two, self.one, two)
        self.assertEqual(syncs, [])

    def test_keyring_unheard(self) -> None:
        """A device that changed the keyring tells of it without hearing from the server that it did."""
        self.patch(Following, "_heard", lambda following, heads: None)
        following = self.follow(self.one)
        self.now(self.one.rotate_root())
        between = put_between(self.one)
        self.pass_time(self.one)
        self.assertEqual(between.calls, ["pull", "push"])
        self.stopped(following.stop())
        self.assertEqual(self.one._keys._listeners, [])

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

    def test_reconnects_without_news(self) -> None:
        """Once it hears of the server again nothing is wrong, though nothing has changed meanwhile."""
        following = self.follow(self.one)
        self.server.disconnect()
        self.assertIsNotNone(following.problem)
        self.server.heal()
        self.one._reactor.advance(BACKOFF[0])
        self.pass_time(self.one)
        self.assertTrue(following.listening)
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
