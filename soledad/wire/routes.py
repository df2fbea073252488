"""
Paths and queries: the client builds them, the server parses them.

Source: docs/spec/blobs-http.rst, "Paths".
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from itertools import pairwise
from urllib.parse import urlencode

from attrs import frozen

from soledad.errors import BadRequest, InvalidIdentifier, Unauthorized
from soledad.model.blob import ByteRange
from soledad.model.ids import (
    DEFAULT,
    BlobId,
    Namespace,
    RecordName,
    UserId,
    blob_id,
    namespace,
    record_name,
    user_id,
)
from soledad.wire.changes import CHOSEN_LIMIT, NAMES_LIMIT, RECORDS_LIMIT, is_cursor

#: The version of the protocol; `GET /` tells it.
PROTOCOL = 1
#: The largest body, in bytes, of a request that is not a blob's.
SMALL_BODY = 64 * 1024
#: The largest sealed tombstone, in bytes.
TOMBSTONE_LIMIT = 4096
#: The longest claim, in seconds.
CLAIM_LIMIT = 24 * 3600
#: The largest keyring that a server keeps, in bytes.
KEYRING_LIMIT = 1024 * 1024
#: The longest list in one answer, and the usual one.
PAGE_LIMIT, PAGE = 10_000, 1_000
#: As many namespaces are named in an answer, and taken up by a device that never heard of them.
NAMESPACES_LIMIT = 1_000


@frozen
class BlobRoute:
    """One blob: ``/blobs/{uuid}/{blob_id}?namespace=``."""

    user: UserId
    blob_id: BlobId
    namespace: Namespace = DEFAULT
    #: Take the item for so many seconds.
    claim: int | None = None
    #: Its flags instead of its bytes.
    only_flags: bool = False

    @property
    def path(self) -> str:
        """The path and query, as they go into a URL.  Identifiers need no quoting."""
        query: dict[str, str] = {"namespace": self.namespace}
        if self.claim is not None:
            query["claim"] = str(self.claim)
        if self.only_flags:
            query["only_flags"] = "true"
        return f"/blobs/{self.user}/{self.blob_id}?{urlencode(query)}"

    @classmethod
    def parse(cls, segments: list[str], query: dict[str, str]) -> BlobRoute:
        """:raise BadRequest: an identifier or an argument is not of its form."""
        try:
            user, blob = segments
            within = namespace(query.get("namespace", DEFAULT))
            claim = _number(query, "claim", CLAIM_LIMIT)
            only_flags = _one_of(query, "only_flags", "true", "false") == "true"
            return cls(user_id(user), blob_id(blob), within, claim, only_flags)
        except (InvalidIdentifier, ValueError) as error:
            raise BadRequest(str(error)) from error


#: Oldest first (also when none is named), the same, and newest first.
ORDERS = ("date", "+date", "-date")


@frozen
class ListRoute:
    """A list of blobs: ``/blobs/{uuid}?...``; see `soledad.wire.listing` for the answer."""

    user: UserId
    namespace: Namespace = DEFAULT
    #: One of `ORDERS`.
    order_by: str | None = None
    filter_flag: str | None = None
    #: List tombstones instead of blobs.
    deleted: bool = False
    only_count: bool = False
    limit: int = PAGE
    #: Opaque: all changes after it, or the next page of an ordered list.
    since: str | None = None
    after: str | None = None
    #: The user's namespaces instead; goes with nothing else.
    namespaces: bool = False

    @property
    def path(self) -> str:
        """The path and query, as they go into a URL."""
        if self.namespaces:
            return f"/blobs/{self.user}?namespaces=true"
        query = {
            "namespace": self.namespace,
            "order_by": self.order_by,
            "filter_flag": self.filter_flag,
            "deleted": "true" if self.deleted else None,
            "only_count": "true" if self.only_count else None,
            "limit": str(self.limit) if self.limit != PAGE else None,
            "since": self.since,
            "after": self.after,
        }
        told = {name: value for name, value in query.items() if value is not None}
        return f"/blobs/{self.user}?{urlencode(told)}"

    @classmethod
    def parse(cls, segments: list[str], query: dict[str, str]) -> ListRoute:
        """:raise BadRequest: an argument is not of its form, is unknown, or does not go with another."""
        unknown = set(query) - {
            "namespace", "order_by", "filter_flag", "deleted", "only_count", "limit", "since", "after",
            "namespaces",
        }  # fmt: skip
        if unknown:
            raise BadRequest(f"unknown arguments: {', '.join(sorted(unknown))[:80]}")
        try:
            (user,) = segments
            route = cls(
                user_id(user),
                namespace(query.get("namespace", DEFAULT)),
                _one_of(query, "order_by", *ORDERS),
                _one_of(query, "filter_flag", "PENDING", "PROCESSING", "PROCESSED", "FAILED"),
                _one_of(query, "deleted", "true", "false") == "true",
                _one_of(query, "only_count", "true", "false") == "true",
                _number(query, "limit", PAGE_LIMIT) or PAGE,
                query.get("since"),
                query.get("after"),
                _one_of(query, "namespaces", "true", "false") == "true",
            )
        except (InvalidIdentifier, ValueError) as error:
            raise BadRequest(str(error)) from error
        if route.since is not None and set(query) - {"namespace", "since", "limit"}:
            raise BadRequest("since goes with namespace and limit only")
        if route.namespaces and len(query) > 1:
            raise BadRequest("namespaces goes with nothing else")
        return route


@frozen
class StreamRoute:
    """Many blobs in one body: ``/stream/{uuid}?direction=&namespace=``; see `soledad.wire.framing`."""

    user: UserId
    #: ``upload`` or ``download``.
    direction: str
    namespace: Namespace = DEFAULT

    @property
    def path(self) -> str:
        """The path and query, as they go into a URL."""
        return f"/stream/{self.user}?{urlencode({'direction': self.direction, 'namespace': self.namespace})}"

    @classmethod
    def parse(cls, segments: list[str], query: dict[str, str]) -> StreamRoute:
        """:raise BadRequest: an argument is not of its form, is unknown or missing."""
        if set(query) - {"direction", "namespace"}:
            raise BadRequest("unknown arguments")
        direction = _one_of(query, "direction", "upload", "download")
        if direction is None:
            raise BadRequest("direction is missing")
        try:
            (user,) = segments
            return cls(user_id(user), direction, namespace(query.get("namespace", DEFAULT)))
        except (InvalidIdentifier, ValueError) as error:
            raise BadRequest(str(error)) from error


@frozen
class SyncRoute:
    """The records of a user's documents: ``/sync/{uuid}?...``; see `soledad.wire.changes` for what goes there."""

    user: UserId
    #: A cursor: what changed after it; empty: from the beginning.
    since: str = ""
    #: These records instead, in their order.
    records: tuple[RecordName, ...] = ()
    #: Names and hashes instead, those after ``after``; empty: from the beginning.
    names: bool = False
    after: str = ""
    #: `None`: as many as there may be in a page.
    limit: int | None = None

    @property
    def most(self) -> int:
        """How many records or names a page has at most."""
        return (NAMES_LIMIT if self.names else RECORDS_LIMIT) if self.limit is None else self.limit

    @property
    def path(self) -> str:
        """The path and query, as they go into a URL.  Nothing in them needs quoting."""
        query = {
            "since": self.since,
            "records": ",".join(self.records),
            "names": "true" if self.names else "",
            "after": self.after,
            "limit": "" if self.limit is None else str(self.limit),
        }
        told = "&".join(f"{name}={value}" for name, value in query.items() if value)
        return f"/sync/{self.user}" + (f"?{told}" if told else "")

    @classmethod
    def parse(cls, segments: list[str], query: dict[str, str]) -> SyncRoute:
        """:raise BadRequest: an argument is not of its form, is unknown, or does not go with another."""
        names = _one_of(query, "names", "true", "false") == "true"
        allowed = {"records"} if "records" in query else {"names", "limit", "after" if names else "since"}
        unknown = set(query) - allowed
        if unknown:
            raise BadRequest(f"arguments unknown here: {', '.join(sorted(unknown))[:80]}")
        try:
            (user,) = segments
            return cls(
                user_id(user),
                _cursor(query["since"]) if "since" in query else "",
                _chosen(query["records"]) if "records" in query else (),
                names,
                record_name(query["after"]) if "after" in query else "",
                _number(query, "limit", NAMES_LIMIT if names else RECORDS_LIMIT, least=1 if names else 0),
            )
        except (InvalidIdentifier, ValueError) as error:
            raise BadRequest(str(error)) from error


@frozen
class KeysRoute:
    """A user's keyring: ``/keys/{uuid}``."""

    user: UserId

    @property
    def path(self) -> str:
        """The path, as it goes into a URL."""
        return f"/keys/{self.user}"


@frozen
class EventsRoute:
    """What happens to a user's things: ``/events/{uuid}``."""

    user: UserId

    @property
    def path(self) -> str:
        """The path, as it goes into a URL."""
        return f"/events/{self.user}"


def authorization(user: UserId, token: str) -> str:
    """Return the value of the ``Authorization`` header."""
    return "Token " + b64encode(f"{user}:{token}".encode()).decode("ascii")


def parse_authorization(value: str) -> tuple[UserId, str]:
    """:raise Unauthorized: it is not a value that `authorization` makes."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "token":
        raise Unauthorized()
    try:
        user, _, token = b64decode(encoded.strip(), validate=True).decode().partition(":")
        if not token:
            raise Unauthorized()
        return user_id(user), token
    except (Base64Error, UnicodeDecodeError, InvalidIdentifier, ValueError) as error:
        raise Unauthorized() from error


def format_range(wanted: ByteRange) -> str:
    """Return the value of a ``Range`` header (RFC 9110, section 14.2)."""
    stop = "" if wanted.length is None else str(wanted.start + wanted.length - 1)
    return f"bytes={wanted.start}-{stop}"


def parse_range(value: str, size: int) -> ByteRange | None:
    """
    Return the one range that a ``Range`` header asks of ``size`` bytes (RFC 9110, section 14.2).

    `None`: the header is to be ignored: another unit, several ranges, or not well-formed.  A range that cannot be
    satisfied is returned with a ``length`` of 0.
    """
    unit, _, spec = value.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or not (_digits(first) and _digits(last)) or not (first or last):
        return None
    if not first:
        length = min(int(last), size)
        return ByteRange(size - length, length)
    start = int(first)
    stop = int(last) + 1 if last else size
    if last and stop <= start:
        return None
    return ByteRange(start, max(0, min(stop, size) - start))


def _digits(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and len(text) <= 18)


def _one_of(query: dict[str, str], name: str, *allowed: str) -> str | None:
    value = query.get(name)
    if value is not None and value not in allowed:
        raise BadRequest(f"{name} must be one of {', '.join(allowed)}")
    return value


def _number(query: dict[str, str], name: str, most: int, least: int = 1) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text or not _digits(text) or not least <= int(text) <= most:
        raise BadRequest(f"{name} must be {least} to {most}")
    return int(text)


def _cursor(text: str) -> str:
    if not is_cursor(text):
        raise BadRequest("not a cursor")
    return text


def _chosen(text: str) -> tuple[RecordName, ...]:
    names = tuple(map(record_name, text.split(",", CHOSEN_LIMIT)))
    if len(names) > CHOSEN_LIMIT or any(one >= other for one, other in pairwise(names)):
        raise BadRequest(f"records must be up to {CHOSEN_LIMIT} names, ascending")
    return names
