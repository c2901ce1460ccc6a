"""What an overloaded node cannot serve yet waits at its client."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client_world import World, fact, hits, welcome
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache.client import greetings
from meshcache.client.aio.messages import AttemptMessage, Message
from meshcache.client.aio.pending import Pending
from meshcache.client.arguments import DEFAULT
from meshcache.client.blocking.channel import Channel
from meshcache.client.connection import Attempt, Batch, Call, Request
from meshcache.client.fast_path import GET
from meshcache.client.greetings import GREETING_S
from meshcache.client.routing import SLOW_PATIENCE, SLOW_S
from meshcache.client.windows import NARROW, SIGN_S, WIDE, WIDEN_AFTER, Windows
from meshcache.protocol.messages import Code, Get, Hello, Reject, Reply, TurnedAway
from meshcache.protocol.wire import encode_frame

WAIT_S = 20


def test_a_window_halves_with_each_sign_and_widens_with_answers() -> None:
    windows = Windows()
    assert windows.limit("a") == math.inf
    limits = []
    for i in range(5):
        windows.note_overload("a", 100.0 + i)
        limits.append(windows.limit("a"))
    assert limits == [NARROW, NARROW / 2, 1, 1, 1]
    for _ in range(WIDEN_AFTER):
        assert windows.limit("a") == 1
        windows.note_answer("a")
    assert windows.limit("a") == 2
    for _ in range(WIDEN_AFTER * (WIDE - 2)):
        windows.note_answer("a")
    assert windows.limit("a") == math.inf
    assert not windows.narrow


def test_the_signs_of_one_crowd_are_one() -> None:
    windows = Windows()
    for i in range(10):
        windows.note_overload("a", 100.0 + i * SIGN_S / 20)
    assert windows.limit("a") == NARROW


def test_the_greatest_window_counts_where_it_is_not_known_who_will_be_asked() -> None:
    windows = Windows()
    windows.note_overload("a", 100.0)
    assert windows.greatest(2) == math.inf, "one is wide"
    windows.note_overload("b", 100.0)
    windows.note_overload("b", 101.0)
    assert windows.greatest(2) == NARROW
    windows.keep(["b"])
    assert windows.greatest(1) == NARROW / 2


def greeted(world: World) -> Any:
    connection = world.session.connection("127.0.0.1:7101")
    connection.hello()
    connection.accept(encode_frame(0, [welcome(fact(1), fact(2))]))
    return connection


def ask(connection: Any, world: World) -> int:
    call = Call(connection.address, Request("get", Get, (0, 0, False), [b"k"], ["k"]), world.now + 1, 0.25)
    number: int = connection.encode(call, world.now + 0.25)[0]
    return number


def test_a_refusal_narrows_and_an_answer_widens() -> None:
    world = World()
    connection = greeted(world)
    refused, turned_away = ask(connection, world), ask(connection, world)
    limit = world.routing.windows.limit
    connection.accept(encode_frame(0, [Reject(refused, b"", [int(Code.NOT_READY)])]))
    assert limit(connection.address) == math.inf
    refused = ask(connection, world)
    connection.accept(encode_frame(0, [Reject(refused, b"", [int(Code.OVERLOADED), 50])]))
    assert limit(connection.address) == NARROW
    world.now += 1
    connection.accept(encode_frame(0, [TurnedAway(b"", [turned_away])]))
    assert limit(connection.address) == NARROW / 2
    for _ in range(WIDEN_AFTER):
        connection.accept(encode_frame(0, [Reply(ask(connection, world), b"", [b""])]))
    assert limit(connection.address) == NARROW / 2 + 1


def test_silence_narrows_only_if_nothing_that_was_asked_later_was_answered() -> None:
    """One key may have to wait for a node that is gone: that says nothing of the others."""
    world = World()
    connection, windows = greeted(world), world.routing.windows
    world.routing.succeeded(connection.address, world.now + 0.1)
    connection.give_up(ask(connection, world), world.now, is_fair=True)
    assert windows.limit(connection.address) == math.inf
    connection.give_up(ask(connection, world), world.now + 0.2, is_fair=False)
    assert windows.limit(connection.address) == math.inf
    connection.give_up(ask(connection, world), world.now + 0.2, is_fair=True)
    assert windows.limit(connection.address) == NARROW


@pytest.mark.parametrize("many", [False, True])
def test_an_attempt_at_a_slow_node_takes_longer_and_one_at_a_dead_node_does_not(many: bool) -> None:
    world = World(nodes=1, timeout=2.0)
    routing, address = world.routing, "127.0.0.1:7101"

    def allowance_s() -> float:
        flow: Any = world.session.get_many(["a", "b"], None) if many else world.session.get("k", None, None)
        world.run(flow, hits)
        return world.data_calls[-1].allowance_s

    usual_s = allowance_s()
    routing.windows.note_overload(address, world.now)
    assert allowance_s() == SLOW_PATIENCE * usual_s
    assert routing.patience(address, world.now + SLOW_S + 1) == 1
    assert world.session.routing.peers[address].answered_at > 0
    world.run(world.session.incr("n", 1, 0, DEFAULT, None), lambda c: [1])
    assert world.data_calls[-1].allowance_s == 2.0, "what must not be repeated has all the time there is"


# ---- asyncio


def run(main: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (the condition lives in the fake node's thread)
            await asyncio.sleep(0.001)


def narrow(client: Any, address: str) -> None:
    """Let one request be under way."""
    for i in range(3):
        client._session.routing.windows.note_overload(address, i)
    assert client._session.routing.windows.limit(address) == 1


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


class Gate:
    """Holds a node's answers to GETs back."""

    def __init__(self, node: FakeNode) -> None:
        self.came = threading.Semaphore(0)
        self.open = threading.Event()
        node.hook = self._hook

    def _hook(self, request: Any) -> Any:
        if isinstance(request, Get):
            self.came.release()
            self.open.wait(WAIT_S)
        return FakeNode.PASS


def test_calls_that_wait_for_their_turn_leave_as_one_message(node: FakeNode) -> None:
    async def main() -> None:
        async with meshcache.AsyncClient(node.address, timeout=60) as cache:
            await cache.set("k", 1)
            narrow(cache, node.address)
            gate = Gate(node)
            tasks = [asyncio.create_task(cache.get("k"))]
            await until(lambda: len(node.of(Get)) == 1)
            for _ in range(20):  # each in a turn of its own
                tasks.append(asyncio.create_task(cache.get("k")))
                await asyncio.sleep(0.001)
            gate.open.set()
            assert await asyncio.gather(*tasks) == [1] * 21
            assert [len(request.keys) for request in node.of(Get)] == [1, 20]

    run(main())


def test_what_waited_until_hardly_any_time_is_left_does_not_hurry_the_others(node: FakeNode) -> None:
    """Else the whole message would be late with its most urgent call."""

    async def main() -> None:
        async with meshcache.AsyncClient(node.address, timeout=2.4) as cache:
            await cache.set("k", 1)
            narrow(cache, node.address)
            gate = Gate(node)
            tasks = [asyncio.create_task(cache.get("k"))]
            await until(lambda: len(node.of(Get)) == 1)
            urgent = [asyncio.create_task(cache.get("k", timeout=0.6)) for _ in range(5)]
            tasks += [asyncio.create_task(cache.get("k")) for _ in range(5)]
            await asyncio.wait(urgent, timeout=0.4)
            gate.open.set()
            assert await asyncio.gather(*tasks) == [1] * 6
            await asyncio.wait(urgent)
            assert [len(request.keys) for request in node.of(Get)][:2] == [1, 5]

    run(main())


def test_who_waits_for_a_turn_at_a_node_that_is_silent_goes_elsewhere() -> None:
    async def main() -> None:
        with fake_mesh(2) as nodes:
            async with meshcache.AsyncClient([n.address for n in nodes], timeout=20) as cache:
                await cache.set("k", 1)
                owner = cache._session.routing.ring.preference_list(b"k")[0]
                silent = next(n for n in nodes if n.node_id == owner)
                other = next(n for n in nodes if n is not silent)
                narrow(cache, silent.address)
                silent.hook = lambda r: FakeNode.PASS if isinstance(r, Hello) else None
                first = asyncio.create_task(cache.incr("k"))  # waits for as long as its timeout
                mux = cache._hub._mux
                assert mux is not None
                under_way = mux._sockets[silent.address].under_way
                await until(lambda: bool(under_way))
                assert await cache.get("k") == 1
                assert other.of(Get)
                assert not silent.of(Get)
                first.cancel()

    run(main())


def test_a_message_is_parted_by_the_time_that_its_calls_have() -> None:
    loop, times = asyncio.new_event_loop(), (100.1, 101.0, 100.05, 102.0)
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in times]
    loop.close()
    request = Request("get", Get, (0, 0, False), [b"k"], ["k"])
    message = Message(Batch(Call("a", request, times[0], 0.25)), futures[0], ("key",))
    fields = 0, 0, b"", ["k"], 1000
    attempts = [Attempt(GET, "a", 99.0, until, 0.25, ["k"], range(1), fields, ()) for until in times]
    pending = [Pending(loop, attempt, None, attempt.started) for attempt in attempts]
    usual = AttemptMessage(attempts[0], loop, ("key",))
    assert usual.join(attempts[0], pending[0])
    for until, attempt, future, each in zip(times[1:], attempts[1:], futures[1:], pending[1:], strict=True):
        assert message.batch.join(Call("a", request, until, 0.25), 1000)
        message.futures.append(future)
        assert usual.join(attempt, each)
    for (late, kept), waiting in ((message.parted(100.0), futures), (usual.parted(100.0), pending)):
        assert late is not None
        assert kept is not None
        assert (late.futures, kept.futures) == (waiting[::2], waiting[1::2])
        assert (kept.batch.until, kept.key) == (101.0, ("key",))
        assert kept.parted(100.0)[0] is None
        assert kept.parted(200.0)[1] is None


# ---- threads


def test_no_more_threads_ask_at_a_time_than_the_window_is_wide(node: FakeNode) -> None:
    with meshcache.Client(node.address, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        client.set("k", 1)
        narrow(client, node.address)
        gate = Gate(node)
        calls = [pool.submit(client.get, "k") for _ in range(8)]
        assert gate.came.acquire(timeout=WAIT_S)
        waiters = client._channels._pool.waiters
        while len(waiters.queue) < 7:
            threading.Event().wait(0.001)
        assert [channel.busy for channel in client._channels._pool.channels] == [True]
        gate.open.set()
        assert [call.result(WAIT_S) for call in calls] == [1] * 8
        assert len(node.of(Get)) == 8
        assert node.hellos == 1


def test_threads_open_one_connection_at_a_time(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, most = 0, 0
    greet = Channel._greet

    def counted(self: Channel, *arguments: Any) -> Any:
        nonlocal connecting, most
        connecting += 1
        most = max(most, connecting)
        try:
            return greet(self, *arguments)
        finally:
            connecting -= 1

    monkeypatch.setattr(Channel, "_greet", counted)
    slow = threading.Event()

    def answer(request: Any) -> Any:
        slow.wait(0.02)
        return FakeNode.PASS

    node.hook = answer
    with meshcache.Client(node.address, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(client.get, "k") for _ in range(32)]:
            call.result(WAIT_S)
    assert most == 1


def test_a_node_that_is_slow_to_greet_is_not_connected_to_anew_with_each_attempt(node: FakeNode) -> None:
    def slow(request: Any) -> Any:
        if isinstance(request, Hello):
            threading.Event().wait(0.6)
        return FakeNode.PASS

    node.hook = slow
    opened: list[str] = []
    with meshcache.Client(node.address, timeout=20) as client:
        connection = client._channels._connection

        def counted(address: str) -> Any:
            opened.append(address)
            return connection(address)

        client._channels._connection = counted
        assert client.get("k") is None
    assert len(opened) == 1


def test_a_connection_that_takes_long_to_stand_outlives_the_attempt_that_opened_it() -> None:
    """A busy node accepts it later. Here the kernel accepts, and nobody ever says anything."""
    opened: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with meshcache.Client(address, timeout=0.9 * GREETING_S) as client:
            connection = client._channels._connection

            def counted(address: str) -> Any:
                opened.append(address)
                return connection(address)

            client._channels._connection = counted
            with pytest.raises(meshcache.MeshcacheError):
                client.get("k")
    assert len(opened) == 1


@pytest.mark.parametrize("awaited", [False, True])
def test_who_is_never_greeted_connects_anew_ever_more_seldom(
    awaited: bool, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greetings, "GREETING_S", 0.1)
    node.hook = lambda r: None if isinstance(r, Hello) else FakeNode.PASS

    async def main() -> meshcache.AsyncClient:
        async with meshcache.AsyncClient(node.address, timeout=1.5) as cache:
            with pytest.raises(meshcache.MeshcacheError):
                await cache.get("k")
            return cache

    if awaited:
        routing = run(main())._session.routing
    else:
        with meshcache.Client(node.address, timeout=1.5) as client, pytest.raises(meshcache.MeshcacheError):
            client.get("k")
        routing = client._session.routing
    assert routing.greetings.of(node.address).patience_s >= 0.4
    assert len(node.of(Hello)) <= 5
