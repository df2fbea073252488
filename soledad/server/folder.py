"""The data folder of a server: what is in it, and whether a folder is one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen

from soledad.errors import ForeignFolder, NoDataFolder, StorageFailed
from soledad.server.faults import storage_errors

_INDEX, _BLOBS, _PROCESSES = "index.db", "blobs", "processes"
#: What may be in an empty folder: what a file system puts there.
_IGNORED = frozenset({"lost+found"})
#: What is full when there is no room.
_WHERE = "the data folder"


@frozen
class DataFolder:
    """A folder that holds the data of a server."""

    path: str

    @property
    def index(self) -> str:
        """The database of what there is."""
        return os.path.join(self.path, _INDEX)

    @property
    def blobs(self) -> str:
        """The bytes."""
        return os.path.join(self.path, _BLOBS)

    @property
    def processes(self) -> str:
        """Which processes use it."""
        return os.path.join(self.path, _PROCESSES)

    def check(self) -> None:
        """
        Look whether this can be the folder of a server.  This blocks.

        :raise NoDataFolder: there is none.
        :raise ForeignFolder: it is another thing's.
        :raise StorageFailed: it cannot be read or written.
        """
        try:
            names = sorted(set(os.listdir(self.path)) - _IGNORED)
        except FileNotFoundError:
            raise NoDataFolder(self.path) from None
        except NotADirectoryError:
            raise ForeignFolder(self.path, "a file") from None
        except OSError as error:
            raise StorageFailed(str(error)) from error
        if names and _INDEX not in names and set(names) - {_BLOBS, _PROCESSES}:
            raise ForeignFolder(self.path, names[0])
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise StorageFailed(f"no right to write to {self.path}")

    def make(self) -> None:
        """
        Make the folder, if there is none; its parent must be there.  This blocks.

        :raise StorageFull: there is no room for it.
        :raise StorageFailed: that cannot be done.
        """
        with storage_errors(where=_WHERE):
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                return
            _sync(os.path.dirname(os.path.abspath(self.path)))

    @contextmanager
    def opening(self) -> Iterator[None]:
        """
        Keep others from opening it at the same time, and make what has to be in it.  This blocks.

        :raise StorageFull: there is no room for it.
        :raise StorageFailed: it cannot be used.
        """
        with storage_errors(where=_WHERE):
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with storage_errors(where=_WHERE):
                fcntl.flock(folder, fcntl.LOCK_EX)
                os.makedirs(self.blobs, 0o700, exist_ok=True)
                os.fsync(folder)
            yield
            with storage_errors(where=_WHERE):
                os.fsync(folder)
        finally:
            os.close(folder)


def _sync(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
