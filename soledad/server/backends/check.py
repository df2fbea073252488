"""
Do the index and the bytes agree?  Can be asked beside a server that runs, in constant memory.

What changes meanwhile is looked at again before it is called a problem.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from attrs import define, field, frozen
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from soledad.errors import BlobNotFound, StorageFailed, WrongLength
from soledad.model.ids import UserId
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.index import Key, key_of
from soledad.server.interfaces import IRecordsBackend, Place, Stored
from soledad.wire.routes import PAGE


@frozen
class Problem:
    """One thing that is not as it should be."""

    kind: str
    #: Which blob, file or user.
    what: str
    detail: str = ""

    def __str__(self) -> str:
        """Return a line for an operator."""
        return f"{self.kind}: {self.what}" + (f": {self.detail}" if self.detail else "")


async def check(
    backend: BlobsBackend, report: Callable[[Problem], object], records: IRecordsBackend | None = None
) -> int:
    """
    Compare every blob's row with its bytes, the bytes with the rows, records with their hashes, and the users' totals.

    :param report: is told each problem.  Their kinds: ``missing``, ``length``, ``damaged`` (the tag is another),
        ``unreadable``, ``stray`` (bytes of no blob, for more than a day), ``record`` (damaged), ``total`` (a user's).
    :return: the number of problems.
    """
    checker = _Checker(backend, report)
    await checker.rows()
    await checker.files()
    if records is not None:
        await checker.records(records)
    await checker.totals()
    return checker.count


@define(eq=False)
class _Checker:
    """Goes through it all, and counts."""

    _backend: BlobsBackend
    _report: Callable[[Problem], object]
    count: int = field(default=0, init=False)

    async def rows(self) -> None:
        """Look for each blob's bytes."""
        after: Key | None = None
        while rows := await self._backend.index.rows(after, PAGE):
            for place, stored in rows:
                problem = await self._compare(place, stored)
                if problem is not None and await self._still(place):
                    self._add(problem)
            after = key_of(rows[-1][0])

    async def files(self) -> None:
        """Look for bytes that belong to no blob."""
        after = ""
        while found := await self._backend.store.list(after):
            for place in await self._backend.strays(found):
                self._add(Problem("stray", _name(place), place.upload))
            after = found[-1].name

    async def records(self, records: IRecordsBackend) -> None:
        """Look whether each record, and each checkpoint, is what was stored."""
        after: tuple[UserId, str] | None = None
        while True:
            damaged, after = await records.damaged(after)
            for what in damaged:
                self._add(Problem("record", what, "it is not what was stored"))
            if after is None:
                return

    async def totals(self) -> None:
        """Add up each user's blobs."""
        for user, used, total in await self._backend.index.miscounted():
            self._add(Problem("total", user, f"{used} bytes are counted, the user has {total}"))

    def _add(self, problem: Problem) -> None:
        self.count += 1
        self._report(problem)

    async def _compare(self, place: Place, stored: Stored) -> Problem | None:
        digest = _Digest()
        try:
            size = await self._backend.store.size(place)
            if size != stored.length:
                return Problem("length", _name(place), f"{size} bytes instead of {stored.length}")
            await self._backend.store.read(place, digest, 0, size)
        except BlobNotFound:
            return Problem("missing", _name(place))
        except (StorageFailed, WrongLength) as error:
            return Problem("unreadable", _name(place), str(error))
        return None if digest.tag() == stored.etag else Problem("damaged", _name(place), "the tag is another")

    async def _still(self, place: Place) -> bool:
        return place in await self._backend.index.known([place])


def _name(place: Place) -> str:
    return f"{place.user}/{place.namespace}/{place.blob_id}"


@implementer(IConsumer)
@define(eq=False)
class _Digest:
    """Takes the SHA-256 of what is written to it."""

    _digest: Any = field(factory=sha256, init=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        self._digest.update(data)

    def tag(self) -> str:
        """Return it in hex."""
        return str(self._digest.hexdigest())
