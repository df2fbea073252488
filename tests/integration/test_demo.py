"""``make demo``: what it is for it must show, and however it ends, nothing of it may be left."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase, TestCase

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DEMO = CHECKOUT / "examples" / "demo.py"

sys.path.insert(0, str(DEMO.parent))
try:
    import demo_place
    import demo_search
finally:
    sys.path.remove(str(DEMO.parent))


class Run(ProcessProtocol):
    """The demonstration as a process, which may get a signal when it has printed something."""

    def __init__(self, tmpdir: Path, *arguments: str, signal_at: str | None = None) -> None:
        self.output = ""
        self.ended: Deferred[int | None] = Deferred()
        self._signal_at = signal_at
        command = [sys.executable, str(DEMO), *arguments]
        environment = {**os.environ, "TMPDIR": str(tmpdir), "CI": "true"}
        spawn: Any = reactor
        spawn.spawnProcess(self, command[0], command, environment)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep what it prints."""
        self.output += data.decode()
        if self._signal_at is not None and self._signal_at in self.output:
            self._signal_at = None
            process: Any = self.transport
            process.signalProcess("INT")

    def processEnded(self, reason: Failure) -> None:
        """Tell the exit status; `None`: a signal ended it."""
        ended: Any = reason.value
        self.ended.callback(ended.exitCode)


class DemonstrationTests(TestCase):
    """The whole of it, as a process."""

    timeout = 60

    def setUp(self) -> None:
        """Give it a folder for what is temporary."""
        self.tmpdir = Path(self.mktemp()).resolve()
        self.tmpdir.mkdir()

    async def test_file(self) -> None:
        """With a file of one's own, every check is made and holds, and nothing is left."""
        file = self.mktemp()
        FilePath(file).setContent(os.urandom(400_000))
        run = Run(self.tmpdir, file)
        self.assertEqual(await run.ended, 0, run.output)
        for told in ("NONE", "LOCAL", "SYNCED", "REMOTE", "AuthenticationFailed", "none of them", "byte by byte"):
            self.assertIn(told, run.output)
        for told in ("the document came first", "a conflict", "settled", "ServerRolledBack", "STATE_BACK"):
            self.assertIn(told, run.output)
        self.assertEqual(os.listdir(self.tmpdir), [])

    async def test_interrupted(self) -> None:
        """Ctrl-C in the middle of it ends the server and removes everything; the exit status tells."""
        run = Run(self.tmpdir, signal_at="The example")
        self.assertEqual(await run.ended, 1, run.output)
        self.assertIn("interrupted", run.output)
        self.assertNotIn("Traceback", run.output)
        self.assertEqual(os.listdir(self.tmpdir), [])
        server = int(run.output.partition("process ")[2].split()[0])
        self.assertRaises(ProcessLookupError, os.kill, server, 0)

    async def test_no_such_file(self) -> None:
        """A file that is not there is said to be so in one line."""
        run = Run(self.tmpdir, "no-such-file")
        self.assertEqual(await run.ended, 1)
        self.assertEqual(run.output, "demo: no-such-file: No such file or directory\n")


class SearchTests(SynchronousTestCase):
    """The search for plaintext: that it finds nothing must mean something."""

    def setUp(self) -> None:
        """Have a plaintext, larger than what is read at a time, and a folder to search."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.plaintext = Path(self.mktemp())
        self.plaintext.write_bytes(os.urandom(100_000))
        self.patch(demo_search, "BLOCK", 1000)
        self.pieces = demo_search.pieces_of(self.plaintext)

    def search(self, content: bytes) -> tuple[Path, ...]:
        """Return which files of a folder with one file in it are found guilty."""
        (self.folder / "file").write_bytes(content)
        return demo_search.search([self.folder], self.pieces).guilty

    def test_finds(self) -> None:
        """Each piece is found wherever it stands, between two blocks too."""
        self.assertEqual(len(self.pieces), demo_search.PIECES)
        for piece in self.pieces:
            for position in (0, 990, 1990, 3000):
                self.assertEqual(self.search(bytes(position) + piece), (self.folder / "file",))

    def test_whole(self) -> None:
        """All pieces are found in the file that they are from: the control."""
        self.assertTrue(all(demo_search.has_piece(self.plaintext, self.pieces)))

    def test_does_not_find(self) -> None:
        """Other bytes have none."""
        self.assertEqual(self.search(os.urandom(5000)), ())

    def test_monotonous(self) -> None:
        """Runs of one byte are no pieces: they are in every file."""
        self.plaintext.write_bytes(bytes(100_000))
        self.assertEqual(demo_search.pieces_of(self.plaintext), [])


class PartsTests(SynchronousTestCase):
    """What else the demonstration's checks stand on."""

    def test_same(self) -> None:
        """A file that is shorter, longer or different is not the same."""
        path = Path(self.mktemp())
        for content, expected in ((b"abc", True), (b"ab", False), (b"abcd", False), (b"abd", False)):
            path.write_bytes(content)
            other = Path(self.mktemp())
            other.write_bytes(b"abc")
            self.assertEqual(demo_place.same(other.open("rb"), path), expected)

    def test_flip(self) -> None:
        """One bit of one byte changes."""
        path = Path(self.mktemp())
        path.write_bytes(b"abc")
        demo_place.flip(path, 1)
        self.assertEqual(path.read_bytes(), b"acc")
