"""
What an error is called in HTTP: one table, read both ways.

A status and a code together name an error.  The body is JSON, ``{"error": code, "detail": text}``; the detail is for
people.  Fields that a caller can use travel beside them.  Source: docs/spec/blobs-http.rst, "Errors".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from soledad import errors
from soledad.errors import SoledadError

Field = tuple[str, type]


@frozen
class Entry:
    """One row: the error, what it is called, and the fields that travel."""

    error: type[SoledadError]
    status: int
    code: str
    fields: tuple[Field, ...] = ()


#: The table.  A server's error that is not here is a 500; a client's answer that is not here an `UnexpectedAnswer`.
TABLE = (
    Entry(errors.BadRequest, 400, "bad_request", (("reason", str),)),
    Entry(errors.MalformedStream, 400, "malformed_stream", (("reason", str),)),
    Entry(errors.Unauthorized, 401, "unauthorized"),
    Entry(errors.Forbidden, 403, "forbidden"),
    Entry(errors.BlobNotFound, 404, "blob_not_found", (("blob_id", str), ("namespace", str))),
    Entry(errors.UploadNotFound, 404, "upload_not_found", (("upload", str),)),
    Entry(errors.KeyringNotFound, 404, "keyring_not_found"),
    Entry(errors.PathNotFound, 404, "not_found"),
    Entry(errors.NoSuchUser, 404, "no_such_user", (("user", str),)),
    Entry(errors.NotAllowed, 405, "method_not_allowed", (("method", str),)),
    Entry(errors.BlobExists, 409, "blob_exists", (("blob_id", str), ("namespace", str))),
    Entry(errors.BlobBusy, 409, "blob_busy", (("blob_id", str), ("namespace", str))),
    Entry(errors.WrongOffset, 409, "wrong_offset", (("offset", int),)),
    Entry(errors.StaleToken, 410, "stale_token"),
    Entry(errors.LengthRequired, 411, "length_required"),
    Entry(errors.PreconditionFailed, 412, "precondition_failed"),
    Entry(errors.TooLarge, 413, "too_large", (("limit", int),)),
    Entry(errors.UnsupportedMediaType, 415, "unsupported_media_type", (("expected", str),)),
    Entry(errors.UnsatisfiableRange, 416, "unsatisfiable_range", (("size", int),)),
    Entry(errors.InvalidFlags, 422, "invalid_flags", (("reason", str),)),
    Entry(errors.UploadBusy, 423, "upload_busy", (("upload", str),)),
    Entry(errors.ChecksumMismatch, 460, "checksum_mismatch"),
    Entry(errors.TransferTimeout, 408, "too_slow"),
    Entry(errors.ServerFailed, 503, "unavailable"),
    Entry(errors.QuotaExceeded, 507, "quota_exceeded", (("asked", int), ("available", int))),
    Entry(errors.StorageFull, 507, "storage_full"),
    Entry(errors.StorageFailed, 507, "storage_failed"),
)

_BY_ERROR = {entry.error: entry for entry in TABLE}
_BY_NAME = {(entry.status, entry.code): entry for entry in TABLE}

#: Statuses whose meaning is plain without a code: a proxy's, or the answer to a `HEAD`, which has no body.
_PLAIN: dict[int, Callable[[], SoledadError]] = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    408: errors.TransferTimeout,
    412: errors.PreconditionFailed,
    413: errors.TooLarge,
    416: errors.UnsatisfiableRange,
    429: lambda: errors.ServerFailed(429),
}

#: Error bodies are this small; more is not read.
ERROR_BODY_LIMIT = 16 * 1024


def encode_error(error: BaseException) -> tuple[int, bytes]:
    """Return the status and the body for an error; one that is not in the table is a 500 that tells nothing."""
    status, members = error_members(error)
    return status, _json(members)


def error_members(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return the status for an error, and the members of the JSON object that tells it; see `encode_error`."""
    entry = _BY_ERROR.get(type(error))  # type: ignore[arg-type]
    if entry is None:
        return 500, {"error": "internal_error", "detail": "the server failed"}
    told = {name: getattr(error, name) for name, _ in entry.fields if getattr(error, name) is not None}
    # Not the error's own text: a server's paths are not its users' business.
    return entry.status, {"error": entry.code, "detail": entry.error.summary(), **told}


def decode_error(status: int, body: bytes, defaults: Mapping[str, Any] | None = None) -> SoledadError:
    """
    Return the error that an answer stands for.

    :param defaults: what the caller knows of the request, for fields that the answer does not tell.
    """
    return decode_members(status, _parsed(body), defaults)


def decode_members(status: int, value: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> SoledadError:
    """Return the error that a status and the members of an object stand for; see `decode_error`."""
    code = value.get("error")
    entry = _BY_NAME.get((status, code)) if isinstance(code, str) else None
    if entry is not None:
        return entry.error(**{name: _field(name, kind, value, defaults or {}) for name, kind in entry.fields})
    if status in _PLAIN:
        return _PLAIN[status]()
    if status == 404 and defaults and {"blob_id", "namespace"} <= set(defaults):
        return errors.BlobNotFound(defaults["blob_id"], defaults["namespace"])
    if status == 404 and defaults and set(defaults) == {"upload"}:
        return errors.UploadNotFound(defaults["upload"])
    if status >= 500:
        return errors.ServerFailed(status)
    return errors.UnexpectedAnswer("not an answer of this protocol", status)


def _field(name: str, kind: type, value: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    # What the caller asked for is surer than what the server says it was.
    if name in defaults:
        return defaults[name]
    told = value.get(name)
    if type(told) is kind:
        return told[:200] if isinstance(told, str) else told
    return "" if kind is str else None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
