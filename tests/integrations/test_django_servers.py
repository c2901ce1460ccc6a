"""A Django project in eight processes, under gunicorn and under uvicorn, while a node of its cache is killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from meshcache import LocalMesh
from meshcache.local.processes import HOST, find_base_port

pytestmark = pytest.mark.process

WORKERS: Final = 8
SERVERS: Final = {
    "sync": f"gunicorn --workers {WORKERS} --worker-class sync --preload --bind {HOST}:{{port}} django_site:wsgi",
    "async": f"uvicorn --workers {WORKERS} --log-level warning --host {HOST} --port {{port}} django_site:asgi",
}
PAGES: Final = 200
VISITORS: Final = 8
LOAD_S: Final = 4.0
KILL_AT_S: Final = 1.0
SETTLED_S: Final = 3.0
"""From here on of LOAD_S, two seconds after the kill, the hit rate counts as recovered."""
START_S: Final = 40.0


class Answer(NamedTuple):
    at_s: float
    """When it came, from the begin of the load on."""
    status: int
    body: dict[str, Any]


class Site:
    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, cookie: str = "") -> tuple[int, dict[str, Any], str]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
            answer = connection.getresponse()
            text = answer.read()
            cookie = (answer.getheader("Set-Cookie") or cookie).partition(";")[0]
            return answer.status, json.loads(text) if answer.status == 200 else {"text": text}, cookie


@contextlib.contextmanager
def served(kind: str, mesh: LocalMesh, log: Path) -> Iterator[Site]:
    port = find_base_port(1)
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", *SERVERS[kind].format(port=port).split()]
    environment = os.environ | {"MESHCACHE_SEEDS": ",".join(mesh.addresses)}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parent, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield wait_for(Site(port), process, log)
        finally:
            process.terminate()
            process.wait(20)


def wait_for(site: Site, process: subprocess.Popen[bytes], log: Path) -> Site:
    deadline, pause = time.monotonic() + START_S, threading.Event()
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if site.get("/whole")[0] == 200:
                return site
        pause.wait(0.1)
    raise AssertionError(log.read_text())


def under_load(kind: str, site: Site, mesh: LocalMesh) -> list[Answer]:
    """Have visitors read random pages, and kill a node in the midst; a visitor's session must never be lost."""
    began = time.monotonic()

    def visit(number: int) -> list[Answer]:
        rng, cookie = random.Random(number), ""
        answers: list[Answer] = []
        while (now_s := time.monotonic() - began) < LOAD_S:
            visits = sum("visits" in answer.body for answer in answers)
            page = rng.randrange(PAGES)
            for path in (f"/{kind}/page/{page}", f"/{kind}/visit"):
                status, body, cookie = site.get(path, cookie)
                answers.append(Answer(now_s, status, body))
                if status == 200 and "text" in body:
                    assert body["text"] == f"text of {page}"
                elif status == 200:
                    assert body["visits"] == visits + 1
        return answers

    with ThreadPoolExecutor(VISITORS) as pool:
        running = [pool.submit(visit, number) for number in range(VISITORS)]
        threading.Event().wait(max(0.0, began + KILL_AT_S - time.monotonic()))
        mesh.kill("node2")
        return [answer for each in running for answer in each.result()]


def hit_rate(answers: list[Answer], from_s: float, to_s: float) -> float:
    hits: list[bool] = [
        answer.body["hit"] for answer in answers if "hit" in answer.body and from_s <= answer.at_s < to_s
    ]
    assert len(hits) > 30, "too few to tell"
    return sum(hits) / len(hits)


@pytest.mark.parametrize("kind", SERVERS)
def test_no_page_fails_while_a_node_is_killed(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with LocalMesh(nodes=3) as mesh, served(kind, mesh, log) as site:
        with ThreadPoolExecutor(VISITORS) as pool:
            list(pool.map(lambda number: site.get(f"/{kind}/page/{number}"), range(PAGES)))
        answers = under_load(kind, site, mesh)
        assert {answer.status for answer in answers} == {200}, log.read_text()
        assert hit_rate(answers, 0, KILL_AT_S) > 0.95
        assert hit_rate(answers, SETTLED_S, LOAD_S) > 0.95
        assert len({answer.body["pid"] for answer in answers}) > 1
        assert len({site.get("/whole")[1]["made_by"] for _ in range(20)}) == 1
        assert {site.get(f"/{view}/page/1")[1].get("hit") for view in SERVERS for _ in range(WORKERS)} == {True}
        assert "Traceback" not in log.read_text()
        without_a_mesh(kind, site, mesh)


def without_a_mesh(kind: str, site: Site, mesh: LocalMesh) -> None:
    """Kill the nodes that are left, and start one again."""
    assert [site.get("/lenient")[1]["hit"] for _ in range(2)] == [False, True]
    for node_id in ("node1", "node3"):
        mesh.kill(node_id)
    status, body, _ = site.get("/lenient")
    assert (status, body["hit"], body["computed"] > 0) == (200, False, True)
    assert site.get(f"/{kind}/page/1")[0] == 500, "an error must be raised where the settings do not say otherwise"
    mesh.start("node1")
    deadline, pause = time.monotonic() + START_S, threading.Event()
    while site.get(f"/{kind}/page/1")[1].get("hit") is not True:
        assert time.monotonic() < deadline
        pause.wait(0.1)
