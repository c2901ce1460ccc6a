"""The backends for cachelib and Flask-Caching beyond what their own tests show."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask_caching
import pytest
from flask import Flask, session
from flask_session import Session

from meshcache import Client, Config, InvalidKey, Node, NodeUnavailable, NotANumber
from meshcache.integrations import flask_caching as flask_backend
from meshcache.integrations.cachelib import MeshCache
from meshcache.integrations.shared import KEY_BYTES_MAX, fitting
from meshcache.local.processes import HOST, find_base_port


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(Config.from_tables(node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"})) as node:
        yield node


@pytest.fixture
def address(node: Node) -> str:
    return node.config.node.listen


@pytest.fixture
def cache(address: str) -> MeshCache:
    cache = MeshCache(address, key_prefix="t:")
    cache.clear()
    return cache


def nowhere(**options: Any) -> MeshCache:
    """Return a cache whose mesh is not there."""
    return MeshCache(f"{HOST}:{find_base_port(1)}", timeout=0.2, **options)


# ---- timeouts


@pytest.mark.parametrize(
    ("timeout", "ttl_s"),
    [(None, 50), (0, float("inf")), (7, 7), (timedelta(seconds=6.5), 7), (timedelta(), float("inf"))],
)
def test_timeouts_mean_what_they_mean_in_cachelib(address: str, timeout: int | timedelta | None, ttl_s: float) -> None:
    cache = MeshCache(address, default_timeout=50, key_prefix="timeouts:")
    cache.clear()
    assert cache.set("set", 1, timeout)
    assert cache.set_many({"many": 1}, timeout) == ["many"]
    assert cache.add("add", 1, timeout)
    for key in ("set", "many", "add"):
        assert cache.client.ttl(key) == pytest.approx(ttl_s, abs=1)


def test_a_default_timeout_of_0_is_for_ever(address: str) -> None:
    cache = MeshCache(address, default_timeout=0, key_prefix="ever:")
    cache.set("a", 1)
    cache.inc("n")
    assert cache.client.ttl("a") == cache.client.ttl("n") == float("inf")


def test_what_has_a_negative_timeout_is_gone(cache: MeshCache) -> None:
    for key in "abc":
        cache.set(key, "old")
    assert cache.set("a", "new", -1)
    assert cache.set_many({"b": "new"}, -5) == ["b"]
    assert not cache.add("c", "new", -1)
    assert cache.add("d", "new", -1)
    assert cache.get_many(*"abcd") == [None, None, "old", None]
    with pytest.raises(ValueError, match=r"default_timeout must be 0 \(never expires\) or more, is -1"):
        MeshCache(default_timeout=-1)


def test_a_new_counter_has_the_default_timeout_and_an_old_one_keeps_its_own(cache: MeshCache) -> None:
    cache.inc("new", 3)
    assert cache.client.ttl("new") == pytest.approx(300, abs=1)
    cache.set("old", 5, timeout=20)
    assert cache.dec("old", 7) == -2
    assert cache.client.ttl("old") == pytest.approx(20, abs=1)
    cache.set("text", "x")
    with pytest.raises(NotANumber):
        cache.inc("text")


# ---- values and keys


def test_other_clients_read_bytes_text_and_numbers(cache: MeshCache, address: str) -> None:
    cache.set_many({"bytes": b"\0", "text": "é", "number": 7, "any": {1: {2}}})
    with Client(address, namespace="t:") as client:
        assert client.get_many(["bytes", "text", "number"]) == {"bytes": b"\0", "text": "é", "number": 7}
        assert client.with_options(codec="pickle").get("any") == {1: {2}}
    plain = MeshCache(address, key_prefix="t:", codec="msgpack")
    plain.set("any", {1: {2}})
    with Client(address, namespace="t:") as client:
        assert client.get("any") == {1: {2}}


def test_a_serializer_makes_what_is_stored(cache: MeshCache) -> None:
    class Reversed:
        def dumps(self, value: str) -> str:
            return value[::-1]

        def loads(self, bvalue: str) -> str:
            return bvalue[::-1]

    cache.serializer = Reversed()
    cache.set("text", "abc")
    cache.set("number", 12)
    assert cache.client.get_many(["text", "number"]) == {"text": "cba", "number": 12}
    assert cache.get_dict("text", "number", "none") == {"text": "abc", "number": 12, "none": None}


def test_a_long_key_is_another_one_for_each_text(cache: MeshCache) -> None:
    long = "/search?q=" + "é" * 3_000
    cache.set_many({long: 1, long + "x": 2})
    assert cache.add(long, 3) is False
    assert cache.get_many(long, long + "x") == [1, 2]
    assert cache.has(long)
    assert cache.inc(long) == 2
    assert cache.delete_many(long, long + "x") == [long, long + "x"]
    assert not cache.has(long)
    longest = "k" * KEY_BYTES_MAX
    assert fitting(longest) == longest
    assert len(fitting(longest + "k")) < 100
    with pytest.raises(InvalidKey):
        cache.get("")


def test_clear_drops_keys_with_the_prefix_only(cache: MeshCache, address: str) -> None:
    other = MeshCache(address, key_prefix="u:")
    cache.set("a", 1)
    other.set("a", 2)
    assert cache.clear()
    assert (cache.get("a"), other.get("a")) == (None, 2)


# ---- clients


def test_caches_with_the_same_settings_share_a_client(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(cache: MeshCache) -> object:
        return cache.client._channels

    cache = MeshCache(address, key_prefix="a:")
    assert shared(cache) is shared(MeshCache([address], key_prefix="b:", default_timeout=1)) is not None
    assert shared(cache) is not shared(MeshCache(address, timeout=1))
    monkeypatch.setenv("MESHCACHE_SEEDS", address)
    assert shared(cache) is shared(MeshCache())
    monkeypatch.setenv("MESHCACHE_SEEDS", "127.0.0.1:1")
    assert shared(cache) is not shared(MeshCache())


def test_a_cache_that_was_made_before_a_fork_works_in_both(cache: MeshCache, tmp_path: Path) -> None:
    cache.set("a", "before")
    child = os.fork()
    if not child:
        try:
            (tmp_path / "read").write_text(cache.get("a"))
            cache.set("a", "child")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "read").read_text() == "before"
    assert cache.get("a") == "child"


def test_a_cache_that_is_dropped_is_collected(address: str) -> None:
    gone = weakref.ref(MeshCache(address))
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_url_of_seeds_has_its_say(address: str, monkeypatch: pytest.MonkeyPatch, by_variable: bool) -> None:
    url = f"mesh://{address}/shop:?on_error=miss&codec=msgpack"
    monkeypatch.setenv("MESHCACHE_SEEDS", url if by_variable else "")
    cache = MeshCache(None if by_variable else url, key_prefix="p:")
    cache.set("a", {1})
    assert cache._skip
    with Client(address) as client:
        assert client.get("shop:p:a") == {1}


# ---- errors


def test_an_outage_raises() -> None:
    cache = nowhere()
    for call in (
        lambda: cache.get("a"),
        lambda: cache.get_many("a"),
        lambda: cache.has("a"),
        lambda: cache.set("a", 1),
        lambda: cache.add("a", 1),
        lambda: cache.inc("a"),
        lambda: cache.delete("a"),
        lambda: cache.delete_many("a"),
        lambda: cache.set_many({"a": 1}),
        cache.clear,
    ):
        with pytest.raises(NodeUnavailable):
            call()


def test_an_outage_counts_as_a_miss_if_that_is_wanted() -> None:
    cache = nowhere(on_error="miss", ignore_delete_many_errors=False)
    assert (cache.get("a"), cache.get_many("a", "b"), cache.has("a")) == (None, [None, None], False)
    assert not cache.set("a", 1)
    assert not cache.set("a", 1, -1)
    assert cache.set_many({"a": 1, "b": 2}) == []
    assert not cache.add("a", 1)
    assert cache.inc("a") is None
    assert not cache.delete("a")
    assert not cache.clear()
    with pytest.raises(RuntimeError, match="Failed to delete"):
        cache.delete_many("a")
    assert (cache.client.fallbacks.misses, cache.client.fallbacks.writes) == (4, 9)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="'tiemout'"):
        MeshCache(tiemout=1)


# ---- in Flask


@pytest.fixture
def app(address: str) -> Flask:
    app = Flask(__name__)
    app.config |= {
        "CACHE_TYPE": "meshcache.integrations.flask_caching.MeshCache",
        "CACHE_MESH_SEEDS": address,
        "CACHE_KEY_PREFIX": "flask:",
        "CACHE_DEFAULT_TIMEOUT": 40,
        "CACHE_OPTIONS": {"on_error": "miss", "timeout": 2},
        "SESSION_TYPE": "cachelib",
        "SESSION_CACHELIB": MeshCache(address, key_prefix="sessions:"),
    }
    return app


def test_flask_caching_makes_it_by_its_settings(app: Flask) -> None:
    cache = flask_caching.Cache(app)
    made = app.extensions["cache"][cache]
    made.clear()
    assert type(made) is flask_backend.MeshCache
    assert (made.default_timeout, made.key_prefix, made._skip) == (40, "flask:", True)
    calls = []

    @app.route("/")
    @cache.cached()
    def view() -> str:
        calls.append(1)
        return "ok"

    @cache.memoize()
    def double(x: int) -> int:
        calls.append(x)
        return x * 2

    browser = app.test_client()
    assert [browser.get("/").data, browser.get("/").data] == [b"ok", b"ok"]
    assert [double(2), double(2)] == [4, 4]
    assert calls == [1, 2]
    assert made.client.ttl("view//") == pytest.approx(40, abs=1)
    cache.delete_memoized(double)
    double(2)
    assert calls == [1, 2, 2]


def test_flask_caching_also_takes_the_backend_for_cachelib(app: Flask, address: str) -> None:
    app.config |= {
        "CACHE_TYPE": "meshcache.integrations.cachelib.MeshCache",
        "CACHE_ARGS": [address],
        "CACHE_OPTIONS": {"key_prefix": "plain:"},
    }
    cache = flask_caching.Cache(app)
    with app.app_context():
        cache.set("a", 1)
        assert cache.get("a") == 1
    assert app.extensions["cache"][cache].client.get("a") == 1


def test_flask_session_keeps_sessions_in_it(app: Flask) -> None:
    Session(app)

    @app.route("/visit")
    def visit() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    ada, bob = app.test_client(), app.test_client()
    assert [ada.get("/visit").text, ada.get("/visit").text, bob.get("/visit").text] == ["1", "2", "1"]
