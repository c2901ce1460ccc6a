"""Nodes of two versions, as real processes under load: no call fails and nothing is lost, there and back."""

from __future__ import annotations

import os

import pytest
from chaos_run import run_chaos

from meshcache._native import PURE_VARIABLE

pytestmark = pytest.mark.process


@pytest.mark.skipif(PURE_VARIABLE in os.environ, reason="the tree of before does not know this variable")
def test_an_upgrade_and_the_way_back_cost_no_call_and_no_value() -> None:
    result, log = run_chaos("upgrade", timeout_s=120)
    if "skipped" in result:
        pytest.skip(str(result["skipped"]))
    assert result["passed"], log
    seen = {name: result.get(name) for name in ("failed", "wrong", "stale", "lost", "backwards", "ended")}
    none: dict[str, object] = {**dict.fromkeys(seen, 0), "ended": {}}
    assert seen == none, log
    checks = {check["name"]: check["value"] for check in result["checks"]}
    assert min(checks["calls of old clients"], checks["calls of new clients"]) > 100
    assert log.count("runs today's code") == log.count("runs the old code") == 3


def test_a_commit_that_is_not_here_is_named() -> None:
    result, _ = run_chaos("upgrade", "--from", "0" * 40, timeout_s=120)
    assert "0" * 40 in str(result["skipped"])
    assert "git fetch --unshallow" in str(result["skipped"])
