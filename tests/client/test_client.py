from __future__ import annotations

import gc
import inspect
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh
from timing import takes

import meshcache
from meshcache import AsyncClient, Client
from meshcache.client.blocking.connections import CHANNELS_MAX
from meshcache.protocol.messages import Code, Delete, Get, Hello, Inspect, Reject, Reply, Set, Update
from meshcache.protocol.wire import encode_frame

OVERRUN_S = 0.05


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    with Client(node.address) as client:
        yield client


def elapsed(call: Callable[[], Any], error: type[Exception]) -> float:
    started = time.monotonic()
    with pytest.raises(error):
        call()
    return time.monotonic() - started


def owner_first(nodes: list[FakeNode], client: Client, key: str) -> tuple[FakeNode, list[FakeNode]]:
    client.get(key)
    routing = client._session.routing
    first = routing.ring.preference_list(key.encode())[0]
    return next(n for n in nodes if n.node_id == first), [n for n in nodes if n.node_id != first]


# ---- what operations do


def test_values_come_back(client: Client) -> None:
    for value in (b"b", "s", 5, None, {"a": (1, {2})}, [1.5, True]):
        client.set("k", value)
        assert client.get("k", default="other") == value
    assert client.get("missing") is None
    assert client.get("missing", default=3) == 3
    client.set("none", None)
    assert client.get("none", default=meshcache.MISSING) is None
    assert client.get("missing", default=meshcache.MISSING) is meshcache.MISSING


def test_batches(client: Client) -> None:
    assert client.set_many({"a": 1, b"b": 2}, ttl=5) == []
    assert client.get_many(["a", b"b", "b", "c"]) == {"a": 1, b"b": 2, "b": 2}
    assert client.delete_many(["a", "b", "c"]) == 2
    assert client.get_many(["a", "b"]) == {}
    client.set("a", 1)
    assert client.invalidate("a", "b") == 1


def test_changes(client: Client) -> None:
    assert client.add("k", 1)
    assert not client.add("k", 2)
    assert client.replace("k", 3)
    assert not client.replace("other", 3)
    assert client.incr("k") == 4
    assert client.decr("k", 2) == 2
    assert client.incr("new", 5, initial=10) == 15
    with pytest.raises(meshcache.KeyMissing):
        client.incr("absent", initial=None)
    client.set("text", "x")
    with pytest.raises(TypeError):
        client.incr("text")
    item = client.gets("k")
    assert item is not None
    assert item.value == 2
    assert client.cas("k", "new", item.version)
    assert not client.cas("k", "newer", item.version)
    assert client.get("k") == "new"
    assert client.delete("k")
    assert not client.delete("k")
    assert client.gets("k") is None


def test_lifetimes(client: Client, node: FakeNode) -> None:
    client.set("k", 1, ttl=60)
    left = client.ttl("k")
    assert left is not None
    assert 59 < left <= 60.1
    assert client.touch("k", ttl=None)
    assert client.ttl("k") == math.inf
    assert client.ttl("missing") is None
    assert not client.touch("missing", 5)
    assert client.exists("k")
    node.wall_skew_ms += 3_600_000
    client.set("short", 1, ttl=5)
    node.wall_skew_ms += 6_000
    assert not client.exists("short")


def test_lifetimes_are_right_though_the_clocks_differ() -> None:
    with fake_mesh(1) as (node,):
        node.wall_skew_ms = -7_200_000
        with Client(node.address) as client:
            client.set("k", 1, ttl=60)
            assert client.get("k") == 1
            assert 59 < (client.ttl("k") or 0) <= 60.1


def test_namespaces_and_options_share_connections(client: Client, node: FakeNode) -> None:
    users = client.namespace("users:")
    users.set("a", 1)
    client.set("a", 2)
    assert client.get("users:a") == 1
    assert users.clear() == 1
    users.set("tagged", 1, tags=["t"])
    users.set_many({"a": 1, "b": 2}, tags=["t", "u"])
    assert client.invalidate_tags("t") == 0
    assert users.invalidate_tags("u") == 2
    assert users.get_many(["a", "b", "tagged"]) == {"tagged": 1}
    assert users.add("added", 1, tags=["t"])
    assert users.replace("added", 2, tags=["t", "v"])
    assert users.invalidate_tags("t", "v") == 2
    assert client.get("a") == 2
    with client.with_options(consistency="quorum", timeout=0.5) as strict:
        assert strict.get("a") == 2
        assert (node.requests[-1].r, node.requests[-1].w) == (-2, -2)
    users.close()
    assert client.get("a") == 2
    assert node.hellos == 1
    with pytest.raises(ValueError, match="write level 3"):
        client.with_options(consistency=(3, 1))
    assert "127.0.0.1" in repr(client)


def test_inspect(client: Client, node: FakeNode) -> None:
    assert client.inspect("status", node="n1")["node"] == "n1"
    assert client.inspect("explain", "k")["key"] == b"k"


def test_the_cluster_can_be_named(node: FakeNode) -> None:
    with Client(node.address, cluster="test") as client:
        client.set("k", 1)
    with (
        Client(node.address, cluster="other", timeout=60) as client,
        pytest.raises(meshcache.ConfigError, match=r"get 'k': .* cluster 'test', not 'other'"),
    ):
        client.get("k")


def test_a_thousand_large_values(client: Client, node: FakeNode) -> None:
    values = {f"k{i}": bytes([i % 256]) * 100_000 for i in range(200)}
    assert client.set_many(values) == []
    assert client.get_many(list(values)) == values
    assert len(node.of(Set)) > 5
    assert len(node.of(Get)) > 15
    assert max(sum(map(len, m.contents)) for m in node.of(Set)) <= 1 << 20


def test_a_value_too_large_is_refused_before_it_is_sent(client: Client, node: FakeNode) -> None:
    with pytest.raises(meshcache.ValueTooLarge):
        client.set("k", b"x" * ((1 << 20) + 1))
    assert not node.of(Set)


# ---- get_or_set


def test_get_or_set(client: Client) -> None:
    assert client.get_or_set("k", lambda: 1) == 1
    assert client.get_or_set("k", lambda: 2) == 1
    assert client.get_or_set("v", 7, ttl=5) == 7
    assert client.get("v") == 7
    with pytest.raises(ZeroDivisionError):
        client.get_or_set("bad", lambda: 1 // 0)
    assert client.get_or_set("bad", lambda: 3) == 3
    with pytest.raises(ValueError, match="ttl"):
        client.get_or_set("k", lambda: 1, ttl=0)


def test_threads_share_one_load(client: Client) -> None:
    loads = []
    inside = threading.Event()
    release = threading.Event()

    def load() -> str:
        loads.append(1)
        inside.set()
        assert release.wait(10)
        return "value"

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.get_or_set, "k", load)
        assert inside.wait(10)
        others = [pool.submit(client.get_or_set, "k", load) for _ in range(5)]
        release.set()
        assert {f.result(10) for f in [first, *others]} == {"value"}
    assert len(loads) == 1


def test_who_missed_before_a_load_ended_does_not_load_again(client: Client) -> None:
    session = client._session
    late = session.get_or_set("k", lambda: "late", meshcache.DEFAULT, None)
    client.set("warm", 1)
    miss = client._channels.exchange(next(late))  # type: ignore[arg-type]  # its first step is a call
    assert client.get_or_set("k", lambda: "first") == "first"
    board = late.send(miss)

    def rest() -> Any:
        step = board
        try:
            while True:
                step = late.send(client._carry_out(step) if type(step) is not list else client._channels.exchange(step))
        except StopIteration as stop:
            return stop.value

    assert rest() == "first"


# ---- failures


def test_silence_ends_at_the_deadline(client: Client, node: FakeNode) -> None:
    client.set("k", 1)
    node.pause()
    for timeout in (0.05, 0.3, 1.0):
        takes(
            lambda: elapsed(lambda: client.get("k", timeout=timeout), meshcache.OperationTimeout),  # noqa: B023
            least_s=timeout - 0.01,
            most_s=timeout + OVERRUN_S,
        )
    takes(lambda: elapsed(lambda: client.incr("k", timeout=0.2), TimeoutError), most_s=0.2 + OVERRUN_S)
    node.resume()
    assert client.get("k") == 1


def test_silence_from_the_start_ends_at_the_deadline(node: FakeNode) -> None:
    node.pause()
    with Client(node.address, timeout=0.3) as client:
        takes(lambda: elapsed(lambda: client.get("k"), TimeoutError), most_s=0.3 + OVERRUN_S)


def test_late_answers_never_reach_another_call(client: Client, node: FakeNode) -> None:
    client.set_many({"a": "A", "b": "B"})
    held: list[Any] = []

    def hold(request: Any) -> Any:
        if isinstance(request, Get) and request.keys == [b"a"]:
            held.append(request)
            return None
        if held and isinstance(request, Get):
            late, node.hook = held, None
            answer: Any = node._answer(request)
            return encode_frame(0, [*[Reply(r.request, node.view(), [node.data[b"a"]]) for r in late], answer])
        return FakeNode.PASS

    node.hook = hold
    with pytest.raises(meshcache.OperationTimeout):
        client.get("a", timeout=0.1)
    assert client.get("b") == "B"
    assert client.get("a") == "A"


def test_failover_to_a_node_that_serves() -> None:
    def failover_s() -> float:
        with fake_mesh(3) as nodes, Client([n.address for n in nodes], timeout=20.0) as client:
            first, others = owner_first(nodes, client, "k")
            client.set("k", 1)
            first.stop()
            started = time.monotonic()
            assert client.get("k") == 1
            took_s = time.monotonic() - started
            assert any(node.of(Get) for node in others)
            return took_s

    takes(failover_s, most_s=0.5)


def test_failover_from_a_silent_node_costs_one_attempt_then_nothing() -> None:
    later_s: list[float] = []

    def failover_s() -> float:
        with fake_mesh(3) as nodes, Client(nodes[0].address, timeout=3.0) as client:
            first, _ = owner_first(nodes, client, "k")
            client.set("k", 1)
            first.pause()
            started = time.monotonic()
            assert client.get("k") == 1
            middle = time.monotonic()
            for _ in range(10):
                assert client.get("k") == 1
            later_s.append(time.monotonic() - middle)
            return middle - started

    def afterwards_s() -> float:
        if not later_s:
            failover_s()
        return later_s.pop()

    takes(failover_s, least_s=0.25, most_s=0.6)
    takes(afterwards_s, most_s=0.25)


def test_a_link_that_breaks_is_noticed_at_once(node: FakeNode) -> None:
    with Client(node.address, timeout=30.0) as client:
        client.set("k", 1)
        arrived = threading.Event()
        node.hook = lambda request: arrived.set() if isinstance(request, Update) else FakeNode.PASS

        def kill() -> None:
            arrived.wait(20)
            node.stop()

        killer = threading.Thread(target=kill)
        killer.start()
        took = elapsed(lambda: client.incr("k"), meshcache.NodeUnavailable)
        killer.join()
        assert took < 10.0


def test_a_node_that_comes_back_is_greeted_anew(node: FakeNode) -> None:
    with Client(node.address, timeout=5.0) as client:
        client.set("k", 1)
        node.stop()
        again = FakeNode("n1", port=node.port)
        try:
            again.boot = 2000
            again.members = [again.fact()]
            client.set("k", 2)
            assert client.get("k") == 2
            assert again.hellos >= 1
        finally:
            again.stop()


def test_a_stale_boot_is_greeted_again_and_the_request_repeated(client: Client, node: FakeNode) -> None:
    client.set("n", 1)
    node.boot = 4321
    assert client.incr("n") == 2
    assert node.hellos == 2
    assert node.requests[-1].boot == 4321


@pytest.mark.parametrize("code", [Code.NOT_READY, Code.OVERLOADED])
def test_a_node_that_rejects_leaves_it_to_another(code: Code) -> None:
    with fake_mesh(2) as nodes, Client(nodes[0].address) as client:
        first, (second,) = owner_first(nodes, client, "k")
        first.hook = lambda r: FakeNode.PASS if isinstance(r, Hello) else Reject(r.request, first.view(), [int(code)])
        assert client.incr("k", 5) == 5
        assert len(second.of(Update)) == 1


def test_garbage_is_an_error_and_not_a_value(client: Client, node: FakeNode) -> None:
    client.set("k", 1)
    node.hook = lambda r: FakeNode.PASS if isinstance(r, Hello) else b"\xc1 garbage"
    with pytest.raises(meshcache.OperationError, match="protocol"):
        client.get("k", timeout=0.3)
    node.hook = None
    assert client.get("k") == 1


def test_too_many_results_are_an_error(client: Client, node: FakeNode) -> None:
    client.set("k", 1)
    node.hook = lambda r: Reply(r.request, b"", [node.data[b"k"]] * 2) if isinstance(r, Get) else FakeNode.PASS
    with pytest.raises(meshcache.OperationError):
        client.get("k", timeout=0.3)


def test_nobody_there() -> None:
    with fake_mesh(1) as (node,):
        address = node.address
    with Client(address, timeout=0.3) as client:
        takes(lambda: elapsed(lambda: client.get("k"), ConnectionError), most_s=0.3 + OVERRUN_S)
    with (
        Client("no-such-host.invalid", timeout=0.3) as client,
        pytest.raises(meshcache.NodeUnavailable, match="no-such-host"),
    ):
        client.get("k")


def test_a_dead_seed_does_not_matter(node: FakeNode) -> None:
    with fake_mesh(1) as (other,):
        dead = other.address
    with Client([dead, node.address]) as client:
        client.set("k", 1)
        assert client.get("k") == 1


def test_members_are_learned_and_left_members_forgotten() -> None:
    with fake_mesh(2) as nodes, Client(nodes[0].address) as client:
        client.set_many({f"k{i}": i for i in range(50)})
        assert nodes[1].of(Set)
        for node in nodes:
            node.members = [nodes[0].fact(), nodes[1].fact(state=3)]
        client._session.routing._refreshed_at -= 5
        client.get("k0")
        client.get("k0")
        assert any(n.of(Inspect)[-1].what == "view" for n in nodes)
        nodes[1].requests.clear()
        assert len(client.get_many([f"k{i}" for i in range(50)])) == 50
        assert not nodes[1].requests


# ---- threads, forks, ends


def test_eight_threads_share_a_client(node: FakeNode, client: Client) -> None:
    def work(i: int) -> bool:
        for j in range(40):
            client.set(f"{i}:{j}", [i, j])
            if client.get(f"{i}:{j}") != [i, j]:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert 1 <= len(client._channels._pool.channels) <= 8


def test_more_threads_than_channels_wait_for_one_within_their_deadline(node: FakeNode, client: Client) -> None:
    client.set("k", 1)
    node.pause()
    count = CHANNELS_MAX + 4

    def longest_s() -> float:
        with ThreadPoolExecutor(count) as pool:
            found = pool.map(lambda _: elapsed(lambda: client.get("k", timeout=0.4), TimeoutError), range(count))
            return max(found)

    takes(longest_s, least_s=0.39, most_s=0.4 + 3 * OVERRUN_S)
    assert len(client._channels._pool.channels) <= CHANNELS_MAX
    node.resume()
    assert client.get("k") == 1


def _in_child(client: Client, pipe: Any) -> None:
    client.set("child", 1)
    with ThreadPoolExecutor(2) as pool:
        pipe.send([client.get("parent"), *pool.map(client.get, ["parent", "child"])])
    client.close()


def test_parent_and_child_work_after_a_fork(client: Client) -> None:
    client.set("parent", 1)
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        ours, theirs = context.Pipe()
        child = context.Process(target=_in_child, args=(client, theirs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is what is tested
            child.start()
        client.set("parent", 1)
        assert ours.poll(20)
        assert ours.recv() == [1, 1, 1]
        child.join(20)
        assert child.exitcode == 0
        assert client.get("child") == 1


def test_a_forked_child_that_exits_normally_says_nothing(node: FakeNode) -> None:
    program = f"""
import os, sys
from meshcache import Client
client = Client({node.address!r})
client.set("k", 1)
pid = os.fork()
assert client.get("k") == 1
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    assert client.get("k") == 1
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_client_left_to_the_collector_closes_quietly(node: FakeNode) -> None:
    client = Client(node.address)
    client.set("k", 1)
    context = client._channels._pool.context()
    gone = weakref.ref(client)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del client
        gc.collect()
    assert gone() is None
    assert context.closed


def test_a_closed_client_says_so(node: FakeNode) -> None:
    client = Client(node.address)
    client.set("k", 1)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get("k")


def test_closing_while_others_work_closes_when_they_are_done(node: FakeNode) -> None:
    client = Client(node.address)
    client.set("k", 1)
    context = client._channels._pool.context()
    asked = threading.Event()
    node.hook = lambda r: asked.set() if isinstance(r, Get) else FakeNode.PASS
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.get, "k", timeout=0.3)
        assert asked.wait(5)
        client.close()
        with pytest.raises((meshcache.OperationTimeout, RuntimeError)):
            future.result(5)
    assert context.closed


# ---- surface


def test_both_clients_have_the_same_surface() -> None:
    def surface(cls: type) -> dict[str, Any]:
        return {n: m for n, m in vars(cls).items() if callable(m) and (not n.startswith("_") or n == "__init__")}

    ours, theirs = surface(Client), surface(AsyncClient)
    assert set(ours) == set(theirs)
    assert len(ours) >= 20
    for name, method in ours.items():
        signature = inspect.signature(theirs[name])
        if name == "subscribe":  # the one that returns something of its own, to be used in another way
            signature = signature.replace(return_annotation=signature.return_annotation.removeprefix("Async"))
        else:
            assert method.__doc__ == theirs[name].__doc__, name
        assert inspect.signature(method) == signature, name
        stays_plain = name in {
            "namespace",
            "with_options",
            "cached",
            "lock",
            "subscribe",
            "near_statistics",
            "statistics",
            "__init__",
        }
        assert inspect.iscoroutinefunction(theirs[name]) is not stays_plain, name


def test_importing_is_cheap_and_lazy() -> None:
    program = (
        "import sys, meshcache; assert 'zmq' not in sys.modules; meshcache.Client; "
        "assert 'structlog' not in sys.modules and 'asyncio' not in sys.modules; "
        "assert {'Client', 'MISSING'} <= set(dir(meshcache)); print(meshcache.MISSING)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "meshcache.MISSING\n"
    with pytest.raises(AttributeError, match="Nothing"):
        meshcache.Nothing  # noqa: B018
    for name in meshcache.__all__:
        assert getattr(meshcache, name) is not None


def test_deletes_say_which_kind_they_are(client: Client, node: FakeNode) -> None:
    client.delete("k")
    client.invalidate("k")
    assert [request.kind for request in node.of(Delete)] == [2, 3]
    assert os.getpid() == client._channels._pool.pid
