"""Tests of the keyring's file and the store's lock: nothing that was there is lost, whatever fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE
from typing import Any

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local import durable
from soledad.client.local.keyring import (
    KeyringFile,
    StoreLock,
    database_paths,
    keyring_path,
    lock_path,
    open_keyring,
    save_keyring,
)
from soledad.crypto.keyring import OpenKeyring, unlock
from soledad.crypto.slots import HandedInKey, Passphrase, RecoveryCode
from soledad.errors import (
    ForeignStore,
    KeyringExists,
    KeyringMissing,
    MalformedKeyring,
    StorageFailed,
    StorageFull,
    StoreInUse,
    WrongPassphrase,
)
from soledad.model.ids import user_id
from tests.vectors.make import CODE, FAST, KEY, USER, Counter

NEW_CODE = RecoveryCode(b"new code, random")


def change_passphrase(folder: Path, keyring: OpenKeyring, new: RecoveryCode, entropy: Counter) -> OpenKeyring:
    """Let the keyring open with something else, which is as quick as a passphrase is not."""
    changed = keyring.with_passphrase(new, entropy)
    save_keyring(folder, changed, entropy)
    return changed


class Died(BaseException):
    """The process was killed."""


@define
class WatchedOS:
    """
    The module ``os``, which notes what is called, and fails or dies at one call.

    Once it died nothing works any more, as in a process that was killed: no cleaning up.
    """

    #: The number of the call at which it happens; none if negative.
    at: int = -1
    #: What happens: an `OSError`, once, or `Died`, for ever.
    fault: BaseException | None = None
    calls: int = 0
    names: list[str] | None = None

    def __getattr__(self, name: str) -> Any:
        """Return a constant as it is, and a function watched."""
        real = getattr(os, name)
        return self._watched(name, real) if callable(real) and name != "path" else real

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with the fault in it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if self.names is not None:
                self.names.append(name)
            dead = isinstance(self.fault, Died) and number >= self.at >= 0
            if name == "write" and number == self.at and self.fault:
                # A write may get half its way.
                real(args[0], args[1][: len(args[1]) // 2])
            if self.fault and (dead or number == self.at):
                raise self.fault
            return real(*args, **kwargs)

        return call


class StoreTestCase(SynchronousTestCase):
    """A folder for one store."""

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = keyring_path(self.folder, USER)

    def opened(self, credential: HandedInKey | Passphrase | RecoveryCode = KEY) -> OpenKeyring:
        """Open the store's keyring, or make it."""
        return open_keyring(self.folder, USER, credential, Counter("open"))

    def names(self) -> list[str]:
        """Return what is in the folder."""
        return sorted(os.listdir(self.folder))


class OpenKeyringTests(StoreTestCase):
    """What a folder is taken for."""

    def test_new(self) -> None:
        """An empty folder gets a keyring that only its owner can read; it opens to the same keys."""
        made = self.opened()
        self.assertEqual(self.names(), ["user-1.keyring"])
        self.assertEqual(S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(self.opened(), made)

    def test_passphrase(self) -> None:
        """The passphrase that made it opens it, another does not and changes nothing."""
        made = self.opened(Passphrase("first", FAST))
        data = self.path.read_bytes()
        with self.assertRaises(WrongPassphrase):
            self.opened(Passphrase("second", FAST))
        self.assertEqual(self.path.read_bytes(), data)
        self.assertEqual(self.opened(Passphrase("first")), made)

    def test_missing(self) -> None:
        """A database without a keyring, whichever it is, never gets a new one."""
        for database in database_paths(self.folder, USER):
            database.write_bytes(b"")
            with self.assertRaises(KeyringMissing) as caught:
                self.opened()
            self.assertEqual(caught.exception.path, str(self.path))
            self.assertEqual(self.names(), [database.name])
            database.unlink()

    def test_damaged(self) -> None:
        """A file that is damaged, empty or far too long is refused and left as it is."""
        self.opened()
        data = self.path.read_bytes()
        for damaged in (data[:-1], b"", data + b"\0", bytes(2**21)):
            self.path.write_bytes(damaged)
            with self.assertRaises(MalformedKeyring):
                self.opened()
            self.assertEqual(self.path.read_bytes(), damaged)

    def test_foreign(self) -> None:
        """A folder with another user's keyring or database is refused, and nothing is added to it."""
        for name in ("other.keyring", "other.db", "other_blobs.db", "user-1_blobs.keyring", "x" * 64 + "_blobs.db"):
            (self.folder / name).write_bytes(b"")
            with self.assertRaises(ForeignStore) as caught:
                self.opened()
            self.assertEqual(caught.exception.found, name)
            self.assertEqual(self.names(), [name])
            (self.folder / name).unlink()

    def test_own_files(self) -> None:
        """What the store itself and the application keep there is not foreign."""
        self.opened()
        for name in ("user-1.db", "user-1_blobs.db", "user-1.db-wal", "user-1.lock", "notes.txt", "has space.db"):
            (self.folder / name).write_bytes(b"")
        self.opened()

    def test_renamed(self) -> None:
        """The keyring of another user under this one's name does not open."""
        other = user_id("other")
        open_keyring(self.folder, other, KEY, Counter("other"))
        os.rename(keyring_path(self.folder, other), self.path)
        with self.assertRaises(MalformedKeyring):
            self.opened()

    def test_strays(self) -> None:
        """What an interrupted writer left is removed, and nothing else."""
        (self.folder / "user-1.keyring.00ff.tmp").write_bytes(b"half")
        (self.folder / "user-1.keyring.bak").write_bytes(b"kept")
        self.opened()
        self.assertEqual(self.names(), ["user-1.keyring", "user-1.keyring.bak"])


class ChangePassphraseTests(StoreTestCase):
    """Another secret for the same keys."""

    def test_change(self) -> None:
        """From then on the new one opens it, and the old one does not."""
        made = self.opened(CODE)
        changed = change_passphrase(self.folder, made, NEW_CODE, Counter("change"))
        self.assertEqual(self.opened(NEW_CODE), changed)
        self.assertEqual(changed.device_key, made.device_key)
        self.assertEqual(S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(self.names(), ["user-1.keyring"])
        with self.assertRaises(WrongPassphrase):
            self.opened(CODE)

    def test_gone(self) -> None:
        """A keyring that was taken away is not written anew behind its owner's back."""
        made = self.opened(CODE)
        self.path.unlink()
        with self.assertRaises(KeyringMissing):
            change_passphrase(self.folder, made, NEW_CODE, Counter("change"))
        self.assertEqual(self.names(), [])


class KeyringFileTests(StoreTestCase):
    """The file by itself."""

    def test_exclusive(self) -> None:
        """Creating never writes over what is there, be it a link to nothing."""
        file = KeyringFile(self.path)
        file.create(b"first", Counter("first"))
        with self.assertRaises(KeyringExists):
            file.create(b"second", Counter("second"))
        self.assertEqual(file.read(), b"first")
        self.assertEqual(self.names(), ["user-1.keyring"])
        self.path.unlink()
        self.path.symlink_to("nowhere")
        with self.assertRaises(KeyringExists):
            file.create(b"third", Counter("third"))
        self.assertTrue(file.exists())

    def test_read_missing(self) -> None:
        """No file is a keyring that is missing."""
        with self.assertRaises(KeyringMissing):
            KeyringFile(self.path).read()

    def test_order(self) -> None:
        """The bytes are durable before they have their name, and the name before the caller is told."""
        file = KeyringFile(self.path)
        for write, step in ((file.create, "link"), (file.replace, "rename")):
            watched = WatchedOS(names=[])
            patch = self.patch(durable, "os", watched)
            write(b"data", Counter(step))
            patch.restore()
            names = [name for name in watched.names or () if name in ("write", "fsync", step)]
            self.assertEqual(names, ["write", "fsync", step, "fsync"])


class CrashTests(StoreTestCase):
    """Killed, or refused by the file system, between any two steps."""

    def steps(self, act: Callable[[], object], reset: Callable[[], object]) -> int:
        """Return how many calls of the system an act makes."""
        reset()
        watched = WatchedOS()
        patch = self.patch(durable, "os", watched)
        act()
        patch.restore()
        self.assertGreater(watched.calls, 6)
        return watched.calls

    def broken(self, at: int, fault: BaseException, act: Callable[[], object]) -> BaseException:
        """Let one step fail, and return the error."""
        patch = self.patch(durable, "os", WatchedOS(at, fault))
        try:
            act()
        except (Died, StorageFailed, StorageFull) as error:
            return error
        finally:
            patch.restore()
        return self.fail(f"step {at} did not fail")

    def clear(self) -> None:
        """Empty the folder."""
        for path in self.folder.iterdir():
            path.unlink()

    def test_create_killed(self) -> None:
        """A killed creation leaves no keyring or a whole one; the next start has one either way."""
        found = set()
        for step in range(self.steps(self.opened, self.clear)):
            self.clear()
            self.broken(step, Died(), self.opened)
            found.add(self.path.exists())
            if self.path.exists():
                unlock(USER, self.path.read_bytes(), KEY)
            kept = self.path.read_bytes() if self.path.exists() else None
            self.opened()
            self.assertEqual(self.names(), ["user-1.keyring"])
            self.assertIn(kept, (None, self.path.read_bytes()))
        self.assertEqual(found, {False, True})

    def test_change_killed(self) -> None:
        """A killed change leaves the old keyring or the new one, whole: one of both secrets opens it."""
        entropy = Counter("change")

        def reset() -> None:
            self.clear()
            self.made = self.opened(CODE)

        def change() -> None:
            change_passphrase(self.folder, self.made, NEW_CODE, entropy)

        generations = set()
        for step in range(self.steps(change, reset)):
            reset()
            self.broken(step, Died(), change)
            try:
                keyring = self.opened(CODE)
            except WrongPassphrase:
                keyring = self.opened(NEW_CODE)
            generations.add(keyring.keyring.generation)
            self.assertEqual(keyring.device_key, self.made.device_key)
            self.assertEqual(self.names(), ["user-1.keyring"])
        self.assertEqual(generations, {1, 2})

    def test_refused(self) -> None:
        """A full disk and a failing one are errors of their own at every step, and leave nothing half-written."""
        for code, expected in (
            (errno.ENOSPC, StorageFull),
            (errno.EDQUOT, StorageFull),
            (errno.EIO, StorageFailed),
            (errno.EROFS, StorageFailed),
        ):
            for step in range(self.steps(self.opened, self.clear)):
                self.clear()
                error = self.broken(step, OSError(code, os.strerror(code)), self.opened)
                self.assertIsInstance(error, expected)
                if self.path.exists():
                    unlock(USER, self.path.read_bytes(), KEY)
                self.opened()
                self.assertEqual(self.names(), ["user-1.keyring"])

    def test_change_refused(self) -> None:
        """A change that the file system refuses leaves a keyring that one of both secrets opens, and no left-overs."""

        def reset() -> None:
            self.clear()
            self.made = self.opened(CODE)

        def change() -> None:
            change_passphrase(self.folder, self.made, NEW_CODE, Counter("change"))

        for step in range(self.steps(change, reset)):
            reset()
            error = self.broken(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), change)
            self.assertIsInstance(error, StorageFull)
            self.assertEqual(self.names(), ["user-1.keyring"])
            try:
                self.opened(CODE)
            except WrongPassphrase:
                self.opened(NEW_CODE)


#: Takes the lock, says so, and waits to be killed.
_HOLDER = """
import sys, time
from pathlib import Path
from soledad.client.local.keyring import StoreLock
lock = StoreLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


class StoreLockTests(StoreTestCase):
    """One opener at a time."""

    def setUp(self) -> None:
        """Name the lock."""
        super().setUp()
        self.lock = lock_path(self.folder, USER)

    def test_same_process(self) -> None:
        """The same process does not get it twice, and gets it again once it is released."""
        held = StoreLock.acquire(self.lock)
        with self.assertRaises(StoreInUse) as caught:
            StoreLock.acquire(self.lock)
        self.assertEqual(caught.exception.path, str(self.lock))
        held.release()
        held.release()
        StoreLock.acquire(self.lock).release()
        self.assertEqual(self.names(), ["user-1.lock"])

    def test_release_is_of_one(self) -> None:
        """Releasing again what was released does not release what somebody else has by now."""
        first = StoreLock.acquire(self.lock)
        first.release()
        second = StoreLock.acquire(self.lock)
        first.release()
        with self.assertRaises(StoreInUse):
            StoreLock.acquire(self.lock)
        second.release()

    def test_no_descriptor_left(self) -> None:
        """Being refused leaves no file open, and none is handed on to children."""
        held = StoreLock.acquire(self.lock)
        before = set(os.listdir("/dev/fd"))
        for _ in range(3):
            with self.assertRaises(StoreInUse):
                StoreLock.acquire(self.lock)
        self.assertEqual(set(os.listdir("/dev/fd")), before)
        assert held._fd is not None
        self.assertFalse(os.get_inheritable(held._fd))
        held.release()

    def test_other_process(self) -> None:
        """Another process does not get it either, until the holder has died."""
        with subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(self.lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as holder:
            try:
                assert holder.stdout is not None
                self.assertEqual(holder.stdout.readline(), b"held\n")
                with self.assertRaises(StoreInUse):
                    StoreLock.acquire(self.lock)
            finally:
                holder.kill()
        StoreLock.acquire(self.lock).release()

    def test_makes_folders(self) -> None:
        """A store's folder is made for its owner alone, with those above it."""
        folder = self.folder / "share" / "soledad"
        StoreLock.acquire(lock_path(folder, USER)).release()
        self.assertEqual(S_IMODE(folder.stat().st_mode), 0o700)

    def test_impossible(self) -> None:
        """Where no folder can be, the error says so."""
        (self.folder / "file").write_bytes(b"")
        with self.assertRaises(StorageFailed):
            StoreLock.acquire(self.folder / "file" / "user-1.lock")
