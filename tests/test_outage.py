"""A cache that is down: calls fail at once, find out soon that it is back, and loaders run meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache import AsyncClient, Client
from meshcache.core.messages import Code, Get, Hello, Reject
from meshcache.rests import SHUT_S_MAX

DEADLINE_S = 30.0
SLACK_S = 1.0
"""What a machine that does other things may need in addition."""
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await main

    return asyncio.run(bounded())


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


@pytest.fixture
def dead() -> list[str]:
    """Addresses at which nobody listens."""
    with fake_mesh(2) as nodes:
        return [node.address for node in nodes]


def fails_at_once(call: Callable[[], Any]) -> str:
    """Fail 100 times, long before the 60 seconds that each call may take."""
    started = time.monotonic()
    text = ""
    for _ in range(100):
        with pytest.raises(meshcache.NodeUnavailable) as caught:
            call()
        text = str(caught.value)
    assert time.monotonic() - started < 100 * 0.05
    return text


def test_calls_fail_at_once_while_every_connection_is_refused(dead: list[str]) -> None:
    with Client(dead, timeout=60) as client:
        text = fails_at_once(lambda: client.get("k"))
        assert text.startswith("get 'k': no node serves")
        assert all(f"{address}: connection refused" in text for address in dead)
        fails_at_once(lambda: client.get_many(["a", "b"]))
        fails_at_once(lambda: client.incr("n"))
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(fails_at_once, lambda: client.get("k")) for _ in range(8)]:
                future.result()


def test_calls_of_tasks_fail_at_once_while_every_connection_is_refused(dead: list[str]) -> None:
    async def main() -> None:
        async with AsyncClient(dead, timeout=60) as cache:
            started = time.monotonic()
            for _ in range(10):
                results = await asyncio.gather(*(cache.get(f"k{i}") for i in range(100)), return_exceptions=True)
                assert {type(result) for result in results} == {meshcache.NodeUnavailable}
            assert time.monotonic() - started < 10

    run(main())


def test_a_node_that_is_back_is_found_within_the_backoff() -> None:
    """What begins later than the backoff after the node is back does not fail."""
    with fake_mesh(1) as (node,):
        port = node.port
        client = Client(node.address, timeout=60)
        client.get("k")
    fails_at_once(lambda: client.get("k"))
    back = FakeNode(port=port)
    back_at = failed_at = time.monotonic()
    try:
        while client_fails(client):
            failed_at = time.monotonic()
            assert failed_at < back_at + DEADLINE_S
        assert failed_at - back_at < SHUT_S_MAX + SLACK_S
        client.set("k", 1)
        assert client.get("k") == 1
    finally:
        client.close()
        back.stop()


def test_tasks_find_a_node_that_is_back_within_the_backoff() -> None:
    async def main() -> None:
        with fake_mesh(1) as (node,):
            port = node.port
            cache = AsyncClient(node.address, timeout=60)
            await cache.get("k")
        for _ in range(20):
            with pytest.raises(meshcache.NodeUnavailable):
                await cache.get("k")
        back = FakeNode(port=port)
        back_at = failed_at = time.monotonic()
        try:
            while meshcache.NodeUnavailable in map(type, await asyncio.gather(cache.get("k"), return_exceptions=True)):
                failed_at = time.monotonic()
            assert failed_at - back_at < SHUT_S_MAX + SLACK_S
            await cache.set("k", 1)
            assert await cache.get("k") == 1
        finally:
            await cache.close()
            back.stop()

    run(main())


def client_fails(client: Client) -> bool:
    try:
        client.get("k")
    except meshcache.NodeUnavailable:
        return True
    return False


@pytest.mark.parametrize("timeout", [0.02, 60])
def test_a_client_asks_a_node_that_is_not_ready_a_few_times_a_second(node: FakeNode, timeout: float) -> None:
    """However many threads it has: with eight there were four hundred questions a second, and a thousand."""

    def not_ready(request: Any) -> Any:
        return node.PASS if isinstance(request, Hello) else Reject(request.request, node.view(), [int(Code.NOT_READY)])

    node.hook = not_ready
    with Client(node.address, timeout=timeout) as client, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        until = began + 1.5

        def ask() -> None:
            while time.monotonic() < until:
                try:
                    client.get("k")
                except meshcache.OperationError:
                    continue

        asking = [pool.submit(ask) for _ in range(8)]
        wait_until(lambda: time.monotonic() >= until)
        asked, lasted = len(node.of(Get)), time.monotonic() - began
        node.hook = None
        for future in asking:
            future.result(DEADLINE_S)
    assert asked / lasted < 60


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
