"""Tests of sealed data as a file: it reads as `io.BytesIO` does, or raises."""

from __future__ import annotations

import io
import os
import shutil
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local.files import StoredContainer
from soledad.client.reading import SealedFile
from soledad.client.scratch import BATCH
from soledad.crypto.container import Chunks, Context, KeyMaterial, seal
from soledad.errors import AuthenticationFailed, CryptoError
from soledad.wire.container import HEADER_SIZE, Purpose
from tests.limits import examples

MATERIAL = KeyMaterial(bytes(range(32)), bytes(16))
KEYS = {MATERIAL.key_id: MATERIAL}
CONTEXT = Context(Purpose.BLOB, "attachments", "1" * 32)
#: Small chunks, so that a little data has many; `LARGE` has more than are read at a time.
LOG2 = 12
CHUNK = 1 << LOG2
SIZES = (0, 1, 100, CHUNK - 8, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 17)
AT_ONCE = BATCH // CHUNK
LARGE = (2 * AT_ONCE + 3) * CHUNK + 5


@cache
def data_of(size: int) -> bytes:
    """Return data in which every place differs from its neighbours."""
    return (b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1)))[:size]


@cache
def sealed(data: bytes) -> bytes:
    """Return the container of some data."""
    return seal(MATERIAL, CONTEXT, bytes(24), data, LOG2)


def opened(data: bytes, container: bytes | None = None) -> SealedFile:
    """Return the file over the container of ``data``, or over another one in its place."""
    stored = sealed(data) if container is None else container
    chunks = Chunks.of_length(KEYS, CONTEXT, stored[:HEADER_SIZE], len(data))
    return SealedFile(chunks, StoredContainer(len(stored), inline=stored))


class SealedFileTests(SynchronousTestCase):
    """Reading, as with any file."""

    def test_whole(self) -> None:
        """All of it is what was sealed, however it is asked for."""
        for size in (*SIZES, LARGE):
            data = data_of(size)
            for read in (
                lambda file: file.read(),
                lambda file: file.read(-1),
                lambda file: file.read(None),
                lambda file: file.readall(),
                lambda file: file.read(len(data) + 100),  # noqa: B023 -- called at once
                lambda file: b"".join(iter(lambda: file.read(1000), b"")),
                lambda file: b"".join(file),
                lambda file: io.BufferedReader(file).read(),
            ):
                self.assertTrue(read(opened(data)) == data, size)

    def test_copyfileobj(self) -> None:
        """What copies files copies this one."""
        out = io.BytesIO()
        shutil.copyfileobj(opened(data_of(LARGE)), out)
        self.assertTrue(out.getvalue() == data_of(LARGE))

    @settings(max_examples=examples(60))
    @given(
        st.sampled_from((*SIZES, LARGE)),
        st.lists(
            st.tuples(st.sampled_from(["seek", "from", "end", "read", "into"]), st.integers(-100, 3 * CHUNK)),
            max_size=12,
        ),
    )
    def test_like_bytesio(self, size: int, steps: list[tuple[str, int]]) -> None:
        """Whatever is done with it, in whatever order, comes to the same as with bytes in memory."""
        model, file = io.BytesIO(data_of(size)), opened(data_of(size))
        for step, number in steps:
            self.assertEqual(play(file, step, number), play(model, step, number), (step, number))
            self.assertEqual(file.tell(), model.tell())

    @settings(max_examples=examples(60))
    @given(st.data())
    def test_any_range(self, data: st.DataObject) -> None:
        """Any range of a large one is right."""
        start = data.draw(st.integers(0, LARGE + 10))
        length = data.draw(st.integers(0, LARGE))
        file = LARGE_FILE
        file.seek(start)
        self.assertTrue(file.read(length) == LARGE_DATA[start : start + length])

    def test_what_it_is(self) -> None:
        """It is a readable, seekable, binary file, and not writable."""
        file = opened(b"data")
        self.assertEqual((file.readable(), file.seekable(), file.writable(), file.length), (True, True, False, 4))
        self.assertIsInstance(file, io.RawIOBase)
        self.assertRaises(io.UnsupportedOperation, file.truncate)
        self.assertRaises(io.UnsupportedOperation, file.fileno)

    def test_bad_seeks(self) -> None:
        """A place before the beginning is refused, and the position stays."""
        file = opened(b"data")
        file.seek(2)
        for arguments in ((-1,), (-3, os.SEEK_CUR), (-5, os.SEEK_END), (0, 9)):
            self.assertRaises(ValueError, file.seek, *arguments)
            self.assertEqual(file.tell(), 2)

    def test_buffers(self) -> None:
        """Any writable buffer is filled, of whatever shape its items are."""
        data = data_of(4000)
        for buffer in (bytearray(4000), memoryview(bytearray(4000)).cast("I"), memoryview(bytearray(8000))[2000:6000]):
            self.assertEqual(opened(data).readinto(buffer), 4000)
            self.assertEqual(bytes(memoryview(buffer).cast("B")), data)

    def test_closed(self) -> None:
        """A closed file refuses everything; closing again is harmless, and closes the container once."""
        container = CountingContainer(b"")
        file = SealedFile(Chunks.of_length(KEYS, CONTEXT, sealed(b"data")[:HEADER_SIZE], 4), container)
        with file:
            pass
        file.close()
        self.assertEqual(container.closed, 1)
        for call in (file.read, file.readall, lambda: file.seek(0), lambda: file.readinto(bytearray(1))):
            self.assertRaises(ValueError, call)


class DamageTests(SynchronousTestCase):
    """Nothing wrong comes out, and nothing is silently missing."""

    def read_in_pieces(self, file: SealedFile) -> tuple[bytes, BaseException | None]:
        """Read a file piece by piece; return what came before it failed, and why it did."""
        out = bytearray()
        try:
            while piece := file.read(1000):
                out += piece
        except CryptoError as error:
            return bytes(out), error
        return bytes(out), None

    def test_flipped(self) -> None:
        """A byte that was changed, wherever it is in a small container, is found; in chunks it is the chunk's fault."""
        data = data_of(700)
        container = sealed(data)
        for place in range(len(container)):
            damaged = bytearray(container)
            damaged[place] ^= 1 << place % 8
            expected = CryptoError if place < HEADER_SIZE else AuthenticationFailed
            with self.assertRaises(expected, msg=str(place)):
                opened(data, bytes(damaged)).read()

    def test_large(self) -> None:
        """Of a large one, everything before the chunk with the fault is right, and nothing of it or behind comes."""
        data = data_of(LARGE)
        container = sealed(data)
        for chunk in (0, 1, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 3):
            damaged = bytearray(container)
            damaged[HEADER_SIZE + chunk * (CHUNK + 16) + 7] ^= 128
            got, error = self.read_in_pieces(opened(data, bytes(damaged)))
            self.assertIsInstance(error, AuthenticationFailed)
            self.assertTrue(got == data[: len(got)])
            self.assertLessEqual(len(got), chunk * CHUNK)

    def test_other_chunks_are_fine(self) -> None:
        """What lies in other chunks can still be read, before and after the failure."""
        data = data_of(5 * CHUNK)
        damaged = bytearray(sealed(data))
        damaged[HEADER_SIZE + 2 * (CHUNK + 16)] ^= 1
        file = opened(data, bytes(damaged))
        for _ in range(2):
            file.seek(2 * CHUNK + 1)
            self.assertRaises(AuthenticationFailed, file.read, 1)
            for chunk in (1, 3):
                file.seek(chunk * CHUNK + 5)
                self.assertEqual(file.read(100), data[chunk * CHUNK + 5 :][:100])

    def test_no_unauthenticated_byte(self) -> None:
        """The caller's buffer holds nothing of a chunk that failed."""
        data = b"\xff" * (3 * CHUNK)
        damaged = bytearray(sealed(data))
        damaged[HEADER_SIZE + CHUNK + 16 + 9] ^= 1
        buffer = bytearray(len(data))
        self.assertRaises(AuthenticationFailed, opened(data, bytes(damaged)).readinto, buffer)
        self.assertEqual(buffer[CHUNK : 2 * CHUNK], bytes(CHUNK))

    def test_cut(self) -> None:
        """A container that was cut fails where data is missing; a short read it never gives."""
        data = data_of(5 * CHUNK + 17)
        container = sealed(data)
        last_chunk_with_data = HEADER_SIZE + 5 * (CHUNK + 16)
        for size in (
            HEADER_SIZE,
            HEADER_SIZE + 100,
            HEADER_SIZE + CHUNK + 16,
            last_chunk_with_data,
            last_chunk_with_data + 9,
        ):
            got, error = self.read_in_pieces(opened(data, container[:size]))
            self.assertIsInstance(error, AuthenticationFailed)
            self.assertEqual(got, data[: len(got)])

    def test_swapped_chunks(self) -> None:
        """Chunks in another order are not what was sealed."""
        data = data_of(3 * CHUNK)
        container = sealed(data)
        at, size = HEADER_SIZE, CHUNK + 16
        swapped = (
            container[:at]
            + container[at + size : at + 2 * size]
            + container[at : at + size]
            + container[at + 2 * size :]
        )
        self.assertRaises(AuthenticationFailed, opened(data, swapped).read)


LARGE_DATA = data_of(LARGE)
LARGE_FILE = opened(LARGE_DATA)


class CountingContainer(StoredContainer):
    """Counts how often it was closed."""

    def __init__(self, data: bytes) -> None:
        """Hold some bytes."""
        super().__init__(len(data), inline=data)
        self.closed = 0

    def close(self) -> None:
        """Count."""
        self.closed += 1


def play(file: SealedFile | io.BytesIO, step: str, number: int) -> object:
    """Do one thing with a file; return what comes of it."""
    if step == "read":
        return file.read(number)
    if step == "into":
        buffer = bytearray(max(0, number))
        return file.readinto(buffer), bytes(buffer)
    whence = {"seek": os.SEEK_SET, "from": os.SEEK_CUR, "end": os.SEEK_END}[step]
    if {"seek": 0, "from": file.tell(), "end": size_of(file)}[step] + number < 0:
        # `io.BytesIO` goes to the beginning then, or says no, as it was asked.
        return None
    return file.seek(number, whence)


def size_of(file: SealedFile | io.BytesIO) -> int:
    """Return the number of bytes."""
    return file.length if isinstance(file, SealedFile) else len(file.getvalue())
