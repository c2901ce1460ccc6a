"""What all scenarios share: their options, a mesh under load, and the figures that come of it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import meshcache

from .ledger import Ledger
from .load import Load, Plan, audit
from .tally import Tally
from .trees import running
from .watch import Watch, sum_of


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    quick: bool = False
    rounds: int = 0
    """Of kill9 and stampede; 0: as many as fit."""
    beside: int = 0
    """How many processes keep the machine busy meanwhile."""
    rate: float = 600.0
    seed: int = 1
    logs: Path | None = None
    debug: bool = False
    attacks: tuple[str, ...] = ()
    """Of hostile; none: all of them."""
    commit: str = ""
    """Of upgrade: whose code is the old one; none: the last of the protocol version before."""

    def pick(self, quick: float, full: float) -> float:
        """Return the first for a quick run, else the second."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Check:
    """A figure and what it should be."""

    name: str
    value: float | None
    goal: float | None
    """At most this; None: no goal, only told."""
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the goal was met; what could not be measured was not."""
        return self.goal is None or (self.value is not None and self.value <= self.goal)


@dataclass
class Result:
    """What came of one scenario."""

    name: str
    title: str
    checks: list[Check] = field(default_factory=list)
    skipped: str = ""
    """Why it was not run."""
    elapsed_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    marks: list[tuple[float, str]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every goal was met."""
        return all(check.passed for check in self.checks)

    def check(self, name: str, value: float | None, goal: float | None = None, unit: str = "") -> None:
        """Add a figure."""
        rounded = value if value is None or isinstance(value, int) else round(value, 3)
        self.checks.append(Check(name, rounded, goal, unit))

    def check_answers(
        self,
        *,
        failed_percent: float | None = 0.0,
        lost: int | None = 0,
        stale: int | None = 0,
        unavailable_s: float | None = None,
    ) -> None:
        """Add the figures of the answers. None: no goal for it."""
        total = self.tally.between()
        self.check("calls checked", total.calls)
        self.check("wrong values", total.wrong, 0)
        self.check("stale values", total.stale, stale)
        self.check("reads older than one before", total.backwards, None if stale is None else 0)
        self.check("acknowledged values missed", len(self.tally.lost_keys), lost)
        self.check("failed calls", total.failed)
        self.check("failed calls, share", 100 * total.failed / max(1, total.calls), failed_percent, "%")
        self.check("longest unavailability of a key", self.tally.longest_unavailable_s, unavailable_s, "s")
        self.check("p99 of all calls", total.quantile_ms(0.99), None, "ms")

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        if self.skipped:
            return {"name": self.name, "title": self.title, "skipped": self.skipped, "passed": True}
        return {
            "name": self.name,
            "title": self.title,
            "passed": self.passed,
            "elapsed_s": round(self.elapsed_s, 1),
            "checks": [
                {"name": c.name, "value": c.value, "goal": c.goal, "unit": c.unit, "passed": c.passed}
                for c in self.checks
            ],
            "marks": [{"at_s": round(at_s, 2), "what": what} for at_s, what in self.marks],
            **self.tally.as_json(),
            **self.details,
        }


class Stage:
    """A mesh of real processes on this machine, under load."""

    def __init__(self, mesh: meshcache.LocalMesh, load: Load, watch: Watch, result: Result, options: Options) -> None:
        self.mesh = mesh
        self.load = load
        self.watch = watch
        self.result = result
        self.options = options
        self.random = random.Random(options.seed)
        self.expected = set(mesh.pids)
        """The nodes that should be running."""

    def settle(self, timeout_s: float = 30.0, *, wholly: bool = False) -> float:
        """Return the seconds until the nodes that should run are one mesh with every copy in place.

        ``wholly``: and until the rings of before do not count any more.
        """
        ids = [f"node{i + 1}" for i in range(len(self.mesh.addresses))]
        self.watch.addresses = dict(zip(ids, self.mesh.addresses, strict=True))
        return self.watch.settle(self.expected, timeout_s, wholly=wholly)

    def kill(self, node_id: str) -> None:
        """Kill -9 a node."""
        self.expected.discard(node_id)
        self.load.mark(f"kill -9 {node_id}")
        self.mesh.kill(node_id)

    def start(self, node_id: str) -> None:
        """Start a node that was killed, with nothing in its memory."""
        self.mesh.start(node_id)
        self.expected.add(node_id)
        self.load.mark(f"start {node_id}")

    def finish(self, audits: int = 1) -> None:
        """End the load, read every key once more, and note what the nodes counted."""
        result = self.result
        result.tally = self.load.finish()
        result.elapsed_s = self.load.now_s
        for _ in range(audits):
            with self.mesh.client() as cache:
                add_audit(result, cache, self.load.ledger)
        ended = sorted(self.expected - set(self.mesh.pids))
        result.check("nodes that ended by themselves", len(ended), 0)
        result.details["ended"] = {node_id: self.mesh.log(node_id)[-1000:] for node_id in ended}
        result.details["counters"] = sum_of(self.watch.counters(sorted(self.mesh.pids)))
        result.marks = self.load.marks


def add_audit(result: Result, cache: meshcache.Client, ledger: Ledger) -> None:
    """Read every key after the load, and add what that shows."""
    found = audit(cache, ledger)
    total = found.between()
    last = max(result.tally.buckets, default=0)
    result.tally.buckets.setdefault(last, type(total)()).add(total)
    result.tally.errors.update(found.errors)
    result.tally.evidence += [f"audit: {text}" for text in found.evidence]
    result.tally.lost_keys |= found.lost_keys
    result.details["audit"] = {name: getattr(total, name) for name in ("failed", "wrong", "stale", "lost")}


@contextmanager
def staged(
    result: Result,
    options: Options,
    *,
    nodes: int,
    cluster: dict[str, Any],
    plan: Plan | None = None,
    store: dict[str, Any] | None = None,
    tree: Path | None = None,
) -> Iterator[Stage]:
    """Start a mesh and a load on it; ``stage.finish()`` completes the result.

    ``tree``: a folder with the code of the nodes, see trees.py.
    """
    tables: dict[str, Any] = {"cluster": cluster, "store": store or {"max_entries": 100_000}}
    if options.quick:
        tables["membership"] = {"transition_s": 1.0}
    if options.debug:
        tables["log"] = {"level": "debug"}
    logs = options.logs / result.name if options.logs else None
    result.details.update(nodes=nodes, cluster=cluster)
    with ExitStack() as exits:
        with running(tree):
            mesh = exits.enter_context(meshcache.LocalMesh(nodes=nodes, data_dir=logs, **tables))
        watch = exits.enter_context(Watch({}))
        load = Load(mesh.addresses, plan or Plan(rate=options.rate))
        with load:
            stage = Stage(mesh, load, watch, result, options)
            stage.settle(wholly=True)
            yield stage


def ratio(after: float | None, before: float | None) -> float:
    """Return how many times a figure is what it was before."""
    return math.inf if not before or after is None else after / before
