"""Remote blobs over a server in memory: the contract."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from soledad.client.remote.connect import Server
from soledad.testing import MemoryServer
from tests.contracts.remote_blobs import RemoteBlobsContract


class MemoryRemoteBlobsTests(RemoteBlobsContract, TestCase):
    """The real client and the real server, joined in memory."""

    async def make_server(self) -> Server:
        """See the contract."""
        self.memory = MemoryServer()
        return self.memory.connect("alice")

    def connect(self, user: str, token: str) -> Server:
        """See the contract."""
        return self.memory.connect(user, token)

    def settle(self) -> None:
        """See the contract."""
        self.memory.flush()
