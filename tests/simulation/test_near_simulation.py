"""Near caches in the simulator: the bound holds, and the checker sees it where a rule is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from meshcache.client.near_cache import Copies, Reading
from meshcache.protocol import invalidation
from meshcache.protocol.invalidation import Streams
from meshcache.protocol.messages import Invalidations
from meshcache.protocol.near_store import NearStore
from meshcache.simulation.history import History, Operation, Violation
from meshcache.simulation.near import NearPlan, NearSimulation

SEEDS = 4
SEEDS_FOR_A_BUG = 8


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_copy_is_older_than_the_bound(seed: int) -> None:
    simulation = NearSimulation(NearPlan.draw(seed)).run()
    stores = [reader.session.near for reader in simulation.readers]
    assert sum(store.hits for store in stores if store) > 1000  # or else it proves nothing
    assert sum(store.invalidations for store in stores if store) > 50


def test_seeds_draw_lost_frames_and_both_kinds_of_bound() -> None:
    plans = [NearPlan.draw(seed) for seed in range(20)]
    assert max(plan.stream_loss for plan in plans) > 0.1
    assert {plan.ttl_s < plan.bound_s + 1e-9 for plan in plans} == {True, False}


def test_one_seed_is_one_course_of_events() -> None:
    digests = {NearSimulation(NearPlan.draw(3)).run().world.digest for _ in range(2)}
    assert len(digests) == 1


def gaps_are_overlooked(patch: pytest.MonkeyPatch) -> None:
    receive = Streams.receive

    def trusting(self: Streams, message: Invalidations, now: float) -> None:
        stream = self.streams.get(message.node_id)
        if stream is not None and stream.boot == message.boot:
            stream.sequence = message.sequence - bool(message.events)
        receive(self, message, now)

    patch.setattr(Streams, "receive", trusting)


def silence_is_overlooked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(invalidation, "SILENCE_S", 1e9)


def answers_are_kept_whatever_was_announced_meanwhile(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NearStore, "_is_newest", lambda self, key, version, ticket: True)


def events_are_overlooked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NearStore, "on_event", lambda self, node_id, event, now: None)


def answers_are_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    keep = Copies.keep

    def for_ever(self: Copies, raw: bytes, record: bytes, value: Any, reading: Reading) -> None:
        keep(self, raw, record, value, Reading(1e9, reading.ticket, reading.raws, reading.strange_views))

    patch.setattr(Copies, "keep", for_ever)
    patch.setattr(NearStore, "on_event", lambda self, node_id, event, now: None)


@pytest.mark.parametrize(
    ("plant", "plan"),
    [
        (gaps_are_overlooked, {"ttl_s": 60.0, "stream_loss": 0.1}),
        (silence_is_overlooked, {"ttl_s": 60.0, "strikes": ("deaf",)}),
        (
            answers_are_kept_whatever_was_announced_meanwhile,
            {"ttl_s": 60.0, "delay_s": 0.01, "keys": 12, "write_pause_s": 0.3, "levels": (3, 2, 2)},
        ),
        (events_are_overlooked, {"ttl_s": 60.0}),
        (answers_are_kept_for_ever, {"ttl_s": 0.3, "stream_loss": 0.0}),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = []
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            NearSimulation(replace(NearPlan.draw(seed), **plan)).run()
        except Violation as violation:
            found.append(str(violation).partition(":")[0])
        if "near_staleness" in found:
            return
    pytest.fail(f"nobody saw that {plant.__name__}, but found {found}")


def test_the_checker_counts_from_the_end_of_the_write_to_the_beginning_of_the_read() -> None:
    def operation(number: int, name: str, start: float) -> Operation:
        found = Operation(number, "c", name, ("k",), start, 5.0)
        found.written = f"k={number}" if name == "set" else None
        history.begin(found)
        return found

    history = History(fresh=True, atomic=False, stale_s=1.0)
    for number, start in ((1, 0.0), (2, 2.0), (3, 4.0)):
        history.end(operation(number, "set", start), start + 1.0, None, None, False)
    for start in (2.9, 3.1, 4.0):
        history.end(operation(9, "get", start), start + 0.1, "k=1", None, False)
    assert history.stalest_s == pytest.approx(1.0)
    late = operation(9, "get", 4.1)
    with pytest.raises(Violation, match="near_staleness"):
        history.end(late, 4.2, "k=1", None, False)
