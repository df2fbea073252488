"""
The resources of uploads that can be resumed: ``/uploads/{uuid}`` and ``/uploads/{uuid}/{upload}``, by tus 1.0.

Source: docs/spec/uploads.rst.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from wsgiref.handlers import format_date_time

from attrs import define, evolve
from zope.interface import implementer

from soledad.errors import Forbidden, PathNotFound, PreconditionFailed, SoledadError, TooLarge, UnsupportedMediaType
from soledad.model.ids import UserId
from soledad.server.blobs import MAX_BLOB
from soledad.server.http import Answer, Call, IArea, body_length, error_answer, method_refused, note_failure
from soledad.server.interfaces import Checksum, IBlobsBackend, Upload
from soledad.wire.uploads import (
    CHECKSUMS,
    EXTENSIONS,
    OFFSET_STREAM,
    TUS,
    UploadRoute,
    decode_checksum,
    decode_metadata,
    decode_number,
)

Handler = Callable[[Call, UploadRoute], Awaitable[Answer]]


@implementer(IArea)
@define(eq=False)
class UploadsArea:
    """Everything under ``/uploads``."""

    _backend: IBlobsBackend
    #: Bytes.
    _max_blob: int = MAX_BLOB

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        if not 1 <= len(call.segments) <= 2:
            raise PathNotFound()
        if call.segments[0] != user:
            raise Forbidden()
        try:
            answer = await self._answer(evolve(call, method=call.header("x-http-method-override") or call.method))
        except SoledadError as error:
            note_failure(error)
            answer = error_answer(error)
        # With every answer, errors included, as tus has it.
        return evolve(answer, headers={**answer.headers, "tus-resumable": TUS})

    async def _answer(self, call: Call) -> Answer:
        if call.method == "OPTIONS":
            return self._options()
        methods: dict[str, Handler] = {"HEAD": self._head, "PATCH": self._patch, "DELETE": self._delete}
        if len(call.segments) == 1:
            methods = {"POST": self._post}
        if call.method not in methods:
            return method_refused(call, *sorted([*methods, "OPTIONS"]))
        if call.header("tus-resumable") != TUS:
            return _other_version()
        return await methods[call.method](call, UploadRoute.parse(call.segments, call.query))

    def _options(self) -> Answer:
        offers = {
            "tus-version": TUS,
            "tus-extension": ",".join(EXTENSIONS),
            "tus-checksum-algorithm": ",".join(CHECKSUMS),
            "tus-max-size": str(self._max_blob),
        }
        return Answer(204, offers)

    async def _post(self, call: Call, route: UploadRoute) -> Answer:
        length = decode_number(call.header("upload-length"), "Upload-Length")
        described = call.header("upload-metadata") or ""
        told = decode_metadata(described)
        size = body_length(call)
        checksum = None
        if size:
            checksum = _check_body(call)
        if length > self._max_blob or size > length:
            raise TooLarge(self._max_blob if length > self._max_blob else length)
        upload = await self._backend.create_upload(route.user, told.blob_id, length, told.namespace, described)
        if size:
            upload = await self._backend.append_upload(route.user, upload.name, 0, call.body, checksum)
        headers = _state(upload) | {"location": UploadRoute(route.user, upload.name).location}
        return Answer(201, headers)

    async def _head(self, call: Call, route: UploadRoute) -> Answer:
        upload = await self._backend.get_upload(route.user, _name(route))
        headers = {"upload-length": str(upload.length), "cache-control": "no-store"}
        if upload.described:
            headers["upload-metadata"] = upload.described
        return Answer(200, _state(upload) | headers)

    async def _patch(self, call: Call, route: UploadRoute) -> Answer:
        checksum = _check_body(call)
        offset = decode_number(call.header("upload-offset"), "Upload-Offset")
        upload = await self._backend.append_upload(route.user, _name(route), offset, call.body, checksum)
        return Answer(204, _state(upload))

    async def _delete(self, call: Call, route: UploadRoute) -> Answer:
        await self._backend.abandon_upload(route.user, _name(route))
        return Answer(204)


def _name(route: UploadRoute) -> str:
    assert route.upload is not None
    return route.upload


def _check_body(call: Call) -> Checksum | None:
    """
    Look whether the body is one that has a blob's bytes; return the checksum that it must have.

    :raise UnsupportedMediaType: it has another type.
    :raise BadRequest: the checksum cannot be understood.
    """
    if call.header("content-type") != OFFSET_STREAM:
        raise UnsupportedMediaType(OFFSET_STREAM)
    value = call.header("upload-checksum")
    return None if value is None else Checksum(*decode_checksum(value))


def _state(upload: Upload) -> dict[str, str]:
    told = {"upload-offset": str(upload.received)}
    # What has become a blob does not expire.
    return told if upload.done else told | {"upload-expires": format_date_time(upload.expires)}


def _other_version() -> Answer:
    answer = error_answer(PreconditionFailed())
    return evolve(answer, headers={**answer.headers, "tus-version": TUS})
