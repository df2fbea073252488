"""A server in a process of its own, as many users as are wanted, and devices of each."""

from __future__ import annotations

from functools import partial
from io import StringIO
from os import urandom
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred

from benchmarks.server import ServerProcess
from soledad.client.api import Soledad, open_store
from soledad.client.local.keyring import keyring_path
from soledad.client.local.store import Workers
from soledad.client.remote.agent import make_agent
from soledad.client.remote.connect import Address, Server
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker
from soledad.model.ids import UserId, user_id
from soledad.server import cli
from soledad.server.folder import DataFolder


@define(eq=False)
class Asking:
    """Passes requests on to an agent, and counts them."""

    _agent: Any
    requests: int = field(default=0, init=False)

    def request(self, *arguments: Any, **options: Any) -> Deferred[Any]:
        """See `IAgent`."""
        self.requests += 1
        asked: Deferred[Any] = self._agent.request(*arguments, **options)
        return asked

    def close(self) -> Deferred[None]:
        """See `ClosingAgent`."""
        closed: Deferred[None] = self._agent.close()
        return closed


@define(eq=False)
class Devices:
    """Users of one server, and their stores, whose key is handed in: none waits for a passphrase."""

    _folder: Path
    _reactor: Any
    server: ServerProcess = field(init=False)
    data: DataFolder = field(init=False)
    _users: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        """Start the server."""
        folder = str(self._folder / "server")
        self.server, self.data = ServerProcess.start(folder), DataFolder(folder)

    def new_user(self) -> tuple[UserId, str]:
        """Let the server know somebody; return who that is, and the token."""
        self._users += 1
        user, token = user_id(f"user-{self._users}"), StringIO()
        cli.main(["--data-dir", self.data.path, "user", "add", user], token)
        return user, token.getvalue().strip()

    async def first(self, user: UserId, token: str) -> Device:
        """Open a device of somebody who had none."""
        return await self._open(user, token, self._new_folder())

    async def another(self, device: Device) -> Device:
        """Open another device of the same person: it has the keyring, and nothing else."""
        folder = self._new_folder()
        folder.mkdir(mode=0o700)
        keyring = evolve(device.store._local.keyring, device_key=urandom(32))
        path = keyring_path(folder, device.user)
        path.write_bytes(keyring.seal(urandom))
        path.chmod(0o600)
        return await self._open(device.user, device.token, folder)

    def stop(self) -> None:
        """End the server."""
        self.server.stop()

    def _new_folder(self) -> Path:
        self._opened += 1
        return self._folder / f"device-{self._opened}"

    async def _open(self, user: UserId, token: str, folder: Path) -> Device:
        asking = Asking(make_agent(self._reactor))
        server = Server.over(asking, self._reactor, user, Address(self.server.url, token))
        workers = Workers.start(partial(ThreadWorker.start, self._reactor))
        store = await open_store(self._reactor, workers, user, HandedInKey(bytes(32)), folder, server)
        return Device(user, token, folder, store, asking)


@define(eq=False)
class Device:
    """One store, and what it asks its server."""

    user: UserId
    token: str = field(repr=False)
    folder: Path
    store: Soledad
    asking: Asking
