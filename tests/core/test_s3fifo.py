"""S3-FIFO against a plain model of it, and rule by rule."""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_model import (
    COUNTERS,
    KEYS,
    NOW_MS,
    STEPS,
    S3FifoModel,
    check_books,
    hash_of,
    held,
    ring,
    step_both,
    tagged,
    value,
    version,
)

from meshcache.core.storage.charges import PYTHON
from meshcache.core.storage.choice import store_class
from meshcache.core.storage.recency import CHANCES_MAX, LIVE, SMALL, WAYS, Ghosts
from meshcache.core.storage.store import Store
from meshcache.protocol.record import expiry_bytes, tombstone

ROOMY = 10**9
OWN_COUNTERS = (*COUNTERS, "small_evictions", "promotions", "ghost_hits")


BOTH = pytest.mark.parametrize("kind", dict.fromkeys([Store, store_class()]))
"""In Python, and natively if that was built."""


def make_store(*, max_entries: int = 10**6, max_bytes: int = ROOMY, slots: int = 4, kind: type[Store] = Store) -> Store:
    return kind(slots=slots, max_entries=max_entries, max_bytes=max_bytes, eviction="s3fifo", charges=PYTHON)


def put(store: Store, *keys: bytes, number: int = 1) -> None:
    for key in keys:
        store.merge([key], [value(number)], NOW_MS)


def read(store: Store, *keys: bytes) -> None:
    assert None not in store.read(list(keys), expiry_bytes(NOW_MS))


def marks(store: Store, keys: list[bytes]) -> list[int]:
    store._replay()
    assert store._queues is not None
    index_of = {key: table[key] for table in store._tables for key in table}
    return [store._queues.marks[index_of[key]] for key in keys]


def known(ghosts: Ghosts, keys: list[bytes]) -> int:
    return sum(ghosts.take(key) >= 0 for key in keys)


def check_same(store: Store, model: S3FifoModel) -> None:
    statistics = check_books(store)
    assert held(store) == model.live.keys() | model.dead.keys()
    assert {name: getattr(statistics, name) for name in OWN_COUNTERS} == {
        name: getattr(model, name) for name in OWN_COUNTERS
    }
    assert statistics.small_entries == len(model.small)
    assert statistics.ghost_bytes == model.ghost_bytes()


def check_same_order(store: Store, model: S3FifoModel) -> None:
    assert ring(store, SMALL) == model.small
    assert ring(store, LIVE) == model.main
    assert ring(store, 1) == list(model.dead)
    if type(store) is not Store:
        return  # its native twin shows no marks
    assert marks(store, model.small) == [4 + 8 * (key in model.stayed) + model.uses[key] for key in model.small]
    assert marks(store, model.main) == [model.uses[key] for key in model.main]
    assert store._queues is not None
    assert (store._queues.regret, store._queues.share) == (model.regret, model.share)


@BOTH
@settings(max_examples=400, deadline=None)
@given(steps=STEPS, max_entries=st.integers(1, 6), max_bytes=st.sampled_from([400, 900, 2500, 100_000]))
def test_does_what_a_plain_model_does(
    kind: type[Store], steps: list[tuple[str, object]], max_entries: int, max_bytes: int
) -> None:
    store = make_store(slots=2, max_entries=max_entries, max_bytes=max_bytes, kind=kind)
    model = S3FifoModel(max_entries, max_bytes)
    now_ms = NOW_MS
    for name, argument in steps:
        if name == "wait":
            assert isinstance(argument, int)
            now_ms += argument
            continue
        step_both(store, model, name, argument, now_ms)
        check_same(store, model)
    check_same_order(store, model)


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_does_what_a_plain_model_does_with_many_keys(seed: int, kind: type[Store]) -> None:
    """Long runs in which every rule matters: promotion, second chances, ghosts that return, tables made anew."""
    rng = random.Random(seed)
    max_entries, max_bytes = ((40, ROOMY), (10**6, 20_000), (60, 30_000))[seed % 3]
    store = make_store(max_entries=max_entries, max_bytes=max_bytes, kind=kind)
    model = S3FifoModel(max_entries, max_bytes)
    for number in range(1, 1500):
        keys = [b"%d" % int(300 * rng.random() ** 2.5) for _ in range(3)]
        step_both(store, model, "read", keys, NOW_MS)
        size, lifetime_ms = rng.choice([5, 60, 300]), rng.choice([None, 10 * number])
        write = (rng.choice(keys), number, lifetime_ms, size, rng.random() < 0.05, ())
        step_both(store, model, "merge", [write], NOW_MS + number)
        check_same(store, model)
    check_same_order(store, model)
    assert min(model.small_evictions, model.promotions, model.ghost_hits) > 20
    assert model.evictions > model.small_evictions


@BOTH
@pytest.mark.parametrize(("max_entries", "max_bytes"), [(40, ROOMY), (10**6, 9_000)])
def test_does_what_a_plain_model_does_where_regret_grows_and_wanes(
    kind: type[Store], max_entries: int, max_bytes: int
) -> None:
    """Sweeps to and fro, with some reads and lifetimes, and then popular keys, in turns."""
    rng = random.Random(1)
    store = make_store(max_entries=max_entries, max_bytes=max_bytes, kind=kind)
    model = S3FifoModel(max_entries, max_bytes)
    shares, stayed = set(), 0
    for number in range(1, 3000):
        at = number % 200
        place = int(60 * rng.random() ** 3) if number % 1000 > 700 else min(at, 200 - at)
        key = b"%d" % place
        step_both(store, model, "read", [key], NOW_MS)
        if key not in model.live or rng.random() < 0.1:
            write = (key, number, rng.choice([None, 5 * number]), rng.choice([5, 60]), rng.random() < 0.02, ())
            step_both(store, model, "merge", [write], NOW_MS + number)
        check_same(store, model)
        shares.add(model.share)
        stayed += len(model.stayed)
    check_same_order(store, model)
    assert min(shares) == 16
    assert max(shares) > 24
    assert stayed > 500


@given(
    writes=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3000), st.booleans()), max_size=40),
    max_entries=st.integers(1, 8),
    max_bytes=st.integers(1, 8000),
)
def test_is_within_its_limits_after_every_write(
    writes: list[tuple[bytes, int, bool]], max_entries: int, max_bytes: int
) -> None:
    store = make_store(max_entries=max_entries, max_bytes=max_bytes)
    for number, (key, size, is_read) in enumerate(writes):
        store.merge([key], [value(number + 1, size=size)], NOW_MS)
        check_books(store)  # which looks at the limits
        if is_read:
            store.read([key], expiry_bytes(NOW_MS))


def test_what_was_read_outlives_a_scan() -> None:
    store = make_store(max_entries=20)
    put(store, *[b"%d" % number for number in range(20)])
    read(store, b"3")
    put(store, *[b"scan:%d" % number for number in range(1000)])
    assert b"3" in held(store)
    assert len(held(store)) == 20


def test_the_entries_that_fill_a_store_do_not_all_have_to_prove_themselves() -> None:
    store = make_store(max_entries=8)
    keys = [b"%d" % number for number in range(8)]
    put(store, *keys)
    assert (ring(store, SMALL), ring(store, LIVE)) == (keys[:3], keys[3:])
    put(store, b"more")
    assert (ring(store, SMALL), ring(store, LIVE)) == (keys[1:3], [*keys[3:], b"more"])
    put(store, b"next")
    assert (ring(store, SMALL), ring(store, LIVE)) == ([keys[2], b"next"], [*keys[3:], b"more"])


def test_a_ghost_comes_into_the_main_queue_and_an_unknown_key_does_not() -> None:
    store = make_store(max_entries=8)
    put(store, *[b"%d" % number for number in range(9)])
    assert b"0" not in held(store)
    put(store, b"0", b"new", number=2)
    assert ring(store, LIVE)[-1] == b"0"
    assert ring(store, SMALL)[-1] == b"new"
    assert store.statistics().ghost_hits == 1


FULL: Final = [b"%02d" % number for number in range(8)]
"""The keys that fill a store of eight."""
DOUBT: Final = 9 // 8 + 4
"""The regret from which on it is in doubt: it has nine entries when it looks for a victim."""


class Returns:
    """A full store of eight, and the keys that have ghosts in it, the latest last."""

    def __init__(self, kind: type[Store]) -> None:
        self.store = make_store(max_entries=8, kind=kind)
        self.gone: list[bytes] = []
        self._number = 1
        put(self.store, *FULL)
        for number in range(7):
            self.put(b"new:%d" % number)

    def put(self, key: bytes) -> bytes:
        """Write a key, and take note of what goes for it from the small queue."""
        small = ring(self.store, SMALL)
        self._number += 1
        put(self.store, key, number=self._number)
        self.gone += [each for each in small if each not in held(self.store)]
        return key

    def come(self, count: int = 1) -> bytes:
        """Write so many keys again that went last; return the last one."""
        for _ in range(count):
            key = self.put(self.gone.pop())
        return key


def regret(store: Store) -> int:
    assert store._queues is not None
    return store._queues.regret


@BOTH
def test_keys_that_return_in_a_row_bring_doubt_and_then_drive_nothing_out_of_the_main_queue(kind: type[Store]) -> None:
    returns = Returns(kind)
    for _ in range(DOUBT - 1):
        assert returns.come() == ring(returns.store, LIVE)[-1]
    main = ring(returns.store, LIVE)
    for _ in range(DOUBT, 9 + 4):
        assert returns.come() == ring(returns.store, SMALL)[-1]
        assert ring(returns.store, LIVE) == main
    assert returns.come() == ring(returns.store, LIVE)[-1]  # as many as the store has, and four: it is no use


@BOTH
def test_a_new_key_between_the_returns_makes_the_regret_one_less_until_there_is_doubt(kind: type[Store]) -> None:
    returns = Returns(kind)
    returns.come(DOUBT - 2)
    returns.put(b"fresh:1")
    returns.put(b"fresh:2")
    for _ in range(3):
        assert returns.come() == ring(returns.store, LIVE)[-1]
    assert returns.come() == ring(returns.store, SMALL)[-1]
    returns.put(b"fresh:3")
    assert returns.come() == ring(returns.store, SMALL)[-1]


@BOTH
def test_a_chance_in_the_main_queue_makes_the_regret_two_less(kind: type[Store]) -> None:
    returns = Returns(kind)
    returns.come(DOUBT - 2)
    first = ring(returns.store, LIVE)[0]
    read(returns.store, first)
    key = returns.come()
    assert ring(returns.store, LIVE)[-2:] == [key, first]
    for _ in range(2):
        assert returns.come() == ring(returns.store, LIVE)[-1]
    assert returns.come() == ring(returns.store, SMALL)[-1]


@BOTH
def test_in_doubt_an_entry_that_was_read_stays_in_the_small_queue_and_once_only(kind: type[Store]) -> None:
    for is_read_again in (False, True):
        returns = Returns(kind)
        store = returns.store
        returns.come(DOUBT)
        key, _ = ring(store, SMALL)
        main = ring(store, LIVE)
        read(store, key, key)
        returns.put(b"1")
        assert (ring(store, SMALL), ring(store, LIVE)) == ([b"1", key], main)
        returns.put(b"2")
        if is_read_again:
            read(store, key)
        returns.put(b"3")
        assert ring(store, SMALL) == [b"2", b"3"]
        assert ring(store, LIVE) == ([*main[1:], key] if is_read_again else main)
        returns_to = LIVE if is_read_again else SMALL  # the second chance made the regret less, and ended the doubt
        assert returns.come() == ring(store, returns_to)[-1]


def test_in_doubt_a_read_of_the_first_of_the_main_queue_outweighs_a_near_ghost_and_the_doubt_stays() -> None:
    returns = Returns(Store)
    store = returns.store
    returns.come(DOUBT + 1)
    for _ in range(2):
        first, *others = ring(store, LIVE)
        read(store, first)
        assert returns.come() == ring(store, SMALL)[-1]
        assert ring(store, LIVE) == [*others, first]
        assert regret(store) == DOUBT
    assert marks(store, ring(store, LIVE)) == [0] * 6


def much_regret(kind: type[Store]) -> Store:
    returns = Returns(kind)
    returns.come(DOUBT)
    for number in range(30):
        returns.put(b"fresh:%d" % number)
        returns.come()
    return returns.store


@BOTH
def test_much_regret_gives_the_small_queue_the_whole_store_and_reads_win_it_back(kind: type[Store]) -> None:
    store = much_regret(kind)
    for number in range(8):
        put(store, b"%d" % number)
    assert len(ring(store, SMALL)) == 8
    for number in range(8, 68):
        put(store, b"%d" % number)
        read(store, *ring(store, SMALL), *ring(store, LIVE))
    assert len(ring(store, SMALL)) == 2


@BOTH
def test_clear_forgets_the_regret(kind: type[Store]) -> None:
    store = much_regret(kind)
    store.clear()
    put(store, *FULL)
    assert (ring(store, SMALL), ring(store, LIVE)) == (FULL[:3], FULL[3:])
    put(store, b"more")
    put(store, FULL[0], number=2)
    assert ring(store, LIVE)[-1] == FULL[0]


def test_a_ghost_counts_only_if_lru_would_still_have_its_key() -> None:
    store = make_store(max_entries=80)
    keys = [b"%d" % number for number in range(180)]
    put(store, *keys)
    assert store._queues is not None
    ghosts = store._queues.ghosts
    assert ghosts.buckets == 13
    places = {place_of(ghosts, key): key for key in keys}
    put(store, places[5], number=2)  # 5 * 13 are more than the three quarters of 81 that are not the small queue's
    assert (store.statistics().ghost_hits, regret(store)) == (1, 0)
    put(store, places[4], number=2)
    assert (store.statistics().ghost_hits, regret(store)) == (2, 1)


def place_of(ghosts: Ghosts, key: bytes) -> int:
    table = bytes(ghosts._table)
    place = ghosts.take(key)
    ghosts._table[:] = table
    return place


def test_an_overwrite_is_no_use_and_a_read_is() -> None:
    store = make_store(max_entries=4)
    put(store, b"a", b"b", b"c", b"d")
    assert ring(store, SMALL) == [b"a", b"b"]
    put(store, b"a", number=2)
    read(store, b"b")
    put(store, b"e")
    assert held(store) == {b"b", b"c", b"d", b"e"}
    put(store, b"f")
    assert (ring(store, SMALL), ring(store, LIVE)) == ([b"f"], [b"d", b"e", b"b"])


def test_an_expired_entry_goes_however_often_it_was_read_and_leaves_no_ghost() -> None:
    store = make_store(max_entries=4)
    store.merge([b"late"], [value(1, NOW_MS + 100)], NOW_MS)
    put(store, b"a", b"b", b"c")
    read(store, b"late", b"late", b"late")
    store.merge([b"d"], [value(1)], NOW_MS + 100)
    assert held(store) == {b"a", b"b", b"c", b"d"}
    statistics = check_books(store)
    assert (statistics.evictions, statistics.expirations, statistics.ghost_hits) == (0, 1, 0)
    store.merge([b"late"], [value(2)], NOW_MS + 100)
    assert store.statistics().ghost_hits == 0


def test_one_search_gives_a_limited_number_of_further_chances() -> None:
    count = 4 * CHANCES_MAX
    store = make_store(max_entries=count)
    keys = [b"%04d" % number for number in range(count)]
    put(store, *keys)
    for _ in range(3):
        read(store, *keys)
    small, main = ring(store, SMALL), ring(store, LIVE)
    put(store, b"new")
    (gone,) = set(keys) - held(store)
    assert gone == main[CHANCES_MAX - 1]  # the first chance was one entry's of the small queue
    assert ring(store, LIVE)[-CHANCES_MAX:] == [small[0], *main[: CHANCES_MAX - 1]]


def test_the_shares_are_by_bytes_as_well() -> None:
    one = PYTHON.entry_bytes(b"0000", value(1, size=500))
    store = make_store(max_bytes=41 * one)
    for number in range(60):
        store.merge([b"%04d" % number], [value(1, size=500)], NOW_MS)
    main = ring(store, LIVE)
    store.merge([b"grow"], [value(1, size=20 * 500)], NOW_MS)
    assert ring(store, SMALL) == [b"grow"]
    assert ring(store, LIVE) == main[-len(ring(store, LIVE)) :]
    before = len(held(store))
    store.merge([b"more"], [value(1, size=500)], NOW_MS)
    assert b"grow" not in held(store)  # alone more than its queue may have, it goes before anything of the main queue
    assert len(held(store)) == before
    check_books(store)


def test_tags_do_not_unsettle_the_bytes_of_the_small_queue() -> None:
    store = make_store(max_entries=50)
    for number in range(300):
        store.merge([b"%d" % (number % 70)], [tagged(value(number), b"t" * (number % 90 + 1))], NOW_MS)
    assert store._queues is not None
    store.merge([b"%d" % number for number in range(70)], [tombstone(version(999), NOW_MS + 9999)] * 70, NOW_MS)
    assert (store._queues.small_entries, store._queues.small_bytes) == (0, 0)


def test_dropping_everything_leaves_nothing_in_the_queues_and_clear_no_ghosts() -> None:
    store = make_store(max_entries=30)
    put(store, *[b"%d" % number for number in range(100)])
    for slot in range(4):
        store.drop_slot(slot)
    assert store._queues is not None
    assert (store._queues.small_entries, store._queues.small_bytes) == (0, 0)
    assert set(store._queues.marks) == {0}
    assert check_books(store).ghost_bytes > 0
    store.clear()
    assert check_books(store).bytes == 0


def test_ghosts_leave_in_about_the_order_in_which_they_came() -> None:
    ghosts = Ghosts(ROOMY)
    keys = [b"key:%d" % number for number in range(3000)]
    for key in keys:
        ghosts.add(key, 1000)
    assert ghosts.bytes == 157 * WAYS * 4
    assert known(ghosts, keys[-500:]) > 490
    assert known(ghosts, keys[:500]) < 20
    assert known(ghosts, keys[-500:]) == 0  # each only once


def test_the_table_of_ghosts_follows_the_number_of_entries_within_its_limit() -> None:
    ghosts = Ghosts(10_000)
    ghosts.add(b"a", 100)
    assert ghosts.bytes == 16 * 32
    ghosts.add(b"b", 128)
    assert ghosts.bytes == 16 * 32
    ghosts.add(b"c", 129)
    assert ghosts.bytes == 21 * 32
    assert ghosts.take(b"a") == -1
    assert ghosts.take(b"c") == 0
    ghosts.add(b"d", 100_000)
    assert ghosts.bytes == 312 * 32
    ghosts.add(b"e", 200_000)
    assert ghosts.take(b"d") == 0
    ghosts.add(b"f", 5)
    assert ghosts.bytes == 32


def test_a_hash_in_the_bytes_of_two_ghosts_is_no_ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {b"a": 0x00112233, b"b": 0x00445566, b"c": 0x55660011, b"d": 0}
    monkeypatch.setattr("meshcache.core.storage.recency.crc32", hashes.__getitem__)
    ghosts = Ghosts(64)
    ghosts.add(b"a", 1)
    ghosts.add(b"b", 1)
    assert ghosts.take(b"c") == -1
    assert ghosts.take(b"d") == -1  # what an empty place has
    ghosts.add(b"d", 1)
    assert ghosts.take(b"d") == 0
    assert ghosts.take(b"a") == 1  # behind "b"


def test_there_are_no_ghosts_where_the_byte_limit_has_no_room_for_them() -> None:
    store = make_store(max_bytes=1000)
    put(store, *[b"%d" % number for number in range(50)])
    assert store.statistics().evictions > 0
    assert store.statistics().ghost_bytes == 0


def test_the_model_hashes_as_the_store_does() -> None:
    assert [hash_of(key) for key in (b"", b"123456789")] == [1, 0xCBF43926]


@pytest.mark.parametrize("name", ["", "LRU", "s3-fifo"])
def test_an_unknown_policy_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="eviction"):
        Store(slots=4, max_entries=1, max_bytes=1, eviction=name)
