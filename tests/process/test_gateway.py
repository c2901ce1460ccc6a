"""The gateway as a process, in front of a real mesh: the examples of its chapter, in plain curl, and a node that dies.

In a console block the lines after ``$ command`` are its output.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from test_readme import BIN, GATEWAY, blocks, console

from meshcache import LocalMesh
from meshcache.cli.gateway_command import DEFAULT_LISTEN
from meshcache.local.processes import HOST, find_base_port

pytestmark = pytest.mark.process
PATIENCE_S: Final = 20.0
LOAD_S: Final = 4.0
"""Of reads and writes, in the midst of which a node is killed."""


@contextlib.contextmanager
def gateway(at: list[str], *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = find_base_port(1)
    command = [sys.executable, "-m", "meshcache", "gateway", "--listen", f"{HOST}:{port}", "--at", ",".join(at)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready http://{HOST}:{port}\n"
            yield process, port
        finally:
            process.kill()


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=3) as mesh:
        settle(mesh)
        yield mesh


def settle(mesh: LocalMesh) -> None:
    """Wait for the end of the ring changes of the start: until then some keys have more copies."""
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    with mesh.client() as client:
        while any(client.inspect("status", node=address)["changing"] for address in mesh.addresses):
            assert time.monotonic() < deadline
            pause.wait(0.05)


def test_the_examples_in_curl_do_what_they_say(mesh: LocalMesh) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    seen = 0
    environment = dict(os.environ, MESHCACHE_SEEDS=mesh.addresses[0], PATH=f"{BIN}:{os.environ['PATH']}")
    with gateway(mesh.addresses) as (_, port):
        for block in blocks("console", document=GATEWAY):
            for command, expected in console(block):
                real = command.replace(DEFAULT_LISTEN, f"{HOST}:{port}")
                done = subprocess.run(
                    ["bash", "-c", real], env=environment, capture_output=True, text=True, timeout=30, check=False
                )
                assert done.returncode == 0, f"{command}: {done.stderr}"
                assert done.stdout.splitlines() == expected, command
                seen += 1
    assert seen > 10


def test_the_chapter_names_the_bounds_that_hold() -> None:
    from meshcache.gateway import batch, invalidations, requests, server  # noqa: PLC0415

    for claim in (
        f"up to {batch.KEYS_MAX:,} keys",
        f"every {invalidations.KEEP_ALIVE_S:g} s",
        f"a header did not arrive within {server.HEADER_S:g} s, or a body within {requests.BODY_S:g} s",
        f"(JSON: {requests.JSON_BYTES_MAX >> 20} MiB at most), or a header beyond {server.HEADER_BYTES_MAX >> 10} KiB",
        f"{server.CONNECTIONS_MAX} connections",
        f"{server.HEADERS_MAX} headers",
        f"{requests.BODIES_BYTES_MAX >> 20} MiB for all bodies",
    ):
        assert claim in re.sub(r"\s+", " ", GATEWAY.text), claim
    assert requests.BODIES_BYTES_MAX == server.WAITING_BYTES_MAX  # "as much for answers that nobody reads"
    assert f"`ready http://{DEFAULT_LISTEN}`" in GATEWAY.text


# ---- a node dies


class Answered(NamedTuple):
    status: int
    content: Any
    retry_after: str | None


class User:
    """Somebody who uses a gateway, over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, value: Any = None) -> Answered:
        body = None if method == "GET" else json.dumps({"value": value, "ttl": None})
        self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = self._connection.getresponse()
        return Answered(response.status, json.loads(response.read()), response.getheader("Retry-After"))

    def close(self) -> None:
        self._connection.close()


def read(port: int, keys: list[str], until: float, answers: list[Answered]) -> None:
    with contextlib.closing(User(port)) as user:
        while time.monotonic() < until:
            answers += [user.ask("GET", f"/cache/{key}") for key in keys]


def write(port: int, keys: list[str], until: float, answers: list[tuple[str, int, Answered]]) -> None:
    number = 0
    with contextlib.closing(User(port)) as user:
        while time.monotonic() < until:
            number += 1
            for key in keys:
                answers.append((key, number, user.ask("PUT", f"/cache/{key}", number)))  # noqa: PERF401  (told as it goes)


def test_a_node_killed_under_a_gateway_in_use(mesh: LocalMesh) -> None:
    kept = [f"kept:{i}" for i in range(100)]
    mesh.client().set_many(dict.fromkeys(kept, "value"), ttl=None)
    reads: list[Answered] = []
    writes: list[list[tuple[str, int, Answered]]] = [[], []]
    with gateway(mesh.addresses) as (_, port):
        until = time.monotonic() + LOAD_S
        threads = [threading.Thread(target=read, args=(port, kept, until, reads)) for _ in range(3)]
        threads += [
            threading.Thread(target=write, args=(port, [f"w{i}:{n}" for n in range(20)], until, writes[i]))
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        pause = threading.Event()
        while len(reads) < 1000 or not all(writes):
            assert time.monotonic() < until
            pause.wait(0.01)
        before = len(reads)
        mesh.kill("node2")
        for thread in threads:
            thread.join(LOAD_S + PATIENCE_S)
            assert not thread.is_alive()
        assert len(reads) > before + 1000  # it went on
        assert {answer.status for answer in reads} == {200}
        assert {answer.content["value"] for answer in reads} == {"value"}
        for told in writes:
            assert {answer.status for _, _, answer in told} <= {201, 503}
            assert all(answer.retry_after for _, _, answer in told if answer.status == 503)
            assert sum(answer.status == 201 for _, _, answer in told) > 100
            stored = {key: number for key, number, answer in told if answer.status == 201}
            tried = {key: number for key, number, _ in told}
            user = User(port)
            for key, number in stored.items():
                found = user.ask("GET", f"/cache/{key}").content["value"]
                assert number <= found <= tried[key], key
            user.close()
    mesh.start("node2")
    mesh.wait_ready()


# ---- the command


def test_sigterm_finishes_what_is_at_hand(mesh: LocalMesh) -> None:
    with gateway(mesh.addresses) as (process, port):
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
        connection.putrequest("PUT", "/cache/last")
        connection.putheader("Content-Type", "text/plain")
        connection.putheader("Content-Length", "4")
        connection.endheaders(b"do")
        assert _listens(port)  # so the gateway has the request before
        process.send_signal(signal.SIGTERM)
        deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while _listens(port):
            assert time.monotonic() < deadline
            pause.wait(0.01)
        connection.send(b"ne")
        assert connection.getresponse().status == 201
        connection.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert mesh.client().get("last") == {"$content-type": "text/plain", "$body": b"done"}


def _listens(port: int) -> bool:
    with contextlib.closing(User(port)) as user:
        try:
            return user.ask("GET", "/health").status == 200
        except (OSError, http.client.HTTPException):
            return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_an_idle_gateway(mesh: LocalMesh, number: int) -> None:
    with gateway(mesh.addresses) as (process, port):
        idle = User(port)
        assert idle.ask("GET", "/health").status == 200
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        idle.close()


def test_a_gateway_may_be_there_before_its_mesh() -> None:
    with gateway([f"{HOST}:1"], "--timeout", "0.3") as (_, port):
        user = User(port)
        assert user.ask("GET", "/health").status == 503
        for answer in (user.ask("GET", "/cache/a"), user.ask("PUT", "/cache/a", 1)):
            assert (answer.status, answer.retry_after) == (503, "1")
        user.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "nowhere"], "--listen: must be host:port"),
        (["--listen", "0.0.0.0:7180"], "say --insecure"),
        (["--listen", "0.0.0.0:7180", "--token-file", "/absent"], "/absent: cannot be read: No such file"),
        (["--tls-cert", "cert.pem"], "--tls-cert and --tls-key: each needs the other"),
        (["--tls-cert", "cert.pem", "--tls-key", "/absent"], "/absent: cannot be read: No such file"),
        (["--listen", "192.0.2.1:7180", "--insecure"], "--listen: can not listen at 192.0.2.1:7180"),
    ],
)
def test_what_can_not_be_is_said_in_a_line(options: list[str], said: str) -> None:
    assert said in failure([], options)


def test_without_its_packages_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('no uvicorn')")
    assert "pip install 'meshcache[gateway]'" in failure([str(tmp_path)], [])


def failure(path: list[str], options: list[str]) -> str:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path))
    command = [sys.executable, "-m", "meshcache", "gateway", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr
