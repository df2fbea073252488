"""Containers that are coming: files that are kept, as far as they came, until the rest is there."""

from __future__ import annotations

import os

from attrs import define, field

from soledad.client.interfaces import Buffer, Spooled
from soledad.client.local.durable import file_faults
from soledad.client.local.files import BlobFiles
from soledad.writeback import Writeback


@define(eq=False)
class PartialFile:
    """See `Partial`."""

    _files: BlobFiles
    _name: str
    _descriptor: int | None
    size: int
    _writeback: Writeback = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Let the disk begin with it while more comes."""
        assert self._descriptor is not None
        self._writeback = Writeback(self._descriptor)

    @classmethod
    def open(cls, files: BlobFiles, name: str) -> PartialFile:
        """Open the file of that name, or make it."""
        with file_faults(files.folder):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(files.folder / name, flags, 0o600)
            return cls(files, name, descriptor, os.fstat(descriptor).st_size)

    def read_into(self, start: int, out: memoryview) -> int:
        """See `Partial`."""
        with file_faults(self._files.folder):
            return os.preadv(self._open, [out], start)

    def cut(self, size: int) -> None:
        """See `Partial`."""
        with file_faults(self._files.folder):
            os.ftruncate(self._open, size)
            os.lseek(self._open, size, os.SEEK_SET)
        self.size = size

    def write(self, data: Buffer) -> None:
        """See `Partial`."""
        view = memoryview(data)
        with file_faults(self._files.folder):
            while view:
                view = view[self._files.write(self._open, view) :]
        self.size += len(data)
        self._writeback.wrote(len(data))

    def finish(self) -> Spooled:
        """See `Partial`."""
        with file_faults(self._files.folder):
            self._files.sync(self._open)
        self.close()
        return Spooled(self.size, file=self._name)

    def close(self) -> None:
        """See `Partial`."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def _open(self) -> int:
        assert self._descriptor is not None
        return self._descriptor
