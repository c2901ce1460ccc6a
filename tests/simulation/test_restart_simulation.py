"""Meshes with snapshots in the simulator: nothing stale, all that lives, and the bugs that must be found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from planted_bugs import RESTART_TRAPS, Plant

from meshcache.simulation.history import History, Violation
from meshcache.simulation.restarts import STRIKES, RestartPlan, RestartSimulation

SEEDS = 20
SEEDS_FOR_A_BUG = 12


@pytest.mark.parametrize("first", range(0, SEEDS, 5))
def test_nothing_stale_comes_back_and_nothing_that_lives_is_lost(first: int) -> None:
    taken_in = 0
    for seed in range(first, first + 5):
        simulation = RestartSimulation(RestartPlan.draw(seed))
        try:
            simulation.run()
        except Violation as violation:
            pytest.fail(f"{violation}\nreplay: scripts/simulate --restarts {seed}..{seed + 1}")
        taken_in += simulation.taken_in
        assert simulation.history.hits > 0
    assert taken_in > 0


def test_seeds_draw_every_strike_and_both_policies() -> None:
    plans = [RestartPlan.draw(seed) for seed in range(60)]
    assert set(Counter(strike for plan in plans for strike in plan.strikes)) == set(STRIKES)
    assert {plan.strict for plan in plans} == {True, False}
    assert {plan.fresh for plan in plans} == {True, False}


def test_a_seed_leaves_the_same_trace_again() -> None:
    digests = {RestartSimulation(RestartPlan.draw(4)).run().world.digest for _ in range(2)}
    assert len(digests) == 1


def test_only_what_the_last_node_acknowledged_alone_is_forgiven_where_its_disk_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = replace(
        RestartPlan.draw(615),
        strikes=("stop all",), levels=(3, 3, 1), strict=False, skew_ms=2000, jumps=True, think_s=0.02, delay_s=0.0002,
    )  # fmt: skip
    RestartSimulation(plan).run()
    monkeypatch.setattr(History, "lose", lambda self, since: None)
    with pytest.raises(Violation, match="fresh: "):
        RestartSimulation(plan).run()


@pytest.mark.parametrize("plant", RESTART_TRAPS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_about_snapshots_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = RESTART_TRAPS[plant]
    plant(monkeypatch)
    found = []
    for seed in [trap.seed, *range(SEEDS_FOR_A_BUG)]:
        try:
            RestartSimulation(replace(RestartPlan.draw(seed), **trap.plan)).run()
        except Violation as violation:
            found.append(str(violation).partition(":")[0])
        if trap.checker in found:
            return
    pytest.fail(f"{plant.__doc__} {trap.checker} did not see it in {SEEDS_FOR_A_BUG} seeds, but found {found}")
