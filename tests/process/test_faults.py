"""Real processes that are killed and paused: what callers see of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from chaos_run import run_chaos

import meshcache
from meshcache.errors import MeshcacheError, OperationTimeout

pytestmark = pytest.mark.process

OVERRUN_S = 0.05


@pytest.fixture
def mesh() -> Iterator[meshcache.LocalMesh]:
    with meshcache.LocalMesh(nodes=3) as running:
        yield running


@pytest.mark.parametrize("name", ["kill9", "kill9-default", "pause", "rolling"])
def test_under_load_no_answer_is_wrong_and_no_call_fails(name: str) -> None:
    result, log = run_chaos(name, timeout_s=100)
    seen = {name: result.get(name) for name in ("failed", "wrong", "stale", "lost", "backwards", "ended")}
    none: dict[str, object] = {**dict.fromkeys(seen, 0), "ended": {}}
    assert seen == none, log
    assert result["calls"] > 200


def test_near_caches_stay_within_their_bound_when_announcements_are_lost() -> None:
    result, log = run_chaos("near", timeout_s=150)
    seen = {check["name"]: check["value"] for check in result["checks"]}
    assert result["passed"], log
    assert seen["of them from near caches"] > 10
    assert seen["gaps noticed"] > 10
    assert seen["greatest age of a value read, ttl 60 s"] > 0  # or else the reading of it is broken


def test_calls_end_by_their_deadline_when_every_node_is_paused(mesh: meshcache.LocalMesh) -> None:
    with mesh.client(timeout=0.5) as cache:
        cache.set("k", 1)
        for node_id in list(mesh.pids):
            mesh.pause(node_id)
        for call in (
            lambda: cache.get("k"),
            lambda: cache.set("k", 2),
            lambda: cache.incr("k"),
            lambda: cache.get_many(["k", "l", "m"]),
            lambda: cache.get("k", timeout=0.1),
        ):
            began = time.monotonic()
            with pytest.raises(OperationTimeout):
                call()
            assert time.monotonic() - began < 0.5 + OVERRUN_S


def test_asyncio_calls_end_by_their_deadline_when_every_node_is_paused(mesh: meshcache.LocalMesh) -> None:
    async def call() -> tuple[list[object], float]:
        async with meshcache.AsyncClient(mesh.addresses, timeout=0.5) as cache:
            await cache.set("k", 1)
            for node_id in list(mesh.pids):
                mesh.pause(node_id)
            began = time.monotonic()
            outcomes = await asyncio.gather(*[cache.get(f"k{i}") for i in range(50)], return_exceptions=True)
            return list(outcomes), time.monotonic() - began

    outcomes, elapsed_s = asyncio.run(call())
    assert all(isinstance(outcome, OperationTimeout) for outcome in outcomes)
    assert elapsed_s < 0.5 + OVERRUN_S


def test_a_paused_node_is_worked_around_and_does_not_execute_late_writes(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        for i in range(100):
            cache.set(f"k{i}", "before", ttl=None)
        mesh.pause("node2")
        for i in range(100):
            cache.set(f"k{i}", "after", ttl=None)
        assert set(cache.get_many([f"k{i}" for i in range(100)]).values()) == {"after"}
        mesh.resume("node2")
        mesh.wait_ready()
        assert {cache.get(f"k{i}") for i in range(100)} == {"after"}


def test_a_client_survives_the_restart_of_every_node(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        cache.set("k", 1)
        for node_id in list(mesh.pids):
            mesh.restart(node_id)
        mesh.wait_ready()
        cache.set("k", 2)
        assert cache.get("k") == 2


def test_when_all_nodes_are_gone_the_error_says_so_soon(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        cache.set("k", 1)
        for node_id in list(mesh.pids):
            mesh.kill(node_id)
        with pytest.raises(MeshcacheError, match="refused"):
            cache.get("k", timeout=1.0)
