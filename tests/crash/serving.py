"""A whole server over a folder on a file system of a test's own; connections to it are strings, calls are in place."""

from __future__ import annotations

import io
from pathlib import Path

from twisted.internet.task import Clock

from soledad.server.cli import main as soledad_server
from soledad.server.folder import DataFolder
from soledad.server.service import Parts, Workers, make_root, make_site, open_parts
from soledad.streams import Budget
from soledad.wire.changes import Push, SyncPage, decode_page, encode_push
from tests.contracts.records_backend import record
from tests.server.support import USER, content, headers, status
from tests.server.test_stream import StreamTestCase
from tests.server.test_uploads import UploadsTestCase

#: Records of a push, and how long each is, in bytes.
RECORDS, RECORD_SIZE = 20, 5000


def noise(name: str, size: int) -> bytes:
    """Return what is stored under a name."""
    return (name.encode() * (size // len(name) + 1))[:size]


def pushed(number: int) -> Push:
    """Return a push whose every part has its number."""
    return Push(tuple(record(at, noise(f"push-{number}-", RECORD_SIZE)) for at in range(RECORDS)), b"%d" % number)


class FolderTestCase(UploadsTestCase, StreamTestCase):
    """Requests to a server over a folder."""

    def setUp(self) -> None:
        """Serve a new folder, with one user."""
        self.clock = Clock()
        self.budget = Budget()
        self.opened: list[Parts] = []
        folder = self.make_disk() / "server"
        DataFolder(str(folder)).make()
        self.serve(folder)
        self.token = self.successResultOf(self.accounts.add_user(USER))

    def make_disk(self) -> Path:
        """Return a folder on the file system that the test is about."""
        raise AssertionError("each test case has a disk of its own")

    def serve(self, folder: Path) -> None:
        """Serve a folder from now on; what was served before is left as it is."""
        self.folder = folder
        parts = open_parts(DataFolder(str(folder)), Workers(), self.budget)
        self.opened.append(parts)
        self.addCleanup(self.close, parts)
        self.accounts, self.backend, self.records = parts.accounts, parts.backend, parts.records
        self.root = make_root(
            parts.backend, parts.accounts, budget=self.budget, records=parts.records, clock=self.clock
        )
        self.site = make_site(self.root, self.clock, self.budget)

    def close(self, parts: Parts) -> None:
        """Close a folder, once."""
        if parts in self.opened:
            self.opened.remove(parts)
            parts.close()

    def check(self) -> list[str]:
        """Return what ``soledad-server check`` finds."""
        out = io.StringIO()
        found = soledad_server(["--data-dir", str(self.folder), "check"], out, out)
        lines = out.getvalue().splitlines()
        self.assertEqual(found, bool(lines), lines)
        return lines

    def put_it(self, name: str, size: int) -> bytes:
        """Send a blob; return the answer."""
        return self.ask(f"PUT /blobs/{USER}/{name}", noise(name, size))

    def push_it(self, number: int) -> bytes:
        """Push on top of the push before, which has the number before; return the answer."""
        follows = {"If_None_Match": "*"} if number == 1 else {"If_Match": headers(self.head_of_records())["etag"]}
        return self.ask(f"POST /sync/{USER}", encode_push(pushed(number)), **follows)

    def head_of_records(self) -> bytes:
        """Ask where the records are."""
        return self.ask(f"HEAD /sync/{USER}")

    def pulled(self) -> SyncPage:
        """Return all records, which are of one page, and the head."""
        return decode_page(content(self.ask(f"GET /sync/{USER}")))

    def assertPushed(self, number: int) -> None:
        """The records are those of the push of that number, all of them; so is the checkpoint."""
        page = self.pulled()
        expected = pushed(number)
        self.assertEqual(page.head.checkpoint, expected.checkpoint)
        self.assertTrue(page.records == expected.records)

    def assertStored(self, *blobs: tuple[str, int]) -> None:
        """These are there, whole."""
        for name, size in blobs:
            answer = self.ask(f"GET /blobs/{USER}/{name}")
            self.assertEqual(status(answer), 200, name)
            self.assertTrue(content(answer) == noise(name, size), name)
