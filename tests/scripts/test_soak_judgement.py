"""What scripts/soak judges by: lines through samples, the tables of an object, errands of both kinds of clients."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Generator
from typing import Any

import pytest
from ageing.allocations import RESIDENT
from ageing.census import census
from ageing.errands import Pause, run_in_task, run_in_thread
from ageing.samples import Life, Lives
from ageing.slopes import HOUR_S, MIB, SAMPLES_MIN, judge, slope_of

from meshcache.client.routing import Routing
from meshcache.errors import OperationTimeout
from meshcache.protocol.near_store import RECENT_MAX

SPAN_S = 1200.0
TIMES_S = [5.0 * number for number in range(int(SPAN_S / 5))]


def noisy(level: float, noise: float, per_hour: float = 0.0, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [level + draw.gauss(0, noise) + per_hour * at / HOUR_S for at in TIMES_S]


def grows(name: str, values: list[float], memory_mib_per_hour: float = 1.0) -> bool:
    (finding,) = judge("node1", TIMES_S, {name: values}, memory_mib_per_hour=memory_mib_per_hour, decides=True)
    return finding.grows


def test_the_slope_of_a_line_is_found_exactly() -> None:
    slope = slope_of(TIMES_S, noisy(100, 0, per_hour=36))
    assert slope is not None
    assert (slope.low, slope.per_hour, slope.high) == pytest.approx((36, 36, 36))


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_holds_the_true_slope_in_spite_of_noise_and_peaks(seed: int) -> None:
    values = noisy(60 * MIB, 0.2 * MIB, per_hour=5 * MIB, seed=seed)
    values[100] = values[101] = 500 * MIB
    slope = slope_of(TIMES_S, values)
    assert slope is not None
    assert slope.low < 5 * MIB < slope.high
    assert slope.high - slope.low < 2 * MIB


def test_too_few_samples_show_nothing() -> None:
    assert slope_of(TIMES_S[: SAMPLES_MIN - 1], [1.0] * (SAMPLES_MIN - 1)) is None
    assert slope_of(TIMES_S[:SAMPLES_MIN], [1.0] * SAMPLES_MIN) is not None


def test_memory_that_grows_by_more_than_is_allowed_is_told_apart_from_noise() -> None:
    assert not grows(RESIDENT, noisy(60 * MIB, 0.3 * MIB))
    assert not grows(RESIDENT, noisy(60 * MIB, 0.05 * MIB, per_hour=0.8 * MIB))
    assert grows(RESIDENT, noisy(60 * MIB, 0.05 * MIB, per_hour=1.5 * MIB))
    assert not grows(RESIDENT, noisy(60 * MIB, 0.05 * MIB, per_hour=1.5 * MIB), memory_mib_per_hour=2.0)


@pytest.mark.parametrize(
    ("name", "level", "leak"), [("descriptors", 50, 20), ("threads", 5, 4), ("store.tags", 50, 60)]
)
def test_what_is_counted_may_not_grow_either(name: str, level: int, leak: int) -> None:
    hours = SPAN_S / HOUR_S
    assert not grows(name, noisy(level, level / 20))
    assert grows(name, noisy(level, level / 20, per_hour=leak / hours))


def test_a_table_that_forgets_only_when_it_is_full_may_grow_until_then() -> None:
    name = "near client._intake.near._recent"
    filling = [min(RECENT_MAX, 10.0 * at) for at in TIMES_S]
    assert not grows(name, filling)
    assert grows(name, [10.0 * at for at in TIMES_S])


def test_a_process_that_comes_back_begins_anew() -> None:
    lives = Lives()
    for at in range(10):
        lives.note("node2", 7 if at < 5 else 8, float(at), {"x": at})
    assert [(life.pid, life.begin_s, len(life.samples)) for life in lives.all] == [(7, 0.0, 5), (8, 5.0, 5)]
    assert lives.latest("node2") == {"x": 9}


def test_series_have_gaps_where_something_was_not_known() -> None:
    life = Life("node1", 1, 0.0, [0.0, 1.0, 2.0], [{"x": 1}, {}, {"x": 3, "y": 4}])
    assert life.series(1.0) == ([1.0, 2.0], {"x": [None, 3], "y": [None, 4]})


def test_a_census_finds_the_tables_of_a_client() -> None:
    routing = Routing(("127.0.0.1:1", "127.0.0.1:2"), lambda: 0.0)
    before = census(routing, "routing")
    routing.note_hot([b"a", b"b", b"c"], 1.0)
    after = census(routing, "routing")
    assert after["routing.hot"] - before["routing.hot"] == 3
    assert "routing.rests._rests" in after


def test_a_census_ends_where_objects_lead_to_each_other() -> None:
    first: list[Any] = []
    second = deque([first, {"x": first}])
    first.append(second)
    assert census(second, "it") == {"it": 2, "it[]": 2}


def errand(taken: list[Any], ask: Any) -> Generator[Any, Any, None]:
    taken.append((yield ask(1)))
    yield Pause(0.0)
    try:
        yield ask(-1)
    except OperationTimeout:
        taken.append("refused")
    taken.append((yield ask(2)))


def answer(number: int) -> int:
    if number < 0:
        raise OperationTimeout("too late")
    return number * 10


async def answer_later(number: int) -> int:
    await asyncio.sleep(0)
    return answer(number)


def test_an_errand_is_the_same_for_threads_and_for_tasks() -> None:
    in_thread: list[Any] = []
    in_task: list[Any] = []
    run_in_thread(errand(in_thread, answer))
    asyncio.run(run_in_task(errand(in_task, answer_later)))
    assert in_thread == in_task == [10, "refused", 20]
