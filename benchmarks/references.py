"""
What soledad is compared with: the least that has to be done, written as well as it can be.

All of these block, but for the `PUT`.  None of them is safe: no padding, no commitment, no names, nothing is undone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import treq
from attrs import define, field
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.web.client import HTTPConnectionPool

from benchmarks.results import MIB
from soledad.client.local.database import Connection, connect
from soledad.client.local.schema import BLOBS_PAGE
from soledad.wire.routes import BlobRoute, authorization

CHUNK, TAG = 64 * 1024, 16
#: Chunks that are read and written at a time.
BATCH = 16

ROW = 256 * 1024
#: Rows in a transaction of 16 MiB.
ROWS = 64

_KEY = bytes(32)


def seal_chunks(source: Path, target: Path) -> None:
    """Write a file as AES-256-GCM chunks to another; durable when this returns."""
    aead = AESGCM(_KEY)
    plain = memoryview(bytearray(BATCH * CHUNK))
    sealed = memoryview(bytearray(BATCH * (CHUNK + TAG)))
    number = 0
    with source.open("rb", buffering=0) as read, target.open("xb", buffering=0) as write:
        while count := read.readinto(plain):
            done = 0
            for start in range(0, count, CHUNK):
                piece = plain[start : min(start + CHUNK, count)]
                size = len(piece) + TAG
                aead.encrypt_into(number.to_bytes(12, "big"), piece, None, sealed[done : done + size])
                number, done = number + 1, done + size
            write.write(sealed[:done])
        os.fsync(write.fileno())


def open_chunks(source: Path) -> None:
    """Read and open all that `seal_chunks` wrote."""
    aead = AESGCM(_KEY)
    sealed = memoryview(bytearray(BATCH * (CHUNK + TAG)))
    plain = memoryview(bytearray(CHUNK))
    number = 0
    with source.open("rb", buffering=0) as read:
        while count := read.readinto(sealed):
            for start in range(0, count, CHUNK + TAG):
                piece = sealed[start : min(start + CHUNK + TAG, count)]
                aead.decrypt_into(number.to_bytes(12, "big"), piece, None, plain[: len(piece) - TAG])
                number += 1


def insert_rows(source: Path, folder: Path) -> None:
    """Put a file into SQLCipher, as rows of 256 KiB; durable when this returns."""
    connection = connect(folder / "rows.db", _KEY, BLOBS_PAGE)
    connection.execute("CREATE TABLE piece (id INTEGER PRIMARY KEY, bytes BLOB)")
    piece = memoryview(bytearray(ROW))
    with source.open("rb", buffering=0) as read:
        more = True
        while more:
            connection.execute("BEGIN")
            for _ in range(ROWS):
                count = read.readinto(piece)
                if not count:
                    more = False
                    break
                connection.execute("INSERT INTO piece (bytes) VALUES (?)", (piece[:count],))
            connection.execute("COMMIT")
    connection.close()


def insert_documents(raw: Connection, rows: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
    """Insert rows, by table, in one transaction, document by document; durable when this returns."""
    statements = [f"INSERT INTO {name} VALUES ({', '.join('?' * len(table[0]))})" for name, table in rows.items()]
    cursor = raw.cursor()
    cursor.execute("BEGIN")
    for document in zip(*rows.values(), strict=True):
        for statement, row in zip(statements, document, strict=True):
            cursor.execute(statement, row)
    cursor.execute("COMMIT")


@define(eq=False)
class PlainClient:
    """Asks the server with treq and nothing else."""

    _url: str
    _token: str = field(repr=False)
    _pool: HTTPConnectionPool

    async def put(self, route: BlobRoute, path: Path) -> None:
        """Send a file as treq sends files."""
        with path.open("rb") as file:
            response = await treq.put(self._url + route.path, data=file, **self._how(route))
            await response.content()
        assert response.code == 201, response.code

    async def get(self, route: BlobRoute) -> None:
        """Fetch a blob, and drop it."""
        response = await treq.get(self._url + route.path, unbuffered=True, **self._how(route))
        assert response.code == 200, response.code
        await treq.collect(response, lambda data: None)

    async def delete(self, route: BlobRoute) -> None:
        """Remove a blob."""
        response = await treq.delete(self._url + route.path, **self._how(route))
        assert response.code == 204, response.code

    async def close(self) -> None:
        """End the connections."""
        await self._pool.closeCachedConnections()

    def _how(self, route: BlobRoute) -> dict[str, Any]:
        return {"headers": {"Authorization": authorization(route.user, self._token)}, "pool": self._pool}


def random_file(path: Path, size: int) -> None:
    """Make a file that nothing can compress; it is in the page cache then."""
    with path.open("xb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
        os.fsync(file.fileno())
