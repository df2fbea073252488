"""
Finding documents: by indexes, by ranges of them, and by full text.

The rules are in `soledad.model.index`; what runs in the database is in `soledad.client.local.queries`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from attrs import define
from twisted.internet.defer import Deferred

from soledad.client.document import Document
from soledad.client.interfaces import IQueries
from soledad.model import index
from soledad.model.document import Stored
from soledad.model.ids import index_name
from soledad.model.index import Bound, Key, Slice, Value

#: Names of indexes, each with its expressions.
Definitions: TypeAlias = list[tuple[str, list[str]]]


@define(eq=False)
class Queries:
    """What `Soledad` does with indexes; it says what each is for."""

    _local: IQueries
    _load: Callable[[Stored], Document]

    async def create_index(self, name: str, expressions: Sequence[str]) -> None:
        """Make an index."""
        index.parse_all(expressions)
        await self._local.create_index(index_name(name), expressions)

    async def delete_index(self, name: str) -> None:
        """Remove an index."""
        await self._local.delete_index(index_name(name))

    async def list_indexes(self) -> Definitions:
        """Return names and expressions."""
        return await self._local.list_indexes()

    def get(self, name: str, values: Sequence[Value], limit: int | None, offset: int) -> Deferred[list[Document]]:
        """Return the documents that match values."""
        return self.get_range(name, values, values, limit, offset)

    def get_range(
        self, name: str, start: Bound, end: Bound, limit: int | None, offset: int
    ) -> Deferred[list[Document]]:
        """Return the documents between two bounds."""
        return self._local.get_range(index_name(name), start, end, Slice.of(limit, offset)).addCallback(self._loaded)

    def _loaded(self, stored: Sequence[Stored]) -> list[Document]:
        return [self._load(one) for one in stored]

    async def count(self, name: str, values: Sequence[Value]) -> int:
        """Return how many documents match."""
        return await self._local.count(index_name(name), values, values)

    async def keys(self, name: str, limit: int | None, offset: int) -> list[Key]:
        """Return the different keys of an index."""
        return await self._local.keys(index_name(name), Slice.of(limit, offset))

    async def create_text_index(self, name: str, fields: Sequence[str]) -> None:
        """Make a text index."""
        index.parse_fields(fields)
        await self._local.create_text_index(index_name(name), fields)

    async def delete_text_index(self, name: str) -> None:
        """Remove a text index."""
        await self._local.delete_text_index(index_name(name))

    async def list_text_indexes(self) -> Definitions:
        """Return names and fields."""
        return await self._local.list_text_indexes()

    async def search(self, name: str, query: str, limit: int | None, offset: int) -> list[Document]:
        """Return the documents that have the words of a query."""
        return self._loaded(await self._local.search(index_name(name), query, Slice.of(limit, offset)))
