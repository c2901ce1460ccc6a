"""What the dashboard is told: rates between two answers, and nothing of a node that does not answer."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from meshcache.errors import NodeUnavailable
from meshcache.gateway import watch as watching
from meshcache.gateway.watch import Watch


class FakeMesh:
    """Stands for an AsyncClient: two nodes that tell what a test has them tell."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.states = {"n1": "alive", "n2": "alive"}
        self.boots = {"n1": 1, "n2": 1}
        self.keys = {"n1": 0, "n2": 0}
        self.hits = {"n1": 0, "n2": 0}
        self.hot: dict[str, list[dict[str, Any]]] = {"n1": [], "n2": []}
        self.asked = 0

    def statistics(self) -> Any:
        return SimpleNamespace(nodes={"n2": SimpleNamespace(breaker="open")})

    async def inspect(self, what: str, *, node: str | None = None, **_: float) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.asked += 1
        name = node or next((each for each in self.states if each not in self.silent), None)
        if name is None or name in self.silent:
            raise NodeUnavailable(f"{name} is silent")
        if what == "hot":
            return {"keys": self.hot[name]}
        if what == "stats":
            hits = self.hits[name]
            return {
                "node": {"keys": self.keys[name]},
                "loop": {"lag_s": 0.002},
                "clock": {"wall_ms": time.time() * 1000 + 5000},
                "store": {"hits": hits, "misses": hits, "evictions": 0, "refused": 0},
            }
        members = [
            {"node_id": each, "address": each, "state": state, "primary_slots": 512, "copy_slots": 1024}
            for each, state in self.states.items()
        ]
        return {
            "node_id": name,
            "cluster": "c",
            "replicas": 2,
            "write_quorum": 2,
            "read_quorum": 1,
            "changing": False,
            "boot": self.boots[name],
            "ready": True,
            "slots_missing": 0,
            "hints": 0,
            "ring_digest": "d",
            "store": {"entries": 1, "max_entries": 10, "bytes": 5, "max_bytes": 10},
            "members": members,
        }


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> FakeMesh:
    monkeypatch.setattr(watching, "EVERY_S", 0.02)
    return FakeMesh()


def watch_of(mesh: FakeMesh) -> Watch:
    client: Any = mesh
    return Watch(client, allow_writes=False, streams=lambda: 0)


def node_of(picture: dict[str, Any], name: str) -> dict[str, Any]:
    (node,) = [node for node in picture["nodes"] if node["id"] == name]
    return dict(node)


def test_rates_come_from_two_answers_of_one_process(mesh: FakeMesh) -> None:
    async def main() -> None:
        watch = watch_of(mesh)
        first = await watch.next(None)
        assert node_of(first, "n1").get("keysPerS") is None  # nothing to compare with yet
        mesh.keys["n1"] += 1000
        mesh.hits["n1"] += 30
        second = await watch.next(first)
        assert node_of(second, "n1")["keysPerS"] > 1000
        assert node_of(second, "n1")["hitRate"] == 0.5
        assert node_of(second, "n2")["keysPerS"] == 0
        assert node_of(second, "n2")["loopLagMs"] == 2.0
        assert node_of(second, "n2")["clockOffsetMs"] == pytest.approx(5000, abs=500)
        assert node_of(second, "n2")["breaker"] == "open"
        assert node_of(second, "n2")["hitRate"] is None
        mesh.boots["n1"], mesh.keys["n1"] = 2, 0  # it has begun anew: no rate below zero
        third = await watch.next(second)
        assert node_of(third, "n1").get("keysPerS") is None
        watch.stop()

    asyncio.run(main())


def test_a_node_that_is_silent_or_dead_has_no_figures(mesh: FakeMesh) -> None:
    async def main() -> None:
        watch = watch_of(mesh)
        picture = await watch.next(None)
        assert node_of(picture, "n2")["entries"] == 1
        mesh.silent.add("n2")
        while node_of(picture, "n2")["error"] is None:
            picture = await watch.next(picture)
        assert "entries" not in node_of(picture, "n2")
        assert picture["notes"] == [
            "n2 does not answer: n2 is silent",
            "There are 1 nodes for 2 copies of each key: some copies have no place.",
        ]
        assert picture["point"]["nodes"]["n2"]["keysPerS"] is None
        mesh.states["n2"] = "dead"
        picture = await watch.next(picture)
        assert node_of(picture, "n2")["error"] is None
        assert "entries" not in node_of(picture, "n2")
        watch.stop()

    asyncio.run(main())


def test_a_mesh_that_does_not_answer_is_trouble_and_no_old_picture(mesh: FakeMesh) -> None:
    async def main() -> None:
        watch = watch_of(mesh)
        picture = await watch.next(None)
        mesh.silent |= {"n1", "n2"}
        while "trouble" not in picture:
            picture = await watch.next(picture)
        assert picture == {"trouble": "None is silent"}
        mesh.silent.clear()
        while "trouble" in picture:
            picture = await watch.next(picture)
        assert node_of(picture, "n1")["ready"]
        watch.stop()

    asyncio.run(main())


def test_many_pages_ask_the_nodes_as_often_as_one(mesh: FakeMesh) -> None:
    async def main() -> None:
        watch = watch_of(mesh)
        pictures = await asyncio.gather(*[watch.next(None) for _ in range(50)])
        assert all(picture is pictures[0] for picture in pictures)
        assert mesh.asked == 1 + 2 * 3  # who is there; and three questions to each
        watch.stop()

    asyncio.run(main())


def test_nobody_is_asked_when_nobody_has_looked_for_long(mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "KEPT_S", 0.05)

    async def main() -> None:
        watch = watch_of(mesh)
        await watch.next(None)
        (task,) = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.wait_for(task, 5)
        before = mesh.asked
        await watch.next(None)  # somebody looks again
        assert mesh.asked > before
        watch.stop()

    asyncio.run(main())


def test_a_hot_key_is_told_once_whichever_owners_serve_it(mesh: FakeMesh) -> None:
    mesh.hot = {"n1": [{"key": b"a", "reads": 5}, {"key": b"\xff", "reads": 1}], "n2": [{"key": b"a", "reads": 7}]}

    async def main() -> None:
        watch = watch_of(mesh)
        picture = await watch.next(None)
        first, second = picture["hotKeys"]
        assert first == {"key": "a", "nodes": ["n1", "n2"], "reads": 12}
        assert second["keyBase64"] == "/w=="
        watch.stop()

    asyncio.run(main())
