"""``/cluster/…`` and ``/health``: what the mesh says of itself.

A gateway keeps nothing of its own but what it may forget: what the mesh said a moment ago, so that many who watch ask
the nodes as often as one does, and how often in a row each node has failed to answer this gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from starlette.requests import Request

from meshcache.client.aio.client import AsyncClient
from meshcache.errors import MeshcacheError
from meshcache.gateway import requests as asked
from meshcache.gateway.answers import json_answer, shown_key
from meshcache.gateway.asgi import Answer
from meshcache.protocol.ring import Ring, RingMember

FACTS_KEPT_S: Final = 1.0
STATUS_KEPT_S: Final = 0.5
CHECK_S: Final = 1.0
"""What a node may take to tell of itself."""
NODES_ASKED_MAX: Final = 64
"""Nodes that are asked at a time."""
SAMPLE_KEYS: Final = 10_000

T = TypeVar("T")


class Facts(NamedTuple):
    """What a write must know of the mesh."""

    replicas: int
    write_quorum: int
    read_quorum: int
    value_bytes_max: int
    owners: int
    """Nodes that own keys."""

    def copies(self, consistency: str | None) -> int:
        """Return how many nodes have stored a write when it is answered, at least: W, or all if fewer own a key."""
        most = max(1, min(self.replicas, self.owners))
        wanted = {None: self.write_quorum, "one": 1, "quorum": most // 2 + 1, "all": most}[consistency]
        return min(wanted, most)


class Recent(Generic[T]):
    """What was found out a moment ago: found out once for all who ask at a time."""

    def __init__(self, find: Callable[[], Awaitable[T]], kept_s: float) -> None:
        self._find = find
        self._kept_s = kept_s
        self._found: T | None = None
        self._found_at = -kept_s
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """Return it."""
        found = self._found
        if found is not None and time.monotonic() - self._found_at < self._kept_s:
            return found
        if self._task is None:
            self._task = asyncio.create_task(self._renew())
            self._task.add_done_callback(self._done)
        await asyncio.shield(self._task)
        if self._found is None:
            raise MeshcacheError("the mesh has told nothing yet")
        return self._found

    async def _renew(self) -> None:
        self._found = await self._find()
        self._found_at = time.monotonic()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # those who wait for it get it; if nobody does, the next who asks will see


class Cluster:
    """The mesh as a whole."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._facts = Recent(self._find_facts, FACTS_KEPT_S)
        self._status = Recent(self._find_status, STATUS_KEPT_S)
        self._distribution = Recent(self._find_distribution, STATUS_KEPT_S)
        self._seen: dict[str, tuple[int, int]] = {}
        """By node: when this gateway asked it last, in milliseconds, and how often in a row it did not answer."""

    async def facts(self) -> Facts:
        """Return what a write must know."""
        return await self._facts.get()

    async def _find_facts(self) -> Facts:
        told = await self._client.inspect("status")
        owners = sum(bool(each["primary_slots"] or each["copy_slots"]) for each in told["members"])
        return Facts(told["replicas"], told["write_quorum"], told["read_quorum"], told["value_bytes_max"], owners)

    async def health(self, request: Request) -> Answer:
        """Tell whether the mesh answers this gateway."""
        asked.options_of(request, ())
        now_ms = int(time.time() * 1000)
        try:
            await self._client.inspect("view", timeout=CHECK_S)
        except MeshcacheError as error:
            headers = {"Retry-After": "1"}
            return json_answer({"status": "unhealthy", "timestamp": now_ms, "reason": str(error)}, 503, headers)
        return json_answer({"status": "healthy", "timestamp": now_ms})

    async def status(self, request: Request) -> Answer:
        """Tell who is in the mesh, and how each of them is."""
        asked.options_of(request, ())
        return json_answer(await self._status.get())

    async def _find_status(self) -> dict[str, Any]:
        told = await self._client.inspect("status")
        members = sorted(told["members"], key=lambda member: str(member["node_id"]))
        gate = asyncio.Semaphore(NODES_ASKED_MAX)
        nodes = await asyncio.gather(*[self._node(member, gate) for member in members])
        self._seen = {member["node_id"]: self._seen[member["node_id"]] for member in members}
        return {
            "totalNodes": len(nodes),
            "healthyNodes": sum(node["healthy"] for node in nodes),
            "nodes": nodes,
            "replicationFactor": told["replicas"],
            "writeQuorum": told["write_quorum"],
            "readQuorum": told["read_quorum"],
            "askedNode": told["node_id"],
        }

    async def _node(self, member: dict[str, Any], gate: asyncio.Semaphore) -> dict[str, Any]:
        """Return what is to be said of one member: what others say of it, and what it says itself."""
        node_id, own, error = member["node_id"], {}, None
        _, failures = self._seen.get(node_id, (0, 0))
        if member["state"] in {"dead", "left"}:
            error = f"the mesh says that it is {member['state']}"
        else:
            try:
                async with gate:
                    own = await self._client.inspect("status", node=member["address"], timeout=CHECK_S)
            except MeshcacheError as problem:
                error = str(problem)
        now_ms = int(time.time() * 1000)
        self._seen[node_id] = now_ms, 0 if error is None else failures + 1
        store = own.get("store") or {}
        return {
            "id": node_id,
            "address": member["address"],
            "healthy": member["state"] == "alive" and bool(own.get("ready")),
            "lastCheck": now_ms,
            "consecutiveFailures": self._seen[node_id][1],
            "state": member["state"],
            "ready": bool(own.get("ready")),
            "error": error,
            "entries": store.get("entries"),
            "maxEntries": store.get("max_entries"),
            "memoryBytes": store.get("bytes"),
            "maxMemoryBytes": store.get("max_bytes"),
            "primarySlots": member["primary_slots"],
            "copySlots": member["copy_slots"],
            "zone": member["zone"],
        }

    async def distribution(self, request: Request) -> Answer:
        """Tell which share of a sample of keys each node is the first owner of."""
        asked.options_of(request, ())
        return json_answer(await self._distribution.get())

    async def _find_distribution(self) -> dict[str, Any]:
        told = await self._client.inspect("status")
        return await asyncio.to_thread(_distribution, told)  # a ring of hundreds of nodes takes long to build

    async def explain(self, request: Request) -> Answer:
        """Tell where a key lives, and what each replica holds of it."""
        asked.options_of(request, ())
        key = asked.key_of(request.path_params["key"])
        told = await self._client.inspect("explain", key=key)
        return json_answer({**told, **shown_key(key)})


def _distribution(told: dict[str, Any]) -> dict[str, Any]:
    """Return who is the first owner of how many of the sample keys, by the ring of the node that told its status."""
    owning = [each for each in told["members"] if each["primary_slots"] or each["copy_slots"]]
    members = [RingMember(each["node_id"], each["weight"], each["host"], each["zone"]) for each in owning]
    ring = Ring.build(members, slots=told["slots"], vnodes=told["vnodes"], replicas=told["replicas"])
    counts = dict.fromkeys(sorted(each.node_id for each in members), 0)
    for number in range(SAMPLE_KEYS):
        counts[ring.preference_list(b"sample-key-%d" % number)[0]] += 1
    shares = {
        node_id: {"count": count, "percentage": f"{count / SAMPLE_KEYS:.2%}"} for node_id, count in counts.items()
    }
    return {"sampleSize": SAMPLE_KEYS, "distribution": shares, "virtualNodesPerNode": told["vnodes"]}
