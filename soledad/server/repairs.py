"""
The index mended by what the bytes tell.

What a list has had and has no more, or has again, its tokens do not know of: so whoever's blobs are touched gets a
new incarnation with it, in the same transaction, and devices compare in full.
"""

from __future__ import annotations

from functools import partial
from secrets import token_hex

from attrs import define, field
from sqlalchemy import Connection, delete, func, select, update
from twisted.internet.defer import Deferred

from soledad.model.ids import UserId
from soledad.server.database import Database
from soledad.server.index import Index, add_blob, set_aside
from soledad.server.interfaces import Place, Stored
from soledad.server.rows import key_of
from soledad.server.schema import blobs, users


@define(eq=False)
class Repairs:
    """One repair of a data folder that no server uses meanwhile."""

    _database: Database
    _incarnations: dict[UserId, str] = field(factory=dict, init=False)

    @classmethod
    def of(cls, index: Index) -> Repairs:
        """Return what mends an index."""
        return cls(index._database)

    def forget(self, place: Place) -> Deferred[bool]:
        """Let the blob at a place be none, as if it had never been: without a tombstone.  Tell whether it was one."""
        return self._database.write(partial(_forget, place=place, incarnation=self._incarnation(place.user)))

    def adopt(self, place: Place, stored: Stored, date: int) -> Deferred[bool]:
        """Let what is at a place be a blob; tell whether it is: not if its id is taken, was deleted, or is nobody's."""
        incarnation = self._incarnation(place.user)
        return self._database.write(partial(_adopt, place=place, stored=stored, date=date, incarnation=incarnation))

    def recount(self) -> Deferred[None]:
        """Let each user's total be that of their blobs."""
        return self._database.write(_recount)

    def restore(self) -> Deferred[int]:
        """Give all users a new incarnation; return how many there are."""
        return self._database.write(_restore)

    def _incarnation(self, user: UserId) -> str:
        return self._incarnations.setdefault(user, token_hex(16))


def _renew(connection: Connection, user: UserId, incarnation: str) -> None:
    connection.execute(update(users).where(users.c.user_id == user).values(incarnation=incarnation))


def _forget(connection: Connection, place: Place, incarnation: str) -> bool:
    user, namespace, blob_id = key_of(place)
    at = (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id == blob_id)
    gone = delete(blobs).where(*at, blobs.c.upload == place.upload).returning(blobs.c.length)
    length = connection.execute(gone).scalar_one_or_none()
    if length is None:
        return False
    connection.execute(update(users).where(users.c.user_id == user).values(used=users.c.used - length))
    _renew(connection, user, incarnation)
    return True


def _adopt(connection: Connection, place: Place, stored: Stored, date: int, incarnation: str) -> bool:
    user, namespace, blob_id = key_of(place)
    at = (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id == blob_id)
    is_known = connection.execute(select(blobs.c.blob_id).where(*at)).first() is not None
    is_users = connection.execute(select(users.c.user_id).where(users.c.user_id == user)).first() is not None
    if is_known or not is_users:
        return False
    # It is here already: no quota is asked.
    set_aside(connection, place, 0, None, None, date)
    add_blob(connection, place, stored, date)
    _renew(connection, user, incarnation)
    return True


def _recount(connection: Connection) -> None:
    total = select(func.coalesce(func.sum(blobs.c.length), 0)).where(
        blobs.c.user_id == users.c.user_id, ~blobs.c.deleted
    )
    connection.execute(update(users).values(used=total.scalar_subquery()))


def _restore(connection: Connection) -> int:
    names = list(connection.execute(select(users.c.user_id)).scalars())
    for name in names:
        _renew(connection, name, token_hex(16))
    return len(names)
