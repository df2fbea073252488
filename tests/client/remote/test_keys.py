"""Remote keys over a server in memory: the contract; and answers that are none."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, cast

from treq.testing import StubTreq
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource

from soledad.client.remote.connect import Server
from soledad.client.remote.http import ServerConnection
from soledad.client.remote.keys import RemoteKeys
from soledad.errors import SoledadError, UnexpectedAnswer
from soledad.model.ids import UserId
from soledad.testing import MemoryServer
from soledad.wire.routes import KEYRING_LIMIT
from tests.contracts.remote_keys import RemoteKeysContract


class MemoryRemoteKeysTests(RemoteKeysContract, TestCase):
    """The real client and the real server, joined in memory."""

    async def make_server(self) -> Server:
        """See the contract."""
        return MemoryServer().connect("alice")


class Rubbish(Resource):
    """Answers what it is told to."""

    isLeaf = True

    def __init__(self, status: int, tag: str | None, body: bytes) -> None:
        super().__init__()
        self._answer = status, tag, body

    def render(self, request: Any) -> bytes:
        """Answer."""
        status, tag, body = self._answer
        request.setResponseCode(status)
        if tag is not None:
            request.setHeader("etag", tag)
        return body


class HostileTests(SynchronousTestCase):
    """A server that answers something else."""

    def asked(self, status: int, tag: str | None, body: bytes) -> BaseException:
        """Return the error for an answer."""
        client: Any = StubTreq(Rubbish(status, tag, body))
        keys = RemoteKeys(ServerConnection(client, cast("Any", Clock()), "http://server.invalid", UserId("a"), "token"))
        error: BaseException = self.failureResultOf(keys.get(), SoledadError).value
        return error

    def test_rubbish(self) -> None:
        """No tag, a wrong tag, another status or too many bytes are refused."""
        tag = f'"{sha256(b"data").hexdigest()}"'
        for answer in (
            (200, None, b"data"),
            (200, tag, b"date"),
            (200, '"x"', b"data"),
            (204, tag, b""),
            (200, tag, bytes(KEYRING_LIMIT + 1)),
            (418, tag, b"data"),
        ):
            self.assertIsInstance(self.asked(*answer), UnexpectedAnswer)
