"""Records in SQL: the contract in memory and in files; several processes, restored backups, damage."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from threading import Barrier, Thread
from typing import Any

from sqlalchemy import Connection, event, text
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import unawaited
from soledad.errors import PreconditionFailed, QuotaExceeded, StaleToken
from soledad.model.ids import DEFAULT, BlobId, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.check import Problem, check
from soledad.server.backends.memory import memory_backend, memory_database
from soledad.server.database import Database
from soledad.server.folder import DataFolder
from soledad.server.interfaces import IRecordsBackend, Place
from soledad.server.records import CURSOR_LIFETIME, Records
from soledad.server.service import Parts, Workers, open_parts
from soledad.streams import Budget
from soledad.wire.changes import PAGE_SIZE, Push, SealedRecord, SyncHead, SyncPage
from tests.contracts.records_backend import QUOTA, USER, RecordsBackendContract, names, record
from tests.workers import HeldWorker


class MemoryRecordsTests(RecordsBackendContract, SynchronousTestCase):
    """Records in memory."""

    def make_backend(self) -> tuple[IRecordsBackend, Accounts, BlobsBackend]:
        """See the contract."""
        database = memory_database()
        return Records(database), Accounts(database, Clock().seconds), memory_backend(database)


class FileCase(SynchronousTestCase):
    """A data folder, opened any number of times."""

    def setUp(self) -> None:
        """Make it."""
        self.path = self.mktemp()
        DataFolder(self.path).make()

    def parts(self) -> Parts:
        """Open it as one more process does."""
        parts = open_parts(DataFolder(self.path), Workers(), Budget())
        self.addCleanup(parts.close)
        return parts


class FileRecordsTests(RecordsBackendContract, FileCase):
    """Records in a database in a file, as a server has them but for the threads."""

    def setUp(self) -> None:
        """Make the folder first."""
        FileCase.setUp(self)
        RecordsBackendContract.setUp(self)

    def make_backend(self) -> tuple[IRecordsBackend, Accounts, BlobsBackend]:
        """See the contract."""
        parts = self.parts()
        return parts.records, parts.accounts, parts.backend

    def test_reopened(self) -> None:
        """What was pushed is there for other processes, and later ones."""
        head = self.push(record(1))
        other = self.parts()
        self.assertEqual(self.successResultOf(other.records.head(USER)), head)

    def test_restored(self) -> None:
        """A server that was put back to a backup does not know the cursors since, and those before it are good."""
        old = self.push(*map(record, range(3)))
        backup = self.mktemp()
        self.copy(backup)
        newer = [self.push(record(9, bytes((n,))), checkpoint=bytes((n,))) for n in range(1, 5)]
        restored = self.restored(backup)
        head = self.successResultOf(restored.head(USER))
        self.assertEqual(head, old)
        for lost in newer:
            self.failureResultOf(restored.pull(USER, lost.cursor, lost.tag, 10), StaleToken)
        for number in range(1, 9):
            pushing = restored.push(USER, Push((record(number),), bytes((number, 0))), head.tag)
            head = self.successResultOf(pushing)
        # The numbers have been reached again, by other pushes.
        for lost in newer:
            self.failureResultOf(restored.pull(USER, lost.cursor, None, 10), StaleToken)
        page = self.successResultOf(restored.pull(USER, old.cursor, None, 10))
        self.assertEqual(names(page.records), list(range(1, 9)))  # type: ignore[union-attr]

    def copy(self, path: str) -> None:
        """Make a backup of the database, which is in use: its own way of copying it is the one that works."""
        with closing(sqlite3.connect(DataFolder(self.path).index)) as connection:
            connection.execute("VACUUM INTO ?", (path,))

    def restored(self, path: str) -> Records:
        """Return the records of the backup."""
        folder = DataFolder(self.mktemp())
        folder.make()
        shutil.copy(path, folder.index)
        parts = open_parts(folder, Workers(), Budget())
        self.addCleanup(parts.close)
        assert isinstance(parts.records, Records)
        return parts.records


class SeveralProcessesTests(FileCase):
    """Pushes that come at once, each through a database connection of its own."""

    def setUp(self) -> None:
        """Add a user."""
        super().setUp()
        self.successResultOf(self.parts().accounts.add_user(USER))

    def race(self, parts: list[Parts], follows: str | None, number: int) -> list[type[Exception] | None]:
        """Push from everywhere at once; return the errors."""
        outcomes: list[type[Exception] | None] = []
        barrier = Barrier(len(parts))

        def run(mine: int, records: IRecordsBackend) -> None:
            push = Push(tuple(record(at, bytes((mine,))) for at in range(50)), bytes((mine, number % 256)))
            barrier.wait(30)
            pushing = records.push(USER, push, follows)
            unawaited(pushing.addCallbacks(lambda head: outcomes.append(None), lambda no: outcomes.append(no.type)))

        threads = [Thread(target=run, args=(mine, one.records)) for mine, one in enumerate(parts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def test_one_wins(self) -> None:
        """Of pushes that follow one head, one is stored, whole; the others are refused; each time."""
        parts = [self.parts() for _ in range(3)]
        follows: str | None = None
        for number in range(10):
            outcomes = self.race(parts, follows, number)
            self.assertEqual((outcomes.count(None), outcomes.count(PreconditionFailed)), (1, 2))
            page = self.successResultOf(parts[0].records.pull(USER, "", None, 1000))
            datas = {one.data for one in page.records}  # type: ignore[union-attr]
            self.assertEqual(datas, {page.head.checkpoint[:1]})  # type: ignore[union-attr, index]
            follows = page.head.tag  # type: ignore[union-attr]


class FaultTests(SynchronousTestCase):
    """What breaks in the middle, and what is cancelled, leaves nothing."""

    def setUp(self) -> None:
        """Make records over a worker that a test lets go."""
        self.worker = HeldWorker()
        self.database = Database.in_memory(self.worker)
        self.records = Records(self.database)
        adding = Accounts(self.database, Clock().seconds).add_user(USER)
        self.worker.drain()
        self.successResultOf(adding)

    def test_cancelled(self) -> None:
        """A push that is cancelled before it began is not stored; afterwards its result stands."""
        push = Push((record(1),), b"c")
        cancelled = self.records.push(USER, push, None)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.worker.drain()
        under_way = self.records.push(USER, push, None)
        self.worker.step(before=under_way.cancel)
        head = self.records.head(USER)
        self.worker.drain()
        self.assertEqual(self.successResultOf(head), self.successResultOf(under_way))

    def test_every_statement(self) -> None:
        """Whichever statement of a push fails, nothing of it is stored."""
        first = self.records.push(USER, Push((record(1),), b"c"), None)
        self.worker.drain()
        head = self.successResultOf(first)
        state = self.state()
        for fatal in range(1, 20):
            pushing = self.records.push(USER, Push((record(1, b"new"), record(2)), b"2"), head.tag)
            statements = Statements(fatal)
            self.worker.step(before=partial(statements.watch, self.database), after=statements.stop)
            if statements.count < fatal:
                self.successResultOf(pushing)
                break
            self.failureResultOf(pushing, RuntimeError)
            self.assertEqual(self.state(), state)
        self.assertGreater(fatal, 5)
        self.assertNotEqual(self.state(), state)

    def state(self) -> list[object]:
        """Return all rows there are."""
        tables = ("users", "records", "sync_heads", "sync_pushes")

        def rows(connection: Connection) -> list[object]:
            return [tuple(row) for table in tables for row in connection.execute(text(f"SELECT * FROM {table}"))]

        return self.database.now(rows)


class Statements:
    """Counts the statements of a database, and lets one fail."""

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self._fatal = fatal

    def watch(self, database: Database) -> None:
        """Begin."""
        self._engine = database._engine
        event.listen(self._engine, "before_cursor_execute", self._executed)

    def stop(self) -> None:
        """End."""
        event.remove(self._engine, "before_cursor_execute", self._executed)

    def _executed(self, *ignored: object) -> None:
        self.count += 1
        if self.count == self._fatal:
            raise RuntimeError


class RoomTests(SynchronousTestCase):
    """Room that is set aside for an upload is not there for records."""

    def test_reserved(self) -> None:
        """A push does not take it; the server's own quota is for who has none."""
        database = memory_database()
        backend = memory_backend(database, default_quota=QUOTA)
        records = Records(database, QUOTA)
        self.successResultOf(Accounts(database, Clock().seconds).add_user(USER))
        place = Place(USER, DEFAULT, BlobId("b"), "0" * 32)
        self.successResultOf(backend.index.reserve(place, QUOTA - 100))
        push = Push((record(1, bytes(80)),), bytes(21))
        error = self.failureResultOf(records.push(USER, push, None), QuotaExceeded).value
        self.assertEqual((error.asked, error.available), (101, 100))
        self.successResultOf(records.push(USER, Push((record(1, bytes(80)),), bytes(20)), None))


class ForgettingTests(SynchronousTestCase):
    """Cursors of long ago."""

    def test_forgotten(self) -> None:
        """After half a year a cursor is unknown, once there was another push; what it stood before is still listed."""
        clock = Clock()
        clock.advance(10**9)
        database = memory_database()
        records = Records(database, clock=clock.seconds)
        self.successResultOf(Accounts(database, clock.seconds).add_user(USER))

        def push(number: int, follows: str | None) -> SyncHead:
            sealed = tuple(record(at) for at in range(number, number + 3))
            return self.successResultOf(records.push(USER, Push(sealed, bytes((number,))), follows))

        old = push(1, None)
        clock.advance(CURSOR_LIFETIME)
        self.successResultOf(records.pull(USER, old.cursor, old.tag, 10))
        newer = push(4, old.tag)
        self.failureResultOf(records.pull(USER, old.cursor, None, 10), StaleToken)
        pulled: list[int] = []
        since = ""
        for _ in range(6):
            page = self.successResultOf(records.pull(USER, since, None, 1))
            assert isinstance(page, SyncPage)
            pulled, since = pulled + names(page.records), page.head.cursor
        self.assertEqual((pulled, since), ([1, 2, 3, 4, 5, 6], newer.cursor))
        clock.advance(CURSOR_LIFETIME - 1)
        push(7, newer.tag)
        self.successResultOf(records.pull(USER, newer.cursor, None, 10))


class CheckTests(SynchronousTestCase):
    """What an operator's ``check`` finds of records."""

    def setUp(self) -> None:
        """Push some, more than are looked at in one go."""
        self.database = memory_database()
        self.backend, self.records = memory_backend(self.database), Records(self.database)
        accounts = Accounts(self.database, Clock().seconds)
        for user in (USER, UserId("Bob")):
            self.successResultOf(accounts.add_user(user))
            pushed = tuple(SealedRecord(record(at).name, bytes(PAGE_SIZE // 2)) for at in range(4))
            self.successResultOf(self.records.push(user, Push(pushed, b"checkpoint"), None))

    def found(self) -> list[str]:
        """Return the lines that an operator sees."""
        problems: list[Problem] = []
        checking = check(self.backend, problems.append, self.records)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(checking)), len(problems))
        return list(map(str, problems))

    def change(self, statement: str) -> None:
        """Damage the database."""
        self.database.now(lambda connection: connection.execute(text(statement)))

    def test_whole(self) -> None:
        """Nothing, when nothing is wrong."""
        self.assertEqual(self.found(), [])

    def test_damaged(self) -> None:
        """A record or a checkpoint with other bytes."""
        self.change("UPDATE records SET data = x'00' WHERE number = 4 AND user_id = 'alice'")
        self.change("UPDATE sync_heads SET checkpoint = x'00' WHERE user_id = 'Bob'")
        said = "it is not what was stored"
        self.assertEqual(self.found(), [f"record: Bob/checkpoint: {said}", f"record: alice/{3:064x}: {said}"])

    def test_total(self) -> None:
        """A record that is gone is missed in the total."""
        self.change("DELETE FROM records WHERE number = 4 AND user_id = 'alice'")
        (line,) = self.found()
        whole = 2 * PAGE_SIZE + len("checkpoint")
        self.assertEqual(line, f"total: alice: {whole} bytes are counted, the user has {whole - PAGE_SIZE // 2}")


class LookupTests(SynchronousTestCase):
    """No page goes through all records."""

    def test_plans(self) -> None:
        """Every statement of a pull, a list, a fetch and a push searches."""
        database = memory_database()
        records = Records(database)
        self.successResultOf(Accounts(database, Clock().seconds).add_user(USER))
        statements: list[tuple[str, Any]] = []
        event.listen(
            database._engine,
            "before_cursor_execute",
            lambda connection, cursor, statement, parameters, *rest: statements.append((statement, parameters)),
        )
        head = self.successResultOf(records.push(USER, Push(tuple(map(record, range(5))), b"c"), None))
        self.successResultOf(records.pull(USER, head.cursor, None, 10))
        self.successResultOf(records.pull(USER, "", None, 2))
        self.successResultOf(records.names(USER, record(1).name, 2))
        self.successResultOf(records.fetch(USER, [record(1).name]))
        plans: list[str] = []

        def explain(connection: Connection) -> None:
            for statement, parameters in list(statements):
                if statement.startswith(("SELECT", "DELETE", "UPDATE")):
                    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                    plans.extend(row[3] for row in rows)

        database.now(explain)
        self.assertGreater(len(plans), 10)
        self.assertEqual([plan for plan in plans if plan.startswith("SCAN") or "TEMP B-TREE" in plan], [])
