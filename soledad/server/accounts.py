"""
Users and their tokens.

A token is random and is kept only as its SHA-256, by which it is looked up: the database tells nobody a token, and
comparing takes no time that depends on one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from secrets import token_hex, token_urlsafe

from attrs import define, frozen
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from twisted.internet.defer import Deferred

from soledad.errors import NoSuchUser, UserExists
from soledad.model.ids import UserId
from soledad.server.database import Database
from soledad.server.schema import (
    blobs,
    keyrings,
    records,
    reservations,
    sync_heads,
    sync_pushes,
    tokens,
    uploads,
    users,
)

#: Hex digits that tell one token of a user from another, for people.
NAME_LENGTH = 12


@frozen
class Account:
    """A user, as an operator sees it."""

    user: UserId
    #: Bytes; none: the server's default.
    quota: int | None
    used: int


@frozen
class TokenInfo:
    """A token, without what it opens."""

    name: str
    #: Unix time, seconds.
    created: int


@define(eq=False)
class Accounts:
    """The users of one data folder."""

    _database: Database
    #: Unix time, seconds.
    _clock: Callable[[], float]

    @property
    def database(self) -> Database:
        """Where they are kept, and what else is kept of them."""
        return self._database

    def knows(self, user: UserId, token: str) -> Deferred[bool]:
        """Tell whether the token is one of the user's, at this moment."""
        return self._database.read(partial(_knows, user=user, digest=_digest(token)))

    def add_user(self, user: UserId, quota: int | None = None) -> Deferred[str]:
        """
        Add a user, and return a first token.

        :raise UserExists: there is one of that name.
        """
        token = token_urlsafe(32)
        date = int(self._clock())
        return self._database.write(partial(_add_user, user=user, quota=quota, date=date, token=token))

    def remove_user(self, user: UserId) -> Deferred[None]:
        """
        Remove a user with all tokens, records and blobs; the bytes of blobs go when the byte store is swept.

        :raise NoSuchUser: there is none.
        """
        return self._database.write(partial(_remove_user, user=user))

    def set_quota(self, user: UserId, quota: int | None) -> Deferred[None]:
        """:raise NoSuchUser: there is none."""
        return self._database.write(partial(_set_quota, user=user, quota=quota))

    def users(self) -> Deferred[list[Account]]:
        """Return all users, by name."""
        return self._database.read(_users)

    def add_token(self, user: UserId) -> Deferred[str]:
        """
        Return a new token; those there are stay valid.

        :raise NoSuchUser: there is none.
        """
        token = token_urlsafe(32)
        date = int(self._clock())
        return self._database.write(partial(_add_token, user=user, token=token, date=date))

    def tokens(self, user: UserId) -> Deferred[list[TokenInfo]]:
        """:raise NoSuchUser: there is none."""
        return self._database.read(partial(_tokens, user=user))

    def revoke_tokens(self, user: UserId, name: str | None = None) -> Deferred[int]:
        """
        Make the token of that name, or every one, invalid at once; return how many there were.

        :raise NoSuchUser: there is none.
        """
        return self._database.write(partial(_revoke, user=user, name=name))


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


#: Made once: each request needs it.
_TOKEN = select(tokens.c.digest).where(tokens.c.user_id == bindparam("user"), tokens.c.digest == bindparam("sought"))


def _knows(connection: Connection, user: UserId, digest: str) -> bool:
    return connection.execute(_TOKEN, {"user": user, "sought": digest}).first() is not None


def _exists(connection: Connection, user: UserId) -> bool:
    return connection.execute(select(users.c.user_id).where(users.c.user_id == user)).first() is not None


def _require(connection: Connection, user: UserId) -> None:
    if not _exists(connection, user):
        raise NoSuchUser(user)


def _add_user(connection: Connection, user: UserId, quota: int | None, date: int, token: str) -> str:
    if _exists(connection, user):
        raise UserExists(user)
    connection.execute(
        insert(users).values(
            user_id=user, quota=quota, used=0, incarnation=token_hex(16), changed=0, forgotten=0, created=date
        )
    )
    return _add_token(connection, user, token, date)


def _remove_user(connection: Connection, user: UserId) -> None:
    _require(connection, user)
    for table in (tokens, reservations, uploads, blobs, records, sync_pushes, sync_heads, keyrings, users):
        connection.execute(delete(table).where(table.c.user_id == user))


def _set_quota(connection: Connection, user: UserId, quota: int | None) -> None:
    _require(connection, user)
    connection.execute(update(users).where(users.c.user_id == user).values(quota=quota))


def _users(connection: Connection) -> list[Account]:
    statement = select(users.c.user_id, users.c.quota, users.c.used).order_by(users.c.user_id)
    return [Account(row.user_id, row.quota, row.used) for row in connection.execute(statement)]


def _add_token(connection: Connection, user: UserId, token: str, date: int) -> str:
    _require(connection, user)
    connection.execute(insert(tokens).values(user_id=user, digest=_digest(token), created=date))
    return token


def _tokens(connection: Connection, user: UserId) -> list[TokenInfo]:
    _require(connection, user)
    statement = select(tokens).where(tokens.c.user_id == user).order_by(tokens.c.created, tokens.c.digest)
    return [TokenInfo(row.digest[:NAME_LENGTH], row.created) for row in connection.execute(statement)]


def _revoke(connection: Connection, user: UserId, name: str | None) -> int:
    _require(connection, user)
    statement = delete(tokens).where(tokens.c.user_id == user)
    if name is not None:
        statement = statement.where(tokens.c.digest.startswith(name, autoescape=True))
    return len(connection.execute(statement.returning(tokens.c.digest)).all())
