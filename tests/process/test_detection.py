"""Real processes: how soon the others know that one is gone, and that a busy machine accuses nobody."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

import meshcache

pytestmark = pytest.mark.process

HOG = "while True: pass"
HOG_S = 10.0


def changes(mesh: meshcache.LocalMesh, node_id: str) -> Iterator[tuple[str, str, float]]:
    """Yield what a node's log says of members: who, in which state, and the wall time."""
    for line in mesh.log(node_id).splitlines():
        with contextlib.suppress(ValueError):
            event: dict[str, Any] = json.loads(line)
            if event.get("event") == "member":
                when = datetime.fromisoformat(event["timestamp"]).timestamp()
                yield event["member"], event["state"], when


def known_dead_after_s(mesh: meshcache.LocalMesh, victim: str, since: float, within_s: float = 10.0) -> float:
    """Wait until all others have declared a node dead; return how long the last of them took."""
    others = [node_id for node_id in mesh.pids if node_id != victim]
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        heard = {
            node_id: when - since
            for node_id in others
            for member, state, when in changes(mesh, node_id)
            if (member, state) == (victim, "dead") and when > since
        }
        if len(heard) == len(others):
            return max(heard.values())
        threading.Event().wait(0.02)
    raise AssertionError(f"only {sorted(heard)} know that {victim} is dead")


def test_a_killed_process_is_known_to_all_within_a_second() -> None:
    with meshcache.LocalMesh(nodes=4) as mesh:
        for victim in ("node2", "node4", "node1"):
            killed_at = time.time()
            mesh.kill(victim)
            assert known_dead_after_s(mesh, victim, killed_at) < 1.0
            mesh.start(victim)
            mesh.wait_ready()


def test_a_stopped_process_is_known_to_all_within_three_seconds_and_comes_back() -> None:
    with meshcache.LocalMesh(nodes=4) as mesh:
        stopped_at = time.time()
        mesh.pause("node3")
        assert known_dead_after_s(mesh, "node3", stopped_at) < 3.0
        mesh.resume("node3")
        mesh.wait_ready()
        assert [state for member, state, _ in changes(mesh, "node3") if member != "node3" and state == "dead"] == []


def test_a_busy_machine_accuses_nobody() -> None:
    with meshcache.LocalMesh(nodes=3) as mesh, mesh.client() as cache:
        hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(2)]
        try:
            deadline = time.monotonic() + HOG_S
            number = 0
            while time.monotonic() < deadline:
                cache.set(f"k{number % 100}", number)
                number += 1
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        seen = [(node_id, *change) for node_id in mesh.pids for change in changes(mesh, node_id)]
        assert len(seen) >= 6
        assert [change for change in seen if change[2] != "alive"] == []
