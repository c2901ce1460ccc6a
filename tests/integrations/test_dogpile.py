"""The backend for dogpile.cache beyond what its own tests show."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

from meshcache import Client, Config, Node, NodeUnavailable, ValueTooLarge
from meshcache.integrations.dogpile import MeshcacheBackend, MeshMutex
from meshcache.local.processes import HOST, find_base_port

PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    config = Config.from_tables(
        node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"}, limits={"value_bytes_max": 1_000}
    )
    with Node(config) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.client() as client:
        client.clear()
        yield client


@pytest.fixture
def seeds(node: Node, client: Client) -> str:
    return node.config.node.listen


def region(seeds: str, expiration_time: float = 60, **arguments: Any) -> Any:
    return make_region().configure(
        "meshcache", expiration_time=expiration_time, arguments={"seeds": seeds, "namespace": "d:", **arguments}
    )


def nowhere(**arguments: Any) -> Any:
    return region(f"{HOST}:{find_base_port(1)}", timeout=0.2, distributed_lock=True, lock_timeout=0.5, **arguments)


@pytest.mark.parametrize(("arguments", "ttl_s"), [({}, float("inf")), ({"ttl": 500}, 500)])
def test_the_mesh_keeps_values_for_the_backends_time_and_not_for_the_regions(
    seeds: str, client: Client, arguments: dict[str, Any], ttl_s: float
) -> None:
    cache = region(seeds, expiration_time=1, **arguments)
    cache.set("one", 1)
    cache.set_multi({"many": 2})
    assert client.ttl("d:one") == pytest.approx(ttl_s, abs=1)
    assert client.ttl("d:many") == pytest.approx(ttl_s, abs=1)


def test_an_old_value_is_served_while_one_caller_computes_a_new_one(seeds: str) -> None:
    slow, fast = (region(seeds, distributed_lock=True) for _ in range(2))
    slow.set("k", "old")
    slow.expiration_time = fast.expiration_time = 1e-9
    began, go_on = threading.Event(), threading.Event()

    def create() -> str:
        began.set()
        assert go_on.wait(PATIENCE_S)
        return "new"

    thread = threading.Thread(target=slow.get_or_create, args=("k", create))
    thread.start()
    assert began.wait(PATIENCE_S)
    assert fast.get_or_create("k", lambda: pytest.fail("a second creator")) == "old"
    assert fast.key_is_locked("k")
    go_on.set()
    thread.join(PATIENCE_S)
    fast.expiration_time = 60
    assert fast.get_or_create("k", lambda: pytest.fail("a second creator")) == "new"
    assert not fast.key_is_locked("k")


def test_without_the_lock_dogpile_uses_one_of_the_process(seeds: str) -> None:
    backend = region(seeds).backend
    assert backend.get_mutex("k") is None
    assert not backend.has_lock_timeout()
    assert isinstance(region(seeds, distributed_lock=True).backend.get_mutex("k"), MeshMutex)


def test_a_lock_that_was_lost_is_noted_and_no_other_is_released(
    seeds: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    mutex = region(seeds, distributed_lock=True).backend.get_mutex("k")
    assert isinstance(mutex, MeshMutex)
    assert mutex.acquire()
    client.delete("d:lock:k")  # as when its lease ends
    assert mutex.acquire(wait=False)
    mutex.release()
    assert "another one may have run meanwhile" in caplog.text
    assert mutex.locked()
    mutex.release()
    assert not mutex.locked()
    mutex.release()


def test_who_does_not_wait_for_a_lock_does_not_wait(
    seeds: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshcache.integrations.dogpile.TRY_S", 1_000)
    with client.namespace("d:").lock("k", ttl=60):
        assert not region(seeds, distributed_lock=True).backend.get_mutex("k").acquire(wait=False)


def test_waiting_for_a_lock_ends(seeds: str, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    cache = region(seeds, distributed_lock=True, lock_timeout=0.2)
    holder = client.namespace("d:").lock("k", ttl=60)
    assert holder.acquire()
    assert cache.get_or_create("k", lambda: "computed") == "computed"
    assert "its creator runs without it" in caplog.text
    holder.release()


def test_a_creator_that_fails_releases_the_lock(seeds: str) -> None:
    cache = region(seeds, distributed_lock=True)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_create("k", lambda: 1 // 0)
    assert not cache.key_is_locked("k")


def test_long_keys_and_several_at_once(seeds: str) -> None:
    cache = region(seeds, distributed_lock=True)
    keys = ["k" * 3_000, "k" * 3_001, "short"]
    assert cache.get_or_create_multi(keys, lambda *keys: [len(key) for key in keys]) == [3_000, 3_001, 5]
    assert cache.get_multi([*keys, "none"]) == [3_000, 3_001, 5, NO_VALUE]
    cache.delete_multi(keys)
    assert cache.get_multi(keys) == [NO_VALUE] * 3


def test_a_value_that_is_too_large_is_no_outage(seeds: str) -> None:
    cache = region(seeds, on_error="miss")
    with pytest.raises(ValueTooLarge):
        cache.set_multi({"a": "x", "b": "x" * 2_000})
    with pytest.raises(ValueTooLarge):
        cache.set("b", "x" * 2_000)


def test_an_outage_raises() -> None:
    cache = nowhere()
    calls: list[Any] = [
        lambda: cache.get("a"),
        lambda: cache.get_multi(["a"]),
        lambda: cache.set("a", 1),
        lambda: cache.set_multi({"a": 1}),
        lambda: cache.delete("a"),
        lambda: cache.delete_multi(["a"]),
        lambda: cache.get_or_create("a", lambda: 1),
        lambda: cache.backend.get_mutex("a").acquire(),
    ]
    for call in calls:
        with pytest.raises(NodeUnavailable):
            call()


def test_an_outage_counts_as_a_miss_if_that_is_wanted() -> None:
    cache = nowhere(on_error="miss")
    assert cache.get("a") is NO_VALUE
    assert cache.get_or_create("a", lambda: 1) == 1
    assert cache.get_or_create_multi(["a", "b"], lambda *keys: list(keys)) == ["a", "b"]
    cache.delete_multi(["a"])
    backend = cache.backend
    assert isinstance(backend, MeshcacheBackend)
    assert backend.client.fallbacks.misses > 2
    assert backend.client.fallbacks.writes > 5


def test_arguments_that_it_does_not_know_are_named(seeds: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        region(seeds, tiemout=1, url="x")
    assert "its backend does not know: tiemout, url" in caplog.text
