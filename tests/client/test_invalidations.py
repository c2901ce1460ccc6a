"""Near caches and subscriptions of both clients, over real nodes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from fake_node import fake_mesh

from meshcache import (
    AsyncClient,
    Client,
    ConfigError,
    Invalidation,
    InvalidationKind,
    LocalMesh,
    NearCache,
    OperationTimeout,
)

T = TypeVar("T")
LONG = NearCache(ttl=60.0)
"""So that a test which passes has its invalidation to thank, and no expiry."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=3) as mesh:
        yield mesh


@pytest.fixture
def writer(mesh: LocalMesh) -> Iterator[Client]:
    with Client(mesh.addresses) as client:
        client.clear()
        yield client


@pytest.fixture
def near(mesh: LocalMesh, writer: Client) -> Iterator[Client]:
    with Client(mesh.addresses, near_cache=LONG) as client:
        client.get("any")
        until(lambda: statistics(client).live)
        yield client


def statistics(client: Client | AsyncClient) -> Any:
    found = client.near_statistics()
    assert found is not None
    return found


def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.001)


async def until_async(condition: Callable[[], object], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (nothing tells when it comes to be)
            await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main

    return asyncio.run(bounded())


def cached(client: Client, key: str, value: Any) -> bool:
    """Read a key until it is answered by a copy; False if it is not what it should be."""
    seen = statistics(client).hits
    until(lambda: client.get(key) == value and statistics(client).hits > seen)
    return True


# ---- the near cache


def test_an_item_is_read_from_a_copy_only_if_that_is_asked_for(writer: Client, near: Client) -> None:
    writer.set("k", [1], ttl=30)

    def item(**how: bool) -> Any:
        found = near.gets("k", **how)
        assert found is not None
        return found

    until(lambda: item(near=True).near)
    copy, fresh = item(near=True), item()
    assert (copy.value, copy.version) == ([1], fresh.version)
    assert 20 < copy.ttl <= 30.1
    assert not fresh.near
    copy.value.append("changed by a reader")
    assert item(near=True).value == [1]
    writer.set("k", [2])
    until(lambda: item(near=True).value == [2])
    asked = near.with_options(consistency="one").gets("k", near=True)
    assert asked is not None
    assert not asked.near
    writer.delete("k")
    until(lambda: near.gets("k", near=True) is None)


def test_an_item_is_read_from_a_copy_awaited(mesh: LocalMesh, writer: Client) -> None:
    async def main() -> None:
        async with AsyncClient(mesh.addresses, near_cache=LONG) as client:
            writer.set("k", 1)
            async with asyncio.timeout(10):
                while not (item := await client.gets("k", near=True)) or not item.near:  # noqa: ASYNC110  (as above)
                    await asyncio.sleep(0.001)
            assert item.value == 1
            fresh = await client.gets("k")
            assert fresh is not None
            assert (fresh.near, fresh.version) == (False, item.version)

    run(main())


def test_a_copy_is_served_and_voided_by_every_way_to_change_a_key(writer: Client, near: Client) -> None:
    changes: list[tuple[Callable[[], Any], Any]] = [
        (lambda: writer.set("k", 2), 2),
        (lambda: writer.set_many({"k": 3, "other": 1}), 3),
        (lambda: writer.incr("k"), 4),
        (lambda: writer.replace("k", 5), 5),
        (lambda: writer.cas("k", 6, writer.gets("k").version), 6),  # type: ignore[union-attr]  # it is there
        (lambda: writer.delete("k"), None),
        (lambda: writer.add("k", 7), 7),
        (lambda: writer.invalidate("k"), None),
        (lambda: writer.set("k", 8), 8),
        (writer.clear, None),
        (lambda: writer.set("k", 9), 9),
        (lambda: writer.invalidate_prefix("k"), None),
        (lambda: writer.set("k", 10, tags=["t"]), 10),
        (lambda: writer.invalidate_tags("t"), None),
        (lambda: writer.set("k", 11, tags=["u"]), 11),
        (lambda: near.invalidate_tags("u"), None),
    ]
    writer.set("k", 1)
    assert cached(near, "k", 1)
    for change, value in changes:
        change()
        until(lambda value=value: near.get("k") == value, 2.0)  # type: ignore[misc]  # bound now
        if value is not None:
            assert cached(near, "k", value)
    assert statistics(near).gaps == 0


def test_touch_ends_a_copy_with_the_lifetime_that_it_had(writer: Client, near: Client) -> None:
    writer.set("k", 1, ttl=60)
    assert cached(near, "k", 1)
    seen = statistics(near).invalidations
    assert writer.touch("k", ttl=30)
    until(lambda: statistics(near).invalidations > seen)


def test_the_writer_sees_its_own_writes_at_once(near: Client) -> None:
    for i in range(200):
        near.set("k", i)
        assert near.get("k") == i
    near.namespace("k").set_many({"2": "x"})
    assert near.get("k2") == "x"
    assert near.incr("n") == near.get("n") == 1
    assert near.incr("n") == near.get("n") == 2
    near.delete("k")
    assert near.get("k") is None
    near.get("k2")
    near.namespace("k").clear()
    assert near.get("k2") is None


def test_batches_and_get_or_set_use_copies_too(writer: Client, near: Client) -> None:
    writer.set_many({f"k{i}": [i] for i in range(10)})
    keys = [f"k{i}" for i in range(12)]
    first = near.get_many(keys)
    assert list(first) == keys[:10]
    seen = statistics(near)
    assert near.get_many(keys) == first
    assert statistics(near).hits == seen.hits + 10
    assert statistics(near).misses == seen.misses + 2
    first["k1"].append("spoilt")
    assert near.get("k1") == [1]
    assert near.get_or_set("k1", lambda: pytest.fail("it is there")) == [1]
    assert statistics(near).hits == seen.hits + 12


def test_reads_at_an_explicit_level_ask_the_nodes(writer: Client, near: Client) -> None:
    writer.set("k", 1)
    assert cached(near, "k", 1)
    seen = statistics(near).hits
    assert near.with_options(consistency="quorum").get("k") == 1
    assert near.with_options(consistency="all").get_many(["k"]) == {"k": 1}
    assert near.gets("k").value == 1  # type: ignore[union-attr]  # it is there
    assert statistics(near).hits == seen
    near.with_options(consistency="all").set("k", 2)
    assert near.get("k") == 2


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="near_cache"):
        Client("127.0.0.1:1", near_cache=True, consistency="quorum")
    with pytest.raises(TypeError, match="near_cache must be a NearCache"):
        Client("127.0.0.1:1", near_cache=5)  # type: ignore[arg-type]  # on purpose
    assert Client("127.0.0.1:1", near_cache=False).near_statistics() is None


def test_without_streams_nothing_is_kept() -> None:
    with fake_mesh(1) as nodes, Client(nodes[0].address, near_cache=True) as client:
        client.set("k", 1)
        for _ in range(3):
            assert client.get("k") == 1
        found = statistics(client)
        assert (found.hits, found.misses, found.fills, found.live) == (0, 3, 0, False)


def test_a_node_that_dies_suspends_the_near_cache_until_it_is_no_member(mesh: LocalMesh, near: Client) -> None:
    near.set("k", 1)
    assert cached(near, "k", 1)
    mesh.kill("node2")
    until(lambda: not statistics(near).live)
    until(lambda: statistics(near).entries == 0 or statistics(near).live)
    until(lambda: statistics(near).live)
    assert cached(near, "k", 1)
    mesh.start("node2")
    mesh.wait_ready()
    until(lambda: statistics(near).live and len(near._session.routing.streams) == 3)
    assert cached(near, "k", 1)


def test_asyncio_has_the_same_near_cache(mesh: LocalMesh, writer: Client) -> None:
    async def main() -> None:
        async with AsyncClient(mesh.addresses, near_cache=LONG) as client:
            writer.set("k", [1])
            await client.get("k")
            await until_async(lambda: statistics(client).live)
            for value in ([1], [2], [3]):
                writer.set("k", value)
                async with asyncio.timeout(10):
                    while await client.get("k") != value:  # noqa: ASYNC110  (as above)
                        await asyncio.sleep(0)
                (await client.get("k")).append("spoilt")
                assert await client.get_many(["k"]) == {"k": value}
                await client.set("k", 5)
                assert await client.get("k") == 5
            assert statistics(client).hits > 0
            assert statistics(client).gaps == 0

    run(main())


# ---- threads, forks, ends


def follower_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "meshcache-streams"]


def test_there_is_no_thread_where_none_is_needed(writer: Client, mesh: LocalMesh) -> None:
    writer.set("k", 1)
    writer.get("k")
    assert follower_threads() == []
    with writer.subscribe(), writer.namespace("x").subscribe():
        assert len(follower_threads()) == 1
    assert follower_threads() == []
    with Client(mesh.addresses, near_cache=True) as near:
        assert follower_threads() == []
        near.get("k")
        near.namespace("x").get("k")
        assert len(follower_threads()) == 1
    assert follower_threads() == []
    with writer.subscribe() as events:  # and it can start again
        writer.set("k", 2)
        assert events.wait(5)


def test_a_client_that_is_forgotten_takes_its_thread_along(mesh: LocalMesh) -> None:
    client = Client(mesh.addresses, near_cache=True)
    client.get("k")
    assert len(follower_threads()) == 1
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None
    until(lambda: not follower_threads())


def test_a_forked_child_follows_the_streams_for_itself(near: Client, writer: Client) -> None:
    near.set("k", 1)
    assert cached(near, "k", 1)

    def child(results: Any) -> None:
        at_first = (statistics(near).entries, statistics(near).live)
        near.get("k")
        until(lambda: statistics(near).live)
        cached(near, "k", 1)
        near.set("k", 2)
        results.put((at_first, near.get("k")))

    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=child, args=(results,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is what is tested
        process.start()
    assert results.get(timeout=20) == ((0, False), 2)
    process.join(10)
    assert process.exitcode == 0
    until(lambda: near.get("k") == 2)
    assert cached(near, "k", 2)


def test_threads_that_share_a_near_cache_see_what_one_of_them_has_written(near: Client) -> None:
    near.set_many({f"k{i}": 0 for i in range(5)})
    written = [0] * 5
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set():
            for i in range(5):
                least = written[i]
                assert near.get(f"k{i}") >= least
                reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for n in range(1, 50):
                near.set(f"k{n % 5}", n)
                written[n % 5] = n
        finally:
            stop.set()
        assert all(reader.result() > 0 for reader in readers)


# ---- subscriptions


def take(events: Any, count: int) -> list[Invalidation]:
    return [found for _ in range(count) if (found := events.wait(5)) is not None]


def test_events_come_in_order_with_key_kind_and_version(writer: Client) -> None:
    with writer.subscribe("u:") as events:
        writer.set("u:1", "v")
        item = writer.gets("u:1")
        writer.set("w", "v")
        writer.delete("u:1")
        writer.invalidate("u:1", b"u:\xff")
        writer.invalidate_prefix("u:")
        came = take(events, 5)
        assert events.wait(0.0) is None
    for node_id in ("node1", "node2", "node3"):
        of_node = [event.version for event in came if event.node == node_id]
        assert of_node == sorted(of_node)
    found = sorted(came, key=lambda event: event.version)  # streams of two nodes may overtake each other
    assert item is not None
    assert found[0] == Invalidation("u:1", InvalidationKind.SET, item.version, found[0].node)
    assert {"node1", "node2", "node3"} >= {event.node for event in found}
    assert [event.kind for event in found[:2]] == ["set", "delete"]
    assert {event.key for event in found[2:4]} == {"u:1", b"u:\xff"}
    assert found[4][:2] == ("u:", "clear")
    assert list(events) == []


def test_a_subscription_stands_when_it_is_returned(mesh: LocalMesh, writer: Client) -> None:
    for i in range(10):
        with Client(mesh.addresses) as client, client.subscribe() as events:
            writer.set_many({f"{i}-{n}": n for n in range(20)})
            keys = {event.key for event in take(events, 20)}
        assert keys == {f"{i}-{n}" for n in range(20)}


def test_a_namespace_hears_of_its_own_keys_without_its_prefix(writer: Client) -> None:
    with writer.namespace("ns:").subscribe() as events:
        writer.set("other", 1)
        writer.set("ns:k", 1)
        writer.clear()
        assert [event[:2] for event in take(events, 2)] == [("k", "set"), ("", "clear")]


def test_a_subscriber_is_told_of_a_node_that_dies_and_of_one_that_comes(mesh: LocalMesh, writer: Client) -> None:
    with writer.subscribe() as events:
        mesh.kill("node3")
        gap = Invalidation("", InvalidationKind.GAP, b"", "node3")
        until(lambda: events.wait(0.1) == gap)
        until(lambda: len(writer._session.routing.streams) == 2)
        while events.wait(0.0) is not None:
            pass
        mesh.start("node3")
        mesh.wait_ready()
        until(lambda: events.wait(0.1) == gap)
    until(lambda: len(writer._session.routing.streams) == 3)


def test_a_subscription_that_can_not_stand_says_who_is_silent() -> None:
    with fake_mesh(1) as nodes, Client(nodes[0].address) as client:
        started = time.monotonic()
        with pytest.raises(OperationTimeout, match=nodes[0].node_id):
            client.subscribe(timeout=0.3)
        assert time.monotonic() - started < 1.0
        assert follower_threads() == []


def test_closing_the_client_ends_iteration(mesh: LocalMesh) -> None:
    client = Client(mesh.addresses)
    events = client.subscribe()
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, events)
        client.close()
        assert rest.result(5) == []
    with pytest.raises(RuntimeError, match="closed"):
        client.subscribe()


def test_asyncio_subscribes_likewise(mesh: LocalMesh, writer: Client) -> None:
    async def main() -> None:
        called: list[Invalidation] = []

        async def note(event: Invalidation) -> None:
            await asyncio.sleep(0)
            called.append(event)

        async with AsyncClient(mesh.addresses) as client:
            users = client.namespace("u:")
            async with users.subscribe() as events, client.subscribe("u:", note):
                await client.set_many({"u:1": 1, "other": 2})
                await asyncio.to_thread(writer.delete, "u:1")
                found = [await events.wait(5), await anext(events)]
                await until_async(lambda: len(called) == 2)
                assert await events.wait(0.0) is None
            assert [event[:2] for event in found if event] == [("1", "set"), ("1", "delete")]
            assert [event.key for event in called] == ["u:1", "u:1"]
            assert [event async for event in events] == []
        with pytest.raises(RuntimeError, match="closed"):
            async with client.subscribe():
                pass

    run(main())


def test_asyncio_subscription_that_can_not_stand_says_who_is_silent() -> None:
    async def main() -> None:
        with fake_mesh(1) as nodes:
            async with AsyncClient(nodes[0].address) as client:
                with pytest.raises(OperationTimeout, match=nodes[0].node_id):
                    async with client.subscribe(timeout=0.3):
                        pass

    run(main())


def test_an_asyncio_client_follows_anew_in_each_loop(mesh: LocalMesh) -> None:
    client = AsyncClient(mesh.addresses, near_cache=LONG)

    async def main() -> None:
        await client.set("k", 1)
        await client.get("k")
        await until_async(lambda: statistics(client).live)
        await client.get("k")
        seen = statistics(client).hits
        await client.get("k")
        assert statistics(client).hits == seen + 1

    run(main())
    run(main())
    run(client.close())
