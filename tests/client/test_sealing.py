"""Tests of what runs in workers while blobs move: sources of every kind, up to their end or an error."""

from __future__ import annotations

import array
import io
import os
import tempfile
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, cast

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.interfaces import Spooled
from soledad.client.local.files import BlobFiles
from soledad.client.scratch import BATCH, BUFFER
from soledad.client.sealing import ContainerReader, RangeReader, Sealing, Verifying
from soledad.crypto.container import Opener, Sealer, open_
from soledad.deferreds import InPlace
from soledad.errors import AuthenticationFailed, CryptoError, InvalidSource
from soledad.streams import Progress
from soledad.wire.container import CHUNK_LOG2
from tests.client.test_reading import CONTEXT, KEYS, MATERIAL, data_of, opened, sealed

#: Around a chunk, a batch of chunks, and in between.
SIZES = (0, 1, 65535, 65536, 65537, 262144, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 77)


class Oddity:
    """A file that reads what it is told."""

    def __init__(self, *pieces: Any) -> None:
        """Give these pieces, one each time."""
        self.pieces = list(pieces)

    def read(self, size: int) -> Any:
        """Return the next piece; at the end, nothing."""
        return self.pieces.pop(0) if self.pieces else b""


class SealingTestCase(SynchronousTestCase):
    """A folder to seal into."""

    def setUp(self) -> None:
        """Make it."""
        self.files = BlobFiles(Path(self.mktemp()), 1 << 20)
        self.files.prepare()
        self.told: list[tuple[int, int]] = []
        self.progress = Progress(InPlace(), lambda done, total: self.told.append((done, total)))

    def sealing(self) -> Sealing:
        """Begin a container."""
        return Sealing(self.files.spool(), Sealer(MATERIAL, CONTEXT, bytes(24)))

    def seal_file(self, file: object) -> bytes:
        """Seal what a file gives; return what the container holds."""
        sealing = self.sealing()
        sealing.read_all(cast(BinaryIO, file), self.progress, Event())
        return self.held(sealing.finish())

    def held(self, spooled: Spooled) -> bytes:
        """Return what a container holds."""
        inline = spooled.inline
        container = (self.files.folder / str(spooled.file)).read_bytes() if inline is None else inline
        self.assertEqual(len(container), spooled.size)
        return open_(KEYS, CONTEXT, container)


class FileTests(SealingTestCase):
    """Files of every kind."""

    def test_sizes(self) -> None:
        """Any size comes out as it went in, and is all told in the end."""
        for size in SIZES:
            data = data_of(size)
            self.progress.done = 0
            self.assertTrue(self.seal_file(io.BytesIO(data)) == data, size)
            self.assertEqual((self.progress.done, self.progress.total), (size, size))

    def test_from_where_it_stands(self) -> None:
        """A file is read from its position, and is left open at its end."""
        path = Path(self.mktemp())
        path.write_bytes(b"0123456789")
        for buffering in (-1, 0):
            with open(path, "rb", buffering) as file:
                file.seek(4)
                self.assertEqual(self.seal_file(file), b"456789")
                self.assertFalse(file.closed)
                self.assertEqual((file.tell(), self.progress.total), (10, 6))
                self.assertEqual(self.seal_file(file), b"")

    def test_kinds(self) -> None:
        """What can only read, what cannot seek, and what gives few bytes at a time are files too."""
        reading, writing = os.pipe()
        os.write(writing, b"piped")
        os.close(writing)
        with open(reading, "rb") as pipe:
            self.assertEqual(self.seal_file(pipe), b"piped")
        self.assertEqual(self.seal_file(Oddity(b"a", bytearray(b"bc"), memoryview(b"d"))), b"abcd")
        self.assertEqual(self.seal_file(Oddity(memoryview(array.array("I", [1, 2])))), bytes(array.array("I", [1, 2])))
        self.assertEqual(self.seal_file(io.BufferedReader(io.BytesIO(b"buffered"))), b"buffered")
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"temporary")
            file.seek(0)
            self.assertEqual(self.seal_file(file), b"temporary")
        with tempfile.SpooledTemporaryFile() as spooled:
            spooled.write(b"spooled")
            spooled.seek(0)
            self.assertEqual(self.seal_file(spooled), b"spooled")
        self.assertEqual(self.seal_file(opened(b"a file of ours")), b"a file of ours")

    def test_text(self) -> None:
        """A text file is refused, and the error says what to do instead."""
        path = Path(self.mktemp())
        path.write_text("text")
        with open(path) as text, tempfile.NamedTemporaryFile("w+") as temporary:
            temporary.write("text")
            temporary.seek(0)
            for file in (text, io.StringIO("text"), Oddity("text"), temporary):
                with self.assertRaises(TypeError) as caught:
                    self.seal_file(file)
                self.assertIn("binary", str(caught.exception))
                self.assertIn("'rb'", str(caught.exception))

    def test_no_files(self) -> None:
        """What is no file at all is told by its type."""
        for source in (None, 1, "text", ["a"], object()):
            with self.assertRaises(TypeError) as caught:
                self.seal_file(source)
            self.assertIn(type(source).__name__, str(caught.exception))

    def test_bad_files(self) -> None:
        """A closed file, one with nothing ready, and one that gives something else are refused."""
        closed = io.BytesIO(b"data")
        closed.close()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.addCleanup(os.close, writing)
        with open(reading, "rb", 0) as pipe:
            for file in (
                closed,
                pipe,
                Oddity(None),
                Oddity(b"a", None),
                Oddity([1, 2]),
                Oddity(7),
                Oddity(bytes(BATCH + 1)),
            ):
                with self.assertRaises(InvalidSource, msg=repr(file)):
                    self.seal_file(file)

    def test_lying_files(self) -> None:
        """What a file says that it filled and cannot have is not sealed: it would be of something else."""
        for count in (BATCH + 1, BUFFER):

            class Lying(io.BytesIO):
                def readinto(self, buffer: Any, count: int = count) -> int:
                    """Say that it was more, once."""
                    return count if super().readinto(buffer) else 0

            with self.assertRaises(InvalidSource, msg=str(count)):
                self.seal_file(Lying(b"data"))

    def test_failing(self) -> None:
        """An error of the file's own reaches the caller as it is."""

        class Failing(Oddity):
            def read(self, size: int) -> bytes:
                raise OSError("no longer there")

        self.assertRaises(OSError, self.seal_file, Failing())

    def test_growing_and_shrinking(self) -> None:
        """A file that changes while it is read gives what it had where it was read, whole, and no error."""
        path = Path(self.mktemp())
        for change, expected in ((lambda: path.open("ab").write(b"more"), 4), (lambda: os.truncate(path, BATCH), -5)):
            path.write_bytes(data_of(BATCH + 5))

            class Changing(io.FileIO):
                changed = False

                def readinto(self, buffer: Any) -> int:
                    count = super().readinto(buffer)
                    if not self.changed:
                        self.changed = True
                        change()  # noqa: B023 -- called at once
                    return int(count or 0)

            with Changing(path) as file:
                got = self.seal_file(file)
            self.assertEqual(len(got), BATCH + 5 + expected)
            self.assertEqual(got[:BATCH], data_of(BATCH))

    def test_stopped(self) -> None:
        """Reading ends at the next piece when it is told to stop."""
        stop = Event()

        class Endless(Oddity):
            def read(self, size: int) -> bytes:
                stop.set()
                return bytes(size)

        sealing = self.sealing()
        with self.assertRaises(CancelledError):
            sealing.read_all(cast(BinaryIO, Endless()), self.progress, stop)
        sealing.discard()
        self.assertEqual(self.files.names(), set())


class PiecesTests(SealingTestCase):
    """Bytes as producers give them."""

    def test_pieces(self) -> None:
        """However they are cut, the data is the same."""
        data = data_of(2 * BATCH + 77)
        for size in (70_000, BATCH, BATCH + 1, len(data)):
            sealing = self.sealing()
            for start in range(0, len(data), size):
                sealing.take([data[start : start + size], b""], self.progress)
            self.assertTrue(self.held(sealing.finish()) == data, size)

    def test_nothing(self) -> None:
        """Nothing at all is a container too."""
        self.assertEqual(self.held(self.sealing().finish()), b"")

    def test_items_of_more_than_a_byte(self) -> None:
        """Buffers count by their bytes."""
        sealing = self.sealing()
        items = array.array("I", range(50_000))
        sealing.take([cast(bytes, memoryview(items))], self.progress)
        self.assertTrue(self.held(sealing.finish()) == bytes(items))

    def test_not_bytes(self) -> None:
        """What is no bytes is refused."""
        for piece in ("text", None, 1, [1]):
            self.assertRaises(InvalidSource, self.sealing().take, [piece], self.progress)


class VerifyingTests(SealingTestCase):
    """Containers as they come from a server."""

    def verify(self, container: bytes, length: int, size: int) -> Spooled:
        """Take a container in pieces of some size; return it as it is kept."""
        verifying = Verifying(self.files.spool(), Opener(KEYS, CONTEXT, length), self.progress)
        self.addCleanup(verifying.spool.discard)
        for start in range(0, len(container), size):
            verifying.take([container[start : start + size]])
        spooled = verifying.finish()
        self.assertEqual(bytes(verifying.header), container[:72])
        return spooled

    def test_kept_as_it_came(self) -> None:
        """What is verified is kept byte for byte, however it was cut."""
        container = sealed(data_of(30_000))
        for size in (1, 71, 72, 73, 5000, len(container)):
            self.assertTrue(self.verify(container, 30_000, size).inline == container, size)

    def test_refused(self) -> None:
        """What was changed, cut, lengthened or is of another length is refused, in pieces of any size."""
        container = sealed(data_of(30_000))
        flipped = bytearray(container)
        flipped[20_000] ^= 1
        for wrong, length in (
            (bytes(flipped), 30_000),
            (container[:-1], 30_000),
            (container + b"x", 30_000),
            (container, 29_999),
        ):
            for size in (1000, len(container)):
                self.assertRaises(CryptoError, self.verify, wrong, length, size)
        self.assertRaises(AuthenticationFailed, self.verify, container[:5000], 30_000, 1000)


class ReaderTests(SynchronousTestCase):
    """The readers that producers use."""

    def test_container(self) -> None:
        """A container is read from its beginning to its end."""
        from soledad.client.local.files import StoredContainer

        reader = ContainerReader(StoredContainer(10, inline=b"0123456789"))
        self.assertEqual([reader.read(4) for _ in range(4)], [b"0123", b"4567", b"89", b""])

    def test_range(self) -> None:
        """A range ends where it ends, not where the file does."""
        file = opened(b"0123456789")
        file.seek(3)
        reader = RangeReader(file, 5)
        self.assertEqual([reader.read(4) for _ in range(3)], [b"3456", b"7", b""])

    def test_chunks(self) -> None:
        """Batches are whole chunks, so that sealing copies nothing."""
        self.assertEqual(BATCH % (1 << CHUNK_LOG2), 0)
