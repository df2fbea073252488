"""
Queries of this device's documents: by index, by range, and by full text.

Functions of a cursor, run as jobs of the documents' `Database`.  Rules: docs/spec/indexes.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import IQueries
from soledad.client.local import indexes, text
from soledad.client.local.database import Cursor, Database
from soledad.client.local.indexes import Index, Kind
from soledad.client.local.rows import COLUMNS, from_row
from soledad.model import index
from soledad.model.document import Stored
from soledad.model.index import ALL, Bound, Key, Range, Slice

#: The name of an index, two bounds, and which of the answers.
Question = tuple[str, Bound, Bound, Slice]


def get_range(cursor: Cursor, name: str, start: Bound, end: Bound, some: Slice = ALL) -> list[Stored]:
    """
    Return the documents that have a key between two bounds, in the order of their keys, and then of their ids.

    :raise IndexDoesNotExist: there is no such index.
    :raise InvalidValueForIndex: a bound has not one value for each column.
    :raise InvalidGlobbing: something else than a wildcard stands behind a wildcard.
    """
    return next(get_ranges(cursor, [(name, start, end, some)]))


def get_ranges(cursor: Cursor, questions: Iterable[Question]) -> Iterator[list[Stored]]:
    """Do as `get_range`, for several questions one after the other."""
    known: dict[str, Index] = {}
    for name, start, end, some in questions:
        found = known.get(name)
        if found is None:
            found = known[name] = indexes.find(cursor, Kind.KEYS, name)
        wanted = index.between(start, end, len(found.terms))
        answers: Iterable[Any] = cursor.execute(*documents_query(found, wanted))
        if not wanted.single:
            answers = _once(answers)
        if some is not ALL:
            stop = None if some.limit is None else some.offset + some.limit
            answers = islice(answers, some.offset, stop)
        yield [from_row(row) for row in answers]


def count(cursor: Cursor, name: str, start: Bound, end: Bound) -> int:
    """Return how many documents `get_range` answers with; errors as there."""
    found = indexes.find(cursor, Kind.KEYS, name)
    query, values = count_query(found, index.between(start, end, len(found.terms)))
    (number,) = cursor.execute(query, values).fetchone()
    return int(number)


def keys(cursor: Cursor, name: str, some: Slice = ALL) -> list[Key]:
    """Return the different keys that documents have in an index, ascending; errors as `get_range`."""
    rows = cursor.execute(*keys_query(indexes.find(cursor, Kind.KEYS, name), some))
    return [tuple(row) for row in rows]


def search(cursor: Cursor, name: str, expression: str, some: Slice = ALL) -> list[Stored]:
    """
    Return the documents that match an expression of `text.expression`, the best first.

    :raise IndexDoesNotExist: there is no such index.
    """
    found = indexes.find(cursor, Kind.TEXT, name)
    return [from_row(row) for row in cursor.execute(*search_query(found, expression, some))]


# --- the SQL ------------------------------------------------------------------------------------------


def documents_query(one: Index, wanted: Range) -> tuple[str, tuple[str, ...]]:
    """Return the query for the documents in a range; one with several keys comes several times."""
    return _documents_text(one.table, len(one.terms), *_shape(wanted)), _values(wanted)


@lru_cache(maxsize=256)
def _documents_text(table: str, columns: int, *shape: int) -> str:
    # CROSS JOIN: the index first, in its own order.
    return f"""
        SELECT {COLUMNS} FROM {table} CROSS JOIN document ON document.doc_id = {table}.doc
        WHERE {_condition(*shape)} ORDER BY {_columns(columns)}, doc
    """


def count_query(one: Index, wanted: Range) -> tuple[str, tuple[str, ...]]:
    """Return the query for the number of documents in a range."""
    counted = "*" if wanted.single else "DISTINCT doc"
    return f"SELECT count({counted}) FROM {one.table} WHERE {_condition(*_shape(wanted))}", _values(wanted)


def keys_query(one: Index, some: Slice) -> tuple[str, tuple[int, ...]]:
    """Return the query for the different keys."""
    columns = ", ".join(one.columns)
    # All texts are at least the empty one; with that said, it is a search like all others.
    query = f"SELECT DISTINCT {columns} FROM {one.table} WHERE c0 >= '' ORDER BY {columns} LIMIT ? OFFSET ?"
    return query, _numbers(some)


def search_query(one: Index, expression: str, some: Slice) -> tuple[str, tuple[Any, ...]]:
    """Return the query for the documents that match an expression."""
    query = f"""
        SELECT {COLUMNS} FROM {one.table} CROSS JOIN document ON document.id = {one.table}.rowid
        WHERE {one.table} MATCH ? ORDER BY bm25({one.table}), document.doc_id LIMIT ? OFFSET ?
    """
    return query, (expression, *_numbers(some))


def _shape(wanted: Range) -> tuple[int, int, bool]:
    """Return what a condition depends on, apart from the values."""
    return len(wanted.lowest), len(wanted.highest or ()), wanted.inclusive


def _values(wanted: Range) -> tuple[str, ...]:
    return wanted.lowest if wanted.highest is None else wanted.lowest + wanted.highest


def _condition(lowest: int, highest: int, inclusive: int) -> str:
    condition = f"({_columns(lowest)}) >= ({_marks(lowest)})"
    if highest:
        condition += f" AND ({_columns(highest)}) {'<=' if inclusive else '<'} ({_marks(highest)})"
    return condition


def _columns(number: int) -> str:
    return ", ".join(f"c{column}" for column in range(number))


def _marks(number: int) -> str:
    return ", ".join("?" * number)


def _numbers(some: Slice) -> tuple[int, int]:
    # SQLite takes a negative limit for none.
    return -1 if some.limit is None else some.limit, some.offset


def _once(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Give each document once, at its first row."""
    seen = set()
    for row in rows:
        if row[0] not in seen:
            seen.add(row[0])
            yield row


@implementer(IQueries)
@define(eq=False)
class LocalQueries:
    """The indexes in the documents' database."""

    _database: Database

    def create_index(self, name: str, expressions: Sequence[str]) -> Deferred[None]:
        """See `IQueries`."""
        return self._database.write(indexes.create, Kind.KEYS, name, expressions)

    def delete_index(self, name: str) -> Deferred[None]:
        """See `IQueries`."""
        return self._database.write(indexes.delete, Kind.KEYS, name)

    def list_indexes(self) -> Deferred[list[tuple[str, list[str]]]]:
        """See `IQueries`."""
        return self._database.read(indexes.listed, Kind.KEYS)

    def get_range(self, name: str, start: Bound, end: Bound, some: Slice) -> Deferred[list[Stored]]:
        """See `IQueries`."""
        return self._database.ask(get_ranges, (name, start, end, some))

    def count(self, name: str, start: Bound, end: Bound) -> Deferred[int]:
        """See `IQueries`."""
        return self._database.read(count, name, start, end)

    def keys(self, name: str, some: Slice) -> Deferred[list[Key]]:
        """See `IQueries`."""
        return self._database.read(keys, name, some)

    def create_text_index(self, name: str, fields: Sequence[str]) -> Deferred[None]:
        """See `IQueries`."""
        return self._database.write(indexes.create, Kind.TEXT, name, fields)

    def delete_text_index(self, name: str) -> Deferred[None]:
        """See `IQueries`."""
        return self._database.write(indexes.delete, Kind.TEXT, name)

    def list_text_indexes(self) -> Deferred[list[tuple[str, list[str]]]]:
        """See `IQueries`."""
        return self._database.read(indexes.listed, Kind.TEXT)

    def search(self, name: str, query: str, some: Slice) -> Deferred[list[Stored]]:
        """See `IQueries`."""
        return self._database.read(search, name, text.expression(query), some)
