"""
Opening a store, perhaps with a look at the server: for the keys of a new device, or a passphrase changed elsewhere.

What blocks is run in a worker, and no worker waits for the network, so this goes step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import urandom
from pathlib import Path
from threading import Event
from typing import TypeVar

from attrs import define
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from soledad.client.interfaces import IRemoteKeys
from soledad.client.keys import fetch
from soledad.client.local.keyring import (
    StoreLock,
    join_keyring,
    lock_path,
    make_keyring,
    save_keyring,
    unlock_keyring,
    unlock_with_servers,
)
from soledad.client.local.store import LocalStore, Workers
from soledad.crypto.keyring import OpenKeyring, SharedPart, create
from soledad.crypto.slots import Credential
from soledad.errors import (
    ConnectionFailed,
    KeyringError,
    KeyringNotFound,
    NoServer,
    NotEnoughMemory,
    RetriableTransferError,
    TransferError,
    WrongPassphrase,
)
from soledad.model.ids import UserId

#: Seconds that the server has to answer when a new store is made; after that it is made without.
FIRST_CONTACT = 10.0

T = TypeVar("T")

_log = Logger()


@define(eq=False)
class Opening:
    """One store that is being opened."""

    _clock: IReactorTime
    _workers: Workers
    _folder: Path
    _user: UserId
    _credential: Credential
    _remote: IRemoteKeys | None
    #: Never make new keys.
    _recovers: bool = False

    async def open(self) -> LocalStore:
        """Open the store in the folder, or make it; errors as `soledad.client.api.Soledad.open`."""
        path = lock_path(self._folder, self._user)
        lock = await self._run(partial(StoreLock.acquire, path), StoreLock.release)
        try:
            keyring = await self._keyring()
            make = partial(LocalStore.unlocked, self._folder, lock, keyring, self._workers)
            return await self._run(make, LocalStore.abandon)
        except BaseException:
            lock.release()
            raise

    async def _run(self, make: Callable[[], T], undo: Callable[[T], object] = lambda made: None) -> T:
        """Make something in a worker; if this was cancelled meanwhile, it is undone there, and all ends."""
        stop = Event()

        def made() -> T:
            result = make()
            if stop.is_set():
                undo(result)
                raise CancelledError()
            return result

        return await self._workers.files.run(made, stop=stop)

    async def _keyring(self) -> OpenKeyring:
        """Return the store's keyring, which is made if there is no store."""
        try:
            found = await self._run(partial(unlock_keyring, self._folder, self._user, self._credential))
        except (WrongPassphrase, NotEnoughMemory) as refusal:
            return await self._changed_elsewhere(refusal)
        if found is not None:
            return found
        shared = await self._on_server()
        if shared is not None:
            join = partial(join_keyring, self._folder, self._user, shared, self._credential, urandom)
            return await self._run(join)
        return await self._run(self._make)

    def _make(self) -> OpenKeyring:
        return make_keyring(self._folder, create(self._user, self._credential, urandom), urandom)

    async def _on_server(self) -> SharedPart | None:
        """
        Return what the server has for a new device; none if it has nothing, or cannot be reached.

        :raise TransferError: it answers, but not as it should: a person should know before there are two keyrings.
        """
        if self._remote is None:
            if self._recovers:
                raise NoServer()
            return None
        try:
            return await self._fetch(self._remote)
        except (KeyringNotFound, RetriableTransferError) as error:
            if self._recovers:
                raise
            if not isinstance(error, KeyringNotFound):
                _log.info("The server cannot be reached; keys are made without it, and joined with any there later")
            return None

    async def _changed_elsewhere(self, refusal: KeyringError) -> OpenKeyring:
        """
        Return the keyring, unlocked by way of the server's.

        :param refusal: why that of this device does not open.
        :raise WrongPassphrase: that does not help, or is not to be had.
        :raise NotEnoughMemory: likewise, and not all of either was tried.
        """
        if self._remote is None:
            raise refusal
        try:
            shared = await self._fetch(self._remote)
            unlock = partial(unlock_with_servers, self._folder, self._user, shared, self._credential)
            keyring = await self._run(unlock)
        except NotEnoughMemory:
            raise
        except WrongPassphrase:
            raise refusal from None
        except (KeyringError, KeyringNotFound, TransferError) as error:
            _log.info("The server is of no help with the passphrase: {error}", error=type(error).__name__)
            raise refusal from error
        await self._run(partial(save_keyring, self._folder, keyring, urandom))
        return keyring

    async def _fetch(self, remote: IRemoteKeys) -> SharedPart:
        """:raise ConnectionFailed: also when it takes too long."""
        try:
            return await fetch(remote).addTimeout(FIRST_CONTACT, self._clock)
        except TookTooLong:
            raise ConnectionFailed(f"no keyring within {FIRST_CONTACT:g} seconds") from None
