"""
Row 5: a thousand small blobs, beside the same client when it has to send each with a request of its own.

Both sides are the same code on the same server; how many blobs go in one request is the only difference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from os import urandom
from pathlib import Path
from typing import Any

from attrs import define, field

from benchmarks.devices import Device, Devices
from benchmarks.results import Result, counted
from benchmarks.workbench import Subject, measure
from soledad.client.sync.blobs import BATCH_LENGTH
from soledad.deferreds import gather

#: Blobs, and the bytes of each.
BLOBS, SIZE = 1000, 10 * 1024
#: What the application puts at a time.
FLIGHT = 100


@define(eq=False)
class SmallBlobs:
    """The measurements, in a folder."""

    _folder: Path
    _rounds: int
    _reactor: Any
    _data: list[bytes] = field(init=False)
    _devices: Devices = field(init=False)
    #: The one that is measured.
    _device: Device | None = field(default=None, init=False)

    @property
    def device(self) -> Device:
        """The device that is measured."""
        assert self._device is not None
        return self._device

    async def run(self) -> list[Result]:
        """Measure."""
        self._data = [urandom(SIZE) for _ in range(BLOBS)]
        self._devices = Devices(self._folder, self._reactor)
        try:
            # Once for nothing: then all has been used.
            await self._open(BATCH_LENGTH)
            await self._put_and_send()
            full = self.device
            results = [
                await self._compared(f"put, send_missing: {BLOBS:,} of 10 KiB", self._open, self._put_and_send, 4.0),
                await self._compared("send_missing alone", self._fill, self._send, None),
                await self._compared(
                    "fetch_missing by another device", partial(self._another, full), self._fetch, None
                ),
            ]
            await full.store.close()
            return results
        finally:
            self._devices.stop()

    async def _compared(
        self,
        name: str,
        before: Callable[[int], Awaitable[None]],
        run: Callable[[], Awaitable[None]],
        target: float | None,
    ) -> Result:
        """Compare batches with single requests; ``before`` is given how many blobs may go in one."""
        together, apart = await measure(
            self._rounds,
            Subject(name, run, partial(before, BATCH_LENGTH), self._close),
            Subject("a request each", run, partial(before, 1), self._close),
        )
        return counted("5", BLOBS, together, apart, target)

    # --- before ---------------------------------------------------------------------------------------

    async def _open(self, batch: int) -> None:
        """Open the store of somebody new."""
        self._use(await self._devices.first(*self._devices.new_user()), batch)

    async def _fill(self, batch: int) -> None:
        """Open one in which all blobs are, and wait to be sent."""
        await self._open(batch)
        await self._put()

    async def _another(self, full: Device, batch: int) -> None:
        """Open one in which none of the blobs is that are on the server."""
        self._use(await self._devices.another(full), batch)

    def _use(self, device: Device, batch: int) -> None:
        remote = device.store.blobs._remote
        assert remote is not None
        remote.engine.batch = batch
        self._device = device

    # --- what is measured -----------------------------------------------------------------------------

    async def _put_and_send(self) -> None:
        await self._put()
        await self._send()

    async def _put(self) -> None:
        put = self.device.store.blobs.put
        for start in range(0, BLOBS, FLIGHT):
            await gather([put(None, data) for data in self._data[start : start + FLIGHT]])

    async def _send(self) -> None:
        await self.device.store.blobs.send_missing()

    async def _fetch(self) -> None:
        await self.device.store.blobs.fetch_missing()

    # --- after ----------------------------------------------------------------------------------------

    async def _close(self) -> None:
        counts = await self.device.store.blobs.sync_progress()
        assert [counts[status] for status in counts] == [BLOBS], counts
        await self.device.store.close()
