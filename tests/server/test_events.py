"""What the server tells of changes; docs/spec/events-http.rst, case by case."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from soledad.errors import StorageFailed
from soledad.model.ids import BlobId, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.memory import memory_database
from soledad.server.events import POLL_SECONDS, STREAMS
from soledad.server.heads import HeadsInDatabase
from soledad.server.interfaces import IHeadsBackend
from soledad.server.keyrings import Keyrings
from soledad.server.streaming import LARGE_READ, STALL_SECONDS
from soledad.wire.events import HEARTBEAT, HEARTBEAT_SECONDS, EventParser, Heads
from tests.server.support import USER, Connection, ServerTestCase, code, headers, status

LINE = f"GET /events/{USER}"


class EventsCase(ServerTestCase):
    """Connections on which events come."""

    def listen(self, connection: Connection | None = None) -> Connection:
        """Begin to listen."""
        connection = connection or self.connect()
        connection.request(LINE, self.auth())
        return connection

    def come(self, connection: Connection) -> list[Heads]:
        """Return the events that came since the last time."""
        body = chunks(connection.answered)
        connection.transport.clear()
        return EventParser().feed(body)

    @property
    def area(self) -> Any:
        """What answers."""
        return self.root._areas["events"]


def chunks(answer: bytes) -> bytes:
    """Return what is in the chunks of an answer, or of a part of it."""
    rest = answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/") else answer
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


class EventsTests(EventsCase):
    """One user who listens."""

    def test_at_once(self) -> None:
        """The state comes at once, with the headers that a stream has."""
        connection = self.listen()
        told = headers(connection.answered)
        self.assertEqual(status(connection.answered), 200)
        self.assertEqual((told["content-type"], told["cache-control"]), ("text/event-stream", "no-store"))
        self.assertNotIn("content-length", told)
        (heads,) = self.come(connection)
        self.assertEqual((heads.documents, heads.keyring), (None, None))

    def test_change(self) -> None:
        """A change that this process makes is told at once, once, and only when there is something else to tell."""
        connection = self.listen()
        (before,) = self.come(connection)
        self.ask(f"PUT /blobs/{USER}/x", b"data")
        (after,) = self.come(connection)
        self.assertNotEqual(after.blobs, before.blobs)
        self.ask(f"PUT /keys/{USER}", b"keyring", If_None_Match="*")
        (last,) = self.come(connection)
        self.assertEqual(last, Heads(None, after.blobs, sha256(b"keyring").hexdigest()))
        self.ask(f"PUT /keys/{USER}", b"other", If_None_Match="*")
        self.ask(f"GET /blobs/{USER}/x")
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(connection.answered, b"")

    def test_blobs_token(self) -> None:
        """The token of blobs is the head of their list."""
        (heads,) = self.come(self.listen())
        self.assertIn(f'"head":"{heads.blobs}"'.encode(), self.ask(f"GET /blobs/{USER}"))

    def test_elsewhere(self) -> None:
        """What another process did is told within a second."""
        connection = self.listen()
        self.come(connection)
        self.put("x", b"data")
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(len(self.come(connection)), 1)
        self.assertLess(POLL_SECONDS, 1)

    def test_others(self) -> None:
        """Another user's changes are not told."""
        other = UserId("bob")
        self.successResultOf(self.accounts.add_user(other))
        connection = self.listen()
        self.come(connection)
        self.successResultOf(self.backend.delete_blob(other, BlobId("x")).addErrback(lambda ignored: None))
        self.successResultOf(Keyrings(self.accounts.database).write_keyring(other, b"keyring", None))
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(connection.answered, b"")

    def test_heartbeat(self) -> None:
        """While nothing happens a comment comes, and the connection lasts."""
        connection = self.listen()
        self.come(connection)
        for _ in range(100):
            self.clock.pump([0.5] * int(2 * HEARTBEAT_SECONDS))
            self.assertEqual(chunks(connection.answered), HEARTBEAT)
            connection.transport.clear()
        self.ask(f"PUT /blobs/{USER}/x", b"data")
        self.assertEqual(len(self.come(connection)), 1)

    def test_gone(self) -> None:
        """Of a client that is gone nothing is left, no timer either."""
        connections = [self.listen() for _ in range(2)]
        for connection in connections:
            connection.lose()
        self.assertEqual(self.area._streams, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.ask(f"PUT /blobs/{USER}/x", b"data")

    def test_slow(self) -> None:
        """A client that does not read gets the last state when it does, and is given up when it never does."""
        connection = self.listen()
        self.come(connection)
        connection.channel.pauseProducing()
        for number in range(5):
            self.ask(f"PUT /blobs/{USER}/{number}", b"data")
        written = self.come(connection)
        self.assertLessEqual(len(written), 1)
        connection.channel.resumeProducing()
        (heads,) = self.come(connection)
        self.assertEqual(heads, self.come(self.listen())[0])
        connection.channel.pauseProducing()
        self.clock.advance(STALL_SECONDS)
        self.assertTrue(connection.transport.disconnected)

    def test_too_many(self) -> None:
        """One stream too many ends the oldest, in good order."""
        connections = [self.listen() for _ in range(STREAMS + 1)]
        self.assertTrue(connections[0].answered.endswith(b"0\r\n\r\n"))
        for connection in connections[1:]:
            self.assertFalse(connection.answered.endswith(b"0\r\n\r\n"))
            self.come(connection)
        self.ask(f"PUT /blobs/{USER}/x", b"data")
        self.assertEqual([len(self.come(connection)) for connection in connections[1:]], [1] * STREAMS)

    def test_revoked(self) -> None:
        """A token that was revoked is told nothing more."""
        connection = self.listen()
        self.come(connection)
        self.successResultOf(self.accounts.revoke_tokens(USER))
        self.put("x", b"data")
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(connection.answered, b"0\r\n\r\n")

    def test_removed(self) -> None:
        """With the user the streams end."""
        connection = self.listen()
        self.come(connection)
        self.successResultOf(self.accounts.remove_user(USER))
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(connection.answered, b"0\r\n\r\n")
        self.assertEqual(self.area._streams, {})

    def test_database_fails(self) -> None:
        """A look that fails is repeated, and told to nobody."""
        connection = self.listen()
        self.come(connection)
        backend = self.area._backend
        self.area._backend = Failing()
        self.ask(f"PUT /blobs/{USER}/x", b"data")
        self.assertEqual(len(self.flushLoggedErrors(StorageFailed)), 1)
        self.assertEqual(connection.answered, b"")
        self.area._backend = backend
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(len(self.come(connection)), 1)

    def test_buffers(self) -> None:
        """Those who listen leave the buffers to those who send."""
        for _ in range(10):
            self.listen()
        self.assertEqual((self.site.busy, self.site.read_size()), (0, LARGE_READ))

    def test_end(self) -> None:
        """A server that ends does not wait for those who listen."""
        connection = self.listen()
        ended = self.site.end()
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.successResultOf(ended)
        self.successResultOf(self.root.idle())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_lines(self) -> None:
        """Other users, methods, paths and arguments are refused."""
        self.assertEqual(code(self.ask("GET /events/bob")), "forbidden")
        for method in ("POST", "HEAD", "PUT"):
            self.assertEqual(headers(self.ask(f"{method} /events/{USER}"))["allow"], "GET")
        self.assertEqual(status(self.ask("GET /events")), 404)
        self.assertEqual(code(self.ask(f"{LINE}?since=1")), "bad_request")
        self.assertEqual(status(self.connect().request(LINE)), 401)


class Failing:
    """Cannot look anything up."""

    def read_heads(self, users: Any) -> Deferred[dict[UserId, Heads]]:
        """Fail."""
        raise StorageFailed("no")


class HeadsTests(SynchronousTestCase):
    """The state of many users in one statement."""

    def test_many(self) -> None:
        """Of users that there are, however many; of others nothing."""
        database = memory_database()
        heads = HeadsInDatabase(database)
        verifyObject(IHeadsBackend, heads)
        accounts = Accounts(database, lambda: 0.0)
        there = [UserId(f"user-{number}") for number in range(1200)]
        for user in there[:600]:
            self.successResultOf(accounts.add_user(user))
        found = self.successResultOf(heads.read_heads(there))
        self.assertEqual(set(found), set(there[:600]))
        self.assertEqual(len({one.blobs for one in found.values()}), 600)
