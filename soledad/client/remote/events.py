"""A user's events, as the server sends them.  Source: docs/spec/events-http.rst."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from soledad.client.interfaces import IRemoteEvents
from soledad.client.remote.http import Answer, ServerConnection
from soledad.deferreds import deferred
from soledad.errors import UnexpectedAnswer
from soledad.wire.events import EVENT_STREAM, EventParser, Heads
from soledad.wire.routes import EventsRoute


@implementer(IRemoteEvents)
@define(eq=False)
class RemoteEvents:
    """See `IRemoteEvents`."""

    _server: ServerConnection = field(repr=False)

    @deferred
    async def listen(self, on_heads: Callable[[Heads], object]) -> None:
        """See `IRemoteEvents`."""
        path = EventsRoute(self._server.user).path
        answer = await self._server.request("GET", path, headers={"Accept": EVENT_STREAM})
        try:
            _check(answer)
        except UnexpectedAnswer:
            await answer.abandon()
            raise
        await answer.stream(_Events(on_heads))


def _check(answer: Answer) -> None:
    """:raise UnexpectedAnswer: it is no stream of events."""
    answer.expect(200)
    kind, _, _ = (answer.header("Content-Type") or "").partition(";")
    if kind.strip().lower() != EVENT_STREAM:
        raise UnexpectedAnswer("no stream of events", answer.status)


@implementer(IConsumer)
@define(eq=False)
class _Events:
    """Tells of the events in what is written to it."""

    _on_heads: Callable[[Heads], object]
    _parser: EventParser = field(factory=EventParser, init=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`; there is no reason to pause it."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        for heads in self._parser.feed(data):
            self._on_heads(heads)
