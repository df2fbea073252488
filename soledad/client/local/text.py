"""
Full text: the tables of FTS5, and what a person may ask them.

Source: docs/spec/indexes.rst, "Full text".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from soledad.client.local.database import Cursor
from soledad.errors import InvalidSearch
from soledad.model import index
from soledad.model.attachment import Pointer
from soledad.model.content import Content
from soledad.model.index import Term

#: Words and phrases that a query may have.
MAX_ITEMS = 100

#: A phrase in quotes, or a word, each with a star or without; or a quote that is not closed.
_ITEM = re.compile(r'"(?P<phrase>[^"]*)"(?P<star>\*?)|(?P<word>[^\s"]+)|(?P<open>")')


def make(cursor: Cursor, table: str, columns: Sequence[str]) -> None:
    """Make the table of a text index."""
    # It keeps no second copy of the texts: they are in the documents.
    options = "content='', contentless_delete=1, tokenize='unicode61 remove_diacritics 2'"
    cursor.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({', '.join(columns)}, attachments, {options})")


def replace(
    cursor: Cursor,
    table: str,
    fields: Sequence[Term],
    row_id: int,
    content: Content | None,
    attachments: Mapping[str, Pointer],
) -> None:
    """Let a document be found by what it holds now; ``content`` is `None` when it is deleted."""
    cursor.execute(f"DELETE FROM {table} WHERE rowid = ?", (row_id,))
    if content is None:
        return
    columns = ["\n".join(index.texts(field, content)) for field in fields]
    columns.append("\n".join(_words(attachments)))
    if any(columns):
        marks = ", ".join("?" * (1 + len(columns)))
        cursor.execute(f"INSERT INTO {table} (rowid, {_names(columns)}) VALUES ({marks})", (row_id, *columns))


def expression(query: str) -> str:
    """
    Return FTS5's expression for a person's query; everything in it is quoted.

    :raise InvalidSearch: the query cannot be understood.
    """
    if not isinstance(query, str):
        raise InvalidSearch("not text")
    try:
        query.encode()
    except UnicodeEncodeError:
        raise InvalidSearch("a lone surrogate") from None
    # FTS5 takes a NUL for the end of the expression.
    items = [_item(match) for match in _ITEM.finditer(query.replace("\0", " "))]
    if not 0 < len(items) <= MAX_ITEMS:
        raise InvalidSearch(f"{len(items)} words: it takes 1 to {MAX_ITEMS}")
    return " ".join(items)


def _item(match: re.Match[str]) -> str:
    if match["open"]:
        raise InvalidSearch("a quote is not closed")
    if match["word"] is None:
        text, star = match["phrase"], match["star"]
    else:
        text = match["word"].removesuffix("*")
        star = match["word"][len(text) :]
    if star and not text.strip():
        raise InvalidSearch("a * with nothing before it")
    return f'"{text}"{star}'


def _words(attachments: Mapping[str, Pointer]) -> list[str]:
    return [word for name, pointer in attachments.items() for word in (name, pointer.content_type) if word]


def _names(columns: Sequence[str]) -> str:
    return ", ".join([*(f"c{number}" for number in range(len(columns) - 1)), "attachments"])
