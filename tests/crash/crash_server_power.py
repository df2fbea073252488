"""
Power cuts of a server: what it has acknowledged survives, whole, whatever it was.

The folder is on a file system in an image.  A copy of the image has what was synced, and nothing that the system still
held in memory; that copy is served next.
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

from soledad.model.ids import DEFAULT
from soledad.server.backends.files import TOGETHER, Files
from tests.crash.busy_server import BATCH, blob_size
from tests.crash.mounts import image, mount_image, run
from tests.crash.serving import FolderTestCase, noise
from tests.integration.serving import CHECKOUT, environment
from tests.limits import rounds
from tests.server.support import USER, content, head, headers, status

MIB = 1024 * 1024
MANY = [(f"many-{number}", 1000 * number) for number in range(4 * TOGETHER)]
FEW = [("few-1", 10), ("few-2", 0), ("few-3", 100_000)]


class PowerCutTestCase(FolderTestCase):
    """A server whose power is cut."""

    def make_disk(self) -> Path:
        """Return a folder in an image."""
        self.disk = image(self, 24 * MIB)
        return mount_image(self, self.disk)

    def cut(self) -> None:
        """Cut the power: from now on what is on the disk then is served."""
        self.disk = Path(shutil.copy(self.disk, self.mktemp())).resolve()
        self.serve(mount_image(self, self.disk) / "server")


class AcknowledgedTests(PowerCutTestCase):
    """The power is cut when the answer is there."""

    def cut(self) -> None:
        """Cut the power; nothing is wrong with what is left."""
        super().cut()
        self.assertEqual(self.check(), [])

    def test_put(self) -> None:
        """A blob."""
        for name, size in FEW:
            self.assertEqual(status(self.put_it(name, size)), 201)
            self.cut()
            self.assertStored((name, size))

    def test_batch(self) -> None:
        """Blobs that came in one body: with many of them the file system is synced, with few each file."""
        for blobs in (MANY, FEW):
            self.upload(*((name, noise(name, size)) for name, size in blobs))
            self.cut()
            self.assertStored(*blobs)

    def test_offset(self) -> None:
        """How far an upload is: what was told is there, and the rest goes on from it."""
        path = self.path(self.create(90_000))
        data = noise("b", 90_000)
        self.cut()
        for start in (0, 30_000, 60_000):
            self.assertEqual(headers(self.head_it(path))["upload-offset"], str(start))
            self.assertEqual(status(self.patch_it(path, start, data[start : start + 30_000])), 204)
            self.cut()
        self.assertStored(("b", 90_000))
        self.assertEqual(headers(self.head_it(path))["upload-offset"], "90000")

    def test_offset_of_what_was_cut(self) -> None:
        """So it is with what ``HEAD`` tells of a request that broke off, or that it ended itself."""
        for blob, loses in (("lost", True), ("ended", False)):
            path = self.path(self.create(90_000, blob=blob))
            connection = self.patching(path, 0, 90_000)
            connection.send(noise(blob, 50_000))
            if loses:
                connection.lose()
            told = int(headers(self.head_it(path))["upload-offset"])
            self.assertEqual(told, 50_000)
            self.cut()
            self.assertEqual(headers(self.head_it(path))["upload-offset"], str(told))
            self.assertEqual(status(self.patch_it(path, told, noise(blob, 90_000)[told:])), 204)
            self.cut()
            self.assertStored((blob, 90_000))

    def test_push(self) -> None:
        """Records of documents, with their checkpoint: the last push, whole."""
        for number in (1, 2, 3):
            self.assertEqual(status(self.push_it(number)), 204)
            self.cut()
            self.assertPushed(number)

    def test_keyring(self) -> None:
        """A keyring, and the one that replaces it."""
        condition = {"If_None_Match": "*"}
        for name in ("first", "second"):
            answer = self.ask(f"PUT /keys/{USER}", noise(name, 1000), **condition)
            self.assertIn(status(answer), (201, 204))
            self.cut()
            found = self.ask(f"GET /keys/{USER}")
            self.assertEqual((status(found), content(found)), (200, noise(name, 1000)))
            condition = {"If_Match": headers(answer)["etag"]}

    def test_deleted(self) -> None:
        """A deletion, with its tombstone: the blob does not come back."""
        self.put_it("gone", 50_000)
        self.assertEqual(status(self.ask(f"DELETE /blobs/{USER}/gone", b"tombstone")), 204)
        self.cut()
        self.assertEqual(status(self.ask(f"GET /blobs/{USER}/gone")), 404)
        (info,) = self.successResultOf(self.backend.list_blobs(USER, DEFAULT, deleted=True)).blobs
        self.assertEqual((info.blob_id, info.deleted, info.tombstone), ("gone", True, b"tombstone"))

    def test_flags(self) -> None:
        """Flags of a blob."""
        self.put_it("flagged", 10)
        for flags in (b'["PENDING"]', b'["PROCESSED"]', b"[]"):
            self.assertEqual(status(self.ask(f"POST /blobs/{USER}/flagged", flags)), 204)
            self.cut()
            self.assertEqual(content(self.ask(f"GET /blobs/{USER}/flagged?only_flags=true")), flags)

    def test_tokens(self) -> None:
        """That a token is no good any more."""
        self.put_it("b", 10)
        # That the user is there is not what is tested.
        run("sync", "--file-system", self.folder)
        self.successResultOf(self.accounts.revoke_tokens(USER))
        self.cut()
        self.assertEqual(status(self.ask(f"GET /blobs/{USER}/b")), 401)


class UnacknowledgedTests(PowerCutTestCase):
    """The power is cut before there is an answer."""

    def test_nothing(self) -> None:
        """What was under way is not there, takes no room, and can be sent again."""
        body = noise("b", 50_000)
        connection = self.connect()
        connection.send(head(f"PUT /blobs/{USER}/b", self.auth(Content_Length=str(len(body)))) + body[:-1])
        self.cut()
        connection.lose()
        self.assertEqual((self.stored(), self.check()), ([], []))
        self.assertEqual(status(self.put_it("b", 50_000)), 201)
        self.cut()
        self.assertStored(("b", 50_000))

    def test_noticed(self) -> None:
        """What is not synced is not there after a cut: else these tests would show nothing."""
        self.patch(Files, "sync_file_system", lambda files, anchor: None)
        self.upload(*((name, noise(name, size)) for name, size in MANY))
        self.cut()
        self.assertGreater(len(self.check()), len(MANY) // 2)


class AnyMomentTests(PowerCutTestCase):
    """The power is cut at any moment, in the middle of threads."""

    def test_any_moment(self) -> None:
        """Again and again: what was acknowledged is there, what was not is whole or absent."""
        chance = random.Random(17)  # the same each time
        acknowledged = 0
        for _ in range(rounds(4)):
            said = self.work(0.1 + chance.random() * 0.4)
            self.assertEqual(self.check(), [])
            self.look(said)
            acknowledged += len(said)
        self.assertGreater(acknowledged, 40)

    def work(self, pause: float) -> list[list[str]]:
        """Let a server in a process of its own work for a while (seconds), and cut the power; return what it said."""
        self.wipe()
        command = [sys.executable, "-m", "tests.crash.busy_server", str(self.folder)]
        with subprocess.Popen(command, cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            self.assertEqual(child.stdout.readline().split()[0], b"open")
            time.sleep(pause)
            child.send_signal(signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            # While it stands still, and long before the system writes by itself what it holds.
            self.cut()
            child.kill()
            said = child.stdout.read().decode()
        return [line.split() for line in said.split("\n")[:-1]]

    def wipe(self) -> None:
        """Begin with an empty server."""
        super().setUp()

    def look(self, said: list[list[str]]) -> None:
        """Look whether all is there that was said."""
        stored = set(self.stored())
        named = {kind: {name for word, name in said if word == kind} for kind in ("stored", "deleting", "deleted")}
        self.assertLessEqual(named["stored"] - named["deleting"], stored)
        self.assertEqual(stored & named["deleted"], set())
        for kind, name in said:
            if kind == "offset":
                path, _, offset = name.partition(":")
                answer = self.head_it(f"/uploads/{USER}/{path}")
                self.assertGreaterEqual(int(headers(answer)["upload-offset"]), int(offset))
        for name in stored:
            self.assertStored((name, blob_size(name)))
        self.assertWholeBatches(stored)
        self.assertLastPush(max((int(name) for kind, name in said if kind == "pushed"), default=0))

    def assertWholeBatches(self, stored: set[str]) -> None:
        """Each batch is there as a whole, or not at all."""
        batches = {name.rpartition("-")[0] for name in stored if name.startswith("batch-")}
        for batch in batches:
            self.assertLessEqual({f"{batch}-{at}" for at in range(BATCH)}, stored)

    def assertLastPush(self, acknowledged: int) -> None:
        """The last push is the one that was acknowledged, or the one after it."""
        checkpoint = self.pulled().head.checkpoint
        number = 0 if checkpoint is None else int(checkpoint)
        self.assertIn(number, (acknowledged, acknowledged + 1))
        if number:
            self.assertPushed(number)
