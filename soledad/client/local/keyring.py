"""
The keyring's file, and the store's lock.

`open_keyring` decides what a folder is: new, a store of this user, of another, or one whose keyring is missing.
Everything here blocks: it is run in a thread.  Source: docs/spec/keyring.rst and docs/spec/identifiers.rst.
"""

from __future__ import annotations

import os
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from attrs import define, field

from soledad.client.local.durable import TEMPORARY_SUFFIX, file_faults, make_folder, publish_new, publish_over
from soledad.crypto.kdf import KEY_SIZE
from soledad.crypto.keyring import MAX_FILE, OpenKeyring, SharedPart, create, open_file_with, open_shared, unlock
from soledad.crypto.merging import Standing, adopt, compare, join
from soledad.crypto.slots import Credential, Entropy
from soledad.errors import (
    ForeignStore,
    InvalidIdentifier,
    KeyringExists,
    KeyringMissing,
    KeyringRolledBack,
    MalformedKeyring,
    StoreInUse,
    WrongPassphrase,
)
from soledad.model.ids import UserId, user_id

_KEYRING = ".keyring"
_DATABASE = ".db"
_BLOBS = "_blobs"


def keyring_path(folder: Path, uuid: UserId) -> Path:
    """Return where a user's keyring is."""
    return folder / f"{uuid}{_KEYRING}"


def lock_path(folder: Path, uuid: UserId) -> Path:
    """Return where the lock of a user's store is."""
    return folder / f"{uuid}.lock"


def database_paths(folder: Path, uuid: UserId) -> tuple[Path, Path]:
    """Return where the databases are: that of the documents and that of the blobs."""
    return folder / f"{uuid}{_DATABASE}", folder / f"{uuid}{_BLOBS}{_DATABASE}"


@define(eq=False)
class StoreLock:
    """The right to use a store: held by one opener at a time, of any process, until it is released or dies."""

    _fd: int | None = field(repr=False)

    @classmethod
    def acquire(cls, path: Path) -> StoreLock:
        """
        Take the lock, and make its file, with the folder, if need be.

        :raise StoreInUse: somebody has it, perhaps this process.
        :raise StorageError: the file system says no.
        """
        with file_faults(path):
            make_folder(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                # Unlike other locks, this one belongs to the open file, and so keeps one process from itself.
                flock(fd, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise StoreInUse(str(path)) from None
            except BaseException:
                os.close(fd)
                raise
        return cls(fd)

    def release(self) -> None:
        """Give the lock back; again is no harm.  The file stays: if it went, two openers could lock two files."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@define(eq=False)
class KeyringFile:
    """One file, written as a whole or not at all.  Whoever writes holds the store's lock."""

    path: Path

    def exists(self) -> bool:
        """Tell whether the name is taken, by whatever it is."""
        return os.path.lexists(self.path)

    def read(self) -> bytes:
        """
        Return the file's bytes.

        :raise KeyringMissing: there is none.
        :raise MalformedKeyring: it is longer than any keyring.
        :raise StorageError: the file system says no.
        """
        with file_faults(self.path):
            try:
                with open(self.path, "rb") as file:
                    data = file.read(MAX_FILE + 1)
            except FileNotFoundError:
                raise KeyringMissing(str(self.path)) from None
        if len(data) > MAX_FILE:
            raise MalformedKeyring("too long")
        return data

    def create(self, data: bytes, entropy: Entropy) -> None:
        """
        Write the first keyring; it is durable when this returns.

        :raise KeyringExists: there is one, which is untouched.
        :raise StorageError: the file system says no.
        """
        with file_faults(self.path):
            try:
                publish_new(self.path, self._temporary(entropy), data)
            except FileExistsError:
                raise KeyringExists(str(self.path)) from None

    def replace(self, data: bytes, entropy: Entropy) -> None:
        """
        Write the next keyring over the last; it is durable when this returns.

        :raise KeyringMissing: there is none to replace.
        :raise StorageError: the file system says no; the old or the new one is there.
        """
        if not self.exists():
            raise KeyringMissing(str(self.path))
        with file_faults(self.path):
            publish_over(self.path, self._temporary(entropy), data)

    def sweep(self) -> None:
        """Remove what was left of writing that did not end."""
        with file_faults(self.path):
            for name in os.listdir(self.path.parent):
                if name.startswith(f"{self.path.name}.") and name.endswith(TEMPORARY_SUFFIX):
                    with suppress(FileNotFoundError):
                        os.unlink(self.path.parent / name)

    def _temporary(self, entropy: Entropy) -> Path:
        """Return a name for a file that is being written."""
        return self.path.with_name(f"{self.path.name}.{entropy(8).hex()}{TEMPORARY_SUFFIX}")


def unlock_keyring(folder: Path, uuid: UserId, credential: Credential) -> OpenKeyring | None:
    """
    Unlock the keyring of the store in ``folder``; `None` when there is no store yet.  The caller has the lock.

    :raise ForeignStore: the folder has another user's store.
    :raise KeyringMissing: there is a database, but no keyring.
    :raise WrongPassphrase: the credential opens no slot.
    :raise MalformedKeyring: the file is damaged.
    :raise StorageError: the file system says no.
    """
    with file_faults(folder):
        _refuse_others(folder, uuid)
    file = KeyringFile(keyring_path(folder, uuid))
    file.sweep()
    if file.exists():
        return unlock(uuid, file.read(), credential)
    if any(os.path.lexists(path) for path in database_paths(folder, uuid)):
        raise KeyringMissing(str(file.path))
    return None


def unlock_with_servers(folder: Path, uuid: UserId, shared: SharedPart, credential: Credential) -> OpenKeyring:
    """
    Unlock the keyring in ``folder``, whose slots do not open, with what the server has: it was changed elsewhere.

    :return: what the two become, which is not saved yet.
    :raise WrongPassphrase: that does not open either, belongs to other keys, or is not newer.
    :raise MalformedKeyring: one of them is damaged.
    """
    theirs = open_shared(uuid, shared, credential, b"")
    mine = open_file_with(uuid, KeyringFile(keyring_path(folder, uuid)).read(), theirs)
    try:
        standing = compare(mine, shared)
    except KeyringRolledBack:
        raise WrongPassphrase() from None
    if standing is Standing.NEWER:
        return adopt(mine, shared)
    if standing is Standing.DIVERGED:
        return join(mine, shared, os.urandom)
    # What opens only an older keyring was a passphrase once.
    raise WrongPassphrase()


def make_keyring(folder: Path, keyring: OpenKeyring, entropy: Entropy) -> OpenKeyring:
    """
    Write the keyring of a new store, and return it.  The caller has the lock.

    :raise KeyringExists: there is one, which is untouched.
    :raise StorageError: the file system says no.
    """
    KeyringFile(keyring_path(folder, keyring.uuid)).create(keyring.seal(entropy), entropy)
    return keyring


def join_keyring(
    folder: Path, uuid: UserId, shared: SharedPart, credential: Credential, entropy: Entropy
) -> OpenKeyring:
    """
    Make a new store of a user who has a keyring on the server: the same keys, and a device key of its own.

    :raise WrongPassphrase: the credential opens no slot; nothing was made.
    :raise MalformedKeyring: it is damaged, or not this user's; nothing was made.
    :raise StorageError: the file system says no.
    """
    joined = open_shared(uuid, shared, credential, entropy(KEY_SIZE)).backed_up()
    return make_keyring(folder, joined, entropy)


def open_keyring(folder: Path, uuid: UserId, credential: Credential, entropy: Entropy) -> OpenKeyring:
    """Unlock the keyring of the store in ``folder``, or make it; errors as `unlock_keyring` and `make_keyring`."""
    found = unlock_keyring(folder, uuid, credential)
    return make_keyring(folder, create(uuid, credential, entropy), entropy) if found is None else found


def save_keyring(folder: Path, keyring: OpenKeyring, entropy: Entropy) -> None:
    """
    Write the next keyring over the last; it is durable when this returns.  The caller has the lock.

    :raise KeyringMissing: the file is gone.
    :raise StorageError: the file system says no; the old or the new one is there.
    """
    KeyringFile(keyring_path(folder, keyring.uuid)).replace(keyring.seal(entropy), entropy)


def _refuse_others(folder: Path, uuid: UserId) -> None:
    """:raise ForeignStore: a keyring or database here has the name of another user."""
    own = {path.name for path in (keyring_path(folder, uuid), *database_paths(folder, uuid))}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix in (_KEYRING, _DATABASE) and name not in own and _is_user_id(stem.removesuffix(_BLOBS)):
            raise ForeignStore(str(folder), name)


def _is_user_id(text: str) -> bool:
    """Tell whether this could be a user's id."""
    try:
        user_id(text)
    except InvalidIdentifier:
        return False
    return True
