"""
From requests to answers: a request becomes a `Call`, a coroutine makes an `Answer` of it, an error a status.

Coroutines run as soon as the headers are there; the body waits until one of them asks for it.  So what is refused is
refused before the body is read.  How that is done with twisted.web is in `soledad.server.streaming`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import Interface, implementer

from soledad.deferreds import unawaited
from soledad.errors import (
    BadRequest,
    ConnectionFailed,
    Forbidden,
    LengthRequired,
    NotAllowed,
    PathNotFound,
    SoledadError,
    StorageFailed,
    StorageFull,
    TooLarge,
    Unauthorized,
    UnsatisfiableRange,
)
from soledad.model.ids import UserId
from soledad.server.auth import Authenticator
from soledad.server.interfaces import ISocketConsumer
from soledad.streams import BytesProducer, MemoryConsumer
from soledad.wire.routes import PROTOCOL
from soledad.wire.status import encode_error

JSON = "application/json"
BYTES = "application/octet-stream"

_log = Logger()


@frozen
class Call:
    """What is asked: the parts of a request, decoded."""

    method: str
    #: The path behind its first segment, unquoted.
    segments: list[str]
    query: dict[str, str]
    headers: Mapping[str, str]
    body: IBodyProducer

    def header(self, name: str) -> str | None:
        """Return the value of a header, by its name in lower case."""
        return self.headers.get(name)


@frozen
class Answer:
    """What is answered: with ``body``, or with what ``stream`` writes, which is ``length`` bytes, or ``chunked``."""

    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    length: int | None = None
    #: How many bytes there will be is not known before the end; they are sent in chunks, as they are written.
    chunked: bool = False
    stream: Callable[[IConsumer], Deferred[None]] | None = None


class IArea(Interface):
    """What answers for all paths that begin with one segment."""

    async def answer(user: UserId, call: Call) -> Answer:
        """Answer the call of an authenticated user, or raise an error of `soledad.wire.status.TABLE`."""


def json_answer(body: bytes) -> Answer:
    """Answer with JSON."""
    return Answer(headers={"content-type": JSON}, body=body)


def method_refused(call: Call, *allowed: str) -> Answer:
    """Answer a call whose method is not among those that are ``allowed``."""
    answer = error_answer(NotAllowed(call.method[:20]))
    return evolve(answer, headers={**answer.headers, "allow": ", ".join(allowed)})


def check_owner(user: UserId, call: Call) -> None:
    """:raise Forbidden: the path is another user's, or nobody's."""
    if call.segments[0] != user:
        raise Forbidden()


async def small_body(call: Call, limit: int) -> bytes:
    """
    Read a body that may have up to ``limit`` bytes.

    :raise LengthRequired: its length is not known.
    :raise TooLarge: it is longer; none of it was read.
    """
    length = body_length(call)
    if length > limit:
        raise TooLarge(limit)
    body = MemoryConsumer()
    if length:
        await call.body.startProducing(body)
    return body.value()


def body_length(call: Call) -> int:
    """:raise LengthRequired: the request does not tell."""
    if call.body.length is UNKNOWN_LENGTH:
        raise LengthRequired()
    return int(call.body.length)


class Root(Resource):
    """
    The resource of the whole server.

    It takes requests of twisted.web's own `Request` too, whose body was read before; that suits tests in memory.
    """

    isLeaf = True

    def __init__(self, authenticator: Authenticator, areas: Mapping[str, IArea]) -> None:
        super().__init__()
        self._authenticator = authenticator
        self._areas = areas
        self._running: set[Deferred[None]] = set()
        self._waiting: list[Deferred[None]] = []

    def render(self, request: Any) -> int:
        """Begin to answer."""
        exchange = _Exchange(request)
        work = Deferred.fromCoroutine(exchange.run(self.answer))
        unawaited(request.notifyFinish().addErrback(lambda reason: exchange.lost(work)))
        self._running.add(work)
        unawaited(work.addErrback(_unexpected).addBoth(lambda ignored: self._ended(work)))
        return NOT_DONE_YET

    def idle(self) -> Deferred[None]:
        """Fire when no request is being answered."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self._ended(None)
        return waiting

    def _ended(self, work: Deferred[None] | None) -> None:
        self._running.discard(work)
        if not self._running:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)

    async def answer(self, call: Call) -> Answer:
        """Answer ``call``, whose segments are those of the whole path."""
        first, *rest = call.segments
        if not first and not rest:
            return self._greeting(call)
        user = await self._authenticator.user(call.header("authorization"))
        area = self._areas.get(first)
        if area is None:
            raise PathNotFound()
        return await area.answer(user, evolve(call, segments=rest))

    def _greeting(self, call: Call) -> Answer:
        if call.method not in ("GET", "HEAD"):
            return method_refused(call, "GET", "HEAD")
        told = {"name": "soledad", "version": _version(), "protocol": PROTOCOL, "offers": sorted(self._areas)}
        return json_answer(json.dumps(told).encode("ascii"))


@define(eq=False)
class _Exchange:
    """One request and the answer to it."""

    _request: Any
    _gone: bool = False

    async def run(self, answer: Callable[[Call], Any]) -> None:
        """Answer the request, whatever happens."""
        try:
            given = await answer(_call(self._request))
            if not self._gone:
                await self._send(given)
        except CancelledError:
            # The client went away, or the server ends: there is nobody to answer.
            self._abort()
        except Exception as error:
            self._fail(error)

    def lost(self, work: Deferred[None]) -> None:
        """The client has gone."""
        self._gone = True
        work.cancel()

    async def _send(self, answer: Answer) -> None:
        self._head(answer)
        if answer.stream is not None and self._request.method != b"HEAD":
            await answer.stream(_Outlet(self._request, lambda: self._gone))
        else:
            self._request.write(answer.body)
        if not self._gone:
            self._request.finish()

    def _head(self, answer: Answer) -> None:
        request = self._request
        request.setResponseCode(answer.status)
        # An earlier answer may have been prepared already, and failed before its first byte.
        for name in [name for name, _ in request.responseHeaders.getAllRawHeaders()]:
            if name.lower() not in (b"date", b"connection"):
                request.responseHeaders.removeHeader(name)
        request.setHeader(b"server", b"soledad")
        if answer.status not in (204, 304) and not answer.chunked:
            length = len(answer.body) if answer.length is None else answer.length
            request.setHeader(b"content-length", b"%d" % length)
        for name, value in answer.headers.items():
            request.setHeader(name.encode("ascii"), value.encode("ascii"))

    def _fail(self, error: Exception) -> None:
        note_failure(error)
        if self._gone:
            return
        if self._request.startedWriting:
            # Half an answer cannot be taken back, but it must not look like a whole one.
            self._abort()
            return
        self._head(error_answer(error))
        self._request.write(error_answer(error).body)
        self._request.finish()

    def _abort(self) -> None:
        if not self._gone:
            self._request.transport.abortConnection()


def note_failure(error: Exception) -> None:
    """Let the operator know of an error that is not the client's."""
    if not isinstance(error, SoledadError) or isinstance(error, StorageFailed | StorageFull):
        _log.failure("A request failed", failure=Failure(error))


def error_answer(error: Exception) -> Answer:
    """Return the answer for an error; what concerns the server's insides is not told."""
    status, body = encode_error(error)
    headers = {"content-type": JSON}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Token realm="soledad"'
    if isinstance(error, UnsatisfiableRange):
        headers["content-range"] = f"bytes */{error.size}"
    return Answer(status, headers, body)


def _call(request: Any) -> Call:
    """
    Take a request apart.

    :raise BadRequest: it cannot be understood.
    """
    if not request.path.startswith(b"/"):
        raise BadRequest("the path does not begin with a slash")
    headers = {name.lower(): values for name, values in request.requestHeaders.getAllRawHeaders()}
    try:
        return Call(
            request.method.decode("ascii"),
            [segment.decode("ascii") for segment in request.postpath],
            {name.decode("ascii"): _only(values).decode("ascii") for name, values in request.args.items()},
            {name.decode("ascii"): b", ".join(values).decode("latin-1") for name, values in headers.items()},
            _body(request),
        )
    except UnicodeDecodeError as error:
        raise BadRequest("only ASCII is understood here") from error


def _only(values: list[bytes]) -> bytes:
    if len(values) != 1:
        raise BadRequest("an argument is given more than once")
    return values[0]


def _body(request: Any) -> IBodyProducer:
    body = getattr(request, "body", None)
    return BytesProducer(request.content.read()) if body is None else body


@implementer(ISocketConsumer)
@define(eq=False)
class _Outlet:
    """The body of an answer, for a producer: a client that is gone is an error, not a surprise."""

    _request: Any
    _gone: Callable[[], bool]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        if self._gone():
            raise ConnectionFailed("the client is gone")
        self._request.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        if not self._gone():
            self._request.unregisterProducer()

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        if not self._gone():
            self._request.write(data)

    def socket(self) -> int | None:
        """See `ISocketConsumer`."""
        find = getattr(self._request, "socket", None)
        return None if find is None or self._gone() else find()

    def sent(self, size: int) -> None:
        """See `ISocketConsumer`."""
        self._request.sentLength += size


def _version() -> str:
    try:
        return version("soledad")
    except PackageNotFoundError:
        # Run from a checkout that is not installed.
        return "unknown"


def _unexpected(failure: Failure) -> None:
    _log.failure("A request could not be answered", failure=failure)
