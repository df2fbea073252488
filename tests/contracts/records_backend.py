"""What every backend of records keeps to."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from soledad.errors import NoSuchUser, PreconditionFailed, QuotaExceeded, StaleToken
from soledad.model.ids import BlobId, RecordName, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.interfaces import IRecordsBackend
from soledad.streams import BytesProducer
from soledad.wire.changes import PAGE_SIZE, Idle, NamedHash, NamesPage, Push, SealedRecord, SyncHead, SyncPage

USER, OTHER = UserId("alice"), UserId("Bob")
QUOTA = 10_000

if TYPE_CHECKING:
    _Mixin = SynchronousTestCase
else:
    # Were it a test case, it would be run by itself wherever it is imported.
    _Mixin = object


def record(name: int, data: bytes = b"sealed") -> SealedRecord:
    """Return a record; the numbers of names ascend as they do."""
    return SealedRecord(RecordName(f"{name:064x}"), data)


def names(records: Iterable[SealedRecord | NamedHash]) -> list[int]:
    """Return the numbers of names."""
    return [int(one.name, 16) for one in records]


class RecordsBackendContract(_Mixin):
    """To be mixed in by a class that has `make_backend`."""

    def make_backend(self) -> tuple[IRecordsBackend, Accounts, BlobsBackend]:
        """Return a new backend, whose workers run in place, its users, and their blobs."""
        raise NotImplementedError

    def setUp(self) -> None:
        """Make a backend and two users."""
        self.records, self.accounts, self.blobs = self.make_backend()
        self.successResultOf(self.accounts.add_user(USER))
        self.successResultOf(self.accounts.add_user(OTHER))

    def head(self, user: UserId = USER) -> SyncHead:
        """Return the head."""
        return self.successResultOf(self.records.head(user))

    def push(self, *records: SealedRecord, checkpoint: bytes = b"checkpoint", user: UserId = USER) -> SyncHead:
        """Push records on top of the head."""
        pushing = self.records.push(user, Push(records, checkpoint), self.head(user).tag)
        return self.successResultOf(pushing)

    def pull(self, since: str = "", limit: int = 1000, user: UserId = USER) -> SyncPage:
        """Pull a page."""
        page = self.successResultOf(self.records.pull(user, since, None, limit))
        assert isinstance(page, SyncPage)
        return page

    def pull_all(self, since: str = "", limit: int = 2, user: UserId = USER) -> list[SealedRecord]:
        """Pull page after page."""
        pulled: list[SealedRecord] = []
        more = True
        while more:
            page = self.pull(since, limit, user)
            pulled += page.records
            since, more = page.head.cursor, page.more
        self.assertEqual(since, self.head(user).cursor)
        return pulled

    def used(self, user: UserId = USER) -> int:
        """Return the bytes that count for the quota."""
        return self.successResultOf(self.blobs.get_total_storage(user))

    def test_interface(self) -> None:
        """It has what the interface says."""
        verifyObject(IRecordsBackend, self.records)

    def test_nothing(self) -> None:
        """Before the first push there is no checkpoint, no cursor and no record."""
        page = self.pull()
        self.assertEqual((page.records, page.more), ((), False))
        self.assertEqual((page.head.cursor, page.head.checkpoint, page.head.tag), ("", None, None))
        self.assertEqual(self.head(), page.head)
        self.assertEqual(self.successResultOf(self.records.names(USER, "", 10)), NamesPage((), page.head, False))
        self.assertEqual(self.successResultOf(self.records.fetch(USER, [record(1).name])), page)

    def test_push_and_pull(self) -> None:
        """What was pushed is what is pulled, with the checkpoint."""
        pushed = [record(1, b"one"), record(2, b"two")]
        head = self.push(*pushed, checkpoint=b"true after it")
        page = self.pull()
        self.assertEqual((list(page.records), page.more), (pushed, False))
        self.assertEqual((page.head, page.head.checkpoint), (head, b"true after it"))
        self.assertEqual(head.tag, sha256(b"true after it").hexdigest())

    def test_changes(self) -> None:
        """After a cursor comes what changed since, each record once, in the order of change."""
        first = self.push(record(1), record(2), record(3))
        self.push(record(2, b"changed"), record(4), checkpoint=b"2")
        last = self.push(record(1, b"changed"), checkpoint=b"3")
        self.assertEqual(self.pull(first.cursor).records, (record(2, b"changed"), record(4), record(1, b"changed")))
        self.assertEqual(names(self.pull().records), [3, 2, 4, 1])
        self.assertEqual(self.pull(last.cursor).records, ())

    def test_pages(self) -> None:
        """Pages of any size come to the same, also where one ends within a push; each has its head."""
        self.push(*map(record, range(7)))
        head = self.push(*map(record, range(5, 12)), checkpoint=b"2")
        for limit in range(1, 14):
            self.assertEqual(names(self.pull_all(limit=limit)), list(range(12)), limit)
        page = self.pull(limit=3)
        self.assertEqual((names(page.records), page.more), ([0, 1, 2], True))
        self.assertEqual((page.head.checkpoint, page.head.tag), (b"2", head.tag))

    def test_head_alone(self) -> None:
        """With no record asked for, the head comes, and it is where the next one would go on."""
        head = self.push(record(1))
        self.assertEqual(self.pull(limit=0), SyncPage((), head, False))

    def test_resumed(self) -> None:
        """A cursor in the middle of a push is good for as long as the history; what changed meanwhile comes later."""
        self.push(*map(record, range(6)))
        page = self.pull(limit=3)
        self.push(record(1, b"changed"), record(4, b"changed"), checkpoint=b"2")
        self.push(record(2, b"changed"), checkpoint=b"3")
        self.assertEqual(names(self.pull_all(page.head.cursor)), [3, 5, 1, 4, 2])

    def test_large_pages(self) -> None:
        """A page is ended before it gets too large, but has at least one record."""
        half = bytes(PAGE_SIZE // 2)
        self.push(record(1, half), record(2, half), record(3, half), record(4, half * 3), record(5))
        pages = []
        page = self.pull()
        while page.more:
            pages.append(names(page.records))
            page = self.pull(page.head.cursor)
        self.assertEqual([*pages, names(page.records)], [[1, 2], [3], [4], [5]])

    def test_idle(self) -> None:
        """To who has the head, nothing is sent but that; the tag of another is of no use."""
        head = self.push(record(1))
        idle = self.successResultOf(self.records.pull(USER, head.cursor, head.tag, 10))
        self.assertEqual(idle, Idle(head.blobs))
        page = self.successResultOf(self.records.pull(USER, head.cursor, "0" * 64, 10))
        self.assertEqual(page, SyncPage((), head, False))

    def test_blobs(self) -> None:
        """The head of the blobs is the one that their list has."""
        before = self.push(record(1)).blobs
        self.successResultOf(self.blobs.write_blob(USER, BlobId("b"), BytesProducer(b"bytes")))
        listed = self.successResultOf(self.blobs.list_blobs(USER)).head
        self.assertEqual(self.head().blobs, listed)
        self.assertNotEqual(before, listed)
        head = self.push(record(2), checkpoint=b"2")
        self.assertEqual(self.successResultOf(self.records.pull(USER, head.cursor, head.tag, 1)), Idle(listed))

    def test_names(self) -> None:
        """Names and hashes, in the order of names, page by page."""
        self.push(record(5), record(9, b"nine"))
        head = self.push(record(1), record(5, b"five"), checkpoint=b"2")
        page = self.successResultOf(self.records.names(USER, "", 10))
        expected = [NamedHash(one.name, one.hash) for one in (record(1), record(5, b"five"), record(9, b"nine"))]
        self.assertEqual(page, NamesPage(tuple(expected), head, False))
        page = self.successResultOf(self.records.names(USER, "", 2))
        self.assertEqual((names(page.names), page.more), ([1, 5], True))
        page = self.successResultOf(self.records.names(USER, page.names[-1].name, 2))
        self.assertEqual((names(page.names), page.more), ([9], False))

    def test_fetch(self) -> None:
        """Chosen records, in the order of names, without those that are not there."""
        head = self.push(*map(record, range(1, 6)))
        chosen = [record(number).name for number in (2, 4, 7)]
        page = self.successResultOf(self.records.fetch(USER, chosen))
        self.assertEqual(page, SyncPage((record(2), record(4)), head, False))

    def test_fetch_large(self) -> None:
        """Where they are too many bytes for a page, the last ones have to be asked for again."""
        large = bytes(PAGE_SIZE)
        self.push(*(record(number, large) for number in range(1, 4)))
        page = self.successResultOf(self.records.fetch(USER, [record(1).name, record(3).name]))
        self.assertEqual((names(page.records), page.more), ([1], True))

    def test_follows(self) -> None:
        """A push that follows another head is refused and changes nothing; so is a second first one."""
        old = self.push(record(1))
        head = self.push(record(2), checkpoint=b"2")
        for follows in (None, old.tag, "0" * 64):
            push = Push((record(1, b"no"), record(3)), b"3")
            self.failureResultOf(self.records.push(USER, push, follows), PreconditionFailed)
        self.failureResultOf(self.records.push(OTHER, Push((), b"3"), head.tag), PreconditionFailed)
        self.assertEqual((self.head(), names(self.pull_all())), (head, [1, 2]))
        self.assertEqual(self.pull_all()[0], record(1))

    def test_checkpoint_alone(self) -> None:
        """A push without records is a change too: its cursor is another one."""
        first = self.push(record(1))
        second = self.push(checkpoint=b"2")
        self.assertNotEqual(first.cursor, second.cursor)
        self.assertEqual(self.pull(first.cursor), SyncPage((), second, False))
        third = self.push(record(2), checkpoint=b"3")
        self.assertEqual(self.pull(second.cursor), SyncPage((record(2),), third, False))

    def test_unknown_cursors(self) -> None:
        """A cursor that was never given out is told from one that was; another user's is no better."""
        head = self.push(*map(record, range(3)))
        theirs = self.push(*map(record, range(5)), user=OTHER)
        number, _, tag = head.cursor.partition(".")
        for cursor in (f"4.{tag}", f"{number}.{'0' * 16}", f"{'9' * 18}.{tag}", theirs.cursor, "a", "3", f"3.{tag}."):
            self.failureResultOf(self.records.pull(USER, cursor, None, 10), StaleToken)
        self.failureResultOf(self.records.pull(OTHER, head.cursor, theirs.tag, 10), StaleToken)
        self.assertEqual(names(self.pull(f"1.{tag}").records), [1, 2])

    def test_users_apart(self) -> None:
        """Users have nothing of each other."""
        self.push(record(1, b"alice's"))
        self.push(record(1, b"Bob's"), record(2), checkpoint=b"Bob's", user=OTHER)
        self.assertEqual(self.pull_all(), [record(1, b"alice's")])
        self.assertEqual(self.pull_all(user=OTHER), [record(1, b"Bob's"), record(2)])
        self.assertEqual((self.head().checkpoint, self.head(OTHER).checkpoint), (b"checkpoint", b"Bob's"))

    def test_no_such_user(self) -> None:
        """A user who is not there has nothing and can push nothing."""
        nobody = UserId("nobody")
        for call in (
            self.records.head(nobody),
            self.records.pull(nobody, "", None, 10),
            self.records.names(nobody, "", 10),
            self.records.fetch(nobody, [record(1).name]),
            self.records.push(nobody, Push((record(1),), b"c"), None),
        ):
            self.failureResultOf(call, NoSuchUser)

    def test_removed_user(self) -> None:
        """With a user all records go; who comes later under that name begins anew."""
        head = self.push(record(1))
        self.successResultOf(self.accounts.remove_user(USER))
        self.failureResultOf(self.records.head(USER), NoSuchUser)
        self.successResultOf(self.accounts.add_user(USER))
        self.failureResultOf(self.records.pull(USER, head.cursor, None, 10), StaleToken)
        self.assertEqual((self.pull_all(), self.used()), ([], 0))

    def test_room(self) -> None:
        """Records and checkpoint count for the quota, less what they replace, to the byte."""
        self.successResultOf(self.accounts.set_quota(USER, QUOTA))
        self.push(record(1, bytes(4000)), record(2, bytes(2000)), checkpoint=bytes(500))
        self.assertEqual(self.used(), 6500)
        head = self.push(record(1, bytes(1000)), record(3, bytes(5600)), checkpoint=bytes(1400))
        self.assertEqual(self.used(), QUOTA)
        more = self.records.push(USER, Push((record(2, bytes(2001)),), bytes(1400)), head.tag)
        error = self.failureResultOf(more, QuotaExceeded).value
        self.assertEqual((error.asked, error.available), (1, 0))
        self.assertEqual((self.head(), self.used()), (head, QUOTA))
        self.push(record(2, bytes(2000)), checkpoint=bytes(1400))
        self.successResultOf(self.accounts.set_quota(USER, 1))
        self.push(record(2, bytes(1999)), checkpoint=bytes(1400))
        self.assertEqual(self.used(), QUOTA - 1)

    def test_room_with_blobs(self) -> None:
        """Blobs and records share the room, and neither takes what is set aside for the other."""
        self.successResultOf(self.accounts.set_quota(USER, QUOTA))
        self.push(record(1, bytes(4000)), checkpoint=bytes(1000))
        write = self.blobs.write_blob(USER, BlobId("b"), BytesProducer(bytes(5001)))
        self.failureResultOf(write, QuotaExceeded)
        self.successResultOf(self.blobs.write_blob(USER, BlobId("b"), BytesProducer(bytes(4999))))
        grown = self.records.push(USER, Push((), bytes(1002)), self.head().tag)
        self.failureResultOf(grown, QuotaExceeded)
        self.push(checkpoint=bytes(1001))
        self.assertEqual(self.used(), QUOTA)

    def test_undamaged(self) -> None:
        """Nothing is said to be damaged when nothing is."""
        self.push(*map(record, range(5)))
        self.assertEqual(self.successResultOf(self.records.damaged(None)), ([], None))
