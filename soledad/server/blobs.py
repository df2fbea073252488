"""
The resources of blobs: ``/blobs/{uuid}`` and ``/blobs/{uuid}/{blob_id}``.

Source: docs/spec/blobs-http.rst.
"""

from __future__ import annotations

from attrs import define, field
from zope.interface import implementer

from soledad.deferreds import InPlace, Worker
from soledad.errors import (
    BadRequest,
    BlobNotFound,
    PathNotFound,
    PreconditionFailed,
    TooLarge,
    UnsatisfiableRange,
)
from soledad.model.blob import WHOLE, BlobInfo, ByteRange, Flag
from soledad.model.ids import UserId
from soledad.server.http import (
    BYTES,
    Answer,
    Call,
    IArea,
    body_length,
    check_owner,
    json_answer,
    method_refused,
    small_body,
)
from soledad.server.interfaces import IBlobsBackend
from soledad.wire.listing import decode_flags, encode_count, encode_flags, encode_namespaces, encode_page
from soledad.wire.routes import SMALL_BODY, TOMBSTONE_LIMIT, BlobRoute, ListRoute, parse_range

#: Arguments besides the namespace that go with a method.
_ARGUMENTS = {"POST": {"claim"}, "GET": {"only_flags"}, "HEAD": {"only_flags"}}
#: The largest blob, in bytes, when nobody says otherwise.
MAX_BLOB = 2**40


@implementer(IArea)
@define(eq=False)
class BlobsArea:
    """Everything under ``/blobs``."""

    _backend: IBlobsBackend
    #: Bytes.
    _max_blob: int = MAX_BLOB
    _worker: Worker = field(factory=InPlace)

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        if len(call.segments) == 1:
            check_owner(user, call)
            return await self._answer_list(call)
        if len(call.segments) == 2:
            check_owner(user, call)
            return await self._answer_blob(call)
        raise PathNotFound()

    async def _answer_list(self, call: Call) -> Answer:
        if call.method not in ("GET", "HEAD"):
            return method_refused(call, "GET", "HEAD")
        route = ListRoute.parse(call.segments, call.query)
        if route.namespaces:
            return json_answer(encode_namespaces(await self._backend.list_namespaces(route.user)))
        flag = None if route.filter_flag is None else Flag(route.filter_flag)
        if route.only_count:
            counted = await self._backend.count(route.user, route.namespace, route.deleted, flag)
            return json_answer(encode_count(*counted))
        if route.since is not None:
            page = await self._backend.get_changes(route.user, route.since, route.namespace, route.limit)
        else:
            page = await self._backend.list_blobs(
                route.user, route.namespace, route.order_by, route.deleted, flag, route.after, route.limit
            )
        # A long one takes tens of milliseconds.
        return json_answer(await self._worker.run(encode_page, page))

    async def _answer_blob(self, call: Call) -> Answer:
        methods = {
            "PUT": self._put,
            "GET": self._get,
            "HEAD": self._get,
            "POST": self._post,
            "DELETE": self._delete,
        }
        if call.method not in methods:
            return method_refused(call, *sorted(methods))
        unknown = set(call.query) - {"namespace"} - _ARGUMENTS.get(call.method, set())
        if unknown:
            raise BadRequest("unknown arguments")
        return await methods[call.method](call, BlobRoute.parse(call.segments, call.query))

    async def _put(self, call: Call, route: BlobRoute) -> Answer:
        if body_length(call) > self._max_blob:
            raise TooLarge(self._max_blob)
        condition = call.header("if-match")
        if condition is not None:
            await self._check_match(route, condition)
        stored = await self._backend.write_blob(route.user, route.blob_id, call.body, route.namespace)
        return Answer(201, {"etag": f'"{stored.etag}"'})

    async def _check_match(self, route: BlobRoute, condition: str) -> None:
        try:
            info = await self._backend.stat_blob(route.user, route.blob_id, route.namespace)
        except BlobNotFound:
            raise PreconditionFailed() from None
        if not names_tag(condition, info.etag):
            raise PreconditionFailed()

    async def _post(self, call: Call, route: BlobRoute) -> Answer:
        body = await small_body(call, SMALL_BODY)
        if route.claim is None:
            await self._backend.set_flags(route.user, route.blob_id, decode_flags(body), route.namespace)
        elif body:
            raise BadRequest("a claim has no body")
        else:
            await self._backend.claim(route.user, route.blob_id, route.claim, route.namespace)
        return Answer(204)

    async def _get(self, call: Call, route: BlobRoute) -> Answer:
        if route.only_flags:
            flags = await self._backend.get_flags(route.user, route.blob_id, route.namespace)
            return json_answer(encode_flags(flags))
        info = await self._backend.stat_blob(route.user, route.blob_id, route.namespace)
        headers = {"etag": f'"{info.etag}"', "accept-ranges": "bytes"}
        if (condition := call.header("if-match")) is not None and not names_tag(condition, info.etag):
            raise PreconditionFailed()
        if (condition := call.header("if-none-match")) is not None and names_tag(condition, info.etag, weak=True):
            return Answer(304, headers)
        headers["content-type"] = BYTES
        wanted = _wanted(call, info)
        if wanted is None:
            return self._stream(route, info, Answer(200, headers, length=info.length), WHOLE)
        assert wanted.length is not None
        if wanted.length == 0:
            raise UnsatisfiableRange(info.length)
        headers["content-range"] = f"bytes {wanted.start}-{wanted.start + wanted.length - 1}/{info.length}"
        return self._stream(route, info, Answer(206, headers, length=wanted.length), wanted)

    def _stream(self, route: BlobRoute, info: BlobInfo, answer: Answer, wanted: ByteRange) -> Answer:
        return Answer(
            answer.status,
            answer.headers,
            length=answer.length,
            stream=lambda consumer: self._backend.read_blob(
                route.user, route.blob_id, consumer, route.namespace, wanted, info.etag
            ),
        )

    async def _delete(self, call: Call, route: BlobRoute) -> Answer:
        tombstone = await small_body(call, TOMBSTONE_LIMIT)
        etag = None
        condition = call.header("if-match")
        if condition is not None and condition.strip() != "*":
            tags = parse_tags(condition)
            info = await self._backend.stat_blob(route.user, route.blob_id, route.namespace)
            if info.etag not in tags:
                raise PreconditionFailed()
            etag = info.etag
        await self._backend.delete_blob(route.user, route.blob_id, route.namespace, tombstone or None, etag)
        return Answer(204)


def names_tag(condition: str, etag: str, weak: bool = False) -> bool:
    """
    Tell whether a list of entity tags, or ``*``, names ``etag`` (RFC 9110, section 13.1).

    :param weak: compare weakly, as ``If-None-Match`` does: a tag marked as weak counts.
    """
    return condition.strip() == "*" or etag in parse_tags(condition, weak)


def parse_tags(condition: str, weak: bool = False) -> set[str]:
    """Return the entity tags of a list; those marked as weak only if they count.  What is none is left out."""
    tags = (tag.strip() for tag in condition.split(","))
    plain = (tag.removeprefix("W/") if weak else tag for tag in tags)
    return {tag[1:-1] for tag in plain if len(tag) >= 2 and tag[0] == tag[-1] == '"'}


def _wanted(call: Call, info: BlobInfo) -> ByteRange | None:
    """Return the range that is asked for; `None`: all."""
    value = call.header("range")
    if value is None or call.method != "GET":
        return None
    condition = call.header("if-range")
    if condition is not None and info.etag not in parse_tags(condition):
        return None
    return parse_range(value, info.length)
