"""
The blocking half of a large download: it goes on behind what came before, which is verified again.

What lies in the file may be less than was written, or damaged, when the machine lost power: only what opens counts.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from attrs import define, field
from twisted.internet.defer import CancelledError

from soledad.client.interfaces import Partial, Spooled
from soledad.client.scratch import BATCH, Scratch
from soledad.crypto.container import Chunks, RangeOpener
from soledad.errors import AuthenticationFailed, CryptoError
from soledad.streams import Progress
from soledad.wire.container import HEADER_SIZE


@define(eq=False)
class Resuming:
    """One container on its way from the server to a file that is kept; used in the worker."""

    _partial: Partial
    #: Takes the header.
    _open: Callable[[bytes], Chunks]
    _progress: Progress
    _scratch: Scratch
    header: bytes = field(default=b"", init=False)
    _opener: RangeOpener | None = field(default=None, init=False)
    #: Bytes that still have to come, as far as the header tells.
    missing: int | None = field(default=None, init=False)

    def begin(self, stop: Event) -> int:
        """Verify what came before; return from where on the rest is needed."""
        good = self._verified(stop)
        if good < self._partial.size or not good:
            self._partial.cut(good)
        else:
            # The next bytes go behind what is there.
            self._partial.cut(self._partial.size)
        self._progress.at(good)
        return good

    def take(self, pieces: list[bytes]) -> None:
        """Verify some pieces, and keep them."""
        for piece in pieces:
            self._verify(memoryview(piece))
            self._partial.write(piece)
            self._progress.add(len(piece))

    def finish(self) -> Spooled:
        """Make sure that all came, and make it durable."""
        if self._opener is None:
            raise AuthenticationFailed()
        self._opener.finish()
        return self._partial.finish()

    def close(self) -> None:
        """Leave what came for the next time."""
        self._partial.close()

    def _verified(self, stop: Event) -> int:
        """Return how many bytes of the file are right, and make ready for what is behind them."""
        header = bytearray(HEADER_SIZE)
        if self._partial.read_into(0, memoryview(header)) < HEADER_SIZE:
            return 0
        try:
            chunks = self._open(bytes(header))
        except CryptoError:
            return 0
        self.header = bytes(header)
        index = self._count_good(chunks, stop)
        self._opener = RangeOpener.behind(chunks, index)
        self.missing = self._opener.missing
        return chunks.layout.size - self._opener.missing

    def _count_good(self, chunks: Chunks, stop: Event) -> int:
        layout = chunks.layout
        with self._scratch.lend(layout.sealed_chunk_size) as sealed, self._scratch.lend(layout.chunk_size) as out:
            for index in layout.all_chunks:
                if stop.is_set():
                    raise CancelledError()
                place = layout.place_of(range(index, index + 1))
                piece = sealed[: place.length]
                if self._partial.read_into(place.start, piece) != place.length:
                    return index
                try:
                    chunks.open_into(index, piece, out)
                except CryptoError:
                    return index
        return layout.chunks

    def _verify(self, view: memoryview) -> None:
        if self._opener is None:
            lacking = HEADER_SIZE - len(self.header)
            self.header += bytes(view[:lacking])
            view = view[lacking:]
            if len(self.header) < HEADER_SIZE:
                return
            self._opener = RangeOpener.behind(self._open(self.header), 0)
        with self._scratch.lend(self._opener.room(BATCH)) as out:
            for start in range(0, len(view), BATCH):
                self._opener.feed_into(view[start : start + BATCH], out)
