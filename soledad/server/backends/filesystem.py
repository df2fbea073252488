"""
Bytes in files: ``root/user/namespace/s/som/some-b/some-blob-id.<upload>``.

A file has no name until it is complete and durable, where the system can do that (``O_TMPFILE``); elsewhere, and when
it comes in parts, its name ends in ``.part`` until then.  Source: docs/server.rst, "Files".
"""

from __future__ import annotations

import os
from builtins import list as builtin_list
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from time import time
from typing import Any, TypeVar

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.deferreds import Worker, completed, deferred
from soledad.errors import StorageError, StorageFailed, UploadBusy
from soledad.server.backends.batch import FileBatch
from soledad.server.backends.files import Files, walk
from soledad.server.backends.naming import ASIDE, PART, file_name, folders_of, parse_path
from soledad.server.backends.parts import Digests, FilePart
from soledad.server.backends.reading import FileReader, find_socket, send_file
from soledad.server.faults import storage_errors
from soledad.server.interfaces import Found, IByteStore, IPart, Place, Stored
from soledad.streams import Budget, WorkerConsumer, WorkerProducer, pour, send
from soledad.wire.routes import PAGE
from soledad.writeback import Writeback

T = TypeVar("T")

#: Folders that are known to be durable, at most; beyond that all are synced once more.
_KNOWN_LIMIT = 10_000


@implementer(IByteStore)
@define(eq=False)
class FileBytes:
    """Bytes in files under ``root``, which is there already."""

    _root: str
    _worker: Worker
    _budget: Budget
    _files: Files = field(factory=Files)
    #: Unix time, seconds.
    _clock: Callable[[], float] = time
    #: Where much data is written, or sent.
    _streams: Worker = field(default=Factory(lambda self: self._worker, takes_self=True))
    _durable: dict[str, None] = field(factory=dict, init=False)
    _digests: Digests = field(factory=Digests, init=False)

    @deferred
    async def write(self, place: Place, producer: IBodyProducer) -> Stored:
        """See `IByteStore`."""
        draft = _Draft(self, place)
        try:
            await pour(producer, WorkerConsumer(self._streams, draft.write, self._budget))
            return await self._worker.run(draft.publish)
        except BaseException:
            await completed(self._worker.run(draft.abandon))
            raise

    @deferred
    async def write_many(
        self, portions: Sequence[tuple[Place | None, int]], producer: IBodyProducer
    ) -> builtin_list[Stored | None]:
        """See `IByteStore`."""
        wanted = [(None if place is None else _path_of(place), length) for place, length in portions]
        batch = FileBatch(self._files, self._root, wanted, self._durable)
        try:
            await self._run(batch.begin)
            consumer = WorkerConsumer(self._streams, partial(_translating, batch.write), self._budget)
            await pour(producer, consumer)
            stored = await self._run(batch.publish)
        except BaseException:
            await completed(self._run(batch.abandon))
            raise
        for path in batch.made:
            self._remember(path)
        return stored

    def read_many(self, places: Sequence[tuple[Place, int]]) -> Deferred[builtin_list[bytes | StorageError]]:
        """See `IByteStore`."""
        return self._worker.run(self._read_many, places)

    def _read_many(self, places: Sequence[tuple[Place, int]]) -> builtin_list[bytes | StorageError]:
        return [self._read_whole(place, length) for place, length in places]

    def _read_whole(self, place: Place, length: int) -> bytes | StorageError:
        try:
            with storage_errors(place):
                file = self._files.open(self.path(place))
                try:
                    data = self._files.read(file, length, 0)
                finally:
                    os.close(file)
        except StorageError as error:
            return error
        return data if len(data) == length else StorageFailed("a file is too short")

    def _run(self, call: Callable[[], T]) -> Deferred[T]:
        return self._worker.run(_translating, call)

    @deferred
    async def read(self, place: Place, consumer: IConsumer, start: int, length: int) -> None:
        """See `IByteStore`."""
        reader = await self._worker.run(self._open, place, start, length)
        socket = find_socket(consumer, length)
        if socket is None:
            producer = WorkerProducer(self._streams, reader.read, self._budget, length, close=reader.close)
            try:
                await send(producer, consumer)
            finally:
                await producer.stopped()
        else:
            try:
                await send_file(self._streams, reader, consumer, socket)
            finally:
                os.close(socket)
                await completed(self._worker.run(reader.close))

    def size(self, place: Place) -> Deferred[int]:
        """See `IByteStore`."""
        return self._worker.run(self._size, place)

    def delete(self, place: Place) -> Deferred[None]:
        """See `IByteStore`."""
        return self._worker.run(self._delete, place)

    def put_aside(self, place: Place) -> Deferred[str]:
        """See `IByteStore`."""
        return self._worker.run(self._put_aside, place)

    def list(self, after: str = "", limit: int = PAGE) -> Deferred[builtin_list[Found]]:
        """See `IByteStore`."""
        return self._worker.run(self._list, after, limit)

    def begin(self, place: Place) -> Deferred[None]:
        """See `IByteStore`."""
        return self._worker.run(self._begin, place)

    def resume(self, place: Place) -> Deferred[IPart]:
        """See `IByteStore`."""
        return self._worker.run(self._resume, place)

    def _begin(self, place: Place) -> None:
        path = self.path(place) + PART
        with storage_errors():
            folder = self.folder(place)
            try:
                self._files.create_part(path)
            except FileNotFoundError:
                # The folder went with the last file in it, since a moment ago.
                self._files.create_part(os.path.join(self.folder(place), os.path.basename(path)))
            self._files.sync_folder(folder)

    def _resume(self, place: Place) -> IPart:
        path = self.path(place)
        with storage_errors(place):
            try:
                file = self._open_part(path)
            except BlockingIOError as error:
                raise UploadBusy(place.upload) from error
        return FilePart(self._files, self._worker, self._streams, self._budget, self._digests, place, path, file)

    def _open_part(self, path: str) -> int:
        try:
            return self._files.open_part(path + PART)
        except FileNotFoundError:
            # A process was killed after the last byte and before the blob was there; or is just there.
            return self._files.open_part(path)

    def _open(self, place: Place, start: int, length: int) -> FileReader:
        with storage_errors(place):
            return FileReader(self._files, self._files.open(self.path(place)), start, start + length)

    def _size(self, place: Place) -> int:
        with storage_errors(place):
            return os.stat(self.path(place)).st_size

    def _delete(self, place: Place) -> None:
        with storage_errors():
            self._files.remove(self.path(place))

    def _put_aside(self, place: Place) -> str:
        path = self.path(place)
        with storage_errors(place):
            self._files.rename(path, path + ASIDE)
            self._files.sync_folder(os.path.dirname(path))
        return path + ASIDE

    def _list(self, after: str, limit: int) -> builtin_list[Found]:
        found: builtin_list[Found] = []
        with storage_errors():
            for path in walk(self._root, tuple(after.split("/")) if after else ()):
                place = parse_path(path.removesuffix(PART))
                if place is not None and (age := self._age(path)) is not None:
                    found.append(Found(path, place, age, not path.endswith(PART)))
                if len(found) == limit:
                    break
        return found

    def _age(self, path: str) -> float | None:
        try:
            return self._clock() - os.stat(os.path.join(self._root, path)).st_mtime
        except FileNotFoundError:
            return None

    def path(self, place: Place) -> str:
        """Return where the file of a place is."""
        return os.path.join(self._root, *folders_of(place), file_name(place))

    def folder(self, place: Place) -> str:
        """Make the folder for a place, and make that durable; return its path."""
        path = self._root
        for name in folders_of(place):
            parent, path = path, os.path.join(path, name)
            if path in self._durable:
                continue
            self._files.make_folder(path)
            # Also when it was there: another process may have made it a moment ago.
            self._files.sync_folder(parent)
            self._remember(path)
        # The last one goes when its last file goes: it has to be made anew each time.
        self._durable.pop(path, None)
        return path

    def _remember(self, path: str) -> None:
        # Several threads are here at a time: each of these is one step.
        if len(self._durable) >= _KNOWN_LIMIT:
            self._durable.clear()
        self._durable[path] = None


def _path_of(place: Place) -> tuple[str, ...]:
    return (*folders_of(place), file_name(place))


def _translating(call: Callable[..., T], *args: Any) -> T:
    with storage_errors():
        return call(*args)


@define(eq=False)
class _Draft:
    """A file that is being written.  One call at a time; all of them block."""

    _store: FileBytes
    _place: Place
    _file: int | None = field(default=None, init=False)
    _writeback: Writeback | None = field(default=None, init=False)
    _named: bool = field(default=False, init=False)
    _digest: Any = field(factory=sha256, init=False)
    _length: int = field(default=0, init=False)

    def write(self, pieces: list[bytes]) -> None:
        """Append ``pieces``; the first are what the file is made for, as each call of a thread has its price."""
        with storage_errors():
            if self._file is None:
                self._begin()
            assert self._file is not None and self._writeback is not None
            for piece in pieces:
                self._files.write(self._file, piece)
                self._writeback.wrote(len(piece))
                self._digest.update(piece)
                self._length += len(piece)

    def publish(self) -> Stored:
        """Make the file durable under its name; it is closed then."""
        with storage_errors():
            if self._file is None:
                self._begin()
            assert self._file is not None
            self._files.sync(self._file)
            if self._named:
                path = self._store.path(self._place)
                self._files.rename(path + PART, path)
            else:
                self._name()
            self._files.sync_folder(self._path_of_folder())
            self._close()
        return Stored(self._length, self._digest.hexdigest())

    def abandon(self) -> None:
        """Leave nothing."""
        with storage_errors():
            self._close()
            if self._named:
                self._files.remove(self._store.path(self._place))

    def _begin(self) -> None:
        try:
            self._create()
        except FileNotFoundError:
            # The folder went with the last file in it, since a moment ago.
            self._create()

    def _create(self) -> None:
        self._file, nameless = self._files.create(self._folder(), file_name(self._place) + PART)
        self._writeback = Writeback(self._file)
        self._named = not nameless

    def _name(self) -> None:
        assert self._file is not None
        try:
            self._files.name(self._file, self._path_of_folder(), file_name(self._place))
        except FileNotFoundError:
            # The folder went with the last file in it.
            self._files.name(self._file, self._folder(), file_name(self._place))
        self._named = True

    def _folder(self) -> str:
        return self._store.folder(self._place)

    def _path_of_folder(self) -> str:
        return os.path.dirname(self._store.path(self._place))

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @property
    def _files(self) -> Files:
        return self._store._files
