"""
Flags, and claims: who takes an item has it for a while.

A claim is the flag PROCESSING with a time at which it runs out; then the item is PENDING again.  It is shown so from
that moment on, and becomes a change with a number when somebody next asks for changes, or for a list by flags.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, bindparam, literal_column, select, update

from soledad.errors import BlobBusy
from soledad.model.blob import Flag
from soledad.model.ids import UserId
from soledad.server.rows import Key, advance, at, required
from soledad.server.schema import FLAG_BITS, blobs


def set_flags(connection: Connection, key: Key, flags: tuple[Flag, ...]) -> None:
    """Replace the flags; ends a claim. :raise BlobNotFound: there is no such blob."""
    number = advance(connection, key[0])
    required(connection, key)
    bits = sum(FLAG_BITS[flag] for flag in set(flags))
    connection.execute(update(blobs).where(*at(key)).values(flags=bits, claimed_until=None, changed=number))


def claim(connection: Connection, key: Key, seconds: int, now: int) -> None:
    """
    Take an item, for ``seconds`` from ``now`` on.

    :raise BlobNotFound: there is no such blob.
    :raise BlobBusy: it is PROCESSING, and not by a claim that has run out.
    """
    number = advance(connection, key[0])
    row = required(connection, key)
    processing = FLAG_BITS[Flag.PROCESSING]
    if row.flags & processing and (row.claimed_until is None or row.claimed_until > now):
        raise BlobBusy(key[2], key[1])
    connection.execute(
        update(blobs).where(*at(key)).values(flags=processing, claimed_until=now + seconds, changed=number)
    )


def has_lapsed(connection: Connection, user: UserId, now: int) -> bool:
    """Tell whether claims of the user's have run out."""
    return connection.execute(select(literal_column("1")).where(*_lapsed(user, now)).limit(1)).first() is not None


def lapse(connection: Connection, user: UserId, now: int) -> None:
    """Let the items be PENDING whose claims have run out."""
    found = connection.execute(
        select(blobs.c.namespace, blobs.c.blob_id).where(*_lapsed(user, now)).order_by(blobs.c.claimed_until)
    ).all()
    if not found:
        return
    last = advance(connection, user, changes=len(found))
    statement = update(blobs).where(
        blobs.c.user_id == user, blobs.c.namespace == bindparam("of"), blobs.c.blob_id == bindparam("blob")
    )
    connection.execute(
        statement.values(flags=FLAG_BITS[Flag.PENDING], claimed_until=None, changed=bindparam("number")),
        [
            {"of": row.namespace, "blob": row.blob_id, "number": number}
            for number, row in enumerate(found, last - len(found) + 1)
        ],
    )


def _lapsed(user: UserId, now: int) -> tuple[ColumnElement[bool], ...]:
    return (blobs.c.user_id == user, blobs.c.claimed_until.is_not(None), blobs.c.claimed_until <= now)
