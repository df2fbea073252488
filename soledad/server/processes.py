"""
Which server processes live: what one of them set aside must not stay set aside when it was killed.

Each process holds the lock of a file of its own as long as it lives; the operating system lets it go with the process.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from secrets import token_hex

from attrs import define, field
from zope.interface import Interface, implementer

from soledad.server.faults import storage_errors

#: How the name of a file ends that is not locked yet.
_NEW = ".new"


class IProcesses(Interface):
    """The processes that share a data folder.  Nothing here takes long."""

    name: str

    def dead(names: list[str]) -> list[str]:
        """Return those of ``names`` whose process is gone."""

    def forget(names: list[str]) -> None:
        """Nothing is left of these processes."""

    def others() -> list[str]:
        """Return the names of the other processes that live."""

    def close() -> None:
        """This process is done."""


@implementer(IProcesses)
@define(eq=False)
class Alone:
    """A process that shares its data with no other."""

    name: str = field(factory=lambda: token_hex(16))

    def dead(self, names: list[str]) -> list[str]:
        """See `IProcesses`."""
        return [name for name in names if name != self.name]

    def forget(self, names: list[str]) -> None:
        """See `IProcesses`."""

    def others(self) -> list[str]:
        """See `IProcesses`."""
        return []

    def close(self) -> None:
        """See `IProcesses`."""


@implementer(IProcesses)
@define(eq=False)
class LockedFiles:
    """Processes of one host, each with a locked file in ``folder``."""

    _folder: str
    name: str
    _file: int

    @classmethod
    def join(cls, folder: str) -> LockedFiles:
        """
        Add this process to those that use ``folder``.

        :raise StorageFull: there is no room for its file.
        :raise StorageFailed: the folder cannot be used.
        """
        name = token_hex(16)
        with storage_errors(where="processes"):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            before = [other for other in os.listdir(folder) if not other.endswith(_NEW)]
            joined = cls(folder, name, _locked(os.path.join(folder, name)))
        # Of those that were killed, and had nothing set aside.
        joined.forget(joined.dead(before))
        return joined

    def dead(self, names: list[str]) -> list[str]:
        """See `IProcesses`."""
        return [name for name in names if name != self.name and not self._lives(name)]

    def forget(self, names: list[str]) -> None:
        """See `IProcesses`."""
        for name in names:
            # Another process was as quick, or the file stays: nobody holds it, and it has no bytes.
            with suppress(OSError):
                os.unlink(os.path.join(self._folder, name))

    def others(self) -> list[str]:
        """See `IProcesses`. :raise StorageFailed: the folder cannot be read."""
        with storage_errors():
            names = [name.removesuffix(_NEW) for name in os.listdir(self._folder)]
        return [name for name in names if name != self.name and self._lives(name)]

    def close(self) -> None:
        """See `IProcesses`."""
        self.forget([self.name])
        os.close(self._file)

    def _lives(self, name: str) -> bool:
        try:
            file = os.open(os.path.join(self._folder, name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            # There may be too many open files.  Who cannot be asked must not be taken for dead.
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False


def _locked(path: str) -> int:
    """Make a file at ``path`` and lock it."""
    # Locked under another name first: by its own it is never seen unlocked.
    file = os.open(path + _NEW, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(path + _NEW, path)
    except BaseException:
        os.close(file)
        with suppress(OSError):
            os.unlink(path + _NEW)
        raise
    return file
