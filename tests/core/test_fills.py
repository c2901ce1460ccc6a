"""Fill leases: who computes, who waits, and what voids a lease."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from story import DEFAULT, STRICT, Story

from meshcache.client.get_or_set import PARK_S
from meshcache.core.operations import fill_leases as fills
from meshcache.errors import MeshcacheError, OperationTimeout, Overloaded
from meshcache.protocol.messages import LEASE_ALWAYS, LEASE_S
from meshcache.simulation.clients import ClientHost, Loader
from meshcache.simulation.hosts import NodeHost


class Source:
    """What the values are computed from, and by whom."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.value = "v1"
        self.loads: list[str] = []
        self.results: list[Any] = []
        self.callers = 0

    def ask(self, client: ClientHost, *, seconds: float = 0.1, timeout: float = 10.0, **options: Any) -> None:
        def read() -> str:
            self.loads.append(client.name)
            return self.value

        flow = client.session.get_or_set("key", Loader(read, seconds), None, timeout, **options)
        client.run(flow, lambda value, error, _: self.results.append(value if error is None else error))

    def crowd(self, count: int, **options: Any) -> list[ClientHost]:
        clients = [self.story.mesh.client(f"caller{self.callers + i}") for i in range(count)]
        self.callers += count
        for client in clients:
            self.ask(client, **options)
        return clients

    def wait(self, count: int) -> None:
        self.story.mesh.wait_for(lambda: len(self.results) >= count, within_s=30.0)


def table(host: NodeHost) -> dict[bytes, fills.FillLease]:
    assert host.core is not None
    return host.core.fills.table


def counts(host: NodeHost) -> dict[str, int]:
    assert host.core is not None
    return host.core.coordinator.pending.background["fills"].statistics()


@pytest.mark.parametrize("cluster", [DEFAULT, STRICT])
def test_of_a_crowd_one_computes_and_all_get_the_value(cluster: dict[str, Any]) -> None:
    story = Story(4, cluster)
    source = Source(story)
    source.crowd(50)
    source.wait(50)
    assert source.results == ["v1"] * 50
    assert len(source.loads) == 1
    story.mesh.run(0.1)
    assert not any(table(host) for host in story.mesh.nodes.values())
    assert [value for value in story.held("key").values() if value] == [b"v1"] * cluster["replicas"]


def test_whoever_is_asked_passes_on_to_the_first_owner() -> None:
    story = Story(4)
    source = Source(story)
    for host in story.mesh.nodes.values():
        source.ask(story.at(host))
    source.wait(4)
    assert len(source.loads) == 1


def test_a_long_loader_renews_its_lease_and_callers_stay_parked() -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(3, seconds=2 * LEASE_S + 1, timeout=20.0)
    source.wait(3)
    assert source.results == ["v1"] * 3
    assert len(source.loads) == 1
    assert counts(story.owners("key")[0])["lapsed"] == 0


def test_when_the_holder_dies_the_next_caller_takes_over() -> None:
    story = Story(3)
    source = Source(story)
    (first,) = source.crowd(1)
    story.mesh.wait_for(lambda: bool(source.loads))
    first.killed = True
    began = story.mesh.world.now
    source.crowd(5)
    source.wait(5)
    assert source.results == ["v1"] * 5
    assert len(source.loads) == 2
    assert story.mesh.world.now - began < LEASE_S + 0.5


def test_a_loader_that_fails_frees_the_lease_at_once() -> None:
    story = Story(3)
    source = Source(story)

    def fail() -> Any:
        raise ZeroDivisionError

    session = story.client.session
    flow = session.get_or_set("key", Loader(lambda: None, 0.5), None, 5.0)
    story.client.run(flow, lambda *_: None)
    story.mesh.run(0.1)
    source.crowd(2)
    story.mesh.run(0.1)
    owner = story.owners("key")[0]
    lease = table(owner)[b"key"]
    story.call(
        session.update("get_or_set", "key", [8, 0, lease.version], 0, 1.0, repeatable=True)
    )  # what a failed loader leads to
    source.wait(2)
    assert source.results == ["v1"] * 2
    assert len(source.loads) == 1


@pytest.mark.parametrize("end", ["given up", "withdrawn", "filled"])
def test_a_question_that_comes_after_its_callers_end_is_granted_nothing(end: str) -> None:
    story = Story(3)
    session = story.client.session
    ask = [6, 0, LEASE_ALWAYS, b"t" * 16]
    lease = story.call(session.ask_parked("get_or_set", b"key", ask, 1.0, 0.0))
    change = {"given up": [8, 0, lease], "withdrawn": [8, 0, b"t" * 16], "filled": [7, b"\0\1v", 0, lease]}[end]
    assert story.call(session.ask_parked("get_or_set", b"key", change, 1.0, 0.0))
    assert story.call(session.ask_parked("get_or_set", b"key", ask, 1.0, 0.0)) is None
    assert not table(story.owners("key")[0])


@pytest.mark.parametrize("overrule", ["delete", "set", "clear", "invalidate"])
def test_what_was_computed_before_a_change_is_not_stored_and_not_given_to_others(overrule: str) -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(1, seconds=1.0)
    story.mesh.wait_for(lambda: bool(source.loads))
    source.value = "v2"
    session = story.client.session
    story.call(
        {
            "delete": lambda: session.delete("key", None),
            "set": lambda: session.set("key", "v2", None, None),
            "clear": lambda: session.clear(None),
            "invalidate": lambda: session.delete_many(["key"], None, 3),
        }[overrule]()
    )
    source.crowd(5)
    source.wait(6)
    assert sorted(source.results) == ["v1"] + ["v2"] * 5, "the slow one has its value, the others the new one"
    assert len(source.loads) == (1 if overrule == "set" else 2)
    assert story.get("key") == "v2"
    story.mesh.run(3.0)
    assert story.get("key") == "v2"


def test_a_delete_that_misses_the_owner_is_newer_by_itself() -> None:
    story = Story(3, STRICT)
    source = Source(story)
    first, second, third = story.owners("key")
    source.crowd(1, seconds=0.3)
    story.mesh.wait_for(lambda: bool(source.loads))
    source.value = "v2"
    for other in (second, third):
        story.mesh.network.cut(other.name, first.name)
    client = story.at(second)
    story.mesh.call(client, client.session.delete("key", 0.2))
    source.wait(1)
    story.mesh.network.heal()
    story.mesh.run(3.0)
    assert story.get("key") is None
    assert counts(first)["voided"] == 0, "or this shows nothing: the delete came by in time"


def test_a_forced_computation_voids_the_one_under_way() -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(1, seconds=1.0)
    story.mesh.wait_for(lambda: bool(source.loads))
    source.value = "v2"
    client = story.mesh.client("forced")
    assert story.mesh.call(client, client.session.refresh("key", Loader(lambda: source.value, 0.1), None, None)) == "v2"
    source.wait(1)
    assert source.results == ["v1"]
    assert story.get("key") == "v2"


def test_when_the_owner_dies_another_one_grants_the_lease() -> None:
    story = Story(4)
    source = Source(story)
    source.crowd(5, seconds=0.5, timeout=20.0)
    story.mesh.wait_for(lambda: bool(source.loads))
    story.owners("key")[0].crash()
    source.wait(5)
    assert source.results == ["v1"] * 5
    assert len(source.loads) <= 2


def test_when_the_first_owner_changes_its_leases_go_and_callers_ask_the_new_one() -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(5, seconds=3.0, timeout=20.0)
    story.mesh.wait_for(lambda: bool(source.loads))
    before = story.owners("key")[0]
    while story.owners("key")[0] is before:
        story.mesh.add().start()
        story.mesh.settle()
    story.mesh.run(0.1)
    assert not table(before)
    source.wait(5)
    assert source.results == ["v1"] * 5
    assert len(source.loads) == 2


def test_a_wait_ends_with_the_callers_timeout() -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(1, seconds=8.0, timeout=20.0)
    story.mesh.wait_for(lambda: bool(source.loads))
    began = story.mesh.world.now
    source.crowd(1, timeout=PARK_S + 0.7)
    source.wait(1)
    assert isinstance(source.results[0], OperationTimeout)
    assert story.mesh.world.now - began == pytest.approx(PARK_S + 0.7, abs=0.1)


def test_leases_and_parked_callers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fills, "PARKED_MAX", 3)
    monkeypatch.setattr(fills, "LEASES_MAX", 1)
    story = Story(1, {**DEFAULT, "write_quorum": 1})
    source = Source(story)
    source.crowd(6, seconds=1.0, timeout=0.5)
    story.mesh.wait_for(lambda: bool(source.loads))
    story.mesh.run(0.1)
    assert counts(story.node("n1"))["parked"] == 3
    assert counts(story.node("n1"))["overloaded"] > 0
    other = story.mesh.client("other")
    with pytest.raises(Overloaded):
        story.mesh.call(other, other.session.get_or_set("other", Loader(lambda: 1, 0.1), None, 0.4))
    source.wait(6)
    assert source.results[-1] == "v1"
    assert {type(error) for error in source.results[:5]} == {OperationTimeout}


def test_a_lease_does_not_outlive_the_tombstones_that_would_overrule_its_fill() -> None:
    story = Story(3, store={"tombstone_grace_s": 4.0})
    source = Source(story)
    source.crowd(1, seconds=6.0, timeout=20.0)
    source.wait(1)
    assert source.results == ["v1"]
    assert story.get("key") is None
    assert counts(story.owners("key")[0])["refused"] == 1


def test_a_value_that_could_not_be_stored_is_returned_all_the_same() -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(1, seconds=0.3, timeout=1.0)
    story.mesh.wait_for(lambda: bool(source.loads))
    for host in story.mesh.nodes.values():
        host.pause()
    source.wait(1)
    assert source.results == ["v1"]
    with pytest.raises(MeshcacheError):
        story.get("key", timeout=0.3)


def test_a_stale_value_is_refreshed_by_one_caller_and_the_others_get_it_at_once() -> None:
    story = Story(3)
    source = Source(story)
    store = story.client.session
    story.call(store.get_or_set("key", Loader(lambda: "v1", 0.0), 1.0, None, stale_ttl=5.0))
    assert story.get("key") == "v1"
    story.mesh.run(1.1)
    assert story.get("key") is None, "a plain read holds to the ttl"
    item = story.call(store.gets("key", None))
    assert (item.value, item.stale) == ("v1", True)
    assert story.call(store.get_many(["key"], None)) == {}
    assert story.call(store.exists("key", None)) is False
    assert story.call(store.ttl("key", None)) is None
    source.value = "v2"
    clients = [story.mesh.client(f"stale{i}") for i in range(10)]
    began = story.mesh.world.now
    when: list[float] = []
    for client in clients:

        def read(client: ClientHost = client) -> str:
            source.loads.append(client.name)
            return source.value

        flow = client.session.get_or_set("key", Loader(read, 1.0), 1.0, 5.0, stale_ttl=5.0)

        def done(value: Any, error: Any, _: bool) -> None:
            source.results.append(value if error is None else error)
            when.append(story.mesh.world.now - began)

        client.run(flow, done)
    source.wait(10)
    assert source.results == ["v1"] * 9 + ["v2"]
    assert when[8] < 0.1
    assert len(source.loads) == 1
    assert story.get("key") == "v2"
    assert 0.9 < story.call(store.ttl("key", None)) <= 1.0


def test_who_does_not_take_stale_values_waits_for_the_new_one() -> None:
    story = Story(3)
    story.call(story.client.session.get_or_set("key", Loader(lambda: "v1", 0.0), 1.0, None, stale_ttl=5.0))
    story.mesh.run(1.1)
    source = Source(story)
    source.value = "v2"
    source.crowd(5)
    source.wait(5)
    assert source.results == ["v2"] * 5
    assert len(source.loads) == 1


def test_an_early_refresh_comes_the_sooner_the_longer_the_value_took() -> None:
    refreshed = {}
    for seconds in (0.01, 1.0):
        story = Story(1, {**DEFAULT, "write_quorum": 1})
        session = story.client.session
        loads: list[float] = []

        def read(loads: list[float] = loads, story: Story = story) -> str:
            loads.append(story.mesh.world.now)
            return "v"

        while len(loads) < 20:
            story.call(session.get_or_set("key", Loader(read, seconds), 3.0, None, early=1.0))
            story.mesh.run(0.02)
        lives = [after - before for before, after in pairwise(loads)]
        refreshed[seconds] = sum(lives) / len(lives)
    assert refreshed[1.0] < 3.5
    assert refreshed[0.01] > 2.8


# ---- tags


@pytest.mark.parametrize("owner_is_asked", [True, False])
def test_what_was_loaded_before_its_tag_was_invalidated_is_not_stored_and_given_to_nobody_else(
    owner_is_asked: bool,
) -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(3, seconds=1.0, tags=["t"])
    story.mesh.wait_for(lambda: bool(source.loads))
    source.value = "v2"
    owner = story.owners("key")[0]
    other = next(host for host in story.mesh.nodes.values() if host is not owner)
    teller = story.at(owner if owner_is_asked else other)
    assert story.mesh.call(teller, teller.session.invalidate_tags(["t"], None)) == 0
    source.wait(3)
    assert source.results == ["v1", "v2", "v2"]
    assert len(source.loads) == 2
    assert story.get("key") == "v2"


def test_what_is_filled_bears_its_tags() -> None:
    story = Story(3)
    source = Source(story)
    source.crowd(1, tags=["t"])
    source.wait(1)
    assert story.get("key") == "v1"
    assert story.call(story.client.session.invalidate_tags(["t"], None)) == 2
    assert story.get("key") is None


def test_tags_beyond_a_limit_are_told_before_anything_is_computed() -> None:
    story = Story(1, {**DEFAULT, "write_quorum": 1})
    source = Source(story)
    flow = story.client.session.get_or_set("key", Loader(source.loads.pop, 0.1), None, 1.0, tags=map(str, range(33)))
    with pytest.raises(ValueError, match="at most 32"):
        story.call(flow)
