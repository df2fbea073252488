"""Remote events over a server in memory: the contract; time, and answers that are none."""

from __future__ import annotations

from typing import Any, cast

from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource

from soledad.client.remote.connect import Server
from soledad.client.remote.connection import Limits
from soledad.client.remote.events import RemoteEvents
from soledad.client.remote.http import ServerConnection
from soledad.errors import ConnectionFailed, SoledadError, TransferTimeout, UnexpectedAnswer
from soledad.model.ids import UserId
from soledad.testing import MemoryServer
from soledad.wire.events import HEARTBEAT_SECONDS, Heads
from tests.contracts.remote_events import RemoteEventsContract

GOOD = Heads(None, "x", None).encode()


class MemoryRemoteEventsTests(RemoteEventsContract, TestCase):
    """The real client and the real server, joined in memory."""

    async def make_server(self) -> Server:
        """See the contract."""
        self.memory = MemoryServer()
        return self.memory.connect("alice")

    def settle(self) -> None:
        """See the contract."""
        self.memory.flush()


class QuietTests(SynchronousTestCase):
    """A stream on which nothing happens."""

    def setUp(self) -> None:
        """Listen."""
        self.server = MemoryServer()
        self.heard: list[Heads] = []
        self.client = self.server.connect("alice")
        self.listening: Deferred[None] = self.client.events.listen(self.heard.append)

    def test_lasts(self) -> None:
        """Heartbeats keep it, however long nothing happens."""
        self.server.clock.pump([HEARTBEAT_SECONDS / 2] * 200)
        self.assertNoResult(self.listening)
        self.assertEqual(len(self.heard), 1)
        self.successResultOf(self.client.close())
        self.failureResultOf(self.listening)

    def test_dead(self) -> None:
        """A connection on which nothing at all comes is noticed."""
        self.server.stall()
        self.server.clock.pump([1.0] * int(2 * Limits().stall))
        self.failureResultOf(self.listening, TransferTimeout)

    def test_cut(self) -> None:
        """So is one that breaks."""
        self.server.disconnect()
        self.failureResultOf(self.listening, ConnectionFailed)

    def test_ended(self) -> None:
        """A stream that the server ends is no failure."""
        self.server.revoke_tokens("alice")
        self.server.clock.pump([HEARTBEAT_SECONDS / 2] * 3)
        self.successResultOf(self.listening)


class Rubbish(Resource):
    """Answers what it is told to."""

    isLeaf = True

    def __init__(self, status: int, kind: str, body: bytes) -> None:
        super().__init__()
        self._answer = status, kind, body

    def render(self, request: Any) -> bytes:
        """Answer."""
        status, kind, body = self._answer
        request.setResponseCode(status)
        request.setHeader("content-type", kind)
        return body


class HostileTests(SynchronousTestCase):
    """A server that answers something else."""

    def listened(self, status: int, kind: str, body: bytes) -> Deferred[None]:
        """Listen to an answer."""
        client: Any = StubTreq(Rubbish(status, kind, body))
        self.heard: list[Heads] = []
        connection = ServerConnection(client, cast("Any", Clock()), "http://server.invalid", UserId("a"), "token")
        return RemoteEvents(connection).listen(self.heard.append)

    def test_good(self) -> None:
        """What differs only in what does not matter is understood."""
        self.successResultOf(self.listened(200, "Text/Event-Stream; charset=utf-8", GOOD + GOOD))
        self.assertEqual(self.heard, [Heads(None, "x", None)] * 2)

    def test_rubbish(self) -> None:
        """Another status or type, and events that are none, are refused."""
        for status, kind, body in (
            (201, "text/event-stream", GOOD),
            (200, "text/html", GOOD),
            (200, "text/event-stream", b"event: heads\ndata: {\n\n"),
            (200, "text/event-stream", b"x" * 10_000),
            (418, "text/event-stream", GOOD),
        ):
            error = self.failureResultOf(self.listened(status, kind, body), SoledadError).value
            self.assertIsInstance(error, UnexpectedAnswer)
            self.assertEqual(self.heard, [])
