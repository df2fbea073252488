"""Remote documents over sockets: the contract."""

from __future__ import annotations

from twisted.internet.endpoints import TCP4ServerEndpoint

from soledad.client.remote.connect import Server
from tests.contracts.remote_documents import RemoteDocumentsContract
from tests.integration.test_remote_blobs import LOOPBACK, SocketCase, reactor


class SocketRemoteDocumentsTests(RemoteDocumentsContract, SocketCase):
    """Over TCP."""

    async def make_server(self) -> Server:
        """See the contract."""
        token = await self.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK))
        return await self.client(token)
