"""Remote events over sockets: the contract; and two processes of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from soledad.client.remote.connect import Server, check_server, connect
from soledad.deferreds import InPlace
from soledad.errors import ConnectionFailed
from tests.contracts.remote_events import RemoteEventsContract
from tests.integration.devices import ALICE, new_user
from tests.integration.serving import ServerProcess
from tests.integration.test_remote_blobs import LOOPBACK, SocketCase
from tests.limits import seconds

reactor = cast("Any", _reactor)


class SocketRemoteEventsTests(RemoteEventsContract, SocketCase):
    """Over TCP."""

    async def make_server(self) -> Server:
        """See the contract."""
        return await self.client(await self.listen(TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)))


class ProcessesTests(SocketCase):
    """What one process of a server does, those who listen to another one hear."""

    timeout = 60

    async def test_two_processes(self) -> None:
        """It is heard soon; when the process is killed, the connection ends."""
        folder = Path(self.mktemp())
        token = new_user(folder)
        processes = [await ServerProcess.start(self, folder) for _ in range(2)]
        servers = [await self.connected(process.url, token) for process in processes]
        heard: list[Any] = []
        listening = servers[0].events.listen(heard.append)
        while not heard:
            await deferLater(reactor, 0.01)
        began = reactor.seconds()
        await servers[1].keys.put(b"keyring", None)
        while len(heard) < 2:
            await deferLater(reactor, 0.01)
        # It is half a second; the rest is for a busy machine.
        self.assertLess(reactor.seconds() - began, seconds(5.0))
        await processes[0].kill()
        await self.assertFailure(listening, ConnectionFailed)

    async def connected(self, url: str, token: str) -> Server:
        """Return a client of one of the processes."""
        address = check_server(url, token, None)
        assert address is not None
        server = await connect(reactor, InPlace(), ALICE, address)
        self.addCleanup(server.close)
        return server
