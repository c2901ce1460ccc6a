"""Keys: what encryption and the check of rights cost.

Two meshes of three nodes, one with keys and one without, do the same in turns, each in blocks of a part of a second:

  get             one small key at a time
  set             the same
  get_many(100)   a hundred small keys at a time
  get 1 MB        one value of a megabyte
  set 1 MB        the same
  near get        one small key of which there is a copy in the program

For each: the median time of a call with and without keys, and the processor time of all nodes together for a call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from keys_made import make_keys, security

from meshcache import Client, LocalMesh, NearCache

from .measure import cpu_seconds, say

NODES: Final = 3
KEYS: Final = 1000
BLOCK_S: Final = 0.25
LARGE_BYTES: Final = 1 << 20
EXAMPLES: Final = """\
examples:
  scripts/bench keys                 a minute
  scripts/bench keys --rounds 4      a look
"""


class Contestant:
    """One mesh, and a client of it."""

    def __init__(self, stack: ExitStack, keys: Path | None) -> None:
        """``keys``: the directory of keys; None: it has none."""
        store = {"max_entries": 100_000, "max_bytes": 400_000_000}
        secured = {} if keys is None else security(keys)
        self.mesh = stack.enter_context(LocalMesh(NODES, store=store, security=secured))
        options: dict[str, Any] = {} if keys is None else {"key_file": keys / "bench.secret"}
        self.client: Client = self.mesh.client(near_cache=False, **options)
        self.near: Client = self.mesh.client(near_cache=NearCache(ttl=3600), **options)
        self.names = [f"key-{number}" for number in range(KEYS)]
        self.client.set_many(dict.fromkeys(self.names, b"v" * 100), ttl=None)
        self.client.set_many({f"large-{number}": bytes(LARGE_BYTES) for number in range(10)}, ttl=None)
        self.near.get_many(self.names)
        self.turn = 0

    def calls(self) -> dict[str, Callable[[], object]]:
        """Return what is measured, by name."""
        client, near, names = self.client, self.near, self.names
        value, large = b"v" * 100, bytes(LARGE_BYTES)
        return {
            "get": lambda: client.get(self._next(names)),
            "set": lambda: client.set(self._next(names), value),
            "get_many(100)": lambda: client.get_many(names[:100]),
            "get 1 MB": lambda: client.get(f"large-{self._count(10)}"),
            "set 1 MB": lambda: client.set(f"large-{self._count(10)}", large),
            "near get": lambda: near.get(names[0]),
        }

    def _count(self, end: int) -> int:
        self.turn += 1
        return self.turn % end

    def _next(self, names: Sequence[str]) -> str:
        return names[self._count(len(names))]

    def block(self, call: Callable[[], object]) -> tuple[float, float]:
        """Call for a while; return the seconds of one call, and the nodes' processor seconds for one."""
        pids = list(self.mesh.pids.values())
        count, before_s, began = 0, cpu_seconds(pids), time.perf_counter()
        while (took_s := time.perf_counter() - began) < BLOCK_S:
            for _ in range(5):
                call()
            count += 5
        return took_s / count, (cpu_seconds(pids) - before_s) / count


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return by name of a call what it took in microseconds."""
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = [f"node{number}" for number in range(1, NODES + 1)]
        keys = make_keys(directory, *nodes, bench="read,write")
        contestants = {"without": Contestant(stack, None), "with": Contestant(stack, keys)}
        for number in range(rounds):
            for what in contestants["with"].calls():
                for which, contestant in list(contestants.items())[:: 1 if number % 2 else -1]:
                    took_s, node_s = contestant.block(contestant.calls()[what])
                    row = found.setdefault(what, {})
                    row.setdefault(f"{which}_us", []).append(took_s * 1e6)
                    row.setdefault(f"{which}_node_us", []).append(node_s * 1e6)
    return {
        what: {name: round(statistics.median(values), 2) for name, values in row.items()} for what, row in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench keys",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=12, help="blocks of each (12)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    rows = measure(options.rounds)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    say(f"{'':15} {'without':>10} {'with keys':>10} {'ratio':>6}   {'nodes: without':>14} {'with':>9} {'ratio':>6}")
    for what, row in rows.items():
        ratio = row["with_us"] / row["without_us"]
        nodes = row["with_node_us"] / max(row["without_node_us"], 0.01)
        nodes_text = f"{nodes:6.2f}" if row["without_node_us"] > 1 else "     -"
        say(
            f"{what:15} {row['without_us']:7.1f} µs {row['with_us']:7.1f} µs {ratio:6.2f}   "
            f"{row['without_node_us']:11.1f} µs {row['with_node_us']:6.1f} µs {nodes_text}"
        )
    return 0
