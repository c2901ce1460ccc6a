"""Hostile input to a mesh with keys, from those who never come as far as a message.

Frames from those who have a key take a minute, by ``scripts/fuzz --target processes --keys``.
"""

from __future__ import annotations

from typing import Any

import pytest
from fuzzing.judging import MEMORY_BYTES_MAX, P99_S_MAX, Told, faults
from fuzzing.program import main

pytestmark = pytest.mark.process

WAITED_S = [0.001] * 100
FINE = Told(WAITED_S, WAITED_S, 0, [], 0)


def test_a_mesh_with_keys_serves_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["--target", "handshakes", "--frames", "2000", "--seconds", "6"])
    told = capsys.readouterr()
    assert found == 0, told.err
    assert "processes all live" in told.out


def test_what_must_not_be_is_found() -> None:
    assert faults(FINE, {"n": MEMORY_BYTES_MAX}) == []
    assert faults(FINE, {"n": MEMORY_BYTES_MAX + 1}) != []
    late = [2 * P99_S_MAX] * 100
    bads: list[dict[str, Any]] = [{"wrong": 1}, {"errors": ["x"]}, {"unanswered": 1}, {"beside": late}, {"beside": []}]
    for bad in bads:
        assert faults(FINE._replace(**bad), {"n": 0}) != [], bad
