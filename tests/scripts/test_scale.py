"""scripts/bench scale, with made-up blocks: how much of a node's throughput is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark.measure import Summary
from benchmark.scale import pin, points


def block(node_us: float, keys_per_s: float = 1000.0) -> Summary:
    return Summary(p50_us=1, p99_us=1, keys_per_s=keys_per_s, server_us_per_key=node_us, client_us_per_key=1)


def test_the_efficiency_is_the_work_for_a_key_beside_that_of_the_fewest_nodes() -> None:
    one, three = points("gets", 1, {1: [block(10), block(12), block(10)], 3: [block(20), block(20), block(25)]})
    assert (one.efficiency, one.keys_per_node_cpu_s) == (1.0, 100_000.0)
    assert (three.nodes, three.efficiency, three.keys_per_node_cpu_s) == (3, 0.5, 50_000.0)
    assert three.low == pytest.approx(0.4)
    assert three.high == pytest.approx(0.6)


def test_the_rate_by_the_clock_does_not_count() -> None:
    _, two = points("gets", 1, {1: [block(10, keys_per_s=1000)], 2: [block(10, keys_per_s=500)]})
    assert (two.efficiency, two.low, two.high, two.keys_per_s) == (1.0, 1.0, 1.0, 500)


def test_all_threads_of_a_node_are_pinned() -> None:
    program = "import threading, sys; threading.Thread(target=sys.stdin.read).start(); print(flush=True)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        core = max(os.sched_getaffinity(0))
        pin(child.pid, core)
        tasks = [path.name for path in Path(f"/proc/{child.pid}/task").iterdir()]
        assert len(tasks) > 1
        assert {frozenset(os.sched_getaffinity(int(task))) for task in tasks} == {frozenset({core})}
        child.stdin.close()
