"""
Files that come in parts, over several requests, in whatever process.

Until all is there the name ends in `PART`.  Who is at it has the file locked, so that no other process is; what is
written behind the bytes that count is cut off by whoever goes on.  Source: docs/server.rst, "Files".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.deferreds import Worker, completed, deferred
from soledad.errors import BlobNotFound, StorageError
from soledad.server.backends.files import Files
from soledad.server.backends.naming import PART
from soledad.server.faults import storage_errors
from soledad.server.interfaces import IPart, Place, Stored
from soledad.streams import PIECE, Budget, WorkerConsumer, pour
from soledad.writeback import Writeback

#: Bytes after which a long part is made durable, while more of it comes.
SYNC_STRETCH = 16 * 1024 * 1024
#: Digests of uploads that wait for their next part, at most.
_DIGESTS = 1000

_log = Logger()


@define(eq=False)
class Digests:
    """SHA-256 of what uploads have so far, so that those which stay with one process need not be read again."""

    _kept: dict[Place, tuple[int, Any]] = field(factory=dict, init=False)

    def keep(self, place: Place, length: int, digest: Any) -> None:
        """Remember what the first ``length`` bytes have."""
        self._kept[place] = (length, digest)
        while len(self._kept) > _DIGESTS:
            # Threads take from it meanwhile: unlike an iterator, a tuple of what there is comes in one step.
            first, *_ = tuple(self._kept)
            self._kept.pop(first, None)

    def take(self, place: Place, length: int) -> Any:
        """Return what the first ``length`` bytes have, to go on with; `None` if that is not known."""
        known, digest = self._kept.pop(place, (0, None))
        return sha256() if length == 0 else digest if known == length else None


@implementer(IPart)
@define(eq=False)
class FilePart:
    """The file of an upload, open and locked."""

    _files: Files
    _worker: Worker
    _streams: Worker
    _budget: Budget
    _digests: Digests
    _place: Place
    #: Where the file is when it is complete.
    _path: str
    _file: int
    durable: int = field(default=0, init=False)
    _length: int = field(default=0, init=False)
    _digest: Any = field(default=None, init=False)
    _check: Any = field(default=None, init=False)
    _on_durable: Callable[[int], object] = field(default=lambda length: None, init=False)
    _writeback: Writeback | None = field(default=None, init=False)
    #: Where the last sync was asked for, and the one that runs.
    _asked: int = field(default=0, init=False)
    _syncing: Deferred[None] | None = field(default=None, init=False)
    #: A sync failed: of what was written since the one before, nobody knows what is on the disk.
    _failure: StorageError | None = field(default=None, init=False)

    def go_to(self, start: int) -> Deferred[None]:
        """See `IPart`."""
        return self._worker.run(self._go_to, start)

    @deferred
    async def append(self, producer: IBodyProducer, on_durable: Callable[[int], object], digest: Any = None) -> None:
        """See `IPart`."""
        self._check, self._on_durable = digest, on_durable
        try:
            await pour(producer, WorkerConsumer(self._streams, self._write, self._budget), keep=True)
        except BaseException:
            await completed(self._keep_what_came())
            raise
        await completed(self._settle())

    @deferred
    async def finish(self) -> Stored:
        """See `IPart`."""
        stored = await self._worker.run(self._publish)
        self._digest = None
        return stored

    @deferred
    async def close(self) -> None:
        """See `IPart`."""
        if self._syncing is not None:
            await self._syncing
        if self._check is None and self._digest is not None and self.durable == self._length:
            self._digests.keep(self._place, self._length, self._digest)
        await self._worker.run(os.close, self._file)

    @deferred
    async def _keep_what_came(self) -> None:
        try:
            await self._settle()
        except StorageError as error:
            # The request fails by itself; of this the client hears when it goes on.
            _log.error("What came of {place} could not be kept: {error}", place=self._place, error=error)

    @deferred
    async def _settle(self) -> None:
        if self._syncing is not None:
            await self._syncing
        self.durable = await self._worker.run(self._sync)

    def _begin_sync(self) -> None:
        # One at a time; while it runs, more is written.
        if self._syncing is None or self._syncing.called:
            self._syncing = self._sync_meanwhile()

    @deferred
    async def _sync_meanwhile(self) -> None:
        try:
            self.durable = await self._worker.run(self._sync)
        except StorageError:
            # Who writes next hears of it.
            return
        self._on_durable(self.durable)

    # --- what blocks ----------------------------------------------------------------------------------

    def _go_to(self, start: int) -> None:
        with storage_errors(self._place):
            size = os.fstat(self._file).st_size
            if size < start:
                raise BlobNotFound(self._place.blob_id, self._place.namespace)
            with suppress(FileNotFoundError):
                # A process was killed after the last byte and before the blob was there.  What is cut has no such name.
                self._files.rename(self._path, self._path + PART)
            if size > start:
                self._files.truncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
        self._writeback = Writeback(self._file, start)
        self._digest = self._digests.take(self._place, start)
        self._length = self._asked = self.durable = start

    def _write(self, pieces: list[bytes]) -> None:
        assert self._writeback is not None
        if self._failure is not None:
            raise self._failure
        with storage_errors():
            for piece in pieces:
                self._files.write(self._file, piece)
                self._writeback.wrote(len(piece))
                for digest in (self._digest, self._check):
                    if digest is not None:
                        digest.update(piece)
                self._length += len(piece)
        if self._length - self._asked >= SYNC_STRETCH:
            self._asked = self._length
            self._worker.report(self._begin_sync)

    def _sync(self) -> int:
        if self._failure is not None:
            raise self._failure
        length = self._length
        try:
            with storage_errors():
                self._files.sync(self._file)
        except StorageError as error:
            self._failure = error
            raise
        return length

    def _publish(self) -> Stored:
        etag = (self._digest or self._read_all()).hexdigest()
        with storage_errors():
            self._files.rename(self._path + PART, self._path)
            self._files.sync_folder(os.path.dirname(self._path))
        return Stored(self._length, etag)

    def _read_all(self) -> Any:
        digest, start = sha256(), 0
        with storage_errors(self._place):
            while start < self._length:
                piece = self._files.read(self._file, min(PIECE, self._length - start), start)
                if not piece:
                    raise BlobNotFound(self._place.blob_id, self._place.namespace)
                digest.update(piece)
                start += len(piece)
        return digest
