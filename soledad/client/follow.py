"""
Keeps a store in step: listens for changes on the server and on this device, and lets the sync run when there are some.

What the sync does, it is handed; so are the clock and chance.  Source: docs/spec/events-http.rst, "Following".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from soledad.client.interfaces import IRemoteEvents
from soledad.deferreds import completed, outlasting, unawaited
from soledad.errors import SoledadError, StoreClosed
from soledad.wire.events import Heads

#: Seconds before each further attempt to listen, or to sync, after one that failed; then the last, again and again.
BACKOFF = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: Seconds in which changes on this device gather before they are sent.
GATHER = 0.2

_log = Logger()


def spread(seconds: float) -> float:
    """Return a pause that differs from device to device: a server that comes back is not asked by all at once."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


@define(eq=False)
class Following:
    """
    A store that is kept in step, until `stop` or the store's closing.

    Whatever fails is tried again, with pauses; `problem` tells what.
    """

    _clock: IReactorTime
    _events: IRemoteEvents
    #: Runs a sync; fires when it has ended.
    _sync: Callable[[], Deferred[Any]]
    #: Whether this device has something that the server has not.
    _unsent: Callable[[], Deferred[bool]]
    #: What the server had after the last sync, as far as this device knows.
    _known: Callable[[], Heads | None]
    _spread: Callable[[float], float] = spread
    #: Why the last attempt to listen, and the last one to sync, failed; `None`: it did not.
    _unheard: SoledadError | None = field(default=None, init=False)
    _unsynced: SoledadError | None = field(default=None, init=False)
    #: Whether the server tells of changes at the moment.
    listening: bool = field(default=False, init=False)
    _heads: Heads | None = field(default=None, init=False)
    #: What the server had told of when the last sync began.
    _synced: Heads | None = field(default=None, init=False)
    #: A sync is due, whatever the heads say.
    _due: bool = field(default=True, init=False)
    #: Something has changed on this device, perhaps by a sync.
    _changed: bool = field(default=False, init=False)
    _stopping: bool = field(default=False, init=False)
    _woken: Deferred[None] | None = field(default=None, init=False)
    _running: Deferred[None] | None = field(default=None, init=False)

    @property
    def problem(self) -> SoledadError | None:
        """Why the last sync failed; or, if it did not, why the server cannot be heard.  `None`: all is well."""
        return self._unsynced or self._unheard

    def start(self, running: Deferred[None]) -> None:
        """Note what `run` has become, which whoever made this began."""
        self._running = running
        unawaited(running.addErrback(lambda failure: failure.trap(StoreClosed, CancelledError)))

    def stop(self) -> Deferred[None]:
        """End it; fires when nothing of it runs any more.  Once more is no harm."""
        waiter: Deferred[None] = Deferred()
        assert self._running is not None
        unawaited(self._running.addBoth(_pass_to, waiter))
        self._running.cancel()
        return outlasting(waiter, lambda: None)

    def local_change(self) -> None:
        """Something changed on this device, which other devices should have."""
        self._changed = True
        self._wake()

    async def run(self) -> None:
        """Listen and sync until this is cancelled."""
        listening = Deferred.fromCoroutine(self._listen())
        try:
            await self._keep_in_step()
        finally:
            self._stopping = True
            listening.cancel()
            await completed(listening.addErrback(lambda failure: failure.trap(CancelledError)))

    # --- listening ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Listen, again and again."""
        failures = 0
        while not self._stopping:
            try:
                await self._events.listen(self._heard)
            except CancelledError:
                raise
            except Exception as error:
                self._unheard = self._told(error) or self._unheard
            finally:
                # Having heard anything, it was no failure to connect.
                failures = 1 if self.listening else failures + 1
                self.listening = False
            if not self._stopping:
                await self._pause(failures)

    def _heard(self, heads: Heads) -> None:
        self.listening, self._unheard = True, None
        self._heads = heads
        self._wake()

    # --- syncing --------------------------------------------------------------------------------------

    async def _keep_in_step(self) -> None:
        failures = 0
        while True:
            await self._until_news()
            await deferLater(self._clock, GATHER)
            # What comes from here on may be too late for this sync.
            heads, self._due, self._changed = self._heads, False, False
            try:
                await self._run_sync()
            except CancelledError:
                raise
            except Exception as error:
                self._unsynced = self._told(error) or self._unsynced
                failures, self._due = failures + 1, True
                await self._pause(failures)
            else:
                failures, self._unsynced, self._synced = 0, None, heads

    async def _run_sync(self) -> None:
        """Sync; when somebody else stops that sync, that is no reason to stop following."""
        stopped = False
        syncing = self._sync()

        def stop() -> None:
            nonlocal stopped
            stopped = True
            syncing.cancel()

        try:
            await outlasting(syncing, stop)
        except Exception as error:
            if not stopped and not isinstance(error, CancelledError):
                raise
        if stopped:
            # However it ended: perhaps it was done, or failed, before it heard of it.
            raise CancelledError()

    async def _until_news(self) -> None:
        while not (self._due or self._has_news()):
            if self._changed:
                self._changed = False
                if await self._unsent():
                    return
            else:
                self._woken = Deferred(self._forget)
                await self._woken

    def _has_news(self) -> bool:
        """Tell whether the server has something that this device does not know of."""
        return self._heads is not None and self._heads not in (self._known(), self._synced)

    def _wake(self) -> None:
        woken, self._woken = self._woken, None
        if woken is not None:
            woken.callback(None)

    def _forget(self, woken: Deferred[None]) -> None:
        self._woken = None

    def _told(self, error: Exception) -> SoledadError | None:
        """Log why something failed; return it, unless it is a bug. :raise StoreClosed: that is the end of it."""
        if isinstance(error, StoreClosed):
            raise error
        if isinstance(error, SoledadError):
            _log.info("Following is interrupted by {error}", error=type(error).__name__)
            return error
        _log.failure("Following is interrupted", failure=Failure(error))
        return None

    async def _pause(self, failures: int) -> None:
        await deferLater(self._clock, self._spread(BACKOFF[min(failures, len(BACKOFF)) - 1]))


def _pass_to(result: Any, waiter: Deferred[None]) -> Any:
    waiter.callback(None)
    return result
