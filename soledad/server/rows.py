"""
The rows of users and blobs: how they are found, read and counted, inside of a transaction.

What is done with them is in `soledad.server.index`, and in `soledad.server.batches` for many at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, delete, func, select, update

from soledad.errors import BlobNotFound, NoSuchUser
from soledad.model.blob import BlobInfo, Flag
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.interfaces import Place
from soledad.server.schema import FLAG_BITS, blobs, reservations, uploads, users

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


def user_row(connection: Connection, user: UserId, writes: bool = False) -> Row[Any]:
    """:raise NoSuchUser: there is none."""
    statement = select(users).where(users.c.user_id == user)
    # SQLite's transaction has the whole database by then; elsewhere the user's row is what writers wait for.
    row = connection.execute(statement.with_for_update() if writes else statement).one_or_none()
    if row is None:
        raise NoSuchUser(user)
    return row


def advance(connection: Connection, user: UserId, used: int = 0, changes: int = 1) -> int:
    """Count ``changes`` more changes and ``used`` more bytes; return the number of the last change."""
    statement = update(users).where(users.c.user_id == user)
    number = connection.execute(
        statement.values(changed=users.c.changed + changes, used=users.c.used + used).returning(users.c.changed)
    ).scalar_one_or_none()
    if number is None:
        raise NoSuchUser(user)
    return int(number)


def give_back(connection: Connection, place: Place) -> bool:
    """Give back what was set aside for an upload; tell whether there was anything."""
    statement = delete(reservations).where(reservations.c.user_id == place.user, reservations.c.upload == place.upload)
    return connection.execute(statement.returning(reservations.c.upload)).first() is not None


def end_expired(connection: Connection, user: UserId, now: int) -> int:
    """End the uploads of a user with which nobody went on in time; their bytes are strays from now on."""
    expired = delete(uploads).where(uploads.c.user_id == user, uploads.c.expires <= now)
    names = list(connection.execute(expired.returning(uploads.c.upload)).scalars())
    for name in names:
        connection.execute(delete(reservations).where(reservations.c.user_id == user, reservations.c.upload == name))
    return len(names)


def set_aside_for(connection: Connection, user: UserId) -> int:
    """Return how many bytes are set aside for all uploads of a user."""
    total = select(func.coalesce(func.sum(reservations.c.size), 0)).where(reservations.c.user_id == user)
    return int(connection.execute(total).scalar_one())


def at(key: Key) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that one blob's row meets."""
    user, namespace, blob_id = key
    return (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id == blob_id)


def live(connection: Connection, key: Key) -> Row[Any] | None:
    """Return the row of a blob that is there."""
    return connection.execute(select(blobs).where(*at(key), ~blobs.c.deleted)).one_or_none()


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
