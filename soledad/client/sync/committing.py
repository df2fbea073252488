"""
A write to the database of which all is done but for the commit, while what comes next is begun.

Python does one thing at a time, but a commit needs none of it: pages are encrypted, and the disk is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from soledad.deferreds import unawaited
from soledad.errors import SoledadError

#: Begins a write; is given what is to be called, on the reactor, when only the commit is left.
Write: TypeAlias = Callable[[Callable[[], None]], Deferred[Any]]


@define(eq=False)
class Committing:
    """The write whose commit is under way, if there is one."""

    _work: Deferred[Any] | None = field(default=None, init=False)

    async def begin(self, write: Write) -> None:
        """
        Wait for the write before this one, and begin this one; return when only its commit is left.

        How it ends is told by `end`; who cannot go on calls `give_up`.
        """
        await self.end()
        written: Deferred[None] = Deferred()

        def tell() -> None:
            # A job may be run twice, and this may have been cancelled meanwhile.
            if not written.called:
                written.callback(None)

        def ended(outcome: Any) -> Any:
            tell()
            return outcome

        self._work = write(tell)
        unawaited(self._work.addBoth(ended))
        await written

    async def end(self) -> None:
        """Wait for the end of the write: raise what it failed with."""
        work, self._work = self._work, None
        if work is not None:
            await work

    async def give_up(self) -> None:
        """Withdraw the write if that is still possible, and wait for its end, however it ends."""
        work, self._work = self._work, None
        if work is not None:
            await abandoned(work)


async def abandoned(work: Deferred[Any]) -> None:
    """Wait for the end of what nobody wants any more."""
    work.cancel()
    try:
        await work
    except (SoledadError, CancelledError):
        return
