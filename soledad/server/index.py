"""
What there is: blobs, tombstones, flags, change numbers and room, for every backend.

The row of a blob is what makes it exist: it is written when the bytes are durable, and goes before they go.  Change
numbers are given out by the user's row, which a writing transaction holds to its end, so they become visible in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from attrs import define
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    delete,
    false,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)
from twisted.internet.defer import Deferred

from soledad.deferreds import deferred
from soledad.errors import (
    BadRequest,
    BlobExists,
    BlobNotFound,
    NoSuchUser,
    PreconditionFailed,
    QuotaExceeded,
    StaleToken,
    StorageFailed,
)
from soledad.model.blob import BlobInfo, Flag
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.database import Database
from soledad.server.interfaces import Place, Stored
from soledad.server.processes import IProcesses
from soledad.server.schema import blobs, records, reservations, sync_heads, users
from soledad.wire.listing import Page

T = TypeVar("T")
Key = tuple[UserId, Namespace, BlobId]

#: How long a tombstone is kept, in seconds: a device that is away for longer compares in full.
TOMBSTONE_LIFETIME = 180 * 24 * 3600
#: The bit of each flag in a row.
FLAG_BITS = {Flag.PENDING: 1, Flag.PROCESSING: 2, Flag.PROCESSED: 4, Flag.FAILED: 8}

_TOKEN = re.compile(r"([cd])\.([0-9a-f]{32})\.([0-9]{1,18})", re.ASCII)
#: Kinds of tokens: a position in the order of change, and in that of storing.
_BY_CHANGE, _BY_DATE = "c", "d"


@define(eq=False)
class Index:
    """The index of one data folder, as one of its processes sees it."""

    _database: Database
    _processes: IProcesses
    #: Unix time, seconds.
    _clock: Callable[[], float]
    #: Bytes that a user may store who has no quota of their own; none: as much as there is room.
    _default_quota: int | None = None

    @deferred
    async def reserve(self, place: Place, size: int) -> None:
        """
        Set ``size`` bytes aside for an upload, until `commit` or `release`, or until this process is gone.

        :raise BlobExists: the id is taken.
        :raise QuotaExceeded: there is no room.
        """
        unit = partial(_reserve, place=place, size=size, owner=self._processes.name, default=self._default_quota)
        # After a power cut nobody has anything set aside: this need not outlast one.
        try:
            await self._database.write(unit, durable=False)
        except QuotaExceeded:
            # Perhaps the room is held for a process that is no more.
            if not await self.release_dead():
                raise
            await self._database.write(unit, durable=False)

    def release(self, place: Place) -> Deferred[bool]:
        """Give back what was set aside for an upload; tell whether there was anything."""
        return self._database.write(partial(_release, place=place), durable=False)

    def commit(self, place: Place, stored: Stored) -> Deferred[None]:
        """
        Make the blob exist; its bytes are durable already.

        :raise BlobExists: another upload of the same id was faster.
        """
        return self._database.write(partial(_commit, place=place, stored=stored, date=int(self._clock())))

    def delete(self, key: Key, tombstone: bytes | None, etag: str | None) -> Deferred[Place]:
        """
        Make the blob a tombstone; return where its bytes were.

        :raise BlobNotFound: there is no such blob.
        :raise PreconditionFailed: it has another tag than ``etag``.
        """
        date = int(self._clock())
        return self._database.write(partial(_delete, key=key, tombstone=tombstone, etag=etag, date=date))

    def find(self, key: Key) -> Deferred[tuple[BlobInfo, Place]]:
        """:raise BlobNotFound: there is no such blob."""
        return self._database.read(partial(_found, key=key))

    def set_flags(self, key: Key, flags: tuple[Flag, ...]) -> Deferred[None]:
        """:raise BlobNotFound: there is no such blob."""
        return self._database.write(partial(_set_flags, key=key, flags=flags))

    def page(
        self,
        user: UserId,
        namespace: Namespace,
        *,
        newest_first: bool,
        deleted: bool,
        flag: Flag | None,
        after: str | None,
        limit: int,
    ) -> Deferred[Page]:
        """See `IBlobsBackend.list_blobs`."""
        listed = _listed(user, namespace, deleted, flag)
        return self._database.read(
            partial(_page, user=user, listed=listed, newest_first=newest_first, after=after, limit=limit)
        )

    def changes(self, user: UserId, namespace: Namespace, since: str, limit: int) -> Deferred[Page]:
        """See `IBlobsBackend.get_changes`."""
        return self._database.read(partial(_changes, user=user, namespace=namespace, since=since, limit=limit))

    def count(self, user: UserId, namespace: Namespace, deleted: bool, flag: Flag | None) -> Deferred[tuple[int, str]]:
        """See `IBlobsBackend.count`."""
        return self._database.read(partial(_count, user=user, listed=_listed(user, namespace, deleted, flag)))

    def used(self, user: UserId) -> Deferred[int]:
        """Return the bytes of all blobs of a user."""
        return self._database.read(lambda connection: int(_user(connection, user).used))

    @deferred
    async def release_dead(self) -> int:
        """Give back what processes that are gone had set aside; return how many uploads that concerned."""
        dead = self._processes.dead(await self._database.read(_owners))
        if not dead:
            return 0
        released = await self._database.write(partial(_release_owners, owners=dead))
        self._processes.forget(dead)
        return released

    @deferred
    async def expire(self) -> int:
        """Remove the tombstones whose time is over; return how many there were."""
        now = int(self._clock())
        removed = 0
        for user in await self._database.read(partial(_users_with_expired, now=now)):
            removed += await self._database.write(partial(_expire, user=user, now=now))
        return removed

    def known(self, places: list[Place]) -> Deferred[set[Place]]:
        """Return those of ``places`` that hold the bytes of a blob."""
        return self._database.read(partial(_known, places=places))

    def rows(self, after: Key | None, limit: int) -> Deferred[list[tuple[Place, Stored]]]:
        """Return up to ``limit`` blobs of all users, in the order of their keys, after ``after``."""
        return self._database.read(partial(_rows, after=after, limit=limit))

    def miscounted(self) -> Deferred[list[tuple[UserId, int, int]]]:
        """Return the users whose total is not that of what they have: user, total, what it should be."""
        return self._database.read(_miscounted)


# --- users ----------------------------------------------------------------------------------------------------------


def _user(connection: Connection, user: UserId, writes: bool = False) -> Row[Any]:
    statement = select(users).where(users.c.user_id == user)
    # SQLite's transaction has the whole database by then; elsewhere the user's row is what writers wait for.
    row = connection.execute(statement.with_for_update() if writes else statement).one_or_none()
    if row is None:
        raise NoSuchUser(user)
    return row


def _advance(connection: Connection, user: UserId, used: int = 0) -> int:
    """Count one more change and ``used`` more bytes; return the number of the change."""
    statement = update(users).where(users.c.user_id == user)
    number = connection.execute(
        statement.values(changed=users.c.changed + 1, used=users.c.used + used).returning(users.c.changed)
    ).scalar_one_or_none()
    if number is None:
        raise NoSuchUser(user)
    return int(number)


# --- blobs ----------------------------------------------------------------------------------------------------------


def _at(key: Key) -> tuple[ColumnElement[bool], ...]:
    user, namespace, blob_id = key
    return (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id == blob_id)


def key_of(place: Place) -> Key:
    """Return what the blob at a place is known by."""
    return place.user, place.namespace, place.blob_id


def _live(connection: Connection, key: Key) -> Row[Any] | None:
    return connection.execute(select(blobs).where(*_at(key), ~blobs.c.deleted)).one_or_none()


def _required(connection: Connection, key: Key) -> Row[Any]:
    row = _live(connection, key)
    if row is None:
        raise BlobNotFound(key[2], key[1])
    return row


def _place(row: Row[Any]) -> Place:
    return Place(row.user_id, row.namespace, row.blob_id, row.upload)


def _info(row: Row[Any]) -> BlobInfo:
    flags = tuple(flag for flag, bit in FLAG_BITS.items() if row.flags & bit)
    return BlobInfo(
        row.blob_id, row.namespace, row.length, row.etag, flags, row.changed, bool(row.deleted), row.tombstone
    )


def _found(connection: Connection, key: Key) -> tuple[BlobInfo, Place]:
    row = _required(connection, key)
    return _info(row), _place(row)


def _commit(connection: Connection, place: Place, stored: Stored, date: int) -> None:
    number = _advance(connection, place.user, stored.length)
    if _live(connection, key_of(place)) is not None:
        raise BlobExists(place.blob_id, place.namespace)
    if not _release(connection, place):
        # Other processes took this one for dead, and the room may be another's by now.
        raise StorageFailed("the reservation is gone")
    connection.execute(delete(blobs).where(*_at(key_of(place))))
    connection.execute(
        insert(blobs).values(
            user_id=place.user,
            namespace=place.namespace,
            blob_id=place.blob_id,
            upload=place.upload,
            length=stored.length,
            etag=stored.etag,
            flags=0,
            stored=number,
            changed=number,
            date=date,
            deleted=False,
        )
    )


def _delete(connection: Connection, key: Key, tombstone: bytes | None, etag: str | None, date: int) -> Place:
    _user(connection, key[0], writes=True)
    row = _required(connection, key)
    if etag is not None and row.etag != etag:
        raise PreconditionFailed()
    number = _advance(connection, key[0], -row.length)
    connection.execute(
        update(blobs)
        .where(*_at(key))
        .values(
            upload=None,
            flags=0,
            stored=number,
            changed=number,
            date=date,
            deleted=True,
            tombstone=tombstone,
            expires=date + TOMBSTONE_LIFETIME,
        )
    )
    return _place(row)


def _set_flags(connection: Connection, key: Key, flags: tuple[Flag, ...]) -> None:
    number = _advance(connection, key[0])
    _required(connection, key)
    bits = sum(FLAG_BITS[flag] for flag in set(flags))
    connection.execute(update(blobs).where(*_at(key)).values(flags=bits, changed=number))


# --- room -----------------------------------------------------------------------------------------------------------


def _reserve(connection: Connection, place: Place, size: int, owner: str, default: int | None) -> None:
    user = _user(connection, place.user, writes=True)
    if _live(connection, key_of(place)) is not None:
        raise BlobExists(place.blob_id, place.namespace)
    quota = default if user.quota is None else user.quota
    if quota is not None:
        total = select(func.coalesce(func.sum(reservations.c.size), 0)).where(reservations.c.user_id == place.user)
        available = max(0, quota - user.used - int(connection.execute(total).scalar_one()))
        if size > available:
            raise QuotaExceeded(size, available)
    connection.execute(insert(reservations).values(user_id=place.user, upload=place.upload, owner=owner, size=size))


def _release(connection: Connection, place: Place) -> bool:
    statement = delete(reservations).where(reservations.c.user_id == place.user, reservations.c.upload == place.upload)
    return connection.execute(statement.returning(reservations.c.upload)).first() is not None


def _owners(connection: Connection) -> list[str]:
    return list(connection.execute(select(reservations.c.owner).distinct()).scalars())


def _release_owners(connection: Connection, owners: list[str]) -> int:
    statement = delete(reservations).where(reservations.c.owner.in_(owners)).returning(reservations.c.upload)
    return len(connection.execute(statement).all())


# --- lists ----------------------------------------------------------------------------------------------------------


def _listed(user: UserId, namespace: Namespace, deleted: bool, flag: Flag | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a list; the index of each kind of list has them as its first columns."""
    within = (blobs.c.user_id == user, blobs.c.namespace == namespace)
    if flag is None:
        return (*within, blobs.c.deleted == deleted)
    # Tombstones have no flags.  The condition is spelt as the index has it: what a parameter will be, no planner knows.
    flagged = false() if deleted else blobs.c.flags != literal_column("0")
    return (*within, flagged, blobs.c.flags.op("&")(FLAG_BITS[flag]) != 0)


def _token(kind: str, user: Row[Any], number: int) -> str:
    return f"{kind}.{user.incarnation}.{number}"


def blobs_head(user: Row[Any]) -> str:
    """Return the token of the last change of a user's blobs."""
    return _token(_BY_CHANGE, user, user.changed)


def _number(kind: str, user: Row[Any], token: str) -> int:
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] != kind:
        raise BadRequest("not a token of such a list")
    # A number that was never given out is from a history that a restored backup does not have.
    if match[2] != user.incarnation or int(match[3]) > user.changed:
        raise StaleToken()
    return int(match[3])


def _page(
    connection: Connection,
    user: UserId,
    listed: tuple[ColumnElement[bool], ...],
    newest_first: bool,
    after: str | None,
    limit: int,
) -> Page:
    row = _user(connection, user)
    key = blobs.c.stored
    statement = select(blobs).where(*listed).order_by(key.desc() if newest_first else key).limit(limit + 1)
    if after is not None:
        number = _number(_BY_DATE, row, after)
        statement = statement.where(key < number if newest_first else key > number)
    rows, more = _cut(connection, statement, limit)
    following = _token(_BY_DATE, row, rows[-1].stored) if more else None
    return Page(tuple(map(_info, rows)), following, _token(_BY_CHANGE, row, row.changed))


def _changes(connection: Connection, user: UserId, namespace: Namespace, since: str, limit: int) -> Page:
    row = _user(connection, user)
    number = _number(_BY_CHANGE, row, since)
    if number < row.forgotten:
        raise StaleToken()
    within = (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.changed > number)
    rows, more = _cut(connection, select(blobs).where(*within).order_by(blobs.c.changed).limit(limit + 1), limit)
    following = _token(_BY_CHANGE, row, rows[-1].changed) if more else None
    return Page(tuple(map(_info, rows)), following, _token(_BY_CHANGE, row, row.changed))


def _cut(connection: Connection, statement: Select[Any], limit: int) -> tuple[list[Row[Any]], bool]:
    """Return up to ``limit`` rows, and whether there are more."""
    rows = list(connection.execute(statement))
    return rows[:limit], len(rows) > limit


def _count(connection: Connection, user: UserId, listed: tuple[ColumnElement[bool], ...]) -> tuple[int, str]:
    row = _user(connection, user)
    number = connection.execute(select(func.count()).select_from(blobs).where(*listed)).scalar_one()
    return int(number), _token(_BY_CHANGE, row, row.changed)


# --- housekeeping ---------------------------------------------------------------------------------------------------


def _users_with_expired(connection: Connection, now: int) -> list[UserId]:
    return list(connection.execute(select(blobs.c.user_id).where(blobs.c.expires <= now).distinct()).scalars())


def _expire(connection: Connection, user: UserId, now: int) -> int:
    row = _user(connection, user, writes=True)
    expired = delete(blobs).where(blobs.c.user_id == user, blobs.c.expires <= now)
    numbers = list(connection.execute(expired.returning(blobs.c.changed)).scalars())
    forgotten = max([row.forgotten, *numbers])
    connection.execute(update(users).where(users.c.user_id == user).values(forgotten=forgotten))
    return len(numbers)


def _known(connection: Connection, places: list[Place]) -> set[Place]:
    return {place for place in places if (row := _live(connection, key_of(place))) and row.upload == place.upload}


def _rows(connection: Connection, after: Key | None, limit: int) -> list[tuple[Place, Stored]]:
    key = (blobs.c.user_id, blobs.c.namespace, blobs.c.blob_id)
    statement = select(blobs).where(~blobs.c.deleted).order_by(*key).limit(limit)
    if after is not None:
        user, namespace, blob_id = after
        statement = statement.where(tuple_(*key) > (user, namespace, blob_id))
    return [(_place(row), Stored(row.length, row.etag)) for row in connection.execute(statement)]


def _miscounted(connection: Connection) -> list[tuple[UserId, int, int]]:
    sums = (
        select(func.coalesce(func.sum(blobs.c.length), 0)).where(blobs.c.user_id == users.c.user_id, ~blobs.c.deleted),
        select(func.coalesce(func.sum(records.c.size), 0)).where(records.c.user_id == users.c.user_id),
        select(func.coalesce(func.sum(sync_heads.c.size), 0)).where(sync_heads.c.user_id == users.c.user_id),
    )
    in_blobs, in_records, in_heads = (one.scalar_subquery() for one in sums)
    total = in_blobs + in_records + in_heads
    rows = connection.execute(select(users.c.user_id, users.c.used, total.label("total")).where(users.c.used != total))
    return [(row.user_id, int(row.used), int(row.total)) for row in rows]
