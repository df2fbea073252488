"""
Servers that do what they should not, over sockets: each gets a typed error, soon, in little memory.

The server here is a script: what it says is bytes, and when it says them is up to each test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from soledad.client.remote import http
from soledad.client.remote.agent import make_agent
from soledad.client.remote.blobs import RemoteBlobs
from soledad.client.remote.connection import HEAD_LIMIT, Connection, Limits
from soledad.client.remote.http import ServerConnection
from soledad.deferreds import gather
from soledad.errors import (
    BlobExists,
    BlobNotFound,
    ConnectionFailed,
    QuotaExceeded,
    ServerFailed,
    TooLarge,
    TransferTimeout,
    Unauthorized,
    UnexpectedAnswer,
)
from soledad.model.blob import ByteRange
from soledad.model.ids import BlobId, UserId
from soledad.streams import MemoryConsumer
from soledad.wire.routes import NAMESPACES_LIMIT, ListRoute
from tests.contracts.remote_blobs import LARGE, zeros

reactor = cast("Any", _reactor)
TOKEN = "a-token-that-is-a-secret"
STALL = 0.3
ETAG = b'ETag: "' + b"0" * 64 + b'"\r\n'
#: What the network and its buffers may take of an endless answer.
BUFFERS = 16 * 1024 * 1024


class Peer(Protocol):
    """The server's end of one connection."""

    factory: Script
    transport: Any

    def connectionMade(self) -> None:
        """Begin."""
        self.heard = b""
        self.size = 0
        self.requests = 0
        self.factory.peers.append(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer each request when its head is there."""
        self.size += len(data)
        self.heard = (self.heard + data)[-65536:]
        if self.heard.count(b"\r\n\r\n") > self.requests:
            self.requests = self.heard.count(b"\r\n\r\n")
            self.factory.answer(self)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Count it."""
        self.factory.peers.remove(self)
        self.factory.lost += 1

    def say(self, data: bytes) -> None:
        """Send some bytes."""
        self.transport.write(data)

    def say_and_close(self, data: bytes) -> None:
        """Send some bytes, and close."""
        self.transport.write(data)
        self.transport.loseConnection()

    def say_for_ever(self, data: bytes) -> None:
        """Send the same bytes again and again."""
        self.transport.registerProducer(Endless(self, data * 1000), False)


@implementer(IPullProducer)
class Endless:
    """Says something whenever it can be said."""

    def __init__(self, peer: Peer, data: bytes) -> None:
        self.peer, self.data = peer, data

    def resumeProducing(self) -> None:
        """Say it again."""
        self.peer.factory.written += len(self.data)
        self.peer.say(self.data)

    def stopProducing(self) -> None:
        """Nobody listens any more."""


class Script(Factory):
    """A server that answers every request in the same way."""

    protocol = Peer  # type: ignore[assignment]
    noisy = False

    def __init__(self, answer: Callable[[Peer], object]) -> None:
        self.answer = answer
        self.peers: list[Peer] = []
        self.lost = 0
        self.written = 0
        self.talks: list[Deferred[None]] = []

    def talk(self, words: Coroutine[Deferred[Any], Any, None]) -> None:
        """Say something that takes its time; the test ends after it."""
        self.talks.append(Deferred.fromCoroutine(words))


def answer(head: bytes, body: bytes = b"", length: int | None = None, etag: bytes = ETAG) -> bytes:
    """Return the bytes of an answer."""
    size = len(body) if length is None else length
    return b"HTTP/1.1 " + head + b"\r\n" + etag + b"Content-Length: %d\r\n\r\n" % size + body


class HostileCase(TestCase):
    """A scripted server, and a client of it."""

    timeout = 20

    async def serve(self, script: bytes | Callable[[Peer], object], stall: float = STALL) -> RemoteBlobs:
        """Start the server; return a client that lets nothing stand still for longer than ``stall`` seconds."""
        said = (lambda peer: peer.say(script)) if isinstance(script, bytes) else script
        self.script = Script(said)
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.script)
        self.addCleanup(port.stopListening)
        agent = make_agent(reactor, limits=Limits(connect=2, stall=stall, idle=2))
        self.addCleanup(self.part)
        self.addCleanup(agent.close)
        url = f"http://127.0.0.1:{port.getHost().port}"
        self.connection = ServerConnection.over(agent, reactor, url, UserId("alice"), TOKEN)
        return RemoteBlobs(self.connection)

    async def part(self) -> None:
        """Let the server close what it has open."""
        for peer in list(self.script.peers):
            peer.transport.abortConnection()
        while self.script.peers:
            await deferLater(reactor, 0.001)
        await gather(self.script.talks)

    async def expect(self, work: Deferred[Any], *kinds: type[Exception]) -> Any:
        """Return the error of ``work``, which must be of one of ``kinds``, and must not tell a secret."""
        started = reactor.seconds()
        error = await self.assertFailure(work, *kinds)
        self.assertLess(reactor.seconds() - started, 5)
        self.assertNotIn(TOKEN, str(error) + repr(error))
        return error


def get(blobs: RemoteBlobs, **options: Any) -> Deferred[None]:
    """Read a blob."""
    return blobs.read_blob(BlobId("b"), MemoryConsumer(), **options)


class HeadTests(HostileCase):
    """Answers whose head is wrong."""

    async def test_nonsense(self) -> None:
        """What is not HTTP is unexpected, whether it looks like text or not."""
        for said in (
            b"hello\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/one 200 OK\r\n\r\n",
            bytes(range(256)) * 10,
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\nx",
        ):
            await self.expect(get(await self.serve(said)), UnexpectedAnswer)

    async def test_closed(self) -> None:
        """A connection that is closed before or in the head is broken."""
        for said in (b"", b"HTTP/1.1 200 OK\r\nConte"):
            blobs = await self.serve(partial(Peer.say_and_close, data=said))
            await self.expect(get(blobs), ConnectionFailed)

    async def test_silence(self) -> None:
        """A server that never answers, or stops in the head, is given up."""
        for said in (b"", b"HTTP/1.1 200 OK\r\nConte"):
            error = await self.expect(get(await self.serve(said)), TransferTimeout)
            self.assertEqual(error.seconds, STALL)

    async def test_dribbled_head(self) -> None:
        """A head has to come at once: a byte now and then does not keep the client waiting."""

        async def dribble(peer: Peer) -> None:
            for _ in range(100):
                peer.say(b"HTTP/1.1 200 OK\r\n"[:1])
                await deferLater(reactor, STALL / 4)
                if peer not in self.script.peers:
                    return

        blobs = await self.serve(lambda peer: self.script.talk(dribble(peer)))
        await self.expect(get(blobs), TransferTimeout, UnexpectedAnswer)

    async def test_endless(self) -> None:
        """Heads end, or the connection does: endless headers, an endless line, endless interim answers."""
        for opening, rest in (
            (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
            (b"HTTP/1.1 200 OK\r\nX: ", b"yyyyy"),
            (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        ):

            def talk(peer: Peer, opening: bytes = opening, rest: bytes = rest) -> None:
                peer.say(opening)
                peer.say_for_ever(rest)

            # What is parsed takes its time, more than a moment on a busy machine.
            await self.expect(get(await self.serve(talk, stall=4)), UnexpectedAnswer)
            self.assertLess(self.script.written, BUFFERS)

    async def test_much_at_once(self) -> None:
        """Of a head that comes quickly no more is parsed at a time than a head may have."""
        sizes: list[int] = []
        receive = Connection.dataReceived

        def received(connection: Connection, data: bytes) -> None:
            sizes.append(len(data))
            receive(connection, data)

        self.patch(Connection, "dataReceived", received)
        blobs = await self.serve(b"HTTP/1.1 102 Processing\r\n\r\n" * 100_000, stall=4)
        await self.expect(get(blobs), UnexpectedAnswer)
        self.assertLessEqual(max(sizes), HEAD_LIMIT)

    async def test_redirect(self) -> None:
        """Redirects are not followed: the token is for one server."""
        blobs = await self.serve(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        error = await self.expect(get(blobs), UnexpectedAnswer)
        self.assertEqual(error.status, 302)

    async def test_cookies(self) -> None:
        """Cookies are not sent back."""
        blobs = await self.serve(b"HTTP/1.1 404 No\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
        for _ in range(2):
            await self.expect(get(blobs), BlobNotFound)
        (peer,) = self.script.peers
        self.assertEqual(peer.requests, 2)
        self.assertNotIn(b"cookie", peer.heard.lower())

    async def test_no_text(self) -> None:
        """A header of bytes that are no text is as wrong as another text."""
        said = b'HTTP/1.1 200 OK\r\nETag: "\xe1\xff"\r\nContent-Length: 5\r\n\r\nhello'
        await self.expect(get(await self.serve(said)), UnexpectedAnswer)

    async def test_encoded(self) -> None:
        """Content that is encoded was not asked for; it could grow without bound."""
        said = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + ETAG + b"Content-Length: 5\r\n\r\nhello"
        blobs = await self.serve(said)
        await self.expect(get(blobs), UnexpectedAnswer)
        for peer in self.script.peers:
            self.assertIn(b"Accept-Encoding: identity", peer.heard)
            self.assertNotIn(b"gzip", peer.heard)


class BodyTests(HostileCase):
    """Answers whose body is not what was asked for."""

    async def test_too_little(self) -> None:
        """A body that ends early is a broken connection, however much was announced."""
        for length in (6, 10**18):
            said = answer(b"200 OK", b"hello", length)
            blobs = await self.serve(partial(Peer.say_and_close, data=said))
            await self.expect(get(blobs), ConnectionFailed)

    async def test_stops(self) -> None:
        """A body that stops is given up."""
        await self.expect(get(await self.serve(answer(b"200 OK", b"hello", 6))), TransferTimeout)

    async def test_too_much(self) -> None:
        """What comes behind a body goes nowhere, and is not taken for the next answer."""
        blobs = await self.serve(answer(b"200 OK", b"hello") + answer(b"200 OK", b"forged"))
        for _ in range(3):
            consumer = MemoryConsumer()
            await blobs.read_blob(BlobId("b"), consumer)
            self.assertEqual(consumer.value(), b"hello")

    async def test_no_length(self) -> None:
        """A blob comes with its length, or not at all."""
        for said in (
            b"HTTP/1.1 200 OK\r\n" + ETAG + b"\r\nhello",
            b"HTTP/1.1 200 OK\r\n" + ETAG + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ):
            blobs = await self.serve(partial(Peer.say_and_close, data=said))
            await self.expect(get(blobs), UnexpectedAnswer)

    async def test_wrong_ranges(self) -> None:
        """A range is answered with that range, and nothing else."""
        for head in (
            b"200 OK",
            b"200 OK\r\nContent-Range: bytes 2-6/20",
            b"206 Partial",
            b"206 Partial\r\nContent-Range: bytes 3-7/20",
            b"206 Partial\r\nContent-Range: bytes 2-7/20",
            b"206 Partial\r\nContent-Range: bytes 2-5/20",
            b"206 Partial\r\nContent-Range: bytes 2-6/*",
            b"206 Partial\r\nContent-Range: bytes 2-6/6",
            b"206 Partial\r\nContent-Range: bytes 2-6/20\r\nContent-Range: bytes 2-6/20",
            b"204 No Content",
        ):
            blobs = await self.serve(answer(head, b"hello"))
            await self.expect(get(blobs, wanted=ByteRange(2, 5)), UnexpectedAnswer)
        blobs = await self.serve(answer(b"206 Partial\r\nContent-Range: bytes 2-6/20", b"hello"))
        await get(blobs, wanted=ByteRange(2, 5))
        await self.expect(get(blobs), UnexpectedAnswer)

    async def test_tags(self) -> None:
        """A blob comes with a tag of the right form."""
        for etag in (b"", b'ETag: "abc"\r\n', b"ETag: " + b"0" * 64 + b"\r\n", ETAG + ETAG):
            await self.expect(get(await self.serve(answer(b"200 OK", b"hello", etag=etag))), UnexpectedAnswer)

    async def test_lists(self) -> None:
        """A list is a list, of what was asked for, and not larger than one can be."""
        good: dict[str, Any] = {"blobs": [], "next": None, "head": "x"}
        entry = {"id": "b", "namespace": "other", "length": 1, "etag": "0" * 64, "flags": [], "changed": 1}
        entry |= {"deleted": False, "tombstone": None}
        for body in (
            b"hello",
            b"[" * 100_000,
            json.dumps({**good, "blobs": [entry]}).encode(),
            json.dumps({**good, "head": "x" * 30_000}).encode(),
        ):
            blobs = await self.serve(answer(b"200 OK", body))
            await self.expect(blobs.list_blobs(ListRoute(UserId("alice"), limit=1)), UnexpectedAnswer)

    async def test_namespaces(self) -> None:
        """Namespaces are not more, and not longer, than they can be."""
        many = [f"{number:05}" for number in range(NAMESPACES_LIMIT + 1)]
        for value in (["../x"], many, ["b", "a"], ["a" * 200_000]):
            blobs = await self.serve(answer(b"200 OK", json.dumps({"namespaces": value, "head": "x"}).encode()))
            await self.expect(blobs.list_namespaces(), UnexpectedAnswer)

    async def test_endless_list(self) -> None:
        """A list that does not end is cut."""

        def talk(peer: Peer) -> None:
            peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            peer.say_for_ever(b"[[[[[")

        blobs = await self.serve(talk)
        await self.expect(blobs.list_blobs(ListRoute(UserId("alice"), limit=1)), UnexpectedAnswer)
        self.assertLess(self.script.written, BUFFERS)

    async def test_slow_but_moving(self) -> None:
        """A transfer that takes many times the time-out, but moves, is not given up."""

        async def drip(peer: Peer) -> None:
            peer.say(answer(b"200 OK", length=20_000))
            for _ in range(10):
                peer.say(bytes(2000))
                await deferLater(reactor, STALL / 3)

        blobs = await self.serve(lambda peer: self.script.talk(drip(peer)))
        consumer = MemoryConsumer()
        await blobs.read_blob(BlobId("b"), consumer)
        self.assertEqual(len(consumer.value()), 20_000)

    async def test_our_own_pause(self) -> None:
        """While the consumer does not want more, it is not the server that makes the client wait."""

        class Slow(MemoryConsumer):
            """Makes a pause after each piece."""

            producer: Any

            def registerProducer(self, producer: Any, streaming: bool) -> None:
                """See `IConsumer`."""
                self.producer = producer

            def write(self, data: bytes) -> None:
                """See `IConsumer`."""
                super().write(data)
                self.producer.pauseProducing()
                reactor.callLater(3 * STALL, self.producer.resumeProducing)

        blobs = await self.serve(answer(b"200 OK", bytes(300_000)))
        await blobs.read_blob(BlobId("b"), Slow())
        await deferLater(reactor, 3 * STALL)


class ErrorTests(HostileCase):
    """Errors whose bodies are strange: the status is known all the same."""

    async def test_endless_body(self) -> None:
        """The body of an error is read up to a bound."""

        def talk(peer: Peer) -> None:
            peer.say(b"HTTP/1.1 500 No\r\nContent-Length: 1000000000000\r\n\r\n")
            peer.say_for_ever(b"sorry")

        error = await self.expect(get(await self.serve(talk)), ServerFailed)
        self.assertEqual(error.status, 500)
        self.assertLess(self.script.written, BUFFERS)

    async def test_slow_body(self) -> None:
        """The body of an error is not waited for longer than a moment."""
        self.patch(http, "ERROR_BODY_TIME", STALL / 2)
        await self.expect(get(await self.serve(answer(b"401 No", b"so", 3))), Unauthorized)

    async def test_strange_bodies(self) -> None:
        """A body that is no error of ours is left aside."""
        for body in (b"", b"<html>", b"[" * 10_000, b'{"error": ["blob_exists"]}', b'{"error": "blob_exists"}'):
            await self.expect(get(await self.serve(answer(b"404 No", body))), BlobNotFound)


class UploadTests(HostileCase):
    """Servers that do strange things while a body is sent."""

    REFUSAL = answer(b"507 Full", b'{"error": "quota_exceeded", "detail": "", "available": 3}')

    async def put(self, script: bytes | Callable[[Peer], object], *kinds: type[Exception]) -> Any:
        """Send a large body; return the error."""
        self.sent: list[int] = []
        blobs = await self.serve(script)
        return await self.expect(blobs.write_blob(BlobId("b"), zeros(LARGE, self.sent)), *kinds)

    async def test_refused_and_read_no_more(self) -> None:
        """A refusal is heard though the server reads nothing of the body."""

        def refuse(peer: Peer) -> None:
            peer.transport.pauseProducing()
            peer.say(self.REFUSAL)

        error = await self.put(refuse, QuotaExceeded)
        self.assertEqual((error.asked, error.available), (LARGE, 3))
        self.assertLess(sum(self.sent), LARGE)

    async def test_refused_in_two_steps(self) -> None:
        """A refusal is heard though its body comes later than its head."""
        head, body = self.REFUSAL[:-10], self.REFUSAL[-10:]

        def refuse(peer: Peer) -> None:
            peer.transport.pauseProducing()
            peer.say(head)
            reactor.callLater(STALL / 3, peer.say, body)

        await self.put(refuse, QuotaExceeded)

    async def test_refused_and_half_closed(self) -> None:
        """A refusal is heard though the server says that nothing will follow it."""

        def refuse(peer: Peer) -> None:
            peer.say(self.REFUSAL)
            peer.transport.loseWriteConnection()

        await self.put(refuse, QuotaExceeded)

    async def test_connection_is_not_used_again(self) -> None:
        """After a refusal in the middle of a body, the next request does not land in that body."""
        blobs = await self.serve(self.REFUSAL)
        await self.expect(blobs.write_blob(BlobId("b"), zeros(LARGE, [])), QuotaExceeded)
        self.script.answer = lambda peer: peer.say(answer(b"409 Conflict", b'{"error": "blob_exists"}'))
        await self.expect(blobs.write_blob(BlobId("b"), zeros(5, [])), BlobExists)

    async def test_nonsense(self) -> None:
        """What is not HTTP is unexpected in the middle of a body, too."""
        await self.put(b"hello\r\n\r\n", UnexpectedAnswer)

    async def test_plain_413(self) -> None:
        """A proxy's refusal, without an error of ours, is understood by its status."""
        await self.put(answer(b"413 Large", b"<html>"), TooLarge)

    async def test_closed(self) -> None:
        """A connection that is closed in the middle of a body is broken."""
        await self.put(lambda peer: peer.transport.abortConnection(), ConnectionFailed)

    async def test_not_read(self) -> None:
        """A server that reads no more is given up."""
        await self.put(lambda peer: peer.transport.pauseProducing(), TransferTimeout)

    async def test_no_answer(self) -> None:
        """A server that takes it all and says nothing is given up."""
        await self.put(lambda peer: None, TransferTimeout)
        self.assertEqual(sum(self.sent), LARGE)

    async def test_slow_but_moving(self) -> None:
        """An upload that takes many times the time-out, but moves, is not given up."""
        size = 8 * 1024 * 1024

        async def read_slowly(peer: Peer) -> None:
            peer.transport.bufferSize = 64 * 1024
            while peer.size < size and peer in self.script.peers:
                peer.transport.pauseProducing()
                await deferLater(reactor, STALL / 30)
                peer.transport.resumeProducing()
                await deferLater(reactor, 0)
            if peer in self.script.peers:
                peer.say(answer(b"201 Created"))

        blobs = await self.serve(lambda peer: self.script.talk(read_slowly(peer)))
        started = reactor.seconds()
        await blobs.write_blob(BlobId("b"), zeros(size, []))
        self.assertGreater(reactor.seconds() - started, 2 * STALL)

    async def test_wrong_success(self) -> None:
        """Only ``201`` says that a blob is stored."""
        for head in (b"200 OK", b"202 Accepted", b"204 No Content"):
            blobs = await self.serve(answer(head))
            await self.expect(blobs.write_blob(BlobId("b"), zeros(5, [])), UnexpectedAnswer)
