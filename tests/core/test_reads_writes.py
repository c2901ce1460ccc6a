"""Quorum reads and writes, with replicas that hold what the test gave them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from story import DEFAULT, LOOSE, STRICT, Story

from meshcache.core.operations import quorum
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.reads import HEDGE_S, QuorumRead, ReadGroup
from meshcache.errors import MeshcacheError, OperationTimeout, QuorumNotReached
from meshcache.protocol.messages import LEVEL_ALL, LEVEL_ONE, LEVEL_QUORUM
from meshcache.simulation.hosts import NodeHost


def coordinator_of(host: NodeHost) -> Coordinator:
    assert host.core is not None
    return host.core.coordinator


def repaired(story: Story, key: str) -> list[bytes | None]:
    """What the owners hold when repairs have arrived, in preference order."""
    story.mesh.run(0.1)
    return [story.held(key)[host.name] for host in story.owners(key)]


@pytest.mark.parametrize(
    ("asked", "configured", "owners", "level"),
    [
        (0, 2, 3, 2),
        (0, 3, 2, 2),
        (3, 1, 2, 3),
        (LEVEL_ONE, 2, 3, 1),
        (LEVEL_ONE, 2, 0, 1),
        (LEVEL_ALL, 2, 0, 1),
        (0, 2, 0, 1),
        (LEVEL_QUORUM, 1, 3, 2),
        (LEVEL_QUORUM, 1, 4, 3),
        (LEVEL_ALL, 1, 3, 3),
    ],
)
def test_names_of_levels_adapt_to_who_is_there_and_numbers_do_not(
    asked: int, configured: int, owners: int, level: int
) -> None:
    assert quorum.level(asked, configured, owners) == level


def test_the_newest_version_wins_and_is_written_back() -> None:
    story = Story(3, STRICT)
    first, second, third = story.owners("key")
    story.put(first, "key", "old", 1)
    story.put(second, "key", "new", 2)
    story.put(third, "key", "old", 1)
    assert story.get("key", story.at(first)) == "new"
    assert repaired(story, "key")[:2] == [b"new", b"new"]


def test_a_newer_tombstone_wins_over_a_value_and_is_written_back() -> None:
    story = Story(3, STRICT)
    first, second, third = story.owners("key")
    for host in (first, third):
        story.put(host, "key", "old", 1)
    story.put(second, "key", None, 2)
    assert story.get("key", story.at(first)) is None
    assert repaired(story, "key")[0] == b""


def test_an_owner_that_lacks_a_value_is_given_it_but_no_tombstone() -> None:
    story = Story(3, STRICT)
    first, second, third = story.owners("key")
    story.put(second, "key", "value", 1)
    story.put(third, "key", "value", 1)
    assert story.get("key", story.at(first)) == "value"
    assert repaired(story, "key") == [b"value"] * 3
    story.put(story.owners("other")[1], "other", None, 1)
    story.put(story.owners("other")[2], "other", None, 1)
    assert story.get("other", story.at(story.owners("other")[0])) is None
    assert repaired(story, "other")[0] is None


def test_an_owner_that_forgot_a_key_is_no_vote() -> None:
    story = Story(3, STRICT)
    first, second, third = story.owners("key")
    story.put(second, "key", "new", 2)
    story.put(third, "key", "old", 1)
    story.mesh.cut([second.name])
    with pytest.raises((QuorumNotReached, OperationTimeout)):  # the node's answer and the client's patience meet
        story.get("key", story.at(first), timeout=0.4)
    story.mesh.network.heal()
    assert story.get("key", story.at(first)) == "new"


def test_fewer_holders_than_the_read_quorum_are_a_miss_when_all_have_answered() -> None:
    story = Story(3, STRICT)
    story.put(story.owners("key")[2], "key", "old", 1)
    assert story.get("key", story.at(story.owners("key")[0])) is None


def test_where_reads_and_writes_need_not_meet_any_answers_do() -> None:
    story = Story(3, {**STRICT, "write_quorum": 1, "read_quorum": 2})
    first, _, third = story.owners("key")
    story.put(first, "key", "value", 1)
    story.mesh.cut([third.name])
    assert story.get("key", story.at(first), timeout=0.4) == "value"
    assert story.get("absent", story.at(first), timeout=0.4) is None


def test_who_does_not_answer_is_not_waited_for() -> None:
    story = Story(4, STRICT)
    for host in story.owners("key"):
        story.put(host, "key", "value", 1)
    first, second, _ = story.owners("key")
    client = story.at(first)
    story.get("key", client)
    second.pause()
    began = story.mesh.world.now
    assert story.get("key", client) == "value"
    assert story.mesh.world.now - began < HEDGE_S + 0.05


def test_a_node_that_owns_nothing_of_a_batch_coordinates_it() -> None:
    story = Story(5)
    keys = [f"key{i}" for i in range(40)]
    for key in keys:
        for host in story.owners(key):
            story.put(host, key, key, 1)
    for host in story.mesh.nodes.values():
        client = story.at(host)
        assert story.mesh.call(client, client.session.get_many(keys, None)) == {key: key for key in keys}


def test_what_does_not_fit_into_an_answer_comes_with_the_next() -> None:
    story = Story(3, STRICT, limits={"reply_bytes_max": 2000})
    keys = [f"key{i}" for i in range(30)]
    for key in keys:
        for host in story.owners(key):
            story.put(host, key, key + "." * 500, 1)
    client = story.at(story.node("n1"))
    found = story.mesh.call(client, client.session.get_many(keys, None))
    assert found == {key: key + "." * 500 for key in keys}


def test_a_write_is_stored_by_all_owners_and_done_at_its_level() -> None:
    story = Story(3, STRICT)
    first, _, third = story.owners("key")
    story.set("key", "value", story.at(first))
    assert repaired(story, "key") == [b"value"] * 3
    story.mesh.cut([third.name])
    story.set("key", "other", story.at(first), timeout=0.5)
    strict = story.at(first)
    with pytest.raises(MeshcacheError):
        story.mesh.call(strict, strict.session.derive(consistency=(3, 1)).set("key", "all", None, 0.5))


def test_every_key_that_a_replica_holds_newer_is_stamped_past_it() -> None:
    story = Story(4, {**LOOSE, "replicas": 1})
    keys = [f"key{i}" for i in range(12)]
    owners = {key: story.owners(key)[0] for key in keys}
    assert len({host.name for host in owners.values()}) > 2
    versions = {key: story.put(owners[key], key, "ahead", 9_000 + 50 * i) for i, key in enumerate(keys)}
    client = story.at(story.node("n1"))
    assert story.mesh.call(client, client.session.set_many(dict.fromkeys(keys, "mine"), None, None)) == []
    for key in keys:
        item = story.mesh.call(client, client.session.gets(key, None))
        assert item.value == "mine"
        assert item.version > versions[key]


def test_a_version_beyond_belief_is_not_followed() -> None:
    story = Story(2)
    first, second = story.owners("key")
    story.put(second, "key", "poison", 3_600_000)
    story.set("key", "value", story.at(first))
    core = first.core
    assert core is not None
    assert core.clock.latest >> 16 < core.coordinator.instant.wall_ms + 10_000


def test_delete_tells_whether_there_was_something() -> None:
    story = Story(3)
    client = story.client
    story.set("key", "value")
    assert story.call(client.session.delete("key", None)) is True
    assert story.call(client.session.delete("key", None)) is False
    assert story.call(client.session.delete("never", None)) is False
    assert story.get("key") is None


def test_an_owner_that_was_away_gets_the_write_when_its_link_is_back() -> None:
    story = Story(3, {**STRICT, "write_quorum": 3, "read_quorum": 1})
    first, second, _ = story.owners("key")
    ended: list[Exception | None] = []
    client = story.at(first)
    story.get("key", client)
    second.crash()
    story.mesh.run(0.02)
    client.run(client.session.set("key", "value", None, 20.0), lambda result, error, _: ended.append(error))
    story.mesh.run(0.1)
    assert ended == []
    second.start()
    story.mesh.wait_for(lambda: bool(ended), within_s=3.0)
    assert ended == [None]
    assert repaired(story, "key") == [b"value"] * 3


def test_nothing_is_left_pending_when_time_is_up() -> None:
    story = Story(3, {**STRICT, "write_quorum": 3, "read_quorum": 3})
    first, second, _ = story.owners("key")
    client = story.at(first)
    story.get("key", client)
    second.pause()
    for flow in (client.session.set("key", "value", None, 0.4), client.session.get("key", None, 0.4)):
        with pytest.raises(MeshcacheError):
            story.mesh.call(client, flow)
    story.mesh.run(0.2)
    assert not coordinator_of(first).pending.running


def test_a_level_above_the_number_of_copies_is_refused() -> None:
    story = Story(3, DEFAULT)
    client = story.client
    story.get("key")
    with pytest.raises(ValueError, match="2 replicas"):
        story.call(client.session.derive(consistency=(3, 1)).set("key", "value", None, None))


def former_owners(_: QuorumRead, group: ReadGroup) -> None:
    group.former = (("n2", "n3"),)


def no_vote(_: QuorumRead, group: ReadGroup) -> None:
    group.voteless["n1"] = {b"other": None}


def a_second_answer(_: QuorumRead, group: ReadGroup) -> None:
    group.answers["n2"] = {b"key": b"another"}


def two_needed(_: QuorumRead, group: ReadGroup) -> None:
    group.needed = 2


def no_owner(_: QuorumRead, group: ReadGroup) -> None:
    group.owners = ("n2", "n3")


def lost_owners(read: QuorumRead, _: ReadGroup) -> None:
    read.coordinator.view.void[3] = bytes(16)


@pytest.mark.parametrize("but", [former_owners, no_vote, a_second_answer, two_needed, no_owner, lost_owners])
def test_an_answer_needs_no_judgement_only_if_one_owner_is_enough_and_nothing_speaks_against_it(
    but: Callable[[QuorumRead, ReadGroup], None],
) -> None:
    story = Story(3, DEFAULT)
    read = QuorumRead(coordinator_of(story.owners("key")[0]), [b"key"], 0, 0, 1.0, print)
    group = ReadGroup(("n1", "n2"), (), [b"key"], [0])
    group.needed, group.answers = 1, {"n1": {b"key": b"record"}}
    assert read._sole_answer(group) == {b"key": b"record"}
    but(read, group)
    assert read._sole_answer(group) == {}
