"""
Lists of blobs as JSON: what `GET /blobs/{uuid}` answers.

Source: docs/spec/blobs-http.rst, "Listing".
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from attrs import frozen

from soledad.errors import InvalidFlags, SoledadError, UnexpectedAnswer
from soledad.model.blob import BlobInfo, Flag
from soledad.model.ids import Namespace, blob_id, namespace
from soledad.wire.routes import NAMESPACES_LIMIT, TOMBSTONE_LIMIT

#: Entries of a list that are encoded at a time.
_GROUP = 50
_ETAG = re.compile(r"[0-9a-f]{64}")


@frozen
class Page:
    """Some blobs, where the list goes on, and the newest change there was."""

    blobs: tuple[BlobInfo, ...]
    next: str | None
    head: str


@frozen
class Namespaces:
    """The namespaces of which a user has blobs or tombstones, in their order, and the newest change there was."""

    names: tuple[Namespace, ...]
    head: str


def encode_page(page: Page) -> bytes:
    """Return the page as JSON."""
    blobs = page.blobs
    # A few at a time: in between other threads have their turn.
    groups = [blobs[start : start + _GROUP] for start in range(0, len(blobs), _GROUP)]
    entries = b",".join([_json([_encode_info(info) for info in group])[1:-1] for group in groups])
    return b'{"blobs":[' + entries + b"]," + _json({"next": page.next, "head": page.head})[1:]


def encode_count(count: int, head: str) -> bytes:
    """Return the answer to ``only_count`` as JSON."""
    return _json({"count": count, "head": head})


def encode_namespaces(namespaces: Namespaces) -> bytes:
    """Return the answer to ``namespaces`` as JSON."""
    return _json({"namespaces": namespaces.names, "head": namespaces.head})


def decode_page(body: bytes) -> Page:
    """:raise UnexpectedAnswer: it is not a page."""
    try:
        value = json.loads(body)
        following, head = value["next"], value["head"]
        if not isinstance(head, str) or not isinstance(following, str | None):
            raise ValueError("tokens are not text")
        return Page(tuple(_decode_info(info) for info in value["blobs"]), following, head)
    except (ValueError, TypeError, LookupError, RecursionError, SoledadError) as error:
        raise UnexpectedAnswer(f"not a list of blobs: {type(error).__name__}") from error


def decode_count(body: bytes) -> int:
    """:raise UnexpectedAnswer: it is not a count."""
    try:
        return _natural(json.loads(body)["count"])
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UnexpectedAnswer(f"not a count: {type(error).__name__}") from error


def decode_namespaces(body: bytes) -> Namespaces:
    """:raise UnexpectedAnswer: they are no namespaces, in their order and not too many."""
    try:
        value = json.loads(body)
        told, head = value["namespaces"], value["head"]
        if not isinstance(head, str) or not isinstance(told, list) or len(told) > NAMESPACES_LIMIT:
            raise ValueError("not namespaces")
        names = tuple(map(namespace, told))
        if any(one >= other for one, other in pairwise(names)):
            raise ValueError("not in their order")
        return Namespaces(names, head)
    except (ValueError, TypeError, LookupError, RecursionError, SoledadError) as error:
        raise UnexpectedAnswer(f"not namespaces: {type(error).__name__}") from error


def encode_flags(flags: Iterable[Flag]) -> bytes:
    """Return flags as a JSON list: what a ``POST`` sets, and what ``only_flags`` answers."""
    return _json([flag.value for flag in flags])


def decode_flags(body: bytes) -> tuple[Flag, ...]:
    """:raise InvalidFlags: it is not a list of flags, each at most once."""
    try:
        value = json.loads(body)
        flags = tuple(map(Flag, value)) if isinstance(value, list) else None
    except (ValueError, RecursionError) as error:
        raise InvalidFlags("not a JSON list of flags") from error
    if flags is None or len(set(flags)) != len(flags):
        raise InvalidFlags("not a JSON list of flags")
    return flags


def _encode_info(info: BlobInfo) -> dict[str, Any]:
    return {
        "id": info.blob_id,
        "namespace": info.namespace,
        "length": info.length,
        "etag": info.etag,
        "flags": [flag.value for flag in info.flags],
        "changed": info.changed,
        "deleted": info.deleted,
        "tombstone": None if info.tombstone is None else b64encode(info.tombstone).decode("ascii"),
    }


def _decode_info(value: Any) -> BlobInfo:
    tombstone = None if value["tombstone"] is None else b64decode(value["tombstone"], validate=True)
    if not isinstance(value["deleted"], bool) or not _ETAG.fullmatch(value["etag"]):
        raise ValueError("not a blob")
    if tombstone is not None and len(tombstone) > TOMBSTONE_LIMIT:
        raise ValueError("tombstone too large")
    return BlobInfo(
        blob_id(value["id"]),
        namespace(value["namespace"]),
        _natural(value["length"]),
        value["etag"],
        tuple(Flag(flag) for flag in value["flags"]),
        _natural(value["changed"]),
        value["deleted"],
        tombstone,
    )


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a number of things")
    return value


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
