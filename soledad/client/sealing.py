"""
The blocking halves of moving blobs: what runs in a worker, piece by piece, between a source and the spool.

Nothing here knows Deferreds; who calls it, and what becomes of the results, is in `soledad.client.blobs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from io import TextIOBase
from threading import Event
from typing import Any, BinaryIO

from attrs import define, field
from twisted.internet.defer import CancelledError

from soledad.client.interfaces import Container, Spool, Spooled
from soledad.client.reading import SealedFile
from soledad.client.scratch import BATCH, Scratch
from soledad.crypto.container import Opener, RangeOpener, Sealer
from soledad.errors import InvalidSource
from soledad.model.blob import ByteRange
from soledad.streams import Progress
from soledad.wire.container import HEADER_SIZE


@define(eq=False)
class Sealing:
    """One container on its way from plain bytes to the spool; used in the worker."""

    spool: Spool
    sealer: Sealer
    _scratch: Scratch = field(factory=Scratch)

    def take(self, pieces: list[bytes], progress: Progress) -> None:
        """Seal some pieces."""
        for piece in pieces:
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise InvalidSource("it gives something other than bytes")
            data = memoryview(piece).cast("B")
            for start in range(0, len(data), BATCH):
                self._seal(data[start : start + BATCH])
        progress.add(sum(map(len, pieces)))

    def read_all(self, file: BinaryIO, progress: Progress, stop: Event) -> None:
        """Seal a file from where it stands to its end."""
        read = _reader(file)
        progress.total = _size_left(file)
        with self._scratch.lend() as buffer:
            while count := _checked_count(read(buffer[:BATCH]), BATCH):
                if stop.is_set():
                    raise CancelledError()
                self._seal(buffer[:count])
                progress.add(count)

    def finish(self) -> Spooled:
        """Seal the end, and make the container durable."""
        if self.sealer.length == 0:
            self.spool.write(self.sealer.header)
        for piece in self.sealer.tail():
            self.spool.write(piece)
        return self.spool.finish()

    def discard(self) -> None:
        """Leave nothing of it."""
        self.spool.discard()

    def _seal(self, data: memoryview) -> None:
        if self.sealer.length == 0:
            self.spool.write(self.sealer.header)
        with self._scratch.lend(self.sealer.room(len(data))) as out:
            self.spool.write(out[: self.sealer.seal_into(data, out)])


@define(eq=False)
class Verifying:
    """One container on its way from the server to the spool; used in the worker."""

    spool: Spool
    _opener: Opener
    _progress: Progress
    _scratch: Scratch = field(factory=Scratch)
    header: bytearray = field(factory=bytearray, init=False)

    def take(self, pieces: list[bytes]) -> None:
        """Verify some pieces, and keep them."""
        for piece in pieces:
            self._verify(piece)
            self.spool.write(piece)
            self._progress.add(len(piece))

    def finish(self) -> Spooled:
        """Make sure that all came, and make it durable."""
        self._opener.finish()
        return self.spool.finish()

    def _verify(self, piece: bytes) -> None:
        missing = HEADER_SIZE - len(self.header)
        if missing > 0:
            self.header += piece[:missing]
            self._opener.feed(piece[:missing])
        with self._scratch.lend(self._opener.room(BATCH)) as out:
            for start in range(max(0, missing), len(piece), BATCH):
                self._opener.feed_into(memoryview(piece)[start : start + BATCH], out)


@define(eq=False)
class ContainerReader:
    """Reads a container to its end, piece by piece; used in the worker."""

    _container: Container
    #: From where on.
    _at: int = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        piece = self._container.read(self._at, size)
        self._at += len(piece)
        return piece


@define(eq=False)
class RangeReader:
    """Reads a file up to a certain number of bytes; used in the worker."""

    _file: SealedFile
    _left: int

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece


def _reader(file: Any) -> Callable[[memoryview], int | None]:
    """
    Return what fills a buffer from a binary file.

    :raise TypeError: it is a text file, or none.
    :raise InvalidSource: it is closed.
    """
    if isinstance(file, TextIOBase):
        raise TypeError("the file is open in text mode: open it in binary mode, with 'rb'")
    if not hasattr(file, "read"):
        raise TypeError(f"a binary file, bytes or an IBodyProducer is needed, not {type(file).__name__}")
    if getattr(file, "closed", False):
        raise InvalidSource("the file is closed")
    fill: Callable[[memoryview], int | None] | None = getattr(file, "readinto", None)
    return partial(_fill, file) if fill is None else fill


def _checked_count(count: int | None, most: int) -> int:
    """:raise InvalidSource: the file had no bytes ready, which is not its end; or it says what cannot be."""
    if count is None:
        raise InvalidSource("it is in non-blocking mode")
    if not 0 <= count <= most:
        # What is behind that in the buffer is of something else.
        raise InvalidSource("it gives more than was asked for")
    return count


def _fill(file: Any, buffer: memoryview) -> int | None:
    """Fill a buffer from a file that can only `read`."""
    piece = file.read(len(buffer))
    if piece is None:
        return None
    if isinstance(piece, str):
        raise TypeError("the file gives text: open it in binary mode, with 'rb'")
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise InvalidSource("it gives something other than bytes")
    data = memoryview(piece).cast("B")
    if len(data) > len(buffer):
        raise InvalidSource("it gives more than was asked for")
    buffer[: len(data)] = data
    return len(data)


def _size_left(file: Any) -> int:
    """Return how many bytes a file has from where it stands to its end, or 0 when that cannot be told."""
    try:
        here = file.tell()
        end: int = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError, ValueError):
        return 0
    left: int = max(0, end - here)
    return left


def open_window(opener: RangeOpener, sealed: bytes) -> bytes:
    """Return the data of a range whose part of the container is ``sealed``."""
    return opener.feed(sealed) + opener.finish()


def read_range(file: SealedFile, wanted: ByteRange) -> bytes:
    """Read a range of a file, and close it."""
    with file:
        file.seek(wanted.start)
        return file.read(-1 if wanted.length is None else wanted.length)
