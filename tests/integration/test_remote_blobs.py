"""Remote blobs over sockets: the contract, plain and over TLS, and who is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from soledad.client.remote.agent import load_tls
from soledad.client.remote.connect import Server, check_server, connect
from soledad.deferreds import InPlace
from soledad.errors import ConnectionFailed, InsecureServer, InvalidServerURL
from soledad.model.ids import UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.memory import memory_backend, memory_database
from soledad.server.records import Records
from soledad.server.service import make_root, make_site
from soledad.streams import Budget
from soledad.wire.routes import ListRoute
from tests.contracts.remote_blobs import ALICE, ID, RemoteBlobsContract
from tests.integration.authority import Authority

reactor = cast("Any", _reactor)
LOOPBACK = "127.0.0.1"


class SocketCase(TestCase):
    """A server on loopback, and clients of it."""

    scheme = "http"
    stop: Callable[[], Deferred[None] | None]

    def file(self, content: bytes) -> Path:
        """Return a new file."""
        path = Path(self.mktemp())
        path.write_bytes(content)
        return path

    async def listen(self, endpoint: IStreamServerEndpoint, quota: int | None = None) -> str:
        """Start a server; return a token of alice's."""
        database, budget = memory_database(), Budget()
        accounts = Accounts(database, time)
        backend, records = memory_backend(database, budget), Records(database)
        root = make_root(backend, accounts, budget=budget, records=records, clock=reactor)
        site = make_site(root, reactor, budget)
        port = await endpoint.listen(site)
        self.addCleanup(site.end)
        self.addCleanup(port.stopListening)
        self.stop = port.stopListening
        self.port: int = port.getHost().port  # type: ignore[attr-defined]
        return await accounts.add_user(ALICE, quota)

    async def client(self, token: str, cert_file: Path | None = None) -> Server:
        """Return a client of the server."""
        address = check_server(f"{self.scheme}://{LOOPBACK}:{self.port}", token, cert_file)
        assert address is not None
        server = await connect(reactor, InPlace(), ALICE, address)
        self.addCleanup(server.close)
        return server


class SocketRemoteBlobsTests(RemoteBlobsContract, SocketCase):
    """Over TCP."""

    async def make_server(self) -> Server:
        """See the contract."""
        self.token = await self.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK))
        return await self.client(self.token)

    async def a_while(self) -> None:
        """See the contract."""
        await deferLater(reactor, 0.1)

    async def test_kept_connection_is_closed(self) -> None:
        """A request that finds its connection closed is made again on another, if that is harmless."""
        await self.put(b"hello")
        for channel in list(self.sites_channels()):
            channel.transport.loseConnection()
        self.assertEqual(await self.get(), b"hello")

    def sites_channels(self) -> list[Any]:
        """Return the server's ends of the connections."""
        return [
            reader.protocol for reader in reactor.getReaders() if hasattr(getattr(reader, "protocol", None), "site")
        ]

    async def test_connections_are_kept(self) -> None:
        """One request after the other uses one connection."""
        for _ in range(5):
            await self.get_missing()
        self.assertEqual(len(self.sites_channels()), 1)

    async def get_missing(self) -> None:
        """Make any request."""
        await self.blobs.list_blobs(_all())


class TLSRemoteBlobsTests(RemoteBlobsContract, SocketCase):
    """Over TLS."""

    scheme = "https"

    async def make_server(self) -> Server:
        """See the contract."""
        authority = Authority("good")
        # Several certificates in one file are fine.
        cert_file = self.file(Authority("another").pem + authority.pem)
        context = authority.server(LOOPBACK)
        token = await self.listen(SSL4ServerEndpoint(reactor, 0, context, interface=LOOPBACK))
        return await self.client(token, cert_file)

    async def a_while(self) -> None:
        """See the contract."""
        await deferLater(reactor, 0.1)


class TrustTests(SocketCase):
    """Whom a client trusts."""

    scheme = "https"

    async def ask(self, *hosts: str, trusted: bool = True) -> Any:
        """Ask a server whose certificate is for ``hosts``."""
        authority = Authority("right")
        cert_file = self.file(authority.pem if trusted else Authority("right").pem)
        context = authority.server(*hosts)
        token = await self.listen(SSL4ServerEndpoint(reactor, 0, context, interface=LOOPBACK))
        server = await self.client(token, cert_file)
        return await server.blobs.count_blobs(_all(only_count=True))

    async def test_right(self) -> None:
        """The right name and the right authority are trusted."""
        self.assertEqual(await self.ask(LOOPBACK), 0)

    async def test_wrong_authority(self) -> None:
        """A certificate by somebody else is not trusted, not even if they took the authority's name."""
        await self.assertFailure(Deferred.fromCoroutine(self.ask(LOOPBACK, trusted=False)), InsecureServer)

    async def test_wrong_name(self) -> None:
        """A certificate for another host is not trusted."""
        error = await self.assertFailure(Deferred.fromCoroutine(self.ask("example.org")), InsecureServer)
        self.assertIn("another name", str(error))

    async def test_systems_authorities(self) -> None:
        """Without a file of certificates, one that only a test knows is not trusted."""
        context = Authority("right").server(LOOPBACK)
        token = await self.listen(SSL4ServerEndpoint(reactor, 0, context, interface=LOOPBACK))
        server = await self.client(token)
        await self.assertFailure(server.blobs.stat_blob(ID), InsecureServer)

    async def test_plain_server(self) -> None:
        """A server without TLS is not taken for one with it."""
        factory = Factory.forProtocol(Plain)
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK).listen(factory)
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port
        server = await self.client("some-token")
        await self.assertFailure(server.blobs.stat_blob(ID), InsecureServer)

    def test_bad_file(self) -> None:
        """A file without certificates, or none at all, is told at once."""
        for path in (self.file(b"no certificate"), Path(self.mktemp())):
            with self.assertRaises(InvalidServerURL):
                load_tls(LOOPBACK, path)


class Plain(Protocol):
    """A server that does not understand what TLS is."""

    def dataReceived(self, data: bytes) -> None:
        """Say so."""
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class UnreachableTests(SocketCase):
    """Servers that are not there."""

    async def test_refused(self) -> None:
        """Nobody listens."""
        token = await self.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK))
        await maybeDeferred(self.stop)
        server = await self.client(token)
        await self.assertFailure(server.blobs.stat_blob(ID), ConnectionFailed)


def _all(**options: Any) -> ListRoute:
    return ListRoute(UserId("alice"), **options)
