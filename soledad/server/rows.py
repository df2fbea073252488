"""
The rows of users and blobs: how they are found, read and counted, inside of a transaction.

What is done with them is in `soledad.server.index`, and in `soledad.server.batches` for many at a time.  The statements
that each blob needs are made once: to make one takes several times as long as SQLite takes to carry it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, select, update

from soledad.errors import BlobNotFound, NoSuchUser
from soledad.model.blob import BlobInfo, Flag
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.interfaces import Place
from soledad.server.schema import FLAG_BITS, blobs, records, reservations, sync_heads, uploads, users

Key = tuple[UserId, Namespace, BlobId]
T = TypeVar("T")

#: For each value of a row's bits, the flags that they are.
_FLAGS = [tuple(flag for flag, bit in FLAG_BITS.items() if bits & bit) for bits in range(1 << len(FLAG_BITS))]
#: Takes the columns that a list shows from a whole row, by their places: for a thousand rows names take too long.
_TOLD = itemgetter(
    *map(
        list(blobs.c.keys()).index,
        ("blob_id", "namespace", "length", "etag", "flags", "changed", "deleted", "tombstone", "claimed_until"),
    )
)
#: Ids in one statement, at most: databases have limits.
_GROUP = 500

# Names of parameters must not be those of columns: SQLAlchemy has these for itself.
_USER = select(users).where(users.c.user_id == bindparam("user"))
# SQLite's transaction has the whole database by then; elsewhere the user's row is what writers wait for.
_USER_FOR_UPDATE = _USER.with_for_update()
_ADVANCE = (
    update(users)
    .where(users.c.user_id == bindparam("user"))
    .values(changed=users.c.changed + bindparam("changes"), used=users.c.used + bindparam("more"))
    .returning(users.c.changed)
)
_GIVE_BACK = (
    delete(reservations)
    .where(reservations.c.user_id == bindparam("user"), reservations.c.upload == bindparam("name"))
    .returning(reservations.c.upload)
)
_EXPIRED = (
    delete(uploads)
    .where(uploads.c.user_id == bindparam("user"), uploads.c.expires <= bindparam("now"))
    .returning(uploads.c.upload)
)
_SET_ASIDE = select(func.coalesce(func.sum(reservations.c.size), 0)).where(reservations.c.user_id == bindparam("user"))
#: The conditions that one blob's row meets, with the parameters of `named`.
AT = (
    blobs.c.user_id == bindparam("user"),
    blobs.c.namespace == bindparam("within"),
    blobs.c.blob_id == bindparam("name"),
)
_LIVE = select(blobs).where(*AT, ~blobs.c.deleted)


def user_row(connection: Connection, user: UserId, writes: bool = False) -> Row[Any]:
    """:raise NoSuchUser: there is none."""
    row = connection.execute(_USER_FOR_UPDATE if writes else _USER, {"user": user}).one_or_none()
    if row is None:
        raise NoSuchUser(user)
    return row


def advance(connection: Connection, user: UserId, used: int = 0, changes: int = 1) -> int:
    """Count ``changes`` more changes and ``used`` more bytes; return the number of the last change."""
    counted = {"user": user, "changes": changes, "more": used}
    number = connection.execute(_ADVANCE, counted).scalar_one_or_none()
    if number is None:
        raise NoSuchUser(user)
    return int(number)


def give_back(connection: Connection, place: Place) -> bool:
    """Give back what was set aside for an upload; tell whether there was anything."""
    return _give_back(connection, place.user, place.upload)


def _give_back(connection: Connection, user: UserId, upload: str) -> bool:
    return connection.execute(_GIVE_BACK, {"user": user, "name": upload}).first() is not None


def end_expired(connection: Connection, user: UserId, now: int) -> int:
    """End the uploads of a user with which nobody went on in time; their bytes are strays from now on."""
    names = list(connection.execute(_EXPIRED, {"user": user, "now": now}).scalars())
    for name in names:
        _give_back(connection, user, name)
    return len(names)


def set_aside_for(connection: Connection, user: UserId) -> int:
    """Return how many bytes are set aside for all uploads of a user."""
    return int(connection.execute(_SET_ASIDE, {"user": user}).scalar_one())


def at(key: Key) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that one blob's row meets."""
    user, namespace, blob_id = key
    return (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id == blob_id)


def named(key: Key) -> dict[str, str]:
    """Return the parameters of `AT`."""
    user, namespace, blob_id = key
    return {"user": user, "within": namespace, "name": blob_id}


def live(connection: Connection, key: Key) -> Row[Any] | None:
    """Return the row of a blob that is there."""
    return connection.execute(_LIVE, named(key)).one_or_none()


def required(connection: Connection, key: Key) -> Row[Any]:
    """:raise BlobNotFound: there is no such blob."""
    row = live(connection, key)
    if row is None:
        raise BlobNotFound(key[2], key[1])
    return row


def live_rows(
    connection: Connection, user: UserId, namespace: Namespace, blob_ids: Sequence[BlobId]
) -> dict[BlobId, Row[Any]]:
    """Return the rows of those blobs that are there."""
    found: dict[BlobId, Row[Any]] = {}
    for group in groups(blob_ids):
        among = (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id.in_(group))
        for row in connection.execute(select(blobs).where(*among, ~blobs.c.deleted)):
            found[row.blob_id] = row
    return found


def groups(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """Give ``things`` in groups that fit into a statement."""
    return (things[start : start + _GROUP] for start in range(0, len(things), _GROUP))


def key_of(place: Place) -> Key:
    """Return what the blob at a place is known by."""
    return place.user, place.namespace, place.blob_id


def place_of(row: Row[Any]) -> Place:
    """Return where the bytes of a blob are."""
    return Place(row.user_id, row.namespace, row.blob_id, row.upload)


def info_of(row: Row[Any], now: int) -> BlobInfo:
    """Return what a whole row tells; a claim that has run out by ``now`` reads as if it had been undone."""
    blob_id, namespace, length, etag, bits, changed, deleted, tombstone, claimed_until = _TOLD(row)
    if claimed_until is not None and claimed_until <= now:
        bits = FLAG_BITS[Flag.PENDING]
    return BlobInfo(blob_id, namespace, length, etag, _FLAGS[bits], changed, bool(deleted), tombstone)


def stored_total() -> ColumnElement[int]:
    """Return what a user's total should be, for a statement about users: blobs, records, and the checkpoint."""
    sums = (
        select(func.coalesce(func.sum(blobs.c.length), 0)).where(blobs.c.user_id == users.c.user_id, ~blobs.c.deleted),
        select(func.coalesce(func.sum(records.c.size), 0)).where(records.c.user_id == users.c.user_id),
        select(func.coalesce(func.sum(sync_heads.c.size), 0)).where(sync_heads.c.user_id == users.c.user_id),
    )
    in_blobs, in_records, in_heads = (one.scalar_subquery() for one in sums)
    return in_blobs + in_records + in_heads
