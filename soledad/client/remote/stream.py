"""
Many small blobs in one request: what goes out, and whether what comes back is the answer to just that.

Source: docs/spec/stream.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from soledad.client.interfaces import IRemoteStream
from soledad.client.remote.http import ServerConnection
from soledad.deferreds import InPlace, deferred
from soledad.errors import MalformedStream, SoledadError, TooLarge, UnexpectedAnswer
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.streams import Budget, BytesProducer, WorkerProducer
from soledad.wire.framing import (
    END,
    HEAD_SIZE,
    LIMITS,
    MAX_BLOBS,
    MAX_BYTES,
    FrameReader,
    Kind,
    Piece,
    decode_failure,
    decode_results,
    encode_ids,
    encode_listed,
    frame,
    frame_head,
)
from soledad.wire.routes import StreamRoute

#: The largest blob, in bytes.
_LARGEST = LIMITS[Kind.BLOB]
#: Bytes that the answer about one blob has at most.
_RESULT_SIZE = LIMITS[Kind.ERROR]


@implementer(IRemoteStream)
@define(eq=False)
class RemoteStream:
    """See `IRemoteStream`."""

    _server: ServerConnection = field(repr=False)

    @deferred
    async def write_blobs(
        self, blobs: Sequence[tuple[BlobId, bytes]], namespace: Namespace = DEFAULT, tags: Sequence[str] | None = None
    ) -> list[SoledadError | None]:
        """See `IRemoteStream`."""
        small = [(blob_id, data) for blob_id, data in blobs if len(data) <= _LARGEST]
        told = iter(await self._write(small, namespace) if small else [])
        results = [next(told) if len(data) <= _LARGEST else TooLarge(_LARGEST) for _, data in blobs]
        known = [sha256(data).hexdigest() for _, data in blobs] if tags is None else tags
        return [_outcome(result, tag) for result, tag in zip(results, known, strict=True)]

    async def _write(self, blobs: Sequence[tuple[BlobId, bytes]], namespace: Namespace) -> list[str | SoledadError]:
        _check(len(blobs), sum(len(data) for _, data in blobs))
        body = _Body(blobs)
        producer = WorkerProducer(InPlace(), body.read, Budget(), body.length)
        path = StreamRoute(self._server.user, "upload", namespace).path
        answer, told = await self._server.ask("POST", path, body=producer, limit=(len(blobs) + 1) * _RESULT_SIZE)
        answer.expect(200)
        try:
            return decode_results(told, [blob_id for blob_id, _ in blobs], namespace)
        except MalformedStream as error:
            raise UnexpectedAnswer(error.reason, answer.status) from error

    @deferred
    async def read_blobs(
        self, wanted: Sequence[tuple[BlobId, int]], namespace: Namespace = DEFAULT
    ) -> list[bytes | SoledadError]:
        """See `IRemoteStream`."""
        if not wanted:
            return []
        _check(len(wanted), sum(length for _, length in wanted))
        body = frame(Kind.LIST, encode_ids([blob_id for blob_id, _ in wanted])) + END
        path = StreamRoute(self._server.user, "download", namespace).path
        answer = await self._server.request("POST", path, body=BytesProducer(body), at_once=True)
        arrivals = _Arrivals(wanted, namespace)
        await answer.stream(arrivals, arrivals.limit)
        answer.expect(200)
        return arrivals.finish()


def _check(number: int, size: int) -> None:
    """:raise TooLarge: it is more than one request may have."""
    if number > MAX_BLOBS:
        raise TooLarge(MAX_BLOBS)
    if size > MAX_BYTES:
        raise TooLarge(MAX_BYTES)


def _outcome(result: str | SoledadError, tag: str) -> SoledadError | None:
    if isinstance(result, SoledadError):
        return result
    # What the server has is not what was sent.
    return None if result == tag else UnexpectedAnswer("stored with another tag")


@define(eq=False)
class _Body:
    """The frames of an upload, read a piece at a time: there is no second copy of all blobs."""

    _blobs: Sequence[tuple[BlobId, bytes]] = field(repr=False)
    _next: int = field(default=-1, init=False)
    length: int = field(init=False)
    _list: bytes = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Make the list."""
        listed = encode_listed([(blob_id, len(data)) for blob_id, data in self._blobs])
        if len(listed) > LIMITS[Kind.LIST]:
            raise TooLarge(LIMITS[Kind.LIST])
        self._list = frame(Kind.LIST, listed)
        content = sum(HEAD_SIZE + len(data) for _, data in self._blobs)
        self.length = len(self._list) + content + len(END)

    def read(self, size: int) -> bytes:
        """Return the next frames: ``size`` bytes or a little more, none at the end."""
        parts: list[bytes] = []
        taken = 0
        while taken < size and self._next <= len(self._blobs):
            parts += self._frame()
            taken += len(parts[-1])
            self._next += 1
        return b"".join(parts)

    def _frame(self) -> list[bytes]:
        if self._next < 0:
            return [self._list]
        if self._next == len(self._blobs):
            return [END]
        _, data = self._blobs[self._next]
        return [frame_head(Kind.BLOB, len(data)), data]


@implementer(IConsumer)
@define(eq=False)
class _Arrivals:
    """Takes the answer to a download: a frame for each blob that was asked for, in that order."""

    _wanted: Sequence[tuple[BlobId, int]]
    _namespace: Namespace
    _reader: FrameReader = field(factory=FrameReader, init=False)
    _parts: list[bytes] = field(factory=list, init=False, repr=False)
    _results: list[bytes | SoledadError] = field(factory=list, init=False, repr=False)

    @property
    def limit(self) -> int:
        """The longest answer, in bytes."""
        longest = sum(max(length, _RESULT_SIZE) + HEAD_SIZE for _, length in self._wanted)
        return longest + len(END)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`; all of it is wanted as it comes."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """Take some of the answer. :raise UnexpectedAnswer: it is not of its form."""
        try:
            for piece in self._reader.feed(data):
                self._take(piece)
        except MalformedStream as error:
            raise UnexpectedAnswer(error.reason) from error

    def finish(self) -> list[bytes | SoledadError]:
        """Return what came. :raise UnexpectedAnswer: it is not all that was asked for."""
        try:
            self._reader.finish()
        except MalformedStream as error:
            raise UnexpectedAnswer(error.reason) from error
        return self._results

    def _take(self, piece: Piece) -> None:
        done = len(self._results) == len(self._wanted)
        if done is not (piece.kind is Kind.END) or piece.kind is Kind.LIST:
            raise MalformedStream("not a frame for each blob")
        if not done:
            self._take_answer(piece)

    def _take_answer(self, piece: Piece) -> None:
        blob_id, length = self._wanted[len(self._results)]
        fits = piece.kind is Kind.ERROR or piece.length == length
        if fits:
            self._parts.append(piece.data)
        if piece.ends:
            payload = b"".join(self._parts)
            self._parts = []
            if piece.kind is Kind.ERROR:
                self._results.append(decode_failure(payload, blob_id, self._namespace))
            else:
                self._results.append(payload if fits else UnexpectedAnswer(f"{piece.length} bytes instead of {length}"))
