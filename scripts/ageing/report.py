"""What people read of a soak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .allocations import ALLOCATED, RESIDENT
from .slopes import COUNTED_EXACTLY, MIB, Finding

PROCESS: Final = (RESIDENT, ALLOCATED, *COUNTED_EXACTLY)
"""What is shown in any case."""


def progress(elapsed_s: float, duration_s: float, sizes_mib: dict[str, float], what: str) -> str:
    """Return a line about how far it is."""
    sizes = ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes_mib.items())
    return f"{elapsed_s:7.1f} of {duration_s:.0f} s  {sizes}{'; ' if what else ''}{what}"


def table(findings: Iterable[Finding]) -> str:
    """Return Markdown: what takes part in the verdict and moves, then what grows in processes that lived shorter."""
    return "\n".join(_lines(list(findings)))


def _lines(findings: list[Finding]) -> Iterator[str]:
    yield "| process | what | level | change an hour | 99 % certain | allowed | |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    deciding = [finding for finding in findings if finding.decides]
    moving = [each for each in deciding if each.grows or each.slope.low * each.slope.high > 0 or each.name in PROCESS]
    for finding in moving:
        yield _row(finding)
    for finding in [finding for finding in findings if not finding.decides and finding.grows]:
        yield _row(finding)
    still: dict[str, list[str]] = {}
    for finding in deciding:
        if finding not in moving:
            still.setdefault(finding.life, []).append(f"{finding.name} ({_figure(finding.slope.level, finding.name)})")
    yield ""
    for life, names in still.items():
        yield f"{life}, no certain change: {', '.join(names)}"


def _row(finding: Finding) -> str:
    slope, name = finding.slope, finding.name
    interval = f"{_figure(slope.low, name, sign='+')} … {_figure(slope.high, name, sign='+')}"
    verdict = ("**grows**" if finding.decides else "grows, and is only told") if finding.grows else ""
    cells = (
        finding.life,
        name,
        _figure(slope.level, name),
        _figure(slope.per_hour, name, sign="+"),
        interval,
        _figure(finding.allowed_per_hour, name, sign="+"),
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def _figure(value: float, name: str, sign: str = "") -> str:
    if name.endswith("bytes"):
        return f"{value / MIB:{sign}.2f} MiB"
    return f"{value:{sign},.0f}" if abs(value) >= 10 or value == int(value) else f"{value:{sign}.1f}"
