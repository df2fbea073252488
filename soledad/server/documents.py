"""
The resource of documents: ``/sync/{uuid}``.

Source: docs/spec/documents-sync.rst, "Over HTTP".
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field
from zope.interface import implementer

from soledad.deferreds import Worker
from soledad.errors import BadRequest, Forbidden, PathNotFound, PreconditionFailed, ServerFailed, TooLarge
from soledad.model.ids import UserId
from soledad.server.blobs import names_tag, parse_tags
from soledad.server.http import BYTES, Answer, Call, IArea, body_length, method_refused, small_body
from soledad.server.interfaces import IRecordsBackend
from soledad.wire.changes import PUSH_LIMIT, Idle, SyncHead, decode_push, encode_names, encode_page
from soledad.wire.routes import SyncRoute

#: Bytes of pushes that a process holds at a time: of each all, as no transaction begins before the last byte is here.
PUSHES_HELD = 4 * PUSH_LIMIT


@implementer(IArea)
@define(eq=False)
class DocumentsArea:
    """Everything under ``/sync``."""

    _records: IRecordsBackend
    #: Puts pages together, and takes pushes apart.
    _worker: Worker
    _held: int = field(default=0, init=False)

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        if len(call.segments) != 1:
            raise PathNotFound()
        if call.segments[0] != user:
            raise Forbidden()
        if call.method in ("GET", "HEAD"):
            return await self._get(call, SyncRoute.parse(call.segments, call.query))
        if call.method != "POST":
            return method_refused(call, "GET", "HEAD", "POST")
        if call.query:
            raise BadRequest("unknown arguments")
        return await self._post(user, call)

    async def _get(self, call: Call, route: SyncRoute) -> Answer:
        if route.names:
            return await self._get_names(call, route)
        if route.records:
            page = await self._records.fetch(route.user, route.records)
            return Answer(200, _headers(page.head), await self._worker.run(encode_page, page))
        condition = call.header("if-none-match")
        found = await self._records.pull(route.user, route.since, _known(condition), route.most)
        if isinstance(found, Idle):
            return Answer(304, {"etag": f'"{_known(condition)}"', "soledad-blobs": found.blobs})
        if condition is not None and found.head.tag is not None and names_tag(condition, found.head.tag, weak=True):
            return Answer(304, _headers(found.head))
        return Answer(200, _headers(found.head), await self._worker.run(encode_page, found))

    async def _get_names(self, call: Call, route: SyncRoute) -> Answer:
        page = await self._records.names(route.user, route.after, route.most)
        condition = call.header("if-match")
        if condition is not None and not (page.head.tag and names_tag(condition, page.head.tag)):
            raise PreconditionFailed()
        return Answer(200, _headers(page.head), await self._worker.run(encode_names, page))

    async def _post(self, user: UserId, call: Call) -> Answer:
        follows = _follows(call)
        length = body_length(call)
        if length > PUSH_LIMIT:
            raise TooLarge(PUSH_LIMIT)
        if (await self._records.head(user)).tag != follows:
            raise PreconditionFailed()
        if self._held + length > PUSHES_HELD:
            # Rather than to hold any number of them in memory.
            raise ServerFailed(503)
        self._held += length
        try:
            push = await self._worker.run(decode_push, await small_body(call, PUSH_LIMIT))
            head = await self._records.push(user, push, follows)
        finally:
            self._held -= length
        return Answer(204, {"etag": f'"{head.tag}"', "soledad-cursor": head.cursor})


def _headers(head: SyncHead) -> Mapping[str, str]:
    tag = {} if head.tag is None else {"etag": f'"{head.tag}"'}
    return {"content-type": BYTES, "soledad-blobs": head.blobs, **tag}


def _known(condition: str | None) -> str | None:
    """Return the tag that a client has, if it names just one: that spares making a page."""
    tags = set() if condition is None else parse_tags(condition, weak=True)
    return tags.pop() if len(tags) == 1 else None


def _follows(call: Call) -> str | None:
    """Return the tag of the head that a push follows, `None` for the first. :raise BadRequest: it does not tell."""
    match, none_match = call.header("if-match"), call.header("if-none-match")
    tags = set() if match is None else parse_tags(match)
    if match is not None and none_match is None and len(tags) == 1:
        return tags.pop()
    if match is None and none_match is not None and none_match.strip() == "*":
        return None
    raise BadRequest("a push needs If-Match with one tag, or If-None-Match: *")
