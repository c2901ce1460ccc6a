"""The native store and its twin do the same, step by step: every answer, every count, every order that can be seen."""

from __future__ import annotations

import inspect
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshcache import _native
from meshcache.core.storage.calendar import BUCKET_MS, HORIZON_MS
from meshcache.core.storage.charges import NATIVE, PYTHON, Charges
from meshcache.core.storage.recency import RINGS
from meshcache.core.storage.store import SETTLE_MS, Store
from meshcache.protocol.record import NEVER_MS, Extras, expiry_bytes, stamp, tombstone, with_extras

if _native.compiled is None:
    pytest.skip(_native.describe(), allow_module_level=True)

from meshcache.core.storage.native import NativeStore

BEGIN_MS = 1_700_000_000_000
SLOTS = 4
LARGE_BYTES = 64 * 1024

keys = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"dd", b"e" * 40, b"ff", b"g", b"hh", b"u:1", b"u:2", b"u:3"]),
    st.integers(0, 60).map(b"key:%d".__mod__),
    st.binary(min_size=0, max_size=20),
)
slots = st.integers(0, SLOTS - 1)
tags = st.lists(st.sampled_from([b"t", b"u", b"v" * 40]), max_size=3)
ago_ms = st.sampled_from([0, 1, 5, 200, SETTLE_MS - 1, SETTLE_MS, SETTLE_MS + 1, 3 * SETTLE_MS])
lifetimes_ms = st.one_of(
    st.none(), st.integers(-300, 3000), st.sampled_from([BUCKET_MS, SETTLE_MS, HORIZON_MS - 1, HORIZON_MS * 3])
)
value_bytes = st.one_of(
    st.integers(0, 40),
    st.integers(430, 560),
    st.sampled_from([200, 600, LARGE_BYTES - 25, LARGE_BYTES - 24, LARGE_BYTES]),
)
broken = st.one_of(st.none(), st.none(), st.binary(min_size=0, max_size=6), st.binary(min_size=30, max_size=30))


@st.composite
def records(draw: st.DrawFn) -> tuple[int, int | None, bytes | None]:
    """How long ago it was written, how long it lives from now on, and its content; none: a tombstone."""
    written, lifetime = draw(ago_ms), draw(lifetimes_ms)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return written, lifetime, None
    if kind == 1 and (content := draw(broken)) is not None:
        return written, lifetime, bytes((draw(st.integers(0, 255)), 0)) + content
    return written, lifetime, with_extras(b"\0\1" + bytes(draw(value_bytes)), Extras(tuple(draw(tags))))


batches = st.lists(st.tuples(keys, records(), st.integers(0, 3)), max_size=6)


class InStep(RuleBasedStateMachine):
    """Both stores, and the time."""

    @initialize(
        max_entries=st.sampled_from([1, 3, 8, 20, 10**6]),
        max_bytes=st.sampled_from([400, 900, 2500, 20_000, 10**9]),
        grace_ms=st.sampled_from([0, 500, 600_000]),
        charges=st.sampled_from([PYTHON, NATIVE]),
        eviction=st.sampled_from(["lru", "s3fifo"]),
    )
    def begin(self, max_entries: int, max_bytes: int, grace_ms: int, charges: Charges, eviction: str) -> None:
        limits: dict[str, Any] = {"slots": SLOTS, "max_entries": max_entries, "max_bytes": max_bytes}
        limits |= {"grace_ms": grace_ms, "charges": charges, "eviction": eviction}
        self.twin, self.native = Store(**limits), NativeStore(**limits)
        self.now_ms = BEGIN_MS

    def both(self, method: str, *arguments: Any, **named: Any) -> Any:
        answer = getattr(self.twin, method)(*arguments, **named)
        assert getattr(self.native, method)(*arguments, **named) == answer
        return answer

    def record_of(self, drawn: tuple[int, int | None, bytes | None], counter: int) -> bytes:
        written, lifetime, content = drawn
        version = ((self.now_ms - written << 16) + counter).to_bytes(8, "big") + bytes(8)
        expires_ms = NEVER_MS if lifetime is None else max(0, self.now_ms + lifetime)
        return tombstone(version, expires_ms) if content is None else stamp(version, expires_ms) + content

    @rule(batch=batches)
    def merge(self, batch: list[Any]) -> None:
        written = [self.record_of(drawn, counter) for _, drawn, counter in batch]
        self.both("merge", [key for key, *_ in batch], written, self.now_ms)

    @rule(
        chosen=st.lists(st.integers(0, 63), min_size=1, max_size=40), lifetime=lifetimes_ms, counter=st.integers(0, 3)
    )
    def merge_many(self, chosen: list[int], lifetime: int | None, counter: int) -> None:
        written = [self.record_of((0, lifetime, b"\0\1" + bytes(number)), counter) for number in chosen]
        self.both("merge", [b"key:%d" % number for number in chosen], written, self.now_ms)

    @rule(batch=batches)
    def merge_repair(self, batch: list[Any]) -> None:
        written = [self.record_of(drawn, counter) for _, drawn, counter in batch]
        admitted = self.both("above_floor", [key for key, *_ in batch], written)
        self.both("merge", *admitted, self.now_ms)

    @rule(chosen=st.lists(keys, max_size=300))
    def read(self, chosen: list[bytes]) -> None:
        self.both("read", chosen, expiry_bytes(self.now_ms))

    @rule(key=keys)
    def peek(self, key: bytes) -> None:
        self.both("peek", key)

    @rule(passed_ms=st.one_of(st.integers(0, 1500), st.sampled_from([SETTLE_MS, HORIZON_MS, -5000])))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(budget=st.sampled_from([0, 1, 2, 1000]))
    def expire(self, budget: int) -> None:
        self.both("expire", self.now_ms, budget)

    @rule(slot=slots)
    def drop_slot(self, slot: int) -> None:
        self.both("drop_slot", slot)

    @rule(slot=slots, ago=ago_ms)
    def void_slot(self, slot: int, ago: int) -> None:
        self.both("void_slot", slot, (self.now_ms - ago << 16).to_bytes(8, "big") + bytes(8))

    @rule(slot=slots, prefix=st.sampled_from([b"", b"u:", b"e", b"key:1"]), ago=ago_ms, cut=st.integers(15, 17))
    def sweep(self, slot: int, prefix: bytes, ago: int, cut: int) -> None:
        self.both("sweep", slot, prefix, ((self.now_ms - ago << 16).to_bytes(8, "big") + bytes(9))[:cut])

    @rule(slot=slots, tag=st.sampled_from([b"t", b"u", b"none"]), ago=ago_ms, limit=st.sampled_from([0, 1, 100]))
    def bury(self, slot: int, tag: bytes, ago: int, limit: int) -> None:
        below = (self.now_ms - ago << 16).to_bytes(8, "big") + b"\1" * 8
        limits = {"until_ms": self.now_ms + 60_000, "now_ms": self.now_ms, "limit": limit}
        self.both("bury", slot, tag, below, **limits)

    @rule(slot=slots)
    def slot_digest(self, slot: int) -> None:
        self.both("digest_cost", slot)
        self.both("slot_digest", slot)

    @rule(slot=slots, number=st.integers(0, 1 << 63))
    def raise_floor(self, slot: int, number: int) -> None:
        self.twin.floors[slot] = self.native.floors[slot] = number.to_bytes(16, "big")

    @rule(sure=st.integers(0, 5))
    def clear(self, sure: int) -> None:
        if sure == 0:
            self.both("clear")

    @invariant()
    def hold_the_same(self) -> None:
        self.both("statistics")
        assert self.both("contradictions") == []
        assert self.native.floors == self.twin.floors
        for slot in range(SLOTS):
            for key in self.both("keys_of_slot", slot):
                assert (key in self.native) is (key in self.twin._tables[slot])
                assert self.native.peek(key) == self.twin.peek(key)
                assert self.native.slot_of(key) == slot
        # Also which index an entry has: what is booked for an index that has become free depends on it.
        assert self.native.tags._tables == self.twin.tags._tables

    def teardown(self) -> None:
        if hasattr(self, "twin"):  # only now: to look at the order replays the twin's noted reads
            for ring in range(RINGS):
                self.both("keys_of_ring", ring)
            while self.both("expire", self.now_ms, 7):
                pass
            self.now_ms += HORIZON_MS
            self.expire(10**6)
            self.hold_the_same()


InStep.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestInStep = InStep.TestCase


def test_the_twins_have_the_same_interface() -> None:
    public = {name for name in dir(Store(slots=1, max_entries=1, max_bytes=1)) if not name.startswith("_")}
    assert public == {name for name in dir(NativeStore) if not name.startswith("_")} - {
        "bury_entries",
        "count_of_slot",
        "counts",
        "digests",
        "is_changed",
        "sizes",
        "slot_of",
        "take_changed",
        "versioned_keys",
    }
    for name in ("bury", "void_slot", "above_floor", "slot_digest", "digest_cost", "statistics", "contradictions"):
        assert inspect.signature(getattr(Store, name)) == inspect.signature(getattr(NativeStore, name))


@pytest.mark.parametrize("length", [*range(40), 1023, 1024])
def test_a_slot_is_that_of_everybody_else(length: int) -> None:
    store = NativeStore(slots=1 << 20, max_entries=1, max_bytes=1)
    key = bytes((length * 7 + i * 31) % 256 for i in range(length))
    assert store.slot_of(key) == crc32(key) & (1 << 20) - 1


def test_a_record_that_grows_within_its_memory_harms_nobody_elses() -> None:
    """Whoever wrote beyond what the allocator gave would change the neighbour, or crash."""
    store = NativeStore(slots=1, max_entries=10**6, max_bytes=10**9)
    names = [b"key:%d" % number for number in range(64)]
    for size in range(400, 700):
        version = size.to_bytes(16, "big")
        records = [stamp(version, NEVER_MS) + b"\0\1" + bytes([number]) * size for number in range(64)]
        store.merge(names, records, BEGIN_MS)
        assert store.read(names, expiry_bytes(BEGIN_MS)) == records


@pytest.mark.parametrize("size", [LARGE_BYTES, 10 * LARGE_BYTES])
def test_a_large_record_is_not_copied(size: int) -> None:
    store = NativeStore(slots=1, max_entries=9, max_bytes=10**9)
    record = stamp(bytes(15) + b"\1", NEVER_MS) + b"\0\1" + bytes(size)
    store.merge([b"k"], [record], BEGIN_MS)
    assert store.peek(b"k") is record
    assert store.read([b"k"], expiry_bytes(BEGIN_MS))[0] is record


BAD: list[tuple[str, tuple[Any, ...], type[Exception]]] = [
    ("read", ([b"k", "k"], bytes(6)), TypeError),
    ("read", ([b"k"], bytes(5)), TypeError),
    ("read", ((b"k",), bytes(6)), TypeError),
    ("read", ([b"k"],), TypeError),
    ("read", ([bytes(1 << 16)], bytes(6)), TypeError),
    ("peek", (None,), TypeError),
    ("merge", ([b"k"], [], 0), ValueError),
    ("merge", ([b"k"], [bytes(23)], 0), TypeError),
    ("merge", ([b"k"], [None], 0), TypeError),
    ("merge", ([b"k"], [bytes(24)], -1), ValueError),
    ("merge", ([b"k"], [bytes(24)], 1 << 80), OverflowError),
    ("merge", ([b"k"], [bytes(24)], "now"), TypeError),
    ("expire", (0,), TypeError),
    ("expire", (0, None), TypeError),
    ("keys_of_slot", (SLOTS,), IndexError),
    ("drop_slot", (-1,), IndexError),
    ("sweep", (SLOTS, b"", b""), IndexError),
    ("sweep", (0, b"", "v"), TypeError),
    ("take_changed", (1 << 70,), OverflowError),
    ("bury_entries", ([0], b"v", 0, 0, 1), IndexError),
    ("bury_entries", ([99], b"v", 0, 0, 1), IndexError),
    ("bury_entries", (["x"], b"v", 0, 0, 1), TypeError),
    ("bury_entries", (7, b"v", 0, 0, 1), TypeError),
]


@pytest.mark.parametrize(("method", "arguments", "error"), BAD, ids=[f"{m}-{i}" for i, (m, *_) in enumerate(BAD)])
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    method: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    store = NativeStore(slots=SLOTS, max_entries=9, max_bytes=10**9)
    store.merge([b"k"], [stamp(bytes(15) + b"\1", NEVER_MS) + b"\0\1v"], BEGIN_MS)
    before = store.statistics()
    with pytest.raises(error):
        getattr(store, method)(*arguments)
    assert store.statistics() == before
    assert store.contradictions() == []


def test_floors_that_are_none_are_an_error_and_no_crash() -> None:
    store = NativeStore(slots=1, max_entries=1, max_bytes=10**9)
    record = stamp(bytes(15) + b"\1", NEVER_MS) + b"\0\1v"
    store.merge([b"a"], [record], BEGIN_MS)
    store.floors.clear()
    with pytest.raises(RuntimeError, match="floors"):
        store.merge([b"b"], [record], BEGIN_MS)
