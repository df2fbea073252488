"""`soledad.blobs`: blobs without a document, on one device, the server, and another device of the same person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from shutil import copytree, rmtree
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.deferreds import unawaited
from soledad.errors import (
    BlobExists,
    BlobNotFound,
    ConnectionFailed,
    InvalidArgument,
    InvalidFlags,
    InvalidIdentifier,
    InvalidLimit,
    NoServer,
)
from soledad.model.blob import Flag, Priority, SyncStatus
from soledad.model.ids import ATTACHMENTS, BlobId
from soledad.testing import MemoryServer, make_store

T = TypeVar("T")

S = SyncStatus
ALICE = "alice"
#: A container above this is a file, and goes by itself.
INLINE = 256 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that look random, and are the same each time."""
    return Random(seed).randbytes(size)


class TwoDevices(SynchronousTestCase):
    """A server, and two devices of one person with the same keyring."""

    #: Bytes.
    quota: int | None = None

    def setUp(self) -> None:
        """Start with empty stores."""
        self.server = MemoryServer(quota=self.quota)
        self.folders = [Path(self.mktemp()), Path(self.mktemp())]
        self.now(make_store(self, uuid=ALICE, data_dir=self.folders[0]).close())
        copytree(self.folders[0], self.folders[1])
        self.here, self.there = map(self.open, self.folders)

    def open(self, folder: Path) -> Soledad:
        """Open a device."""
        return make_store(self, self.server, uuid=ALICE, data_dir=folder)

    def reopen_here(self) -> None:
        """Close the first device, and open it again."""
        self.now(self.here.close())
        self.here = self.open(self.folders[0])

    def now(self, work: Deferred[T]) -> T:
        """Return the result of what has ended, once everything arrived."""
        self.server.flush()
        result: T = self.successResultOf(work)
        return result

    def fails(self, work: Deferred[Any], *errors: type[BaseException]) -> BaseException:
        """Return the error of what has failed."""
        self.server.flush()
        error: BaseException = self.failureResultOf(work, *errors).value
        return error

    def outcome(self, work: Deferred[Any]) -> Any:
        """Return a result, or an error."""
        results: list[Any] = []
        unawaited(work.addBoth(results.append))
        self.server.flush()
        (result,) = results
        return getattr(result, "value", result)

    def put(self, data: bytes, blob_id: str | None = "a", device: Soledad | None = None, **options: Any) -> str:
        """Put a blob."""
        return self.now((device or self.here).blobs.put(blob_id, data, **options))

    def read(self, blob_id: str = "a", device: Soledad | None = None, namespace: str = "default") -> bytes:
        """Return a blob's data."""
        with self.now((device or self.there).blobs.get(blob_id, namespace)) as file:
            return file.read()

    def status(self, blob_id: str = "a", device: Soledad | None = None, namespace: str = "default") -> S | None:
        """Return a blob's status."""
        found = self.now((device or self.here).blobs.list(namespace))
        return next((blob.status for blob in found if blob.blob_id == blob_id), None)

    def watch_requests(self) -> list[str]:
        """Return a list of what is asked of the server from now on."""
        requests: list[str] = []
        door: Any = self.server._door
        render = door.render

        def watched(request: Any) -> Any:
            requests.append(f"{request.method.decode()} {request.path.decode()}")
            return render(request)

        door.render = watched
        return requests

    def sync(self, *devices: Soledad) -> None:
        """Let devices sync, one after the other."""
        for device in devices or (self.here, self.there):
            self.now(device.blobs.sync())


class LocalTests(TwoDevices):
    """What needs no server."""

    def test_put_and_get(self) -> None:
        """What was put is read, whatever its size; it waits to be sent, and is kept over a new opening."""
        for number, size in enumerate((0, 1, 1000, INLINE, INLINE * 3)):
            self.put(noise(size), str(number))
        self.reopen_here()
        for number, size in enumerate((0, 1, 1000, INLINE, INLINE * 3)):
            self.assertEqual(self.read(str(number), self.here), noise(size))
            self.assertIs(self.status(str(number)), S.PENDING_UPLOAD)

    def test_random_id(self) -> None:
        """Without an id, one is made."""
        first, second = self.put(b"1", None), self.put(b"2", None)
        self.assertNotEqual(first, second)
        self.assertEqual(self.read(first, self.here), b"1")

    def test_taken(self) -> None:
        """An id is given once in each namespace; the namespaces know nothing of each other."""
        self.put(b"one")
        self.fails(self.here.blobs.put("a", b"two"), BlobExists)
        self.put(b"other", namespace="mails")
        self.assertEqual(self.read("a", self.here), b"one")
        self.assertEqual(self.read("a", self.here, "mails"), b"other")

    def test_listed(self) -> None:
        """Lists and counts tell what there is, by namespace and status."""
        self.put(b"one", "b", priority=Priority.HIGH)
        self.put(b"two", "a", local_only=True)
        self.put(b"other", "c", namespace="mails")
        listed = self.now(self.here.blobs.list())
        self.assertEqual([(blob.blob_id, blob.status, blob.length) for blob in listed],
                         [("a", S.LOCAL_ONLY, 3), ("b", S.PENDING_UPLOAD, 3)])  # fmt: skip
        self.assertTrue(all(blob.is_local for blob in listed))
        self.assertEqual(listed[1].priority, Priority.HIGH)
        self.assertEqual(len(self.now(self.here.blobs.list(status=S.LOCAL_ONLY))), 1)
        self.assertEqual(self.now(self.here.blobs.count()), 2)
        self.assertEqual(self.now(self.here.blobs.count("mails", status=S.PENDING_UPLOAD)), 1)
        self.assertEqual(self.now(self.here.blobs.count("nothing")), 0)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.LOCAL_ONLY: 1, S.PENDING_UPLOAD: 2})

    def test_deleted(self) -> None:
        """What was deleted is not there any more, at once, and its id is free."""
        self.put(b"one")
        self.assertTrue(self.now(self.here.blobs.exists("a")))
        self.now(self.here.blobs.delete("a"))
        self.assertFalse(self.now(self.here.blobs.exists("a")))
        self.assertEqual(self.now(self.here.blobs.count()), 0)
        self.fails(self.here.blobs.get("a"), BlobNotFound)
        self.fails(self.here.blobs.delete("a"), BlobNotFound)
        self.put(b"another")
        self.assertEqual(self.read("a", self.here), b"another")

    def test_files_go(self) -> None:
        """Nothing is left of the file of a deleted blob."""
        self.put(noise(INLINE * 2))
        self.now(self.here.blobs.delete("a"))
        self.assertEqual(list((self.folders[0] / "alice_blobs").iterdir()), [])

    def test_identifiers(self) -> None:
        """What is no identifier is refused; attachments are looked at only."""
        blobs = self.here.blobs
        calls: list[Callable[[], Deferred[Any]]] = [
            lambda: blobs.put("a b", b""),
            lambda: blobs.put("a", b"", "Mails"),
            lambda: blobs.put("a", b"", ATTACHMENTS),
            lambda: blobs.delete("a", ATTACHMENTS),
            lambda: blobs.set_local_only("a", True, ATTACHMENTS),
            lambda: blobs.get("", "mails"),
            lambda: blobs.sync("a/b"),
        ]
        for call in calls:
            self.fails(call(), InvalidIdentifier)
        self.assertEqual(self.now(blobs.list(ATTACHMENTS)), [])

    def test_no_server(self) -> None:
        """Without a server it is a complete local store; what needs one says so."""
        store = make_store(self)
        blobs = store.blobs
        self.now(blobs.put("a", b"data"))
        self.assertEqual(self.now(blobs.get("a")).read(), b"data")
        for call in (blobs.sync, blobs.send_missing, blobs.fetch_missing, blobs.remote_list, blobs.remote_count):
            self.fails(call(), NoServer)
        self.assertEqual(blobs.transfers(), [])
        self.fails(blobs.get("b"), BlobNotFound)

    def test_limit(self) -> None:
        """A limit of next to nothing is a mistake, and the error says which would be none."""
        with self.assertRaises(InvalidLimit) as caught:
            self.here.blobs.limit(up=1023)
        self.assertEqual(caught.exception.least, 1024)
        self.here.blobs.limit(up=1024)

    def test_arguments(self) -> None:
        """What is no priority, no order and no flag is refused, before the server is asked."""
        blobs: Any = self.here.blobs
        self.put(b"data")
        requests = self.watch_requests()
        for call, error in (
            (lambda: blobs.put("b", b"", priority="foo"), InvalidArgument),
            (lambda: blobs.set_priority("a", 7), InvalidArgument),
            (lambda: blobs.remote_list(order_by="foo"), InvalidArgument),
            (lambda: blobs.remote_list(filter_flag="NOPE"), InvalidFlags),
            (lambda: blobs.remote_count(filter_flag="NOPE"), InvalidFlags),
            (lambda: blobs.set_flags("a", ["NOPE"]), InvalidFlags),
            (lambda: blobs.set_flags("a", None), InvalidFlags),
        ):
            self.fails(call(), error)
        self.assertEqual(requests, [])
        self.assertFalse(self.now(blobs.exists("b")))


class SyncTests(TwoDevices):
    """Blobs that go from one device to the other."""

    def test_sync(self) -> None:
        """Blobs of all sizes and namespaces arrive, and are durable on both sides."""
        sizes = (0, 1000, INLINE - 2000, INLINE * 3, 5 * 1024 * 1024)
        for number, size in enumerate(sizes):
            self.put(noise(size, number), str(number), namespace="mails" if number % 2 else "default")
        self.sync(self.here)
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: len(sizes)})
        self.sync(self.there)
        self.server.disconnect()
        for number, size in enumerate(sizes):
            namespace = "mails" if number % 2 else "default"
            self.assertEqual(self.read(str(number), namespace=namespace), noise(size, number))

    def test_local_only(self) -> None:
        """What is to stay here stays here, until said otherwise."""
        self.put(b"mine", local_only=True)
        self.sync()
        self.assertEqual(self.now(self.here.blobs.remote_count()), 0)
        self.now(self.here.blobs.set_local_only("a", False))
        self.sync()
        self.assertEqual(self.read(), b"mine")
        self.now(self.here.blobs.set_local_only("a", True))
        self.assertIs(self.status(), S.LOCAL_ONLY)

    def test_local_only_by_name(self) -> None:
        """It is not sent when it is asked for by its name, either."""
        self.put(b"mine", local_only=True)
        requests = self.watch_requests()
        self.assertIs(self.now(self.here.blobs.send("a").done), S.LOCAL_ONLY)
        self.assertEqual(requests, [])
        self.assertEqual(self.here.blobs.transfers(), [])
        self.assertEqual(self.now(self.here.blobs.remote_count()), 0)

    def test_asked_for(self) -> None:
        """One that is only on the server is fetched when it is asked for, known here or not."""
        for size in (1000, INLINE * 3):
            self.put(noise(size), str(size))
        self.now(self.here.blobs.send_missing())
        for size in (1000, INLINE * 3):
            self.assertEqual(self.read(str(size)), noise(size))
        self.fails(self.there.blobs.get("nowhere"), BlobNotFound)
        self.assertFalse(self.now(self.there.blobs.exists("nowhere")))

    def test_out_of_reach(self) -> None:
        """Without the server, whatever needs it says so, and nothing is lost."""
        self.put(b"data")
        self.server.disconnect()
        for call in (self.here.blobs.sync, self.here.blobs.send_missing, self.here.blobs.fetch_missing):
            self.fails(call(), ConnectionFailed)
        self.server.heal()
        self.sync()
        self.assertEqual(self.read(), b"data")

    def test_idle(self) -> None:
        """When nothing has changed, one request per device is all there is."""
        for number in range(3):
            self.put(b"data", str(number), namespace=f"n{number}")
        self.sync()
        self.sync()
        requests = self.watch_requests()
        self.sync(self.here)
        self.assertEqual(len(requests), 1)


class NowhereTests(TwoDevices):
    """Blobs that are neither here nor on the server."""

    def let_server_lose(self) -> None:
        """Let the server lose the blob, and the second device hear of it."""
        self.now(self.server.connect(ALICE).blobs.delete_blob(BlobId("a")))
        self.sync(self.there)
        self.assertIs(self.status(device=self.there), S.AWAITED)

    def test_awaited(self) -> None:
        """One that was here keeps its id, as another device may have it; whoever deletes it may put something else."""
        self.put(b"one")
        self.sync()
        self.now(self.there.blobs.evict("a"))
        self.let_server_lose()
        self.assertTrue(self.now(self.there.blobs.exists("a")))
        self.fails(self.there.blobs.get("a"), BlobNotFound)
        self.fails(self.there.blobs.put("a", b"two"), BlobExists)
        self.now(self.there.blobs.delete("a"))
        self.assertFalse(self.now(self.there.blobs.exists("a")))
        self.put(b"two", device=self.there)
        self.sync(self.there)
        self.assertIs(self.status(device=self.there), S.SYNCED)
        # The server had nothing that a tombstone could have been for: who still has the one before keeps it.
        self.sync(self.here)
        self.assertEqual((self.read(device=self.here), self.read(device=self.there)), (b"one", b"two"))

    def only_listed(self) -> None:
        """Let the second device know of a blob from a list only, and then of its loss."""
        self.put(noise(INLINE * 2))
        self.sync(self.here)
        changes: Any = self.there.blobs._remote and self.there.blobs._remote.changes
        self.now(Deferred.fromCoroutine(changes.refresh(None)))
        self.assertIs(self.status(device=self.there), S.REMOTE)
        self.fails(self.there.blobs.put("a", b"two"), BlobExists)
        self.let_server_lose()

    def test_only_listed(self) -> None:
        """The id of one of which only a list had told is free again."""
        self.only_listed()
        self.assertFalse(self.now(self.there.blobs.exists("a")))
        self.put(b"two", device=self.there)
        self.sync(self.there)
        self.assertIs(self.status(device=self.there), S.SYNCED)
        self.assertEqual(self.read(device=self.there), b"two")

    def test_only_listed_comes_back(self) -> None:
        """If another device brings it back after all, each keeps what it has."""
        self.only_listed()
        self.put(b"two", device=self.there)
        self.sync(self.here, self.there)
        self.assertIs(self.status(device=self.there), S.FAILED_UPLOAD)
        self.assertEqual(self.read(device=self.there), b"two")
        self.assertEqual(self.read(device=self.here), noise(INLINE * 2))


class FlagTests(TwoDevices):
    """The marks that the server keeps."""

    def test_flags(self) -> None:
        """Flags are set and asked for, and lists can be narrowed to them."""
        for blob_id in "ab":
            self.put(b"data", blob_id)
        self.sync(self.here)
        blobs = self.here.blobs
        self.now(blobs.set_flags("a", [Flag.PENDING]))
        self.assertEqual(self.now(blobs.get_flags("a")), (Flag.PENDING,))
        self.assertEqual(self.now(blobs.get_flags("b")), ())
        self.assertEqual([info.blob_id for info in self.now(blobs.remote_list(filter_flag=Flag.PENDING))], ["a"])
        self.assertEqual(self.now(blobs.remote_count(filter_flag=Flag.PENDING)), 1)
        self.fails(blobs.get_flags("c"), BlobNotFound)

    def test_listed(self) -> None:
        """The server's list comes in the order asked, whole, and with tombstones if these are asked for."""
        for blob_id in "abc":
            self.put(b"data", blob_id)
            self.sync(self.here)
        blobs = self.here.blobs
        for order, ids in (("date", "abc"), ("-date", "cba")):
            self.assertEqual("".join(info.blob_id for info in self.now(blobs.remote_list(order_by=order))), ids)
        self.now(blobs.delete("b"))
        self.sync(self.here)
        self.assertEqual(self.now(blobs.remote_count()), 2)
        self.assertEqual([info.blob_id for info in self.now(blobs.remote_list(deleted=True))], ["b"])


class DeletionTests(TwoDevices):
    """What is deleted on one device goes on the other, if who has the keys says so."""

    def test_reaches(self) -> None:
        """A deletion reaches the server and the other device; other namespaces are untouched."""
        self.put(b"one")
        self.put(b"other", namespace="mails")
        self.sync()
        self.now(self.here.blobs.delete("a"))
        self.sync()
        self.assertIsNone(self.status())
        self.assertIsNone(self.status(device=self.there))
        self.assertEqual(self.now(self.here.blobs.remote_count()), 0)
        self.assertEqual(self.read(namespace="mails"), b"other")

    def test_put_again(self) -> None:
        """An id that was deleted can be put again, and the new one arrives; whatever was synced in between."""
        for synced_between in (False, True):
            blob_id = f"again-{synced_between}"
            self.put(b"first", blob_id)
            self.sync()
            self.assertEqual(self.read(blob_id), b"first")
            self.now(self.here.blobs.delete(blob_id))
            if synced_between:
                self.sync()
            self.put(b"second", blob_id)
            self.sync()
            self.sync()
            self.assertEqual(self.read(blob_id), b"second")
            self.assertEqual(self.read(blob_id, self.here), b"second")

    def test_put_again_together(self) -> None:
        """The same with several that go in one request, on a device that hears of both at once."""
        for data in (b"first", b"second"):
            for blob_id in "abc":
                self.put(data, blob_id)
            self.sync(self.here)
            if data == b"first":
                self.sync(self.there)
                for blob_id in "abc":
                    self.now(self.here.blobs.delete(blob_id))
                self.sync(self.here)
        self.sync(self.there)
        self.assertEqual([self.read(blob_id) for blob_id in "abc"], [b"second"] * 3)

    def test_put_again_before_the_list_is_read(self) -> None:
        """That the server lists the old one, under a tag that is known here, does not mean that it has the new one."""
        for blob_id in "ab":
            # Together, so that their tags are known.
            self.put(b"first", blob_id)
        self.sync(self.here)
        self.now(self.here.blobs.delete("a"))
        self.put(b"second", "a")
        self.sync(self.here)
        self.assertEqual(self.read("a"), b"second")

    def test_files_lost(self) -> None:
        """What lost its file here comes with the next sync of the store, though nothing changed on the server."""
        doc = self.now(self.here.create_doc({}))
        self.now(doc.put_attachment(noise(INLINE)))
        self.now(self.here.put_doc(doc))
        for _ in range(2):
            self.now(self.here.sync())
        self.now(self.here.close())
        rmtree(self.folders[0] / f"{ALICE}_blobs")
        self.here = self.open(self.folders[0])
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.REMOTE: 1})
        self.now(self.here.sync())
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {S.SYNCED: 1})

    def test_something_else(self) -> None:
        """A deletion deletes what was meant: what another device put there since stays, and is known here."""
        self.put(b"first")
        self.sync()
        self.now(self.there.blobs.delete("a"))
        self.sync(self.there)
        self.put(b"second", device=self.there)
        self.sync(self.there)
        self.now(self.here.blobs.delete("a"))
        self.now(self.here.blobs.send_missing())
        self.assertIs(self.status(), S.REMOTE)
        self.assertEqual(self.read(device=self.here), b"second")
        self.sync()
        self.assertEqual(self.read(), b"second")

    def test_never_sent(self) -> None:
        """What never went to the server leaves no trace."""
        self.put(b"one")
        self.now(self.here.blobs.delete("a"))
        self.sync()
        self.assertEqual(self.now(self.here.blobs.sync_progress()), {})

    def test_offline(self) -> None:
        """A deletion waits for the server, over a new opening."""
        self.put(b"one")
        self.sync()
        self.server.disconnect()
        self.now(self.here.blobs.delete("a"))
        self.reopen_here()
        self.server.heal()
        self.sync()
        self.assertIsNone(self.status(device=self.there))
