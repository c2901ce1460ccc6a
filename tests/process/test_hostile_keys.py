"""Hostile input to a mesh with keys, from those who never come as far as a message.

Frames from those who have a key take a minute, by ``scripts/fuzz --target processes --keys``.
"""

from __future__ import annotations

from typing import Any

import pytest
from fuzzing.judging import CALLS_MIN, HARMLESS, HOSTILE, MEMORY_BYTES_MAX, P99_RATIO_MAX, P99_S_MAX, Told, faults
from fuzzing.program import main

pytestmark = pytest.mark.process

WAITED_S = [0.01] * 100
FINE = Told((WAITED_S, WAITED_S, WAITED_S), [], [], (0, 0, 0), 0)


def test_a_mesh_with_keys_serves_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["--target", "handshakes", "--frames", "2000", "--seconds", "6"])
    told = capsys.readouterr()
    assert found == 0, told.err
    assert "processes all live" in told.out


def test_what_must_not_be_is_found() -> None:
    assert faults(FINE, {"n": MEMORY_BYTES_MAX}) == []
    assert faults(FINE, {"n": MEMORY_BYTES_MAX + 1}) != []
    late = [2 * P99_S_MAX] * 100
    bads: list[dict[str, Any]] = [
        {"wrong": ["x"]},
        {"errors": ["x"]},
        {"unanswered": (0, 0, 1)},
        {"unanswered": (1, 0, 0)},
        {"dropped": 1},
        {"took_s": (WAITED_S, WAITED_S, late)},
        {"took_s": (WAITED_S, WAITED_S, [])},
    ]
    for bad in bads:
        assert faults(FINE._replace(**bad), {"n": 0}) != [], bad


def test_waiting_twice_as_long_as_beside_harmless_company_is_found_as_soon_as_there_are_enough_calls() -> None:
    def told(harmless_s: float, hostile_s: float, calls: int = CALLS_MIN) -> Told:
        took_s = [[0.001] * calls for _ in range(3)]
        took_s[HARMLESS], took_s[HOSTILE] = [harmless_s] * calls, [hostile_s] * calls
        return FINE._replace(took_s=(took_s[0], took_s[1], took_s[2]))

    assert faults(told(0.02, 0.02 * P99_RATIO_MAX), {"n": 0}) == []
    assert faults(told(0.02, 0.02 * P99_RATIO_MAX + 0.001), {"n": 0}) != []
    assert faults(told(0.02, 0.02 * P99_RATIO_MAX + 0.001, CALLS_MIN - 1), {"n": 0}) == []
    assert faults(told(0.001, 0.005), {"n": 0}) == [], "a few milliseconds are the machine's"
