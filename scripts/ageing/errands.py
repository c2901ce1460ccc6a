"""What callers do with the cache, written once for threads and for asyncio.

An errand is a generator that yields what a method of the client returned: for asyncio an awaitable, which the driver
awaits, for threads the value itself; either way the ``yield`` has the value. ``Pause`` stands for a sleep. An error is
raised where the errand asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from faults.lane import Call, Lane
from faults.ledger import Floor, Ledger, Verdict, name_of
from faults.tally import Bucket, Tally

import meshcache
from meshcache.errors import MeshcacheError

Errand = Generator[Any, Any, None]

BIG_BYTES: Final = 1_000_000
KEYS: Final = 20_000
"""Of values that expire: more than the nodes have room for."""
NEAR_TTL_S: Final = 1.0
NEAR_KEYS: Final = 40
STREAMED: Final = "soak:"


class Pause(NamedTuple):
    """A sleep of so many seconds."""

    seconds: float


def run_in_thread(errand: Errand) -> None:
    """Carry out an errand with a client for threads."""
    value = None
    while True:
        try:
            step = errand.send(value)
        except StopIteration:
            return
        value = step
        if isinstance(step, Pause):
            time.sleep(step.seconds)


async def run_in_task(errand: Errand) -> None:
    """Carry out an errand with a client for asyncio."""
    value, error = None, None
    while True:
        try:
            step = errand.send(value) if error is None else errand.throw(error)
        except StopIteration:
            return
        value, error = None, None
        try:
            value = await (asyncio.sleep(step.seconds) if isinstance(step, Pause) else step)
        except MeshcacheError as raised:
            error = raised


class Totals(Tally):
    """A tally that does not grow with time: sums alone, and of errors and evidence the first few."""

    def at(self, seconds: float) -> Bucket:  # noqa: ARG002  (all times are one)
        """Return the only bucket."""
        return self.buckets.setdefault(0, Bucket())

    def prune(self) -> None:
        """Forget what is not judged. A full store evicts, so that a value that is missed says nothing."""
        self.lost_keys.clear()
        self.evidence[:] = [text for text in self.evidence if ": lost: " not in text]
        while len(self.errors) > 50:
            self.errors.popitem()


@dataclass
class Caller:
    """What the errands of one process share."""

    cache: Any
    near: Any
    """A client with a near cache."""
    kind: Callable[..., Any]
    """What makes another client."""
    addresses: list[str]
    ledger: Ledger
    ttl_s_max: float
    warming_s: float
    began: float
    stopped: Callable[[], bool]
    name: str
    random: random.Random = field(default_factory=random.Random)
    totals: Totals = field(default_factory=Totals)
    near_reads: int = 0
    near_stale: int = 0
    events: int = 0
    others: int = 0
    """Errands that were done."""
    number: int = 0

    def unique(self) -> str:
        """Return a word that no other call returns."""
        self.number += 1
        return f"{self.name}-{self.number}"

    # -- the loops that run all the time -----------------------------------------------------------------------

    def follow_lane(self, lane: Lane, interval_s: float) -> Errand:
        """Read and write keys of the ledger, and check every answer."""
        lane.tally = self.totals
        while not self.stopped():
            begin = time.monotonic()
            call: Call = lane.next(writing=True)
            outcome: Any
            try:
                outcome = yield getattr(self.cache, call.verb)(*call.arguments)
            except MeshcacheError as error:
                outcome = error
            end = time.monotonic()
            lane.take(call, outcome, begin, end)
            self.totals.prune()
            yield Pause(max(0.0, self.random.expovariate(1 / interval_s) - (end - begin)))

    def run_errands(self, interval_s: float) -> Errand:
        """Do one errand after the other: all kinds once, then those that warm up, then each of a kind drawn at random.

        Each thread allocates in an arena of its own, which keeps the size that its largest moment needed, and a thread
        that comes has the arena of one that has gone. So large values, and clients that come and go, are many at once
        in the beginning: else the arenas would grow to their size one after the other, for hours.
        """
        kinds, weights = zip(*ERRANDS.items(), strict=True)
        first = list(kinds)
        while not self.stopped():
            begin = time.monotonic()
            warms = begin < self.began + self.warming_s
            drawn = self.random.choice(WARMING) if warms else self.random.choices(kinds, weights)[0]
            errand = first.pop() if first else drawn
            try:
                yield from errand(self)
            except MeshcacheError as error:
                self.note_error(errand.__name__, error)
            self.others += 1
            yield Pause(max(0.0, self.random.expovariate(1 / interval_s) - (time.monotonic() - begin)))

    def note_error(self, what: str, error: Exception) -> None:
        """Count a failed errand."""
        self.totals.errors[f"{what}: {type(error).__name__}"] += 1

    def read_near(self) -> Errand:
        """Read keys of the ledger through the near cache: nothing may be older than what held one ttl before."""
        keys = range(min(NEAR_KEYS, len(self.ledger)))
        floors: deque[tuple[float, list[Floor]]] = deque()
        while not self.stopped():
            floors.append((time.monotonic(), [self.ledger.floor(key) for key in keys]))
            yield Pause(NEAR_TTL_S / 5)
            while len(floors) > 1 and floors[1][0] <= time.monotonic() - NEAR_TTL_S:
                floors.popleft()
            if floors[0][0] > time.monotonic() - NEAR_TTL_S:
                continue
            for key in keys:
                try:
                    value = yield self.near.get(name_of(key))
                except MeshcacheError as error:
                    self.note_error("near read", error)
                    continue
                self.near_reads += 1
                verdict, number = self.ledger.judge(key, floors[0][1][key], value)
                if verdict in {Verdict.STALE, Verdict.WRONG}:
                    self.near_stale += 1
                    text = f"near: {verdict.name.lower()}: {name_of(key)} certain {floors[0][1][key]}, read {number}"
                    self.totals.evidence[10:] = []
                    self.totals.evidence.append(text)

    def follow_stream(self) -> Errand:
        """Take the events of a subscription that lasts as long as the process; subscribe anew if that fails."""
        while not self.stopped():
            try:
                stream = self.near.subscribe(STREAMED)
                yield entered(stream)
            except MeshcacheError as error:
                self.note_error("subscription", error)
                yield Pause(0.5)
                continue
            while not self.stopped():
                self.events += (yield stream.wait(0.5)) is not None
            stream.close()


def entered(manager: Any) -> Any:
    """Enter a context manager of either kind."""
    return manager.__aenter__() if hasattr(manager, "__aenter__") else manager.__enter__()


# -- errands that end --------------------------------------------------------------------------------------------


def expiring(caller: Caller) -> Errand:
    """Keep a value for a while: stores fill up with these, evict, and have them expire."""
    draw = caller.random
    key = f"soak:ttl:{draw.randrange(KEYS)}"
    yield caller.cache.set(key, bytes(draw.randrange(100, 3000)), ttl=draw.uniform(0.5, caller.ttl_s_max))
    yield caller.cache.get(f"soak:ttl:{draw.randrange(KEYS)}")


def batch(caller: Caller) -> Errand:
    """Write and read many keys at once."""
    draw = caller.random
    keys = [f"soak:batch:{draw.randrange(KEYS)}" for _ in range(draw.randrange(10, 60))]
    yield caller.cache.set_many(dict.fromkeys(keys, "value " * draw.randrange(100)), ttl=caller.ttl_s_max)
    yield caller.cache.get_many(keys)
    yield caller.cache.delete_many(keys[:5])


def once(caller: Caller) -> Errand:
    """Use a key that nobody has used before or will again: what remembers keys has to forget them."""
    key = f"soak:once:{caller.unique()}"
    yield caller.cache.set(key, key, ttl=1)
    yield caller.cache.get(key)
    yield caller.cache.get(f"{key}:absent")
    yield caller.near.get(key)


def tagged(caller: Caller) -> Errand:
    """Write values with a common tag and one of their own, and drop one of the two."""
    draw = caller.random
    tags = (f"tag-{draw.randrange(50)}", f"tag-{caller.unique()}")
    for number in range(3):
        yield caller.cache.set(f"soak:tag:{draw.randrange(2000)}", number, ttl=caller.ttl_s_max, tags=tags)
    yield caller.near.get(f"soak:tag:{draw.randrange(2000)}")
    yield caller.cache.invalidate_tags(tags[draw.random() < 0.9])


def counting(caller: Caller) -> Errand:
    """Count, with keys that stay and keys that do not."""
    yield caller.cache.incr(f"soak:count:{caller.random.randrange(50)}")
    yield caller.cache.decr(f"soak:count:{caller.unique()}", 1, initial=10)


def changing(caller: Caller) -> Errand:
    """Change one value in all ways."""
    key = f"soak:change:{caller.random.randrange(500)}"
    yield caller.cache.add(key, 1)
    yield caller.cache.replace(key, 2)
    yield caller.cache.touch(key, ttl=3)
    item = yield caller.cache.gets(key)
    if item is not None:
        yield caller.cache.cas(key, 3, item.version)
    yield caller.cache.ttl(key)
    if caller.random.random() < 0.3:
        yield caller.cache.delete(key)


def loading(caller: Caller) -> Errand:
    """Have a missing value loaded once, some of them stale or early."""
    draw = caller.random
    key = f"soak:load:{draw.randrange(200) if draw.random() < 0.8 else caller.unique()}"
    stale_ttl = draw.choice([None, 2.0])
    yield caller.cache.get_or_set(key, lambda: key, ttl=draw.uniform(0.5, 3), stale_ttl=stale_ttl, early=0.5)


def locking(caller: Caller) -> Errand:
    """Hold a lock for a moment; now and then nobody releases it."""
    draw = caller.random
    lock = caller.cache.lock(f"job:{draw.randrange(20) if draw.random() < 0.8 else caller.unique()}", 1.0, timeout=0.5)
    if (yield lock.acquire()) and draw.random() < 0.9:
        yield Pause(0.005)
        yield lock.release()


def big(caller: Caller) -> Errand:
    """Write, read and drop a large value."""
    key = f"soak:big:{caller.random.randrange(5)}"
    yield caller.cache.set(key, caller.random.randbytes(BIG_BYTES), ttl=2)
    yield caller.cache.get(key)
    yield caller.cache.delete(key)


def clearing(caller: Caller) -> Errand:
    """Use a namespace, and clear it."""
    number = caller.random.randrange(10) if caller.random.random() < 0.5 else caller.unique()
    space = caller.cache.namespace(f"soak:space:{number}:")
    yield space.set_many({f"k{each}": each for each in range(10)})
    yield space.clear()


def hot(caller: Caller) -> Errand:
    """Read one key so often that it becomes hot."""
    key = f"soak:hot:{int(time.monotonic() / 30)}"
    yield caller.cache.add(key, "hot")
    for _ in range(40):
        yield caller.cache.get(key)


def passing(caller: Caller) -> Errand:
    """Be another client for a moment: with a near cache and a subscription, then gone. Some forget to close it."""
    client = caller.kind(caller.addresses, near_cache=True, timeout=2.0)
    try:
        stream = client.subscribe("soak:ttl:")
        yield entered(stream)
        yield client.get(name_of(0))
        yield client.set(f"soak:pass:{caller.unique()}", 1, ttl=2)
        yield stream.wait(0.02)
        if caller.random.random() < 0.7:
            stream.close()
    finally:
        yield client.close()


ERRANDS: Final[dict[Callable[[Caller], Errand], float]] = {
    expiring: 30,
    batch: 4,
    once: 6,
    tagged: 5,
    counting: 6,
    changing: 6,
    loading: 8,
    locking: 3,
    big: 1,
    clearing: 0.7,
    hot: 1,
    passing: 0.5,
}
"""Each with its weight in the draw."""
WARMING: Final = (big, passing)
"""What takes the most memory."""


def meshes_client(kind: str) -> Callable[..., Any]:
    """Return what makes a client of a kind."""
    return meshcache.AsyncClient if kind == "asyncio" else meshcache.Client
