"""A mesh that nobody uses costs little, and is wide awake when something happens."""

from __future__ import annotations

from collections import Counter

from story import DEFAULT, Story

from meshcache.core.node import HOUSEKEEPING_CALM_S, HOUSEKEEPING_S
from meshcache.simulation.hosts import NodeHost

WATCHED_S = 10.0


def test_nodes_at_rest_turn_seldom_and_say_little() -> None:
    story = Story(3, {**DEFAULT, "slots": 1024})
    turns: Counter[str] = Counter()

    def count(host: NodeHost) -> None:
        turns[host.name] += 1

    for host in story.mesh.nodes.values():
        host.on_turn = count
    frames = story.mesh.network.frames
    story.mesh.run(WATCHED_S)
    assert max(turns.values()) < 30 * WATCHED_S
    assert story.mesh.network.frames - frames < 3 * 15 * WATCHED_S


def test_doubt_hastens_a_node() -> None:
    story = Story(3)
    core = story.node("n1").core
    assert core is not None
    seen = []

    def watch(host: NodeHost) -> None:
        assert core is not None
        seen.append((bool(core.membership.suspicions), core._housekeeping_at - core.coordinator.instant.now))

    story.node("n1").on_turn = watch
    story.mesh.run(1.0)
    assert {doubt for doubt, _ in seen} == {False}
    assert max(left_s for _, left_s in seen) > HOUSEKEEPING_S
    assert max(left_s for _, left_s in seen) <= HOUSEKEEPING_CALM_S + 1e-9
    story.node("n3").crash()
    story.mesh.wait_for(lambda: seen[-1][0])
    seen.clear()
    story.mesh.run(0.3)
    assert {doubt for doubt, _ in seen} == {True}
    assert max(left_s for _, left_s in seen[1:]) <= HOUSEKEEPING_S + 1e-9


def test_the_longest_work_of_a_node_is_told_by_name() -> None:
    story = Story(3)
    core = story.node("n1").core
    assert core is not None
    core._processor_s = lambda: 0.25 * (3 - len(core.view.ring.members))
    story.node("n3").crash()
    story.mesh.wait_for(lambda: len(core.view.ring.members) == 2)
    assert core.counters.longest_work_ms == {"change_of_members": 250}
