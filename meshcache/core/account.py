"""What a node tells of itself at one moment, for health checks, metrics and people: plain values, and never its state.

It is all that ``Inspect("stats")`` tells, and besides: whether the node is ready and what it waits for, how it sees the
mesh, and the figures of the cache under the names that the original design gave them.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.core.membership.members import State
from meshcache.core.membership.membership import Membership
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.peers import Peers

FINGERPRINT_BYTES: Final = 6
"""Of a ring's digest: so many fit into the numbers of any monitoring."""


def why_not_ready(membership: Membership, now: float, *, joined: bool, in_doubt: bool) -> list[str]:
    """Say why a node does not serve clients (NodeCore.ready); nothing if it does."""
    reasons = {
        "it has not joined the mesh yet": not joined,
        "it stood still, and asks whether the others still count on it": in_doubt,
        "it leaves, or the others have declared it dead": membership.own.state > State.SUSPECT,
        "it was removed, and forgets what it held": membership.removed,
        "it does not reach the majority of the members": not membership.in_majority(now),
    }
    return [reason for reason, applies in reasons.items() if applies]


def account(coordinator: Coordinator, peers: Peers, statistics: dict[str, Any], waits_for: list[str]) -> dict[str, Any]:
    """Return a node's account of itself, given its ``statistics`` and what it waits for before it serves."""
    missing = statistics["movement"]["slots_missing"]
    if missing and coordinator.view.ring.members:
        slots = "slot that it owns" if missing == 1 else "slots that it owns"
        waits_for = [*waits_for, f"it does not hold {missing} {slots} yet"]
    return {
        **_cache(coordinator, statistics["store"]),
        **statistics,
        "ready": {"is_ready": not waits_for, "waits_for": waits_for},
        "mesh": _mesh(coordinator, peers),
    }


def _cache(coordinator: Coordinator, store: dict[str, int]) -> dict[str, Any]:
    limits = coordinator.config.store
    reads = store["hits"] + store["misses"]
    return {
        "entries": store["entries"],
        "memoryBytes": store["bytes"],
        "maxEntries": limits.max_entries,
        "maxMemoryBytes": limits.max_bytes,
        "hits": store["hits"],
        "misses": store["misses"],
        "hitRate": round(store["hits"] / reads, 6) if reads else 0.0,
        "evictions": store["evictions"],
        "expirations": store["expirations"],
    }


def _mesh(coordinator: Coordinator, peers: Peers) -> dict[str, Any]:
    """Tell how this node sees the others."""
    view, links = coordinator.view, list(peers.links.values())
    facts = [fact for fact in coordinator.membership.facts() if fact.state != State.FORGOTTEN]
    states = {state.name.lower(): 0 for state in State if state != State.FORGOTTEN}
    for fact in facts:
        states[State(fact.state).name.lower()] += 1
    present = [fact for fact in facts if fact.state <= State.SUSPECT and fact.weight > 0]
    return {
        "members": states,
        "members_behind": sum(fact.synced != view.digest for fact in present),
        "ring_members": len(view.ring.members),
        "replicas": coordinator.config.cluster.replicas,
        "ring_fingerprint": int.from_bytes(view.digest[:FINGERPRINT_BYTES], "big"),
        "ring_changing": bool(view.former),
        "slots_owned": sum(view.owned),
        "links": {
            "established": sum(link.established for link in links),
            "down": sum(not link.established for link in links),
        },
        "clock_offset_ms_max": max([abs(link.offset_ms) for link in links if link.established], default=0),
    }
