"""What became of the counters of nodes between two surveys: figures for a second.

A counter begins at 0 with each process: where a node was started again between two surveys, or was silent at one of
them, there is no rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshcache.cli.survey import NodeAnswer, Survey


@dataclass(frozen=True, slots=True)
class Figures:
    """What a node does, and what it holds; None: not known."""

    node: NodeAnswer
    entries: float | None
    bytes: float | None
    bytes_max: float | None
    operations_per_s: float | None
    """Keys that clients asked it for."""
    hit_rate: float | None
    """Of the keys looked up in its store since the last survey; where there were none, since it started."""
    evictions_per_s: float | None
    longest_turn_ms: float | None
    """Since it started: how long requests had to wait at most."""

    @property
    def memory_share(self) -> float | None:
        """What it holds of what it may hold."""
        return self.bytes / self.bytes_max if self.bytes is not None and self.bytes_max else None


def figures_of(now: Survey, before: Survey | None) -> list[Figures]:
    """Return the figures of all nodes."""
    return [_figures(node, before.of(node.node_id) if before else None) for node in now.nodes]


def rate(now: NodeAnswer, before: NodeAnswer | None, section: str, name: str) -> float | None:
    """Return by how much a counter grew in a second; None where that is not known."""
    if before is None or not same_process(now, before) or now.at_s <= before.at_s:
        return None
    new, old = now.count(section, name), before.count(section, name)
    if new is None or old is None:
        return None
    return max(0.0, new - old) / (now.at_s - before.at_s)


def same_process(now: NodeAnswer, before: NodeAnswer) -> bool:
    """Tell whether a node's counters go on where they were."""
    return now.answers and before.answers and now.status.get("boot") == before.status.get("boot")


def _figures(node: NodeAnswer, before: NodeAnswer | None) -> Figures:
    evicted, refused = (rate(node, before, "store", name) for name in ("evictions", "refused"))
    return Figures(
        node=node,
        entries=node.count("store", "entries"),
        bytes=node.count("store", "bytes"),
        bytes_max=(node.status.get("store") or {}).get("max_bytes"),
        operations_per_s=rate(node, before, "node", "keys"),
        hit_rate=_hit_rate(node, before),
        evictions_per_s=None if evicted is None else evicted + (refused or 0.0),
        longest_turn_ms=node.count("node", "longest_turn_ms"),
    )


def _hit_rate(node: NodeAnswer, before: NodeAnswer | None) -> float | None:
    hits, misses = rate(node, before, "store", "hits"), rate(node, before, "store", "misses")
    if not hits and not misses:
        hits, misses = node.count("store", "hits"), node.count("store", "misses")
    looked_up = (hits or 0.0) + (misses or 0.0)
    return (hits or 0.0) / looked_up if looked_up else None
