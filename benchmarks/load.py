"""
Rows 6 and 7: memory above idle and the reactors' lateness while attachments move.

Each scenario runs in fresh processes, a client and a server, as memory that an earlier one had left behind would make
a later one look better: ``python -m benchmarks.load FOLDER SOURCE COUNT STEP...`` does one and prints JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.client import HTTPConnectionPool

from benchmarks.probes import Lateness, Probe
from benchmarks.references import PlainClient
from benchmarks.results import MIB, Result, limited
from benchmarks.server import USER
from benchmarks.workbench import Nowhere, Workbench
from soledad.client.document import Document
from soledad.deferreds import deferred, gather
from soledad.model.ids import BlobId
from soledad.wire.routes import BlobRoute

#: Bytes above idle, and seconds of lateness that 99 of 100 calls stay below.
MEMORY, LATE = 48 * MIB, 0.010
SIDES = ("client", "server")
ALL_STEPS = ("at rest", "put", "upload", "download", "read")
#: What a crowd does that is not held to a few transfers at a time: requests that are nothing but that.
PLAIN_STEPS = ("plain PUT", "plain GET")


@frozen
class Scenario:
    """So many attachments of one size, all at the same time."""

    count: int
    size: int
    steps: tuple[str, ...] = ALL_STEPS

    @property
    def name(self) -> str:
        """What the table calls it."""
        size = f"{self.size // MIB:,} MiB"
        return f"1 of {size}" if self.count == 1 else f"{self.count} at a time, {size} each"


@define(eq=False)
class Load:
    """One scenario, step by step."""

    _bench: Workbench
    _source: Path
    _count: int
    _probe: Probe
    _plain: PlainClient
    _reactor: Any
    _docs: list[Document] = field(factory=list, init=False)

    async def step(self, name: str) -> dict[str, Any]:
        """Do one step with all attachments at once; return what both processes saw."""
        if name == "download":
            await self._forget()
        os.sync()
        self._bench.server.ask("begin")
        self._probe.begin()
        await getattr(self, f"_{name.replace(' ', '_').lower()}")()
        return {"client": self._probe.end(), "server": self._bench.server.ask("end")}

    async def _at_rest(self) -> None:
        await deferLater(self._reactor, 2.0)

    async def _forget(self) -> None:
        await self._bench.lose_files()
        ids = [doc.doc_id for doc in self._docs if doc.doc_id is not None]
        self._docs = await self._bench.soledad.get_docs(ids)

    async def _put(self) -> None:
        self._docs = await gather(self._attach() for _ in range(self._count))

    async def _upload(self) -> None:
        await gather(doc.upload_attachment() for doc in self._docs)

    async def _download(self) -> None:
        await gather(doc.download_attachment() for doc in self._docs)

    async def _read(self) -> None:
        await gather(doc.write_attachment_to(Nowhere()) for doc in self._docs)

    async def _plain_put(self) -> None:
        await gather(Deferred.fromCoroutine(self._plain.put(route, self._source)) for route in self._routes())

    async def _plain_get(self) -> None:
        await gather(Deferred.fromCoroutine(self._plain.get(route)) for route in self._routes())

    def _routes(self) -> list[BlobRoute]:
        return [BlobRoute(USER, BlobId(f"plain-{number}")) for number in range(self._count)]

    @deferred
    async def _attach(self) -> Document:
        return await self._bench.attach_file(self._source)


def run(folder: Path, source: Path, scenario: Scenario) -> list[Result]:
    """Run a scenario in fresh processes; return its lines of the table."""
    place = folder / "load"
    place.mkdir()
    what = [str(place), str(source), str(scenario.count), *scenario.steps]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *what], stdout=subprocess.PIPE, check=True, text=True
    )
    seen = json.loads(done.stdout)
    return [line for step in scenario.steps for line in _lines(f"{step}, {scenario.name}", seen[step])]


def _lines(what: str, seen: dict[str, dict[str, float]]) -> list[Result]:
    # Plain requests are made by no client of ours.
    sides = SIDES[1:] if what.startswith(PLAIN_STEPS) else SIDES
    memory = [seen[side]["memory"] / MIB for side in sides]
    late = [seen[side]["late"] * 1000 for side in sides]
    return [
        limited("6", f"memory, {' / '.join(sides)}: {what}", memory, MEMORY / MIB, "MiB"),
        limited("7", f"p99 late, {' / '.join(sides)}: {what}", late, LATE * 1000, "ms"),
    ]


@deferred
async def main(reactor: Any, folder: str, source: str, count: str, *steps: str) -> None:
    """Run a scenario in this process, with a server beside it."""
    bench = await Workbench.make(Path(folder), reactor)
    try:
        # As applications do that must not be held up: a full collection looks at all that Twisted has.
        gc.freeze()
        probe = Probe(Lateness(reactor))
        probe.rest()
        bench.server.ask("rest")
        plain = PlainClient(bench.server.url, bench.server.token, HTTPConnectionPool(reactor))
        load = Load(bench, Path(source), int(count), probe, plain, reactor)
        print(json.dumps({step: await load.step(step) for step in steps}))
        await plain.close()
    finally:
        await bench.end()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
