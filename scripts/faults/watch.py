"""Looking at a mesh from outside: when it is settled, who takes whom for what, and what the nodes counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

import meshcache
from meshcache.cli.report import flatten
from meshcache.core.membership.members import State
from meshcache.errors import MeshcacheError, OperationTimeout
from meshcache.protocol.messages import Fact

ASK_TIMEOUT_S: Final = 1.0
LOOK_INTERVAL_S: Final = 0.02

View = dict[str, Fact]
"""What one node says of every member, by id."""


def wait_until(condition: Callable[[], object], timeout_s: float, what: str, interval_s: float = 0.05) -> float:
    """Return the seconds until a condition held; OperationTimeout if it did not in time."""
    began = time.monotonic()
    pause = threading.Event()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise OperationTimeout(f"{what}: not within {timeout_s:g} s")
        pause.wait(interval_s)
    return time.monotonic() - began


class Watch:
    """A client for each node, which asks that node and no other."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """``addresses`` by node id."""
        self.addresses = dict(addresses)
        self._clients: dict[str, meshcache.Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def ask(self, node_id: str, what: str, key: bytes = b"") -> dict[str, Any]:
        """Inspect one node; MeshcacheError if it does not answer."""
        address = self.addresses[node_id]
        if node_id not in self._clients:
            self._clients[node_id] = meshcache.Client([address], timeout=ASK_TIMEOUT_S)
        return self._clients[node_id].inspect(what, key, node=address)

    def view(self, node_id: str) -> View:
        """Return how a node sees the members."""
        facts = [Fact(*row) for row in self.ask(node_id, "view")["members"]]
        return {fact.node_id: fact for fact in facts}

    def unsettled(self, present: Iterable[str], *, wholly: bool = False) -> str | None:
        """Say what keeps these nodes from being one mesh with every copy in place; None if nothing does.

        ``wholly``: former rings must be forgotten, too.
        """
        expected = sorted(present)
        digests = set()
        for node_id in expected:
            try:
                status = self.ask(node_id, "status")
            except MeshcacheError as error:
                return f"{node_id} does not answer: {error}"
            alive = sorted(member["node_id"] for member in status["members"] if member["state"] == "alive")
            others = [m["node_id"] for m in status["members"] if m["state"] == "suspect"]
            unsynced = [m["node_id"] for m in status["members"] if m["state"] == "alive" and not m["synced"]]
            if not status["ready"]:
                return f"{node_id} is not ready"
            if alive != expected or others:
                return f"{node_id} takes {alive} for alive and {others} for suspect"
            if unsynced or status["slots_missing"]:
                return f"{node_id}: {status['slots_missing']} slots missing, {unsynced} not synced"
            if wholly and status["changing"]:
                return f"{node_id} has not done with former rings"
            digests.add(status["ring_digest"])
        return None if len(digests) == 1 else "the rings differ"

    def settle(self, present: Iterable[str], timeout_s: float = 30.0, *, wholly: bool = False) -> float:
        """Return the seconds until these nodes are one mesh with every copy in place."""
        expected = list(present)
        began = time.monotonic()
        pause = threading.Event()
        while why := self.unsettled(expected, wholly=wholly):
            if time.monotonic() - began > timeout_s:
                raise OperationTimeout(f"the mesh did not settle within {timeout_s:g} s: {why}")
            pause.wait(0.1)
        return time.monotonic() - began

    def times_until(self, observers: Iterable[str], subject: str, timeout_s: float) -> dict[str, dict[str, float]]:
        """Return, for each observer, after how long it took the subject for "suspect" and for "dead" (or later)."""
        pause = threading.Event()
        began = time.monotonic()
        seen: dict[str, dict[str, float]] = {node_id: {} for node_id in observers}
        while time.monotonic() - began < timeout_s and not all("dead" in times for times in seen.values()):
            for node_id, times in seen.items():
                fact = self.view(node_id).get(subject)
                after_s = time.monotonic() - began
                if fact is None or fact.state >= State.SUSPECT:
                    times.setdefault("suspect", after_s)
                if fact is None or fact.state >= State.DEAD:
                    times.setdefault("dead", after_s)
            pause.wait(LOOK_INTERVAL_S)
        return seen

    def counters(self, node_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the counters of each node that answers, flat."""
        found = {}
        for node_id in node_ids:
            try:
                parts = self.ask(node_id, "stats")
            except MeshcacheError:
                continue
            found[node_id] = {name: value for name, value in flatten(parts).items() if isinstance(value, int | float)}
        return found


def sum_of(counters: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the sums over all nodes of the counters that tell of faults; of times the maximum."""
    names = (
        "node.late",
        "node.stale_boot",
        "node.rejoins",
        "node.refused",
        "node.undeliverable",
        "node.malformed",
        "node.ring_changes",
        "node.router_resets",
        "coordinator.repairs",
        "coordinator.restamps",
        "store.evictions",
    )
    sums = {name: sum(values.get(name, 0) for values in counters.values()) for name in names}
    times = [name for values in counters.values() for name in values if name.startswith("node.longest_")]
    for name in ["node.longest_turn_ms", *times]:
        sums[name] = max((values.get(name, 0) for values in counters.values()), default=0)
    return sums
