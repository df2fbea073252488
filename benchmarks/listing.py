"""
Row 12: lists of a million blobs, beside lists of a thousand and the same SQL alone; and what others notice of them.

The rows are inserted as they are: there are no bytes behind them, which no list looks for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from io import StringIO
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from benchmarks.results import Result, limited
from benchmarks.server import USER, ServerProcess
from benchmarks.workbench import Subject, measure
from soledad.client.remote.agent import make_agent
from soledad.client.remote.connect import Address, Server
from soledad.deferreds import deferred
from soledad.model.ids import DEFAULT, UserId
from soledad.server import cli
from soledad.server.folder import DataFolder
from soledad.wire.routes import PAGE, PAGE_LIMIT, ListRoute

#: Blobs of the user whose lists are long, and of the one whose lists are short.
MANY, FEW = 1_000_000, 1_000
FEW_USER, OTHER = UserId("few"), UserId("other")
#: Pages that are asked for in a round, one after the other.
ASKED = 10
#: Requests of the other user while the long list is gone through: at least so many.
NOTICED = 500

#: Every hundredth has a flag, and every tenth is a tombstone.
_FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO blobs (user_id, namespace, blob_id, upload, length, etag, flags, stored, changed, date, deleted, expires)
SELECT :user, 'default', lower(hex(randomblob(16))), lower(hex(randomblob(16))), 10240, lower(hex(randomblob(32))),
       CASE WHEN i % 100 = 1 THEN 1 ELSE 0 END, i, i, 1700000000, i % 10 = 0,
       CASE WHEN i % 10 = 0 THEN 9999999999 END
FROM n
"""
_PAGE = """
SELECT * FROM blobs WHERE user_id = ? AND namespace = 'default' AND deleted = 0 AND stored > ? ORDER BY stored LIMIT ?
"""
_COUNT = "SELECT count(*) FROM blobs WHERE user_id = ? AND namespace = 'default' AND deleted = 0"


def fill(path: str, user: str, count: int) -> None:
    """Let a user have ``count`` rows."""
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute(_FILL, {"user": user, "count": count})
        connection.execute("UPDATE users SET changed = ? WHERE user_id = ?", (count, user))


@define(eq=False)
class ListingSpeed:
    """The measurements, in a folder."""

    folder: Path
    rounds: int
    many: int
    _reactor: Any
    _incarnations: dict[str, str] = field(factory=dict, init=False)

    async def run(self) -> list[Result]:
        """Measure."""
        server = ServerProcess.start(str(self.folder))
        try:
            data = DataFolder(str(self.folder))
            clients = {USER: self._client(server, USER, server.token)}
            for user in (FEW_USER, OTHER):
                token = StringIO()
                cli.main(["--data-dir", data.path, "user", "add", user], token)
                clients[user] = self._client(server, user, token.getvalue().strip())
            fill(data.index, USER, self.many)
            fill(data.index, FEW_USER, FEW)
            fill(data.index, OTHER, FEW)
            try:
                return [*await self._pages(clients, data.index), *await self._others(clients)]
            finally:
                for client in clients.values():
                    await client.close()
        finally:
            server.stop()

    def _client(self, server: ServerProcess, user: UserId, token: str) -> Server:
        return Server.over(make_agent(self._reactor), self._reactor, user, Address(server.url, token))

    async def _pages(self, clients: dict[UserId, Server], index: str) -> list[Result]:
        """A hundred blobs from the middle, in every kind of list."""
        results = []
        for name, options in (
            ("by date", {"order_by": "date"}),
            ("newest first", {"order_by": "-date"}),
            ("tombstones", {"deleted": True}),
            ("with a flag", {"filter_flag": "PENDING"}),
        ):
            ways = [await self._asking(clients[user], user, size, options) for user, size in self._sizes()]
            long, short = await measure(self.rounds, Subject(name, ways[0]), Subject("of 1,000", ways[1]))
            results.append(_beside(f"12 page of a list, {name}", long.seconds, f"of {FEW:,} blobs", short.seconds, 1.5))
        ways = [await self._since(clients[user], user, size) for user, size in self._sizes()]
        long, short = await measure(self.rounds, Subject("changes", ways[0]), Subject("of 1,000", ways[1]))
        results.append(_beside("12 page of changes", long.seconds, f"of {FEW:,} blobs", short.seconds, 1.5))
        return [*results, *await self._alone(clients[USER], index)]

    async def _alone(self, client: Server, index: str) -> list[Result]:
        """A whole page, and a count, beside what the database does for them."""
        asking = await self._asking(client, USER, self.many, {"order_by": "date"}, PAGE)
        route = ListRoute(USER, only_count=True)
        with closing(sqlite3.connect(index)) as connection:

            async def raw() -> None:
                for _ in range(ASKED):
                    connection.execute(_PAGE, (USER, self.many // 2, PAGE)).fetchall()

            async def count() -> None:
                for _ in range(ASKED):
                    await client.blobs.count_blobs(route)

            async def raw_count() -> None:
                for _ in range(ASKED):
                    connection.execute(_COUNT, (USER,)).fetchone()

            whole, alone = await measure(self.rounds, Subject("page", asking), Subject("SQL", raw))
            counted, least = await measure(self.rounds, Subject("count", count), Subject("SQL", raw_count))
        return [
            _beside(f"12 page of {PAGE:,}, by date", whole.seconds, "its SQL alone", alone.seconds, None),
            _beside("12 only_count", counted.seconds, "its SQL alone", least.seconds, None),
        ]

    def _sizes(self) -> tuple[tuple[UserId, int], ...]:
        return (USER, self.many), (FEW_USER, FEW)

    async def _asking(
        self, client: Server, user: UserId, size: int, options: dict[str, Any], limit: int = 20
    ) -> Callable[[], Awaitable[None]]:
        after = (await self._token(client, user)).replace("c.", "d.", 1) % (size // 2)
        route = ListRoute(user, DEFAULT, limit=limit, after=after, **options)
        # A list by flags has less than the others: it begins at its beginning.
        return _repeated(client, ListRoute(user, DEFAULT, limit=5, **options) if "filter_flag" in options else route)

    async def _since(self, client: Server, user: UserId, size: int) -> Callable[[], Awaitable[None]]:
        return _repeated(
            client, ListRoute(user, DEFAULT, limit=20, since=await self._token(client, user) % (size // 2))
        )

    async def _token(self, client: Server, user: UserId) -> str:
        head = (await client.blobs.list_blobs(ListRoute(user, limit=1))).head
        return f"{head.rpartition('.')[0]}.%d"

    async def _others(self, clients: dict[UserId, Server]) -> list[Result]:
        """One user goes through the whole list, over and over; another asks for a little at a time."""
        quiet = await self._latencies(clients[OTHER])
        results = [limited("12", "another user's request, at rest: p99", [quiet], 20.0, "ms")]
        for limit in (PAGE, PAGE_LIMIT):
            going = _Going(clients[USER], limit)
            work = going.run()
            busy = await self._latencies(clients[OTHER])
            going.stopped = True
            await work
            what = f"the same, while {self.many:,} blobs are listed in pages of {limit:,}: p99"
            results.append(limited("12", what, [busy], 20.0, "ms"))
        going = _Going(clients[USER], 0)
        work = going.run()
        busy = await self._latencies(clients[OTHER])
        going.stopped = True
        await work
        return [*results, limited("12", f"the same, while {self.many:,} are counted: p99", [busy], 20.0, "ms")]

    async def _latencies(self, client: Server) -> float:
        """Return what 99 of 100 requests do not exceed, in ms."""
        route = ListRoute(OTHER, limit=5)
        taken = []
        for _ in range(NOTICED):
            start = perf_counter()
            await client.blobs.list_blobs(route)
            taken.append(perf_counter() - start)
        return quantiles(taken, n=100)[98] * 1000


@define(eq=False)
class _Going:
    """Goes through a list until it is stopped, and takes nothing apart: that is not the server's time."""

    _client: Server
    #: Blobs in a page; 0: they are counted.
    _limit: int
    stopped: bool = False

    @deferred
    async def run(self) -> None:
        """Go on."""
        after: str | None = None
        while not self.stopped:
            if self._limit:
                after = await self._page(ListRoute(USER, order_by="date", limit=self._limit, after=after))
            else:
                await self._client.blobs.count_blobs(ListRoute(USER, only_count=True))

    async def _page(self, route: ListRoute) -> str | None:
        connection: Any = self._client._connection
        _, body = await connection.ask("GET", route.path, limit=64 * 1024 * 1024)
        tail = bytes(body[-300:]).partition(b'"next":')[2]
        return None if tail.startswith(b"null") else tail.split(b'"')[1].decode("ascii")


def _repeated(client: Server, route: ListRoute) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        for _ in range(ASKED):
            page: Deferred[Any] = client.blobs.list_blobs(route)
            assert (await page).blobs

    return ask


def _beside(what: str, own: list[float], name: str, beside: list[float], target: float | None) -> Result:
    """Say how many times as long as its reference something takes."""
    row, _, what = what.partition(" ")
    ratios = [one / other for one, other in zip(own, beside, strict=True)]
    ratio = median(ratios)
    return Result(
        row,
        what,
        f"{median(own) / ASKED * 1000:.1f} ms",
        f"{name}: {median(beside) / ASKED * 1000:.1f} ms",
        f"{ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
        "" if target is None else f"at most {target:.1f}",
        target is None or ratio <= target,
    )
