"""Containers on their way to the server: in one piece, so that the rest can follow later, or many together."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from attrs import define

from soledad.client.interfaces import (
    Container,
    IBlobQueue,
    ILocalBlobs,
    IRemoteBlobs,
    IRemoteStream,
    IRemoteUploads,
    Outcome,
)
from soledad.client.sealing import ContainerReader
from soledad.client.sync.blobs import RESUMABLE
from soledad.client.throttle import Rate, ThrottledBody
from soledad.deferreds import InPlace, Worker, completed
from soledad.errors import BlobExists, BlobNotFound, SoledadError, UploadNotFound, WrongOffset
from soledad.model.blob import BlobKey, ByteRange, KnownBlob, SyncEvent
from soledad.model.transfer import Queued
from soledad.streams import Budget, MemoryConsumer, Progress, WorkerProducer
from soledad.wire.container import HEADER_SIZE

#: How often the offset may turn out to be another one than we believed, before it is left for later.
_OFFSETS = 3


@define(eq=False)
class Sending:
    """Sends containers that are here."""

    _local: ILocalBlobs
    _queue: IBlobQueue
    _blobs: IRemoteBlobs
    _uploads: IRemoteUploads
    _stream: IRemoteStream
    _worker: Worker
    #: Where containers are read, piece by piece.
    _reader: Worker
    _budget: Budget
    rate: Rate

    async def send(self, row: Queued, progress: Progress) -> Outcome:
        """
        Send one container, of which the queue says ``row``; what is there already goes well, too.

        :raise BlobNotFound: its bytes are not here.
        :raise BlobExists: the server has something else under this id.
        """
        known, container = await self._local.open(row.key)
        try:
            progress.total = known.sealed.size
            if known.sealed.size > RESUMABLE:
                await self._send_resumable(known, container, progress)
            elif not (row.attempts and await self._is_ours(row.key, known.sealed.header)):
                # After an attempt that failed, the answer may have been lost, and all else not.
                await self._send_whole(known, container, progress)
        except BlobExists:
            # Ours, if an answer was lost.
            if not await self._is_ours(row.key, known.sealed.header):
                raise
        finally:
            await completed(self._for(container, self._worker).run(container.close))
        return Outcome(row.key, known.sealed.commitment, SyncEvent.CONFIRMED)

    async def abandon(self, upload: str) -> None:
        """Let the server forget an upload with which nobody goes on."""
        await self._uploads.abandon(upload)

    async def send_together(self, rows: Sequence[Queued]) -> list[Outcome | SoledadError]:
        """Send small containers of one namespace in one request; return what became of each."""
        contents = await self._queue.contents([row.key for row in rows])
        outcomes: dict[BlobKey, Outcome | SoledadError] = {
            row.key: BlobNotFound(row.key.blob_id, row.key.namespace) for row in rows
        }
        there = [(row, data) for row, data in zip(rows, contents, strict=True) if data is not None]
        if there:
            outcomes |= await self._send_bytes(there)
        for row in rows:
            # One that is a file: who has another limit put it here.
            if isinstance(outcomes[row.key], BlobNotFound):
                outcomes[row.key] = await self._attempt(row)
        return [outcomes[row.key] for row in rows]

    async def _attempt(self, row: Queued) -> Outcome | SoledadError:
        try:
            return await self.send(row, Progress(self._worker, None))
        except SoledadError as error:
            return error

    async def _send_bytes(self, there: list[tuple[Queued, bytes]]) -> dict[BlobKey, Outcome | SoledadError]:
        size = sum(len(data) for _, data in there)
        # As rows, and as they are sent.
        self._budget.take(2 * size)
        try:
            await self.rate.wait(size)
            namespace = there[0][0].key.namespace
            tags = await self._worker.run(_tags, [data for _, data in there])
            blobs = [(row.key.blob_id, data) for row, data in there]
            errors = await self._stream.write_blobs(blobs, namespace, tags)
        finally:
            self._budget.give(2 * size)
        outcomes: dict[BlobKey, Outcome | SoledadError] = {}
        for (row, _), error, tag in zip(there, errors, tags, strict=True):
            if isinstance(error, BlobExists) and await self._is_ours(row.key, row.sealed.header):
                error = None
            done = Outcome(row.key, row.sealed.commitment, SyncEvent.CONFIRMED, tag)
            outcomes[row.key] = done if error is None else error
        return outcomes

    async def _send_whole(self, known: KnownBlob, container: Container, progress: Progress) -> None:
        producer = self._producer(container, 0, known.sealed.size, progress)
        try:
            body = ThrottledBody(producer, self.rate)
            await self._blobs.write_blob(known.key.blob_id, body, known.key.namespace)
        finally:
            await completed(producer.stopped())

    async def _send_resumable(self, known: KnownBlob, container: Container, progress: Progress) -> None:
        size = known.sealed.size
        for attempt in range(_OFFSETS):
            upload, offset = await self._go_on(known)
            progress.at(offset)
            producer = self._producer(container, offset, size - offset, progress)
            try:
                await self._uploads.append(upload, offset, ThrottledBody(producer, self.rate))
            except WrongOffset:
                # What the server had received was not durable when it was asked: it knows better now.
                if attempt == _OFFSETS - 1:
                    raise
                continue
            finally:
                await completed(producer.stopped())
            return

    async def _go_on(self, known: KnownBlob) -> tuple[str, int]:
        """Return the name of the upload, and how much of it the server has."""
        row = await self._queue.look_up(known.key)
        if row is not None and row.upload is not None:
            try:
                offset = await self._uploads.offset(row.upload)
                if offset <= known.sealed.size:
                    return row.upload, offset
            except UploadNotFound:
                # It has expired, or has ended well, and the answer was lost.
                pass
            await completed(self._queue.note_upload(known.key, None))
        upload = await self._uploads.create(known.key.blob_id, known.sealed.size, known.key.namespace)
        await completed(self._queue.note_upload(known.key, upload))
        return upload, 0

    def _producer(self, container: Container, start: int, length: int, progress: Progress) -> WorkerProducer:
        reader = ContainerReader(container, start)
        worker = self._for(container, self._reader)
        return WorkerProducer(worker, reader.read, self._budget, length, on_sent=progress.add)

    def _for(self, container: Container, worker: Worker) -> Worker:
        """Return where a container is read: what does not block needs no thread, which would take longer."""
        return InPlace() if container.in_memory else worker

    async def _is_ours(self, key: BlobKey, header: bytes | None) -> bool:
        """Tell whether what is on the server is ours: the header, with its commitment, stands for all bytes."""
        there = MemoryConsumer()
        try:
            await self._blobs.read_blob(key.blob_id, there, key.namespace, ByteRange(0, HEADER_SIZE))
        except BlobNotFound:
            return False
        return there.value() == header


def _tags(contents: list[bytes]) -> list[str]:
    """Return the tags that the server gives to these."""
    return [sha256(data).hexdigest() for data in contents]
