"""Tests of the databases: what they open, what shares a commit, and what a failure leaves."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_IMODE
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local import database as database_module
from soledad.client.local.database import APPLICATION_ID, GROUP, Cursor, Database
from soledad.client.local.schema import BLOBS, BLOBS_PAGE, DOCUMENTS, DOCUMENTS_PAGE
from soledad.deferreds import InPlace, unawaited
from soledad.errors import ForeignStore, InvalidContent, NewerSchema, NotADatabase, StorageFailed, StorageFull
from tests.workers import HeldWorker

T = TypeVar("T")
KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SCHEMA = ("CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL); CREATE TABLE item (value NOT NULL)",)
#: What would have to be readable in a database that is not encrypted.
SECRET = "open sesame, open sesame"


def add(cursor: Cursor, value: object) -> int:
    """Store a value; return how many there are."""
    cursor.execute("INSERT INTO item VALUES (?)", (value,))
    return int(cursor.execute("SELECT count(*) FROM item").fetchone()[0])


def add_and_refuse(cursor: Cursor, value: object) -> None:
    """Store a value and say no."""
    add(cursor, value)
    raise InvalidContent("no")


def values(cursor: Cursor) -> list[object]:
    """Return what is stored."""
    return [row[0] for row in cursor.execute("SELECT value FROM item ORDER BY rowid")]


def allow_pages(cursor: Cursor, more: int) -> None:
    """Let the database grow by so many pages at most: what a full disk is to it."""
    (count,) = cursor.execute("PRAGMA page_count").fetchone()
    cursor.execute(f"PRAGMA max_page_count = {count + more}")


class DatabaseTestCase(SynchronousTestCase):
    """A place for a database."""

    def setUp(self) -> None:
        """Choose the place."""
        self.path = Path(self.mktemp())

    def open(
        self,
        writing: HeldWorker | InPlace | None = None,
        *,
        key: bytes = KEY,
        user: str = "user",
        schema: tuple[str, ...] = SCHEMA,
    ) -> Database:
        """Open the database; it is closed at the end."""
        workers = writing or InPlace(), InPlace()
        database = Database.open(self.path, key, user, schema, 4096, workers)
        self.addCleanup(database.abandon)
        return database


class OpeningTests(DatabaseTestCase):
    """What is taken for a database of ours."""

    def assertRefused(self, error: type[Exception], **arguments: object) -> None:
        """Opening fails with the error, and changes nothing."""
        before = self.path.read_bytes()
        with self.assertRaises(error):
            self.open(**arguments)  # type: ignore[arg-type]
        self.assertEqual(self.path.read_bytes(), before)

    def made(self) -> None:
        """Make a database with something in it, and close it."""
        database = Database.open(self.path, KEY, "user", SCHEMA, 4096, (InPlace(), InPlace()))
        for _ in range(20):
            database.write_now(add, SECRET * 100)
        database.abandon()

    def test_encrypted(self) -> None:
        """Nothing that is stored, and nothing of SQLite's own, can be read in any of the files."""
        database = self.open()
        self.successResultOf(database.write(add, SECRET))
        for path in self.path.parent.glob(f"{self.path.name}*"):
            data = path.read_bytes()
            self.assertNotIn(SECRET.encode(), data, path.name)
            self.assertNotIn(b"SQLite format", data, path.name)
            self.assertNotIn(b"CREATE TABLE", data, path.name)

    def test_for_the_owner_only(self) -> None:
        """The database and the files that SQLite makes beside it are their owner's, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        database = self.open()
        self.successResultOf(database.write(add, 1))
        modes = {p.name: S_IMODE(p.stat().st_mode) for p in self.path.parent.glob(f"{self.path.name}*")}
        self.assertEqual(modes, {self.path.name + suffix: 0o600 for suffix in ("", "-wal", "-shm")})

    def test_settings(self) -> None:
        """Every connection has the settings that the format and durability need."""
        database = self.open()
        expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2, "secure_delete": 0}
        for connection in (database._writer, database._reader):
            found = {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in (*expected, "cipher_hmac_algorithm")
            }
            self.assertEqual(found, expected | {"cipher_hmac_algorithm": "HMAC_SHA256"})
        application = database.read_now(lambda cursor: cursor.execute("PRAGMA application_id").fetchone())
        self.assertEqual(application, (APPLICATION_ID,))

    def test_cache(self) -> None:
        """The writer keeps as many pages as it is told."""
        database = Database.open(self.path, KEY, "user", SCHEMA, 4096, (InPlace(), InPlace()), 12345)
        self.addCleanup(database.abandon)
        self.assertEqual(database._writer.execute("PRAGMA cache_size").fetchone(), (-12345,))

    def test_page_sizes(self) -> None:
        """The two databases have the page sizes that were measured to be best."""
        for schema, size in ((DOCUMENTS, DOCUMENTS_PAGE), (BLOBS, BLOBS_PAGE)):
            path = Path(self.mktemp())
            database = Database.open(path, KEY, "user", schema, size, (InPlace(), InPlace()))
            found = database.read_now(lambda cursor: cursor.execute("PRAGMA page_size").fetchone())
            database.abandon()
            self.assertEqual(found, (str(size),))

    def test_again(self) -> None:
        """What was stored is there when it is opened again."""
        self.made()
        self.assertEqual(len(self.open().read_now(values)), 20)

    def test_wrong_key(self) -> None:
        """Another key opens nothing."""
        self.made()
        self.assertRefused(NotADatabase, key=OTHER_KEY)

    def test_not_encrypted(self) -> None:
        """A plain SQLite database is refused, and not written to."""
        plain = sqlite3.connect(self.path)
        plain.execute("CREATE TABLE item (value)")
        plain.commit()
        plain.close()
        self.assertRefused(NotADatabase)

    def test_text(self) -> None:
        """A file that is something else is refused."""
        self.path.write_bytes(b"shopping list\n" * 1000)
        self.assertRefused(NotADatabase)

    def test_cut(self) -> None:
        """A file that was cut is refused when it is opened, wherever the cut is, or when the missing part is read."""
        self.made()
        whole = self.path.read_bytes()
        for size in (100, 4095, 4096, 3 * 4096, len(whole) - 4096, len(whole) - 1):
            self.path = Path(self.mktemp())
            self.path.write_bytes(whole[:size])
            with self.assertRaises(NotADatabase, msg=str(size)):
                self.open().read_now(values)

    def test_flipped(self) -> None:
        """A page that was tampered with is refused when it is read; nothing that was not stored comes out."""
        self.made()
        whole = self.path.read_bytes()
        # The second page is the map of pointers, which only vacuuming reads.
        for page in (0, *range(2, len(whole) // 4096)):
            flipped = bytearray(whole)
            flipped[page * 4096 + 1000] ^= 1
            self.path = Path(self.mktemp())
            self.path.write_bytes(flipped)
            with self.assertRaises(NotADatabase, msg=str(page)):
                self.open().read_now(lambda cursor: (values(cursor), cursor.execute("SELECT * FROM meta").fetchall()))

    def test_empty(self) -> None:
        """An empty file is what a power cut leaves of making a database: it is made now."""
        self.path.touch()
        self.assertEqual(self.open().read_now(values), [])

    def test_link(self) -> None:
        """A symbolic link in its place is not followed."""
        os.symlink(self.mktemp(), self.path)
        with self.assertRaises(StorageFailed):
            self.open()

    def test_other_user(self) -> None:
        """A database knows whose it is."""
        self.made()
        with self.assertRaises(ForeignStore):
            self.open(user="somebody-else")
        self.assertEqual(len(self.open().read_now(values)), 20)

    def test_no_folder(self) -> None:
        """A place that is not there is an error of the disk."""
        self.path = self.path / "missing" / "there"
        with self.assertRaises(StorageFailed):
            self.open()


class MigrationTests(DatabaseTestCase):
    """How a schema changes."""

    def test_newer(self) -> None:
        """A later version adds its migrations to what is there."""
        self.open().write_now(add, 1)
        database = self.open(schema=(*SCHEMA, "CREATE TABLE more (value); INSERT INTO more SELECT value FROM item"))
        self.assertEqual(database.read_now(lambda c: c.execute("SELECT value FROM more").fetchall()), [(1,)])

    def test_older(self) -> None:
        """An earlier version refuses what a later one wrote, and leaves it."""
        self.open(schema=(*SCHEMA, "CREATE TABLE more (value)")).write_now(add, 1)
        with self.assertRaises(NewerSchema) as caught:
            self.open()
        self.assertEqual((caught.exception.found, caught.exception.known), (2, 1))

    def test_all_or_nothing(self) -> None:
        """A migration that fails in the middle leaves the schema before it."""
        self.open().write_now(add, 1)
        with self.assertRaises(StorageFailed):
            self.open(schema=(*SCHEMA, "CREATE TABLE more (value); CREATE TABLE more (value)"))
        tables = self.open().read_now(
            lambda c: c.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall()
        )
        self.assertEqual(tables, [])


class CommitTests(DatabaseTestCase):
    """What shares a commit, and what a refusal or a failure concerns."""

    def setUp(self) -> None:
        """Open a database whose writer waits for the test, and count its commits."""
        super().setUp()
        self.worker = HeldWorker()
        self.database = self.open(self.worker)
        self.commits = 0
        self.database._writer.set_trace_callback(self.count)

    def count(self, statement: str) -> None:
        """Count what is a commit."""
        self.commits += statement == "COMMIT"

    def stored(self) -> list[object]:
        """Return what is there."""
        return self.database.read_now(values)

    def test_group(self) -> None:
        """Of a hundred writes in flight, the first has a commit, and all the others share one."""
        writes = [self.database.write(add, number) for number in range(100)]
        self.worker.drain()
        self.assertEqual([self.successResultOf(write) for write in writes], list(range(1, 101)))
        self.assertEqual(self.commits, 2)

    def test_largest_group(self) -> None:
        """A group has its limit, so that the answers do not hold up the reactor."""
        for number in range(1 + 2 * GROUP):
            unawaited(self.database.write(add, number))
        self.worker.drain()
        self.assertEqual(self.commits, 3)
        self.assertEqual(self.stored(), list(range(1 + 2 * GROUP)))

    def test_nothing_before_the_commit(self) -> None:
        """A write fires after its commit, and a reader sees nothing before."""
        write = self.database.write(add, 1)
        self.assertNoResult(write)
        self.assertEqual(self.stored(), [])
        self.worker.step(after=lambda: self.assertNoResult(write))
        self.assertEqual(self.stored(), [1])
        self.successResultOf(write)

    def test_refusal(self) -> None:
        """A job that says no undoes its own work and nobody else's."""
        first = self.database.write(add, 0)
        writes = [self.database.write(add_and_refuse if number % 3 == 0 else add, number) for number in range(1, 10)]
        self.worker.drain()
        self.successResultOf(first)
        for number, write in enumerate(writes, 1):
            if number % 3 == 0:
                self.failureResultOf(write, InvalidContent)
            else:
                self.successResultOf(write)
        self.assertEqual(self.stored(), [0, 1, 2, 4, 5, 7, 8])
        self.assertEqual(self.commits, 2)

    def full(self, *sizes: int) -> list[Deferred[int]]:
        """Write texts of these sizes, in one group, when there is room for some pages only."""
        ready = self.database.write(allow_pages, 8)
        writes = [self.database.write(add, "x" * size) for size in sizes]
        self.worker.drain()
        self.successResultOf(ready)
        return writes

    def test_disk_full(self) -> None:
        """A write that finds the disk full fails; the others of its group are stored, and it goes on working."""
        small, large, other = self.full(10, 100_000, 20)
        self.successResultOf(small)
        self.failureResultOf(large, StorageFull)
        self.successResultOf(other)
        last = self.database.write(add, "y")
        self.worker.drain()
        self.successResultOf(last)
        self.assertEqual(self.stored(), ["x" * 10, "x" * 20, "y"])

    def test_disk_full_for_all(self) -> None:
        """When there is room for none, all fail, and nothing is lost that was there."""
        self.database.write_now(add, "before")
        for write in self.full(100_000, 100_000, 100_000):
            self.failureResultOf(write, StorageFull)
        self.assertEqual(self.stored(), ["before"])

    def test_disk_full_and_mended(self) -> None:
        """When there is room again, the same write works."""
        self.failureResultOf(self.full(100_000)[0], StorageFull)
        room = self.database.write(allow_pages, 1000)
        again = self.database.write(add, "x" * 100_000)
        self.worker.drain()
        self.successResultOf(room)
        self.successResultOf(again)

    def test_commit_fails(self) -> None:
        """A commit that fails is no result for anybody: each call has its own transaction then."""

        def fail_at_commit(cursor: Cursor) -> None:
            cursor.execute("CREATE TABLE one (id INTEGER PRIMARY KEY)")
            cursor.execute("CREATE TABLE two (one REFERENCES one (id) DEFERRABLE INITIALLY DEFERRED)")
            cursor.execute("INSERT INTO two VALUES (1)")

        unawaited(self.database.write(add, 0))
        before = self.database.write(add, 1)
        bad = self.database.write(fail_at_commit)
        behind = self.database.write(add, 2)
        self.worker.drain()
        self.successResultOf(before)
        self.failureResultOf(bad)
        self.successResultOf(behind)
        self.assertEqual(self.stored(), [0, 1, 2])

    def test_cancelled_while_waiting(self) -> None:
        """A write that is cancelled before its group is formed never happens."""
        first, second, third = (self.database.write(add, number) for number in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.worker.drain()
        self.successResultOf(first)
        self.successResultOf(third)
        self.assertEqual(self.stored(), [0, 2])

    def test_cancelled_while_running(self) -> None:
        """A write that is cancelled later has its result, when it is durable."""
        write = self.database.write(add, 1)
        write.cancel()
        self.assertNoResult(write)
        self.worker.step(before=write.cancel)
        self.assertEqual(self.successResultOf(write), 1)
        self.assertEqual(self.stored(), [1])

    def test_idle(self) -> None:
        """Idle is when no write waits or runs."""
        self.successResultOf(self.database.idle())
        writes = [self.database.write(add, number) for number in range(2)]
        idle = self.database.idle()
        self.worker.step()
        self.assertNoResult(idle)
        self.worker.step()
        self.successResultOf(idle)
        for write in writes:
            self.successResultOf(write)

    def test_close_waits(self) -> None:
        """Closing waits for writes that were accepted, and they are there afterwards."""
        writes = [self.database.write(add, number) for number in range(3)]
        closing = Deferred.fromCoroutine(self.database.close())
        self.worker.step()
        self.assertNoResult(closing)
        self.worker.drain()
        self.successResultOf(closing)
        for write in writes:
            self.successResultOf(write)
        self.assertEqual(self.open().read_now(values), [0, 1, 2])


class SoonWorker(HeldWorker):
    """A worker whose reports wait as they do with a reactor."""

    soon: Callable[..., object] | None = None

    def report(self, call: Callable[..., object], *args: object) -> None:
        """See `Worker.report`."""
        self.soon = call


class SoonTests(DatabaseTestCase):
    """Calls that are made in one go."""

    def test_first_of_many(self) -> None:
        """Already the first ones share a commit."""
        worker = SoonWorker()
        database = self.open(worker)
        writes = [database.write(add, number) for number in range(3)]
        self.assertEqual(worker.waiting, 0)
        assert worker.soon is not None
        worker.soon()
        worker.step()
        self.assertEqual([self.successResultOf(write) for write in writes], [1, 2, 3])
        self.assertEqual(worker.waiting, 0)


class ReadingTests(DatabaseTestCase):
    """What readers see."""

    def test_snapshot(self) -> None:
        """All that one job reads is of one moment, whatever is written meanwhile."""
        database = self.open()
        database.write_now(add, 1)

        def twice(cursor: Cursor) -> list[list[object]]:
            first = values(cursor)
            database.write_now(add, 2)
            return [first, values(cursor)]

        self.assertEqual(self.successResultOf(database.read(twice)), [[1], [1]])
        self.assertEqual(self.successResultOf(database.read(values)), [1, 2])

    def together(self, *jobs: Callable[[Cursor], object]) -> tuple[HeldWorker, list[Deferred[object]]]:
        """Ask for several reads while one is under way; return the worker, and the Deferreds of the others."""
        return self.behind(lambda: [self.database.read(job) for job in jobs])

    def behind(self, ask: Callable[[], list[Deferred[T]]]) -> tuple[HeldWorker, list[Deferred[T]]]:
        """Ask for something while a read is under way; return the worker, and what was asked for."""
        worker = HeldWorker()
        self.database = Database.open(self.path, KEY, "user", SCHEMA, 4096, (InPlace(), worker))
        self.addCleanup(self.database.abandon)
        first = self.database.read(values)
        asked = ask()
        worker.step()
        self.successResultOf(first)
        return worker, asked

    def test_together(self) -> None:
        """Reads that wait at the same time share a snapshot; one that fails does so alone."""
        seen: list[object] = []

        def look(cursor: Cursor) -> list[object]:
            self.database.write_now(add, len(seen))
            seen.append(None)
            return values(cursor)

        # Also where the disk takes its time.
        self.patch(database_module, "READING", 60.0)
        worker, reads = self.together(look, lambda cursor: 1 / 0, lambda cursor: add(cursor, 9), look)
        worker.step()
        before = self.successResultOf(reads[0])
        self.failureResultOf(reads[1], ZeroDivisionError)
        self.failureResultOf(reads[2], StorageFailed)
        self.assertEqual(self.successResultOf(reads[3]), before)
        self.assertEqual(self.database.read_now(values), [0, 1])

    def asked(self, *questions: int) -> tuple[HeldWorker, list[Deferred[float]]]:
        """Ask for the inverse of numbers, all in one go; return the worker, and the Deferreds of the answers."""
        self.handed: list[list[int]] = []
        return self.behind(lambda: [self.database.ask(self.inverses, question) for question in questions])

    def inverses(self, cursor: Cursor, questions: Sequence[int]) -> Iterator[float]:
        """Answer questions, and note which were handed over."""
        self.handed.append(list(questions))
        for question in questions:
            yield 1 / question

    def test_asked_together(self) -> None:
        """Questions of one kind that wait at the same time are handed over together; each has its own answer."""
        worker, answers = self.asked(1, 2, 4)
        worker.step()
        self.assertEqual([self.successResultOf(answer) for answer in answers], [1, 0.5, 0.25])
        self.assertEqual(self.handed, [[1, 2, 4]])

    def test_asked_in_vain(self) -> None:
        """A question without an answer fails alone; those behind it are answered in the same go."""
        worker, answers = self.asked(1, 0, 0, 4)
        worker.step()
        self.assertEqual(self.successResultOf(answers[0]), 1)
        self.failureResultOf(answers[1], ZeroDivisionError)
        self.failureResultOf(answers[2], ZeroDivisionError)
        self.assertEqual(self.successResultOf(answers[3]), 0.25)
        self.assertEqual(self.handed, [[1, 0, 0, 4], [0, 4], [4]])

    def test_asked_for_long(self) -> None:
        """Questions for which there is no time are answered next, and nothing is asked twice."""
        self.patch(database_module, "READING", 0.0)
        worker, answers = self.asked(1, 2, 4)
        for done in range(3):
            self.assertEqual([answer.called for answer in answers], [number < done for number in range(3)])
            worker.step()
        self.assertEqual([self.successResultOf(answer) for answer in answers], [1, 0.5, 0.25])
        self.assertEqual(self.handed, [[1, 2, 4], [2, 4], [4]])

    def test_long(self) -> None:
        """A read that takes long does not hold up the answers of those before it; those behind it come next."""
        self.patch(database_module, "READING", 0.0)
        worker, reads = self.together(values, values, values)
        for done in range(3):
            self.assertEqual([read.called for read in reads], [number < done for number in range(3)])
            worker.step()
        for read in reads:
            self.assertEqual(self.successResultOf(read), [])

    def test_cancelled(self) -> None:
        """A read that is cancelled while it waits never happens."""
        ran: list[int] = []
        worker, (one, other) = self.together(lambda cursor: ran.append(1), lambda cursor: ran.append(2))
        other.cancel()
        self.assertNoResult(other)
        worker.drain()
        self.successResultOf(one)
        self.successResultOf(other)
        third = self.database.read(lambda cursor: ran.append(3))
        fourth = self.database.read(lambda cursor: ran.append(4))
        fourth.cancel()
        self.failureResultOf(fourth, CancelledError)
        worker.drain()
        self.successResultOf(third)
        self.assertEqual(ran, [1, 2, 3])

    def test_close_waits(self) -> None:
        """Closing waits for reads that were asked for."""
        worker, reads = self.together(values)
        closing = Deferred.fromCoroutine(self.database.close())
        self.assertNoResult(closing)
        worker.drain()
        self.assertEqual(self.successResultOf(reads[0]), [])
        self.successResultOf(closing)

    def test_only_reads(self) -> None:
        """A reader cannot write."""
        database = self.open()
        self.failureResultOf(database.read(add, 1), StorageFailed)
        self.assertEqual(database.read_now(values), [])

    def test_refusal(self) -> None:
        """A read that fails does not keep the snapshot: the next one sees what is new."""
        database = self.open()
        self.failureResultOf(database.read(lambda cursor: [*values(cursor), 1 / 0]), ZeroDivisionError)
        database.write_now(add, 1)
        self.assertEqual(self.successResultOf(database.read(values)), [1])
