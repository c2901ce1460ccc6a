"""Nodes that come and go under new names leave nothing behind in the clients that have seen them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from timing import eventually

from meshcache import AsyncClient, Client, LocalMesh

pytestmark = pytest.mark.process

KEYS = [f"k{number}" for number in range(64)]


THREADS = 3


def channels_to(cache: Client, address: str) -> int:
    """Return how many of a client's channels have a socket to an address."""
    return sum(address in channel._sockets for channel in cache._channels._pool.channels)


def read_in_all_threads(cache: Client) -> None:
    """Have so many threads read at the same time that each needs a channel of its own."""
    together = threading.Barrier(THREADS)

    def read() -> None:
        together.wait(10)
        for _ in range(20):
            cache.get_many(KEYS)

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def has_met(cache: Client, address: str) -> bool:
    read_in_all_threads(cache)
    return channels_to(cache, address) == len(cache._channels._pool.channels) >= 2


def has_seen_leave(cache: Client, address: str) -> bool:
    cache.get_many(KEYS)
    return address not in {node.address for node in cache.statistics().nodes.values()}


def test_a_client_for_threads_closes_its_connections_to_nodes_that_have_left() -> None:
    with LocalMesh(nodes=1, cluster={"replicas": 1, "write_quorum": 1}) as mesh, Client(mesh.addresses) as cache:
        left: list[str] = []
        for _ in range(3):
            guest = mesh.add()
            mesh.wait_ready()
            address = mesh.addresses[-1]
            eventually(partial(has_met, cache, address))
            assert [channels_to(cache, gone) for gone in left] == [0] * len(left)
            mesh.stop(guest)
            eventually(partial(has_seen_leave, cache, address))
            left.append(address)
        assert cache._session.routing.rests.failures(left) == {}


def test_so_does_a_client_for_asyncio() -> None:
    async def has_met_in_loop(cache: AsyncClient, address: str) -> bool:
        await cache.get_many(KEYS)
        return address in cache._hub.here()._sockets

    async def has_seen_leave_in_loop(cache: AsyncClient, address: str) -> bool:
        await cache.get_many(KEYS)
        return address not in {node.address for node in cache.statistics().nodes.values()}

    async def until(condition: Callable[[AsyncClient, str], Awaitable[bool]], cache: AsyncClient, address: str) -> None:
        async with asyncio.timeout(20):
            while not await condition(cache, address):
                pass

    async def meet(mesh: LocalMesh) -> None:
        left: list[str] = []
        async with AsyncClient(mesh.addresses) as cache:
            for _ in range(3):
                guest = await asyncio.to_thread(mesh.add)
                await asyncio.to_thread(mesh.wait_ready)
                address = mesh.addresses[-1]
                await until(has_met_in_loop, cache, address)
                assert not left or not set(left) & set(cache._hub.here()._sockets)
                await asyncio.to_thread(mesh.stop, guest)
                await until(has_seen_leave_in_loop, cache, address)
                left.append(address)

    with LocalMesh(nodes=1, cluster={"replicas": 1, "write_quorum": 1}) as mesh:
        asyncio.run(meet(mesh))
