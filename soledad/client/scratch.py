"""Memory for blocking work: lent for the time of one call and used again, as fresh memory costs more than sealing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field

#: Bytes that are sealed or opened at a time.
BATCH = 512 * 1024
#: Bytes that a buffer has at least: room for a batch, once it is sealed, and for a chunk that was begun before.
BUFFER = BATCH + BATCH // 4


@define(eq=False)
class Scratch:
    """The buffers of one store: as many as are ever used at once, which is a few for each thread."""

    _free: list[bytearray] = field(factory=list, init=False, repr=False)

    @contextmanager
    def lend(self, size: int = BUFFER) -> Iterator[memoryview]:
        """Lend a buffer of ``size`` bytes or more, with anything in it; from any thread."""
        # Taking from a list and adding to it are atomic.
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = bytearray()
        if len(buffer) < size:
            buffer = bytearray(max(size, BUFFER))
        try:
            yield memoryview(buffer)
        finally:
            self._free.append(buffer)
