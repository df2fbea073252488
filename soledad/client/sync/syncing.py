"""
One sync at a time: who asks while one runs joins it; the last who stops waiting stops it.

Documents first, then blobs.  How either is done is elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from soledad.client.sync.documents import Exchange, Parts
from soledad.client.sync.keyring import KeyringWatch
from soledad.crypto import checkpoint as checkpoints
from soledad.crypto.checkpoint import Checkpoint
from soledad.deferreds import outlasting, unawaited
from soledad.errors import SoledadError, UnknownKey
from soledad.model.tampering import News
from soledad.streams import Progress
from soledad.wire.events import Heads

_log = Logger()

ProgressCallback: TypeAlias = Callable[[int, int], object]
#: Brings the blobs in step; is given the change number of the server's blobs, as it was told last, and tells whether
#: there was anything to look at.
BlobPhase: TypeAlias = Callable[[str, ProgressCallback], Awaitable[bool]]


@define(eq=False)
class _Waiter:
    """Somebody who waits for a sync."""

    done: Deferred[int]
    callback: ProgressCallback | None


@define(eq=False)
class Syncing:
    """The syncs of one store."""

    parts: Parts
    _keyring: KeyringWatch
    _blobs: BlobPhase
    _waiters: list[_Waiter] = field(factory=list, init=False)
    _exchange: Exchange | None = field(default=None, init=False)
    _work: Deferred[int] | None = field(default=None, init=False)
    #: Bytes done, and bytes in all as far as is known, of the sync that runs, or ran last.
    progress: tuple[int, int] = field(default=(0, 0), init=False)
    #: What the server had after the last sync, as far as this device knows.
    heads: Heads | None = field(default=None, init=False)

    @property
    def is_running(self) -> bool:
        """Whether one runs."""
        return self._exchange is not None

    def sync(self, callback: ProgressCallback | None = None) -> Deferred[int]:
        """Join the sync that runs, or begin one; cancelling leaves it, and the last one who leaves stops it."""
        waiter = _Waiter(Deferred(), callback)
        self._waiters.append(waiter)
        joined = outlasting(waiter.done, partial(self._leave, waiter))
        if self._exchange is None:
            self._begin()
        return joined

    def stop(self) -> Deferred[None]:
        """Stop the sync that runs, for all who wait for it; fire when it has ended."""
        ended: Deferred[None] = Deferred()
        if self._exchange is None:
            ended.callback(None)
            return ended
        waiter = _Waiter(Deferred(), None)
        self._waiters.append(waiter)
        unawaited(waiter.done.addBoth(lambda outcome: ended.callback(None)))
        self._stop()
        return outlasting(ended, lambda: None)

    async def restart(self, callback: ProgressCallback | None) -> int:
        """Take whatever the server has for a restored backup, once the sync that runs has ended; bring it in step."""
        await self.ended()
        await self._keyring.restored()
        look = await self.parts.journal.look()
        if look.standing.server == self.parts.server:
            await self.parts.journal.stand(evolve(look.standing, restarting=True))
        return await self.sync(callback)

    async def ended(self) -> None:
        """Wait until none runs."""
        while self._exchange is not None:
            try:
                await self.sync()
            except SoledadError:
                # Whoever began it is told.
                continue

    async def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that was accepted last."""
        look = await self.parts.journal.look()
        encoded = look.standing.checkpoint
        return checkpoints.parse(encoded) if encoded else None

    async def has_unsent(self) -> bool:
        """Tell whether the other devices have something to hear of: a document, or a newer keyring."""
        if (await self.parts.journal.look()).is_changed:
            return True
        return checkpoints.is_keyring_untold(await self.checkpoint(), self.parts.keys.keyring.keyring)

    async def news(self) -> list[News]:
        """Return when each store of the user has last been heard of."""
        checkpoint = await self.checkpoint()
        devices = {} if checkpoint is None else checkpoint.devices
        this = (await self.parts.journal.look()).replica
        return [News(device, commit.time, commit.count, device == this) for device, commit in sorted(devices.items())]

    def _begin(self) -> None:
        progress = Progress(self.parts.worker, self._tell)
        self._exchange = Exchange(self.parts, progress)
        self.progress = (0, 0)
        work = Deferred.fromCoroutine(self._run(self._exchange, progress))
        if not work.called:
            self._work = work
        unawaited(work.addBoth(self._ended))

    async def _run(self, exchange: Exchange, progress: Progress) -> int:
        await self._keyring.begin()
        try:
            generation = await exchange.run()
        except UnknownKey:
            await self._keyring.renew()
            self._exchange = exchange = Exchange(self.parts, progress)
            generation = await self._run_renewed(exchange)
        await self._keyring.end(exchange.keyring_mark)
        done = progress.done
        if not await self._blobs(exchange.blobs, lambda more, of: self._tell(done + more, done + of)):
            progress.finished()
        self.heads = Heads(exchange.head, exchange.blobs, self.parts.keys.keyring.shared.digest.hex())
        return generation

    async def _run_renewed(self, exchange: Exchange) -> int:
        try:
            return await exchange.run()
        except UnknownKey:
            # The keyring of whoever sealed it was on the server before that.
            await self._keyring.withheld()
            raise

    def _ended(self, outcome: int | Failure) -> None:
        self._exchange = self._work = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.done.callback(outcome)

    def _leave(self, waiter: _Waiter) -> None:
        if len(self._waiters) > 1 and waiter in self._waiters:
            self._waiters.remove(waiter)
            waiter.done.cancel()
        else:
            self._stop()

    def _stop(self) -> None:
        if self._exchange is not None:
            self._exchange.stop()
        if self._work is not None:
            self._work.cancel()

    def _tell(self, done: int, total: int) -> None:
        self.progress = (done, total)
        for waiter in list(self._waiters):
            if waiter.callback is not None:
                try:
                    waiter.callback(done, total)
                except Exception:
                    _log.failure("A progress callback failed")
