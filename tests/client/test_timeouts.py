"""Timeouts of any size: what is more than clocks, sockets and threads can wait counts as the most that they can."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache import AsyncClient, Client
from meshcache.client.arguments import milliseconds
from meshcache.config import Config
from meshcache.durations import TIMEOUT_S_MAX, seconds, waiting_s
from meshcache.node.poller import Inlets
from meshcache.protocol.record import NEVER_MS

LONG: list[Any] = [
    1e10,
    1e300,
    sys.float_info.max,
    sys.maxsize,
    1 << 63,
    10**400,
    2**31 / 1000,
    2 * threading.TIMEOUT_MAX,
    timedelta.max,
]


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


@pytest.mark.parametrize("timeout", LONG, ids=lambda each: type(each).__name__)
def test_a_long_timeout_counts_as_the_longest(timeout: Any) -> None:
    assert seconds(timeout) <= TIMEOUT_S_MAX
    assert waiting_s(timeout) == seconds(timeout)
    assert seconds(timeout) in {TIMEOUT_S_MAX, 2**31 / 1000}


def test_what_is_no_wait_at_all_and_what_has_no_end() -> None:
    assert waiting_s(None) is None
    assert waiting_s(0) == waiting_s(-1.5) == 0.0
    with pytest.raises(ValueError, match="timeout"):
        waiting_s(float("nan"))
    with pytest.raises(TypeError, match="timeout"):
        waiting_s("1")


@pytest.mark.parametrize("ttl", [1e10, 1e300, sys.float_info.max, sys.maxsize, 10**400, timedelta.max])
def test_a_long_lifetime_is_as_good_as_none(ttl: Any) -> None:
    assert 0 < milliseconds(ttl) <= NEVER_MS


@pytest.mark.parametrize("timeout", LONG, ids=lambda each: type(each).__name__)
def test_a_client_for_threads_takes_any_timeout(node: FakeNode, timeout: Any) -> None:
    with Client(node.address, timeout=timeout) as cache:
        cache.set("k", 1, ttl=timeout, timeout=timeout)
        assert cache.get("k", timeout=timeout) == 1
        assert cache.get_many(["k"], timeout=timeout) == {"k": 1}
        assert cache.incr("n", ttl=timeout, timeout=timeout) == 1
        assert cache.get_or_set("x", 2, ttl=timeout, stale_ttl=timeout, timeout=timeout) == 2
        assert cache.get_or_set("x", 3, ttl=timeout, stale_ttl=timeout, timeout=timeout) == 2
        with cache.lock("l", ttl=timeout, timeout=timeout):
            pass
        assert cache.with_options(timeout=timeout, ttl=timeout).get("k") == 1
    with Client(f"mesh://{node.address}/?timeout=1e300&ttl=1e300") as cache:
        cache.set("k", 1)
        assert cache.get("k") == 1


@pytest.mark.parametrize("timeout", LONG, ids=lambda each: type(each).__name__)
def test_a_client_for_asyncio_takes_any_timeout(node: FakeNode, timeout: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), AsyncClient(node.address, timeout=timeout) as cache:
            assert await cache.get("k", timeout=timeout) is None
            await cache.set("k", 1, ttl=timeout, timeout=timeout)
            found = await asyncio.gather(cache.get("k"), cache.get("k", timeout=timeout), cache.get_many(["k"]))
            assert list(found) == [1, 1, {"k": 1}]
            assert await cache.incr("n", ttl=timeout, timeout=timeout) == 1
            assert await cache.get_or_set("x", 2, ttl=timeout, stale_ttl=timeout, timeout=timeout) == 2
            async with cache.lock("l", ttl=timeout, timeout=timeout):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [1e300, sys.maxsize])
def test_waits_for_events_nodes_and_meshes_take_any_timeout(timeout: Any) -> None:
    long = {"probe_interval_s": 1e300, "gossip_interval_s": 1e300, "sync_interval_s": 1e300, "ack_timeout_s": 1e300}
    with fake_mesh(1) as (free,):
        address = free.address
    tables: dict[str, Any] = {"node": {"listen": address}, "cluster": {"replicas": 1, "write_quorum": 1}}
    node = meshcache.Node(Config.from_tables(**tables)).start(timeout_s=timeout)
    try:
        with node.client() as cache, cache.subscribe(timeout=timeout) as events:
            cache.set("k", 1)
            event = events.wait(timeout=timeout)
            assert event is not None
            assert event.key == "k"

        async def main() -> None:
            async with AsyncClient(address) as cache, cache.subscribe(timeout=timeout) as events:
                await cache.set("k", 1)
                assert await events.wait(timeout=timeout) is not None

        asyncio.run(main())
    finally:
        node.stop(timeout_s=timeout)
    patient = meshcache.Node(Config.from_tables(**tables, membership=long)).start(timeout_s=timeout)
    patient.drain(timeout_s=timeout)


def test_no_wait_of_a_node_is_longer_than_the_kernel_takes() -> None:
    inlets = Inlets()
    reader, writer = os.pipe()
    try:
        inlets.watch(reader)
        os.write(writer, b"x")
        assert inlets.wait(1e300) == []
    finally:
        inlets.close()
        os.close(reader)
        os.close(writer)
