"""Many callers that share one client, each in a loop without a pause: tasks of one event loop, or threads.

A program by itself, so that it is measured alone in its process::

    python callers.py ADDRESSES KIND COUNT OPERATION TIMEOUT_S SECONDS

The client is fresh: nobody is connected when all are let go at once. It prints a line when the first call is answered,
and at the end what happened as JSON: how many calls succeeded in each tenth of a second by the monotonic clock, and how
many failed in which words.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from array import array
from collections import Counter
from typing import Any, Final

import meshcache

SLOTS_PER_S: Final = 10
KEYS_PER_CALL: Final = 10


class Tally:
    """What came of the calls. Threads share it: a count that is lost in a race is no matter."""

    def __init__(self) -> None:
        self.succeeded: Counter[int] = Counter()
        """By the tenth of a second in which the call ended."""
        self.failed: Counter[str] = Counter()
        self.took_s = array("d")

    def success(self, began: float) -> None:
        """Count a call that was answered."""
        ended = time.monotonic()
        if not self.took_s:
            print("served", flush=True)
        self.succeeded[int(ended * SLOTS_PER_S)] += 1
        self.took_s.append(ended - began)

    def failure(self, error: Exception) -> None:
        """Count a call that failed, by its kind and reason without numbers and names."""
        reason = re.sub(r"b'[^']*'|\d[\d.:]*", "…", str(error))
        self.failed[f"{type(error).__name__}: {reason:.120}"] += 1

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        took_s = sorted(self.took_s)
        return {
            "succeeded": dict(self.succeeded),
            "failed": dict(self.failed.most_common()),
            "p50_s": took_s[len(took_s) // 2] if took_s else None,
            "p99_s": took_s[len(took_s) * 99 // 100] if took_s else None,
            "longest_s": took_s[-1] if took_s else None,
        }


def call(client: Any, operation: str, number: int) -> Any:
    """Make a call of one caller; AsyncClient's is to be awaited."""
    key = f"callers:{number}"
    if operation == "get":
        return client.get(key)
    if operation == "set":
        return client.set(key, number)
    if operation == "get_many":
        return client.get_many([f"{key}:{i}" for i in range(KEYS_PER_CALL)])
    if operation == "get_or_set":
        return client.get_or_set(key, number)
    if operation == "incr":
        return client.incr("callers")
    raise ValueError(operation)


async def tasks(addresses: str, count: int, operation: str, timeout_s: float, seconds: float) -> Tally:
    """Run tasks of one event loop."""
    tally = Tally()
    ends_at = time.monotonic() + seconds

    async def caller(client: meshcache.AsyncClient, number: int) -> None:
        while (began := time.monotonic()) < ends_at:
            try:
                await call(client, operation, number)
            except meshcache.MeshcacheError as error:
                tally.failure(error)
                await asyncio.sleep(0)
            else:
                tally.success(began)

    async with meshcache.AsyncClient(addresses, timeout=timeout_s, near_cache=False) as client:
        await asyncio.gather(*[caller(client, number) for number in range(count)])
    return tally


def threads(addresses: str, count: int, operation: str, timeout_s: float, seconds: float) -> Tally:
    """Run threads."""
    tally = Tally()
    ends_at = time.monotonic() + seconds

    def caller(client: meshcache.Client, number: int) -> None:
        while (began := time.monotonic()) < ends_at:
            try:
                call(client, operation, number)
            except meshcache.MeshcacheError as error:
                tally.failure(error)
            else:
                tally.success(began)

    with meshcache.Client(addresses, timeout=timeout_s, near_cache=False) as client:
        crowd = [threading.Thread(target=caller, args=(client, number)) for number in range(count)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
    return tally


def main(arguments: list[str]) -> None:
    """Run the callers, and print what came of it."""
    addresses, kind, count, operation, timeout_s, seconds = arguments
    how = (addresses, int(count), operation, float(timeout_s), float(seconds))
    tally = asyncio.run(tasks(*how)) if kind == "tasks" else threads(*how)
    print(json.dumps(tally.as_json()))


if __name__ == "__main__":
    main(sys.argv[1:])
