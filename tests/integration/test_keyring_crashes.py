"""
Killed at every step of a passphrase change, a merge and a recovery: some credential opens the store, always.

The children are `tests.integration.keyring_crashing`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.client.interfaces import IRemoteKeys
from soledad.client.local.keyring import keyring_path
from soledad.crypto.keyring import OpenKeyring, SharedPart, open_shared, unlock
from soledad.crypto.slots import Credential
from soledad.deferreds import unawaited
from soledad.errors import WrongPassphrase
from tests.integration.keyring_crashing import CODE, NEW, OLD, USER, StoredKeys, opening
from tests.integration.serving import CHECKOUT, environment


class KeyringCrashTests(SynchronousTestCase):
    """One scenario each."""

    def killed(self, scenario: str) -> list[tuple[Path, list[str]]]:
        """Kill at each step; return the folders, with what was acknowledged before that."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        command = [sys.executable, "-m", "tests.integration.keyring_crashing", str(folder), scenario]
        ran = subprocess.run(command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        lines = [line.split() for line in ran.stdout.splitlines()]
        self.assertGreater(len(lines), 10)
        self.assertTrue(lines[-1][1:], "the last child gets to the end")
        self.assertNotIn("failed", ran.stdout)
        return [(folder / number, said) for number, *said in lines]

    def opened(self, folder: Path, credential: Credential, keys: IRemoteKeys) -> OpenKeyring | None:
        """Open the device, and close it; return its keyring, or none if the credential opens it not."""
        results: list[Any] = []
        unawaited(opening(folder, credential, keys).addBoth(results.append))
        if not isinstance(results[0], Soledad):
            results[0].trap(WrongPassphrase)
            return None
        keyring = results[0]._local.keyring
        self.successResultOf(results[0].close())
        return keyring

    def unlocked(self, folder: Path, credential: Credential) -> OpenKeyring | None:
        """Unlock the keyring on the device alone, as without the server."""
        try:
            return unlock(USER, keyring_path(folder / "device", USER).read_bytes(), credential)
        except WrongPassphrase:
            return None

    def on_server(self, folder: Path, credential: Credential) -> OpenKeyring:
        """Return the keyring that the server has."""
        data = self.now(StoredKeys.at(folder).get())
        return open_shared(USER, SharedPart.parse(data), credential, b"")

    def now(self, work: Deferred[Any]) -> Any:
        """Return a result."""
        return self.successResultOf(work)

    def test_change(self) -> None:
        """The old or the new passphrase opens it, without the server too; with it, both keyrings are one again."""
        outcomes = set()
        for folder, said in self.killed("change"):
            offline = [self.unlocked(folder, one) is not None for one in (OLD, NEW)]
            self.assertEqual(sum(offline), 1)
            if said:
                self.assertEqual(offline, [False, True])
            keys = StoredKeys.at(folder)
            told = self.now(keys.get()) != self.now(StoredKeys.at(folder.parent / "template").get())
            outcomes.add((offline[1], told))
            # By way of the server the new one opens it as soon as the server was told.
            keyring = self.opened(folder, NEW if told else OLD, keys)
            assert keyring is not None
            self.assertEqual(keyring.shared.encode(), self.now(keys.get()))
            self.assertIsNone(self.opened(folder, OLD if told else NEW, keys))
        self.assertEqual(outcomes, {(False, False), (False, True), (True, True)})

    def test_merge(self) -> None:
        """The passphrase opens it, what was sealed stays readable, and in the end all have all keys."""
        for folder, _ in self.killed("merge"):
            template = folder.parent / "template"
            mine = self.unlocked(template, OLD)
            theirs = self.on_server(template, OLD)
            assert mine is not None
            offline = self.unlocked(folder, OLD)
            assert offline is not None
            self.assertLessEqual(set(mine.roots), set(offline.roots))
            self.assertEqual(offline.device_key, mine.device_key)
            self.assertLessEqual(set(theirs.roots), set(self.on_server(folder, OLD).roots))
            online = self.opened(folder, OLD, StoredKeys.at(folder))
            assert online is not None
            self.assertEqual(online.keyring, self.on_server(folder, OLD).keyring)
            self.assertEqual(set(online.roots), {*mine.roots, *theirs.roots})
            self.assertEqual(online.keyring.account, theirs.keyring.account)
            self.assertTrue(online.is_backed_up)

    def test_recover(self) -> None:
        """The code opens it at any time; once it is done, the new passphrase does, and the old one nowhere."""
        for folder, said in self.killed("recover"):
            keys = StoredKeys.at(folder)
            if said:
                self.assertIsNotNone(self.unlocked(folder, NEW))
            keyring = self.opened(folder, CODE, keys)
            assert keyring is not None
            self.assertEqual(keyring.keyring, self.on_server(folder, CODE).keyring)
            opens = [self.opened(folder, one, keys) is not None for one in (OLD, NEW)]
            self.assertEqual(opens, [False, True] if self.changed(folder) else [True, False])
            self.assertTrue(self.changed(folder) or not said)

    def changed(self, folder: Path) -> bool:
        """Tell whether the server was told of a new passphrase."""
        return bool(self.now(StoredKeys.at(folder).get()) != self.now(StoredKeys.at(folder.parent / "template").get()))
