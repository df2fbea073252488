"""``python -m benchmarks``: measures, prints a table, and, if asked, writes it for the documentation."""

from __future__ import annotations

import os
import platform
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import task

from benchmarks import load
from benchmarks.documents import DOCUMENTS, PUT, DocumentSpeed
from benchmarks.listing import MANY, ListingSpeed
from benchmarks.load import PLAIN_STEPS, Scenario
from benchmarks.results import MIB, Result, as_rst, as_text
from benchmarks.small import SmallBlobs
from benchmarks.speed import Speed
from benchmarks.syncing import MANY as IN_STEP
from benchmarks.syncing import SyncSpeed
from benchmarks.workbench import Workbench, make_source
from soledad.deferreds import deferred

_UNITS = {"": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
#: How many times a large attachment lies on the disk: the file, the store's, the server's, and some room.
_COPIES = 4


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
    if match is None:
        raise ArgumentTypeError("a number, with KiB, MiB or GiB behind it")
    return int(match[1]) * _UNITS[match[2]]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--size", type=_size, default=_size("1GiB"), help="of the attachment (default: 1GiB)")
    parser.add_argument("--large", type=_size, default=_size("5GiB"), help="of the largest (default: 5GiB; 0: none)")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="that queries are asked of")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison (default: 5)")
    parser.add_argument(
        "--rows",
        default="1,2,3,4,5,6,8,10,11,12",
        help="what to measure (default: 1,2,3,4,5,6,8,10,11,12); 6 is 7 too, 8 is 9 and queries",
    )
    parser.add_argument("--blobs", type=int, default=MANY, help="that are listed")
    parser.add_argument("--in-step", type=int, default=IN_STEP, help="documents, and blobs, of an idle sync")
    parser.add_argument("--folder", type=Path, help="where the files are (default: the system's for temporary ones)")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--quick", action="store_true", help="64 MiB, one round: do the measurements work?")
    return parser


@deferred
async def main(reactor: Any, *arguments: str) -> None:
    """Measure."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.size, options.large, options.rounds, options.documents = _size("64MiB"), 0, 1, PUT
        options.blobs, options.in_step = MANY // 20, IN_STEP // 20
    with TemporaryDirectory(prefix="soledad-bench-", dir=options.folder) as name:
        folder, rows = Path(name), options.rows.split(",")
        results = await _compare(reactor, folder, rows, options) if {"1", "2", "3", "4"} & set(rows) else []
        if "5" in rows:
            _say("small blobs ...")
            results += await SmallBlobs(_folder(folder / "small"), options.rounds, reactor).run()
        if "6" in rows or "7" in rows:
            results += _load(folder, options)
        if "8" in rows or "9" in rows:
            _say("documents ...")
            speed = DocumentSpeed(_folder(folder / "documents"), options.rounds, options.documents, reactor)
            results += await speed.run()
        if "10" in rows or "11" in rows:
            _say("documents between devices ...")
            speeds = SyncSpeed(_folder(folder / "syncing"), options.rounds, options.in_step, reactor)
            results += await speeds.run(rows)
        if "12" in rows:
            _say("listings ...")
            results += await ListingSpeed(_folder(folder / "listing"), options.rounds, options.blobs, reactor).run()
    print(as_text(results))
    if options.rst is not None:
        options.rst.write_text(as_rst(results, _remarks(options)))


async def _compare(reactor: Any, folder: Path, rows: list[str], options: Namespace) -> list[Result]:
    source = make_source(folder, options.size)
    results: list[Result] = []
    bench = await Workbench.make(_folder(folder / "speed"), reactor)
    try:
        speed = Speed(bench, source, options.rounds, reactor)
        ways: dict[str, Callable[[], Awaitable[list[Result]]]] = {
            "1": speed.put,
            "2": speed.get,
            "3": speed.upload,
            "4": speed.download,
        }
        for row in rows:
            if row in ways:
                _say(f"row {row} ...")
                results += await ways[row]()
    finally:
        await bench.end()
        source.unlink()
    return results


def _load(folder: Path, options: Namespace) -> list[Result]:
    results: list[Result] = []
    for scenario in _scenarios(folder, options):
        _say(f"memory and lateness: {scenario.name} ...")
        source = make_source(folder, scenario.size)
        results += load.run(folder, source, scenario)
        source.unlink()
    return sorted(results, key=lambda result: result.row)


def _scenarios(folder: Path, options: Namespace) -> Iterator[Scenario]:
    yield Scenario(1, options.size)
    yield Scenario(16, options.size // 16)
    yield Scenario(64, options.size // 16)
    yield Scenario(64, options.size // 16, PLAIN_STEPS)
    if disk_usage(folder).free < _COPIES * options.large:
        _say(f"no room for {options.large // MIB:,} MiB: left out")
    elif options.large:
        yield Scenario(1, options.large, ("put", "upload"))


def _remarks(options: Namespace) -> list[str]:
    return [
        f"{options.size // MIB:,} MiB, median of {options.rounds} rounds (least - most); {datetime.now(UTC):%Y-%m-%d},",
        f"{os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}.",
    ]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
