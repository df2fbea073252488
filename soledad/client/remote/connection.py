"""
One connection to the server, and one body on its way there: what neither side may do.

Twisted's HTTP client parses; `Connection` stands between it and the transport.  It bounds the head of an answer, ends
what stands still, and hears a server that refuses a body before it has read it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import unpack_from
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IConsumer, IDelayedCall, IProtocol, IProtocolFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.deferreds import unawaited
from soledad.errors import TransferTimeout, UnexpectedAnswer, WrongLength
from soledad.wire.events import EVENT_STREAM

#: Bytes that are read from a socket at a time.  For each of these pieces Python has as much to do as for a small one.
READ_SIZE = 1024 * 1024
#: The same while a head comes; and bytes of a body that wait to be sent when its source is to pause.
SMALL_BUFFER = 64 * 1024
#: Bytes that are sent at a time.
SEND_SIZE = 512 * 1024
#: Bytes of the pieces of one body that may be free for a moment, before the next ones come.
KEPT = 4 * READ_SIZE
#: The longest head of an answer, in bytes.
HEAD_LIMIT = 64 * 1024
#: Fewer bytes than these in a time-out's span are standing still.
LEAST_MOVED = 1024
#: What asks for a stream of events: there, any byte will do.
_EVENTS = EVENT_STREAM.encode()
_ZEROS = bytes(1024 * 1024)


@frozen
class Limits:
    """How long things may take, in seconds."""

    #: To get a connection, the look-up of the name included.
    connect: float = 30.0
    #: While nothing moves in either direction; a transfer that moves is never too slow.
    stall: float = 60.0
    #: Until a connection that nobody uses is closed: sooner than servers do it.
    idle: float = 10.0


class Stale(ConnectionLost):
    """The server closed a connection that had been kept, before it saw the request."""


class Keeper(Protocol):
    """Who keeps connections."""

    limits: Limits

    def opened(self, connection: Connection) -> None:
        """A connection is there."""

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""

    def later(self, seconds: float, call: Callable[[], object]) -> IDelayedCall:
        """Call ``call`` after ``seconds``."""


class Connections(WrappingFactory["Connection"]):
    """Makes a `Connection` of what an endpoint connects."""

    noisy = False

    def __init__(self, keeper: Keeper, factory: IProtocolFactory) -> None:
        super().__init__(factory)
        self.keeper = keeper

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """See `IProtocolFactory`."""
        return Connection(self, self.wrappedFactory.buildProtocol(addr))


class Connection(ProtocolWrapper):
    """
    Stands between a transport and Twisted's HTTP client, and watches over both.

    A request begins with a ``writeSequence``, its head.  Its body is registered as a producer, until it is all
    written.  The head of the answer ends where the client pauses the transport to see who wants the body.
    """

    factory: Connections
    #: A request was cut short on it: what else is sent here would be taken for the rest.
    spoiled = False

    def __init__(self, factory: Connections, protocol: IProtocol) -> None:
        super().__init__(factory, protocol)
        self._keeper = factory.keeper
        self._upload: Upload | None = None
        self._watch: IDelayedCall | None = None
        self._reason: Failure | None = None
        self._requests = 0
        self._in_head = False
        self._paused = False
        self._heard = 0
        self._moved = 0
        self._acknowledged = 0
        self._least = LEAST_MOVED

    # --- as a protocol --------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Read and send more at a time than transports do by themselves."""
        self._below = transport
        # Below TLS.
        self._socket = getattr(transport, "transport", transport)
        self._socket.SEND_LIMIT = SEND_SIZE
        self._size_buffer()
        self._keeper.opened(self)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what comes, if somebody asked for it."""
        if self._upload is not None and self._reason is None:
            # The client would not look at the answer before it has sent all: then it may be too late.
            self.spoiled = self._upload.unfinished
            self._upload.cut_short()
        if self._reason is not None or self._idle:
            self.abortConnection()
        elif self._in_head and self._heard > HEAD_LIMIT:
            self.fail(UnexpectedAnswer("the head does not end"))
        else:
            self._count(len(data))
            self.wrappedProtocol.dataReceived(data)
            if self._idle:
                self._unwatch()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Say why it ended, as far as it is known here."""
        self._unwatch()
        if self._requests > 1 and self._heard == 0:
            reason = Failure(Stale())
        super().connectionLost(self._reason or reason)
        self._keeper.lost(self)

    def fail(self, error: Exception) -> None:
        """End the connection because of ``error``."""
        self._reason = Failure(error)
        self.abortConnection()

    @property
    def _idle(self) -> bool:
        client: Any = self.wrappedProtocol
        return client is None or bool(client.state == "QUIESCENT")

    def _count(self, size: int) -> None:
        self._heard += size
        # The head is not counted as movement: it has to come at once.
        self._moved += 0 if self._in_head else size

    # --- as a transport -------------------------------------------------------------------------------

    def writeSequence(self, data: Any) -> None:
        """Send the head of a request."""
        self._requests += 1
        self._in_head, self._heard = True, 0
        self._size_buffer()
        self._least = 1 if any(_EVENTS in line for line in data) else LEAST_MOVED
        self._watch_again()
        super().writeSequence(data)

    def write(self, data: bytes) -> None:
        """Send some of a body."""
        if not self.spoiled:
            self._moved += len(data)
            super().write(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`: a body begins.  It waits in its source, where it is counted, rather than here."""
        self._upload = producer
        self._size_buffer()
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """See `IConsumer`: a body is written."""
        self._upload = None
        self._size_buffer()
        super().unregisterProducer()

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._in_head, self._paused = False, True
        self._size_buffer()
        self._below.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        if self._paused:
            self._paused = False
            self._moved = LEAST_MOVED
        self._below.resumeProducing()

    def loseConnection(self) -> None:
        """End the connection.  The client does so when nothing is to be sent any more: no need to wait for the peer."""
        if self._in_head and self._reason is None:
            # It did not understand what it heard, or not within a line.
            self._reason = Failure(UnexpectedAnswer("not HTTP"))
        self.abortConnection()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self.abortConnection()

    def _size_buffer(self) -> None:
        # Of a head no more than it may have is parsed before somebody looks whether it ends.
        is_small = self._in_head or self._upload is not None
        self._socket.bufferSize = SMALL_BUFFER if is_small else READ_SIZE

    def abortConnection(self) -> None:
        """End the connection at once."""
        self.disconnecting = 1
        self._below.abortConnection()

    # --- nothing may stand still ----------------------------------------------------------------------

    def _watch_again(self) -> None:
        self._unwatch()
        self._moved, self._acknowledged = 0, self._acknowledgements()
        self._watch = self._keeper.later(self._keeper.limits.stall, self._look)

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and watch.active():
            watch.cancel()

    def _look(self) -> None:
        moved = self._moved + self._acknowledgements() - self._acknowledged
        # While our own side does not want more, it is not the server that makes us wait.
        if self._paused or moved >= self._least:
            self._watch_again()
        else:
            self.fail(TransferTimeout(self._keeper.limits.stall))

    def _acknowledgements(self) -> int:
        """Return how many bytes the other side has acknowledged: what is written may be long in buffers."""
        try:
            info = self._socket.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            acknowledged: int = unpack_from("=Q", info, 120)[0]
        except (AttributeError, OSError, ValueError):
            # Not a socket, or not Linux: what is written and read has to do.
            return 0
        return acknowledged


@implementer(IBodyProducer, IConsumer)
@define(eq=False)
class Upload:
    """A body on its way: exactly as long as announced, stopped once, and, if need be, cut short."""

    _source: IBodyProducer
    length: int = field(init=False)
    _consumer: Any = field(default=None, init=False)
    _done: Deferred[None] = field(init=False)
    _sent: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        """Announce the length of the source."""
        self.length = self._source.length
        self._done = Deferred(lambda done: self.stopProducing())

    @property
    def unfinished(self) -> bool:
        """Whether less was written than announced."""
        return self._sent < self.length

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """See `IBodyProducer`; it is an error of the source if it gives more or less than it had announced."""
        if self._ended:
            return self._done
        self._consumer = consumer
        produced = maybeDeferred(self._source.startProducing, self)
        unawaited(produced.addCallbacks(lambda ignored: self._finish(), self._fail))
        return self._done

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        if not self._ended:
            self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        if not self._ended:
            self._source.resumeProducing()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        if not self._ended:
            self._ended = True
            if self._consumer is not None:
                self._source.stopProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`; bodies are driven through the source itself."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """Take what the source has."""
        if self._ended:
            return
        if self._sent + len(data) > self.length:
            self.stopProducing()
            self._done.errback(WrongLength(self.length, self._sent + len(data)))
        else:
            self._sent += len(data)
            self._consumer.write(data)

    def cut_short(self) -> None:
        """Stop the source, and write zeros in the place of what is missing; whoever calls this does not send them."""
        self.stopProducing()
        while self.unfinished:
            size = min(len(_ZEROS), self.length - self._sent)
            self._sent += size
            self._consumer.write(_ZEROS[:size])
        if not self._done.called:
            self._done.callback(None)

    def _finish(self) -> None:
        if not self._ended:
            self._ended = True
            if self.unfinished:
                self._done.errback(WrongLength(self.length, self._sent))
            else:
                self._done.callback(None)

    def _fail(self, failure: Failure) -> None:
        if not self._ended:
            self._ended = True
            self._done.errback(failure)
