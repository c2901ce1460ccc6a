"""Surveys of a mesh as tests want them: nodes that are well, but for what is said."""

from __future__ import annotations

import copy
from typing import Any

from fake_client import member

from meshcache.cli.survey import NodeAnswer, Survey

SETTINGS: dict[str, dict[str, Any]] = {
    "cluster": {"replicas": 2, "write_quorum": 2, "read_quorum": 1},
    "store": {"max_bytes": 100_000_000},
}
HOST: dict[str, Any] = {
    "meshcache": "1.0",
    "libzmq": "4.3.5",
    "pyzmq": "27.0",
    "python": "3.11.2",
    "wall_ms": 1_000_000,
    "resident_bytes": 50_000_000,
    "memory_bytes": 8_000_000_000,
    "memory_available_bytes": 4_000_000_000,
    "files_open": 30,
    "files_max": 20_000,
}


def status(**fields: Any) -> dict[str, Any]:
    store = {"entries": 500, "max_entries": 1000, "bytes": 50_000_000, "max_bytes": 100_000_000, "evictions": 0}
    return {
        "boot": 1,
        "ready": True,
        "ring_digest": "aa",
        "synced": True,
        "slots_missing": 0,
        "replicas": 2,
        "hints": 0,
        "store": store | {"evicted_s_ago": None},
    } | fields


def link(node_id: str, **fields: Any) -> dict[str, Any]:
    return {"node_id": node_id, "up": True, "since_s": 100.0, "heard_s_ago": 0.2, "offset_ms": 0} | fields


def stats(others: list[str], **sections: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "node": {"keys": 1000, "longest_turn_ms": 12.0, "failed": {}, "clock_refused": 0},
        "store": {"entries": 500, "bytes": 50_000_000, "hits": 90, "misses": 10, "evictions": 0, "refused": 0},
        "links": {f"127.0.0.1:710{name[-1]}": link(name) for name in others},
        "breakers": {"opened": 0, "open": dict.fromkeys(others, 0), "state": dict.fromkeys(others, "closed")},
        "host": HOST,
        "clock": {"wall_ms": 1_000_000},
        "settings": SETTINGS,
        "hints": {"waiting": {}},
    }
    found = copy.deepcopy(found)
    for section, values in sections.items():
        found[section].update(values)
    return found


def answer(node_id: str, *, at_s: float = 10.0, ahead_s: float = 0.0, state: str = "alive", **parts: Any) -> NodeAnswer:
    """One of three nodes that is well; ``status_…`` and ``stats`` change what it says."""
    others = [name for name in ("node1", "node2", "node3") if name != node_id]
    return NodeAnswer(
        member(node_id, state=state, synced=True),
        status(**parts.get("status", {})),
        stats(others, **parts.get("stats", {})),
        parts.get("hot", ()),
        "",
        at_s,
        ahead_s,
        0.001,
    )


def silent(node_id: str, state: str = "alive") -> NodeAnswer:
    return NodeAnswer(member(node_id, state=state, synced=True), error="" if state != "alive" else "no answer in time")


def survey_of(*nodes: NodeAnswer) -> Survey:
    return Survey("node1", "local", 1_700_000_000.0, nodes or tuple(map(answer, ("node1", "node2", "node3"))))
