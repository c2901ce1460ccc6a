"""Near caches while nodes are killed and paused and announcements are lost: the age of what readers see.

Eight reader processes with near caches, half of them with a ttl so long that only the announcements keep them fresh;
two writers without. A writer notes in shared memory when each number of a key was acknowledged; a reader that gets a
number knows from that how long it had been overwritten when the read began. Announcements are lost at the readers: a
share of the frames at random, and now and then all of one node's for a while, as a broken connection would have it.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any, Final

import meshcache
from meshcache.errors import MeshcacheError
from meshcache.protocol.messages import Invalidations
from meshcache.protocol.wire import decode_frame

from .scenario import Options, Result

READERS: Final = 8
WRITERS: Final = 2
KEYS: Final = 16
NUMBERS_MAX: Final = 100_000
"""For each key, over the whole run."""
BOUND_S: Final = 1.0
LONG_TTL_S: Final = 60.0
LOSS: Final = 0.1
DEAF_S: Final = 1.5
READ_PAUSE_S: Final = 0.001
WRITE_PAUSE_S: Final = 0.02
PAUSES_S: Final = (0.3, 1.0, 3.0)
START_S: Final = 60.0


class _Shared:
    """What the processes have in common."""

    def __init__(self) -> None:
        self.stop = RawValue(ctypes.c_bool, False)
        self.acknowledged_at = RawArray("d", KEYS * NUMBERS_MAX)
        """By key and number, on the monotonic clock of the machine; 0: not, or not known."""
        self.latest = RawArray("q", KEYS)
        """By key the last number acknowledged."""

    def overwritten_at(self, key: int, number: int) -> float | None:
        """Return when a number was certainly old: at the first acknowledgement of a greater one."""
        for later in range(number + 1, self.latest[key] + 1):
            at: float = self.acknowledged_at[key * NUMBERS_MAX + later]
            if at:
                return at
        return None


@dataclass
class _Seen:
    """What one reader saw."""

    ttl_s: float
    reads: int = 0
    errors: int = 0
    oldest_s: float = 0.0
    hits: int = 0
    gaps: int = 0
    flushes: int = 0
    frames_lost: int = 0
    evidence: list[str] = field(default_factory=list)


class _LossyStream:
    """Stands between a client's socket and what takes its frames."""

    def __init__(self, client: Any, rng: random.Random) -> None:
        intake = client._reception.intake  # noqa: SLF001  (a loss that no public door lets in)
        self.lost = 0
        self._receive: Callable[[Any, float], None] = intake.receive
        self._rng = rng
        self._deaf_to = ""
        self._deaf_until = 0.0
        intake.receive = self.receive

    def receive(self, frame: Any, now: float) -> None:
        """Lose the frame, or pass it on."""
        (message,) = decode_frame(frame)[1]
        assert isinstance(message, Invalidations)
        if self._rng.random() < 0.002:
            self._deaf_to, self._deaf_until = message.node_id, now + self._rng.random() * DEAF_S
        if self._rng.random() < LOSS or (message.node_id == self._deaf_to and now < self._deaf_until):
            self.lost += 1
        else:
            self._receive(frame, now)


class _Reader:
    """One process that reads all keys in turn."""

    def __init__(self, number: int, shared: _Shared) -> None:
        self.seen = _Seen(1.0 if number % 4 < 2 else LONG_TTL_S)
        self._shared = shared
        self._rng = random.Random(number)

    def note(self, key: int, begin: float, value: Any) -> None:
        """Work out how old a value is."""
        self.seen.reads += 1
        at = None if value is None else self._shared.overwritten_at(key, value)
        if at is not None and begin - at > self.seen.oldest_s:
            self.seen.oldest_s = begin - at
            if begin - at > BOUND_S:
                text = f"key {key}: {value} read {begin - at:.3f} s after it was overwritten, ttl {self.seen.ttl_s:g} s"
                self.seen.evidence = [*self.seen.evidence[-4:], text]

    def run_threads(self, addresses: list[str]) -> None:
        """Read with the client for threads."""
        with meshcache.Client(addresses, near_cache=meshcache.NearCache(ttl=self.seen.ttl_s), timeout=2.0) as cache:
            stream = _LossyStream(cache, self._rng)
            while not self._shared.stop.value:
                for key in range(KEYS):
                    begin = time.monotonic()
                    try:
                        self.note(key, begin, cache.get(_name(key)))
                    except MeshcacheError:
                        self.seen.errors += 1
                time.sleep(READ_PAUSE_S * KEYS / 4)
            self._finish(cache, stream)

    async def run_asyncio(self, addresses: list[str]) -> None:
        """Read with the client for asyncio."""
        near_cache = meshcache.NearCache(ttl=self.seen.ttl_s)
        async with meshcache.AsyncClient(addresses, near_cache=near_cache, timeout=2.0) as cache:
            stream = _LossyStream(cache, self._rng)
            while not self._shared.stop.value:
                for key in range(KEYS):
                    begin = time.monotonic()
                    try:
                        self.note(key, begin, await cache.get(_name(key)))
                    except MeshcacheError:
                        self.seen.errors += 1
                await asyncio.sleep(READ_PAUSE_S * KEYS / 4)
            self._finish(cache, stream)

    def _finish(self, cache: meshcache.Client | meshcache.AsyncClient, stream: _LossyStream) -> None:
        found = cache.near_statistics()
        assert found is not None
        self.seen.hits, self.seen.gaps, self.seen.flushes = found.hits, found.gaps, found.flushes
        self.seen.frames_lost = stream.lost


def _read(number: int, addresses: list[str], shared: _Shared, results: Any) -> None:
    reader = _Reader(number, shared)
    if number % 2:
        reader.run_threads(addresses)
    else:
        asyncio.run(reader.run_asyncio(addresses))
    results.put(reader.seen)


def _write(number: int, addresses: list[str], shared: _Shared, results: Any) -> None:
    """Write every other key, one number after the other; one that failed is attempted no more."""
    own = range(number, KEYS, WRITERS)
    attempted = dict.fromkeys(own, 0)
    written = 0
    rng = random.Random(number)
    with meshcache.Client(addresses, timeout=2.0) as cache:
        while not shared.stop.value:
            key = rng.choice(own)
            attempted[key] += 1
            try:
                cache.set(_name(key), attempted[key], ttl=None)
            except MeshcacheError:
                continue
            shared.acknowledged_at[key * NUMBERS_MAX + attempted[key]] = time.monotonic()
            shared.latest[key] = attempted[key]
            written += 1
            time.sleep(rng.uniform(0.0, 2 * WRITE_PAUSE_S))
    results.put(written)


def _name(key: int) -> str:
    return f"chaos:near:{key}"


def near(options: Options) -> Result:
    """Five nodes, N=3 W=2 R=2: what the nodes answer is fresh, so all age is the near caches'."""
    result = Result("near", "near caches, kills, pauses and lost announcements, 5 nodes, N=3 W=2 R=2")
    cluster = {"replicas": 3, "write_quorum": 2, "read_quorum": 2}
    context = multiprocessing.get_context("spawn")
    shared, results = _Shared(), context.Queue()
    with meshcache.LocalMesh(nodes=5, cluster=cluster, data_dir=options.logs) as mesh:
        works = [(_write, i) for i in range(WRITERS)] + [(_read, i) for i in range(READERS)]
        processes = [
            context.Process(target=work, args=(i, mesh.addresses, shared, results), daemon=True) for work, i in works
        ]
        for process in processes:
            process.start()
        began = time.monotonic()
        try:
            strikes = _hurt(mesh, options, result, began, shared)
            shared.stop.value = True
            found = [results.get(timeout=START_S) for _ in processes]
        finally:
            shared.stop.value = True
            for process in processes:
                process.join(10)
                if process.is_alive():
                    process.kill()
        result.elapsed_s = time.monotonic() - began
    _judge(result, [seen for seen in found if isinstance(seen, _Seen)], strikes)
    result.check("writes acknowledged", sum(seen for seen in found if isinstance(seen, int)))
    return result


def _hurt(mesh: meshcache.LocalMesh, options: Options, result: Result, began: float, shared: _Shared) -> int:
    """Kill and pause one node after the other; return how often."""
    rng = random.Random(options.seed)
    deadline = time.monotonic() + START_S
    while not all(shared.latest):
        if time.monotonic() > deadline:
            raise RuntimeError("the writers do not write")
        threading.Event().wait(0.1)
    count = options.rounds or int(options.pick(2, 16))
    for number in range(count):
        threading.Event().wait(rng.uniform(0.5, 1.5))
        victim = rng.choice(sorted(mesh.pids))
        what = ("kill -9", "pause")[number % 2]
        at_s = time.monotonic() - began
        print(f"{at_s:7.2f} s  {what} {victim}", file=sys.stderr, flush=True)
        result.marks.append((at_s, f"{what} {victim}"))
        if what == "pause":
            mesh.pause(victim)
            threading.Event().wait(rng.choice(PAUSES_S))
            mesh.resume(victim)
        else:
            mesh.kill(victim)
            threading.Event().wait(rng.uniform(0.0, 3.0))
            mesh.start(victim)
        mesh.wait_ready()
    threading.Event().wait(1.0)
    return count


def _judge(result: Result, readers: list[_Seen], strikes: int) -> None:
    result.check("kills and pauses", strikes)
    result.check("reads", sum(seen.reads for seen in readers))
    hits = sum(seen.hits for seen in readers)
    result.check("of them from near caches", 100 * hits / max(1, sum(seen.reads for seen in readers)), None, "%")
    result.check("announcements lost at readers", sum(seen.frames_lost for seen in readers))
    result.check("gaps noticed", sum(seen.gaps for seen in readers))
    result.check("failed reads", sum(seen.errors for seen in readers))
    for name, wanted in (("ttl 1 s", True), (f"ttl {LONG_TTL_S:g} s", False)):
        oldest_s = max(seen.oldest_s for seen in readers if (seen.ttl_s <= BOUND_S) is wanted)
        result.check(f"greatest age of a value read, {name}", oldest_s, BOUND_S, "s")
    result.tally.evidence += [text for seen in readers for text in seen.evidence]
