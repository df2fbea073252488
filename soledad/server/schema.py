"""
The tables of the index, and how older ones become these.

The user's id comes first in every key, so that users can be spread over several machines.  The statements and types
are those that SQLite and PostgreSQL share.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    update,
)

from soledad.errors import NewerSchema

metadata = MetaData()

#: The version of the tables; one row.
schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

users = Table(
    "users",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: Bytes; null: the server's default.
    Column("quota", BigInteger),
    #: Bytes of all blobs together.
    Column("used", BigInteger, nullable=False),
    #: Random; tokens of lists carry it, so that those of another history are told from ours.
    Column("incarnation", String(32), nullable=False),
    #: The number of the last change.
    Column("changed", BigInteger, nullable=False),
    #: The highest number among the tombstones that have expired.
    Column("forgotten", BigInteger, nullable=False),
    #: Unix time, seconds; here and below.
    Column("created", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: SHA-256 of the token, in hex.
    Column("digest", String(64), primary_key=True),
    Column("created", BigInteger, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("user_id", String(64), primary_key=True),
    Column("namespace", String(64), primary_key=True),
    Column("blob_id", String(128), primary_key=True),
    #: The name of the upload whose bytes these are; null: deleted.
    Column("upload", String(32)),
    Column("length", BigInteger, nullable=False),
    Column("etag", String(64), nullable=False),
    #: A bit for each flag: see `soledad.server.index.FLAG_BITS`.
    Column("flags", Integer, nullable=False),
    #: The number of the change that stored (or deleted) it: the order "by date".
    Column("stored", BigInteger, nullable=False),
    #: The number of its last change.
    Column("changed", BigInteger, nullable=False),
    #: When it was stored (or deleted).
    Column("date", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    #: Sealed; what came with the deletion.
    Column("tombstone", LargeBinary),
    #: When the tombstone may go; null: not deleted.
    Column("expires", BigInteger),
)
Index("blobs_by_date", blobs.c.user_id, blobs.c.namespace, blobs.c.deleted, blobs.c.stored)
Index("blobs_by_change", blobs.c.user_id, blobs.c.namespace, blobs.c.changed)
_flagged = blobs.c.flags != 0
Index(
    "blobs_with_flags",
    blobs.c.user_id,
    blobs.c.namespace,
    blobs.c.stored,
    sqlite_where=_flagged,
    postgresql_where=_flagged,
)
_expiring = blobs.c.expires.is_not(None)
Index(
    "tombstones_by_expiry",
    blobs.c.user_id,
    blobs.c.expires,
    sqlite_where=_expiring,
    postgresql_where=_expiring,
)

#: Room that is set aside for uploads under way.
reservations = Table(
    "reservations",
    metadata,
    Column("user_id", String(64), primary_key=True),
    Column("upload", String(32), primary_key=True),
    #: The server process that made it.
    Column("owner", String(32), nullable=False),
    #: Bytes.
    Column("size", BigInteger, nullable=False),
)

#: The state of a user's documents after the last push; no row: there was none.
sync_heads = Table(
    "sync_heads",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: The last number that was given out to a record, and the tag of the push that has it.
    Column("number", BigInteger, nullable=False),
    Column("tag", String(16), nullable=False),
    #: Sealed; its SHA-256 in hex, and its bytes.
    Column("checkpoint", LargeBinary, nullable=False),
    Column("etag", String(64), nullable=False),
    Column("size", Integer, nullable=False),
)

#: Every push of late: what tells a cursor of this history from one of another.
sync_pushes = Table(
    "sync_pushes",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: The last number of the push.
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    #: Random.
    Column("tag", String(16), nullable=False),
    Column("date", BigInteger, nullable=False),
)
Index("sync_pushes_by_date", sync_pushes.c.user_id, sync_pushes.c.date)

#: The newest record of each document.
records = Table(
    "records",
    metadata,
    Column("user_id", String(64), primary_key=True),
    Column("name", LargeBinary(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    #: SHA-256 of the container, and its bytes.
    Column("hash", LargeBinary(32), nullable=False),
    Column("size", Integer, nullable=False),
    #: Sealed; last, so that what stands before it can be read without it.
    Column("data", LargeBinary, nullable=False),
)
Index("records_by_number", records.c.user_id, records.c.number, unique=True)


def _create(connection: Connection) -> None:
    """Make the tables of version 1."""
    metadata.create_all(connection)
    connection.execute(insert(schema_version).values(version=0))


#: What turns version n into n + 1.  Plain functions rather than a migration tool: there is one writer of this schema,
#: a step is a few statements, and it runs in the transaction that also checks the version.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create,)


def migrate(connection: Connection, path: str = "") -> None:
    """
    Bring the tables up to date.  ``path`` is for the error.

    :raise NewerSchema: they are of a later version of soledad.
    """
    found = 0
    if inspect(connection).has_table(schema_version.name):
        found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found > len(MIGRATIONS):
        raise NewerSchema(path, found, len(MIGRATIONS))
    for number, step in enumerate(MIGRATIONS[found:], found + 1):
        step(connection)
        connection.execute(update(schema_version).values(version=number))
