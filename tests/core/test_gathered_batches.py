"""Batches of writes in whole meshes: how many messages they take, and that the latest write wins.

An owner coordinates all keys of a batch that it owns with the same others, also those that it does not own first.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from story import DEFAULT, LOOSE, Story

from meshcache.client.routing import Routing
from meshcache.protocol.coordinators import coordinators
from meshcache.protocol.wire import decode_frame
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import Mesh

ITEMS = {f"key{i}": f"new{i}" for i in range(100)}
AHEAD_MS = 2000


def count_messages(mesh: Mesh) -> Counter[str]:
    """Count the messages of writes in a mesh from now on."""
    counts: Counter[str] = Counter()

    def note(what: str, frame: bytes) -> None:
        kinds = [type(message).__name__ for message in decode_frame(frame)[1]]
        counts.update(kind for kind in kinds if kind in {"Set", "Write", "WriteReply", "Reply", "Reject"})

    mesh.world.note_frame = note  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize(
    ("nodes", "replicas", "requests", "writes"), [(2, 2, 2, 2), (3, 2, 3, 3), (3, 3, 3, 6), (4, 3, 4, 12)]
)
def test_a_batch_takes_few_messages(nodes: int, replicas: int, requests: int, writes: int) -> None:
    story = Story(nodes, {**DEFAULT, "replicas": replicas, "write_quorum": replicas, "slots": 256, "vnodes": 50})
    assert story.get("nothing") is None
    counts = count_messages(story.mesh)
    assert story.call(story.client.session.set_many(ITEMS, None, None)) == []
    assert counts["Set"] == counts["Reply"] == requests
    assert counts["Write"] == counts["WriteReply"] <= writes
    for key, value in ITEMS.items():
        assert set(story.held(key).values()) <= {value.encode(), None}


def test_in_a_mesh_of_three_a_batch_takes_twelve_messages_instead_of_eighteen(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = []
    for first in (Routing.first_of_batch, lambda routing, _: routing.first):
        monkeypatch.setattr(Routing, "first_of_batch", first)
        story = Story(3, {**DEFAULT, "slots": 256, "vnodes": 50})
        assert story.get("nothing") is None
        counts = count_messages(story.mesh)
        assert story.call(story.client.session.set_many(ITEMS, None, None)) == []
        totals.append(counts.total())
    assert totals == [12, 18]


class Skewed(Story):
    """A mesh of three, in which the clock of the first node is ahead of the others'."""

    def __init__(self, cluster: dict[str, Any]) -> None:
        self.mesh = Mesh(nodes=3, cluster=cluster)
        self.mesh.nodes["n1"].wall_offset_ms = AHEAD_MS
        self.mesh.start()
        self.mesh.run(7.0)
        self.client = self.mesh.client()

    def key_of_two_coordinators(self) -> tuple[str, NodeHost]:
        """Return a key that the node with the clock ahead owns first, and who coordinates it in a batch."""
        core = self.node("n1").core
        assert core is not None
        ring = core.view.ring
        for key in ITEMS:
            slot = ring.slot_of(key.encode())
            if ring.owners[slot][0] == "n1" != coordinators(ring)[slot]:
                return key, self.node(coordinators(ring)[slot])
        raise AssertionError("no such key")

    def coordinated_by(self, host: NodeHost) -> dict[str, str]:
        """Return the items of which a node is the coordinator."""
        ring = self.client.session.routing.ring
        slots = {key: ring.slot_of(key.encode()) for key in ITEMS}
        return {key: value for key, value in ITEMS.items() if coordinators(ring)[slots[key]] == host.name}

    def version(self, host: NodeHost, key: str) -> bytes:
        assert host.core is not None
        record = host.core.store.peek(key.encode())
        assert record is not None
        return record[:16]


def test_versions_follow_the_order_of_writes_that_two_nodes_coordinate() -> None:
    story = Skewed({**DEFAULT, "slots": 64, "vnodes": 50})
    key, other = story.key_of_two_coordinators()
    versions = []
    for number in range(6):
        if number % 2:
            value = ITEMS[key]
            assert story.call(story.client.session.set_many(ITEMS, None, None)) == []
        else:
            value = f"single{number}"
            story.set(key, value)
        assert story.get(key) == value
        assert {held for held in story.held(key).values() if held is not None} == {value.encode()}
        versions.append(story.version(other, key))
    boots = [version[8:] for version in versions]
    assert boots[::2] == [boots[0]] * 3 != boots[1::2] == [boots[1]] * 3
    assert versions == sorted(versions)


@pytest.mark.parametrize("gathers", [False, True])
def test_where_one_owner_is_enough_another_one_must_not_coordinate(
    gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not have seen the write before: then its clock may be behind, and the later write loses."""
    if gathers:
        monkeypatch.setattr(Routing, "first_of_batch", lambda routing, _: routing._gathered)
    story = Skewed({**LOOSE, "slots": 64, "vnodes": 50})
    assert story.get("nothing") is None
    key, other = story.key_of_two_coordinators()
    story.mesh.network.cut("n1", other.name)
    story.mesh.network.cut(other.name, "n1")
    story.set(key, "before")
    batch = story.coordinated_by(other)
    assert key in batch
    assert story.call(story.client.session.set_many(batch, None, None)) == []
    story.mesh.network.heal()
    story.mesh.run(3.0)
    assert story.get(key) == ("before" if gathers else ITEMS[key])
