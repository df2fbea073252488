"""Many blobs in one body, as the server takes and gives them; docs/spec/stream.rst, case by case."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from soledad.errors import StorageFailed, StorageFull
from soledad.model.ids import BlobId, UserId
from soledad.server import stream
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.memory import MemoryBytes
from soledad.server.index import Index
from soledad.server.service import make_root, make_site
from soledad.streams import LEAST, Budget, BytesProducer
from soledad.wire.framing import (
    END,
    HEAD_SIZE,
    LIMITS,
    MAX_BLOBS,
    MAX_BYTES,
    MAX_REQUEST,
    MAX_UPLOAD,
    FrameReader,
    Kind,
    encode_ids,
    encode_listed,
    frame,
    frame_head,
)
from tests.limits import examples
from tests.server.support import QUOTA, USER, Connection, HeldWorker, ServerTestCase, code, content, headers, status

UPLOAD, DOWNLOAD = f"/stream/{USER}?direction=upload", f"/stream/{USER}?direction=download"


def tag(data: bytes) -> str:
    """Return the tag of a blob."""
    return sha256(data).hexdigest()


def upload(*blobs: tuple[str, bytes]) -> bytes:
    """Return the body of an upload."""
    listed = encode_listed([(name, len(data)) for name, data in blobs])
    return frame(Kind.LIST, listed) + b"".join(frame(Kind.BLOB, data) for _, data in blobs) + END


def unchunked(answer: bytes) -> bytes:
    """Return the body of an answer in chunks."""
    body, rest = b"", content(answer)
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body
        body, rest = body + rest[:length], rest[length + 2 :]


class StreamTestCase(ServerTestCase):
    """Requests of both directions."""

    def upload(self, *blobs: tuple[str, bytes], path: str = UPLOAD) -> list[Any]:
        """Upload blobs; return what became of each: its tag, or the status and code of its error."""
        answer = self.ask(f"POST {path}", upload(*blobs))
        self.assertEqual((status(answer), headers(answer)["content-type"]), (200, "application/json"))
        results = json.loads(content(answer))["results"]
        self.assertEqual([result["id"] for result in results], [name for name, _ in blobs])
        return [result.get("etag") or (result["status"], result["error"]) for result in results]

    def frames(self, answer: bytes) -> list[tuple[Kind, bytes]]:
        """Return the frames of an answer to a download, which is whole."""
        self.assertEqual((status(answer), headers(answer)["content-type"]), (200, "application/octet-stream"))
        reader = FrameReader()
        frames = [(piece.kind, piece.data) for piece in reader.feed(unchunked(answer))]
        reader.finish()
        return frames

    def download(self, *names: str) -> list[tuple[Kind, bytes]]:
        """Return the frames of the answer."""
        return self.frames(self.ask(f"POST {DOWNLOAD}", frame(Kind.LIST, encode_ids(names)) + END))

    def stored(self) -> list[str]:
        """Return the ids of all blobs."""
        return [info.blob_id for info in self.successResultOf(self.backend.list_blobs(USER)).blobs]

    def assert_no_room_held(self) -> None:
        """Look whether no room is set aside any more, and no buffer held."""
        self.assertEqual(self.put("whole-quota", b"x" * QUOTA), tag(b"x" * QUOTA))
        self.assertEqual(self.budget.used, 0)


class WhoTests(StreamTestCase):
    """What is refused before anything is read."""

    def test_refused(self) -> None:
        """Tokens, owners, methods, paths and arguments, as everywhere."""
        body = upload(("a", b"1"))
        self.successResultOf(self.accounts.add_user(UserId("bob")))
        for line, expected in (
            ("POST /stream/bob?direction=upload", (403, "forbidden")),
            ("POST /stream/nobody?direction=download", (403, "forbidden")),
            (f"GET {UPLOAD}", (405, "method_not_allowed")),
            (f"PUT {UPLOAD}", (405, "method_not_allowed")),
            (f"POST /stream/{USER}/a?direction=upload", (404, "not_found")),
            (f"POST /stream/{USER}", (400, "bad_request")),
            (f"POST /stream/{USER}?direction=both", (400, "bad_request")),
            (f"POST {UPLOAD}&namespace=A", (400, "bad_request")),
            (f"POST {UPLOAD}&other=1", (400, "bad_request")),
        ):
            answer = self.ask(line, body)
            self.assertEqual((status(answer), code(answer)), expected, line)
        answer = self.connect().request(f"POST {UPLOAD}", {"Content-Length": str(len(body))})
        self.assertEqual((status(answer), code(answer)), (401, "unauthorized"))
        self.assertEqual(self.stored(), [])

    def test_lengths(self) -> None:
        """A body without a length, or a longer one than there can be, is refused unread."""
        for path, most in ((UPLOAD, MAX_UPLOAD), (DOWNLOAD, MAX_REQUEST)):
            answer = self.ask(f"POST {path}", Transfer_Encoding="chunked")
            self.assertEqual((status(answer), code(answer)), (411, "length_required"))
            answer = self.ask(f"POST {path}", Content_Length=str(most + 1))
            self.assertEqual((status(answer), code(answer)), (413, "too_large"))
            self.assertEqual(json.loads(content(answer))["limit"], most)

    def test_offered(self) -> None:
        """The greeting says so."""
        self.assertIn("stream", json.loads(content(self.ask("GET /")))["offers"])


class UploadTests(StreamTestCase):
    """Up."""

    def test_upload(self) -> None:
        """Blobs of a batch are stored, each with its tag; the namespace is that of the query."""
        blobs = [("a", b"12345"), ("empty", b""), ("c", b"x" * 70_000)]
        self.assertEqual(self.upload(*blobs), [tag(data) for _, data in blobs])
        self.assertEqual(self.stored(), ["a", "empty", "c"])
        self.assertEqual(content(self.ask(f"GET /blobs/{USER}/c")), b"x" * 70_000)
        self.upload(("a", b"other"), path=f"{UPLOAD}&namespace=ns")
        self.assertEqual(content(self.ask(f"GET /blobs/{USER}/a?namespace=ns")), b"other")

    def test_none(self) -> None:
        """A batch may be empty."""
        self.assertEqual(self.upload(), [])

    def test_each_refusal(self) -> None:
        """Every refusal of a single blob is told for each, the others are stored."""
        self.put("taken", b"1")
        self.root = make_root(self.backend, self.accounts, max_blob=1000, budget=self.budget)
        self.site = make_site(self.root, self.clock, self.budget)
        self.successResultOf(self.accounts.set_quota(USER, 500))
        outcomes = self.upload(
            ("taken", b"2"),
            ("../x", b"3"),
            ("", b""),
            ("a", b"4"),
            ("a", b"5"),
            ("é\ud800", b"6"),
            ("large", bytes(1001)),
            ("too-much", bytes(499)),
            ("b", bytes(498)),
        )
        bad = (400, "bad_request")
        expected = [(409, "blob_exists"), bad, bad, tag(b"4"), (409, "blob_exists"), bad, (413, "too_large")]
        self.assertEqual(outcomes, [*expected, (507, "quota_exceeded"), tag(bytes(498))])
        self.assertEqual(self.stored(), ["taken", "a", "b"])

    def test_nothing_to_store(self) -> None:
        """A batch of which nothing can be stored is answered before its bytes come."""
        self.put("taken", b"1")
        body = upload(("taken", bytes(100_000)))
        answer = self.connect().request(f"POST {UPLOAD}", self.auth(Content_Length=str(len(body))), body[:60])
        self.assertEqual(json.loads(content(answer))["results"][0]["error"], "blob_exists")
        self.assertEqual(headers(answer)["connection"], "close")

    @settings(max_examples=examples(25))
    @given(st.data())
    def test_any_split(self, data: st.DataObject) -> None:
        """However the network cuts the body, the same is stored."""
        self.setUp()
        blobs = [("a", b"12345"), ("b", b""), ("c", b"x" * 50)]
        body = upload(*blobs)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
        connection = self.connect()
        connection.request(f"POST {UPLOAD}", self.auth(Content_Length=str(len(body))))
        answer = b""
        for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
            answer = connection.send(body[start:stop]) if start < stop else answer
        tags = [result["etag"] for result in json.loads(content(answer))["results"]]
        self.assertEqual(tags, [tag(data) for _, data in blobs])
        self.assertEqual(self.stored(), ["a", "b", "c"])

    def test_waits_for_room(self) -> None:
        """While room is set aside for what the list announced, its bytes wait in the network."""
        waiting: Deferred[Any] = Deferred()
        self.patch(BlobsBackend, "write_blobs", lambda *arguments: waiting)
        body = upload(("a", bytes(100_000)))
        connection = self.connect()
        connection.request(f"POST {UPLOAD}", self.auth(Content_Length=str(len(body))), body[:10])
        self.assertFalse(connection.paused)
        connection.send(body[10:100])
        self.assertTrue(connection.paused)
        waiting.errback(StorageFull("blobs"))
        self.assertEqual(code(connection.answered), "storage_full")
        self.flushLoggedErrors(StorageFull)

    def test_malformed(self) -> None:
        """What is not of its form is refused as a whole: nothing is stored, nothing is held."""
        listed = frame(Kind.LIST, encode_listed([("a", 3), ("b", 2)]))
        first, second = frame(Kind.BLOB, b"123"), frame(Kind.BLOB, b"45")
        for body in (
            b"",
            END,
            first,
            listed,
            listed + first,
            listed + END,
            listed + first + END,
            listed + first + second,
            listed + first + second + END + b"\0",
            listed + first + second + second + END,
            listed + second + first + END,
            listed + first + frame(Kind.ERROR, b"{}") + END,
            listed + listed + END,
            listed + first + b"\x09" + bytes(9),
            frame(Kind.LIST, b"{}") + END,
            frame(Kind.LIST, encode_listed([("a", 3)])) + frame_head(Kind.BLOB, LIMITS[Kind.BLOB]) + END,
            frame(Kind.LIST, b'[["a",1048577]]') + END,
        ):
            answer = self.ask(f"POST {UPLOAD}", body)
            self.assertEqual((status(answer), code(answer)), (400, "malformed_stream"), body)
        self.assertEqual((self.stored(), self.successResultOf(self.store.list())), ([], []))
        self.assert_no_room_held()

    def test_too_much(self) -> None:
        """There are limits to the number of blobs, and to their bytes."""
        full = LIMITS[Kind.BLOB]
        for listed in ([("a", 0)] * (MAX_BLOBS + 1), [("a", full)] * (MAX_BYTES // full + 1)):
            answer = self.ask(f"POST {UPLOAD}", frame(Kind.LIST, encode_listed(listed)))
            self.assertEqual((status(answer), code(answer)), (413, "too_large"))

    def test_disconnect(self) -> None:
        """A body that is cut anywhere leaves nothing, whole blobs before the cut neither."""
        body = upload(("a", b"12345"), ("b", bytes(300)))
        for size in (0, 3, HEAD_SIZE, 20, len(body) - 300, len(body) - 3, len(body) - 1):
            connection = self.connect()
            connection.request(f"POST {UPLOAD}", self.auth(Content_Length=str(len(body))), body[:size])
            connection.lose()
            self.assertEqual((self.stored(), self.successResultOf(self.store.list())), ([], []), size)
        self.assert_no_room_held()

    def test_failing_storage(self) -> None:
        """A storage that fails is told for the request, and nothing of it is stored."""

        def failing(*arguments: Any) -> Any:
            raise error

        for error, expected in ((StorageFull("blobs"), "storage_full"), (StorageFailed("x"), "storage_failed")):
            self.patch(MemoryBytes, "write_many", failing)
            answer = self.ask(f"POST {UPLOAD}", upload(("a", b"1")))
            self.assertEqual((status(answer), code(answer)), (507, expected))
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)
        self.assertEqual(self.stored(), [])
        self.assert_no_room_held()


class SlowStoreTests(StreamTestCase):
    """A store that is slower than the network."""

    worker: HeldWorker

    def setUp(self) -> None:
        """Hold what is given to it."""
        self.worker = HeldWorker()
        super().setUp()

    def test_back_pressure(self) -> None:
        """While the store is busy the body waits in the network; what is held stays within bounds."""
        blobs = [(f"{number}", bytes(LIMITS[Kind.BLOB])) for number in range(8)]
        body = upload(*blobs)
        connection = self.connect()
        connection.request(f"POST {UPLOAD}", self.auth(Content_Length=str(len(body))))
        most, at = 0, 0
        while at < len(body):
            while not connection.paused and at < len(body):
                connection.send(body[at : at + 65536])
                at += 65536
                most = max(most, self.budget.used)
            self.worker.release()
        self.worker.release()
        self.assertEqual(status(connection.answered), 200)
        self.assertLess(most, 4 * LIMITS[Kind.BLOB])
        self.assertEqual((len(self.stored()), self.budget.used), (8, 0))

    def test_crowded_upload(self) -> None:
        """Without buffers, what came with the list is enough until it is stored: the rest waits in the network."""
        self.budget.take(self.budget.limit)
        self.addCleanup(self.budget.give, self.budget.limit)
        body = upload(("a", bytes(100_000)), ("b", bytes(100_000)))
        decided: Deferred[None] = Deferred()
        reserve = Index.reserve_batch
        self.patch(Index, "reserve_batch", lambda *call: decided.addCallback(lambda ignored: reserve(*call)))
        connection = self.connect()
        connection.request(f"POST {UPLOAD}", self.auth(Content_Length=str(len(body))), body[:50_000])
        decided.callback(None)
        self.assertTrue(connection.paused)
        self.worker.release()
        self.assertFalse(connection.paused)
        connection.send(body[50_000:])
        self.worker.release()
        self.assertEqual(status(connection.answered), 200)

    def begin_download(self) -> Connection:
        """Ask for more than the buffers hold, as a client that takes nothing of it."""
        ids = [f"{number}" for number in range(20)]
        for name in ids:
            work = self.backend.write_blob(USER, BlobId(name), BytesProducer(bytes(400_000)))
            self.worker.release()
            self.successResultOf(work)
        connection = self.connect()
        body = frame(Kind.LIST, encode_ids(ids)) + END
        connection.request(f"POST {DOWNLOAD}", self.auth(Content_Length=str(len(body))), body)
        connection.channel.pauseProducing()
        self.worker.release()
        return connection

    def test_slow_client(self) -> None:
        """A client that takes nothing is sent no more; what it is to take is counted."""
        connection = self.begin_download()
        self.assertLess(len(connection.answered), 3_000_000)
        self.assertGreater(self.budget.used, 0)
        while self.budget.used:
            connection.channel.resumeProducing()
            connection.channel.pauseProducing()
            self.worker.release()
        self.assertEqual(len(self.frames(connection.answered)), 21)

    def test_full_buffers(self) -> None:
        """While what was written waits to be taken, nothing more is read."""
        reading, reads = MemoryBytes.read_many, list[int]()

        def counting(store: MemoryBytes, places: Any) -> Any:
            reads.append(len(places))
            return reading(store, places)

        self.patch(MemoryBytes, "read_many", counting)
        connection = self.begin_download()
        writing = connection.transport.write

        def full(data: bytes) -> None:
            writing(data)
            connection.channel.pauseProducing()

        self.patch(connection.transport, "write", full)
        self.patch(connection.transport, "writeSequence", lambda pieces: full(b"".join(pieces)))
        connection.channel.resumeProducing()
        self.worker.release()
        self.assertGreater(len(connection.answered), 1_000_000)
        self.assertEqual(len(reads), 1)

    def test_client_goes(self) -> None:
        """A client that goes in the middle of an answer leaves nothing."""
        connection = self.begin_download()
        connection.channel.stopProducing()
        connection.lose()
        self.worker.release()
        self.assertEqual(self.budget.used, 0)


class DownloadTests(StreamTestCase):
    """Down."""

    def test_download(self) -> None:
        """Blobs come in the order of the request, once for each time they are asked for."""
        self.put("a", b"12345")
        self.put("b", b"")
        self.put("c", bytes(LIMITS[Kind.BLOB]))
        frames = self.download("c", "a", "b", "a")
        self.assertEqual([len(data) for _, data in frames], [LIMITS[Kind.BLOB], 5, 0, 5, 0])
        self.assertEqual([kind for kind, _ in frames], [Kind.BLOB] * 4 + [Kind.END])
        self.assertEqual(self.download(), [(Kind.END, b"")])

    def test_errors(self) -> None:
        """What cannot be had is told in its place."""
        self.put("a", b"12345")
        self.put("large", bytes(LIMITS[Kind.BLOB] + 1))
        frames = self.download("none", "a", "../x", "large", "a")
        told = [json.loads(data)["error"] if kind is Kind.ERROR else data for kind, data in frames]
        self.assertEqual(told, ["blob_not_found", b"12345", "bad_request", "too_large", b"12345", b""])
        self.assertEqual(json.loads(frames[0][1])["blob_id"], "none")

    def test_many(self) -> None:
        """As many as one request may ask for."""
        self.put("a", b"1")
        frames = self.download(*["a", "b"] * (MAX_BLOBS // 2))
        self.assertEqual(len(frames), MAX_BLOBS + 1)
        self.assertEqual(sum(kind is Kind.BLOB for kind, _ in frames), MAX_BLOBS // 2)

    def test_malformed(self) -> None:
        """A request that is not one list is refused."""
        listed = frame(Kind.LIST, encode_ids(["a"]))
        for body in (b"", listed, listed + listed + END, END, frame(Kind.LIST, b"[1]") + END, listed + END + b"x"):
            answer = self.ask(f"POST {DOWNLOAD}", body)
            self.assertEqual((status(answer), code(answer)), (400, "malformed_stream"), body)
        answer = self.ask(f"POST {DOWNLOAD}", frame(Kind.LIST, encode_ids(["a"] * (MAX_BLOBS + 1))) + END)
        self.assertEqual((status(answer), code(answer)), (413, "too_large"))

    def test_crowded(self) -> None:
        """Without buffers, it goes on with a little at a time."""
        for number in range(5):
            self.put(f"{number}", bytes(LEAST))
        self.site.budget.take(Budget().limit)
        self.addCleanup(self.site.budget.give, Budget().limit)
        self.assertEqual(len(self.download(*map(str, range(5)))), 6)

    def test_long_list(self) -> None:
        """However long the list is, and however little goes at a time, only the next names are looked at each time."""
        self.put("a", bytes(LEAST))
        self.site.budget.take(Budget().limit)
        self.addCleanup(self.site.budget.give, Budget().limit)
        looked_at: list[str] = []
        parsed = stream._parsed
        self.patch(stream, "_AT_A_TIME", 4)

        def counted(name: str) -> BlobId | None:
            looked_at.append(name)
            return parsed(name)

        self.patch(stream, "_parsed", counted)
        self.assertEqual(len(self.download(*["a"] * 50)), 51)
        self.assertLessEqual(len(looked_at), 4 * 50)

    def test_failure_in_the_middle(self) -> None:
        """A failure after the first frames ends the connection: no answer looks whole that is not."""
        for number in range(20):
            self.put(f"{number}", bytes(200_000))
        reading = MemoryBytes.read_many
        calls: list[int] = []

        def failing(store: MemoryBytes, places: Any) -> Any:
            calls.append(len(places))
            if len(calls) > 1:
                raise ZeroDivisionError
            return reading(store, places)

        self.patch(MemoryBytes, "read_many", failing)
        connection = self.connect()
        body = frame(Kind.LIST, encode_ids([f"{number}" for number in range(20)])) + END
        answer = connection.request(f"POST {DOWNLOAD}", self.auth(Content_Length=str(len(body))), body)
        self.assertTrue(connection.transport.disconnecting)
        self.assertFalse(answer.endswith(b"0\r\n\r\n"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_lost_bytes(self) -> None:
        """A blob whose bytes are lost is a failure of the storage, told in its place."""
        self.put("a", b"1")
        self.put("b", b"2")
        self.store._kept = {place: kept for place, kept in self.store._kept.items() if place.blob_id == BlobId("b")}
        frames = self.download("a", "b")
        self.assertEqual(json.loads(frames[0][1])["error"], "storage_failed")
        self.assertEqual(frames[1], (Kind.BLOB, b"2"))
