"""Uploads that are resumed, with real servers: kills on either side, several processes, and a tus client not ours."""

from __future__ import annotations

import fcntl
import os
import random
import socket
from hashlib import sha256
from io import BytesIO
from typing import Any

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThread

from soledad.deferreds import deferred
from soledad.model.ids import BlobId
from soledad.server.interfaces import Upload
from soledad.server.service import ServerService
from soledad.streams import MemoryConsumer
from soledad.wire.routes import authorization
from soledad.wire.uploads import OFFSET_STREAM, Metadata, encode_metadata
from tests.integration.test_server import QUOTA, USER, ServerProcess, ServerTestCase, _reserved, talk
from tests.limits import rounds
from tests.server.support import code, headers, status

BLOB = BlobId("film")
MIB = 1024 * 1024
TUS = {"Tus_Resumable": "1.0.0"}
PATCH = {**TUS, "Content_Type": OFFSET_STREAM}


class UploadsTestCase(ServerTestCase):
    """What a client says to servers in whatever process."""

    def start(self) -> ServerProcess:
        """Start a server."""
        process = ServerProcess(self.folder)
        self.addCleanup(process.end)
        return process

    def set_quota(self, quota: int) -> None:
        """Let the user have more."""
        self.successResultOf(self.parts.accounts.set_quota(USER, quota))

    def post(self, length: int, blob: str = BLOB) -> bytes:
        """Return a request that creates an upload."""
        told = encode_metadata(Metadata(BlobId(blob)))
        return self.head(f"POST /uploads/{USER}", **TUS, Upload_Length=str(length), Upload_Metadata=told)

    async def create(self, port: int, length: int) -> str:
        """Create an upload; return its path."""
        answer = await deferToThread(talk, port, self.post(length))
        self.assertEqual(status(answer), 201)
        return "/uploads/" + headers(answer)["location"]

    def patch_head(self, path: str, offset: int, length: int) -> bytes:
        """Return the head of a request with bytes."""
        return self.head(f"PATCH {path}", **PATCH, Upload_Offset=str(offset), Content_Length=str(length))

    async def send(self, port: int, path: str, offset: int, data: bytes) -> bytes:
        """Send bytes; return the answer."""
        return await deferToThread(talk, port, self.patch_head(path, offset, len(data)) + data)

    async def offset(self, port: int, path: str) -> int:
        """Ask how many bytes there are; again, if something that was sent before comes behind the question."""
        answer = await deferToThread(talk, port, self.head(f"HEAD {path}", **TUS, Connection="close"))
        if status(answer) == 423:
            return await self.offset(port, path)
        self.assertEqual(status(answer), 200)
        return int(headers(answer)["upload-offset"])

    def found(self, path: str) -> Upload:
        """Look at an upload, as another process."""
        return self.successResultOf(self.parts.backend.pending.find(USER, path.rpartition("/")[2]))

    def assert_stored(self, data: bytes, blob: str = BLOB) -> None:
        """Look whether the blob is there, with its bytes and tag, and room for no upload."""
        body = MemoryConsumer()
        self.successResultOf(self.parts.backend.read_blob(USER, BlobId(blob), body))
        self.assertEqual(sha256(body.value()).digest(), sha256(data).digest())
        tag = self.successResultOf(self.parts.backend.get_tag(USER, BlobId(blob)))
        self.assertEqual(tag, sha256(data).hexdigest())
        self.assertEqual(_reserved(self.parts)(), 0)


class KillTests(UploadsTestCase):
    """Servers and clients that are gone from one moment to the next."""

    @deferred
    async def test_killed_server(self) -> None:
        """A server killed in the middle of a request has what was durable; the room stays set aside."""
        self.set_quota(48 * MIB)
        process = self.start()
        port = await process.port
        data = os.urandom(MIB) * 48
        path = await self.create(port, len(data))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            sending = deferToThread(connection.sendall, self.patch_head(path, 0, len(data)) + data[: 40 * MIB])
            await self.until(lambda: self.found(path).received > 0)
            await process.end("KILL")
            await sending.addErrback(lambda failure: failure.trap(OSError))
        port = await self.start().port
        offset = await self.offset(port, path)
        self.assertGreaterEqual(offset, 16 * MIB)
        self.assertLessEqual(offset, 40 * MIB)
        self.assertEqual(code(await deferToThread(talk, port, self.post(1, "other"))), "quota_exceeded")
        self.assertEqual(status(await self.send(port, path, offset, data[offset:])), 204)
        self.assert_stored(data)

    @deferred
    async def test_killed_again_and_again(self) -> None:
        """Wherever servers are killed, an upload comes to its end, and its bytes are the client's."""
        data = random.Random(7).randbytes(3 * MIB)
        process = self.start()
        port = await process.port
        path = await self.create(port, len(data))
        chance = random.Random(11)
        for _ in range(rounds(3)):
            offset = await self.offset(port, path)
            size = chance.randrange(len(data) - offset)
            with socket.create_connection(("127.0.0.1", port)) as connection:
                await deferToThread(
                    connection.sendall, self.patch_head(path, offset, len(data) - offset) + data[offset:][:size]
                )
                if chance.random() < 0.5:
                    # Ends the request: what came of it is kept.
                    self.assertGreaterEqual(await self.offset(port, path), offset)
                await process.end("KILL")
            process = self.start()
            port = await process.port
        offset = await self.offset(port, path)
        self.assertEqual(status(await self.send(port, path, offset, data[offset:])), 204)
        self.assert_stored(data)

    @deferred
    async def test_killed_client(self) -> None:
        """Of what a client sent before it was gone all that arrived counts: the rest is half, if it was half-way."""
        port = await self.start().port
        data = os.urandom(QUOTA)
        path = await self.create(port, len(data))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            half = self.patch_head(path, 0, len(data)) + data[: QUOTA // 2]
            await deferToThread(connection.sendall, half)
        await self.until(lambda: self.found(path).received > 0)
        offset = await self.offset(port, path)
        self.assertGreater(offset, QUOTA * 49 // 100)
        self.assertEqual(status(await self.send(port, path, offset, data[offset:])), 204)
        self.assert_stored(data)


class ProcessesTests(UploadsTestCase):
    """Two servers on one folder."""

    def is_locked(self) -> bool:
        """Tell whether a server has the file of the only upload."""
        (name,) = self.files()
        file = os.open(os.path.join(self.folder.blobs, name), os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    @deferred
    async def test_one_upload(self) -> None:
        """While one server has a request for an upload, the other refuses one; then the upload moves over."""
        ports = await gatherResults([self.start().port, self.start().port])
        data = os.urandom(QUOTA)
        path = await self.create(ports[0], len(data))
        with socket.create_connection(("127.0.0.1", ports[0])) as connection:
            sent = self.patch_head(path, 0, len(data)) + data[:1000]
            await deferToThread(connection.sendall, sent)
            await self.until(self.is_locked)
            answer = await self.send(ports[1], path, 0, b"x" * 1000)
            self.assertEqual(code(answer), "upload_busy")
            self.assertEqual(await self.offset(ports[1], path), 0)
        await self.until(lambda: self.found(path).received == 1000)
        self.assertEqual(await self.offset(ports[1], path), 1000)
        self.assertEqual(status(await self.send(ports[1], path, 1000, data[1000:2000])), 204)
        self.assertEqual(status(await self.send(ports[0], path, 2000, data[2000:])), 204)
        self.assert_stored(data)

    @deferred
    async def test_room(self) -> None:
        """However many uploads are created at once, the quota holds to the byte; it lasts when servers are gone."""
        first, second = self.start(), self.start()
        ports = await gatherResults([first.port, second.port])
        size = QUOTA // 5
        asked = [deferToThread(talk, ports[n % 2], self.post(size, f"b{n}")) for n in range(12)]
        answers = await gatherResults(asked)
        self.assertEqual(sorted(map(status, answers)), [201] * 5 + [507] * 7)
        await gatherResults([first.end("KILL"), second.end("KILL")])
        port = await self.start().port
        self.assertEqual(status(await deferToThread(talk, port, self.post(1))), 507)
        path = next("/uploads/" + headers(answer)["location"] for answer in answers if status(answer) == 201)
        self.assertEqual(status(await deferToThread(talk, port, self.head(f"DELETE {path}", **TUS))), 204)
        self.assertEqual(status(await deferToThread(talk, port, self.post(size))), 201)

    @deferred
    async def test_one_winner(self) -> None:
        """Of uploads and writes of one id, in two servers at once, one wins."""
        ports = await gatherResults([self.start().port, self.start().port])
        paths = [await self.create(port, 10) for port in ports]
        sending = [
            deferToThread(talk, port, self.patch_head(path, 0, 10) + b"x" * 10)
            for port, path in zip(ports, paths, strict=True)
        ]
        putting = deferToThread(talk, ports[0], self.put(b"x" * 10, f"/blobs/{USER}/{BLOB}"))
        statuses = [status(answer) for answer in await gatherResults([*sending, putting])]
        self.assertEqual(sum(number in (201, 204) for number in statuses), 1, str(statuses))
        self.assertEqual(sum(number == 409 for number in statuses), 2, str(statuses))
        self.assert_stored(b"x" * 10)
        self.assertEqual(len(self.files()), 1)


class ForeignClientTests(UploadsTestCase):
    """tuspy, a client of tus that knows nothing of soledad."""

    def setUp(self) -> None:
        """Serve."""
        super().setUp()
        service = ServerService(reactor, self.folder, [serverFromString(reactor, "tcp:0:interface=127.0.0.1")])
        service.startService()
        self.addCleanup(service.stopService)
        self.port = service.ports[0].getHost().port  # type: ignore[attr-defined]
        url = f"http://127.0.0.1:{self.port}/uploads/{USER}"
        self.client = TusClient(url, headers={"Authorization": authorization(USER, self.token)})

    def uploader(self, data: bytes, blob: str = BLOB, **options: Any) -> Any:
        """Return what uploads ``data``."""
        metadata = {"blob_id": blob, "filename": "film.webm"}
        return self.client.uploader(file_stream=BytesIO(data), metadata=metadata, **options)

    @deferred
    async def test_whole(self) -> None:
        """It uploads in one request."""
        data = os.urandom(1_000_000)
        await deferToThread(self.uploader(data).upload)
        self.assert_stored(data)

    @deferred
    async def test_nothing(self) -> None:
        """It uploads what is empty."""
        await deferToThread(self.uploader(b"").upload)
        self.assert_stored(b"")

    @deferred
    async def test_chunks_with_checksums(self) -> None:
        """It uploads in pieces, with a checksum each."""
        data = os.urandom(1_000_000)
        await deferToThread(self.uploader(data, chunk_size=300_000, upload_checksum=True).upload)
        self.assert_stored(data)

    @deferred
    async def test_resumed(self) -> None:
        """It stops half-way, and another instance, which knows the address only, goes on from there."""
        data = os.urandom(1_000_000)
        first = self.uploader(data, chunk_size=100_000)
        await deferToThread(first.upload, 500_000)

        def go_on() -> int:
            second = self.uploader(data, url=first.url)
            offset = int(second.offset)
            second.upload()
            return offset

        self.assertEqual(await deferToThread(go_on), 500_000)
        self.assert_stored(data)

    @deferred
    async def test_forgotten(self) -> None:
        """An upload that was abandoned is none to it."""
        first = self.uploader(bytes(1000))
        url = await deferToThread(first.create_url)
        await self.parts.backend.abandon_upload(USER, url.rpartition("/")[2])
        await self.assertFailure(deferToThread(self.uploader, bytes(1000), url=url), TusCommunicationError)
