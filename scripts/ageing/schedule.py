"""How long everything in a soak takes: all follows from the length of the run, so that a short one shows the same.

A table with a time limit, of tombstones say, grows until the first entries leave it. So every such limit of the mesh is
set to a small part of the run, and what happened before ``warmup_s`` is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def _within(value: float, least: float, most: float) -> float:
    return max(least, min(most, value))


@dataclass(frozen=True)
class Schedule:
    """The times of a run of ``duration_s``, in seconds."""

    duration_s: float

    @property
    def warmup_s(self) -> float:
        """What came before this is not judged."""
        return 0.35 * self.duration_s

    @property
    def warming_s(self) -> float:
        """For so long, from the beginning, clients mostly do what takes the most memory."""
        return _within(self.duration_s / 20, 1.0, 120.0)

    @property
    def sample_s(self) -> float:
        """The time between two looks at the processes."""
        return _within(self.duration_s / 360, 0.5, 5.0)

    @property
    def churn_s(self) -> float:
        """The time between two things that are done to the mesh."""
        return _within(self.duration_s / 60, 3.0, 20.0)

    @property
    def grace_s(self) -> float:
        """For how long deletes, drops and nodes that have left are remembered."""
        return _within(self.duration_s / 20, 3.0, 90.0)

    @property
    def ttl_s_max(self) -> float:
        """The longest lifetime of the values that expire."""
        return _within(self.duration_s / 15, 3.0, 60.0)

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the configuration of the nodes: a store that is full before the warm-up ends, and short memories."""
        entries = int(_within(4 * self.duration_s, 150, 4_000))
        return {
            "store": {
                "max_entries": entries,
                "max_bytes": 3_000 * entries,
                "tombstone_grace_s": self.grace_s,
                "default_ttl_s": self.ttl_s_max,
            },
            "membership": {"forget_after_s": self.grace_s},
            "hot_keys": {"threshold_reads": 100, "window_s": 10.0},
            "snapshot": {"enabled": True, "interval_s": _within(self.duration_s / 30, 3.0, 60.0)},
        }
