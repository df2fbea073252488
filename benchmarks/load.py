"""
Rows 6 and 7: memory above idle and the reactors' lateness while attachments move.

Each scenario runs in fresh processes, a client and a server, as memory that an earlier one had left behind would make
a later one look better: ``python -m benchmarks.load FOLDER SOURCE COUNT STEP...`` does one and prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet import task

from benchmarks.probes import Lateness, Probe
from benchmarks.results import MIB, Result, limited
from benchmarks.workbench import Nowhere, Workbench
from soledad.client.document import Document
from soledad.deferreds import deferred, gather

#: Bytes above idle, and seconds of lateness that 99 of 100 calls stay below.
MEMORY, LATE = 48 * MIB, 0.010
SIDES = ("client", "server")
ALL_STEPS = ("put", "upload", "download", "read")


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
    _docs: list[Document] = field(factory=list, init=False)

    async def step(self, name: str) -> dict[str, Any]:
        """Do one step with all attachments at once; return what both processes saw."""
        if name == "download":
            await self._forget()
        os.sync()
        self._bench.server.ask("begin")
        self._probe.begin()
        await getattr(self, f"_{name}")()
        return {"client": self._probe.end(), "server": self._bench.server.ask("end")}

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
    memory = [seen[side]["memory"] / MIB for side in SIDES]
    late = [seen[side]["late"] * 1000 for side in SIDES]
    return [
        limited("6", f"memory, {' / '.join(SIDES)}: {what}", memory, MEMORY / MIB, "MiB"),
        limited("7", f"p99 late, {' / '.join(SIDES)}: {what}", late, LATE * 1000, "ms"),
    ]


@deferred
async def main(reactor: Any, folder: str, source: str, count: str, *steps: str) -> None:
    """Run a scenario in this process, with a server beside it."""
    bench = await Workbench.make(Path(folder), reactor)
    try:
        probe = Probe(Lateness(reactor))
        probe.rest()
        bench.server.ask("rest")
        load = Load(bench, Path(source), int(count), probe)
        print(json.dumps({step: await load.step(step) for step in steps}))
    finally:
        await bench.end()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
