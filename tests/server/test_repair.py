"""``soledad-server check --repair`` and ``restored``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from hashlib import sha256

from sqlalchemy import Connection, text
from twisted.internet.defer import CancelledError

from soledad.errors import BlobNotFound, StaleToken
from soledad.model.blob import Flag
from soledad.model.ids import BlobId, UserId
from soledad.server.backends.files import Files
from soledad.server.folder import DataFolder
from soledad.server.interfaces import Stored
from soledad.server.service import Parts, Workers, open_parts
from soledad.streams import Budget, BytesProducer, MemoryConsumer
from tests.contracts.blobs_backend import ManualProducer
from tests.server.test_cli import USER, CommandTestCase

BOB = UserId("bob")
ONE, TWO = BlobId("one"), BlobId("Two")


class RepairTestCase(CommandTestCase):
    """A data folder with two users and three blobs, that nobody uses."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.run_it("user", "add", BOB)
        with self.opened() as parts:
            for user, blob in ((USER, ONE), (USER, TWO), (BOB, ONE)):
                self.successResultOf(parts.backend.write_blob(user, blob, BytesProducer(b"bytes")))
            self.tokens = {user: self.token_of(parts, user) for user in (USER, BOB)}
            self.files = {
                (found.place.user, found.place.blob_id): os.path.join(self.folder, "blobs", found.name)
                for found in self.successResultOf(parts.backend.store.list())
            }

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Open the folder for a moment."""
        with closing(open_parts(DataFolder(self.folder), Workers(), Budget())) as parts:
            yield parts

    def token_of(self, parts: Parts, user: UserId) -> str:
        """Return where a list of the user's is."""
        return self.successResultOf(parts.backend.list_blobs(user)).head

    def repair(self, status: int = 0) -> str:
        """Repair; return what was said.  After that there is nothing left to say."""
        said = self.run_it("check", "--repair", status=status)
        if not status:
            self.assertEqual(self.run_it("check"), "")
        return said

    def read(self, blob: BlobId = ONE, user: UserId = USER) -> bytes:
        """Read a blob."""
        body = MemoryConsumer()
        with self.opened() as parts:
            self.successResultOf(parts.backend.read_blob(user, blob, body))
        return body.value()

    def assert_stale(self, *users: UserId) -> None:
        """Look whether the tokens of just these users are from another history now."""
        with self.opened() as parts:
            for user, token in self.tokens.items():
                work = parts.backend.get_changes(user, token)
                if user in users:
                    self.failureResultOf(work, StaleToken)
                else:
                    self.successResultOf(work)

    def assert_gone(self) -> None:
        """Look whether there is no trace of the blob, and it can be stored again."""
        with self.opened() as parts:
            self.failureResultOf(parts.backend.stat_blob(USER, ONE), BlobNotFound)
            self.assertEqual(self.successResultOf(parts.backend.list_blobs(USER, deleted=True)).blobs, ())
            self.assertEqual(self.successResultOf(parts.backend.get_total_storage(USER)), 5)
            self.successResultOf(parts.backend.write_blob(USER, ONE, BytesProducer(b"again")))


class RepairTests(RepairTestCase):
    """What is mended, and how."""

    def test_whole(self) -> None:
        """Where all is well nothing is changed."""
        self.assertEqual(self.repair(), "")
        self.assert_stale()

    def test_missing(self) -> None:
        """A blob without bytes is forgotten, without a tombstone; only its user compares in full."""
        os.unlink(self.files[USER, ONE])
        self.assertEqual(self.repair(), "missing: alice/default/one: forgotten\n")
        self.assert_stale(USER)
        self.assert_gone()

    def test_damaged(self) -> None:
        """What is not what was stored is put aside; it comes back by no sweep and no repair."""
        for change in (b"B", b"more and more"):
            with open(self.files[USER, ONE], "r+b") as file:
                file.write(change)
            said = self.repair()
            aside = self.files[USER, ONE] + ".aside"
            self.assertIn(f"forgotten, what is there is kept as {aside}", said)
            with open(aside, "rb") as file:
                self.assertEqual(file.read()[:1], change[:1])
            self.assert_stale(USER)
            self.assert_gone()
            self.setUp()

    def test_stray(self) -> None:
        """A complete file whose row is lost is a blob again: its bytes, tag and count, without its flags."""
        with self.opened() as parts:
            self.successResultOf(parts.backend.set_flags(USER, TWO, (Flag.PENDING,)))
            database = parts.accounts._database
            for lost in map(text, ("DELETE FROM blobs", "UPDATE users SET used = 0")):
                database.now(partial(Connection.execute, statement=lost))
        said = self.repair()
        self.assertEqual(len(said.splitlines()), 3)
        self.assertIn("a blob again", said)
        self.assert_stale(USER, BOB)
        self.assertEqual(self.read(TWO), b"bytes")
        with self.opened() as parts:
            info = self.successResultOf(parts.backend.stat_blob(USER, TWO))
            self.assertEqual((info.etag, info.flags), (sha256(b"bytes").hexdigest(), ()))
            self.assertEqual(self.successResultOf(parts.backend.get_total_storage(USER)), 10)

    def test_killed_in_a_batch(self) -> None:
        """What a process left that was killed in the middle of a batch is no blob: none of it is known to be whole."""
        wanted = [BlobId(f"batch-{number}") for number in range(3)]
        with self.opened() as parts:
            body = ManualProducer(30)
            work = parts.backend.write_blobs(USER, [(blob, 10) for blob in wanted], body)
            body.consumer.write(b"x" * 15)
            left = self.mktemp()
            shutil.copytree(os.path.join(self.folder, "blobs"), left)
            work.cancel()
            self.failureResultOf(work, CancelledError)
        shutil.copytree(left, os.path.join(self.folder, "blobs"), dirs_exist_ok=True)
        self.assertEqual(self.repair(), "")
        with self.opened() as parts:
            self.assertEqual(len(self.successResultOf(parts.backend.store.list())), 5)
            outcomes = parts.backend.write_blobs(USER, [(blob, 10) for blob in wanted], BytesProducer(b"y" * 30))
            self.assertEqual({type(outcome) for outcome in self.successResultOf(outcomes)}, {Stored})

    def test_no_blobs(self) -> None:
        """A file of a blob that is taken or deleted, of nobody, of an upload, or of none of ours, makes no blob."""
        name = self.files[USER, TWO]
        os.link(name, name[:-32] + "0" * 32)
        with self.opened() as parts:
            # Killed between its row and its file.
            os.link(self.files[USER, ONE], self.files[USER, ONE] + ".x")
            self.successResultOf(parts.backend.delete_blob(USER, ONE))
            os.makedirs(os.path.dirname(self.files[USER, ONE]), exist_ok=True)
            os.rename(self.files[USER, ONE] + ".x", self.files[USER, ONE])
            self.successResultOf(parts.accounts.remove_user(BOB))
            upload = self.successResultOf(parts.backend.create_upload(USER, BlobId("three"), 9))
            self.successResultOf(parts.backend.append_upload(USER, upload.name, 0, BytesProducer(b"part")))
        self.assertEqual(self.repair(), "")
        with self.opened() as parts:
            listed = self.successResultOf(parts.backend.list_blobs(USER)).blobs
            self.assertEqual([info.blob_id for info in listed], [TWO])
            self.successResultOf(parts.backend.append_upload(USER, upload.name, 4, BytesProducer(b"-rest")))
        self.assertEqual(self.read(BlobId("three")), b"part-rest")

    def test_lost_upload(self) -> None:
        """What came of an upload whose row is lost is not taken for a blob."""
        with self.opened() as parts:
            upload = self.successResultOf(parts.backend.create_upload(USER, BlobId("three"), 9))
            self.successResultOf(parts.backend.append_upload(USER, upload.name, 0, BytesProducer(b"part")))
            database = parts.accounts._database
            database.now(lambda connection: connection.execute(text("DELETE FROM uploads")))
        self.assertEqual(self.repair(), "")

    def test_total(self) -> None:
        """Bytes are counted anew; that concerns no list."""
        with self.opened() as parts:
            database = parts.accounts._database
            database.now(lambda connection: connection.execute(text("UPDATE users SET used = 7")))
        said = self.repair()
        self.assertIn("total: alice: 7 bytes were counted, the blobs have 10: mended\n", said)
        self.assert_stale()

    def test_unreadable(self) -> None:
        """What cannot be read today stays, and the exit status says that something is left."""

        def read(files: Files, file: int, size: int, start: int) -> bytes:
            raise OSError(5, "Input/output error")

        self.patch(Files, "read", read)
        self.assertIn("unreadable: alice/default/one", self.repair(status=1))
        self.assert_stale()

    def test_servers_run(self) -> None:
        """Nothing is repaired while a server uses the folder."""
        os.unlink(self.files[USER, ONE])
        with self.opened():
            self.assertEqual(self.run_it("check", "--repair", status=1), "")
        self.assertIn("stop them", self.err.getvalue())
        self.assert_stale()


class RestoredTests(RepairTestCase):
    """A folder that comes from a backup."""

    def test_restored(self) -> None:
        """Nobody goes on with a list from before; nothing else changes, and servers may run."""
        with self.opened():
            self.assertEqual(self.run_it("restored"), "")
        self.assert_stale(USER, BOB)
        self.assertEqual(self.read(), b"bytes")
        self.assertEqual(self.run_it("check"), "")
