"""Overloaded nodes and failing meshes: a client comes back when it is told to, and never multiplies an outage."""

from __future__ import annotations

import copy
import pickle
import random
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import pytest
from client_world import World, hits
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache.client.arguments import DEFAULT
from meshcache.client.connection import Call
from meshcache.client.failure import CONNECTION_LOST, NO_REPLY, NOT_CONNECTED
from meshcache.client.retries import (
    RETRIES_AT_START,
    RETRIES_PER_CALL,
    RETRIES_PER_S,
    RETRY_AFTER_S,
    RETRY_AFTER_S_MAX,
    WINDOW_S,
    Holds,
    RetryBudget,
    retry_after_s,
)
from meshcache.errors import MeshcacheError, NodeUnavailable, Overloaded, QuorumNotReached
from meshcache.protocol.messages import Code, Hello, Inspect, Reject

LOST = CONNECTION_LOST


def overloaded(*after_ms: Any) -> Reject:
    return Reject(1, b"", [int(Code.OVERLOADED), *after_ms])


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ([], RETRY_AFTER_S),
        ([200], 0.2),
        ([0], 0.0),
        ([10**15], RETRY_AFTER_S_MAX),
        ([-1], RETRY_AFTER_S),
        (["soon"], RETRY_AFTER_S),
        ([True], RETRY_AFTER_S),
        ([200, "more"], 0.2),
    ],
)
def test_the_hint_is_read_and_an_odd_one_does_no_harm(told: list[Any], seconds: float) -> None:
    assert retry_after_s([int(Code.OVERLOADED), *told]) == seconds


def test_a_hold_lasts_as_long_as_told_and_up_to_twice_that_at_random() -> None:
    ends = []
    for seed in range(50):
        holds = Holds()
        holds.begin("a", 0.5, 100.0, random.Random(seed))
        ends.append(holds.until("a", 100.0))
        assert holds.current(100.49) == {"a"}
        assert holds.current(101.0) == set()
    assert 100.5 <= min(ends) < 100.6
    assert 100.9 < max(ends) <= 101.0
    holds = Holds()
    holds.begin("a", 0.5, 100.0, random.Random(1))
    holds.begin("a", 0.001, 100.0, random.Random(1))
    assert holds.until("a", 100.0) >= 100.5


def test_a_call_comes_back_to_overloaded_nodes_no_sooner_than_they_say() -> None:
    world = World(timeout=5.0)
    asked: dict[str, list[float]] = {}

    def answer(call: Call) -> Any:
        asked.setdefault(call.address, []).append(world.now)
        return overloaded(700) if len(asked[call.address]) == 1 else hits(call)

    assert world.run(world.session.get("k", None, None), answer) == "v"
    assert len(asked) == 3
    again = [times for times in asked.values() if len(times) > 1]
    assert [len(times) for times in again] == [2]
    assert 0.7 <= again[0][1] - again[0][0] <= 1.41


def test_retries_of_other_calls_stay_away_too_and_first_attempts_do_not() -> None:
    world = World(timeout=5.0)
    first, second = world.owners(b"k")

    def answer(call: Call) -> Any:
        return overloaded(1000) if call.address == first else NOT_CONNECTED if call.address == second else hits(call)

    def next_call() -> list[str]:
        before = len(world.data_calls)
        assert world.run(world.session.get("k", None, None), answer) == "v"
        return [call.address for call in world.data_calls[before:]]

    third = next(address for address in world.routing.peers if address not in (first, second))
    assert next_call() == [first, second, third]
    assert next_call() == [first, third]
    world.routing.first = [second] * len(world.routing.first)
    assert next_call() == [second, third], "a retry went to the node that is overloaded"


@pytest.mark.parametrize(("after", "told"), [((2000,), 2.0), ((), RETRY_AFTER_S)])
def test_who_can_not_wait_so_long_is_told_at_once_and_when_to_come_back(after: tuple[int, ...], told: float) -> None:
    timeout = 1.0 if after else RETRY_AFTER_S / 2
    world = World(timeout=timeout)
    for flow in (world.session.get("k", None, None), world.session.incr("k", 1, 0, DEFAULT, None)):
        began = world.now
        with pytest.raises(Overloaded) as caught:
            world.run(flow, lambda c: overloaded(*after))
        assert caught.value.retry_after_s == told
        assert world.now - began < 0.02
    assert not world.pauses


def test_keys_that_a_node_could_not_take_any_more_are_overload_too() -> None:
    world = World(timeout=1.0)
    with pytest.raises(Overloaded) as caught:
        world.run(
            world.session.get_many(["a", "b"], None), lambda c: [[int(Code.OVERLOADED), 3000]] * len(c.request.keys)
        )
    assert caught.value.retry_after_s == 3.0
    assert world.now - 100 < 0.02


def test_the_error_keeps_its_hint_on_its_way_between_processes() -> None:
    error = Overloaded("busy", 1.5)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(other), other.retry_after_s) == ("busy", 1.5)


@pytest.mark.parametrize(("name", "kind"), [("set", NodeUnavailable), ("get", Overloaded)])
def test_overloaded_is_never_said_of_a_write_that_may_have_been_done(name: str, kind: type[Exception]) -> None:
    world = World(timeout=1.0)
    session = world.session
    flow = session.get("k", None, None) if name == "get" else session.set("k", 1, DEFAULT, None)
    outcomes: list[Any] = [LOST]
    with pytest.raises(kind) as caught:
        world.run(flow, lambda c: outcomes.pop() if outcomes and c.request.keys else overloaded(9000))
    assert ("may or may not be applied" in str(caught.value)) is (name == "set")


def test_a_call_knows_of_overload_from_other_calls() -> None:
    world = World(timeout=1.0)
    for address in world.routing.peers:
        world.routing.holds.begin(address, 9.0, world.now, world.session.rng)
    with pytest.raises(Overloaded) as caught:
        world.run(world.session.get("k", None, None), lambda c: LOST)
    assert 8.9 < caught.value.retry_after_s <= 18.0
    assert len(world.data_calls) == 1


# ---- the budget


def calls_until_denied(budget: RetryBudget, calls: int, now: float) -> int:
    count = 0
    while budget.spend(1, calls, now):
        count += 1
    return count


def test_the_budget_is_a_share_of_the_calls_and_a_minimum() -> None:
    budget = RetryBudget(0.0)
    assert calls_until_denied(budget, 0, 0.0) == RETRIES_AT_START
    assert calls_until_denied(budget, 0, 1.0) == RETRIES_PER_S
    assert calls_until_denied(budget, 1000, 1.0) == RETRIES_PER_CALL * 1000


def test_calls_of_long_ago_earn_nothing() -> None:
    budget = RetryBudget(0.0)
    assert calls_until_denied(budget, 360_000, 3600.0) == pytest.approx(
        RETRIES_AT_START + 1000 * RETRIES_PER_CALL, 0.01
    )
    budget = RetryBudget(0.0)
    budget.spend(1, 10_000, 1.0)
    assert calls_until_denied(budget, 10_000, 1.0 + WINDOW_S) == RETRIES_AT_START


FAILURES = {
    "silent": NO_REPLY,
    "lost": LOST,
    "overloaded": overloaded(1),
    "no quorum": [[int(Code.QUORUM), 2, 1]],
}


def run_together(world: World, flows: list[Any], answer: Any) -> list[Exception]:
    """Run flows as tasks that wait at the same time; return the errors that they end with."""
    due: list[tuple[float, int, Any, Any]] = [(world.now, n, flow, None) for n, flow in enumerate(flows)]
    errors: list[Exception] = []
    while due:
        world.now, n, flow, sent = heappop(due)
        try:
            step = flow.send(sent)
        except MeshcacheError as error:
            errors.append(error)
            continue
        if isinstance(step, float):
            heappush(due, (world.now + step, n, flow, None))
            continue
        world.steps.append(step)
        outcomes = [answer(call) for call in step]
        late = [call.deadline(world.now) for call, outcome in zip(step, outcomes, strict=True) if outcome is NO_REPLY]
        heappush(due, (max([world.now + 0.001, *late]), n, flow, outcomes))
    return errors


@pytest.mark.parametrize("name", FAILURES)
def test_a_mesh_that_fails_gets_at_most_a_fifth_more_than_the_calls(name: str) -> None:
    world = World(timeout=5.0)
    count, began = 10_000, world.now
    flows = [world.session.set("k", 1, DEFAULT, None) for _ in range(count)]
    errors = run_together(world, flows, lambda c: NO_REPLY if c.request.kind is Inspect else FAILURES[name])
    assert len(errors) == count
    at_rest = RETRIES_AT_START + RETRIES_PER_S * (world.now - began)
    assert count + RETRIES_AT_START <= len(world.data_calls) <= (1 + RETRIES_PER_CALL) * count + at_rest


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(LOST, NodeUnavailable), ([[int(Code.QUORUM), 2, 1]], QuorumNotReached), (overloaded(1), Overloaded)],
)
def test_beyond_the_budget_the_first_failure_is_raised_and_says_why(failure: Any, kind: type[Exception]) -> None:
    world = World(timeout=5.0)
    assert world.routing.affords(int(RETRIES_AT_START), world.now)
    with pytest.raises(kind) as caught:
        world.run(world.session.set("k", 1, DEFAULT, None), lambda c: failure)
    assert len(world.data_calls) == 1
    if kind is not QuorumNotReached:
        assert "too many calls of this client fail" in str(caught.value)
    assert ("may or may not be applied" in str(caught.value)) is (failure is LOST)


def test_in_a_batch_only_what_failed_is_given_up() -> None:
    world = World(timeout=5.0)
    bad = "127.0.0.1:7102"
    assert world.routing.affords(int(RETRIES_AT_START), world.now)
    keys = [f"k{i}" for i in range(60)]
    failed = world.run(
        world.session.set_many(dict.fromkeys(keys, 1), DEFAULT, None), lambda c: LOST if c.address == bad else hits(c)
    )
    assert failed == [key for key in keys if world.owners(key.encode())[0] == bad]
    assert 0 < len(failed) < len(keys)


def test_what_was_not_sent_costs_nothing() -> None:
    """Thousands of callers, and the first one of three nodes is gone: not one of their calls fails."""
    world = World(timeout=5.0)
    assert world.routing.affords(int(RETRIES_AT_START), world.now)
    bad = world.owners(b"k")[0]
    for _ in range(3000):
        world.routing.peers[bad].doubted_until = 0.0
        world.routing.review(world.now)
        world.now = 100.0
        assert (
            world.run(world.session.get("k", None, None), lambda c: NOT_CONNECTED if c.address == bad else hits(c))
            == "v"
        )


def test_one_dead_node_of_three_fails_no_call_of_a_client_that_was_at_work() -> None:
    """As many callers as a busy client has: what they had sent to the node when it died is sent to another one."""
    world = World(timeout=5.0)
    for i in range(10_000):
        world.run(world.session.get(f"k{i}", None, None), hits)
    world.now = 101.0
    bad = world.owners(b"k")[0]
    for _ in range(1000):
        world.routing.first = [bad] * len(world.routing.first)  # they were under way when the connection broke
        assert world.run(world.session.get("k", None, None), lambda c: LOST if c.address == bad else hits(c)) == "v"


def test_a_client_waits_as_an_overloaded_node_says() -> None:
    with fake_mesh() as (node,), meshcache.Client(node.address, timeout=5) as client:
        client.set("k", "v")
        refusals = [overloaded(30), overloaded(30)]
        asked: list[float] = []

        def hook(request: Any) -> Any:
            if isinstance(request, Hello):
                return FakeNode.PASS
            asked.append(node.wall_ms())
            return refusals.pop()._replace(request=request.request) if refusals else FakeNode.PASS

        node.hook = hook
        assert client.get("k") == "v"
        assert len(asked) == 3
        assert all(b - a >= 29 for a, b in pairwise(asked))
        node.hook = lambda r: FakeNode.PASS if isinstance(r, Hello) else overloaded(9000)._replace(request=r.request)
        with pytest.raises(Overloaded) as caught:
            client.get("k", timeout=1)
        assert caught.value.retry_after_s == 9.0
