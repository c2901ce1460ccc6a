"""What meshcache is to reach in speed and memory, held against what a run has measured.

Rates are how many times the keys a second of a peer in the same run. A target names the rows that it needs, so that
``scripts/bench targets`` can measure these and no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .gate import MEMORY_ROW

if TYPE_CHECKING:
    from collections.abc import Callable

    from .measure import Summary
    from .results import Results

NEAR: Final = "near"
"""In place of a row: what ``scripts/bench near --hits`` measures."""
HIT_RATIOS: Final = "hit ratios"
"""In place of a row: what ``scripts/bench eviction --json`` has found."""


class Verdict(NamedTuple):
    """One target: ``measured`` is None where the run does not show it."""

    text: str
    goal: str
    measured: float | None
    unit: str
    passed: bool | None


class Target(NamedTuple):
    """One target, as a number that is at least or at most the goal."""

    text: str
    goal: float
    unit: str
    at_least: bool
    row: str
    measure: Callable[[Results], float | None]

    def verdict(self, results: Results) -> Verdict:
        """Hold the run against the target."""
        measured = self.measure(results)
        passed = None if measured is None else (measured >= self.goal if self.at_least else measured <= self.goal)
        goal = f"{'>=' if self.at_least else '<='} {self.goal:,g}{self.unit}"
        return Verdict(self.text, goal, measured, self.unit, passed)


def _rate(text: str, row: str, goal: float, *peers: str) -> Target:
    """How many times the keys a second of the fastest of the peers, redis-py unless they are named."""
    return Target(text, goal, "x", True, row, _quotient(row, lambda ours, theirs: ours / theirs, "keys_per_s", peers))


def _latency(text: str, row: str, goal: float, *peers: str) -> Target:
    """How many times as long as the fastest of the peers, in the median."""
    # The least of theirs / ours is that of the fastest peer.
    least = _quotient(row, lambda ours, theirs: theirs / ours, "p50_us", peers)
    return Target(text, goal, "x", False, row, lambda results: 1 / found if (found := least(results)) else None)


def _quotient(
    row: str, divide: Callable[[float, float], float], number: str, peers: tuple[str, ...]
) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        if row not in results.rows:
            return None
        ours = results.median(row, results.rows[row].row.contestants[0])
        theirs = [summary for peer in peers or ("redis",) if (summary := results.median(row, peer)) is not None]
        if ours is None or not theirs:
            return None
        return min(divide(getattr(ours, number), getattr(summary, number)) for summary in theirs)

    return measure


def _number(text: str, row: str, goal: float, unit: str, number: str, *, at_least: bool = False) -> Target:
    """One of the medians of the row's first contestant."""

    def measure(results: Results) -> float | None:
        summary: Summary | None = None
        if row in results.rows:
            summary = results.median(row, results.rows[row].row.contestants[0])
        return None if summary is None else float(getattr(summary, number))

    return Target(text, goal, unit, at_least, row, measure)


def _memory(results: Results) -> float | None:
    memory = results.memory.get("meshcache")
    return memory.resident if memory else None


def _near(kind: str) -> Callable[[Results], float | None]:
    """How many times as long a hit of the near cache takes as one of cachetools."""

    def measure(results: Results) -> float | None:
        found = results.near_hit_ns.get(kind, {})
        if "cachetools.LRUCache.get" not in found:
            return None
        return found["meshcache near cache"] / found["cachetools.LRUCache.get"]

    return measure


def _gains(results: Results) -> list[float]:
    """By how many points S3-FIFO hits more than LRU, for each trace and size."""
    return [100 * (float(row["s3fifo"]) - float(row["lru"])) for row in results.hit_ratios]


def _share_better(results: Results) -> float | None:
    gains = _gains(results)
    return sum(gain > 0 for gain in gains) / len(gains) if gains else None


def _worst_gain(results: Results) -> float | None:
    return min(_gains(results), default=None)


_GET, _SET, _GETS = "get", "set", "async-64-tasks"
_GET_100, _GET_1000, _SET_100, _SET_1000 = (
    f"{operation}-{count}x100B" for operation in ("get_many", "set_many") for count in (100, 1000)
)

TARGETS: Final[list[Target]] = [
    _rate("one get, rate against redis-py", _GET, 0.8),
    _latency("one get, p50 against the ZeroMQ ping-pong", _GET, 1.35, "zmq"),
    _latency("one get, p50 against redis-py", _GET, 1.2, "redis"),
    _rate("one set with a TTL, rate against redis-py", _SET, 0.75),
    _rate("get_many of 100, rate against redis-py MGET", _GET_100, 1),
    _rate("get_many of 1,000, rate against redis-py MGET", _GET_1000, 0.8),
    _rate("get_many of 100, rate against pymemcache", _GET_100, 2, "memcached"),
    _rate("set_many of 100, rate against a redis-py pipeline", _SET_100, 5),
    _rate("set_many of 1,000, rate against a redis-py pipeline", _SET_1000, 8),
    _rate("set_many of 100, rate against pymemcache", _SET_100, 1.2, "memcached"),
    _rate("64 asyncio tasks, rate against redis.asyncio", _GETS, 8),
    _rate("64 asyncio tasks, rate against valkey-glide", _GETS, 1.5, "redis glide"),
    _rate("waves of 64 gets, rate against the better redis.asyncio", "async-64", 4, "redis", "redis tuned"),
    _rate("get_many of 10 values of 1 MB, rate against redis-py", "get_many-10x1MB", 0.8),
    _rate("set_many of 10 values of 1 MB, rate against redis-py", "set_many-10x1MB", 0.8),
    _rate("get_many of 1,000 values of 10 KB, against redis-py", "get_many-1000x10KB", 0.8),
    _rate("set_many of 1,000 values of 10 KB, against redis-py", "set_many-1000x10KB", 1.5),
    _rate("three nodes, one get, rate against redis-py", "mesh-get", 0.7),
    _rate("three nodes, one set, rate against redis-py", "mesh-set", 0.4),
    _rate("three nodes, get_many of 100, rate against redis-py", f"mesh-{_GET_100}", 0.6),
    _rate("three nodes, set_many of 100, rate against redis-py", f"mesh-{_SET_100}", 2),
    _number("three nodes, one get, p50", "mesh-get", 1_000, " us", "p50_us"),
    _number("three nodes, one get, p99", "mesh-get", 5_000, " us", "p99_us"),
    _number("three nodes, one set, p50", "mesh-set", 1_000, " us", "p50_us"),
    _number("three nodes, one set, p99", "mesh-set", 5_000, " us", "p99_us"),
    _number("get_many of 100, node CPU per key", _GET_100, 0.4, " us", "server_us_per_key"),
    _number("one get, node CPU", _GET, 55, " us", "server_us_per_key"),
    _number("coalesced gets, node CPU per key", "throughput-gets", 2.5, " us", "server_us_per_key"),
    _number("coalesced gets, keys a second by one node", "throughput-gets", 1e5, "/s", "keys_per_s", at_least=True),
    Target("near-cache hit of a text, time against cachetools", 1.0, "x", False, NEAR, _near("a str")),
    Target("near-cache hit of a dict, time against cachetools", 1.1, "x", False, NEAR, _near("a dict, same handling")),
    Target("memory per entry over key and value", 120, " B", False, MEMORY_ROW, _memory),
    Target("traces and sizes where s3fifo hits more than lru", 0.5, "", True, HIT_RATIOS, _share_better),
    Target("s3fifo against lru at worst, points", -0.5, "", True, HIT_RATIOS, _worst_gain),
    # What the same rows were before there was a native module: without it they must not have become slower.
    _rate("native module off: one get, against redis-py", f"pure-{_GET}", 0.49),
    _rate("native module off: one set, against redis-py", f"pure-{_SET}", 0.44),
    _rate("native module off: get_many of 100, against redis-py", f"pure-{_GET_100}", 0.35),
    _rate("native module off: get_many of 1,000, against redis-py", f"pure-{_GET_1000}", 0.27),
    _rate("native module off: set_many of 100, against redis-py", f"pure-{_SET_100}", 2.1),
    _rate("native module off: set_many of 1,000, against redis-py", f"pure-{_SET_1000}", 3.4),
    _rate("native module off: set_many of 100, against pymemcache", f"pure-{_SET_100}", 0.7, "memcached"),
    _rate("native module off: 64 asyncio tasks, against redis.asyncio", f"pure-{_GETS}", 3.9),
    _rate("native module off: get_many of 10 values of 1 MB", "pure-get_many-10x1MB", 0.19),
    _rate("native module off: set_many of 10 values of 1 MB", "pure-set_many-10x1MB", 0.15),
    _rate("native module off: get_many of 1,000 values of 10 KB", "pure-get_many-1000x10KB", 0.39),
    _rate("native module off: set_many of 1,000 values of 10 KB", "pure-set_many-1000x10KB", 0.74),
    _rate("native module off: three nodes, one get", "pure-mesh-get", 0.42),
    _rate("native module off: three nodes, one set", "pure-mesh-set", 0.20),
    _rate("native module off: three nodes, get_many of 100", f"pure-mesh-{_GET_100}", 0.26),
    _rate("native module off: three nodes, set_many of 100", f"pure-mesh-{_SET_100}", 0.65),
    _number(
        "native module off: get_many of 100, node CPU per key", f"pure-{_GET_100}", 1.7, " us", "server_us_per_key"
    ),
    _number("native module off: one get, node CPU", f"pure-{_GET}", 101, " us", "server_us_per_key"),
]


def verdicts(results: Results) -> list[Verdict]:
    """Hold the run against every target, also those that it does not show."""
    return [target.verdict(results) for target in TARGETS]


def lines(results: Results, *, also_unmeasured: bool = False) -> list[str]:
    """Show one line for each target: what, what was measured, what it should be, and whether it is so."""
    shown = []
    for verdict in verdicts(results):
        if verdict.measured is not None:
            number = f"{verdict.measured:,.{0 if abs(verdict.measured) >= 100 else 2}f}{verdict.unit}"
            mark = "ok" if verdict.passed else "missed"
            shown.append(f"  {mark:8}{verdict.text:60}{number:>12}   {verdict.goal}")
        elif also_unmeasured:
            shown.append(f"  -       {verdict.text:60}{'no figure':>12}   {verdict.goal}")
    return shown


def as_json(results: Results) -> list[dict[str, Any]]:
    """Return the verdicts as plain values."""
    return [verdict._asdict() for verdict in verdicts(results)]
