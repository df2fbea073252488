"""
Do the index and the bytes agree?  Can be asked beside a server that runs, in constant memory.

What changes meanwhile is looked at again before it is called a problem.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from soledad.errors import BlobNotFound, InvalidIdentifier, StorageError, StorageFailed, WrongLength
from soledad.model.ids import blob_id, namespace, user_id
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.interfaces import Found, Place, Stored
from soledad.server.repairs import Repairs
from soledad.server.rows import Key, key_of
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


async def check(backend: BlobsBackend, report: Callable[[Problem], object], repairs: Repairs | None = None) -> int:
    """
    Compare every blob's row with its bytes, the bytes with the rows, and the users' totals.

    :param report: is told each problem.  Their kinds: ``missing``, ``length``, ``damaged`` (the tag is another),
        ``unreadable``, ``stray`` (bytes of no blob, for more than a day), ``total`` (a user's).
    :param repairs: mends what can be; nobody else may use the data meanwhile.
    :return: the number of problems that are left.
    """
    checker = _Checker(backend, report) if repairs is None else _Repairer(backend, report, repairs)
    await checker.rows()
    await checker.files()
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
                    await self._blob(problem, place)
            after = key_of(rows[-1][0])

    async def files(self) -> None:
        """Look for bytes that belong to no blob."""
        after = ""
        while found := await self._backend.store.list(after):
            await self._strays(found)
            after = found[-1].name

    async def totals(self) -> None:
        """Add up each user's blobs."""
        for user, used, total in await self._backend.index.miscounted():
            self._add(Problem("total", user, f"{used} bytes are counted, the blobs have {total}"))

    async def _blob(self, problem: Problem, place: Place) -> None:
        self._add(problem)

    async def _strays(self, found: list[Found]) -> None:
        for place in await self._backend.strays(found):
            self._add(Problem("stray", _name(place), place.upload))

    def _add(self, problem: Problem) -> None:
        self.count += 1
        self._report(problem)

    async def _compare(self, place: Place, stored: Stored) -> Problem | None:
        try:
            size = await self._backend.store.size(place)
            if size != stored.length:
                return Problem("length", _name(place), f"{size} bytes instead of {stored.length}")
            etag = await self._tag(place, size)
        except BlobNotFound:
            return Problem("missing", _name(place))
        except (StorageFailed, WrongLength) as error:
            return Problem("unreadable", _name(place), str(error))
        return None if etag == stored.etag else Problem("damaged", _name(place), "the tag is another")

    async def _tag(self, place: Place, size: int) -> str:
        digest = _Digest()
        await self._backend.store.read(place, digest, 0, size)
        return digest.tag()

    async def _still(self, place: Place) -> bool:
        return place in await self._backend.index.known([place])


@define(eq=False)
class _Repairer(_Checker):
    """Mends what it finds, and counts what it cannot."""

    _repairs: Repairs = field()

    async def totals(self) -> None:
        """Let them be what the blobs have."""
        for user, used, total in await self._backend.index.miscounted():
            self._report(Problem("total", user, f"{used} bytes were counted, the blobs have {total}: mended"))
        await self._repairs.recount()

    async def _blob(self, problem: Problem, place: Place) -> None:
        if problem.kind == "unreadable":
            # Perhaps the disk can be read another day: this is for a person to decide.
            self._add(problem)
            return
        done = "forgotten"
        if problem.kind != "missing":
            # First: left where it is, and without its row, it would be taken for a blob the next time.
            done += f", what is there is kept as {await self._backend.store.put_aside(place)}"
        await self._repairs.forget(place)
        self._report(evolve(problem, detail=": ".join(filter(None, (problem.detail, done)))))

    async def _strays(self, found: list[Found]) -> None:
        # Of any age: nobody is writing one.
        known = await self._backend.index.known([item.place for item in found])
        for item in found:
            if item.complete and item.place not in known:
                await self._stray(item)

    async def _stray(self, item: Found) -> None:
        place = item.place
        try:
            user_id(place.user), namespace(place.namespace), blob_id(place.blob_id)
            size = await self._backend.store.size(place)
            stored = Stored(size, await self._tag(place, size))
        except InvalidIdentifier:
            return
        except (StorageError, WrongLength) as error:
            self._add(Problem("unreadable", _name(place), str(error)))
            return
        if await self._repairs.adopt(place, stored, self._backend.index.date(item.age)):
            self._report(Problem("stray", _name(place), f"{place.upload}: a blob again"))


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
