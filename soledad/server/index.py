"""
What there is: blobs, tombstones, flags, change numbers and room, for every backend.

The row of a blob is what makes it exist: it is written when the bytes are durable, and goes before they go.  Change
numbers are given out by the user's row, which a writing transaction holds to its end, so they become visible in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import define, field
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    delete,
    false,
    func,
    insert,
    select,
    tuple_,
    update,
)
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from soledad.deferreds import completed, deferred
from soledad.errors import (
    BadRequest,
    BlobExists,
    BlobNotFound,
    PreconditionFailed,
    QuotaExceeded,
    SoledadError,
    StaleToken,
    StorageError,
    StorageFailed,
)
from soledad.model.blob import BlobInfo, Flag
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.batches import commit_batch, find_batch, reserve_batch
from soledad.server.claims import claim, has_lapsed, lapse, set_flags
from soledad.server.database import Database, Unit
from soledad.server.interfaces import Place, Stored
from soledad.server.processes import IProcesses
from soledad.server.rows import (
    AT,
    Key,
    advance,
    at,
    end_expired,
    give_back,
    info_of,
    key_of,
    live,
    named,
    place_of,
    required,
    set_aside_for,
    stored_total,
    user_row,
)
from soledad.server.schema import blobs, flagged, reservations, uploads, users
from soledad.wire.listing import Namespaces, Page
from soledad.wire.routes import NAMESPACES_LIMIT

T = TypeVar("T")

#: How long a tombstone is kept, in seconds: a device that is away for longer compares in full.
TOMBSTONE_LIFETIME = 180 * 24 * 3600

_TOKEN = re.compile(r"([cd])\.([0-9a-f]{32})\.([0-9]{1,18})", re.ASCII)
#: Kinds of tokens: a position in the order of change, and in that of storing.
_BY_CHANGE, _BY_DATE = "c", "d"

_log = Logger()


@define(eq=False)
class Index:
    """The index of one data folder, as one of its processes sees it."""

    _database: Database
    _processes: IProcesses
    #: Unix time, seconds.
    _clock: Callable[[], float]
    #: Bytes that a user may store who has no quota of their own; none: as much as there is room.
    _default_quota: int | None = None
    #: What was set aside and could not be given back.
    _owed: dict[Place, None] = field(factory=dict, init=False)

    @deferred
    async def reserve(self, place: Place, size: int) -> None:
        """
        Set ``size`` bytes aside for an upload, until `commit` or `release`, or until this process is gone.

        :raise BlobExists: the id is taken.
        :raise QuotaExceeded: there is no room.
        """
        owner, now = self._processes.name, self._now()
        unit = partial(set_aside, place=place, size=size, owner=owner, default=self._default_quota, now=now)
        # After a power cut nobody has anything set aside: this need not outlast one.
        try:
            await self._database.write(unit, durable=False)
        except QuotaExceeded:
            # Perhaps the room is held for a process that is no more.
            if not await self.release_dead():
                raise
            await self._database.write(unit, durable=False)

    @deferred
    async def release(self, place: Place) -> bool:
        """
        Give back what was set aside for an upload; tell whether there was anything.

        What cannot be given back now, on a full disk, is given back later: with `release_dead`.
        """
        try:
            return await self._database.write(partial(give_back, place=place), durable=False)
        except SoledadError as error:
            # Why the upload failed is what its client has to hear, not this.
            _log.error("What was set aside for {place} could not be given back yet: {error}", place=place, error=error)
            self._owed[place] = None
            return False

    def commit(self, place: Place, stored: Stored) -> Deferred[None]:
        """
        Make the blob exist; its bytes are durable already.

        :raise BlobExists: another upload of the same id was faster.
        """
        return self._database.write(partial(add_blob, place=place, stored=stored, date=self._now()))

    @deferred
    async def reserve_batch(
        self, user: UserId, namespace: Namespace, upload: str, wanted: Sequence[tuple[BlobId, int]]
    ) -> list[StorageError | None]:
        """
        Set room aside for those of ``wanted`` (ids and bytes) that may be stored, as `reserve` does.

        :return: `None` for each of them, and why not for each other.
        """
        unit = partial(
            reserve_batch,
            user=user,
            namespace=namespace,
            upload=upload,
            wanted=wanted,
            owner=self._processes.name,
            default=self._default_quota,
            now=self._now(),
        )
        outcomes = await self._database.write(unit, durable=False)
        if any(isinstance(outcome, QuotaExceeded) for outcome in outcomes):
            place = Place(user, namespace, wanted[0][0], upload)
            try:
                if await self.release_dead():
                    outcomes = await self._database.write(partial(_anew, place=place, unit=unit), durable=False)
            except BaseException:
                # Nobody else knows what was set aside by now.
                await completed(self.release(place))
                raise
        return outcomes

    def commit_batch(self, batch: Sequence[tuple[Place, Stored]]) -> Deferred[set[Place]]:
        """Make blobs exist, whose bytes are durable already; fire with those whose ids were taken meanwhile."""
        return self._database.write(partial(commit_batch, batch=batch, date=self._now()))

    def delete(self, key: Key, tombstone: bytes | None, etag: str | None) -> Deferred[Place]:
        """
        Make the blob a tombstone; return where its bytes were.

        :raise BlobNotFound: there is no such blob.
        :raise PreconditionFailed: it has another tag than ``etag``.
        """
        date = self._now()
        return self._database.write(partial(_delete, key=key, tombstone=tombstone, etag=etag, date=date))

    def find(self, key: Key) -> Deferred[tuple[BlobInfo, Place]]:
        """:raise BlobNotFound: there is no such blob."""
        return self._database.read(partial(_found, key=key, now=self._now()))

    def find_batch(
        self, user: UserId, namespace: Namespace, blob_ids: Sequence[BlobId]
    ) -> Deferred[list[tuple[BlobInfo, Place] | BlobNotFound]]:
        """Return what there is of each blob, or that it is not there."""
        unit = partial(find_batch, user=user, namespace=namespace, blob_ids=blob_ids, now=self._now())
        return self._database.read(unit)

    def set_flags(self, key: Key, flags: tuple[Flag, ...]) -> Deferred[None]:
        """:raise BlobNotFound: there is no such blob."""
        return self._database.write(partial(set_flags, key=key, flags=flags))

    def claim(self, key: Key, seconds: int) -> Deferred[None]:
        """See `IBlobsBackend.claim`."""
        return self._database.write(partial(claim, key=key, seconds=seconds, now=self._now()))

    @deferred
    async def page(
        self,
        user: UserId,
        namespace: Namespace,
        *,
        newest_first: bool,
        deleted: bool,
        flag: Flag | None,
        after: str | None,
        limit: int,
    ) -> Page:
        """See `IBlobsBackend.list_blobs`."""
        now = self._now()
        listed = _listed(user, namespace, deleted, flag)
        unit = partial(_page, user=user, listed=listed, newest_first=newest_first, after=after, limit=limit, now=now)
        return await (self._database.read(unit) if flag is None else self._settled(user, now, unit))

    def changes(self, user: UserId, namespace: Namespace, since: str, limit: int) -> Deferred[Page]:
        """See `IBlobsBackend.get_changes`."""
        now = self._now()
        unit = partial(_changes, user=user, namespace=namespace, since=since, limit=limit, now=now)
        return self._settled(user, now, unit)

    def count(self, user: UserId, namespace: Namespace, deleted: bool, flag: Flag | None) -> Deferred[tuple[int, str]]:
        """See `IBlobsBackend.count`."""
        unit = partial(_count, user=user, listed=_listed(user, namespace, deleted, flag))
        return self._database.read(unit) if flag is None else self._settled(user, self._now(), unit)

    def namespaces(self, user: UserId) -> Deferred[Namespaces]:
        """See `IBlobsBackend.list_namespaces`."""
        return self._database.read(partial(_namespaces, user=user))

    @deferred
    async def _settled(self, user: UserId, now: int, unit: Unit[T]) -> T:
        """Run a unit of work that only reads, when all claims that have run out by ``now`` are undone."""
        settled = partial(_unless_lapsed, user=user, now=now, unit=unit)
        while (found := await self._database.read(settled)) is None:
            await self._database.write(partial(lapse, user=user, now=now))
        return found[0]

    def used(self, user: UserId) -> Deferred[int]:
        """Return the bytes of all blobs of a user."""
        return self._database.read(lambda connection: int(user_row(connection, user).used))

    @deferred
    async def release_dead(self) -> int:
        """
        Give back what processes that are gone had set aside, and what this one could not give back until now.

        :return: how many uploads that concerned.
        """
        released = 0
        for place in list(self._owed):
            del self._owed[place]
            released += await completed(self.release(place))
        dead = self._processes.dead(await self._database.read(_owners))
        if not dead:
            return released
        released += await self._database.write(partial(_release_owners, owners=dead))
        self._processes.forget(dead)
        return released

    @deferred
    async def expire(self) -> int:
        """Remove the tombstones whose time is over; return how many there were."""
        now = self._now()
        removed = 0
        for user in await self._database.read(partial(_users_with_expired, now=now)):
            removed += await self._database.write(partial(_expire, user=user, now=now))
        return removed

    def _now(self) -> int:
        return int(self._clock())

    def date(self, age: float) -> int:
        """Return when something was written that is ``age`` seconds old."""
        return int(self._clock() - age)

    def known(self, places: list[Place]) -> Deferred[set[Place]]:
        """Return those of ``places`` that hold the bytes of a blob, or of an upload under way."""
        return self._database.read(partial(_known, places=places))

    def rows(self, after: Key | None, limit: int) -> Deferred[list[tuple[Place, Stored]]]:
        """Return up to ``limit`` blobs of all users, in the order of their keys, after ``after``."""
        return self._database.read(partial(_rows, after=after, limit=limit))

    def miscounted(self) -> Deferred[list[tuple[UserId, int, int]]]:
        """Return the users whose total is not that of what they have: user, total, what it should be."""
        return self._database.read(_miscounted)


# --- blobs ----------------------------------------------------------------------------------------------------------


def _found(connection: Connection, key: Key, now: int) -> tuple[BlobInfo, Place]:
    row = required(connection, key)
    return info_of(row, now), place_of(row)


_BEFORE = select(blobs.c.deleted, blobs.c.tombstone).where(*AT)
_REMOVE = delete(blobs).where(*AT)
_ADD = insert(blobs).values(flags=0, deleted=False)


def add_blob(connection: Connection, place: Place, stored: Stored, date: int) -> None:
    """Make a blob of what is at a place, for which room is set aside."""
    number = advance(connection, place.user, stored.length)
    blob = named(key_of(place))
    # Nobody else writes this user's rows before the transaction ends.
    before = connection.execute(_BEFORE, blob).one_or_none()
    if before is not None and not before.deleted:
        raise BlobExists(place.blob_id, place.namespace)
    if not give_back(connection, place):
        # Other processes took this one for dead, and the room may be another's by now.
        raise StorageFailed("the reservation is gone")
    if before is not None:
        connection.execute(_REMOVE, blob)
    row = {
        "user_id": place.user,
        "namespace": place.namespace,
        "blob_id": place.blob_id,
        "upload": place.upload,
        "length": stored.length,
        "etag": stored.etag,
        "stored": number,
        "changed": number,
        "date": date,
        # That of what was deleted under the id stays: who has that, hears so that it is to go.
        "tombstone": None if before is None else before.tombstone,
    }
    connection.execute(_ADD, row)


def _delete(connection: Connection, key: Key, tombstone: bytes | None, etag: str | None, date: int) -> Place:
    user_row(connection, key[0], writes=True)
    row = required(connection, key)
    if etag is not None and row.etag != etag:
        raise PreconditionFailed()
    number = advance(connection, key[0], -row.length)
    connection.execute(
        update(blobs)
        .where(*at(key))
        .values(
            upload=None,
            flags=0,
            claimed_until=None,
            stored=number,
            changed=number,
            date=date,
            deleted=True,
            tombstone=tombstone,
            expires=date + TOMBSTONE_LIFETIME,
        )
    )
    return place_of(row)


# --- room -----------------------------------------------------------------------------------------------------------


_RESERVE = insert(reservations)


def set_aside(
    connection: Connection, place: Place, size: int, owner: str | None, default: int | None, now: int
) -> None:
    """Set ``size`` bytes aside for an upload; without ``owner`` they stay so when this process is gone."""
    user = user_row(connection, place.user, writes=True)
    if live(connection, key_of(place)) is not None:
        raise BlobExists(place.blob_id, place.namespace)
    quota = default if user.quota is None else user.quota
    if quota is not None:
        end_expired(connection, place.user, now)
        available = max(0, quota - user.used - set_aside_for(connection, place.user))
        if size > available:
            raise QuotaExceeded(size, available)
    room = {"user_id": place.user, "upload": place.upload, "owner": owner, "size": size}
    connection.execute(_RESERVE, room)


def _anew(connection: Connection, place: Place, unit: Unit[T]) -> T:
    """Set room aside once more, and instead of what was."""
    give_back(connection, place)
    return unit(connection)


def _owners(connection: Connection) -> list[str]:
    owners = select(reservations.c.owner).where(reservations.c.owner.is_not(None)).distinct()
    return list(connection.execute(owners).scalars())


def _release_owners(connection: Connection, owners: list[str]) -> int:
    statement = delete(reservations).where(reservations.c.owner.in_(owners)).returning(reservations.c.upload)
    return len(connection.execute(statement).all())


# --- lists ----------------------------------------------------------------------------------------------------------


def _listed(user: UserId, namespace: Namespace, deleted: bool, flag: Flag | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a list; the index of each kind of list has them as its first columns."""
    within = (blobs.c.user_id == user, blobs.c.namespace == namespace)
    if flag is None:
        return (*within, blobs.c.deleted == deleted)
    # Tombstones have no flags.
    return (*within, false() if deleted else flagged(flag))


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
    now: int,
) -> Page:
    row = user_row(connection, user)
    key = blobs.c.stored
    statement = select(blobs).where(*listed).order_by(key.desc() if newest_first else key).limit(limit + 1)
    if after is not None:
        number = _number(_BY_DATE, row, after)
        statement = statement.where(key < number if newest_first else key > number)
    rows, more = _cut(connection, statement, limit)
    following = _token(_BY_DATE, row, rows[-1].stored) if more else None
    return Page(tuple(info_of(row, now) for row in rows), following, _token(_BY_CHANGE, row, row.changed))


def _changes(connection: Connection, user: UserId, namespace: Namespace, since: str, limit: int, now: int) -> Page:
    row = user_row(connection, user)
    number = _number(_BY_CHANGE, row, since)
    if number < row.forgotten:
        raise StaleToken()
    within = (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.changed > number)
    rows, more = _cut(connection, select(blobs).where(*within).order_by(blobs.c.changed).limit(limit + 1), limit)
    following = _token(_BY_CHANGE, row, rows[-1].changed) if more else None
    return Page(tuple(info_of(row, now) for row in rows), following, _token(_BY_CHANGE, row, row.changed))


def _cut(connection: Connection, statement: Select[Any], limit: int) -> tuple[list[Row[Any]], bool]:
    """Return up to ``limit`` rows, and whether there are more."""
    rows = list(connection.execute(statement).all())
    return rows[:limit], len(rows) > limit


def _unless_lapsed(connection: Connection, user: UserId, now: int, unit: Unit[T]) -> tuple[T] | None:
    return None if has_lapsed(connection, user, now) else (unit(connection),)


def _count(connection: Connection, user: UserId, listed: tuple[ColumnElement[bool], ...]) -> tuple[int, str]:
    row = user_row(connection, user)
    number = connection.execute(select(func.count()).select_from(blobs).where(*listed)).scalar_one()
    return int(number), _token(_BY_CHANGE, row, row.changed)


def _namespaces(connection: Connection, user: UserId) -> Namespaces:
    row = user_row(connection, user)
    names = connection.execute(_NAMESPACES, {"user": user}).scalars()
    # Databases may have an order of their own.
    return Namespaces(tuple(sorted(map(Namespace, names))), blobs_head(row))


def _each_namespace() -> Select[Any]:
    """Return the statement that goes from one namespace to the next: DISTINCT would look at each blob."""
    least = select(blobs.c.namespace).where(blobs.c.user_id == bindparam("user")).order_by(blobs.c.namespace).limit(1)
    found = select(least.scalar_subquery().label("name")).cte("found", recursive=True)
    following = least.where(blobs.c.namespace > found.c.name).scalar_subquery()
    found = found.union_all(select(following).where(found.c.name.is_not(None)))
    return select(found.c.name).where(found.c.name.is_not(None)).limit(NAMESPACES_LIMIT)


_NAMESPACES = _each_namespace()


# --- housekeeping ---------------------------------------------------------------------------------------------------


def _users_with_expired(connection: Connection, now: int) -> list[UserId]:
    return list(connection.execute(select(blobs.c.user_id).where(blobs.c.expires <= now).distinct()).scalars())


def _expire(connection: Connection, user: UserId, now: int) -> int:
    row = user_row(connection, user, writes=True)
    expired = delete(blobs).where(blobs.c.user_id == user, blobs.c.expires <= now)
    numbers = list(connection.execute(expired.returning(blobs.c.changed)).scalars())
    forgotten = max([row.forgotten, *numbers])
    connection.execute(update(users).where(users.c.user_id == user).values(forgotten=forgotten))
    return len(numbers)


def _known(connection: Connection, places: list[Place]) -> set[Place]:
    return {place for place in places if _holds_blob(connection, place) or _holds_upload(connection, place)}


def _holds_blob(connection: Connection, place: Place) -> bool:
    row = live(connection, key_of(place))
    return row is not None and row.upload == place.upload


def _holds_upload(connection: Connection, place: Place) -> bool:
    named = (uploads.c.user_id == place.user, uploads.c.upload == place.upload, ~uploads.c.done)
    return connection.execute(select(uploads.c.upload).where(*named)).first() is not None


def _rows(connection: Connection, after: Key | None, limit: int) -> list[tuple[Place, Stored]]:
    key = (blobs.c.user_id, blobs.c.namespace, blobs.c.blob_id)
    statement = select(blobs).where(~blobs.c.deleted).order_by(*key).limit(limit)
    if after is not None:
        user, namespace, blob_id = after
        statement = statement.where(tuple_(*key) > (user, namespace, blob_id))
    return [(place_of(row), Stored(row.length, row.etag)) for row in connection.execute(statement)]


def _miscounted(connection: Connection) -> list[tuple[UserId, int, int]]:
    total = stored_total()
    rows = connection.execute(select(users.c.user_id, users.c.used, total.label("total")).where(users.c.used != total))
    return [(row.user_id, int(row.used), int(row.total)) for row in rows]
