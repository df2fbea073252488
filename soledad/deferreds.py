"""
The bridge to Twisted: coroutines as bodies of methods, and blocking work in threads.

What blocks (SQL, a KDF, an fsync) is handed to a `Worker`.  No thread waits for the reactor: a thread's work is a
function that returns, and what follows it happens on the reactor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import wraps
from threading import Event, Lock
from typing import Any, ParamSpec, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


def deferred(body: Callable[P, Coroutine[Deferred[Any], Any, T]]) -> Callable[P, Deferred[T]]:
    """Let a coroutine function return a `Deferred` that has already started."""

    @wraps(body)
    def start(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(body(*args, **kwargs))

    return start


def unawaited(work: Deferred[Any]) -> None:
    """Say that nobody waits for ``work`` here: its callbacks take care of whatever comes."""


class Outlasting(Deferred[T]):
    """
    A Deferred that never fires before what it stands for has ended, not even when it is cancelled.

    A plain `Deferred` fires at once when it is cancelled, while what it stands for may still run.  Here cancelling
    calls ``stop(self)``, which asks the work to end, and then the outcome of the work is waited for: it is a
    `CancelledError` if the work heeded the request, or its result if it was past the point where it could.
    """

    def __init__(self, stop: Callable[[Outlasting[T]], object]) -> None:
        """Wait for what ``stop`` can ask to end."""
        super().__init__()
        self._stop = stop

    def cancel(self) -> None:
        """Ask the work to end; or, as with all Deferreds, what is waited for since it has."""
        if self.called:
            super().cancel()
        else:
            self._stop(self)


def outlasting(work: Deferred[T], stop: Callable[[], object]) -> Deferred[T]:
    """Return an `Outlasting` that fires as ``work`` does; cancelling it calls ``stop()``."""
    waiting: Outlasting[T] = Outlasting(lambda _: stop())
    unawaited(work.addBoth(waiting.callback))
    return waiting


class Worker(Protocol):
    """Where blocking calls run."""

    def run(self, call: Callable[..., T], *args: Any, stop: Event | None = None) -> Deferred[T]:
        """
        Call ``call(*args)`` off the reactor's thread.

        Cancelling before it began: it never runs.  Cancelling later: ``stop`` is set, for a call that looks at it
        and then raises `CancelledError`; in any case the Deferred fires when the call has ended, as it ended.
        """

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """Call ``call(*args)`` on the reactor's thread, soon; from any thread."""


class _Stage(Enum):
    """How far a call in a thread is."""

    WAITING = 1
    STARTED = 2
    DROPPED = 3


@define(eq=False)
class ThreadWorker:
    """
    A `Worker` with threads of its own: at most ``threads``, started when there is work.

    They do not keep a process that comes to its end without closing this: they finish what they were given, and end.
    """

    _reactor: IReactorFromThreads
    #: Python's own: unlike those of Twisted's pool, its threads hear of the end of the process.
    _pool: ThreadPoolExecutor

    @classmethod
    def start(cls, reactor: IReactorFromThreads, threads: int, name: str) -> ThreadWorker:
        """Make a worker that runs up to ``threads`` calls at a time."""
        return cls(reactor, ThreadPoolExecutor(threads, name))

    def run(self, call: Callable[..., T], *args: Any, stop: Event | None = None) -> Deferred[T]:
        """See `Worker.run`; after `close` it fails."""
        work: Deferred[T] = Deferred()
        stage, lock = _Stage.WAITING, Lock()

        def outcome() -> T | Failure:
            nonlocal stage
            try:
                with lock:
                    if stage is _Stage.DROPPED:
                        raise CancelledError()
                    stage = _Stage.STARTED
                return call(*args)
            except BaseException:
                # It is made here, where its traceback is.
                return Failure()

        def cancelled() -> None:
            nonlocal stage
            with lock:
                if stage is _Stage.WAITING:
                    stage = _Stage.DROPPED
            if stop is not None:
                stop.set()

        try:
            self._pool.submit(lambda: self._reactor.callFromThread(work.callback, outcome()))
        except RuntimeError:
            # The threads have ended, or there is no room for one.
            return fail()
        return outlasting(work, cancelled)

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """See `Worker.report`."""
        self._reactor.callFromThread(call, *args)

    def close(self) -> None:
        """End the threads.  Whoever calls this waited for the work first, or it waits here."""
        self._pool.shutdown()


class InPlace:
    """A `Worker` without threads, for tests: each call has ended when `run` returns."""

    def run(self, call: Callable[..., T], *args: Any, stop: Event | None = None) -> Deferred[T]:
        """See `Worker.run`."""
        work: Deferred[T] = Deferred()
        try:
            work.callback(call(*args))
        except BaseException:
            work.errback(Failure())
        return work

    def report(self, call: Callable[..., object], *args: Any) -> None:
        """See `Worker.report`."""
        call(*args)

    def close(self) -> None:
        """There is nothing to end."""


@define(eq=False)
class Serial:
    """Lets one call after the other have its turn, in the order in which they asked."""

    _busy: bool = field(default=False, init=False)
    #: `None` as long as nobody ever waited: most never do.
    _waiting: deque[Deferred[None]] | None = field(default=None, init=False)
    _passing: bool = field(default=False, init=False)

    def run(self, body: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """Run ``body()`` when all earlier ones have ended, however they ended; one cancelled before that never runs."""
        return Deferred.fromCoroutine(in_turn([self], body))

    def turn(self) -> Deferred[None] | None:
        """
        Fire when it is the caller's turn, who then calls `pass_on`; its place is taken when this returns.

        :return: `None`: it is the caller's turn at once.
        """
        if not self._busy and not self._waiting:
            self._busy = True
            return None
        if self._waiting is None:
            self._waiting = deque()
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def pass_on(self) -> None:
        """Let the next one have its turn."""
        self._busy = False
        # A loop, not recursion: many turns in a row may end at once, such as those of a closed store.
        if self._passing:
            return
        self._passing = True
        try:
            while self._waiting and not self._busy:
                self._busy = True
                self._waiting.popleft().callback(None)
        finally:
            self._passing = False


async def in_turn(serials: Iterable[Serial], body: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
    """Run ``body()`` when it has its turn in all of ``serials``; all places are taken at once, so none deadlocks."""
    asked = list({id(serial): serial for serial in serials}.values())
    turns = [serial.turn() for serial in asked]
    held = 0
    try:
        for turn in turns:
            if turn is not None:
                await turn
            held += 1
        return await body()
    finally:
        for serial in asked[:held]:
            serial.pass_on()
        # Behind the turn at which this was cancelled, some may have come already.
        for serial, turn in zip(asked[held + 1 :], turns[held + 1 :], strict=True):
            _give_up(serial, turn)


def _give_up(serial: Serial, turn: Deferred[None] | None) -> None:
    if turn is None or turn.called:
        serial.pass_on()
    else:
        turn.addErrback(lambda failure: failure.trap(CancelledError)).cancel()


@define(eq=False)
class SerialByKey:
    """A `Serial` for each key, as long as anybody uses it."""

    _serials: dict[Hashable, tuple[Serial, int]] = field(factory=dict, init=False)

    async def run(self, key: Hashable, body: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run ``body()`` when all earlier ones of the same key have ended, however they ended."""
        serial, users = self._serials.get(key, (Serial(), 0))
        self._serials[key] = serial, users + 1
        try:
            return await serial.run(body)
        finally:
            _, users = self._serials.pop(key)
            if users > 1:
                self._serials[key] = serial, users - 1


async def completed(work: Deferred[T]) -> T:
    """Wait for ``work`` even when this is cancelled: for what follows a commit."""
    return await outlasting(work, lambda: None)


async def gather(works: Iterable[Deferred[T]]) -> list[T]:
    """
    Wait until every one of ``works`` has ended; then return their results, or raise the first failure.

    Cancelling it cancels them all, and still waits for them.
    """
    outcomes: Any = await DeferredList(list(works), consumeErrors=True)
    for succeeded, outcome in outcomes:
        if not succeeded:
            outcome.raiseException()
    return [outcome for _, outcome in outcomes]
