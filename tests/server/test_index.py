"""The index: portable statements, lists that do not slow down, and several processes at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, func, insert, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import InPlace
from soledad.errors import BlobExists, NewerSchema, NotADatabase, QuotaExceeded, StorageFailed, StorageFull
from soledad.model.blob import Flag
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId
from soledad.server import index as the_index
from soledad.server.accounts import Accounts
from soledad.server.database import Database
from soledad.server.index import Index
from soledad.server.interfaces import Place, Stored
from soledad.server.processes import Alone, IProcesses, LockedFiles
from soledad.server.schema import blobs, metadata, migrate, reservations, schema_version
from soledad.wire.routes import NAMESPACES_LIMIT

USER = UserId("alice")


def place(name: str, blob: str = "x") -> Place:
    """Return the place of an upload."""
    return Place(USER, DEFAULT, BlobId(blob), name)


def _refuse(connection: Connection, place: Place) -> bool:
    raise StorageFull("index")


class IndexTestCase(SynchronousTestCase):
    """Two processes, as it were, on one database in a file."""

    def setUp(self) -> None:
        """Open it twice."""
        self.folder = self.mktemp()
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, "index.db")
        self.locks = os.path.join(self.folder, "processes")
        self.first, self.second = self.open(), self.open()
        self.successResultOf(Accounts(self.first._database, Clock().seconds).add_user(USER, 100))

    def open(self) -> Index:
        """Open the index as one more process."""
        database = Database.in_file(self.path, InPlace(), InPlace())
        self.addCleanup(database.close)
        processes = LockedFiles.join(self.locks)
        return Index(database, processes, Clock().seconds)


class ProcessesTests(IndexTestCase):
    """What processes set aside, and what is left of it."""

    def test_one_quota(self) -> None:
        """Two processes together do not give away more room than there is."""
        self.successResultOf(self.first.reserve(place("1"), 60))
        error = self.failureResultOf(self.second.reserve(place("2"), 60), QuotaExceeded).value
        self.assertEqual((error.asked, error.available), (60, 40))
        self.successResultOf(self.second.reserve(place("2"), 40))

    def test_one_winner(self) -> None:
        """Of two processes with the same id one wins, whatever both saw when they began."""
        for index, name in ((self.first, "1"), (self.second, "2")):
            self.successResultOf(index.reserve(place(name), 10))
        self.successResultOf(self.first.commit(place("1"), Stored(10, "0" * 64)))
        self.failureResultOf(self.second.commit(place("2"), Stored(10, "0" * 64)), BlobExists)
        self.assertEqual(self.successResultOf(self.first.used(USER)), 10)

    def test_killed(self) -> None:
        """The room of a process that is gone is free as soon as somebody needs it, that of a living one is not."""
        self.successResultOf(self.first.reserve(place("1"), 50))
        self.successResultOf(self.second.reserve(place("2"), 50))
        self.failureResultOf(self.second.reserve(place("3"), 50), QuotaExceeded)
        # What the operating system does when a process ends, however it ends.
        assert isinstance(self.first._processes, LockedFiles)
        os.close(self.first._processes._file)
        self.successResultOf(self.second.reserve(place("3"), 50))
        self.failureResultOf(self.second.reserve(place("4"), 1), QuotaExceeded)
        self.assertEqual(os.listdir(self.locks), [self.second._processes.name])

    def test_given_back_later(self) -> None:
        """What a full disk did not let it give back is free as soon as somebody needs it, and for each once."""
        self.successResultOf(self.first.reserve(place("1"), 100))
        full = self.patch(the_index, "give_back", _refuse)
        self.assertFalse(self.successResultOf(self.first.release(place("1"))))
        self.failureResultOf(self.first.reserve(place("2"), 100), QuotaExceeded)
        full.restore()
        self.successResultOf(self.first.reserve(place("2"), 100))
        self.failureResultOf(self.first.reserve(place("3"), 1), QuotaExceeded)
        self.assertEqual(self.successResultOf(self.first.release_dead()), 0)

    def test_killed_batch(self) -> None:
        """The room that a killed process had set aside for a batch is free for another's batch."""
        wanted = [(BlobId("a"), 50), (BlobId("b"), 50)]
        told = self.successResultOf(self.first.reserve_batch(USER, DEFAULT, "1", wanted))
        self.assertEqual(told, [None, None])
        self.successResultOf(self.second.release(place("1")))
        self.successResultOf(self.first.reserve_batch(USER, DEFAULT, "1", wanted[:1]))
        told = self.successResultOf(self.second.reserve_batch(USER, DEFAULT, "2", wanted))
        self.assertEqual([type(outcome) for outcome in told], [type(None), QuotaExceeded])
        self.successResultOf(self.second.release(place("2")))
        assert isinstance(self.first._processes, LockedFiles)
        os.close(self.first._processes._file)
        told = self.successResultOf(self.second.reserve_batch(USER, DEFAULT, "3", wanted))
        self.assertEqual(told, [None, None])
        self.successResultOf(self.second.commit_batch([(place("3", "a"), Stored(50, "0" * 64))]))
        self.assertEqual(self.successResultOf(self.second.used(USER)), 50)

    def test_failing_batch(self) -> None:
        """When it cannot be found out who is dead, nothing stays set aside for a batch of which a part has room."""
        self.patch(LockedFiles, "dead", _refuse)
        wanted = [(BlobId("a"), 50), (BlobId("b"), 60)]
        self.failureResultOf(self.first.reserve_batch(USER, DEFAULT, "1", wanted), StorageFull)
        self.successResultOf(self.second.reserve(place("2"), 100))

    def test_taken_for_dead(self) -> None:
        """Who was taken for dead cannot use room that may be another's by now."""
        self.successResultOf(self.first.reserve(place("1"), 50))
        os.unlink(os.path.join(self.locks, self.first._processes.name))
        self.successResultOf(self.second.release_dead())
        self.failureResultOf(self.first.commit(place("1"), Stored(50, "0" * 64)), StorageFailed)
        self.failureResultOf(self.first.commit_batch([(place("1"), Stored(50, "0" * 64))]), StorageFailed)
        self.assertEqual(self.successResultOf(self.first.used(USER)), 0)

    def test_processes(self) -> None:
        """Both kinds of processes keep to the interface."""
        for processes in (Alone(), LockedFiles.join(self.locks)):
            self.assertTrue(IProcesses.providedBy(processes))
            self.assertEqual(processes.dead([processes.name, "x"]), ["x"])
            processes.forget(["x"])
            processes.close()

    def test_busy(self) -> None:
        """A unit of work that finds the database busy is run again."""
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        database = Database.in_file(self.path, InPlace(), InPlace())
        self.addCleanup(database.close)
        event.listen(database._engine, "connect", _impatient)
        database.close()
        other.execute("BEGIN IMMEDIATE")
        refusals: list[str] = []

        @event.listens_for(database._engine, "handle_error")
        def failed(context: Any) -> None:
            refusals.append(str(context.original_exception))
            other.execute("COMMIT")

        database.now(lambda connection: connection.execute(text("SELECT 1")).scalar_one())
        self.assertEqual(refusals, ["database is locked"])


def _impatient(connection: sqlite3.Connection, record: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 0")


class DatabaseTests(SynchronousTestCase):
    """Files that are no database, or another's."""

    def test_foreign(self) -> None:
        """A file that is no database says so."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"x" * 5000)
        self.assertRaises(NotADatabase, Database.in_file, path, InPlace(), InPlace())

    def test_newer(self) -> None:
        """Tables of a later version are left alone."""
        database = Database.in_memory(InPlace())
        database.now(lambda connection: connection.execute(schema_version.update().values(version=99)))
        self.assertRaises(NewerSchema, database.now, migrate)

    def test_opened_again(self) -> None:
        """Opening it once more changes nothing."""
        database = Database.in_memory(InPlace())
        database.now(migrate)
        self.assertEqual(database.now(lambda c: c.execute(select(schema_version.c.version)).scalar_one()), 1)

    def test_full(self) -> None:
        """A full disk is told from a broken one."""
        database = Database.in_memory(InPlace())
        database.now(lambda connection: connection.execute(text("PRAGMA max_page_count = 1")))

        def fill(connection: Connection) -> None:
            rows = [{"user_id": "u", "upload": f"{n}", "owner": "x" * 32, "size": 1} for n in range(10_000)]
            connection.execute(insert(reservations), rows)

        self.assertRaises(StorageFull, database.now, fill)


class StatementTests(SynchronousTestCase):
    """What is sent to the database."""

    def setUp(self) -> None:
        """Make an index that notes its statements."""
        self.database = Database.in_memory(InPlace())
        self.index = Index(self.database, Alone(), Clock().seconds)
        self.successResultOf(Accounts(self.database, Clock().seconds).add_user(USER))
        self.sent: list[tuple[str, Any]] = []
        event.listen(self.database._engine, "before_cursor_execute", self.note)

    def note(self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        """Keep a statement."""
        self.sent.append((statement, parameters))

    def fill(self, count: int, namespace: Namespace = DEFAULT) -> None:
        """Make ``count`` rows, every third a tombstone."""
        rows = [
            {
                "user_id": USER,
                "namespace": namespace,
                "blob_id": f"{number:08}",
                "upload": f"{number:032}",
                "length": 1,
                "etag": "0" * 64,
                "flags": int(number % 100 == 1),
                "stored": number,
                "changed": number,
                "date": number,
                "deleted": number % 3 == 0,
            }
            for number in range(1, count + 1)
        ]
        self.database.now(lambda connection: connection.execute(insert(blobs), rows))
        self.database.now(lambda connection: connection.execute(text(f"UPDATE users SET changed = {count}")))

    def test_pages_search(self) -> None:
        """Every list finds its page by an index and needs no sorting: no page is slower than another."""
        self.fill(1000)
        incarnation = self.successResultOf(self.index.count(USER, DEFAULT, False, None))[1].split(".")[1]
        lists: list[dict[str, Any]] = [
            {"newest_first": newest, "deleted": deleted, "flag": flag, "after": after}
            for newest in (False, True)
            for deleted, flag in ((False, None), (True, None), *((False, flag) for flag in Flag))
            for after in (None, f"d.{incarnation}.500")
        ]
        self.sent.clear()
        for options in lists:
            self.successResultOf(self.index.page(USER, DEFAULT, limit=10, **options))
        self.successResultOf(self.index.changes(USER, DEFAULT, f"c.{incarnation}.500", 10))
        for deleted, flag in ((False, None), (True, None), (False, Flag.PENDING)):
            self.successResultOf(self.index.count(USER, DEFAULT, deleted, flag))
        plans = [plan for statement, parameters in list(self.sent) for plan in self.plan(statement, parameters)]
        self.assertGreaterEqual(len(plans), 60)
        for plan in plans:
            self.assertRegex(plan, "^SEARCH (blobs|users) USING ")
        indexes = {plan.split("INDEX ")[1].split(" ")[0] for plan in plans if "blobs" in plan}
        expected = {f"blobs_{kind}" for kind in ("by_date", "by_change", "by_claim")}
        self.assertEqual(indexes, expected | {f"blobs_{flag.value.lower()}" for flag in Flag})

    def test_namespaces_search(self) -> None:
        """Namespaces are found one after the other, however many blobs each of them has; and only so many."""
        self.fill(1000)
        self.fill(1000, Namespace("other"))
        self.sent.clear()
        told = self.successResultOf(self.index.namespaces(USER))
        self.assertEqual(told.names, (DEFAULT, "other"))
        searches = [plan for sent in list(self.sent) for plan in self.plan(*sent) if "blobs" in plan]
        self.assertEqual(len(searches), 2)
        self.assertRegex(searches[0], r"^SEARCH blobs USING COVERING INDEX \w+ \(user_id=\?\)$")
        self.assertRegex(searches[1], r"^SEARCH blobs USING COVERING INDEX \w+ \(user_id=\? AND namespace>\?\)$")
        for number in range(NAMESPACES_LIMIT):
            self.fill(1, Namespace(f"{number:04}"))
        told = self.successResultOf(self.index.namespaces(USER))
        self.assertEqual(told.names, tuple(f"{number:04}" for number in range(NAMESPACES_LIMIT)))

    def plan(self, statement: str, parameters: Any) -> list[str]:
        """Return how SQLite would carry out a statement."""
        if not statement.startswith(("SELECT", "WITH")):
            return []
        rows = self.database.now(
            lambda connection: connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
        )
        return [row.detail for row in rows]

    def test_durable(self) -> None:
        """What is acknowledged to a client is synced; what is set aside for a moment is not."""
        levels = []
        upload = place("1")
        steps: tuple[Callable[[], Deferred[Any]], ...] = (
            lambda: self.index.reserve(upload, 1),
            lambda: self.index.commit(upload, Stored(1, "0" * 64)),
            lambda: self.index.delete((USER, DEFAULT, BlobId("x")), None, None),
            lambda: self.index.release(upload),
        )
        for work in steps:
            self.successResultOf(work())
            levels.append(self.database.now(lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar(), writes=False))
        normal, full = 1, 2
        self.assertEqual(levels, [normal, full, full, normal])

    def test_portable(self) -> None:
        """Tables and indexes can be made in PostgreSQL too."""
        dialect = postgresql.dialect()
        for table in metadata.sorted_tables:
            self.assertIn("CREATE TABLE", str(CreateTable(table).compile(dialect=dialect)))
            for made in table.indexes:
                self.assertIn("(user_id, ", str(CreateIndex(made).compile(dialect=dialect)))
            if table is not schema_version:
                self.assertEqual(next(iter(table.primary_key)).name, "user_id")

    def test_counting(self) -> None:
        """A wrong total is found."""
        self.fill(9)
        self.assertEqual(self.successResultOf(self.index.miscounted()), [(USER, 0, 6)])
        self.assertEqual(self.database.now(lambda c: c.execute(select(func.count()).select_from(blobs)).scalar()), 9)

    def test_rows_in_pages(self) -> None:
        """All blobs can be gone through a page at a time."""
        self.fill(30)
        seen: list[str] = []
        after = None
        while rows := self.successResultOf(self.index.rows(after, 7)):
            seen += [found.blob_id for found, _ in rows]
            after = (rows[-1][0].user, rows[-1][0].namespace, rows[-1][0].blob_id)
        self.assertEqual(seen, [f"{number:08}" for number in range(1, 31) if number % 3])
