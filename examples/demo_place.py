"""Where the demonstration happens, and what its parts share: checks, stores, files."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

from attrs import frozen
from demo_narrator import line

from soledad import AttachmentStates, Document, Soledad

UUID = "alice"
PASSPHRASE = "only alice knows this"
#: What the example attaches, in the folder it is run in.
NAME = "hackers.txt"


class DemoFailed(Exception):
    """Something was not as it should be."""


@frozen
class Place:
    """Where everything is, and how the server is reached."""

    folder: Path
    server: Path
    url: str
    token: str

    @property
    def plaintext(self) -> Path:
        """What is attached."""
        return self.folder / NAME

    @asynccontextmanager
    async def open(self, store: str) -> AsyncIterator[Soledad]:
        """Open a store in a folder of its own, and close it at the end."""
        soledad = await Soledad.open(
            UUID, PASSPHRASE, data_dir=self.folder / store, server_url=self.url, auth_token=self.token
        )
        try:
            yield soledad
        finally:
            await soledad.close()


def check(good: bool, complaint: str) -> None:
    """:raise DemoFailed: it is not good."""
    if not good:
        raise DemoFailed(complaint)


def copy_without_blobs(place: Place, store: str, name: str) -> None:
    """
    Copy a store, which is closed, but for the files of its blobs.

    What is small has no file but a row; then the blobs' database is left out too.
    """
    source = place.folder / store
    left_out = ["*_blobs"] if any(source.glob("*_blobs/*")) else ["*_blobs", "*_blobs.db*"]
    shutil.copytree(source, place.folder / name, ignore=shutil.ignore_patterns(*left_out))


async def only_document(soledad: Soledad) -> Document:
    """Return the document of a store that has one."""
    _, (doc,) = await soledad.get_all_docs()
    line("get_all_docs", doc.doc_id)
    return doc


async def expect_state(doc: Document, expected: AttachmentStates) -> None:
    """Print the state, which must be the expected one."""
    state = await doc.get_attachment_state()
    line("get_attachment_state", state.name)
    check(state == expected, f"the state should be {expected.name}")


def same(fd: RawIOBase | BinaryIO, path: Path) -> bool:
    """Compare two files, a piece at a time, to the end of both.  This blocks."""
    with fd, path.open("rb") as other:
        while True:
            mine, theirs = fd.read(1 << 20), other.read(1 << 20)
            if mine != theirs or not mine:
                return mine == theirs


def flip(path: Path, position: int) -> None:
    """Flip a bit."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))
