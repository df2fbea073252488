"""Many blobs in one body over sockets: the contract, servers that are killed, and claims that race."""

from __future__ import annotations

import json
import os
import socket
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from soledad.client.remote.agent import make_agent
from soledad.client.remote.connect import Address, Server
from soledad.deferreds import deferred
from soledad.model.ids import BlobId, user_id
from soledad.streams import MemoryConsumer
from soledad.wire.framing import END, Kind, encode_listed, frame
from tests.contracts.remote_stream import QUOTA, RemoteStreamContract
from tests.integration.devices import HomeServer, new_user
from tests.integration.test_server import ServerProcess, ServerTestCase, _reserved, talk
from tests.limits import rounds
from tests.server.support import content, status

USER = "alice"


class SocketRemoteStreamTests(RemoteStreamContract, TestCase):
    """Over TCP, with files and threads."""

    async def make_server(self) -> Server:
        """See the contract."""
        folder = Path(self.mktemp())
        token = new_user(folder, QUOTA)
        self.home = HomeServer.start(folder, token)
        self.addCleanup(self.home.stop)
        address = Address(f"http://127.0.0.1:{self.home.port}", token)
        server = Server.over(make_agent(reactor), reactor, user_id(USER), address)
        self.addCleanup(server.close)
        return server

    async def test_cancel(self) -> None:
        """A call that is cancelled ends so and stores nothing; the next one finds a sound connection."""
        blobs = [(BlobId(f"{number}"), bytes(1_000_000)) for number in range(20)]
        for pause in (0.0, 0.001, 0.01):
            work = self.server.stream.write_blobs(blobs)
            await deferLater(reactor, pause)
            work.cancel()
            await self.fails(work, CancelledError)
        results = await self.stream.write_blobs(blobs)
        self.assertEqual(results, [None] * 20)

    async def test_memory(self) -> None:
        """Many batches at a time stay within the server's buffers."""
        batches = [[(BlobId(f"{batch}-{number}"), os.urandom(50_000)) for number in range(60)] for batch in range(12)]
        results = await gatherResults([self.stream.write_blobs(batch) for batch in batches])
        self.assertEqual(results, [[None] * 60] * 12)
        read = await gatherResults([self.stream.read_blobs([(name, len(data)) for name, data in b]) for b in batches])
        self.assertEqual(read, [[data for _, data in batch] for batch in batches])
        # Each may have a piece of its own, however little is left.
        self.assertLess(self.home.budget.peak, self.home.budget.limit + 12 * 2 * 1024 * 1024)
        self.assertEqual(self.home.budget.used, 0)


class ProcessTests(ServerTestCase):
    """Servers in processes of their own."""

    blobs = tuple((f"b-{number}", bytes([number]) * 20_000) for number in range(100))

    def start(self) -> ServerProcess:
        """Start one."""
        process = ServerProcess(self.folder)
        self.addCleanup(process.end)
        return process

    def request(self) -> bytes:
        """Return an upload of all blobs."""
        listed = encode_listed([(name, len(data)) for name, data in self.blobs])
        body = frame(Kind.LIST, listed) + b"".join(frame(Kind.BLOB, data) for _, data in self.blobs) + END
        return self.head(f"POST /stream/{USER}?direction=upload", Content_Length=str(len(body))) + body

    @deferred
    async def test_killed(self) -> None:
        """A server that is killed at any moment of a batch has all of it or nothing; room and ids are free."""
        request = self.request()
        process = self.start()
        port = await process.port
        outcomes = set()
        for number in range(rounds(4)):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                if number == 0:
                    # In the middle of the body.
                    connection.sendall(request[: len(request) // 2])
                    await deferLater(reactor, 0.2)
                else:
                    await deferToThread(connection.sendall, request)
                    await deferLater(reactor, 0.02 * number)
                await process.end("KILL")
            process = self.start()
            port = await process.port
            outcomes.add(await self.assert_whole())
            for name, _ in self.blobs:
                path = f"/blobs/{USER}/{name}"
                await deferToThread(talk, port, self.head(f"DELETE {path}"))
        self.assertIn(0, outcomes)
        answer = await deferToThread(talk, port, request)
        results = json.loads(content(answer))["results"]
        self.assertEqual([result["etag"] for result in results], [sha256(data).hexdigest() for _, data in self.blobs])
        self.assertEqual(_reserved(self.parts)(), 0)
        self.assertEqual(await self.assert_whole(), len(self.blobs))

    async def assert_whole(self) -> int:
        """Look whether all of the batch is there or none of it; return how many."""
        page = self.successResultOf(self.parts.backend.list_blobs(user_id(USER)))
        self.assertIn(len(page.blobs), (0, len(self.blobs)))
        for (name, data), info in zip(self.blobs, page.blobs, strict=False):
            body = MemoryConsumer()
            self.successResultOf(self.parts.backend.read_blob(user_id(USER), BlobId(name), body))
            self.assertEqual((info.blob_id, body.value()), (name, data))
        used = self.successResultOf(self.parts.backend.get_total_storage(user_id(USER)))
        self.assertEqual(used, sum(info.length for info in page.blobs))
        return len(page.blobs)

    @deferred
    async def test_claims_race(self) -> None:
        """Of all who take an item at the same time, in two processes, one gets it."""
        ports = await gatherResults([self.start().port, self.start().port])
        for number in range(8):
            path = f"/blobs/{USER}/item-{number}"
            self.assertEqual(status(await deferToThread(talk, ports[0], self.put(b"x", path))), 201)
            request = self.head(f"POST {path}?claim=60", Content_Length="0")
            requests: list[Any] = [deferToThread(talk, port, request) for port in ports for _ in range(2)]
            self.assertEqual(sorted(map(status, await gatherResults(requests))), [204, 409, 409, 409])
