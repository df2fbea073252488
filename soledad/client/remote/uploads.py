"""
A user's uploads that can be resumed: requests go out, answers are checked.

Source: docs/spec/uploads.rst.
"""

from __future__ import annotations

from attrs import define, field
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.client.interfaces import IRemoteUploads
from soledad.client.remote.http import Answer, ServerConnection
from soledad.deferreds import deferred
from soledad.errors import BadRequest, UnexpectedAnswer, UploadNotFound
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.wire.uploads import OFFSET_STREAM, TUS, Metadata, UploadRoute, decode_number, encode_metadata, upload_of

_VERSION = {"Tus-Resumable": TUS}


@implementer(IRemoteUploads)
@define(eq=False)
class RemoteUploads:
    """See `IRemoteUploads`."""

    _server: ServerConnection = field(repr=False)

    @deferred
    async def create(self, blob_id: BlobId, length: int, namespace: Namespace = DEFAULT) -> str:
        """See `IRemoteUploads`."""
        known = {"blob_id": blob_id, "namespace": namespace, "asked": length}
        told = encode_metadata(Metadata(blob_id, namespace))
        headers = {**_VERSION, "Upload-Length": str(length), "Upload-Metadata": told}
        answer, _ = await self._server.ask("POST", self._path(None), headers=headers, known=known)
        answer.expect(201)
        upload = upload_of(answer.header("Location") or "")
        if upload is None:
            raise UnexpectedAnswer("no location", answer.status)
        return upload

    @deferred
    async def offset(self, upload: str) -> int:
        """See `IRemoteUploads`."""
        # The answer to a HEAD has no body that would tell what is not there.
        answer = await self._ask("HEAD", upload, {})
        answer.expect(200)
        offset, length = _number(answer, "Upload-Offset"), _number(answer, "Upload-Length")
        if offset > length:
            raise UnexpectedAnswer("more bytes than there are", answer.status)
        if offset == length:
            # All is there: it has ended, and the blob is what to ask for.
            raise UploadNotFound(upload)
        return offset

    @deferred
    async def append(self, upload: str, offset: int, producer: IBodyProducer) -> int:
        """See `IRemoteUploads`."""
        headers = {"Upload-Offset": str(offset), "Content-Type": OFFSET_STREAM}
        answer = await self._ask("PATCH", upload, headers, producer)
        answer.expect(204)
        now = _number(answer, "Upload-Offset")
        if now != offset + producer.length:
            raise UnexpectedAnswer("not the offset that was to be", answer.status)
        return now

    @deferred
    async def abandon(self, upload: str) -> None:
        """See `IRemoteUploads`."""
        (await self._ask("DELETE", upload, {})).expect(204)

    async def _ask(
        self, method: str, upload: str, headers: dict[str, str], body: IBodyProducer | None = None
    ) -> Answer:
        answer, _ = await self._server.ask(
            method, self._path(upload), headers={**_VERSION, **headers}, body=body, known={"upload": upload}
        )
        return answer

    def _path(self, upload: str | None) -> str:
        return UploadRoute(self._server.user, upload).path


def _number(answer: Answer, name: str) -> int:
    try:
        return decode_number(answer.header(name), name)
    except BadRequest as error:
        raise UnexpectedAnswer(f"no {name}", answer.status) from error
