"""
Sealed containers on this device: small ones as bytes for a row, large ones as files under random names.

All of this blocks, and runs in workers.  A file is complete and durable before anything refers to it; files that
nothing refers to are swept when the store is opened.
"""

from __future__ import annotations

import os
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from soledad.client.interfaces import Buffer, Spooled
from soledad.client.local.durable import file_faults, make_folder
from soledad.writeback import Writeback

#: Containers up to this many bytes are kept in the database.  docs/spec/store.rst, "Blobs".
INLINE_LIMIT = 256 * 1024

#: What errors of reading name: the real one is random, and tells nobody anything.
_A_FILE = Path("a blob's file")


@define(eq=False)
class BlobFiles:
    """The folder of sealed files."""

    folder: Path
    _inline_limit: int = INLINE_LIMIT

    def prepare(self) -> None:
        """Make the folder, if there is none."""
        with file_faults(self.folder):
            make_folder(self.folder)

    def spool(self) -> Spool:
        """Return something to write a container to."""
        return Spool(self, self._inline_limit)

    def open(self, name: str) -> int:
        """:raise FileNotFoundError: there is no such file."""
        return os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)

    def names(self) -> set[str]:
        """Return the names of all files."""
        with file_faults(self.folder):
            return set(os.listdir(self.folder))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; if that fails, the next opening sweeps it."""
        with suppress(OSError):
            os.unlink(self.folder / name)

    def sweep(self, known: Set[str]) -> None:
        """Remove all files but the ``known`` ones: left by writes that were interrupted."""
        for name in self.names() - known:
            self.remove(name)

    def create(self) -> tuple[str, int]:
        """Make a new file; return its name and descriptor."""
        name = os.urandom(16).hex()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return name, os.open(self.folder / name, flags, 0o600)

    def sync(self, descriptor: int) -> None:
        """Make a file, and its name, survive a power cut."""
        self.fsync(descriptor)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(folder)
        finally:
            os.close(folder)

    def fsync(self, descriptor: int) -> None:
        """Wait until the device has it; tests let this fail."""
        os.fsync(descriptor)

    def write(self, descriptor: int, data: Buffer) -> int:
        """Write some of ``data``; tests let this fail."""
        return os.write(descriptor, data)


@define(eq=False)
class Spool:
    """Takes one container as it comes: in memory as long as it is small, then in a file."""

    _files: BlobFiles
    _limit: int
    _head: bytearray = field(factory=bytearray, init=False, repr=False)
    _name: str | None = field(default=None, init=False)
    _descriptor: int | None = field(default=None, init=False)
    _writeback: Writeback | None = field(default=None, init=False)
    #: Bytes so far.
    size: int = field(default=0, init=False)

    def write(self, data: Buffer) -> None:
        """
        Take the next bytes.

        :raise StorageFull: the disk is full.
        :raise StorageFailed: it failed.
        """
        self.size += len(data)
        if self._descriptor is None:
            if self.size <= self._limit:
                self._head += data
                return
            with file_faults(self._files.folder):
                self._name, self._descriptor = self._files.create()
            self._writeback = Writeback(self._descriptor)
            self._write_out(self._head)
            self._head = bytearray()
        self._write_out(data)

    def finish(self) -> Spooled:
        """Make it durable and return it; errors as `write`."""
        if self._descriptor is None:
            return Spooled(self.size, inline=bytes(self._head))
        with file_faults(self._files.folder):
            self._files.sync(self._descriptor)
        self._close()
        return Spooled(self.size, file=self._name)

    def discard(self) -> None:
        """Leave nothing of it."""
        self._close()
        if self._name is not None:
            self._files.remove(self._name)

    def _write_out(self, data: Buffer) -> None:
        assert self._descriptor is not None and self._writeback is not None
        view = memoryview(data)
        with file_faults(self._files.folder):
            while view:
                view = view[self._files.write(self._descriptor, view) :]
        self._writeback.wrote(len(data))

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@define(eq=False)
class StoredContainer:
    """A sealed container, open for reading at any place: bytes in memory, or a file."""

    size: int
    _inline: bytes | None = field(default=None, repr=False)
    _descriptor: int | None = None

    @property
    def in_memory(self) -> bool:
        """Whether it is bytes in memory: nothing blocks then."""
        return self._inline is not None

    def read_into(self, start: int, out: memoryview) -> int:
        """Fill ``out`` with the bytes from ``start`` on; return how many there were."""
        if self._inline is not None:
            piece = self._inline[start : start + len(out)]
            out[: len(piece)] = piece
            return len(piece)
        assert self._descriptor is not None
        done = 0
        with file_faults(_A_FILE):
            while done < len(out):
                count = os.preadv(self._descriptor, [out[done:]], start + done)
                if not count:
                    break
                done += count
        return done

    def read(self, start: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``start`` on."""
        if self._inline is not None:
            return self._inline[start : start + size]
        assert self._descriptor is not None
        with file_faults(_A_FILE):
            return os.pread(self._descriptor, size, start)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
