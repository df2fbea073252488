"""
SQLCipher databases: keying, threads, migrations, and the group commit.

A `Database` has one writer and one reader, each a connection in a worker of its own.  Jobs are functions of a cursor;
what they do is in the modules beside this one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import sqlcipher3.dbapi2 as sqlcipher
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from soledad.client.local.durable import file_faults
from soledad.deferreds import Outlasting, Worker, unawaited
from soledad.errors import ForeignStore, NewerSchema, NotADatabase, StorageFailed, StorageFull

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
Cursor: TypeAlias = Any
Connection: TypeAlias = Any
#: A numbered change of the schema: the text of SQL statements.
Migration: TypeAlias = str
#: What is done with a cursor.
Job: TypeAlias = Callable[[Cursor], Any]
#: What answers questions of one kind, one after the other.
Answering: TypeAlias = Callable[[Cursor, Sequence[Q]], Iterator[T]]
#: A question, and what answers it.
Read: TypeAlias = tuple[Answering[Any, Any], Any]

#: KiB of pages that are kept decrypted: what is read again has to be decrypted and verified again.
CACHE = 8000
#: Calls that share a commit, or a snapshot, at most: so many answers at once do not hold up the reactor.
GROUP = 200
#: Seconds after which calls that read no longer wait for each other: so many answers hold up the reactor as long.
READING = 0.004
#: Results of SQLite (the low byte of its extended codes) by what they mean; source: https://sqlite.org/rescode.html
_FULL, _NOT_OURS = 13, {11, 26}
#: "SLDA": marks the files as ours (PRAGMA application_id).
APPLICATION_ID = 0x534C4441


@define(eq=False)
class Calls:
    """Jobs for one connection: those that wait at the same time are carried out in one go of its worker."""

    _worker: Worker
    #: Takes jobs, and returns for each its result or its `Failure`, of as many as it had time for.
    _carry_out: Callable[[list[Any]], list[Any]]
    _waiting: deque[tuple[Any, Outlasting[Any]]] = field(factory=deque, init=False)
    _busy: bool = field(default=False, init=False)
    _idle: list[Deferred[None]] = field(factory=list, init=False)

    def add(self, job: Any) -> Deferred[Any]:
        """Run a job when it has its turn, and fire with its result; cancelling works until then."""
        done: Outlasting[Any] = Outlasting(self._withdraw)
        self._waiting.append((job, done))
        if not self._busy:
            self._busy = True
            # Soon, and not now: whoever asks for several things at once asks for the others first.
            self._worker.report(self._next)
        return done

    def idle(self) -> Deferred[None]:
        """Fire when none waits or runs."""
        if not self._busy:
            return succeed(None)
        self._idle.append(Deferred())
        return self._idle[-1]

    def _withdraw(self, done: Outlasting[Any]) -> None:
        for call in self._waiting:
            if call[1] is done:
                self._waiting.remove(call)
                done.errback(CancelledError())
                return

    def _next(self) -> None:
        if self._waiting:
            group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
            unawaited(self._worker.run(self._carry_out, [job for job, _ in group]).addBoth(self._ended, group))
            return
        self._busy = False
        idle, self._idle = self._idle, []
        for done in idle:
            done.callback(None)

    def _ended(self, outcomes: list[Any] | Failure, group: list[tuple[Any, Outlasting[Any]]]) -> None:
        if isinstance(outcomes, Failure):
            outcomes = [outcomes] * len(group)
        self._waiting.extendleft(reversed(group[len(outcomes) :]))
        # First the answers, then the next jobs: Python does one of both at a time, and changing over takes long.
        for (_, done), outcome in zip(group, outcomes, strict=False):
            done.callback(outcome)
        self._next()


@define(eq=False)
class Database:
    """One database, open: writes share commits, reads see what is committed and wait for no write."""

    _path: Path
    _writing: Worker
    _reading: Worker
    _writer: Connection
    _reader: Connection
    _writes: Calls = field(init=False)
    _reads: Calls = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Say how each kind of call is carried out."""
        self._writes = Calls(self._writing, partial(commit_group, self._writer, self._path))
        self._reads = Calls(self._reading, partial(read_group, self._reader, self._path))

    @classmethod
    def open(
        cls,
        path: Path,
        key: bytes,
        user: str,
        migrations: Sequence[Migration],
        page_size: int,
        workers: tuple[Worker, Worker],
        cache: int = CACHE,
    ) -> Database:
        """
        Open the database at ``path``, or make it; blocks.

        :param key: 32 bytes, used raw.
        :param user: whose store it is.
        :param workers: for the writer and for the reader.
        :param cache: KiB of pages that the writer keeps; the reader has nothing of them once something was written.
        :raise NotADatabase: it is not SQLCipher's, is damaged, or has another key.
        :raise ForeignStore: it is of another user.
        :raise NewerSchema: a newer version of this library wrote it.
        """
        with file_faults(path):
            # Made before SQLite makes it, for its owner only; the files beside it follow it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        writer = connect(path, key, page_size)
        try:
            writer.execute(f"PRAGMA cache_size = -{cache}")
            migrate(writer, path, migrations)
            _claim(writer, path, user)
            reader = connect(path, key, page_size)
            reader.execute("PRAGMA query_only = ON")
        except BaseException:
            writer.close()
            raise
        return cls(path, *workers, writer, reader)

    def write(self, job: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """
        Run ``job(cursor, ...)`` in a transaction, and fire with its result once that is durable.

        Calls that wait at the same time share one commit; each has a savepoint, so a job that raises undoes and
        fails its own call only.  A job may be run again, so it changes nothing but the database.  Cancelling works
        until the job's turn has come.

        :raise StorageFull: the disk is full; nothing of this was stored.
        :raise StorageFailed: the disk failed; nothing of this was stored.
        """
        return self._writes.add(_bound(job, args, kwargs))

    def read(self, job: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """
        Run ``job(cursor, ...)`` on one snapshot of what is committed, and fire with its result.

        Calls that wait at the same time share a snapshot.
        """
        return self._reads.add((_alone(_bound(job, args, kwargs)), None))

    def ask(self, answer: Answering[Q, T], question: Q) -> Deferred[T]:
        """
        Do as `read`, for what is asked often: fire with what ``answer(cursor, questions)`` gives for ``question``.

        Questions of one kind that wait at the same time are handed to it together.  One at which it raises fails
        alone, and it is begun anew with those behind that one.
        """
        return self._reads.add((answer, question))

    def report(self, call: Callable[[], object]) -> None:
        """Call ``call()`` on the reactor's thread, soon; from a job."""
        self._writing.report(call)

    def write_now(self, job: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do as `write`, blocking: before the store is open, when nothing else uses the database."""
        (outcome,) = commit_group(self._writer, self._path, [_bound(job, args, kwargs)])
        if isinstance(outcome, Failure):
            outcome.raiseException()
        result: T = outcome
        return result

    def read_now(self, job: Callable[Concatenate[Cursor, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do as `read`, blocking: before the store is open, when nothing else uses the database."""
        return _snapshot(self._reader, self._path, _bound(job, args, kwargs))

    def abandon(self) -> None:
        """Close it, blocking, when opening the store has failed."""
        self._reader.close()
        self._writer.close()

    def idle(self) -> Deferred[None]:
        """Fire when no write waits or runs."""
        return self._writes.idle()

    async def close(self) -> None:
        """Wait for all calls, and close.  Nothing may be called any more."""
        await self._writes.idle()
        await self._reads.idle()
        await self._reading.run(self._reader.close)
        await self._writing.run(self._writer.close)


def _bound(job: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Cursor], T]:
    return lambda cursor: job(cursor, *args, **kwargs)


def _alone(job: Job) -> Answering[None, Any]:
    """Let a job answer a question of its own kind."""
    return lambda cursor, _: (job(cursor) for _ in (None,))


def connect(path: Path, key: bytes, page_size: int) -> Connection:
    """
    Open one connection to the database at ``path``, with its settings; blocks.

    The settings are part of the format: docs/spec/store.rst, "Databases".

    :raise NotADatabase: it cannot be read with this key.
    """
    try:
        connection = sqlcipher.connect(os.fspath(path), isolation_level=None, check_same_thread=False, timeout=10)
    except sqlcipher.Error as error:
        raise _translated(error, path) from None
    try:
        # SQLCipher would write to standard error what is told as an error anyway.
        connection.execute("PRAGMA cipher_log_level = NONE")
        # A raw key in SQL text: the statement must not get into a traceback, hence `from None` below.
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        connection.execute(f"PRAGMA cipher_page_size = {page_size}")
        connection.execute("PRAGMA cipher_hmac_algorithm = HMAC_SHA256")
        connection.execute("PRAGMA cipher_memory_security = OFF")
        connection.execute("PRAGMA secure_delete = OFF")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            # Only where it can have an effect: SQLite writes, and waits for the disk, each time it is set.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
    except sqlcipher.Error as error:
        connection.close()
        raise _translated(error, path) from None
    return connection


def migrate(connection: Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """
    Bring the schema to the newest version: each migration in a transaction, with its number.

    :raise NewerSchema: the database has more migrations than are known.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise NewerSchema(str(path), version, len(migrations))
    for number, statements in enumerate(migrations[version:], version + 1):
        _transaction(
            connection,
            path,
            f"PRAGMA application_id = {APPLICATION_ID}; {statements}; PRAGMA user_version = {number};",
        )


def _transaction(connection: Connection, path: Path, statements: str) -> None:
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {statements} COMMIT;")
    except sqlcipher.Error as error:
        _roll_back(connection)
        raise _translated(error, path) from None


def _claim(connection: Connection, path: Path, user: str) -> None:
    try:
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('user', ?)", (user,))
        (owner,) = connection.execute("SELECT value FROM meta WHERE key = 'user'").fetchone()
    except sqlcipher.Error as error:
        raise _translated(error, path) from None
    if owner != user:
        raise ForeignStore(str(path), str(owner))


def commit_group(connection: Connection, path: Path, jobs: list[Job]) -> list[Any]:
    """
    Run jobs in one transaction; blocks.

    :return: for each job, its result or its `Failure`.  When the commit fails, or the database gives the transaction
        up, all of it is undone, and each job has a transaction of its own: the disk may be full for one of them only.
    """
    if len(jobs) == 1:
        return [_commit_one(connection, path, jobs[0])]
    outcomes: list[Any] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            outcomes.append(_in_savepoint(connection, job))
        connection.execute("COMMIT")
    except sqlcipher.Error:
        _roll_back(connection)
        return [_commit_one(connection, path, job) for job in jobs]
    return outcomes


def _in_savepoint(connection: Connection, job: Job) -> Any:
    connection.execute("SAVEPOINT call")
    try:
        result = job(connection.cursor())
    except sqlcipher.Error:
        raise
    except Exception:
        connection.execute("ROLLBACK TO call")
        result = Failure()
    connection.execute("RELEASE call")
    return result


def _commit_one(connection: Connection, path: Path, job: Job) -> Any:
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = job(connection.cursor())
        connection.execute("COMMIT")
    except Exception as error:
        _roll_back(connection)
        return Failure(_translated(error, path)) if isinstance(error, sqlcipher.Error) else Failure()
    return result


def read_group(connection: Connection, path: Path, reads: list[Read]) -> list[Any]:
    """
    Answer questions on one snapshot; blocks.

    :return: for each, its answer or its `Failure`; of as many as `READING` leaves time for, and of one at least.
    """
    end = monotonic() + READING
    outcomes: list[Any] = []
    try:
        connection.execute("BEGIN")
        for outcome in _answers(connection.cursor(), path, reads):
            outcomes.append(outcome)
            if monotonic() > end:
                break
        _roll_back(connection)
    except sqlcipher.Error as error:
        raise _translated(error, path) from None
    return outcomes


def _answers(cursor: Cursor, path: Path, reads: list[Read]) -> Iterator[Any]:
    for answer, some in groupby(reads, itemgetter(0)):
        questions = [question for _, question in some]
        while questions:
            answered = 0
            try:
                for outcome in answer(cursor, questions):
                    answered += 1
                    yield outcome
            except Exception as error:
                answered += 1
                yield Failure(_translated(error, path)) if isinstance(error, sqlcipher.Error) else Failure()
            del questions[:answered]


def _snapshot(connection: Connection, path: Path, job: Callable[[Cursor], T]) -> T:
    try:
        connection.execute("BEGIN")
        try:
            return job(connection.cursor())
        finally:
            _roll_back(connection)
    except sqlcipher.Error as error:
        raise _translated(error, path) from None


def _roll_back(connection: Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _translated(error: Exception, path: Path) -> Exception:
    """Return the error of ours for one of SQLCipher's; programming errors stay what they are."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == _FULL:
        return StorageFull(str(path))
    if code in _NOT_OURS:
        return NotADatabase(str(path))
    if isinstance(error, sqlcipher.OperationalError):
        return StorageFailed(str(error))
    return error
