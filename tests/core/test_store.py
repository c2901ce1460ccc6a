from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_bugs import Plant, tombstones_of_the_drop, tombstones_of_the_dropped
from store_model import (
    COUNTERS,
    KEYS,
    NOW_MS,
    STEPS,
    Model,
    check_books,
    check_digests,
    held,
    ring,
    step_both,
    tagged,
    value,
    version,
)

from meshcache import _native
from meshcache.core.storage.calendar import BUCKET_MS, HORIZON_MS
from meshcache.core.storage.charges import PYTHON
from meshcache.core.storage.choice import store_class
from meshcache.core.storage.recency import RINGS
from meshcache.core.storage.store import NOTED_READS_MAX, TOMBSTONE_SHARE, Store
from meshcache.core.storage.tags import TAG_OVERHEAD_BYTES
from meshcache.protocol.clock import HybridClock
from meshcache.protocol.record import (
    HEADER_BYTES,
    NEVER_MS,
    expires_ms_of,
    expiry_bytes,
    is_tombstone,
    stamp,
    tombstone,
)

ROOMY = 10**9


class Tested:
    """The class of the stores of this module: every test runs with each."""

    store: type[Store] = Store


@pytest.fixture(scope="module", params=["in Python", "native"], autouse=True)
def tested(request: pytest.FixtureRequest) -> None:
    if request.param == "native" and _native.compiled is None:
        pytest.skip(_native.describe())
    Tested.store = store_class() if request.param == "native" else Store


def in_python(reason: str) -> None:
    """Go on only with the store in Python, into which the test looks."""
    if Tested.store is not Store:
        pytest.skip(reason)


def make_store(*, slots: int = 4, max_entries: int = 10**6, max_bytes: int = ROOMY) -> Store:
    return Tested.store(slots=slots, max_entries=max_entries, max_bytes=max_bytes, charges=PYTHON)


def put(store: Store, key: bytes, record: bytes, now_ms: int = NOW_MS) -> tuple[list[list[int | bytes]], list[int]]:
    return store.merge([key], [record], now_ms)


def read(store: Store, key: bytes, now_ms: int = NOW_MS) -> bytes | None:
    return store.read([key], expiry_bytes(now_ms))[0]


def slot_of(store: Store, key: bytes) -> int:
    return next(slot for slot in range(store.slots) if key in store.keys_of_slot(slot))


def next_expiry_ms(store: Store) -> int | None:
    """Return the wall time at which ``expire`` will find something to do; None: never, as things are."""
    return (store._calendar.due[0] + 1) * BUCKET_MS if store._calendar.due else None


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, max_entries=st.integers(1, 6), max_bytes=st.sampled_from([400, 900, 2500, 100_000]))
def test_does_what_a_plain_model_does(steps: list[tuple[str, object]], max_entries: int, max_bytes: int) -> None:
    store = make_store(slots=2, max_entries=max_entries, max_bytes=max_bytes)
    model = Model(max_entries, max_bytes)
    now_ms = NOW_MS
    for name, argument in steps:
        if name == "wait":
            assert isinstance(argument, int)
            now_ms += argument
            continue
        step_both(store, model, name, argument, now_ms)
        statistics = check_books(store)
        assert held(store) == model.live.keys() | model.dead.keys()
        assert {name: getattr(statistics, name) for name in COUNTERS} == {
            name: getattr(model, name) for name in COUNTERS
        }
    # Only now: to look at the order replays the noted reads, which the steps must do by themselves.
    assert ring(store, 0) == list(model.live)
    assert ring(store, 1) == list(model.dead)


def test_evicts_the_least_recently_used_first() -> None:
    store = make_store(max_entries=3)
    for number, key in enumerate([b"a", b"b", b"c"]):
        put(store, key, value(number))
    store.read([b"a", b"b", b"a"], expiry_bytes(NOW_MS))
    put(store, b"d", value(9))
    assert held(store) == {b"a", b"b", b"d"}
    put(store, b"e", value(9))
    assert held(store) == {b"a", b"d", b"e"}
    assert store.statistics().evictions == 2


def test_a_peek_is_no_use() -> None:
    store = make_store(max_entries=2)
    put(store, b"a", value(1))
    put(store, b"b", value(1))
    assert store.peek(b"a") == value(1)
    assert store.peek(b"z") is None
    put(store, b"c", value(1))
    assert held(store) == {b"b", b"c"}
    assert (store.statistics().hits, store.statistics().misses) == (0, 0)


def test_noted_reads_are_bounded() -> None:
    in_python("its native twin notes no reads")
    store = make_store()
    keys = [b"%d" % number for number in range(100)]
    store.merge(keys, [value(1)] * 100, NOW_MS)
    for _ in range(NOTED_READS_MAX // 100 + 2):
        store.read(keys, expiry_bytes(NOW_MS))
        assert len(store._noted) < NOTED_READS_MAX + 100
    assert len(store._noted) < 200
    assert ring(store, 0) == keys


@pytest.mark.parametrize(
    "remove",
    [
        lambda store: store.drop_slot(slot_of(store, b"gone")),
        lambda store: store.sweep(slot_of(store, b"gone"), b"gone", version(9)),
        lambda store: store.expire(NOW_MS + 500, 10),
        lambda store: store.read([b"gone"], expiry_bytes(NOW_MS + 500)),
        lambda store: store.merge([b"gone"], [value(9, NOW_MS)], NOW_MS),
    ],
)
def test_a_noted_read_of_what_goes_leaves_no_trace(remove: Callable[[Store], object]) -> None:
    store = make_store(slots=1024)
    store.merge([b"gone", b"a", b"b"], [value(1, NOW_MS + 100), value(1), value(1)], NOW_MS)
    store.read([b"gone", b"a"], expiry_bytes(NOW_MS))
    remove(store)
    assert held(store) == {b"a", b"b"}
    assert ring(store, 0) == [b"b", b"a"]


def test_the_byte_limit_counts_keys_values_and_overhead() -> None:
    one = PYTHON.entry_bytes(b"a", value(1, size=500))
    assert one > 500 + HEADER_BYTES + 1
    store = make_store(max_bytes=3 * one)
    for key in (b"a", b"b", b"c"):
        put(store, key, value(1, size=500))
    assert store.statistics().evictions == 0
    assert store.statistics().bytes == 3 * one
    put(store, b"d" * 17, value(1, size=500))
    assert held(store) == {b"c", b"d" * 17}


def test_a_grown_value_evicts_others_and_not_itself() -> None:
    store = make_store(max_bytes=4 * PYTHON.entry_bytes(b"a", value(1)))
    for key in (b"a", b"b", b"c", b"d"):
        put(store, key, value(1))
    put(store, b"a", value(2, size=200))
    assert b"a" in held(store)
    assert b"b" not in held(store)
    assert store.statistics().bytes <= store.max_bytes


def test_an_older_record_is_refused_and_an_equal_one_is_stored_already() -> None:
    store = make_store()
    put(store, b"k", value(5))
    assert store.merge([b"x", b"k"], [value(1), value(4)], NOW_MS) == ([[1, version(5)]], [])
    assert put(store, b"k", value(5, size=99)) == ([], [])
    assert read(store, b"k") == value(5)
    assert put(store, b"k", value(6)) == ([], [])
    assert read(store, b"k") == value(6)


def test_an_expired_record_is_a_miss_and_is_freed_by_the_read() -> None:
    store = make_store()
    put(store, b"k", value(1, NOW_MS + 100))
    assert read(store, b"k", NOW_MS + 99) is not None
    assert store.read([b"k", b"k"], expiry_bytes(NOW_MS + 100)) == [None, None]
    statistics = check_books(store)
    assert (statistics.entries, statistics.expirations, statistics.hits, statistics.misses) == (0, 1, 1, 2)


def test_a_batch_tells_hits_misses_tombstones_and_the_expired_apart() -> None:
    store = make_store()
    put(store, b"live", value(1))
    put(store, b"dead", tombstone(version(1), NOW_MS + 9999))
    put(store, b"late", value(1, NOW_MS + 10))
    found = store.read([b"late", b"live", b"none", b"dead", b"live"], expiry_bytes(NOW_MS + 10))
    assert found == [None, value(1), None, tombstone(version(1), NOW_MS + 9999), value(1)]
    statistics = check_books(store)
    assert (statistics.hits, statistics.misses, statistics.expirations) == (2, 3, 1)
    assert ring(store, 0) == [b"live"]


def test_expiry_frees_what_is_due_within_its_budget() -> None:
    store = make_store()
    for number in range(100):
        put(store, b"%d" % number, value(1, NOW_MS + 100))
    put(store, b"later", value(1, NOW_MS + 60_000))
    assert store.expire(NOW_MS, 10) is False
    assert store.statistics().entries == 101
    turns = 0
    while store.expire(NOW_MS + 1000, 10):
        turns += 1
        assert store.statistics().expirations == turns * 10
    assert turns in {9, 10}
    assert held(store) == {b"later"}


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 5000)), min_size=1, max_size=30))
def test_nothing_expired_lingers_and_the_next_expiry_is_known(writes: list[tuple[bytes, int]]) -> None:
    in_python("the calendar of its native twin cannot be seen")
    store = make_store()
    for number, (key, lifetime_ms) in enumerate(writes):
        put(store, key, value(number + 1, NOW_MS + lifetime_ms))
    last_ms = 0
    while (next_ms := next_expiry_ms(store)) is not None:
        assert last_ms < next_ms
        last_ms = next_ms
        assert store.expire(next_ms - 1, 1000) is False
        assert next_expiry_ms(store) == next_ms
        assert store.expire(next_ms, 1000) is False
        expiries = [expires_ms_of(record) for key in held(store) if (record := store.peek(key)) is not None]
        assert all(expires_ms > next_ms - BUCKET_MS for expires_ms in expiries)
    assert store.statistics().entries == 0
    assert not store._calendar.buckets


def test_what_never_expires_is_in_no_calendar() -> None:
    in_python("the calendar of its native twin cannot be seen")
    store = make_store()
    put(store, b"k", value(1))
    assert next_expiry_ms(store) is None
    put(store, b"k", value(2, NOW_MS + 100))
    put(store, b"k", value(3))
    assert store.expire(NOW_MS + 10_000, 10) is False
    assert read(store, b"k", NOW_MS + 10_000) == value(3)
    assert next_expiry_ms(store) is None


def test_the_calendar_does_not_grow_by_overwrites_or_churn() -> None:
    store = make_store(max_entries=10)
    for number in range(1000):
        put(store, b"same", value(number + 1, NOW_MS + 10_000 + 300 * number))
        put(store, b"%d" % number, value(1, NOW_MS + 10_000 + 300 * number))
    assert store.statistics().bookings <= 12
    for second in range(10, 400):
        store.expire(NOW_MS + 1000 * second, 1000)
        for key in held(store):
            assert expires_ms_of(store.peek(key) or b"") > NOW_MS + 1000 * second - 2 * BUCKET_MS
    assert check_books(store).entries == 0


def test_alternating_lifetimes_leave_few_bookings_behind() -> None:
    store = make_store()
    seconds = 3 * HORIZON_MS // 1000
    for second in range(seconds):
        now_ms = NOW_MS + 1000 * second
        store.merge([b"k", b"k"], [value(2 * second, now_ms + 86_400_000), value(2 * second + 1, now_ms + 100)], now_ms)
        store.expire(now_ms + 999, 100)
        assert not held(store)
        assert store.statistics().bookings <= HORIZON_MS // 1000 + 2


def test_an_expiry_beyond_the_horizon_is_honoured() -> None:
    in_python("the calendar of its native twin cannot be seen")
    store = make_store()
    expires_ms = NOW_MS + 5 * HORIZON_MS + 123
    put(store, b"k", value(1, expires_ms))
    turns_ms = []
    while (next_ms := next_expiry_ms(store)) is not None:
        assert store.peek(b"k") is not None
        turns_ms.append(next_ms)
        store.expire(next_ms, 10)
    assert len(turns_ms) in {5, 6, 7}
    assert expires_ms <= turns_ms[-1] <= expires_ms + BUCKET_MS
    assert not held(store)


def test_an_earlier_expiry_than_booked_is_honoured() -> None:
    store = make_store()
    put(store, b"k", value(1, NOW_MS + 60_000))
    put(store, b"k", value(2, NOW_MS + 100))
    assert store.expire(NOW_MS + 100 + BUCKET_MS, 10) is False
    assert not held(store)
    put(store, b"new", value(1, NOW_MS + 90_000))
    assert store.expire(NOW_MS + 60_000 + BUCKET_MS, 10) is False
    assert held(store) == {b"new"}
    assert store.statistics().bookings == 1
    store.expire(NOW_MS + 90_000 + BUCKET_MS, 10)
    assert not held(store)


def test_an_expired_newer_record_displaces_the_older_one() -> None:
    store = make_store()
    put(store, b"k", value(1))
    assert put(store, b"k", value(2, NOW_MS)) == ([], [])
    assert read(store, b"k") is None
    check_books(store)
    put(store, b"k", value(3))
    assert put(store, b"k", tombstone(version(4), NOW_MS)) == ([], [0])
    assert not held(store)
    assert put(store, b"none", value(1, NOW_MS)) == ([], [])
    assert not held(store)


def test_a_held_record_that_expired_still_refuses_an_older_one() -> None:
    store = make_store()
    put(store, b"k", value(5, NOW_MS + 10))
    assert put(store, b"k", value(4), NOW_MS + 20) == ([[0, version(5)]], [])
    assert read(store, b"k", NOW_MS + 20) is None


def test_a_tombstone_tells_whether_it_replaced_a_live_record() -> None:
    store = make_store()
    store.merge([b"live", b"late"], [value(1), value(1, NOW_MS + 10)], NOW_MS)
    dead = tombstone(version(2), NOW_MS + 5000)
    assert store.merge([b"none", b"late", b"live"], [dead] * 3, NOW_MS + 10) == ([], [2])
    assert store.merge([b"live"], [tombstone(version(3), NOW_MS + 5000)], NOW_MS + 10) == ([], [])
    statistics = check_books(store)
    assert (statistics.entries, statistics.tombstones) == (0, 3)


def test_tombstones_outlive_the_pressure_of_live_entries_and_are_reaped() -> None:
    small = PYTHON.entry_bytes(b"dead", tombstone(version(1), NOW_MS + 5000))
    store = make_store(max_entries=20, max_bytes=30 * small)
    put(store, b"dead", tombstone(version(1), NOW_MS + 5000))
    for number in range(500):
        put(store, b"%d" % number, value(1, size=number % 300))
    assert b"dead" in held(store)
    assert put(store, b"dead", value(0)) == ([[0, version(1)]], [])
    store.expire(NOW_MS + 5000 + BUCKET_MS, 10)
    assert b"dead" not in held(store)
    assert store.statistics().tombstones_reaped == 1


def test_tombstones_beyond_their_share_go_first_oldest_first() -> None:
    dead = tombstone(version(1), NOW_MS + 60_000)
    small = PYTHON.entry_bytes(b"0000", dead)
    store = make_store(max_bytes=100 * small)
    keys = [b"%04d" % number for number in range(90)]
    store.merge(keys, [dead] * 90, NOW_MS)
    store.read(keys[:10], expiry_bytes(NOW_MS))
    lives = [b"L%03d" % number for number in range(50)]
    store.merge(lives, [value(1, size=0)] * 50, NOW_MS)
    statistics = check_books(store)
    assert (statistics.tombstones_dropped, statistics.evictions) == (40, 0)
    assert ring(store, 1) == keys[40:]
    store.merge([b"M%03d" % number for number in range(100)], [value(1, size=0)] * 100, NOW_MS)
    statistics = check_books(store)
    assert statistics.tombstone_bytes <= TOMBSTONE_SHARE * store.max_bytes
    assert ring(store, 1) == keys[85:]


def test_tombstones_do_not_count_as_entries() -> None:
    store = make_store(max_entries=2)
    put(store, b"a", value(1))
    put(store, b"b", value(1))
    for number in range(10):
        put(store, b"%d" % number, tombstone(version(1), NOW_MS + 5000))
    assert check_books(store).entries == 2
    put(store, b"0", value(2))
    assert ring(store, 0) == [b"b", b"0"]


def test_a_record_larger_than_the_store_is_refused_alone() -> None:
    store = make_store(max_bytes=1000)
    put(store, b"a", value(1))
    put(store, b"b", value(1))
    assert put(store, b"c", value(1, size=1000)) == ([], [])
    assert held(store) == {b"a", b"b"}
    put(store, b"a", value(2, size=1000))
    assert held(store) == {b"b"}
    statistics = check_books(store)
    assert (statistics.refused, statistics.evictions) == (2, 0)


def test_drops_one_slot() -> None:
    store = make_store(slots=4)
    keys = [b"%d" % number for number in range(100)]
    store.merge(keys[:90], [value(1)] * 90, NOW_MS)
    store.merge(keys[90:], [tombstone(version(1), NOW_MS + 5000)] * 10, NOW_MS)
    store.read(keys, expiry_bytes(NOW_MS))
    in_slot = store.keys_of_slot(2)
    assert 10 < len(in_slot) < 50
    assert store.drop_slot(2) == len(in_slot)
    assert store.keys_of_slot(2) == []
    assert held(store) == set(keys) - set(in_slot)
    check_books(store)


def test_a_sweep_drops_by_prefix_and_version_and_leaves_tombstones() -> None:
    store = make_store(slots=1)
    keys = [b"u:1", b"u:2", b"u:3", b"v:1", b"u:4"]
    store.merge(keys, [value(1), value(2), value(3), value(1), tombstone(version(1), NOW_MS + 5000)], NOW_MS)
    assert store.sweep(0, b"u:", version(2)) == 2
    assert held(store) == {b"u:3", b"v:1", b"u:4"}
    assert store.sweep(0, b"", version(9)) == 2
    assert held(store) == {b"u:4"}
    check_books(store)


def test_clear_forgets_everything_but_the_counters() -> None:
    store = make_store()
    put(store, b"k", value(5, NOW_MS + 1000))
    read(store, b"k")
    store.clear()
    statistics = check_books(store)
    assert (statistics.entries, statistics.bytes, statistics.hits, statistics.bookings) == (0, 0, 1, 0)
    assert put(store, b"k", value(1)) == ([], [])
    assert read(store, b"k") == value(1)


def test_tables_stay_compact_under_churn() -> None:
    in_python("the tables of its native twin are no dicts")
    """A dict left alone takes up to three times its entries once entries have come and gone."""
    count = 1400
    store = make_store(slots=1, max_entries=count)
    alone: dict[bytes, int] = {}
    keys = [b"%08d" % number for number in range(5 * count)]
    for number, key in enumerate(keys):
        put(store, key, value(1))
        alone[key] = number
        if number >= count:
            del alone[keys[number - count]]
    assert ring(store, 0) == keys[-count:]
    assert store._tables[0].__sizeof__() <= 0.55 * alone.__sizeof__()


def test_slots_are_made_compact_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    in_python("the tables of its native twin are no dicts")
    monkeypatch.setattr("meshcache.core.storage.store.COMPACTED_ENTRIES_MAX", 10)
    store = make_store(slots=64, max_entries=640)
    keys = [b"%08d" % number for number in range(1280)]
    store.merge(keys[:640], [value(1)] * 640, NOW_MS)
    store.merge(keys[640:], [value(1)] * 640, NOW_MS)
    assert 1 <= sum(size > 0 for size in store._table_bytes) <= 10
    assert held(store) == set(keys[640:])
    for number in range(2, 2000):
        store.sweep(slot_of(store, keys[-1]), keys[-1], version(number))
        put(store, keys[-1], value(number))
        put(store, b"more:%d" % number, value(1))
    assert sum(size > 0 for size in store._table_bytes) == 64


def test_a_removed_entry_lets_go_of_its_bytes() -> None:
    in_python("its native twin has no lists")
    store = make_store()
    put(store, b"k", value(1, size=1000))
    store.drop_slot(slot_of(store, b"k"))
    assert store._records[RINGS:] == [b""]
    assert store._keys[RINGS:] == [b""]
    put(store, b"j", value(1))
    assert len(store._records) == RINGS + 1


@pytest.mark.parametrize("wrong", [{"slots": 3}, {"slots": 0}, {"max_entries": 0}, {"max_bytes": 0}])
def test_refuses_limits_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_store(**wrong)


def test_a_repair_is_not_taken_below_what_was_evicted() -> None:
    store = make_store(slots=1, max_entries=2)
    old, new = [stamp(n.to_bytes(16, "big"), NEVER_MS) + b"\0\0v" for n in (1, 5)]
    store.merge([b"evicted", b"b"], [new, old], 0)
    store.merge([b"c"], [stamp((9).to_bytes(16, "big"), NEVER_MS) + b"\0\0v"], 0)
    assert store.peek(b"evicted") is None
    newer = stamp((6).to_bytes(16, "big"), NEVER_MS) + b"\0\0v"
    assert store.above_floor([b"evicted", b"x"], [old, newer]) == ([b"x"], [newer])
    assert store.above_floor([b"b"], [old]) == ([b"b"], [old])  # held: merge decides
    store.drop_slot(0)
    assert store.above_floor([b"evicted"], [old]) == ([b"evicted"], [old])


# Tags


def bury(store: Store, tag: bytes, below: bytes, limit: int = 10) -> dict[bytes, bool]:
    return store.bury(0, tag, below, until_ms=NOW_MS + 60_000, now_ms=NOW_MS, limit=limit)


def test_tombstones_take_the_place_of_older_entries_with_a_tag() -> None:
    store = make_store(slots=1)
    keys = [b"a", b"b", b"c", b"d"]
    records = [tagged(value(1), b"t"), tagged(value(2), b"t", b"u"), tagged(value(3), b"t"), value(1)]
    store.merge(keys, records, NOW_MS)
    check_digests(store)  # so that they are there, and must be made anew
    assert bury(store, b"none", version(9)) == {}
    assert bury(store, b"t", version(3), limit=1) == {b"a": True}
    assert bury(store, b"t", version(3)) == {b"b": True}
    assert bury(store, b"u", version(9)) == {}
    assert [is_tombstone(store.peek(key) or b"") for key in keys] == [True, True, False, False]
    check_books(store)


def test_an_entry_that_has_expired_is_buried_but_was_not_live() -> None:
    store = make_store(slots=1)
    store.merge([b"k"], [tagged(value(1, NOW_MS + 1000), b"t")], NOW_MS)
    assert store.bury(0, b"t", version(9), until_ms=NOW_MS + 60_000, now_ms=NOW_MS + 2000, limit=10) == {b"k": False}


def test_a_tombstone_of_a_dropped_tag_beats_the_revisions_of_what_it_replaced_but_no_later_write() -> None:
    store = make_store(slots=1)
    clock = HybridClock(boot=7)
    dropped = clock.tick(NOW_MS)
    revised, later = clock.revise(dropped), clock.tick(NOW_MS)
    store.merge([b"k"], [tagged(stamp(dropped, NEVER_MS) + b"\0\1v", b"t")], NOW_MS)
    bury(store, b"t", clock.tick_past(NOW_MS))
    for older in (dropped, revised):
        store.merge([b"k"], [stamp(older, NEVER_MS) + b"\0\1v"], NOW_MS)
        assert is_tombstone(store.peek(b"k") or b"")
    written = stamp(later, NEVER_MS) + b"\0\1v"
    assert store.merge([b"k"], [written], NOW_MS) == ([], [])
    assert store.peek(b"k") == written


@pytest.mark.parametrize("plant", [tombstones_of_the_drop, tombstones_of_the_dropped])
def test_bugs_of_these_tombstones_are_found_by_their_story(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """In random runs they show in one of a thousand."""
    in_python("that is where they are planted")
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_tombstone_of_a_dropped_tag_beats_the_revisions_of_what_it_replaced_but_no_later_write()


def test_the_trace_of_a_value_bears_no_tags() -> None:
    store = make_store(slots=1)
    recent = (NOW_MS << 16).to_bytes(8, "big") + bytes(8)
    store.merge([b"k"], [tagged(stamp(recent, NOW_MS + 1000) + b"\0\1v", b"t")], NOW_MS)
    assert store.tags.tags_in(0) == [b"t"]
    store.expire(NOW_MS + 2000, 10)
    assert store.tags.tags_in(0) == []
    trace = store.peek(b"k")
    assert trace is not None
    assert is_tombstone(trace)
    figures = store.statistics()
    assert (figures.entries, figures.tombstones, figures.bytes) == (0, 1, PYTHON.entry_bytes(b"k", trace))


@pytest.mark.parametrize(
    "leave",
    [
        lambda store: store.merge([b"k"], [value(9)], NOW_MS),
        lambda store: store.merge([b"k"], [tagged(value(9), b"other")], NOW_MS),
        lambda store: store.merge([b"k"], [tombstone(version(9), NEVER_MS)], NOW_MS),
        lambda store: store.merge([b"k"], [tagged(value(9, NOW_MS - 1), b"t")], NOW_MS),
        lambda store: store.merge([b"k"], [value(9, size=200_000)], NOW_MS),
        lambda store: store.merge([b"1", b"2", b"3"], [value(1)] * 3, NOW_MS),
        lambda store: store.expire(NOW_MS + 5000, 10),
        lambda store: store.read([b"k"], expiry_bytes(NOW_MS + 5000)),
        lambda store: store.drop_slot(0),
        lambda store: store.sweep(0, b"k", version(9)),
        lambda store: bury(store, b"t", version(9)),
        lambda store: store.clear(),
    ],
)
def test_a_tag_is_forgotten_with_the_entry_that_bore_it_whatever_the_reason(leave: Callable[[Store], object]) -> None:
    store = make_store(slots=1, max_entries=3, max_bytes=100_000)
    store.merge([b"k"], [tagged(value(1, NOW_MS + 1000), b"t")], NOW_MS)
    assert len(store.tags) == 1
    leave(store)
    assert b"t" not in store.tags.tags_in(0)
    check_books(store)


def test_an_entry_is_charged_for_its_tags() -> None:
    store = make_store(slots=1)
    store.merge([b"a"], [value(1)], NOW_MS)
    plain = store.statistics().bytes
    store.merge([b"a"], [tagged(value(2), b"t" * 100, b"u")], NOW_MS)
    assert store.statistics().bytes >= plain + 2 * TAG_OVERHEAD_BYTES + 101
    store.merge([b"a"], [value(3)], NOW_MS)
    assert store.statistics().bytes == plain


def test_a_hostile_record_with_broken_extras_is_an_entry_like_any_other() -> None:
    store = make_store(slots=1)
    records = [value(1)[:22] + bytes((flags, 0)) + b"\xff\xff" for flags in (2, 3, 0xFE, 0xFF)]
    store.merge([b"a", b"b", b"c", b"d"], records, NOW_MS)
    check_books(store)
    assert store.drop_slot(0) == 4
    check_books(store)
