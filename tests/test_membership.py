from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.config import MembershipSettings
from meshcache.core.membership import FANOUT, Membership, State, first_incarnation, next_life, supersedes
from meshcache.core.messages import Ack, Fact, Facts, Ping
from meshcache.core.outbox import Outbox

BORN = first_incarnation(1_800_000_000_000)


def fact(node_id: str = "n2", *, incarnation: int = BORN, state: State = State.ALIVE, boot: int = 1) -> Fact:
    return Fact(node_id, f"{node_id}:7101", "", "", node_id, "", 1.0, boot, incarnation, int(state))


def membership(own: str = "n1", now: float = 0.0) -> Membership:
    return Membership(MembershipSettings(), fact(own), Outbox(), random.Random(1), now)


def sent(table: Membership) -> dict[str, list[object]]:
    outbox = table._outbox
    messages: dict[str, list[object]] = {address: list(waiting) for address, waiting in outbox.sends.items()}
    outbox.clear()
    return messages


def keep_alive(table: Membership, now: float, *node_ids: str) -> None:
    for node_id in node_ids:
        table.heard(node_id, now)


def run(table: Membership, start: float, end: float, *alive: str) -> None:
    """Tick as the node does, hearing from some all the while."""
    for step in range(int((end - start) / 0.05)):
        now = start + (step + 1) * 0.05
        keep_alive(table, now, *alive)
        table.tick(now)


facts = st.builds(
    fact,
    st.sampled_from(["n1", "n2", "n3"]),
    incarnation=st.integers(BORN, BORN + 600),
    state=st.sampled_from(State),
    boot=st.integers(1, 2),
)


@given(facts, facts, facts)
def test_facts_are_in_one_order(one: Fact, two: Fact, three: Fact) -> None:
    assert not supersedes(one, one)
    assert not (supersedes(one, two) and supersedes(two, one))
    if supersedes(one, two) and supersedes(two, three):
        assert supersedes(one, three)


@settings(max_examples=100, deadline=None)
@given(st.lists(facts, max_size=6), st.randoms(use_true_random=False))
def test_gossip_in_any_order_and_number_ends_in_the_same_table(said: list[Fact], rng: random.Random) -> None:
    others = [f for f in said if f.node_id != "n1"]
    known = [fact("n2", incarnation=0), fact("n3", incarnation=0)]

    def table(order: list[Fact]) -> list[Fact]:
        result = membership()
        result.merge(known, 0.0)
        for one in order:
            result.merge([one], 0.0)
        return result.facts()

    shuffled = others * 2
    rng.shuffle(shuffled)
    assert table(others) == table(shuffled)


def test_a_suspicion_is_refuted_by_a_greater_incarnation() -> None:
    suspected = fact(state=State.SUSPECT)
    assert supersedes(suspected, fact())
    assert supersedes(fact(incarnation=BORN + 1), suspected)


def test_a_death_is_only_overruled_by_a_new_life() -> None:
    dead = fact(state=State.DEAD)
    assert not supersedes(fact(incarnation=BORN + 1), dead)
    assert supersedes(fact(incarnation=next_life(BORN)), dead)
    assert supersedes(dead, fact(incarnation=BORN + 1))


def test_a_node_refutes_what_is_said_of_it() -> None:
    table = membership()
    table.merge([fact("n2")], 0.0)
    sent(table)
    table.merge([fact("n1", state=State.SUSPECT)], 1.0)
    assert table.own.state == State.ALIVE
    assert supersedes(table.own, fact("n1", state=State.SUSPECT))
    assert not table.removed
    assert sent(table) == {"n2:7101": [Facts([table.own])]}


def test_a_node_that_hears_of_its_death_knows_that_it_was_removed_also_after_a_refutation() -> None:
    for before in ([], [fact("n1", state=State.SUSPECT)]):
        table = membership()
        table.merge(before, 0.0)
        table.merge([fact("n1", state=State.DEAD)], 1.0)
        assert table.removed
        assert supersedes(table.own, fact("n1", state=State.DEAD))


def test_the_death_of_a_former_process_is_no_removal() -> None:
    table = membership()
    table.merge([fact("n1", incarnation=next_life(BORN), state=State.DEAD, boot=99)], 0.0)
    assert not table.removed
    assert table.own.state == State.ALIVE
    assert table.own.incarnation > next_life(BORN)


def test_silence_makes_a_member_suspect_and_then_dead() -> None:
    table = membership()
    table.merge([fact("n2"), fact("n3")], 0.0)
    run(table, 0.0, 0.9, "n3")
    assert table.state_of("n2") == State.ALIVE
    run(table, 0.9, 1.2, "n3")
    assert table.state_of("n2") == State.SUSPECT
    assert "n2" in [member.node_id for member in table.ring_members()], "a suspect stays an owner"
    run(table, 1.2, 2.3, "n3")
    assert table.state_of("n2") == State.DEAD
    assert table.state_of("n3") == State.ALIVE
    assert table.died == ["n2:7101"]
    assert "n2" not in [member.node_id for member in table.ring_members()]


def test_a_broken_link_makes_a_member_suspect_at_once() -> None:
    table = membership()
    table.merge([fact("n2")], 0.0)
    table.suspect_address("n2:7101", 0.1)
    assert table.state_of("n2") == State.SUSPECT
    sent(table)
    table.tick(0.2)
    assert Facts([fact("n2", state=State.SUSPECT)]) in sent(table)["n2:7101"], "the accused must hear of it"


def test_a_node_that_stalled_does_not_hold_the_silence_against_others() -> None:
    table = membership()
    table.merge([fact("n2")], 0.0)
    run(table, 0.0, 0.5, "n2")
    table.tick(60.0)
    assert table.state_of("n2") == State.ALIVE


def test_the_dead_are_forgotten_in_time_and_rumours_of_them_are_not_taken_up() -> None:
    table = membership()
    table.merge([fact("n2")], 0.0)
    table.merge([fact("n2", state=State.DEAD)], 1.0)
    table.tick(1.0)
    for step in range(1, 40):
        table.tick(1.0 + step * 100)
    assert "n2" in table.members, "the silence of a stalled node counts for nothing, here too"
    patient = membership()
    patient.merge([fact("n2")], 0.0)
    patient.merge([fact("n2", state=State.DEAD)], 0.0)
    run(patient, 0.0, MembershipSettings().forget_after_s + 1.0)
    assert "n2" not in patient.members
    patient.merge([fact("n2", state=State.DEAD)], 4000.0)
    assert "n2" not in patient.members


def test_equal_tables_have_equal_digests_and_the_gone_do_not_count() -> None:
    one, other = membership("n1"), membership("n2")
    assert one.digest() != other.digest()
    one.merge([fact("n2")], 0.0)
    other.merge([fact("n1")], 0.0)
    assert one.digest() == other.digest()
    one.merge([fact("n3")], 0.0)
    assert one.digest() != other.digest()
    one.merge([fact("n3", state=State.DEAD)], 0.0)
    assert one.digest() == other.digest()


def test_an_ack_brings_the_table_where_it_differs_and_the_difference_back() -> None:
    one, other = membership("n1"), membership("n2")
    one.merge([fact("n2"), fact("n3")], 0.0)
    other.merge([fact("n1"), fact("n4")], 0.0)
    sent(one)
    ack = other.on_ping(Ping(1, "n1", one.digest()), 0, 1.0)
    assert {f.node_id for f in ack.members} == {"n1", "n2", "n4"}
    one.on_ack("n2", "n2:7101", ack, 1.0)
    assert "n4" in one.members
    pushed = [message for message in sent(one)["n2:7101"] if isinstance(message, Facts)]
    other.merge([f for message in pushed for f in message.members], 1.0)
    assert one.digest() == other.digest()
    assert other.on_ping(Ping(2, "n1", one.digest()), 0, 1.0) == Ack(2, 0, other.digest(), [])


def test_a_large_mesh_is_pinged_in_turns() -> None:
    table = membership("n0")
    members = [f"n{i}" for i in range(1, 31)]
    table.merge([fact(node_id) for node_id in members], 0.0)
    sent(table)
    rounds: list[set[str]] = []
    for step in range(12):
        now = (step + 1) * 0.2
        keep_alive(table, now, *members)
        table.tick(now)
        pinged = {address for address, said in sent(table).items() if any(isinstance(one, Ping) for one in said)}
        assert len(pinged) <= FANOUT
        rounds.append(pinged)
    assert set(itertools.chain(*rounds)) == {f"{node_id}:7101" for node_id in members}


def test_who_leaves_says_so_and_is_not_brought_back_by_rumour() -> None:
    table, other = membership("n1"), membership("n2")
    table.merge([fact("n2")], 0.0)
    other.merge([fact("n1")], 0.0)
    sent(table)
    table.leave(1.0)
    (farewell,) = sent(table)["n2:7101"]
    assert isinstance(farewell, Facts)
    other.merge(farewell.members, 1.0)
    assert other.state_of("n1") == State.LEFT
    other.merge([fact("n1")], 2.0)
    assert other.state_of("n1") == State.LEFT
    table.merge([fact("n1", state=State.SUSPECT, incarnation=next_life(next_life(BORN)))], 2.0)
    assert table.own.state == State.LEFT, "who has left refutes nothing"
    other.merge([fact("n1", incarnation=next_life(BORN), boot=2)], 3.0)
    assert other.state_of("n1") == State.ALIVE, "its next process is welcome"


def test_an_id_can_be_taken_over_on_the_same_address_or_from_the_dead() -> None:
    table = membership()
    table.merge([fact("n2")], 0.0)
    elsewhere = fact("n2", boot=2)._replace(address="other:7101")
    assert table.conflict(fact("n2", boot=2), 0.1) is None
    conflict = table.conflict(elsewhere, 0.1)
    assert conflict is not None
    assert "in use by the node at n2:7101" in conflict
    assert table.conflict(fact("n1", boot=2), 0.1) is not None
    table.merge([fact("n2", state=State.DEAD)], 0.2)
    assert table.conflict(elsewhere, 0.3) is None
