"""What many blobs in one request keep to, whatever the connection: the client with the real server."""

from __future__ import annotations

from typing import Any

from zope.interface.verify import verifyObject

from soledad.client.interfaces import IRemoteStream
from soledad.errors import (
    BadRequest,
    BlobBusy,
    BlobExists,
    BlobNotFound,
    QuotaExceeded,
    TooLarge,
    Unauthorized,
    UnexpectedAnswer,
)
from soledad.model.blob import Flag
from soledad.model.ids import BlobId, Namespace
from soledad.wire.framing import LIMITS, MAX_BLOBS, MAX_BYTES, Kind
from tests.contracts.remote_blobs import RemoteCase

QUOTA = 40_000_000
LARGEST = LIMITS[Kind.BLOB]
ID, OTHER = BlobId("a-Blob_1"), BlobId("another")


class RemoteStreamContract(RemoteCase):
    """Make a server in `make_server`; every test begins with an empty one, and a quota of `QUOTA` bytes."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the server."""
        await super().setUp()
        self.stream: Any = self.server.stream

    async def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IRemoteStream, self.stream)

    async def test_round_trip(self) -> None:
        """Blobs come back as they went: none, small ones, the largest, and more than all buffers."""
        self.assertEqual(await self.stream.write_blobs([]), [])
        self.assertEqual(await self.stream.read_blobs([]), [])
        blobs = [
            (BlobId(f"{number}"), bytes([number]) * size) for number, size in enumerate([0, 1, 10_240, LARGEST] * 6)
        ]
        self.assertEqual(await self.stream.write_blobs(blobs), [None] * len(blobs))
        read = await self.stream.read_blobs([(blob_id, len(data)) for blob_id, data in reversed(blobs)])
        self.assertEqual(read, [data for _, data in reversed(blobs)])
        self.assertEqual((await self.blobs.stat_blob(BlobId("2"))).length, 10_240)

    async def test_many(self) -> None:
        """As many as one request may have."""
        blobs = [(BlobId(f"{number}"), b"%d" % number) for number in range(MAX_BLOBS)]
        self.assertEqual(await self.stream.write_blobs(blobs), [None] * MAX_BLOBS)
        read = await self.stream.read_blobs([(blob_id, len(data)) for blob_id, data in blobs])
        self.assertEqual(read, [data for _, data in blobs])

    async def test_namespaces(self) -> None:
        """A request is about one namespace."""
        other = Namespace("other")
        await self.stream.write_blobs([(ID, b"here")])
        await self.stream.write_blobs([(ID, b"there")], other)
        self.assertEqual(await self.stream.read_blobs([(ID, 5)], other), [b"there"])
        self.assertEqual(await self.stream.read_blobs([(ID, 4)]), [b"here"])

    async def test_errors_of_single_blobs(self) -> None:
        """What happens to one blob is told in its place, with its particulars; the others are stored."""
        await self.stream.write_blobs([(OTHER, b"first")])
        results = await self.stream.write_blobs(
            [
                (OTHER, b"second"),
                (ID, b"x"),
                (ID, b"y"),
                (BlobId("too-large"), bytes(LARGEST + 1)),
                (BlobId("no id"), b"z"),
                (BlobId("last"), b"last"),
            ]
        )
        kinds = [type(result) for result in results]
        self.assertEqual(kinds, [BlobExists, type(None), BlobExists, TooLarge, BadRequest, type(None)])
        self.assertEqual((results[0].blob_id, results[0].namespace), (OTHER, "default"))
        self.assertEqual(results[3].limit, LARGEST)
        read = await self.stream.read_blobs([(OTHER, 5), (BlobId("none"), 1), (ID, 1), (BlobId("last"), 4)])
        self.assertIsInstance(read.pop(1), BlobNotFound)
        self.assertEqual(read, [b"first", b"x", b"last"])

    async def test_quota_in_the_middle(self) -> None:
        """What still fits is stored, also behind what does not."""
        blobs = [(BlobId(f"{number}"), bytes(LARGEST)) for number in range(QUOTA // LARGEST + 2)]
        rest = QUOTA % LARGEST
        results = await self.stream.write_blobs([*blobs, (ID, bytes(rest)), (OTHER, b"x")])
        fitting = QUOTA // LARGEST
        self.assertEqual(results[:fitting], [None] * fitting)
        self.assertIs(results[-2], None)
        for error in (*results[fitting:-2], results[-1]):
            self.assertIsInstance(error, QuotaExceeded)
        self.assertEqual((results[-1].asked, results[-1].available), (1, 0))

    async def test_other_lengths(self) -> None:
        """A blob of another length than it must have is no answer; the others are."""
        await self.stream.write_blobs([(ID, b"12345"), (OTHER, b"1")])
        longer, good = await self.stream.read_blobs([(ID, 4), (OTHER, 1)])
        self.assertIsInstance(longer, UnexpectedAnswer)
        self.assertEqual(good, b"1")

    async def test_too_much(self) -> None:
        """What no request may have is not sent."""
        await self.fails(self.stream.write_blobs([(ID, b"")] * (MAX_BLOBS + 1)), TooLarge)
        await self.fails(self.stream.write_blobs([(ID, bytes(LARGEST))] * (MAX_BYTES // LARGEST + 1)), TooLarge)
        await self.fails(self.stream.read_blobs([(ID, 0)] * (MAX_BLOBS + 1)), TooLarge)
        await self.fails(self.stream.read_blobs([(ID, MAX_BYTES), (ID, 1)]), TooLarge)
        self.assertEqual(await self.stream.write_blobs([(ID, b"1")]), [None])

    async def test_wrong_token(self) -> None:
        """A token that the server does not know opens nothing, and nothing is sent in vain."""
        self.server.set_token("wrong")
        await self.fails(self.stream.write_blobs([(ID, bytes(LARGEST))] * 20), Unauthorized)
        await self.fails(self.stream.read_blobs([(ID, 1)]), Unauthorized)

    async def test_flags(self) -> None:
        """Flags are set and asked for; who takes an item has it."""
        await self.stream.write_blobs([(ID, b"1")])
        self.assertEqual(await self.blobs.get_flags(ID), ())
        await self.blobs.set_flags(ID, [Flag.PENDING, Flag.FAILED])
        self.assertEqual(await self.blobs.get_flags(ID), (Flag.PENDING, Flag.FAILED))
        await self.blobs.claim(ID, 60)
        self.assertEqual(await self.blobs.get_flags(ID), (Flag.PROCESSING,))
        error = await self.fails(self.blobs.claim(ID, 60), BlobBusy)
        self.assertEqual((error.blob_id, error.namespace), (ID, "default"))
        await self.fails(self.blobs.claim(ID, 0), BadRequest)
        for work in (self.blobs.get_flags(OTHER), self.blobs.set_flags(OTHER, []), self.blobs.claim(OTHER, 1)):
            await self.fails(work, BlobNotFound)
