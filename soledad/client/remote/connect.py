"""The server as one part: its address, checked; its connections, opened on demand and closed together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from soledad.client.interfaces import (
    IRemoteBlobs,
    IRemoteDocuments,
    IRemoteEvents,
    IRemoteKeys,
    IRemoteStream,
    IRemoteUploads,
)
from soledad.client.remote.agent import load_tls, make_agent
from soledad.client.remote.blobs import RemoteBlobs
from soledad.client.remote.documents import RemoteDocuments
from soledad.client.remote.events import RemoteEvents
from soledad.client.remote.http import ServerConnection, server_url
from soledad.client.remote.keys import RemoteKeys
from soledad.client.remote.stream import RemoteStream
from soledad.client.remote.uploads import RemoteUploads
from soledad.deferreds import Worker
from soledad.errors import InvalidServerURL
from soledad.model.ids import UserId


class ClosingAgent(Protocol):
    """An agent whose connections can be ended."""

    def close(self) -> Deferred[None]:
        """End all requests and connections; fires when they are gone."""


@frozen
class Address:
    """Where a server is, and what a user shows there."""

    url: str
    token: str = field(repr=False)
    #: The certificates to trust instead of the system's.
    cert_file: Path | None = None

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return urlsplit(self.url).scheme == "https"


@define(eq=False)
class Server:
    """One user's server: what is asked of it, over connections that are its own."""

    blobs: IRemoteBlobs
    uploads: IRemoteUploads
    stream: IRemoteStream
    documents: IRemoteDocuments
    keys: IRemoteKeys
    events: IRemoteEvents
    _connection: ServerConnection
    _agent: ClosingAgent

    @classmethod
    def over(cls, agent: Any, reactor: Any, user: UserId, address: Address) -> Server:
        """Ask through ``agent``, which is closed with this."""
        connection = ServerConnection.over(agent, reactor, address.url, user, address.token)
        return cls(
            RemoteBlobs(connection),
            RemoteUploads(connection),
            RemoteStream(connection),
            RemoteDocuments(connection),
            RemoteKeys(connection),
            RemoteEvents(connection),
            connection,
            agent,
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return self._connection.url

    def set_token(self, token: str) -> None:
        """Use another token from the next request on. :raise InvalidServerURL: it is none."""
        _check_token(token)
        self._connection.set_token(token)

    def before_writing(self, call: Callable[[], Awaitable[None]]) -> None:
        """Await ``call()`` before anything is sent that the server is to keep, the keyring apart."""
        self._connection.before_writing = call

    def close(self) -> Deferred[None]:
        """End all requests and connections; fires when they are gone."""
        return self._agent.close()


def check_server(url: str | None, token: str | None, cert_file: str | Path | None) -> Address | None:
    """
    Return where the server is; `None` when none was given.

    :raise InvalidServerURL: only a part was given, or it is no URL of a server.
    """
    if url is None:
        if token is not None or cert_file is not None:
            raise InvalidServerURL("auth_token and cert_file go with server_url")
        return None
    _check_token(token)
    assert token is not None
    address = Address(server_url(url), token, None if cert_file is None else Path(cert_file))
    if cert_file is not None and not address.is_secure:
        raise InvalidServerURL("cert_file goes with https")
    return address


async def connect(reactor: Any, worker: Worker, user: UserId, address: Address) -> Server:
    """
    Make ready to talk to a server; nothing is sent yet.

    :raise InvalidServerURL: the certificates cannot be used.
    """
    tls = None
    if address.is_secure:
        tls = await worker.run(load_tls, urlsplit(address.url).hostname, address.cert_file)
    return Server.over(make_agent(reactor, tls), reactor, user, address)


def _check_token(token: str | None) -> None:
    if not isinstance(token, str) or not token:
        raise InvalidServerURL("auth_token is missing")
