"""HTTP of real nodes with tokens and TLS: who is told what, and that nobody holds up the others."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_server import config, free_port
from timing import eventually
from web_files import NEW, OLD, WRONG, Certificate, certificate, token_file

from meshcache import Node
from meshcache.errors import ConfigError
from meshcache.web.followed import LOOK_S

pytestmark = pytest.mark.process
HOST = "127.0.0.1"


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


def ask(port: int, path: str, token: str = "", tls: ssl.SSLContext | None = None, method: str = "GET") -> Answered:
    """Ask a node whose HTTP is at this port."""
    plain = http.client.HTTPConnection(HOST, port, timeout=10)
    connection = plain if tls is None else http.client.HTTPSConnection(HOST, port, timeout=10, context=tls)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, headers, response.read().decode())


@contextlib.contextmanager
def node(**http: Any) -> Iterator[tuple[Node, int]]:
    """Run a node; return it and its port of HTTP."""
    port = free_port()
    with Node(config(port, http=http)) as running:
        yield running, port + 200


def secrets_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = " ".join(repr(record.__dict__) for record in caplog.records)
    return [token for token in (OLD, NEW, WRONG) if token in told]


def test_what_a_node_tells_needs_a_token_and_whether_it_is_well_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"token_file": str(token_file(tmp_path, OLD))}
    with caplog.at_level(logging.DEBUG), node(**settings) as (running, port), running.client() as cache:
        for path in ("/stats", "/metrics", "/", "/none"):
            for token in ("", WRONG):
                answered = ask(port, path, token)
                assert (answered.status, answered.headers["www-authenticate"]) == (401, "Bearer")
                assert json.loads(answered.body)["error"] == "Unauthorized"
                assert WRONG not in answered.body
        assert ask(port, "/none", OLD).status == 404
        assert ask(port, "/stats", OLD).status == ask(port, "/metrics", OLD).status == 200
        assert ask(port, "/health").status == 200
        eventually(lambda: ask(port, "/ready").status == 200)
        assert ask(port, "/metrics", method="HEAD")[0::2] == (401, "")
        eventually(lambda: "meshcache_http_refused_total 9.0" in ask(port, "/metrics", OLD).body)
        assert cache.inspect("stats")["node"]["http_refused"] == 9
        told = repr(cache.inspect("stats")) + repr(cache.inspect("status")) + ask(port, "/stats", OLD).body
        assert OLD not in told
        lines = [record for record in caplog.records if record.msg == "http_refused"]
        assert 1 <= len(lines) < 9
        assert lines[0].peer == HOST  # type: ignore[attr-defined]
    assert secrets_in(caplog) == []


def test_a_token_is_exchanged_while_the_node_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        node(token_file=str(token_file(tmp_path, OLD))) as (_, port),
    ):
        assert [ask(port, "/stats", token).status for token in (OLD, NEW)] == [200, 401]
        token_file(tmp_path, OLD, NEW)
        eventually(lambda: ask(port, "/stats", NEW).status == 200, LOOK_S + 5)
        assert ask(port, "/stats", OLD).status == 200
        token_file(tmp_path, NEW)
        eventually(lambda: ask(port, "/stats", OLD).status == 401, LOOK_S + 5)
        assert ask(port, "/stats", NEW).status == 200
        (tmp_path / "http.token").write_bytes(b"short")

        def is_told() -> bool:
            assert ask(port, "/stats", NEW).status == 200
            return any(record.msg == "http_file_refused" for record in caplog.records)

        eventually(is_told, LOOK_S + 5)
    assert secrets_in(caplog) == []


def test_a_node_does_not_start_with_files_that_are_wrong(tmp_path: Path) -> None:
    path = token_file(tmp_path, OLD)
    path.chmod(0o644)
    made = certificate(tmp_path)
    for settings, says in (
        ({"token_file": str(path)}, f"{path}: others may read or write it"),
        ({"token_file": str(tmp_path / "absent")}, "http.token_file names it"),
        ({"tls_cert_file": str(made.key_file), "tls_key_file": str(made.key_file)}, "no certificate with its key"),
    ):
        port = free_port()
        with pytest.raises(ConfigError) as refused:
            Node(config(port, http=settings)).start()
        assert says in str(refused.value)
        assert OLD not in str(refused.value)
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, port + 200)) != 0


def test_http_that_other_machines_reach_without_a_token_is_told(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    where = {"listen": f"0.0.0.0:{port}", "advertise": f"127.0.0.1:{port}"}
    with (
        caplog.at_level(logging.WARNING),
        Node(config(port, node=where, security={"insecure": True})),
    ):
        (line,) = [record for record in caplog.records if record.msg == "http_open"]
        assert "http.token_file" in line.advice  # type: ignore[attr-defined]


# -- TLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


def tls_settings(made: Certificate, **more: Any) -> dict[str, Any]:
    return {"tls_cert_file": str(made.cert_file), "tls_key_file": str(made.key_file), **more}


def test_a_node_speaks_tls_and_only_that(tmp_path: Path, made: Certificate) -> None:
    settings = tls_settings(made, token_file=str(token_file(tmp_path, OLD)))
    with node(**settings) as (_, port):
        assert ask(port, "/health", tls=made.trusting).status == 200
        assert ask(port, "/stats", tls=made.trusting).status == 401
        answered = ask(port, "/metrics", OLD, made.trusting)
        assert (answered.status, len(answered.body)) == (200, int(answered.headers["content-length"]))
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(port, "/health")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, "/health", tls=ssl.create_default_context())
        assert ask(port, "/health", tls=made.trusting).status == 200


def test_a_connection_by_tls_serves_many_requests_and_large_ones(made: Certificate) -> None:
    with node(**tls_settings(made)) as (_, port):
        plain = socket.create_connection((HOST, port), timeout=10)
        with made.trusting.wrap_socket(plain, server_hostname=HOST) as connection:
            asked = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(asked * 20 + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            for number in range(100):  # a head that comes in many records
                connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 100))
            connection.sendall(b"\r\n")
            told = b""
            while part := connection.recv(65_536):  # an end that is said: else this raises
                told += part
        assert told.count(b"HTTP/1.1 200 ") == 21


def test_handshakes_that_stand_still_hold_up_nobody_and_make_room(made: Certificate) -> None:
    settings = tls_settings(made, request_timeout_s=60.0, connections_max=8)
    with node(**settings) as (_, port), contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection((HOST, port), timeout=10)) for _ in range(30)]
        for half in crowd[::2]:
            with contextlib.suppress(ConnectionError):
                half.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        assert ask(port, "/health", tls=made.trusting).status == 200
        with contextlib.suppress(ConnectionError):
            assert crowd[0].recv(1) == b""  # the oldest made room


def test_a_handshake_that_stands_still_is_cut(made: Certificate) -> None:
    with (
        node(**tls_settings(made, request_timeout_s=0.5)) as (_, port),
        socket.create_connection((HOST, port), timeout=10) as silent,
    ):
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""
        assert ask(port, "/health", tls=made.trusting).status == 200


def test_a_renewed_certificate_is_used_while_the_node_runs(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    with node(**tls_settings(made)) as (_, port):

        def is_shown(wanted: bytes) -> bool:
            with (
                socket.create_connection((HOST, port), timeout=10) as plain,
                made.trusting.wrap_socket(plain, server_hostname=HOST) as connection,
            ):
                return bool(connection.getpeercert(binary_form=True) == wanted)

        renewed = made.renew()
        eventually(lambda: is_shown(renewed), LOOK_S + 5)
