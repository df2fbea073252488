"""
Transactions: a unit of work is a function of a connection, and may be run again.

What is SQLite's own is here and nowhere else.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from time import sleep
from typing import Any, TypeVar

from attrs import define
from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred

from soledad.deferreds import Worker
from soledad.errors import NotADatabase, ServerFailed, SoledadError, StorageFailed, StorageFull
from soledad.server.schema import migrate

T = TypeVar("T")
Unit = Callable[[Connection], T]

#: Seconds that SQLite waits for another process' transaction.
BUSY_TIMEOUT = 10.0
#: How often a unit of work is begun before the database counts as too busy.
ATTEMPTS = 5
#: Errors after which PostgreSQL wants the transaction repeated.
_REPEATED = frozenset({"40001", "40P01"})


@define(eq=False)
class Database:
    """
    An engine, and the workers that its statements run in.

    Writers have a worker of their own, best with one thread: SQLite has one writer at a time, and a queue is quicker
    than polling for the lock.  That other processes write too is what the database itself takes care of.
    """

    _engine: Engine
    _reads: Worker
    _writes: Worker

    @classmethod
    def in_file(cls, path: str, reads: Worker, writes: Worker) -> Database:
        """
        Open the SQLite database at ``path``, made if need be.  This blocks.

        :raise NewerSchema: it is of a later version.
        :raise NotADatabase: the file is something else.
        """
        _prepare(path)
        # A connection for each thread, and no more: none waits for another's.
        engine = _sqlite(create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT}, pool_size=16))
        database = cls(engine, reads, writes)
        database.now(lambda connection: migrate(connection, path))
        return database

    @classmethod
    def in_memory(cls, worker: Worker) -> Database:
        """Make a database that goes with the process.  It has one connection: ``worker`` runs one call at a time."""
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        database = cls(_sqlite(engine), worker, worker)
        database.now(migrate)
        return database

    def read(self, unit: Unit[T]) -> Deferred[T]:
        """Run a unit of work that only reads; all it reads is of one moment."""
        return self._reads.run(self.now, unit, False)

    def write(self, unit: Unit[T], durable: bool = True) -> Deferred[T]:
        """Run a unit of work that writes; fires once it is done and, if ``durable``, would survive a power cut."""
        return self._writes.run(self.now, unit, True, durable)

    def now(self, unit: Unit[T], writes: bool = True, durable: bool = True) -> T:
        """
        Run a unit of work here and now, which blocks.

        :raise StorageFull: there is no room for it, even where the log can begin anew.
        :raise StorageFailed: the database cannot be read or written.
        :raise ServerFailed: others kept it busy all the time.
        """
        tidied = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._engine.connect() as connection:
                    connection.execution_options(soledad_writes=writes, soledad_durable=durable)
                    with connection.begin():
                        return unit(connection)
            except DBAPIError as error:
                if _is_full(error) and not tidied:
                    # What is in the log takes room twice: who deletes needs some to begin with.
                    tidied = True
                    self._empty_log()
                    continue
                if not _is_passing(error):
                    raise _translated(error) from error
            sleep(random.uniform(0, 0.05 * attempt))  # noqa: S311 - spreads those that collided, no secret
        raise ServerFailed(503)

    def _empty_log(self) -> None:
        """Let the log be written from its beginning again, as far as there is room to, and nobody reads it."""
        connection = self._engine.raw_connection()
        try:
            # Unlike the other ways this waits for nobody.
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        except sqlite3.OperationalError:
            # Who wanted to write hears of it.
            return
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _prepare(path: str) -> None:
    """Let readers and a writer not wait for each other; the file remembers that."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise NotADatabase(path) from error
        raise StorageFailed(str(error)) from error


def _sqlite(engine: Engine) -> Engine:
    """Let transactions begin as they should, and be durable when they end."""

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, record: Any) -> None:
        # The module's own way of beginning transactions leaves out reads.
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A transaction that reads first and wants to write later could be refused at that point.
        options = connection.get_execution_options()
        # NORMAL loses in a power cut what was acknowledged; what comes after it with FULL makes it durable too.
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options['soledad_durable'] else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options["soledad_writes"] else "BEGIN")

    return engine


def _is_passing(error: DBAPIError) -> bool:
    """Tell whether the same unit of work may well succeed in a moment."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return (
        code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        or getattr(error.orig, "sqlstate", None) in _REPEATED
        or error.connection_invalidated
    )


def _is_full(error: DBAPIError) -> bool:
    return bool(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL)


def _translated(error: DBAPIError) -> SoledadError:
    if _is_full(error):
        return StorageFull("index")
    # The statement's parameters, which the error's own text has, stay out of it.
    return StorageFailed(f"{type(error.orig).__name__}: {error.orig}")
