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
    ColumnElement,
    Connection,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    literal_column,
    select,
    update,
)

from soledad.errors import NewerSchema
from soledad.model.blob import Flag

metadata = MetaData()


class Bytes(LargeBinary):
    """Bytes as both databases take them; to copy each of many records before it is stored takes as long as storing."""

    def bind_processor(self, dialect: Dialect) -> None:
        """Return nothing: bytes need none."""
        return


#: The bit of each flag in a row.
FLAG_BITS = {Flag.PENDING: 1, Flag.PROCESSING: 2, Flag.PROCESSED: 4, Flag.FAILED: 8}

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
    #: A bit for each flag: see `FLAG_BITS`.
    Column("flags", Integer, nullable=False),
    #: When the claim that PROCESSING stands for runs out; null: there is none.
    Column("claimed_until", BigInteger),
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


def flagged(flag: Flag) -> ColumnElement[bool]:
    """
    Return the condition that a blob has the flag.

    It is spelt just so in the indexes too: what a parameter will be, no planner knows.
    """
    return blobs.c.flags.op("&")(literal_column(str(FLAG_BITS[flag]))) != literal_column("0")


for _flag in FLAG_BITS:
    # An index for each: of a million blobs that are PROCESSED none is looked at to find those that are PENDING.
    Index(
        f"blobs_{_flag.value.lower()}",
        blobs.c.user_id,
        blobs.c.namespace,
        blobs.c.stored,
        sqlite_where=flagged(_flag),
        postgresql_where=flagged(_flag),
    )
_claimed = blobs.c.claimed_until.is_not(None)
Index(
    "blobs_by_claim",
    blobs.c.user_id,
    blobs.c.claimed_until,
    sqlite_where=_claimed,
    postgresql_where=_claimed,
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
    #: The server process that made it; null: it is for an upload that outlasts processes.
    Column("owner", String(32)),
    #: Bytes.
    Column("size", BigInteger, nullable=False),
)

#: Uploads that can be resumed; those that became a blob are remembered for a while.
uploads = Table(
    "uploads",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: Its name, for the client, and in the byte store.
    Column("upload", String(32), primary_key=True),
    Column("namespace", String(64), nullable=False),
    Column("blob_id", String(128), nullable=False),
    #: Bytes of the whole blob.
    Column("length", BigInteger, nullable=False),
    #: How many of its bytes count: they are durable.  What the byte store has beyond them does not.
    Column("received", BigInteger, nullable=False),
    #: It became a blob.
    Column("done", Boolean, nullable=False),
    #: What the client said of it, as it said it.
    Column("described", String(4096), nullable=False),
    #: When it goes if nobody goes on with it.
    Column("expires", BigInteger, nullable=False),
)
Index("uploads_by_expiry", uploads.c.user_id, uploads.c.expires)
#: The state of a user's documents after the last push; no row: there was none.
sync_heads = Table(
    "sync_heads",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: The last number that was given out to a record, and the tag of the push that has it.
    Column("number", BigInteger, nullable=False),
    Column("tag", String(16), nullable=False),
    #: Sealed; its SHA-256 in hex, and its bytes.
    Column("checkpoint", Bytes, nullable=False),
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
    Column("name", Bytes(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    #: SHA-256 of the container, and its bytes.
    Column("hash", Bytes(32), nullable=False),
    Column("size", Integer, nullable=False),
    #: Sealed; last, so that what stands before it can be read without it.
    Column("data", Bytes, nullable=False),
)
Index("records_by_number", records.c.user_id, records.c.number, unique=True)


keyrings = Table(
    "keyrings",
    metadata,
    Column("user_id", String(64), primary_key=True),
    #: SHA-256 of the content, in hex.
    Column("etag", String(64), nullable=False),
    #: Sealed.
    Column("content", LargeBinary, nullable=False),
)


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
