"""
The sealed records of users' documents, in SQL: the newest of each name, with the number of its change.

Numbers are given out by pushes, one for each record.  A number counts only with the random tag of the push that gave it
out, so a cursor of a history that a restored backup does not have is told from ours.  Tags are forgotten after half a
year: then a number counts with the tag of the push behind, and a cursor from before is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from secrets import token_hex
from time import time
from typing import Any

from attrs import define
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, tuple_, update
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.errors import PreconditionFailed, QuotaExceeded, StaleToken
from soledad.model.ids import RecordName, UserId
from soledad.server.database import Database
from soledad.server.index import TOMBSTONE_LIFETIME, blobs_head
from soledad.server.interfaces import IRecordsBackend
from soledad.server.rows import user_row
from soledad.server.schema import records, reservations, sync_heads, sync_pushes, users
from soledad.wire.changes import PAGE_SIZE, Idle, NamedHash, NamesPage, Push, SealedRecord, SyncHead, SyncPage

_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9a-f]{16})", re.ASCII)
#: How long a cursor is known at least once another push was made, in seconds.
CURSOR_LIFETIME = TOMBSTONE_LIFETIME
#: Records that are looked at in one go.
_CHECKED = 1000


@implementer(IRecordsBackend)
@define(eq=False)
class Records:
    """The records of one data folder, as one of its processes sees them."""

    _database: Database
    #: Bytes that a user may store who has no quota of their own; none: as much as there is room.
    _default_quota: int | None = None
    #: Unix time, seconds.
    _clock: Callable[[], float] = time
    #: Makes the tags of pushes.
    _new_tag: Callable[[], str] = lambda: token_hex(8)

    def head(self, user: UserId) -> Deferred[SyncHead]:
        """See `IRecordsBackend`."""
        return self._database.read(partial(_head, user=user))

    def pull(self, user: UserId, since: str, known: str | None, limit: int) -> Deferred[SyncPage | Idle]:
        """See `IRecordsBackend`."""
        return self._database.read(partial(_pull, user=user, since=since, known=known, limit=limit))

    def names(self, user: UserId, after: str, limit: int) -> Deferred[NamesPage]:
        """See `IRecordsBackend`."""
        return self._database.read(partial(_names, user=user, after=after, limit=limit))

    def fetch(self, user: UserId, names: Sequence[RecordName]) -> Deferred[SyncPage]:
        """See `IRecordsBackend`."""
        return self._database.read(partial(_fetch, user=user, names=names))

    def push(self, user: UserId, push: Push, follows: str | None) -> Deferred[SyncHead]:
        """See `IRecordsBackend`."""
        tag, date = self._new_tag(), int(self._clock())
        unit = partial(_push, user=user, push=push, follows=follows, default=self._default_quota, tag=tag, date=date)
        return self._database.write(unit)

    def damaged(self, after: tuple[UserId, str] | None) -> Deferred[tuple[list[str], tuple[UserId, str] | None]]:
        """See `IRecordsBackend`."""
        return self._database.read(partial(_damaged, after=after))


# --- heads and cursors ----------------------------------------------------------------------------------------------


def _head_row(connection: Connection, user: UserId) -> Row[Any] | None:
    return connection.execute(select(sync_heads).where(sync_heads.c.user_id == user)).one_or_none()


def _cursor(number: int, tag: str) -> str:
    return f"{number}.{tag}"


def _head(connection: Connection, user: UserId) -> SyncHead:
    return _as_head(user_row(connection, user), _head_row(connection, user))


def _as_head(user: Row[Any], head: Row[Any] | None) -> SyncHead:
    if head is None:
        return SyncHead("", None, blobs_head(user))
    return SyncHead(_cursor(head.number, head.tag), head.checkpoint, blobs_head(user))


def _tag_at(connection: Connection, user: UserId, number: int) -> str | None:
    """Return the tag of the push that gave a number out."""
    behind = (sync_pushes.c.user_id == user, sync_pushes.c.number >= number)
    statement = select(sync_pushes.c.tag).where(*behind).order_by(sync_pushes.c.number).limit(1)
    return connection.execute(statement).scalar_one_or_none()


def _position(connection: Connection, user: UserId, cursor: str) -> int:
    """:raise StaleToken: the cursor is not of this history."""
    match = _CURSOR.fullmatch(cursor)
    if match is None or _tag_at(connection, user, int(match[1])) != match[2]:
        raise StaleToken()
    return int(match[1])


# --- reading --------------------------------------------------------------------------------------------------------


def _pull(connection: Connection, user: UserId, since: str, known: str | None, limit: int) -> SyncPage | Idle:
    row, head = user_row(connection, user), _head_row(connection, user)
    start = _position(connection, user, since) if since else 0
    if head is not None and head.etag == known:
        return Idle(blobs_head(row))
    whole = _as_head(row, head)
    if not limit:
        return SyncPage((), whole, False)
    behind = (records.c.user_id == user, records.c.number > start)
    sizes = select(records.c.number, records.c.size).where(*behind).order_by(records.c.number).limit(limit + 1)
    taken, more = _fitting(connection, sizes, limit)
    if not taken:
        return SyncPage((), whole, False)
    last = taken[-1].number
    statement = select(records.c.name, records.c.data).where(*behind, records.c.number <= last)
    page = _loaded(connection, statement.order_by(records.c.number))
    if not more:
        return SyncPage(page, whole, False)
    cursor = _cursor(last, _tag_at(connection, user, last) or "")
    return SyncPage(page, SyncHead(cursor, whole.checkpoint, whole.blobs), True)


def _fetch(connection: Connection, user: UserId, names: Sequence[RecordName]) -> SyncPage:
    head = _head(connection, user)
    named = (records.c.user_id == user, records.c.name.in_(map(bytes.fromhex, names)))
    sizes = select(records.c.name, records.c.size).where(*named).order_by(records.c.name)
    taken, more = _fitting(connection, sizes, len(names))
    if not taken:
        return SyncPage((), head, False)
    statement = select(records.c.name, records.c.data).where(*named, records.c.name <= taken[-1].name)
    return SyncPage(_loaded(connection, statement.order_by(records.c.name)), head, more)


def _names(connection: Connection, user: UserId, after: str, limit: int) -> NamesPage:
    head = _head(connection, user)
    behind = (records.c.user_id == user, records.c.name > bytes.fromhex(after))
    statement = select(records.c.name, records.c.hash).where(*behind).order_by(records.c.name).limit(limit + 1)
    rows = connection.execute(statement).all()
    entries = (NamedHash(RecordName(row.name.hex()), row.hash) for row in rows[:limit])
    return NamesPage(tuple(entries), head, len(rows) > limit)


def _fitting(connection: Connection, sizes: Select[Any], limit: int) -> tuple[list[Row[Any]], bool]:
    """Return as many rows as their records go into a page, at least one if there is one, and whether there are more."""
    rows = connection.execute(sizes).all()
    total = 0
    taken: list[Row[Any]] = []
    for row in rows[:limit]:
        total += row.size
        if taken and total > PAGE_SIZE:
            break
        taken.append(row)
    return taken, len(taken) < len(rows)


def _loaded(connection: Connection, statement: Select[Any]) -> tuple[SealedRecord, ...]:
    return tuple(SealedRecord(RecordName(name.hex()), data) for name, data in connection.execute(statement))


# --- pushing --------------------------------------------------------------------------------------------------------


def _push(
    connection: Connection, user: UserId, push: Push, follows: str | None, default: int | None, tag: str, date: int
) -> SyncHead:
    row, head = user_row(connection, user, writes=True), _head_row(connection, user)
    if follows != (None if head is None else head.etag):
        raise PreconditionFailed()
    names = [bytes.fromhex(record.name) for record in push.records]
    replaced = delete(records).where(records.c.user_id == user, records.c.name.in_(names)).returning(records.c.size)
    freed = sum(connection.execute(replaced).scalars()) + (0 if head is None else head.size)
    grown = sum(len(record.data) for record in push.records) + len(push.checkpoint) - freed
    _check_room(connection, row, grown, default)
    number = 0 if head is None else head.number
    _insert(connection, user, names, push.records, number)
    last = number + max(1, len(names))
    new = SyncHead(_cursor(last, tag), push.checkpoint, blobs_head(row))
    forgotten = (sync_pushes.c.user_id == user, sync_pushes.c.date <= date - CURSOR_LIFETIME)
    connection.execute(delete(sync_pushes).where(*forgotten))
    connection.execute(insert(sync_pushes).values(user_id=user, number=last, tag=tag, date=date))
    connection.execute(delete(sync_heads).where(sync_heads.c.user_id == user))
    stored = {"number": last, "tag": tag, "checkpoint": push.checkpoint, "etag": new.tag, "size": len(push.checkpoint)}
    connection.execute(insert(sync_heads).values(user_id=user, **stored))
    connection.execute(update(users).where(users.c.user_id == user).values(used=users.c.used + grown))
    return new


def _check_room(connection: Connection, user: Row[Any], grown: int, default: int | None) -> None:
    """:raise QuotaExceeded: there is no room for ``grown`` bytes more, beside what is set aside for uploads."""
    quota = default if user.quota is None else user.quota
    if quota is None or grown <= 0:
        return
    total = select(func.coalesce(func.sum(reservations.c.size), 0)).where(reservations.c.user_id == user.user_id)
    available = max(0, quota - user.used - int(connection.execute(total).scalar_one()))
    if grown > available:
        raise QuotaExceeded(grown, available)


def _insert(
    connection: Connection, user: UserId, names: Sequence[bytes], sealed: Sequence[SealedRecord], number: int
) -> None:
    """Add records, which get the numbers after ``number``."""
    rows = [
        {"user_id": user, "name": name, "number": at, "hash": one.hash, "size": len(one.data), "data": one.data}
        for at, (name, one) in enumerate(zip(names, sealed, strict=True), number + 1)
    ]
    if rows:
        connection.execute(insert(records), rows)


# --- checking -------------------------------------------------------------------------------------------------------


def _damaged(connection: Connection, after: tuple[UserId, str] | None) -> tuple[list[str], tuple[UserId, str] | None]:
    key = (records.c.user_id, records.c.name)
    sizes = select(*key, records.c.size).order_by(*key).limit(_CHECKED + 1)
    if after is None:
        wrong = _damaged_heads(connection)
    else:
        wrong = []
        sizes = sizes.where(tuple_(*key) > (after[0], bytes.fromhex(after[1])))
    taken, more = _fitting(connection, sizes, _CHECKED)
    for row in taken:
        at = (records.c.user_id == row.user_id, records.c.name == row.name)
        found = connection.execute(select(records.c.hash, records.c.data).where(*at)).one()
        if sha256(found.data).digest() != found.hash:
            wrong.append(f"{row.user_id}/{row.name.hex()}")
    return wrong, (taken[-1].user_id, taken[-1].name.hex()) if more else None


def _damaged_heads(connection: Connection) -> list[str]:
    rows = connection.execute(select(sync_heads.c.user_id, sync_heads.c.checkpoint, sync_heads.c.etag))
    return [f"{row.user_id}/checkpoint" for row in rows if sha256(row.checkpoint).hexdigest() != row.etag]
