"""What every process takes, looked at from outside at intervals.

A *life* is one process from its start to its end: a node that was killed begins anew, and its series with it. Of nodes
the levels are taken that their statistics tell (all that ``meshcache stats`` knows as such), so that a count that is
added there is watched without a word here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from faults.watch import Watch

from meshcache.cli.counters import Kind, told_of
from meshcache.cli.report import flatten
from meshcache.errors import MeshcacheError

from .allocations import RESIDENT

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
NO_SIZES: Final = ("hints.waiting.", "links.", "host.", "settings.", "node.ring_changes")
"""Levels that are told otherwise, and the one count that has no sum over the nodes."""
TIMES: Final = ("s", "ms")
"""Units of levels that are no sizes."""

Sample = dict[str, float]


@dataclass
class Life:
    """The samples of one process."""

    name: str
    pid: int
    begin_s: float
    times_s: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def series(self, from_s: float) -> tuple[list[float], dict[str, list[float | None]]]:
        """Return the samples from a time on: their times, and by name the values."""
        first = next((i for i, at in enumerate(self.times_s) if at >= from_s), len(self.times_s))
        chosen = self.samples[first:]
        names = dict.fromkeys(name for sample in chosen for name in sample)
        return self.times_s[first:], {name: [sample.get(name) for sample in chosen] for name in names}


class Lives:
    """All processes that were looked at."""

    def __init__(self) -> None:
        self.all: list[Life] = []
        self._now: dict[str, Life] = {}

    def note(self, name: str, pid: int, now_s: float, sample: Sample) -> None:
        """Keep one sample of the process that has this name now."""
        life = self._now.get(name)
        if life is None or life.pid != pid:
            life = self._now[name] = Life(name, pid, now_s)
            self.all.append(life)
        life.times_s.append(now_s)
        life.samples.append(sample)

    def latest(self, name: str) -> Sample:
        """Return the last sample of a process."""
        life = self._now.get(name)
        return life.samples[-1] if life else {}


def process_sample(pid: int) -> Sample:
    """Return what the system says of a process; nothing if it has ended."""
    proc = Path(f"/proc/{pid}")
    try:
        resident, shared = (int(word) * PAGE_BYTES for word in (proc / "statm").read_text().split()[1:3])
        threads = next(
            int(line.split()[1]) for line in (proc / "status").read_text().splitlines() if line.startswith("Threads:")
        )
        times = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        return {
            RESIDENT: resident,
            "anonymous_bytes": resident - shared,
            "descriptors": len(list((proc / "fd").iterdir())),
            "threads": threads,
            "cpu_s": sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
        }
    except (OSError, StopIteration, ValueError):
        return {}


def node_sample(watch: Watch, node_id: str) -> Sample:
    """Return what a node tells of its tables; nothing if it does not answer."""
    try:
        told = watch.ask(node_id, "stats")
    except MeshcacheError:
        return {}
    levels = {name: value for name, value in flatten(told).items() if _is_size(name, value)}
    waiting = told["hints"]["waiting"]
    return {**levels, "hints.waiting": sum(waiting.values()), "links": len(told["links"])}


def _is_size(name: str, value: Any) -> bool:
    told = told_of(name)
    known = isinstance(value, int | float) and not name.startswith(NO_SIZES)
    return known and told.kind in {Kind.LEVEL, Kind.OWN} and told.unit not in TIMES


def busy_share(lives: Lives, names: Mapping[str, int], span_s: float) -> float:
    """Return how many processors the processes that live now have kept busy on average since they were first seen."""
    spent = 0.0
    for life in lives.all:
        if names.get(life.name) == life.pid or life.samples:
            known = [sample["cpu_s"] for sample in life.samples if "cpu_s" in sample]
            spent += known[-1] - known[0] if known else 0.0
    return spent / max(span_s, 1e-9)
