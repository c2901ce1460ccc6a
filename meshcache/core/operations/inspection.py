"""What a node tells of itself and of the mesh: plain maps, for the command line and its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from meshcache.core.counters import Counters
from meshcache.core.membership.members import State
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.notices import Notices
from meshcache.protocol import messages as m
from meshcache.protocol.record import HEADER_BYTES, NEVER_MS, expires_ms_of, extras_of, is_tombstone, version_of

EXPLAIN_WAIT_S: Final = 1.0
"""How long an explanation waits for silent replicas before it is given without them."""

TABLES_TOLD: Final = ("cluster", "store", "membership", "hot_keys", "limits")
"""Tables of the configuration that a node tells: none with secrets or places in it."""


def view(coordinator: Coordinator) -> dict[str, Any]:
    """Return the member table, as clients need it to build the ring."""
    return {"members": coordinator.membership.facts()}


def status(coordinator: Coordinator, notices: Notices, *, ready: bool) -> dict[str, Any]:
    """Return the members and their health, as this node sees them."""
    ring = coordinator.view.ring
    primaries: dict[str, int] = {}
    copies: dict[str, int] = {}
    for owners in ring.owners:
        for rank, node_id in enumerate(owners):
            primaries[node_id] = primaries.get(node_id, 0) + (rank == 0)
            copies[node_id] = copies.get(node_id, 0) + 1
    own = coordinator.membership.own
    held, settings = coordinator.store.statistics(), coordinator.config.store
    return {
        "cluster": coordinator.config.cluster.name,
        "replicas": coordinator.config.cluster.replicas,
        "write_quorum": coordinator.config.cluster.write_quorum,
        "read_quorum": coordinator.config.cluster.read_quorum,
        "vnodes": coordinator.config.cluster.vnodes,
        "slots": coordinator.config.cluster.slots,
        "value_bytes_max": coordinator.config.limits.value_bytes_max,
        "node_id": own.node_id,
        "address": own.address,
        "boot": own.boot,
        "ready": ready,
        "ring_digest": ring.digest.hex(),
        "changing": bool(coordinator.view.former),
        "hints": sum(coordinator.pending.background["hints"].statistics()["waiting"].values()),
        "compared_s_ago": coordinator.pending.background["anti_entropy"].statistics()["pass_age_s"],
        "slots_missing": sum(
            owned and not held for owned, held in zip(coordinator.view.owned, coordinator.view.held, strict=True)
        ),
        "store": {
            "entries": held.entries,
            "max_entries": settings.max_entries,
            "bytes": held.bytes,
            "max_bytes": settings.max_bytes,
            "evictions": held.evictions + held.refused,
            "evicted_s_ago": notices.evicted_s_ago,
        },
        "breakers_open": [
            node_id for node_id, is_open in coordinator.pending.breakers.statistics()["open"].items() if is_open
        ],
        "members": [
            {
                "node_id": fact.node_id,
                "address": fact.address,
                "state": State(fact.state).name.lower(),
                "incarnation": fact.incarnation,
                "boot": fact.boot,
                "host": fact.host,
                "zone": fact.zone,
                "weight": fact.weight,
                "synced": fact.synced == ring.digest or fact.weight == 0,
                "primary_slots": primaries.get(fact.node_id, 0),
                "copy_slots": copies.get(fact.node_id, 0),
            }
            for fact in coordinator.membership.facts()
            if fact.state != State.FORGOTTEN
        ],
    }


def replica(coordinator: Coordinator, key: bytes) -> dict[str, Any]:
    """Return what this node holds of a key, without its value."""
    record = coordinator.store.peek(key)
    state = coordinator.membership.own.state
    found: dict[str, Any] = {"node_id": coordinator.own_id, "state": State(state).name.lower(), "error": None}
    if record is None:
        return {**found, "version": None, "expires_ms": None, "tombstone": False, "value_bytes": 0, "tags": []}
    return {
        **found,
        "version": version_of(record).hex(),
        "expires_ms": None if expires_ms_of(record) == NEVER_MS else expires_ms_of(record),
        "tombstone": is_tombstone(record),
        "value_bytes": len(record) - HEADER_BYTES,
        "tags": [tag.decode(errors="replace") for tag in extras_of(record).tags],
    }


def statistics(coordinator: Coordinator, counters: Counters, hot_keys: dict[str, Any]) -> dict[str, Any]:
    """Return all counters of this node, by part, and the settings that it works with."""
    sections = counters.sections()
    settings = {table: asdict(getattr(coordinator.config, table)) for table in TABLES_TOLD}
    return {
        "node": {"node_id": coordinator.own_id, **sections.pop("node")},
        "store": asdict(coordinator.store.statistics()),
        "coordinator": {
            "pending": len(coordinator.pending.running),
            "lingering": len(coordinator.pending.lingering),
            "asked": len(coordinator.pending.waiting),
            "timers": len(coordinator.pending.timers),
            "repairs": coordinator.pending.repairs,
            "restamps": coordinator.pending.restamps,
        },
        "breakers": coordinator.pending.breakers.statistics(),
        "drops": {"floors": len(coordinator.replica.floors)},
        "membership": coordinator.membership.statistics(),
        "hot_keys": hot_keys,
        "settings": settings,
        "clock": {"wall_ms": coordinator.instant.wall_ms},
        **{name: part.statistics() for name, part in coordinator.pending.background.items()},
        **sections,
        "operations": {**sections["operations"], **coordinator.pending.latencies.statistics()},
    }


class Explain:
    """Where a key lives, and what each replica holds of it. ``done(results)`` is called once, with one map."""

    def __init__(
        self, coordinator: Coordinator, key: bytes, deadline: float, done: Callable[[list[Any]], None]
    ) -> None:
        self.coordinator = coordinator
        self.key = key
        self.deadline = min(deadline, coordinator.instant.now + EXPLAIN_WAIT_S)
        self.done = done
        self.found: dict[str, dict[str, Any]] = {}
        self._owners = coordinator.view.ring.preference_list(key)

    def start(self) -> None:
        """Ask every owner."""
        coordinator = self.coordinator
        coordinator.pending.begin(self, self.deadline)
        for node_id in self._owners:
            if node_id == coordinator.own_id:
                self.found[node_id] = replica(coordinator, self.key)
            elif not coordinator.pending.ask(
                self,
                None,
                node_id,
                self.deadline,
                lambda request, boot, deadline_ms, digest: m.Inspect(
                    request, boot, deadline_ms, digest, "replica", self.key
                ),
            ):
                self.on_lost(None, node_id)
        self._settle()

    def on_answer(self, group: None, node_id: str, answer: m.Reply) -> None:  # noqa: ARG002  (one group only)
        """Note what a replica holds."""
        told = answer.results[0] if answer.results else None
        self.found[node_id] = told if isinstance(told, dict) else self._unknown(node_id, "no answer")
        self._settle()

    def on_lost(self, group: None, node_id: str) -> None:  # noqa: ARG002  (one group only)
        """Note that a replica cannot answer."""
        self.found[node_id] = self._unknown(node_id, "not reached")
        self._settle()

    on_reject = on_lost

    def replan(self) -> None:
        """Do nothing: the explanation is about the owners at its begin."""

    def on_timer(self) -> None:
        """Report the replicas that have not answered as silent."""
        for node_id in self._owners:
            if node_id not in self.found:
                self.found[node_id] = self._unknown(node_id, "no answer in time")
        self._settle()

    def _unknown(self, node_id: str, why: str) -> dict[str, Any]:
        state = self.coordinator.membership.state_of(node_id).name.lower()
        return {
            "node_id": node_id,
            "state": state,
            "error": why,
            "version": None,
            "expires_ms": None,
            "tombstone": False,
            "value_bytes": 0,
        }

    def _settle(self) -> None:
        if len(self.found) == len(self._owners) and self in self.coordinator.pending.running:
            self.coordinator.pending.end(self)
            slot = self.coordinator.view.ring.slot_of(self.key)
            replicas = [self.found[node_id] for node_id in self._owners]
            self.done([{"key": self.key, "slot": slot, "owners": list(self._owners), "replicas": replicas}])
