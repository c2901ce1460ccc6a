"""Placement: which nodes own a key, as a pure function of the member set.

Theory of operation
-------------------
A key maps to one of a fixed number of *slots* by crc32. Slots lie evenly on a circle, on which every node has
``vnodes`` points (times its weight) at MD5 angles. On the plain ring a slot belongs to the node whose point comes next,
that is to the node with the least clockwise distance. With 150 points a node that leaves loads 10 to 25 % off even.

Here a slot belongs to the node with the least ``distance x price``, where the prices are those that make every load
fair: a node with too many slots becomes dearer until enough of its slots prefer their second choice, and a node with
too few becomes cheaper. All prices 1 is the plain ring. Plain bounded loads hand an overflow to the next node on the
circle, and one change then also moves slots between other nodes; prices depend smoothly on the member set, so that
similar sets have nearly equal prices and a join or leave moves little more than the slots it must.

Copies are placed rank after rank: the second copy of every slot by the same rule among the nodes that do not hold its
first, with bounds on the copies held so far, and prices that start afresh at 1 (measured: fewer copies move so than
with the prices of the first rank). Failure domains narrow the choice of a rank: only nodes in a zone that has no copy
yet, where there is one; of these, only those on a host that has none. Domains go before evenness, so in a cluster with
unequal zones the copies (never the primaries) may be uneven.

Sources: consistent hashing, Karger et al. 1997; virtual nodes, preference lists and fixed partitions, DeCandia et al.
(Dynamo) 2007; bounded loads, Mirrokni, Thorup and Zadimoghaddam 2016; balancing by prices, Bertsekas' auction 1988.

Invariants
----------
- No history, no argument order, no ``hash()``, no set iteration: equal member sets give equal owners in every process.
  Arithmetic is on integers and on doubles by ``+ * /`` alone (never ``sum`` of floats: its rounding changed in Python
  3.12), so also on every machine. Tests pin some owners: a change of placement is a change of the protocol.
- Owners of a slot are distinct, and as many as ``min(replicas, members)``.
- Every node's primaries are within PRIMARY_SLACK of its fair share, or less than one slot away from it. Copies of all
  ranks are within COPIES_SLACK, where failure domains allow (no guarantee: rounds are bounded).

Cost: O(nodes x (vnodes + slots) x log vnodes) for the distances, which are kept per node between builds; O(slots) per
round of balancing, and a few rounds a node. Measured with 1,024 slots and two copies: 4 ms for 5 nodes, 9 ms for 10,
0.1 s for 100, 1 s for 500 (where the rounds are cut short and what is left is moved one slot at a time). With fewer
than some 30 slots a node, one slot is over 3 % of its load and rounding makes every bound coarse, and a change moves
more than it should. Primaries moved by a join, relative to the ideal: 1.16 at 10 nodes, 1.4 at 20, 2.4 at 50 (1.4 with
8,192 slots): take more slots for more nodes. ``scripts/bench ring`` prints loads and movement.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_left
from functools import lru_cache
from heapq import nsmallest
from operator import mul, sub
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable

PRIMARY_SLACK: Final = 0.035
"""How far a node's number of primaries may be from its fair share. Slots hold unequal numbers of keys: 3.5 % of the
slots leaves room for that within 5 % of the keys. Less slack moves more slots: 2 % costs 0.03 of the ideal at 10
nodes."""
COPIES_SLACK: Final = 0.05
"""How far a node's number of copies of all ranks may be from its share, where failure domains leave a choice."""

_WEIGHT_MIN: Final = 10
_WEIGHT_MAX: Final = 100_000
"""The bound of a weight, in thousandths: a weight comes from the network, and costs memory."""

_CIRCLE: Final = 1 << 64
_BID: Final = 1.01
"""The least factor by which a price changes: without it nearly equal nodes would change their prices for ever."""
_ROUNDS_MAX: Final = 1000
_NEVER: Final = math.inf
"""The distance to a node that must not hold the slot at this rank."""


class RingMember(NamedTuple):
    """What placement knows of a node. A node with an empty host or zone shares it with no other node."""

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
        """Return the ring of this set of members, in any order; of members with equal ids the greatest counts."""
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


# Both caches are small: where the names of nodes are never used again, every join costs one entry of each.
@lru_cache(maxsize=16)
def _build(members: tuple[RingMember, ...], slots: int, vnodes: int, replicas: int) -> Ring:
    return Ring(members, slots, vnodes, replicas)


def _digest(members: tuple[RingMember, ...], slots: int, vnodes: int, replicas: int) -> bytes:
    """Hash everything that placement depends on; ``repr`` of a str or float is unambiguous and the same everywhere."""
    text = repr((slots, vnodes, replicas, [(m.node_id, float(m.weight), m.host, m.zone) for m in members]))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@lru_cache(maxsize=64)
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
    weights = [_thousandths(member.weight) for member in members]
    points = [max(1, (weight * vnodes + 500) // 1000) for weight in weights]
    columns = [_distances(m.node_id, count, slots) for m, count in zip(members, points, strict=True)]
    distances = list(zip(*columns, strict=True))
    rows = [list(row) for row in distances]
    owners: list[tuple[int, ...]] = [()] * slots
    copies = [0] * len(members)
    for rank in range(min(replicas, len(members))):
        if rank:
            for row, distance in zip(rows, distances, strict=True):
                row[:] = distance  # no new lists: thousands of them would start the garbage collector
            _rule_out(rows, owners, members)
        low, high = _bounds(
            _fair_shares(members, weights, slots, rank + 1), COPIES_SLACK if rank else PRIMARY_SLACK, copies
        )
        # A price of 1, unless the weight is not a whole number of points.
        prices = [1000.0 * count / (weight * vnodes) for weight, count in zip(weights, points, strict=True)]
        auction = _Auction(rows, prices, low, high)
        auction.run((20 if not rank else 8) * len(members) + 50)
        if not rank:
            auction.settle()
        for node, load in enumerate(auction.loads):
            copies[node] += load
        owners = [(*held, node) for held, node in zip(owners, auction.owner, strict=True)]
    names = {nodes: tuple(members[node].node_id for node in nodes) for nodes in dict.fromkeys(owners)}
    return [names[nodes] for nodes in owners]


def _thousandths(weight: float) -> int:
    """Return a usable weight, whatever the network sent (every comparison with NaN is false)."""
    if not weight > _WEIGHT_MIN / 1000:
        return _WEIGHT_MIN
    return int(min(weight, _WEIGHT_MAX / 1000) * 1000 + 0.5)


def _domains(members: tuple[RingMember, ...], ranks: int) -> list[tuple[str, str]]:
    """Return for each node the domain that may hold a slot once: its zone or, if zones are few, its host or itself."""
    alone = [("", m.node_id) for m in members]
    hosts = [("host", m.host) if m.host else own for m, own in zip(members, alone, strict=True)]
    zones = [("zone", m.zone) if m.zone else host for m, host in zip(members, hosts, strict=True)]
    return next((names for names in (zones, hosts) if ranks <= len(dict.fromkeys(names))), alone)


def _fair_shares(members: tuple[RingMember, ...], weights: list[int], slots: int, ranks: int) -> list[float]:
    """Return how many of ``ranks`` copies a slot each node should hold: by weight, but a domain holds a slot once."""
    names = _domains(members, ranks)
    domains = dict.fromkeys(names, 0)
    for name, weight in zip(names, weights, strict=True):
        domains[name] += weight
    full: dict[tuple[str, str], None] = {}
    total, left = sum(weights), ranks * slots
    while overfull := [name for name, w in domains.items() if name not in full and left * w > slots * total]:
        for name in overfull:
            full[name] = None
            total -= domains[name]
            left -= slots
    return [
        (slots * w / domains[name]) if name in full else (left * w / total)
        for name, w in zip(names, weights, strict=True)
    ]


def _bounds(fair: list[float], slack: float, copies: list[int]) -> tuple[list[int], list[int]]:
    """Return the least and the most that each node should get at this rank, on top of the copies it has."""
    least = (min(math.floor(share), math.ceil(share * (1 - slack))) for share in fair)
    most = (max(math.ceil(share), math.floor(share * (1 + slack))) for share in fair)
    return (
        [max(0, bound - count) for bound, count in zip(least, copies, strict=True)],
        [max(0, bound - count) for bound, count in zip(most, copies, strict=True)],
    )


def _rule_out(rows: list[list[float]], owners: list[tuple[int, ...]], members: tuple[RingMember, ...]) -> None:
    """Exclude nodes that must not hold the next copy of a slot; ``_excluded`` is asked once for equal owners."""
    known: dict[tuple[int, ...], list[int]] = {}
    for row, held in zip(rows, owners, strict=True):
        excluded = known.get(held)
        if excluded is None:
            excluded = known[held] = _excluded(held, members)
        for i in excluded:
            row[i] = _NEVER


def _excluded(held: tuple[int, ...], members: tuple[RingMember, ...]) -> list[int]:
    """Return the owners of a slot, and the nodes that share a zone or host with them more than others do."""
    zones = [members[i].zone for i in held if members[i].zone]
    hosts = [members[i].host for i in held if members[i].host]
    shared = [2 * (member.zone in zones) + (member.host in hosts) for member in members]
    for i in held:
        shared[i] = 4
    least = min(shared)
    return [i for i, degree in enumerate(shared) if degree > least]


class _Auction:
    """The assignment of one rank's slots to nodes, by distance x price.

    A tie goes to the smaller index, and so node id.
    """

    def __init__(self, rows: list[list[float]], prices: list[float], low: list[int], high: list[int]) -> None:
        self.rows = rows
        self.prices = prices
        self.low = low
        self.high = high
        if all(price == 1.0 for price in prices):  # the usual case: then a distance is its own cost
            self.owner = [row.index(min(row)) for row in rows]
        else:
            priced = (list(map(mul, row, prices)) for row in rows)
            self.owner = [costs.index(min(costs)) for costs in priced]
        self.held: list[list[int]] = [[] for _ in prices]
        for slot, node in enumerate(self.owner):
            self.held[node].append(slot)
        self.loads = [len(slots) for slots in self.held]

    def run(self, rounds: int) -> None:
        """Change prices until every load is in bounds, or no price helps, or for this number of rounds."""
        low, high = list(self.low), list(self.high)
        for _ in range(min(rounds, _ROUNDS_MAX)):
            over = list(map(sub, self.loads, high))
            under = list(map(sub, low, self.loads))
            count = max(over)
            if count > 0:
                node = over.index(count)
                if not self._trade(node, self._losses(node), count, dearer=True):
                    high[node] = self.loads[node]
            elif (count := max(under)) > 0:
                node = under.index(count)
                if not self._trade(node, self._gains(node), count, dearer=False):
                    low[node] = self.loads[node]
            else:
                return

    def settle(self) -> None:
        """Move the cheapest slots, whatever the prices, until every load is in bounds. Every node must be allowed."""
        loads, nodes = self.loads, range(len(self.prices))
        for node in nodes:
            while loads[node] > self.high[node]:
                room = [i for i in nodes if loads[i] < self.high[i]]
                _, slot, to = min(
                    (self.rows[s][i] * self.prices[i] / (self.rows[s][node] * self.prices[node]), s, i)
                    for s in self.held[node]
                    for i in room
                )
                self._move(slot, to)
        for node in nodes:
            while loads[node] < self.low[node]:
                offers = [
                    offer for offer in self._gains(node) if loads[self.owner[offer[1]]] > self.low[self.owner[offer[1]]]
                ]
                self._move(min(offers)[1], node)

    def _losses(self, node: int) -> list[tuple[float, int]]:
        """Return by which factor the node's price must rise to lose a slot, and which slot."""
        prices, price = self.prices, self.prices[node]
        offers = []
        for slot in self.held[node]:
            row = self.rows[slot]
            distance = row[node]
            row[node] = _NEVER
            least = min(map(mul, row, prices))
            row[node] = distance
            if least < _NEVER:
                offers.append((least / (distance * price), slot))
        return offers

    def _gains(self, node: int) -> list[tuple[float, int]]:
        """Return by which factor the node's price must fall to gain a slot, and which slot."""
        rows, prices, price = self.rows, self.prices, self.prices[node]
        return [
            (row[node] * price / (row[owner] * prices[owner]), slot)
            for slot, (row, owner) in enumerate(zip(rows, self.owner, strict=True))
            if owner != node and row[node] < _NEVER
        ]

    def _trade(self, node: int, offers: list[tuple[float, int]], count: int, *, dearer: bool) -> bool:
        """Change the node's price so that ``count`` slots change hands; return False if none can."""
        if not offers:
            return False
        chosen = nsmallest(count + 1, offers)
        last = chosen[min(count, len(chosen)) - 1][0]
        # Halfway to the next offer, so that the last slot is not at a tie, which the other side would win back.
        factor = max(_BID, (last + chosen[count][0]) / 2 if count < len(chosen) else last * _BID)
        self.prices[node] = self.prices[node] * factor if dearer else self.prices[node] / factor
        for _, slot in chosen[:count]:
            self._move(slot, self._next_best(slot, node) if dearer else node)
        return True

    def _next_best(self, slot: int, node: int) -> int:
        """Return the node that gets a slot if this node does not."""
        costs = list(map(mul, self.rows[slot], self.prices))
        costs[node] = _NEVER
        return costs.index(min(costs))

    def _move(self, slot: int, to: int) -> None:
        former = self.owner[slot]
        self.held[former].remove(slot)
        self.held[to].append(slot)
        self.loads[former] -= 1
        self.loads[to] += 1
        self.owner[slot] = to
