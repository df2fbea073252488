"""The server as one part: its address, checked; its connections, opened on demand and closed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from soledad.client.interfaces import IRemoteBlobs
from soledad.client.remote.agent import ServerAgent, load_tls, make_agent
from soledad.client.remote.blobs import RemoteBlobs
from soledad.client.remote.connection import Limits
from soledad.client.remote.http import ServerConnection, server_url
from soledad.deferreds import Worker, completed
from soledad.errors import InvalidServerURL
from soledad.model.ids import UserId


@frozen
class Address:
    """Where a server is, and what a user shows there."""

    url: str
    token: str = field(repr=False)
    cert_file: Path | None = None


@define(eq=False)
class Server:
    """One user's server: what is asked of it, over connections that are its own."""

    blobs: IRemoteBlobs
    _connection: ServerConnection
    _agent: ServerAgent = field(repr=False)

    @classmethod
    def over(cls, agent: ServerAgent, clock: IReactorTime, user: UserId, address: Address) -> Server:
        """Talk to the server at ``address`` through ``agent``, which is closed with it."""
        connection = ServerConnection.over(agent, clock, address.url, user, address.token)
        return cls(RemoteBlobs(connection), connection, agent)

    def set_token(self, token: str) -> None:
        """Use another token from the next request on."""
        self._connection.set_token(token)

    async def close(self) -> None:
        """End all requests and connections; fires when they are gone."""
        await completed(self._agent.close())


def check_server(url: str | None, token: str | None, cert_file: str | Path | None) -> Address | None:
    """
    Return where the server is; `None` when none was given.

    :raise InvalidServerURL: only a part was given, or it is no URL of a server.
    """
    if url is None:
        if token is not None or cert_file is not None:
            raise InvalidServerURL("auth_token and cert_file go with server_url")
        return None
    if not token:
        raise InvalidServerURL("auth_token is missing")
    checked = server_url(url)
    if cert_file is not None and not checked.startswith("https:"):
        raise InvalidServerURL("cert_file goes with https")
    return Address(checked, token, None if cert_file is None else Path(cert_file))


async def connect(reactor: Any, worker: Worker, user: UserId, address: Address, limits: Limits | None = None) -> Server:
    """
    Make ready to talk to a server; nothing is sent yet.

    :raise InvalidServerURL: the certificates cannot be used.
    """
    parts = urlsplit(address.url)
    # The authorities' certificates are read and parsed once, off the reactor's thread.
    tls = await worker.run(load_tls, parts.hostname, address.cert_file) if parts.scheme == "https" else None
    return Server.over(make_agent(reactor, tls, limits), reactor, user, address)
