"""
What schemathesis cannot know of the API: bodies that are no JSON.

It reads this in a process of its own (``SCHEMATHESIS_HOOKS``).
"""

from __future__ import annotations

from typing import Any

import schemathesis

from soledad.wire.framing import END, Kind, encode_ids, encode_listed, frame
from soledad.wire.uploads import OFFSET_STREAM


@schemathesis.serializer(OFFSET_STREAM)
def offset_stream(context: Any, value: Any) -> bytes:
    """Return what is sent: bytes as they are, anything else as text."""
    return _bytes(value)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Send frames in most streams: bytes at random are hardly ever some."""
    if case.operation.path.startswith("/stream/"):
        data = _bytes(case.body)
        if len(data) % 4:
            case.body = _frames(str(case.query.get("direction")), data)


def _frames(direction: str, data: bytes) -> bytes:
    name = data.hex()[:20]
    if direction == "download":
        return frame(Kind.LIST, encode_ids(["a", "b", name])) + END
    listed = frame(Kind.LIST, encode_listed([("a", 0), (name, len(data))]))
    return listed + frame(Kind.BLOB, b"") + frame(Kind.BLOB, data) + END


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
