"""The server as one part: its address, checked; its connections, opened on demand and closed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from soledad.client.interfaces import IRemoteBlobs
from soledad.deferreds import Worker
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

    def set_token(self, token: str) -> None:
        pass

    async def close(self) -> None:
        """End all requests and connections; fires when they are gone."""


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
    return Address(url, token, None if cert_file is None else Path(cert_file))


async def connect(reactor: Any, worker: Worker, user: UserId, address: Address) -> Server:
    """
    Make ready to talk to a server; nothing is sent yet.

    :raise InvalidServerURL: the certificates cannot be used.
    """
    raise AssertionError
