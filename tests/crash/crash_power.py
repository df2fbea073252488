"""
Power cuts while a store is written to.

A child works on a file system in an image, until it is stopped; the image at that moment is what a disk would have
after the power went: what was synced is in it, and what the system still held in memory is not.  A copy is mounted.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.crash.mounts import image, mount_image
from tests.integration.test_local_crashes import BUSY, ROOT, CrashTestCase
from tests.limits import rounds

MIB = 1024 * 1024


class PowerCutTests(CrashTestCase):
    """What was acknowledged survives, whole."""

    def test_any_moment(self) -> None:
        """Again and again, at any moment, from the making of the store on."""
        chance = random.Random(11)  # the same each time
        acknowledged = 0
        for number in range(rounds(8)):
            copy, names = self.cut(chance.random() * 0.4 * (number > 1))
            acknowledged += len(names)
            self.look(copy, names)
        self.assertGreater(acknowledged, 20)

    def cut(self, pause: float) -> tuple[Path, set[str]]:
        """Let a child work for a while (seconds), and cut the power; return the disk, and what was acknowledged."""
        disk = image(self, 64 * MIB)
        folder = mount_image(self, disk) / "store"
        command = [sys.executable, "-c", BUSY, str(folder), "doc"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            self.assertEqual(child.stdout.readline(), b"open\n")
            time.sleep(pause)
            child.send_signal(signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            # While it stands still, and long before the system writes by itself what it holds.
            copy = shutil.copy(disk, self.mktemp())
            child.kill()
            said = child.stdout.read().decode()
        return Path(copy).resolve(), {line for line in said.split("\n")[:-1] if line}

    def look(self, disk: Path, acknowledged: set[str]) -> None:
        """Open the store on a disk after a power cut: all that was acknowledged is there, whole."""
        store = self.opened(mount_image(self, disk) / "store")
        _, docs = self.successResultOf(store.get_all_docs())
        self.assertLessEqual(acknowledged, {doc.doc_id for doc in docs})
        for doc in docs:
            assert doc.content is not None
            self.assertTrue(doc.attachments or doc.doc_id not in acknowledged)
            if doc.attachments:
                expected = str(doc.doc_id).encode() * doc.content["size"]
                self.assertTrue(self.successResultOf(doc.read_attachment()) == expected, doc.doc_id)
        self.successResultOf(store.close())
