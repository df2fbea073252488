"""Containers of other writers: every size of chunk that the format has can be read and verified."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from soledad.client.interfaces import Buffer, Spooled
from soledad.client.local.files import StoredContainer
from soledad.client.reading import SealedFile
from soledad.client.sealing import Verifying
from soledad.crypto.container import Chunks, Context, KeyMaterial, Opener, seal
from soledad.deferreds import InPlace
from soledad.streams import Progress
from soledad.wire.container import HEADER_SIZE, Purpose

MATERIAL = KeyMaterial(bytes(range(32)), bytes(16))
KEYS = {MATERIAL.key_id: MATERIAL}
CONTEXT = Context(Purpose.BLOB, "attachments", "1" * 32)
DATA = Random(1).randbytes(3 * 1024 * 1024 + 5)


class Kept(bytearray):
    """Keeps what is written to it."""

    def write(self, data: Buffer) -> None:
        """See `Spool`."""
        self += data

    def finish(self) -> Spooled:
        """See `Spool`."""
        return Spooled(len(self), inline=bytes(self))

    def discard(self) -> None:
        """See `Spool`."""
        self.clear()


class ChunkSizeTests(SynchronousTestCase):
    """The smallest chunks, our own, and the largest."""

    def containers(self) -> list[bytes]:
        """Return the data, sealed in chunks of different sizes."""
        return [seal(MATERIAL, CONTEXT, bytes(24), DATA, log2) for log2 in (12, 16, 20)]

    def test_read(self) -> None:
        """All of it can be read, and parts of chunks."""
        for container in self.containers():
            chunks = Chunks.of_length(KEYS, CONTEXT, container[:HEADER_SIZE], len(DATA))
            with SealedFile(chunks, StoredContainer(len(container), inline=container)) as file:
                self.assertTrue(file.read() == DATA)
                file.seek(7)
                self.assertTrue(file.read(2_000_000) == DATA[7:2_000_007])

    def test_verified(self) -> None:
        """All of it is verified, whatever the pieces in which it comes."""
        for container in self.containers():
            for size in (10_000, len(container)):
                kept = Kept()
                verifying = Verifying(kept, Opener(KEYS, CONTEXT, len(DATA)), Progress(InPlace(), None))
                verifying.take([container[start : start + size] for start in range(0, len(container), size)])
                verifying.finish()
                self.assertTrue(bytes(kept) == container)
