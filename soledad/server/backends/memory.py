"""Bytes in a dict: for tests and demonstrations, gone with the process."""

from __future__ import annotations

from builtins import list as builtin_list
from collections.abc import Callable, Sequence
from hashlib import sha256
from time import time
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.deferreds import InPlace, Worker, deferred
from soledad.errors import BlobNotFound, StorageError, UploadBusy
from soledad.server.backends.batch import Portions
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.database import Database
from soledad.server.index import Index
from soledad.server.interfaces import Found, IByteStore, IPart, Place, Stored
from soledad.server.processes import Alone
from soledad.streams import Budget, WorkerConsumer, WorkerProducer, pour, send
from soledad.wire.routes import PAGE

#: How the name ends of what was put aside.
ASIDE = ".aside"


@implementer(IByteStore)
@define(eq=False)
class MemoryBytes:
    """See the module."""

    _budget: Budget = field(factory=Budget)
    #: Unix time, seconds.
    _clock: Callable[[], float] = time
    _worker: Worker = field(factory=InPlace)
    _kept: dict[Place, tuple[bytes, float]] = field(factory=dict, init=False)
    _parts: dict[Place, MemoryPart] = field(factory=dict, init=False)
    _aside: dict[str, bytes] = field(factory=dict, init=False)

    @deferred
    async def write(self, place: Place, producer: IBodyProducer) -> Stored:
        """See `IByteStore`."""
        pieces: builtin_list[bytes] = []
        length = await pour(producer, WorkerConsumer(self._worker, pieces.extend, self._budget))
        data = b"".join(pieces)
        self._kept[place] = (data, self._clock())
        return Stored(length, sha256(data).hexdigest())

    @deferred
    async def write_many(
        self, portions: Sequence[tuple[Place | None, int]], producer: IBodyProducer
    ) -> builtin_list[Stored | None]:
        """See `IByteStore`."""
        cutter = Portions([length for _, length in portions])
        parts: builtin_list[builtin_list[bytes]] = [[] for _ in portions]

        def take(pieces: builtin_list[bytes]) -> None:
            for piece in pieces:
                for number, part, _ in cutter.cut(piece):
                    parts[number].append(part)

        await pour(producer, WorkerConsumer(self._worker, take, self._budget))
        stored: builtin_list[Stored | None] = []
        for (place, length), pieces in zip(portions, parts, strict=True):
            data = b"".join(pieces)
            if place is not None:
                self._kept[place] = (data, self._clock())
            stored.append(None if place is None else Stored(length, sha256(data).hexdigest()))
        return stored

    def read_many(self, places: Sequence[tuple[Place, int]]) -> Deferred[builtin_list[bytes | StorageError]]:
        """See `IByteStore`."""
        return self._worker.run(self._read_many, places)

    def _read_many(self, places: Sequence[tuple[Place, int]]) -> builtin_list[bytes | StorageError]:
        return [
            self._kept[place][0] if place in self._kept else BlobNotFound(place.blob_id, place.namespace)
            for place, _ in places
        ]

    @deferred
    async def read(self, place: Place, consumer: IConsumer, start: int, length: int) -> None:
        """See `IByteStore`."""
        if place not in self._kept:
            raise BlobNotFound(place.blob_id, place.namespace)
        rest = memoryview(self._kept[place][0])[start : start + length]

        def read(size: int) -> bytes:
            nonlocal rest
            piece, rest = rest[:size], rest[size:]
            return bytes(piece)

        await send(WorkerProducer(self._worker, read, self._budget, length), consumer)

    def size(self, place: Place) -> Deferred[int]:
        """See `IByteStore`."""
        if place not in self._kept:
            return fail(BlobNotFound(place.blob_id, place.namespace))
        return succeed(len(self._kept[place][0]))

    def delete(self, place: Place) -> Deferred[None]:
        """See `IByteStore`."""
        self._kept.pop(place, None)
        self._parts.pop(place, None)
        return succeed(None)

    def put_aside(self, place: Place) -> Deferred[str]:
        """See `IByteStore`."""
        if place not in self._kept:
            return fail(BlobNotFound(place.blob_id, place.namespace))
        name = f"{place.upload}{ASIDE}"
        self._aside[name] = self._kept.pop(place)[0]
        return succeed(name)

    def list(self, after: str = "", limit: int = PAGE) -> Deferred[builtin_list[Found]]:
        """See `IByteStore`."""
        written = {place: at for place, (_, at) in self._kept.items()}
        written |= {place: part.written for place, part in self._parts.items()}
        named = sorted((f"{p.user}/{p.namespace}/{p.blob_id}.{p.upload}", p) for p in written)
        now = self._clock()
        return succeed([Found(n, p, now - written[p], p in self._kept) for n, p in named if n > after][:limit])

    def begin(self, place: Place) -> Deferred[None]:
        """See `IByteStore`."""
        self._parts[place] = MemoryPart(self, place, self._clock())
        return succeed(None)

    def resume(self, place: Place) -> Deferred[IPart]:
        """See `IByteStore`."""
        part = self._parts.get(place)
        if part is None and place in self._kept:
            data, written = self._kept[place]
            part = MemoryPart(self, place, written, data=bytearray(data))
        if part is None:
            return fail(BlobNotFound(place.blob_id, place.namespace))
        if part.taken:
            return fail(UploadBusy(place.upload))
        part.taken = True
        return succeed(part)

    def complete(self, place: Place, data: bytes) -> None:
        """Let what came in parts be whole."""
        del self._parts[place]
        self._kept[place] = (data, self._clock())

    def go_on(self, place: Place, part: MemoryPart) -> None:
        """Let more come, also behind what was whole a moment ago."""
        self._kept.pop(place, None)
        self._parts[place] = part


@implementer(IPart)
@define(eq=False)
class MemoryPart:
    """Bytes that come in parts, in memory, which nothing outlasts."""

    _store: MemoryBytes
    _place: Place
    #: Unix time, seconds.
    written: float
    _data: bytearray = field(factory=bytearray, repr=False)
    taken: bool = field(default=False, init=False)
    durable: int = field(default=0, init=False)

    def go_to(self, start: int) -> Deferred[None]:
        """See `IPart`."""
        if len(self._data) < start:
            return fail(BlobNotFound(self._place.blob_id, self._place.namespace))
        self._store.go_on(self._place, self)
        del self._data[start:]
        return succeed(None)

    @deferred
    async def append(self, producer: IBodyProducer, on_durable: Callable[[int], object], digest: Any = None) -> None:
        """See `IPart`."""

        def write(pieces: builtin_list[bytes]) -> None:
            for piece in pieces:
                self._data.extend(piece)
                if digest is not None:
                    digest.update(piece)

        try:
            await pour(producer, WorkerConsumer(self._store._worker, write, self._store._budget), keep=True)
        finally:
            self.durable = len(self._data)
            self.written = self._store._clock()

    def finish(self) -> Deferred[Stored]:
        """See `IPart`."""
        data = bytes(self._data)
        self._store.complete(self._place, data)
        return succeed(Stored(len(data), sha256(data).hexdigest()))

    def close(self) -> Deferred[None]:
        """See `IPart`."""
        self.taken = False
        return succeed(None)


def memory_database() -> Database:
    """Return a new, empty database in memory."""
    return Database.in_memory(InPlace())


def memory_backend(
    database: Database,
    budget: Budget | None = None,
    clock: Callable[[], float] = time,
    default_quota: int | None = None,
) -> BlobsBackend:
    """Return a backend that keeps everything in memory, its index in ``database``."""
    return BlobsBackend(Index(database, Alone(), clock, default_quota), MemoryBytes(budget or Budget(), clock))
