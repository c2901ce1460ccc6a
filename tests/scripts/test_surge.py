"""What ``scripts/chaos surge`` makes of what its clients counted."""

from __future__ import annotations

from typing import Any

from faults.offered import SLOT_S, Stage
from faults.surge import LATENCY_S_MIN, _added, _normal_after_s

BEFORE = [{"answered": 100, "p99_s": 0.02}] * 4


def slots(*p99s_s: float | None, **more: int) -> list[dict[str, Any]]:
    return [{"answered": 100, "p99_s": p99_s, **more} for p99_s in p99s_s]


def test_a_call_counts_where_it_began() -> None:
    stage = Stage(10, 2, begins_at=100.0)
    stage.note(100.1, "answered")
    stage.note(100.0 + SLOT_S, "timed out")
    told = stage.as_json()["slots"]
    assert [{name: n for name, n in slot.items() if name != "p99_s"} for slot in told] == [
        {"answered": 1},
        {"timed out": 1},
    ]
    assert told[1]["p99_s"] is None


def test_clients_are_added_up_slot_by_slot() -> None:
    one = {"rate": 1, "slots": [{"answered": 1, "p99_s": 0.1}, {"overloaded": 2, "p99_s": None}]}
    two = {"rate": 1, "slots": [{"answered": 3, "p99_s": 0.3}]}
    assert _added((one, two))["slots"] == [{"answered": 4, "p99_s": 0.3}, {"overloaded": 2, "p99_s": None}]


def test_normal_is_when_all_are_answered_about_as_fast_as_before() -> None:
    assert _normal_after_s(BEFORE, slots(0.02, 0.02)) == 0.0
    assert _normal_after_s(BEFORE, slots(0.9, 3 * LATENCY_S_MIN, 0.02)) == SLOT_S
    assert _normal_after_s(BEFORE, slots(0.02) + slots(0.02, overloaded=1) + slots(0.02)) == 2 * SLOT_S
    assert _normal_after_s(BEFORE, slots(0.02, None)) is None
    assert _normal_after_s(BEFORE, []) is None
