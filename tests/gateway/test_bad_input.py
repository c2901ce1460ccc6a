"""What is no request, and what nobody may ask: each gets its 4xx with a reason, and harms nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from http_gateway import (
    PATIENCE_S,
    VALUE_BYTES_MAX,
    Response,
    RunningGateway,
    responses,
    running_gateway,
    until_end,
)
from timing import eventually

from meshcache import Client, Node
from meshcache.gateway import requests, server

JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def untouched(gateway_client: Client, gateway: RunningGateway) -> Iterator[None]:
    """Whatever is refused reaches no key, and leaves a gateway that answers."""
    gateway_client.clear()
    gateway_client.set("kept", "as it was")
    yield
    assert gateway.get("/cache/kept").json["value"] == "as it was"
    assert gateway_client.clear() == 1


def refused(response: Response, status: int, error: str) -> None:
    assert (response.status, response.json["error"]) == (status, error)
    assert len(response.json["detail"]) > 10
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b'{"value": NaN}', "Invalid JSON"),
        (b'{"value": 1e999}', "Invalid JSON"),
        (b'{"value": ' + b"1" * 10_000 + b"}", "Invalid JSON"),
        (b'{"value": ' + b"[" * 50_000 + b"}", "Invalid JSON"),
        (b"[]", "Invalid body"),
        (b"7", "Invalid body"),
        (b"{}", "Value is required"),
        (b'{"value": 1, "ttl": 0}', "Invalid ttl"),
        (b'{"value": 1, "ttl": -1}', "Invalid ttl"),
        (b'{"value": 1, "ttl": "soon"}', "Invalid ttl"),
        (b'{"value": 1, "ttl": true}', "Invalid ttl"),
        (b'{"value": 1, "ttl": [' + b"1," * 500 + b"1]}", "Invalid ttl"),
        (b'{"value": 1, "ttl": 1' + b"0" * 400 + b"}", "Invalid ttl"),
        (b'{"value": 1, "ttl_s": 315360001}', "Invalid ttl"),
        (b'{"value": 1, "ttl": 5, "ttl_s": 5}', "Invalid ttl"),
        (b'{"value": 1, "tll": 5}', "Unknown field"),
    ],
)
def test_bodies_that_make_no_sense(gateway: RunningGateway, body: bytes, error: str) -> None:
    refused(gateway.ask("PUT", "/cache/kept", body, JSON), 400, error)


def test_values_beyond_the_limit_of_the_mesh(gateway: RunningGateway) -> None:
    for body in (b"x" * (VALUE_BYTES_MAX + 1), b'{"value": "%s"}' % (b"x" * (VALUE_BYTES_MAX + 1))):
        headers = JSON if body.startswith(b"{") else {}
        assert gateway.ask("PUT", "/cache/kept", body, headers).status == 413
    huge = gateway.ask("PUT", "/cache/kept", b"", {**JSON, "Content-Length": str(1 << 40)})
    refused(huge, 413, "Body too large")


def test_a_body_as_long_as_may_be(gateway: RunningGateway) -> None:
    assert gateway.ask("PUT", "/cache/long", b"x" * (VALUE_BYTES_MAX - 300)).status == 201
    assert len(gateway.get("/cache/long").body) == VALUE_BYTES_MAX - 300
    assert gateway.ask("DELETE", "/cache/long").json["deleted"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/cache", 404),
        ("GET", "/cache%2Fkept", 404),
        ("GET", "/cache/../cluster/status", 404),  # the key "../cluster/status"
        ("GET", "//cache/kept", 404),
        ("GET", "/CACHE/kept", 404),
        ("PUT", "/nothing", 404),
        ("GET", "/cache/", 400),
        ("GET", "/cache/%", 400),
        ("GET", "/cache/%zz", 400),
        ("GET", "/cache/a#b", 400),
        ("GET", "/cache/" + "k" * 1025, 400),
        ("GET", "/cache/kept?nothing=1", 400),
        ("GET", "/cache/kept?consistency=one&consistency=all", 400),
        ("GET", "/cache/kept?" + "&".join(["a=1"] * 1000), 400),
        ("POST", "/cache/kept", 405),
        ("PATCH", "/cache/kept", 405),
        ("OPTIONS", "/cache/kept", 405),
        ("GET", "/invalidate", 405),
        ("DELETE", "/cache:batch", 405),
        ("PUT", "/health", 405),
        ("GET", "http://127.0.0.1/cache/kept", 400),
        ("OPTIONS", "*", 400),
        ("CONNECT", "kept:80", 400),
    ],
)
def test_paths_and_methods(gateway: RunningGateway, method: str, path: str, status: int) -> None:
    response = gateway.ask(method, path)
    assert response.status == status
    assert response.json["error"]
    assert status != 405 or method not in response.headers["allow"].split(", ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": ""}, 400),
        ({"Host": "a b"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_pages_of_other_sites_neither_read_nor_write(
    gateway: RunningGateway, headers: dict[str, str], status: int, method: str
) -> None:
    body = {"value": "changed"} if method == "PUT" else None
    response = gateway.ask(method, "/cache/kept", body, headers)
    assert response.status == status
    assert b"as it was" not in response.body
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_two_hosts_or_none(gateway: RunningGateway) -> None:
    for hosts in (b"", b"Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n"):
        (response,) = gateway.raw(b"GET /cache/kept HTTP/1.1\r\nConnection: close\r\n" + hosts + b"\r\n")
        assert response.status == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("path", ["/invalidate", "/cache:batch"])
def test_what_a_form_can_send_does_nothing(gateway: RunningGateway, path: str, kind: str) -> None:
    body = b'{"keys": ["kept"]}' if path == "/invalidate" else b'{"delete": ["kept"]}'
    refused(gateway.ask("POST", path, body, {"Content-Type": kind} if kind else {}), 415, "Not JSON")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:9"},
        {"Host": "[::1]:7180"},
        {"Host": "10.0.0.1"},
        {"Host": "Cache.Example"},
        {"Host": "cache.example:80", "Origin": "https://cache.example:80"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_who_may_ask(gateway: RunningGateway, headers: dict[str, str]) -> None:
    assert gateway.ask("GET", "/cache/kept", None, headers).status == 200


def test_a_form_is_no_value(gateway: RunningGateway) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    refused(gateway.ask("PUT", "/cache/kept", b'{"value":1}', kind), 415, "Form refused")


def test_an_encoded_body_is_no_value(gateway: RunningGateway) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    refused(gateway.ask("PUT", "/cache/kept", b"x", headers), 415, "Encoded body")


@pytest.mark.parametrize("tags", ["a,,b", "%zz", ",".join(map(str, range(33))), "x" * 1025])
def test_tags_that_make_no_sense(gateway: RunningGateway, tags: str) -> None:
    refused(gateway.put("/cache/kept", 1, Cache_Tag=tags), 400, "Invalid tag")


@pytest.mark.parametrize("kind", ["image", "a/b\x01", "é/é", "image/" + "p" * 300, "; charset=utf-8"])
def test_types_that_make_no_sense(gateway: RunningGateway, kind: str) -> None:
    assert gateway.ask("PUT", "/cache/kept", b"x", {"Content-Type": kind}).status == 400


# ---- below HTTP


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /cache/kept HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /cache/kept HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /cache/" + b"k" * 100_000, 431),
        (b"GET /cache/kept HTTP/1.1\r\nHost: " + b"a" * 1_000_000, 431),
        (b"GET /cache/kept HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET /cache/kept HTTP/1.1\r\n" + b"A: " + b"b" * 17_000 + b"\r\n\r\n", 431),
        (b"GET /cache/\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
    ],
    ids=range(9),
)
def test_what_is_no_request(gateway: RunningGateway, request_bytes: bytes, status: int) -> None:
    with gateway.connect() as connection:
        connection.sendall(request_bytes)
        (response,) = responses(until_end(connection))
    assert response.status == status
    assert response.json["error"]


def head(text: str) -> bytes:
    return f"{text}\r\nHost: 127.0.0.1\r\n".encode()


def test_a_header_that_never_ends_is_cut(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_S", 0.3)
    for begin in (b"", b"G", head("GET /cache/kept HTTP/1.1")):
        with gateway.connect() as connection:
            connection.sendall(begin)
            (response,) = responses(until_end(connection))
        assert response.status == 408


def test_a_second_header_that_never_ends_is_cut(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_S", 0.3)
    with gateway.connect() as connection:
        connection.sendall(head("GET /cache/kept HTTP/1.1") + b"\r\n" + b"GET /cache/")
        first, second = responses(until_end(connection))
    assert (first.status, second.status) == (200, 408)


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_never_ends_is_cut(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    monkeypatch.setattr(requests, "BODY_S", 0.3)
    monkeypatch.setattr(server, "DISCARD_S", 0.3)
    with gateway.connect() as connection:
        begin = b"5\r\nabcde\r\n" if "chunked" in framing else b"abcde"
        connection.sendall(head("PUT /cache/kept HTTP/1.1") + framing.encode() + b"\r\n\r\n" + begin)
        (response,) = responses(until_end(connection))
    refused(response, 408, "Body too slow")


def pour(connection: socket.socket, part: bytes, ended: threading.Event) -> None:
    try:
        while not ended.is_set():
            connection.sendall(part)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("part", "status"),
    [
        (b"1000\r\n" + b"x" * 0x1000 + b"\r\n", 413),
        (b"1;" + b"e" * 1000 + b"\r\nx\r\n", 431),
        (b"0\r\n" + b"T: " + b"t" * 1_000_000, 431),
    ],
    ids=["chunks", "extensions", "trailer"],
)
def test_a_body_without_end_is_refused_and_the_connection_cut(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, part: bytes, status: int
) -> None:
    monkeypatch.setattr(server, "DISCARD_S", 0.5)
    ended = threading.Event()
    with gateway.connect() as connection:
        connection.sendall(head("PUT /cache/kept HTTP/1.1") + b"Transfer-Encoding: chunked\r\n\r\n")
        thread = threading.Thread(target=pour, args=(connection, part, ended))
        thread.start()
        data = until_end(connection)
        ended.set()
    thread.join(PATIENCE_S)
    found = responses(data)
    assert [response.status for response in found] in ([status], [])  # the cut may overtake what was said before it
    assert not thread.is_alive()


def test_a_refused_body_that_ends_leaves_the_connection_as_it_is(gateway: RunningGateway) -> None:
    body = b"x" * (VALUE_BYTES_MAX + 1)
    first = head("PUT /cache/kept HTTP/1.1") + b"Content-Length: %d\r\n\r\n" % len(body) + body
    found = gateway.raw(first + head("GET /cache/kept HTTP/1.1") + b"Connection: close\r\n\r\n")
    assert [response.status for response in found] == [413, 200]


def test_after_a_refusal_of_what_was_only_announced_no_body_is_expected(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DISCARD_S", 10 * PATIENCE_S)
    announced = head("PUT /cache/kept HTTP/1.1") + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    (response,) = gateway.raw(announced)
    assert response.status == 413


def test_pipelined_requests_are_answered_in_order_and_bounded(gateway: RunningGateway) -> None:
    one = head("GET /cache/kept HTTP/1.1") + b"\r\n"
    last = head("GET /cache/other HTTP/1.1") + b"Connection: close\r\n\r\n"
    assert [response.status for response in gateway.raw(one * 10 + last)] == [200] * 10 + [404]
    found = gateway.raw(one * (server.PIPELINED_MAX + 100))
    assert len(found) <= server.PIPELINED_MAX + 1


def test_more_connections_than_there_are_for_all(gateway_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that send nothing make room for one that does."""
    monkeypatch.setattr(server.Connection, "connections_max", 20)
    with running_gateway(gateway_node.config.node.listen) as small:
        silent = [small.connect() for _ in range(60)]
        try:
            assert small.get("/cache/kept").json["value"] == "as it was"
            assert len(small.server.server_state.connections) <= 20
        finally:
            for connection in silent:
                connection.close()


def test_one_who_does_not_read_is_cut(
    gateway: RunningGateway, gateway_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WRITE_S", 0.3)
    gateway_client.set("big", b"x" * (VALUE_BYTES_MAX - 300))
    before = len(gateway.server.server_state.connections)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", gateway.port))
        connection.sendall((head("GET /cache/big HTTP/1.1") + b"\r\n") * server.PIPELINED_MAX)
        eventually(lambda: len(gateway.server.server_state.connections) > before)
        eventually(lambda: len(gateway.server.server_state.connections) <= before)
    gateway_client.delete("big")


def test_all_bodies_together_are_bounded(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODIES_BYTES_MAX", 8000)
    for _ in range(3):  # what was counted is counted no more
        assert gateway.ask("PUT", "/cache/again", b"x" * 5000).status == 201
    refusal = gateway.ask("PUT", "/cache/kept", b"x" * 9000)
    refused(refusal, 503, "Too many bodies at once")
    assert refusal.headers["retry-after"] == "1"
    assert gateway.ask("PUT", "/cache/again", b"x" * 5000).status == 201
    assert gateway.ask("DELETE", "/cache/again").json["deleted"]


def test_a_failure_of_ours_is_json_and_shows_nothing(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr("meshcache.gateway.entries._shown", fail)
    response = gateway.get("/cache/kept")
    refused(response, 500, "The gateway failed")
    assert b"secret" not in response.body
