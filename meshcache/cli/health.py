"""Whether a mesh is well, from what its nodes say of themselves: what is wrong, and what is worth knowing.

*Wrong* is what keeps the mesh from doing all that its configuration says, or what somebody has to look at: a node that
is dead or silent, one that does not serve, nodes that do not agree, copies that are not yet where they belong. A node
that has left is none of that. A *warning* is no fault of the mesh: it does as it was told, and that may not be what
was meant. Entries that go because a node is full are one, and more copies wanted than there are nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshcache.durations import text_of

RECENT_S: Final = 86_400.0
"""What a node has evicted is worth a word for so long."""

Member = Mapping[str, Any]
"""What is known of a member, with what it says of itself, or ``error``: why it does not answer."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is to be said of a mesh, in sentences."""

    problems: list[str]
    """Nothing is wrong where there are none."""
    warnings: list[str]


def health_of(members: Sequence[Member]) -> Health:
    """Return what is wrong with a mesh, and what is worth knowing of it."""
    up = [member for member in members if member["state"] == "alive"]
    return Health(_lost(members) + _unfinished(up), _too_few(members) + _evicting(up))


def _lost(members: Sequence[Member]) -> list[str]:
    said = []
    for member in members:
        name, state = member["node_id"], member["state"]
        if state == "dead":
            said.append(f"{name} is dead: start it again, or give it up with `meshcache forget {name}`")
        elif state == "suspect":
            said.append(f"{name} is silent: unless it is heard of soon, the others declare it dead")
        elif state == "alive" and member.get("error"):
            said.append(f"{name} does not answer: {member['error']}")
    return said


def _unfinished(up: Sequence[Member]) -> list[str]:
    answering = [member for member in up if not member.get("error")]
    said = [f"{member['node_id']} does not serve yet" for member in answering if not member.get("ready")]
    if len({member.get("ring_digest") for member in answering}) > 1:
        said.append("the nodes do not agree on the ring yet")
    moving = sum(member.get("slots_missing") or 0 for member in answering)
    if moving or not all(member.get("synced", True) for member in answering):
        said.append(f"copies are on the move, {moving:,} slots to go")
    return said


def _too_few(members: Sequence[Member]) -> list[str]:
    owners = sum(member["state"] in {"alive", "suspect"} and member["weight"] != 0 for member in members)
    replicas = max((member.get("replicas") or 0 for member in members), default=0)
    if owners >= replicas:
        return []
    copies = "1 copy" if owners == 1 else f"{owners} copies"
    have = f"cluster.replicas is {replicas}, but the mesh has {owners} node{'s' if owners != 1 else ''} to hold them"
    return [f"{have}: each key has {copies}. Add nodes, or lower it"]


def _evicting(up: Sequence[Member]) -> list[str]:
    full = [member for member in up if (ago_s := _evicted_s_ago(member)) is not None and ago_s <= RECENT_S]
    if not full:
        return []
    limits = dict.fromkeys(_limit_reached(member["store"]) for member in full)
    count = sum(member["store"]["evictions"] for member in full)
    last = text_of(min(_evicted_s_ago(member) or 0.0 for member in full))
    names = f"{', '.join(str(member['node_id']) for member in full)} {'has' if len(full) == 1 else 'have'}"
    what = f"{names} dropped {count:,} entries for want of room, the last {last} ago: those not used for longest go"
    return [f"{what}. Raise {' and '.join(limits)}, add nodes, or give keys shorter lifetimes"]


def _evicted_s_ago(member: Member) -> float | None:
    found: float | None = (member.get("store") or {}).get("evicted_s_ago")
    return found


def _limit_reached(store: Mapping[str, Any]) -> str:
    """Name the limit that a full store is at: the one of which it uses the greater part."""
    share = {name: store[name.removeprefix("max_")] / store[name] for name in ("max_entries", "max_bytes")}
    name = max(share, key=lambda name: share[name])
    return f"store.{name} (now {store[name]:,})"
