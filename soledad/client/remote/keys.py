"""A user's keyring on the server: requests go out, answers are checked.  Source: docs/spec/keys-http.rst."""

from __future__ import annotations

from hashlib import sha256

from attrs import define, field
from zope.interface import implementer

from soledad.client.interfaces import IRemoteKeys
from soledad.client.remote.blobs import etag_of
from soledad.client.remote.http import ServerConnection
from soledad.deferreds import deferred
from soledad.errors import TooLarge, UnexpectedAnswer
from soledad.streams import BytesProducer
from soledad.wire.routes import KEYRING_LIMIT, KeysRoute


@implementer(IRemoteKeys)
@define(eq=False)
class RemoteKeys:
    """See `IRemoteKeys`."""

    _server: ServerConnection = field(repr=False)

    @deferred
    async def get(self) -> bytes:
        """See `IRemoteKeys`."""
        answer, data = await self._server.ask("GET", self._path, limit=KEYRING_LIMIT)
        answer.expect(200)
        if etag_of(answer) != sha256(data).hexdigest():
            raise UnexpectedAnswer("not the tag of what came with it", answer.status)
        return data

    @deferred
    async def put(self, data: bytes, replaced: bytes | None) -> None:
        """See `IRemoteKeys`."""
        if len(data) > KEYRING_LIMIT:
            raise TooLarge(KEYRING_LIMIT)
        condition = {"If-None-Match": "*"} if replaced is None else {"If-Match": f'"{replaced.hex()}"'}
        body = BytesProducer(data)
        answer, _ = await self._server.ask("PUT", self._path, headers=condition, body=body, at_once=True)
        answer.expect(201 if replaced is None else 204)

    @property
    def _path(self) -> str:
        return KeysRoute(self._server.user).path
