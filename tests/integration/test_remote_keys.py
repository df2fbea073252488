"""Remote keys over sockets: the contract."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ServerEndpoint

from soledad.client.remote.connect import Server
from tests.contracts.remote_keys import RemoteKeysContract
from tests.integration.test_remote_blobs import LOOPBACK, SocketCase

reactor = cast("Any", _reactor)


class SocketRemoteKeysTests(RemoteKeysContract, SocketCase):
    """Over TCP."""

    async def make_server(self) -> Server:
        """See the contract."""
        return await self.client(await self.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)))
