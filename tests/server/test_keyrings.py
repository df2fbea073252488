"""Keyrings in the database: the contract, in memory and in a file; and processes that write at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import time

from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import InPlace
from soledad.server.accounts import Accounts
from soledad.server.backends.memory import memory_database
from soledad.server.database import Database
from soledad.server.keyrings import Keyrings
from tests.contracts.keyrings_backend import ALICE, KeyringsBackendContract

#: Makes one number more of what is there, so many times; only a swap that compares loses none.
_COUNT = """
import sys
from hashlib import sha256
from time import time
from soledad.deferreds import InPlace
from soledad.errors import PreconditionFailed
from soledad.model.ids import UserId
from soledad.server.database import Database
from soledad.server.keyrings import Keyrings

keyrings, alice = Keyrings(Database.in_file(sys.argv[1], InPlace(), InPlace())), UserId("alice")
done, lost = 0, 0
while done < int(sys.argv[2]):
    results = []
    keyrings.read_keyring(alice).addBoth(results.append)
    data, etag = results.pop()
    keyrings.write_keyring(alice, b"%d" % (int(data) + 1), etag).addBoth(results.append)
    if isinstance(results[0], str):
        done += 1
    else:
        results[0].trap(PreconditionFailed)
"""


class MemoryKeyringsTests(KeyringsBackendContract, SynchronousTestCase):
    """In memory."""

    def make_backend(self) -> None:
        """See the contract."""
        database = memory_database()
        self.keyrings, self.accounts = Keyrings(database), Accounts(database, time)


class FileKeyringsTests(KeyringsBackendContract, SynchronousTestCase):
    """In a file."""

    def make_backend(self) -> None:
        """See the contract."""
        self.path = str(Path(self.mktemp()))
        database = Database.in_file(self.path, InPlace(), InPlace())
        self.addCleanup(database.close)
        self.keyrings, self.accounts = Keyrings(database), Accounts(database, time)

    def test_processes(self) -> None:
        """Of swaps in two processes none is lost: each compared with what it replaced."""
        self.now(self.keyrings.write_keyring(ALICE, b"0", None))
        command = [sys.executable, "-c", _COUNT, self.path, "40"]
        racing = [subprocess.Popen(command) for _ in range(2)]
        self.assertEqual([process.wait(60) for process in racing], [0, 0])
        self.assertEqual(self.now(self.keyrings.read_keyring(ALICE))[0], b"80")
