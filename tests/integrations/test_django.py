"""The backend for Django beyond what Django's own tests show: settings, clients, errors, asyncio."""

from __future__ import annotations

import asyncio
import inspect
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final

import pytest
from asgiref.sync import SyncToAsync, async_to_sync
from django.core.cache.backends.base import BaseCache, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.utils.safestring import SafeString, mark_safe

from meshcache import AsyncClient, Client, Config, NearCache, Node
from meshcache.errors import (
    ConfigError,
    KeyMissing,
    NodeUnavailable,
    NotANumber,
    OperationTimeout,
    SerializationError,
)
from meshcache.integrations.clients import LoopClients
from meshcache.integrations.django import _INSTEAD, OPTIONS, MeshCache
from meshcache.local.processes import HOST, find_base_port

PATIENCE_S: Final = 10.0


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(Config.from_tables(node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"})) as node:
        yield node


@pytest.fixture
def address(node: Node) -> str:
    return node.config.node.listen


@pytest.fixture
def cache(address: str) -> MeshCache:
    cache = MeshCache(address, {})
    cache.clear()
    return cache


def nowhere(**options: Any) -> MeshCache:
    """Return a backend whose mesh is not there."""
    return MeshCache(f"{HOST}:{find_base_port(1)}", {"OPTIONS": {"timeout": 0.2, **options}})


def called(cache: MeshCache, name: str, arguments: tuple[Any, ...], *, asynchronous: bool) -> Any:
    if not asynchronous:
        return getattr(cache, name)(*arguments)

    async def call() -> Any:
        return await getattr(cache, f"a{name}")(*arguments)

    return asyncio.run(call())


# ---- settings


def test_options_are_the_arguments_of_a_client_that_django_has_no_settings_for() -> None:
    assert {*OPTIONS, "seeds", "ttl"} == set(inspect.signature(Client).parameters)
    assert set(inspect.signature(Client).parameters) == set(inspect.signature(AsyncClient).parameters)


@pytest.mark.parametrize("name", ["tiemout", "seeds", *_INSTEAD])
def test_an_unknown_option_is_named(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"unknown option '{name}'"):
        MeshCache("", {"OPTIONS": {name: 1}})


@pytest.mark.parametrize(
    ("location", "options", "message"),
    [
        ("host:99999", {}, "99999"),
        ("redis://host:6379", {}, "mesh://"),
        (["mesh:1", 5], {}, "must be host:port"),
        ("", {"codec": "yaml"}, "codec"),
        ("", {"on_error": "ignore"}, "on_error"),
        ("", {"timeout": -1}, "timeout"),
        ("", {"consistency": "most"}, "consistency"),
    ],
)
def test_wrong_settings_are_named(location: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        MeshCache(location, {"OPTIONS": options})


def test_an_option_that_can_not_be_compared_is_named() -> None:
    with pytest.raises(TypeError, match="consistency must be hashable"):
        MeshCache("", {"OPTIONS": {"consistency": [1, 2]}})


@pytest.mark.parametrize(
    "location", ["{0}", "{0},{0}", "{0};{0}", ["{0}"], ("{0}", "{0}"), "mesh://{0}", "mesh://{0}/place/?timeout=2"]
)
def test_a_location_has_many_forms(address: str, location: str | list[str] | tuple[str, ...]) -> None:
    given = location.format(address) if isinstance(location, str) else [one.format(address) for one in location]
    cache = MeshCache(given, {})
    cache.set("k", str(location))
    assert cache.get("k") == str(location)


@pytest.mark.parametrize(("seeds", "namespace"), [("{}", ""), ("mesh://{}/place/", "place/")])
def test_without_a_location_the_environment_says_where(
    address: str, seeds: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHCACHE_SEEDS", f"{HOST}:1")
    nowhere = MeshCache("", {})
    monkeypatch.setenv("MESHCACHE_SEEDS", seeds.format(address))
    cache = MeshCache("", {})
    assert cache.client is not nowhere.client
    cache.set("where", "there")
    with Client(address) as client:
        assert client.get(f"{namespace}:1:where") == "there"


def test_one_client_for_each_settings(address: str) -> None:
    made: list[Client] = []
    threads = [threading.Thread(target=lambda: made.append(MeshCache(address, {}).client)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.append(MeshCache([address], {"KEY_PREFIX": "other", "TIMEOUT": 5, "VERSION": 3}).client)
    assert len(made) == 21
    assert set(made) == {made[0]}
    others = {"timeout": 1}, {"timeout": 2}, {"near_cache": NearCache(max_entries=10)}, {"codec": Reversing()}
    assert len({MeshCache(address, {"OPTIONS": options}).client for options in others} | {made[0]}) == 5


def test_the_options_reach_the_client(address: str) -> None:
    cache = MeshCache(address, {"OPTIONS": {"namespace": "n/", "near_cache": True, "timeout": timedelta(seconds=3)}})
    cache.set("k", [1])
    deadline = time.monotonic() + PATIENCE_S
    while not (near := cache.client.near_statistics()) or not near.hits:
        assert cache.get("k") == [1]
        assert time.monotonic() < deadline, near
    with Client(address, codec="pickle") as client:
        assert client.get("n/:1:k") == [1]


def test_what_the_cache_has_no_method_for_is_reached_by_its_client(cache: MeshCache) -> None:
    cache.client.set(cache.make_key("page"), "text", tags=["product:1"])
    assert cache.get("page") == "text"
    assert cache.client.invalidate_tags("product:1")
    assert cache.get("page") is None


def test_closing_keeps_the_connections(cache: MeshCache) -> None:
    cache.set("k", "v")
    (before,) = cache.client.statistics().nodes.values()
    cache.close()
    assert cache.get("k") == "v"
    (after,) = cache.client.statistics().nodes.values()
    assert (after.node_id, after.answered) == (before.node_id, before.answered + 1)


# ---- values and keys


class Reversing:
    """A codec that a project could have."""

    def encode(self, value: Any) -> bytes:
        return repr(value)[::-1].encode()

    def decode(self, data: bytes) -> Any:
        return data.decode()[::-1]


def test_values_are_pickled_but_integers_are_not(address: str, cache: MeshCache) -> None:
    cache.set("object", SafeString("<b>"))
    assert type(cache.get("object")) is type(mark_safe("<b>"))
    cache.set("count", 5)
    with Client(address) as client:
        assert client.incr(":1:count") == 6
        with pytest.raises(SerializationError, match="pickle"):
            client.get(":1:object")
    assert cache.get("count") == 6
    cache.set("truth", True)
    assert cache.get("truth") is True


@pytest.mark.parametrize("codec", [Reversing(), f"{__name__}.Reversing"])
def test_a_codec_can_be_an_object_or_a_dotted_path(address: str, codec: Any) -> None:
    cache = MeshCache(address, {"OPTIONS": {"codec": codec}})
    cache.set("k", (1, "x"))
    assert cache.get("k") == "(1, 'x')"
    assert MeshCache(address, {"OPTIONS": {"codec": codec}}).client is cache.client


@pytest.mark.parametrize(("location", "options"), [("{}", {"codec": "msgpack"}), ("mesh://{}/?codec=msgpack", {})])
def test_the_codec_of_the_url_counts_unless_the_options_have_one(
    address: str, location: str, options: dict[str, Any]
) -> None:
    cache = MeshCache(location.format(address), {"OPTIONS": options})
    cache.set("k", (1, 2))
    with Client(address) as client:
        assert client.get(":1:k") == (1, 2)
    with pytest.raises(SerializationError, match="no codec"):
        cache.set("k", Reversing())
    pickling = MeshCache(location.format(address), {"OPTIONS": {"codec": "pickle"}})
    pickling.set("k", math.inf)
    assert pickling.get("k") == math.inf


def test_what_can_not_be_pickled_raises_an_error_of_both_kinds(cache: MeshCache) -> None:
    calls = (
        lambda: cache.set("k", LAMBDA),
        lambda: cache.add("k", LAMBDA),
        lambda: cache.get_or_set("k", lambda: LAMBDA),
    )
    for call in calls:
        with pytest.raises(pickle.PickleError, match="lambda"):
            call()
        with pytest.raises(SerializationError):
            call()
    with pytest.raises(pickle.PickleError):
        cache.set_many({"a": 1, "k": LAMBDA})
    assert cache.get_many(["a", "k"]) == {}


LAMBDA: Final = lambda: None  # noqa: E731  (a value that pickle does not find by its name)


@pytest.mark.filterwarnings("ignore:Cache key will cause errors")
def test_a_key_longer_than_nodes_take_raises_djangos_error(cache: MeshCache) -> None:
    longest = "k" * (1024 - len(":1:"))
    cache.set(longest, 1)
    assert cache.get(longest) == 1
    calls: list[Callable[[str], Any]] = [
        cache.get,
        cache.has_key,
        cache.delete,
        cache.touch,
        cache.incr,
        lambda key: cache.set(key, 1),
        lambda key: cache.add(key, 1),
        lambda key: cache.get_or_set(key, 1),
        lambda key: cache.get_many([key]),
        lambda key: cache.set_many({key: 1}),
        lambda key: cache.delete_many([key]),
    ]
    for call in calls:
        with pytest.raises(InvalidCacheKey, match=r"1,025 bytes.*limit is 1,024"):
            call(longest + "k")


def test_keys_need_not_be_text_and_come_back_as_given(cache: MeshCache) -> None:
    assert cache.set_many({1: "one", (2,): "two"}) == []
    assert cache.get_many([1, (2,), 3]) == {1: "one", (2,): "two"}


# ---- lifetimes


@pytest.mark.parametrize(
    ("setting", "timeout", "seconds"),
    [
        (300, "default", 300),
        (None, "default", math.inf),
        (300, None, math.inf),
        (300, 2.5, 2.5),
        (300, timedelta(minutes=1), 60),
        (300, 40 * 86400, 40 * 86400),
        (300, 0, None),
        (300, -1, None),
        (300, -0.5, None),
        (0, "default", None),
    ],
)
def test_a_timeout_means_what_it_means_to_django(
    address: str, setting: Any, timeout: Any, seconds: float | None
) -> None:
    cache = MeshCache(address, {"TIMEOUT": setting})
    given = {} if timeout == "default" else {"timeout": timeout}

    def left() -> float | None:
        return cache.client.ttl(cache.make_key("k"))

    def check() -> None:
        assert left() == (seconds if seconds in {None, math.inf} else pytest.approx(seconds, abs=1.0))

    cache.set("k", "old", timeout=100)
    cache.set("k", "v", **given)
    check()
    cache.set("k", "old", timeout=100)
    assert cache.touch("k", **given)
    check()
    cache.set("k", "old", timeout=100)
    assert cache.add("k", "v", **given) is False
    cache.delete("k")
    assert cache.add("k", "v", **given) is True
    check()
    cache.set("k", "old", timeout=100)
    assert cache.set_many({"k": "v"}, **given) == []
    check()
    cache.delete("k")
    assert cache.get_or_set("k", lambda: "v", **given) == "v"
    check()
    cache.delete("k")
    assert cache.touch("k", **given) is False


@pytest.mark.parametrize("timeout", [math.nan, math.inf, "5", b"5"])
def test_a_timeout_that_makes_no_sense_is_refused(cache: MeshCache, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        cache.set("k", 1, timeout)
    assert cache.get("k") is None


# ---- counting


def test_incr_raises_what_djangos_users_expect(cache: MeshCache) -> None:
    with pytest.raises(ValueError, match="'k' not found") as raised:
        cache.incr("k")
    assert not isinstance(raised.value, KeyMissing)
    for value in ("text", 1.5, True, None, 1 << 63):
        cache.set("k", value)
        with pytest.raises(NotANumber):
            cache.decr("k")
    cache.set("k", 1)
    with pytest.raises(TypeError, match="delta"):
        cache.incr("k", 0.5)  # type: ignore[arg-type]  # as a project could do it


def test_counting_keeps_the_lifetime_and_loses_nothing(address: str, cache: MeshCache) -> None:
    cache.set("k", 0, timeout=50)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: MeshCache(address, {}).incr("k"), range(400)))
    assert cache.get("k") == 400
    assert cache.client.ttl(cache.make_key("k")) == pytest.approx(50, abs=5)


# ---- get_or_set


def test_one_caller_computes_for_all(address: str, cache: MeshCache) -> None:
    """Also where the callers are in different processes: here, clients that share nothing."""
    calls: list[float] = []
    begun = threading.Event()
    caches = [cache, *[MeshCache(address, {"OPTIONS": {"timeout": PATIENCE_S + i}}) for i in range(5)]]

    def compute() -> str:
        calls.append(time.monotonic())
        begun.wait(PATIENCE_S)
        return "v"

    with ThreadPoolExecutor(12) as pool:
        found = [pool.submit(each.get_or_set, "k", compute) for each in caches * 2]
        waiting = [each for each in caches[1:] if not each.has_key("k")]
        assert len(waiting) == 5
        begun.set()
        assert {each.result(PATIENCE_S) for each in found} == {"v"}
    assert len(calls) == 1


def test_who_waits_too_long_for_another_computes_by_itself(address: str, cache: MeshCache) -> None:
    slow_began, quick_done = threading.Event(), threading.Event()

    def slow() -> str:
        slow_began.set()
        assert quick_done.wait(PATIENCE_S)
        return "slow"

    hasty = MeshCache(address, {"OPTIONS": {"timeout": 0.3}})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get_or_set, "k", slow)
        assert slow_began.wait(PATIENCE_S)
        assert hasty.get_or_set("k", lambda: "quick") == "quick"
        assert cache.get("k") == "quick"
        quick_done.set()
        assert first.result(PATIENCE_S) == "slow"
    assert cache.get("k") == "quick", "what was written meanwhile must stay"


def test_an_error_of_the_function_is_raised_and_it_runs_once(cache: MeshCache) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise OperationTimeout("of the database")

    with pytest.raises(OperationTimeout, match="of the database"):
        cache.get_or_set("k", fail)
    assert len(calls) == 1


# ---- many keys


@pytest.mark.parametrize("asynchronous", [False, True])
def test_many_keys_travel_in_one_message(cache: MeshCache, asynchronous: bool) -> None:
    values = {f"k{i}": i for i in range(100)}
    steps: list[tuple[str, Any]] = [("set_many", []), ("get_many", values), ("delete_many", None), ("get_many", {})]

    async def operations() -> int:
        return (cache.async_client if asynchronous else cache.client).statistics().operations

    for name, result in steps:
        before = asyncio.run(operations())
        assert called(cache, name, (values,), asynchronous=asynchronous) == result
        assert asyncio.run(operations()) == before + 1, name


# ---- while the mesh fails


READS: Final[dict[str, tuple[tuple[Any, ...], Any]]] = {
    "get": (("k", "default"), "default"),
    "get_many": ((["k", "l"],), {}),
    "has_key": (("k",), False),
    "get_or_set": (("k", "computed"), "computed"),
}
WRITES: Final[dict[str, tuple[tuple[Any, ...], Any]]] = {
    "set": (("k", 1), None),
    "touch": (("k",), False),
    "delete": (("k",), False),
    "set_many": (({"k": 1, "l": 2},), ["k", "l"]),
    "delete_many": ((["k", "l"],), None),
}
ANSWERS: Final[dict[str, tuple[Any, ...]]] = {"add": ("k", 1), "incr": ("k",), "decr": ("k",), "clear": ()}
"""Methods whose callers act on the answer."""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_errors_are_raised_by_default(asynchronous: bool) -> None:
    cache = nowhere()
    given = {name: arguments for name, (arguments, _) in (READS | WRITES).items()} | ANSWERS
    for name, arguments in given.items():
        with pytest.raises(NodeUnavailable):
            called(cache, name, arguments, asynchronous=asynchronous)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("in_url", [False, True])
def test_a_mesh_that_fails_can_count_as_a_miss(asynchronous: bool, in_url: bool) -> None:
    at = f"{HOST}:{find_base_port(1)}"
    cache = MeshCache(f"mesh://{at}?on_error=miss&timeout=0.2", {}) if in_url else nowhere(on_error="miss")
    for name, (arguments, result) in (READS | WRITES).items():
        assert called(cache, name, arguments, asynchronous=asynchronous) == result, name

    async def fallbacks() -> Any:
        return cache.async_client.fallbacks

    counts = asyncio.run(fallbacks()) if asynchronous else cache.client.fallbacks
    assert (counts.loads, counts.misses, counts.writes) == (1, 4, 7)
    for name, given in ANSWERS.items():
        with pytest.raises(NodeUnavailable):
            called(cache, name, given, asynchronous=asynchronous)


def test_mistakes_are_no_misses(address: str) -> None:
    cache = MeshCache(address, {"OPTIONS": {"on_error": "miss"}})
    with pytest.raises(pickle.PickleError):
        cache.set("k", LAMBDA)
    cache.set("k", "text")
    with pytest.raises(NotANumber):
        cache.incr("k")
    assert (cache.client.fallbacks.misses, cache.client.fallbacks.writes) == (0, 0)


# ---- asyncio


COROUTINES: Final = [name for name, _ in inspect.getmembers(BaseCache, inspect.iscoroutinefunction)]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread was asked to wait")

    monkeypatch.setattr(SyncToAsync, "__call__", refuse)


async def use_all(cache: MeshCache) -> set[str]:
    """Use each coroutine of the backend; return the names of those used."""
    steps: list[tuple[str, tuple[Any, ...], Any]] = [
        ("aclear", (), None),
        ("aset", ("k", [1]), None),
        ("aget", ("k",), [1]),
        ("ahas_key", ("k",), True),
        ("aadd", ("k", 2), False),
        ("atouch", ("k", 50), True),
        ("aset_many", ({"a": 1, "b": 2},), []),
        ("aget_many", (["a", "b", "c"],), {"a": 1, "b": 2}),
        ("aincr", ("a", 4), 5),
        ("adecr", ("a",), 4),
        ("aget_or_set", ("c", lambda: "computed"), "computed"),
        ("aincr_version", ("c",), 2),
        ("adecr_version", ("c", 1, 2), 1),
        ("adelete", ("c",), True),
        ("adelete_many", (["a", "b"],), None),
        ("aclose", (), None),
    ]
    for name, arguments, result in steps:
        assert await getattr(cache, name)(*arguments) == result, name
    return {name for name, _, _ in steps}


@pytest.mark.usefixtures("no_threads")
def test_no_coroutine_waits_in_a_thread(cache: MeshCache) -> None:
    cache.set("untouched", 1)
    before = cache.client.statistics().operations
    assert asyncio.run(use_all(cache)) == set(COROUTINES)
    assert cache.client.statistics().operations == before
    assert cache.get_many(["k", "a", "untouched"]) == {"k": [1]}


def test_the_look_at_threads_sees_them(no_threads: None, cache: MeshCache) -> None:
    with pytest.raises(AssertionError, match="a thread"):
        asyncio.run(BaseCache.aget(cache, "k"))


def test_a_coroutine_function_can_compute(cache: MeshCache) -> None:
    async def compute() -> str:
        await asyncio.sleep(0)
        return "computed"

    async def both() -> list[Any]:
        return await asyncio.gather(*[cache.aget_or_set("k", compute), cache.aget_or_set("l", compute, 0)])

    assert asyncio.run(both()) == ["computed", "computed"]
    assert cache.get_many(["k", "l"]) == {"k": "computed"}
    with pytest.raises(TypeError, match="await"):
        cache.get_or_set("m", compute)


def test_a_closed_loop_leaves_its_client_to_the_next(address: str) -> None:
    clients: list[AsyncClient] = []
    cache = MeshCache(address, {"OPTIONS": {"timeout": 4.5}})

    async def use() -> None:
        await cache.aset("k", 1)
        assert cache.async_client is MeshCache(address, {"OPTIONS": {"timeout": 4.5}}).async_client
        clients.append(cache.async_client)

    for _ in range(3):
        asyncio.run(use())
        async_to_sync(use)()
    assert len(clients) == 6
    assert len(set(clients)) == 1


def test_loops_that_are_open_at_the_same_time_have_clients_of_their_own(address: str) -> None:
    clients = LoopClients({"seeds": address})
    together = threading.Barrier(4)

    async def use() -> AsyncClient:
        client = clients.here()
        await client.set("k", 1)
        await asyncio.to_thread(together.wait, PATIENCE_S)
        assert await client.get("k") == 1
        return client

    def run() -> AsyncClient:
        return asyncio.run(use())

    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(run) for _ in range(4)]
            assert len({each.result(PATIENCE_S) for each in found}) == 4
        assert len(clients) == 4


def test_outside_of_a_loop_there_is_no_client_for_asyncio(cache: MeshCache) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        _ = cache.async_client
