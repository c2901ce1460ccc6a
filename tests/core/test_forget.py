"""Forgetting a node that is gone: every member does, nothing brings it back but itself, and the living are refused."""

from __future__ import annotations

import random

import pytest
from story import DEFAULT, Story

from meshcache.config import MembershipSettings
from meshcache.core.membership.members import State, first_incarnation
from meshcache.core.membership.membership import Membership
from meshcache.core.outbox import Outbox
from meshcache.protocol.messages import Fact, Gossip
from meshcache.simulation.hosts import NodeHost

BORN = first_incarnation(1_800_000_000_000)


def fact(node_id: str, state: State = State.ALIVE, address: str = "", incarnation: int = BORN) -> Fact:
    return Fact(node_id, address or f"{node_id}:7101", "", "", node_id, "", 1.0, 1, incarnation, int(state))


def table_of(*facts: Fact) -> Membership:
    table = Membership(MembershipSettings(), fact("n1"), Outbox(), random.Random(1), 0.0)
    for one in facts:
        table.take(one._replace(state=int(State.ALIVE)), 0.0)
        table.take(one, 0.0)
    return table


def states(host: NodeHost) -> dict[str, State]:
    assert host.core is not None
    membership = host.core.membership
    return {fact.node_id: State(fact.state) for fact in membership.facts()}


def listed(story: Story, host: NodeHost) -> list[str]:
    """The members that a node shows in its status."""
    client = story.at(host)
    told = story.mesh.call(client, client.session.inspect("status", b"", None, None))
    return [member["node_id"] for member in told["members"]]


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT, State.FORGOTTEN])
def test_who_is_gone_is_forgotten_by_id_or_address_and_everybody_is_told(state: State) -> None:
    for name in ("n2", "n2:7101"):
        table = table_of(fact("n2", state), fact("n3"), fact("n4"))
        table._outbox.clear()
        table.dismiss(name, 1.0)
        assert table.state_of("n2") == State.FORGOTTEN
        told = {
            address: [rumour.fact for message in said if isinstance(message, Gossip) for rumour in message.rumours]
            for address, said in table._outbox.sends.items()
        }
        assert sorted(told) == ["n3:7101", "n4:7101"]
        assert all(fact("n2", State.FORGOTTEN) in facts for facts in told.values())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("n1", "n1 is alive: have it leave first, with `meshcache leave n1`"),
        ("n3", "n3 is alive"),
        ("n3:7101", "n3:7101 is alive"),
        ("n4", "n4 is silent, but not declared dead"),
        ("n5", "there is no node 'n5'; the mesh has n1, n2, n3, n4"),
        ("", "there is no node ''"),
    ],
)
def test_who_is_up_or_unknown_is_refused_in_words(name: str, says: str) -> None:
    table = table_of(fact("n2", State.DEAD), fact("n3"), fact("n4", State.SUSPECT))
    with pytest.raises(ValueError, match=says.split("`", maxsplit=1)[0].replace("?", r"\?")) as raised:
        table.dismiss(name, 1.0)
    assert says in str(raised.value)
    assert [table.state_of(node_id) for node_id in ("n2", "n3", "n4")] == [State.DEAD, State.ALIVE, State.SUSPECT]


def test_at_an_address_only_who_is_gone_is_forgotten() -> None:
    table = table_of(fact("old", State.DEAD, "h:1"), fact("older", State.LEFT, "h:1"), fact("new", address="h:1"))
    table.dismiss("h:1", 1.0)
    assert [table.state_of(name) for name in ("old", "older", "new")] == [State.FORGOTTEN, State.FORGOTTEN, State.ALIVE]


def test_no_rumour_revives_who_was_forgotten_but_a_new_life_does() -> None:
    table = table_of(fact("n2", State.DEAD))
    table.dismiss("n2", 1.0)
    for state in (State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT):
        table.merge([fact("n2", state)], 2.0)
    assert table.state_of("n2") == State.FORGOTTEN
    table.merge([fact("n2", incarnation=first_incarnation(1_800_000_000_500))], 3.0)
    assert table.state_of("n2") == State.ALIVE


def test_every_member_forgets_a_dead_node_and_it_comes_back_as_new() -> None:
    story = Story(5)
    dead = story.node("n3")
    dead.crash()
    story.mesh.settle()
    story.mesh.run(7.0)
    others = [host for host in story.mesh.nodes.values() if host is not dead]
    assert all("n3" in listed(story, host) for host in others)
    story.call(story.client.session.forget("n3", None))
    story.mesh.run(0.5)
    for host in others:
        assert states(host)["n3"] == State.FORGOTTEN
        assert "n3" not in listed(story, host)
        assert host.core is not None
        assert dead.address not in host.core.peers.links, "it is dialled no longer"
    story.call(story.client.session.forget("n3", None))  # as a client does whose answer was lost
    dead.start()
    story.mesh.settle()
    assert all(state == State.ALIVE for host in story.mesh.nodes.values() for state in states(host).values())
    assert all("n3" in listed(story, host) for host in story.mesh.nodes.values())


def test_a_node_that_was_cut_off_and_forgotten_forgets_what_it_held_and_joins_again() -> None:
    story = Story(5)
    story.set("key", "old")
    cut = story.owners("key")[0]
    story.mesh.cut([cut.name])
    story.mesh.run(12.0)
    client = story.at(next(host for host in story.mesh.nodes.values() if host is not cut))
    story.mesh.call(client, client.session.forget(cut.name, None))
    story.set("key", "new", client)
    story.mesh.network.heal()
    story.mesh.settle(within_s=15.0)
    assert states(cut) == {host.name: State.ALIVE for host in story.mesh.nodes.values()}
    for host in story.mesh.nodes.values():
        assert story.get("key", story.at(host)) == "new"


def test_who_missed_that_a_node_was_forgotten_does_not_bring_it_back() -> None:
    story = Story(5)
    story.node("n3").crash()
    story.mesh.settle()
    story.mesh.cut(["n5"])
    story.mesh.run(12.0)
    client = story.at(story.node("n1"))
    story.mesh.call(client, client.session.forget("n3", None))
    story.mesh.network.heal()
    story.mesh.settle(within_s=15.0)
    story.mesh.run(10.0)
    assert states(story.node("n1"))["n3"] == State.FORGOTTEN
    for name in ("n1", "n2", "n4", "n5"):
        assert states(story.node(name))["n3"] >= State.DEAD


def test_a_living_node_is_refused_at_every_node() -> None:
    story = Story(3)
    for host in story.mesh.nodes.values():
        client = story.at(host)
        with pytest.raises(ValueError, match="forget: n2 is alive: have it leave first"):
            story.mesh.call(client, client.session.forget("n2", None))
    assert states(story.node("n1"))["n2"] == State.ALIVE


def test_a_mesh_without_a_majority_gets_it_back_by_forgetting_the_dead() -> None:
    story = Story(3, {**DEFAULT, "partition_policy": "strict"})
    story.node("n3").crash()
    story.mesh.run(5.0)
    story.call(story.client.session.forget("n3", None))
    story.mesh.run(1.0)
    story.node("n2").leave()
    story.mesh.run(3.0)
    core = story.node("n1").core
    assert core is not None
    assert core.ready, "of one member, this one is the majority"
