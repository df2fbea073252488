"""
For the test suites of applications that use soledad, and for soledad's own: stores, a server in memory, and faults.

`MemoryServer` is the real server, its resources over its backend in memory, joined to the real client by connections
in memory: no sockets, no threads, no time but that of a `Clock`.  Calls have ended when they return, so that
``successResultOf`` and ``failureResultOf`` of trial work::

    class MyTests(SynchronousTestCase):
        def test_offline(self) -> None:
            server = MemoryServer()
            store = make_store(self, server)
            doc = self.successResultOf(store.create_doc({}))
            self.successResultOf(doc.put_attachment(b"some bytes"))
            server.disconnect()
            self.failureResultOf(doc.upload_attachment(), ConnectionFailed)

It needs the extra ``server`` (``pip install soledad[server]``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from twisted.web.resource import Resource
from zope.interface import implementer

from soledad.client.api import Soledad, open_store
from soledad.client.local.store import Workers
from soledad.client.remote.agent import ServerAgent
from soledad.client.remote.connect import Address, Server
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import InPlace, unawaited
from soledad.errors import SoledadError, StorageError
from soledad.model.ids import user_id
from soledad.server.accounts import Accounts
from soledad.server.backends.memory import memory_backend, memory_database
from soledad.server.interfaces import Found, IByteStore, IPart, Place, Stored
from soledad.server.records import Records
from soledad.server.service import make_root, make_site
from soledad.streams import Budget, MemoryConsumer
from soledad.wire.routes import PAGE
from soledad.wire.status import encode_error

T = TypeVar("T")

__all__ = ["MemoryServer", "make_store"]

#: What stores of tests are locked with, instead of a passphrase that would take its time.
TEST_KEY = bytes(range(32))


# --- a store ------------------------------------------------------------------------------------------


def make_store(
    test: SynchronousTestCase,
    server: MemoryServer | Server | None = None,
    *,
    uuid: str = "user",
    data_dir: str | Path | None = None,
    key: bytes = TEST_KEY,
    clock: Clock | None = None,
) -> Soledad:
    """
    Open a store for one test; it is closed when the test ends.

    Everything is real but for threads and passphrase: calls run in place, so their Deferreds have fired when they
    return, and the keyring's key is handed in.

    A second store of a user, with the same server and a folder of its own, is a second device: it has the keyring
    that the first left on the server.  One that is made while the server is out of reach begins apart, and joins.

    :param server: a `MemoryServer`, where the user is made if need be; or what `MemoryServer.connect` gave.
    :param data_dir: the store's folder; by default a new one.  Closing a store and opening its folder again works.
    :param clock: the store's time, for transfers that are tried again later; by default it stands still.
    """
    if isinstance(server, MemoryServer):
        server = server.connect(uuid)
    folder = Path(test.mktemp() if data_dir is None else data_dir)
    workers = Workers.start(lambda threads, name: InPlace())
    opening = open_store(Clock() if clock is None else clock, workers, user_id(uuid), HandedInKey(key), folder, server)
    soledad: Soledad = test.successResultOf(Deferred.fromCoroutine(opening))
    test.addCleanup(_close, test, soledad, server)
    return soledad


def _close(test: SynchronousTestCase, soledad: Soledad, server: Server | None) -> None:
    closing = soledad.close()
    if server is not None and isinstance(server._agent, _MemoryAgent):
        server._agent.flush()
    test.successResultOf(closing)


# --- the server in memory -----------------------------------------------------------------------------


class MemoryServer:
    """
    A whole server in memory, for tests; it goes with the test.

    Faults stay until `heal` is called, `cut_after` apart, which happens once.  They work on what is under way too.

    :param clock: what is asked for the time; a `Clock` of its own, so that a test says when time passes
        (``server.clock.advance(60)``).  A test that runs the reactor may give that instead.
    :param quota: bytes that each user may store; none: as many as there is memory for.
    """

    #: What a store is told as ``server_url``.  Nothing else has this name.
    url = "http://server.invalid"

    def __init__(self, clock: IReactorTime | None = None, quota: int | None = None) -> None:
        self.clock: Any = Clock() if clock is None else clock
        budget = Budget()
        database = memory_database()
        backend = memory_backend(database, budget, self.clock.seconds, quota)
        self._bytes = _FlippedBytes(backend.store)
        backend.store = self._bytes
        self._accounts = Accounts(database, self.clock.seconds)
        self._tokens: dict[str, str] = {}
        records = Records(database, quota, self.clock.seconds)
        root = make_root(backend, self._accounts, budget=budget, records=records, clock=self.clock)
        self._door = _Door(root)
        self._network = _Network(self.clock, make_site(self._door, self.clock, budget))  # type: ignore[arg-type]
        self._agent: ServerAgent | None = None

    def add_user(self, uuid: str) -> str:
        """
        Make a user; return a token.

        :raise UserExists: there is one of that id.
        """
        self._tokens[uuid] = _now(self._accounts.add_user(user_id(uuid)))
        return self._tokens[uuid]

    def add_token(self, uuid: str) -> str:
        """Return one more token for the user."""
        self._tokens[uuid] = _now(self._accounts.add_token(user_id(uuid)))
        return self._tokens[uuid]

    def revoke_tokens(self, uuid: str) -> None:
        """Let no token of the user be good any more."""
        _now(self._accounts.revoke_tokens(user_id(uuid)))

    @property
    def agent(self) -> ServerAgent:
        """An `IAgent` whose requests come here, whatever host they name; always the same one."""
        if self._agent is None:
            self._agent = self.make_agent()
        return self._agent

    def make_agent(self) -> ServerAgent:
        """Return a new agent, with connections of its own: each store has one, and closes it."""
        return _MemoryAgent(self.clock, self._network.endpoint, network=self._network)

    def connect(self, uuid: str, token: str | None = None) -> Server:
        """
        Return this server as a client of user ``uuid`` has it; the user is made if there is no such user yet.

        :param token: what the client shows; the user's own if none is given.
        """
        if token is None:
            token = self._tokens.get(uuid) or self.add_user(uuid)
        return Server.over(self.make_agent(), self.clock, user_id(uuid), Address(self.url, token))

    def flush(self) -> None:
        """
        Let everything arrive that is on its way.

        This happens by itself when a request is made, and while one goes on; call it after something else happened
        outside: a call was cancelled, a store that follows was closed, a consumer of one's own went on.
        """
        self._network.run()

    # --- faults ---------------------------------------------------------------------------------------

    def refuse(self, reason: SoledadError | int) -> None:
        """
        Answer every request with an error.

        :param reason: an error of `soledad.wire.status.TABLE`, or a status, which is sent without a body.
        """
        self._door.refusal = reason

    def cut_after(self, size: int) -> None:
        """Cut the connection, once, when ``size`` more bytes have crossed it: both directions, heads included."""
        self._network.cut_in = size

    def flip(self, position: int) -> None:
        """Flip a bit of the byte at ``position`` in every stored blob that is read, in ranges of it too."""
        self._bytes.position = position

    def stall(self) -> None:
        """Let nothing arrive any more, in either direction, though connections stay.  Time-outs need the clock."""
        self._network.stalled = True

    def disconnect(self) -> None:
        """Be out of reach: connections are cut, and there are no new ones."""
        self._network.unreachable = True
        self._network.cut()
        self._network.run()

    def heal(self) -> None:
        """End all faults."""
        self._door.refusal = None
        self._bytes.position = None
        self._network.heal()


def _now(work: Deferred[T]) -> T:
    """Return the result of ``work``, which has ended: everything runs in place here."""
    results: list[Any] = []
    unawaited(work.addBoth(results.append))
    if isinstance(results[0], Failure):
        results[0].raiseException()
    result: T = results[0]
    return result


class _Door(Resource):
    """Lets requests in, or does not."""

    isLeaf = True

    def __init__(self, root: Resource) -> None:
        super().__init__()
        self._root = root
        self.refusal: SoledadError | int | None = None

    def render(self, request: Any) -> Any:
        """Answer, or refuse to."""
        if self.refusal is None:
            return self._root.render(request)
        status, body = (self.refusal, b"") if isinstance(self.refusal, int) else encode_error(self.refusal)
        request.setResponseCode(status)
        return body


@implementer(IByteStore)
@define(eq=False)
class _FlippedBytes:
    """Stored bytes, one of which may be wrong."""

    _bytes: IByteStore
    #: Where in each blob.
    position: int | None = None

    def write(self, place: Place, producer: IBodyProducer) -> Deferred[Stored]:
        """See `IByteStore`."""
        return self._bytes.write(place, producer)

    def write_many(
        self, portions: Sequence[tuple[Place | None, int]], producer: IBodyProducer
    ) -> Deferred[list[Stored | None]]:
        """See `IByteStore`."""
        return self._bytes.write_many(portions, producer)

    def read_many(self, places: Sequence[tuple[Place, int]]) -> Deferred[list[bytes | StorageError]]:
        """See `IByteStore`."""
        return self._bytes.read_many(places).addCallback(lambda found: [self._flipped(one) for one in found])

    def _flipped(self, data: bytes | StorageError) -> bytes | StorageError:
        if self.position is None or not isinstance(data, bytes):
            return data
        flipped = MemoryConsumer()
        _Flip(flipped, self.position).write(data)
        return flipped.value()

    def read(self, place: Place, consumer: IConsumer, start: int, length: int) -> Deferred[None]:
        """See `IByteStore`."""
        if self.position is not None:
            consumer = _Flip(consumer, self.position - start)
        return self._bytes.read(place, consumer, start, length)

    def size(self, place: Place) -> Deferred[int]:
        """See `IByteStore`."""
        return self._bytes.size(place)

    def delete(self, place: Place) -> Deferred[None]:
        """See `IByteStore`."""
        return self._bytes.delete(place)

    def list(self, after: str = "", limit: int = PAGE) -> Deferred[list[Found]]:
        """See `IByteStore`."""
        return self._bytes.list(after, limit)

    def put_aside(self, place: Place) -> Deferred[str]:
        """See `IByteStore`."""
        return self._bytes.put_aside(place)

    def begin(self, place: Place) -> Deferred[None]:
        """See `IByteStore`."""
        return self._bytes.begin(place)

    def resume(self, place: Place) -> Deferred[IPart]:
        """See `IByteStore`."""
        return self._bytes.resume(place)


@implementer(IConsumer)
@define(eq=False)
class _Flip:
    """Passes bytes on, one of them wrong."""

    _consumer: IConsumer
    #: How many bytes come before it; negative: it is not among these.
    _before: int

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        self._consumer.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._consumer.unregisterProducer()

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        if 0 <= self._before < len(data):
            data = data[: self._before] + bytes([data[self._before] ^ 1]) + data[self._before + 1 :]
            self._before = -1
        else:
            self._before -= len(data)
        self._consumer.write(data)


# --- connections in memory ----------------------------------------------------------------------------


@implementer(IAgent)
@define(eq=False)
class _MemoryAgent(ServerAgent):
    """An agent whose requests have arrived when they return."""

    _network: _Network = field(kw_only=True)

    def request(self, *args: Any, **options: Any) -> Deferred[IResponse]:
        """See `IAgent`."""
        answer = super().request(*args, **options)
        self._network.run()
        return answer

    def flush(self) -> None:
        """Let everything arrive that is on its way."""
        self._network.run()

    def close(self) -> Deferred[None]:
        """End all connections; they are gone when this returns."""
        closing = super().close()
        self._network.run()
        return closing


@define(eq=False)
class _Network:
    """Carries bytes from one end of a connection to the other: a turn for each piece, as a reactor has them."""

    _clock: IReactorTime
    _site: IProtocolFactory
    _turns: deque[Callable[[], None]] = field(factory=deque, init=False)
    _running: bool = field(default=False, init=False)
    _scheduled: bool = field(default=False, init=False)
    _ends: set[_End] = field(factory=set, init=False)
    stalled: bool = field(default=False, init=False)
    unreachable: bool = field(default=False, init=False)
    #: The bytes after which the connection that carries them is cut.
    cut_in: int | None = field(default=None, init=False)

    def endpoint(self, uri: URI) -> IStreamClientEndpoint:
        """Return the endpoint for a URI, which is the same for all."""
        return _MemoryEndpoint(self)

    def join(self, client: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a client to the server."""
        if self.unreachable:
            return fail(ConnectError(string="the server is out of reach"))
        near, far = client.buildProtocol(_ADDRESS), self._site.buildProtocol(_ADDRESS)
        assert near is not None
        assert far is not None
        ends = _End(self, near), _End(self, far)
        for end, other in zip(ends, reversed(ends), strict=True):
            end.peer = other
            self._ends.add(end)
        far.makeConnection(ends[1])
        near.makeConnection(ends[0])
        return succeed(near)

    def soon(self, turn: Callable[[], None]) -> None:
        """Take ``turn`` when those before it have been taken: now, if somebody sees to it, or when time passes."""
        self._turns.append(turn)
        if not self._running and not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._due)

    def run(self) -> None:
        """Take all turns there are, unless that is being done already."""
        if self._running:
            return
        self._running = True
        try:
            while self._turns:
                self._turns.popleft()()
        finally:
            self._running = False

    def carried(self, end: _End, size: int) -> None:
        """Count bytes that arrived."""
        if self.cut_in is not None:
            self.cut_in -= size
            if self.cut_in <= 0:
                self.cut_in = None
                end.broken()

    def allowed(self, size: int) -> int:
        """Return how many of ``size`` bytes may still be carried."""
        return size if self.cut_in is None else min(size, self.cut_in)

    def cut(self) -> None:
        """Break all connections."""
        for end in list(self._ends):
            end.broken()

    def gone(self, end: _End) -> None:
        """Forget an end."""
        self._ends.discard(end)

    def heal(self) -> None:
        """Carry everything again."""
        self.stalled, self.unreachable, self.cut_in = False, False, None
        for end in list(self._ends):
            self.soon(end.flush)
        self.run()

    def _due(self) -> None:
        self._scheduled = False
        self.run()


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _MemoryEndpoint:
    """Where the server is."""

    _network: _Network

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return self._network.join(protocolFactory)


_ADDRESS = IPv4Address("TCP", "127.0.0.1", 80)


@implementer(ITransport, IConsumer, IPushProducer)
@define(eq=False)
class _End:
    """
    One end of a connection, as a TCP transport behaves: what is written waits until the other end reads.

    A producer is paused while more than ``bufferSize`` bytes wait, and goes on when none do.
    """

    _network: _Network
    _protocol: Any
    peer: _End = field(init=False)
    #: As the transports of Twisted have it: bytes to read at a time, or to keep before producers are paused.
    bufferSize: int = field(default=64 * 1024, init=False)
    #: Bytes that are sent at a time, which makes no difference here.
    SEND_LIMIT: int = field(default=128 * 1024, init=False)
    disconnecting: bool = field(default=False, init=False)
    _connected: bool = field(default=True, init=False)
    _reading: bool = field(default=True, init=False)
    _waiting: deque[bytes] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    _producer: Any = field(default=None, init=False)
    _streaming: bool = field(default=False, init=False)
    _producer_waits: bool = field(default=False, init=False)

    # --- as a transport -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See `ITransport`."""
        if not self._connected or not data:
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > self.bufferSize and self._producer is not None:
            self._producer_waits = True
            if self._streaming:
                self._producer.pauseProducing()
        self._network.soon(self.flush)

    def writeSequence(self, data: Any) -> None:
        """See `ITransport`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """See `ITransport`: what was written arrives first."""
        self.disconnecting = True
        self._network.soon(self.flush)

    def abortConnection(self) -> None:
        """End it: nothing more arrives."""
        if self._connected:
            self._connected = self.peer._connected = False
            self._network.soon(lambda: self._lost(ConnectionAborted(), ConnectionLost()))

    def broken(self) -> None:
        """Have it cut by somebody else."""
        if self._connected:
            self._connected = self.peer._connected = False
            self._network.soon(lambda: self._lost(ConnectionLost(), ConnectionLost()))

    def getPeer(self) -> IPv4Address:
        """See `ITransport`."""
        return _ADDRESS

    def getHost(self) -> IPv4Address:
        """See `ITransport`."""
        return _ADDRESS

    # --- as a consumer and a producer -----------------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        if not self._connected:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._producer_waits = producer, streaming, not streaming
        self._network.soon(self.flush)

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._producer, self._producer_waits = None, False
        self._network.soon(self.flush)

    def pauseProducing(self) -> None:
        """See `IPushProducer`: read no more."""
        self._reading = False

    def resumeProducing(self) -> None:
        """See `IPushProducer`: read on."""
        self._reading = True
        self._network.soon(self.peer.flush)
        # Whoever reads on outside of a turn expects that more may come at once.
        self._network.run()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self.loseConnection()

    # --- turns ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Carry a piece, or ask for more, or close."""
        if not self._connected or self._network.stalled:
            return
        if self._waiting:
            if self.peer._reading:
                self._carry()
                self._network.soon(self.flush)
        elif self._producer_waits:
            self._producer_waits = not self._streaming
            self._producer.resumeProducing()
        elif self.disconnecting:
            self._connected = self.peer._connected = False
            self._lost(ConnectionDone(), ConnectionDone())

    def _carry(self) -> None:
        data = self._waiting.popleft()
        size = self._network.allowed(min(len(data), self.peer.bufferSize))
        if size < len(data):
            self._waiting.appendleft(data[size:])
        self._size -= size
        self._network.carried(self, size)
        if size:
            self.peer._protocol.dataReceived(data[:size])

    def _lost(self, mine: Exception, theirs: Exception) -> None:
        for end, reason in ((self, mine), (self.peer, theirs)):
            self._network.gone(end)
            producer, end._producer = end._producer, None
            if producer is not None:
                producer.stopProducing()
            end._protocol.connectionLost(Failure(reason))
