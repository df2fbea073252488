"""What the measurements share: a file, a server in a process of its own, a store, and the clock."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any

from attrs import define, field, frozen
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from benchmarks.references import random_file
from benchmarks.results import MIB, Times
from benchmarks.server import USER, ServerProcess
from soledad.client.api import Soledad
from soledad.client.document import Document


async def nothing() -> None:
    """Neither prepare nor tidy up."""


@frozen
class Subject:
    """Something whose time is taken; what is done before and after it is not counted."""

    name: str
    run: Callable[[], Awaitable[object]]
    before: Callable[[], Awaitable[object]] = nothing
    after: Callable[[], Awaitable[object]] = nothing


async def measure(rounds: int, *subjects: Subject) -> list[Times]:
    """Let all subjects run in turn, as often as there are rounds, every other round the other way round."""
    times = [Times(subject.name) for subject in subjects]
    pairs = list(zip(subjects, times, strict=True))
    for number in range(rounds):
        for subject, taken in reversed(pairs) if number % 2 else pairs:
            await subject.before()
            gc.collect()
            # What was written before must not be waited for now.
            os.sync()
            start = perf_counter()
            await subject.run()
            taken.seconds.append(perf_counter() - start)
            await subject.after()
    return times


@define(eq=False)
class Workbench:
    """One server and one store under a folder."""

    folder: Path
    server: ServerProcess
    _reactor: Any
    _soledad: Soledad | None = field(default=None, init=False)

    @classmethod
    async def make(cls, folder: Path, reactor: Any) -> Workbench:
        """Start the server and open the store.  All has been used once then."""
        bench = cls(folder, ServerProcess.start(str(folder / "server")), reactor)
        await bench.reopen()
        doc = await bench.attach(b"x" * 1024 * 1024)
        await doc.upload_attachment()
        return bench

    @property
    def soledad(self) -> Soledad:
        """The open store."""
        assert self._soledad is not None
        return self._soledad

    @property
    def sealed(self) -> Path:
        """The folder of sealed files."""
        return self.folder / "store" / f"{USER}_blobs"

    def newest_sealed(self) -> Path:
        """Return the file that was sealed last."""
        return max(self.sealed.iterdir(), key=lambda path: path.stat().st_mtime_ns)

    async def attach(self, source: Any) -> Document:
        """Attach something to a new document, which is saved."""
        doc = await self.soledad.create_doc({})
        await doc.put_attachment(source)
        await self.soledad.put_doc(doc)
        return doc

    async def attach_file(self, path: Path) -> Document:
        """Attach a file to a new document, which is saved."""
        with path.open("rb") as file:
            return await self.attach(file)

    async def reopen(self) -> None:
        """Close the store and open it again."""
        if self._soledad is not None:
            await self._soledad.close()
        self._soledad = await Soledad.open(
            USER,
            "a passphrase",
            data_dir=self.folder / "store",
            server_url=self.server.url,
            auth_token=self.server.token,
            reactor=self._reactor,
        )

    async def lose_files(self) -> None:
        """Let the store be one that has no bytes of its own: all that was uploaded can be fetched."""
        if self._soledad is not None:
            await self._soledad.close()
            self._soledad = None
        for path in self.sealed.iterdir():
            path.unlink()
        await self.reopen()

    async def end(self) -> None:
        """Leave nothing of it."""
        if self._soledad is not None:
            await self._soledad.close()
        self.server.stop()
        rmtree(self.folder)


def warm(*places: Path) -> Callable[[], Awaitable[None]]:
    """Return what reads files, and those in folders: the system may have taken them out of its cache."""

    async def read() -> None:
        for place in places:
            for path in [place] if place.is_file() else place.rglob("*"):
                if path.is_file():
                    with path.open("rb", buffering=0) as file:
                        while file.read(MIB):
                            pass

    return read


def make_source(folder: Path, size: int) -> Path:
    """Make the file that is attached."""
    path = folder / f"source-{size}"
    random_file(path, size)
    return path


@implementer(IConsumer)
@define(eq=False)
class Nowhere:
    """Takes everything as fast as it comes, and keeps nothing."""

    size: int = field(default=0, init=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        self.size += len(data)
