"""One client of memcached, pymemcache, against a node's memcached door and against a memcached.

Both run on this machine, the mesh with one node and one copy, and take turns in blocks of a part of a second. The
client takes the same of the time in each, so the ratio says less than the servers differ: the processor time that each
server spends on a key is told beside it.

  get                  one small key at a time
  set                  the same, with a lifetime
  get_many(100)        a hundred small keys in one command
  set_many(100)        a hundred commands in one write, and their answers
  set noreply(100)     the same without answers, and a get that waits until all are done
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from .measure import Block, Summary, measured, median_of, say
from .servers import Server, Unavailable, door_server, memcached_server

KEYS: Final = 10_000
BATCH: Final = 100
VALUE: Final = b"v" * 100
TTL_S: Final = 3600
BLOCK_S: Final = 0.2
TIMEOUT_S: Final = 20.0
EXAMPLES: Final = """\
examples:
  scripts/bench memcached                      half a minute
  scripts/bench memcached --rounds 60 --json   for a busy machine
"""


class Contestant:
    """A server, and a client of it."""

    def __init__(self, server: Server) -> None:
        from pymemcache.client.base import Client  # noqa: PLC0415  (memcached_server says so if there is none)

        self.server = server
        host, _, port = server.address.rpartition(":")
        self.client = Client((host, int(port)), no_delay=True, default_noreply=False, timeout=TIMEOUT_S)
        self._names = [f"user:{number:06d}" for number in range(KEYS)]
        self._batches = [self._names[start : start + BATCH] for start in range(0, KEYS, BATCH)]
        self._turn = 0
        for batch in self._batches:
            self.client.set_many(dict.fromkeys(batch, VALUE), TTL_S)

    def calls(self) -> dict[str, tuple[Callable[[int], object], int]]:
        """Return what is measured, by name, and how many keys each has; each is called with a number that goes up."""
        client, names, batches = self.client, self._names, self._batches
        items = [dict.fromkeys(batch, VALUE) for batch in batches]

        def set_without_reply(turn: int) -> None:
            client.set_many(items[turn % len(items)], TTL_S, noreply=True)
            client.get(names[turn % KEYS])

        return {
            "get": (lambda turn: client.get(names[turn % KEYS]), 1),
            "set": (lambda turn: client.set(names[turn % KEYS], VALUE, TTL_S), 1),
            "get_many(100)": (lambda turn: client.get_many(batches[turn % len(batches)]), BATCH),
            "set_many(100)": (lambda turn: client.set_many(items[turn % len(items)], TTL_S), BATCH),
            "set noreply(100)": (set_without_reply, BATCH),
        }

    def block(self, name: str) -> Summary:
        """Call for a while."""
        call, keys = self.calls()[name]
        block, until = Block(keys), 0.0
        with measured(block, self.server.pids):
            until = time.perf_counter() + BLOCK_S
            while time.perf_counter() < until:
                before = time.perf_counter_ns()
                call(self._turn)
                block.calls_ns.append(time.perf_counter_ns() - before)
                self._turn += 1
        return block.summary()


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """Return by name of a call what it took on either server."""
    blocks: dict[str, dict[str, list[Summary]]] = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(memcached_server()), stack.enter_context(door_server())]
        contestants = [Contestant(server) for server in servers]
        for number in range(rounds):
            for name in contestants[0].calls():
                for contestant in contestants[:: 1 if number % 2 else -1]:
                    summaries = blocks.setdefault(name, {}).setdefault(contestant.server.kind, [])
                    summaries.append(contestant.block(name))
    return {name: _row(kinds["memcached"], kinds["door"]) for name, kinds in blocks.items()}


def _row(memcached: list[Summary], door: list[Summary]) -> dict[str, Any]:
    theirs, ours = median_of(memcached), median_of(door)
    least, most = _quartiles([b.keys_per_s / a.keys_per_s for a, b in zip(memcached, door, strict=True)])
    return {
        "memcached_keys_per_s": round(theirs.keys_per_s),
        "door_keys_per_s": round(ours.keys_per_s),
        "ratio": round(ours.keys_per_s / theirs.keys_per_s, 3),
        "ratio_quartiles": [round(least, 3), round(most, 3)],
        "memcached_us_per_key": round(theirs.server_us_per_key, 2),
        "door_us_per_key": round(ours.server_us_per_key, 2),
        "client_us_per_key": round(ours.client_us_per_key, 2),
        "door_p99_us": round(ours.p99_us),
    }


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    quartiles = statistics.quantiles(values, n=4)
    return quartiles[0], quartiles[2]


def main(arguments: Sequence[str]) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench memcached",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="blocks of each (15)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        found = measure(max(1, options.rounds))
    except Unavailable as error:
        say(f"nothing to compare with: {error}")
        return 1
    if options.json:
        print(json.dumps(found))
        return 0
    print("                   keys a second            ratio (quartiles)     CPU of the server, µs a key")
    for name, row in found.items():
        low, high = row["ratio_quartiles"]
        print(
            f"{name:<18} {row['door_keys_per_s']:>9,} : {row['memcached_keys_per_s']:<9,} {row['ratio']:>6.2f} "
            f"({low:.2f} to {high:.2f}) {row['door_us_per_key']:>12.2f} : {row['memcached_us_per_key']:.2f}"
        )
    return 0
