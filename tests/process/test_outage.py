"""A cache that is down: calls fail at once, find out soon that it is back, and loaders run meanwhile."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from fake_node import FakeNode, fake_mesh
from timing import eventually

import meshcache
from meshcache import AsyncClient, Client
from meshcache.client.fallbacks import Fallbacks
from meshcache.client.rests import SHUT_S_MAX
from meshcache.patterns import AsyncReadThrough, CacheAside, ReadThrough, WriteThrough
from meshcache.protocol.messages import Code, Get, Hello, Reject, Reply, Update

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
    except meshcache.OperationError:
        return True
    return False


@pytest.mark.parametrize("timeout", [0.02, 60])
def test_a_client_asks_a_node_that_is_not_ready_a_few_times_a_second(node: FakeNode, timeout: float) -> None:
    """However many threads it has: with eight there were four hundred questions a second, and a thousand."""

    not_ready(node)
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
        eventually(lambda: time.monotonic() >= until)
        asked, lasted = len(node.of(Get)), time.monotonic() - began
        node.hook = None
        for future in asking:
            future.result(DEADLINE_S)
    assert asked / lasted < 60


# ---- loaders run


class Loader:
    """Counts its calls, and how many run at the same time."""

    def __init__(self, result: Any = None, seconds: float = 0.0) -> None:
        self.result = result
        self.seconds = seconds
        self.calls = self.running = self.most = 0

    def __call__(self) -> Any:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.seconds:
                threading.Event().wait(self.seconds)
            if isinstance(self.result, Exception):
                raise self.result
            return self.result
        finally:
            self.running -= 1


class Awaited:
    """An AsyncClient, called like a Client: each call is a program of its own."""

    def __init__(self, seeds: Any, **options: Any) -> None:
        self._make: Callable[[], AsyncClient] = lambda: AsyncClient(seeds, **options)
        self.fallbacks = Fallbacks(time.monotonic)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            async def main() -> Any:
                async with self._make() as cache:
                    try:
                        return await getattr(cache, name)(*args, **kwargs)
                    finally:
                        self.fallbacks = cache.fallbacks

            return run(main())

        return call


@pytest.fixture(params=[Client, Awaited])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


VALUE = {"may": ["read", ("write", 1)]}


def test_a_loader_runs_when_no_node_serves(kind: Any, dead: list[str]) -> None:
    cache, load = kind(dead, timeout=60), Loader(VALUE)
    assert cache.get_or_set("k", load, ttl=5) == VALUE
    assert load.calls == 1
    assert (cache.fallbacks.loads, cache.fallbacks.misses) == (1, 0)
    assert isinstance(cache.fallbacks.last_error, meshcache.NodeUnavailable)
    assert cache.get_or_set("k", "plain") == "plain"
    with pytest.raises(meshcache.NodeUnavailable, match="get_or_set 'k': no node serves"):
        cache.get_or_set("k", load, on_error="raise")
    with pytest.raises(meshcache.NodeUnavailable, match="refresh 'k': no node serves"):
        cache.refresh("k", load)
    assert load.calls == 1


def test_what_a_loader_raises_is_raised_and_it_runs_once(kind: Any, dead: list[str]) -> None:
    cache = kind(dead, timeout=60)
    for error in (KeyError("row"), meshcache.NodeUnavailable("another mesh"), meshcache.OperationTimeout("of theirs")):
        load = Loader(error)
        with pytest.raises(type(error)) as caught:
            cache.get_or_set("k", load)
        assert caught.value is error
        assert load.calls == 1


def test_an_error_of_the_loader_is_not_taken_for_one_of_the_cache(kind: Any, node: FakeNode) -> None:
    load = Loader(meshcache.NodeUnavailable("another mesh"))
    with pytest.raises(meshcache.NodeUnavailable, match="another mesh"):
        kind(node.address).get_or_set("k", load)
    assert load.calls == 1


def test_mistakes_stay_errors_in_an_outage(kind: Any, dead: list[str], node: FakeNode) -> None:
    cache = kind(dead, timeout=60)
    with pytest.raises(meshcache.SerializationError):
        cache.get_or_set("k", Loader(object()))
    with pytest.raises(meshcache.ValueTooLarge):
        cache.get_or_set("k", Loader(bytes((1 << 24) + 1)))
    load = Loader(1)
    for key, options, error in (
        ("", {}, meshcache.InvalidKey),
        (5, {}, meshcache.InvalidKey),
        ("k", {"ttl": 0}, ValueError),
        ("k", {"early": -1}, ValueError),
        ("k", {"on_error": "miss"}, ValueError),
        ("k", {"tags": "one"}, TypeError),
    ):
        with pytest.raises(error):
            cache.get_or_set(key, load, **options)
    with pytest.raises(meshcache.ConfigError):
        kind(node.address, cluster="other", timeout=60).get_or_set("k", load)
    assert load.calls == 0


def silent(node: FakeNode) -> None:
    node.pause()


def without_quorum(node: FakeNode) -> None:
    answer_with(node, lambda request: Reply(request.request, node.view(), [[int(Code.QUORUM), 1, 0]]))


def overloaded(node: FakeNode) -> None:
    answer_with(node, lambda request: Reject(request.request, node.view(), [int(Code.OVERLOADED)]))


def not_ready(node: FakeNode) -> None:
    answer_with(node, lambda request: Reject(request.request, node.view(), [int(Code.NOT_READY)]))


def garbled(node: FakeNode) -> None:
    answer_with(node, lambda request: b"garbage")


def of_an_unknown_form(node: FakeNode) -> None:
    answer_with(node, lambda request: Reply(request.request, node.view(), ["no record"]))


def silent_on_leases(node: FakeNode) -> None:
    answer_with(node, lambda request: None if isinstance(request, Update) else node.PASS)


def answer_with(node: FakeNode, answer: Callable[[Any], Any]) -> None:
    node.hook = lambda request: node.PASS if isinstance(request, Hello) else answer(request)


FAILING = [silent, without_quorum, overloaded, not_ready, garbled, of_an_unknown_form, silent_on_leases]


@pytest.mark.parametrize("fail", FAILING)
def test_a_loader_runs_when_the_nodes_fail_in_another_way(kind: Any, node: FakeNode, fail: Any) -> None:
    fail(node)
    cache, load = kind(node.address, timeout=0.5), Loader(VALUE)
    assert cache.get_or_set("k", load) == VALUE
    assert (load.calls, cache.fallbacks.loads) == (1, 1)
    with pytest.raises(meshcache.MeshcacheError):
        cache.get_or_set("k", load, on_error="raise")
    assert load.calls == 1


def test_waiting_for_others_who_compute_is_no_failure_of_the_cache(node: FakeNode) -> None:
    """It would make all callers load at once what takes long to load."""
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        go_on.wait(DEADLINE_S)
        return "first"

    load = Loader("second")
    with Client(node.address) as first, Client(node.address) as second, ThreadPoolExecutor(2) as pool:
        computing = pool.submit(first.get_or_set, "k", slow)
        assert begun.wait(DEADLINE_S)
        for client in (first, second):
            with pytest.raises(meshcache.OperationTimeout, match="get_or_set 'k'"):
                client.get_or_set("k", load, timeout=0.4)
        go_on.set()
        assert computing.result(DEADLINE_S) == "first"
    assert load.calls == 0
    assert not second.fallbacks.loads


def freeze_when_asked_for_a_lease(node: FakeNode) -> None:
    def freeze(request: Any) -> Any:
        if isinstance(request, Update):
            node.pause()
        return node.PASS

    node.hook = freeze


def test_who_waits_for_a_node_that_froze_loads_too(node: FakeNode) -> None:
    """Also those who did not ask themselves, but waited for what another caller of their process would be told."""
    freeze_when_asked_for_a_lease(node)
    load = Loader(VALUE)
    with Client(node.address, timeout=DEADLINE_S) as client, ThreadPoolExecutor(8) as pool:
        client.get("k")
        hasty = client.with_options(timeout=0.5)
        assert list(pool.map(lambda _: hasty.get_or_set("k", load), range(8))) == [VALUE] * 8
    assert load.most == 1


def test_tasks_that_wait_for_a_node_that_froze_load_too(node: FakeNode) -> None:
    freeze_when_asked_for_a_lease(node)

    async def main() -> None:
        async with AsyncClient(node.address, timeout=DEADLINE_S) as cache:
            await cache.get("k")
            hasty = cache.with_options(timeout=0.5)
            found = await asyncio.gather(*(hasty.get_or_set("k", Loader(VALUE)) for _ in range(8)))
            assert found == [VALUE] * 8

    run(main())


def test_a_crowd_shares_loads_in_an_outage(dead: list[str]) -> None:
    load = Loader(VALUE, seconds=0.05)
    together = threading.Barrier(16)

    def ask(_: int) -> Any:
        together.wait(DEADLINE_S)
        return client.get_or_set("k", load)

    with Client(dead, timeout=60) as client, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    assert found == [VALUE] * 16
    assert load.most == 1
    assert load.calls <= 8
    found[0]["may"].append("more")
    assert found[1:] == [VALUE] * 15
    assert client.fallbacks.loads == 16


def test_a_crowd_of_tasks_shares_loads_in_an_outage(dead: list[str]) -> None:
    calls = running = most = 0

    async def load() -> Any:
        nonlocal calls, running, most
        calls, running = calls + 1, running + 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return {"n": calls}

    async def main() -> None:
        async with AsyncClient(dead, timeout=60) as cache:
            found = await asyncio.gather(*(cache.get_or_set("k", load) for _ in range(100)))
            assert most == 1
            assert calls <= 3
            assert len({id(value) for value in found}) == 100
            first = asyncio.create_task(cache.get_or_set("k", load))
            others = [asyncio.create_task(cache.get_or_set("k", load)) for _ in range(3)]
            while not running:  # noqa: ASYNC110  (no longer than a turn of the loop or two)
                await asyncio.sleep(0)
            first.cancel()
            assert [await other for other in others]
            assert first.cancelled() or isinstance(first.exception(), asyncio.CancelledError)

    run(main())


def test_who_comes_during_a_load_is_not_given_what_is_older_than_its_call(dead: list[str]) -> None:
    """A change made before a call began is seen by it, outage or not."""
    database = {"row": 1}
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        value = database["row"]
        reading.set()
        go_on.wait(DEADLINE_S)
        return value

    with Client(dead, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        early = pool.submit(client.get_or_set, "k", slow)
        assert reading.wait(DEADLINE_S)
        database["row"] = 2
        threading.Timer(0.05, go_on.set).start()
        assert client.get_or_set("k", lambda: database["row"]) == 2
        assert early.result(DEADLINE_S) == 1


def test_who_waits_for_another_load_in_vain_runs_its_own(dead: list[str]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hung() -> int:
        begun.set()
        go_on.wait(DEADLINE_S)
        return 1

    with Client(dead, timeout=0.2) as client, ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(client.get_or_set, "k", hung)
        assert begun.wait(DEADLINE_S)
        assert client.get_or_set("k", lambda: 2) == 2
        go_on.set()
        assert hanging.result(DEADLINE_S) == 1


def test_cached_functions_are_called_in_an_outage(dead: list[str]) -> None:
    with Client(dead, timeout=60) as client:
        calls: list[int] = []

        @client.cached(ttl=5)
        def double(n: int) -> int:
            calls.append(n)
            return 2 * n

        @client.cached(ttl=5, on_error="raise")
        def strict(n: int) -> int:
            return 2 * n

        assert double(4) == 8
        with pytest.raises(meshcache.NodeUnavailable):
            double.refresh(4)
        with pytest.raises(meshcache.NodeUnavailable):
            double.invalidate(4)
        with pytest.raises(meshcache.NodeUnavailable):
            strict(4)
        with pytest.raises(ValueError, match='"load" or "raise"'):
            client.cached(on_error="miss")  # type: ignore[arg-type]  # the mistake
        assert calls == [4]
        assert client.fallbacks.loads == 1


def test_what_was_loaded_in_an_outage_is_not_stored(node: FakeNode) -> None:
    without_quorum(node)
    with Client(node.address, timeout=0.3) as client:
        assert client.get_or_set("k", lambda: 1) == 1
        node.hook = None
        assert client.get_or_set("k", lambda: 2) == 2
        assert client.get("k") == 2
        assert client.fallbacks.loads == 1


def test_patterns_read_from_the_database_in_an_outage(dead: list[str], node: FakeNode) -> None:
    rows = {1: "Ada", 2: "Grace"}
    loads: list[int] = []

    def load(key: int) -> Any:
        loads.append(key)
        return rows.get(key, meshcache.MISSING)

    for seeds in (dead, node.address):
        if seeds == node.address:
            silent(node)
        with Client(seeds, timeout=0.3) as cache:
            loads.clear()
            names = ReadThrough(cache, load, ttl=5, absent_ttl=1)
            assert names.get(1) == "Ada"
            assert names.get(3) is meshcache.MISSING
            assert names.get_many([1, 2, 3]) == rows
            aside: CacheAside[int, str] = CacheAside(cache)
            assert aside.get(2, load) == "Grace"
            assert loads == [1, 3, 1, 2, 3, 2]
            assert cache.fallbacks.loads == 6
            through = WriteThrough(cache, load, lambda writes: None, ttl=5)
            assert through.get(2) == "Grace"
            with pytest.raises(meshcache.OperationError):
                through.put(2, "Grace H.")

    async def main() -> None:
        async def load_async(key: int) -> Any:
            return load(key)

        async with AsyncClient(dead) as cache:
            several = AsyncReadThrough(cache, load_async)
            assert await several.get(1) == "Ada"
            assert await several.get_many([1, 2, 3]) == rows
            assert cache.fallbacks.loads == 4

    run(main())


# ---- reads find nothing


def test_reads_find_nothing_in_an_outage_if_that_is_asked_for(kind: Any, dead: list[str]) -> None:
    for cache in (kind(dead, on_error="miss"), kind(f"mesh://{','.join(dead)}/n:?on_error=miss")):
        assert cache.get("k") is None
        assert cache.get("k", "default") == "default"
        assert cache.get("k", default=meshcache.MISSING) is meshcache.MISSING
        assert cache.gets("k") is None
        assert cache.exists("k") is False
        assert cache.ttl("k") is None
        assert cache.get_many(["a", "b", "c"]) == {}
        assert cache.fallbacks.misses
        for name, arguments in (
            ("set", ("k", 1)),
            ("set_many", ({"k": 1},)),
            ("delete", ("k",)),
            ("delete_many", (["k"],)),
            ("invalidate", ("k",)),
            ("invalidate_tags", ("t",)),
            ("add", ("k", 1)),
            ("replace", ("k", 1)),
            ("cas", ("k", 1, b"v" * 16)),
            ("incr", ("k",)),
            ("decr", ("k",)),
            ("touch", ("k",)),
            ("clear", ()),
            ("refresh", ("k", 1)),
            ("inspect", ("status",)),
        ):
            with pytest.raises(meshcache.NodeUnavailable):
                print(name, getattr(cache, name)(*arguments))
        for key in ("", 5):
            with pytest.raises(meshcache.InvalidKey):
                cache.get(key)
        assert cache.get_or_set("k", "loaded") == "loaded"


def test_options_of_reads_are_handed_on_and_checked(dead: list[str], node: FakeNode) -> None:
    with Client(dead, on_error="miss") as client:
        with pytest.raises(meshcache.NodeUnavailable):
            client.lock("job", timeout=0.1).acquire()
        assert client.namespace("n:").get("k") is None
        strict = client.with_options(on_error="raise")
        with pytest.raises(meshcache.NodeUnavailable):
            strict.get("k")
        with pytest.raises(meshcache.NodeUnavailable):
            pickle.loads(pickle.dumps(strict)).get("k")
        assert pickle.loads(pickle.dumps(client)).get("k", 7) == 7
        assert strict.with_options(on_error="miss").get_many(["a", "b"]) == {}
        assert client.fallbacks.misses == strict.fallbacks.misses == 3
    with pytest.raises(ValueError, match=r'"raise" or "miss", is .load.; "load" is for get_or_set'):
        Client(dead, on_error="load")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(meshcache.ConfigError, match="on_error"):
        Client("mesh://127.0.0.1/?on_error=never")
    with Client(node.address, cluster="other", on_error="miss") as client, pytest.raises(meshcache.ConfigError):
        client.get("k")


def test_of_a_batch_what_was_answered_is_found(node: FakeNode) -> None:
    missing = [int(Code.QUORUM), 1, 0]

    def answer(request: Any) -> Any:
        if not isinstance(request, Get):
            return node.PASS
        return Reply(request.request, node.view(), [missing if key == b"b" else node.data[key] for key in request.keys])

    with Client(node.address, timeout=0.4, on_error="miss") as client:
        client.set_many({"a": 1, "b": 2, "c": 3})
        node.hook = answer
        assert client.get_many(["a", "b", "c"]) == {"a": 1, "c": 3}
        assert client.fallbacks.misses == 1
        with pytest.raises(meshcache.QuorumNotReached, match="get_many 'b'"):
            client.with_options(on_error="raise").get_many(["a", "b", "c"])


def test_what_can_not_be_decoded_is_an_error_even_so(node: FakeNode) -> None:
    with Client(node.address, on_error="miss") as client:
        client.with_options(codec="pickle").set("k", {1, 2})
        with pytest.raises(meshcache.SerializationError):
            client.get("k")


# ---- what is said of it


def test_fallbacks_are_counted_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    fallbacks = Fallbacks(lambda: now)
    with caplog.at_level(logging.WARNING, "meshcache"):
        for _ in range(3):
            fallbacks.count(meshcache.NodeUnavailable("first"), loads=1)
        now += 59
        fallbacks.count(meshcache.NodeUnavailable("second"), misses=5)
        assert len(caplog.messages) == 1
        now += 1.5
        fallbacks.count(meshcache.OperationTimeout("third"), loads=1, writes=2)
    first, second = caplog.messages
    assert "1 loaders ran, 0 reads found nothing and 0 writes" in first
    assert first.endswith("first")
    assert "3 loaders ran, 5 reads found nothing and 2 writes" in second
    assert second.endswith("third")
    assert (fallbacks.loads, fallbacks.misses, fallbacks.writes) == (4, 5, 2)
    assert "third" in repr(fallbacks)


# ---- a mesh of real processes


@pytest.mark.process
def test_a_frozen_node_fails_no_get_or_set_and_neither_do_dead_ones() -> None:
    with meshcache.LocalMesh(nodes=2) as mesh, Client(mesh.addresses, timeout=0.5) as client:
        keys = [f"k{i}" for i in range(40)]
        assert [client.get_or_set(key, key, ttl=600) for key in keys] == keys

        mesh.pause("node2")
        with ThreadPoolExecutor(8) as pool:
            again = [f"{key}:{turn}" for turn in range(10) for key in keys]
            assert list(pool.map(lambda key: client.get_or_set(key, key), again)) == again
        mesh.resume("node2")

        for node_id in ("node1", "node2"):
            mesh.kill(node_id)
        eventually(lambda: client_fails(client))
        loads = client.fallbacks.loads
        assert [client.get_or_set(key, key.upper) for key in keys] == [key.upper() for key in keys]
        assert client.fallbacks.loads == loads + len(keys)

        for node_id in ("node1", "node2"):
            mesh.start(node_id)
        mesh.wait_ready()
        eventually(lambda: not client_fails(client))
        loads, patient = client.fallbacks.loads, client.with_options(timeout=DEADLINE_S)
        assert [patient.get_or_set(key, key) for key in keys] == keys
        assert [patient.get_or_set(key, "new") for key in keys] == keys
        assert client.fallbacks.loads == loads
