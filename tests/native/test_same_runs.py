"""A seed of the simulator gives the same run, to the last event, with the native module and without."""

from __future__ import annotations

import pytest

from meshcache import _native
from meshcache.core.operations import usual
from meshcache.core.storage import choice
from meshcache.simulation.restarts import RestartPlan, RestartSimulation
from meshcache.simulation.simulator import Plan, Simulation

if _native.compiled is None:
    pytest.skip(_native.describe(), allow_module_level=True)


def run_of(seed: int, *, restarts: bool) -> str:
    simulation = RestartSimulation(RestartPlan.draw(seed)) if restarts else Simulation(Plan.draw(seed))
    simulation.run()
    return simulation.world.digest


@pytest.mark.parametrize(("seed", "restarts"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_a_seed_is_the_same_run_in_pure_python(seed: int, restarts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    native = run_of(seed, restarts=restarts)
    for module in (choice, usual):
        monkeypatch.setattr(module, "compiled", None)
    assert run_of(seed, restarts=restarts) == native
