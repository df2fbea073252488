"""
Bodies that are taken as they arrive: twisted.web would read a request to its end, into a file, before it asks anybody.

Here a request with a body is processed when its headers are there.  Its body waits in the network until somebody
asks for it; an answer that comes before the end of the body closes the connection, in a way that lets the client read
it.  This leans on names that are private in twisted.web (26.10): tests/server/test_streaming.py watches over them.

Only HTTP/1.1: in HTTP/2 these hooks do not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableDescriptor, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from soledad.errors import ConnectionFailed, TransferTimeout
from soledad.streams import Budget

#: Bytes that are read from the network at once: usually, and at most while a body flows.
SMALL_READ, LARGE_READ = 16 * 1024, 1024 * 1024
#: Bytes of an answer that wait in a connection when its producer is asked to pause; and those sent at once, at most.
WRITE_BUFFER, SEND_SIZE = 64 * 1024, 512 * 1024
#: What is still read, and dropped, after an early answer: bytes and seconds.
LINGER_BYTES, LINGER_SECONDS = 1024 * 1024, 5.0
#: Seconds that a client has for the headers of a request, once it has begun one.
HEADER_SECONDS = 20.0
#: Seconds that a connection may be idle between requests, and within a body.  Clients give theirs up earlier.
IDLE_SECONDS = 300.0
#: Seconds that a client may take to make room for more of an answer.
STALL_SECONDS = 120.0
#: The least average rate of a body, in bytes a second, and the seconds over which it is taken.
LEAST_RATE, RATE_SECONDS = 1024, 20.0

_log = Logger()


@implementer(IBodyProducer, IPushProducer)
@define(eq=False)
class RequestBody:
    """The body of a request: nothing of it is read from the network before `startProducing`."""

    _channel: StreamingChannel
    length: Any
    #: The client waits to be told to go on before it sends the body.
    _expected: bool = False
    #: All of it has arrived.
    complete: bool = field(default=False, init=False)
    _received: int = field(default=0, init=False)
    _held: list[bytes] = field(factory=list, init=False)
    _consumer: Any = field(default=None, init=False)
    _wanted: bool = field(default=False, init=False)
    _flowing: bool = field(default=False, init=False)
    _failure: Failure | None = field(default=None, init=False)
    _done: Deferred[None] = field(factory=Deferred, init=False)
    _watch: IDelayedCall | None = field(default=None, init=False)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """
        Write the body to ``consumer`` as it arrives.

        :raise ConnectionFailed: the client has gone away.
        :raise TransferTimeout: it sends less than `LEAST_RATE`.
        """
        if self._failure is not None:
            return fail(self._failure)
        self._consumer, self._wanted = consumer, True
        self._flowing = True
        held, self._held = self._held, []
        for data in held:
            consumer.write(data)
        if self.complete:
            return succeed(None)
        if self._expected and not self._received:
            self._channel.send_continue()
        # Unless the consumer has had enough by now: it asks when it wants more.
        self._channel.flow(self._flowing)
        self._watch_rate()
        return self._done

    def pauseProducing(self) -> None:
        """Let the client wait."""
        self._flow(False)

    def resumeProducing(self) -> None:
        """Go on."""
        self._flow(True)

    def stopProducing(self) -> None:
        """Drop what still comes."""
        self._consumer = None
        self._stop_watching()

    def received(self, data: bytes) -> None:
        """Take what the network brought."""
        self._received += len(data)
        if self._consumer is not None:
            self._consumer.write(data)
        elif not self._wanted:
            self._held.append(data)

    def ended(self) -> None:
        """All has arrived."""
        self.complete = True
        self._stop_watching()
        self._channel.flow(True, last=True)
        if self._wanted and not self._done.called:
            self._done.callback(None)

    def failed(self, error: Exception) -> None:
        """There will be no more."""
        self._held = []
        self._stop_watching()
        if self._failure is None and not self.complete:
            self._failure = Failure(error)
            if self._wanted and not self._done.called:
                self._done.errback(self._failure)

    def _flow(self, on: bool) -> None:
        if self._wanted and not self.complete and self._failure is None:
            self._flowing = on
            self._channel.flow(on)

    def _watch_rate(self) -> None:
        self._watch = self._channel.call_later(RATE_SECONDS, self._check_rate, self._received)

    def _check_rate(self, before: int) -> None:
        self._watch = None
        # While we let the client wait it cannot send.
        if self._flowing and self._received - before < LEAST_RATE * RATE_SECONDS:
            self.failed(TransferTimeout(RATE_SECONDS))
        else:
            self._watch_rate()

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()


class StreamingRequest(Request):
    """A request that is processed as soon as its headers are there; ``body`` is an `IBodyProducer`."""

    # Nothing is HTML here.
    defaultContentType = None
    channel: StreamingChannel
    body: RequestBody

    def gotLength(self, length: int | None) -> None:
        """Begin, unless there is no body: then all has been received in a moment."""
        # Left in, twisted.web would tell the client at once to go on.
        expectations = self.requestHeaders.getRawHeaders(b"expect", [])
        self.requestHeaders.removeHeader(b"expect")
        expected = [value.lower() for value in expectations] == [b"100-continue"]
        self.body = RequestBody(self.channel, UNKNOWN_LENGTH if length is None else length, expected)
        self.content = BytesIO()
        if length != 0:
            self.channel.flow(False)
            channel = self.channel
            super().requestReceived(channel._command, channel._path, channel._version)

    def handleContentChunk(self, data: bytes) -> None:
        """Pass on a piece of the body."""
        self.body.received(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All has been received: of the body, or of a request without one."""
        if self.body.length == 0:
            self.body.ended()
            super().requestReceived(command, path, version)
        else:
            self.body.ended()

    def socket(self) -> int | None:
        """Return a new descriptor of the socket, if the body of the answer goes there as it is."""
        return self.channel.socket() if self.responseHeaders.hasHeader(b"content-length") else None

    def connectionLost(self, reason: Failure) -> None:
        """Tell who answers, and the body: in this order, or an answer would still be tried."""
        super().connectionLost(reason)
        # Lost within its headers, it has no body yet.
        if self.content is not None:
            self.body.failed(ConnectionFailed("the client is gone"))


class StreamingChannel(HTTPChannel):
    """
    An HTTP/1.1 connection that reads a body only while somebody wants it.

    It also ends with a lingering close what it answered before the end of the body, and does not wait for ever for
    clients that send headers or read answers too slowly.
    """

    site: StreamingSite
    transport: Any
    _command: bytes
    _path: bytes
    _version: bytes
    _paused = False
    _in_request = False
    #: The rest of the body that may still come after an early answer; `None`: all is as usual.
    _lingering: int | None = None
    _answered_early = False
    _deadline: IDelayedCall | None = None
    _networkProducer: Any

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> IDelayedCall:
        """Call ``call`` in so many seconds."""
        later: IDelayedCall = self.callLater(seconds, call, *args)
        return later

    def connectionMade(self) -> None:
        """Begin."""
        super().connectionMade()
        self.site.channels.add(self)
        self._set_buffers(SMALL_READ)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        self._arm(None)
        self._set_busy(False)
        super().connectionLost(reason)
        self.site.lost(self)

    def dataReceived(self, data: bytes) -> None:
        """Take what came; a request that begins has to get on."""
        if not self._in_request and self._lingering is None:
            self._set_busy(True)
            self._arm(HEADER_SECONDS, self.timeoutConnection)
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        """The body may take longer than the headers."""
        self._arm(None)
        super().allHeadersReceived()

    def flow(self, on: bool, last: bool = False) -> None:
        """Read from the network, or do not; what the client sends waits there then.  ``last``: the body has ended."""
        if self._lingering is not None:
            return
        if on:
            self._set_buffers(WRITE_BUFFER if last else self.site.read_size())
        if self._paused is on:
            self._paused = not on
            # A pause of ours is not the client's idleness.
            self.setTimeout(self.timeOut if on else None)
            (self._networkProducer.resumeProducing if on else self._networkProducer.pauseProducing)()

    def socket(self) -> int | None:
        """Return a new descriptor of the socket, if what is written goes there as it is."""
        # TLS is another transport, on top of this one.
        if not isinstance(self.transport, Connection):
            return None
        # Its own: the transport's may be closed, and its number be another's, while somebody writes.
        return os.dup(self.transport.fileno())

    def send_continue(self) -> None:
        """Tell the client to send the body."""
        if self._version == b"HTTP/1.1":
            self._send100Continue()

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of a body, or drop what comes after an early answer."""
        if self._lingering is None:
            if not self._handlingRequest:
                self._set_buffers(self.site.read_size())
            super().rawDataReceived(data)
            return
        self._lingering -= len(data)
        if self._lingering < 0:
            # The client reads our answer or it does not; it cannot make us read on.
            self._networkProducer.pauseProducing()

    def allContentReceived(self) -> None:
        """Take the end of a body, unless its request was answered before."""
        if not self._answered_early:
            super().allContentReceived()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Write the head of an answer; one that is early is the last on this connection."""
        if not self.requests[0].body.complete:
            # What is left of the body must never be taken for a request.
            self._answered_early = True
            self.persistent = False
            headers.setRawHeaders(b"connection", [b"close"])
        if headers.hasHeader(b"transfer-encoding"):
            # It waits for events most of the time, and leaves the buffers to those that have something to send.
            self._set_busy(False)
        super().writeHeaders(version, code, reason, headers)

    def requestDone(self, request: Any) -> None:
        """Go on with the next request, or close."""
        self._set_busy(False)
        self._arm(None)
        self._set_buffers(SMALL_READ)
        if self._answered_early:
            self.flow(True)
            self._lingering = LINGER_BYTES
        super().requestDone(request)

    def loseConnection(self) -> None:
        """Close, so that the client can still read an early answer: closing with input unread resets."""
        if self._lingering is None:
            super().loseConnection()
            return
        self._networkProducer.unregisterProducer()
        transport = self.transport
        # A TLS transport claims to be half-closeable, which TLS is not; its `loseConnection` says goodbye and reads on.
        half = not self.isSecure() and IHalfCloseableDescriptor.providedBy(transport)
        getattr(transport, "loseWriteConnection" if half else "loseConnection")()
        self._arm(LINGER_SECONDS, self.transport.abortConnection)

    def pauseProducing(self) -> None:
        """The client reads too slowly: it has some time to make room."""
        super().pauseProducing()
        if self._handlingRequest:
            self._arm(STALL_SECONDS, self.transport.abortConnection)

    def resumeProducing(self) -> None:
        """The client made room; that must not undo a pause of ours."""
        if self._handlingRequest:
            self._arm(None)
        super().resumeProducing()
        if self._paused:
            self._networkProducer.pauseProducing()

    def _arm(self, seconds: float | None, call: Callable[[], object] = lambda: None) -> None:
        """Set the one deadline that there is at any time, or none."""
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()
        if seconds is not None:
            self._deadline = self.call_later(seconds, call)

    def _set_busy(self, busy: bool) -> None:
        self.site.busy += busy - self._in_request
        self._in_request = busy

    def _set_buffers(self, size: int) -> None:
        """Say how much the transport should read at once, and keep for writing: to Twisted that is one number."""
        transport = self.transport.transport if self.isSecure() else self.transport
        transport.bufferSize = size
        transport.SEND_LIMIT = SEND_SIZE


class StreamingSite(Site):
    """A site whose requests are `StreamingRequest`; it knows its connections and can end them."""

    requestFactory = StreamingRequest
    displayTracebacks = False
    noisy = False

    def __init__(self, resource: IResource, reactor: Any, budget: Budget) -> None:
        super().__init__(resource, timeout=IDLE_SECONDS, reactor=reactor)
        self.budget = budget
        self.channels: set[StreamingChannel] = set()
        #: Connections on which a request is under way.
        self.busy = 0
        self._ended: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Any:
        """Make a connection; none any more once `end` was called."""
        return None if self._ended is not None else super().buildProtocol(addr)

    # Instead of what would switch to HTTP/2.
    protocol = StreamingChannel  # type: ignore[assignment]

    def acceptableProtocols(self) -> list[bytes]:
        """See `IProtocolNegotiationFactory`."""
        return [b"http/1.1"]

    def read_size(self) -> int:
        """Return how many bytes of a body to read at once: all who send may do so before they are counted."""
        if self.budget.crowded:
            return SMALL_READ
        return max(SMALL_READ, min(LARGE_READ, self.budget.limit // (2 * max(1, self.busy))))

    def log(self, request: Any) -> None:
        """Note what was asked and answered; the query, which may hold tokens of lists, is left out."""
        _log.info(
            "{method} {path} {status} {sent}",
            method=repr(request.method)[2:-1],
            path=repr(request.path)[2:-1],
            status=request.code,
            sent=request.sentLength,
        )

    def lost(self, channel: StreamingChannel) -> None:
        """A connection is gone."""
        self.channels.discard(channel)
        if self._ended is not None and not self.channels and not self._ended.called:
            self._ended.callback(None)

    def end(self) -> Deferred[None]:
        """Close all connections; what was not answered is not.  Fires when they are gone."""
        self._ended = Deferred()
        ended = self._ended
        if not self.channels:
            ended.callback(None)
        for channel in list(self.channels):
            channel.transport.abortConnection()
        return ended
