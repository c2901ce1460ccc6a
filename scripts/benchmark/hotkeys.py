"""Hot keys: what finding them costs, and what they are good for.

Counting: CPU nanoseconds for each key read, three ways, interleaved, medians:

  sampled    as the node does it: the keys of one request in seven are appended to a list, and counted by thousands
  all        the same, of every request
  at once    a counter raised for each key as it is read, without a bound

Keys follow Zipf's law (a = 1.1, 100,000 keys); requests have 1, 10 or 100 keys. It also says how many of the keys
with at least the threshold's reads each way has found, and how many it found that have not.

Mesh: reads per second of processes that read one key nine times of ten, from three nodes that handle hot keys and from
three that do not, in turns; and the share of the busiest node in the CPU time of all three.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import accumulate, cycle
from typing import Final, NamedTuple

import meshcache
from meshcache.config import HotKeySettings
from meshcache.core.operations.hotkeys import HotKeys

from .measure import cpu_seconds, say

THRESHOLD_READS = 1000
READS = 400_000
HOT_SHARE = 0.9
COLD_KEYS = 2000
READERS = 2
EXAMPLES: Final = """\
examples:
  scripts/bench hotkeys                                both parts, in less than a minute
  scripts/bench hotkeys --only mesh                    the figures in README.md
  scripts/bench hotkeys --only counting --rounds 1     a look at what counting costs
  scripts/bench hotkeys --only mesh --rounds 1 --seconds 1
"""

Way = Callable[[list[list[bytes]]], set[bytes]]


def sampled(requests: list[list[bytes]]) -> set[bytes]:
    """Count as the node does."""
    hot = HotKeys(HotKeySettings(threshold_reads=THRESHOLD_READS), random.Random(71), now=0.0)
    for keys in requests:
        hot.note(keys, 0.0)
    hot.count(0.0)
    return set(hot.until)


def all_of_them(requests: list[list[bytes]]) -> set[bytes]:
    """Count every request, by thousands."""
    hot = HotKeys(HotKeySettings(threshold_reads=THRESHOLD_READS), random.Random(71), now=0.0)
    hot._stride = hot.left = hot._gap_max = 1  # noqa: SLF001  (what is compared)
    for keys in requests:
        hot.note(keys, 0.0)
    hot.count(0.0)
    return set(hot.until)


def at_once(requests: list[list[bytes]]) -> set[bytes]:
    """Count each read."""
    counts: dict[bytes, int] = {}
    found: set[bytes] = set()
    for keys in requests:
        for key in keys:
            counts[key] = total = counts.get(key, 0) + 1
            if total >= THRESHOLD_READS:
                found.add(key)
    return found


def workload(keys_per_request: int, rng: random.Random) -> list[list[bytes]]:
    """Return requests. Each key is an object of its own, whose hash the look-up in the store has computed."""
    weights = list(accumulate(1 / rank**1.1 for rank in range(1, 100_001)))
    ranks = rng.choices(range(100_000), cum_weights=weights, k=READS)
    keys = [b"user:%d" % rank for rank in ranks]
    for key in keys:
        hash(key)
    return [keys[i : i + keys_per_request] for i in range(0, READS, keys_per_request)]


def read_one_key_mostly(address: str, seed: int, seconds: float) -> int:
    """Read for so long, nine times of ten the same key; return how often."""
    rng = random.Random(seed)
    keys = [b"hot" if rng.random() < HOT_SHARE else b"cold:%d" % rng.randrange(COLD_KEYS) for _ in range(50_000)]
    with meshcache.Client(address) as cache:
        cache.get("hot")
        end = time.perf_counter() + seconds
        for reads, key in enumerate(cycle(keys)):
            if cache.get(key) is None:
                raise AssertionError(f"{key!r} is lost")
            if time.perf_counter() >= end:
                return reads + 1
    raise AssertionError("endless")


class Block(NamedTuple):
    """What one block of one mesh showed."""

    reads_per_s: float
    node_cpu_shares: list[float]
    """Of the CPU time that all nodes spent, the greatest share first."""


def block(mesh: meshcache.LocalMesh, readers: ProcessPoolExecutor, seconds: float) -> Block:
    """Have the readers work on one mesh."""
    before = {node: cpu_seconds([pid]) for node, pid in mesh.pids.items()}
    jobs = [readers.submit(read_one_key_mostly, ",".join(mesh.addresses), seed, seconds) for seed in range(READERS)]
    reads = sum(job.result() for job in jobs)
    spent = [cpu_seconds([pid]) - before[node] for node, pid in mesh.pids.items()]
    return Block(reads / seconds, sorted((one / sum(spent) for one in spent), reverse=True))


def measure_mesh(rounds: int, seconds: float) -> dict[str, float]:
    """Compare two meshes of three nodes, one of which takes no key for hot; return by how much they differ."""
    say(f"{READERS} processes read, {HOT_SHARE:.0%} of the reads are of one key; 3 nodes, N=2 W=2 R=1")
    blocks: dict[str, list[Block]] = {"off": [], "on": []}
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        meshes = {}
        for name in blocks:
            mesh = stack.enter_context(meshcache.LocalMesh(nodes=3, hot_keys={"enabled": name == "on"}))
            with mesh.client() as cache:
                cache.set("hot", "v" * 100, ttl=None)
                cache.set_many({b"cold:%d" % i: "v" * 100 for i in range(COLD_KEYS)}, ttl=None)
            meshes[name] = mesh
        readers = stack.enter_context(ProcessPoolExecutor(READERS, mp_context=context))
        for _ in range(rounds):
            for name, mesh in meshes.items():
                blocks[name].append(block(mesh, readers, seconds))
    medians = {name: statistics.median(one.reads_per_s for one in found) for name, found in blocks.items()}
    say(f"{'HOT KEYS':>8}  {'READS/S':>10}  {'BUSIEST NODE':>12}")
    shares = {name: statistics.median(one.node_cpu_shares[0] for one in found) for name, found in blocks.items()}
    for name, busiest in shares.items():
        say(f"{name:>8}  {medians[name]:>10,.0f}  {busiest:>12.0%}")
    times = medians["on"] / medians["off"]
    say(f"on / off: {times:.1f}x (target: 3x, and no node over 60% of the nodes' CPU)")
    return {"times_as_fast": times, "busiest_off": shares["off"], "busiest_on": shares["on"]}


def measure_counting(rounds: int) -> None:
    """Compare the ways to count."""
    ways: dict[str, Way] = {"sampled": sampled, "all": all_of_them, "at once": at_once}
    say(f"{'KEYS A REQUEST':>14}  " + "  ".join(f"{name:>22}" for name in ways))
    for size in (1, 10, 100):
        requests = workload(size, random.Random(size))
        true = {key for key, n in Counter(key for keys in requests for key in keys).items() if n >= THRESHOLD_READS}
        spent_ns: dict[str, list[float]] = {name: [] for name in ways}
        verdict = {}
        for _ in range(rounds):
            for name, way in ways.items():
                begin = time.process_time_ns()
                found = way(requests)
                spent_ns[name].append((time.process_time_ns() - begin) / READS)
                verdict[name] = f"{len(found & true)}/{len(true)} +{len(found - true)}"
        say(f"{size:>14}  " + "  ".join(f"{statistics.median(spent_ns[n]):6.0f} ns {verdict[n]:>12}" for n in ways))


def main(arguments: Sequence[str]) -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench hotkeys",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of one block on a mesh (default: 3)")
    parser.add_argument("--only", choices=("counting", "mesh"), help="one of the two parts")
    parser.add_argument("--json", action="store_true", help="the mesh's figures as JSON; text goes to standard error")
    options = parser.parse_args(arguments)
    if options.only != "mesh":
        measure_counting(options.rounds)
    if options.only != "counting":
        figures = measure_mesh(options.rounds, options.seconds)
        if options.json:
            print(json.dumps(figures))
    return 0
