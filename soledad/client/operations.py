"""Which calls are under way, so that closing can wait for them, or end them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail

from soledad.errors import StoreClosed

P = ParamSpec("P")
T = TypeVar("T")


@define(eq=False)
class Operations:
    """The calls of one store that have not ended."""

    _running: dict[object, tuple[Deferred[Any], bool]] = field(factory=dict, init=False)
    _closing: bool = field(default=False, init=False)
    _ended: list[Deferred[None]] = field(factory=list, init=False)

    def start(self, body: Callable[[], Coroutine[Deferred[Any], Any, T]], finishes: bool) -> Deferred[T]:
        """
        Run ``body()`` and keep track of it.

        :param finishes: closing waits until it has ended by itself; else it is cancelled, and fails `StoreClosed`.
        :raise StoreClosed: closing has begun.
        """
        if self._closing:
            return fail(StoreClosed())
        token = object()

        async def tracked() -> T:
            try:
                return await body()
            except CancelledError:
                if self._closing and not finishes:
                    raise StoreClosed() from None
                raise
            finally:
                self._running.pop(token, None)
                self._tell()

        # A call that ends at once takes itself out before it is put in.
        self._running[token] = (Deferred(), True)
        work = Deferred.fromCoroutine(tracked())
        if token in self._running:
            self._running[token] = (work, finishes)
        return work

    @property
    def closing(self) -> bool:
        """Whether new calls are refused."""
        return self._closing

    async def close(self) -> None:
        """Refuse new calls, cancel those that do not finish by themselves, and wait for all."""
        self._closing = True
        for work, finishes in list(self._running.values()):
            if not finishes:
                work.cancel()
        if self._running:
            ended: Deferred[None] = Deferred()
            self._ended.append(ended)
            await ended

    def _tell(self) -> None:
        if not self._running:
            ended, self._ended = self._ended, []
            for waiter in ended:
                waiter.callback(None)


class Operating(Protocol):
    """Something that keeps track of its calls."""

    operations: Operations


S = TypeVar("S", bound=Operating)
Method = Callable[Concatenate[S, P], Coroutine[Deferred[Any], Any, T]]


def _operation(finishes: bool, method: Method[S, P, T]) -> Callable[Concatenate[S, P], Deferred[T]]:
    @wraps(method)
    def start(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self.operations.start(lambda: method(self, *args, **kwargs), finishes)

    return start


def local_operation(method: Method[S, P, T]) -> Callable[Concatenate[S, P], Deferred[T]]:
    """Make a public method of a coroutine function: closing waits for it."""
    return _operation(True, method)


def local_read(method: Callable[Concatenate[S, P], Deferred[T]]) -> Callable[Concatenate[S, P], Deferred[T]]:
    """Make a public method of one that asks the database and does no more: a database that closes waits for that."""

    @wraps(method)
    def start(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if self.operations.closing:
            return fail(StoreClosed())
        try:
            return method(self, *args, **kwargs)
        except Exception:
            return fail()

    return start


def network_operation(method: Method[S, P, T]) -> Callable[Concatenate[S, P], Deferred[T]]:
    """Make a public method of a coroutine function: closing cancels it."""
    return _operation(False, method)
