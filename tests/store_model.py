"""The store as one would write it with no thought of speed, under both policies, and steps for both to take."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import md5
from zlib import crc32

from hypothesis import strategies as st

from meshcache.core.counters import StoreStatistics
from meshcache.core.storage.calendar import BUCKET_MS
from meshcache.core.storage.charges import PYTHON
from meshcache.core.storage.recency import CHANCES_MAX
from meshcache.core.storage.store import TOMBSTONE_SHARE, Store
from meshcache.core.storage.tags import tag_bytes
from meshcache.protocol.record import (
    NEVER_MS,
    VERSION_BYTES,
    Extras,
    expires_ms_of,
    expiry_bytes,
    is_tombstone,
    stamp,
    tags_of,
    tombstone,
    version_of,
    with_extras,
)

NOW_MS = 1_700_000_000_000


def version(number: int) -> bytes:
    return number.to_bytes(16, "big")


def value(number: int, expires_ms: int = NEVER_MS, size: int = 8) -> bytes:
    return stamp(version(number), expires_ms) + b"\0\0" + b"v" * size


def held(store: Store) -> set[bytes]:
    return {key for slot in range(store.slots) for key in store.keys_of_slot(slot)}


def ring(store: Store, sentinel: int) -> list[bytes]:
    """The keys of a ring in its order; both directions must agree."""
    forward = store.keys_of_ring(sentinel)
    if type(store) is Store:  # its native twin looks at both by itself
        backward, index = [], store._before[sentinel]
        while index != sentinel:
            backward.append(store._keys[index])
            index = store._before[index]
        assert backward == forward[::-1]
    return forward


def check_books(store: Store) -> StoreStatistics:
    """What the store says of itself equals what it holds, and is within its limits."""
    statistics = store.statistics()
    records = {key: store.peek(key) for key in held(store)}
    dead = {key: record for key, record in records.items() if record is not None and is_tombstone(record)}
    sizes = {key: PYTHON.entry_bytes(key, record) for key, record in records.items() if record is not None}
    assert statistics.entries == len(records) - len(dead)
    assert statistics.tombstones == len(dead)
    assert statistics.bytes == sum(sizes.values()) + statistics.ghost_bytes
    assert statistics.tombstone_bytes == sum(sizes[key] for key in dead)
    assert statistics.entries <= store.max_entries
    assert statistics.bytes <= store.max_bytes
    check_digests(store)
    if type(store) is Store:
        assert statistics.bookings == sum(map(len, store._calendar.buckets.values()))
        assert sorted(store._calendar.due) == sorted(store._calendar.buckets)
        check_index(store)
    return statistics


def check_digests(store: Store) -> None:
    """No digest is older than what its slot holds."""
    for slot in range(store.slots):
        told = [key + (store.peek(key) or b"")[:VERSION_BYTES] for key in sorted(store.keys_of_slot(slot))]
        assert store.slot_digest(slot) == md5(b"\0".join(told), usedforsecurity=False).digest()[:8]


def check_index(store: Store) -> None:
    """The index has what a look at every record finds, and nothing else."""
    found: dict[tuple[int, bytes], set[int]] = {}
    for slot, table in enumerate(store._tables):
        for index in table.values():
            for tag in tags_of(store._records[index]):
                found.setdefault((slot, tag), set()).add(index)
    listed = {
        (slot, tag): set(store.tags.bearers_of(slot, tag))
        for slot, table in enumerate(store.tags._tables)
        for tag in table
    }
    assert listed == found
    assert store.tags.bearers == sum(map(len, found.values()))
    assert len(store.tags) == len(found)


@dataclass
class Model:
    """The store under LRU: two dicts whose order is the recency order."""

    max_entries: int
    max_bytes: int
    live: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)
    dead: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    tombstones_reaped: int = 0
    tombstones_dropped: int = 0
    refused: int = 0

    def size(self, records: OrderedDict[bytes, bytes]) -> int:
        return sum(PYTHON.entry_bytes(key, record) for key, record in records.items())

    def of(self, key: bytes) -> bytes | None:
        return self.live.get(key) or self.dead.get(key)

    def drop(self, key: bytes) -> None:
        self.live.pop(key, None)
        self.dead.pop(key, None)

    def read(self, key: bytes, now_ms: int) -> bytes | None:
        record = self.of(key)
        if record is not None and expires_ms_of(record) <= now_ms:
            self.count_expired(record)
            self.drop(key)
            record = None
        if record is None or is_tombstone(record):
            self.misses += 1
        else:
            self.hits += 1
            self.use(key)
        return record

    def use(self, key: bytes) -> None:
        self.live.move_to_end(key)

    def clear(self) -> None:
        self.live.clear()
        self.dead.clear()

    def count_expired(self, record: bytes) -> None:
        if is_tombstone(record):
            self.tombstones_reaped += 1
        else:
            self.expirations += 1

    def merge(self, key: bytes, record: bytes, now_ms: int) -> tuple[bytes | None, bool]:
        """Return the greater version held, if any, and whether a tombstone replaced a live record."""
        old = self.of(key)
        if old is not None and version_of(old) >= version_of(record):
            return (version_of(old) if version_of(old) > version_of(record) else None), False
        replaced = is_tombstone(record) and key in self.live and expires_ms_of(self.live[key]) > now_ms
        if expires_ms_of(record) <= now_ms:
            self.drop(key)
        elif PYTHON.entry_bytes(key, record) > self.max_bytes - self.ghost_bytes():
            self.refused += 1
            self.drop(key)
        else:
            self.put(key, record)
            self.make_room(key, now_ms)
        return None, replaced

    def ghost_bytes(self) -> int:
        return 0

    def put(self, key: bytes, record: bytes) -> None:
        self.drop(key)
        (self.dead if is_tombstone(record) else self.live)[key] = record

    def make_room(self, written: bytes, now_ms: int) -> None:
        while len(self.live) > self.max_entries:
            self.live.popitem(last=False)
            self.evictions += 1
        while self.size(self.live) + self.size(self.dead) > self.max_bytes:
            if self.size(self.dead) > int(self.max_bytes * TOMBSTONE_SHARE) or not self.live:
                self.dead.popitem(last=False)
                self.tombstones_dropped += 1
            else:
                self.live.popitem(last=False)
                self.evictions += 1

    def expire(self, now_ms: int, kept: set[bytes]) -> None:
        """Free what is in buckets that are over; what else has expired may stay, or go by an earlier booking."""
        due_ms = now_ms // BUCKET_MS * BUCKET_MS
        for records in (self.live, self.dead):
            for key, record in list(records.items()):
                expires_ms = expires_ms_of(record)
                if expires_ms < due_ms or (expires_ms <= now_ms and key not in kept):
                    self.count_expired(record)
                    self.drop(key)


@dataclass
class S3FifoModel(Model):
    """The store under S3-FIFO, by the words of recency.py: two lists of keys, a dict of uses, and lists of ghosts."""

    small: list[bytes] = field(default_factory=list)
    main: list[bytes] = field(default_factory=list)
    uses: dict[bytes, int] = field(default_factory=dict)
    ghosts: list[list[int]] = field(default_factory=list)
    """The buckets, the latest ghost of each first."""
    fits: tuple[int, float] = (0, 0)
    """For how many entries the ghosts were made."""
    has_evicted: bool = False
    stayed: set[bytes] = field(default_factory=set)
    """The keys that have had a chance in the small queue."""
    regret: int = 0
    entries: int = 0
    """The live ones at the last search for a victim."""
    share: int = 16
    small_evictions: int = 0
    promotions: int = 0
    ghost_hits: int = 0

    def clear(self) -> None:
        super().clear()
        self.small, self.main, self.uses, self.ghosts = [], [], {}, []
        self.fits, self.has_evicted = (0, 0), False
        self.stayed, self.regret, self.entries, self.share = set(), 0, 0, 16

    def use(self, key: bytes) -> None:
        self.uses[key] = min(3, self.uses[key] + 1)

    def drop(self, key: bytes) -> None:
        if key in self.live:
            (self.small if key in self.small else self.main).remove(key)
            del self.uses[key]
            self.stayed.discard(key)
        super().drop(key)

    def put(self, key: bytes, record: bytes) -> None:
        if key in self.live and not is_tombstone(record):
            self.live[key] = record
            return
        super().put(key, record)
        if is_tombstone(record):
            return
        bucket = self.bucket(key)
        self.uses[key] = 0
        if hash_of(key) in bucket:
            age = bucket.index(hash_of(key)) * len(self.ghosts)
            bucket.remove(hash_of(key))
            self.ghost_hits += 1
            if age < self.entries - self.entries * self.share // 64:
                self.take_near_ghost()
            (self.small if self.is_in_doubt() else self.main).append(key)
        elif not self.has_evicted and self.is_over_share():
            self.main.append(key)
        else:
            if 0 < self.regret < self.entries // 8 + 4:
                self.set_regret(self.regret - 1)
            self.small.append(key)

    def take_near_ghost(self) -> None:
        if self.regret >= self.entries // 8 + 4 and self.main and self.uses[self.main[0]]:
            self.uses[self.main[0]] -= 1
            self.main.append(self.main.pop(0))
            self.set_regret(max(self.regret - 1, self.entries // 8 + 4))
        else:
            self.set_regret(self.regret + 1)

    def is_in_doubt(self) -> bool:
        return self.entries // 8 + 4 <= self.regret < self.entries + 4

    def set_regret(self, regret: int) -> None:
        self.regret = regret
        over = max(0, regret - (self.entries + 4))
        self.share = min(64, 16 + over * 64 // self.entries)

    def bucket(self, key: bytes) -> list[int]:
        return self.ghosts[hash_of(key) * len(self.ghosts) >> 32] if self.ghosts else []

    def ghost_bytes(self) -> int:
        return 32 * len(self.ghosts)

    def is_over_share(self) -> bool:
        charged = [PYTHON.entry_bytes(key, self.live[key]) - tag_bytes(tags_of(self.live[key])) for key in self.small]
        entries_max = max(1, self.max_entries * self.share // 64)
        return len(charged) > entries_max or sum(charged) > self.max_bytes * self.share // 64

    def make_room(self, written: bytes, now_ms: int) -> None:
        def excess() -> bool:
            return self.size(self.live) + self.size(self.dead) + self.ghost_bytes() > self.max_bytes

        while len(self.live) > self.max_entries or excess():
            share = int(self.max_bytes * TOMBSTONE_SHARE)
            if len(self.live) <= self.max_entries and (self.size(self.dead) > share or not self.live):
                self.dead.popitem(last=False)
                self.tombstones_dropped += 1
            else:
                self.evict(written, now_ms)

    def evict(self, written: bytes, now_ms: int) -> None:
        self.has_evicted = True
        self.entries = len(self.live)
        victim = self.look(written)
        for _ in range(CHANCES_MAX):
            if expires_ms_of(self.live[victim]) <= now_ms or not self.uses[victim]:
                break
            self.give_chance(victim)
            victim = self.look(written)
        if expires_ms_of(self.live[victim]) <= now_ms:
            self.expirations += 1
        else:
            self.evictions += 1
            if victim in self.small:
                self.small_evictions += 1
                self.leave_ghost(victim)
        self.drop(victim)

    def give_chance(self, key: bytes) -> None:
        if key in self.main:
            self.set_regret(max(0, self.regret - 2))
            self.main.remove(key)
            self.main.append(key)
            self.uses[key] -= 1
            return
        self.small.remove(key)
        self.uses[key] = 0
        if key in self.stayed:
            self.set_regret(max(0, self.regret - 2))
        if self.regret >= self.entries // 8 + 4 and key not in self.stayed:
            self.stayed.add(key)
            self.small.append(key)
        else:
            self.stayed.discard(key)
            self.promotions += 1
            self.main.append(key)

    def look(self, written: bytes) -> bytes:
        first, second = (self.small, self.main) if self.is_over_share() or not self.main else (self.main, self.small)
        return next((key for key in [*first, *second] if key != written), written)

    def leave_ghost(self, key: bytes) -> None:
        entries = len(self.live)
        if not self.fits[0] <= entries <= self.fits[1]:
            wanted = -(-(entries + entries // 4) // 8)
            count = min(wanted, self.max_bytes // 32 // 32)
            self.ghosts = [[] for _ in range(count)]
            self.fits = (count, 8 * count if count == wanted else float("inf"))
        if self.ghosts:
            bucket = self.bucket(key)
            bucket.insert(0, hash_of(key))
            del bucket[8:]


def hash_of(key: bytes) -> int:
    return crc32(key) or 1


KEYS = [b"a", b"b", b"c", b"dd", b"e" * 40, b"ff", b"g", b"hh"]
LIFETIMES_MS = st.one_of(st.none(), st.integers(-100, 3000), st.integers(500, 3000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.lists(st.sampled_from(KEYS), max_size=5)),
        st.tuples(
            st.just("merge"),
            st.lists(
                st.tuples(
                    st.sampled_from(KEYS),
                    st.integers(0, 30),
                    LIFETIMES_MS,
                    st.sampled_from([0, 5, 60, 200, 600]),
                    st.sampled_from([False, False, False, True]),
                    st.sampled_from([(), (), (b"t",), (b"t", b"u"), (b"u", b"v" * 40), (b"t", b"t")]),
                ),
                max_size=4,
            ),
        ),
        st.tuples(st.just("expire"), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 1500)),
        st.tuples(st.just("drop_slot"), st.integers(0, 1)),
        st.tuples(
            st.just("sweep"), st.tuples(st.integers(0, 1), st.sampled_from([b"", b"d", b"a"]), st.integers(0, 30))
        ),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=60,
)


COUNTERS = ("hits", "misses", "evictions", "expirations", "tombstones_reaped", "tombstones_dropped", "refused")


def make_record(
    number: int, lifetime_ms: int | None, size: int, now_ms: int, *, dead: bool, tags: tuple[bytes, ...] = ()
) -> bytes:
    expires_ms = NEVER_MS if lifetime_ms is None else now_ms + lifetime_ms
    return tombstone(version(number), expires_ms) if dead else tagged(value(number, expires_ms, size), *tags)


def tagged(record: bytes, *tags: bytes) -> bytes:
    return record[:22] + with_extras(record[22:], Extras(tags))


def step_both(store: Store, model: Model, name: str, argument: object, now_ms: int) -> None:
    match name, argument:
        case "read", list(keys):
            assert store.read(keys, expiry_bytes(now_ms)) == [model.read(key, now_ms) for key in keys]
        case "merge", list(writes):
            keys = [key for key, *_ in writes]
            records = [
                make_record(n, ttl, size, now_ms, dead=dead, tags=tags) for _, n, ttl, size, dead, tags in writes
            ]
            newer, live = store.merge(keys, records, now_ms)
            answers = [model.merge(key, record, now_ms) for key, record in zip(keys, records, strict=True)]
            assert newer == [[i, greater] for i, (greater, _) in enumerate(answers) if greater is not None]
            assert live == [i for i, (_, replaced) in enumerate(answers) if replaced]
        case "expire", _:
            assert store.expire(now_ms, 1000) is False
            model.expire(now_ms, held(store))
        case "drop_slot", int(slot):
            keys = store.keys_of_slot(slot)
            assert store.drop_slot(slot) == len(keys)
            for key in keys:
                model.drop(key)
        case "sweep", (int(slot), bytes(prefix), int(number)):
            doomed = [
                key
                for key in store.keys_of_slot(slot)
                if key.startswith(prefix) and key in model.live and version_of(model.live[key]) <= version(number)
            ]
            assert store.sweep(slot, prefix, version(number)) == len(doomed)
            for key in doomed:
                model.drop(key)
        case "clear", _:
            store.clear()
            model.clear()
