"""Real servers over real sockets: refusals, disconnects, kills, several processes, TLS."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from time import sleep
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from soledad.deferreds import deferred
from soledad.errors import ServerFailed
from soledad.model.ids import BlobId, UserId
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.files import Files
from soledad.server.folder import DataFolder
from soledad.server.service import Options, Parts, ServerService, Workers, makeService, open_parts
from soledad.streams import Budget, BytesProducer, MemoryConsumer
from soledad.wire.routes import authorization
from tests.limits import seconds
from tests.server.support import head, headers, status

USER = UserId("alice")
QUOTA = 4_000_000
PATH = f"/blobs/{USER}/x"


def talk(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send ``data`` and read to the end, or to the end of one answer.  Blocks."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds(20)) as plain:
        connection = plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")
        connection.sendall(data)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> bytes:
    """Read one answer.  Blocks."""
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
        _, end, body = answer.partition(b"\r\n\r\n")
        if end and len(body) >= int(headers(answer).get("content-length", "0")):
            break
    return answer


class ServerTestCase(TestCase):
    """A data folder with a user, and what is in it."""

    timeout = seconds(60)

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = DataFolder(os.path.abspath(self.mktemp()))
        self.folder.make()
        # As an operator's command does.
        self.parts = open_parts(self.folder, Workers(), Budget())
        self.addCleanup(self.parts.close)
        self.token = self.successResultOf(self.parts.accounts.add_user(USER, QUOTA))

    def head(self, line: str, **more: str) -> bytes:
        """Return the head of a request with the user's token."""
        told = {name.replace("_", "-"): value for name, value in more.items()}
        return head(line, {"Authorization": authorization(USER, self.token)} | told)

    def put(self, data: bytes, path: str = PATH) -> bytes:
        """Return a request that stores ``data``."""
        return self.head(f"PUT {path}", Content_Length=str(len(data))) + data

    def files(self) -> list[str]:
        """Return the names of all stored bytes."""
        return [found.name for found in self.successResultOf(self.parts.backend.store.list())]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition()`` holds."""
        while not condition():
            await deferLater(reactor, 0.01)


class InProcessTests(ServerTestCase):
    """A server in this process, with its threads."""

    def serve(self, endpoint: str = "tcp:0:interface=127.0.0.1") -> ServerService:
        """Start a server."""
        service = ServerService(reactor, self.folder, [serverFromString(reactor, endpoint)])
        service.startService()
        self.addCleanup(service.stopService)
        (port,) = service.ports
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        self.port = address.port
        return service

    @deferred
    async def test_round_trip(self) -> None:
        """What is put is got, by several requests on one connection."""
        self.serve()
        data = os.urandom(3_000_000)

        def exchange() -> None:
            with socket.create_connection(("127.0.0.1", self.port), timeout=seconds(20)) as connection:
                connection.sendall(self.put(data))
                self.assertEqual(status(read_answer(connection)), 201)
                connection.sendall(self.head(f"GET {PATH}"))
                self.assertEqual(read_answer(connection).partition(b"\r\n\r\n")[2], data)

        await deferToThread(exchange)

    @deferred
    async def test_straight_to_the_socket(self) -> None:
        """The system sends most of a large answer by itself; what is asked for behind it comes behind it."""
        service = self.serve()
        files, logged = _CountingFiles(), list[int]()
        self.patch(service._site, "log", lambda request: logged.append(request.sentLength))
        self.patch(service._parts.backend.store, "_files", files)
        data = os.urandom(3_000_000)

        def exchange() -> None:
            with socket.create_connection(("127.0.0.1", self.port), timeout=seconds(20)) as connection:
                connection.sendall(self.put(data))
                self.assertEqual(status(read_answer(connection)), 201)
                part = self.head(f"GET {PATH}", Range="bytes=1-2000000")
                connection.sendall(self.head(f"GET {PATH}") + part + self.head("GET /", Connection="close"))
                with connection.makefile("rb") as answers:
                    for body in (data, data[1:2_000_001]):
                        while answers.readline() != b"\r\n":
                            pass
                        self.assertEqual(answers.read(len(body)), body)
                    self.assertEqual(answers.readline(), b"HTTP/1.1 200 OK\r\n")

        await deferToThread(exchange)
        self.assertGreater(files.sent, 2_500_000)
        self.assertEqual(logged[1:3], [3_000_000, 2_000_000])

    @deferred
    async def test_slow_reader(self) -> None:
        """A client that reads nothing keeps nobody waiting, and when it goes, nothing of it is left."""
        service = self.serve()
        stored = await deferToThread(talk, self.port, self.put(bytes(QUOTA - 100_000)))
        self.assertEqual(status(stored), 201)
        before = len(os.listdir("/dev/fd"))
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(self.head(f"GET {PATH}"))
            await self.until(lambda: len(os.listdir("/dev/fd")) >= before + 3)
            for _ in range(20):
                answer = await deferToThread(talk, self.port, self.head(f"GET {PATH}", Range="bytes=0-999999"))
                self.assertEqual(status(answer), 206)
            self.assertTrue(service._root._running)
        await service._root.idle()
        await self.until(lambda: len(os.listdir("/dev/fd")) <= before)

    @deferred
    async def test_refused_before_the_body(self) -> None:
        """A client that has sent nothing but the head, or sends on and on, gets the answer."""
        self.serve()
        answer = await deferToThread(talk, self.port, head(f"PUT {PATH}", {"Content-Length": "1000000000"}))
        self.assertEqual(status(answer), 401)

        def insist() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), timeout=seconds(20)) as connection:
                connection.sendall(self.head(f"PUT {PATH}", Content_Length="1000000000") + b"x" * 500_000)
                return read_answer(connection)

        self.assertEqual(status(await deferToThread(insist)), 507)

    @deferred
    async def test_tidying_goes_on(self) -> None:
        """Whatever keeps it from tidying up, it tries again after a while."""
        service = self.serve()
        await service._sweeping
        self.patch(BlobsBackend, "sweep", lambda backend: fail(ServerFailed(503)))
        await service._sweep()
        self.assertEqual(len(self.flushLoggedErrors(ServerFailed)), 1)

    @deferred
    async def test_disconnect(self) -> None:
        """A client that goes in the middle of an upload leaves nothing; the room is free at once."""
        service = self.serve()
        reserved = _reserved(self.parts)
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(self.head(f"PUT {PATH}", Content_Length=str(QUOTA)) + b"x" * 100_000)
            await self.until(lambda: reserved() == 1)
        await self.until(lambda: reserved() == 0)
        self.assertEqual(self.files(), [])
        self.assertEqual(status(await deferToThread(talk, self.port, self.put(b"y" * QUOTA))), 201)
        self.assertEqual(len(service.ports), 1)

    @deferred
    async def test_slow_store(self) -> None:
        """A client that is quicker than the disk waits; little is held meanwhile."""
        service = self.serve()
        self.patch(service._parts.backend.store, "_files", _SlowFiles())
        held = []
        work = deferToThread(talk, self.port, self.put(b"x" * QUOTA))
        budget = service._site.budget
        while not work.called:
            held.append(budget.used)
            await deferLater(reactor, 0.005)
        self.assertEqual(status(await work), 201)
        self.assertGreater(max(held), 0)
        self.assertLess(max(held), QUOTA * 3 // 4)
        self.assertEqual(budget.used, 0)

    @deferred
    async def test_stopped_in_the_middle(self) -> None:
        """A server that is stopped ends what is under way, and nothing of it is left."""
        service = self.serve()
        reserved = _reserved(self.parts)
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(self.head(f"PUT {PATH}", Content_Length=str(QUOTA)) + b"x" * 100_000)
            await self.until(lambda: reserved() == 1)
            await service.stopService()
            self.assertEqual(reserved(), 0)
        self.assertEqual(self.files(), [])

    @deferred
    async def test_port_is_taken(self) -> None:
        """A port that is taken ends the start, and nothing of it goes on."""
        self.serve()
        endpoint = serverFromString(reactor, f"tcp:{self.port}:interface=127.0.0.1")
        service = ServerService(reactor, self.folder, [endpoint])
        self.assertRaises(CannotListenError, service.startService)

    @deferred
    async def test_port_is_taken_from_the_command(self) -> None:
        """``twist soledad`` tells it in a line."""
        self.serve()
        options = Options()
        options.parseOptions(["--data-dir", self.folder.path, "--users", f"tcp:{self.port}:interface=127.0.0.1"])
        ended = self.assertRaises(SystemExit, makeService(options).startService)
        self.assertIn("Address already in use", str(ended.code))

    @deferred
    async def test_tls(self) -> None:
        """An ``ssl:`` endpoint serves, and refusals arrive there too."""
        key, certificate = self.certificate()
        self.serve(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}")
        context = ssl.create_default_context(cafile=certificate)
        data = os.urandom(1_000_000)
        self.assertEqual(status(await deferToThread(talk, self.port, self.put(data), context)), 201)
        answer = await deferToThread(talk, self.port, self.head(f"GET {PATH}"), context)
        self.assertEqual(answer.partition(b"\r\n\r\n")[2], data)
        refused = head(f"PUT {PATH}", {"Content-Length": "100000000"}) + b"x" * 100_000
        self.assertEqual(status(await deferToThread(talk, self.port, refused, context)), 401)

    def certificate(self) -> tuple[str, str]:
        """Make a key and a certificate for this machine; return where they are."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .sign(key, hashes.SHA256())
        )
        paths = self.mktemp(), self.mktemp()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for path, data in zip(paths, (private, made.public_bytes(serialization.Encoding.PEM)), strict=True):
            with open(path, "wb") as file:
                file.write(data)
        return paths


class _CountingFiles(Files):
    """Counts what the system sends by itself."""

    sent = 0

    def send(self, file: int, socket: int, size: int, start: int) -> int:
        """See `Files`."""
        sent = super().send(file, socket, size, start)
        self.sent += sent
        return sent


class _SlowFiles(Files):
    """A slow disk."""

    def write(self, file: int, data: bytes) -> None:
        """See `Files`."""
        sleep(0.03)
        super().write(file, data)


def _reserved(parts: Parts) -> Callable[[], int]:
    """Return what counts the uploads that have room set aside."""
    database = parts.accounts._database
    count = text("SELECT count(*) FROM reservations")
    return lambda: int(database.now(lambda connection: connection.execute(count).scalar_one(), writes=False))


class ServerProcess(ProcessProtocol):
    """A server in a process of its own."""

    def __init__(self, folder: DataFolder) -> None:
        self._output = b""
        self.port: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.signal: int | None = None
        command = [sys.executable, "-m", "twisted", "--log-format=text", "soledad", "--data-dir", folder.path]
        checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([checkout, os.environ.get("PYTHONPATH", "")])}
        self._process: Any = reactor.spawnProcess(
            self, sys.executable, [*command, "--users", "tcp:0:interface=127.0.0.1"], environment, path=folder.path
        )

    def outReceived(self, data: bytes) -> None:
        """Look for the port."""
        self._output += data
        _, found, rest = self._output.partition(b"Serving users at 127.0.0.1 port ")
        if found and b"\n" in rest and not self.port.called:
            self.port.callback(int(rest.split()[0]))

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """Tell that it has ended."""
        if not self.port.called:
            self.port.errback(RuntimeError(self._output.decode()))
        self.signal = getattr(reason.value, "signal", None)
        self.ended.callback(None)

    @deferred
    async def end(self, by: str = "TERM") -> int | None:
        """Send a signal, and wait for the end; return the signal that it died of."""
        if not self.ended.called:
            self._process.signalProcess(by)
            await self.ended
        return self.signal


class ProcessTests(ServerTestCase):
    """Servers in processes of their own, started as an operator does."""

    def start(self) -> ServerProcess:
        """Start one."""
        process = ServerProcess(self.folder)
        self.addCleanup(process.end)
        return process

    @deferred
    async def test_two_processes(self) -> None:
        """Two servers race for ids and for room: each id has one winner, and the quota holds to the byte."""
        ports = await gatherResults([self.start().port, self.start().port])
        for number in range(8):
            path = f"/blobs/{USER}/race-{number}"
            requests = [deferToThread(talk, port, self.put(b"x" * 10, path)) for port in ports for _ in range(2)]
            self.assertEqual(sorted(map(status, await gatherResults(requests))), [201, 409, 409, 409])
        size = QUOTA // 5
        requests = [
            deferToThread(talk, ports[number % 2], self.put(b"y" * size, f"/blobs/{USER}/room-{number}"))
            for number in range(8)
        ]
        statuses = sorted(map(status, await gatherResults(requests)))
        self.assertEqual(statuses, [201] * 4 + [507] * 4)
        self.assertEqual(self.successResultOf(self.parts.backend.get_total_storage(USER)), 80 + 4 * size)
        self.assertEqual(_reserved(self.parts)(), 0)

    @deferred
    async def test_killed(self) -> None:
        """A server that is killed in the middle of an upload leaves nothing that shows; id and room are free."""
        first = self.start()
        port = await first.port
        reserved = _reserved(self.parts)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(self.head(f"PUT {PATH}", Content_Length=str(QUOTA)) + b"x" * 2_000_000)
            await self.until(lambda: reserved() == 1)
            self.assertEqual(await first.end("KILL"), signal.SIGKILL)
        self.assertEqual(reserved(), 1)
        port = await self.start().port
        self.assertEqual(status(await deferToThread(talk, port, self.head(f"GET {PATH}"))), 404)
        self.assertEqual(status(await deferToThread(talk, port, self.put(b"y" * QUOTA))), 201)
        self.assertEqual((reserved(), len(self.files())), (0, 1))

    @deferred
    async def test_stopped(self) -> None:
        """A server that is asked to end does, and what was acknowledged is there for the next."""
        first = self.start()
        self.assertEqual(status(await deferToThread(talk, await first.port, self.put(b"kept"))), 201)
        await first.end()
        self.assertEqual(os.listdir(self.folder.processes), [self.parts._processes.name])
        body = MemoryConsumer()
        self.successResultOf(self.parts.backend.read_blob(USER, BlobId("x"), body))
        self.assertEqual(body.value(), b"kept")
        self.successResultOf(self.parts.backend.write_blob(USER, BlobId("y"), BytesProducer(b"more")))
