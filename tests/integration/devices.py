"""
A server and a person's devices as they are in life: files, threads and sockets, in one process; and a link between.

Devices are stores whose key is handed in, which saves the time of a passphrase.  The `Link` is a relay on loopback
that counts what it carries and fails as it is told.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from attrs import define
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from soledad.client.api import Soledad, open_store
from soledad.client.document import Document
from soledad.client.local.store import Workers as StoreWorkers
from soledad.client.remote.agent import make_agent
from soledad.client.remote.connect import Address, Server
from soledad.client.remote.connection import Limits
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker
from soledad.model.ids import ATTACHMENTS, BlobId, user_id
from soledad.server.cli import main as soledad_server
from soledad.server.folder import DataFolder
from soledad.server.service import Parts, Workers, make_root, make_site, open_parts
from soledad.streams import Budget
from tests.limits import seconds

reactor = cast("Any", global_reactor)

ALICE = user_id("alice")
KEY = bytes(range(32))


class PeakBudget(Budget):
    """Remembers the most that was held."""

    peak = 0

    def take(self, size: int) -> None:
        """See `Budget`."""
        super().take(size)
        self.peak = max(self.peak, self.used)


def new_user(folder: Path, quota: int | None = None) -> str:
    """Make the user of these tests, and the folder; return a token."""
    out = io.StringIO()
    limit = [] if quota is None else ["--quota", str(quota)]
    status = soledad_server(["--data-dir", str(folder), "user", "add", *limit, ALICE], out)
    assert status == 0
    return out.getvalue().strip()


@define(eq=False)
class HomeServer:
    """A whole server in this process."""

    folder: Path
    token: str
    budget: PeakBudget
    parts: Parts
    _workers: Workers
    _root: Any
    _site: Any
    _port: Any

    @classmethod
    def start(cls, folder: Path, token: str) -> HomeServer:
        """Serve a folder that is there."""
        workers, budget = Workers.threads(reactor), PeakBudget()
        parts = open_parts(DataFolder(str(folder)), workers, budget)
        root = make_root(
            parts.backend,
            parts.accounts,
            budget=budget,
            records=parts.records,
            worker=workers.reads,
            clock=reactor,
        )
        site = make_site(root, reactor, budget)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        return cls(folder, token, budget, parts, workers, root, site, port)

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self._port.getHost().port)

    async def stop(self) -> None:
        """End it; nothing of it runs any more."""
        await self._port.stopListening()
        await self._site.end()
        await self._root.idle()
        self.parts.close()
        self._workers.close()

    async def used(self) -> int:
        """Return how many bytes the user has stored."""
        return await self.parts.backend.get_total_storage(ALICE)

    async def blob_ids(self) -> list[str]:
        """Return what the user has stored."""
        return [info.blob_id for info in (await self.parts.backend.list_blobs(ALICE, ATTACHMENTS)).blobs]

    def files(self) -> list[Path]:
        """Return all files that hold bytes, of blobs and of none."""
        return [path for path in (self.folder / "blobs").rglob("*") if path.is_file()]

    def file_of(self, blob_id: BlobId) -> Path:
        """Return the file of a blob whose id has no upper case."""
        (found,) = [path for path in self.files() if path.name.startswith(f"{blob_id}.")]
        return found


class Link(Factory):
    """
    A relay to a port on loopback.

    :ivar up: bytes that came from devices, :ivar down: bytes for them.
    :ivar fault: what happens when so many bytes more, up or down, have been carried: ``cut`` or ``stall``.
    """

    noisy = False

    def __init__(self, target: int) -> None:
        self.target = target
        self.up = self.down = 0
        self.connections = 0
        self.stalled = False
        self.on_carried: Callable[[], object] = lambda: None
        self._ends: set[_End] = set()
        self._fault: tuple[str, str, int] | None = None
        self._gone: Deferred[None] | None = None
        self._faulted: Deferred[None] = Deferred()
        self._listening: Any = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def url(self) -> str:
        """What devices are told as the server's."""
        return f"http://127.0.0.1:{self._listening.getHost().port}"

    def fail_after(self, kind: str, direction: str, size: int) -> Deferred[None]:
        """``cut`` or ``stall`` once ``size`` more bytes went ``up`` or ``down``; fires when that happens."""
        self._fault = (kind, direction, getattr(self, direction) + size)
        self._faulted = Deferred()
        return self._faulted

    def heal(self) -> None:
        """Work again: for new connections."""
        self._fault, self.stalled = None, False
        self.cut()

    def cut(self) -> None:
        """Break all connections."""
        for end in list(self._ends):
            end.break_()

    async def stop(self) -> None:
        """End it."""
        await self._listening.stopListening()
        self.cut()
        while self._ends:
            await deferLater(reactor, 0.001)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """A device connects."""
        self.connections += 1
        return _Near(self)

    def carry(self, end: _End, direction: str, data: bytes) -> None:
        """Pass ``data`` on, as far as it gets."""
        if self.stalled:
            return
        self.on_carried()
        if self._fault is not None and self._fault[1] == direction:
            kind, _, limit = self._fault
            data = data[: max(0, limit - getattr(self, direction))]
        setattr(self, direction, getattr(self, direction) + len(data))
        end.pass_on(data)
        if self._fault is not None and self._fault[1] == direction and getattr(self, direction) >= limit:
            self._fault = None
            self.stalled = kind == "stall"
            if kind == "cut":
                end.cut_behind()
            self._faulted.callback(None)

    def joined(self, end: _End) -> None:
        """One end of a connection is there."""
        self._ends.add(end)

    def left(self, end: _End) -> None:
        """One end of a connection is gone."""
        self._ends.discard(end)


class _End(Protocol):
    """One end of a connection through a link."""

    transport: Any
    direction: str
    peer: _End | None = None

    def __init__(self, link: Link) -> None:
        self.link = link

    def connectionMade(self) -> None:
        """See `Protocol`."""
        self.transport.setTcpNoDelay(True)
        self.link.joined(self)

    def dataReceived(self, data: bytes) -> None:
        """See `Protocol`."""
        self.link.carry(self, self.direction, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `Protocol`."""
        self.link.left(self)
        if not self.link.stalled:
            self.end_peer()

    def pass_on(self, data: bytes) -> None:
        """Let the other end have it."""
        if self.peer is not None:
            self.peer.transport.write(data)

    def cut_behind(self) -> None:
        """What was passed on arrives still, and nothing else."""
        self.end_peer()
        self.transport.abortConnection()

    def end_peer(self) -> None:
        """Close the other end, behind what was passed on."""
        if self.peer is not None:
            self.peer.transport.unregisterProducer()
            self.peer.transport.loseConnection()

    def break_(self) -> None:
        """Break it at once."""
        self.transport.abortConnection()


class _Near(_End):
    """The end towards a device."""

    direction = "up"

    def connectionMade(self) -> None:
        """Connect to the server too."""
        super().connectionMade()
        self.transport.pauseProducing()
        reactor.connectTCP("127.0.0.1", self.link.target, _Onwards(self))


class _Far(_End):
    """The end towards the server."""

    direction = "down"

    def connectionMade(self) -> None:
        """Let both flow, each as fast as the other takes it."""
        super().connectionMade()
        assert self.peer is not None
        self.transport.registerProducer(self.peer.transport, True)
        self.peer.transport.registerProducer(self.transport, True)
        self.peer.transport.resumeProducing()


class _Onwards(ClientFactory):
    """Connects the second half."""

    noisy = False

    def __init__(self, near: _Near) -> None:
        self._near = near

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """See `Factory`."""
        far = _Far(self._near.link)
        far.peer, self._near.peer = self._near, far
        return far

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        """There is no server."""
        self._near.transport.abortConnection()


WorkerMaker = Callable[[int, str], Any]


def start_thread_worker(threads: int, name: str) -> ThreadWorker:
    """Make the workers that `Soledad.open` makes."""
    return ThreadWorker.start(reactor, threads, name)


def open_device(
    folder: Path,
    url: str | None,
    token: str = "",
    *,
    limits: Limits | None = None,
    make_worker: WorkerMaker = start_thread_worker,
) -> Deferred[Soledad]:
    """Open a store, as `Soledad.open` does."""
    server = None
    if url is not None:
        server = Server.over(make_agent(reactor, None, limits), reactor, ALICE, Address(url, token))
    workers = StoreWorkers.start(make_worker)
    return Deferred.fromCoroutine(open_store(reactor, workers, ALICE, HandedInKey(KEY), folder, server))


def copy_device(folder: Path, copy: Path) -> Path:
    """Copy a closed store without its blobs' files."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*_blobs"))
    return copy


def budget_of(device: Soledad) -> PeakBudget:
    """Return the budget that all transfers of a device share."""
    attachments: Any = device._documents._home
    budget: PeakBudget = attachments._blobs._budget
    return budget


async def received(doc: Document, device: Soledad) -> Document:
    """Save, on another device, what the sync of documents would bring there of ``doc``."""
    other = await device.create_doc(doc.content or {}, doc.doc_id)
    for name, pointer in doc.attachments.items():
        other.attach(name, pointer)
    await device.put_doc(other)
    return other


async def attached(device: Soledad, data: bytes) -> Document:
    """Save a document with an attachment."""
    doc = await device.create_doc({"title": "a document"})
    await doc.put_attachment(data)
    await device.put_doc(doc)
    return doc


async def opened(doc: Document, name: str = "default") -> bytes:
    """Return what is attached, as its file gives it."""
    file = await doc.get_attachment(name)
    assert file is not None
    with file:
        return file.read()


class Case(TestCase):
    """A test with a server, a link to it, and devices: all of them end with it."""

    timeout = seconds(90)
    #: Bytes.
    quota: int | None = None
    server: HomeServer
    link: Link

    def setUp(self) -> None:
        """Start the server."""
        folder = Path(self.mktemp())
        token = new_user(folder, self.quota)
        self.server = HomeServer.start(folder, token)
        self.addCleanup(self.server.stop)
        self.link = Link(self.server.port)
        self.addCleanup(self.link.stop)

    async def device(self, folder: Path | None = None, **options: Any) -> Soledad:
        """Open a device on the link."""
        where = Path(self.mktemp()) if folder is None else folder
        device = await open_device(where, self.link.url, self.server.token, **options)
        self.addCleanup(device.close)
        return device

    async def pair(self) -> tuple[Soledad, Soledad]:
        """Open two devices that have the same keyring, and nothing else."""
        first, second = Path(self.mktemp()), Path(self.mktemp())
        await (await open_device(first, None)).close()
        copy_device(first, second)
        return await self.device(first), await self.device(second)
