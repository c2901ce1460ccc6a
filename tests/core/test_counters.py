"""What a node counts for metrics: turns, outcomes, and how long others were waited for."""

from __future__ import annotations

from meshcache.core.counters import LAG_WINDOW_S, SLOW_TURN_S, LoopCounters, RequestCounters
from meshcache.core.operations.latencies import BOUNDS_S, ENDED_MAX, Latencies


class Read:
    """An operation, by the name of its class."""


def test_waiting_ends_with_the_turn_and_the_time_with_its_frames() -> None:
    latencies = Latencies({"Read": "read", "Write": "write"})
    latencies.note(Read(), 10.0, 10.2)
    assert latencies.statistics()["duration_s"]["read"]["counts"] == [0] * (len(BOUNDS_S) + 1)
    latencies.end_turn(10.3)
    told = latencies.statistics()
    assert told["waiting_s"] == {"read": 0.2, "write": 0.0}
    read = told["duration_s"]["read"]
    assert (sum(read["counts"]), read["sum"]) == (1, 0.3)
    assert read["counts"][BOUNDS_S.index(0.5)] == 1
    latencies.end_turn(11.0)
    assert latencies.statistics() == told


def test_a_value_on_a_bound_is_within_it_and_what_is_beyond_all_is_counted() -> None:
    latencies = Latencies({"Read": "read"})
    for took_s in (BOUNDS_S[0], BOUNDS_S[-1] * 2):
        latencies.note(Read(), 0.0, 0.0)
        latencies.end_turn(took_s)
    counts = latencies.statistics()["duration_s"]["read"]["counts"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 2)


def test_a_driver_that_tells_of_no_turn_makes_nothing_grow() -> None:
    latencies = Latencies({"Read": "read"})
    for _ in range(ENDED_MAX + 1):
        latencies.note(Read(), 0.0, 1.0)
    assert len(latencies.ended) < ENDED_MAX


def test_every_turn_is_in_the_histogram() -> None:
    loop = LoopCounters()
    for took_s in (SLOW_TURN_S / 2, SLOW_TURN_S * 2, SLOW_TURN_S * 5000):
        loop.turns += 1
        loop.busy_s += took_s
        if took_s > SLOW_TURN_S:
            loop.note_slow(took_s)
    counts = loop.statistics()["turn_s"]["counts"]
    assert (sum(counts), counts[0], counts[1], counts[-1]) == (3, 1, 1, 1)


def test_lag_is_remembered_for_a_window_and_the_next() -> None:
    loop = LoopCounters()
    loop.note_lag(0.5, 100.0)
    loop.note_lag(0.1, 100.1)
    assert loop.statistics()["lag_s"] == 0.5
    loop.note_lag(0.1, 100.0 + LAG_WINDOW_S)
    assert loop.statistics()["lag_s"] == 0.5
    loop.note_lag(0.2, 100.0 + 2 * LAG_WINDOW_S)
    assert loop.statistics()["lag_s"] == 0.2


def test_refusals_are_told_by_kind_and_by_reason() -> None:
    requests = RequestCounters()
    requests.note_refused("InvalidateTags", "overloaded")
    requests.note_refused("Pull", "not_ready", 3)
    told = requests.statistics(0)
    assert told["refused_for"] == {"overloaded": 1, "not_ready": 3}
    assert told["requests"]["invalidate_tags"] == {"answered": 0, "failed": 0, "refused": 1}
    assert told["requests"]["pull"]["refused"] == 3
