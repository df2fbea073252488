"""
Rows 10 and 11: the first sync of a device with many documents, and of another that has none; a sync with nothing to do.

First syncs are compared with the rows that they are about, inserted into SQLCipher in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from attrs import define, field

from benchmarks.devices import Device, Devices
from benchmarks.documents import content
from benchmarks.listing import fill
from benchmarks.references import insert_documents
from benchmarks.results import Result, limited, slower
from benchmarks.workbench import Subject, measure
from soledad.client.document import Document
from soledad.client.local import schema
from soledad.client.local.database import Connection, connect
from soledad.crypto.kdf import Database as KeyOf
from soledad.model.blob import SyncStatus

#: Documents of a first sync, and what a device has that is in step; it has as many blobs.
FIRST, MANY = 10_000, 100_000
#: Syncs that have nothing to do.
IDLE = 20


@define(eq=False)
class SyncSpeed:
    """The measurements, in a folder."""

    _folder: Path
    _rounds: int
    _many: int
    _reactor: Any
    _devices: Devices = field(init=False)
    _device: Device | None = field(default=None, init=False)
    _raw: Connection | None = field(default=None, init=False)
    _raws: int = field(default=0, init=False)

    async def run(self, rows: Iterable[str]) -> list[Result]:
        """Measure."""
        self._devices = Devices(self._folder, self._reactor)
        try:
            first = await self._first() if "10" in rows else []
            return [*first, *(await self._idle() if "11" in rows else [])]
        finally:
            self._devices.stop()

    @property
    def device(self) -> Device:
        """The device that is measured."""
        assert self._device is not None
        return self._device

    # --- row 10 ---------------------------------------------------------------------------------------

    async def _first(self) -> list[Result]:
        """Row 10: everything there, and everything back."""
        await self._filled()
        await self._sync()
        full = self.device

        async def another() -> None:
            self._device = await self._devices.another(full)

        await another()
        await self._sync()
        documents = self._rows()
        await self._close()

        async def make() -> None:
            self._raws += 1
            self._raw = connect(self._folder / f"raw-{self._raws}.db", bytes(32), schema.DOCUMENTS_PAGE)
            for statements in schema.DOCUMENTS:
                self._raw.executescript(statements)

        async def insert() -> None:
            assert self._raw is not None
            insert_documents(self._raw, documents)

        async def end() -> None:
            assert self._raw is not None
            self._raw.close()

        pushing, pulling, inserting = await measure(
            self._rounds,
            Subject(f"first sync of {FIRST:,} documents of 500 B: push", self._sync, self._filled, self._close),
            Subject("the same by a fresh device: pull", self._sync, another, self._close),
            Subject("the same rows, one by one", insert, make, end),
        )
        await full.store.close()
        return [slower("10", FIRST, taken, inserting, 4.0) for taken in (pushing, pulling)]

    async def _filled(self) -> None:
        """Open the store of somebody new, in which there are documents."""
        self._device = await self._devices.first(*self._devices.new_user())
        await self._put(FIRST)

    async def _put(self, number: int) -> None:
        for start in range(0, number, FIRST):
            docs = [Document(content=content(one)) for one in range(start, min(number, start + FIRST))]
            await self.device.store.put_docs(docs)

    async def _sync(self) -> None:
        await self.device.store.sync()

    async def _close(self) -> None:
        _, docs = await self.device.store.get_all_docs()
        assert len(docs) == FIRST
        await self.device.store.close()

    def _rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return the rows that the device has of its documents, by table, in the order in which they came."""
        with closing(self._database(KeyOf.DOCUMENTS, ".db", schema.DOCUMENTS_PAGE)) as raw:
            return {
                name: raw.execute(
                    f"SELECT {name}.* FROM {name} JOIN transaction_log AS came USING (doc_id) ORDER BY came.generation"
                ).fetchall()
                for name in ("document", "transaction_log", "sync_record")
            }

    def _database(self, name: KeyOf, ending: str, page: int) -> Connection:
        """Return a connection to a database of the device, beside its own."""
        key = self.device.store._local.keyring.database_key(name)
        return connect(self.device.folder / f"{self.device.user}{ending}", key, page)

    # --- row 11 ---------------------------------------------------------------------------------------

    async def _idle(self) -> list[Result]:
        """Row 11: there is a lot, and all of it is in step."""
        self._device = await self._devices.first(*self._devices.new_user())
        store = self.device.store
        await self._put(self._many)
        await store.sync()
        self._fill_blobs()
        # The first looks at all blobs once.
        await store.blobs.sync()
        await store.sync()
        results = await self._nothing_to_do()
        await store.close()
        return results

    async def _nothing_to_do(self) -> list[Result]:
        asked = self.device.asking.requests
        taken = []
        for _ in range(IDLE):
            start = perf_counter()
            await self._sync()
            taken.append((perf_counter() - start) * 1000)
        requests = (self.device.asking.requests - asked) / IDLE
        what = f"idle sync, {self._many:,} documents and blobs: median / longest of {IDLE}"
        return [
            limited("11", what, [median(taken), max(taken)], 20.0, "ms"),
            Result("11", "the same: requests of each", f"{requests:g}", "", "", "1", requests == 1),
        ]

    def _fill_blobs(self) -> None:
        """Let the server have blobs, and the device the same: rows, and nothing behind them that anybody looks at."""
        fill(self._devices.data.index, self.device.user, self._many)
        with closing(sqlite3.connect(self._devices.data.index)) as index:
            query = "SELECT namespace, blob_id, length, etag FROM blobs WHERE user_id = ? AND NOT deleted"
            there = index.execute(query, (self.device.user,)).fetchall()
        with closing(self._database(KeyOf.BLOBS, "_blobs.db", schema.BLOBS_PAGE)) as raw:
            raw.execute("BEGIN")
            raw.executemany(
                f"""
                INSERT INTO blob (namespace, blob_id, status, priority, length, size, commitment, etag)
                VALUES (?, ?, '{SyncStatus.SYNCED.value}', 1, 1, ?, zeroblob(32), ?)
                """,
                there,
            )
            raw.execute("COMMIT")
