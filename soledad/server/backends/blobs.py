"""
The one implementation of `IBlobsBackend`: an index says what there is, a byte store has the bytes.

The row is the only commit point: bytes are durable before their row is written and go after it went.  Bytes without a
row, left by a process that was killed, are swept a day later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from soledad.deferreds import completed, deferred
from soledad.errors import (
    BlobExists,
    BlobNotFound,
    LengthRequired,
    SoledadError,
    StorageError,
    StorageFailed,
    TooLarge,
)
from soledad.model.blob import WHOLE, BlobInfo, ByteRange, Flag
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId
from soledad.server.backends.uploads import ResumableWrites
from soledad.server.interfaces import Found, IBlobsBackend, Place, Stored
from soledad.streams import MemoryConsumer
from soledad.wire.listing import Namespaces, Page
from soledad.wire.routes import PAGE

#: Bytes without a row are swept after so many seconds: no upload takes that long between its end and its row.
STRAY_AGE = 24 * 3600.0
#: Blobs that are looked up at a time, of many that are wanted.
_LOOKED_UP = 256

_log = Logger()


@implementer(IBlobsBackend)
@define(eq=False)
class BlobsBackend(ResumableWrites):
    """Blobs over an index and a byte store."""

    @deferred
    async def write_blob(
        self, user: UserId, blob_id: BlobId, producer: IBodyProducer, namespace: Namespace = DEFAULT
    ) -> Stored:
        """See `IBlobsBackend`."""
        if producer.length is UNKNOWN_LENGTH:
            raise LengthRequired()
        place = Place(user, namespace, blob_id, self._new_name())
        await self.index.reserve(place, producer.length)
        try:
            stored = await self.store.write(place, producer)
            await self._commit(place, stored)
        except BaseException:
            await completed(self.index.release(place))
            raise
        return stored

    async def _commit(self, place: Place, stored: Stored) -> None:
        try:
            await self.index.commit(place, stored)
        except (SoledadError, CancelledError):
            # Certainly not committed.  After any other error it may be, and the sweep finds out.
            await self._drop([place])
            raise

    @deferred
    async def write_blobs(
        self,
        user: UserId,
        wanted: Sequence[tuple[BlobId | None, int]],
        producer: IBodyProducer,
        namespace: Namespace = DEFAULT,
    ) -> list[Stored | StorageError | None]:
        """See `IBlobsBackend`."""
        upload = self._new_name()
        named = [(blob_id, length) for blob_id, length in wanted if blob_id is not None]
        told = iter(await self.index.reserve_batch(user, namespace, upload, named))
        outcomes: list[StorageError | None] = [None if blob_id is None else next(told) for blob_id, _ in wanted]
        places = [
            None if blob_id is None or outcome is not None else Place(user, namespace, blob_id, upload)
            for (blob_id, _), outcome in zip(wanted, outcomes, strict=True)
        ]
        kept = [place for place in places if place is not None]
        if not kept:
            return list(outcomes)
        lengths = [length for _, length in wanted]
        try:
            stored = await self.store.write_many(list(zip(places, lengths, strict=True)), producer)
            taken = await self._commit_batch(kept, [found for found in stored if found is not None])
        except BaseException:
            await completed(self.index.release(kept[0]))
            raise
        return [
            BlobExists(place.blob_id, namespace) if place in taken else found or outcome
            for place, found, outcome in zip(places, stored, outcomes, strict=True)
        ]

    async def _commit_batch(self, places: list[Place], stored: list[Stored]) -> set[Place]:
        try:
            taken = await self.index.commit_batch(list(zip(places, stored, strict=True)))
        except (SoledadError, CancelledError):
            await self._drop(places)
            raise
        await self._drop(taken)
        return taken

    async def _drop(self, places: Iterable[Place]) -> None:
        """Remove bytes that belong to no blob any more; what became of the blobs is another matter."""
        for place in places:
            try:
                await completed(self.store.delete(place))
            except SoledadError:
                _log.failure("The bytes of {place} could not be removed: they are swept later", place=place)

    @deferred
    async def read_blobs(
        self, user: UserId, blob_ids: Sequence[BlobId], namespace: Namespace, limit: int, largest: int
    ) -> list[bytes | SoledadError]:
        """See `IBlobsBackend`."""
        found = await self.index.find_batch(user, namespace, blob_ids[:_LOOKED_UP])
        first = _first(found, limit, largest)
        small = [(one[1], one[0].length) for one in first if isinstance(one, tuple)]
        read = iter(await self.store.read_many(small))
        results: list[bytes | SoledadError] = [next(read) if isinstance(one, tuple) else one for one in first]
        return [
            # Deleted since its row was read, or lost.
            await self._read_small(user, blob_ids[number], namespace, largest)
            if isinstance(result, BlobNotFound) and isinstance(first[number], tuple)
            else result
            for number, result in enumerate(results)
        ]

    async def _read_small(
        self, user: UserId, blob_id: BlobId, namespace: Namespace, largest: int
    ) -> bytes | SoledadError:
        body = MemoryConsumer()
        try:
            await self.read_blob(user, blob_id, body, namespace, ByteRange(0, largest + 1))
        except SoledadError as error:
            return error
        data = body.value()
        return data if len(data) <= largest else TooLarge(largest)

    @deferred
    async def read_blob(
        self,
        user: UserId,
        blob_id: BlobId,
        consumer: IConsumer,
        namespace: Namespace = DEFAULT,
        wanted: ByteRange = WHOLE,
        etag: str | None = None,
    ) -> None:
        """See `IBlobsBackend`."""
        missing: Place | None = None
        while True:
            info, place = await self.index.find((user, namespace, blob_id))
            if etag is not None and info.etag != etag:
                raise BlobNotFound(blob_id, namespace)
            if place == missing:
                _log.error("The bytes of {place} are missing", place=place)
                raise StorageFailed("the bytes of a blob are missing")
            start, stop = wanted.within(info.length)
            try:
                await self.store.read(place, consumer, start, stop - start)
                return
            except BlobNotFound:
                # Deleted since the row was read: then the row is gone too, or is another's.
                missing = place

    @deferred
    async def delete_blob(
        self,
        user: UserId,
        blob_id: BlobId,
        namespace: Namespace = DEFAULT,
        tombstone: bytes | None = None,
        etag: str | None = None,
    ) -> None:
        """See `IBlobsBackend`."""
        await self._drop([await self.index.delete((user, namespace, blob_id), tombstone, etag)])

    @deferred
    async def stat_blob(self, user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> BlobInfo:
        """See `IBlobsBackend`."""
        info, _ = await self.index.find((user, namespace, blob_id))
        return info

    @deferred
    async def get_blob_size(self, user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> int:
        """See `IBlobsBackend`."""
        return (await self.stat_blob(user, blob_id, namespace)).length

    @deferred
    async def get_tag(self, user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> str:
        """See `IBlobsBackend`."""
        return (await self.stat_blob(user, blob_id, namespace)).etag

    @deferred
    async def get_flags(self, user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> tuple[Flag, ...]:
        """See `IBlobsBackend`."""
        return (await self.stat_blob(user, blob_id, namespace)).flags

    def set_flags(
        self, user: UserId, blob_id: BlobId, flags: tuple[Flag, ...], namespace: Namespace = DEFAULT
    ) -> Deferred[None]:
        """See `IBlobsBackend`."""
        return self.index.set_flags((user, namespace, blob_id), flags)

    def claim(self, user: UserId, blob_id: BlobId, seconds: int, namespace: Namespace = DEFAULT) -> Deferred[None]:
        """See `IBlobsBackend`."""
        return self.index.claim((user, namespace, blob_id), seconds)

    def list_blobs(
        self,
        user: UserId,
        namespace: Namespace = DEFAULT,
        order_by: str | None = None,
        deleted: bool = False,
        filter_flag: Flag | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Deferred[Page]:
        """See `IBlobsBackend`."""
        return self.index.page(
            user,
            namespace,
            newest_first=order_by == "-date",
            deleted=deleted,
            flag=filter_flag,
            after=after,
            limit=limit,
        )

    def get_changes(
        self, user: UserId, since: str, namespace: Namespace = DEFAULT, limit: int = PAGE
    ) -> Deferred[Page]:
        """See `IBlobsBackend`."""
        return self.index.changes(user, namespace, since, limit)

    def count(
        self, user: UserId, namespace: Namespace = DEFAULT, deleted: bool = False, filter_flag: Flag | None = None
    ) -> Deferred[tuple[int, str]]:
        """See `IBlobsBackend`."""
        return self.index.count(user, namespace, deleted, filter_flag)

    def list_namespaces(self, user: UserId) -> Deferred[Namespaces]:
        """See `IBlobsBackend`."""
        return self.index.namespaces(user)

    def get_total_storage(self, user: UserId) -> Deferred[int]:
        """See `IBlobsBackend`."""
        return self.index.used(user)

    @deferred
    async def sweep(self, age: float = STRAY_AGE) -> int:
        """Tidy up after killed processes; let tombstones and uploads expire; return how many strays were removed."""
        await self.index.release_dead()
        await self.index.expire()
        await self.pending.expire()
        removed = 0
        after = ""
        while found := await self.store.list(after):
            for stray in await self.strays(found, age):
                await self.store.delete(stray)
                removed += 1
            after = found[-1].name
        return removed

    async def strays(self, found: list[Found], age: float = STRAY_AGE) -> list[Place]:
        """Return those of ``found`` that were written more than ``age`` seconds ago and belong to no blob."""
        old = [item.place for item in found if item.age > age]
        known = await self.index.known(old) if old else set()
        return [place for place in old if place not in known]


def _first(
    found: list[tuple[BlobInfo, Place] | BlobNotFound], limit: int, largest: int
) -> list[tuple[BlobInfo, Place] | SoledadError]:
    """Return the first ones, of ``limit`` bytes together or one at least; an error for those that are too large."""
    first: list[tuple[BlobInfo, Place] | SoledadError] = []
    total = 0
    for one in found:
        if isinstance(one, tuple) and one[0].length > largest:
            first.append(TooLarge(largest))
            continue
        total += one[0].length if isinstance(one, tuple) else 0
        if first and total > limit:
            break
        first.append(one)
    return first
