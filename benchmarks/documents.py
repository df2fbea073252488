"""
Rows 8 and 9, and queries: documents in a store, beside the same rows and the same SQL on SQLCipher alone.

Both sides have the store's own settings.  Queries are asked a hundred at a time, as the parts of an application would
ask them; SQLCipher answers one after the other, in the thread that asks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from benchmarks.references import insert_documents
from benchmarks.results import Result, Times, counted
from benchmarks.workbench import Subject, measure
from soledad.client.api import Soledad, open_store
from soledad.client.document import Document
from soledad.client.local import documents, indexes, queries, schema
from soledad.client.local.database import Connection, connect
from soledad.client.local.store import Workers
from soledad.crypto.kdf import Database as KeyOf
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker, gather
from soledad.model import index
from soledad.model.ids import user_id

#: Documents that the queries are asked of, and that are put at once.
DOCUMENTS, PUT = 100_000, 10_000
#: Queries in a round, and how many of them at a time.
QUERIES, FLIGHT = 2_000, 100

INDEXES = {"city": ("city",), "name": ("name",), "both": ("city", "number(age, 3)")}
USER = user_id("somebody")

SQL = tuple[str, tuple[Any, ...]]


def content(number: int) -> dict[str, Any]:
    """Return the content of a document: 500 bytes of JSON, a hundred of them in each city."""
    place = number * 7919 % DOCUMENTS
    return {
        "city": f"city {place // 100:05}",
        "name": f"name {number * 104729 % DOCUMENTS:06}",
        "age": place % 100,
        "text": "x" * 420,
    }


@define(eq=False)
class DocumentSpeed:
    """The measurements, in a folder."""

    folder: Path
    rounds: int
    documents: int
    _reactor: Any
    _stores: int = field(default=0, init=False)

    async def run(self) -> list[Result]:
        """Measure all."""
        return [*await self.put_docs(), *await self.put_doc(), *await self.queries()]

    async def _store(self, indexes: Mapping[str, tuple[str, ...]] = MappingProxyType(INDEXES)) -> Soledad:
        self._stores += 1
        folder = self.folder / f"store-{self._stores}"
        workers = Workers.start(partial(ThreadWorker.start, self._reactor))
        store = await open_store(self._reactor, workers, USER, HandedInKey(bytes(32)), folder, None)
        for name, expressions in indexes.items():
            await store.create_index(name, *expressions)
        return store

    def _raw(self, store: Soledad) -> Connection:
        """Return a connection to the documents of a store, beside its own."""
        key = store._local.keyring.database_key(KeyOf.DOCUMENTS)
        return connect(self.folder / f"store-{self._stores}" / f"{USER}.db", key, schema.DOCUMENTS_PAGE)

    # --- row 8 ----------------------------------------------------------------------------------------

    async def put_docs(self) -> list[Result]:
        """Row 8: many documents at once."""
        stored: dict[str, list[tuple[Any, ...]]] = {}
        state: dict[str, Any] = {}

        async def fresh() -> None:
            state["store"] = await self._store()
            state["docs"] = [Document(content=content(number)) for number in range(PUT)]

        async def put() -> None:
            await state["store"].put_docs(state["docs"])

        async def close() -> None:
            if not stored:
                stored.update(_rows(self._raw(state["store"]), [doc.doc_id for doc in state["docs"]]))
            await state["store"].close()

        async def make() -> None:
            self._stores += 1
            state["raw"] = connect(self.folder / f"raw-{self._stores}.db", bytes(32), schema.DOCUMENTS_PAGE)
            for statements in schema.DOCUMENTS:
                state["raw"].executescript(statements)
            for number, expressions in enumerate(INDEXES.values(), 1):
                columns = [*(f"c{column}" for column in range(len(expressions))), "doc"]
                state["raw"].execute(
                    f"CREATE TABLE index_{number} ({' TEXT NOT NULL, '.join(columns)} TEXT NOT NULL, "
                    f"PRIMARY KEY ({', '.join(columns)})) WITHOUT ROWID"
                )

        async def insert() -> None:
            insert_documents(state["raw"], stored)

        async def end() -> None:
            state["raw"].close()

        putting, inserting = await measure(
            self.rounds,
            Subject("put_docs, 10,000 of 500 B, 3 indexes", put, fresh, close),
            Subject("the same rows, one by one", insert, make, end),
        )
        return [counted("8", PUT, putting, inserting, 0.6)]

    # --- row 9 ----------------------------------------------------------------------------------------

    async def put_doc(self) -> list[Result]:
        """Row 9: many calls at a time."""
        store = await self._store({})
        docs: list[Document] = []

        async def make() -> None:
            docs[:] = [Document(content=content(number)) for number in range(QUERIES)]

        async def together() -> None:
            await _in_flight([partial(store.put_doc, doc) for doc in docs])

        async def apart() -> None:
            for doc in docs:
                await store.put_doc(doc)

        flying, alone = await measure(
            self.rounds,
            Subject("put_doc, 100 at a time", together, make),
            Subject("one after the other, a transaction each", apart, make),
        )
        await store.close()
        return [counted("9", QUERIES, flying, alone, 5.0)]

    # --- queries --------------------------------------------------------------------------------------

    async def queries(self) -> list[Result]:
        """A point read, an index, a prefix, two columns."""
        store = await self._store()
        ids: list[str] = []
        for start in range(0, self.documents, PUT):
            docs = [Document(content=content(number)) for number in range(start, start + PUT)]
            await store.put_docs(docs)
            ids += [str(doc.doc_id) for doc in docs]
        raw = self._raw(store)
        results: list[Result] = []
        for name, count, make in (
            ("get_doc", QUERIES, partial(_point, ids)),
            ("get_from_index, a value", QUERIES, partial(_indexed, raw, "name", _names(self.documents, 6))),
            ("get_from_index, a prefix, 100 hits", 200, partial(_indexed, raw, "name", _names(self.documents, 4))),
            ("get_from_index, two values", QUERIES, partial(_indexed, raw, "both", _places(self.documents))),
        ):
            results.append(await self._query(name, store, raw, [make() for _ in range(count)]))
        raw.close()
        await store.close()
        return results

    async def _query(
        self, name: str, store: Soledad, raw: Connection, asked: Sequence[tuple[str, tuple[Any, ...], SQL]]
    ) -> Result:
        async def ask() -> None:
            await _in_flight([partial(getattr(store, method), *arguments) for method, arguments, _ in asked])

        async def select() -> None:
            for _, _, (query, values) in asked:
                raw.execute(query, values).fetchall()

        # Once for nothing: then both have used their caches.
        ours, theirs = await measure(self.rounds + 1, Subject(name, ask), Subject("the same SQL", select))
        return counted("q", len(asked), _later(ours), _later(theirs), 0.5)


def _later(times: Times) -> Times:
    return Times(times.name, times.seconds[1:])


async def _in_flight(calls: Sequence[Callable[[], Deferred[Any]]]) -> None:
    """Make calls, so many at a time: when one has ended, the next begins."""
    left = iter(calls)

    async def lane() -> None:
        for call in left:
            await call()

    await gather([Deferred.fromCoroutine(lane()) for _ in range(FLIGHT)])


def _point(ids: Sequence[str]) -> tuple[str, tuple[Any, ...], SQL]:
    doc_id = random.choice(ids)
    return "get_doc", (doc_id,), (documents.ONE, (doc_id,))


def _indexed(raw: Connection, name: str, choose: Callable[[], tuple[str, ...]]) -> tuple[str, tuple[Any, ...], SQL]:
    found = indexes.find(raw.cursor(), indexes.Kind.KEYS, name)
    values = choose()
    wanted = index.between(values, values, len(values))
    return "get_from_index", (name, *values), queries.documents_query(found, wanted)


def _names(documents: int, digits: int) -> Callable[[], tuple[str, ...]]:
    def choose() -> tuple[str, ...]:
        name = content(random.randrange(documents))["name"]
        return (name if digits == 6 else f"{name[: 5 + digits]}*",)

    return choose


def _places(documents: int) -> Callable[[], tuple[str, ...]]:
    def choose() -> tuple[str, ...]:
        chosen = content(random.randrange(documents))
        return chosen["city"], index.padded(chosen["age"], 3)

    return choose


def _rows(raw: Connection, ids: Sequence[Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows that a store made of documents, by table, in the order of the documents."""
    rows = {
        name: raw.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in ("document", "transaction_log")
    }
    for number in range(1, 1 + len(INDEXES)):
        by_id = {row[-1]: row for row in raw.execute(f"SELECT * FROM index_{number}")}
        rows[f"index_{number}"] = [by_id[doc_id] for doc_id in ids]
    raw.close()
    return rows
