"""Measure the store: memory per entry, accounted against resident bytes, longest calls, time per key, and tags.

Each experiment runs in a process of its own, because resident memory never tells what was there before. The variants
are what the layout of ``meshcache/core/storage/store.py`` was chosen against:

  store         the store as it is, in Python
  native        its native twin, where that was built
  s3fifo        the same, with store.eviction = "s3fifo": what its second queue, its counts and its ghosts cost
  eager-touch   the same, but every read moves its entries at once instead of noting them
  list-links    the same, but the recency links are lists of the ints in the slot tables: 8 bytes an entry more
  loose-tables  the same, but slot tables are left to grow as dicts do when entries come and go
  ordereddict   one OrderedDict from key to record: no tombstones, calendar or byte limit, only lookup and order
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from meshcache import _native
from meshcache.core.storage.recency import RINGS, LeastRecentlyUsed
from meshcache.core.storage.store import Store
from meshcache.protocol.record import Extras, expiry_bytes, stamp, with_extras

NOW_MS = 1_700_000_000_000
LIFETIME_MS = 300_000
BATCH = 100
EXPIRE_BUDGET = 2000
DOOR: Final = Path(__file__).resolve().parent.parent / "bench"
EXAMPLES: Final = """\
examples:
  scripts/bench store --quick                    small sizes: a look, in less than 20 s
  scripts/bench store                            every size: about 5 minutes and 5 GB of memory
  scripts/bench store --quick --only memory      one kind of experiment
  scripts/bench store --json > out/store.jsonl   one JSON object a line, for other programs
"""
Result = dict[str, Any]


class EagerTouch(Store):
    """Every read moves its entries at once."""

    def read(self, keys: list[bytes], now_bytes: bytes) -> list[bytes | None]:
        """Read, then replay."""
        found = super().read(keys, now_bytes)
        self._replay()
        return found


class ListLinks(Store):
    """The links are lists, which are faster to index than arrays, and hold ints that exist anyway."""

    def __init__(self, *, slots: int, max_entries: int, max_bytes: int) -> None:
        super().__init__(slots=slots, max_entries=max_entries, max_bytes=max_bytes)
        self._before, self._after = (list(range(RINGS)) for _ in range(2))  # type: ignore[assignment]  # no arrays
        self._replay = LeastRecentlyUsed(self._before, self._after, self._noted).replay


class LooseTables(Store):
    """The slot tables resize as they like."""

    def _compact(self, slot: int) -> None:
        self._table_bytes[slot] = self._tables[slot].__sizeof__()


class OneOrderedDict:
    """The textbook: one OrderedDict, whose order is the recency order."""

    def __init__(self, *, slots: int, max_entries: int, max_bytes: int) -> None:
        del slots, max_bytes
        self.max_entries = max_entries
        self._records: OrderedDict[bytes, bytes] = OrderedDict()

    def read(self, keys: list[bytes], now_bytes: bytes) -> list[bytes | None]:
        """Look up and move to the end."""
        records = self._records
        found: list[bytes | None] = []
        for key in keys:
            record = records.get(key)
            if record is not None and record[16:22] > now_bytes:
                records.move_to_end(key)
                found.append(record)
            else:
                found.append(None)
        return found

    def merge(self, keys: list[bytes], incoming: list[bytes], now_ms: int) -> None:
        """Store what is newer, evict what is over the limit."""
        del now_ms
        records = self._records
        for key, record in zip(keys, incoming, strict=True):
            held = records.get(key)
            if held is None or held[:16] < record[:16]:
                records[key] = record
                records.move_to_end(key)
                if len(records) > self.max_entries:
                    records.popitem(last=False)


VARIANTS: dict[str, Callable[..., Any]] = {
    "store": Store,
    "s3fifo": partial(Store, eviction="s3fifo"),
    "eager-touch": EagerTouch,
    "list-links": ListLinks,
    "loose-tables": LooseTables,
    "ordereddict": OneOrderedDict,
}
if _native.compiled is not None:
    from meshcache.core.storage.native import NativeStore

    VARIANTS["native"] = NativeStore
STORES = ("store", "native") if "native" in VARIANTS else ("store",)


def resident_bytes() -> int:
    """Return the memory this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Load:
    """Writes of new keys and overwrites, each record an object of its own as if it had come from the network."""

    def __init__(self, store: Any, value_bytes: int, *, mixed: bool = False) -> None:
        self.store = store
        self.value_bytes = value_bytes
        self.mixed = mixed
        self.written = 0
        self.version = 0
        self.random = random.Random(1)

    def records(self) -> list[bytes]:
        """Make the records of one batch, all of a new version."""
        self.version += 1
        front = stamp(self.version.to_bytes(16, "big"), NOW_MS + LIFETIME_MS) + b"\0\0"
        sizes = [self.value_bytes] * BATCH
        if self.mixed:
            sizes = [self.random.randrange(self.value_bytes // 2, self.value_bytes * 3 // 2) for _ in sizes]
        return [front + bytes(size) for size in sizes]

    def new_keys(self) -> list[bytes]:
        """Make the next batch of keys that nobody has seen."""
        self.written += BATCH
        return [b"key:%010d" % number for number in range(self.written - BATCH, self.written)]

    def add(self, count: int) -> None:
        """Write so many new keys."""
        for _ in range(count // BATCH):
            self.store.merge(self.new_keys(), self.records(), NOW_MS)

    def recent_keys(self, entries: int) -> list[bytes]:
        """Choose a batch among the keys written last; few objects of the choice outlive it."""
        low = max(0, self.written - entries)
        return [b"key:%010d" % self.random.randrange(low, self.written) for _ in range(BATCH)]


def experiment_memory(entries: int, value_bytes: int, mixed: bool, variant: str = "store") -> Result:
    """Fill, then evict twice the capacity, and compare resident with accounted bytes."""
    store = VARIANTS[variant](slots=1024, max_entries=entries, max_bytes=1 << 50)
    load = Load(store, value_bytes, mixed=mixed)
    empty = resident_bytes()
    result: Result = {"variant": variant, "entries": entries, "value_bytes": value_bytes, "mixed": mixed}
    payload = len(b"key:%010d" % 0) + value_bytes
    for phase, count in (("fill", entries), ("churn", 2 * entries)):
        load.add(count)
        resident = resident_bytes() - empty
        result[f"{phase}_overhead_per_entry"] = round(resident / entries - payload)
        if variant != "ordereddict":
            result[f"{phase}_resident_to_accounted"] = round(resident / store.statistics().bytes, 3)
    return result


class Longest:
    """The longest call of each kind: by the clock, and by the CPU time of the thread, which other processes spare."""

    def __init__(self) -> None:
        self.wall_ms: dict[str, float] = {}
        self.cpu_ms: dict[str, float] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        """Make one call."""
        wall, cpu = time.perf_counter(), time.thread_time()
        answer = call()
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        self.wall_ms[name] = max(self.wall_ms.get(name, 0.0), round(wall * 1e3, 2))
        self.cpu_ms[name] = max(self.cpu_ms.get(name, 0.0), round(cpu * 1e3, 2))
        return answer


def experiment_pauses(entries: int, value_bytes: int, max_bytes: int, freeze: bool, variant: str = "store") -> Result:
    """Time each call while a large store fills, churns, is read, and expires all at once."""
    store = VARIANTS[variant](slots=1024, max_entries=entries, max_bytes=max_bytes)
    gc.collect()
    if freeze:
        gc.freeze()
    load = Load(store, value_bytes)
    longest = Longest()
    for phase in ("fill", "churn"):
        for _ in range(entries // BATCH):
            keys, records = load.new_keys(), load.records()
            longest.time(f"{phase}: merge", partial(store.merge, keys, records, NOW_MS))
    now_bytes = expiry_bytes(NOW_MS)
    for _ in range(min(entries, 200_000) // BATCH):
        keys, records = load.recent_keys(entries), load.records()
        longest.time("read", partial(store.read, keys, now_bytes))
        longest.time("overwrite: merge", partial(store.merge, keys, records, NOW_MS))
    longest.time("gc.collect", gc.collect)
    result: Result = {"variant": variant, "entries": entries, "value_bytes": value_bytes, "frozen": freeze}
    if variant != "ordereddict":
        result["held"] = store.statistics().entries
        result["accounted_mb"] = round(store.statistics().bytes / 1e6)
        longest.time("drop_slot", partial(store.drop_slot, 0))
        longest.time("sweep", partial(store.sweep, 1, b"", b"\xff" * 16))
        past = NOW_MS + LIFETIME_MS + 1000
        while longest.time(f"expire({EXPIRE_BUDGET})", partial(store.expire, past, EXPIRE_BUDGET)):
            pass
        result["left"] = store.statistics().entries
    return result | {"longest_wall_ms": longest.wall_ms, "longest_cpu_ms": longest.cpu_ms}


def best_us(calls: list[Callable[[], Any]], rounds: int) -> float:
    """Return the microseconds of CPU time per key of the best round of batches."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        for call in calls:
            call()
        times.append(time.thread_time() - start)
    return round(min(times) / len(calls) / BATCH * 1e6, 3)


def experiment_speed(entries: int, value_bytes: int, rounds: int, variant: str) -> Result:
    """Time reads of hits, overwrites, and writes of new keys that each evict one; in CPU time, best of the rounds."""
    store = VARIANTS[variant](slots=1024, max_entries=entries, max_bytes=1 << 50)
    load = Load(store, value_bytes)
    load.add(entries)
    now_bytes = expiry_bytes(NOW_MS)
    batches = [load.recent_keys(entries) for _ in range(100)]
    skewed = [[b"key:%010d" % int(entries * load.random.random() ** 4) for _ in range(BATCH)] for _ in range(100)]
    result: Result = {"variant": variant, "entries": entries, "value_bytes": value_bytes}
    result["read_us"] = best_us([partial(store.read, keys, now_bytes) for keys in batches], rounds)
    result["read_skewed_us"] = best_us([partial(store.read, keys, now_bytes) for keys in skewed], rounds)
    times: dict[str, list[float]] = {"overwrite_us": [], "evict_us": []}
    for _ in range(rounds):
        overwrites = [(keys, load.records()) for keys in batches]
        inserts = [(load.new_keys(), load.records()) for _ in batches]
        for name, writes in (("overwrite_us", overwrites), ("evict_us", inserts)):
            start = time.thread_time()
            for keys, records in writes:
                store.merge(keys, records, NOW_MS)
            times[name].append((time.thread_time() - start) / len(writes) / BATCH * 1e6)
        batches = [load.recent_keys(entries) for _ in batches]
    return result | {name: round(min(values), 3) for name, values in times.items()}


def experiment_twins(entries: int, value_bytes: int, rounds: int) -> Result:
    """Time the store and its native twin in turns, in one process: medians in µs a key, and the ratios of these."""
    stores = {name: VARIANTS[name](slots=1024, max_entries=entries, max_bytes=1 << 50) for name in STORES}
    loads = {name: Load(store, value_bytes) for name, store in stores.items()}
    for load in loads.values():
        load.add(entries)
    now_bytes = expiry_bytes(NOW_MS)
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, store in stores.items():
            load = loads[name]
            batches = [load.recent_keys(entries) for _ in range(100)]
            overwrites, inserts = ([(keys, load.records()) for keys in batches] for _ in range(2))
            calls: dict[str, list[Callable[[], Any]]] = {
                "read": [partial(store.read, keys, now_bytes) for keys in batches],
                "overwrite": [partial(store.merge, keys, records, NOW_MS) for keys, records in overwrites],
                "evict": [partial(store.merge, load.new_keys(), records, NOW_MS) for _, records in inserts],
            }
            for what, each in calls.items():
                times.setdefault(what, {}).setdefault(name, []).append(best_us(each, 1))
    medians = {f"{what}_{name}": statistics.median(of) for what, by in times.items() for name, of in by.items()}
    ratios = {
        f"{what}_ratio": round(medians[f"{what}_store"] / medians[f"{what}_native"], 1)
        for what in times
        if "native" in stores
    }
    return {"entries": entries, "value_bytes": value_bytes} | medians | ratios


def experiment_collector(entries: int, freeze: str) -> Result:
    """Time full collections of a filled store: never frozen, frozen when it was empty, or when it was full."""
    store = Store(slots=1024, max_entries=entries, max_bytes=1 << 50)
    gc.collect()
    if freeze == "empty":
        gc.freeze()
    Load(store, 10).add(entries)
    if freeze == "full":
        gc.collect()
        gc.freeze()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        gc.collect()
        times.append((time.perf_counter() - start) * 1e3)
    return {
        "entries": entries,
        "frozen_when": freeze,
        "collect_ms": round(statistics.median(times), 2),
        "tables_tracked": sum(map(gc.is_tracked, store._tables)),  # noqa: SLF001  # what the collector sees of them
    }


def experiment_tags(entries: int, value_bytes: int, shared_by: int, variant: str = "store") -> Result:
    """Fill and churn with entries that bear one tag each, shared by so many; then write anew, and drop one tag."""
    store = VARIANTS[variant](slots=1024, max_entries=entries, max_bytes=1 << 50)
    load = Load(store, value_bytes)
    empty = resident_bytes()
    result: Result = {"variant": variant, "entries": entries, "value_bytes": value_bytes, "shared_by": shared_by}
    longest = Longest()

    def tagged(keys: list[bytes], records: list[bytes]) -> list[bytes]:
        tags = [b"tag:%d" % (int(key[4:]) // shared_by) for key in keys]
        return [
            record[:22] + with_extras(record[22:], Extras((tag,))) for tag, record in zip(tags, records, strict=True)
        ]

    for phase, count in (("fill", entries), ("churn", 2 * entries)):
        for _ in range(count // BATCH):
            keys = load.new_keys()
            records = tagged(keys, load.records())
            longest.time(f"{phase}: merge", partial(store.merge, keys, records, NOW_MS))
        resident = resident_bytes() - empty
        result[f"{phase}_resident_to_accounted"] = round(resident / store.statistics().bytes, 3)
    for name, kind in (("overwrite_us", tagged), ("overwrite_untagged_us", lambda _, records: records)):
        writes = [(keys, kind(keys, load.records())) for keys in [load.recent_keys(entries) for _ in range(20)]]
        result[name] = best_us([partial(store.merge, keys, records, NOW_MS) for keys, records in writes], 1)
    version = (load.version + 1).to_bytes(16, "big")
    tag = b"tag:%d" % ((load.written - 1) // shared_by)
    dropped, cpu = 0, time.thread_time()
    for slot in range(1024):
        limits = {"until_ms": NOW_MS + LIFETIME_MS, "now_ms": NOW_MS, "limit": 250}
        while buried := longest.time("bury 250", partial(store.bury, slot, tag, version, **limits)):
            dropped += len(buried)
    result |= {"dropped": dropped, "drop_ms": round((time.thread_time() - cpu) * 1e3, 2)}
    return result | {"longest_wall_ms": longest.wall_ms, "longest_cpu_ms": longest.cpu_ms}


EXPERIMENTS: dict[str, Callable[..., Result]] = {
    "memory": experiment_memory,
    "pauses": experiment_pauses,
    "speed": experiment_speed,
    "twins": experiment_twins,
    "collector": experiment_collector,
    "tags": experiment_tags,
}


def plan(*, quick: bool) -> list[tuple[str, Result]]:
    """List the experiments and their arguments."""
    largest = 50_000 if quick else 2_000_000
    counts = [10_000, 20_000] if quick else [10_000, 50_000, 200_000, 300_000, largest]
    room = 10_000_000 if quick else 200_000_000
    todo: list[tuple[str, Result]] = [
        ("memory", {"entries": entries, "value_bytes": 100, "mixed": False, "variant": variant})
        for variant in STORES
        for entries in counts
    ]
    todo += [
        ("memory", {"entries": counts[1], "value_bytes": 100, "mixed": False, "variant": variant})
        for variant in VARIANTS
        if variant not in {*STORES, "eager-touch"}
    ]
    todo += [
        (
            "memory",
            {"entries": room // (size + 220) // BATCH * BATCH} | {"value_bytes": size, "mixed": mixed, "variant": v},
        )
        for v in STORES
        for size in (10, 100, 1000, 10_000)
        for mixed in (False, True)
    ]
    todo += [("twins", {"entries": entries, "value_bytes": 100, "rounds": 9}) for entries in (10_000, largest)]
    todo += [
        ("speed", {"entries": entries, "value_bytes": 100, "rounds": 5 if quick else 15, "variant": variant})
        for entries in (10_000, largest)
        for variant in (VARIANTS if entries == 10_000 or not quick else ["store"])
    ]
    todo += [("collector", {"entries": largest, "freeze": freeze}) for freeze in ("never", "empty", "full")]
    todo += [
        ("tags", {"entries": largest // 2, "value_bytes": 100, "shared_by": shared_by, "variant": variant})
        for variant in STORES
        for shared_by in (1, 2, 4, 100, 10_000, largest)
    ]
    large: Result = {"entries": largest, "value_bytes": 750, "max_bytes": 1000 * largest}
    todo += [("pauses", large | {"freeze": freeze}) for freeze in (False, True)]
    if "native" in STORES:
        huge: Result = {"entries": 5 * largest, "value_bytes": 100, "max_bytes": 1 << 50, "freeze": True}
        todo += [("pauses", of | {"variant": "native"}) for of in (large | {"freeze": True}, huge)]
    if not quick:
        todo += [("pauses", large | {"freeze": True, "variant": "ordereddict"})]
    return todo


def run_apart(name: str, arguments: Result) -> Result:
    """Run one experiment in a process of its own."""
    command = [sys.executable, str(DOOR), "store", "--one", json.dumps([name, arguments])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: Result = json.loads(done.stdout)
    return answer


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench store",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, under 20 s; without it about 5 min and 5 GB")
    parser.add_argument("--only", choices=EXPERIMENTS, help="one kind of experiment")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        name, of = json.loads(options.one)
        print(json.dumps(EXPERIMENTS[name](**of)))
        return 0
    for name, of in plan(quick=options.quick):
        if options.only in {None, name}:
            result = run_apart(name, of)
            line = json.dumps({"experiment": name} | result) if options.json else f"{name:10}{as_text(result)}"
            print(line, flush=True)
    return 0


def as_text(result: Result) -> str:
    """Put a result on one line, or several where it has tables."""
    plain = "  ".join(f"{name}={value}" for name, value in result.items() if not isinstance(value, dict))
    tables = [
        f"\n{'':12}{name}: " + ", ".join(f"{key} {value}" for key, value in table.items())
        for name, table in result.items()
        if isinstance(table, dict)
    ]
    return plain + "".join(tables)
