"""Hedged reads: a second owner is asked when the first takes long, seldom, and only where one answer is enough."""

from __future__ import annotations

import asyncio
import math
import pickle
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client_world import SETTINGS, World, fact, welcome
from fake_node import FakeNode, fake_mesh
from timing import DELAY_S_MAX, eventually

import meshcache
from meshcache.client.delivery import Hedged
from meshcache.client.hedging import DELAY_S_MIN, SAMPLES, SAMPLES_MIN, SAVED_MAX, SHARE, Hedging
from meshcache.client.seeds import parse_seeds
from meshcache.protocol.messages import Get
from meshcache.simulation.mesh import Mesh


def test_the_delay_is_the_percentile_of_the_latest_reads_and_never_too_short() -> None:
    hedging = Hedging()
    for n in range(SAMPLES_MIN):
        assert hedging.delay_s == math.inf
        hedging.note(0.010 if n else 9.0)
    assert hedging.delay_s == 0.010
    times = [0.1 + n / 1000 for n in range(SAMPLES)]
    random.Random(1).shuffle(times)
    for taken_s in times:
        hedging.note(taken_s)
    assert hedging.delay_s == pytest.approx(0.1 + 0.95 * SAMPLES / 1000, abs=0.002)
    for _ in range(SAMPLES):
        hedging.note(0.0001)
    assert hedging.delay_s == DELAY_S_MIN


def test_only_a_share_of_the_reads_is_hedged() -> None:
    hedging = Hedging()
    hedged = 0
    for _ in range(10_000):
        hedging.note(0.01)
        hedged += hedging.takes()
    assert 0 < hedged <= SHARE * 10_000
    assert hedged == hedging.hedged
    for _ in range(100_000):
        hedging.note(0.01)
    assert sum(hedging.takes() for _ in range(1000)) == SAVED_MAX


# ---- what is hedged


def hedged_world(read_quorum: int | None = 1, **options: Any) -> World:
    world = World(known=False, **options)
    settings = SETTINGS | ({} if read_quorum is None else {"read_quorum": read_quorum})
    greeting = welcome(fact(1), fact(2), fact(3))._replace(settings=settings)
    world.routing.welcome(fact(1).address, greeting, 0.0, world.now)
    for _ in range(10 * SAMPLES_MIN):
        world.routing.hedging.note(0.001)
    return world


@pytest.mark.parametrize(
    ("options", "read_quorum", "is_hedged"),
    [
        ({"hedge": True}, 1, True),
        ({}, 1, False),
        ({"hedge": False}, 1, False),
        ({"hedge": True}, 2, False),
        ({"hedge": True}, None, False),
        ({"hedge": True, "consistency": "one"}, None, True),
        ({"hedge": True, "consistency": (2, 1)}, 2, True),
        ({"hedge": True, "consistency": "quorum"}, 1, False),
        ({"hedge": True, "consistency": (1, 2)}, 1, False),
    ],
)
def test_only_reads_that_ask_one_owner_are_hedged(options: Any, read_quorum: int | None, is_hedged: bool) -> None:
    world = hedged_world(read_quorum, **options)
    session = world.session
    session._unchecked = False
    for flow in (session.get("k", None, None), session.gets("k", None), session.exists("k", None)):
        assert (type(flow.send(None)) is Hedged) is is_hedged
    for change in (session.set("k", 1, None, None), session.incr("k", 1, 0, None, None), session.delete("k", None)):
        assert type(change.send(None)) is list


def test_the_second_one_is_another_owner_that_is_well() -> None:
    world = hedged_world(hedge=True)
    first, second = world.owners(b"k")
    step: Any = world.session.get("k", None, None).send(None)
    assert [call.address for call in step] == [first]
    assert step.after_s == DELAY_S_MIN
    other = step.other(lambda address: address == second)
    assert (other.address, other.request, other.until) == (second, step[0].request, step[0].until)
    assert step.other(lambda _: False) is None
    world.routing.failed(second, world.now)
    assert step.other(lambda _: True) is None
    assert world.routing.hedging.hedged == 1


def test_the_option_is_taken_from_wherever_options_are_and_is_checked() -> None:
    assert parse_seeds("mesh://h/?hedge=true").options == {"hedge": True}
    with pytest.raises(meshcache.ConfigError, match="hedge: must be true or false"):
        parse_seeds("mesh://h/?hedge=maybe")
    for make in (meshcache.Client, meshcache.AsyncClient):
        client = make("mesh://h/?hedge=true")
        assert client._session._may_hedge
        assert not client.with_options(hedge=False)._session._may_hedge
        assert client.with_options(timeout=1)._session._may_hedge
        assert pickle.loads(pickle.dumps(client))._session._may_hedge
        assert not make("mesh://h/?hedge=true", hedge=False)._session._may_hedge
        with pytest.raises(TypeError, match="hedge must be True or False"):
            make("h", hedge="no")  # type: ignore[arg-type]  # the mistake


# ---- the drivers

KEYS = [f"k{n}" for n in range(30)]
SILENT_S = 5.0


class Pair:
    """Two nodes that can be made to keep the answers to reads back."""

    def __init__(self, nodes: list[FakeNode]) -> None:
        self.nodes = nodes
        for node in nodes:
            node.settings["read_quorum"] = 1

    def owned_first(self, client: Any, node: FakeNode) -> list[str]:
        routing = client._session.routing
        return [key for key in KEYS if routing.first[routing.slot_of(key.encode())] == node.address]

    def stop(self, node: FakeNode) -> None:
        node.hook = lambda r: None if isinstance(r, Get) else FakeNode.PASS


@pytest.fixture
def pair() -> Iterator[Pair]:
    with fake_mesh(2) as nodes:
        yield Pair(nodes)


def trust(client: Any) -> None:
    """Let the client have read quickly until now, so that the next slow read is certainly hedged."""
    for _ in range(SAMPLES):
        client._session.routing.hedging.note(DELAY_S_MIN)


def warm(client: meshcache.Client) -> None:
    """Let the client know both nodes."""
    client.set_many(dict.fromkeys(KEYS, "v"))
    assert [client.get(key) for key in KEYS] == ["v"] * len(KEYS)
    trust(client)


async def warm_async(client: meshcache.AsyncClient) -> None:
    await client.set_many(dict.fromkeys(KEYS, "v"))
    assert [await client.get(key) for key in KEYS] == ["v"] * len(KEYS)
    trust(client)


def test_a_silent_owner_costs_a_read_no_more_than_the_delay(pair: Pair) -> None:
    first, second = pair.nodes
    with meshcache.Client([first.address, second.address], timeout=SILENT_S, hedge=True, near_cache=False) as client:
        warm(client)
        won = client.statistics().hedges_won
        (key, *_) = pair.owned_first(client, first)
        pair.stop(first)
        asked = len(second.of(Get))
        assert client.get(key) == "v"
        assert len(second.of(Get)) == asked + 1
        told = client.statistics()
        assert (told.hedges_won, told.failed, told.retries) == (won + 1, 0, 0)
        first.hook = None
        (other_key, *_) = pair.owned_first(client, second)
        assert client.get(other_key) == "v"
        assert client.get(key) == "v"


def test_the_same_with_asyncio(pair: Pair) -> None:
    first, second = pair.nodes

    async def main() -> None:
        seeds = [first.address, second.address]
        async with meshcache.AsyncClient(seeds, timeout=SILENT_S, hedge=True, near_cache=False) as client:
            await warm_async(client)
            won = client.statistics().hedges_won
            (key, *_) = pair.owned_first(client, first)
            pair.stop(first)
            asked = len(second.of(Get))
            assert await client.get(key) == "v"
            assert len(second.of(Get)) == asked + 1
            told = client.statistics()
            assert (told.hedges_won, told.failed, told.retries) == (won + 1, 0, 0)
            first.hook = None
            assert await client.get(key) == "v"

    asyncio.run(main())


def answer_after(is_down: Callable[[], bool]) -> Callable[[Any], Any]:
    """Return what makes a node answer reads only when the client has noticed that its other connection broke."""

    def late(request: Any) -> Any:
        if isinstance(request, Get):
            eventually(is_down, SILENT_S)
        return FakeNode.PASS

    return late


def break_off(request: Any) -> Any:
    return b"\xc1 garbage" if isinstance(request, Get) else FakeNode.PASS


def test_where_the_second_owner_fails_the_first_one_still_counts(pair: Pair) -> None:
    first, second = pair.nodes
    with meshcache.Client([first.address, second.address], timeout=SILENT_S, hedge=True, near_cache=False) as client:
        warm(client)
        (channel,) = client._channels._pool.channels
        (key, *_) = pair.owned_first(client, first)
        first.hook, second.hook = answer_after(lambda: second.address not in channel._sockets), break_off
        assert client.get(key) == "v"
        told = client.statistics()
        assert (told.hedged, told.hedges_won, told.failed, told.retries) == (1, 0, 0, 0)


def test_the_same_failure_with_asyncio(pair: Pair) -> None:
    first, second = pair.nodes

    async def main() -> None:
        seeds = [first.address, second.address]
        async with meshcache.AsyncClient(seeds, timeout=SILENT_S, hedge=True, near_cache=False) as client:
            await warm_async(client)
            assert client._hub._mux is not None
            wire = client._hub._mux._sockets[second.address]
            (key, *_) = pair.owned_first(client, first)
            first.hook, second.hook = answer_after(lambda: wire._socket is None), break_off
            assert await client.get(key) == "v"
            told = client.statistics()
            assert (told.hedged, told.hedges_won, told.failed, told.retries) == (1, 0, 0, 0)

    asyncio.run(main())


def test_when_both_are_silent_the_call_ends_at_its_deadline(pair: Pair) -> None:
    first, second = pair.nodes
    with meshcache.Client([first.address, second.address], hedge=True, near_cache=False) as client:
        warm(client)
        pair.stop(first)
        pair.stop(second)
        began = time.monotonic()
        with pytest.raises(meshcache.OperationTimeout):
            client.get(KEYS[0], timeout=0.6)
        assert 0.59 < time.monotonic() - began < 0.6 + DELAY_S_MAX
        first.hook = second.hook = None
        assert client.get(KEYS[0]) == "v"


def test_a_cancelled_read_leaves_nothing_behind(pair: Pair) -> None:
    first, second = pair.nodes

    async def main() -> None:
        seeds = [first.address, second.address]
        async with meshcache.AsyncClient(seeds, timeout=SILENT_S, hedge=True, near_cache=False) as client:
            await warm_async(client)
            pair.stop(first)
            pair.stop(second)
            asked = len(first.of(Get)) + len(second.of(Get))
            reading = asyncio.ensure_future(client.get(KEYS[0]))
            async with asyncio.timeout(2):
                while len(first.of(Get)) + len(second.of(Get)) < asked + 2:  # noqa: ASYNC110  (in another thread)
                    await asyncio.sleep(0.001)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert client._hub._mux is not None
            messages = [m for wire in client._hub._mux._sockets.values() for m in wire.under_way.values()]
            assert not any(message.is_wanted() for message in messages)

    asyncio.run(main())


def test_a_simulated_client_hedges_too() -> None:
    mesh = Mesh(nodes=3, cluster={"replicas": 2, "write_quorum": 2, "read_quorum": 1, "slots": 16, "vnodes": 8}).start()
    mesh.run(7.0)
    client = mesh.client(hedge=True)
    mesh.call(client, client.session.set("key", "v", None, None))
    for _ in range(int(2 / SHARE)):
        assert mesh.call(client, client.session.get("key", None, None)) == "v"
    mesh.nodes[mesh.owners("key")[0]].pause()
    began = mesh.world.now
    assert mesh.call(client, client.session.get("key", None, None)) == "v"
    assert mesh.world.now - began < 0.1
    assert client.session.routing.hedging.won == 1
