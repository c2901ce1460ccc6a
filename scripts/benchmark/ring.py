"""Measure the ring and print Markdown tables: how even the loads are, and how much moves when a node joins or leaves.

Beside meshcache's ring stands plain consistent hashing (a key belongs to the next MD5 point on the circle, no slots,
no balancing) with 50 to 500 points a node. A ratio of 1 is ideal: a load equal to the fair share, or no more moved
than the share of the node that joins or leaves. Everything is drawn from one seed: two runs print the same, but for
the build times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from meshcache.protocol.ring import Ring, RingMember, slot_of

SLOTS: Final = 1024
VNODES: Final = 150
PLAIN_POINTS: Final = (50, 100, 150, 500)
PLAIN_SETS_MAX: Final = 40
CIRCLE: Final = 1 << 64
EXAMPLES: Final = """\
examples:
  scripts/bench ring                                both tables, in some seconds
  scripts/bench ring --sets 10 --keys 2000          a look
  scripts/bench ring --seed 2 --json | jq .movement
"""


class Plain:
    """Plain consistent hashing. Angles ascending; ``nodes[i]`` owns the arc that ends at ``angles[i]``."""

    def __init__(self, ids: list[str], points: int) -> None:
        marks = sorted((angle_of(f"{node}#{k}".encode()), node) for node in ids for k in range(points))
        self.angles = [angle for angle, _ in marks]
        self.nodes = [node for _, node in marks]

    def share(self, node: str) -> float:
        """Return the part of the circle a node owns, which is exactly what moves when it joins or leaves."""
        arcs = zip(self.nodes, [self.angles[-1] - CIRCLE, *self.angles], self.angles, strict=False)
        return sum(end - start for owner, start, end in arcs if owner == node) / CIRCLE


def angle_of(name: bytes) -> int:
    """Return the MD5 angle of a name."""
    return int.from_bytes(hashlib.md5(name, usedforsecurity=False).digest()[:8], "big")


def build(ids: list[str], replicas: int) -> Ring:
    """Return meshcache's ring."""
    return Ring.build([RingMember(i) for i in ids], slots=SLOTS, vnodes=VNODES, replicas=replicas)


def extremes(loads: list[int]) -> list[float]:
    """Return the least and the greatest load relative to the mean."""
    mean = sum(loads) / len(loads)
    return [min(loads) / mean, max(loads) / mean]


def loads_of(ring: Ring, per_slot: list[int], ranks: int) -> list[int]:
    """Return each node's load: what its slots hold, over the first so many ranks."""
    loads = {member.node_id: 0 for member in ring.members}
    for owners, count in zip(ring.owners, per_slot, strict=True):
        for node in owners[:ranks]:
            loads[node] += count
    return list(loads.values())


def evenness(sizes: tuple[int, ...], keys: int) -> list[dict[str, Any]]:
    """Return one row per ring and cluster size, least and greatest load relative to the fair share."""
    per_slot = [0] * SLOTS
    angles = []
    for k in range(keys):
        key = b"user:%d" % k
        per_slot[slot_of(key, SLOTS)] += 1
        angles.append(angle_of(key))
    angles.sort()
    rows: list[dict[str, Any]] = []
    for size in sizes:
        ids = [f"node{i}" for i in range(1, size + 1)]
        ring = build(ids, 2)
        row = {
            "primary_keys": extremes(loads_of(ring, per_slot, 1)),
            "primary_slots": extremes(loads_of(ring, [1] * SLOTS, 1)),
            "all_keys": extremes(loads_of(ring, per_slot, 2)),
            "all_slots": extremes(loads_of(ring, [1] * SLOTS, 2)),
        }
        rows.append({"nodes": size, "ring": "meshcache"} | row)
        for points in PLAIN_POINTS:
            plain = Plain(ids, points)
            ends = [0, *(bisect_left(angles, angle + 1) for angle in plain.angles), keys]
            loads = dict.fromkeys(ids, 0)
            for (low, high), node in zip(pairwise(ends), [*plain.nodes, plain.nodes[0]], strict=True):
                loads[node] += high - low
            rows.append({"nodes": size, "ring": f"plain {points}", "primary_keys": extremes(list(loads.values()))})
    return rows


def node_ids(rng: random.Random, count: int) -> list[str]:
    """Return the ids of a cluster in one of the ways people name nodes."""
    style = rng.randrange(3)
    if style == 0:
        prefix, first = rng.choice(["node", "cache-", "mesh", "web-cache-node-"]), rng.randrange(100)
        return [f"{prefix}{i}" for i in range(first, first + count)]
    if style == 1:
        net = rng.randrange(256)
        return [f"10.0.{net}.{host}:7101" for host in rng.sample(range(1, 255), count)]
    return [f"{rng.getrandbits(48):012x}" for _ in range(count)]


def summary(ratios: list[float]) -> list[float]:
    """Return mean, 95th percentile and maximum."""
    ordered = sorted(ratios)
    return [sum(ordered) / len(ordered), ordered[int(0.95 * len(ordered))], ordered[-1]]


def movement(sizes: tuple[int, ...], sets: int, seed: int) -> list[dict[str, Any]]:
    """Return one row per ring and size: what moves between n and n + 1 nodes, relative to the share of the one."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        rng = random.Random(seed * 1000 + size)
        primaries, copies, millis = [], [], []
        plain: dict[int, list[float]] = {points: [] for points in PLAIN_POINTS}
        for index in range(sets):
            ids = node_ids(rng, size + 1)
            leaver = rng.choice(ids)
            rest = [i for i in ids if i != leaver]
            started = time.process_time()
            large = build(ids, 2)
            millis.append((time.process_time() - started) * 1000)
            small = build(rest, 2)
            pairs = list(zip(large.owners, small.owners, strict=True))
            primaries.append(sum(a[0] != b[0] for a, b in pairs) * (size + 1) / SLOTS)
            copies.append(sum(len(set(a) - set(b)) for a, b in pairs) * (size + 1) / (2 * SLOTS))
            if index < PLAIN_SETS_MAX:
                for points, ratios in plain.items():
                    ratios.append(Plain(ids, points).share(leaver) * (size + 1))
        row = {"primaries": summary(primaries), "copies": summary(copies), "build_ms": sum(millis) / len(millis)}
        rows.append({"nodes": size, "ring": "meshcache"} | row)
        rows += [{"nodes": size, "ring": f"plain {p}", "primaries": summary(r)} for p, r in plain.items()]
    return rows


def table(head: list[str], body: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def span(values: list[float] | None) -> str:
    """Return figures for a cell; a dash where nothing was measured."""
    return " / ".join(f"{value:.2f}" for value in values) if values else "-"


def markdown(loads: list[dict[str, Any]], moves: list[dict[str, Any]], keys: int, sets: int) -> str:
    """Return both tables with a line above each."""
    columns = ["primary_keys", "primary_slots", "all_keys", "all_slots"]
    first = [[str(row["nodes"]), row["ring"], *(span(row.get(column)) for column in columns)] for row in loads]
    second = [
        [
            f"{row['nodes']} ↔ {row['nodes'] + 1}",
            row["ring"],
            span(row["primaries"]),
            span(row.get("copies")),
            f"{row['build_ms']:.0f} ms" if "build_ms" in row else "-",
        ]
        for row in moves
    ]
    of = f"{sets} member sets; plain: {min(sets, PLAIN_SETS_MAX)}"
    return "\n".join(
        [
            f"Least / greatest load of a node relative to its fair share ({keys:,} keys, two copies):\n",
            table(["nodes", "ring", "keys", "slots", "keys, all copies", "slots, all copies"], first),
            f"\nWhat moves when one node joins or leaves, relative to its share: mean / p95 / max ({of}):\n",
            table(["nodes", "ring", "primaries", "all copies", "build, CPU"], second),
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench ring",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--keys", type=int, default=200_000, help="keys to hash (default: %(default)s)")
    parser.add_argument("--sets", type=int, default=100, help="member sets per cluster size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the member sets (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.keys < 1 or options.sets < 10:
        parser.error("at least 1 key and 10 sets")
    loads = evenness((3, 5, 10), options.keys)
    moves = movement((3, 4, 5, 9, 10), options.sets, options.seed)
    if options.json:
        print(json.dumps({"slots": SLOTS, "vnodes": VNODES, "evenness": loads, "movement": moves}, indent=2))
    else:
        print(markdown(loads, moves, options.keys, options.sets))
    return 0
