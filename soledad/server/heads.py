"""What tells one state of users from another: one statement for many of them, for those that wait for a change."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from attrs import define
from sqlalchemy import Connection, select
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.model.ids import UserId
from soledad.server.database import Database
from soledad.server.index import blobs_head
from soledad.server.interfaces import IHeadsBackend
from soledad.server.schema import keyrings, sync_heads, users
from soledad.wire.events import Heads

#: Users in one statement: SQLite and PostgreSQL take more.
_CHUNK = 500


@implementer(IHeadsBackend)
@define(eq=False)
class HeadsInDatabase:
    """See `IHeadsBackend`."""

    _database: Database

    def read_heads(self, wanted: Collection[UserId]) -> Deferred[dict[UserId, Heads]]:
        """See `IHeadsBackend`."""
        return self._database.read(partial(_read, wanted=sorted(wanted)))


def _read(connection: Connection, wanted: list[UserId]) -> dict[UserId, Heads]:
    columns = (
        users.c.user_id,
        users.c.incarnation,
        users.c.changed,
        sync_heads.c.etag.label("documents"),
        keyrings.c.etag.label("keyring"),
    )
    joined = users.outerjoin(sync_heads, sync_heads.c.user_id == users.c.user_id).outerjoin(
        keyrings, keyrings.c.user_id == users.c.user_id
    )
    found = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        rows: Any = connection.execute(select(*columns).select_from(joined).where(users.c.user_id.in_(chunk)))
        for row in rows:
            found[UserId(row.user_id)] = Heads(row.documents, blobs_head(row), row.keyring)
    return found
