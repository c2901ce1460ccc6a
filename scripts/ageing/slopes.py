"""Does a series of samples grow? A robust line through it, and how certain its slope is.

The line is that of Theil and Sen: its slope is the median of the slopes between any two samples, so that neither single
peaks nor a noisy level tilt it. Its confidence interval is Sen's, from the variance of Kendall's S. Samples that follow
each other closely resemble each other, which would make the interval too narrow; so the medians of ``BLOCKS_MAX`` spans
take the place of the samples.

A series *grows* if even the lower end of the interval exceeds what is allowed. Memory may grow by so much an hour; what
is counted may change over the whole time by as much as its own noise is worth: a share of its level, and a few more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from meshcache.client.routing import HOT_KEYS_MAX
from meshcache.protocol.near_store import CLEARS_MAX, RECENT_MAX, NearCache

from .allocations import ALLOCATED, RESIDENT

BLOCKS_MAX: Final = 40
SAMPLES_MIN: Final = 8
"""Fewer show no slope."""
SIGMAS: Final = 2.576
"""A confidence of 99 %."""
HOUR_S: Final = 3600.0
MIB: Final = 1 << 20

BOUNDED: Final = {
    "near._recent": RECENT_MAX,
    "near._invalidated": RECENT_MAX,
    "near._clears": CLEARS_MAX,
    "routing.hot": HOT_KEYS_MAX,
    "copies._found": NearCache().max_entries,
    "copies._found[]": 5 * NearCache().max_entries,
}
"""Tables that forget only when they are full, by how their names end, with the most that they may have."""

COUNTED_EXACTLY: Final = ("descriptors", "threads")
EXACT_MARGIN: Final = 3.0
EXACT_SHARE: Final = 0.15
"""Of connections, so many come and go; the longer the run, the less that moves its line."""
CALM_S: Final = 120.0
COUNT_MARGIN: Final = 24.0
BYTES_MARGIN: Final = 256 * 1024.0
COUNT_SHARE: Final = 0.1


@dataclass(frozen=True)
class Slope:
    """A line through samples: units per hour, with the ends of the confidence interval."""

    per_hour: float
    low: float
    high: float
    level: float
    """The median of all samples."""
    span_s: float


def slope_of(times_s: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Lay a line through samples; None if they are too few."""
    if len(times_s) < SAMPLES_MIN:
        return None
    points = _blocks(times_s, values)
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0]) * HOUR_S
        for number, later in enumerate(points)
        for earlier in points[:number]
        if later[0] > earlier[0]
    )
    if not slopes:
        return None
    count = len(points)
    width = SIGMAS * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    first = max(0, math.floor((len(slopes) - width) / 2))
    last = min(len(slopes) - 1, math.ceil((len(slopes) + width) / 2))
    return Slope(median(slopes), slopes[first], slopes[last], median(values), times_s[-1] - times_s[0])


def _blocks(times_s: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    size = max(1, math.ceil(len(times_s) / BLOCKS_MAX))
    starts = range(0, len(times_s), size)
    return [(median(times_s[start : start + size]), median(values[start : start + size])) for start in starts]


@dataclass(frozen=True)
class Finding:
    """What became of one quantity in one process."""

    life: str
    name: str
    slope: Slope
    allowed_per_hour: float
    decides: bool
    """Whether the process lived all the time, so that a run fails if this grows."""
    most: float
    """The greatest of the samples."""

    @property
    def grows(self) -> bool:
        """Whether it grows by more than is allowed, as far as the samples can tell."""
        bound = next((bound for end, bound in BOUNDED.items() if self.name.endswith(end)), None)
        if bound is not None:
            return self.most > bound
        return self.slope.low > self.allowed_per_hour

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "process": self.life,
            "what": self.name,
            "level": self.slope.level,
            "per_hour": self.slope.per_hour,
            "low": self.slope.low,
            "high": self.slope.high,
            "allowed_per_hour": self.allowed_per_hour,
            "decides": self.decides,
            "grows": self.grows,
        }


def judge(
    life: str,
    times_s: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    *,
    memory_mib_per_hour: float,
    decides: bool,
) -> list[Finding]:
    """Lay a line through each series of one process. None: what was not known at a time."""
    findings = []
    for name, values in series.items():
        known = [(at, value) for at, value in zip(times_s, values, strict=True) if value is not None]
        slope = slope_of([at for at, _ in known], [value for _, value in known])
        if slope is not None:
            allowed = _allowed_per_hour(name, slope, memory_mib_per_hour)
            findings.append(Finding(life, name, slope, allowed, decides, max(value for _, value in known)))
    return findings


def _allowed_per_hour(name: str, slope: Slope, memory_mib_per_hour: float) -> float:
    if name in {RESIDENT, ALLOCATED}:
        return memory_mib_per_hour * MIB
    if name in COUNTED_EXACTLY:
        change = EXACT_MARGIN + EXACT_SHARE * slope.level * min(1.0, CALM_S / slope.span_s)
    else:
        change = (BYTES_MARGIN if name.endswith("bytes") else COUNT_MARGIN) + COUNT_SHARE * abs(slope.level)
    return change / slope.span_s * HOUR_S
