"""A client that runs the operations that it is told, and tells how many it did: see ``scripts/bench compare``.

It runs whichever tree is first in PYTHONPATH, so it uses nothing but the public interface.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable

import meshcache

KEYS = [f"key:{i}" for i in range(1000)]
VALUE = "v" * 100
MANY = KEYS[:100]
ITEMS = dict.fromkeys(MANY, VALUE)


def timed(step: Callable[[int], object], seconds: float, per_step: int = 1) -> tuple[int, float]:
    """Repeat a step for a while; return how often, and how long that took."""
    count, began = 0, time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        for _ in range(per_step):
            step(count)
            count += 1
    return count, time.perf_counter() - began


async def gather(cache: meshcache.AsyncClient, seconds: float) -> tuple[int, float]:
    """Have 64 gets under way at a time."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        await asyncio.gather(*[cache.get(KEYS[(count + i) % 1000]) for i in range(64)])
        count += 64
    return count, time.perf_counter() - began


def main(address: str) -> None:
    """Take orders from standard input: an operation and a number of seconds."""
    loop = asyncio.new_event_loop()
    with meshcache.Client(address, timeout=20.0) as cache, meshcache.Client(address, near_cache=True) as near:
        for key in KEYS:
            cache.set(key, VALUE, ttl=None)
        deadline = time.monotonic() + 10
        while near.get(KEYS[0]) is None or (near.near_statistics() or near).hits == 0:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
        asynchronous = meshcache.AsyncClient(address)
        operations: dict[str, Callable[[float], tuple[int, float]]] = {
            "get": lambda seconds: timed(lambda i: cache.get(KEYS[i % 1000]), seconds),
            "set": lambda seconds: timed(lambda i: cache.set(KEYS[i % 1000], VALUE), seconds),
            "get_many": lambda seconds: timed(lambda _: cache.get_many(MANY), seconds),
            "set_many": lambda seconds: timed(lambda _: cache.set_many(ITEMS), seconds),
            "near": lambda seconds: timed(lambda _: near.get(KEYS[0]), seconds, 1000),
            "gets_64": lambda seconds: loop.run_until_complete(gather(asynchronous, seconds)),
        }
        for line in sys.stdin:
            name, seconds = line.split()
            count, took_s = operations[name](float(seconds))
            print(json.dumps({"count": count, "seconds": took_s}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
