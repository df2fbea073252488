"""
The tables of indexes, kept in the transactions that write documents.

An index is a row of ``query_index`` and a table that has its number for a name; nothing that a person or an
application typed gets into SQL.  Source: docs/spec/indexes.rst, "Storage".
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import lru_cache

from attrs import define, field, frozen

from soledad.client.local import bulk, text
from soledad.client.local.database import Cursor
from soledad.client.local.rows import COLUMNS, from_row
from soledad.errors import IndexDoesNotExist, IndexNameTakenError, TooManyKeys
from soledad.model import content as contents
from soledad.model import index
from soledad.model.document import Stored
from soledad.model.index import Key, Term

#: The rules that rows are made by, and what else decides how they come out.  docs/spec/indexes.rst, "Storage".
RULES = f"1 {unicodedata.unidata_version}"

#: Documents that are read, and rows that are written, at a time while an index is filled.
_BATCH = 2000


class Kind(Enum):
    """What an index is for."""

    KEYS = "keys"
    TEXT = "text"


@frozen
class Index:
    """An index that there is."""

    number: int
    kind: Kind
    name: str
    expressions: tuple[str, ...]
    terms: tuple[Term, ...]

    @property
    def table(self) -> str:
        """The name of its table."""
        return f"{'index' if self.kind is Kind.KEYS else 'text'}_{self.number}"

    @property
    def columns(self) -> list[str]:
        """The names of its table's columns, but for the last one."""
        return [f"c{number}" for number in range(len(self.terms))]


# --- which there are ----------------------------------------------------------------------------------


def defined(cursor: Cursor) -> list[Index]:
    """Return all indexes, in the order in which they were made."""
    rows = cursor.execute("SELECT id, kind, name, definition FROM query_index ORDER BY id").fetchall()
    return [_index(*row) for row in rows]


def find(cursor: Cursor, kind: Kind, name: str) -> Index:
    """:raise IndexDoesNotExist: there is none of that kind and name."""
    found = _find(cursor, kind, name)
    if found is None:
        raise IndexDoesNotExist(name)
    return found


def listed(cursor: Cursor, kind: Kind) -> list[tuple[str, list[str]]]:
    """Return names and expressions of the indexes of a kind, in the order in which they were made."""
    return [(one.name, list(one.expressions)) for one in defined(cursor) if one.kind is kind]


def create(cursor: Cursor, kind: Kind, name: str, expressions: Sequence[str]) -> None:
    """
    Make an index of all documents that there are, and will be.

    :raise IndexNameTakenError: there is another one of that name.
    :raise TooManyKeys: a document would have too many keys in it.
    """
    found = _find(cursor, kind, name)
    if found is not None:
        if found.terms == index.parse_all(expressions):
            return
        raise IndexNameTakenError(name)
    query = "INSERT INTO query_index (kind, name, definition) VALUES (?, ?, ?)"
    cursor.execute(query, (kind.value, name, json.dumps(list(expressions))))
    made = find(cursor, kind, name)
    _make(cursor, made)
    _fill(cursor, made, _keys)


def delete(cursor: Cursor, kind: Kind, name: str) -> None:
    """
    Remove an index.

    :raise IndexDoesNotExist: there is none of that name.
    """
    found = find(cursor, kind, name)
    cursor.execute("DELETE FROM query_index WHERE id = ?", (found.number,))
    cursor.execute(f"DROP TABLE {found.table}")


def refresh(cursor: Cursor) -> None:
    """Make all rows anew if they were made by other rules: those of a document are known by making them again."""
    if up_to_date(cursor):
        return
    for one in defined(cursor):
        cursor.execute(f"DROP TABLE {one.table}")
        _make(cursor, one)
        _fill(cursor, one, _keys_if_allowed)
    cursor.execute("INSERT OR REPLACE INTO meta VALUES ('indexed', ?)", (RULES,))


def up_to_date(cursor: Cursor) -> bool:
    """Tell whether all rows were made by these rules."""
    row = cursor.execute("SELECT value FROM meta WHERE key = 'indexed'").fetchone()
    return row is not None and row[0] == RULES


@lru_cache(maxsize=256)
def _index(number: int, kind: str, name: str, definition: str) -> Index:
    expressions = tuple(json.loads(definition))
    return Index(number, Kind(kind), name, expressions, index.parse_all(expressions))


def _find(cursor: Cursor, kind: Kind, name: str) -> Index | None:
    query = "SELECT id, kind, name, definition FROM query_index WHERE kind = ? AND name = ?"
    row = cursor.execute(query, (kind.value, name)).fetchone()
    return None if row is None else _index(*row)


# --- their rows ---------------------------------------------------------------------------------------


@define(eq=False)
class _Rows:
    """What a job changes in an index of keys."""

    index: Index
    #: Rows that have to be there, as long as none had to go.
    _new: list[tuple[str, ...]] = field(factory=list, init=False)
    #: Since then: for each row whether it has to be there.
    _changed: dict[tuple[str, ...], bool] = field(factory=dict, init=False)

    def replace(self, doc_id: str, was: list[Key], becomes: list[Key]) -> None:
        """Let a document have other keys."""
        if not was and not self._changed:
            # A list: going through many rows in the order of their hashes would take longer than all else here.
            for key in becomes:
                self._new.append((*key, doc_id))
            return
        for key in was:
            self._changed[*key, doc_id] = False
        for key in becomes:
            self._changed[*key, doc_id] = True

    def write(self, cursor: Cursor) -> None:
        """Write them, in the order of the table, neighbours together."""
        new, changed = self._new, self._changed
        if changed:
            _remove(cursor, self.index, [row for row, stays in changed.items() if not stays])
            new = [row for row in new if row not in changed] + [row for row, stays in changed.items() if stays]
        _insert(cursor, self.index, new)


@define(eq=False)
class Upkeep:
    """
    What the writes of one job change in the indexes: part of every write of a current version.

    Rows are collected, and written when the ``with`` block ends.
    """

    _cursor: Cursor
    _texts: list[Index] = field(init=False)
    _rows: list[_Rows] = field(init=False)
    #: The names of all of them; and other sets of them.
    _all: frozenset[str] = field(init=False)
    _sets: dict[frozenset[str], frozenset[str]] = field(factory=dict, init=False)

    def __enter__(self) -> Upkeep:
        """Look which indexes there are."""
        there = defined(self._cursor)
        self._texts = [one for one in there if one.kind is Kind.TEXT]
        self._rows = [_Rows(one) for one in there if one.kind is Kind.KEYS]
        self._all = frozenset(rows.index.name for rows in self._rows)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Write the rows; after a failure there is nothing to be written."""
        if kind is None:
            for rows in self._rows:
                rows.write(self._cursor)

    def reindex(self, row_id: int, before: str | None, after: Stored, ours: bool = True) -> frozenset[str]:
        """
        Let all indexes find a document by what it holds now.

        :param row_id: of its row in ``document``.
        :param before: its content so far, as it was stored; `None`: there was none.
        :param ours: it is refused if it has too many keys for an index.  One that was written elsewhere is not: it is
            then not in that index.
        :return: the names of the indexes, those of texts apart, that it was in before or is in now.
        :raise TooManyKeys: it has too many keys for an index.
        """
        if not self._rows and not self._texts:
            return _NO_NAMES
        content = _parsed(after.content) if after.value is None else after.value
        old = content if before == after.content else _parsed(before)
        keys = _keys if ours else _keys_if_allowed
        names = []
        for one in self._texts:
            text.replace(self._cursor, one.table, one.terms, row_id, content, after.attachments)
        for rows in self._rows:
            was = [] if old is None else _keys_if_allowed(rows.index, after.doc_id, old)
            becomes = was if content is old else keys(rows.index, after.doc_id, content)
            if becomes is not was:
                rows.replace(after.doc_id, was, becomes)
            if was or becomes:
                names.append(rows.index.name)
        if len(names) == len(self._rows):
            return self._all
        found_in = frozenset(names)
        # Most documents are in the same indexes: one set for all of them.
        return self._sets.setdefault(found_in, found_in)


_NO_NAMES: frozenset[str] = frozenset()


def _parsed(content: str | None) -> contents.Content | None:
    return None if content is None else contents.parse(content)


def _keys(one: Index, doc_id: str, content: contents.Content | None) -> list[Key]:
    if content is None:
        return []
    try:
        return index.keys(one.terms, content)
    except TooManyKeys as error:
        raise TooManyKeys(error.number, error.limit, one.name, doc_id) from None


def _keys_if_allowed(one: Index, doc_id: str, content: contents.Content | None) -> list[Key]:
    try:
        return _keys(one, doc_id, content)
    except TooManyKeys:
        return []


def _insert(cursor: Cursor, one: Index, rows: list[tuple[str, ...]]) -> None:
    # Rows that stayed are there already.
    bulk.insert(cursor, f"INSERT OR IGNORE INTO {one.table}", sorted(rows))


def _remove(cursor: Cursor, one: Index, rows: list[tuple[str, ...]]) -> None:
    if rows:
        condition = " AND ".join(f"{column} = ?" for column in [*one.columns, "doc"])
        cursor.executemany(f"DELETE FROM {one.table} WHERE {condition}", sorted(rows))


def _make(cursor: Cursor, one: Index) -> None:
    if one.kind is Kind.TEXT:
        text.make(cursor, one.table, one.columns)
        return
    columns = ", ".join(f"{column} TEXT NOT NULL" for column in [*one.columns, "doc"])
    key = ", ".join([*one.columns, "doc"])
    cursor.execute(f"CREATE TABLE {one.table} ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID")


def _fill(cursor: Cursor, one: Index, keys: Callable[[Index, str, contents.Content | None], list[Key]]) -> None:
    for batch in _documents(cursor):
        if one.kind is Kind.TEXT:
            for row_id, stored in batch:
                content = contents.parse(stored.content or "{}")
                text.replace(cursor, one.table, one.terms, row_id, content, stored.attachments)
        else:
            rows = [
                (*key, stored.doc_id)
                for _, stored in batch
                for key in keys(one, stored.doc_id, contents.parse(stored.content or "{}"))
            ]
            _insert(cursor, one, rows)


def _documents(cursor: Cursor) -> Iterator[list[tuple[int, Stored]]]:
    """Give all living documents, some at a time: a query that is under way stands in the way of changing tables."""
    query = f"SELECT id, {COLUMNS} FROM document WHERE id > ? AND content IS NOT NULL ORDER BY id LIMIT ?"
    last = 0
    while rows := cursor.execute(query, (last, _BATCH)).fetchall():
        last = rows[-1][0]
        yield [(row_id, from_row(tuple(row))) for row_id, *row in rows]
