from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshcache import _native
from meshcache._native import PURE_VARIABLE
from meshcache.simulation.simulator import Plan, Simulation

SEEDS = (3, 5, 7)
"""One of each kind of faults."""

PROGRAM = """
from meshcache.simulation.simulator import simulate
print(*[simulate(seed).world.digest for seed in {seeds}])
"""


def digests(hash_seed: str, *, pure: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(seeds=SEEDS)],
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": hash_seed, PURE_VARIABLE: str(int(pure))},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_seed_leaves_the_same_trace_whatever_the_hash_seed() -> None:
    assert {Plan.draw(seed).kind for seed in SEEDS} == {"weather", "single", "chaos"}
    first, second = digests("1"), digests("2")
    traces = first.communicate(timeout=100)[0].split(), second.communicate(timeout=100)[0].split()
    assert len(traces[0]) == len(SEEDS)
    assert traces[0] == traces[1]


@pytest.mark.skipif(bool(_native.absent_because), reason=_native.describe())
def test_a_seed_leaves_the_same_trace_with_the_native_module_and_without() -> None:
    native, pure = digests("1"), digests("1", pure=True)
    traces = native.communicate(timeout=100)[0].split(), pure.communicate(timeout=100)[0].split()
    assert len(traces[0]) == len(SEEDS)
    assert traces[0] == traces[1]


def test_different_seeds_and_different_runs_are_told_apart() -> None:
    def digest(seed: int, until: float) -> str:
        simulation = Simulation(Plan.draw(seed))
        for host in simulation.mesh.nodes.values():
            host.start()
        simulation.world.run_until(until)
        return simulation.world.digest

    assert digest(1, 1.0) == digest(1, 1.0)
    assert digest(1, 1.0) != digest(2, 1.0)
    assert digest(1, 1.0) != digest(1, 1.3)
