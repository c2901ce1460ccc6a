"""What all nodes of a mesh say of themselves at one time: who is there, how each is, and what it has counted.

One node tells who the members are, and each of those that are not known to be gone is asked itself, all of them at once
and each for as long as is given: so one that is silent delays nobody. What a node did not say this time is not there:
nothing of a survey is left from an earlier one.

A node tells its clock with its counters. By how much that differs from the clock here is known as exactly as the answer
was quick: it was given at some time between the question and the answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from meshcache.errors import MeshcacheError

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client

ASKED_AT_A_TIME: Final = 16
GONE: Final = frozenset({"dead", "left"})


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """One member, and what it says of itself."""

    member: Mapping[str, Any]
    """What the node that was asked first knows of it."""
    status: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    hot: Sequence[Mapping[str, Any]] = ()
    error: str = ""
    """Why it did not answer; empty if it did."""
    at_s: float = 0.0
    """When it answered, by a steady clock."""
    clock_ahead_s: float | None = None
    """By how much its clock is ahead of the one here; None where it did not tell."""
    clock_doubt_s: float = 0.0
    """By how much that may be wrong."""

    @property
    def node_id(self) -> str:
        """Its id."""
        return str(self.member["node_id"])

    @property
    def state(self) -> str:
        """Its state, by the member table of the node that was asked first."""
        return str(self.member["state"])

    @property
    def answers(self) -> bool:
        """Tell whether it said something of itself."""
        return bool(self.stats)

    def count(self, section: str, name: str) -> float | None:
        """Return a number out of its statistics; None if it did not tell it."""
        value = (self.stats.get(section) or {}).get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Survey:
    """The answers of all members, by id, at one time."""

    asked: str
    """The node that told who is a member."""
    cluster: str
    wall_s: float
    nodes: Sequence[NodeAnswer]

    @property
    def answering(self) -> list[NodeAnswer]:
        """Those who answered."""
        return [node for node in self.nodes if node.answers]

    def of(self, node_id: str) -> NodeAnswer | None:
        """Return a node's answer."""
        return next((node for node in self.nodes if node.node_id == node_id), None)


def survey(client: Client, *, timeout_s: float, hot: bool = False) -> Survey:
    """Ask all members; each answers within ``timeout_s`` or is told as silent. ``hot``: also for the keys read most.

    Raises MeshcacheError where no node tells who is a member.
    """
    seen = client.inspect("status", timeout=timeout_s)
    members = sorted(seen["members"], key=lambda member: str(member["node_id"]))
    with ThreadPoolExecutor(min(ASKED_AT_A_TIME, max(1, len(members))), "survey") as pool:
        answers = list(pool.map(lambda member: _ask(client, member, timeout_s, hot=hot), members))
    return Survey(seen["node_id"], seen.get("cluster", ""), time.time(), answers)


def _ask(client: Client, member: Mapping[str, Any], timeout_s: float, *, hot: bool) -> NodeAnswer:
    if member["state"] in GONE:
        return NodeAnswer(member)
    address, deadline = member["address"], time.monotonic() + timeout_s

    def inspect(what: str) -> dict[str, Any]:
        left_s = max(0.001, deadline - time.monotonic())
        return client.inspect(what, node=address, timeout=left_s)

    try:
        status = inspect("status")
        asked_s = time.time()
        stats = inspect("stats")
        answered_s = time.time()
        told_hot = inspect("hot")["keys"] if hot else []
    except MeshcacheError as error:
        return NodeAnswer(member, error=str(error))
    for row in told_hot:
        row["key"] = row["key"].decode("utf-8", "backslashreplace")
    clock_ms = (stats.get("clock") or {}).get("wall_ms")
    ahead_s = None if clock_ms is None else clock_ms / 1000 - (asked_s + answered_s) / 2
    doubt_s = (answered_s - asked_s) / 2
    return NodeAnswer(member, status, stats, told_hot, "", time.monotonic(), ahead_s, doubt_s)
