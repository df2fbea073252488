"""What every provider of `IRemoteEvents` keeps to, with a server behind it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from soledad.client.interfaces import IRemoteEvents
from soledad.deferreds import unawaited
from soledad.errors import Unauthorized
from soledad.wire.events import Heads
from soledad.wire.routes import ListRoute
from tests.contracts.remote_blobs import RemoteCase


class RemoteEventsContract(RemoteCase):
    """Make a server in `make_server`; every test begins with an empty one."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the server."""
        await super().setUp()
        self.events: Any = self.server.events
        self.heard: list[Heads] = []
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def begin(self) -> Deferred[None]:
        """Begin to listen; it is ended with the test."""
        listening: Deferred[None] = self.events.listen(self.hear)
        self.addCleanup(lambda: self.end(listening))
        self.settle()
        return listening

    def hear(self, heads: Heads) -> None:
        """Take an event."""
        self.heard.append(heads)
        for condition, waiter in self._waiting:
            if condition() and not waiter.called:
                waiter.callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((condition, waiter))
        self.settle()
        if not condition():
            await waiter

    async def end(self, listening: Deferred[None]) -> None:
        """Stop listening."""
        unawaited(listening.addErrback(lambda failure: failure.trap(CancelledError)))
        listening.cancel()
        self.settle()
        await listening

    def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IRemoteEvents, self.events)

    async def test_at_once_and_later(self) -> None:
        """The state comes at once, and again when it has changed."""
        unawaited(self.begin())
        await self.until(lambda: len(self.heard) == 1)
        self.assertEqual((self.heard[0].documents, self.heard[0].keyring), (None, None))
        await self.put(b"data")
        await self.until(lambda: len(self.heard) == 2)
        blobs: Any = self.server.blobs
        page = await blobs.list_blobs(ListRoute(blobs._server.user))
        self.assertEqual(self.heard[1].blobs, page.head)
        keys: Any = self.server.keys
        await keys.put(b"keyring", None)
        await self.until(lambda: len(self.heard) == 3)
        self.assertEqual(self.heard[2].keyring, sha256(b"keyring").hexdigest())

    async def test_cancel(self) -> None:
        """Who has stopped hears nothing any more; the next request is answered."""
        listening = self.begin()
        await self.until(lambda: len(self.heard) == 1)
        await self.end(listening)
        await self.put(b"data")
        self.assertEqual(len(self.heard), 1)

    async def test_cancel_at_once(self) -> None:
        """It can be stopped as soon as it was begun."""
        listening = self.events.listen(self.hear)
        listening.cancel()
        self.settle()
        await self.assertFailure(listening, CancelledError)

    async def test_listener_fails(self) -> None:
        """The error of who listens is the error of the call."""

        def fail(heads: Heads) -> None:
            raise ZeroDivisionError

        listening = self.events.listen(fail)
        self.settle()
        await self.assertFailure(listening, ZeroDivisionError)

    async def test_wrong_token(self) -> None:
        """The token has to be right."""
        self.server.set_token("wrong")
        listening = self.events.listen(self.hear)
        self.settle()
        await self.assertFailure(listening, Unauthorized)

    async def test_closed(self) -> None:
        """Closing ends it."""
        listening = self.events.listen(self.hear)
        await self.until(lambda: len(self.heard) == 1)
        closing = self.server.close()
        self.settle()
        await closing
        await self.assertFailure(listening, CancelledError)
