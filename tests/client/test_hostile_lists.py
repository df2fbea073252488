"""A server that lists, hides and deletes as it likes: no device loses a byte for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred

from soledad import Soledad
from soledad.crypto.container import Context, KeyMaterial, seal
from soledad.crypto.tombstone import open_tombstone, seal_tombstone
from soledad.errors import StaleToken, UnexpectedAnswer
from soledad.model.blob import BlobInfo, BlobKey, SyncStatus
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.server.index import TOMBSTONE_LIFETIME, Index
from soledad.server.processes import Alone
from soledad.streams import BytesProducer
from soledad.wire.container import Purpose
from soledad.wire.listing import Page
from soledad.wire.routes import ListRoute
from tests.client.test_blob_store import INLINE, TwoDevices, noise

S = SyncStatus
SALT = bytes(24)


@define(eq=False)
class Lying:
    """A server's blobs, with lists of its own."""

    _blobs: Any
    lie: Callable[[ListRoute, Page], Page]

    def __getattr__(self, name: str) -> Any:
        """Do anything else as it is."""
        return getattr(self._blobs, name)

    def list_blobs(self, route: ListRoute) -> Deferred[Page]:
        """See `IRemoteBlobs`."""
        listing: Deferred[Page] = self._blobs.list_blobs(route)
        return listing.addCallback(lambda page: self.lie(route, page))


def as_it_is(route: ListRoute, page: Page) -> Page:
    """Tell the truth."""
    return page


class HostileCase(TwoDevices):
    """A device with two blobs, which are on the server, and another that may have them."""

    def setUp(self) -> None:
        """Bring them there."""
        super().setUp()
        self.data = {"small": noise(1000), "large": noise(INLINE * 2)}
        for blob_id, data in self.data.items():
            self.put(data, blob_id)
        self.sync()
        self.lie: Callable[[ListRoute, Page], Page] = as_it_is
        for device in (self.here, self.there):
            changes = device.blobs._server().changes
            changes._blobs = Lying(changes._blobs, lambda route, page: self.lie(route, page))  # type: ignore[assignment]

    def sync(self, *devices: Soledad) -> None:
        """Let devices sync the one namespace, whatever they heard of another."""
        for device in devices or (self.here, self.there):
            self.now(device.blobs.sync(DEFAULT))

    def assertKept(self, *devices: Soledad) -> None:
        """Everything can be read without the server."""
        self.server.disconnect()
        for device in devices or (self.here, self.there):
            for blob_id, data in self.data.items():
                self.assertEqual(self.read(blob_id, device), data)
        self.server.heal()

    def deleted(self, tombstone: Callable[[BlobId], bytes | None]) -> Callable[[ListRoute, Page], Page]:
        """Return a lie: everything was deleted."""

        def lie(route: ListRoute, page: Page) -> Page:
            infos = [
                BlobInfo(BlobId(blob_id), route.namespace, len(data), "0" * 64, (), 1, True, tombstone(BlobId(blob_id)))
                for blob_id, data in self.data.items()
            ]
            return Page(tuple(infos), None, page.head)

        return lie

    @property
    def root(self) -> KeyMaterial:
        """The key that everything is sealed under."""
        return self.here._local.current

    def commitment(self, blob_id: str) -> bytes:
        """Return a blob's commitment."""
        row = self.now(self.here.blobs._queue.look_up(BlobKey(DEFAULT, BlobId(blob_id))))
        assert row is not None
        return row.sealed.commitment


class ListTests(HostileCase):
    """What lists say."""

    def test_forged_tombstones(self) -> None:
        """No tombstone makes a blob go but one that the keys open, and that names just this blob."""
        other = KeyMaterial(bytes(32), bytes(16))
        key = lambda blob_id: BlobKey(DEFAULT, blob_id)  # noqa: E731
        elsewhere = lambda blob_id: BlobKey(Namespace("mails"), blob_id)  # noqa: E731
        as_blob = Context(Purpose.BLOB, DEFAULT, "small")
        forged: dict[str, Callable[[BlobId], bytes | None]] = {
            "none": lambda blob_id: None,
            "empty": lambda blob_id: b"",
            "noise": lambda blob_id: noise(400),
            "of another key": lambda blob_id: seal_tombstone(other, key(blob_id), SALT, [self.commitment(blob_id)]),
            "of another blob": lambda blob_id: seal_tombstone(self.root, key(blob_id), SALT, [bytes(32)]),
            "of another id": lambda blob_id: seal_tombstone(
                self.root, key(BlobId("other")), SALT, [self.commitment(blob_id)]
            ),
            "of another namespace": lambda blob_id: seal_tombstone(
                self.root, elsewhere(blob_id), SALT, [self.commitment(blob_id)]
            ),
            "not a tombstone": lambda blob_id: seal(self.root, as_blob, SALT, self.commitment(blob_id)),
        }
        for name, tombstone in forged.items():
            with self.subTest(name):
                self.lie = self.deleted(tombstone)
                self.sync()
                self.assertKept()
        # The same with everything right is a deletion.
        self.lie = self.deleted(
            lambda blob_id: seal_tombstone(self.root, key(blob_id), SALT, [self.commitment(blob_id)])
        )
        self.sync(self.there)
        self.assertIsNone(self.status("small", self.there))

    def test_replayed_tombstone(self) -> None:
        """The tombstone of what was there before says nothing of what is there now."""
        self.now(self.here.blobs.delete("small"))
        self.sync()
        (info,) = self.now(self.here.blobs.remote_list(deleted=True))
        self.data["small"] = b"put again"
        self.put(b"put again", "small")
        self.sync()
        self.sync()
        tombstones = {"small": info.tombstone}
        self.lie = self.deleted(lambda blob_id: tombstones.get(blob_id))
        self.sync()
        self.assertKept()

    def test_hidden(self) -> None:
        """What is not listed is not gone, not even after a comparison in full."""
        self.lie = lambda route, page: Page((), None, page.head)
        self.sync()
        for device in (self.here, self.there):
            device.blobs._server().changes._blobs.lie = self.stale_once(lambda route, page: Page((), None, page.head))  # type: ignore[attr-defined]
        self.sync()
        self.assertKept()
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 2})

    def stale_once(self, then: Callable[[ListRoute, Page], Page]) -> Callable[[ListRoute, Page], Page]:
        """Return a lie: the first token is not good any more."""
        told: list[ListRoute] = []

        def lie(route: ListRoute, page: Page) -> Page:
            if route.since is not None:
                told.append(route)
                raise StaleToken
            return then(route, page)

        return lie

    def test_changed_tags(self) -> None:
        """Other tags than before make a device look, and go on with what it has."""
        self.lie = lambda route, page: Page(
            tuple(
                BlobInfo(BlobId(blob_id), route.namespace, len(data), "f" * 64) for blob_id, data in self.data.items()
            ),
            None,
            page.head,
        )
        self.sync()
        self.assertKept()

    def test_made_up(self) -> None:
        """What is listed and is not there is waited for; it fails nothing else."""
        made_up = BlobInfo(BlobId("nothing"), DEFAULT, 5000, "f" * 64)
        self.lie = lambda route, page: evolve(page, blobs=(*page.blobs, made_up))
        self.sync()
        self.assertIs(self.status("nothing"), S.AWAITED)
        self.assertFalse(self.now(self.here.blobs.exists("nothing")))
        self.assertKept()

    def test_wrong_lengths(self) -> None:
        """A length that is not that of the blob harms no other that goes with it."""
        for blob_id in "abc":
            self.put(noise(3000), blob_id)
        self.sync(self.here)
        for length in (1, 1100, 10_000):
            self.lie = lambda route, page, length=length: evolve(  # type: ignore[misc]
                page, blobs=tuple(evolve(info, length=length) if info.blob_id == "b" else info for info in page.blobs)
            )
            self.sync(self.there)
            self.assertEqual([self.status(blob_id, self.there) for blob_id in "ac"], [S.SYNCED] * 2)
            self.assertIsNot(self.status("b", self.there), S.SYNCED)
        self.assertEqual(self.read("a"), noise(3000))

    def test_endless(self) -> None:
        """A list that leads to itself is no list."""
        self.lie = lambda route, page: evolve(page, next=route.since or route.after)
        self.fails(self.here.blobs.sync(), UnexpectedAnswer)
        self.assertKept()


class LossTests(HostileCase):
    """What the server does to blobs."""

    def take_away(self, *blob_ids: str) -> None:
        """Let the server delete blobs by itself."""
        for blob_id in blob_ids:
            self.now(self.server.connect("alice").blobs.delete_blob(BlobId(blob_id), DEFAULT))

    def test_lost(self) -> None:
        """What the server lost goes there again, from any device that has it."""
        self.take_away("small", "large")
        self.sync(self.there)
        self.assertEqual(self.now(self.here.blobs.remote_count()), 2)
        self.sync()
        self.assertKept()
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 2})

    def test_lost_without_a_trace(self) -> None:
        """The same when the server shows nothing of it: a comparison in full finds it."""
        self.take_away("small", "large")
        for device in (self.here, self.there):
            device.blobs._server().changes._blobs.lie = self.stale_and_silent  # type: ignore[attr-defined]
        self.sync(self.there)
        self.assertEqual(self.now(self.here.blobs.remote_count()), 2)

    def stale_and_silent(self, route: ListRoute, page: Page) -> Page:
        """Take no token, and show no tombstones."""
        return Page((), None, page.head) if route.deleted else self.stale(route, page)

    def test_swapped(self) -> None:
        """What the server put in the place of a blob is not taken for it, and the blob is kept."""
        self.take_away("small")
        self.now(self.server.connect("alice").blobs.write_blob(BlobId("small"), BytesProducer(noise(1100)), DEFAULT))
        self.sync()
        self.sync()
        self.assertKept()
        self.assertIs(self.status("small"), S.FAILED_UPLOAD)

    def test_older(self) -> None:
        """An older blob of the same id, which is authentic, takes nothing away."""
        old = self.server_bytes("small")
        self.now(self.here.blobs.delete("small"))
        self.sync()
        self.data["small"] = b"put again"
        self.put(b"put again", "small")
        self.sync()
        self.sync()
        self.take_away("small")
        self.now(self.server.connect("alice").blobs.write_blob(BlobId("small"), BytesProducer(old), DEFAULT))
        self.sync()
        self.sync()
        self.assertKept()

    def server_bytes(self, blob_id: str) -> bytes:
        """Return what the server has."""
        database = self.here._local.blobs.database
        query = "SELECT bytes FROM container JOIN blob USING (id) WHERE blob_id = ?"
        data: bytes = database.read_now(lambda cursor: cursor.execute(query, (blob_id,)).fetchone())[0]
        return data

    def test_away_for_long(self) -> None:
        """A device that was away for longer than tombstones live compares in full, and nothing is lost."""
        self.now(self.here.blobs.delete("small"))
        self.sync(self.here)
        for device in (self.here, self.there):
            changes = device.blobs._server().changes
            changes._blobs.lie = self.stale  # type: ignore[attr-defined]
        self.sync()
        self.assertIsNone(self.status("small", self.there))
        del self.data["small"]
        self.assertKept()

    def stale(self, route: ListRoute, page: Page) -> Page:
        """Take no token."""
        if route.since is not None:
            raise StaleToken
        return page


class AwayTests(TwoDevices):
    """A device that comes back when the tombstones of what was deleted meanwhile have expired."""

    def test_comes_back(self) -> None:
        """It takes that for lost: it drops nothing, brings back what it has, and waits for what it has not."""
        blobs = {"here": b"one", "evicted": b"two", "deleted": b"three"}
        for blob_id, data in blobs.items():
            self.put(data, blob_id)
        self.sync()
        self.now(self.there.blobs.evict("evicted"))
        self.now(self.there.blobs.delete("deleted"))
        self.put(b"four", "only", self.there)
        for blob_id in ("here", "evicted"):
            self.now(self.here.blobs.delete(blob_id))
        self.sync(self.here)
        self.server.clock.advance(TOMBSTONE_LIFETIME + 1)
        index = Index(self.server._accounts._database, Alone(), self.server.clock.seconds, None)
        self.assertEqual(self.now(index.expire()), 2)
        self.sync(self.there, self.here)
        left = {blob_id: self.status(blob_id, self.there) for blob_id in (*blobs, "only")}
        self.assertEqual(left, {"here": S.SYNCED, "evicted": S.AWAITED, "deleted": None, "only": S.SYNCED})
        self.assertEqual(self.read("here", self.here), b"one")
        self.assertEqual(self.read("only", self.here), b"four")
        # Deleted once more, it stays away, and everywhere.
        self.now(self.here.blobs.delete("here"))
        self.sync()
        self.assertIsNone(self.status("here", self.there))
        self.assertEqual(self.now(self.here.blobs.remote_count()), 1)


class TombstoneTests(HostileCase):
    """What a deletion leaves on the server."""

    def test_named(self) -> None:
        """The tombstone names what was deleted, for this id and namespace."""
        commitment = self.commitment("small")
        self.now(self.here.blobs.delete("small"))
        self.sync(self.here)
        (info,) = self.now(self.here.blobs.remote_list(deleted=True))
        assert info.tombstone is not None
        named = open_tombstone(self.here._local.roots, BlobKey(DEFAULT, info.blob_id), info.tombstone)
        self.assertEqual(named, {commitment})

    def test_those_before(self) -> None:
        """It names what was deleted under the id before, also if another device did that."""
        first = self.commitment("small")
        self.now(self.here.blobs.delete("small"))
        self.sync(self.here)
        self.put(b"second", "small")
        self.sync(self.here)
        second = self.commitment("small")
        self.sync(self.there)
        self.now(self.there.blobs.delete("small"))
        self.sync(self.there)
        (info,) = self.now(self.here.blobs.remote_list(deleted=True))
        assert info.tombstone is not None
        named = open_tombstone(self.here._local.roots, BlobKey(DEFAULT, info.blob_id), info.tombstone)
        self.assertEqual(named, {first, second})
