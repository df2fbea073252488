"""Remote uploads over a server in memory: the contract, and servers that do not keep to the protocol."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http_headers import Headers

from soledad.client.remote.connect import Server
from soledad.client.remote.http import Answer
from soledad.client.remote.uploads import RemoteUploads
from soledad.errors import ConnectionFailed, UnexpectedAnswer, UploadNotFound
from soledad.model.ids import UserId
from soledad.streams import BytesProducer
from soledad.testing import MemoryServer
from tests.contracts.remote_blobs import ID
from tests.contracts.remote_uploads import DATA, QUOTA, RemoteUploadsContract

UPLOAD = "0123456789abcdef" * 2


class MemoryRemoteUploadsTests(RemoteUploadsContract, TestCase):
    """The real client and the real server, joined in memory."""

    async def make_server(self) -> Server:
        """See the contract."""
        self.memory = MemoryServer(quota=QUOTA)
        return self.memory.connect("alice")

    def settle(self) -> None:
        """See the contract."""
        self.memory.flush()

    async def test_resumed_at_half(self) -> None:
        """An upload whose connection breaks half-way sends the other half, and little more."""
        size = 8_000_000
        upload = await self.create(size)
        data = bytes(range(256)) * (size // 256)
        self.memory.cut_after(size // 2)
        await self.fails(self.append(upload, 0, data), ConnectionFailed)
        offset = await self.uploads.offset(upload)
        self.assertGreater(offset, size * 49 // 100)
        await self.append(upload, offset, data[offset:])
        self.assertEqual(await self.get(), data)

    async def test_expired(self) -> None:
        """An upload with which nobody goes on for a day is no more."""
        upload = await self.create(QUOTA)
        await self.append(upload, 0, DATA)
        self.memory.clock.advance(24 * 3600)
        await self.fails(self.uploads.offset(upload), UploadNotFound)
        await self.create(QUOTA)


class _Response:
    """An answer without a body."""

    length = 0

    def __init__(self, code: int, headers: dict[str, str]) -> None:
        self.code = code
        self.headers = Headers({name: [value] for name, value in headers.items()})


class _Connection:
    """A server that answers always the same."""

    user = UserId("alice")

    def __init__(self, code: int, headers: dict[str, str]) -> None:
        self._response = _Response(code, headers)

    def ask(self, method: str, path: str, **details: Any) -> Deferred[Any]:
        """Answer."""
        return succeed((Answer(self._response, method), b""))


class WrongServerTests(SynchronousTestCase):
    """Answers that are not of the protocol."""

    def uploads(self, code: int, **headers: str) -> RemoteUploads:
        """Return the uploads of a server that answers so."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return RemoteUploads(_Connection(code, told))  # type: ignore[arg-type]

    def test_location(self) -> None:
        """A new upload has a name of the form that names have."""
        for location in ("", "/", "alice/../x", f"alice/{UPLOAD}?x", f"alice/{UPLOAD.upper()}"):
            work = self.uploads(201, Location=location).create(ID, 1)
            self.failureResultOf(work, UnexpectedAnswer)
        for location in (f"alice/{UPLOAD}", f"https://host/prefix/uploads/alice/{UPLOAD}"):
            self.assertEqual(self.successResultOf(self.uploads(201, Location=location).create(ID, 1)), UPLOAD)
        self.failureResultOf(self.uploads(200, Location=UPLOAD).create(ID, 1), UnexpectedAnswer)

    def test_offset(self) -> None:
        """Offsets are numbers, not beyond the length."""
        for offset, length in (("", "1"), ("-1", "1"), ("1", ""), ("2", "1"), ("1_0", "20"), ("0x1", "9")):
            work = self.uploads(200, Upload_Offset=offset, Upload_Length=length).offset(UPLOAD)
            self.failureResultOf(work, UnexpectedAnswer)
        self.assertEqual(
            self.successResultOf(self.uploads(200, Upload_Offset="1", Upload_Length="2").offset(UPLOAD)), 1
        )

    def test_append(self) -> None:
        """A success is that all bytes were taken."""
        for code, offset in ((204, "3"), (204, "5"), (204, ""), (200, "4")):
            work = self.uploads(code, Upload_Offset=offset).append(UPLOAD, 2, BytesProducer(b"xx"))
            self.failureResultOf(work, UnexpectedAnswer)

    def test_abandon(self) -> None:
        """Only 204 says that it has ended."""
        self.failureResultOf(self.uploads(200).abandon(UPLOAD), UnexpectedAnswer)
