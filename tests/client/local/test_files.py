"""Tests of sealed files: complete and durable, or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from stat import S_IMODE

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.interfaces import Buffer, Spooled
from soledad.client.local.files import BlobFiles, Spool, StoredContainer
from soledad.errors import StorageFailed, StorageFull

LIMIT = 100


@define(eq=False)
class FaultyFiles(BlobFiles):
    """Files on a disk that fails at one of its calls, and notes them all."""

    #: Which calls fail, and with which number.
    faults: dict[str, int] = field(factory=dict, kw_only=True)
    calls: list[str] = field(factory=list, init=False)

    def create(self) -> tuple[str, int]:
        """Make a file, or not."""
        self._note("create")
        return super().create()

    def fsync(self, descriptor: int) -> None:
        """Wait for the disk, or not."""
        self._note("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        super().fsync(descriptor)

    def write(self, descriptor: int, data: Buffer) -> int:
        """Write at most 60 bytes, as a disk may, or none."""
        self._note("write")
        return super().write(descriptor, memoryview(data)[:60])

    def _note(self, call: str) -> None:
        self.calls.append(call)
        number = self.faults.get(call)
        if number is not None:
            raise OSError(number, os.strerror(number))


class FilesTestCase(SynchronousTestCase):
    """A folder for sealed files."""

    def setUp(self) -> None:
        """Make it."""
        self.files = FaultyFiles(Path(self.mktemp()), LIMIT)
        self.files.prepare()

    def spooled(self, *pieces: bytes) -> Spooled:
        """Spool a container that comes in pieces."""
        spool = self.files.spool()
        for piece in pieces:
            spool.write(piece)
        return spool.finish()

    def stored(self, spooled: Spooled) -> StoredContainer:
        """Open what was spooled."""
        if spooled.file is None:
            return StoredContainer(spooled.size, inline=spooled.inline)
        container = StoredContainer(spooled.size, descriptor=self.files.open(spooled.file))
        self.addCleanup(container.close)
        return container


class SpoolTests(FilesTestCase):
    """How a container gets to where it is kept."""

    def test_up_to_the_limit(self) -> None:
        """Up to the limit, exactly, it is kept in memory, and nothing touches the disk."""
        for size in (0, 1, LIMIT):
            self.assertEqual(self.spooled(b"x" * size), Spooled(size, inline=b"x" * size))
        self.assertEqual(self.files.calls, [])

    def test_above_the_limit(self) -> None:
        """From one byte more on it is a file, in whatever pieces it comes."""
        whole = os.urandom(3 * LIMIT + 1)
        for cuts in ((LIMIT + 1,), (LIMIT,), (1, 2, 3), (0, LIMIT - 1, LIMIT + 70)):
            edges = [0, *cuts, len(whole)]
            spooled = self.spooled(*(whole[a:b] for a, b in pairwise(edges)))
            self.assertIsNone(spooled.inline)
            self.assertEqual(spooled.size, len(whole))
            self.assertEqual((self.files.folder / str(spooled.file)).read_bytes(), whole)

    def test_a_name_that_says_nothing(self) -> None:
        """A file has a random name, and is its owner's only, as the folder is."""
        self.addCleanup(os.umask, os.umask(0))
        spooled = self.spooled(b"x" * LIMIT * 2)
        self.assertRegex(str(spooled.file), r"\A[0-9a-f]{32}\Z")
        self.assertEqual(S_IMODE((self.files.folder / str(spooled.file)).stat().st_mode), 0o600)
        self.assertEqual(S_IMODE(self.files.folder.stat().st_mode), 0o700)

    def test_durable(self) -> None:
        """The file is synced after its last byte was written, and the folder after the file."""
        self.spooled(b"x" * 150)
        self.assertEqual(self.files.calls, ["create", "write", "write", "write", "file", "folder"])

    def test_discarded(self) -> None:
        """What is discarded leaves nothing, whenever that is, and however often."""
        stages: list[Callable[[Spool], object]] = [
            lambda spool: None,
            lambda spool: spool.write(b"x"),
            lambda spool: spool.write(b"x" * 2 * LIMIT),
            write_and_finish,
        ]
        before = open_files()
        for stage in stages:
            spool = self.files.spool()
            stage(spool)
            spool.discard()
            spool.discard()
        self.assertEqual(self.files.names(), set())
        self.assertEqual(open_files(), before)

    def test_faults(self) -> None:
        """Whatever fails, at whatever call: one of our errors, and nothing is left."""
        before = open_files()
        for call in ("create", "write", "file", "folder"):
            for number, error in ((errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageFailed)):
                self.files.faults = {call: number}
                spool = self.files.spool()
                with self.assertRaises(error, msg=call):
                    spool.write(b"x" * 2 * LIMIT)
                    spool.finish()
                spool.discard()
                self.assertEqual(self.files.names(), set(), call)
        self.assertEqual(open_files(), before)

    def test_no_folder(self) -> None:
        """A folder that is gone is an error of the disk."""
        self.files.folder.rmdir()
        with self.assertRaises(StorageFailed):
            self.spooled(b"x" * 2 * LIMIT)
        with self.assertRaises(StorageFailed):
            self.files.names()


class StoredContainerTests(FilesTestCase):
    """How a container is read, wherever it is."""

    def test_anywhere(self) -> None:
        """Any part can be read, in memory and in a file alike; behind the end there is nothing."""
        for size in (LIMIT, 3 * LIMIT):
            whole = os.urandom(size)
            container = self.stored(self.spooled(whole))
            for start, length in ((0, size), (10, 20), (size - 5, 5), (size - 5, 10), (size, 1), (size + 9, 3), (0, 0)):
                self.assertEqual(container.read(start, length), whole[start : start + length])
                out = bytearray(length)
                count = container.read_into(start, memoryview(out))
                self.assertEqual(bytes(out[:count]), whole[start : start + length])

    def test_removed(self) -> None:
        """Once it is open, a file can be read to its end, even if it is removed."""
        spooled = self.spooled(b"x" * 2 * LIMIT)
        container = self.stored(spooled)
        self.files.remove(str(spooled.file))
        self.assertEqual(container.read(0, 1000), b"x" * 2 * LIMIT)

    def test_closed(self) -> None:
        """Closing gives the descriptor back; closing again is harmless."""
        before = open_files()
        container = self.stored(self.spooled(b"x" * 2 * LIMIT))
        container.close()
        container.close()
        self.assertEqual(open_files(), before)


class FolderTests(FilesTestCase):
    """The folder as a whole."""

    def test_sweep(self) -> None:
        """Only the files that are known stay."""
        kept, stray = self.spooled(b"x" * 2 * LIMIT), self.spooled(b"y" * 2 * LIMIT)
        (self.files.folder / "something else").touch()
        self.files.sweep({str(kept.file), "unknown"})
        self.assertEqual(self.files.names(), {kept.file})
        self.assertNotEqual(kept.file, stray.file)

    def test_sweep_what_cannot_be_removed(self) -> None:
        """What cannot be removed keeps nothing else from being swept."""
        (self.files.folder / "a folder").mkdir()
        self.spooled(b"x" * 2 * LIMIT)
        self.files.sweep(set())
        self.assertEqual(self.files.names(), {"a folder"})

    def test_prepare_again(self) -> None:
        """A folder that is there is left as it is."""
        spooled = self.spooled(b"x" * 2 * LIMIT)
        self.files.prepare()
        self.assertEqual(self.files.names(), {spooled.file})


def write_and_finish(spool: Spool) -> None:
    """Write a large container to its end."""
    spool.write(b"x" * 2 * LIMIT)
    spool.finish()


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
