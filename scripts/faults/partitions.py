"""A network that falls into two parts and heals: the sides agree afterwards, and nothing comes back from the dead."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from meshcache.config import Config, overrides_of
from meshcache.errors import ConfigError

from .lane import Mix
from .load import Load, Plan
from .namespaces import Network, Nodes, why_impossible
from .observer import Change, Observer
from .scenario import Options, Result
from .tally import Bucket, Tally

MINORITY: Final = ("node1", "node2")
MAJORITY: Final = ("node3", "node4", "node5")
CLIENTS: Final = ("client1", "client2")
"""One on each side."""
AGREE_S_MAX: Final = 5.0
NOTICED_S: Final = 4.0
"""After so long both sides know that the others are gone."""
TIMEOUT_S: Final = 5.0
"""The load's: a client's default."""
CONTESTED: Final = 12
CLOCKS_S: Final = 0.05
"""Nodes' clocks may differ by so much even here: each reads the wall clock once, at its start."""
FRESH_S_MAX: Final = 2.0
"""With "available", what the other side wrote may take so long to be seen after the heal."""


def partition(options: Options) -> Result:
    """Cut 2 nodes off 3, and let both sides go on by themselves."""
    return _run(options, "available", Result("partition", "2 of 5 nodes cut off, policy available, N=3 W=2 R=2"))


def partition_strict(options: Options) -> Result:
    """Cut 2 nodes off 3: the minority must refuse rather than answer with something old."""
    return _run(options, "strict", Result("partition-strict", "2 of 5 nodes cut off, policy strict, N=3 W=2 R=2"))


def _run(options: Options, policy: str, result: Result) -> Result:
    cluster = {"replicas": 3, "write_quorum": 2, "read_quorum": 2, "partition_policy": policy}
    try:
        Config.from_tables(cluster=cluster)
    except ConfigError as problem:
        result.skipped = f"not in this version: {problem}"
        return result
    result.skipped = why_impossible() or ""
    if not result.skipped:
        result.details["cluster"] = cluster
        with ExitStack() as stack:
            split = _Split(options, policy, cluster, result, stack)
            split.run()
    return result


class _Split:
    """One partition, from the first node's start to the last check."""

    def __init__(
        self, options: Options, policy: str, cluster: dict[str, Any], result: Result, stack: ExitStack
    ) -> None:
        self.options = options
        self.policy = policy
        self.result = result
        self.hosts = [*MINORITY, *MAJORITY]
        self.network = stack.enter_context(Network(((*MINORITY, CLIENTS[0]), (*MAJORITY, CLIENTS[1]))))
        logs = options.logs / result.name if options.logs else None
        logs = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshcache-")))
        logs.mkdir(parents=True, exist_ok=True)
        level = "debug" if options.debug else "info"
        overrides = overrides_of({"cluster": cluster, "log": {"level": level}})
        self.nodes = stack.enter_context(Nodes(self.network, self.hosts, overrides, logs))
        # With "available", what the other side writes cannot be seen: only own keys are read.
        mix = Mix(foreign=0.5 if policy == "strict" else 0.0)
        spaces = tuple(self.network.namespace(client) for client in CLIENTS)
        addresses = list(self.nodes.addresses.values())
        self.load = Load(addresses, Plan(rate=options.rate / 2, keys=320, lanes=8, mix=mix, namespaces=spaces))
        self.sides = [
            stack.enter_context(Observer(space, dict(self.nodes.addresses), self.load.ledger)) for space in spaces
        ]
        self.sides[1].call("settle", self.hosts, 30.0, True)
        stack.enter_context(self.load)

    def run(self) -> None:
        """Cut, wait, heal, check."""
        load, contested = self.load, [f"contested:{i}" for i in range(CONTESTED)]
        for key in contested:
            self.sides[1].call("change", key, "before")
        load.run_for(self.options.pick(0.5, 3))
        cut_s = load.mark("cut the cable")
        self.network.cut()
        load.run_for(NOTICED_S)
        expected = {key: self._contest(key, i) for i, key in enumerate(contested)}
        load.run_for(self.options.pick(0, max(0.0, cut_s + 10 - load.now_s)))
        load.stop_writing()
        load.run_for(1)
        heal_s = load.mark("heal it")
        self.network.heal()
        agree_s = self._wait_for_agreement(contested)
        load.mark("all replicas agree")
        load.run_for(1)
        self._finish(cut_s, heal_s, agree_s, expected)

    def _contest(self, key: str, number: int) -> list[Any]:
        """Change a key on both sides, one after the other; return what it may be afterwards."""
        first, second = (0, 1) if number % 2 else (1, 0)
        earlier = "earlier"
        later = None if number % 3 == 2 else "later"
        changes: list[tuple[Change, Any]] = [(self.sides[first].call("change", key, earlier), earlier)]
        threading.Event().wait(CLOCKS_S)
        changes.append((self.sides[second].call("change", key, later), later))
        may_be: list[Any] = ["before"]
        for change, value in changes:
            if change.error:
                self.result.details.setdefault("refused", []).append(change.error)
                may_be.append(value)
            else:
                may_be = [value]
        return may_be

    def _wait_for_agreement(self, contested: list[str]) -> float | None:
        began = time.monotonic()
        pause = threading.Event()
        why = ""
        while time.monotonic() - began < 20:
            try:
                self.sides[1].call("settle", self.hosts, 0.0, False)
                differing = self.sides[1].call("disagreements", contested, "node3")
            except RuntimeError as error:
                why = str(error)
            else:
                if not differing:
                    return time.monotonic() - began
                why = f"{len(differing)} keys differ: {differing[:5]}"
            pause.wait(0.1)
        self.result.details["disagreement"] = why
        self.result.tally.evidence.append(why)
        return None

    def _finish(self, cut_s: float, heal_s: float, agree_s: float | None, expected: dict[str, list[Any]]) -> None:
        result, load = self.result, self.load
        evidence = result.tally.evidence
        result.tally = load.finish()
        result.tally.evidence = evidence + result.tally.evidence
        result.elapsed_s = load.now_s
        result.marks = load.marks
        audits: list[Tally] = [side.call("audit") for side in self.sides]
        found = {key: self.sides[i % 2].call("read", key) for i, key in enumerate(expected)}
        wrong = {key: (found[key], may_be) for key, may_be in expected.items() if found[key] not in may_be}
        result.details["contested"] = {key: repr(pair) for key, pair in wrong.items()}
        result.details["counters"] = self.sides[1].call("counters")
        ended = self.nodes.ended()
        result.details["ended"] = {host: self.nodes.log(host)[-1000:] for host in ended}
        result.check("nodes that ended by themselves", len(ended), 0)
        result.check("all replicas agree, after the heal", agree_s, AGREE_S_MAX, "s")
        result.check("contested keys with another winner than the newest", len(wrong), 0)
        totals = [audit.between() for audit in audits]
        result.tally.evidence += [f"audit: {text}" for audit in audits for text in audit.evidence]
        result.check("audit: stale values, deletes undone included", sum(total.stale for total in totals), 0)
        # The strict policy rather forgets than answers with something old: see README, a network partition.
        forgets = self.policy == "strict"
        result.check("audit: acknowledged values missed", sum(total.lost for total in totals), None if forgets else 0)
        self._check_by_side(cut_s, heal_s)

    def _check_by_side(self, cut_s: float, heal_s: float) -> None:
        result = self.result
        for number, name in enumerate(("minority", "majority")):
            tally = self.load.tallies[number]
            apart = tally.between(cut_s, heal_s)
            # A batch may end by its time-out, and tell then of the keys that were stored in time.
            late = tally.between(cut_s + NOTICED_S + TIMEOUT_S, heal_s)
            refuses = self.policy == "strict" and name == "minority"
            result.check(f"{name}: calls while apart", apart.calls)
            result.check(f"{name}: stale values while apart", apart.stale, 0)
            result.check(f"{name}: failed calls while apart", apart.failed, None if refuses else 0)
            if refuses:
                result.check(f"{name}: changes acknowledged after {NOTICED_S + TIMEOUT_S:g} s", late.changes, 0)
            else:
                result.check(f"{name}: longest unavailability", tally.longest_unavailable_s, None, "s")
        healed: Bucket = result.tally.between(heal_s)
        result.check("stale values after the heal", healed.stale, 0 if self.policy == "strict" else None)
        fresh: Bucket = result.tally.between(heal_s + FRESH_S_MAX)
        result.check(f"stale values later than {FRESH_S_MAX:g} s after the heal", fresh.stale, 0)
        if self.policy == "strict":  # what the minority was asked before has its time-out a little later
            result.check(f"failed calls later than {FRESH_S_MAX:g} s after the heal", fresh.failed, 0)
        else:
            result.check("failed calls after the heal", healed.failed, 0)
        result.check("wrong values", result.tally.between().wrong, 0)
