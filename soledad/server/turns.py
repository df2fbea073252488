"""Of requests for one thing, the newest goes on: a client that comes again has given up the connection before."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from soledad.deferreds import outlasting

T = TypeVar("T")


class Superseded(Exception):
    """A newer request for the same thing came, and has its turn."""


@define(eq=False)
class Turn:
    """One request's turn."""

    ended: Deferred[None] = field(factory=Deferred, init=False)
    #: Somebody newer came.
    superseded: bool = field(default=False, init=False)
    _work: Deferred[Any] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    async def take(self, body: Callable[[Turn], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run ``body`` with this, unless it was stopped meanwhile."""
        self.check()
        self._work = work = Deferred.fromCoroutine(body(self))
        return await outlasting(work, self.stop)

    def check(self) -> None:
        """:raise CancelledError: it is to end, though that came when nothing could be cancelled."""
        if self._stopped:
            raise CancelledError()

    def supersede(self) -> None:
        """End it, soon, as somebody newer came."""
        self.superseded = True
        self.stop()

    def stop(self) -> None:
        """End it, soon."""
        self._stopped = True
        if self._work is not None:
            self._work.cancel()


@define(eq=False)
class Turns:
    """Who is at which thing, in this process."""

    _newest: dict[Hashable, Turn] = field(factory=dict, init=False)

    async def run(self, key: Hashable, body: Callable[[Turn], Coroutine[Deferred[Any], Any, T]]) -> T:
        """
        End what runs for the same ``key``, wait until it does not run any more, and then run ``body``.

        It is given its turn, to check before it waits for what may take for ever.

        :raise Superseded: it was ended for a newer one.
        """
        before, turn = self._newest.get(key), Turn()
        self._newest[key] = turn
        try:
            if before is not None:
                before.supersede()
                await outlasting(before.ended, turn.stop)
            return await turn.take(body)
        except CancelledError:
            if turn.superseded:
                raise Superseded() from None
            raise
        finally:
            if self._newest[key] is turn:
                del self._newest[key]
            turn.ended.callback(None)
