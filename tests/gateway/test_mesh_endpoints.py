"""Batches, invalidations and events, the cluster, metrics, and the description of all of it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import pytest
from http_gateway import PATIENCE_S, Response, RunningGateway, running_gateway, until_end
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.routing import Route
from timing import eventually

from meshcache import AsyncClient, Client, Config, Node
from meshcache.gateway import batch as batches
from meshcache.gateway import invalidations
from meshcache.gateway.app import Gateway, openapi_text
from meshcache.gateway.batch import KEYS_MAX
from meshcache.gateway.cluster import SAMPLE_KEYS, Facts
from meshcache.local.processes import HOST, find_base_port


def batch(gateway: RunningGateway, **what: Any) -> Response:
    return gateway.ask("POST", "/cache:batch", what)


def test_a_batch_gets_sets_and_deletes(gateway: RunningGateway, gateway_client: Client) -> None:
    gateway_client.set_many({"a": 1, "b": (2,), "d": 4})
    sets = [
        {"key": "c", "value": None, "ttl_s": 60, "tags": ["t"]},
        {"key": "e", "value": [1], "ttl": 5000},
        {"key": "f", "value": [2], "ttl": 5000},
    ]
    answer = batch(gateway, get=["a", "b", "none"], set=sets, delete=["d", "gone"])
    assert answer.status == 200
    assert answer.json == {
        "values": {"a": 1, "b": [2]},
        "missing": ["none"],
        "stored": ["c", "e", "f"],
        "deleted": {"d": True, "gone": False},
        "failed": {},
    }
    assert gateway_client.get_many(["c", "d", "e", "f"]) == {"c": None, "e": [1], "f": [2]}
    assert 4 < (gateway_client.ttl("f") or 0) < 5.1
    assert gateway_client.invalidate_tags("t") == 1


def test_a_batch_gets_many_keys_and_not_more_than_there_is_room_for(
    gateway: RunningGateway, gateway_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {str(i): "x" * 1000 for i in range(KEYS_MAX)}
    gateway_client.set_many(values)
    assert batch(gateway, get=list(values)).json["values"] == values
    monkeypatch.setattr(batches, "VALUES_BYTES_MAX", 900_000)
    assert batch(gateway, get=list(values)).status == 413
    assert batch(gateway, get=list(values)[:800]).status == 200


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"get": []},
        {"get": "a"},
        {"get": [1]},
        {"get": [""]},
        {"get": ["a", "a"]},
        {"get": ["a"], "delete": ["a"]},
        {"get": [str(i) for i in range(KEYS_MAX)], "delete": ["a"]},
        {"get": [str(i) for i in range(KEYS_MAX + 1)]},
        {"set": [1]},
        {"set": [{"key": "a"}]},
        {"set": [{"value": 1}]},
        {"set": [{"key": "a", "value": 1, "ttl": 0}]},
        {"set": [{"key": "a", "value": 1, "tags": "t"}]},
        {"set": [{"key": "a", "value": 1, "tags": [""]}]},
        {"set": [{"key": "a", "value": 1, "more": 1}]},
        {"put": []},
    ],
)
def test_batches_that_make_no_sense_do_nothing(
    gateway: RunningGateway, gateway_client: Client, what: dict[str, Any]
) -> None:
    gateway_client.set("a", "as it was")
    assert batch(gateway, **what).status == 400
    assert gateway_client.get("a") == "as it was"


def test_invalidate_by_key_tag_and_prefix(gateway: RunningGateway, gateway_client: Client) -> None:
    gateway_client.clear()
    gateway_client.set_many({"k": 1, "p:1": 1, "p:2": 2, "other": 1})
    gateway_client.set("tagged", 1, tags=["t"])
    answer = gateway.ask("POST", "/invalidate", {"keys": ["k", "none"], "tags": ["t"], "prefix": "p:"})
    assert answer.json == {"invalidated": {"keys": 1, "tags": 1, "prefix": 2}}
    assert gateway_client.clear() == 1


@pytest.mark.parametrize("body", [{}, {"prefix": ""}, {"prefix": None}, {"keys": "k"}, {"tags": [1]}, {"all": True}])
def test_invalidations_that_make_no_sense_do_nothing(
    gateway: RunningGateway, gateway_client: Client, body: dict[str, Any]
) -> None:
    gateway_client.set("k", 1)
    assert gateway.ask("POST", "/invalidate", body).status == 400
    assert gateway_client.get("k") == 1


# ---- events


class Events:
    """A stream as its reader sees it, with the framing of HTTP taken off."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._text = ""

    def _more(self) -> None:
        part = self._connection.recv(1 << 16).decode()
        assert part, "the stream ended"
        self._text += "".join(
            line for line in part.splitlines(keepends=True) if not re.fullmatch(r"[0-9a-f]+\r\n", line)
        )
        self._text = self._text.replace("\r\n", "")

    def next(self) -> tuple[str, dict[str, Any]]:
        while True:
            while not (found := re.search(r"event: (\w+)\ndata: (.*)\n\n", self._text)):
                self._more()
            self._text = self._text[found.end() :]
            return found[1], json.loads(found[2])

    def comment(self) -> None:
        while "\n: " not in f"\n{self._text}":
            self._more()


@contextmanager
def events(gateway: RunningGateway, query: str = "", header: str = "") -> Iterator[Events]:
    with gateway.connect() as connection:
        connection.sendall(f"GET /events{query} HTTP/1.1\r\nHost: {gateway.host}\r\n{header}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b"content-type: text/event-stream\r\n" in head
        stream = Events(connection)
        assert stream.next() == ("ready", {})
        yield stream


def test_events_of_a_prefix(gateway: RunningGateway, gateway_client: Client) -> None:
    with events(gateway, "?prefix=user%3A") as stream:
        gateway_client.set("other", 1)
        gateway_client.set("user:<script>\n", 1)
        kind, told = stream.next()
        assert (kind, told["key"], told["node"]) == ("set", "user:<script>\n", "n1")
        assert re.fullmatch("[0-9a-f]{32}", told["version"])
        gateway_client.delete("user:<script>\n")
        assert stream.next()[0] == "delete"
        gateway_client.invalidate_prefix("user:")
        assert stream.next()[0] == "clear"
        gateway_client.invalidate_tags("team")
        kind, told = stream.next()
        assert (kind, told["tag"]) == ("tag", "team")


def test_a_reader_who_comes_back_is_told_of_a_gap(gateway: RunningGateway) -> None:
    with events(gateway, header="Last-Event-ID: 7\r\n") as stream:
        assert stream.next() == ("gap", {"node": ""})


def test_a_stream_is_kept_alive_and_is_counted_while_it_stands(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "KEEP_ALIVE_S", 0.05)
    with events(gateway) as stream:
        stream.comment()
        assert b"meshcache_gateway_event_streams 1.0" in gateway.get("/metrics").body
    eventually(lambda: b"meshcache_gateway_event_streams 0.0" in gateway.get("/metrics").body)
    application: Any = gateway.server.config.app
    eventually(lambda: not application._invalidations._client._reception.intake.feeds)


def test_streams_are_bounded(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidations, "STREAMS_MAX", 1)
    with events(gateway):
        assert gateway.get("/events").status == 503
    eventually(lambda: gateway.ask("HEAD", "/events").status == 200)


def test_a_stream_of_a_prefix_that_is_no_key(gateway: RunningGateway) -> None:
    assert gateway.get("/events?prefix=" + "p" * 2000).status == 400
    assert gateway.get("/events?from=1").status == 400


# ---- the mesh


def test_status_and_distribution_of_three_nodes() -> None:
    port = find_base_port(3)
    addresses = [f"{HOST}:{port + i}" for i in range(3)]
    nodes = [
        Node(Config.from_tables(node={"id": f"n{i}", "listen": address, "seeds": addresses[:1]}))
        for i, address in enumerate(addresses)
    ]
    try:
        for node in nodes:
            node.start()
        with running_gateway(addresses[0]) as gateway:
            eventually(lambda: gateway.get("/cluster/status").json["healthyNodes"] == 3)
            told = gateway.get("/cluster/status").json
            assert [each["id"] for each in told["nodes"]] == ["n0", "n1", "n2"]
            assert (told["replicationFactor"], told["writeQuorum"], told["readQuorum"]) == (2, 2, 1)
            conforms(told, "Status")
            shares = gateway.get("/cluster/distribution").json
            assert sum(each["count"] for each in shares["distribution"].values()) == shares["sampleSize"] == SAMPLE_KEYS
            assert all(each["percentage"] == f"{each['count'] / 100:.2f}%" for each in shares["distribution"].values())
            with nodes[0].client() as inspecting:
                assert inspecting.get("any") is None
                first = inspecting._session.routing.first
                keys = [f"sample-key-{i}".encode() for i in range(SAMPLE_KEYS)]
                owners = [first[crc32(key) & (len(first) - 1)] for key in keys]
            for i, address in enumerate(addresses):
                assert shares["distribution"][f"n{i}"]["count"] == owners.count(address)
            nodes[2].stop()
            eventually(lambda: gateway.get("/cluster/status").json["healthyNodes"] == 2)
            gone = gateway.get("/cluster/status").json["nodes"][2]
            assert not gone["healthy"]
            assert gone["error"]
            eventually(lambda: gateway.get("/cluster/status").json["nodes"][2]["consecutiveFailures"] > 1)
    finally:
        for node in nodes:
            node.stop()


def test_the_distribution_is_that_of_the_ring(gateway: RunningGateway, gateway_client: Client) -> None:
    told = gateway_client.inspect("status")
    assert gateway.get("/cluster/distribution").json["distribution"] == {
        "n1": {"count": SAMPLE_KEYS, "percentage": "100.00%"}
    }
    assert gateway.get("/cluster/distribution").json["virtualNodesPerNode"] == told["vnodes"]


@pytest.mark.parametrize(
    ("replicas", "owners", "copies"),
    [(3, 5, {None: 2, "one": 1, "quorum": 2, "all": 3}), (3, 1, {None: 1, "one": 1, "quorum": 1, "all": 1})],
)
def test_how_many_copies_a_write_is_known_to_have(replicas: int, owners: int, copies: dict[Any, int]) -> None:
    facts = Facts(replicas, write_quorum=2, read_quorum=2, value_bytes_max=1, owners=owners)
    assert {name: facts.copies(name) for name in copies} == copies


def test_health(gateway: RunningGateway) -> None:
    answer = gateway.get("/health")
    assert (answer.status, answer.json["status"]) == (200, "healthy")


def test_metrics(gateway: RunningGateway) -> None:
    for _ in range(3):
        gateway.get("/cache/counted")
    assert gateway.ask("MKCOL", "/nothing/" + "x" * 100).status == 404
    text = gateway.get("/metrics").body.decode()
    counted = re.search(r'requests_total\{method="GET",route="/cache/\{key\}",status="404"\} (\d+)', text)
    assert counted is not None
    assert int(counted[1]) >= 3
    assert "counted" not in text
    assert "xxx" not in text
    assert "MKCOL" not in text
    assert 'method="other"' in text
    assert re.search(r'duration_seconds_count\{route="/cache/\{key\}"\} [1-9]', text)


def test_metrics_as_openmetrics(gateway: RunningGateway) -> None:
    answer = gateway.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


# ---- the description


DESCRIPTION = json.loads(openapi_text())


def conforms(content: Any, schema: str | dict[str, Any]) -> None:
    named = {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
    Draft202012Validator({**named, "components": DESCRIPTION["components"]}).validate(content)


def test_the_description_is_valid_and_names_every_route(gateway: RunningGateway) -> None:
    validate(DESCRIPTION)
    assert gateway.get("/openapi.json").json == DESCRIPTION
    routes = Gateway(AsyncClient("127.0.0.1:1")).router.routes
    served = {
        re.sub(":path", "", route.path): {method.lower() for method in route.methods or ()} - {"head"}
        for route in routes
        if isinstance(route, Route) and route.include_in_schema  # the dashboard is for people
    }
    described = {path: set(about) - {"parameters"} for path, about in DESCRIPTION["paths"].items()}
    assert described == served


def contents(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        for name, inner in part.items():
            if name == "application/json":
                yield inner
            yield from contents(inner)


def test_the_examples_in_the_description_are_as_it_says() -> None:
    examples = 0
    for content in contents(DESCRIPTION):
        for example in [*[each["value"] for each in content.get("examples", {}).values()], content.get("example")]:
            if example is not None:
                conforms(example, content["schema"])
                examples += 1
    assert examples > 15


def test_answers_are_as_the_description_says(gateway: RunningGateway) -> None:
    put = DESCRIPTION["paths"]["/cache/{key}"]["put"]["requestBody"]["content"]["application/json"]["example"]
    conforms(gateway.ask("PUT", "/cache/user:1", put).json, "Stored")
    conforms(gateway.get("/cache/user:1").json, "Entry")
    conforms(gateway.get("/cluster/explain/user:1").json, "Explained")
    conforms(gateway.ask("DELETE", "/cache/user:1").json, "Deleted")
    conforms(gateway.get("/cache/user:1").json, "Error")
    for path in ("/cache:batch", "/invalidate"):
        about = DESCRIPTION["paths"][path]["post"]
        example = about["requestBody"]["content"]["application/json"]["example"]
        answer = gateway.ask("POST", path, example)
        conforms(answer.json, about["responses"]["200"]["content"]["application/json"]["schema"])
    conforms(gateway.get("/cluster/status").json, "Status")
    conforms(gateway.get("/cluster/distribution").json, "Distribution")
    conforms(gateway.get("/health").json, "Health")


def test_streams_end_when_the_gateway_stops(gateway_node: Node) -> None:
    with running_gateway(gateway_node.config.node.listen) as gateway:
        connection = gateway.connect()
        connection.sendall(f"GET /events HTTP/1.1\r\nHost: {gateway.host}\r\n\r\n".encode())
        assert connection.recv(1 << 16)
    connection.settimeout(PATIENCE_S)
    with connection:
        assert until_end(connection).endswith(b"0\r\n\r\n")


def test_metrics_tell_of_the_client_too(gateway: RunningGateway) -> None:
    assert 'meshcache_client_operations_total{client="gateway"}' in gateway.get("/metrics").body.decode()
