"""What every provider of `IRemoteKeys` keeps to, with a server behind it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from zope.interface.verify import verifyObject

from soledad.client.interfaces import IRemoteKeys
from soledad.errors import KeyringNotFound, PreconditionFailed, TooLarge, Unauthorized
from soledad.wire.routes import KEYRING_LIMIT
from tests.contracts.remote_blobs import RemoteCase


class RemoteKeysContract(RemoteCase):
    """Make a server in `make_server`; every test begins with an empty one."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the server."""
        await super().setUp()
        self.keys: Any = self.server.keys

    def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IRemoteKeys, self.keys)

    async def test_round_trip(self) -> None:
        """It comes back as it went, to the last of 1 MiB."""
        await self.fails(self.keys.get(), KeyringNotFound)
        data = bytes(range(256)) * 4096
        await self.keys.put(data, None)
        self.assertEqual(await self.keys.get(), data)

    async def test_swap(self) -> None:
        """Only who knows what is there replaces it."""
        await self.fails(self.keys.put(b"first", sha256(b"").digest()), PreconditionFailed)
        await self.keys.put(b"first", None)
        await self.fails(self.keys.put(b"second", None), PreconditionFailed)
        await self.fails(self.keys.put(b"second", sha256(b"other").digest()), PreconditionFailed)
        self.assertEqual(await self.keys.get(), b"first")
        await self.keys.put(b"second", sha256(b"first").digest())
        self.assertEqual(await self.keys.get(), b"second")

    async def test_too_large(self) -> None:
        """More than the server takes is not sent."""
        await self.fails(self.keys.put(bytes(KEYRING_LIMIT + 1), None), TooLarge)
        await self.fails(self.keys.get(), KeyringNotFound)

    async def test_wrong_token(self) -> None:
        """The token has to be right."""
        self.server.set_token("wrong")
        await self.fails(self.keys.get(), Unauthorized)
        await self.fails(self.keys.put(b"first", None), Unauthorized)
