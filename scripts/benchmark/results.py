"""What a run has found, and the ratios between contestants."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .measure import Summary, median_of

if TYPE_CHECKING:
    from .memory import Memory
    from .rows import Row


class Ratio(NamedTuple):
    """How many times as many keys a second one contestant serves than another: medians, and quartiles by round."""

    value: float
    low: float
    high: float


@dataclass(slots=True)
class RowResult:
    """The blocks of one row. The first contestant of a row is the one that the others are held against."""

    row: Row
    blocks: dict[str, list[Summary]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, contestant: str) -> Summary | None:
        """Return the medians of a contestant, None where it did not run."""
        blocks = self.blocks.get(contestant)
        return median_of(blocks) if blocks else None

    def ratio(self, contestant: str) -> Ratio | None:
        """Return how fast the row's first contestant is, this one being 1."""
        first = self.row.contestants[0]
        ours, theirs = self.blocks.get(first), self.blocks.get(contestant)
        if contestant == first or not ours or not theirs:
            return None
        value = median_of(ours).keys_per_s / median_of(theirs).keys_per_s
        pairs = [one.keys_per_s / other.keys_per_s for one, other in zip(ours, theirs, strict=False)]
        low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else (value, value, value)
        return Ratio(value, low, high)

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        contestants = {}
        for name, blocks in self.blocks.items():
            ratio = self.ratio(name)
            contestants[name] = {
                "median": asdict(median_of(blocks)),
                "first_is_times_as_fast": ratio._asdict() if ratio else None,
                "blocks": [asdict(block) for block in blocks],
            }
        about = {"name": self.row.name, "title": self.row.title, "call": self.row.call}
        return {**about, "contestants": contestants, "skipped": self.skipped, "failed": self.failed}


@dataclass(slots=True)
class Results:
    """Everything that a run has found."""

    header: dict[str, str]
    settings: dict[str, Any]
    rows: dict[str, RowResult] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    """Microseconds by column and stage."""
    near_hit_ns: dict[str, dict[str, float]] = field(default_factory=dict)
    """What a hit in a near cache takes, by kind of value and contestant."""
    hit_ratios: list[dict[str, Any]] = field(default_factory=list)
    """Of traces and sizes, as ``scripts/bench eviction`` tells them."""

    def median(self, row: str, contestant: str) -> Summary | None:
        """Return the medians of a contestant in a row, None where it did not run."""
        return self.rows[row].median(contestant) if row in self.rows else None
