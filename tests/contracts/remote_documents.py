"""What holds for every `IRemoteDocuments`, whatever lies between it and the server."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from soledad.client.interfaces import IRemoteDocuments
from soledad.deferreds import gather
from soledad.errors import (
    PreconditionFailed,
    StaleToken,
    TooLarge,
    Unauthorized,
)
from soledad.model.ids import BlobId, RecordName
from soledad.streams import BytesProducer
from soledad.wire.changes import RECORD_LIMIT, Idle, Push, SealedRecord, SyncHead, encode_push
from soledad.wire.routes import ListRoute
from tests.contracts.records_backend import names, record
from tests.contracts.remote_blobs import RemoteCase


class RemoteDocumentsContract(RemoteCase):
    """Make a server in `make_server`; every test begins with an empty one."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the server."""
        await super().setUp()
        self.documents: Any = self.server.documents

    async def push(self, *records: SealedRecord, checkpoint: bytes = b"checkpoint") -> SyncHead:
        """Push on top of the head."""
        head = await self.documents.head()
        return SyncHead(await self.pushing(Push(records, checkpoint), head.tag), checkpoint)

    def pushing(self, push: Push, follows: str | None) -> Deferred[str]:
        """Push on top of any head."""
        tag = sha256(push.checkpoint).hexdigest()
        pushing: Deferred[str] = self.documents.push(encode_push(push), tag, follows)
        return pushing

    def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IRemoteDocuments, self.documents)

    async def test_nothing(self) -> None:
        """Before the first push there is nothing, and that is told."""
        head = await self.documents.head()
        self.assertEqual((head.cursor, head.checkpoint, head.tag), ("", None, None))
        page = await self.documents.pull()
        self.assertEqual((page.records, page.head, page.more), ((), head, False))
        self.assertEqual((await self.documents.names()).names, ())
        self.assertEqual((await self.documents.fetch([record(1).name])).records, ())

    async def test_round_trip(self) -> None:
        """What was pushed is pulled, page by page, in the order of change."""
        await self.push(*map(record, range(5)))
        head = await self.push(record(1, b"changed"), record(7), checkpoint=b"2")
        pulled: list[SealedRecord] = []
        since, more = "", True
        while more:
            page = await self.documents.pull(since, limit=2)
            pulled += page.records
            since, more = page.head.cursor, page.more
            self.assertEqual((page.head.checkpoint, page.head.tag), (b"2", head.tag))
        self.assertEqual(names(pulled), [0, 2, 3, 4, 1, 7])
        self.assertEqual((since, pulled[4]), (head.cursor, record(1, b"changed")))

    async def test_idle(self) -> None:
        """Who has everything is told just that, and where the blobs are."""
        head = await self.push(record(1))
        await self.server.blobs.write_blob(BlobId("b"), BytesProducer(b"bytes"))
        listed = await self.server.blobs.list_blobs(ListRoute(self.server.blobs._server.user))  # type: ignore[attr-defined]
        self.assertEqual(await self.documents.pull(head.cursor, head.tag), Idle(listed.head))
        page = await self.documents.pull(head.cursor)
        self.assertEqual((page.records, page.more, page.head.blobs), ((), False, listed.head))
        await self.push(record(2), checkpoint=b"2")
        self.assertEqual((await self.documents.pull(head.cursor, head.tag)).records, (record(2),))

    async def test_many(self) -> None:
        """A whole push of records, and the largest one."""
        many = [record(at, bytes((at % 256,)) * 800) for at in range(1000)]
        await self.push(*many)
        await self.push(record(5, bytes(RECORD_LIMIT)), checkpoint=b"2")
        pulled = []
        since, more = "", True
        while more:
            page = await self.documents.pull(since)
            pulled += page.records
            since, more = page.head.cursor, page.more
        self.assertEqual(pulled, [*many[:5], *many[6:], record(5, bytes(RECORD_LIMIT))])

    async def test_names(self) -> None:
        """Names and hashes, page by page, all of one head."""
        head = await self.push(*map(record, range(5)))
        page = await self.documents.names(limit=3)
        self.assertEqual((names(page.names), page.more, page.names[0].hash), ([0, 1, 2], True, record(0).hash))
        page = await self.documents.names(page.names[-1].name, head.tag, limit=3)
        self.assertEqual((names(page.names), page.more, page.head.tag), ([3, 4], False, head.tag))
        await self.push(record(9), checkpoint=b"2")
        await self.fails(self.documents.names(page.names[-1].name, head.tag), PreconditionFailed)

    async def test_fetch(self) -> None:
        """Chosen records, however they are asked for."""
        await self.push(*map(record, range(5)))
        chosen = [record(number).name for number in (4, 1, 9)]
        page = await self.documents.fetch(chosen)
        self.assertEqual((page.records, page.more), ((record(1), record(4)), False))
        hundred = [record(number).name for number in range(100)]
        self.assertEqual(names((await self.documents.fetch(hundred)).records), list(range(5)))

    async def test_conflicting_pushes(self) -> None:
        """Of pushes that follow one head, one is stored; also when they are made at once."""
        head = await self.push(record(0))
        pushes = [Push((record(at),), bytes((at,))) for at in range(1, 5)]
        outcomes = await gather([Deferred.fromCoroutine(self.outcome(push, head.tag)) for push in pushes])
        self.assertEqual(sorted(map(str, outcomes)), ["False"] * 3 + ["True"])
        page = await self.documents.pull(head.cursor)
        self.assertEqual(page.records, pushes[outcomes.index(True)].records)

    async def outcome(self, push: Push, follows: str | None) -> bool:
        """Push; tell whether it was stored."""
        try:
            await self.pushing(push, follows)
        except PreconditionFailed:
            return False
        return True

    async def test_first(self) -> None:
        """There is one first push."""
        await self.push(record(1))
        await self.fails(self.pushing(Push((record(2),), b"2"), None), PreconditionFailed)

    async def test_stale(self) -> None:
        """A cursor that the server does not know."""
        await self.push(record(1))
        await self.fails(self.documents.pull("7.0123456789abcdef"), StaleToken)

    async def test_too_large(self) -> None:
        """A push that is too large is not sent."""
        half = record(1, bytes(RECORD_LIMIT)), record(2, bytes(RECORD_LIMIT))
        await self.fails(self.pushing(Push(half, b"c"), None), TooLarge)

    async def test_wrong_token(self) -> None:
        """A token that the server does not know opens nothing."""
        self.server.set_token("wrong")
        for work in (
            self.documents.pull(),
            self.documents.head(),
            self.documents.names(),
            self.documents.fetch([RecordName("0" * 64)]),
            self.pushing(Push((record(1),), b"c"), None),
        ):
            await self.fails(work, Unauthorized)
