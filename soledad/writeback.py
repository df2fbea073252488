"""Files that are written from beginning to end: the disk begins while more comes, so that little is waited for."""

from __future__ import annotations

import os
from contextlib import suppress

from attrs import Factory, define, field

#: Bytes that the disk is given at a time.
STRETCH = 8 * 1024 * 1024


@define(eq=False)
class Writeback:
    """Tells the system to write a file out as it grows.  What is durable, and when, is for fsync to say."""

    _file: int
    #: Where in the file writing begins, and then, how far it is.
    _written: int = 0
    _begun: int = field(default=Factory(lambda self: self._written, takes_self=True), init=False)

    def wrote(self, size: int) -> None:
        """Note that ``size`` more bytes were written to the file."""
        self._written += size
        if self._written - self._begun >= STRETCH:
            self.begin(self._begun, self._written - self._begun)
            self._begun = self._written

    def begin(self, start: int, size: int) -> None:
        """
        Let the disk begin with a part of the file; this does not wait for it.

        Of dirty pages Linux is told to give up, it begins to write them, and keeps them.  Elsewhere nothing happens.
        """
        if hasattr(os, "posix_fadvise"):
            # It is advice: what fails is found by fsync.
            with suppress(OSError):
                os.posix_fadvise(self._file, start, size, os.POSIX_FADV_DONTNEED)
