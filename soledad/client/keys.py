"""
The keyring of an open store, and the server's: keeps the two in step, and changes them together.

What two keyrings become is decided in `soledad.crypto.merging`.  Every change goes to the server first, which compares
and swaps, and then into this device's file: a process that is killed between the two finds the server's newer one
when it next looks.  Source: docs/spec/keyring.rst, "On several devices".
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from os import urandom
from threading import Event
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from soledad.client.interfaces import IRemoteKeys
from soledad.crypto.keyring import OpenKeyring, SharedPart, open_shared
from soledad.crypto.merging import Standing, adopt, compare, join, merge
from soledad.crypto.slots import Credential
from soledad.deferreds import Serial, Worker, completed, deferred
from soledad.errors import (
    KeyringChanged,
    KeyringError,
    KeyringNotFound,
    KeyringRolledBack,
    MalformedKeyring,
    NoServer,
    PreconditionFailed,
    RetriableTransferError,
    ServerFailed,
    SoledadError,
    WrongPassphrase,
)

#: How often another device may be quicker before the server counts as too busy.
ATTEMPTS = 5

_log = Logger()

Change = Callable[[OpenKeyring], OpenKeyring]


class LocalKeyring(Protocol):
    """This device's keyring."""

    keyring: OpenKeyring

    def save_keyring(self, keyring: OpenKeyring) -> None:
        """Go on with another one, durably.  Blocks."""


@define(eq=False)
class Keys:
    """The keyring of one open store.  One thing at a time is done to it."""

    _local: LocalKeyring
    _remote: IRemoteKeys | None
    _worker: Worker
    _turn: Serial = field(factory=Serial, init=False)
    #: The server was asked since the store was opened, and all was well.
    _met: bool = field(default=False, init=False)
    #: What a person should know of the server's keyring.
    problem: KeyringError | None = field(default=None, init=False)
    _listeners: list[Callable[[], object]] = field(factory=list, init=False)

    def listen(self, call: Callable[[], object]) -> Callable[[], None]:
        """Call ``call()`` whenever this device has another keyring; what this returns ends that."""
        self._listeners.append(call)
        return lambda: self._listeners.remove(call)

    # --- in step with the server ----------------------------------------------------------------------

    async def meet(self, credential: Credential) -> None:
        """Bring both in step when a store was opened, if that can be done now; what opened it may open the other."""
        try:
            await self.settle(credential)
        except KeyringError as error:
            _log.warn("The server's keyring: {error}", error=str(error))
        except SoledadError as error:
            _log.info("The server's keyring was not looked at: {error}", error=type(error).__name__)

    async def ready(self) -> None:
        """
        Make sure that another device can get at the keys of whatever is sent next; asks the server once, if at all.

        :raise KeyringChanged: the server has another keyring.
        :raise MalformedKeyring: what the server has is none.
        """
        if not self._is_ready:
            await self._turn.run(self._become_ready)

    @property
    def _is_ready(self) -> bool:
        return self._met and self._local.keyring.is_backed_up

    async def _become_ready(self) -> None:
        # Whoever was before this one may have asked already.
        if self._is_ready:
            return
        try:
            await self._noted(partial(self._settle, None))
        except KeyringRolledBack:
            # The server had ours, and the sync says what is to be done now.
            if not self._local.keyring.is_backed_up:
                raise
            self._met = True

    async def settle(self, credential: Credential | None = None, restored: bool = False) -> None:
        """
        Bring this device's keyring and the server's in step; either may be the newer, or both.

        :param credential: what may open a keyring that began elsewhere, if this device never saw one on the server.
        :param restored: a person says that the server was put back: what it has is joined with what is here.
        :raise NoServer: there is no server.
        :raise KeyringChanged: the server has a keyring that takes a passphrase: see `adopt`.
        :raise KeyringRolledBack: the server's is older than it was; nothing was changed.
        :raise MalformedKeyring: what the server has is none, or not this user's; nothing was changed.
        """
        await self._turn.run(partial(self._noted, partial(self._settle, credential, restored)))

    async def adopt(self, credential: Credential) -> None:
        """
        Go on with the server's keyring, which ``credential`` opens; what was sealed here stays readable.

        :raise WrongPassphrase: it does not open; nothing was changed.
        """
        await self._turn.run(partial(self._noted, partial(self._settle, credential, False, True)))

    async def _noted(self, step: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        """Take a step, and remember what a person should know."""
        try:
            await step()
        except WrongPassphrase:
            raise
        except KeyringError as error:
            self.problem = error
            raise
        self._met, self.problem = True, None

    async def _settle(self, credential: Credential | None, restored: bool = False, asked: bool = False) -> None:
        remote = self._server()
        for _ in range(ATTEMPTS):
            try:
                shared = await fetch(remote)
            except KeyringNotFound:
                # Never there, or lost: absence deletes nothing.
                if await self._push(self._local.keyring, None):
                    return
                continue
            if await self._agree(shared, credential, restored, asked):
                return
        raise ServerFailed()

    async def _agree(self, shared: SharedPart, credential: Credential | None, restored: bool, asked: bool) -> bool:
        """Make one of the two; tell whether that succeeded, or another device was quicker."""
        mine = self._local.keyring
        standing = self._standing(mine, shared, restored)
        if standing is Standing.SAME:
            if not mine.is_backed_up:
                await self._save(mine.backed_up())
            return True
        if standing is Standing.NEWER:
            await self._save(adopt(mine, shared))
            return True
        if standing is Standing.OLDER:
            return await self._push(mine, shared)
        if standing is Standing.DIVERGED:
            return await self._push(join(mine, shared, urandom), shared)
        return await self._merge(shared, credential, asked)

    def _standing(self, mine: OpenKeyring, shared: SharedPart, restored: bool) -> Standing:
        try:
            return compare(mine, shared)
        except KeyringRolledBack:
            if not restored:
                raise
            return Standing.DIVERGED

    async def _merge(self, shared: SharedPart, credential: Credential | None, asked: bool) -> bool:
        """
        Go on with a keyring that began elsewhere.

        :raise KeyringChanged: nobody gave what opens it; or the server had another one before, and nobody asked for
            this: it may be one of old that is not to be trusted any more.
        """
        mine = self._local.keyring
        if credential is None or (mine.known is not None and not asked):
            raise KeyringChanged()
        try:
            theirs = await self._derive(partial(open_shared, mine.uuid, shared, credential, mine.device_key))
        except WrongPassphrase:
            if asked:
                raise
            raise KeyringChanged() from None
        merged = merge(mine, theirs, urandom)
        if merged.is_backed_up:
            await self._save(merged)
            return True
        return await self._push(merged, shared)

    # --- changes --------------------------------------------------------------------------------------

    async def change(self, make: Change) -> None:
        """
        Replace the keyring by what ``make`` makes of it, in a worker; on the server first, if there is one.

        Without a connection to the server it fails, and nothing is changed; if the connection breaks while the
        server is told, it may have been changed there, and is here when the two are next in step.

        :raise KeyringError: as `settle`.
        """
        await self._turn.run(partial(self._change, make))

    async def _change(self, make: Change) -> None:
        if self._remote is None:
            await self._save(await self._derive(partial(make, self._local.keyring)))
            return
        for _ in range(ATTEMPTS):
            await self._noted(partial(self._settle, None))
            before = self._local.keyring
            if await self._push(await self._derive(partial(make, before)), before.shared):
                return
        raise ServerFailed()

    async def _push(self, keyring: OpenKeyring, replaced: SharedPart | None) -> bool:
        """Let the server have a keyring, and then this device; tell whether another device was quicker."""
        remote = self._server()
        try:
            await remote.put(keyring.shared.encode(), None if replaced is None else replaced.digest)
        except PreconditionFailed:
            return False
        except RetriableTransferError:
            # Perhaps only the answer was lost.
            if not await _has(remote, keyring.shared):
                raise
        await self._save(keyring.backed_up())
        return True

    async def _derive(self, call: Callable[[], OpenKeyring]) -> OpenKeyring:
        """Do in a worker what takes the time of a passphrase; cancelled meanwhile, this ends when that has ended."""
        stop = Event()
        keyring = await self._worker.run(call, stop=stop)
        if stop.is_set():
            raise CancelledError()
        return keyring

    async def _save(self, keyring: OpenKeyring) -> None:
        await completed(self._worker.run(self._local.save_keyring, keyring))
        for call in self._listeners.copy():
            call()

    def _server(self) -> IRemoteKeys:
        if self._remote is None:
            raise NoServer()
        return self._remote


@deferred
async def fetch(remote: IRemoteKeys) -> SharedPart:
    """
    Return what the server has.

    :raise KeyringNotFound: there is nothing.
    :raise MalformedKeyring: it is no keyring.
    """
    data = await remote.get()
    try:
        return SharedPart.parse(data)
    except MalformedKeyring as error:
        raise MalformedKeyring(f"the server's: {error.reason}") from error


async def _has(remote: IRemoteKeys, shared: SharedPart) -> bool:
    """Tell whether the server is known to have just this."""
    try:
        return (await fetch(remote)).digest == shared.digest
    except SoledadError:
        return False
