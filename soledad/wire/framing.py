"""
Many blobs in one body: frames, and what is in them.

The reader takes bytes as the network cuts them, holds none back, and refuses a frame when it has seen its head.
Source: docs/spec/stream.rst.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any

from attrs import define, field, frozen

from soledad.errors import MalformedStream, SoledadError, TooLarge
from soledad.wire.status import decode_members, error_members


class Kind(IntEnum):
    """What a frame is."""

    END = 0
    LIST = 1
    BLOB = 2
    ERROR = 3


#: The longest payload of each kind, in bytes.
LIMITS: Mapping[Kind, int] = {Kind.END: 0, Kind.LIST: 1024 * 1024, Kind.BLOB: 1024 * 1024, Kind.ERROR: 4096}
#: Blobs in one body, and their bytes together, at most.
MAX_BLOBS, MAX_BYTES = 4096, 64 * 1024 * 1024

_HEAD = Struct(">BI")
#: The bytes of a frame that are not its payload.
HEAD_SIZE = _HEAD.size
#: The longest bodies of requests.
MAX_UPLOAD = MAX_BYTES + LIMITS[Kind.LIST] + (MAX_BLOBS + 2) * HEAD_SIZE
MAX_REQUEST = LIMITS[Kind.LIST] + 2 * HEAD_SIZE

END = _HEAD.pack(Kind.END, 0)


def frame_head(kind: Kind, length: int) -> bytes:
    """Return the head of a frame, which its payload has to follow."""
    assert length <= LIMITS[kind]
    return _HEAD.pack(kind, length)


def frame(kind: Kind, payload: bytes) -> bytes:
    """Return a whole frame."""
    return frame_head(kind, len(payload)) + payload


@frozen
class Piece:
    """Some bytes of a frame's payload: a frame has one piece or more."""

    kind: Kind
    #: Bytes of the whole payload.
    length: int
    data: bytes = field(repr=False)
    #: The first, and the last, of its frame.
    begins: bool
    ends: bool


@define(eq=False)
class FrameReader:
    """Takes a body apart as it comes."""

    _head: bytes = field(default=b"", init=False)
    _kind: Kind | None = field(default=None, init=False)
    _length: int = field(default=0, init=False)
    _left: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)

    def feed(self, data: bytes) -> Iterator[Piece]:
        """
        Give the pieces that are in ``data``, the next bytes of the body.

        :raise MalformedStream: they are not what can stand there.
        """
        at = 0
        while at < len(data):
            if self._kind is None:
                at = self._begin(data, at)
            size = min(self._left, len(data) - at)
            if self._kind is not None and (size or not self._left):
                yield self._piece(data[at : at + size])
                at += size

    def finish(self) -> None:
        """:raise MalformedStream: the body has ended without an end frame."""
        if not self._ended:
            raise MalformedStream("it ends too early")

    def _begin(self, data: bytes, at: int) -> int:
        """Take what belongs to the head of a frame; return where the rest begins."""
        if self._ended:
            raise MalformedStream("something follows the end")
        missing = HEAD_SIZE - len(self._head)
        self._head += data[at : at + missing]
        if len(self._head) == HEAD_SIZE:
            number, length = _HEAD.unpack(self._head)
            self._head = b""
            self._kind = _kind(number, length)
            self._length = self._left = length
        return min(len(data), at + missing)

    def _piece(self, data: bytes) -> Piece:
        kind = self._kind
        assert kind is not None
        begins = self._left == self._length
        self._left -= len(data)
        ends = not self._left
        if ends:
            self._kind = None
            self._ended = kind is Kind.END
        return Piece(kind, self._length, data, begins, ends)


def _kind(number: int, length: int) -> Kind:
    try:
        kind = Kind(number)
    except ValueError:
        raise MalformedStream("a frame of an unknown kind") from None
    if length > LIMITS[kind]:
        raise MalformedStream("a frame is too long")
    return kind


# --- what is in the frames ------------------------------------------------------------------------------------------


def encode_listed(blobs: Sequence[tuple[str, int]]) -> bytes:
    """Return the list of an upload: ids and lengths."""
    return _json([[blob, length] for blob, length in blobs])


def decode_listed(payload: bytes) -> list[tuple[str, int]]:
    """
    Return the list of an upload; what stands for ids may be any text.

    :raise MalformedStream: it is no such list.
    :raise TooLarge: there are too many blobs in it, or too many bytes.
    """
    listed = [_listed(entry) for entry in _entries(payload)]
    if sum(length for _, length in listed) > MAX_BYTES:
        raise TooLarge(MAX_BYTES)
    return listed


def encode_ids(blobs: Sequence[str]) -> bytes:
    """Return the list of a download."""
    return _json(list(blobs))


def decode_ids(payload: bytes) -> list[str]:
    """
    Return the list of a download; what stands for ids may be any text.

    :raise MalformedStream: it is no such list.
    :raise TooLarge: there are too many blobs in it.
    """
    return [_id(entry) for entry in _entries(payload)]


def encode_results(results: Sequence[tuple[str, str | SoledadError]]) -> bytes:
    """Return the answer to an upload: for each id its tag, or an error."""
    return _json({"results": [{"id": blob} | _outcome(outcome) for blob, outcome in results]})


def decode_results(body: bytes, blobs: Sequence[str], namespace: str) -> list[str | SoledadError]:
    """
    Return the tag, or the error, of each of ``blobs``.

    :raise MalformedStream: it is not the answer to an upload of just these.
    """
    results = _object(body).get("results")
    if not isinstance(results, list) or len(results) != len(blobs):
        raise MalformedStream("not a result for each blob")
    return [_result(value, blob, namespace) for value, blob in zip(results, blobs, strict=True)]


def encode_failure(error: SoledadError) -> bytes:
    """Return the payload of an error frame."""
    return _json(_outcome(error))


def decode_failure(payload: bytes, blob: str, namespace: str) -> SoledadError:
    """
    Return the error in an error frame for ``blob``.

    :raise MalformedStream: it is none.
    """
    return _failure(_object(payload), blob, namespace)


def _outcome(outcome: str | SoledadError) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"etag": outcome}
    status, members = error_members(outcome)
    return {"status": status, **members}


def _result(value: Any, blob: str, namespace: str) -> str | SoledadError:
    if not isinstance(value, dict) or value.get("id") != blob:
        raise MalformedStream("a result for another blob")
    if "status" in value:
        return _failure(value, blob, namespace)
    etag = value.get("etag")
    if not isinstance(etag, str):
        raise MalformedStream("a result without a tag")
    return etag


def _failure(value: dict[str, Any], blob: str, namespace: str) -> SoledadError:
    status = value.get("status")
    if type(status) is not int or not 400 <= status <= 599:
        raise MalformedStream("an error without a status")
    return decode_members(status, value, {"blob_id": blob, "namespace": namespace})


def _entries(payload: bytes) -> list[Any]:
    entries = _parsed(payload)
    if not isinstance(entries, list):
        raise MalformedStream("not a list")
    if len(entries) > MAX_BLOBS:
        raise TooLarge(MAX_BLOBS)
    return entries


def _listed(entry: Any) -> tuple[str, int]:
    if not isinstance(entry, list) or len(entry) != 2 or type(entry[1]) is not int:
        raise MalformedStream("not ids and lengths")
    if not 0 <= entry[1] <= LIMITS[Kind.BLOB]:
        raise MalformedStream("a blob is too long")
    return _id(entry[0]), entry[1]


def _id(entry: Any) -> str:
    if not isinstance(entry, str):
        raise MalformedStream("not a list of ids")
    return entry


def _object(payload: bytes) -> dict[str, Any]:
    value = _parsed(payload)
    if not isinstance(value, dict):
        raise MalformedStream("not an object")
    return value


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise MalformedStream("not JSON") from error


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
