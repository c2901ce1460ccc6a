"""A client that offers load by the clock, whatever becomes of it: an open loop.

A program by itself::

    python offered.py ADDRESSES KIND TIMEOUT_S RATE:SECONDS…

KIND is ``tasks`` (CLIENTS AsyncClients; each call is a task of its own) or ``threads`` (THREADS threads that share
CLIENTS Clients). At rate 0, PEAK_CALLERS tasks or threads call without a pause. There are many clients, as there are
when many programs use a cache: one alone would put all calls of a moment into one message, which costs the node next to
nothing. Threads can have only so many calls under way: where all of them wait, a call begins late or, if it is late by
more than LATE_S, not at all; that is told.

It prints what came of the calls as JSON: for each stage, by the half second in which the call began, how many were
answered, refused as overloaded, timed out, failed otherwise and were left out, and the quantiles of the time that those
answered took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import meshcache

KEYS: Final = 4096
CLIENTS: Final = 50
THREADS: Final = 200
PEAK_CALLERS: Final = 50
SLOT_S: Final = 0.5
LATE_S: Final = 0.1
WARM_S: Final = 30.0
"""For a client to connect: many do at a time, and the node is slow."""
PACE_S: Final = 0.002


@dataclass
class Stage:
    """Calls at one rate, for a while."""

    rate: float
    seconds: float
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    took_s: dict[int, list[float]] = field(default_factory=dict)
    begins_at: float = 0.0

    def note(self, began: float, what: str) -> None:
        """Count what came of a call that began then."""
        slot = int((began - self.begins_at) / SLOT_S)
        self.counts.setdefault(slot, Counter())[what] += 1
        if what == "answered":
            self.took_s.setdefault(slot, []).append(time.monotonic() - began)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        slots = []
        for slot in range(max(self.counts, default=-1) + 1):
            took_s = sorted(self.took_s.get(slot, ()))
            p99_s = took_s[len(took_s) * 99 // 100] if took_s else None
            slots.append({**self.counts.get(slot, {}), "p99_s": p99_s})
        return {"rate": self.rate, "seconds": self.seconds, "slots": slots}


def outcome(error: Exception | None) -> str:
    """Name what came of a call."""
    if error is None:
        return "answered"
    if isinstance(error, meshcache.Overloaded):
        return "overloaded"
    if isinstance(error, meshcache.OperationTimeout):
        return "timed out"
    return f"failed: {type(error).__name__}"


def key_of(number: int) -> str:
    """Return the key of one call."""
    return f"small:{number % KEYS}"


async def _call(client: meshcache.AsyncClient, stage: Stage, number: int) -> None:
    began, error = time.monotonic(), None
    try:
        await client.get(key_of(number))
    except meshcache.MeshcacheError as problem:
        error = problem
    stage.note(began, outcome(error))


@asynccontextmanager
async def _async_clients(addresses: str, timeout_s: float) -> AsyncIterator[list[meshcache.AsyncClient]]:
    async with AsyncExitStack() as stack:
        made = [meshcache.AsyncClient(addresses, timeout=timeout_s, near_cache=False) for _ in range(CLIENTS)]
        for client in made:
            await stack.enter_async_context(client)
            await client.get(key_of(0), timeout=WARM_S)
        yield made


async def tasks(addresses: str, timeout_s: float, stages: list[Stage]) -> None:
    """Begin a task for each call when it is due."""
    async with _async_clients(addresses, timeout_s) as clients:
        under_way: set[asyncio.Task[None]] = set()
        for stage in stages:
            stage.begins_at, begun = time.monotonic(), 0
            if not stage.rate:
                await asyncio.gather(*[_caller(clients[i % CLIENTS], stage, i) for i in range(PEAK_CALLERS)])
                continue
            while (elapsed := time.monotonic() - stage.begins_at) < stage.seconds:
                for number in range(begun, int(elapsed * stage.rate)):
                    task = asyncio.create_task(_call(clients[number % CLIENTS], stage, number))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    begun += 1
                await asyncio.sleep(PACE_S)
        await asyncio.gather(*under_way)


async def _caller(client: meshcache.AsyncClient, stage: Stage, number: int) -> None:
    """Call without a pause."""
    while time.monotonic() < stage.begins_at + stage.seconds:
        await _call(client, stage, number)
        number += 1


def threads(addresses: str, timeout_s: float, stages: list[Stage]) -> None:
    """Share the calls out to threads."""
    threading.stack_size(256 * 1024)
    with ExitStack() as stack:
        made = [meshcache.Client(addresses, timeout=timeout_s, near_cache=False) for _ in range(CLIENTS)]
        for client in made:
            stack.enter_context(client).get(key_of(0), timeout=WARM_S)
        for stage in stages:
            count = THREADS if stage.rate else PEAK_CALLERS
            stage.begins_at = time.monotonic()
            crowd = [threading.Thread(target=_worker, args=(made[i % CLIENTS], stage, i)) for i in range(count)]
            for thread in crowd:
                thread.start()
            for thread in crowd:
                thread.join()


def _worker(client: meshcache.Client, stage: Stage, number: int) -> None:
    """Make every so-many-th call of a stage. A count that is lost in a race of threads is no matter."""
    while (now := time.monotonic()) < stage.begins_at + stage.seconds:
        due_at = stage.begins_at + number / stage.rate if stage.rate else now
        if now < due_at:
            time.sleep(due_at - now)
        if now - due_at > LATE_S:
            stage.note(due_at, "left out")
        else:
            _blocking_call(client, stage, number)
        number += THREADS


def _blocking_call(client: meshcache.Client, stage: Stage, number: int) -> None:
    began, error = time.monotonic(), None
    try:
        client.get(key_of(number))
    except meshcache.MeshcacheError as problem:
        error = problem
    stage.note(began, outcome(error))


def main(arguments: list[str]) -> None:
    """Run the stages, and print what came of them."""
    addresses, kind, timeout_s, *plan = arguments
    stages = [Stage(float(rate), float(seconds)) for rate, seconds in (each.split(":") for each in plan)]
    if kind == "threads":
        threads(addresses, float(timeout_s), stages)
    else:
        asyncio.run(tasks(addresses, float(timeout_s), stages))
    print(json.dumps([stage.as_json() for stage in stages]))


if __name__ == "__main__":
    main(sys.argv[1:])
