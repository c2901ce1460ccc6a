"""What cannot be is refused by errors of meshcache, which are also what a Python programmer would guess."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache import errors
from meshcache.errors import ClientClosed, MeshcacheError, UsageError
from meshcache.local.processes import find_base_port

CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda cache: cache.get("k"),
    "gets": lambda cache: cache.gets("k"),
    "get_many": lambda cache: cache.get_many(["k"]),
    "set": lambda cache: cache.set("k", 1),
    "set_many": lambda cache: cache.set_many({"k": 1}),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many(["k"]),
    "invalidate": lambda cache: cache.invalidate("k"),
    "invalidate_tags": lambda cache: cache.invalidate_tags("t"),
    "invalidate_prefix": lambda cache: cache.invalidate_prefix("k"),
    "add": lambda cache: cache.add("k", 1),
    "replace": lambda cache: cache.replace("k", 1),
    "cas": lambda cache: cache.cas("k", 1, bytes(16)),
    "incr": lambda cache: cache.incr("k"),
    "decr": lambda cache: cache.decr("k"),
    "touch": lambda cache: cache.touch("k"),
    "exists": lambda cache: cache.exists("k"),
    "ttl": lambda cache: cache.ttl("k"),
    "get_or_set": lambda cache: cache.get_or_set("k", 1),
    "refresh": lambda cache: cache.refresh("k", 1),
    "lock": lambda cache: cache.lock("k").acquire(),
    "clear": lambda cache: cache.clear(),
    "subscribe": lambda cache: cache.subscribe("k"),
    "inspect": lambda cache: cache.inspect("view"),
    "leave": lambda cache: cache.leave("n1"),
    "forget": lambda cache: cache.forget("n1"),
}
NOT_CALLS = {"cached", "close", "namespace", "with_options", "near_statistics", "statistics"}


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as (node,):
        yield node


def test_every_operation_is_looked_at() -> None:
    public = {name for name, _ in inspect.getmembers(meshcache.Client, inspect.isfunction) if not name.startswith("_")}
    assert public - NOT_CALLS == set(CALLS)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_a_closed_client_says_so(node: FakeNode, name: str, known: bool) -> None:
    cache = meshcache.Client(node.address)
    derived = cache.namespace("x:")
    if known:
        cache.get("k")
    cache.close()
    cache.close()
    for client in (cache, derived):
        with pytest.raises(ClientClosed, match="client is closed") as caught:
            CALLS[name](client)
        assert isinstance(caught.value, MeshcacheError)
        assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("name", CALLS)
def test_so_does_one_for_asyncio(node: FakeNode, name: str) -> None:
    async def main() -> None:
        cache = meshcache.AsyncClient(node.address)
        await cache.get("k")
        await cache.close()
        await cache.close()
        with pytest.raises(ClientClosed, match="client is closed"):
            await once(cache)

    async def once(cache: meshcache.AsyncClient) -> None:
        call = CALLS[name](cache)
        await (call.__aenter__() if name == "subscribe" else call)

    asyncio.run(main())


def test_a_client_for_asyncio_says_that_it_belongs_to_another_loop(node: FakeNode) -> None:
    cache = meshcache.AsyncClient(node.address)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(cache.get("k"))
        with pytest.raises(UsageError, match="another event loop") as caught:
            second.run_until_complete(cache.get("k"))
        assert isinstance(caught.value, RuntimeError)
        first.run_until_complete(cache.close())
    finally:
        first.close()
        second.close()


def test_a_lock_that_is_held_says_so(node: FakeNode) -> None:
    with meshcache.Client(node.address) as cache:
        lock = cache.lock("job")
        with lock:
            for again in (lock.acquire, lock.__enter__):
                with pytest.raises(UsageError, match="holds it already"):
                    again()
            lock.extend()  # that it was refused has not cost it the lock
        with lock:
            pass


def test_a_node_runs_once() -> None:
    port = find_base_port(1)
    node = meshcache.Node(meshcache.Config.from_tables(node={"listen": f"127.0.0.1:{port}"}))
    with node:
        with pytest.raises(UsageError, match="make another Node"):
            node.start()
        with node.client() as cache:
            assert cache.get("k") is None
    with pytest.raises(UsageError, match="make another Node"):
        node.start()


def test_all_errors_are_in_one_tree_and_have_public_names() -> None:
    tree = {name: kind for name, kind in vars(errors).items() if getattr(kind, "__module__", "") == errors.__name__}
    assert len(tree) > 15
    for name, kind in tree.items():
        assert issubclass(kind, MeshcacheError)
        assert getattr(meshcache, name) is kind
        assert name in meshcache.__all__
        assert name in (errors.__doc__ or "")
