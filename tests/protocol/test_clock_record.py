from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.protocol.clock import LEAD_MS_MAX, SUSPENDED_S, HybridClock, LocalClock, clock_of, wall_ms_of
from meshcache.protocol.record import (
    HEADER_BYTES,
    NEVER_MS,
    TOMBSTONE_CONTENT,
    content_of,
    expires_ms_of,
    expiry_bytes,
    is_live,
    is_tombstone,
    is_valid,
    stamp,
    tombstone,
    version_of,
)

NOW_MS = 1_800_000_000_000
milliseconds = st.integers(0, NEVER_MS)


@given(st.lists(st.tuples(st.booleans(), st.integers(NOW_MS - 10, NOW_MS + 10)), min_size=1, max_size=50))
def test_versions_of_a_clock_only_grow_whatever_the_wall_clock_and_the_peers_say(
    steps: list[tuple[bool, int]],
) -> None:
    clock = HybridClock(7)
    latest = bytes(16)
    for is_tick, wall_ms in steps:
        if is_tick:
            version = clock.tick(wall_ms)
            assert version > latest
            latest = version
        else:
            clock.merge(wall_ms << 16, wall_ms)


def test_a_version_follows_all_that_its_clock_has_seen() -> None:
    ahead, behind = HybridClock(1), HybridClock(2)
    first = ahead.tick(NOW_MS + 2000)
    assert behind.tick(NOW_MS) < first
    assert behind.merge(clock_of(first), NOW_MS)
    assert behind.tick(NOW_MS) > first


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**48 - 1), st.integers(0, 2**64 - 1))
def test_a_revision_is_newer_than_its_version_and_older_than_any_later_write(
    clock: bytes, boot_ms: int, boot: int
) -> None:
    version = clock + (boot_ms << 15).to_bytes(8, "big")
    revised = HybridClock(boot).revise(version)
    assert revised > version
    assert revised[:8] == clock
    assert HybridClock(boot ^ 1).revise(version) != revised


def test_the_greatest_version_can_be_revised() -> None:
    assert HybridClock(7).revise(b"\xff" * 16) == b"\xff" * 16


def test_a_clock_too_far_ahead_is_not_followed() -> None:
    clock = HybridClock(1)
    clock.tick(NOW_MS)
    before = clock.latest
    assert not clock.merge((NOW_MS + LEAD_MS_MAX + 1) << 16, NOW_MS)
    assert clock.latest == before
    assert clock.merge((NOW_MS + LEAD_MS_MAX) << 16, NOW_MS)
    assert clock.latest > before


def test_versions_of_one_millisecond_are_counted_and_carry_into_the_next() -> None:
    clock = HybridClock(1)
    versions = [clock.tick(NOW_MS) for _ in range(70_000)]
    assert versions == sorted(set(versions))
    assert wall_ms_of(versions[0]) == NOW_MS
    assert wall_ms_of(versions[-1]) == NOW_MS + 1


def test_equal_clocks_are_told_apart_by_the_boot() -> None:
    one, other = HybridClock(1).tick(NOW_MS), HybridClock(2).tick(NOW_MS)
    assert clock_of(one) == clock_of(other)
    assert one < other


@given(milliseconds, milliseconds)
def test_expiries_compare_as_the_times_they_stand_for(one: int, other: int) -> None:
    assert (expiry_bytes(one) < expiry_bytes(other)) == (one < other)


def test_a_time_beyond_the_greatest_never_comes() -> None:
    assert expiry_bytes(NEVER_MS * 2) == expiry_bytes(NEVER_MS)


@given(st.binary(min_size=16, max_size=16), milliseconds, st.binary(max_size=50))
def test_a_record_gives_back_what_it_was_made_of(version: bytes, expires_ms: int, value: bytes) -> None:
    record = stamp(version, expires_ms) + b"\0\3" + value
    assert (version_of(record), expires_ms_of(record), content_of(record)) == (version, expires_ms, b"\0\3" + value)
    assert not is_tombstone(record)
    assert is_valid(record)


def test_a_record_lives_until_its_expiry_and_a_tombstone_never_does() -> None:
    record = stamp(bytes(16), NOW_MS) + b"\0\0v"
    assert is_live(record, expiry_bytes(NOW_MS - 1))
    assert not is_live(record, expiry_bytes(NOW_MS))
    dead = tombstone(bytes(16), NEVER_MS)
    assert is_tombstone(dead)
    assert content_of(dead) == TOMBSTONE_CONTENT
    assert not is_live(dead, expiry_bytes(NOW_MS))


def test_what_is_too_short_or_no_bytes_is_no_record() -> None:
    assert is_valid(bytes(HEADER_BYTES))
    assert not is_valid(bytes(HEADER_BYTES - 1))
    assert not is_valid([1])
    assert not is_valid(None)


def test_the_time_for_which_a_machine_stood_still_has_passed() -> None:
    clock = LocalClock(100.0, 5000.0)
    assert clock.read(101.0, 5001.0) == 101.0
    assert clock.read(102.0, 5012.0) == 112.0
    assert clock.read(103.0, 5013.0) == 113.0
    assert clock.read(104.0, 5044.0) == 144.0


def test_a_wall_clock_that_is_adjusted_or_set_back_changes_nothing() -> None:
    clock = LocalClock(100.0, 5000.0)
    assert clock.read(101.0, 5001.0 + SUSPENDED_S / 2) == 101.0
    assert clock.read(102.0, 4000.0) == 102.0
    assert clock.read(103.0, 5003.0) == 103.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-100, 100)), max_size=20))
def test_steady_time_never_goes_back(steps: list[tuple[float, float]]) -> None:
    monotonic, wall = 10.0, 1000.0
    clock = LocalClock(monotonic, wall)
    before = monotonic
    for passed_s, gained_s in steps:
        monotonic += passed_s
        wall += passed_s + gained_s
        now = clock.read(monotonic, wall)
        assert now >= before
        before = now
