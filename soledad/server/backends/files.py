"""What is asked of the operating system for files; tests let it fail."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress

from attrs import define

from soledad.server.backends.naming import FOLDER, PART
from soledad.server.backends.syncing import can_sync_file_system, sync_file_system

#: So many files are worth making all of their file system durable.
TOGETHER = 8


@define(eq=False)
class Files:
    """What is asked of the operating system.  All of it blocks and raises `OSError`."""

    def make_folder(self, path: str) -> None:
        """Make a folder, if there is none."""
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)

    def create(self, folder: str, name: str) -> tuple[int, bool]:
        """Make a new file for writing; tell whether it still has to be given its name."""
        if hasattr(os, "O_TMPFILE"):
            try:
                return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600), True
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
        return self.create_named(os.path.join(folder, name)), False

    def create_named(self, path: str) -> int:
        """Make a new file for writing."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    def write(self, file: int, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def sync(self, file: int) -> None:
        """Make the content of a file durable."""
        os.fsync(file)

    def create_part(self, path: str) -> None:
        """Make an empty file that is not there yet."""
        os.close(self.create_named(path))

    def open_part(self, path: str) -> int:
        """Open a file for reading and writing. :raise BlockingIOError: somebody has it."""
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(file)
            raise
        return file

    def truncate(self, file: int, size: int) -> None:
        """Cut off what is behind ``size`` bytes."""
        os.ftruncate(file, size)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, which nothing has."""
        os.rename(old, new)

    def name(self, file: int, folder: str, name: str) -> None:
        """Give a name to a file that has none."""
        into = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With folders given as descriptors Python asks for the link to be followed: /proc has only links.
            os.link(f"/proc/self/fd/{file}", name, src_dir_fd=into, dst_dir_fd=into, follow_symlinks=True)
        finally:
            os.close(into)

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def syncs_together(self, anchor: int, count: int) -> bool:
        """Tell whether so many files on the file system of ``anchor`` are best made durable with all of it."""
        return count >= TOGETHER and can_sync_file_system(anchor)

    def sync_together(self, anchor: int | None, paths: list[str], folders: list[str]) -> None:
        """
        Make files, and the names in folders, durable.

        :param anchor: something on the same file system that was opened before the first of them was written: all of
            that is made durable.  `None`: they are, one by one.
        """
        if anchor is not None:
            self.sync_file_system(anchor)
            return
        for path in paths:
            file = self.open(path)
            try:
                self.sync(file)
            finally:
                os.close(file)
        for folder in folders:
            self.sync_folder(folder)

    def sync_file_system(self, anchor: int) -> None:
        """Make all of a file system durable."""
        sync_file_system(anchor)

    def open(self, path: str) -> int:
        """Open a file for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, file: int, size: int, start: int) -> bytes:
        """Read up to ``size`` bytes."""
        return os.pread(file, size, start)

    def send(self, file: int, socket: int, size: int, start: int) -> int:
        """Let the system pass up to ``size`` bytes from a file to a socket; return how many there was room for."""
        return os.sendfile(socket, file, start, size)

    def remove(self, path: str) -> None:
        """Remove a file, complete or not, and its folder if that was the last in it."""
        for name in (path, path + PART):
            with suppress(FileNotFoundError):
                os.unlink(name)
        with suppress(OSError):
            os.rmdir(os.path.dirname(path))


def walk(folder: str, after: tuple[str, ...] = ()) -> Iterator[str]:
    """
    Yield the paths of the files under ``folder``, relative to it, in order, that come after the path ``after``.

    Folders that cannot be ours are left alone: nobody but their owner may be able to read them.
    """
    try:
        with os.scandir(folder) as entries:
            listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
            listed = [(name, is_folder) for name, is_folder in listed if not is_folder or FOLDER.fullmatch(name)]
    except FileNotFoundError:
        return
    for name, is_folder in listed:
        if after and name < after[0]:
            continue
        rest = after[1:] if after and name == after[0] else ()
        if is_folder:
            yield from (f"{name}/{path}" for path in walk(os.path.join(folder, name), rest))
        elif not after or name > after[0]:
            yield name
