"""Keyrings in the database: compared and swapped in one transaction, so that of two devices only one is first."""

from __future__ import annotations

from functools import partial
from hashlib import sha256

from attrs import define
from sqlalchemy import Connection, insert, select, update
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.errors import KeyringNotFound, NoSuchUser, PreconditionFailed
from soledad.model.ids import UserId
from soledad.server.database import Database
from soledad.server.interfaces import IKeyringsBackend
from soledad.server.schema import keyrings, users


@implementer(IKeyringsBackend)
@define(eq=False)
class Keyrings:
    """See `IKeyringsBackend`."""

    _database: Database

    def read_keyring(self, user: UserId) -> Deferred[tuple[bytes, str]]:
        """See `IKeyringsBackend`."""
        return self._database.read(partial(_read, user=user))

    def write_keyring(self, user: UserId, data: bytes, expected: str | None) -> Deferred[str]:
        """See `IKeyringsBackend`."""
        return self._database.write(partial(_write, user=user, data=data, expected=expected))


def _read(connection: Connection, user: UserId) -> tuple[bytes, str]:
    row = connection.execute(select(keyrings).where(keyrings.c.user_id == user)).first()
    if row is None:
        raise KeyringNotFound()
    return row.content, row.etag


def _write(connection: Connection, user: UserId, data: bytes, expected: str | None) -> str:
    if connection.execute(select(users.c.user_id).where(users.c.user_id == user)).first() is None:
        # Removed since the token was looked at; a keyring would outlive its user.
        raise NoSuchUser(user)
    etag = sha256(data).hexdigest()
    if expected is None:
        _insert(connection, user, data, etag)
    else:
        matching = (keyrings.c.user_id == user, keyrings.c.etag == expected)
        statement = update(keyrings).where(*matching).values(etag=etag, content=data).returning(keyrings.c.etag)
        if connection.execute(statement).first() is None:
            raise PreconditionFailed()
    return etag


def _insert(connection: Connection, user: UserId, data: bytes, etag: str) -> None:
    """:raise PreconditionFailed: there is one."""
    if connection.execute(select(keyrings.c.etag).where(keyrings.c.user_id == user)).first() is not None:
        raise PreconditionFailed()
    connection.execute(insert(keyrings).values(user_id=user, etag=etag, content=data))
