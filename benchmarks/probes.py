"""What a process watches in itself while it works: how much memory it takes, how late its reactor is."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from attrs import define, field

#: Seconds between two looks at the clock.
INTERVAL = 0.002

_SELF = Path("/proc/self")


def resident() -> int:
    """Return the bytes of memory that this process has now."""
    gc.collect()
    return _status("VmRSS")


def peak() -> int:
    """Return the most bytes of memory that this process had since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let `peak` begin anew."""
    (_SELF / "clear_refs").write_text("5")


def _status(name: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status: this needs Linux")


@define(eq=False)
class Lateness:
    """
    How late the reactor calls what is due every 2 ms.

    What was due while something else ran counts too, as late as each of them was: a pause of 100 ms is fifty late
    calls, not one.
    """

    _reactor: Any
    _seconds: list[float] = field(factory=list, init=False)
    _due: float = field(default=0.0, init=False)
    _call: Any = field(default=None, init=False)

    def begin(self) -> None:
        """Measure from now on."""
        self._seconds = []
        self._due = self._reactor.seconds() + INTERVAL
        self._call = self._reactor.callLater(INTERVAL, self._tick)

    def end(self) -> float:
        """Return the lateness, in seconds, that 99 of 100 calls did not exceed."""
        self._call.cancel()
        self._count()
        return sorted(self._seconds)[len(self._seconds) * 99 // 100]

    def _tick(self) -> None:
        self._count()
        self._call = self._reactor.callLater(INTERVAL, self._tick)

    def _count(self) -> None:
        now = self._reactor.seconds()
        late = max(0.0, now - self._due)
        while late >= 0:
            self._seconds.append(late)
            late -= INTERVAL
        self._due = now + INTERVAL


@define(eq=False)
class Probe:
    """Memory and lateness of this process, from one `begin` to the next `end`."""

    _lateness: Lateness
    _idle: int = field(default=0, init=False)

    def rest(self) -> None:
        """This is what the process takes when it does nothing."""
        self._idle = resident()

    def begin(self) -> None:
        """The work begins."""
        forget_peak()
        self._lateness.begin()

    def end(self) -> dict[str, float]:
        """Return bytes above idle, and seconds of lateness."""
        return {"memory": max(0, peak() - self._idle), "late": self._lateness.end()}
