"""Processes of a server that push at the same time and are killed at any moment: each push is there whole or not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

from twisted.trial.unittest import SynchronousTestCase

from soledad.server.folder import DataFolder
from soledad.server.service import Workers, open_parts
from soledad.streams import Budget
from soledad.wire.changes import SyncPage
from tests.contracts.records_backend import USER
from tests.integration.pushing import RECORDS
from tests.integration.serving import CHECKOUT, environment
from tests.limits import rounds

#: Seconds that two processes push at the same time before they are killed.
AT_LEAST, AT_MOST = 0.02, 0.2


class Pushers:
    """The processes that push."""

    def __init__(self, folder: str) -> None:
        arguments = [sys.executable, "-m", "tests.integration.pushing", folder]
        self._process = subprocess.Popen(
            arguments, cwd=CHECKOUT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.stored = self.refused = 0
        self._read()

    def start(self) -> None:
        """Begin to push; returns once there was a push."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        self._pids: list[int] = []
        before = self.stored
        while len(self._pids) < 2 or self.stored == before:
            word = self._read()
            if word.isdigit():
                self._pids.append(int(word))
            else:
                self._count(word)

    def kill(self) -> None:
        """Kill them both."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        gone = 0
        while gone < 2:
            word = self._read()
            gone += word == "gone"
            self._count(word)

    def end(self) -> None:
        """End it all."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(10)

    def _count(self, word: str) -> None:
        if word not in ("stored", "refused", "gone"):
            raise RuntimeError(word)
        self.stored += word == "stored"
        self.refused += word == "refused"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()


class PushCrashTests(SynchronousTestCase):
    """Over one database in a file."""

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = str(Path(self.mktemp()).absolute())
        DataFolder(self.folder).make()
        self.parts = open_parts(DataFolder(self.folder), Workers(), Budget())
        self.addCleanup(self.parts.close)
        self.successResultOf(self.parts.accounts.add_user(USER))
        self.pushers = Pushers(self.folder)
        self.addCleanup(self.pushers.end)

    def test_killed(self) -> None:
        """After each kill the state is that of one push, and no acknowledged one is missing or was lost to another."""
        chance = random.Random(5)
        for number in range(1, rounds(8) + 1):
            self.pushers.start()
            sleep(chance.uniform(AT_LEAST, AT_MOST))
            self.pushers.kill()
            unacknowledged = self.pushed() - self.pushers.stored
            # A push that was made may not have been told of any more: one for each process that was killed.
            self.assertIn(unacknowledged, range(2 * number + 1))
        self.assertGreater(self.pushers.refused, 0)

    def pushed(self) -> int:
        """Return how many pushes there were: records, checkpoint and numbers of changes must all say so."""
        page = self.successResultOf(self.parts.records.pull(USER, "", None, 1000))
        assert isinstance(page, SyncPage)
        assert page.head.checkpoint is not None
        number = int(page.head.checkpoint)
        self.assertEqual([record.data for record in page.records], [b"%d" % number] * RECORDS)
        self.assertEqual(page.head.cursor.partition(".")[0], str(number * RECORDS))
        used = self.successResultOf(self.parts.backend.get_total_storage(USER))
        self.assertEqual(used, (RECORDS + 1) * len(str(number)))
        return number
