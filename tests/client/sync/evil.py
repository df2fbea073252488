"""A server that does as it likes with what it keeps: for the tests of what is noticed."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

from attrs import define, frozen
from sqlalchemy import Connection, delete, func, insert, select, update

from soledad.model.ids import RecordName
from soledad.server.schema import records, sync_heads, sync_pushes
from soledad.testing import MemoryServer

T = TypeVar("T")

_TABLES = (records, sync_heads, sync_pushes)


@frozen
class Snapshot:
    """All that a server has of documents, at some time."""

    rows: tuple[tuple[dict[str, Any], ...], ...]


@define(eq=False)
class Evil:
    """What the owner of a server can do to it."""

    server: MemoryServer

    def snapshot(self) -> Snapshot:
        """Copy everything."""

        def read(connection: Connection) -> Snapshot:
            return Snapshot(
                tuple(tuple(dict(row._mapping) for row in connection.execute(select(table))) for table in _TABLES)
            )

        return self._do(read)

    def put_back(self, snapshot: Snapshot) -> None:
        """Have what there was at that time, and nothing else."""

        def write(connection: Connection) -> None:
            for table, rows in zip(_TABLES, snapshot.rows, strict=True):
                connection.execute(delete(table))
                for row in rows:
                    connection.execute(insert(table).values(**row))

        self._do(write)

    def names(self) -> list[RecordName]:
        """Return the names of all records, in the order in which they were changed."""
        query = select(records.c.name).order_by(records.c.number)
        return self._do(lambda connection: [RecordName(name.hex()) for name in connection.execute(query).scalars()])

    def record(self, name: RecordName) -> bytes:
        """Return a record."""
        query = select(records.c.data).where(records.c.name == bytes.fromhex(name))
        return self._do(lambda connection: bytes(connection.execute(query).scalar_one()))

    def replace(self, name: RecordName, data: bytes) -> None:
        """Have another record under a name, as if it were new."""
        self.drop(name)

        def write(connection: Connection) -> None:
            (user,) = connection.execute(select(sync_heads.c.user_id)).scalars()
            number = connection.execute(select(sync_heads.c.number)).scalar_one() + 1
            row = {"name": bytes.fromhex(name), "hash": sha256(data).digest(), "size": len(data), "data": data}
            lowest = connection.execute(select(func.min(records.c.number))).scalar_one()
            aside = min(0, lowest or 0) - 1
            connection.execute(update(records).where(records.c.number == number).values(number=aside))
            connection.execute(insert(records).values(user_id=user, number=number, **row))

        self._do(write)

    def invent(self, name: RecordName, data: bytes) -> None:
        """Have a record that no device has made, as if the last push had brought it; others go on from there."""
        self.replace(name, data)

        def write(connection: Connection) -> None:
            number = connection.execute(select(sync_heads.c.number)).scalar_one()
            last = sync_pushes.c.number == number
            connection.execute(update(sync_pushes).where(last).values(number=number + 1))
            connection.execute(update(sync_heads).values(number=number + 1))

        self._do(write)

    def alter(self, name: RecordName, data: bytes) -> None:
        """Have another record under a name, in its place."""
        values = {"data": data, "hash": sha256(data).digest(), "size": len(data)}
        altering = update(records).where(records.c.name == bytes.fromhex(name)).values(**values)
        self._do(lambda connection: connection.execute(altering))

    def drop(self, name: RecordName) -> None:
        """Have no record under a name."""
        dropping = delete(records).where(records.c.name == bytes.fromhex(name))
        self._do(lambda connection: connection.execute(dropping))

    def checkpoint(self, data: bytes | None = None) -> bytes:
        """Return the checkpoint, after it was replaced, if another one is given."""

        def exchange(connection: Connection) -> bytes:
            before: bytes = connection.execute(select(sync_heads.c.checkpoint)).scalar_one()
            if data is not None:
                connection.execute(update(sync_heads).values(checkpoint=data, etag=sha256(data).hexdigest()))
            return before

        return self._do(exchange)

    def _do(self, unit: Callable[[Connection], T]) -> T:
        result: T = self.server._accounts._database.now(unit, True)
        return result
