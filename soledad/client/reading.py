"""The data of a sealed container as a file: read-only, seekable, a few chunks in memory."""

from __future__ import annotations

import os
from io import BytesIO, RawIOBase

from soledad.client.interfaces import Container
from soledad.client.scratch import BATCH, Scratch
from soledad.crypto.container import Chunks
from soledad.errors import AuthenticationFailed


class SealedFile(RawIOBase):
    """
    Reads what a container holds, opening it a few chunks at a time.

    A read gives all the bytes that were asked for and are there, or raises: `AuthenticationFailed` when a chunk is
    not what was sealed, `StorageFailed` when the disk fails.  Reading blocks, as with any file.
    """

    def __init__(self, chunks: Chunks, container: Container, scratch: Scratch | None = None) -> None:
        """Take the opened header's ``chunks``, the container, which is closed with this file, and buffers."""
        super().__init__()
        self._chunks = chunks
        self._container = container
        self._position = 0
        self._scratch = Scratch() if scratch is None else scratch
        #: A chunk of which a part was read; which one it is, and how many bytes of it are data.
        self._opened = bytearray()
        self._current: int | None = None
        self._count = 0

    @property
    def length(self) -> int:
        """Bytes of data."""
        return self._chunks.length

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}.get(whence)
        if base is None:
            raise ValueError("invalid whence")
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, or what there is up to the end; all of it without a size."""
        self._check_open()
        left = max(0, self.length - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        # What this returns is the buffer itself: a second one, and a copy, would take longer than opening.
        buffer = BytesIO()
        buffer.seek(wanted - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as out:
            self.readinto(out)
        return buffer.getvalue()

    def readall(self) -> bytes:
        """Return all that is left."""
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as there is data; return how much it was."""
        self._check_open()
        out = memoryview(buffer).cast("B")
        out = out[: max(0, self.length - self._position)]
        done = 0
        while done < len(out):
            count = self._read_some(out[done:])
            done += count
            self._position += count
        return done

    def close(self) -> None:
        """Close the container's file too."""
        if not self.closed:
            self._container.close()
        super().close()

    def _read_some(self, out: memoryview) -> int:
        """Fill the beginning of ``out`` from the position on: with whole chunks, or from the one in memory."""
        size = self._chunks.layout.chunk_size
        index, skip = divmod(self._position, size)
        if skip == 0 and len(out) >= size:
            return self._open_batch(index, out, max(1, min(len(out), BATCH) // size))
        if self._current != index:
            self._current = None
            self._count = self._open_one(index)
            self._current = index
        piece = memoryview(self._opened)[skip : min(self._count, skip + len(out))]
        out[: len(piece)] = piece
        return len(piece)

    def _open_batch(self, index: int, out: memoryview, number: int) -> int:
        """Open whole chunks of data into ``out``; return how many bytes that is."""
        size, sealed_size = self._chunks.layout.chunk_size, self._chunks.layout.sealed_chunk_size
        with self._scratch.lend(number * sealed_size) as buffer:
            sealed = self._fetch(range(index, index + number), buffer)
            for i in range(number):
                part = sealed[i * sealed_size : (i + 1) * sealed_size]
                self._chunks.open_into(index + i, part, out[i * size : (i + 1) * size])
        return number * size

    def _open_one(self, index: int) -> int:
        """Open a chunk that is not wanted as a whole; return how many bytes of it are data."""
        self._opened = self._opened or bytearray(self._chunks.layout.chunk_size)
        with self._scratch.lend(self._chunks.layout.sealed_chunk_size) as buffer:
            sealed = self._fetch(range(index, index + 1), buffer)
            return self._chunks.open_into(index, sealed, memoryview(self._opened))

    def _fetch(self, indexes: range, buffer: memoryview) -> memoryview:
        """Read sealed chunks into ``buffer``; return them."""
        place = self._chunks.layout.place_of(indexes)
        assert place.length is not None
        sealed = buffer[: place.length]
        if self._container.read_into(place.start, sealed) != place.length:
            raise AuthenticationFailed(indexes.start)
        return sealed

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
