"""Many blobs in one request: the contract in memory, and servers whose answers are none."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource

from soledad.client.remote.connect import Server
from soledad.client.remote.http import ServerConnection
from soledad.client.remote.stream import RemoteStream
from soledad.errors import BlobExists, BlobNotFound, ConnectionFailed, ServerFailed, TooLarge, UnexpectedAnswer
from soledad.model.ids import DEFAULT, BlobId, UserId
from soledad.testing import MemoryServer
from soledad.wire.framing import END, LIMITS, Kind, encode_failure, frame, frame_head
from tests.contracts.remote_stream import QUOTA, RemoteStreamContract

A, B = BlobId("a"), BlobId("b")


class MemoryRemoteStreamTests(RemoteStreamContract, TestCase):
    """The real client and the real server, joined in memory."""

    async def make_server(self) -> Server:
        """See the contract."""
        self.memory = MemoryServer(quota=QUOTA)
        return self.memory.connect("alice")


class CutTests(SynchronousTestCase):
    """Connections that break."""

    def setUp(self) -> None:
        """Make a server."""
        self.memory = MemoryServer()
        self.stream: Any = self.memory.connect("alice").stream

    def test_cut_upload(self) -> None:
        """Wherever an upload is cut, all of its blobs are stored or none; the next one finds out which."""
        blobs = [(BlobId(f"b{number}"), bytes(30_000)) for number in range(20)]
        wanted = [(blob_id, 30_000) for blob_id, _ in blobs]
        found: set[type] = set()
        for size in (*range(100, 600_000, 40_000), *range(600_000, 610_000, 50)):
            self.memory.cut_after(size)
            self.failureResultOf(self.stream.write_blobs(blobs), ConnectionFailed)
            self.memory.heal()
            found = {type(one) for one in self.successResultOf(self.stream.read_blobs(wanted))}
            self.assertEqual(len(found), 1)
            if found != {BlobNotFound}:
                break
        # The answer was cut.
        self.assertEqual(found, {bytes})
        results = self.successResultOf(self.stream.write_blobs(blobs))
        self.assertEqual({type(result) for result in results}, {BlobExists})

    def test_cut_download(self) -> None:
        """Half an answer is none."""
        self.successResultOf(self.stream.write_blobs([(A, bytes(500_000)), (B, bytes(500_000))]))
        for size in (900, 300_000, 700_000, 1_000_400):
            self.memory.cut_after(size)
            self.failureResultOf(self.stream.read_blobs([(A, 500_000), (B, 500_000)]), ConnectionFailed)
            self.memory.heal()
        self.assertEqual(len(self.successResultOf(self.stream.read_blobs([(A, 500_000), (B, 500_000)]))), 2)

    def test_flipped(self) -> None:
        """Bytes that the server has changed are passed on: who has keys finds out."""
        self.successResultOf(self.stream.write_blobs([(A, b"12345")]))
        self.memory.flip(0)
        self.assertEqual(self.successResultOf(self.stream.read_blobs([(A, 5)])), [b"02345"])


class Script(Resource):
    """Answers with the same bytes whatever is asked."""

    isLeaf = True

    def __init__(self, body: bytes, status: int = 200) -> None:
        super().__init__()
        self._body, self._status = body, status

    def render(self, request: Any) -> bytes:
        """Answer."""
        request.setResponseCode(self._status)
        return self._body


class HostileTests(SynchronousTestCase):
    """Servers that answer with something else."""

    def asking(self, body: bytes, status: int, call: str, *arguments: Any) -> Deferred[Any]:
        """Ask a server that answers with ``body``."""
        agent: Any = RequestTraversalAgent(Script(body, status))
        stream = RemoteStream(ServerConnection.over(agent, Clock(), "http://server", UserId("alice"), "token"))
        work: Deferred[Any] = getattr(stream, call)(*arguments)
        agent.flush()
        return work

    def uploading(self, results: object, status: int = 200) -> Deferred[Any]:
        """Upload two blobs to a server that answers with ``results``."""
        body = results if isinstance(results, bytes) else json.dumps({"results": results}).encode()
        return self.asking(body, status, "write_blobs", [(A, b"1"), (B, b"2")])

    def downloading(self, body: bytes, status: int = 200) -> Deferred[Any]:
        """Ask for two blobs, of 3 bytes and of 2."""
        return self.asking(body, status, "read_blobs", [(A, 3), (B, 2)])

    def test_no_results(self) -> None:
        """Too few, too many, others, or none at all: it is not known what became of the blobs."""
        good = [{"id": "a", "etag": sha256(b"1").hexdigest()}, {"id": "b", "etag": sha256(b"2").hexdigest()}]
        self.assertEqual(self.successResultOf(self.uploading(good)), [None, None])
        for bad in (good[:1], good + good[:1], good[::-1], [good[0], {}], [1, 2], None, b"", b"\xff", b"[]"):
            self.failureResultOf(self.uploading(bad), UnexpectedAnswer)
        self.failureResultOf(self.uploading(b" " * 100_000), UnexpectedAnswer)
        self.failureResultOf(self.uploading(good, 201), UnexpectedAnswer)

    def test_another_tag(self) -> None:
        """A blob that is stored as something else is not stored."""
        told = [{"id": "a", "etag": "0" * 64}, {"id": "b", "etag": sha256(b"2").hexdigest()}]
        first, second = self.successResultOf(self.uploading(told))
        self.assertIsInstance(first, UnexpectedAnswer)
        self.assertIs(second, None)

    def test_known_tags(self) -> None:
        """Tags that the caller has are what is compared with, also behind a blob that is not sent."""
        tags = ["0" * 64, sha256(b"1").hexdigest(), sha256(b"2").hexdigest()]
        told = [{"id": "a", "etag": tags[1]}, {"id": "b", "etag": "1" * 64}]
        blobs = [(BlobId("large"), bytes(LIMITS[Kind.BLOB] + 1)), (A, b"1"), (B, b"2")]
        work = self.asking(json.dumps({"results": told}).encode(), 200, "write_blobs", blobs, DEFAULT, tags)
        kinds = [type(result) for result in self.successResultOf(work)]
        self.assertEqual(kinds, [TooLarge, type(None), UnexpectedAnswer])

    def test_unknown_errors(self) -> None:
        """An error that is not known goes by its status."""
        told = [{"id": "a", "status": 500, "error": "new"}, {"id": "b", "status": 418, "error": "new"}]
        first, second = self.successResultOf(self.uploading(told))
        self.assertIsInstance(first, ServerFailed)
        self.assertIsInstance(second, UnexpectedAnswer)

    def test_no_frames(self) -> None:
        """What is not a frame for each blob and an end is refused, as soon as that is seen."""
        first, second = frame(Kind.BLOB, b"123"), frame(Kind.BLOB, b"12")
        missing = frame(Kind.ERROR, encode_failure(BlobNotFound("a", "default")))
        self.assertEqual(self.successResultOf(self.downloading(first + second + END)), [b"123", b"12"])
        told = self.successResultOf(self.downloading(missing + second + END))
        self.assertEqual((type(told[0]), told[1]), (BlobNotFound, b"12"))
        for bad in (
            b"",
            b"123",
            END,
            first,
            first + second,
            first + END,
            first + second + second + END,
            first + second + END + b"x",
            first + frame(Kind.LIST, b"[]") + END,
            first + frame(Kind.ERROR, b"[]") + END,
            first + frame(Kind.ERROR, b'{"status":200}') + END,
            first + b"\x07" + bytes(10),
            frame_head(Kind.BLOB, LIMITS[Kind.BLOB]) + bytes(LIMITS[Kind.BLOB]) + second + END,
        ):
            self.failureResultOf(self.downloading(bad), UnexpectedAnswer)
        self.failureResultOf(self.downloading(first + second + END, 206), UnexpectedAnswer)

    def test_other_lengths(self) -> None:
        """A blob that is too long or too short is an error of its own."""
        for length in (0, 2, 4, 1000):
            told = self.successResultOf(
                self.downloading(frame(Kind.BLOB, bytes(length)) + frame(Kind.BLOB, b"12") + END)
            )
            self.assertEqual((type(told[0]), told[1]), (UnexpectedAnswer, b"12"))
