"""
One authenticated request with limits, and what became of it.

Statuses become errors through `soledad.wire.status`; what goes wrong below HTTP becomes a `TransferError` here.  Who
makes requests need not know of connections: `soledad.client.remote.agent` does.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field
from OpenSSL import SSL
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet import error as network
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer
from zope.interface import implementer

from soledad.deferreds import outlasting
from soledad.errors import (
    ConnectionFailed,
    InsecureServer,
    InvalidServerURL,
    LengthRequired,
    RetriableTransferError,
    SoledadError,
    TransferTimeout,
    UnexpectedAnswer,
)
from soledad.model.ids import UserId
from soledad.streams import MemoryConsumer
from soledad.wire.routes import authorization
from soledad.wire.status import ERROR_BODY_LIMIT, decode_error

#: What sends something that the server is to keep.
_WRITING = frozenset({"PATCH", "POST", "PUT"})
#: Seconds in which the body of an error has to come; after that the status has to do.
ERROR_BODY_TIME = 5.0


def server_url(text: str) -> str:
    """
    Check the URL of a server: ``https://host[:port][/path]``, or ``http`` where nobody listens in.

    :return: the URL without a slash at its end.
    :raise InvalidServerURL: it is something else.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise InvalidServerURL(str(error)) from error
    # What is left out of the error may be a password.
    if not good or "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidServerURL("it must be https://host[:port][/path]")
    if not text.isascii() or any(character.isspace() for character in text):
        raise InvalidServerURL("it must be ASCII, without spaces")
    return text.rstrip("/")


@define(eq=False)
class ServerConnection:
    """One user's requests to one server."""

    _client: HTTPClient = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    url: str
    user: UserId
    _token: str = field(repr=False)
    #: Awaited before anything is sent that the server is to keep, the keyring apart.
    before_writing: Callable[[], Awaitable[None]] | None = field(default=None, init=False, repr=False)

    @classmethod
    def over(cls, agent: IAgent, clock: IReactorTime, url: str, user: UserId, token: str) -> ServerConnection:
        """
        Make requests through ``agent``, usually one of `soledad.client.remote.agent.make_agent`.

        :raise InvalidServerURL: the URL or the token cannot be one.
        """
        if not token:
            raise InvalidServerURL("there is no token")
        return cls(HTTPClient(agent), clock, server_url(url), user, token)

    def set_token(self, token: str) -> None:
        """Use another token from the next request on."""
        self._token = token

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: IBodyProducer | None = None,
        known: Mapping[str, Any] | None = None,
        unchanged: bool = False,
        at_once: bool = False,
    ) -> Answer:
        """
        Send a request; return the answer once its head is there.  Its body has to be taken or abandoned.

        :param path: path and query, below the URL.
        :param known: what the request is about, for the fields of errors.
        :param unchanged: that nothing changed (304) is an answer too.
        :param at_once: `before_writing` is not for it: it is the keyring itself, or nothing that the server is to keep.
        :raise SoledadError: what the server says, if it is not a success.
        """
        if body is not None and body.length is UNKNOWN_LENGTH:
            raise LengthRequired()
        # What is deleted leaves a sealed tombstone, too.
        writes = method in _WRITING or body is not None
        if writes and not at_once and self.before_writing is not None:
            await self.before_writing()
        try:
            response = await self._client.request(
                method,
                self.url + path,
                headers=Headers({name: [value] for name, value in self._headers(headers).items()}),
                data=body,
                allow_redirects=False,
                unbuffered=True,
            )
        except Exception as error:
            raise explain(error) from error
        answer = Answer(response, method)
        if not 200 <= answer.status < 300 and not (unchanged and answer.status == 304):
            raise await answer.refusal(self._clock, known)
        return answer

    def _headers(self, others: Mapping[str, str] | None) -> dict[str, str]:
        return {**(others or {}), "Authorization": authorization(self.user, self._token)}

    async def ask(
        self, method: str, path: str, *, limit: int = ERROR_BODY_LIMIT, **details: Any
    ) -> tuple[Answer, bytes]:
        """
        Send a request whose answer is small: at most ``limit`` bytes.

        :raise UnexpectedAnswer: it is larger.
        """
        answer = await self.request(method, path, **details)
        return answer, await answer.collect(limit)


@define(eq=False)
class Answer:
    """The head of an answer, and the way to its body."""

    _response: Any = field(repr=False)
    _method: str

    @property
    def status(self) -> int:
        """The status."""
        status: int = self._response.code
        return status

    def expect(self, status: int) -> None:
        """:raise UnexpectedAnswer: it has another status."""
        if self.status != status:
            raise UnexpectedAnswer(f"not the status {status}", self.status)

    def header(self, name: str) -> str | None:
        """Return the value of a header, `None` if it is missing. :raise UnexpectedAnswer: there are several."""
        values: list[bytes] = self._response.headers.getRawHeaders(name.encode("ascii")) or []
        if len(values) > 1:
            raise UnexpectedAnswer(f"more than one {name}", self.status)
        # Any bytes have a text: what does not belong there is found by who reads it.
        return values[0].decode("latin-1") if values else None

    @property
    def length(self) -> int | None:
        """The bytes of the body, if the server said how many there will be."""
        length = self._response.length
        return None if length is UNKNOWN_LENGTH else int(length)

    async def deliver(self, consumer: IConsumer, length: int) -> None:
        """
        Write the body to ``consumer``, whose back-pressure is obeyed.

        :raise UnexpectedAnswer: it is not of ``length`` bytes.
        """
        await self._deliver(_Delivery(consumer, length, exact=True))

    async def stream(self, consumer: IConsumer, limit: int = sys.maxsize) -> None:
        """
        Write the body, whose length nobody knows, to ``consumer``, whose back-pressure is obeyed.

        :raise UnexpectedAnswer: it is larger than ``limit`` bytes.
        """
        await self._deliver(_Delivery(consumer, limit))

    async def collect(self, limit: int) -> bytes:
        """Return the body. :raise UnexpectedAnswer: it is larger than ``limit`` bytes."""
        body = MemoryConsumer()
        await self._deliver(_Delivery(body, limit))
        return body.value()

    async def refusal(self, clock: IReactorTime, known: Mapping[str, Any] | None) -> SoledadError:
        """Return the error that this answer is, from the status and as much of the body as comes at once."""
        body = MemoryConsumer()
        delivery = _Delivery(body, ERROR_BODY_LIMIT)
        timer = clock.callLater(ERROR_BODY_TIME, delivery.stop, TransferTimeout(ERROR_BODY_TIME))
        try:
            await self._deliver(delivery)
        except SoledadError as broken:
            error = decode_error(self.status, b"", known)
            # What the status alone does not tell, another try may.
            is_told = not isinstance(error, UnexpectedAnswer) or not isinstance(broken, RetriableTransferError)
            return error if is_told else broken
        finally:
            if timer.active():
                timer.cancel()
        return decode_error(self.status, body.value(), known)

    async def abandon(self) -> None:
        """Take nothing of the body: ends the connection."""
        delivery = _Delivery(MemoryConsumer(), 0)
        delivery.stop(CancelledError())
        try:
            await self._deliver(delivery)
        except CancelledError:
            return

    async def _deliver(self, delivery: _Delivery) -> None:
        self._response.deliverBody(delivery)
        await outlasting(delivery.done, lambda: delivery.stop(CancelledError()))


@implementer(IPushProducer)
class _Delivery(Protocol):
    """Takes a body to a consumer."""

    def __init__(self, consumer: IConsumer, limit: int, exact: bool = False) -> None:
        self.done: Deferred[None] = Deferred()
        self._consumer = consumer
        self._limit = limit
        self._exact = exact
        self._received = 0
        self._reason: BaseException | None = None

    def connectionMade(self) -> None:
        """Begin."""
        self._consumer.registerProducer(self, True)
        if self._reason is not None:
            self._transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Pass on ``data``, if it is not too much."""
        if self._reason is not None:
            return
        self._received += len(data)
        if self._received > self._limit:
            self.stop(UnexpectedAnswer(f"more than {self._limit} bytes"))
            return
        try:
            self._consumer.write(data)
        except Exception as error:
            self.stop(error)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Tell how it ended."""
        if self.done.called:
            return
        self._consumer.unregisterProducer()
        outcome = self._reason or self._judge(reason)
        if outcome is None:
            self.done.callback(None)
        else:
            self.done.errback(Failure(outcome))

    def stop(self, reason: BaseException) -> None:
        """End it, because of ``reason``; `done` fires once the connection is gone."""
        if self._reason is None:
            self._reason = reason
            if self.transport is not None:
                self._transport.loseConnection()

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self.stop(ConnectionFailed("the consumer has gone away"))

    @property
    def _transport(self) -> Any:
        return self.transport

    def _judge(self, reason: Failure) -> BaseException | None:
        if reason.check(PotentialDataLoss):
            return UnexpectedAnswer("a body without a length")
        if not reason.check(ResponseDone):
            assert reason.value is not None
            return explain(reason.value)
        if self._exact and self._received != self._limit:
            return UnexpectedAnswer(f"{self._received} bytes instead of {self._limit}")
        return None


# --- what goes wrong below HTTP -----------------------------------------------------------------------

_BROKEN = (
    network.ConnectError,
    network.ConnectionClosed,
    network.DNSLookupError,
    network.TimeoutError,
    SSL.SysCallError,
    SSL.ZeroReturnError,
    OSError,
)


def explain(error: BaseException) -> BaseException:
    """
    Return what an application should hear in the place of ``error``.

    An error of the body's source stays as it is.  Nothing of what the server sent goes into an error's text.
    """
    if isinstance(error, RequestGenerationFailed):
        cause: BaseException = error.reasons[0].value
        return cause
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, SoledadError | CancelledError):
            return cause
    for cause in causes:
        if isinstance(cause, SSL.Error | VerificationError) and not isinstance(cause, _BROKEN):
            return InsecureServer(_tls_reason(cause))
    for cause in causes:
        if isinstance(cause, _BROKEN):
            return ConnectionFailed(str(cause)[:200] or type(cause).__name__)
    if isinstance(error, ResponseFailed):
        return UnexpectedAnswer(f"not HTTP: {type(causes[-1]).__name__}")
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give what an error of Twisted's HTTP client is made of, or the error itself."""
    reasons = getattr(error, "reasons", None)
    if not reasons:
        yield error
        return
    for reason in reasons:
        yield from _causes(reason.value)


def _tls_reason(error: BaseException) -> str:
    if isinstance(error, VerificationError):
        return "the certificate is for another name"
    details = error.args[0] if error.args else ()
    if isinstance(details, list) and details:
        return str(details[-1][-1])
    return type(error).__name__
