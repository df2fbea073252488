"""Data folders, and the processes that share them, where the system refuses."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import SoledadError, StorageFailed, StorageFull
from soledad.server.folder import DataFolder
from soledad.server.processes import LockedFiles
from soledad.server.service import Workers, open_parts
from soledad.streams import Budget


def refusing(code: int) -> Any:
    """Return what the system does when it refuses."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return refuse


def open_files() -> list[str]:
    """Return what this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            # That of the listing itself.
            continue
    return sorted(found)


class RefusedTests(SynchronousTestCase):
    """Full and broken disks."""

    def setUp(self) -> None:
        """Make a folder."""
        self.folder = DataFolder(os.path.abspath(self.mktemp()))
        self.folder.make()

    def open(self) -> None:
        """Open it, and close it again."""
        open_parts(self.folder, Workers(), Budget()).close()

    def test_every_step(self) -> None:
        """Whatever the system refuses is an error of ours; nothing stays open, and later it opens."""
        before = open_files()
        for name in ("makedirs", "fsync", "rename"):
            for code, expected in (
                (errno.ENOSPC, StorageFull),
                (errno.EDQUOT, StorageFull),
                (errno.EIO, StorageFailed),
            ):
                patched = self.patch(os, name, refusing(code))
                with self.assertRaises(expected):
                    self.open()
                patched.restore()
        self.assertEqual(open_files(), before)
        self.assertEqual(os.listdir(self.folder.processes), [])
        self.open()

    def test_making(self) -> None:
        """A folder for which there is no room is told as that."""
        folder = DataFolder(os.path.abspath(self.mktemp()))
        patched = self.patch(os, "mkdir", refusing(errno.ENOSPC))
        with self.assertRaises(StorageFull):
            folder.make()
        patched.restore()

    def test_made_durable(self) -> None:
        """A folder that was made is one after a power cut: its name is durable, too."""
        synced: list[str] = []
        fsync = os.fsync

        def noted(file: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{file}"))
            fsync(file)

        self.patch(os, "fsync", noted)
        folder = DataFolder(os.path.abspath(self.mktemp()))
        folder.make()
        self.assertEqual(synced, [os.path.dirname(folder.path)])


class ProcessesTests(SynchronousTestCase):
    """Who lives."""

    def setUp(self) -> None:
        """Two processes."""
        self.folder = self.mktemp()
        self.one, self.other = LockedFiles.join(self.folder), LockedFiles.join(self.folder)
        self.addCleanup(self.one.close)

    def test_too_many_open_files(self) -> None:
        """Who cannot be asked whether it lives is not taken for dead."""
        patched = self.patch(os, "open", refusing(errno.EMFILE))
        self.assertEqual(self.one.dead([self.other.name]), [])
        self.assertEqual(self.one.others(), [self.other.name])
        patched.restore()
        self.other.close()
        self.assertEqual(self.one.dead([self.other.name]), [self.other.name])

    def test_kept_file(self) -> None:
        """A file that cannot be removed harms nobody: its process is dead all the same."""
        patched = self.patch(os, "unlink", refusing(errno.EROFS))
        self.other.close()
        self.one.forget([self.other.name])
        patched.restore()
        self.assertEqual(self.one.dead([self.other.name]), [self.other.name])
        self.assertEqual(self.one.others(), [])

    def test_killed(self) -> None:
        """The files of those that were killed go when somebody joins; those of the living stay."""
        os.close(self.other._file)
        third = LockedFiles.join(self.folder)
        self.assertEqual(sorted(os.listdir(self.folder)), sorted([self.one.name, third.name]))
        third.close()

    def test_unreadable(self) -> None:
        """Without the folder nobody can be asked for, and that is said."""
        self.patch(os, "listdir", refusing(errno.EIO))
        with self.assertRaises(SoledadError):
            self.one.others()
        self.other.close()

    def test_joined_before_others_open(self) -> None:
        """Whoever opens the folder next sees who has opened it: none slips in between."""
        folder = DataFolder(os.path.abspath(self.mktemp()))
        folder.make()
        busy: list[bool] = []
        rename = os.rename

        def renamed(old: str, new: str) -> None:
            file = os.open(folder.path, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                busy.append(False)
            except BlockingIOError:
                busy.append(True)
            finally:
                os.close(file)
            rename(old, new)

        self.patch(os, "rename", renamed)
        open_parts(folder, Workers(), Budget()).close()
        self.assertEqual(busy, [True])
        self.other.close()
