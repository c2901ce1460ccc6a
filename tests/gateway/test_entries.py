"""One key over HTTP: values, lifetimes, conditions."""

from __future__ import annotations

import json
import math
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from http_gateway import RunningGateway
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import eventually

from meshcache import Client, SerializationError
from meshcache.client.arguments import Item
from meshcache.gateway.answers import json_bytes
from meshcache.gateway.conditions import NEVER_S, cache_headers


def test_a_value_is_what_programs_in_python_read_and_the_other_way_round(
    gateway: RunningGateway, gateway_client: Client
) -> None:
    stored = gateway.put("/cache/user:1", {"name": "Ada", "n": [1, 2.5, None, True, "é"]})
    assert (stored.status, stored.json) == (201, {"key": "user:1", "stored": True, "replicas": 1, "quorum": 1})
    assert gateway_client.get("user:1") == {"name": "Ada", "n": [1, 2.5, None, True, "é"]}
    gateway_client.set("number", 41)
    assert gateway.get("/cache/number").json == {"key": "number", "value": 41}
    assert gateway_client.incr("number") == 42
    assert gateway.get("/cache/number").json["value"] == 42


def test_null_is_a_value_and_no_value_is_a_mistake(gateway: RunningGateway) -> None:
    assert gateway.put("/cache/null", None).status == 201
    assert gateway.get("/cache/null").json == {"key": "null", "value": None}
    refused = gateway.ask("PUT", "/cache/null", {"ttl": 1000})
    assert (refused.status, refused.json["error"]) == (400, "Value is required")


def test_a_key_that_is_not_there(gateway: RunningGateway) -> None:
    missed = gateway.get("/cache/nobody")
    assert (missed.status, missed.json) == (404, {"error": "Key not found"})
    assert missed.headers["cache-control"] == "no-store"
    gone = gateway.ask("DELETE", "/cache/nobody")
    assert (gone.status, gone.json) == (200, {"key": "nobody", "deleted": False, "nodesUpdated": 1})


def test_delete(gateway: RunningGateway) -> None:
    gateway.put("/cache/d", 1)
    assert gateway.ask("DELETE", "/cache/d").json == {"key": "d", "deleted": True, "nodesUpdated": 1}
    assert gateway.get("/cache/d").status == 404


def test_head_is_get_without_its_body(gateway: RunningGateway) -> None:
    gateway.put("/cache/h", "value")
    got, head = gateway.get("/cache/h"), gateway.ask("HEAD", "/cache/h")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize(
    "kind", ["image/png", "text/html; charset=utf-8", "application/problem+json", "application/octet-stream"]
)
def test_what_was_put_as_bytes_of_a_type_comes_back_as_that(gateway: RunningGateway, kind: str) -> None:
    raw = bytes(range(256)) * 10
    assert gateway.ask("PUT", "/cache/raw", raw, Content_Type=kind).status == 201
    got = gateway.get("/cache/raw")
    assert (got.headers["content-type"], got.body) == (kind, raw)
    assert got.headers["content-security-policy"] == "sandbox"
    assert got.headers["x-content-type-options"] == "nosniff"


def test_bytes_of_programs_in_python(gateway: RunningGateway, gateway_client: Client) -> None:
    gateway.ask("PUT", "/cache/plain", b"\x00\xff")  # as curl -T sends it, without a type
    assert gateway_client.get("plain") == b"\x00\xff"
    gateway.ask("PUT", "/cache/page", b"<p>", Content_Type="text/html")
    assert gateway_client.get("page") == {"$content-type": "text/html", "$body": b"<p>"}
    gateway_client.set("page", {"$content-type": "text/css", "$body": b"p {}"})
    assert gateway.get("/cache/page").headers["content-type"] == "text/css"


def test_a_type_that_would_be_another_header_is_shown_as_the_dict_that_it_is(
    gateway: RunningGateway, gateway_client: Client
) -> None:
    gateway_client.set("smuggled", {"$content-type": "text/css\r\nSet-Cookie: a=b", "$body": b"x"})
    got = gateway.get("/cache/smuggled")
    assert "set-cookie" not in got.headers
    assert got.json["value"]["$body"] == {"$type": "bytes", "value": "eA=="}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: "a"}, {"1": "a"}),
        ({(1, 2): "a"}, {"$type": "dict", "value": [[[1, 2], "a"]]}),
        ({3}, {"$type": "set", "value": [3]}),
        (deque([1]), {"$type": "deque", "value": [1]}),
        (math.inf, {"$type": "float", "value": "inf"}),
        ([math.nan, b"\x01"], [{"$type": "float", "value": "nan"}, {"$type": "bytes", "value": "AQ=="}]),
        (datetime(2026, 1, 2, tzinfo=UTC), {"$type": "datetime", "value": "2026-01-02T00:00:00+00:00"}),
        (Decimal("1.10"), {"$type": "Decimal", "value": "1.10"}),
        (UUID(int=1), {"$type": "UUID", "value": str(UUID(int=1))}),
        (1 << 100, 1 << 100),
        ("\ud800<script>", "\ud800<script>"),
    ],
)
def test_what_json_lacks_is_shown_as_what_it_is(
    gateway: RunningGateway, gateway_client: Client, value: Any, shown: Any
) -> None:
    gateway_client.set("typed", value)
    assert gateway.get("/cache/typed").json["value"] == shown


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_cache_holds_becomes_valid_json(value: Any) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    json.loads(json_bytes(value), parse_constant=refuse)


def test_a_value_nested_too_deep_for_json_is_refused_and_not_a_failure(
    gateway: RunningGateway, gateway_client: Client
) -> None:
    value: Any = 1
    for _ in range(1000):
        value = [value, {1.5: b""}]
    gateway_client.set("deep", value)
    assert gateway.get("/cache/deep").status == 406


def test_a_value_of_a_codec_of_somebody_is_refused_and_not_a_failure(
    gateway: RunningGateway, gateway_client: Client
) -> None:
    gateway_client.with_options(codec="pickle").set("pickled", {1})
    with pytest.raises(SerializationError):
        gateway_client.get("pickled")
    refused = gateway.get("/cache/pickled")
    assert (refused.status, refused.json["error"]) == (406, "No form for this value")


# ---- lifetimes


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [({"ttl": 90_000}, 90), ({"ttl_s": 1.5}, 1.5), ({"ttl": None}, math.inf), ({"ttl_s": None}, math.inf), ({}, 300)],
)
def test_lifetimes(gateway: RunningGateway, gateway_client: Client, lifetime: dict[str, Any], seconds: float) -> None:
    assert gateway.ask("PUT", "/cache/t", {"value": 1, **lifetime}).status == 201
    left = gateway_client.ttl("t")
    assert left == seconds if seconds == math.inf else seconds - 1 < (left or 0) <= seconds + 0.1


def test_the_lifetime_of_raw_bytes_is_an_option(gateway: RunningGateway, gateway_client: Client) -> None:
    assert gateway.ask("PUT", "/cache/t?ttl=90000", b"x").status == 201
    assert 85 < (gateway_client.ttl("t") or 0) <= 91
    assert gateway.ask("PUT", "/cache/t?ttl_s=null", b"x").status == 201
    assert gateway_client.ttl("t") == math.inf
    assert gateway.ask("PUT", "/cache/t?ttl=soon", b"x").status == 400
    assert gateway.ask("PUT", "/cache/t?ttl=1", {"value": 1}).status == 400


def test_what_caches_on_the_way_are_told(gateway: RunningGateway, gateway_client: Client) -> None:
    gateway_client.set("t", 1, ttl=50)
    headers = gateway.get("/cache/t").headers
    fresh_s = int(headers["cache-control"].removeprefix("max-age=")) - int(headers["age"])
    assert 45 <= fresh_s <= 50
    gateway_client.set("t", 1, ttl=None)
    headers = gateway.get("/cache/t").headers
    assert int(headers["cache-control"].removeprefix("max-age=")) - int(headers["age"]) == NEVER_S
    old = Item(1, (1000 << 16).to_bytes(8, "big") + bytes(8), 10.0, stale=False)
    assert int(cache_headers(old)["Age"]) > 1_000_000_000  # it was written in 1970


def test_what_is_past_its_lifetime_and_kept_for_others_is_not_there(
    gateway: RunningGateway, gateway_client: Client
) -> None:
    gateway_client.get_or_set("stale", 1, ttl=0.05, stale_ttl=30)

    def is_stale() -> bool:
        item = gateway_client.gets("stale")
        return item is not None and item.stale

    eventually(is_stale)
    assert gateway.get("/cache/stale").status == 404


# ---- conditions


def test_an_etag_spares_the_value(gateway: RunningGateway) -> None:
    gateway.put("/cache/e", 1)
    etag = gateway.get("/cache/e").headers["etag"]
    same = gateway.get("/cache/e", If_None_Match=f'"0", W/{etag}')
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    gateway.put("/cache/e", 2)
    assert gateway.get("/cache/e", If_None_Match=etag).json["value"] == 2
    assert gateway.get("/cache/e", If_None_Match="*").status == 304
    assert gateway.get("/cache/e", If_Match=etag).status == 412


def test_if_match_is_compare_and_set(gateway: RunningGateway) -> None:
    gateway.put("/cache/c", 1)
    etag = gateway.get("/cache/c").headers["etag"]
    assert gateway.put("/cache/c", 2, If_Match=etag).status == 201
    lost = gateway.put("/cache/c", 3, If_Match=etag)
    assert (lost.status, lost.json["error"]) == (412, "Condition not met")
    assert gateway.get("/cache/c").json["value"] == 2
    now = gateway.get("/cache/c").headers["etag"]
    assert gateway.put("/cache/c", 4, If_Match=f"{etag}, {now}").status == 201
    now = gateway.get("/cache/c").headers["etag"]
    assert gateway.put("/cache/c", 5, If_Match=f"W/{now}").status == 412
    assert gateway.put("/cache/c", 5, If_Match='"of-somebody-else"').status == 412
    assert gateway.get("/cache/c").json["value"] == 4


def test_a_star_is_add_and_replace(gateway: RunningGateway) -> None:
    assert gateway.put("/cache/new", 1, If_Match="*").status == 412
    assert gateway.put("/cache/new", 1, If_None_Match="*").status == 201
    assert gateway.put("/cache/new", 2, If_None_Match="*").status == 412
    assert gateway.put("/cache/new", 3, If_Match="*").status == 201
    assert gateway.get("/cache/new").json["value"] == 3


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("PUT", {"If-Match": "no quotes"}),
        ("PUT", {"If-Match": ",".join(['"0"'] * 100)}),
        ("PUT", {"If-None-Match": '"0123"'}),
        ("PUT", {"If-Match": "*", "If-None-Match": "*"}),
        ("DELETE", {"If-Match": "*"}),
    ],
)
def test_conditions_that_can_not_be_kept(gateway: RunningGateway, method: str, headers: dict[str, str]) -> None:
    gateway.put("/cache/kept", 1)
    refused = gateway.ask(method, "/cache/kept", {"value": 2} if method == "PUT" else None, headers)
    assert (refused.status, refused.json["error"]) == (400, "Invalid condition")
    assert gateway.get("/cache/kept").json["value"] == 1


# ---- the rest


def test_tags(gateway: RunningGateway, gateway_client: Client) -> None:
    gateway.put("/cache/tagged", 1, Cache_Tag="user:1, a%2Cb")
    assert gateway_client.invalidate_tags("user:2") == 0
    assert gateway_client.invalidate_tags("a,b") == 1
    assert gateway.get("/cache/tagged").status == 404


def test_consistency(gateway: RunningGateway) -> None:
    for name in ("one", "quorum", "all"):
        assert gateway.put(f"/cache/x?consistency={name}", name).json["quorum"] == 1
        assert gateway.get(f"/cache/x?consistency={name}").json["value"] == name
    assert gateway.get("/cache/x?consistency=most").status == 400


def test_a_hot_key_is_answered_from_a_copy_until_it_changes(gateway: RunningGateway, gateway_client: Client) -> None:
    gateway.put("/cache/hot", 1)

    def read() -> Any:
        got = gateway.get("/cache/hot")
        assert got.json["value"] == 1
        return got if got.json.get("source") == "hot-key-cache" else None

    etag = gateway.get("/cache/hot").headers["etag"]
    assert eventually(read).headers["etag"] == etag
    gateway_client.set("hot", 2)
    eventually(lambda: gateway.get("/cache/hot").json["value"] == 2)
    assert "source" not in gateway.get("/cache/hot?consistency=one").json


# ---- keys


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a%2Fb", b"a/b"),
        ("a/b", b"a/b"),
        ("a%252Fb", b"a%2Fb"),
        ("..", b".."),
        ("../../x", b"../../x"),
        ("./x", b"./x"),
        ("x//y", b"x//y"),
        ("%00", b"\x00"),
        ("a%00b", b"a\x00b"),
        ("%ff%fe", b"\xff\xfe"),
        ("%E2%82%AC", "€".encode()),
        ("a+b", b"a+b"),
        ("a%20b", b"a b"),
        ("a%3Fb", b"a?b"),
        ("a;v=1", b"a;v=1"),
        ("%23", b"#"),
        (":batch", b":batch"),
        ("%0d%0aX:1", b"\r\nX:1"),
    ],
)
def test_a_path_names_one_key_byte_for_byte(
    gateway: RunningGateway, gateway_client: Client, path: str, key: bytes
) -> None:
    gateway_client.clear()
    assert gateway.put(f"/cache/{path}", path).status == 201
    assert gateway_client.get(key) == path
    assert gateway.get(f"/cache/{path}").json["value"] == path
    explained = gateway.get(f"/cluster/explain/{path}").json
    assert explained["replicas"][0]["version"] is not None
    assert gateway.ask("DELETE", f"/cache/{path}").json["deleted"]
    assert gateway_client.clear() == 0  # there was no other key


def test_a_key_that_is_no_text_is_named_in_base64(gateway: RunningGateway) -> None:
    assert gateway.put("/cache/%ff", 1).json["keyBase64"] == "/w=="
