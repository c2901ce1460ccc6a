"""What meshcache promises about its speed and memory, held against what this run has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from .measure import Summary
    from .results import Results


class Verdict(NamedTuple):
    """One promise: ``measured`` is None where the run does not show it."""

    text: str
    goal: str
    measured: float | None
    unit: str
    passed: bool | None


class Target(NamedTuple):
    """One promise, as a number that is at least or at most the goal."""

    text: str
    goal: float
    unit: str
    at_least: bool
    measure: Callable[[Results], float | None]

    def verdict(self, results: Results) -> Verdict:
        """Hold the run against the promise."""
        measured = self.measure(results)
        passed = None if measured is None else (measured >= self.goal if self.at_least else measured <= self.goal)
        goal = f"{'>=' if self.at_least else '<='} {self.goal:,g}{self.unit}"
        return Verdict(self.text, goal, measured, self.unit, passed)


def _of(row: str, contestant: str, number: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        summary = results.median(row, contestant)
        return None if summary is None else float(getattr(summary, number))

    return measure


def _rates(row: str, *peers: str) -> Callable[[Results], float | None]:
    """How many times the keys a second of the fastest of the peers."""
    return _quotient(row, lambda ours, theirs: ours.keys_per_s / theirs.keys_per_s, peers)


def _latencies(row: str, peer: str) -> Callable[[Results], float | None]:
    """How many times as long as the peer."""
    return _quotient(row, lambda ours, theirs: ours.p50_us / theirs.p50_us, (peer,))


def _quotient(
    row: str, divide: Callable[[Summary, Summary], float], peers: tuple[str, ...]
) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        ours = results.median(row, "meshcache")
        theirs = [summary for peer in peers if (summary := results.median(row, peer)) is not None]
        return min(divide(ours, summary) for summary in theirs) if ours is not None and theirs else None

    return measure


def _memory(results: Results) -> float | None:
    memory = results.memory.get("meshcache")
    return memory.resident if memory else None


TARGETS: Final[list[Target]] = [
    Target("get_many of 100, rate against redis-py MGET", 1, "x", True, _rates("get_many-100x100B", "redis")),
    Target("get_many of 100, rate against pymemcache", 2, "x", True, _rates("get_many-100x100B", "memcached")),
    Target("set_many of 100, rate against a redis-py pipeline", 4, "x", True, _rates("set_many-100x100B", "redis")),
    Target(
        "64 asyncio gets, rate against the better redis.asyncio",
        4,
        "x",
        True,
        _rates("async-64", "redis", "redis tuned"),
    ),
    Target("one get, p50 against the ZeroMQ ping-pong", 1.25, "x", False, _latencies("get", "zmq")),
    Target("one get, p50 against redis-py", 1.2, "x", False, _latencies("get", "redis")),
    Target(
        "coalesced gets, node CPU per key", 2.5, " us", False, _of("throughput-gets", "meshcache", "server_us_per_key")
    ),
    Target(
        "coalesced gets, keys a second by one node", 1e5, "/s", True, _of("throughput-gets", "meshcache", "keys_per_s")
    ),
    Target("memory per entry over key and value", 260, " B", False, _memory),
    Target("three nodes, one get, p50", 1_000, " us", False, _of("mesh-get", "mesh3", "p50_us")),
    Target("three nodes, one get, p99", 5_000, " us", False, _of("mesh-get", "mesh3", "p99_us")),
    Target("three nodes, one set, p50", 1_000, " us", False, _of("mesh-set", "mesh3", "p50_us")),
    Target("three nodes, one set, p99", 5_000, " us", False, _of("mesh-set", "mesh3", "p99_us")),
]


def verdicts(results: Results) -> list[Verdict]:
    """Hold the run against every promise that it could show."""
    return [target.verdict(results) for target in TARGETS]


def as_json(results: Results) -> list[dict[str, Any]]:
    """Return the verdicts as plain values."""
    return [verdict._asdict() for verdict in verdicts(results)]
