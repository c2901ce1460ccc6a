"""Clients and errors go to other processes and come back; what can not says what to do instead."""

from __future__ import annotations

import asyncio
import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh
from keys_made import make_keys

import meshcache
from meshcache import AsyncClient, Client, ConfigError, NearCache, errors
from meshcache.client.aio.streams import AsyncSubscription
from meshcache.client.blocking.streams import Subscription
from meshcache.errors import MeshcacheError, QueueFull, QuorumNotReached, ValueTooLarge
from meshcache.protocol.messages import DEFAULT_LEVEL


class Rot13:
    def encode(self, value: Any) -> bytes:
        return bytes(value)[::-1]

    def decode(self, data: bytes) -> Any:
        return data[::-1]

    def __eq__(self, other: object) -> bool:
        return type(other) is Rot13

    __hash__ = None  # type: ignore[assignment]  # it is compared only


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as (node,):
        yield node


def described(client: Client | AsyncClient) -> list[Any]:
    """All that makes one client differ from another."""
    session = client._session
    options = session.options
    near: Any = "reads with a consistency of their own keep no copies"
    if options.r == DEFAULT_LEVEL:
        store = session.near
        near = (
            client._near_cache,
            store and (store.entries_max, store.ttl_s, store.only is None),
            store and store.used,
        )
    return [
        type(client),
        session.routing.seeds,
        options.prefix,
        options.timeout_s,
        options.ttl_ms,
        options.w,
        options.r,
        options.codec.chosen,
        (options.codec.compress, options.codec.compress_min_bytes),
        options.key_file,
        session.routing.key,
        session.cluster,
        near,
    ]


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"timeout": 0.5, "ttl": 60, "consistency": "quorum", "codec": "pickle", "namespace": "a:", "cluster": "shop"},
    {"ttl": None, "consistency": (2, 1), "namespace": b"\xff", "on_error": "miss", "hedge": True},
    {"ttl": 0.25, "near_cache": NearCache(max_entries=7, ttl=0.5)},
    {"near_cache": False, "codec": Rot13()},
    {"key_file": "web.secret"},
    {"compress": "zstd", "compress_min_bytes": 77},
    {"near_cache": True, "consistency": None, "codec": "msgpack"},
]
DERIVED: list[Callable[[Any], Any]] = [
    lambda client: client,
    lambda client: client.namespace("x:").namespace(b"y:"),
    lambda client: client.with_options(consistency="all", timeout=0.75, ttl=7, codec="pickle"),
    lambda client: client.with_options(consistency=(1, 2)).namespace("z:").with_options(ttl=None),
]


@pytest.fixture(autouse=True)
def with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file of a key, and go to where it is."""
    monkeypatch.chdir(make_keys(tmp_path, web="read"))


@pytest.mark.parametrize("make", [by_pickle, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("derive", DERIVED)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=",".join)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_comes_out_with_its_arguments(
    kind: Any, arguments: dict[str, Any], derive: Callable[[Any], Any], make: Callable[[Any], Any]
) -> None:
    seeds = "127.0.0.1:7001,127.0.0.1:7002"
    client = derive(kind(iter(seeds.split(",")), **arguments))
    other = make(client)
    assert described(other) == described(client)
    assert other._session.routing is not client._session.routing, "with connections of its own"
    assert other._owner


def test_what_a_url_or_the_environment_said_travels_along(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        "mesh://10.0.0.1:7001,10.0.0.2:7002/shop:?timeout=0.25&ttl=9&consistency=one&codec=pickle&cluster=c"
        "&compress=zstd&compress_min_bytes=99"
    )
    assert described(by_pickle(client)) == described(client)
    monkeypatch.setenv("MESHCACHE_SEEDS", "10.0.0.1:7001")
    client = Client()
    stored = pickle.dumps(client)
    monkeypatch.delenv("MESHCACHE_SEEDS")
    assert pickle.loads(stored)._session.routing.seeds == ("10.0.0.1:7001",)


def test_every_argument_of_a_client_is_looked_at() -> None:
    given = {name for arguments in ARGUMENTS for name in arguments}
    assert set(inspect.signature(Client).parameters) - {"seeds"} == given


def work(cache: Client, number: int) -> Any:
    with cache:
        return cache.incr("n", number)


def fail(error: Exception) -> None:
    raise error


def test_it_works_in_other_processes(node: FakeNode) -> None:
    spawn = multiprocessing.get_context("spawn")
    with Client(node.address, namespace="x:", timeout=20) as cache, ProcessPoolExecutor(2, spawn) as pool:
        assert cache.incr("n") == 1
        results = list(pool.map(work, [cache] * 3, [10, 100, 1000]))
        assert max(results) == 1111
        assert cache.get("n") == 1111
        with pytest.raises(QuorumNotReached) as caught:
            pool.submit(fail, QuorumNotReached(3, 1, "set b'k'")).result(30)
        assert (caught.value.needed, caught.value.received) == (3, 1)
        assert pool.submit(work, cache, 1).result(30) == 1112, "the pool goes on"


def test_a_client_for_asyncio_works_after_that(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncClient(node.address) as cache, by_pickle(cache) as other:
            await cache.set("k", 1)
            assert await other.get("k") == 1

    asyncio.run(main())


@pytest.mark.parametrize("make", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_can_not_be_pickled_says_what_to_do(node: FakeNode, make: Callable[[Any], Any]) -> None:
    with Client(node.address) as cache:
        things: dict[Any, str] = {
            cache.lock("job"): r"call its lock\(\) there",
            AsyncClient(node.address).lock("job"): r"call its lock\(\) there",
            object.__new__(Subscription): "subscribe there",
            object.__new__(AsyncSubscription): "subscribe there",
            object.__new__(meshcache.Node): "its config",
            meshcache.LocalMesh(): "its addresses",
        }
        for thing, advice in things.items():
            with pytest.raises(TypeError, match=f"can not be pickled or copied: .*{advice}"):
                make(thing)


ERRORS: list[MeshcacheError] = [
    ConfigError(["a: must be", "b: is not"]),
    ConfigError("a: must be"),
    QuorumNotReached(3, 1, "set b'k'"),
    ValueTooLarge(10_000, 5),
    QueueFull(10, 5),
    *[
        kind("what happened")
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, MeshcacheError)
        if kind not in {ConfigError, QuorumNotReached, ValueTooLarge, QueueFull}
    ],
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("make", [by_pickle, copy.copy, copy.deepcopy])
def test_errors_come_out_as_they_were(error: MeshcacheError, make: Callable[[Any], Any]) -> None:
    error.add_note("a note")
    other = make(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)
    assert other.__notes__ == error.__notes__
