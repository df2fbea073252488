"""
What schemathesis cannot know of the API: bodies that are no JSON, and the tags of what these bodies put there.

It reads this in a process of its own (``SCHEMATHESIS_HOOKS``).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import schemathesis

from soledad.model.ids import RecordName
from soledad.wire.changes import Push, SealedRecord, encode_push
from soledad.wire.framing import END, Kind, encode_ids, encode_listed, frame
from soledad.wire.uploads import OFFSET_STREAM

#: What is pushed, or kept, each time: so the tag that the next one must name is known.
_SEALED = b"a checkpoint, or a keyring"


@schemathesis.serializer(OFFSET_STREAM)
def offset_stream(context: Any, value: Any) -> bytes:
    """Return what is sent: bytes as they are, anything else as text."""
    return _bytes(value)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Send frames in most streams, and what may be stored in most pushes: bytes at random are hardly ever that."""
    area, data = case.operation.path.split("/")[1], _bytes(case.body)
    if case.method not in ("POST", "PUT") or not len(data) % 4:
        return
    if area == "stream":
        case.body = _frames(str(case.query.get("direction")), data)
    elif area in ("sync", "keys"):
        case.body = _push(data) if area == "sync" else _SEALED
        for name in ("If-Match", "If-None-Match"):
            case.headers.pop(name, None)
        case.headers.update(_condition(first=data[0] % 2 == 0))


def _frames(direction: str, data: bytes) -> bytes:
    name = data.hex()[:20]
    if direction == "download":
        return frame(Kind.LIST, encode_ids(["a", "b", name])) + END
    listed = frame(Kind.LIST, encode_listed([("a", 0), (name, len(data))]))
    return listed + frame(Kind.BLOB, b"") + frame(Kind.BLOB, data) + END


def _push(data: bytes) -> bytes:
    return encode_push(Push((SealedRecord(RecordName(sha256(data).hexdigest()), data),), _SEALED))


def _condition(first: bool) -> dict[str, str]:
    return {"If-None-Match": "*"} if first else {"If-Match": f'"{sha256(_SEALED).hexdigest()}"'}


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
