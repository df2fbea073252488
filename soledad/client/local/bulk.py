"""
Many rows in one statement.

A statement costs as much as a small row or two, and asks for the interpreter when it ends: where another thread is
busy, such as the reactor's, each waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from soledad.client.local.database import Cursor

#: Rows of one statement.  One number for all tables, and not one for each call: statements are kept, prepared.
BLOCK = 100


def insert(cursor: Cursor, into: str, rows: Iterable[tuple[Any, ...]], behind: str = "") -> None:
    """
    Insert rows, all of the same length, in their order.

    :param into: the statement up to ``VALUES``.
    :param behind: what ends it.
    """
    rows = iter(rows)
    while len(block := list(islice(rows, BLOCK))) == BLOCK:
        insert_block(cursor, into, block, behind)
    if block:
        cursor.executemany(_statement(into, len(block[0]), 1, behind), block)


def insert_block(cursor: Cursor, into: str, rows: Sequence[tuple[Any, ...]], behind: str = "") -> None:
    """Insert `BLOCK` rows with one statement; ``behind`` ends it."""
    cursor.execute(_statement(into, len(rows[0]), BLOCK, behind), tuple(chain.from_iterable(rows)))


@lru_cache(maxsize=1000)
def _statement(into: str, columns: int, rows: int, behind: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([row] * rows)} {behind}"
