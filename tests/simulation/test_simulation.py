from __future__ import annotations

import importlib.machinery
import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from planted_bugs import TRAPS, Plant

from meshcache.simulation.faults import CHAOS, FAULTS, ONCE
from meshcache.simulation.history import History, Operation, Violation
from meshcache.simulation.simulator import Plan, Simulation

SEEDS = 28
"""How many seeds each run of the tests simulates; scripts/simulate does thousands."""

SEEDS_FOR_A_BUG = 16
SEEDS_FOR_A_FAULT = 300
CAUSES = {"long pause": "pause"}
"""The events of which only some come to another fault as well."""


@cache
def faults_of(seed: int) -> dict[str, int]:
    """Simulate a seed, once; return how often each fault happened."""
    simulation = Simulation(Plan.draw(seed))
    try:
        simulation.run()
    except Violation as violation:
        pytest.fail(f"{violation}\nreplay: scripts/simulate --seed {seed} --trace")
    history = simulation.history
    assert history.hits > 0
    assert len(history.operations) > history.errors
    return simulation.world.faults


@pytest.mark.parametrize("first", range(0, SEEDS, 4))
def test_no_promise_is_broken_whatever_a_seed_draws(first: int) -> None:
    for seed in range(first, first + 4):
        faults_of(seed)


def test_every_fault_happens_in_a_batch_of_seeds() -> None:
    missing = dict.fromkeys(FAULTS)
    for seed in range(SEEDS_FOR_A_FAULT):
        if seed < SEEDS or any(CAUSES.get(fault, fault) in Plan.draw(seed).events for fault in missing):
            happened = faults_of(seed)
            assert happened.keys() <= FAULTS.keys()
            missing = {fault: None for fault in missing if not happened.get(fault)}
        if not missing:
            return
    pytest.fail(f"none of {SEEDS_FOR_A_FAULT} seeds has {', '.join(missing)}")


def test_every_event_is_in_the_list_of_faults_and_is_drawn() -> None:
    plans = [Plan.draw(seed) for seed in range(SEEDS_FOR_A_FAULT)]
    drawn = {event for plan in plans for event in plan.events}
    assert {*ONCE, *CHAOS} <= drawn
    assert drawn - {"restore"} <= FAULTS.keys()


def test_seeds_draw_every_kind_of_faults_and_both_levels_of_promise() -> None:
    plans = [Plan.draw(seed) for seed in range(SEEDS)]
    assert {plan.kind for plan in plans} == {"weather", "single", "split", "chaos"}
    assert {plan.strict for plan in plans} == {True, False}
    assert {plan.eviction for plan in plans if plan.max_entries < 1000} == {"lru", "s3fifo"}
    assert len({(plan.replicas, plan.write_quorum, plan.read_quorum) for plan in plans}) > 5


@pytest.mark.parametrize("plant", TRAPS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_by_the_checker_of_the_promise_it_breaks(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = TRAPS[plant]
    plant(monkeypatch)
    found = []
    for seed in [trap.seed, *range(SEEDS_FOR_A_BUG)]:
        try:
            Simulation(
                replace(Plan.draw(seed), kind=trap.kind, **{"loaded": 0, "lies": (), "eviction": "lru", **trap.plan})
            ).run()
        except Violation as violation:
            found.append(str(violation).partition(":")[0])
        if trap.checker in found:
            return
    pytest.fail(f"{plant.__doc__} {trap.checker} did not see it in {SEEDS_FOR_A_BUG} seeds, but found {found}")


# The checkers by themselves


class Told:
    """A history told by hand."""

    def __init__(self, *, fresh: bool = True, atomic: bool = True, durable: bool = False) -> None:
        self.history = History(fresh=fresh, atomic=atomic, durable=durable)
        self.number = 0

    def tell(
        self,
        name: str,
        key: str,
        start: float,
        end: float,
        *,
        written: object = None,
        result: object = None,
        error: Exception | None = None,
        is_open: bool = False,
        ttl_s: float | None = None,
        expected: bytes = b"",
        tags: tuple[str, ...] = (),
    ) -> None:
        self.number += 1
        operation = Operation(self.number, "c", name, (key,), start, 1.0, written)
        operation.expected = expected
        operation.tags = tags
        if ttl_s is not None:
            operation.ttl_s = ttl_s
        self.history.begin(operation)
        self.history.end(operation, end, result, error, is_open)


def test_a_read_may_miss_but_not_return_what_was_overwritten_before_it() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.1, written="v=1")
    told.tell("set", "v", 0.2, 0.3, written="v=2")
    told.tell("get", "v", 0.4, 0.5)
    told.tell("get", "v", 0.4, 0.5, result="v=2")
    with pytest.raises(Violation, match="fresh"):
        told.tell("get", "v", 0.4, 0.5, result="v=1")


def test_what_bears_a_tag_must_not_show_after_the_tag_was_invalidated() -> None:
    told = Told(durable=True)
    told.tell("set", "v", 0.0, 0.1, written="v=1", tags=("t",))
    told.tell("set", "w", 0.0, 0.1, written="w=2", tags=("u",))
    told.tell("set", "x", 0.0, 0.3, written="x=3", tags=("t",))
    told.tell("invalidate", "", 0.2, 0.4, tags=("t",))
    told.tell("get", "v", 0.35, 0.5, result="v=1")
    told.tell("get", "v", 0.5, 0.6)
    told.tell("get", "w", 0.5, 0.6, result="w=2")
    told.tell("get", "x", 0.5, 0.6, result="x=3")
    with pytest.raises(Violation, match="tags"):
        told.tell("get", "v", 0.5, 0.6, result="v=1")
    with pytest.raises(Violation, match="durable"):
        told.tell("get", "w", 0.5, 0.6)


def test_what_is_lost_may_be_undone_and_nothing_before_it() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.1, written="v=1", tags=("t",))
    told.tell("set", "v", 0.2, 0.3, written="v=2", tags=("t",))
    told.tell("set", "v", 0.4, 0.5, written="v=3")
    told.tell("invalidate", "", 0.4, 0.6, tags=("t",))
    told.history.lose(0.5)
    told.tell("get", "v", 0.7, 0.8, result="v=2")
    with pytest.raises(Violation, match="fresh"):
        told.tell("get", "v", 0.7, 0.8, result="v=1")
    told.tell("set", "v", 0.9, 1.0, written="v=4")
    with pytest.raises(Violation, match="fresh"):
        told.tell("get", "v", 1.1, 1.2, result="v=2")


def test_an_invalidation_that_failed_promises_nothing() -> None:
    told = Told(durable=True)
    told.tell("set", "v", 0.0, 0.1, written="v=1", tags=("t",))
    told.tell("invalidate", "", 0.2, 0.4, tags=("t",), error=TimeoutError(), is_open=True)
    told.tell("get", "v", 0.5, 0.6, result="v=1")
    told.tell("get", "v", 0.5, 0.6)


def test_a_deleted_value_must_not_come_back() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.1, written="v=1")
    told.tell("delete", "v", 0.2, 0.3)
    with pytest.raises(Violation, match="fresh"):
        told.tell("get", "v", 0.4, 0.5, result="v=1")


def test_an_expired_value_hides_what_was_there_before_it() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.1, written="v=1")
    told.tell("set", "v", 0.2, 0.3, written="v=2", ttl_s=0.5)
    told.tell("get", "v", 2.0, 2.1)
    with pytest.raises(Violation, match="fresh"):
        told.tell("get", "v", 2.2, 2.3, result="v=1")


def test_what_was_acknowledged_is_no_miss_unless_something_may_have_overtaken_it() -> None:
    told = Told(durable=True)
    told.tell("get", "v", 0.0, 0.1)
    told.tell("set", "v", 0.1, 0.3, written="v=1")
    told.tell("get", "v", 0.2, 0.4)
    with pytest.raises(Violation, match="durable"):
        told.tell("get", "v", 0.4, 0.5)
    told.tell("delete", "v", 0.5, 0.6, error=TimeoutError(), is_open=True)
    told.tell("get", "v", 0.7, 0.8)
    told.tell("set", "v", 0.9, 1.0, written="v=2")
    told.tell("get", "v", 1.1, 1.2)


def test_writes_that_overlap_may_be_seen_in_either_order() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.3, written="v=1")
    told.tell("set", "v", 0.2, 0.5, written="v=2")
    told.tell("get", "v", 0.6, 0.7, result="v=1")
    told.tell("get", "v", 0.6, 0.7, result="v=2")


def test_an_open_write_may_show_at_any_time_and_a_refused_one_never() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.1, written="v=1", error=TimeoutError(), is_open=True)
    told.tell("set", "v", 0.2, 0.3, written="v=2")
    told.tell("get", "v", 0.4, 0.5, result="v=1")
    told.tell("set", "v", 0.6, 0.7, written="v=3", error=ConnectionError())
    with pytest.raises(Violation, match="refused"):
        told.tell("get", "v", 0.8, 0.9, result="v=3")


def test_a_value_belongs_to_its_key() -> None:
    told = Told(fresh=False)
    told.tell("set", "v", 0.0, 0.1, written="v=1")
    with pytest.raises(Violation, match="integrity"):
        told.tell("get", "w", 0.2, 0.3, result="v=1")
    with pytest.raises(Violation, match="integrity"):
        told.tell("get", "v", 0.2, 0.3, result="v=9")


def test_an_expired_value_is_not_served() -> None:
    told = Told()
    told.tell("set", "v", 0.0, 0.1, written="v=1", ttl_s=0.5)
    told.tell("get", "v", 0.7, 0.8, result="v=1")
    with pytest.raises(Violation, match="lifetime"):
        told.tell("get", "v", 0.95, 0.96, result="v=1")


def test_counters_neither_repeat_nor_go_back() -> None:
    told = Told()
    told.tell("incr", "c", 0.0, 0.1, result=1)
    told.tell("incr", "c", 0.2, 0.3, result=3)
    with pytest.raises(Violation, match="went back"):
        told.tell("incr", "c", 0.4, 0.5, result=2)
    with pytest.raises(Violation, match="twice"):
        told.tell("incr", "c", 0.25, 0.5, result=3)
    with pytest.raises(Violation, match="older"):
        told.tell("count", "c", 0.6, 0.7, result=2)


def test_one_add_and_one_cas_win() -> None:
    told = Told()
    told.tell("add", "g", 0.0, 0.1, written="g=1", result=True)
    told.tell("delete", "g", 0.2, 0.3)
    told.tell("add", "g", 0.4, 0.5, written="g=2", result=True)
    with pytest.raises(Violation, match="two adds"):
        told.tell("add", "g", 0.6, 0.7, written="g=3", result=True)
    told.tell("cas", "g", 0.8, 0.9, written="g=4", result=True, expected=b"a")
    with pytest.raises(Violation, match="two cas"):
        told.tell("cas", "g", 0.8, 0.9, written="g=5", result=True, expected=b"a")


def test_an_operation_ends_by_its_deadline() -> None:
    told = Told()
    with pytest.raises(Violation, match="deadline"):
        told.tell("get", "v", 0.0, 1.1)
    told.history.begin(Operation(9, "c", "get", ("v",), 0.0, 1.0))
    with pytest.raises(Violation, match="never answered"):
        told.history.finish()


# The command


def _command() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "simulate"
    loader = importlib.machinery.SourceFileLoader("simulate", str(path))
    spec = importlib.util.spec_from_loader("simulate", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_command_reports_failing_seeds_and_how_to_replay_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate = _command()
    good = simulate.Outcome(1, "", 20.0, 1000, 100, 50, {"crash": 2})
    assert simulate.search(iter([good, good._replace(seed=2, problem="fresh: …")]), 2) == 1
    printed = capsys.readouterr()
    assert "seed 2 failed: fresh: …" in printed.out
    assert "scripts/simulate --seed 2 --trace" in printed.out
    assert "2/2 seeds, 1 failed" in printed.err
    assert "4 crash" in printed.err

    def fail(simulation: Simulation) -> None:
        raise Violation("fresh: planted")

    monkeypatch.setattr(Simulation, "run", fail)
    assert simulate.run(3).problem == "fresh: planted"
    assert simulate.show(3, trace=False, texts=[]) == 1
