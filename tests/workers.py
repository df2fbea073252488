"""Workers for tests: what threads do, one step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from soledad.deferreds import outlasting

T = TypeVar("T")


@define(eq=False)
class HeldWorker:
    """A `Worker` whose calls wait until the test lets them go."""

    _waiting: deque[tuple[Callable[[], Any], Deferred[Any]]] = field(factory=deque, init=False, repr=False)
    #: How many calls ran.
    ran: int = field(default=0, init=False)

    def run(self, call: Callable[..., T], *args: Any, stop: Event | None = None) -> Deferred[T]:
        """See `Worker.run`."""
        work: Deferred[T] = Deferred()
        entry = partial(call, *args), work
        self._waiting.append(entry)

        def cancelled() -> None:
            if stop is not None:
                stop.set()
            if entry in self._waiting:
                self._waiting.remove(entry)
                work.errback(CancelledError())

        return outlasting(work, cancelled)

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """See `Worker.report`."""
        call(*args)

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def step(self, before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None) -> None:
        """Let one call go: ``before`` and ``after`` happen while it runs."""
        call, work = self._waiting.popleft()
        self.ran += 1
        before()
        try:
            result = call()
        except BaseException:
            result = Failure()
        after()
        work.callback(result)

    def drain(self) -> None:
        """Let all calls go, and those that follow from them."""
        while self._waiting:
            self.step()

    def close(self) -> None:
        """There is nothing to end."""
