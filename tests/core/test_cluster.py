"""Stories of a whole mesh, each told by hand in the simulator: who fails when, and what clients see."""

from __future__ import annotations

from typing import Any

import pytest
from story import DEFAULT, LOOSE, SINGLE, STRICT, Story

from meshcache.core.membership.members import State
from meshcache.core.node import NodeCore
from meshcache.errors import MeshcacheError, NodeUnavailable, OperationTimeout, QuorumNotReached
from meshcache.protocol import messages as m
from meshcache.protocol.record import NEVER_MS, stamp
from meshcache.protocol.wire import encode_frame
from meshcache.simulation import network
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import Weather


def test_what_one_client_wrote_every_node_serves_to_another() -> None:
    story = Story(5)
    story.set("key", "value")
    for host in story.mesh.nodes.values():
        assert story.get("key", story.at(host)) == "value"


def test_a_write_survives_the_loss_of_one_replica_and_is_copied_again() -> None:
    story = Story(4)
    story.set("key", "value")
    story.owners("key")[0].crash()
    assert story.get("key") == "value"
    story.mesh.settle()
    assert story.get("key") == "value"
    story.mesh.run(7.0)
    assert sum(value is not None for value in story.held("key").values()) == 2
    assert story.get("key") == "value"


def test_while_one_node_is_down_and_not_yet_declared_dead_others_serve() -> None:
    story = Story(4, STRICT)
    story.set("key", "old")
    story.owners("key")[0].crash()
    story.set("key", "new")
    assert story.get("key") == "new"


def test_a_node_that_restarts_with_an_empty_memory_votes_for_nothing() -> None:
    story = Story(3, STRICT)
    story.set("key", "old")
    first, second, third = story.owners("key")
    story.mesh.cut([third.name])
    story.set("key", "new", story.at(first))
    assert story.held("key")[third.name] == b"old"
    story.mesh.network.heal()
    first.crash()
    story.mesh.cut([second.name])  # who holds the new value is not heard, but nobody has declared it dead yet
    first.start()
    story.mesh.wait_for(lambda: first.core is not None and first.core.ready)
    for host in (first, third):
        with pytest.raises(MeshcacheError, match=r"1 of 2 needed replicas|no reply in time"):
            story.get("key", story.at(host), timeout=0.5)


def test_a_deleted_key_is_not_brought_back_by_a_replica_that_missed_the_delete() -> None:
    story = Story(3, STRICT)
    story.set("key", "value")
    first, _, third = story.owners("key")
    story.mesh.cut([third.name])
    client = story.at(first)
    assert story.mesh.call(client, client.session.delete("key", None)) is True
    story.mesh.network.heal()
    assert story.held("key")[third.name] == b"value"
    assert story.get("key", story.at(third)) is None
    story.mesh.run(0.1)
    assert story.held("key")[third.name] == b"", "the read repaired it"


def test_a_stale_replica_is_repaired_by_a_read() -> None:
    story = Story(3, STRICT)
    first, _, third = story.owners("key")
    story.set("key", "old")
    story.mesh.cut([third.name])
    story.set("key", "new", story.at(first))
    story.mesh.network.heal()
    assert story.get("key", story.at(third)) == "new"
    story.mesh.run(0.1)
    assert story.held("key")[third.name] == b"new"


def test_a_write_that_cannot_reach_its_quorum_says_so_by_its_deadline() -> None:
    story = Story(2)
    first, second = story.owners("key")
    client = story.at(first)
    story.get("key", client)
    second.pause()
    began = story.mesh.world.now
    with pytest.raises((QuorumNotReached, OperationTimeout)):
        story.set("key", "value", client, timeout=0.8)
    assert story.mesh.world.now - began < 0.85


def test_a_mesh_that_is_gone_is_an_error_and_not_a_miss() -> None:
    story = Story(2)
    for host in story.mesh.nodes.values():
        host.crash()
    began = story.mesh.world.now
    with pytest.raises((NodeUnavailable, OperationTimeout)):
        story.get("key", timeout=1.0)
    assert story.mesh.world.now - began < 1.05


def test_a_paused_node_that_was_declared_dead_forgets_before_it_serves_again() -> None:
    story = Story(4)
    story.set("key", "old")
    paused = story.owners("key")[0]
    paused.pause()
    others = [host for host in story.mesh.nodes.values() if host is not paused]
    story.mesh.wait_for(
        lambda: all(h.core is not None and h.core.membership.state_of(paused.name) == State.DEAD for h in others)
    )
    story.set("key", "new", story.at(others[0]))
    paused.resume()
    zombie = story.at(paused)
    seen = [story.get("key", zombie, timeout=5.0) for _ in range(20)]
    assert set(seen) <= {"new", None}
    assert paused.core is not None
    assert paused.core.counters.rejoins == 1
    story.mesh.settle()


def test_a_node_that_is_back_is_dialled_at_once_by_those_that_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(3)
    monkeypatch.setattr(network, "RECONNECT_S", 30.0)  # as if ZeroMQ had waited longer after each try
    for host in list(story.mesh.nodes.values()):
        host.crash()
        story.mesh.run(0.5)
        host.start()
        story.mesh.settle(within_s=3.0)
        began = story.mesh.world.now
        for number in range(12):
            story.set(f"key:{number}", host.name)
        assert story.mesh.world.now - began < 3.0


def test_a_short_pause_costs_no_membership() -> None:
    story = Story(3)
    story.set("key", "value")
    rings = {host.core.counters.ring_changes for host in story.mesh.nodes.values() if host.core is not None}
    for host in story.mesh.nodes.values():
        host.pause()
        story.mesh.run(0.8)
        host.resume()
        story.mesh.run(1.0)
    assert {host.core.counters.ring_changes for host in story.mesh.nodes.values() if host.core is not None} == rings
    assert story.get("key") == "value"


def test_a_request_for_a_former_process_is_refused_unexecuted() -> None:
    story = Story(2)
    host = story.owners("key")[0]
    assert host.core is not None
    former = host.core.boot
    host.crash()
    host.start()
    story.mesh.settle()
    core = host.core
    assert core is not None
    record = stamp(bytes(16), NEVER_MS) + b"\0\1stale"
    deadline_ms = core.coordinator.instant.wall_ms + 1000
    write = m.Write(7, former, deadline_ms, b"", False, [b"key"], [record])
    core.receive_request(b"peer", encode_frame(0, [write]), host.clock())
    assert core.store.peek(b"key") is None
    assert core.counters.stale_boot == 1


def test_a_request_that_comes_too_late_is_dropped_unexecuted() -> None:
    story = Story(1, LOOSE)
    (host,) = story.mesh.nodes.values()
    core = host.core
    assert core is not None
    request = m.Set(7, core.boot, core.coordinator.instant.wall_ms - 1, b"", 0, 0, [b"key"], [b"\0\1late"])
    core.receive_request(b"client", encode_frame(0, [request]), host.clock())
    assert core.store.peek(b"key") is None
    assert core.counters.late == 1
    assert core.drain().replies == []


def test_nodes_that_start_at_once_become_one_mesh() -> None:
    mesh = Mesh(nodes=6, cluster=DEFAULT)
    mesh.start(settle=False)
    mesh.settle(within_s=3.0)


def test_a_node_that_joins_under_load_takes_over_without_a_miss() -> None:
    story = Story(3)
    keys = [f"key{i}" for i in range(30)]
    for key in keys:
        story.set(key, key)
    newcomer = story.mesh.add()
    newcomer.start()
    for _ in range(4):
        for key in keys:
            assert story.get(key) == key
    story.mesh.settle()
    story.mesh.run(10.0)
    assert story.mesh.disagreements(transitions=True) == []
    assert any(newcomer.name in story.mesh.owners(key) for key in keys)
    for key in keys:
        assert story.get(key) == key
        assert [name for name, value in story.held(key).items() if value] == sorted(story.mesh.owners(key))


def test_an_owner_to_be_pulls_what_it_missed_though_it_was_an_owner_before() -> None:
    story = Story(2, SINGLE, membership={"transition_s": 0.5, "dead_after_s": 20.0, "link_dead_after_s": 10.0})
    coordinator, late = story.node("n1"), story.node("n2")
    before = {key: story.mesh.owners(key) for key in [f"key{i}" for i in range(100)]}
    newcomer = story.mesh.add()
    newcomer.start()

    def is_synced(host: NodeHost) -> bool:
        core = host.core
        return core is not None and len(core.view.ring.members) == 3 and core.membership.own.synced == core.view.digest

    story.mesh.wait_for(lambda: is_synced(late))
    story.mesh.cut([late.name])  # it does not hear that all are, and so counts itself among the former owners
    assert coordinator.core is not None
    view = coordinator.core.view
    story.mesh.wait_for(lambda: is_synced(coordinator) and is_synced(newcomer) and not view.former)
    keys = [key for key in before if before[key] == [late.name] and story.mesh.owners(key) == [newcomer.name]]
    client = story.at(coordinator)
    for key in keys:
        story.set(key, key, client)
    newcomer.retire()
    story.mesh.run(0.1)
    assert late.core is not None
    assert late.core.view.former
    story.mesh.network.heal()
    story.mesh.wait_for(lambda: newcomer.core is None)
    assert keys
    assert [story.get(key, client) for key in keys] == keys


def test_who_was_an_owner_two_rings_ago_still_gives_what_nobody_has_pulled_yet() -> None:
    story = Story(2, SINGLE, membership={"transition_s": 0.5, "dead_after_s": 20.0, "link_dead_after_s": 10.0})
    giver = story.node("n2")
    keys = [key for key in [f"key{i}" for i in range(100)] if story.mesh.owners(key) == [giver.name]]
    for key in keys:
        story.set(key, key)
    for number in (3, 4):
        story.mesh.add().start()
        story.mesh.wait_for(lambda: giver.core is not None and len(giver.core.view.ring.members) == number)  # noqa: B023  (called at once)
        story.mesh.network.cut(giver.name, f"n{number}")  # it can not pull
    story.mesh.run(0.2)
    taken = [key for key in keys if story.mesh.owners(key) != [giver.name]]
    assert {name for key in taken for name, value in story.held(key).items() if value} == {giver.name}
    story.mesh.network.heal()
    story.mesh.run(10.0)
    assert [story.get(key) for key in taken] == taken


def test_two_halves_that_were_cut_apart_become_one_mesh_again() -> None:
    story = Story(4, LOOSE)
    story.mesh.cut(["n1", "n2"])
    left, right = story.node("n1"), story.node("n4")
    story.mesh.wait_for(
        lambda: all(h.core is not None and len(h.core.view.ring.members) == 2 for h in story.mesh.nodes.values())
    )
    story.set("key", "left", story.at(left))
    story.set("other", "right", story.at(right))
    story.mesh.network.heal()
    story.mesh.settle()


def test_what_both_sides_of_a_cut_wrote_is_at_its_owners_as_soon_as_slots_have_moved() -> None:
    story = Story(5, STRICT)
    keys = [f"key:{i}" for i in range(30)]
    for key in keys:
        story.set(key, "before")
    story.mesh.cut(["n1", "n2"])
    sides = (story.node("n1"), story.node("n5"))
    story.mesh.wait_for(
        lambda: sorted(len(h.core.view.ring.members) for h in story.mesh.nodes.values() if h.core) == [2, 2, 3, 3, 3]
    )
    for number, key in enumerate(keys):
        story.set(key, "after", story.at(sides[number % 2]))
    story.mesh.network.heal()
    cores = [host.core for host in story.mesh.nodes.values()]
    story.mesh.wait_for(lambda: all(core and len(core.view.ring.members) == 5 and core.settled for core in cores))
    compared = [core._anti_entropy.sent + core._anti_entropy.fetched for core in cores if core]
    for key in keys:
        for name in story.mesh.owners(key):
            held = story.held(key)[name]
            assert held is not None
            assert b"after" in held, f"{key} at {name}; anti-entropy moved {compared}"


def test_a_node_that_is_heard_but_hears_nothing_does_not_tear_the_mesh_apart() -> None:
    story = Story(4)
    for host in story.mesh.nodes.values():
        if host.name != "n2":
            story.mesh.network.cut(host.name, "n2")
    story.mesh.run(6.0)
    story.mesh.network.heal()
    story.mesh.settle()
    story.set("key", "value")
    assert story.get("key") == "value"


def test_loss_and_disorder_on_the_network_are_not_seen_by_clients() -> None:
    story = Story(3, STRICT)
    story.mesh.network.weather = Weather(delay_s=0.005, loss=0.05, duplication=0.3, in_order=False)
    for number in range(40):
        story.set("key", number, timeout=5.0)
        assert story.get("key", timeout=5.0) == number


def test_clocks_that_are_seconds_apart_do_not_lose_writes() -> None:
    mesh = Mesh(nodes=0, cluster=STRICT)
    for offset_ms in (-2000, 0, 2000):
        mesh.add(wall_offset_ms=offset_ms)
    mesh.start()
    story = Story.__new__(Story)
    story.mesh = mesh
    for number in range(12):
        for host in mesh.nodes.values():
            value = f"{host.name} {number}"
            story.set("key", value, story.at(host))
            assert story.get("key", story.at(mesh.nodes["n1"])) == value


def test_a_counter_counts_every_increment_once_whoever_is_asked() -> None:
    story = Story(4)
    clients = [story.at(host) for host in story.mesh.nodes.values()]
    results: list[int] = []
    failures: list[Exception] = []

    def ended(result: Any, error: Exception | None, _: bool) -> None:
        if error is not None:
            failures.append(error)
        else:
            results.append(result)

    for _ in range(25):
        for client in clients:
            client.run(client.session.incr("n", 1, 0, None, 5.0), ended)
    story.mesh.wait_for(lambda: len(results) + len(failures) == 100)
    assert failures == []
    assert sorted(results) == list(range(1, 101))
    assert story.get("n") == 100


def test_one_of_many_adds_wins() -> None:
    story = Story(4)
    clients = [story.at(host) for host in story.mesh.nodes.values()]
    won: list[Any] = []
    for client in clients:
        client.run(client.session.add("lock", client.name, None, 5.0), lambda result, error, _: won.append(result))
    story.mesh.wait_for(lambda: len(won) == len(clients))
    assert sorted(won) == [False, False, False, True]


def test_clear_reaches_what_every_node_holds_and_late_writes_do_not_return() -> None:
    story = Story(3)
    for number in range(20):
        story.set(f"a{number}", number)
        story.set(f"b{number}", number)
    session = story.client.session.derive(prefix="a")
    assert story.call(session.clear(None)) >= 20
    assert all(story.get(f"a{number}") is None for number in range(20))
    assert all(story.get(f"b{number}") == number for number in range(20))


def test_a_node_answers_nonsense_with_silence_and_serves_on() -> None:
    story = Story(1, LOOSE)
    (host,) = story.mesh.nodes.values()
    core = host.core
    assert core is not None
    for frame in (b"", b"\xc1", b"\x92\x00\x91\x00", b"\xdd\xff\xff\xff\xff", encode_frame(1 << 62, [])):
        core.receive_request(b"stranger", frame, host.clock())
    core.receive_request(b"stranger", encode_frame(0, [m.SweepReply(1, b"", 1, False)]), host.clock())
    assert core.counters.malformed == 5
    assert core.counters.clock_refused == 1
    assert core.drain().replies == []
    story.set("key", "value")
    assert story.get("key") == "value"


def test_under_the_strict_policy_never_do_both_sides_of_a_partition_serve() -> None:
    story = Story(5, {**DEFAULT, "partition_policy": "strict"})
    few, many = ["n1", "n2"], ["n3", "n4", "n5"]

    def core(name: str) -> NodeCore:
        found = story.node(name).core
        assert found is not None
        return found

    story.mesh.cut(few)
    for _ in range(500):
        story.mesh.run(0.01)
        served_without = any(
            other not in [member.node_id for member in core(name).membership.ring_members()]
            for name in many
            for other in few
        )
        assert not (served_without and any(core(name).ready for name in few))
    assert not any(core(name).ready for name in few)
    assert all(core(name).ready for name in many)
    story.mesh.network.heal()
    story.mesh.settle()


def ring_changes(mesh: Mesh) -> int:
    return sum(host.core.counters.ring_changes for host in mesh.nodes.values() if host.core is not None)


def test_clusters_that_started_apart_become_one_when_they_can_reach_each_other() -> None:
    mesh = Mesh(nodes=6, cluster=LOOSE)
    mesh.cut(["n1", "n3", "n4"])
    mesh.start(settle=False)
    mesh.wait_for(
        lambda: all(h.core is not None and h.core.ready and h.core.membership.count() == 3 for h in mesh.nodes.values())
    )
    mesh.network.heal()
    mesh.settle(within_s=5.0)


def test_members_lost_for_a_long_time_are_found_again() -> None:
    story = Story(5, LOOSE)
    story.mesh.cut(["n3", "n5"])
    story.mesh.run(120.0)
    counts = [host.core.membership.count() for host in story.mesh.nodes.values() if host.core is not None]
    assert counts == [3, 3, 2, 3, 2]
    story.mesh.network.heal()
    story.mesh.settle(within_s=5.0)


def test_a_mesh_that_was_killed_as_a_whole_and_started_again_is_complete_soon() -> None:
    story = Story(6)
    for host in story.mesh.nodes.values():
        host.crash()
    story.mesh.run(0.3)
    for host in story.mesh.nodes.values():
        host.start()
    story.mesh.settle(within_s=3.0)
    story.mesh.run(3.0)
    assert story.mesh.disagreements() == []


def test_nodes_that_are_slow_all_the_time_are_not_removed() -> None:
    story = Story(5)
    before = ring_changes(story.mesh)
    for host in story.mesh.nodes.values():
        host.turn_s = 0.15
    story.mesh.run(30.0)
    assert ring_changes(story.mesh) == before


def test_one_slow_node_removes_nobody_and_is_not_removed() -> None:
    story = Story(5)
    before = ring_changes(story.mesh)
    story.node("n2").turn_s = 0.3
    story.mesh.run(30.0)
    assert ring_changes(story.mesh) == before


def test_a_network_that_loses_a_tenth_of_all_frames_costs_no_membership() -> None:
    story = Story(6)
    before = ring_changes(story.mesh)
    story.mesh.network.weather = Weather(loss=0.1)
    story.mesh.run(60.0)
    assert ring_changes(story.mesh) == before


@pytest.mark.parametrize("nodes", [2, 3, 6])
def test_a_killed_process_is_out_of_every_ring_within_a_second(nodes: int) -> None:
    story = Story(nodes, LOOSE)
    killed = story.node("n2")
    killed.crash()
    story.mesh.run(1.0)
    for host in story.mesh.nodes.values():
        if host is not killed:
            assert host.core is not None
            assert killed.name not in [member.node_id for member in host.core.view.ring.members]
