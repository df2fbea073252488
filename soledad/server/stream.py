"""
The resource of many blobs in one body: ``/stream/{uuid}``.

Source: docs/spec/stream.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.deferreds import deferred, unawaited
from soledad.errors import BadRequest, InvalidIdentifier, MalformedStream, PathNotFound, SoledadError, TooLarge
from soledad.model.ids import BlobId, UserId, blob_id
from soledad.server.http import (
    BYTES,
    Answer,
    Call,
    IArea,
    body_length,
    check_owner,
    json_answer,
    method_refused,
    small_body,
)
from soledad.server.interfaces import IBlobsBackend, Stored
from soledad.streams import Budget, Gate
from soledad.wire.framing import (
    END,
    LIMITS,
    MAX_REQUEST,
    MAX_UPLOAD,
    FrameReader,
    Kind,
    Piece,
    decode_ids,
    decode_listed,
    encode_failure,
    encode_results,
    frame,
)
from soledad.wire.routes import StreamRoute

#: Names that are looked at for what goes next: more fit into no piece, and all of them are looked at in time.
_AT_A_TIME = 256


@implementer(IArea)
@define(eq=False)
class StreamArea:
    """Everything under ``/stream``."""

    _backend: IBlobsBackend
    _budget: Budget
    #: Bytes.
    _max_blob: int

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        if len(call.segments) != 1:
            raise PathNotFound()
        check_owner(user, call)
        if call.method != "POST":
            return method_refused(call, "POST")
        route = StreamRoute.parse(call.segments, call.query)
        return await (self._upload if route.direction == "upload" else self._download)(call, route)

    async def _upload(self, call: Call, route: StreamRoute) -> Answer:
        if body_length(call) > MAX_UPLOAD:
            raise TooLarge(MAX_UPLOAD)
        batch = _Batch(call.body)
        try:
            listed = await batch.listed()
            refusals = [self._refusal(name, length) for name, length in listed]
            wanted = [
                (BlobId(name) if refusal is None else None, length)
                for refusal, (name, length) in zip(refusals, listed, strict=True)
            ]
            stored = await self._backend.write_blobs(route.user, wanted, batch, route.namespace)
        finally:
            batch.stopProducing()
        outcomes = [_told(refusal or one) for refusal, one in zip(refusals, stored, strict=True)]
        return json_answer(encode_results([(name, told) for (name, _), told in zip(listed, outcomes, strict=True)]))

    def _refusal(self, name: str, length: int) -> SoledadError | None:
        if _parsed(name) is None:
            return _not_an_id()
        return TooLarge(self._max_blob) if length > self._max_blob else None

    async def _download(self, call: Call, route: StreamRoute) -> Answer:
        names = _requested(await small_body(call, MAX_REQUEST))
        return Answer(
            headers={"content-type": BYTES}, chunked=True, stream=lambda consumer: self._send(route, names, consumer)
        )

    @deferred
    async def _send(self, route: StreamRoute, names: Sequence[str], consumer: IConsumer) -> None:
        """Write a frame for each name, a few at a time."""
        gate = Gate()
        consumer.registerProducer(gate, True)
        try:
            rest = list(names)
            while rest:
                del rest[: await self._send_some(route, rest, consumer, gate)]
            consumer.write(END)
        finally:
            consumer.unregisterProducer()

    async def _send_some(self, route: StreamRoute, names: Sequence[str], consumer: IConsumer, gate: Gate) -> int:
        size = self._budget.piece()
        self._budget.take(size)
        try:
            frames = await gate.during(self._frames(route, names, size))
            consumer.write(b"".join(frames))
            # It is held until the client has taken it.
            await gate.passed()
        finally:
            self._budget.give(size)
        return len(frames)

    @deferred
    async def _frames(self, route: StreamRoute, names: Sequence[str], size: int) -> list[bytes]:
        """Return frames for the first of ``names``: of about ``size`` bytes together, or one."""
        ids: list[BlobId] = []
        for name in names[:_AT_A_TIME]:
            one = _parsed(name)
            if one is None:
                break
            ids.append(one)
        if not ids:
            return [_failure(_not_an_id())]
        found = await self._backend.read_blobs(route.user, ids, route.namespace, size, LIMITS[Kind.BLOB])
        return [frame(Kind.BLOB, one) if isinstance(one, bytes) else _failure(one) for one in found]


@implementer(IBodyProducer, IConsumer)
@define(eq=False)
class _Batch:
    """The body of an upload: first the list, then, for a consumer, the bytes of all blobs one after the other."""

    _body: IBodyProducer
    _reader: FrameReader = field(factory=FrameReader, init=False)
    _list: list[bytes] = field(factory=list, init=False)
    #: What is to come: the lengths of the blobs, once the list was read.
    _lengths: list[int] | None = field(default=None, init=False)
    _listed: Deferred[list[tuple[str, int]]] = field(factory=Deferred, init=False)
    _frames: int = field(default=0, init=False)
    _held: list[bytes] = field(factory=list, init=False)
    _consumer: Any = field(default=None, init=False)
    _done: Deferred[None] = field(factory=Deferred, init=False)
    _outcome: Failure | bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)

    def listed(self) -> Deferred[list[tuple[str, int]]]:
        """
        Read the list, and no more than came with it.

        :raise MalformedStream: there is none.
        :raise TooLarge: it has too much in it.
        """
        produced = self._body.startProducing(self)
        unawaited(produced.addCallback(lambda ignored: self._finish()).addErrback(self._end))
        if self._lengths is not None and self._consumer is None:
            # What had come before somebody read was given out whatever was said.
            self._body.pauseProducing()
        return self._listed

    @property
    def length(self) -> int:
        """The bytes of all blobs together."""
        return sum(self._lengths or ())

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write what is not the list. :raise MalformedStream: it is not what the list announced."""
        self._consumer, self._paused = consumer, False
        held, self._held = self._held, []
        for data in held:
            consumer.write(data)
        self._fire()
        # Unless the consumer has had enough by now: it asks when it wants more.
        if not self._outcome and not self._paused:
            self._body.resumeProducing()
        return self._done

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._paused = True
        self._body.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._paused = False
        self._body.resumeProducing()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        if not self._stopped:
            self._stopped = True
            self._held = []
            self._body.stopProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """Take some of the body."""
        if self._stopped or self._outcome:
            return
        try:
            for piece in self._reader.feed(data):
                self._take(piece)
        except SoledadError:
            self._end(Failure())

    def _take(self, piece: Piece) -> None:
        if self._lengths is None:
            self._take_list(piece)
        elif piece.kind is Kind.END:
            if self._frames != len(self._lengths):
                raise MalformedStream("blobs are missing")
        else:
            self._take_blob(piece, self._lengths)

    def _take_list(self, piece: Piece) -> None:
        if piece.kind is not Kind.LIST:
            raise MalformedStream("it does not begin with a list")
        self._list.append(piece.data)
        if piece.ends:
            listed = decode_listed(b"".join(self._list))
            self._list = []
            self._lengths = [length for _, length in listed]
            self._body.pauseProducing()
            self._listed.callback(listed)

    def _take_blob(self, piece: Piece, lengths: list[int]) -> None:
        if piece.kind is not Kind.BLOB or self._frames == len(lengths) or piece.length != lengths[self._frames]:
            raise MalformedStream("not the blob that the list has there")
        self._frames += piece.ends
        if self._consumer is None:
            self._held.append(piece.data)
        else:
            self._consumer.write(piece.data)

    def _finish(self) -> None:
        self._reader.finish()
        self._end(True)

    def _end(self, outcome: Failure | bool) -> None:
        if self._outcome:
            return
        self._outcome = outcome
        if self._lengths is None and isinstance(outcome, Failure):
            self._listed.errback(outcome)
        self._fire()

    def _fire(self) -> None:
        if self._consumer is None or not self._outcome or self._done.called:
            return
        if isinstance(self._outcome, Failure):
            self._done.errback(self._outcome)
        else:
            self._done.callback(None)


def _requested(body: bytes) -> list[str]:
    """Return what the body of a download lists. :raise MalformedStream: it is not of its form."""
    reader = FrameReader()
    pieces = list(reader.feed(body))
    reader.finish()
    if [piece.kind for piece in pieces] != [Kind.LIST, Kind.END]:
        raise MalformedStream("not one list")
    return decode_ids(pieces[0].data)


def _parsed(name: str) -> BlobId | None:
    try:
        return blob_id(name)
    except InvalidIdentifier:
        return None


def _not_an_id() -> BadRequest:
    # What stands there may be long.
    return BadRequest("not a blob id")


def _failure(error: SoledadError) -> bytes:
    return frame(Kind.ERROR, encode_failure(error))


def _told(outcome: Stored | SoledadError | None) -> str | SoledadError:
    assert outcome is not None
    return outcome.etag if isinstance(outcome, Stored) else outcome
