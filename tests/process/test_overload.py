"""Many callers in one program: what its own slowness must not be taken for, and that their number breaks nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache import AsyncClient, Client
from meshcache.client.aio.connections import PARKED_MAX, UNDER_WAY_MAX
from meshcache.client.aio.outcomes import CALLS_PER_TURN
from meshcache.client.connection import Call, Connection, Request, Unsendable
from meshcache.protocol.messages import Change, Clear, Get, Hello, Inspect, Set, Update

CALLERS = Path(__file__).parents[2] / "scripts" / "faults" / "callers.py"
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(bounded())


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (the condition lives in the fake node's thread)
            await asyncio.sleep(0.001)


def wire_of(cache: AsyncClient) -> Any:
    assert cache._hub._mux is not None
    (wire,) = cache._hub._mux._sockets.values()
    return wire


def is_trusted(cache: AsyncClient) -> bool:
    (peer,) = cache._session.routing.peers.values()
    return peer.breaker.is_closed and not peer.doubted_until and sum(bucket[2] for bucket in peer.breaker.buckets) == 0


# ---- asyncio: a loop that is too busy


def test_a_crowd_waits_for_one_greeting(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=20) as cache:
            assert await asyncio.gather(*[cache.get(f"k{i}") for i in range(2000)]) == [None] * 2000
            assert node.hellos == 1
            assert len(node.of(Inspect)) <= 2000 // 256 + 1
            assert len(node.of(Get)) <= 2000 // 256 + 1

    run(main())


def test_what_was_answered_while_the_loop_stood_still_is_delivered(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=2.0) as cache:
            await cache.set("k", 1, timeout=20)
            hellos = node.hellos
            task = asyncio.create_task(cache.get("k"))
            await until(lambda: bool(node.of(Get)))
            time.sleep(2.2)  # noqa: ASYNC251  (this is what is tested)
            assert await task == 1
            assert is_trusted(cache)
            assert await cache.get("k") == 1
            assert node.hellos == hellos

    run(main())


def test_a_call_that_the_loop_left_no_time_is_not_sent_and_speaks_against_no_node(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=5) as cache:
            await cache.set("k", 1)
            hellos = node.hellos
            late = asyncio.create_task(cache.incr("k", timeout=0.1))
            patient = asyncio.create_task(cache.get("k"))
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)  # after both were posted, before they are sent
            assert await patient == 1
            with pytest.raises(meshcache.OperationTimeout, match="no time was left to send it"):
                await late
            assert not node.of(Update)
            assert is_trusted(cache)
            assert node.hellos == hellos

    run(main())


def test_an_attempt_counts_from_when_it_leaves(node: FakeNode) -> None:
    """Of a timeout of 10 s an attempt may take 1 s: the loop's own delay is no part of it."""

    async def main() -> None:
        async with AsyncClient(node.address, timeout=10.0) as cache:
            await cache.set("k", 1)
            task = asyncio.create_task(cache.get("k"))
            await asyncio.sleep(0)
            time.sleep(1.2)  # noqa: ASYNC251  (this is what is tested)
            assert await task == 1
            assert len(node.of(Get)) == 1
            assert is_trusted(cache)

    run(main())


def test_a_greeting_that_the_loop_read_late_does_not_make_requests_late(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By half the time until it was read the node's clock would be wrong: by more than an attempt may take."""
    hello = Connection.hello
    stands_still = threading.Event()

    def stand_still() -> None:
        stands_still.set()
        time.sleep(2.2)

    def hello_of_a_busy_loop(self: Connection) -> bytes:
        if not stands_still.is_set():
            asyncio.get_running_loop().call_soon(stand_still)
        return hello(self)

    def answer_meanwhile(_: Any) -> Any:
        stands_still.wait(20)
        return FakeNode.PASS

    async def main() -> None:
        monkeypatch.setattr(Connection, "hello", hello_of_a_busy_loop)
        node.hook = answer_meanwhile
        async with AsyncClient(node.address, timeout=10.0) as cache:
            assert await cache.get("k") is None
            assert len(node.of(Get)) == 1
            await until(lambda: not wire_of(cache)._connection.is_clock_vague)
            assert node.hellos >= 2  # it was asked for the time once more
            assert await cache.get("k") is None
            assert is_trusted(cache)

    run(main())


def test_a_greeting_that_never_comes_is_asked_for_on_a_new_connection(node: FakeNode) -> None:
    ignored: list[Any] = []

    def ignore(request: Any) -> Any:
        if isinstance(request, Hello) and not ignored:
            ignored.append(request)
            return None
        return FakeNode.PASS

    async def main() -> None:
        node.hook = ignore
        async with AsyncClient(node.address, timeout=10.0) as cache:
            assert await cache.get("k") is None
            assert ignored

    run(main())


def test_one_turn_of_the_loop_wakes_no_more_callers_than_it_has_time_for(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=20) as cache:
            await cache.set("k", 1)
            turn = 0
            woken: Counter[int] = Counter()

            async def caller(i: int) -> None:
                with suppress(meshcache.OperationTimeout):
                    await cache.get("k", timeout=0.3 if i % 2 else 20)
                woken[turn] += 1

            async def count() -> None:
                nonlocal turn
                while woken.total() < 4000:
                    turn += 1
                    await asyncio.sleep(0)

            node.hook = lambda r: None if isinstance(r, Get) and len(node.of(Get)) < 10 else FakeNode.PASS
            counting = asyncio.create_task(count())
            await asyncio.gather(*[caller(i) for i in range(4000)])
            await counting
            assert max(woken.values()) <= 3 * CALLS_PER_TURN

    run(main())


def test_thousands_of_changes_of_one_key_neither_break_the_link_nor_get_lost(node: FakeNode) -> None:
    """Each needs a message of its own, and more of them than a socket's queue takes would look like a broken link."""

    async def main() -> None:
        async with AsyncClient(node.address, timeout=60) as cache:
            found = await asyncio.gather(*[cache.incr("n") for _ in range(4000)])
            assert sorted(found) == list(range(1, 4001))
            assert node.hellos == 1

    run(main())


def test_only_so_many_requests_are_under_way_and_whose_time_is_over_is_never_sent(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=20) as cache:
            await cache.set("k", 1)
            node.pause()
            # Those that wait have less time: when the first ones give way, nothing may be sent in their place.
            timeouts = [3.0 if i < UNDER_WAY_MAX else 2.5 for i in range(3000)]
            crowd = [asyncio.create_task(cache.incr("n", timeout=timeout)) for timeout in timeouts]
            await until(lambda: len(wire_of(cache).under_way) == UNDER_WAY_MAX)
            failed = Counter(type(error) for error in await asyncio.gather(*crowd, return_exceptions=True))
            assert failed == {meshcache.OperationTimeout: 3000}
            node.resume()
            assert await cache.get("k") == 1
            assert len(node.of(Update)) <= UNDER_WAY_MAX
            assert await cache.incr("n") == 1  # what came too late was not executed

    run(main())


def test_what_was_cancelled_before_it_could_be_sent_is_not_executed(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=60) as cache:
            await cache.set("k", 1)
            node.pause()
            crowd = [asyncio.create_task(cache.incr("n")) for _ in range(UNDER_WAY_MAX + 100)]
            await until(lambda: len(wire_of(cache).under_way) == UNDER_WAY_MAX)
            for task in crowd[UNDER_WAY_MAX:]:
                task.cancel()
            node.resume()
            found = await asyncio.gather(*crowd, return_exceptions=True)
            assert sum(isinstance(each, asyncio.CancelledError) for each in found) == 100
            assert await cache.incr("n") == UNDER_WAY_MAX + 1

    run(main())


def test_callers_that_are_parked_do_not_keep_others_from_being_served(node: FakeNode) -> None:
    parked: list[Any] = []

    def park(request: Any) -> Any:
        if isinstance(request, Update) and request.changes[0][0] == Change.LEASE:
            parked.append(request)
            return None
        return FakeNode.PASS

    async def main() -> None:
        async with AsyncClient(node.address, timeout=20) as cache:
            await cache.set("k", 1)
            node.hook = park
            crowd = [asyncio.create_task(cache.get_or_set(f"missing{i}", 1)) for i in range(PARKED_MAX + 50)]
            await until(lambda: len(parked) >= PARKED_MAX)
            assert await cache.get("k", timeout=10) == 1
            assert await cache.incr("n") == 1
            assert node.hellos == 1
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)

    run(main())


# ---- failures are cheap


def test_failed_calls_leave_no_circles_to_the_collector(node: FakeNode) -> None:
    def calls(cache: Any) -> list[Callable[[], Any]]:
        return [
            lambda: cache.get("k"),
            lambda: cache.get_many(["a", "b"]),
            lambda: cache.set("k", 1),
            lambda: cache.incr("k"),
            lambda: cache.delete_many(["a", "b"]),
            cache.clear,
        ]

    async def fail(call: Callable[[], Any]) -> None:
        try:
            await call()
        except meshcache.OperationError:
            return
        raise AssertionError("it was to fail")

    async def main() -> None:
        async with AsyncClient(node.address, timeout=0.05) as cache:
            await cache.get("k", timeout=20)
            node.pause()
            for call in calls(cache):
                await fail(call)
                gc.collect()
                await fail(call)
                await fail(call)
                assert gc.collect() < 10, "two failures left circles"

    gc.disable()
    try:
        run(main())
        node.resume()
        with Client(node.address, timeout=0.05) as cache:
            cache.get("k", timeout=20)
            node.pause()
            for call in calls(cache):
                with suppress(meshcache.OperationError):
                    call()
                gc.collect()
                with suppress(meshcache.OperationError):
                    call()
                assert gc.collect() < 10, "a failure left circles"
    finally:
        gc.enable()


# ---- what can not be encoded


def a_call(node: FakeNode, kind: Any, options: tuple[Any, ...], keys: list[Any], payloads: list[Any] | None) -> Call:
    request = Request("test", kind, options, keys, [], payloads)
    return Call(node.address, request, time.monotonic() + 20, 20.0, 1)


BAD_CALLS: list[tuple[Any, tuple[Any, ...], list[Any], list[Any] | None]] = [
    (Set, (0, 0), [b"bad"], [object()]),
    (Set, (0, 0), [b"bad"], ["\ud800"]),
    (Set, (0, 1 << 70), [b"bad"], [b"\0\0"]),
    (Set, (0, 0, 0, 0), [b"bad"], [b"\0\0"]),
    (Get, (0, 0, object()), [b"bad"], None),
    (Get, (0, 0, False), [1 << 70], None),
    (Clear, (1 << 4000,), [], None),
    (Update, (0, 0, 0), [b"bad"], [[int(Change.INCR), 1 << 64, None, 0]]),
]


@pytest.mark.parametrize("bad", BAD_CALLS, ids=str)
def test_what_can_not_be_encoded_fails_alone(node: FakeNode, bad: Any) -> None:
    kind, options, keys, payloads = bad

    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set("k", 1)
            post = cache._hub.post
            good_payloads = [[int(Change.TOUCH), 0]] if kind is Update else [b"\0\0"] if payloads else None
            before = post(a_call(node, kind, options, [b"a"] if keys else [], good_payloads))
            broken = post(a_call(node, kind, options, keys, payloads))
            other = post(a_call(node, Get, (0, 0, False), [b"k"], None))
            async with asyncio.timeout(10):
                assert isinstance(await broken, Unsendable)
                assert isinstance(await other, list)
                await before
            assert await cache.get("k") == 1
            assert node.hellos == 1

    run(main())
    with Client(node.address) as client:
        client.set("k", 1)
        hellos = node.hellos
        good = a_call(node, Get, (0, 0, False), [b"k"], None)
        found = client._channels.exchange([good, a_call(node, kind, options, keys, payloads), good])
        assert [isinstance(each, Unsendable) for each in found] == [False, True, False]
        assert isinstance(client._channels.exchange([a_call(node, kind, options, keys, payloads)])[0], Unsendable)
        assert client.get("k") == 1
        assert node.hellos == hellos


# ---- threads


def test_no_thread_of_a_crowd_starves(node: FakeNode) -> None:
    def slow(request: Any) -> Any:
        if isinstance(request, Get):
            time.sleep(0.0005)
        return FakeNode.PASS

    with Client(node.address, timeout=60) as client:
        client.set("k", 1)
        node.hook = slow
        served: Counter[int] = Counter()
        everyone = threading.Event()

        def caller(number: int) -> None:
            while not everyone.is_set():
                client.get("k")
                served[number] += 1
                if served[number] == 5 and min(served.values()) >= 5 and len(served) == 100:
                    everyone.set()

        with ThreadPoolExecutor(100) as pool:
            list(pool.map(caller, range(100), timeout=60))
        assert min(served.values()) >= 5


def test_what_came_while_a_thread_waited_for_its_turn_is_not_late(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(node.address, timeout=2.0) as client:
        client.set("k", 1, timeout=20)
        (channel,) = client._channels._pool.free
        (wire,) = channel._sockets.values()
        on_time = wire.receive
        starved: list[float] = []

        def receive() -> Any:
            if not starved:
                starved.append(time.monotonic())
                until = time.monotonic() + 2.2
                while time.monotonic() < until and not wire.socket.poll(int(1000 * (until - time.monotonic()))):
                    pass
                time.sleep(max(0.0, until - time.monotonic()))
                raise zmq.Again
            return on_time()

        monkeypatch.setattr(wire, "receive", receive)
        assert client.get("k") == 1
        assert starved
        assert wire.connection.ready


# ---- real nodes


def crowd(mesh: meshcache.LocalMesh, kind: str, count: int, timeout_s: float, seconds: float) -> tuple[int, int]:
    addresses = ",".join(mesh.addresses)
    command = [sys.executable, str(CALLERS), addresses, kind, str(count), "get", str(timeout_s), str(seconds)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return sum(found["succeeded"].values()), sum(found["failed"].values())


@pytest.mark.process
@pytest.mark.parametrize(("kind", "count", "timeout_s"), [("tasks", 10_000, 2.0), ("threads", 300, 2.0)])
def test_a_crowd_on_a_fresh_client_is_served(kind: str, count: int, timeout_s: float) -> None:
    with meshcache.LocalMesh(nodes=1, cluster={"replicas": 1, "write_quorum": 1}) as mesh:
        for seconds in (4, 12, 36):  # beside many busy processes it takes a while to start so many at all
            served, failed = crowd(mesh, kind, count, timeout_s, seconds)
            if served >= 2 * count and served > failed:
                return
    pytest.fail(f"in {seconds} s {served:,} calls were served and {failed:,} failed")
