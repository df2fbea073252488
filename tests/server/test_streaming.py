"""
Bodies are taken as they arrive, and slow or rude clients have limits.

These also watch over the private names of twisted.web that `soledad.server.streaming` leans on.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from soledad.errors import BlobNotFound
from soledad.model.ids import BlobId
from soledad.server.index import Index
from soledad.server.streaming import (
    HEADER_SECONDS,
    IDLE_SECONDS,
    LEAST_RATE,
    LINGER_BYTES,
    LINGER_SECONDS,
    RATE_SECONDS,
    SMALL_READ,
    STALL_SECONDS,
    RequestBody,
    StreamingRequest,
)
from soledad.streams import HIGH, BytesProducer, WorkerConsumer
from tests.server.support import USER, Connection, HeldWorker, ServerTestCase, code, content, head, headers, status

PUT = f"PUT /blobs/{USER}/x"


class StreamingTestCase(ServerTestCase):
    """A server whose store handles bytes when the test says so."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.held = HeldWorker()
        self.store._worker = self.held

    def begin(self, length: int = 1000, **more: str) -> Connection:
        """Send the head of an upload."""
        connection = self.connect()
        connection.answer = connection.send(head(PUT, self.auth(Content_Length=str(length), **more)))
        return connection

    def assert_nothing_kept(self) -> None:
        """Neither bytes nor room are left."""
        self.held.release()
        self.assertEqual(self.successResultOf(self.store.list()), [])
        self.failureResultOf(self.backend.stat_blob(USER, BlobId("x")), BlobNotFound)
        self.assertEqual(self.successResultOf(self.backend.index._database.read(_reserved)), 0)
        self.assertEqual(self.budget.used, 0)


def _reserved(connection: object) -> int:
    from sqlalchemy import func, select

    from soledad.server.schema import reservations

    return connection.execute(select(func.count()).select_from(reservations)).scalar_one()  # type: ignore


class BodyTests(StreamingTestCase):
    """How a body comes in."""

    def test_in_pieces(self) -> None:
        """A body in pieces is stored; the connection stays, and goes on with what was sent behind it."""
        connection = self.begin(10)
        for piece in (b"01", b"23456", b"789" + head(f"GET /blobs/{USER}/x", self.auth())):
            self.assertEqual(connection.send(piece), b"")
        self.held.release()
        answers = connection.answered
        self.assertIn(b"201 Created", answers)
        self.assertTrue(answers.endswith(b"\r\n\r\n0123456789"))
        self.assertFalse(connection.transport.disconnecting)

    def test_with_the_head(self) -> None:
        """A small body that comes with its head needs no second thought."""
        connection = self.connect()
        connection.send(head(PUT, self.auth(Content_Length="5")) + b"hello")
        self.held.release()
        self.assertEqual(status(connection.answered), 201)
        self.assertFalse(connection.paused)

    def test_back_pressure(self) -> None:
        """What the store has not handled makes the client wait, however fast it sends; time then does not count."""
        connection = self.begin(2 * HIGH)
        connection.send(b"x" * HIGH)
        self.assertFalse(connection.paused)
        connection.send(b"x")
        self.assertTrue(connection.paused)
        self.clock.advance(10 * IDLE_SECONDS)
        # The transport has room for more of an answer; that must not make it read on.
        connection.channel.resumeProducing()
        self.assertTrue(connection.paused)
        self.held.release()
        self.assertFalse(connection.paused)
        self.assertFalse(connection.transport.disconnecting)

    def test_crowded(self) -> None:
        """When the buffers of all are full, one piece at a time is taken, and a small one."""
        self.budget.take(self.budget.limit)
        connection = self.begin()
        connection.send(b"x")
        self.assertTrue(connection.paused)
        self.held.release()
        self.assertFalse(connection.paused)
        self.assertEqual(connection.transport.bufferSize, SMALL_READ)

    def test_crowded_from_the_start(self) -> None:
        """So it is with what came with the head, before anybody asked for it."""
        self.budget.take(self.budget.limit)
        decided: Deferred[None] = Deferred()
        reserve = Index.reserve
        self.patch(Index, "reserve", lambda *call: decided.addCallback(lambda ignored: reserve(*call)))
        connection = self.connect()
        connection.send(head(PUT, self.auth(Content_Length="1000")) + b"x")
        decided.callback(None)
        self.assertTrue(connection.paused)
        self.held.release()
        self.assertFalse(connection.paused)

    def test_pause_at_once(self) -> None:
        """Who pauses when it gets what had come before it was there, is given no more."""
        connection = self.connect()
        body = RequestBody(connection.channel, 1000)
        connection.channel.flow(False)
        body.received(b"x")
        self.budget.take(self.budget.limit)
        consumer = WorkerConsumer(self.held, len, self.budget)
        consumer.registerProducer(body, True)
        producing = body.startProducing(consumer)
        self.assertTrue(connection.paused)
        self.held.release()
        self.assertFalse(connection.paused)
        self.assertNoResult(producing)
        body.stopProducing()

    def test_continue(self) -> None:
        """Who waits to be told to go on is told when nothing speaks against the upload, not before."""
        connection = self.begin(5, Expect="100-continue")
        self.assertEqual(connection.answer, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.put_by_hand("x")
        refused = self.begin(5, Expect="100-continue")
        self.assertEqual(status(refused.answer), 409)

    def put_by_hand(self, blob: str) -> None:
        """Store a blob although the store's worker is held."""
        work = self.backend.write_blob(USER, BlobId(blob), BytesProducer(b"there"))
        self.held.release()
        self.successResultOf(work)

    def test_disconnect(self) -> None:
        """A client that goes in the middle leaves nothing, whether its bytes were handled or not."""
        for handled in (True, False):
            connection = self.begin()
            connection.send(b"half")
            if handled:
                self.held.release()
            connection.lose()
            self.assert_nothing_kept()

    def test_disconnect_while_deciding(self) -> None:
        """The same while the server still looks whether it may."""
        database = self.backend.index._database
        database._writes = held = HeldWorker()
        connection = self.begin()
        self.assertTrue(connection.paused)
        connection.lose()
        held.release()
        database._writes = database._reads
        self.assert_nothing_kept()


class RefusalTests(StreamingTestCase):
    """Answers that come before the body does."""

    def test_before_the_body(self) -> None:
        """A refusal is whole before a byte of the body came, and is the last on its connection."""
        connection = self.connect()
        answer = connection.send(head(PUT, {"Content-Length": "1000000000"}))
        self.assertEqual((status(answer), code(answer)), (401, "unauthorized"))
        self.assertEqual(headers(answer)["connection"], "close")
        self.assertEqual(headers(answer)["content-length"], str(len(content(answer))))

    def test_nothing_is_a_request(self) -> None:
        """The body of a refused request is dropped, though it looks like a request."""
        looks_like = head("GET /", self.auth())
        connection = self.connect()
        answer = connection.send(head(PUT, {"Content-Length": "100"}) + looks_like)
        self.assertEqual(answer.count(b"HTTP/1.1"), 1)
        self.assertTrue(connection.transport.half_closed)
        self.assertEqual(connection.send(looks_like * 3), b"")

    def test_lingering(self) -> None:
        """The client has a moment to read the answer; it cannot make the server read for ever."""
        connection = self.connect()
        connection.send(head(PUT, {"Content-Length": "1000000000"}))
        connection.send(b"x" * LINGER_BYTES)
        self.assertFalse(connection.paused)
        connection.send(b"x")
        self.assertTrue(connection.paused)
        self.clock.advance(LINGER_SECONDS - 0.1)
        self.assertFalse(connection.transport.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(connection.transport.disconnected)

    def test_after_the_body(self) -> None:
        """A refusal after all of a body came closes nothing."""
        connection = self.connect()
        answer = connection.send(head(PUT + "?namespace=X", self.auth(Content_Length="0")))
        self.assertEqual(status(answer), 400)
        self.assertNotIn("connection", headers(answer))
        self.assertEqual(status(connection.request("GET /")), 200)

    def test_in_the_middle(self) -> None:
        """A store that fails in the middle is answered in the middle."""
        connection = self.begin()
        connection.send(b"half")
        self.store._kept = None  # type: ignore[assignment]
        self.held.release()
        connection.transport.clear()
        connection.send(b"x" * 996)
        self.held.release()
        self.assertEqual(status(connection.answered), 500)
        self.flushLoggedErrors(TypeError)

    def test_no_body_where_none_belongs(self) -> None:
        """A body that nobody asked for is not read."""
        connection = self.connect()
        answer = connection.send(head("GET /", {"Content-Length": "1000000000"}))
        self.assertEqual((status(answer), headers(answer)["connection"]), (200, "close"))


class SlowTests(StreamingTestCase):
    """Clients that keep connections without getting on."""

    def test_headers(self) -> None:
        """A request that was begun must get on, however its bytes are spread."""
        connection = self.connect()
        for _ in range(int(HEADER_SECONDS) - 1):
            connection.send(b"G")
            self.clock.advance(1)
        self.assertFalse(connection.transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(connection.transport.disconnecting)

    def test_idle(self) -> None:
        """A connection may be idle between requests for a while."""
        connection = self.connect()
        connection.request("GET /")
        self.clock.advance(IDLE_SECONDS - 1)
        self.assertEqual(status(connection.request("GET /")), 200)
        self.clock.advance(IDLE_SECONDS + 1)
        self.assertTrue(connection.transport.disconnecting)

    def test_body(self) -> None:
        """A body that comes too slowly is refused, and nothing of it is left."""
        connection = self.begin(10_000_000)
        for _ in range(3):
            connection.send(b"x" * int(LEAST_RATE * RATE_SECONDS))
            self.clock.advance(RATE_SECONDS)
        self.held.release()
        connection.send(b"x")
        self.assertEqual(connection.answered, b"")
        self.clock.advance(RATE_SECONDS)
        self.held.release()
        self.assertEqual(code(connection.answered), "too_slow")
        self.assert_nothing_kept()

    def test_answer(self) -> None:
        """Who does not read an answer loses the connection, and what was read for it is let go."""
        work = self.backend.write_blob(USER, BlobId("x"), BytesProducer(b"x" * 5_000_000))
        self.held.release()
        self.successResultOf(work)
        connection = self.connect()
        connection.send(head(f"GET /blobs/{USER}/x", self.auth()))
        connection.channel.pauseProducing()
        self.held.release()
        sent = len(connection.answered)
        self.assertLess(sent, 1_000_000)
        self.clock.advance(STALL_SECONDS - 1)
        self.assertFalse(connection.transport.disconnected)
        self.clock.advance(1)
        self.assertTrue(connection.transport.disconnected)
        connection.channel.stopProducing()
        connection.lose()
        self.held.release()
        self.assertEqual(self.budget.used, 0)


class EndTests(StreamingTestCase):
    """The end of a server."""

    def test_end(self) -> None:
        """Ending closes all connections, and what was under way leaves nothing."""
        idle, uploading = self.connect(), self.begin()
        uploading.send(b"half")
        ended = self.site.end()
        quiet = self.root.idle()
        self.assertTrue(idle.transport.disconnected and uploading.transport.disconnected)
        self.assertNoResult(ended)
        idle.lose()
        uploading.lose()
        self.successResultOf(ended)
        self.assertNoResult(quiet)
        self.held.release()
        self.successResultOf(quiet)
        self.assert_nothing_kept()
        self.assertIs(self.site.buildProtocol(None), None)


class SocketTests(ServerTestCase):
    """When an answer may go to the socket past the connection."""

    def test_needs_a_length(self) -> None:
        """What is sent in chunks has to go through the connection, which says where each of them ends."""
        channel = self.connect().channel
        self.patch(channel, "socket", lambda: 7)
        request = StreamingRequest(channel, False)
        self.assertIsNone(request.socket())
        request.setHeader(b"content-length", b"5")
        self.assertEqual(request.socket(), 7)

    def test_needs_a_socket(self) -> None:
        """A transport that is none is written to."""
        self.assertIsNone(self.connect().channel.socket())
