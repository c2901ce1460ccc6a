"""What a near cache costs and how soon it hears of a write.

Hits: CPU nanoseconds of one read of a cached key, ten thousand reads a round, interleaved rounds, medians. "same
handling" is cachetools.LRUCache that holds records and decodes them with the same codec on each read, as a near cache
does with values that a caller could change. Contestants that are not installed are left out (pip install '.[bench]').

Time to void: one writer, several processes with near caches that hold the key, on a mesh of three nodes on one
machine. From when the writer has its acknowledgement until the last of them has dropped its copy, by its one clock.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import meshcache
from meshcache import Client, LocalMesh, NearCache
from meshcache.client.codec import Codec
from meshcache.protocol.messages import Event
from meshcache.protocol.record import NEVER_MS, VERSION_BYTES, stamp

from .measure import say
from .servers import Unavailable, redis_server

KEYS = [f"user:{i}" for i in range(1000)]
TEXT = "x" * 100
TREE = {"name": "Ada", "langs": ["en", "fr"], "visits": 7}
LAPS = 10
WRITE_PAUSE_S = 0.005
EXAMPLES: Final = """\
examples:
  scripts/bench near                            hits beside cachetools and redis-py, then the time to void
  scripts/bench near --hits --rounds 3          only what a hit costs, quickly
  scripts/bench near --void --readers 8         only the time to void, with more processes that hold a copy
"""

Read = Callable[[str], Any]


def wait_live(client: Client) -> None:
    """Return when the near cache is in use."""
    deadline = time.monotonic() + 10
    while not (client.get(KEYS[0]) is not None and (found := client.near_statistics()) and found.live):
        if time.monotonic() > deadline:
            raise SystemExit("the near cache did not become live")
        time.sleep(0.005)


@contextmanager
def near_reads(value: Any) -> Iterator[Read]:
    """A client with a near cache that holds every key."""
    with LocalMesh(nodes=1) as mesh, mesh.client(near_cache=NearCache(ttl=3600)) as client:
        client.set_many(dict.fromkeys(KEYS, value), ttl=None)
        wait_live(client)
        client.get_many(KEYS)
        yield client.get
        found = client.near_statistics()
        assert found is not None
        assert found.misses <= len(KEYS) + 20, "it measured something else than hits"


@contextmanager
def lru_reads(value: Any) -> Iterator[Read]:
    """cachetools, with raw values, or with encoded ones that are decoded on each read."""
    import cachetools  # noqa: PLC0415  (only if it is installed)

    cache: Any = cachetools.LRUCache(10_000)
    if isinstance(value, str):
        cache.update(dict.fromkeys(KEYS, value))
        yield cache.get
    else:
        codec = Codec()
        cache.update(dict.fromkeys(KEYS, stamp(bytes(VERSION_BYTES), NEVER_MS) + codec.encode(value)))
        get, decode = cache.get, codec.decode
        yield lambda key: decode(get(key))


@contextmanager
def redis_reads(value: Any) -> Iterator[Read]:
    """redis-py with RESP3 and its client-side cache, as it comes: answers are bytes, and no tree is decoded."""
    import redis  # noqa: PLC0415  (only if it is installed)
    from redis.cache import CacheConfig  # noqa: PLC0415

    # It asks for a server 7.4; the protocol's CLIENT TRACKING, which is all that it uses, is there since 6.0.
    redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"
    with redis_server() as server:
        host, _, port = server.address.rpartition(":")
        client = redis.Redis(host=host, port=int(port), protocol=3, cache_config=CacheConfig())
        stored = value if isinstance(value, str) else Codec().encode(value)
        for key in KEYS:
            client.set(key, stored)
            client.get(key)
        cached = client.get_cache()
        assert cached is not None
        assert cached.size >= len(KEYS), "it does not cache"
        yield client.get
        client.close()


CONTESTANTS = {
    "meshcache near cache": ("", near_reads),
    "cachetools.LRUCache.get": ("cachetools", lru_reads),
    "redis-py client-side cache": ("redis", redis_reads),
}


def hits(rounds: int) -> dict[str, dict[str, float]]:
    """Print what a hit costs, and return it: nanoseconds by kind of value and contestant."""
    found: dict[str, dict[str, float]] = {}
    for name, value in (("a str", TEXT), ("a dict, same handling", TREE)):
        with ExitStack() as stack:
            reads: dict[str, Read] = {}
            for contestant, (module, make) in CONTESTANTS.items():
                try:
                    if not module or importlib.util.find_spec(module) is not None:
                        reads[contestant] = stack.enter_context(make(value))
                except Unavailable as error:
                    say(f"{contestant}: {error}")
            spent: dict[str, list[float]] = {contestant: [] for contestant in reads}
            for _ in range(rounds):
                for contestant, read in reads.items():
                    begin = time.thread_time_ns()
                    for _ in range(LAPS):
                        for key in KEYS:
                            read(key)
                    spent[contestant].append((time.thread_time_ns() - begin) / LAPS / len(KEYS))
            ours = statistics.median(spent["meshcache near cache"])
            for contestant, times in spent.items():
                median = statistics.median(times)
                found.setdefault(name, {})[contestant] = median
                say(f"{name:<22} {contestant:<28} {median:8,.0f} ns   {ours / median:5.2f} of it is ours")
    return found


def hold_copy(seeds: list[str], pipe: Any) -> None:
    """Be a process with a near cache: keep a copy of the key, and tell when each version was voided."""
    client = Client(seeds, near_cache=NearCache(ttl=3600))
    near = client._session.near  # noqa: SLF001  (of what nobody else is told, it tells the moment)
    assert near is not None
    voided: dict[bytes, int] = {}
    on_event = near.on_event

    def note(node_id: str, event: Event, now: float) -> None:
        held = bool(near.entries)
        on_event(node_id, event, now)
        if held and not near.entries:
            voided[event.version] = time.monotonic_ns()

    near.on_event = note  # type: ignore[method-assign]  # to look at the clock in this very moment
    wait_live(client)
    pipe.send("ready")
    while not pipe.poll(WRITE_PAUSE_S / 5):
        client.get(KEYS[0])
    pipe.send(voided)
    client.close()


def void(writes: int, readers: int) -> dict[str, float]:
    """Print how long copies outlived the acknowledgement of a write, and return it in milliseconds."""
    context = multiprocessing.get_context("spawn")
    with LocalMesh(nodes=3) as mesh, mesh.client() as writer:
        writer.set(KEYS[0], 0, ttl=None)
        pipes = []
        for _ in range(readers):
            ours, theirs = context.Pipe()
            context.Process(target=hold_copy, args=(mesh.addresses, theirs), daemon=True).start()
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        acknowledged: dict[bytes, int] = {}
        for i in range(writes):
            time.sleep(WRITE_PAUSE_S)
            writer.set(KEYS[0], i, ttl=None)
            at = time.monotonic_ns()
            item = writer.gets(KEYS[0])
            assert item is not None
            acknowledged[item.version] = at
        time.sleep(0.5)
        for pipe in pipes:
            pipe.send("stop")
        found = [pipe.recv() for pipe in pipes]
    late_ms = []
    for version, at in acknowledged.items():
        times = [voided[version] for voided in found if version in voided]
        if len(times) == len(found):
            late_ms.append(max(0.0, (max(times) - at) / 1e6))
    late_ms.sort()
    p50, p99, longest = late_ms[len(late_ms) // 2], late_ms[int(len(late_ms) * 0.99)], late_ms[-1]
    say(
        f"{len(late_ms)} of {writes} writes found a copy in all {readers} processes; void after its acknowledgement: "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {longest:.2f} ms"
    )
    return {"readers": readers, "p50_ms": p50, "p99_ms": p99, "longest_ms": longest}


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench near",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hits", action="store_true", help="only what a hit costs")
    parser.add_argument("--void", action="store_true", help="only the time to void")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="interleaved rounds of hits (9)")
    parser.add_argument("--writes", type=int, default=1000, metavar="N", help="writes to hear of (1000)")
    parser.add_argument("--readers", type=int, default=4, metavar="N", help="processes with near caches (4)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON; the text goes to standard error")
    options = parser.parse_args(arguments)
    say(f"meshcache {meshcache.__version__}, {os.cpu_count()} processors")
    figures: dict[str, Any] = {}
    if not options.void:
        figures["hit_ns"] = hits(options.rounds)
    if not options.hits:
        figures["void"] = void(options.writes, options.readers)
    if options.json:
        print(json.dumps(figures))
    return 0
