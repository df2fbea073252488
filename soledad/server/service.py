"""
What reads the settings and builds the parts.

Here alone it is decided which implementations a server has.  Several servers may have one data folder, each a process
of its own.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from time import time
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.usage import Options as BaseOptions
from twisted.python.usage import UsageError

from soledad.deferreds import InPlace, ThreadWorker, Worker, deferred, unawaited
from soledad.errors import SoledadError, StorageError
from soledad.server.accounts import Accounts
from soledad.server.auth import Authenticator
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.filesystem import FileBytes
from soledad.server.blobs import MAX_BLOB, BlobsArea
from soledad.server.database import Database
from soledad.server.documents import DocumentsArea
from soledad.server.events import EventsArea, Telling
from soledad.server.folder import DataFolder
from soledad.server.heads import HeadsInDatabase
from soledad.server.http import IArea, Root
from soledad.server.index import Index
from soledad.server.interfaces import IBlobsBackend, IRecordsBackend
from soledad.server.keyrings import Keyrings
from soledad.server.keys import KeysArea
from soledad.server.processes import LockedFiles
from soledad.server.records import Records
from soledad.server.stream import StreamArea
from soledad.server.streaming import StreamingSite
from soledad.server.uploads import UploadsArea
from soledad.streams import Budget

#: Bytes that all transfers of a process may hold; answers that wait in the sockets come to about as much again.
BUFFERS = 6 * 1024 * 1024
#: Threads for reading the index, and for files.
READERS, FILE_THREADS = 4, 8
#: Threads that move much data, and are never idle: one processor is left for the reactor, which would wait for it.
STREAM_THREADS = max(1, min(FILE_THREADS, (os.cpu_count() or 1) - 1))
#: Seconds that a thread may keep others from running Python code.
SWITCH_INTERVAL = 0.0005
#: Seconds between two rounds of tidying up.
SWEEP_INTERVAL = 3600.0

_log = Logger()


def make_root(
    backend: IBlobsBackend,
    accounts: Accounts,
    max_blob: int = MAX_BLOB,
    budget: Budget | None = None,
    *,
    records: IRecordsBackend | None = None,
    worker: Worker | None = None,
    clock: IReactorTime | None = None,
) -> Root:
    """
    Return the resource of a whole server.

    :param records: where documents are kept; without it, none are taken.
    :param worker: where long answers are put together; here, if there is none.
    :param clock: what tells the time to those who wait for events; without it, there are none.
    """
    areas: dict[str, IArea] = {
        "blobs": BlobsArea(backend, max_blob, worker or InPlace()),
        "stream": StreamArea(backend, budget or Budget(), max_blob),
        "uploads": UploadsArea(backend, max_blob),
        "keys": KeysArea(Keyrings(accounts.database)),
    }
    if records is not None:
        areas["sync"] = DocumentsArea(records, worker or InPlace())
    authenticator = Authenticator(accounts)
    if clock is not None:
        events = EventsArea(HeadsInDatabase(accounts.database), authenticator, clock)
        areas = {name: Telling(area, events.changed) for name, area in areas.items()}
        areas["events"] = events
    return Root(authenticator, areas)


def make_site(root: Root, reactor: Any, budget: Budget) -> StreamingSite:
    """Return what listens: it streams bodies, and has the limits for slow clients."""
    return StreamingSite(root, reactor, budget)


@define(eq=False)
class Parts:
    """What a server, or an operator's command, needs of an open data folder."""

    backend: BlobsBackend
    accounts: Accounts
    records: IRecordsBackend
    _database: Database
    _processes: LockedFiles

    @property
    def is_shared(self) -> bool:
        """Whether other processes use the folder at this moment."""
        return bool(self._processes.others())

    def close(self) -> None:
        """Close it all; nothing runs any more."""
        self._database.close()
        self._processes.close()


@define(eq=False)
class Workers:
    """Where a server's blocking calls run."""

    reads: ThreadWorker | InPlace = field(factory=InPlace)
    writes: ThreadWorker | InPlace = field(factory=InPlace)
    files: ThreadWorker | InPlace = field(factory=InPlace)
    streams: ThreadWorker | InPlace = field(factory=InPlace)

    @classmethod
    def threads(cls, reactor: Any) -> Workers:
        """Return workers with threads."""
        return cls(
            ThreadWorker.start(reactor, READERS, "index-reads"),
            ThreadWorker.start(reactor, 1, "index-writes"),
            ThreadWorker.start(reactor, FILE_THREADS, "files"),
            ThreadWorker.start(reactor, STREAM_THREADS, "streams"),
        )

    def close(self) -> None:
        """End the threads; nothing runs any more."""
        for worker in (self.reads, self.writes, self.files, self.streams):
            worker.close()


def open_parts(
    folder: DataFolder,
    workers: Workers,
    budget: Budget,
    default_quota: int | None = None,
    clock: Callable[[], float] = time,
) -> Parts:
    """
    Open a data folder, which is made ready if it is empty.  This blocks.

    :raise StorageError: it is not there, is something else's, or cannot be used.
    """
    folder.check()
    with ExitStack() as opened:
        with folder.opening():
            database = Database.in_file(folder.index, workers.reads, workers.writes)
            opened.callback(database.close)
            # Before others may open it: who repairs it next has to see that it is in use.
            processes = LockedFiles.join(folder.processes)
            opened.callback(processes.close)
        opened.pop_all()
    index = Index(database, processes, clock, default_quota)
    store = FileBytes(folder.blobs, workers.files, budget, clock=clock, streams=workers.streams)
    records = Records(database, default_quota, clock)
    return Parts(BlobsBackend(index, store), Accounts(database, clock), records, database, processes)


class Options(BaseOptions):
    """The options of ``twist soledad``."""

    optParameters = [  # noqa: RUF012 - Twisted's way
        ["data-dir", "d", None, "The folder with the server's data."],
        ["quota", None, None, "Bytes for each user who has no quota of their own (default: no limit).", int],
        ["max-blob", None, MAX_BLOB, "The largest blob, in bytes.", int],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["users"] = []

    def opt_users(self, endpoint: str) -> None:
        """Where users are served: an endpoint such as tcp:8180:interface=127.0.0.1; may be repeated."""
        self["users"].append(endpoint)

    def postOptions(self) -> None:
        """Look whether it all makes sense."""
        if not self["data-dir"]:
            raise UsageError("--data-dir is needed")
        if not self["users"]:
            raise UsageError("--users is needed: an endpoint such as tcp:8180:interface=127.0.0.1")
        try:
            DataFolder(self["data-dir"]).check()
        except StorageError as error:
            raise UsageError(str(error)) from error


def makeService(options: Options) -> Service:
    """Build the service that ``twist soledad`` runs."""
    # Not above: importing it chooses a reactor.
    from twisted.internet import reactor

    try:
        endpoints = [serverFromString(reactor, description) for description in options["users"]]
    except Exception as error:
        # What can be wrong with an endpoint depends on its kind.
        raise SystemExit(f"soledad: --users: {error}") from error
    # What is loaded by now stays: looking at all of it whenever garbage is collected would hold up everybody for 50 ms.
    gc.freeze()
    # A long list is put together in a thread, in Python: the reactor must not wait 5 ms each time it wants to go on.
    sys.setswitchinterval(SWITCH_INTERVAL)
    folder = DataFolder(options["data-dir"])
    return _Command(reactor, folder, endpoints, options["quota"], options["max-blob"])


class ServerService(Service):
    """A whole server."""

    def __init__(
        self,
        reactor: Any,
        folder: DataFolder,
        endpoints: list[IStreamServerEndpoint],
        quota: int | None = None,
        max_blob: int = MAX_BLOB,
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._endpoints = endpoints
        self._quota = quota
        self._max_blob = max_blob
        self.ports: list[IListeningPort] = []

    def startService(self) -> None:
        """
        Open the data folder and listen.  This blocks for a moment, before anybody is served.

        :raise StorageError: the folder cannot be used.
        :raise CannotListenError: an endpoint is taken.
        """
        super().startService()
        budget = Budget(BUFFERS)
        self._workers = Workers.threads(self._reactor)
        try:
            self._parts = open_parts(self._folder, self._workers, budget, self._quota)
        except BaseException:
            self._workers.close()
            raise
        parts = self._parts
        self._root = make_root(
            parts.backend,
            parts.accounts,
            self._max_blob,
            budget,
            records=parts.records,
            worker=self._workers.reads,
            clock=self._reactor,
        )
        self._site = make_site(self._root, self._reactor, budget)
        self._sweeps = LoopingCall(self._sweep)
        self._sweeps.clock = self._reactor
        self._sweeping: Deferred[None] = succeed(None)
        try:
            for endpoint in self._endpoints:
                self._listen(endpoint)
        except BaseException:
            unawaited(self.stopService())
            raise
        unawaited(self._sweeps.start(SWEEP_INTERVAL))

    @deferred
    async def stopService(self) -> None:
        """Close all ports and connections, and wait until nothing runs any more; uploads under way leave nothing."""
        if not self.running:
            return
        super().stopService()
        for port in self.ports:
            await maybeDeferred(port.stopListening)
        self.ports = []
        if self._sweeps.running:
            self._sweeps.stop()
        sweeping = self._sweeping
        sweeping.cancel()
        await self._site.end()
        await self._root.idle()
        await sweeping
        self._parts.close()
        self._workers.close()

    def _listen(self, endpoint: IStreamServerEndpoint) -> None:
        failures: list[Failure] = []
        unawaited(endpoint.listen(self._site).addCallbacks(self._listening, failures.append))
        if failures:
            failures[0].raiseException()

    def _listening(self, port: IListeningPort) -> None:
        self.ports.append(port)
        address = port.getHost()
        _log.info(
            "Serving users at {host} port {port}",
            host=getattr(address, "host", str(address)),
            port=getattr(address, "port", None),
        )

    def _sweep(self) -> Deferred[None]:
        self._sweeping = self._tidy()
        return self._sweeping

    @deferred
    async def _tidy(self) -> None:
        try:
            removed = await self._parts.backend.sweep()
        except CancelledError:
            return
        except Exception:
            # Whatever it is: once this fails, it is never called again.
            _log.failure("Tidying up failed; it is tried again later")
            return
        if removed:
            _log.info("Removed {count} files that belonged to no blob", count=removed)


class _Command(ServerService):
    """A server as a command of its own: what keeps it from starting is told in one line."""

    def startService(self) -> None:
        """See `ServerService`."""
        try:
            super().startService()
        except (CannotListenError, SoledadError) as error:
            raise SystemExit(f"soledad: {error}") from error
