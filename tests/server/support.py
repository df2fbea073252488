"""A whole server in memory, and a connection to it that is a string."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from soledad.deferreds import InPlace, Worker, outlasting
from soledad.model.ids import BlobId, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.memory import MemoryBytes, memory_database
from soledad.server.index import Index
from soledad.server.processes import Alone
from soledad.server.service import make_root, make_site
from soledad.server.streaming import StreamingChannel
from soledad.streams import Budget, BytesProducer
from soledad.wire.routes import authorization

USER = UserId("alice")
QUOTA = 10_000_000


@define(eq=False)
class HeldWorker:
    """A worker whose calls run when the test says so."""

    _waiting: list[Callable[[], object]] = field(factory=list, init=False)

    def run(self, call: Callable[..., Any], *args: Any, stop: Any = None) -> Deferred[Any]:
        """See `Worker`."""
        work: Deferred[Any] = Deferred()
        self._waiting.append(lambda: InPlace().run(call, *args).addBoth(work.callback))
        return outlasting(work, lambda: None)

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """See `Worker`."""
        call(*args)

    def release(self) -> None:
        """Run what waits now, and what comes of it."""
        while self._waiting:
            self._waiting.pop(0)()


@implementer(IHalfCloseableDescriptor)
class HalfCloseableTransport(StringTransport):
    """A transport whose two directions end separately, as TCP's do."""

    half_closed = False
    bufferSize = 0

    def loseWriteConnection(self) -> None:
        """Write nothing any more."""
        self.half_closed = True

    def readConnectionLost(self, reason: Failure) -> None:
        """See `IHalfCloseableDescriptor`."""

    def writeConnectionLost(self, reason: Failure) -> None:
        """See `IHalfCloseableDescriptor`."""


@define(eq=False)
class Connection:
    """A connection of a client to a site: bytes in, bytes out."""

    channel: StreamingChannel
    transport: HalfCloseableTransport
    #: What was answered to the head of an upload.
    answer: bytes = b""

    def send(self, data: bytes) -> bytes:
        """Let the server have ``data``; return what it answered."""
        self.transport.clear()
        self.channel.dataReceived(data)
        return self.answered

    def request(self, line: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
        """Send one request with the user's token (unless there is one in ``headers``); return the answer."""
        return self.send(head(line, headers) + body)

    def lose(self) -> None:
        """The client is gone."""
        self.channel.connectionLost(Failure(ConnectionLost()))

    @property
    def answered(self) -> bytes:
        """What was answered since the last `send`."""
        return bytes(self.transport.value())

    @property
    def paused(self) -> bool:
        """Whether the server does not read."""
        return self.transport.producerState == "paused"


def head(line: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the head of a request."""
    lines = [f"{line} HTTP/1.1", "Host: localhost", *(f"{n}: {v}" for n, v in (headers or {}).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def status(answer: bytes) -> int:
    """Return the status of an answer."""
    return int(answer.split(b" ", 2)[1])


def headers(answer: bytes) -> dict[str, str]:
    """Return the headers of an answer, by their names in lower case."""
    lines = answer.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def content(answer: bytes) -> bytes:
    """Return the body of an answer."""
    return answer.partition(b"\r\n\r\n")[2]


def code(answer: bytes) -> str:
    """Return the code of an error."""
    return str(json.loads(content(answer))["error"])


class ServerTestCase(SynchronousTestCase):
    """A test of a whole server in memory, with one user."""

    worker: Worker = InPlace()

    def setUp(self) -> None:
        """Make it."""
        self.clock = Clock()
        self.budget = Budget()
        database = memory_database()
        self.accounts = Accounts(database, self.clock.seconds)
        self.store = MemoryBytes(self.budget, self.clock.seconds, self.worker)
        self.backend = BlobsBackend(Index(database, Alone(), self.clock.seconds), self.store)
        self.token = self.successResultOf(self.accounts.add_user(USER, QUOTA))
        self.root = make_root(self.backend, self.accounts, max_blob=2 * QUOTA, budget=self.budget, clock=self.clock)
        self.site = make_site(self.root, self.clock, self.budget)

    def connect(self) -> Connection:
        """Open a connection."""
        channel = self.site.buildProtocol(None)
        transport = HalfCloseableTransport()
        channel.makeConnection(transport)
        return Connection(channel, transport)

    def auth(self, **more: str) -> dict[str, str]:
        """Return headers with the user's token, and ``more`` of them (with underscores for dashes)."""
        return {"Authorization": authorization(USER, self.token)} | {n.replace("_", "-"): v for n, v in more.items()}

    def ask(self, line: str, body: bytes | None = None, **more: str) -> bytes:
        """Send one request on a connection of its own; return the answer."""
        if body is not None:
            more["Content_Length"] = str(len(body))
        return self.connect().request(line, self.auth(**more), body or b"")

    def put(self, blob: str, data: bytes) -> str:
        """Store a blob; return its tag."""
        return self.successResultOf(self.backend.write_blob(USER, BlobId(blob), BytesProducer(data))).etag
