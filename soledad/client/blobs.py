"""
Blobs for this device's user: seals what goes in, opens what comes out, and moves sealed bytes to and from the server.

What it is handed besides keys: the local store and, if there is one, the server.  Which document a blob belongs to
is not known here.
"""

from __future__ import annotations

import os
from functools import partial
from io import BytesIO
from threading import Event
from typing import BinaryIO

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer

from soledad.client.blob import Blob, Keyring, context_of
from soledad.client.interfaces import Container, ILocalBlobs, IRemoteBlobs
from soledad.client.reading import SealedFile
from soledad.client.scratch import Scratch
from soledad.client.sealing import RangeReader, Sealing, open_window, read_range
from soledad.client.sync.engine import Engine
from soledad.crypto.container import Chunks, KeyMaterial, RangeOpener, Sealer, seal
from soledad.deferreds import Worker, completed
from soledad.errors import BlobNotFound, NoServer, UnexpectedAnswer
from soledad.model.blob import BlobKey, ByteRange, Priority, Sealed, SyncEvent, SyncStatus
from soledad.model.transfer import Direction, Queued
from soledad.streams import Budget, Gate, MemoryConsumer, Progress, WorkerConsumer, WorkerProducer, pour, send
from soledad.wire.container import COMMITMENT_SIZE, HEADER_SIZE, SALT_SIZE

#: Bytes that one request for a range of a remote blob asks for.
WINDOW = 2 * 1024 * 1024
#: The same when buffers are scarce: a chunk.
LEAST_WINDOW = 64 * 1024
#: Bytes that are sealed where the row is written: the way to another thread would take longer.
SMALL = 64 * 1024

Source = BinaryIO | bytes | bytearray | memoryview | IBodyProducer


@define(eq=False)
class Blobs:
    """The blobs of one open store."""

    _local: ILocalBlobs
    _remote: IRemoteBlobs | None
    _keyring: Keyring
    _worker: Worker
    #: Where streams read, piece by piece.
    _reader: Worker
    _budget: Budget
    _engine: Engine | None
    _scratch: Scratch = field(factory=Scratch, init=False)

    # --- what goes in ---------------------------------------------------------------------------------

    async def put(
        self,
        key: BlobKey,
        source: Source,
        progress: Progress,
        status: SyncStatus = SyncStatus.UNREFERENCED,
        priority: Priority = Priority.MEDIUM,
    ) -> Blob:
        """
        Seal all of ``source`` and keep it, durable; an ``UNREFERENCED`` one is condemned until something refers to it.

        :raise BlobExists: the id is taken.
        """
        if isinstance(source, bytes) and len(source) <= SMALL:
            progress.total = progress.done = len(source)
            make = partial(_seal_small, self._keyring.current, key, source)
            made = await self._local.put_made(key, make, status, priority)
            return Blob(key, made.length, made.commitment)
        sealer = Sealer(self._keyring.current, context_of(key), os.urandom(SALT_SIZE))
        sealing = Sealing(self._local.spool(), sealer, self._scratch)
        try:
            await self._fill(sealing, source, progress)
            spooled = await self._worker.run(sealing.finish)
        except BaseException:
            await completed(self._worker.run(sealing.discard))
            raise
        sealed = Sealed(sealer.length, spooled.size, sealer.header, sealer.commitment)
        await self._local.put(key, sealed, spooled, status, priority)
        return Blob(key, sealer.length, sealer.commitment)

    async def _fill(self, sealing: Sealing, source: Source, progress: Progress) -> None:
        if IBodyProducer.providedBy(source):
            progress.total = 0 if source.length is UNKNOWN_LENGTH else source.length
            consumer = WorkerConsumer(self._worker, partial(sealing.take, progress=progress), self._budget)
            await pour(source, consumer)
            return
        if isinstance(source, bytes | bytearray | memoryview):
            # A copy would be safe from changes, and cost as much as the data: bytes are not copied.
            source = BytesIO(source)
        stop = Event()
        await self._worker.run(sealing.read_all, source, progress, stop, stop=stop)

    # --- what comes out -------------------------------------------------------------------------------

    async def open(self, blob: Blob) -> SealedFile:
        """
        Open a blob that is here as a file.

        :raise BlobNotFound: its bytes are not here.
        """
        _, container = await self._local.open(blob.key)
        return await completed(self._worker.run(self._open_container, blob, container))

    async def read(self, blob: Blob, wanted: ByteRange) -> bytes:
        """Return a range of the data; if the bytes are not here, just what holds it is fetched."""
        wanted.within(blob.length)
        try:
            file = await self.open(blob)
        except BlobNotFound:
            consumer = MemoryConsumer()
            await self._write_remote(blob, consumer, wanted)
            return consumer.value()
        try:
            return await self._worker.run(read_range, file, wanted)
        finally:
            # Cancelled before its turn, it was not closed there.
            file.close()

    async def write_to(self, blob: Blob, consumer: IConsumer, wanted: ByteRange) -> None:
        """Write a range of the data to ``consumer``; if the bytes are not here, they are fetched as ranges."""
        start, stop = wanted.within(blob.length)
        try:
            file = await self.open(blob)
        except BlobNotFound:
            await self._write_remote(blob, consumer, wanted)
            return
        file.seek(start)
        left = RangeReader(file, stop - start)
        await send(WorkerProducer(self._reader, left.read, self._budget, stop - start, close=file.close), consumer)

    def _open_container(self, blob: Blob, container: Container) -> SealedFile:
        try:
            chunks = blob.chunks(self._keyring.roots, container.read(0, HEADER_SIZE))
            return SealedFile(chunks, container, self._scratch)
        except BaseException:
            container.close()
            raise

    async def _write_remote(self, blob: Blob, consumer: IConsumer, wanted: ByteRange) -> None:
        """Fetch a range window by window, each opened before any of it is written."""
        start, stop = wanted.within(blob.length)
        gate = Gate()
        try:
            chunks = await self._remote_chunks(blob)
            consumer.registerProducer(gate, True)
            try:
                while start < stop:
                    await gate.passed()
                    # Windows end where chunks do, so that no chunk is fetched twice.
                    window = LEAST_WINDOW if self._budget.crowded else WINDOW
                    end = min(stop, (start + window) // window * window)
                    await self._write_window(blob, chunks, ByteRange(start, end - start), consumer, gate)
                    start = end
            finally:
                consumer.unregisterProducer()
        except BlobNotFound:
            await completed(self._learn(blob, SyncEvent.MISSED))
            raise

    async def _write_window(
        self, blob: Blob, chunks: Chunks, wanted: ByteRange, consumer: IConsumer, gate: Gate
    ) -> None:
        # As it comes, joined, and opened.
        held = 3 * (wanted.length or 0)
        self._budget.take(held)
        try:
            consumer.write(await gate.during(Deferred.fromCoroutine(self._window(blob, chunks, wanted))))
        finally:
            self._budget.give(held)

    async def _window(self, blob: Blob, chunks: Chunks, wanted: ByteRange) -> bytes:
        opener = RangeOpener(chunks, wanted)
        sealed = await self._fetch(blob.key, opener.place)
        return await self._reader.run(open_window, opener, sealed)

    async def _remote_chunks(self, blob: Blob) -> Chunks:
        known = await self._local.get(blob.key)
        header = None if known is None else known.sealed.header
        if header is None:
            header = await self._fetch(blob.key, ByteRange(0, HEADER_SIZE))
        return blob.chunks(self._keyring.roots, header)

    async def _fetch(self, key: BlobKey, place: ByteRange) -> bytes:
        consumer = MemoryConsumer()
        await self._server().read_blob(key.blob_id, consumer, key.namespace, place)
        return consumer.value()

    # --- to and from the server -----------------------------------------------------------------------

    async def move(self, direction: Direction, blob: Blob, progress: Progress) -> SyncStatus:
        """
        Send a blob that is here, or fetch one that is not, unless that is done; return its status.

        :raise BlobNotFound: its bytes are not here, or the server has no such blob.
        :raise BlobExists: the server has something else under this id.
        """
        if self._engine is None:
            raise NoServer()
        row = Queued(blob.key, SyncStatus.AWAITED, Priority.MEDIUM, blob.sealed(None))
        status = await self._engine.move(row, direction, progress)
        if status is None:
            raise BlobNotFound(blob.key.blob_id, blob.key.namespace)
        return status

    async def status(self, blob: Blob) -> SyncStatus | None:
        """Return what this device knows of a blob; `None` when it knows nothing."""
        known = await self._local.get(blob.key)
        return None if known is None else known.status

    async def ask(self, blob: Blob) -> SyncStatus:
        """
        Ask the server whether it has the blob, and note the answer; return the blob's status after it.

        Errors of the exchange are raised.
        """
        try:
            info = await self._server().stat_blob(blob.key.blob_id, blob.key.namespace)
        except BlobNotFound:
            return await self._learn(blob, SyncEvent.MISSED)
        if info.length != blob.sealed(None).size:
            raise UnexpectedAnswer("the blob on the server has another size")
        return await self._learn(blob, SyncEvent.CONFIRMED)

    def _learn(self, blob: Blob, event: SyncEvent) -> Deferred[SyncStatus]:
        return self._local.learn(blob.key, blob.sealed(None), event)

    def _server(self) -> IRemoteBlobs:
        if self._remote is None:
            raise NoServer()
        return self._remote


def _seal_small(material: KeyMaterial, key: BlobKey, data: bytes) -> tuple[Sealed, bytes]:
    """Return the container of a little data; blocks."""
    container = seal(material, context_of(key), os.urandom(SALT_SIZE), data)
    header = container[:HEADER_SIZE]
    return Sealed(len(data), len(container), header, header[-COMMITMENT_SIZE:]), container
