"""What was measured: a table of results, as text and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from attrs import field, frozen

MIB = 1024 * 1024

#: What the columns of a table are called.
_COLUMNS = ("row", "what", "measured", "beside it", "ratio", "target", "met")


@frozen
class Times:
    """Seconds that one thing took, round by round."""

    name: str
    seconds: list[float] = field(factory=list)

    def speed(self, size: int) -> str:
        """Return the speed of the median round, for ``size`` bytes."""
        return f"{size / MIB / median(self.seconds):,.0f} MiB/s"

    def rate(self, count: int) -> str:
        """Return how many per second the median round did, of ``count`` things."""
        return f"{count / median(self.seconds):,.0f}/s"


@frozen
class Result:
    """A line of the table."""

    row: str
    what: str
    measured: str
    beside: str
    ratio: str
    target: str
    met: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """The line's text, by column."""
        return (self.row, self.what, self.measured, self.beside, self.ratio, self.target, "yes" if self.met else "NO")


def compared(row: str, size: int, subject: Times, reference: Times, target: float) -> Result:
    """
    Say how much faster than its reference a subject is, with so many bytes.

    Rounds are compared pair by pair: what slows the machine down for a while slows both.

    :param target: how many times as fast as the reference it must be.
    """
    return _compared(row, subject, reference, target, (subject.speed(size), reference.speed(size)))


def counted(row: str, count: int, subject: Times, reference: Times, target: float | None) -> Result:
    """Do as `compared`, with so many things; `None`: there is no target."""
    return _compared(row, subject, reference, target, (subject.rate(count), reference.rate(count)))


def slower(row: str, count: int, subject: Times, reference: Times, most: float) -> Result:
    """Say how many times as long as its reference a subject takes, with so many things."""
    ratios = [own / beside for own, beside in zip(subject.seconds, reference.seconds, strict=True)]
    ratio = median(ratios)
    return Result(
        row,
        subject.name,
        subject.rate(count),
        f"{reference.name}: {reference.rate(count)}",
        f"{ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
        f"at most {most:.1f}",
        ratio <= most,
    )


def _compared(row: str, subject: Times, reference: Times, target: float | None, speeds: tuple[str, str]) -> Result:
    ratios = [beside / own for own, beside in zip(subject.seconds, reference.seconds, strict=True)]
    ratio = median(ratios)
    return Result(
        row,
        subject.name,
        speeds[0],
        f"{reference.name}: {speeds[1]}",
        f"{ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
        "" if target is None else f"at least {target:.1f}",
        target is None or ratio >= target,
    )


def limited(row: str, what: str, values: Sequence[float], limit: float, unit: str) -> Result:
    """Say whether all of some values stayed below their limit."""
    measured = " / ".join(f"{value:.1f}" for value in values)
    return Result(row, what, f"{measured} {unit}", "", "", f"below {limit:g} {unit}", max(values) < limit)


def as_text(results: Sequence[Result]) -> str:
    """Return the table to be read on a terminal."""
    lines = [_COLUMNS, *(result.cells for result in results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_padded(line, widths) for line in lines)


def as_rst(results: Sequence[Result], remarks: Iterable[str]) -> str:
    """Return the table for the documentation, with ``remarks`` below it."""
    table = [".. list-table::", "   :header-rows: 1", ""]
    for cells in [_COLUMNS, *(result.cells for result in results)]:
        table += [f"   {'*' if cell is cells[0] else ' '} - {cell}".rstrip() for cell in cells]
    return "\n".join([*table, "", *remarks, ""])


def _padded(line: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
