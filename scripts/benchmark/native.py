"""The native module: what a node spends on a key with it and without.

Two meshes, one whose nodes use the module and one whose nodes are pure Python, do the same in turns, each in blocks of
a part of a second, and one client asks both:

  get             one small key at a time
  set             the same, with a TTL
  get_many(100)   a hundred small keys at a time
  set_many(100)   the same, with a TTL

For each: the processor time of all nodes together for a call. The lower quartile of the blocks is what counts: on a
machine that does something else, too, the others tell of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from meshcache import LocalMesh
from meshcache._native import PURE_VARIABLE

from .measure import cpu_seconds, say

KEYS: Final = 10_000
BATCH: Final = 100
VALUE: Final = b"v" * 100
TTL_S: Final = 3600
BLOCK_S: Final = 0.1
WAYS: Final = ("native", "pure")
EXAMPLES: Final = """\
examples:
  scripts/bench native                       one node: half a minute
  scripts/bench native --nodes 3             three nodes, two copies of each key
  scripts/bench native --rounds 100 --json   for a busy machine
"""


@contextmanager
def _started_as(way: str) -> Iterator[None]:
    """Have processes that are started meanwhile use the native module, or not."""
    before = os.environ.get(PURE_VARIABLE)
    os.environ[PURE_VARIABLE] = str(int(way == "pure"))
    try:
        yield
    finally:
        del os.environ[PURE_VARIABLE]
        if before is not None:
            os.environ[PURE_VARIABLE] = before


class Contestant:
    """One mesh, and a client of it."""

    def __init__(self, stack: ExitStack, way: str, nodes: int) -> None:
        copies = min(2, nodes)
        cluster = {"replicas": copies, "write_quorum": copies, "read_quorum": 1}
        with _started_as(way):
            self.mesh = stack.enter_context(LocalMesh(nodes, cluster=cluster, store={"max_entries": 4 * KEYS}))
        self.client = self.mesh.client(near_cache=False)
        names = [f"user:{number:06d}" for number in range(KEYS)]
        self.batches = [names[start : start + BATCH] for start in range(0, KEYS, BATCH)]
        self.items = [dict.fromkeys(batch, VALUE) for batch in self.batches]
        self.names = names
        self.turn = 0
        for items in self.items:
            self.client.set_many(items, ttl=TTL_S)

    def calls(self) -> dict[str, Callable[[int], object]]:
        """Return what is measured, by name; each is called with a number that goes up."""
        client, names, batches, items = self.client, self.names, self.batches, self.items
        return {
            "get": lambda turn: client.get(names[turn % KEYS]),
            "set": lambda turn: client.set(names[turn % KEYS], VALUE, ttl=TTL_S),
            "get_many(100)": lambda turn: client.get_many(batches[turn % len(batches)]),
            "set_many(100)": lambda turn: client.set_many(items[turn % len(items)], ttl=TTL_S),
        }

    def block(self, call: Callable[[int], object]) -> float:
        """Call for a while; return the nodes' processor seconds for one call."""
        pids = list(self.mesh.pids.values())
        first, before_s, until = self.turn, cpu_seconds(pids), time.perf_counter() + BLOCK_S
        while time.perf_counter() < until:
            for _ in range(5):
                call(self.turn)
                self.turn += 1
        return (cpu_seconds(pids) - before_s) / (self.turn - first)


def measure(rounds: int, nodes: int) -> dict[str, dict[str, float]]:
    """Return by name of a call what it took the nodes, in microseconds, natively and in pure Python."""
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        contestants = {way: Contestant(stack, way, nodes) for way in WAYS}
        for number in range(rounds):
            for what in contestants["native"].calls():
                for way in WAYS[:: 1 if number % 2 else -1]:
                    node_s = contestants[way].block(contestants[way].calls()[what])
                    found.setdefault(what, {}).setdefault(way, []).append(node_s * 1e6)
    return {
        what: {way: round(statistics.quantiles(values, n=4)[0], 2) for way, values in row.items()}
        for what, row in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench native",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=30, help="blocks of each (30)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of each mesh (1); with more, two copies of a key")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    rows = measure(options.rounds, options.nodes)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    say(f"{'CPU of the nodes, a call':25} {'native':>10} {'pure':>10} {'ratio':>6}")
    for what, row in rows.items():
        say(f"{what:25} {row['native']:7.1f} µs {row['pure']:7.1f} µs {row['native'] / row['pure']:6.2f}")
    return 0
