"""
Uploads that can be resumed: the paths and headers of tus 1.0, as both ends use them.

Source: docs/spec/uploads.rst, and https://tus.io/protocols/resumable-upload, version 1.0.0.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping

from attrs import frozen

from soledad.errors import BadRequest, InvalidIdentifier
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId, blob_id, namespace, user_id

#: The version of tus, and what of its extensions is offered.
TUS = "1.0.0"
EXTENSIONS = ("creation", "creation-with-upload", "termination", "checksum", "expiration")
#: Names of checksums, with the bytes that each has; also those of hashlib.
CHECKSUMS = {"sha1": 20, "sha256": 32}
#: The type of the bodies that have a blob's bytes.
OFFSET_STREAM = "application/offset+octet-stream"
#: The most that an ``Upload-Metadata`` may have, in bytes.
METADATA_LIMIT = 4096

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: A name, and a value in base64, or none.
_PAIR = re.compile(r"([!-+\--~]+)(?: ([A-Za-z0-9+/]*={0,2}))?", re.ASCII)


@frozen
class UploadRoute:
    """All uploads of a user, or one: ``/uploads/{uuid}/{upload}``."""

    user: UserId
    #: What the server called it.
    upload: str | None = None

    @property
    def path(self) -> str:
        """The path, as it goes into a URL."""
        return f"/uploads/{self.user}" if self.upload is None else f"/uploads/{self.user}/{self.upload}"

    @property
    def location(self) -> str:
        """The ``Location`` of a new upload, relative to where it was asked for: a proxy may have moved all paths."""
        return f"{self.user}/{self.upload}"

    @classmethod
    def parse(cls, segments: list[str], query: Mapping[str, str]) -> UploadRoute:
        """:raise BadRequest: the user's id is not of its form, or there are arguments."""
        if query:
            raise BadRequest("unknown arguments")
        try:
            return cls(user_id(segments[0]), segments[1] if len(segments) > 1 else None)
        except InvalidIdentifier as error:
            raise BadRequest(str(error)) from error


@frozen
class Metadata:
    """What an upload is to be."""

    blob_id: BlobId
    namespace: Namespace = DEFAULT


def encode_metadata(told: Metadata) -> str:
    """Return the value of ``Upload-Metadata``."""
    pairs = {"blob_id": told.blob_id, "namespace": told.namespace}
    return ",".join(f"{name} {b64encode(value.encode()).decode('ascii')}" for name, value in pairs.items())


def decode_metadata(value: str) -> Metadata:
    """
    Return what an ``Upload-Metadata`` says; names that mean nothing here are passed over.

    :raise BadRequest: it is not well-formed, or has no ``blob_id``.
    """
    if len(value) > METADATA_LIMIT:
        raise BadRequest("Upload-Metadata is too long")
    pairs: dict[str, bytes] = {}
    for text in value.split(","):
        match = _PAIR.fullmatch(text.strip(" "))
        if match is None or match[1] in pairs:
            raise BadRequest("Upload-Metadata is not well-formed")
        pairs[match[1]] = _bytes(match[2] or "")
    if "blob_id" not in pairs:
        raise BadRequest("Upload-Metadata has no blob_id")
    try:
        return Metadata(blob_id(_text(pairs["blob_id"])), namespace(_text(pairs.get("namespace", DEFAULT.encode()))))
    except InvalidIdentifier as error:
        raise BadRequest(str(error)) from error


def decode_checksum(value: str) -> tuple[str, bytes]:
    """
    Return the algorithm and the digest of an ``Upload-Checksum``.

    :raise BadRequest: it is not well-formed, or of another algorithm.
    """
    name, _, encoded = value.partition(" ")
    if name not in CHECKSUMS:
        raise BadRequest("that checksum is not offered")
    digest = _bytes(encoded)
    if len(digest) != CHECKSUMS[name]:
        raise BadRequest("Upload-Checksum has another length")
    return name, digest


def decode_number(value: str | None, name: str) -> int:
    """Return the number that a header has. :raise BadRequest: it has none."""
    if value is None or not _NUMBER.fullmatch(value):
        raise BadRequest(f"{name} must be a number")
    return int(value)


def upload_of(location: str) -> str | None:
    """Return the name of the upload that a ``Location`` leads to; `None`: it is none of such a server."""
    name = location.rpartition("/")[2]
    return name if _NAME.fullmatch(name) else None


def _bytes(encoded: str) -> bytes:
    try:
        return b64decode(encoded, validate=True)
    except (Base64Error, ValueError) as error:
        raise BadRequest("not base64") from error


def _text(value: bytes) -> str:
    return value.decode("latin-1")
