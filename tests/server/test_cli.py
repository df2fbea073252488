"""What operators do: `soledad-server`, and the options of ``twist soledad``."""

from __future__ import annotations

import os
from contextlib import redirect_stderr
from io import StringIO

from sqlalchemy import text
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from soledad.model.ids import BlobId, RecordName, UserId
from soledad.server.cli import main
from soledad.server.folder import DataFolder
from soledad.server.service import Options, Parts, Workers, open_parts
from soledad.streams import Budget, BytesProducer
from soledad.wire.changes import Push, SealedRecord

USER = UserId("alice")


class CommandTestCase(SynchronousTestCase):
    """A data folder with a user."""

    def setUp(self) -> None:
        """Make it."""
        self.folder = self.mktemp()
        self.token = self.run_it("user", "add", USER).strip()

    def run_it(self, *arguments: str, status: int = 0) -> str:
        """Run a command; return what it printed."""
        out, self.err = StringIO(), StringIO()
        self.assertEqual(main(["--data-dir", self.folder, *arguments], out, self.err), status, self.err.getvalue())
        return out.getvalue()

    def parts(self) -> Parts:
        """Open the folder as a server does."""
        parts = open_parts(DataFolder(self.folder), Workers(), Budget())
        self.addCleanup(parts.close)
        return parts

    def knows(self, token: str) -> bool:
        """Tell whether the token is good."""
        return self.successResultOf(self.parts().accounts.knows(USER, token))


class UserTests(CommandTestCase):
    """Users and tokens."""

    def test_add(self) -> None:
        """Adding a user prints a token and nothing else; the folder is made, for nobody else to read."""
        self.assertRegex(self.token, r"^[A-Za-z0-9_-]{43}$")
        self.assertTrue(self.knows(self.token))
        self.assertEqual(os.stat(self.folder).st_mode & 0o777, 0o700)
        with open(os.path.join(self.folder, "index.db"), "rb") as index:
            self.assertNotIn(self.token.encode(), index.read())

    def test_exists(self) -> None:
        """A user is there once."""
        self.assertEqual(self.run_it("user", "add", USER, status=1), "")
        self.assertIn("exists", self.err.getvalue())

    def test_quota(self) -> None:
        """Quotas are set, listed and taken away."""
        self.run_it("user", "add", "bob", "--quota", "5")
        self.run_it("user", "quota", USER, "10")
        self.assertEqual(self.run_it("user", "list"), "alice\t0\t10\nbob\t0\t5\n")
        self.run_it("user", "quota", USER, "none")
        self.assertEqual(self.run_it("user", "list"), "alice\t0\t-\nbob\t0\t5\n")
        self.run_it("user", "quota", "nobody", "10", status=1)

    def test_tokens(self) -> None:
        """Tokens are added, listed by name, and revoked one by one or all."""
        more = self.run_it("token", "add", USER).strip()
        names = [line.split("\t")[0] for line in self.run_it("token", "list", USER).splitlines()]
        self.assertEqual(len(names), 2)
        self.run_it("token", "revoke", USER, "00000000", status=1)
        self.run_it("token", "revoke", USER, names[0])
        self.assertEqual(sorted(map(self.knows, (more, self.token))), [False, True])
        self.run_it("token", "revoke", USER, "--all")
        self.assertEqual([self.knows(more), self.knows(self.token)], [False, False])

    def test_remove(self) -> None:
        """A user that is removed is gone."""
        self.run_it("user", "remove", USER)
        self.assertEqual(self.run_it("user", "list"), "")
        self.assertFalse(self.knows(self.token))
        self.run_it("user", "remove", USER, status=1)

    def test_usage(self) -> None:
        """What cannot be understood has an exit status of its own."""
        for arguments in (
            ["user", "add", "a/b"],
            ["user", "quota", USER, "-1"],
            ["token", "revoke", USER],
            [],
            ["fly"],
        ):
            with self.assertRaises(SystemExit) as caught, redirect_stderr(StringIO()):
                main(["--data-dir", self.folder, *arguments])
            self.assertEqual(caught.exception.code, 2)


class FolderTests(CommandTestCase):
    """Folders that are none of ours."""

    def test_missing(self) -> None:
        """Only adding a user makes a folder, and only the last part of its path."""
        self.folder = os.path.join(self.mktemp(), "deeper")
        for command in (["user", "list"], ["check"], ["user", "add", USER]):
            self.assertEqual(self.run_it(*command, status=1), "")
        self.assertFalse(os.path.exists(self.folder))

    def test_foreign(self) -> None:
        """A folder with something else in it is left alone."""
        self.folder = self.mktemp()
        os.mkdir(self.folder)
        with open(os.path.join(self.folder, "letter.txt"), "w") as file:
            file.write("dear")
        self.run_it("user", "add", USER, status=1)
        self.assertIn("letter.txt", self.err.getvalue())
        self.assertEqual(os.listdir(self.folder), ["letter.txt"])

    def test_options(self) -> None:
        """``twist soledad`` says what is missing before it starts."""
        for arguments in (
            ["--users", "tcp:0"],
            ["--data-dir", self.folder],
            ["--data-dir", self.folder + "/no", "--users", "tcp:0"],
            ["--data-dir", self.folder, "--users", "tcp:0", "--quota", "x"],
        ):
            self.assertRaises(UsageError, Options().parseOptions, arguments)
        options = Options()
        options.parseOptions(["--data-dir", self.folder, "--users", "tcp:0", "--users", "tcp:1", "--quota", "5"])
        self.assertEqual((options["users"], options["quota"]), (["tcp:0", "tcp:1"], 5))

    def test_plugin(self) -> None:
        """``twist`` finds it."""
        self.assertIn("soledad", [plugin.tapname for plugin in getPlugins(IServiceMaker)])


class CheckTests(CommandTestCase):
    """Whether the index and the bytes agree."""

    def setUp(self) -> None:
        """Store two blobs."""
        super().setUp()
        backend = self.parts().backend
        for blob in ("one", "Two"):
            self.successResultOf(backend.write_blob(USER, BlobId(blob), BytesProducer(b"bytes")))
        (found, _) = self.successResultOf(backend.store.list())
        self.file = os.path.join(self.folder, "blobs", found.name)
        self.blob = f"alice/default/{found.place.blob_id}"

    def test_whole(self) -> None:
        """When all is well, nothing is said."""
        self.assertEqual(self.run_it("check"), "")

    def test_damaged(self) -> None:
        """A flipped bit is found."""
        with open(self.file, "r+b") as file:
            file.write(b"B")
        self.assertEqual(self.run_it("check", status=1), f"damaged: {self.blob}: the tag is another\n")

    def test_length(self) -> None:
        """So is a file of another size."""
        with open(self.file, "ab") as file:
            file.write(b"more")
        self.assertEqual(self.run_it("check", status=1), f"length: {self.blob}: 9 bytes instead of 5\n")

    def test_missing(self) -> None:
        """So is one that is not there."""
        os.unlink(self.file)
        self.assertEqual(self.run_it("check", status=1), f"missing: {self.blob}\n")

    def test_stray(self) -> None:
        """A file without a blob is told of when it is old; a new one may be an upload's."""
        stray = self.file[:-32] + "0" * 32
        os.link(self.file, stray)
        self.assertEqual(self.run_it("check"), "")
        os.utime(stray, (0, 0))
        self.assertEqual(self.run_it("check", status=1), f"stray: {self.blob}: {'0' * 32}\n")

    def test_total(self) -> None:
        """A wrong count of bytes is found."""
        database = self.parts().accounts._database
        database.now(lambda connection: connection.execute(text("UPDATE users SET used = 7")))
        self.assertEqual(self.run_it("check", status=1), "total: alice: 7 bytes are counted, the user has 10\n")

    def test_record(self) -> None:
        """So is a record that is not what was stored."""
        parts = self.parts()
        pushed = SealedRecord(RecordName("0" * 64), b"sealed")
        self.successResultOf(parts.records.push(USER, Push((pushed,), b"checkpoint"), None))
        self.assertEqual(self.run_it("check"), "")
        database = parts.accounts._database
        database.now(lambda connection: connection.execute(text("UPDATE records SET data = x'00'")))
        line = f"record: alice/{'0' * 64}: it is not what was stored\n"
        self.assertEqual(self.run_it("check", status=1), line)
