"""Who may be a member where nodes have keys: of others nothing is believed, and whose key is taken back is given up."""

from __future__ import annotations

import random

from lone_node import Lone
from test_membership import BORN, SETTINGS, fact

from meshcache.core.membership.members import State
from meshcache.core.membership.membership import Membership
from meshcache.core.outbox import Outbox
from meshcache.protocol.messages import Fact, Rumour

NOW = 0.0


def table(*known: str, allowed: tuple[str, ...] | None = None, answers: bool = True) -> Membership:
    """A table of n1, with these members, and newcomers that answer at once, or not."""
    made = Membership(SETTINGS, fact("n1"), Outbox(), random.Random(1), NOW, answers=lambda _: answers)
    for node_id in known:
        made.take(fact(node_id), NOW)
    made.allow(None if allowed is None else frozenset(allowed), NOW)
    return made


def hear(made: Membership, *facts: Fact, now: float = NOW, vouched: bool = False) -> None:
    made.hear([Rumour(one, []) for one in facts], now, vouched=vouched)


def states(made: Membership) -> dict[str, State]:
    return {one.node_id: State(one.state) for one in made.facts()}


def test_of_nodes_without_a_key_nothing_is_believed_whoever_says_it() -> None:
    made = table("n2", allowed=("n1", "n2"))
    for state in State:
        hear(made, fact("x", state=state))
        hear(made, fact("x", state=state), vouched=True)
    made._see_to_newcomers(NOW + 60)
    assert set(states(made)) == {"n1", "n2"}
    assert len(made.newcomers) == 0
    assert made.refused == 2 * len(State)


def test_where_no_keys_are_needed_and_for_nodes_with_keys_it_is_as_it_was() -> None:
    for allowed in (None, ("n1", "n2", "n3")):
        made = table("n2", allowed=allowed)
        hear(made, fact("n3"))
        made._see_to_newcomers(NOW)
        assert states(made) == {"n1": State.ALIVE, "n2": State.ALIVE, "n3": State.ALIVE}
        assert made.refused == 0


def test_a_member_whose_key_is_taken_back_is_given_up_and_owns_nothing_any_more() -> None:
    made = table("n2", "n3", allowed=("n1", "n2", "n3"))
    made.ring_changed = False
    made.allow(frozenset({"n1", "n2"}), NOW)
    assert states(made)["n3"] == State.FORGOTTEN
    assert states(made)["n2"] == State.ALIVE
    assert made.ring_changed
    assert [one.node_id for one in made.peers()] == ["n2"]


def test_a_member_whose_key_is_taken_back_cannot_refute_that() -> None:
    made = table("n3", allowed=("n1",))
    for incarnation in (BORN, BORN + 1, BORN + 256):
        hear(made, fact("n3", incarnation=incarnation))
        made._see_to_newcomers(NOW + 60)
        assert states(made)["n3"] == State.FORGOTTEN


def test_a_newcomer_on_trial_whose_key_is_taken_back_becomes_no_member() -> None:
    made = table("n2", allowed=("n1", "n2", "n3"), answers=False)
    hear(made, fact("n3"))
    assert len(made.newcomers) == 1
    made.allow(frozenset({"n1", "n2"}), NOW)
    made.newcomers.on_answer(fact("n3").address, "n3", NOW)
    made._see_to_newcomers(NOW + 60)
    assert set(states(made)) == {"n1", "n2"}


def test_a_member_that_is_allowed_again_comes_back_with_a_newer_life() -> None:
    made = table("n3", allowed=("n1",))
    made.allow(frozenset({"n1", "n3"}), NOW)
    assert states(made)["n3"] == State.FORGOTTEN
    hear(made, fact("n3", incarnation=BORN + 256))
    made._see_to_newcomers(NOW)
    assert states(made)["n3"] == State.ALIVE


def test_a_node_whose_own_key_is_taken_back_does_not_give_itself_up() -> None:
    made = table("n2", allowed=("n2",))
    assert states(made) == {"n1": State.ALIVE, "n2": State.ALIVE}
    assert not made.removed


def test_the_core_passes_on_who_is_allowed_and_its_ring_follows() -> None:
    lone = Lone()
    other = fact("n2")._replace(address="127.0.0.2:7002", boot=lone.core.boot + 1)
    lone.welcome(other)
    lone.core.membership.take(other, lone.now)
    lone.turn()
    assert {member.node_id for member in lone.core.view.ring.members} == {"n1", "n2"}
    lone.core.allow(frozenset({"n1"}), lone.now)
    lone.turn()
    assert {member.node_id for member in lone.core.view.ring.members} == {"n1"}
