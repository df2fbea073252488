"""
Server-sent events: what a server tells of a user's state, and how a client reads it, however the network cuts it.

An event is the whole state, so none is missed by missing one.  Source: docs/spec/events-http.rst.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import define, field, frozen

from soledad.errors import UnexpectedAnswer

EVENT_STREAM = "text/event-stream"
#: The name of the one kind of event there is.
HEADS = "heads"
#: What a server sends when nothing happens, so that both ends notice when the other is gone.
HEARTBEAT = b":\n\n"
#: Seconds between two of them, at most.
HEARTBEAT_SECONDS = 20.0
#: The longest line, and the most data of one event, in bytes.
LINE_LIMIT, DATA_LIMIT = 4096, 8192
#: Characters that a tag or token has at most.
_TEXT_LIMIT = 256


@frozen
class Heads:
    """What tells one state of a user's things on the server from another; nothing is to be read from it."""

    #: The tag of the documents' checkpoint; none: there are no documents.
    documents: str | None
    #: The token of the last change of blobs.
    blobs: str
    #: The tag of the keyring; none: there is none.
    keyring: str | None

    def encode(self) -> bytes:
        """Return the event."""
        told = {"documents": self.documents, "blobs": self.blobs, "keyring": self.keyring}
        data = json.dumps(told, separators=(",", ":"))
        return f"event: {HEADS}\ndata: {data}\n\n".encode("ascii")

    @classmethod
    def parse(cls, data: bytes) -> Heads:
        """Read the data of an event. :raise UnexpectedAnswer: it is none."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise UnexpectedAnswer("an event is not JSON") from None
        if not isinstance(value, dict):
            raise UnexpectedAnswer("an event is not an object")
        blobs = _text(value.get("blobs"))
        if blobs is None:
            raise UnexpectedAnswer("an event does not tell of blobs")
        return cls(_text(value.get("documents")), blobs, _text(value.get("keyring")))


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _TEXT_LIMIT):
        return value
    raise UnexpectedAnswer("an event has something else where a text belongs")


@define(eq=False)
class EventParser:
    """Reads a stream of events (HTML, section 9.2), piece by piece."""

    _line: bytearray = field(factory=bytearray, init=False, repr=False)
    #: The last byte was a CR: an LF after it ends no other line.
    _after_cr: bool = field(default=False, init=False)
    _name: bytes = field(default=b"", init=False)
    _data: list[bytes] = field(factory=list, init=False, repr=False)
    _size: int = field(default=0, init=False)

    def feed(self, data: bytes) -> list[Heads]:
        """
        Return the events that end in ``data``; events of other names, and other fields, are left out.

        :raise UnexpectedAnswer: it is not the protocol's, or too long.
        """
        events: list[Heads] = []
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
        self._after_cr = data[-1:] == b"\r"
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for ended in lines[:-1]:
            self._add(ended)
            event = self._end_line()
            if event is not None:
                events.append(event)
        self._add(lines[-1])
        return events

    def _add(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > LINE_LIMIT:
            raise UnexpectedAnswer("a line of an event does not end")
        self._line += piece

    def _end_line(self) -> Heads | None:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value
        elif name == b"data":
            self._size += len(value) + 1
            if self._size > DATA_LIMIT:
                raise UnexpectedAnswer("an event does not end")
            self._data.append(value)
        return None

    def _end_event(self) -> Heads | None:
        name, data = self._name, self._data
        self._name, self._data, self._size = b"", [], 0
        return Heads.parse(b"\n".join(data)) if data and name == HEADS.encode() else None
