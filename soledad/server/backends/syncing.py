"""
Making all of a file system durable at once: for many small files far quicker than one after the other.

What ``syncfs`` promises depends on the system: it is used where it waits for the disk and tells of errors, that is with
Linux from 5.8 on, and the file systems listed here.  Everywhere else files are synced one by one.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

#: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs: statfs(2).
_KINDS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})
_LEAST = (5, 8)


def can_sync_file_system(file: int) -> bool:
    """Tell whether the file system that ``file`` is on can be synced as a whole, and would tell if it could not be."""
    if not _has_syncfs():
        return False
    # Its first member, f_type, is a long; the rest is not looked at.
    result = (ctypes.c_long * 64)()
    return _libc().fstatfs(file, ctypes.byref(result)) == 0 and result[0] & 0xFFFFFFFF in _KINDS


def sync_file_system(file: int) -> None:
    """
    Make everything durable on the file system that ``file`` is on.

    :raise OSError: something could not be written since ``file`` was opened: perhaps not ours.
    """
    if _libc().syncfs(file) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _has_syncfs() -> bool:
    system = os.uname()
    if system.sysname != "Linux" or not hasattr(_libc(), "syncfs"):
        return False
    numbers = [int(digits) if (digits := part.split("-")[0]).isdigit() else 0 for part in system.release.split(".")]
    return tuple(numbers[:2]) >= _LEAST
