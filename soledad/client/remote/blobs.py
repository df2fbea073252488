"""
A user's blobs on the server: requests go out, answers are checked.

An answer that is not exactly what was asked for is an `UnexpectedAnswer`; whether the bytes are the right ones is for
those who have keys to say.  Source: docs/spec/blobs-http.rst.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.client.interfaces import IRemoteBlobs
from soledad.client.remote.http import Answer, ServerConnection
from soledad.deferreds import deferred
from soledad.errors import InvalidFlags, PreconditionFailed, UnexpectedAnswer
from soledad.model.blob import WHOLE, BlobInfo, ByteRange, Flag
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.streams import BytesProducer
from soledad.wire.listing import (
    Namespaces,
    Page,
    decode_count,
    decode_flags,
    decode_namespaces,
    decode_page,
    encode_flags,
)
from soledad.wire.routes import NAMESPACES_LIMIT, TOMBSTONE_LIMIT, BlobRoute, ListRoute, format_range

#: Bytes that the entry of one blob in a list has at most: the tombstone in base64, and the rest.
_ENTRY_SIZE = TOMBSTONE_LIMIT * 4 // 3 + 2048
#: Bytes that the names of namespaces have at most, and what is around them.
_NAMES_SIZE = NAMESPACES_LIMIT * 80 + 2048
#: Digits that a size may have.
_SIZE = r"\d{1,18}"
_CONTENT_RANGE = re.compile(rf"bytes ({_SIZE})-({_SIZE})/({_SIZE})", re.ASCII)
_LENGTH = re.compile(_SIZE, re.ASCII)
_ETAG = re.compile(r'"([0-9a-f]{64})"', re.ASCII)


@implementer(IRemoteBlobs)
@define(eq=False)
class RemoteBlobs:
    """See `IRemoteBlobs`."""

    _server: ServerConnection = field(repr=False)

    @deferred
    async def write_blob(self, blob_id: BlobId, producer: IBodyProducer, namespace: Namespace = DEFAULT) -> None:
        """See `IRemoteBlobs`."""
        known = {"blob_id": blob_id, "namespace": namespace, "asked": producer.length}
        path = self._path(blob_id, namespace)
        answer, _ = await self._server.ask("PUT", path, body=producer, known=known)
        answer.expect(201)

    @deferred
    async def read_blob(
        self,
        blob_id: BlobId,
        consumer: IConsumer,
        namespace: Namespace = DEFAULT,
        wanted: ByteRange = WHOLE,
        etag: str | None = None,
        on_tag: Callable[[str], object] | None = None,
    ) -> None:
        """See `IRemoteBlobs`."""
        if wanted.length == 0:
            # HTTP has no name for no bytes at all.
            return
        known = {"blob_id": blob_id, "namespace": namespace}
        headers = _conditions(wanted, etag)
        answer = await self._server.request("GET", self._path(blob_id, namespace), headers=headers, known=known)
        try:
            if etag is not None and etag_of(answer) != etag:
                raise PreconditionFailed()
            length = _length_of(answer, wanted)
            tag = etag_of(answer)
        except (UnexpectedAnswer, PreconditionFailed):
            await answer.abandon()
            raise
        if on_tag is not None:
            on_tag(tag)
        await answer.deliver(consumer, length)

    @deferred
    async def stat_blob(self, blob_id: BlobId, namespace: Namespace = DEFAULT) -> BlobInfo:
        """See `IRemoteBlobs`."""
        known = {"blob_id": blob_id, "namespace": namespace}
        answer, _ = await self._server.ask("HEAD", self._path(blob_id, namespace), known=known)
        answer.expect(200)
        length = answer.header("Content-Length") or ""
        if not _LENGTH.fullmatch(length):
            raise UnexpectedAnswer("no length", answer.status)
        return BlobInfo(blob_id, namespace, int(length), etag_of(answer))

    @deferred
    async def delete_blob(
        self, blob_id: BlobId, namespace: Namespace = DEFAULT, tombstone: bytes | None = None
    ) -> None:
        """See `IRemoteBlobs`."""
        body = None if tombstone is None else BytesProducer(tombstone)
        known = {"blob_id": blob_id, "namespace": namespace}
        answer, _ = await self._server.ask("DELETE", self._path(blob_id, namespace), body=body, known=known)
        answer.expect(204)

    @deferred
    async def list_blobs(self, route: ListRoute) -> Page:
        """See `IRemoteBlobs`."""
        page = decode_page(await self._list(route, (route.limit + 1) * _ENTRY_SIZE))
        if len(page.blobs) > route.limit or any(info.namespace != route.namespace for info in page.blobs):
            raise UnexpectedAnswer("not the list that was asked for")
        return page

    @deferred
    async def count_blobs(self, route: ListRoute) -> int:
        """See `IRemoteBlobs`."""
        return decode_count(await self._list(route, _ENTRY_SIZE))

    @deferred
    async def list_namespaces(self) -> Namespaces:
        """See `IRemoteBlobs`."""
        return decode_namespaces(await self._list(ListRoute(self._server.user, namespaces=True), _NAMES_SIZE))

    @deferred
    async def get_flags(self, blob_id: BlobId, namespace: Namespace = DEFAULT) -> tuple[Flag, ...]:
        """See `IRemoteBlobs`."""
        path = BlobRoute(self._server.user, blob_id, namespace, only_flags=True).path
        answer, body = await self._server.ask("GET", path, known={"blob_id": blob_id, "namespace": namespace})
        answer.expect(200)
        try:
            return decode_flags(body)
        except InvalidFlags as error:
            raise UnexpectedAnswer("not flags", answer.status) from error

    @deferred
    async def set_flags(self, blob_id: BlobId, flags: Sequence[Flag], namespace: Namespace = DEFAULT) -> None:
        """See `IRemoteBlobs`."""
        body = BytesProducer(encode_flags(dict.fromkeys(flags)))
        await self._post(BlobRoute(self._server.user, blob_id, namespace), body)

    @deferred
    async def claim(self, blob_id: BlobId, seconds: int, namespace: Namespace = DEFAULT) -> None:
        """See `IRemoteBlobs`."""
        await self._post(BlobRoute(self._server.user, blob_id, namespace, claim=seconds), BytesProducer(b""))

    async def _post(self, route: BlobRoute, body: IBodyProducer) -> None:
        known = {"blob_id": route.blob_id, "namespace": route.namespace}
        answer, _ = await self._server.ask("POST", route.path, body=body, known=known)
        answer.expect(204)

    async def _list(self, route: ListRoute, limit: int) -> bytes:
        answer, body = await self._server.ask("GET", route.path, limit=limit)
        answer.expect(200)
        return body

    def _path(self, blob_id: BlobId, namespace: Namespace) -> str:
        return BlobRoute(self._server.user, blob_id, namespace).path


def _conditions(wanted: ByteRange, etag: str | None) -> dict[str, str]:
    """Return the headers that ask for a range, and say of what."""
    if wanted == WHOLE:
        return {} if etag is None else {"If-Match": f'"{etag}"'}
    # With another tag the answer is the whole blob, which is not taken then.
    condition = {} if etag is None else {"If-Range": f'"{etag}"'}
    return {"Range": format_range(wanted), **condition}


def _length_of(answer: Answer, wanted: ByteRange) -> int:
    """Return how many bytes there will be; the server must say so, and it must be what was asked for."""
    if answer.length is None:
        raise UnexpectedAnswer("no length", answer.status)
    if wanted == WHOLE:
        answer.expect(200)
        return answer.length
    answer.expect(206)
    told = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
    if told is None:
        raise UnexpectedAnswer("no range", answer.status)
    first, last, size = map(int, told.groups())
    start, stop = wanted.start, size if wanted.length is None else min(size, wanted.start + wanted.length)
    if (first, last + 1) != (start, stop) or answer.length != stop - start:
        raise UnexpectedAnswer("not the range that was asked for", answer.status)
    return answer.length


def etag_of(answer: Answer) -> str:
    """Return the SHA-256 that the server tells of the stored bytes."""
    etag: Any = _ETAG.fullmatch(answer.header("ETag") or "")
    if etag is None:
        raise UnexpectedAnswer("no tag", answer.status)
    digest: str = etag.group(1)
    return digest
