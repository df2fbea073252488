"""
Files that survive a power cut, made so that a reader sees all of them or nothing.

Everything here blocks: it is run in a thread.  All calls to the system go through ``os``, one at a time, so that
a test can stop them between any two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path

from soledad.errors import StorageFailed, StorageFull

#: What files of a store that are being written are called.
TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def file_faults(path: Path) -> Iterator[None]:
    """
    Tell faults of the file system as errors of ours.

    :raise StorageFull: no space is left, on the disk or of a quota.
    :raise StorageFailed: anything else that the operating system says no to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise StorageFull(str(path)) from error
        raise StorageFailed(f"{path.name}: {error.strerror or error}") from error


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter, with the folders above it, durably; one that is there is left."""
    if os.path.isdir(folder):
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish_new(path: Path, temporary: Path, data: bytes) -> None:
    """
    Write a new file, which shows under its name when it is whole and durable.

    :raise FileExistsError: the name is taken; what is there is untouched.
    """
    _write_synced(temporary, data)
    try:
        # A hard link, unlike a rename, fails when the name is taken.
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_folder(path.parent)


def publish_over(path: Path, temporary: Path, data: bytes) -> None:
    """Replace a file: at any moment the old one or the new one is there, whole."""
    _write_synced(temporary, data)
    try:
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    sync_folder(path.parent)


def _write_synced(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read, durably but for its name; if that fails, it is gone."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        os.unlink(path)
        raise
