"""Remote uploads over sockets: the contract, plain and over TLS."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.task import deferLater

from soledad.client.remote.connect import Server
from tests.contracts.remote_uploads import QUOTA, RemoteUploadsContract
from tests.integration.authority import Authority
from tests.integration.test_remote_blobs import LOOPBACK, SocketCase

reactor = cast("Any", _reactor)


class SocketRemoteUploadsTests(RemoteUploadsContract, SocketCase):
    """Over TCP."""

    async def make_server(self) -> Server:
        """See the contract."""
        return await self.client(await self.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK), QUOTA))

    async def a_while(self) -> None:
        """See the contract."""
        await deferLater(reactor, 0.1)


class TLSRemoteUploadsTests(RemoteUploadsContract, SocketCase):
    """Over TLS."""

    scheme = "https"

    async def make_server(self) -> Server:
        """See the contract."""
        authority = Authority("good")
        cert_file = self.file(authority.pem)
        endpoint = SSL4ServerEndpoint(reactor, 0, authority.server(LOOPBACK), interface=LOOPBACK)
        return await self.client(await self.listen(endpoint, QUOTA), cert_file)

    async def a_while(self) -> None:
        """See the contract."""
        await deferLater(reactor, 0.1)
