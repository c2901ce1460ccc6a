"""The mesh as the dashboard shows it: asked once a second for all who look, and remembered for ten minutes.

While somebody looks, and for ten minutes after, one task asks a node who is in the mesh, and each of them how it does.
From two answers in a row come rates. A node that does not answer has no figures: there is nothing old in a picture.
A new page is given the points of the last ten minutes first, so that its charts do not begin empty. That is all that a
gateway keeps, and it may be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from meshcache.client.aio.client import AsyncClient
from meshcache.errors import MeshcacheError
from meshcache.gateway.answers import shown_key

EVERY_S: Final = 1.0
ASK_S: Final = 0.9
"""What a node may take to answer, so that one that is silent delays no picture."""
KEPT_S: Final = 600.0
HOT_KEYS_SHOWN: Final = 20
NODES_ASKED_MAX: Final = 32
"""Nodes that are asked at a time."""
_GONE: Final = frozenset({"dead", "left"})

Sample = tuple[float, int, dict[str, int]]
"""When a node told its counters, the boot of its process, and the counters that rates are made of."""


class Watch:
    """What the dashboards of one gateway look at."""

    def __init__(self, client: AsyncClient, *, allow_writes: bool, streams: Callable[[], int]) -> None:
        self._client = client
        self._allow_writes = allow_writes
        self._streams = streams
        self.points: deque[dict[str, Any]] = deque(maxlen=int(KEPT_S / EVERY_S))
        """One a second, for the charts."""
        self._latest: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._samples: dict[str, Sample] = {}

    async def next(self, after: dict[str, Any] | None) -> dict[str, Any]:
        """Return a picture that is not ``after``, as soon as there is one; or ``{"trouble": why there is none}``."""
        self._looked_at = time.monotonic()
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        while not self._latest or self._latest is after:
            await self._changed.wait()
            self._looked_at = time.monotonic()
        return self._latest

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        try:
            due = time.monotonic()
            while time.monotonic() - self._looked_at < KEPT_S:
                try:
                    picture = await self._picture()
                    self.points.append(picture["point"])
                except MeshcacheError as error:
                    picture = {"trouble": str(error)}
                self._latest = picture
                self._changed.set()
                self._changed = asyncio.Event()
                due = max(due + EVERY_S, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
        finally:
            self._task = None
            self._latest = {}
            self._samples.clear()

    async def _picture(self) -> dict[str, Any]:
        told = await self._client.inspect("status", timeout=ASK_S)
        members = sorted(told["members"], key=lambda member: str(member["node_id"]))
        gate = asyncio.Semaphore(NODES_ASKED_MAX)
        found = await asyncio.gather(*[self._node(member, gate) for member in members])
        nodes = [node for node, _ in found]
        self._samples = {node["id"]: self._samples[node["id"]] for node in nodes if node["id"] in self._samples}
        at = int(time.time() * 1000)
        fields = ("keysPerS", "hitRate", "fullness", "evictionsPerS", "loopLagMs")
        return {
            "at": at,
            "cluster": told["cluster"],
            "replicas": told["replicas"],
            "writeQuorum": told["write_quorum"],
            "readQuorum": told["read_quorum"],
            "askedNode": told["node_id"],
            "changing": told["changing"],
            "nodes": nodes,
            "hotKeys": _hot_keys({node["id"]: hot for node, hot in found}),
            "notes": _notes(nodes, told["replicas"]),
            "gateway": {
                "version": version("meshcache"),
                "allowWrites": self._allow_writes,
                "streams": self._streams(),
            },
            "point": {"at": at, "nodes": {node["id"]: {field: node.get(field) for field in fields} for node in nodes}},
        }

    async def _node(
        self, member: dict[str, Any], gate: asyncio.Semaphore
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what there is to show of a member, and what it says of its hot keys."""
        known = self._client.statistics().nodes.get(member["node_id"])
        breaker = None if known is None else known.breaker
        node: dict[str, Any] = {
            "id": member["node_id"],
            "address": member["address"],
            "state": member["state"],
            "primarySlots": member["primary_slots"],
            "copySlots": member["copy_slots"],
            "breaker": breaker,
            "error": None,
        }
        if member["state"] in _GONE:
            return node, []
        try:
            async with gate:
                asked_at = time.time()
                own, counters, hot = await asyncio.gather(
                    *[
                        self._client.inspect(what, node=member["address"], timeout=ASK_S)
                        for what in ("status", "stats", "hot")
                    ]
                )
                took_s = time.time() - asked_at
        except MeshcacheError as error:
            self._samples.pop(member["node_id"], None)
            return {**node, "error": str(error)}, []
        node["clockOffsetMs"] = counters["clock"]["wall_ms"] - 1000 * (asked_at + took_s / 2)
        return node | _own(own, counters) | self._rates(own, counters), hot["keys"]

    def _rates(self, own: dict[str, Any], counters: dict[str, Any]) -> dict[str, Any]:
        """Return the rates since the node told its counters last."""
        store, now = counters["store"], time.monotonic()
        told = {
            "keys": counters["node"]["keys"],
            "hits": store["hits"],
            "misses": store["misses"],
            "evictions": store["evictions"] + store["refused"],
        }
        before = self._samples.get(own["node_id"])
        self._samples[own["node_id"]] = now, own["boot"], told
        if before is None or before[1] != own["boot"] or now <= before[0]:
            return {}
        each = {name: (count - before[2][name]) / (now - before[0]) for name, count in told.items()}
        reads = each["hits"] + each["misses"]
        return {
            "keysPerS": each["keys"],
            "readsPerS": reads,
            "hitsPerS": each["hits"],
            "hitRate": each["hits"] / reads if reads else None,
            "evictionsPerS": each["evictions"],
        }


def _own(own: dict[str, Any], counters: dict[str, Any]) -> dict[str, Any]:
    """Return what a node says of itself at this moment."""
    store = own["store"]
    return {
        "ready": own["ready"],
        "entries": store["entries"],
        "maxEntries": store["max_entries"],
        "bytes": store["bytes"],
        "maxBytes": store["max_bytes"],
        "fullness": max(store["bytes"] / store["max_bytes"], store["entries"] / store["max_entries"]),
        "slotsMissing": own["slots_missing"],
        "hints": own["hints"],
        "ringDigest": own["ring_digest"],
        "loopLagMs": 1000 * counters["loop"]["lag_s"],
    }


def _hot_keys(by_node: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the keys that are read most, whichever of their owners serve the reads."""
    found: dict[bytes, dict[str, Any]] = {}
    for node_id, rows in by_node.items():
        for row in rows:
            known = found.setdefault(row["key"], {**shown_key(row["key"]), "nodes": [], "reads": 0})
            known["nodes"].append(node_id)
            known["reads"] += row["reads"]
    return sorted(found.values(), key=lambda row: -row["reads"])[:HOT_KEYS_SHOWN]


def _notes(nodes: list[dict[str, Any]], replicas: int) -> list[str]:
    """Return what is wrong, in sentences."""
    here = [node for node in nodes if node["state"] not in _GONE and node["error"] is None]
    notes = [f"{node['id']} does not answer: {node['error']}" for node in nodes if node["error"]]
    notes += [f"{node['id']} is dead: others have taken over its slots." for node in nodes if node["state"] == "dead"]
    if len({node["ringDigest"] for node in here}) > 1:
        notes.append("Nodes do not agree on the ring; during a change that is so for a moment.")
    if len(here) < replicas:
        notes.append(f"There are {len(here)} nodes for {replicas} copies of each key: some copies have no place.")
    notes += [f"{node['id']} is full: it evicts." for node in here if node.get("evictionsPerS")]
    return notes
