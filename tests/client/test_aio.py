from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from fake_node import FakeNode, fake_mesh
from timing import takes_awaited

import meshcache
from meshcache import AsyncClient, Client
from meshcache.protocol.messages import BATCH_OPS_MAX, Code, Get, Hello, Reject, Reply, Set, Update

OVERRUN_S = 0.05
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main

    return asyncio.run(bounded())


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


async def elapsed(call: Awaitable[Any], error: type[Exception]) -> float:
    started = time.monotonic()
    with pytest.raises(error):
        await call
    return time.monotonic() - started


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (the condition lives in the fake node's thread)
            await asyncio.sleep(0)


def test_the_same_operations_awaited(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set("k", {"a": (1,)}, ttl=60)
            assert await cache.get("k") == {"a": (1,)}
            assert await cache.get("missing", default=3) == 3
            assert await cache.set_many({"a": 1, "b": 2}) == []
            assert await cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
            assert await cache.delete_many(["a", "b", "c"]) == 2
            assert await cache.add("n", 1)
            assert await cache.replace("n", 2)
            assert await cache.incr("n") == 3
            assert await cache.decr("n", 2) == 1
            item = await cache.gets("n")
            assert item is not None
            assert await cache.cas("n", 9, item.version)
            assert await cache.touch("n", 5)
            assert 4 < (await cache.ttl("n") or 0) <= 5.1
            assert await cache.exists("n")
            assert await cache.delete("n")
            assert await cache.invalidate("n") == 0
            assert (await cache.inspect("status", node="n1"))["node"] == "n1"
            users = cache.namespace("users:")
            await users.set("a", 1)
            await users.close()
            assert await cache.get("users:a") == 1
            assert await users.clear() == 1
            await users.set("tagged", 1, tags=["t"])
            await users.set_many({"a": 1, "b": 2}, tags=["t", "u"])
            assert await cache.invalidate_tags("t") == 0
            assert await users.invalidate_tags("u") == 2
            assert await users.get_many(["a", "b", "tagged"]) == {"tagged": 1}
            assert await users.add("added", 1, tags=["t"])
            assert await users.replace("added", 2, tags=["t", "v"])
            assert await users.invalidate_tags("t", "v") == 2
            with pytest.raises(meshcache.KeyMissing):
                await cache.incr("absent", initial=None)

    run(main())


def test_sixty_four_gets_of_one_turn_are_one_message(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set_many({f"k{i}": i for i in range(64)})
            node.requests.clear()
            assert await asyncio.gather(*[cache.get(f"k{i}") for i in range(64)]) == list(range(64))
            assert [len(request.keys) for request in node.of(Get)] == [64]
            await asyncio.gather(*[cache.set(f"k{i}", i, ttl=i // 32 + 1) for i in range(64)])
            assert sorted((request.ttl_ms, len(request.keys)) for request in node.of(Set)) == [(1000, 32), (2000, 32)]
            await asyncio.gather(*[cache.get("k1"), cache.get_many(["k2", "k3"]), cache.exists("k4"), cache.incr("k5")])
            assert [len(request.keys) for request in node.requests[-3:]] == [3, 1, 1]

    run(main())


def test_one_message_carries_no_more_than_it_may(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set("k", 1)
            node.requests.clear()
            await asyncio.gather(*[cache.get_many([f"k{i}" for i in range(3000)]) for _ in range(3)])
            assert [len(request.keys) for request in node.of(Get)] == [3000] * 3
            assert max(len(request.keys) for request in node.of(Get)) <= BATCH_OPS_MAX
            await asyncio.gather(*[cache.set(f"k{i}", b"x" * 500_000) for i in range(10)])
            assert max(sum(map(len, request.contents)) for request in node.of(Set)) <= 2 << 20

    run(main())


def test_two_increments_of_one_turn_both_count(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            assert sorted(await asyncio.gather(*[cache.incr("n") for _ in range(5)])) == [1, 2, 3, 4, 5]
            assert all(len(set(request.keys)) == len(request.keys) for request in node.of(Update))

    run(main())


def test_a_cancelled_call_does_not_disturb_the_others(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set_many({f"k{i}": i for i in range(20)})
            for victim in range(20):
                tasks = [asyncio.create_task(cache.get(f"k{i}")) for i in range(20)]
                await asyncio.sleep(0)
                tasks[victim].cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                assert isinstance(found[victim], asyncio.CancelledError)
                assert [x for i, x in enumerate(found) if i != victim] == [i for i in range(20) if i != victim]
            held: list[Any] = []
            node.hook = lambda r: held.append(r) if isinstance(r, Get) and r.keys == [b"k1"] else FakeNode.PASS
            task = asyncio.create_task(cache.get("k1"))
            await until(lambda: bool(held))
            task.cancel()
            assert await cache.get("k2") == 2
            node.hook = None
            assert await cache.get("k1") == 1

    run(main())


def test_a_caller_that_gives_up_by_asyncio_timeout_gets_nothing_later(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set_many({"a": "A", "b": "B"})
            node.pause()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await cache.get("a")
            node.resume()
            assert list(await asyncio.gather(cache.get("b"), cache.get("a"))) == ["B", "A"]

    run(main())


def test_silence_ends_at_the_deadline(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set("k", 1)
            node.pause()
            for timeout in (0.05, 0.3, 1.0):
                await takes_awaited(
                    lambda: elapsed(cache.get("k", timeout=timeout), meshcache.OperationTimeout),  # noqa: B023
                    least_s=timeout - 0.01,
                    most_s=timeout + OVERRUN_S,
                )
            await takes_awaited(lambda: elapsed(cache.incr("k", timeout=0.2), TimeoutError), most_s=0.2 + OVERRUN_S)
            node.resume()
            assert await cache.get("k") == 1
        node.pause()
        async with AsyncClient(node.address, timeout=0.3) as cache:
            await takes_awaited(lambda: elapsed(cache.get("k"), TimeoutError), most_s=0.3 + OVERRUN_S)

    run(main())


def test_failover_from_a_silent_node_costs_all_callers_one_attempt_then_nothing() -> None:
    later_s: list[float] = []

    async def failover_s() -> float:
        with fake_mesh(3) as nodes:
            async with AsyncClient([n.address for n in nodes], timeout=3.0) as cache:
                await cache.set("k", 1)
                owner = cache._session.routing.ring.preference_list(b"k")[0]
                next(n for n in nodes if n.node_id == owner).pause()
                started = time.monotonic()
                assert await asyncio.gather(*[cache.get("k") for _ in range(5)]) == [1] * 5
                middle = time.monotonic()
                assert await asyncio.gather(*[cache.get("k") for _ in range(5)]) == [1] * 5
                later_s.append(time.monotonic() - middle)
                return middle - started

    async def afterwards_s() -> float:
        if not later_s:
            await failover_s()
        return later_s.pop()

    async def main() -> None:
        await takes_awaited(failover_s, least_s=0.25, most_s=0.7)
        await takes_awaited(afterwards_s, most_s=0.25)

    run(main())


def test_failover_and_a_node_that_comes_back() -> None:
    async def main() -> None:
        with fake_mesh(3) as nodes:
            async with AsyncClient([n.address for n in nodes], timeout=20.0) as cache:
                await cache.set("k", 1)
                routing = cache._session.routing
                first = next(n for n in nodes if n.node_id == routing.ring.preference_list(b"k")[0])
                first.stop()
                assert await cache.get_many(["k"]) == {"k": 1}
                again = FakeNode(first.node_id, port=first.port, data=first.data)
                try:
                    again.boot = 2000
                    everyone = [n.fact() for n in nodes if n is not first] + [again.fact()]
                    for node in [*nodes, again]:
                        node.members = everyone
                    routing.learn(everyone, routing.clock())
                    assert await cache.incr("n") == 1
                    while not again.of(Get):  # it is left alone for a moment after it refused a connection
                        assert await cache.get("k") == 1
                finally:
                    again.stop()

    run(main())


def test_a_link_that_breaks_is_noticed_at_once(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, timeout=20.0) as cache:
            await cache.set("k", 1)
            arrived = threading.Event()
            node.hook = lambda request: arrived.set() if isinstance(request, Update) else FakeNode.PASS
            task = asyncio.create_task(elapsed(cache.incr("k"), meshcache.NodeUnavailable))
            await until(arrived.is_set)
            await asyncio.to_thread(node.stop)
            assert await task < 10.0

    run(main())


def test_stale_boot_rejection_and_garbage(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            await cache.set("n", 1)
            node.boot = 4321
            assert await cache.incr("n") == 2
            assert (node.hellos, node.requests[-1].boot) == (2, 4321)
            rejects = [1, 2]
            node.hook = lambda r: (
                Reject(r.request, node.view(), [int(Code.OVERLOADED)])
                if isinstance(r, Update) and rejects and rejects.pop()
                else FakeNode.PASS
            )
            assert await cache.incr("n") == 3
            node.hook = lambda r: FakeNode.PASS if isinstance(r, Hello) else b"\xc1"
            with pytest.raises(meshcache.OperationError, match="protocol"):
                await cache.get("n", timeout=0.3)
            node.hook = lambda r: Reply(r.request, b"", []) if isinstance(r, Get) else FakeNode.PASS
            with pytest.raises(meshcache.OperationError, match="0 results for 1 keys"):
                await cache.get("n", timeout=0.3)
            node.hook = None
            assert await cache.get("n") == 3

    run(main())


def test_nobody_there() -> None:
    async def main() -> None:
        with fake_mesh(1) as (node,):
            address = node.address
        async with AsyncClient(address, timeout=0.3) as cache:
            await takes_awaited(lambda: elapsed(cache.get("k"), ConnectionError), most_s=0.3 + OVERRUN_S)
        async with AsyncClient("no-such-host.invalid", timeout=0.5) as cache:
            with pytest.raises(meshcache.OperationError, match="no-such-host"):
                await cache.get("k")

    run(main())


def test_another_cluster_is_refused(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address, cluster="other", timeout=60) as cache:
            with pytest.raises(meshcache.ConfigError, match=r"get 'k': .* cluster 'test', not 'other'"):
                await cache.get("k")

    run(main())


def test_tasks_share_one_load_and_cancelling_one_does_not_stop_it(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            loads = []
            release = asyncio.Event()

            async def load() -> str:
                loads.append(1)
                await release.wait()
                return "value"

            tasks = [asyncio.create_task(cache.get_or_set("k", load)) for _ in range(5)]
            await until(lambda: bool(loads))
            tasks[0].cancel()
            release.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(found[0], asyncio.CancelledError)
            assert (found[1:], len(loads)) == (["value"] * 4, 1)
            assert await cache.get("k") == "value"
            assert await cache.get_or_set("plain", lambda: 5) == 5
            assert await cache.get_or_set("value", 6, ttl=5) == 6
            with pytest.raises(ZeroDivisionError):
                await cache.get_or_set("bad", lambda: 1 // 0)
            assert await cache.get_or_set("bad", 7) == 7

    run(main())


def test_large_replies_and_many_keys(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache:
            values = {f"k{i}": bytes([i]) * 200_000 for i in range(40)}
            assert await cache.set_many(values) == []
            assert max(sum(map(len, request.contents)) for request in node.of(Set)) <= 1 << 20
            assert await cache.get_many(list(values)) == values
            first, *rest = [len(request.keys) for request in node.of(Get)]
            assert first == 40
            assert set(rest) == {3, 4}  # parts are not joined to one message again
            many = {f"n{i}": i for i in range(10_000)}
            assert await cache.set_many(many) == []
            assert await cache.get_many(many) == many

    run(main())


def test_many_loops_one_after_another_and_none_at_once(node: FakeNode) -> None:
    cache = AsyncClient(node.address)
    run(cache.set("k", 1))
    assert run(cache.get("k")) == 1

    async def main() -> None:
        assert await cache.get("k") == 1
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(cache.get("k")))
        await cache.close()
        await cache.close()
        with pytest.raises(RuntimeError, match="closed"):
            await cache.get("k")

    run(main())


def test_closing_while_calls_wait_ends_them(node: FakeNode) -> None:
    async def main() -> None:
        cache = AsyncClient(node.address)
        await cache.set("k", 1)
        node.pause()
        task = asyncio.create_task(cache.get("k"))
        await until(lambda: bool(cache._hub._mux and any(one.under_way for one in cache._hub._mux._sockets.values())))
        await cache.close()
        with pytest.raises(RuntimeError, match="closed"):
            await task

    run(main())


def test_a_client_left_to_the_collector_closes_quietly(node: FakeNode) -> None:
    contexts = []

    async def main() -> Any:
        cache = AsyncClient(node.address)
        await cache.set("k", 1)
        assert cache._hub._mux is not None
        contexts.append(cache._hub._mux.context())
        return weakref.ref(cache)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gone = run(main())
        gc.collect()
    assert gone() is None
    assert contexts[0].closed


def _in_child(cache: AsyncClient, pipe: Any) -> None:
    async def main() -> Any:
        await cache.set("child", 1)
        found = await cache.get("parent")
        await cache.close()
        return found

    pipe.send(asyncio.run(main()))


def test_parent_and_child_work_after_a_fork(node: FakeNode) -> None:
    cache = AsyncClient(node.address)
    run(cache.set("parent", 1))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(cache, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is what is tested
        child.start()
    assert ours.poll(20)
    assert ours.recv() == 1
    child.join(20)
    assert child.exitcode == 0
    assert run(cache.get("child")) == 1
    run(cache.close())


def test_both_clients_read_what_the_other_wrote(node: FakeNode) -> None:
    async def main() -> Any:
        async with AsyncClient(node.address) as cache:
            found = await cache.get("k")
            await cache.set("k", [found])
            return found

    with Client(node.address) as cache:
        cache.set("k", "v")
        assert run(main()) == "v"
        assert cache.get("k") == ["v"]
