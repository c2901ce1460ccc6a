"""Placement: which nodes own a key, as a pure function of the member set."""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PRIMARY_SLACK: Final = 0.04
"""How far a node's number of primaries may be from its fair share."""
COPIES_SLACK: Final = 0.06
"""How far its number of copies of all ranks may be, where failure domains leave a choice."""
WEIGHT_MIN: Final = 0.01
WEIGHT_MAX: Final = 100.0
"""Weights beyond are taken as these: a member's weight comes from the network, and costs vnodes."""

_CIRCLE: Final = 1 << 64
_ROUNDS_PER_NODE: Final = 30


class RingMember(NamedTuple):
    """What placement knows of a node. An empty host or zone says nothing: such a node shares it with nobody."""

    node_id: str
    weight: float = 1.0
    host: str = ""
    zone: str = ""


def slot_of(key: bytes, slots: int) -> int:
    """Return the slot of a key; ``slots`` is a power of two."""
    return crc32(key) & (slots - 1)


class Ring:
    """The owners of every slot. Immutable; made by ``build``, which may return the same object twice."""

    __slots__ = ("_mask", "digest", "members", "owners", "replicas", "slots", "vnodes")

    def __init__(self, members: tuple[RingMember, ...], slots: int, vnodes: int, replicas: int) -> None:
        self.members = members
        self.slots = slots
        self.vnodes = vnodes
        self.replicas = replicas
        self.digest = _digest(members, slots, vnodes, replicas)
        self.owners: list[tuple[str, ...]] = _place(members, slots, vnodes, replicas)
        self._mask = slots - 1

    @classmethod
    def build(cls, members: Iterable[RingMember], *, slots: int, vnodes: int, replicas: int) -> Ring:
        """Return the ring of this set of members; their order does not matter, of equal ids the greatest counts."""
        if slots < 1 or slots & (slots - 1):
            raise ValueError(f"slots must be a power of two, not {slots}")
        if vnodes < 1 or replicas < 1:
            raise ValueError(f"vnodes and replicas must be at least 1, not {vnodes} and {replicas}")
        unique = {member.node_id: member for member in sorted(members)}
        return _build(tuple(unique.values()), slots, vnodes, replicas)

    def slot_of(self, key: bytes) -> int:
        """Return the slot of a key."""
        return crc32(key) & self._mask

    def preference_list(self, key: bytes) -> tuple[str, ...]:
        """Return the owners of a key, first choice first."""
        return self.owners[crc32(key) & self._mask]


@lru_cache(maxsize=64)
def _build(members: tuple[RingMember, ...], slots: int, vnodes: int, replicas: int) -> Ring:
    return Ring(members, slots, vnodes, replicas)


def _digest(members: tuple[RingMember, ...], slots: int, vnodes: int, replicas: int) -> bytes:
    """Hash everything that placement depends on; ``repr`` of a str or float is unambiguous and the same everywhere."""
    text = repr((slots, vnodes, replicas, [(m.node_id, float(m.weight), m.host, m.zone) for m in members]))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@lru_cache(maxsize=1024)
def _distances(node_id: str, points: int, slots: int) -> array[float]:
    """Return for each slot how far clockwise the nearest of the node's virtual nodes is, at least 1."""
    name = node_id.encode("utf-8", "surrogatepass")
    angles = sorted(
        int.from_bytes(hashlib.md5(b"%b#%d" % (name, k), usedforsecurity=False).digest()[:8], "big")
        for k in range(points)
    )
    angles.append(angles[0] + _CIRCLE)
    step = _CIRCLE // slots
    nearest = (angles[bisect_left(angles, angle)] - angle for angle in range(0, _CIRCLE, step))
    return array("d", [float(distance + 1) for distance in nearest])


def _place(members: tuple[RingMember, ...], slots: int, vnodes: int, replicas: int) -> list[tuple[str, ...]]:
    """Return the owners by slot: rank after rank, each balanced given those before."""
    weights = [_clamp(member.weight) for member in members]
    points = [max(1, int(weight * vnodes + 0.5)) for weight in weights]
    columns = [_distances(m.node_id, count, slots) for m, count in zip(members, points, strict=True)]
    rows = list(zip(*columns, strict=True)) if members else []
    prices = [count / (weight * vnodes) for weight, count in zip(weights, points, strict=True)]
    everyone = list(range(len(members)))
    placed: list[list[int]] = [[] for _ in range(slots)]
    copies = [0] * len(members)
    for rank in range(min(replicas, len(members))):
        fair = _fair_shares(weights, slots, rank + 1)
        slack = COPIES_SLACK if rank else PRIMARY_SLACK
        low = [max(0, min(math.floor(f), math.ceil(f * (1 - slack))) - c) for f, c in zip(fair, copies, strict=True)]
        high = [max(0, max(math.ceil(f), math.floor(f * (1 + slack))) - c) for f, c in zip(fair, copies, strict=True)]
        choices = [_eligible(owners, everyone, members) for owners in placed]
        for owners, node in zip(placed, _assign(rows, choices, prices, low, high), strict=True):
            owners.append(node)
            copies[node] += 1
    return [tuple(members[node].node_id for node in owners) for owners in placed]


def _clamp(weight: float) -> float:
    """Return a usable weight, whatever the network said (the comparisons are false for NaN)."""
    return min(weight, WEIGHT_MAX) if weight >= WEIGHT_MIN else WEIGHT_MIN


def _fair_shares(weights: list[float], slots: int, ranks: int) -> list[float]:
    """Return how many copies each node should hold of ``ranks`` a slot: by weight, but never two of one slot."""
    fair = [0.0] * len(weights)
    free = list(range(len(weights)))
    left = float(ranks * slots)
    while True:
        total = sum(weights[i] for i in free)
        full = [i for i in free if left * weights[i] > slots * total]
        for i in full or free:
            fair[i] = float(slots) if full else left * weights[i] / total
        if not full:
            return fair
        left -= slots * len(full)
        free = [i for i in free if fair[i] == 0.0]
        if not free:
            return fair


def _eligible(owners: list[int], everyone: list[int], members: tuple[RingMember, ...]) -> list[int]:
    """Return the nodes that may hold the next copy: in a new zone if there is one, then on a new host."""
    if not owners:
        return everyone
    zones = [members[i].zone for i in owners if members[i].zone]
    hosts = [members[i].host for i in owners if members[i].host]
    best: list[int] = []
    best_cost = (True, True)
    for i in everyone:
        if i not in owners:
            cost = (members[i].zone in zones, members[i].host in hosts)
            if cost < best_cost:
                best, best_cost = [i], cost
            elif cost == best_cost:
                best.append(i)
    return best


def _assign(
    rows: Sequence[Sequence[float]],
    choices: list[list[int]],
    prices: list[float],
    low: list[int],
    high: list[int],
) -> list[int]:
    """Give every slot to the choice with the least distance x price, and move ``prices`` until loads are in bounds."""
    owner = [min(choice, key=lambda i: row[i] * prices[i]) for row, choice in zip(rows, choices, strict=True)]
    held: list[list[int]] = [[] for _ in prices]
    for slot, node in enumerate(owner):
        held[node].append(slot)
    nodes = range(len(prices))
    for _ in range(_ROUNDS_PER_NODE * len(prices) + 100):
        over = max(nodes, key=lambda i: (len(held[i]) - high[i]) / (high[i] + 1))
        under = max(nodes, key=lambda i: (low[i] - len(held[i])) / (low[i] + 1))
        if len(held[over]) > high[over]:
            node, count = over, len(held[over]) - high[over]
            offers = _offers(rows, choices, prices, held[node], node)
        elif len(held[under]) < low[under]:
            node, count = under, low[under] - len(held[under])
            offers = [
                (rows[s][node] * prices[node] / (rows[s][o] * prices[o]), s, node)
                for s, o in enumerate(owner)
                if o != node and node in choices[s]
            ]
        else:
            break
        if not offers:
            break
        offers.sort()
        taken = offers[:count]
        following = offers[count][0] if count < len(offers) else taken[-1][0] * 1.01
        factor = (taken[-1][0] + following) / 2
        prices[node] = prices[node] * factor if node == over else prices[node] / factor
        for _ratio, slot, to in taken:
            held[owner[slot]].remove(slot)
            held[to].append(slot)
            owner[slot] = to
    return owner


def _offers(
    rows: Sequence[Sequence[float]], choices: list[list[int]], prices: list[float], mine: list[int], node: int
) -> list[tuple[float, int, int]]:
    """Return for each slot of ``node`` by which factor its price must rise to lose it, and to whom."""
    offers = []
    for slot in mine:
        row = rows[slot]
        others = [(row[i] * prices[i], i) for i in choices[slot] if i != node]
        if others:
            cost, to = min(others)
            offers.append((cost / (row[node] * prices[node]), slot, to))
    return offers
