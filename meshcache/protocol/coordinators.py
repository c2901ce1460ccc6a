"""Which owner coordinates a batch of writes, so that few messages are needed.

A plain write may be coordinated by any node. One key goes to its first owner. But the first owners of a batch have many
peers: of three nodes with two copies of each key, each stores with both others. A batch then takes three requests, six
writes between the nodes, and as many answers. If all keys that two nodes own together go to one of the two, each node
has one peer, and it takes three requests and three writes. In larger meshes the writes are about half as many, too.

So the slots with the same owners, in any order, are a *set*, and each set should have one coordinator, while each node
coordinates about as many keys as it is the first owner of. That is a problem of flows. Where a set has several
coordinators, each has a *part* of its slots. Draw sets and nodes as points, and the parts as lines between them.
Going round a circle of these lines, one can make every second part smaller and the others larger by the same number:
all sets and all nodes keep their sums, and one part goes to zero. So we begin with the parts that the first owners
have, and break all circles. What is left is a forest: there are fewer parts than sets and nodes. Then the smallest
parts are given up, as long as no node coordinates ``SLACK`` more or less than its share.

A node has as many copies as before, and stores each of its keys once, as the coordinator or as the other owner. So what
differs by ``SLACK`` is only what a coordinator has more to do with a key than the others.

Where all nodes own all slots there is one set, and nothing is gained: each node keeps what it is the first owner of.

This follows from the ring alone, so all clients choose the same. Whether a batch may be written in this way is another
question: see ``Routing.first_of_batch``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from meshcache.protocol.ring import Ring

SLACK: Final = 0.15
"""How far what a node coordinates may be from its share, of that share. With less, sets have more coordinators."""
MEMBERS_MAX: Final = 12
"""In larger meshes first owners stay: hardly two keys of a batch have the same owners, and breaking the circles takes
longer and longer (12 nodes: 4 ms with two copies, 28 ms with three)."""

Part = tuple[int, str]
"""A set, by its number, and one of its coordinators."""


@lru_cache(maxsize=16)
def coordinators(ring: Ring) -> list[str]:
    """Return by slot the owner to coordinate it in batches; "" where there is no owner. Not to be changed."""
    first = [owners[0] if owners else "" for owners in ring.owners]
    if ring.replicas < 2 or len(ring.members) > MEMBERS_MAX:
        return first
    numbers: dict[frozenset[str], int] = {}
    sets = [numbers.setdefault(frozenset(owners), len(numbers)) for owners in ring.owners]
    parts: dict[Part, int] = {}
    for part in zip(sets, first, strict=True):
        parts[part] = parts.get(part, 0) + 1
    return _hand_out(sets, first, _give_up_small(_break_circles(parts)))


def _break_circles(parts: dict[Part, int]) -> dict[Part, int]:
    """Return other sizes of the parts, with the same sums of all sets and nodes, and no circle."""
    sizes: dict[Part, int] = {}
    for part, size in parts.items():
        sizes[part] = size
        path = _path(sizes, part)
        if not path:
            continue
        # The part that closes the circle, then the others in their order: every second one shrinks.
        even, odd = path[::2], path[1::2]
        shrinking, growing = max((even, odd), (odd, even), key=lambda halves: min(sizes[one] for one in halves[0]))
        change = min(sizes[one] for one in shrinking)
        for one in growing:
            sizes[one] += change
        for one in shrinking:
            sizes[one] -= change
            if not sizes[one]:
                del sizes[one]
    return sizes


def _path(sizes: dict[Part, int], last: Part) -> list[Part]:
    """Return the circle that this part closes, beginning with it; empty if it closes none."""
    lines: dict[int | str, list[Part]] = {}
    for part in sizes:
        if part != last:
            for end in part:
                lines.setdefault(end, []).append(part)
    start, goal = last
    came_by: dict[int | str, Part] = {start: last}
    waiting: list[int | str] = [start]
    for point in waiting:
        for part in lines.get(point, ()):
            end = part[1] if part[0] == point else part[0]
            if end not in came_by:
                came_by[end] = part
                waiting.append(end)
    if goal not in came_by:
        return []
    path, point = [last], goal
    while point != start:
        part = came_by[point]
        path.append(part)
        point = part[0] if part[1] == point else part[1]
    return path


def _give_up_small(sizes: dict[Part, int]) -> dict[Part, int]:
    """Return the parts without those small ones that another coordinator of the set can take over."""
    kept, loads = dict(sizes), {node: 0 for _, node in sizes}
    for (_, node), size in sizes.items():
        loads[node] += size
    shares = dict(loads)
    for part in sorted(kept, key=lambda part: (kept[part], part)):
        number, node = part
        size = kept[part]
        others = [other for other in kept if other[0] == number and other != part]
        if not others:
            continue
        taker = max(others, key=lambda other: (kept[other], other))
        takes = loads[taker[1]] + size <= shares[taker[1]] * (1 + SLACK)
        if takes and loads[node] - size >= shares[node] * (1 - SLACK):
            kept[taker] += kept.pop(part)
            loads[taker[1]] += size
            loads[node] -= size
    return kept


def _hand_out(sets: list[int], first: list[str], sizes: dict[Part, int]) -> list[str]:
    """Return the coordinator of each slot: its first owner as long as that has a part left, else another."""
    left, chosen = dict(sizes), list(first)
    others: list[int] = []
    for slot, part in enumerate(zip(sets, first, strict=True)):
        if left.get(part):
            left[part] -= 1
        else:
            others.append(slot)
    takers: dict[int, list[str]] = {}
    for (number, node), count in left.items():
        takers.setdefault(number, []).extend([node] * count)
    for slot in others:
        chosen[slot] = takers[sets[slot]].pop()
    return chosen
