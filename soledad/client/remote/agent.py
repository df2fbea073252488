"""
Connections to the server: a pool of them, and what a server may do on one.

Twisted's HTTP client does the protocol, `soledad.client.remote.connection` watches over each connection; here they are
opened, kept for the next request, and closed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL.crypto import X509
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from soledad.client.remote.connection import Connection, Connections, Limits, Stale, Upload
from soledad.deferreds import deferred, outlasting, unawaited
from soledad.errors import ConnectionFailed, InvalidServerURL, UnexpectedAnswer

#: Connections that are kept for the next request: more at a time are not faster.
CONNECTIONS = 8
#: Requests that may be sent again when a kept connection turns out to be dead.
_REPEATABLE = frozenset({b"GET", b"HEAD", b"DELETE"})


def load_tls(host: str, cert_file: str | Path | None) -> IOpenSSLClientConnectionCreator:
    """
    Return what makes a TLS connection to ``host`` (1.2 or newer, the host's name verified).  Blocks: it reads files.

    :param cert_file: the only authorities to trust, as PEM; the system's if there is none.
    :raise InvalidServerURL: the file cannot be used.
    """
    trust = None if cert_file is None else trustRootFromCertificates(_authorities(cert_file))
    options = {"raiseMinimumTo": TLSVersion.TLSv1_2}
    return optionsForClientTLS(host, trustRoot=trust, extraCertificateOptions=options)


def _authorities(cert_file: str | Path) -> list[Certificate]:
    try:
        found = load_pem_x509_certificates(Path(cert_file).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidServerURL(f"no certificates in the file: {type(error).__name__}") from error
    return [Certificate(X509.from_cryptography(certificate)) for certificate in found]


def make_agent(
    reactor: Any, tls: IOpenSSLClientConnectionCreator | None = None, limits: Limits | None = None
) -> ServerAgent:
    """Return an agent that connects over TCP, and over TLS (`load_tls`) where the URI says ``https``."""

    def endpoint(uri: URI) -> IStreamClientEndpoint:
        plain = HostnameEndpoint(reactor, uri.host, uri.port)
        if uri.scheme != b"https":
            return plain
        if tls is None:
            raise SchemeNotSupported("no TLS")
        return wrapClientTLS(tls, plain)

    return ServerAgent(reactor, endpoint, Limits() if limits is None else limits)


@implementer(IAgent)
@define(eq=False)
class ServerAgent:
    """
    An `IAgent` for one server, with one pool of persistent connections.

    Errors are those of `twisted.web.client.Agent`; where one is known better, the `SoledadError` is among its
    reasons.  No redirects, cookies or encodings of content; one more try only where a kept connection was dead.
    """

    _reactor: IReactorTime
    #: Gives the endpoint for a URI.
    _endpoint_for: Callable[[URI], IStreamClientEndpoint]
    limits: Limits = field(factory=Limits)
    _pool: _Pool = field(init=False)
    _agent: Agent = field(init=False)
    _requests: set[Deferred[Any]] = field(factory=set, init=False)
    _connections: set[Connection] = field(factory=set, init=False)
    _all_gone: Deferred[None] | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        """Make the pool."""
        self._pool = _Pool(self._reactor)
        self._pool.maxPersistentPerHost = CONNECTIONS
        self._pool.cachedConnectionTimeout = self.limits.idle  # type: ignore[assignment]
        self._pool.retryAutomatically = False
        endpoints = _Endpoints(self._endpoint)
        self._agent = Agent.usingEndpointFactory(self._reactor, endpoints, self._pool)

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See `IAgent`."""
        running = self._request(method, uri, headers, bodyProducer)
        if not running.called:
            self._requests.add(running)
            unawaited(running.addBoth(self._answered, running))
        return running

    @deferred
    async def close(self) -> None:
        """End all connections and requests, take no more, and fire when they are gone."""
        self._closed = True
        for running in list(self._requests):
            running.cancel()
        for connection in list(self._connections):
            connection.fail(CancelledError())
        while self._connections:
            self._all_gone = Deferred()
            await outlasting(self._all_gone, lambda: None)
        # Only now: a connection that ended a moment ago may have been given back since.
        await outlasting(self._pool.closeCachedConnections(), lambda: None)

    @deferred
    async def _request(
        self, method: bytes, uri: bytes, headers: Headers | None, body: IBodyProducer | None
    ) -> IResponse:
        if self._closed:
            raise CancelledError()
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        upload = None if body is None else Upload(body)
        try:
            response = await self._agent.request(method, uri, headers, upload)
        except (ResponseNeverReceived, RequestTransmissionFailed) as error:
            stale = any(reason.check(Stale) for reason in error.reasons)
            if not stale or body is not None or method not in _REPEATABLE:
                raise
            response = await self._agent.request(method, uri, headers)
        return _acceptable(response)

    def _answered(self, result: Any, running: Deferred[Any]) -> Any:
        self._requests.discard(running)
        return result

    # --- connections ----------------------------------------------------------------------------------

    def _endpoint(self, uri: URI) -> IStreamClientEndpoint:
        return _Endpoint(self, self._endpoint_for(uri))

    def connect(self, endpoint: IStreamClientEndpoint, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect ``factory`` through ``endpoint``, within the limit; fires with the protocol that it built."""
        seconds = self.limits.connect
        cancelled = False
        connecting = endpoint.connect(Connections(self, factory))
        unawaited(connecting.addTimeout(seconds, self._reactor))

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            connecting.cancel()

        def failed(failure: Failure) -> Failure:
            # An endpoint that is cancelled while it looks up a name says that there is no such name.
            if cancelled:
                raise CancelledError()
            if failure.check(defer.TimeoutError):
                raise ConnectionFailed(f"no connection within {seconds:g} seconds")
            return failure

        return outlasting(connecting.addCallbacks(lambda connection: connection.wrappedProtocol, failed), cancel)

    def opened(self, connection: Connection) -> None:
        """A connection is there."""
        self._connections.add(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if not self._connections and self._all_gone is not None:
            waiter, self._all_gone = self._all_gone, None
            waiter.callback(None)

    def later(self, seconds: float, call: Callable[[], object]) -> IDelayedCall:
        """Call ``call`` after ``seconds``."""
        return self._reactor.callLater(seconds, call)


def _acceptable(response: IResponse) -> IResponse:
    """Return the answer without its cookies, which so are never sent back; an encoding nobody asked for is refused."""
    response.headers.removeHeader(b"Set-Cookie")
    encodings = response.headers.getRawHeaders(b"Content-Encoding", [])
    if any(encoding.strip().lower() != b"identity" for encoding in encodings):
        response.deliverBody(_Unwanted())
        raise UnexpectedAnswer("encoded content", response.code)
    return response


class _Unwanted(Protocol):
    """A body that nobody wants."""

    def connectionMade(self) -> None:
        """End the connection."""
        assert self.transport is not None
        self.transport.loseConnection()


class _Pool(HTTPConnectionPool):
    """Does not give out a connection on which half a request was sent."""

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """See `HTTPConnectionPool`."""

        def checked(protocol: Any) -> Any:
            if not protocol.transport.spoiled:
                return protocol
            protocol.transport.abortConnection()
            return self.getConnection(key, endpoint)

        return super().getConnection(key, endpoint).addCallback(checked)


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    """The function that finds endpoints, as an agent wants it."""

    _find: Callable[[URI], IStreamClientEndpoint]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory`."""
        return self._find(uri)


@implementer(IStreamClientEndpoint)
@frozen
class _Endpoint:
    """An endpoint whose connections are guarded."""

    _agent: ServerAgent
    _endpoint: IStreamClientEndpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return self._agent.connect(self._endpoint, factory)
