"""The gateway with tokens and TLS, in front of a real node: what needs a token, and that nobody holds up the others."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_gateway import RunningGateway, running_gateway
from starlette.routing import Route
from timing import eventually
from web_files import NEW, OLD, WRONG, Certificate, certificate, token_file

from meshcache import AsyncClient, LocalMesh
from meshcache.gateway import encrypted
from meshcache.gateway.app import Gateway, tell
from meshcache.gateway.dashboard import PAGES
from meshcache.local.processes import HOST, find_base_port
from meshcache.web.certificates import server_context
from meshcache.web.followed import LOOK_S
from meshcache.web.tokens import Tokens

pytestmark = pytest.mark.process
SETTINGS = "--tls-cert", "--tls-key"


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=1) as mesh:
        yield mesh


@contextlib.contextmanager
def closed(mesh: LocalMesh, directory: Path, *tokens: str) -> Iterator[RunningGateway]:
    given = Tokens(str(token_file(directory, *tokens)), "--token-file", tell)
    with running_gateway(mesh.addresses[0], tokens=given) as gateway:
        yield gateway


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


REQUESTS = [
    ("GET", "/cache/k", None),
    ("PUT", "/cache/k", {"value": 1}),
    ("DELETE", "/cache/k", None),
    ("POST", "/cache:batch", {"get": ["k"]}),
    ("POST", "/invalidate", {"keys": ["k"]}),
    ("GET", "/cluster/status", None),
    ("GET", "/cluster/distribution", None),
    ("GET", "/cluster/explain/k", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
]
STREAMS = ["/events?prefix=", "/dashboard/stream"]


def test_everything_but_health_and_the_bare_page_needs_a_token(
    mesh: LocalMesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), closed(mesh, tmp_path, OLD) as gateway, mesh.client() as cache:
        cache.set("k", "before")
        for method, path, body in [*REQUESTS, *[("GET", path, None) for path in STREAMS], ("GET", "/none", None)]:
            for token in ("", WRONG):
                refused = gateway.ask(method, path, body, bearer(token))
                assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer"), path
                assert refused.json["error"] == "Unauthorized"
        assert cache.get("k") == "before"
        for path in ("/health", *PAGES):
            assert gateway.get(path).status == 200
        for method, path, body in REQUESTS:
            assert gateway.ask(method, path, body, bearer(OLD)).status in {200, 201}, path
        asked = {path.partition("?")[0].replace("/k", "/{key:path}") for _, path, _ in REQUESTS} | {*PAGES, "/health"}
        asked |= {path.partition("?")[0] for path in STREAMS}
        routes = Gateway(AsyncClient("127.0.0.1:1")).router.routes
        assert {route.path for route in routes if isinstance(route, Route)} == asked
        told = gateway.get("/metrics", **bearer(OLD)).body.decode()
        assert 'route="/cache/{key}",status="401"' in told
        lines = [record for record in caplog.records if record.msg == "http_refused"]
        assert 1 <= len(lines) < 10
    everything = repr([record.__dict__ for record in caplog.records])
    assert not [token for token in (OLD, WRONG) if token in everything]


def test_two_tokens_in_one_request_are_none(mesh: LocalMesh, tmp_path: Path) -> None:
    with closed(mesh, tmp_path, OLD) as gateway:
        head = f"GET /metrics HTTP/1.1\r\nHost: {gateway.host}\r\nConnection: close\r\n"
        twice = "".join(f"Authorization: Bearer {token}\r\n" for token in (WRONG, OLD))
        assert gateway.raw(f"{head}{twice}\r\n".encode())[0].status == 401


def test_a_token_is_no_way_around_the_other_checks(mesh: LocalMesh, tmp_path: Path) -> None:
    with closed(mesh, tmp_path, OLD) as gateway:
        assert gateway.put("/cache/k", 1, Origin="https://elsewhere.example", **bearer(OLD)).status == 403
        assert gateway.ask("GET", "/cache/k", None, {"Host": "elsewhere.example", **bearer(OLD)}).status == 421


def test_a_token_is_exchanged_while_the_gateway_runs(mesh: LocalMesh, tmp_path: Path) -> None:
    with closed(mesh, tmp_path, OLD) as gateway:
        token_file(tmp_path, OLD, NEW)
        eventually(lambda: gateway.get("/metrics", **bearer(NEW)).status == 200, LOOK_S + 5)
        assert gateway.get("/metrics", **bearer(OLD)).status == 200
        token_file(tmp_path, NEW)
        eventually(lambda: gateway.get("/metrics", **bearer(OLD)).status == 401, LOOK_S + 5)


# -- TLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


def status_of(port: int, path: str, trusting: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(HOST, port, timeout=10, context=trusting)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status


@contextlib.contextmanager
def encrypting(mesh: LocalMesh, made: Certificate) -> Iterator[RunningGateway]:
    context = server_context(str(made.cert_file), str(made.key_file), tell, *SETTINGS)
    with running_gateway(mesh.addresses[0], tls=context) as gateway:
        yield gateway


def test_handshakes_that_stand_still_hold_up_nobody_and_make_room(
    mesh: LocalMesh, made: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted, "HANDSHAKE_S", 60.0)
    monkeypatch.setattr(encrypted, "HANDSHAKES_MAX", 8)
    with encrypting(mesh, made) as gateway, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(gateway.connect()) for _ in range(40)]
        for half in crowd[::2]:
            with contextlib.suppress(ConnectionError):
                half.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        assert status_of(gateway.port, "/health", made.trusting) == 200
        with contextlib.suppress(ConnectionError):
            assert crowd[0].recv(1) == b""  # the oldest made room


def test_a_handshake_that_stands_still_is_cut(
    mesh: LocalMesh, made: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted, "HANDSHAKE_S", 0.5)
    with encrypting(mesh, made) as gateway, gateway.connect() as silent:
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""
        assert status_of(gateway.port, "/health", made.trusting) == 200


def test_plain_http_is_not_answered_and_harms_nobody(mesh: LocalMesh, made: Certificate) -> None:
    with encrypting(mesh, made) as gateway:
        for said in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 1000, b"\x16\x03\x01\xff\xff" + b"x" * 70_000):
            with gateway.connect() as connection, contextlib.suppress(ConnectionError):
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                assert not connection.recv(100).startswith(b"HTTP")
        assert status_of(gateway.port, "/health", made.trusting) == 200


def test_a_gateway_process_with_both_stops_in_order(mesh: LocalMesh, tmp_path: Path, made: Certificate) -> None:
    port = find_base_port(1)
    command = [sys.executable, "-m", "meshcache", "gateway", "--listen", f"0.0.0.0:{port}", "--at", mesh.addresses[0]]
    command += ["--token-file", str(token_file(tmp_path, OLD))]
    command += ["--tls-cert", str(made.cert_file), "--tls-key", str(made.key_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready https://0.0.0.0:{port}\n"
            connection = http.client.HTTPSConnection(HOST, port, timeout=10, context=made.trusting)
            with contextlib.closing(connection), socket.create_connection((HOST, port)):  # and a handshake under way
                body = json.dumps({"value": "x" * 200_000})
                headers = {"Content-Type": "application/json", **bearer(OLD)}
                connection.request("PUT", "/cache/large", body, headers)
                assert json.load(connection.getresponse())["stored"]
                connection.request("GET", "/cache/large", headers=bearer(OLD))
                answer: Any = json.load(connection.getresponse())
                assert answer["value"] == "x" * 200_000
                connection.request("GET", "/cache/large", headers=bearer(WRONG))
                refused = connection.getresponse()
                assert (refused.status, WRONG.encode() in refused.read()) == (401, False)
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=20)
            assert process.returncode == 0
        finally:
            process.kill()
    assert "http_refused" in log
    assert not [token for token in (OLD, WRONG) if token in log]
