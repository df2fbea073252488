"""What every backend of the server keeps to."""

from __future__ import annotations

from hashlib import sha256
from time import time
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from soledad.errors import (
    BadRequest,
    BlobBusy,
    BlobExists,
    BlobNotFound,
    InvalidRange,
    LengthRequired,
    NoSuchUser,
    PreconditionFailed,
    QuotaExceeded,
    SoledadError,
    StaleToken,
    TooLarge,
    WrongLength,
)
from soledad.model.blob import WHOLE, ByteRange, Flag
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.blobs import STRAY_AGE, BlobsBackend
from soledad.server.index import TOMBSTONE_LIFETIME
from soledad.server.interfaces import IBlobsBackend, IByteStore, Place, Stored
from soledad.streams import BytesProducer, MemoryConsumer
from soledad.wire.listing import Namespaces, Page

USER, OTHER = UserId("alice"), UserId("Bob")
BLOB = BlobId("blob-1")
QUOTA = 1000

if TYPE_CHECKING:
    _Mixin = SynchronousTestCase
else:
    # Were it a test case, it would be run by itself wherever it is imported.
    _Mixin = object


@implementer(IBodyProducer)
class ManualProducer:
    """A body that comes when the test says so."""

    def __init__(self, length: Any) -> None:
        self.length = length
        self.consumer: Any = None
        self.done: Deferred[None] = Deferred()
        self.stopped = False

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Keep the consumer."""
        self.consumer = consumer
        return self.done

    def pauseProducing(self) -> None:
        """The test goes on as it likes."""

    def resumeProducing(self) -> None:
        """The test goes on as it likes."""

    def stopProducing(self) -> None:
        """Note it."""
        self.stopped = True


class BlobsBackendContract(_Mixin):
    """To be mixed in by a class that has `make_backend`."""

    def make_backend(self, clock: Clock) -> tuple[BlobsBackend, Accounts]:
        """Return a new backend, whose workers run in place, and its users."""
        raise NotImplementedError

    def setUp(self) -> None:
        """Make a backend with two users."""
        self.clock = Clock()
        # Files have the time of the system.
        self.clock.advance(int(time()))
        self.backend, self.accounts = self.make_backend(self.clock)
        self.successResultOf(self.accounts.add_user(USER, QUOTA))
        self.successResultOf(self.accounts.add_user(OTHER))

    def write(self, data: bytes = b"bytes", blob: str = BLOB, user: UserId = USER, namespace: str = DEFAULT) -> Stored:
        """Store a blob."""
        return self.successResultOf(
            self.backend.write_blob(user, BlobId(blob), BytesProducer(data), Namespace(namespace))
        )

    def reading(self, blob: str = BLOB, wanted: ByteRange = WHOLE, etag: str | None = None) -> Deferred[bytes]:
        """Read a blob of USER."""
        body = MemoryConsumer()
        work = self.backend.read_blob(USER, BlobId(blob), body, DEFAULT, wanted, etag)
        return work.addCallback(lambda ignored: body.value())

    def read(self, blob: str = BLOB, wanted: ByteRange = WHOLE) -> bytes:
        """Read a blob of USER that is there."""
        return self.successResultOf(self.reading(blob, wanted))

    def names(self, page: Page) -> list[str]:
        """Return the ids of a page."""
        return [info.blob_id for info in page.blobs]

    def page(self, **options: Any) -> Page:
        """List blobs of USER."""
        return self.successResultOf(self.backend.list_blobs(USER, **options))

    def assert_nothing_kept(self) -> None:
        """Look whether neither bytes nor room are left of what failed."""
        self.assertEqual(self.successResultOf(self.backend.store.list()), [])
        self.write(b"x" * QUOTA, "whole-quota")

    def test_interfaces(self) -> None:
        """It has all the methods."""
        verifyObject(IBlobsBackend, self.backend)
        verifyObject(IByteStore, self.backend.store)

    def test_write_read(self) -> None:
        """What was written is read; its tag is its SHA-256."""
        stored = self.write(b"hello")
        self.assertEqual(stored, Stored(5, sha256(b"hello").hexdigest()))
        self.assertEqual(self.read(), b"hello")
        self.assertEqual(self.successResultOf(self.backend.get_tag(USER, BLOB)), stored.etag)
        self.assertEqual(self.successResultOf(self.backend.get_blob_size(USER, BLOB)), 5)

    def test_empty(self) -> None:
        """A blob may be empty."""
        self.write(b"")
        self.assertEqual(self.read(), b"")

    def test_large(self) -> None:
        """A blob may be larger than any buffer."""
        data = bytes(range(256)) * 20_000
        self.write(data, user=OTHER)
        body = MemoryConsumer()
        self.successResultOf(self.backend.read_blob(OTHER, BLOB, body))
        self.assertEqual(body.value(), data)

    def test_ranges(self) -> None:
        """Ranges are cut at the end; behind it there is nothing to ask for."""
        self.write(b"0123456789")
        self.assertEqual(self.read(wanted=ByteRange(2, 3)), b"234")
        self.assertEqual(self.read(wanted=ByteRange(8, 100)), b"89")
        self.assertEqual(self.read(wanted=ByteRange(10)), b"")
        self.failureResultOf(self.reading(wanted=ByteRange(11)), InvalidRange)

    def test_write_once(self) -> None:
        """A second write under the same id is refused and changes nothing."""
        self.write(b"first")
        second = ManualProducer(6)
        self.failureResultOf(self.backend.write_blob(USER, BLOB, second), BlobExists)
        self.assertIs(second.consumer, None)
        self.assertEqual(self.read(), b"first")

    def test_two_writes_at_once(self) -> None:
        """Of two writes that overlap, the one that ends first wins; the other leaves nothing."""
        slow, quick = ManualProducer(4), ManualProducer(5)
        losing = self.backend.write_blob(USER, BLOB, slow)
        winning = self.backend.write_blob(USER, BLOB, quick)
        slow.consumer.write(b"slow")
        quick.consumer.write(b"quick")
        quick.done.callback(None)
        self.successResultOf(winning)
        slow.done.callback(None)
        self.failureResultOf(losing, BlobExists)
        self.assertEqual(self.read(), b"quick")
        self.assertEqual(len(self.successResultOf(self.backend.store.list())), 1)
        self.write(b"x" * (QUOTA - 5), "the-rest")

    def test_separate(self) -> None:
        """Users, namespaces, and upper and lower case are different places."""
        self.write(b"1")
        self.write(b"2", user=OTHER)
        self.write(b"3", namespace="attachments")
        self.write(b"4", BLOB.upper())
        self.assertEqual((self.read(), self.read(BLOB.upper())), (b"1", b"4"))
        self.assertEqual(self.names(self.page()), [BLOB, BLOB.upper()])

    def test_unknown_length(self) -> None:
        """A body must say how long it is; no byte is asked for otherwise."""
        body = ManualProducer(UNKNOWN_LENGTH)
        self.failureResultOf(self.backend.write_blob(USER, BLOB, body), LengthRequired)
        self.assertIs(body.consumer, None)

    def test_failing_body(self) -> None:
        """A body that fails half-way leaves nothing."""
        body = ManualProducer(10)
        work = self.backend.write_blob(USER, BLOB, body)
        body.consumer.write(b"half")
        self.failureResultOf(self.reading(), BlobNotFound)
        body.done.errback(ZeroDivisionError())
        self.failureResultOf(work, ZeroDivisionError)
        self.assert_nothing_kept()

    def test_short_and_long_bodies(self) -> None:
        """A body of another length than it said leaves nothing."""
        short = ManualProducer(10)
        work = self.backend.write_blob(USER, BLOB, short)
        short.consumer.write(b"nine byte")
        short.done.callback(None)
        self.failureResultOf(work, WrongLength)
        long = ManualProducer(2)
        work = self.backend.write_blob(USER, BLOB, long)
        long.consumer.write(b"three")
        self.failureResultOf(work, WrongLength)
        self.assertTrue(long.stopped)
        self.assert_nothing_kept()

    def test_cancelled_write(self) -> None:
        """A write that is cancelled stops its body and leaves nothing."""
        body = ManualProducer(10)
        work = self.backend.write_blob(USER, BLOB, body)
        body.consumer.write(b"half")
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.assertTrue(body.stopped)
        self.assert_nothing_kept()

    def test_quota(self) -> None:
        """The quota holds to the byte, uploads under way included; nothing is asked for beyond it."""
        self.write(b"x" * 400, "kept")
        under_way = ManualProducer(600)
        work = self.backend.write_blob(USER, BlobId("under-way"), under_way)
        refused = ManualProducer(1)
        error = self.failureResultOf(self.backend.write_blob(USER, BLOB, refused), QuotaExceeded).value
        self.assertEqual((error.asked, error.available), (1, 0))
        self.assertIs(refused.consumer, None)
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.write(b"x" * 600)
        self.assertEqual(self.successResultOf(self.backend.get_total_storage(USER)), QUOTA)

    def test_deleting_gives_room(self) -> None:
        """The room of a deleted blob can be used again, and so can its id."""
        self.write(b"x" * QUOTA)
        self.successResultOf(self.backend.delete_blob(USER, BLOB))
        self.assertEqual(self.successResultOf(self.backend.get_total_storage(USER)), 0)
        self.write(b"y" * QUOTA)
        self.assertEqual(self.read(), b"y" * QUOTA)
        self.assertEqual(self.page(deleted=True).blobs, ())

    def test_delete(self) -> None:
        """A deleted blob is gone, with its bytes; its tombstone is listed."""
        self.write(b"12345")
        self.successResultOf(self.backend.delete_blob(USER, BLOB, DEFAULT, b"sealed"))
        self.failureResultOf(self.reading(), BlobNotFound)
        self.failureResultOf(self.backend.delete_blob(USER, BLOB), BlobNotFound)
        self.assertEqual(self.page().blobs, ())
        (tombstone,) = self.page(deleted=True).blobs
        self.assertEqual((tombstone.deleted, tombstone.tombstone, tombstone.length), (True, b"sealed", 5))
        self.assertEqual(self.successResultOf(self.backend.store.list()), [])

    def test_conditions(self) -> None:
        """Reading and deleting can depend on the tag."""
        stored = self.write()
        self.failureResultOf(self.reading(etag="0" * 64), BlobNotFound)
        self.failureResultOf(self.backend.delete_blob(USER, BLOB, etag="0" * 64), PreconditionFailed)
        self.assertEqual(self.successResultOf(self.reading(etag=stored.etag)), b"bytes")
        self.successResultOf(self.backend.delete_blob(USER, BLOB, etag=stored.etag))

    def test_deleted_while_read(self) -> None:
        """Who began to read reads to the end."""
        data = b"x" * 3_000_000
        self.write(data, user=OTHER)
        body = PausingConsumer()
        work = self.backend.read_blob(OTHER, BLOB, body)
        self.successResultOf(self.backend.delete_blob(OTHER, BLOB))
        self.assertNoResult(work)
        body.go_on()
        self.successResultOf(work)
        self.assertEqual(b"".join(body.pieces), data)

    def test_flags(self) -> None:
        """Flags are set as a whole, and lists can be narrowed to one."""
        for blob in ("a", "b", "c"):
            self.write(blob=blob)
        self.successResultOf(self.backend.set_flags(USER, BlobId("b"), (Flag.PENDING, Flag.FAILED)))
        self.assertEqual(self.successResultOf(self.backend.get_flags(USER, BlobId("b"))), (Flag.PENDING, Flag.FAILED))
        self.assertEqual(self.names(self.page(filter_flag=Flag.FAILED)), ["b"])
        self.assertEqual(self.names(self.page(filter_flag=Flag.PROCESSED)), [])
        self.failureResultOf(self.backend.set_flags(USER, BlobId("none"), ()), BlobNotFound)

    def test_pages(self) -> None:
        """A list in pages has everything once, in either order."""
        blobs = [f"blob{n}" for n in (3, 1, 4, 5, 9, 2, 6)]
        for blob in blobs:
            self.write(b"", blob)
        for order, expected in ((None, blobs), ("+date", blobs), ("-date", blobs[::-1])):
            listed: list[str] = []
            after: str | None = None
            while True:
                page = self.page(order_by=order, limit=3, after=after)
                listed += self.names(page)
                after = page.next
                if after is None:
                    break
            self.assertEqual(listed, expected)

    def test_count(self) -> None:
        """Counting goes by the same conditions as listing."""
        for blob in ("a", "b", "c"):
            self.write(blob=blob)
        self.successResultOf(self.backend.delete_blob(USER, BlobId("a")))
        count, head = self.successResultOf(self.backend.count(USER))
        self.assertEqual((count, head), (2, self.page().head))
        self.assertEqual(self.successResultOf(self.backend.count(USER, deleted=True))[0], 1)
        self.assertEqual(self.successResultOf(self.backend.count(USER, filter_flag=Flag.PENDING))[0], 0)

    def test_list_namespaces(self) -> None:
        """The user's own namespaces are told in their order, with the change up to which that is so."""
        told = self.successResultOf(self.backend.list_namespaces(USER))
        self.assertEqual(told, Namespaces((), self.page().head))
        for blob, namespace in enumerate(("mails", "attachments", "a_b", "a-b", "a0", "mails")):
            self.write(blob=str(blob), namespace=namespace)
        self.write(user=OTHER, namespace="theirs")
        told = self.successResultOf(self.backend.list_namespaces(USER))
        self.assertEqual(told.names, ("a-b", "a0", "a_b", "attachments", "mails"))
        self.assertEqual(told.head, self.page().head)

    def test_namespaces_of_tombstones(self) -> None:
        """A namespace in which everything was deleted is told until the tombstones expire."""
        self.write(namespace="mails")
        self.successResultOf(self.backend.delete_blob(USER, BLOB, Namespace("mails")))
        self.assertEqual(self.successResultOf(self.backend.list_namespaces(USER)).names, ("mails",))
        self.clock.advance(TOMBSTONE_LIFETIME)
        self.successResultOf(self.backend.sweep())
        self.assertEqual(self.successResultOf(self.backend.list_namespaces(USER)).names, ())

    def test_changes(self) -> None:
        """What changed since is listed once each, in order, with tombstones and flags, in pages."""
        self.write(blob="old")
        since = self.page().head
        for blob in ("a", "b", "c"):
            self.write(blob=blob)
        self.write(blob="elsewhere", namespace="attachments")
        self.successResultOf(self.backend.set_flags(USER, BlobId("a"), (Flag.PENDING,)))
        self.successResultOf(self.backend.delete_blob(USER, BlobId("b")))
        first = self.successResultOf(self.backend.get_changes(USER, since, limit=2))
        assert first.next is not None
        second = self.successResultOf(self.backend.get_changes(USER, first.next, limit=2))
        self.assertEqual(self.names(first) + self.names(second), ["c", "a", "b"])
        self.assertEqual([info.deleted for info in second.blobs], [True])
        self.assertIs(second.next, None)
        self.assertEqual(self.successResultOf(self.backend.get_changes(USER, second.head)).blobs, ())

    def test_foreign_tokens(self) -> None:
        """A token of another history is stale, one of the other kind of list, or none at all, a mistake."""
        self.write()
        ours = self.page().head
        theirs = self.successResultOf(self.backend.list_blobs(OTHER)).head
        ahead = ours.rpartition(".")[0] + ".2"
        for token in (theirs, ahead):
            self.failureResultOf(self.backend.get_changes(USER, token), StaleToken)
        for token in ("", "x", ours + "\n", ours.replace("c.", "d.")):
            self.failureResultOf(self.backend.get_changes(USER, token), BadRequest)
        self.failureResultOf(self.backend.list_blobs(USER, after=ours), BadRequest)

    def test_expiring_tombstones(self) -> None:
        """Tombstones go when their time is over; who was away for longer must compare in full."""
        before = self.page().head
        self.write()
        self.successResultOf(self.backend.delete_blob(USER, BLOB))
        after = self.page().head
        self.clock.advance(TOMBSTONE_LIFETIME - 1)
        self.successResultOf(self.backend.sweep())
        self.assertEqual(len(self.page(deleted=True).blobs), 1)
        self.clock.advance(1)
        self.successResultOf(self.backend.sweep())
        self.assertEqual(self.page(deleted=True).blobs, ())
        self.failureResultOf(self.backend.get_changes(USER, before), StaleToken)
        self.assertEqual(self.successResultOf(self.backend.get_changes(USER, after)).blobs, ())

    def test_sweep(self) -> None:
        """Bytes without a row go after a day; those of blobs stay."""
        self.write(b"kept")
        (kept,) = self.successResultOf(self.backend.store.list())
        stray = Place(USER, DEFAULT, BlobId("Stray"), "0" * 32)
        self.successResultOf(self.backend.store.write(stray, BytesProducer(b"stray")))
        self.assertEqual(self.successResultOf(self.backend.sweep()), 0)
        self.clock.advance(STRAY_AGE + 60)
        self.assertEqual(self.successResultOf(self.backend.sweep()), 1)
        self.assertEqual([found.place for found in self.successResultOf(self.backend.store.list())], [kept.place])
        self.assertEqual(self.read(), b"kept")

    def test_no_such_user(self) -> None:
        """Nobody but users has blobs."""
        nobody = UserId("nobody")
        self.failureResultOf(self.backend.write_blob(nobody, BLOB, BytesProducer(b"")), NoSuchUser)
        self.failureResultOf(self.backend.list_blobs(nobody), NoSuchUser)
        self.failureResultOf(self.backend.list_namespaces(nobody), NoSuchUser)

    # --- many at a time -------------------------------------------------------------------------------

    def batch(self, *blobs: tuple[str | None, bytes], user: UserId = USER) -> list[Any]:
        """Store many blobs; return what became of each: a tag, the class of an error, or nothing."""
        wanted = [(None if name is None else BlobId(name), len(data)) for name, data in blobs]
        body = BytesProducer(b"".join(data for _, data in blobs))
        outcomes = self.successResultOf(self.backend.write_blobs(user, wanted, body))
        return [one.etag if isinstance(one, Stored) else None if one is None else type(one) for one in outcomes]

    def read_batch(self, *names: str, limit: int = 10_000, largest: int = 10_000) -> list[bytes | SoledadError]:
        """Read the first of many blobs."""
        ids = [BlobId(name) for name in names]
        return self.successResultOf(self.backend.read_blobs(USER, ids, DEFAULT, limit, largest))

    def test_batch(self) -> None:
        """Many blobs come as one run of bytes, and are blobs like any other: numbered, counted, in order."""
        self.write(b"before", "before")
        self.successResultOf(self.backend.delete_blob(USER, BlobId("before")))
        since = self.page().head
        blobs = [("b", b"12345"), ("A", b""), ("before", b"again"), ("c", b"x" * 100), ("empty", b"")]
        self.assertEqual(self.batch(*blobs), [sha256(data).hexdigest() for _, data in blobs])
        self.assertEqual([self.read(name) for name, _ in blobs], [data for _, data in blobs])
        self.assertEqual(self.names(self.page()), [name for name, _ in blobs])
        changes = self.successResultOf(self.backend.get_changes(USER, since))
        self.assertEqual([info.changed for info in changes.blobs], [3, 4, 5, 6, 7])
        self.assertEqual(self.page(deleted=True).blobs, ())
        self.assertEqual(self.successResultOf(self.backend.get_total_storage(USER)), 110)
        self.assertEqual(len(self.successResultOf(self.backend.store.list())), 5)

    def test_large_batch(self) -> None:
        """A batch may be larger than any buffer, and its blobs too."""
        blobs = [
            (f"{number:04}", bytes([number % 256]) * size) for number, size in enumerate([1, 3_000_000, 70_000] * 5)
        ]
        self.batch(*blobs, user=OTHER)
        for name, data in blobs:
            body = MemoryConsumer()
            self.successResultOf(self.backend.read_blob(OTHER, BlobId(name), body))
            self.assertEqual(body.value(), data)

    def test_refusals_in_a_batch(self) -> None:
        """What cannot be stored is told for each blob, the rest is stored; bytes without an id are dropped."""
        self.write(b"first", "taken")
        blobs = [
            ("a", b"1" * 500),
            ("taken", b"2"),
            (None, b"3" * 5000),
            ("too-much", b"4" * 600),
            ("a", b"5"),
            ("b", b"6" * (QUOTA - 505)),
            ("one-more", b"7"),
        ]
        outcomes = self.batch(*blobs)
        self.assertEqual(outcomes[1:5], [BlobExists, None, QuotaExceeded, BlobExists])
        self.assertEqual(outcomes[6], QuotaExceeded)
        self.assertEqual(self.names(self.page()), ["taken", "a", "b"])
        self.assertEqual((self.read("a"), self.read("b")[:1], self.read("taken")), (b"1" * 500, b"6", b"first"))
        self.assertEqual(self.successResultOf(self.backend.get_total_storage(USER)), QUOTA)

    def test_nothing_to_store(self) -> None:
        """If no blob of a batch can be stored, no byte is asked for."""
        self.write()
        body = ManualProducer(6)
        outcomes = self.successResultOf(self.backend.write_blobs(USER, [(BLOB, 5), (None, 1)], body))
        self.assertEqual([type(outcome) for outcome in outcomes], [BlobExists, type(None)])
        self.assertIs(body.consumer, None)

    def test_batch_reserves(self) -> None:
        """The room of a batch is set aside before its first byte, and given back with it."""
        body = ManualProducer(QUOTA)
        work = self.backend.write_blobs(USER, [(BlobId("a"), 400), (BlobId("b"), 600)], body)
        self.failureResultOf(self.backend.write_blob(USER, BLOB, BytesProducer(b"x")), QuotaExceeded)
        body.consumer.write(b"x" * 500)
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.assertTrue(body.stopped)
        self.assert_nothing_kept()

    def test_broken_batches(self) -> None:
        """A batch that fails, ends early or goes on too long leaves nothing, however much of it was whole."""
        for data, ending, error in (
            (b"x" * 700, ZeroDivisionError(), ZeroDivisionError),
            (b"x" * 999, None, WrongLength),
            (b"x" * 1001, None, WrongLength),
        ):
            body = ManualProducer(QUOTA)
            work = self.backend.write_blobs(USER, [(BlobId("a"), 400), (BlobId("b"), 600)], body)
            body.consumer.write(data)
            self.assertEqual(self.page().blobs, ())
            if ending is not None:
                body.done.errback(ending)
            elif not body.stopped:
                body.done.callback(None)
            self.failureResultOf(work, error)
            self.assertEqual(self.page().blobs, ())
            self.assertEqual(self.successResultOf(self.backend.store.list()), [])
        self.assert_nothing_kept()

    def test_overtaken_in_a_batch(self) -> None:
        """An id that is taken while a batch comes is refused at its end; the rest is stored."""
        body = ManualProducer(10)
        work = self.backend.write_blobs(USER, [(BlobId("a"), 5), (BlobId("b"), 5)], body)
        self.write(b"quick", "a")
        body.consumer.write(b"slow-slow-")
        body.done.callback(None)
        first, second = self.successResultOf(work)
        self.assertIsInstance(first, BlobExists)
        self.assertIsInstance(second, Stored)
        self.assertEqual((self.read("a"), self.read("b")), (b"quick", b"slow-"))
        self.assertEqual(len(self.successResultOf(self.backend.store.list())), 2)
        self.write(b"x" * (QUOTA - 10), "the-rest")

    def test_read_batch(self) -> None:
        """As many are read as the limit holds, one at least; what is missing or too large is told in its place."""
        self.batch(("a", b"12345"), ("b", b""), ("c", b"x" * 600), ("d", b"yy"))
        self.assertEqual(self.read_batch("d", "a", "b"), [b"yy", b"12345", b""])
        self.assertEqual(self.read_batch("c", "a", limit=10), [b"x" * 600])
        self.assertEqual(self.read_batch("a", "d", "c", limit=10), [b"12345", b"yy"])
        found = self.read_batch("none", "c", "a", largest=599)
        self.assertEqual([type(one) for one in found], [BlobNotFound, TooLarge, bytes])

    # --- items that are taken -------------------------------------------------------------------------

    def flags(self, blob: str = BLOB) -> tuple[Flag, ...]:
        """Return the flags of a blob."""
        return self.successResultOf(self.backend.get_flags(USER, BlobId(blob)))

    def claiming(self, seconds: int = 60) -> Deferred[None]:
        """Take the blob."""
        return self.backend.claim(USER, BLOB, seconds)

    def test_claim(self) -> None:
        """Who takes an item has it until the time is over; then it is pending again, and can be taken."""
        self.write()
        self.successResultOf(self.backend.set_flags(USER, BLOB, (Flag.PENDING,)))
        self.successResultOf(self.claiming())
        self.assertEqual(self.flags(), (Flag.PROCESSING,))
        self.clock.advance(59)
        self.failureResultOf(self.claiming(), BlobBusy)
        self.assertEqual(self.names(self.page(filter_flag=Flag.PROCESSING)), [BLOB])
        self.clock.advance(1)
        self.assertEqual(self.flags(), (Flag.PENDING,))
        self.successResultOf(self.claiming(5))
        self.assertEqual(self.flags(), (Flag.PROCESSING,))
        self.failureResultOf(self.backend.claim(USER, BlobId("none"), 1), BlobNotFound)

    def test_claims_end(self) -> None:
        """Setting flags ends a claim; PROCESSING that was set so does not run out."""
        self.write()
        self.successResultOf(self.claiming())
        self.successResultOf(self.backend.set_flags(USER, BLOB, (Flag.FAILED,)))
        self.clock.advance(100)
        self.assertEqual(self.flags(), (Flag.FAILED,))
        self.successResultOf(self.backend.set_flags(USER, BLOB, (Flag.PROCESSING,)))
        self.clock.advance(10**6)
        self.failureResultOf(self.claiming(), BlobBusy)
        self.assertEqual(self.flags(), (Flag.PROCESSING,))

    def test_claims_are_changes(self) -> None:
        """That an item is taken, and that the time is over, are changes with numbers of their own."""
        self.write()
        before = self.page().head
        self.successResultOf(self.claiming())
        changes = self.successResultOf(self.backend.get_changes(USER, before))
        self.assertEqual([(info.flags, info.changed) for info in changes.blobs], [((Flag.PROCESSING,), 2)])
        self.clock.advance(60)
        again = self.successResultOf(self.backend.get_changes(USER, changes.head))
        self.assertEqual([(info.flags, info.changed) for info in again.blobs], [((Flag.PENDING,), 3)])
        self.assertEqual(self.successResultOf(self.backend.get_changes(USER, again.head)).blobs, ())

    def test_lists_of_claimed(self) -> None:
        """Lists and counts by flags go by what is true at the time."""
        self.write()
        self.successResultOf(self.claiming())
        self.clock.advance(60)
        self.assertEqual(self.page().blobs[0].flags, (Flag.PENDING,))
        self.assertEqual(self.successResultOf(self.backend.count(USER, filter_flag=Flag.PENDING))[0], 1)
        self.assertEqual(self.names(self.page(filter_flag=Flag.PENDING)), [BLOB])
        self.assertEqual(self.names(self.page(filter_flag=Flag.PROCESSING)), [])
        self.successResultOf(self.backend.delete_blob(USER, BLOB))
        self.write()
        self.assertEqual(self.flags(), ())


@implementer(IConsumer)
class PausingConsumer:
    """Wants nothing after the first piece, until the test says so."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Keep it."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """All came."""

    def write(self, data: bytes) -> None:
        """Take a piece; pause after the first."""
        if not self.pieces:
            self._producer.pauseProducing()
        self.pieces.append(data)

    def go_on(self) -> None:
        """Take the rest."""
        self._producer.resumeProducing()
