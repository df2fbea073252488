"""
The sealed records of a user's documents on the server: requests go out, answers are checked.

An answer that is not exactly what was asked for is an `UnexpectedAnswer`; whether the records are the right ones is for
those who have keys to say.  Source: docs/spec/documents-sync.rst, "Over HTTP".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from soledad.client.interfaces import IRemoteDocuments
from soledad.client.remote.http import Answer, ServerConnection
from soledad.deferreds import deferred
from soledad.errors import TooLarge, UnexpectedAnswer
from soledad.model.ids import RecordName
from soledad.streams import BytesProducer
from soledad.wire.changes import (
    NAMES_LIMIT,
    NAMES_PAGE_LIMIT,
    PAGE_LIMIT,
    PUSH_LIMIT,
    RECORDS_LIMIT,
    Idle,
    NamesPage,
    Reader,
    RecordsReader,
    SyncHead,
    SyncPage,
    head_of,
    is_cursor,
    names_reader,
    page_reader,
)
from soledad.wire.routes import SyncRoute

T = TypeVar("T")

_BLOBS = re.compile(r"[0-9A-Za-z._-]{1,128}", re.ASCII)


@implementer(IRemoteDocuments)
@define(eq=False)
class RemoteDocuments:
    """See `IRemoteDocuments`."""

    _server: ServerConnection = field(repr=False)

    @deferred
    async def pull(self, since: str = "", known: str | None = None, limit: int = RECORDS_LIMIT) -> SyncPage | Idle:
        """See `IRemoteDocuments`."""
        condition = {} if known is None else {"If-None-Match": f'"{known}"'}
        answer = await self._get(SyncRoute(self._server.user, since=since, limit=limit), condition)
        if answer.status == 304:
            await answer.collect(0)
            _check(answer, "tag", answer.header("ETag") == f'"{known}"')
            return Idle(_blobs_of(answer))
        page = await _read_page(answer, page_reader(limit))
        names = {record.name for record in page.records}
        _check(answer, "pages that do not end", len(names) == len(page.records) and not (page.more and not limit))
        _check(answer, "pages that lead nowhere", not page.more or page.head.cursor != since)
        _check(answer, "a cursor of nothing", not since or page.head.checkpoint is not None)
        return page

    @deferred
    async def head(self) -> SyncHead:
        """See `IRemoteDocuments`."""
        answer = await self._get(SyncRoute(self._server.user, limit=0))
        page = await _read_page(answer, page_reader(0))
        _check(answer, "more than the head", not page.more)
        return page.head

    @deferred
    async def names(self, after: str = "", tag: str | None = None, limit: int = NAMES_LIMIT) -> NamesPage:
        """See `IRemoteDocuments`."""
        route = SyncRoute(self._server.user, names=True, after=RecordName(after), limit=limit)
        condition = {} if tag is None else {"If-Match": f'"{tag}"'}
        answer = await self._get(route, condition)
        reader = names_reader(limit)
        names = await _read(answer, reader, NAMES_PAGE_LIMIT)
        head = _head_of(answer, reader)
        _check(answer, "names out of place", not names or names[0].name > after)
        _check(answer, "another head", tag is None or head.tag == tag)
        return NamesPage(tuple(names), head, reader.more)

    @deferred
    async def fetch(self, names: Collection[RecordName]) -> SyncPage:
        """See `IRemoteDocuments`."""
        chosen = tuple(sorted(names))
        answer = await self._get(SyncRoute(self._server.user, records=chosen))
        page = await _read_page(answer, page_reader(len(chosen), chosen=True))
        wanted = set(chosen)
        _check(answer, "records that nobody asked for", all(record.name in wanted for record in page.records))
        _check(answer, "more than all", not page.more or page.records[-1].name < chosen[-1])
        return page

    @deferred
    async def push(self, push: bytes, tag: str, follows: str | None) -> str:
        """See `IRemoteDocuments`."""
        if len(push) > PUSH_LIMIT:
            raise TooLarge(PUSH_LIMIT)
        condition = {"If-None-Match": "*"} if follows is None else {"If-Match": f'"{follows}"'}
        path = SyncRoute(self._server.user).path
        answer, _ = await self._server.ask("POST", path, headers=condition, body=BytesProducer(push))
        answer.expect(204)
        cursor = answer.header("Soledad-Cursor") or ""
        _check(answer, "no cursor", is_cursor(cursor))
        _check(answer, "tag", answer.header("ETag") == f'"{tag}"')
        return cursor

    async def _get(self, route: SyncRoute, condition: Mapping[str, str] | None = None) -> Answer:
        unchanged = condition is not None and "If-None-Match" in condition
        return await self._server.request("GET", route.path, headers=condition, unchanged=unchanged)


@implementer(IConsumer)
@define(eq=False)
class _Fed(Generic[T]):
    """Feeds a reader, and keeps what it gives: what is not of the form ends the answer at once."""

    _reader: Reader[T]
    items: list[T] = field(factory=list, init=False, repr=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        self.items += self._reader.feed(data)


async def _read(answer: Answer, reader: Reader[T], limit: int) -> list[T]:
    """Read a page of at most ``limit`` bytes."""
    length = answer.length
    if answer.status != 200 or length is None or length > limit:
        await answer.abandon()
        raise UnexpectedAnswer("not a page", answer.status)
    fed = _Fed(reader)
    await answer.deliver(fed, length)
    return fed.items


async def _read_page(answer: Answer, reader: RecordsReader) -> SyncPage:
    records = await _read(answer, reader, PAGE_LIMIT)
    return SyncPage(tuple(records), _head_of(answer, reader), reader.more)


def _head_of(answer: Answer, reader: Reader[Any]) -> SyncHead:
    """Return the head that a page has, which must be the one that the answer is said to belong to."""
    head = head_of(reader, _blobs_of(answer))
    _check(answer, "tag", answer.header("ETag") == (None if head.tag is None else f'"{head.tag}"'))
    return head


def _blobs_of(answer: Answer) -> str:
    blobs = answer.header("Soledad-Blobs") or ""
    _check(answer, "no head of the blobs", _BLOBS.fullmatch(blobs) is not None)
    return blobs


def _check(answer: Answer, what: str, good: bool) -> None:
    """:raise UnexpectedAnswer: the answer is not what was asked for."""
    if not good:
        raise UnexpectedAnswer(what, answer.status)
