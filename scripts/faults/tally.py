"""Counting what happened, in total and by quarter of a second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

BUCKET_S: Final = 0.25
_GROWTH: Final = 1.1
"""Latencies are counted in classes, each this much wider than the one before."""
_LEAST_S: Final = 0.00005
FAULTS: Final = ("failed", "wrong", "stale", "lost", "backwards")


def latency_class(seconds: float) -> int:
    """Return the class of a latency."""
    return max(0, math.ceil(math.log(max(seconds, _LEAST_S) / _LEAST_S, _GROWTH)))


def latency_of(number: int) -> float:
    """Return the upper end of a class, in seconds."""
    return float(_LEAST_S * _GROWTH**number)


@dataclass
class Bucket:
    """What ended within one quarter of a second."""

    calls: int = 0
    reads: int = 0
    """Keys read of which a value was expected."""
    hits: int = 0
    changes: int = 0
    """Keys changed, and acknowledged."""
    failed: int = 0
    wrong: int = 0
    stale: int = 0
    lost: int = 0
    backwards: int = 0
    latencies: Counter[int] = field(default_factory=Counter)

    def add(self, other: Bucket) -> None:
        """Take another bucket's counts into this one."""
        for name in ("calls", "reads", "hits", "changes", *FAULTS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latencies.update(other.latencies)

    @property
    def hit_rate(self) -> float | None:
        """The share of the reads that should find something and did, in percent."""
        return 100 * self.hits / self.reads if self.reads else None

    def quantile_ms(self, share: float) -> float | None:
        """Return a quantile of the latencies of calls, in milliseconds."""
        left = math.ceil(share * self.latencies.total())
        for number in sorted(self.latencies):
            left -= self.latencies[number]
            if left <= 0:
                return round(1000 * latency_of(number), 3)
        return None


@dataclass
class Tally:
    """What some clients saw. Times are seconds since the load began."""

    buckets: dict[int, Bucket] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    evidence: list[str] = field(default_factory=list)
    """The first few faults of each client, in words."""
    lost_keys: set[tuple[int, int]] = field(default_factory=set)
    """(key, number) of acknowledged values that a read did not find."""
    longest_call_s: float = 0.0
    longest_unavailable_s: float = 0.0
    unavailable: str = ""
    """Which key that was, and when."""

    def at(self, seconds: float) -> Bucket:
        """Return the bucket of a time."""
        number = int(seconds / BUCKET_S)
        bucket = self.buckets.get(number)
        if bucket is None:
            bucket = self.buckets[number] = Bucket()
        return bucket

    def add(self, other: Tally) -> None:
        """Take another client's figures into these."""
        for number, bucket in other.buckets.items():
            self.buckets.setdefault(number, Bucket()).add(bucket)
        self.errors.update(other.errors)
        self.evidence += other.evidence
        self.lost_keys |= other.lost_keys
        self.longest_call_s = max(self.longest_call_s, other.longest_call_s)
        self.note_unavailable(other.longest_unavailable_s, other.unavailable)

    def note_unavailable(self, seconds: float, text: str) -> None:
        """Keep the longest time for which some key could not be had."""
        if seconds > self.longest_unavailable_s:
            self.longest_unavailable_s = seconds
            self.unavailable = text

    def between(self, begin_s: float = 0.0, end_s: float = math.inf) -> Bucket:
        """Return the sum of the buckets that lie within a span."""
        total = Bucket()
        for number, bucket in self.buckets.items():
            if begin_s <= number * BUCKET_S and (number + 1) * BUCKET_S <= end_s:
                total.add(bucket)
        return total

    def lowest_hit_rate(self, begin_s: float, end_s: float, window_s: float = 1.0) -> float | None:
        """Return the lowest hit rate over any window within a span, in percent."""
        starts = [begin_s + i * BUCKET_S for i in range(max(1, int((end_s - begin_s - window_s) / BUCKET_S)))]
        rates = [self.between(start, start + window_s + BUCKET_S).hit_rate for start in starts]
        return min((rate for rate in rates if rate is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        total = self.between()
        return {
            "calls": total.calls,
            **{name: getattr(total, name) for name in FAULTS},
            "lost_keys": len(self.lost_keys),
            "hit_rate_percent": total.hit_rate,
            "p50_ms": total.quantile_ms(0.5),
            "p99_ms": total.quantile_ms(0.99),
            "longest_call_s": round(self.longest_call_s, 3),
            "longest_unavailable_s": round(self.longest_unavailable_s, 3),
            "unavailable": self.unavailable,
            "errors": dict(self.errors),
            "evidence": self.evidence[:20],
            "timeline": [_row(number, self.buckets[number]) for number in sorted(self.buckets)],
        }


def _row(number: int, bucket: Bucket) -> dict[str, Any]:
    return {
        "at_s": number * BUCKET_S,
        "calls": bucket.calls,
        "hit_rate_percent": bucket.hit_rate,
        "p99_ms": bucket.quantile_ms(0.99),
        **{name: getattr(bucket, name) for name in FAULTS},
    }


def total_of(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
