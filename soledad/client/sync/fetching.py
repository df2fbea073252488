"""
Containers on their way from the server: verified as they come, and kept only if they are what they should be.

A large one goes on behind what came before; small ones come many together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import Event
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred

from soledad.client.blob import Blob, Keyring, context_of
from soledad.client.interfaces import Arrival, IBlobQueue, ILocalBlobs, IRemoteBlobs, IRemoteStream, Spool
from soledad.client.resuming import Resuming
from soledad.client.scratch import Scratch
from soledad.client.sealing import Verifying
from soledad.client.sync.blobs import TOGETHER
from soledad.client.throttle import Rate, Valve
from soledad.crypto.container import Chunks, open_, tail_place
from soledad.deferreds import Worker, completed
from soledad.errors import CryptoError, PreconditionFailed, SoledadError
from soledad.model.blob import WHOLE, BlobKey, ByteRange, Sealed
from soledad.model.transfer import Queued
from soledad.streams import Budget, MemoryConsumer, Progress, WorkerConsumer
from soledad.wire.container import HEADER_SIZE, Header

#: Bytes of a container that are not worth keeping by themselves.
LEAST_KEPT = 64 * 1024


@define(eq=False)
class Fetching:
    """Fetches containers that are not here."""

    _local: ILocalBlobs
    _queue: IBlobQueue
    _blobs: IRemoteBlobs
    _stream: IRemoteStream
    _keyring: Keyring
    worker: Worker
    #: Where large ones are verified and written as they come.
    _mover: Worker
    _budget: Budget
    rate: Rate
    _scratch: Scratch = field(factory=Scratch, init=False)

    async def fetch(self, row: Queued, progress: Progress) -> Arrival:
        """
        Fetch one container.

        :raise BlobNotFound: the server has no such blob.
        :raise CryptoError: what it has is not what it should be.
        """
        if not row.sealed.is_known and 0 < row.sealed.size <= TOGETHER:
            return await self._fetch_small(row, progress)
        if not row.sealed.is_known:
            row = await self._look(row)
        progress.total = row.sealed.size
        if row.sealed.size <= TOGETHER or await self._queue.look_up(row.key) is None:
            return await self._fetch_whole(row, progress)
        try:
            return await self._fetch_resumable(row, progress)
        except PreconditionFailed:
            # Stored anew in the meantime: whether it is the same, its bytes will say.
            return await self._fetch_resumable(evolve(row, etag=None), progress, from_start=True)

    async def fetch_together(self, rows: Sequence[Queued]) -> list[Arrival | SoledadError]:
        """Fetch small containers of one namespace in one request; return each, or its error."""
        size = sum(row.sealed.size for row in rows)
        # As they come, and as rows.
        self._budget.take(2 * size)
        try:
            await self.rate.wait(size)
            wanted = [(row.key.blob_id, row.sealed.size) for row in rows]
            contents = await self._stream.read_blobs(wanted, rows[0].key.namespace)
            return await self.worker.run(self._verify_all, rows, contents)
        finally:
            self._budget.give(2 * size)

    # --- small ones -----------------------------------------------------------------------------------

    async def _fetch_small(self, row: Queued, progress: Progress) -> Arrival:
        await self.rate.wait(row.sealed.size)
        data, etag = await self._read(row.key, ByteRange(0, row.sealed.size))
        progress.total = len(data)
        arrival = await self.worker.run(self._verify, row, data)
        progress.at(len(data))
        return evolve(arrival, etag=etag)

    def _verify_all(
        self, rows: Sequence[Queued], contents: Sequence[bytes | SoledadError]
    ) -> list[Arrival | SoledadError]:
        """Verify small containers; blocks."""
        outcomes: list[Arrival | SoledadError] = []
        for row, data in zip(rows, contents, strict=True):
            try:
                outcomes.append(data if isinstance(data, SoledadError) else self._verify(row, data))
            except SoledadError as error:
                outcomes.append(error)
        return outcomes

    def _verify(self, row: Queued, data: bytes) -> Arrival:
        """Verify one small container, and keep it; blocks."""
        sealed = row.sealed
        length, commitment = (sealed.length, sealed.commitment) if sealed.is_known else (None, None)
        plain = open_(self._keyring.roots, context_of(row.key), data, length, commitment)
        header = data[:HEADER_SIZE]
        spool = self._local.spool()
        try:
            spool.write(data)
            spooled = spool.finish()
        except BaseException:
            spool.discard()
            raise
        known = Sealed(len(plain), len(data), header, Header.parse(header).commitment)
        return Arrival(row.key, known, spooled, row.etag)

    # --- in one go ------------------------------------------------------------------------------------

    async def _fetch_whole(self, row: Queued, progress: Progress) -> Arrival:
        spool: Spool = self._local.spool()
        opener = Blob.of(row).opener(self._keyring.roots)
        verifying = Verifying(spool, opener, progress, self._scratch)
        try:
            etag = await self._receive(row.key, verifying.take, WHOLE, None)
            spooled = await self.worker.run(verifying.finish)
        except BaseException:
            await completed(self.worker.run(spool.discard))
            raise
        sealed = evolve(row.sealed, size=spooled.size, header=bytes(verifying.header))
        return Arrival(row.key, sealed, spooled, etag)

    # --- large ones -----------------------------------------------------------------------------------

    async def _fetch_resumable(self, row: Queued, progress: Progress, from_start: bool = False) -> Arrival:
        file = await self._queue.partial(row.key)
        resuming = Resuming(file, partial(Blob.of(row).chunks, self._keyring.roots), progress, self._scratch)
        etag = row.etag
        try:
            if from_start:
                await completed(self.worker.run(file.cut, 0))
            stop = Event()
            start = await self.worker.run(resuming.begin, stop, stop=stop)
            if resuming.missing != 0:
                wanted = ByteRange(start) if start else WHOLE
                etag = await self._receive(row.key, resuming.take, wanted, row.etag)
            spooled = await self.worker.run(resuming.finish)
        except BaseException as error:
            await completed(self.worker.run(resuming.close))
            if file.size <= LEAST_KEPT or isinstance(error, CryptoError):
                # Of what is not right nothing is kept, not even its beginning.
                await completed(self._queue.drop_partial(row.key))
            else:
                await completed(self._queue.note_progress(row.key, file.size, etag))
            raise
        return Arrival(row.key, evolve(row.sealed, size=spooled.size, header=resuming.header), spooled, etag)

    async def _receive(self, key: BlobKey, take: Any, wanted: ByteRange, etag: str | None) -> str | None:
        """Let ``take`` have what comes; return the tag."""
        consumer = WorkerConsumer(self._mover, take, self._budget)
        valve = Valve(consumer, self.rate)
        tags: list[str] = []

        async def read() -> None:
            await self._blobs.read_blob(key.blob_id, valve, key.namespace, wanted, etag, tags.append)
            # What came faster than it may is still to go on.
            await valve.emptied()

        reading = Deferred.fromCoroutine(read())
        # What fails verification ends the transfer: the rest is of no use.
        consumer.on_failure = lambda failure: reading.cancel()
        try:
            await reading
        finally:
            valve.drop()
            # Its own failure is the reason, if there is one; and nothing may be handled any more after this.
            await completed(consumer.finish())
        return tags[0] if tags else etag

    async def _look(self, row: Queued) -> Queued:
        """Find out what a blob is of which only a list told: from its header, and its tail."""
        context, size = context_of(row.key), row.sealed.size
        header, etag = await self._read(row.key, ByteRange(0, HEADER_SIZE))
        tail, _ = await self._read(row.key, tail_place(context, header, size))
        chunks = Chunks.of_size(self._keyring.roots, context, header, size, tail)
        sealed = Sealed(chunks.length, size, header, chunks.commitment)
        await completed(self._queue.note_known(row.key, sealed, etag))
        return evolve(row, sealed=sealed, etag=etag)

    async def _read(self, key: BlobKey, place: ByteRange) -> tuple[bytes, str]:
        """Return a small part of what the server has, and its tag."""
        consumer, tags = MemoryConsumer(), [""]
        reading: Deferred[None] = self._blobs.read_blob(
            key.blob_id, consumer, key.namespace, place, None, partial(tags.insert, 0)
        )
        await reading
        return consumer.value(), tags[0]
