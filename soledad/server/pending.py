"""
Uploads that can be resumed: what each has so far, for every backend.

An upload's row says how many of its bytes count.  What the byte store has beyond them is from a request that was not
finished, and is overwritten.  Its room is set aside until it becomes a blob, is abandoned, or expires.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from attrs import define
from sqlalchemy import Connection, Row, delete, insert, select, update
from twisted.internet.defer import Deferred

from soledad.deferreds import deferred
from soledad.errors import QuotaExceeded, UploadNotFound
from soledad.model.ids import UserId
from soledad.server.database import Database
from soledad.server.index import Index, add_blob, set_aside
from soledad.server.interfaces import Place, Stored, Upload
from soledad.server.rows import end_expired, give_back
from soledad.server.schema import uploads

#: Seconds after which an upload expires that gets no more bytes; and for which one that has ended is remembered.
UPLOAD_LIFETIME = 24 * 3600


@define(eq=False)
class Pending:
    """The uploads of one data folder."""

    _database: Database
    #: Unix time, seconds.
    _clock: Callable[[], float]
    _default_quota: int | None
    _release_dead: Callable[[], Awaitable[int]]

    @classmethod
    def of(cls, index: Index) -> Pending:
        """Return the uploads that an index is for."""
        return cls(index._database, index._clock, index._default_quota, index.release_dead)

    @deferred
    async def create(self, place: Place, length: int, described: str) -> Upload:
        """
        Note a new upload, and set its room aside.

        :raise BlobExists: the id is taken.
        :raise QuotaExceeded: there is no room.
        """
        now = int(self._clock())
        upload = Upload(place, length, 0, False, described, now + UPLOAD_LIFETIME)
        unit = partial(_create, upload=upload, default=self._default_quota, now=now)
        try:
            await self._database.write(unit)
        except QuotaExceeded:
            # Perhaps the room is held for a process that is no more.
            if not await self._release_dead():
                raise
            await self._database.write(unit)
        return upload

    def find(self, user: UserId, name: str) -> Deferred[Upload]:
        """:raise UploadNotFound: there is no such upload, or it has expired."""
        return self._database.read(partial(_find, user=user, name=name, now=int(self._clock())))

    def received(self, upload: Upload, received: int, durable: bool = True) -> Deferred[Upload]:
        """
        Note how many bytes are durable, and let the upload live on.

        :param durable: whether this has to survive a power cut: the bytes do.
        :raise UploadNotFound: it has ended.
        """
        unit = partial(_received, upload=upload, received=received, expires=int(self._clock()) + UPLOAD_LIFETIME)
        return self._database.write(unit, durable)

    @deferred
    async def told(self, user: UserId, name: str) -> Upload:
        """
        Return what a client may be told of an upload: it survives a power cut, whichever process noted it.

        :raise UploadNotFound: there is no such upload, or it has expired.
        """
        found = await self.find(user, name)
        if found.done or not found.received:
            return found
        # What is durable makes durable what was written before it.
        return await self._database.write(partial(_confirm, upload=found))

    @deferred
    async def keep(self, upload: Upload) -> Upload:
        """
        Let an upload live on with which somebody goes on: slow bytes may take hours until some of them count.

        :raise UploadNotFound: it has ended.
        """
        is_young = upload.expires - self._clock() > UPLOAD_LIFETIME / 2
        return upload if is_young else await self.received(upload, upload.received)

    def commit(self, upload: Upload, stored: Stored) -> Deferred[Upload]:
        """
        Let it be a blob; its bytes are durable, all of them.

        :raise UploadNotFound: it has ended.
        :raise BlobExists: the id was taken meanwhile.
        """
        return self._database.write(partial(_commit, upload=upload, stored=stored, date=int(self._clock())))

    def end(self, upload: Upload) -> Deferred[bool]:
        """Forget it, and give its room back; tell whether it was under way: then its bytes may go."""
        return self._database.write(partial(_end, upload=upload))

    @deferred
    async def expire(self) -> int:
        """End the uploads with which nobody went on; return how many."""
        now = int(self._clock())
        ended = 0
        for user in await self._database.read(partial(_users_with_expired, now=now)):
            ended += await self._database.write(partial(end_expired, user=user, now=now))
        return ended


def _at(user: UserId, name: str) -> tuple[Any, ...]:
    return (uploads.c.user_id == user, uploads.c.upload == name)


def _named(upload: Upload) -> tuple[Any, ...]:
    return _at(upload.place.user, upload.name)


def _create(connection: Connection, upload: Upload, default: int | None, now: int) -> None:
    place = upload.place
    set_aside(connection, place, upload.length, None, default, now)
    connection.execute(
        insert(uploads).values(
            user_id=place.user,
            upload=place.upload,
            namespace=place.namespace,
            blob_id=place.blob_id,
            length=upload.length,
            received=0,
            done=False,
            described=upload.described,
            expires=upload.expires,
        )
    )


def _find(connection: Connection, user: UserId, name: str, now: int) -> Upload:
    row = connection.execute(select(uploads).where(*_at(user, name), uploads.c.expires > now)).one_or_none()
    if row is None:
        raise UploadNotFound(name)
    return _upload(row)


def _upload(row: Row[Any]) -> Upload:
    place = Place(row.user_id, row.namespace, row.blob_id, row.upload)
    return Upload(place, row.length, row.received, bool(row.done), row.described, row.expires)


def _change(connection: Connection, upload: Upload, **values: Any) -> Upload:
    changed = update(uploads).where(*_named(upload), ~uploads.c.done).values(**values).returning(uploads)
    row = connection.execute(changed).one_or_none()
    if row is None:
        raise UploadNotFound(upload.name)
    return _upload(row)


def _received(connection: Connection, upload: Upload, received: int, expires: int) -> Upload:
    return _change(connection, upload, received=received, expires=expires)


def _confirm(connection: Connection, upload: Upload) -> Upload:
    row = connection.execute(
        update(uploads).where(*_named(upload)).values(received=uploads.c.received).returning(uploads)
    ).one_or_none()
    if row is None:
        raise UploadNotFound(upload.name)
    return _upload(row)


def _commit(connection: Connection, upload: Upload, stored: Stored, date: int) -> Upload:
    ended = _change(connection, upload, received=upload.length, done=True, expires=date + UPLOAD_LIFETIME)
    add_blob(connection, upload.place, stored, date)
    return ended


def _end(connection: Connection, upload: Upload) -> bool:
    give_back(connection, upload.place)
    done = connection.execute(delete(uploads).where(*_named(upload)).returning(uploads.c.done)).scalar_one_or_none()
    return done is not None and not done


def _users_with_expired(connection: Connection, now: int) -> list[UserId]:
    return list(connection.execute(select(uploads.c.user_id).where(uploads.c.expires <= now).distinct()).scalars())
