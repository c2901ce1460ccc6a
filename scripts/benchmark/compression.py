"""What compressing values costs and saves: ``compress="zstd"`` beside none.

One node, one program, batches of JSON text of three sizes, and of noise, which nothing makes smaller. CPU microseconds
a value, of the client and of the node, interleaved rounds, medians; and the bytes that a node is charged for an entry.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from meshcache import Client, LocalMesh

from .measure import cpu_seconds, say

EXAMPLES: Final = """\
examples:
  scripts/bench compression                 JSON of 1 KB, 10 KB and 1 MB, and noise
  scripts/bench compression --rounds 3      the same, quickly
"""
TTL_S: Final = 3600
KINDS: Final = (("JSON", 1_000, 100), ("JSON", 10_000, 100), ("JSON", 1_000_000, 10), ("noise", 10_000, 100))
"""What a value is, its bytes, and how many there are in a batch."""
BLOCK_S: Final = 0.2
WAYS: Final[tuple[Literal["off", "zstd"], ...]] = ("off", "zstd")


def documents(size: int, seed: int) -> bytes:
    """Return JSON as a program would have it: records with names, numbers and a few words that come again."""
    rng = random.Random(seed)
    rows: list[str] = []
    left = size
    while left > 0:
        row = {
            "id": rng.randrange(10**9),
            "name": f"user {rng.randrange(10**6)}",
            "mail": f"u{rng.randrange(10**5)}@example.org",
            "tags": rng.sample(["red", "blue", "green", "new", "old"], 2),
            "seen_at": 1.7e9 + rng.random() * 1e6,
        }
        rows.append(json.dumps(row))
        left -= len(rows[-1]) + 2
    return ("[" + ", ".join(rows) + "]").encode()[:size]


def batch_of(kind: str, size: int, count: int) -> dict[str, bytes]:
    """Return a batch of different values."""
    if kind == "noise":
        return {f"k{i}": random.Random(i).randbytes(size) for i in range(count)}
    return {f"k{i}": documents(size, i) for i in range(count)}


def cpu_us(call: Callable[[], object], node: Sequence[int], count: int) -> tuple[float, float]:
    """Return the CPU time that a call takes a value, of this program and of the node."""
    calls, until = 0, time.monotonic() + BLOCK_S
    own, nodes = time.process_time(), cpu_seconds(node)
    while time.monotonic() < until or not calls:
        call()
        calls += 1
    return (time.process_time() - own) / calls / count * 1e6, (cpu_seconds(node) - nodes) / calls / count * 1e6


def measure_kind(
    mesh: LocalMesh, client: Client, kind: str, size: int, count: int, rounds: int
) -> list[dict[str, Any]]:
    """Store and read one batch in both ways, in turn."""
    values = batch_of(kind, size, count)
    keys, node = list(values), list(mesh.pids.values())
    charged: dict[str, float] = {}
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for way in WAYS * rounds:
        caches = client.with_options(compress=way, compress_min_bytes=min(size, 1024))
        caches.clear()
        wrote = cpu_us(lambda: caches.set_many(values, TTL_S), node, count)  # noqa: B023  (called at once)
        read = cpu_us(lambda: caches.get_many(keys), node, count)  # noqa: B023  (as above)
        if caches.get_many(keys) != values:
            raise SystemExit(f"{kind} of {size:,} bytes came back as something else")
        charged[way] = caches.inspect("stats")["store"]["bytes"] / count
        samples.setdefault((way, "set"), []).append(wrote)
        samples.setdefault((way, "get"), []).append(read)
    rows = []
    for way in WAYS:
        row: dict[str, Any] = {"kind": kind, "size": size, "count": count, "compress": way, "charged": charged[way]}
        for what in ("set", "get"):
            ours, theirs = (statistics.median(column) for column in zip(*samples[way, what], strict=True))
            row |= {f"{what}_client_us": ours, f"{what}_node_us": theirs}
        rows.append(row)
        say(
            f"{kind} of {size:,} bytes, {way}: {row['charged']:,.0f} bytes charged; set {row['set_client_us']:,.1f} + "
            f"{row['set_node_us']:,.1f} µs, get {row['get_client_us']:,.1f} + {row['get_node_us']:,.1f} µs"
        )
    return rows


def main(arguments: Sequence[str]) -> int:
    """Measure all kinds of values."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench compression",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="interleaved rounds (9)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON; the text goes to standard error")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with (
        LocalMesh(nodes=1, store={"max_bytes": 1_000_000_000}) as mesh,
        mesh.client(near_cache=False, timeout=60) as client,
    ):
        for kind, size, count in KINDS:
            rows += measure_kind(mesh, client, kind, size, count, options.rounds)
    if options.json:
        print(json.dumps(rows))
    return 0
