"""The judge of scripts/chaos: what it accepts, and what it must not."""

from __future__ import annotations

import pytest
from faults.lane import Call, Lane, Mix
from faults.ledger import Floor, Ledger, Verdict, name_of, value_of

from meshcache.errors import OperationTimeout

KEY = 3


@pytest.fixture
def ledger() -> Ledger:
    """Change 1 of the key is acknowledged, change 2 is attempted."""
    ledger = Ledger(8)
    ledger.acknowledge(KEY, ledger.attempt(KEY, delete=False), delete=False)
    ledger.attempt(KEY, delete=False)
    return ledger


def judge(ledger: Ledger, number: int | None, floor: Floor | None = None) -> Verdict:
    value = None if number is None else value_of(KEY, number, b"")
    return ledger.judge(KEY, floor or ledger.floor(KEY), value)[0]


def test_the_acknowledged_and_the_attempted_value_are_hits(ledger: Ledger) -> None:
    assert judge(ledger, 1) is judge(ledger, 2) is Verdict.HIT


def test_what_was_never_written_or_belongs_to_another_key_is_wrong(ledger: Ledger) -> None:
    assert judge(ledger, 3) is Verdict.WRONG
    assert ledger.judge(KEY, ledger.floor(KEY), value_of(KEY + 1, 1, b""))[0] is Verdict.WRONG
    assert ledger.judge(KEY, ledger.floor(KEY), "torn")[0] is Verdict.WRONG


def test_what_was_replaced_before_the_read_began_is_stale_but_not_what_was_replaced_since(ledger: Ledger) -> None:
    before = ledger.floor(KEY)
    ledger.acknowledge(KEY, 2, delete=False)
    assert judge(ledger, 1) is Verdict.STALE
    assert judge(ledger, 1, before) is Verdict.HIT


def test_a_value_that_came_back_after_its_delete_is_stale(ledger: Ledger) -> None:
    ledger.acknowledge(KEY, ledger.attempt(KEY, delete=True), delete=True)
    assert judge(ledger, None) is Verdict.ABSENT
    assert judge(ledger, 2) is Verdict.STALE


def test_a_missing_value_is_lost_unless_a_delete_was_attempted(ledger: Ledger) -> None:
    assert judge(ledger, None) is Verdict.LOST
    ledger.attempt(KEY, delete=True)
    assert judge(ledger, None) is Verdict.ABSENT
    ledger.acknowledge(KEY, ledger.attempt(KEY, delete=False), delete=False)
    assert judge(ledger, None) is Verdict.LOST


def get(ledger: Ledger, lane: Lane, number: int | None, begin: float, end: float) -> None:
    call = Call("get", (name_of(KEY),), [KEY], [ledger.floor(KEY)], [])
    lane.take(call, None if number is None else value_of(KEY, number, b""), begin, end)


def test_a_lane_counts_what_it_is_told(ledger: Ledger) -> None:
    lane = Lane(ledger, range(8), Mix(), 0, 0, began=0.0)
    ledger.attempt(KEY, delete=False)
    for number in (3, 1, None, 9):  # fresh; older than seen; gone; never written
        get(ledger, lane, number, 1.0, 1.1)
    ledger.acknowledge(KEY, 3, delete=False)
    get(ledger, lane, 2, 1.0, 1.1)
    total = lane.tally.between()
    assert (total.calls, total.backwards, total.lost, total.wrong, total.stale) == (5, 1, 1, 1, 1)
    assert (total.reads, total.hits) == (5, 1)
    assert lane.tally.lost_keys == {(KEY, 1)}


def test_a_key_is_unavailable_from_the_first_failed_call_to_the_first_success(ledger: Ledger) -> None:
    lane = Lane(ledger, range(8), Mix(), 0, 0, began=0.0)
    call = Call("get", (name_of(KEY),), [KEY], [ledger.floor(KEY)], [])
    lane.take(call, OperationTimeout("no"), 1.0, 1.5)
    assert lane.next(writing=False).keys == [KEY], "what failed is tried again"
    lane.take(call, OperationTimeout("no"), 1.5, 2.0)
    get(ledger, lane, 1, 2.0, 2.25)
    assert lane.tally.longest_unavailable_s == 1.25
    assert lane.tally.between().failed == 2
    lane.take(call, OperationTimeout("no"), 3.0, 3.5)
    lane.finish(5.0)
    assert lane.tally.longest_unavailable_s == 2.0
