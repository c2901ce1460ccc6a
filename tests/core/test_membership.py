"""Membership by itself: facts, refutation, probes, suspicion, rumours, health; and hundreds of tables at once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.config import MembershipSettings
from meshcache.core.membership.majority import Majority
from meshcache.core.membership.members import State, first_incarnation, next_life, supersedes
from meshcache.core.membership.membership import TICK_S, WITNESSES_CALLED, Membership
from meshcache.core.membership.probing import HEALTH_WORST, RELAYS_MAX
from meshcache.core.membership.rumours import RUMOURS_PER_MESSAGE, RumourQueue, retransmits
from meshcache.core.membership.suspicion import Suspicion, bounds_s, confirmations_wanted, sync_interval_s, timeout_s
from meshcache.core.outbox import Outbox
from meshcache.protocol.messages import Ack, Fact, Gossip, Message, Nack, Ping, PingReq, Rumour, Vouch
from meshcache.simulation.swarm import Swarm, measure

BORN = first_incarnation(1_800_000_000_000)
SETTINGS = MembershipSettings()
PROBE_S = 2 * SETTINGS.ack_timeout_s
"""How long a probe may take."""

Kind = TypeVar("Kind")


def fact(node_id: str = "n2", *, incarnation: int = BORN, state: State = State.ALIVE, boot: int = 1) -> Fact:
    return Fact(node_id, f"{node_id}:7101", "", "", node_id, "", 1.0, boot, incarnation, int(state))


def suspect(node_id: str, *accusers: str) -> Rumour:
    return Rumour(fact(node_id, state=State.SUSPECT), list(accusers))


def membership(own: str = "n1", *known: str, now: float = 0.0, **wiring: Any) -> Membership:
    table = Membership(SETTINGS, fact(own), Outbox(), random.Random(1), now, **wiring)
    for node_id in known:
        table.take(fact(node_id), now)
    return table


def sent(table: Membership) -> dict[str, list[Message]]:
    outbox = table._outbox
    messages = {address: list(waiting) for address, waiting in outbox.sends.items()}
    outbox.clear()
    return messages


def of_kind(messages: dict[str, list[Message]], kind: type[Kind]) -> list[tuple[str, Kind]]:
    return [(address[:-5], one) for address, said in messages.items() for one in said if isinstance(one, kind)]


def replies(table: Membership) -> list[Message]:
    answers = list(itertools.chain(*table._outbox.replies.values()))
    table._outbox.clear()
    return answers


def ticks(start: float, end: float) -> Iterator[float]:
    return (start + (step + 1) * TICK_S for step in range(round((end - start) / TICK_S)))


def run(table: Membership, start: float, end: float, *alive: str, helpful: bool = True) -> None:
    """Tick as the node does; some members answer what they are asked."""
    for now in ticks(start, end):
        table.tick(now)
        messages = sent(table)
        for node_id, ping in of_kind(messages, Ping):
            if node_id in alive:
                table.on_ack(node_id, f"{node_id}:7101", Ack(ping.sequence, 0, table.digest(), []), now)
        for node_id, request in of_kind(messages, PingReq):
            if node_id in alive and helpful:
                table.on_nack(Nack(request.sequence))


# Facts and their order

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

    def table(order: list[Fact]) -> tuple[list[Fact], bytes]:
        result = membership()
        result.merge([fact("n2", incarnation=0), fact("n3", incarnation=0)], 0.0)
        for one in order:
            result.merge([one], 0.0)
        return result.facts(), result.digest()

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


def test_the_gone_are_forgotten_in_time_and_rumours_of_them_are_not_taken_up() -> None:
    table = membership("n1", "n2")
    table.merge([fact("n2", state=State.DEAD)], 0.0)
    table.tick(SETTINGS.forget_after_s - 1)
    assert "n2" in table.members
    forgotten = membership("n1", "n2")
    forgotten.merge([fact("n2", state=State.DEAD)], 0.0)
    for now in range(0, int(SETTINGS.forget_after_s * 1.1), 60):
        forgotten._ticked_at = now - TICK_S
        forgotten.tick(float(now))
    assert "n2" not in forgotten.members
    forgotten.merge([fact("n2", state=State.DEAD)], 0.0)
    assert "n2" not in forgotten.members


def test_an_id_can_be_taken_over_on_the_same_address_or_from_the_dead() -> None:
    table = membership("n1", "n2")
    elsewhere = fact("n2", boot=2)._replace(address="other:7101")
    assert table.conflict(fact("n2", boot=2)) is None
    conflict = table.conflict(elsewhere)
    assert conflict is not None
    assert "in use by the node at n2:7101" in conflict
    assert table.conflict(fact("n1", boot=2)) is not None
    table.merge([fact("n2", state=State.SUSPECT)], 0.2)
    assert table.conflict(elsewhere) is None


# Refutation


def test_a_node_refutes_what_is_said_of_it_and_takes_it_as_a_sign_of_ill_health() -> None:
    table = membership("n1", "n2")
    table.merge([fact("n1", state=State.SUSPECT)], 1.0)
    assert table.own.state == State.ALIVE
    assert supersedes(table.own, fact("n1", state=State.SUSPECT))
    assert not table.removed
    assert table.prober.health == 1
    assert sent(table) == {"n2:7101": [Gossip([Rumour(table.own, [])])]}


def test_a_node_that_hears_of_its_death_knows_that_it_was_removed_also_after_a_refutation() -> None:
    for before in ([], [fact("n1", state=State.SUSPECT)]):
        table = membership()
        table.merge(before, 0.0)
        table.merge([fact("n1", state=State.DEAD)], 1.0)
        assert table.removed
        assert supersedes(table.own, fact("n1", state=State.DEAD))


def test_the_death_of_another_process_of_its_id_is_a_removal_too() -> None:
    table = membership()
    table.merge([fact("n1", incarnation=next_life(BORN), state=State.DEAD, boot=99)], 0.0)
    assert table.removed
    assert table.own.state == State.ALIVE
    assert table.own.incarnation > next_life(BORN)


def test_who_pings_hears_in_the_ack_what_is_held_against_it() -> None:
    for state in (State.SUSPECT, State.DEAD):
        table = membership("n1", "n2")
        table.merge([fact("n2", state=state)], 0.0)
        for _ in range(retransmits(2)):
            table.rumours.take(2)
        ack = table.on_ping(Ping(1, "n2", b"", False, []), 0, 1.0)
        assert [rumour.fact for rumour in ack.rumours] == [fact("n2", state=state)]


def test_two_nodes_that_declared_each_other_dead_are_reconciled_by_one_handshake() -> None:
    one, other = membership("n1", "n2"), membership("n2", "n1")
    one.merge([fact("n2", state=State.DEAD)], 0.0)
    other.merge([fact("n1", state=State.DEAD)], 0.0)
    welcomes = one.facts(), other.facts()  # both were on their way before either arrived
    sent(one), sent(other)
    one.on_welcome("n2:7101", "n2", welcomes[1], 1.0)
    other.on_welcome("n1:7101", "n1", welcomes[0], 1.0)
    for _ in range(3):
        to_other, to_one = sent(one), sent(other)
        for _, gossip in of_kind(to_other, Gossip):
            other.hear(gossip.rumours, 1.1)
        for _, gossip in of_kind(to_one, Gossip):
            one.hear(gossip.rumours, 1.1)
    assert one.removed
    assert other.removed
    assert one.state_of("n2") == other.state_of("n1") == State.ALIVE
    assert one.digest() == other.digest()


def test_who_speaks_of_our_past_hears_our_present() -> None:
    table = membership("n1", "n2")
    table.announce_synced(b"ring")
    assert table.on_gossip(Gossip([Rumour(fact("n1"), [])]), 1.0) == [Rumour(table.own, [])]
    assert table.on_gossip(Gossip([Rumour(table.own, [])]), 1.0) == []


# Probes


def test_one_member_is_probed_per_interval_and_each_in_its_turn() -> None:
    members = [f"n{i}" for i in range(2, 32)]
    table = membership("n1", *members)
    table._sync_at = 1e9
    pinged: list[str] = []
    for now in ticks(0.0, 60 * SETTINGS.probe_interval_s):
        table.tick(now)
        for node_id, ping in of_kind(sent(table), Ping):
            pinged.append(node_id)
            table.on_ack(node_id, f"{node_id}:7101", Ack(ping.sequence, 0, table.digest(), []), now)
    assert len(pinged) in {60, 61}
    assert sorted(pinged[:30]) == sorted(pinged[30:60]) == sorted(members)


def test_a_probe_without_answer_goes_through_others_and_then_accuses() -> None:
    table = membership("n1", "n2", "n3", "n4", "n5", "n6")
    run(table, 0.0, 4 * SETTINGS.probe_interval_s, "n2", "n3", "n4", "n5", "n6")
    table.prober.probes.clear()
    table.prober.hasten("n2")
    now = next(now for now in ticks(0.8, 2.0) if table.prober.due(now))
    table.tick(now)
    ((target, ping),) = [(to, ping) for to, ping in of_kind(sent(table), Ping) if to == "n2"]
    table.tick(now + SETTINGS.ack_timeout_s + 0.001)
    asked = [(to, request) for to, request in of_kind(sent(table), PingReq)]
    assert len(asked) == SETTINGS.indirect_probes
    assert {request for _, request in asked} == {PingReq(ping.sequence, target)}
    assert "n2" not in {to for to, _ in asked}
    table.tick(now + PROBE_S - 0.001)
    assert table.state_of("n2") == State.ALIVE
    table.tick(now + PROBE_S + 0.001)
    assert table.state_of("n2") == State.SUSPECT
    assert table.suspicions["n2"].accusers == ["n1"]
    assert any(suspect("n2", "n1") in gossip.rumours for to, gossip in of_kind(sent(table), Gossip) if to == "n2")
    assert "n2" in [member.node_id for member in table.ring_members()], "a suspect stays an owner"


@pytest.mark.parametrize("sign", ["ack", "ping", "vouch", "hello"])
def test_any_sign_of_life_answers_a_probe(sign: str) -> None:
    table = membership("n1", "n2")
    table.tick(0.05)
    ((_, ping),) = of_kind(sent(table), Ping)
    if sign == "ack":
        table.on_ack("n2", "n2:7101", Ack(ping.sequence, 0, b"", []), 0.1)
    elif sign == "ping":
        table.on_ping(Ping(9, "n2", b"", False, []), 0, 0.1)
    elif sign == "vouch":
        table.on_vouch(Vouch(ping.sequence))
    else:
        table.on_hello(fact("n2"), 0.1)
    assert table.prober.probes == {}


def test_an_ack_from_a_process_that_has_not_introduced_itself_answers_nothing() -> None:
    table = membership("n1", "n2")
    table.tick(0.05)
    ((_, ping),) = of_kind(sent(table), Ping)
    table.on_ack("", "n2:7101", Ack(ping.sequence, 0, b"", []), 0.1)
    assert list(table.prober.probes) == [ping.sequence]


def test_who_is_asked_to_probe_vouches_or_says_that_it_heard_nothing() -> None:
    table = membership("n1", "n2", "n3")
    table.on_ping_req(b"asker", PingReq(70, "n2"), 0.0)
    ((to, ping),) = of_kind(sent(table), Ping)
    assert to == "n2"
    table.on_ack("n2", "n2:7101", Ack(ping.sequence, 0, b"", []), 0.01)
    assert replies(table) == [Vouch(70)]
    table.on_ping_req(b"asker", PingReq(71, "n2"), 1.0)
    table._outbox.clear()
    table._ticked_at = 1.0
    table.tick(1.0 + SETTINGS.ack_timeout_s * 0.4)
    assert replies(table) == []
    table.tick(1.0 + SETTINGS.ack_timeout_s * 0.6)
    assert replies(table) == [Nack(71)]
    table.tick(1.0 + SETTINGS.ack_timeout_s * 0.7)
    assert replies(table) == [], "once"
    table.on_ping_req(b"asker", PingReq(72, "unknown"), 1.2)
    assert replies(table) == [Nack(72)]


def test_probes_for_others_are_bounded() -> None:
    table = membership("n1", "n2")
    for number in range(2 * RELAYS_MAX):
        table.on_ping_req(b"asker", PingReq(number, "n2"), 0.0)
    assert len(of_kind(sent(table), Ping)) == RELAYS_MAX


# Suspicion


@pytest.mark.parametrize(("members", "wanted"), [(1, 0), (2, 0), (3, 0), (4, 2), (5, 2), (500, 2)], ids=str)
def test_small_clusters_want_no_confirmations(members: int, wanted: int) -> None:
    assert confirmations_wanted(members) == wanted


@pytest.mark.parametrize(
    ("confirmations", "wanted", "seconds"),
    [(0, 2, 30.0), (1, 2, 12.334), (2, 2, 2.0), (3, 2, 2.0), (0, 0, 2.0), (0, 3, 30.0), (1, 3, 16.0), (2, 3, 7.811)],
)
def test_confirmations_shorten_a_suspicion_by_their_logarithm(confirmations: int, wanted: int, seconds: float) -> None:
    assert timeout_s(confirmations, wanted, 2.0, 30.0) == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(("members", "low"), [(2, 1.2), (10, 1.2), (100, 2.4), (1000, 3.6)])
def test_a_suspicion_lasts_longer_in_a_larger_cluster_but_never_less_than_the_floor(members: int, low: float) -> None:
    assert bounds_s(SETTINGS, members) == pytest.approx((low, 3 * low))
    patient = MembershipSettings(dead_after_s=7.0)
    assert bounds_s(patient, members)[0] == 7.0


@pytest.mark.parametrize(("members", "times"), [(32, 1), (33, 2), (64, 2), (65, 3), (500, 5)])
def test_whole_tables_are_compared_less_often_in_a_larger_cluster(members: int, times: int) -> None:
    assert sync_interval_s(SETTINGS, members) == times * SETTINGS.sync_interval_s


def test_an_accuser_counts_once_and_only_so_many_are_remembered() -> None:
    suspicion = Suspicion(0.0)
    assert [suspicion.confirm(who) for who in ("a", "a", "b", "c", "d")] == [True, False, True, True, False]
    assert suspicion.accusers == ["a", "b", "c"]


def lasts(*accusers: str, members: int = 5, lost: bool = True, refused: bool = True, others: bool = True) -> float:
    suspicion = Suspicion(0.0)
    suspicion.link_lost, suspicion.refused = lost, refused
    for accuser in accusers:
        suspicion.confirm(accuser)
    return suspicion.timeout_s(SETTINGS, members, other_witnesses=others)


def test_a_broken_link_is_proof_only_if_dialled_in_vain_and_seen_by_two() -> None:
    assert lasts("n1", "n3") == SETTINGS.link_dead_after_s
    assert lasts("n1", others=False) == SETTINGS.link_dead_after_s, "nobody else is there to say so"
    low, high = bounds_s(SETTINGS, 5)
    assert lasts("n1") == high
    assert lasts("n1", "n3", refused=False) == lasts("n1", "n3", lost=False) > low
    assert lasts("n1", "n3", "n4", refused=False) == low


def test_silence_makes_a_member_suspect_and_then_dead() -> None:
    table = membership("n1", "n2", "n3")
    run(table, 0.0, 3.0, "n3")
    assert (table.state_of("n2"), table.state_of("n3")) == (State.DEAD, State.ALIVE)
    assert table.died == ["n2:7101"]
    assert table.ring_changed
    assert "n2" not in [member.node_id for member in table.ring_members()]


def test_a_suspect_has_its_time_and_a_refutation_ends_it() -> None:
    table = membership("n1", "n2", "n3")
    table.hear([suspect("n2", "n3")], 0.0)
    run(table, 0.0, SETTINGS.dead_after_s - 0.1, "n2", "n3")
    assert table.state_of("n2") == State.SUSPECT
    table.merge([fact("n2", incarnation=BORN + 1)], 1.1)
    assert table.suspicions == {}
    run(table, 1.1, 4.0, "n2", "n3")
    assert table.state_of("n2") == State.ALIVE


def test_a_suspicion_that_nobody_refutes_ends_in_death_though_the_suspect_speaks() -> None:
    table = membership("n1", "n2", "n3")
    table.hear([suspect("n2", "n3")], 0.0)
    run(table, 0.0, SETTINGS.dead_after_s + 0.1, "n2", "n3")
    assert table.state_of("n2") == State.DEAD


def test_confirmations_come_with_rumours_and_are_passed_on() -> None:
    table = membership("n1", *[f"n{i}" for i in range(2, 9)])
    table.hear([suspect("n2", "n3")], 0.0)
    sent(table)
    table.hear([suspect("n2", "n3")], 0.1)
    assert sent(table) == {}, "that was known"
    table.hear([suspect("n2", "n4", "n2")], 0.2)
    assert table.suspicions["n2"].accusers == ["n3", "n4"], "nobody accuses itself"
    assert all(suspect("n2", "n3", "n4") in gossip.rumours for _, gossip in of_kind(sent(table), Gossip))
    assert table.suspicions["n2"].since == 0.0
    table.hear([suspect("n2", "n5")], 0.3)
    low = bounds_s(SETTINGS, 8)[0]
    assert table.suspicions["n2"].timeout_s(SETTINGS, 8, other_witnesses=True) == low


def test_an_accusation_of_a_former_incarnation_confirms_nothing() -> None:
    table = membership("n1", "n2", "n3", "n4")
    table.hear([Rumour(fact("n2", state=State.SUSPECT, incarnation=BORN + 1), ["n3"])], 0.0)
    table.hear([suspect("n2", "n4")], 0.0)
    assert table.suspicions["n2"].accusers == ["n3"]


def test_those_who_hear_of_a_suspicion_probe_the_suspect_next_but_not_all_of_them() -> None:
    small = membership("n1", *[f"n{i}" for i in range(2, 9)])
    small.hear([suspect("n5", "n2")], 0.0)
    small.tick(0.05)
    assert [to for to, _ in of_kind(sent(small), Ping)] == ["n5"]
    others = [f"n{i}" for i in range(2, 201)]
    hastened = 0
    for seed in range(200):
        table = Membership(SETTINGS, fact("n1"), Outbox(), random.Random(seed), 0.0)
        for node_id in others:
            table.take(fact(node_id), 0.0)
        table.hear([suspect("n5", "n2")], 0.0)
        hastened += table.prober._round == ["n5"]
    assert 0 < hastened < 3 * WITNESSES_CALLED


def test_a_broken_link_makes_a_member_suspect_at_once_and_dead_soon() -> None:
    table = membership("n1", "n2", "n3")
    table.link_lost("n2:7101", 0.0)
    assert table.state_of("n2") == State.SUSPECT
    assert of_kind(sent(table), Gossip) != []
    table.link_refused("n2:7101")
    table.hear([suspect("n2", "n3")], 0.0)
    run(table, 0.0, SETTINGS.link_dead_after_s - 0.1, "n3")
    assert table.state_of("n2") == State.SUSPECT
    run(table, SETTINGS.link_dead_after_s - 0.1, SETTINGS.link_dead_after_s + 0.1, "n3")
    assert table.state_of("n2") == State.DEAD


def test_a_link_that_comes_back_leaves_the_full_time() -> None:
    table = membership("n1", "n2", "n3")
    table.link_lost("n2:7101", 0.0)
    table.link_refused("n2:7101")
    table.hear([suspect("n2", "n3")], 0.0)
    table.link_restored("n2:7101")
    run(table, 0.0, SETTINGS.dead_after_s - 0.1, "n3")
    assert table.state_of("n2") == State.SUSPECT


def test_links_of_strangers_and_of_the_gone_accuse_nobody() -> None:
    table = membership("n1", "n2")
    table.merge([fact("n2", state=State.LEFT)], 0.0)
    for address in ("n2:7101", "elsewhere:1"):
        table.link_lost(address, 0.0)
        table.link_refused(address)
        table.link_restored(address)
    assert table.state_of("n2") == State.LEFT
    assert table.suspicions == {}


# Local health


def test_health_slows_the_probes_and_recovers_with_answers() -> None:
    table = membership("n1", "n2", "n3")
    table._sync_at = 1e9
    for _ in range(20):
        table.prober.judge(+1)
    assert table.prober.health == HEALTH_WORST
    run(table, 0.0, 4 * SETTINGS.probe_interval_s, "n2", "n3")
    assert table.sequence == 1, "one probe in the time of eight"
    run(table, 0.8, 40.0, "n2", "n3")
    assert table.prober.health == 0


@pytest.mark.parametrize(("helpful", "ill"), [(True, False), (False, True)])
def test_missing_nacks_are_held_against_oneself_and_their_coming_is_not(helpful: bool, ill: bool) -> None:
    members = [f"n{i}" for i in range(2, 8)]
    table = membership("n1", *members)
    table.prober.hasten("n2")
    run(table, 0.0, PROBE_S + 0.15, *members[1:], helpful=helpful)
    assert table.state_of("n2") == State.SUSPECT
    assert (table.prober.health > 0) == ill


def test_a_node_that_stalled_accuses_nobody_and_asks_for_news() -> None:
    table = membership("n1", "n2", "n3", "n4")
    run(table, 0.0, 0.5, "n2", "n3", "n4")
    table.hear([suspect("n4", "n3")], 0.5)
    table.tick(0.55)
    sent(table)
    table.tick(60.0)
    assert [table.state_of(node_id) for node_id in ("n2", "n3", "n4")] == [State.ALIVE, State.ALIVE, State.SUSPECT]
    assert table.prober.health > 0
    assert [ping.sync for _, ping in of_kind(sent(table), Ping)].count(True) == 3
    run(table, 60.0, 60.3, "n2", "n3", "n4")
    assert table.state_of("n4") == State.SUSPECT, "the time in which it did not listen does not count"


@pytest.mark.parametrize("refused", [True, False])
def test_a_stall_gives_no_more_time_to_a_process_that_is_gone(refused: bool) -> None:
    table = membership("n1", "n2", "n3", "n4")
    run(table, 0.0, 0.5, "n2", "n3", "n4")
    table.link_lost("n2:7101", 0.5)
    if refused:
        table.link_refused("n2:7101")
    table.hear([suspect("n2", "n3")], 0.5)
    table.tick(0.55)
    table.tick(0.5 + SETTINGS.link_dead_after_s)
    assert table.state_of("n2") == (State.DEAD if refused else State.SUSPECT)


def test_a_probe_under_way_when_a_node_stalls_accuses_nobody() -> None:
    table = membership("n1", "n2", "n3")
    table.tick(0.05)
    assert len(table.prober.probes) == 1
    table.tick(5.0)
    assert table.suspicions == {}


def test_a_node_in_ill_health_waits_longer_for_answers() -> None:
    table = membership("n1", "n2", "n3")
    table.prober.judge(+3)
    run(table, 0.0, 3 * PROBE_S)
    assert table.suspicions == {}
    run(table, 3 * PROBE_S, 5 * PROBE_S)
    assert table.suspicions != {}


def test_a_ping_tells_the_suspect_what_it_is_accused_of_again_and_again() -> None:
    table = membership("n1", "n2")
    table.hear([suspect("n2", "n3")], 0.0)
    for _ in range(retransmits(2)):
        table.rumours.take(2)
    sent(table)
    table.tick(0.05)
    ((_, ping),) = of_kind(sent(table), Ping)
    assert ping.rumours == [suspect("n2", "n3")]


def test_failures_against_a_suspect_say_nothing_of_oneself() -> None:
    table = membership("n1", "n2")
    run(table, 0.0, 1.5)
    assert table.state_of("n2") == State.SUSPECT
    assert table.prober.health <= 2


# Rumours


@pytest.mark.parametrize(("members", "times"), [(1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)])
def test_the_number_of_goes_follows_the_logarithm_of_the_cluster(members: int, times: int) -> None:
    assert retransmits(members) == times


def test_a_rumour_has_so_many_goes_and_no_more_and_a_newer_one_begins_anew() -> None:
    queue = RumourQueue()
    old, new = Rumour(fact("n2"), []), suspect("n2", "n3")
    queue.add(old)
    assert [queue.take(3) for _ in range(3)] == [[old]] * 3
    queue.add(new)
    assert [queue.take(3) for _ in range(6)] == [[new]] * 4 + [[]] * 2
    assert len(queue) == 0


def test_messages_are_bounded_and_the_least_told_goes_first() -> None:
    queue = RumourQueue()
    for number in range(2 * RUMOURS_PER_MESSAGE):
        queue.add(Rumour(fact(f"n{number}"), []))
    first, second = queue.take(500), queue.take(500)
    assert len(first) == len(second) == RUMOURS_PER_MESSAGE
    told = {rumour.fact.node_id for rumour in first + second}
    assert len(told) == 2 * RUMOURS_PER_MESSAGE


def test_news_is_pushed_to_a_few_and_then_told_so_often_in_all() -> None:
    members = [f"n{i}" for i in range(2, 10)]
    table = membership("n1", *members)
    table._sync_at = 1e9
    news = Rumour(fact("n99"), [])
    table.hear([news], 0.0)
    at_once = of_kind(sent(table), Gossip)
    assert len(at_once) == SETTINGS.gossip_fanout
    times = len(at_once)
    reached = {to for to, _ in at_once}
    for now in ticks(0.0, 3.0):
        table.tick(now)
        messages = sent(table)
        carried = [gossip.rumours for _, gossip in of_kind(messages, Gossip)]
        carried += [ping.rumours for _, ping in of_kind(messages, Ping)]
        times += sum(news in rumours for rumours in carried)
        for node_id, ping in of_kind(messages, Ping):
            table.on_ack(node_id, f"{node_id}:7101", Ack(ping.sequence, 0, table.digest(), []), now)
    assert times == retransmits(10) == 8
    assert len(reached) == SETTINGS.gossip_fanout, "three different ones"


def test_no_rumour_is_spent_on_a_link_that_does_not_stand() -> None:
    table = membership("n1", "n2", "n3", "n4", linked=lambda address: address == "n3:7101")
    table.merge([fact("n9")], 0.0)
    assert set(sent(table)) == {"n3:7101"}


def test_a_newcomer_does_not_tell_the_cluster_about_the_cluster() -> None:
    table = membership("n1")
    table.on_welcome("n2:7101", "n2", [fact(f"n{i}") for i in range(2, 50)], 0.0)
    told = {rumour.fact.node_id for _, gossip in of_kind(sent(table), Gossip) for rumour in gossip.rumours}
    assert told == {"n1"}


# Whole tables


def test_a_sync_brings_the_table_where_it_differs_and_the_difference_back() -> None:
    one, other = membership("n1", "n2", "n3"), membership("n2", "n1", "n4")
    one._sync_with([fact("n2")])
    ((_, ping),) = of_kind(sent(one), Ping)
    assert ping.sync
    ack = other.on_ping(ping, 0, 1.0)
    assert {rumour.fact.node_id for rumour in ack.rumours} >= {"n1", "n2", "n4"}
    one.on_ack("n2", "n2:7101", ack, 1.0)
    assert "n4" in one.members
    for to, gossip in of_kind(sent(one), Gossip):
        if to == "n2":
            other.hear(gossip.rumours, 1.0)
    assert one.digest() == other.digest()


def test_equal_tables_are_not_exchanged() -> None:
    one, other = membership("n1", "n2", "n3"), membership("n2", "n1", "n3")
    assert other.on_ping(Ping(2, "n1", one.digest(), True, []), 0, 1.0) == Ack(2, 0, other.digest(), [])


def test_tables_that_differ_for_longer_than_rumours_take_are_exchanged() -> None:
    table = membership("n1", "n2")
    table._sync_at = 1e9
    synced_at = None
    for now in ticks(0.0, 3.0):
        table.tick(now)
        for node_id, ping in of_kind(sent(table), Ping):
            if ping.sync and synced_at is None:
                synced_at = now
            table.on_ack(node_id, "n2:7101", Ack(ping.sequence, 0, b"differs!", []), now)
    assert synced_at is not None
    patience_s = SETTINGS.gossip_interval_s * retransmits(2)
    assert patience_s <= synced_at <= patience_s + 2 * SETTINGS.probe_interval_s


def test_while_news_comes_in_no_whole_table_is_asked_for() -> None:
    table = membership("n1", "n2")
    table._sync_at = 1e9
    for step, now in enumerate(ticks(0.0, 2.0)):
        table.merge([fact("n2", incarnation=BORN + step + 1)], now)
        table.tick(now)
        for node_id, ping in of_kind(sent(table), Ping):
            assert not ping.sync
            table.on_ack(node_id, "n2:7101", Ack(ping.sequence, 0, b"differs!", []), now)


# Leaving


def test_who_leaves_tells_everybody_and_is_not_brought_back_by_rumour() -> None:
    others = [f"n{i}" for i in range(2, 12)]
    table, other = membership("n1", *others), membership("n2", "n1")
    table.leave(1.0)
    farewells = of_kind(sent(table), Gossip)
    assert {to for to, _ in farewells} == set(others)
    other.hear(farewells[0][1].rumours, 1.0)
    assert other.state_of("n1") == State.LEFT
    assert other.died == [], "left is not dead"
    other.merge([fact("n1")], 2.0)
    other.merge([fact("n1", state=State.DEAD, incarnation=table.own.incarnation)], 2.0)
    assert other.state_of("n1") == State.LEFT
    table.merge([fact("n1", state=State.SUSPECT, incarnation=next_life(next_life(BORN)))], 2.0)
    assert table.own.state == State.LEFT, "who has left refutes nothing"
    table.tick(2.0)
    assert sent(table) == {}, "nor does it probe"
    other.merge([fact("n1", incarnation=next_life(BORN), boot=2)], 3.0)
    assert other.state_of("n1") == State.ALIVE, "its next process is welcome"


# The right to serve


def test_a_lease_is_held_by_a_majority_of_answers_and_counts_from_the_questions() -> None:
    majority = Majority(0.6, 0.0)
    members = ["n1", "n2", "n3", "n4"]
    assert majority.held("n1", ["n1"], 0.0)
    for number, at in ((1, 0.1), (2, 0.2)):
        majority.ask(number, at)
    majority.answer("n2", 1)
    assert not majority.held("n1", members, 0.3), "half is no majority"
    majority.answer("n3", 2)
    majority.answer("n3", 2)
    assert majority.held("n1", members, 0.65)
    assert not majority.held("n1", members, 0.75), "that of the first question is over"
    majority.ask(3, 0.8)
    assert majority.due(0.8)
    majority.due(2.0)
    majority.answer("n2", 3)
    assert not majority.held("n1", ["n1", "n2"], 2.0), "an answer to a question long ago"


def test_under_a_lease_everybody_is_asked_all_the_time() -> None:
    members = [f"n{i}" for i in range(2, 12)]
    majority = Majority(0.6, 0.0)
    table = membership("n1", *members, majority=majority)
    run(table, 0.0, 3.0, *members)
    everybody = ["n1", *members]
    assert majority.held("n1", everybody, 3.0)
    run(table, 3.0, 3.8, *members[:4])
    assert not majority.held("n1", everybody, 3.8)


# Many at once


def worst(swarm: Swarm) -> State:
    """What the worst is that any running member thinks of any other."""
    return max(other.membership.state_of(peer.name) for peer in swarm.peers for other in swarm.running())


def test_the_traffic_of_a_node_does_not_grow_with_the_cluster() -> None:
    small, large = measure(8), measure(120)
    assert large.frames_per_s < small.frames_per_s * 1.2
    assert large.bytes_per_s < small.bytes_per_s * 1.2
    assert large.death_bytes < small.death_bytes * 2
    for figures in (small, large):
        assert figures.join_s < 1
        assert figures.kill_s < 1
    assert small.silent_s < 3


@pytest.mark.parametrize("nodes", [3, 4, 6, 16])
def test_who_pauses_for_less_than_a_second_is_not_removed(nodes: int) -> None:
    swarm = Swarm(nodes)
    for number in range(12):
        peer = swarm.peers[number % nodes]
        peer.paused = True
        swarm.run(0.95)
        peer.resume()
        assert worst(swarm) <= State.SUSPECT
        swarm.run(0.3)
        assert worst(swarm) == State.ALIVE


def test_a_silent_member_is_known_to_all_within_three_seconds() -> None:
    for nodes, seed in itertools.product((2, 3, 5, 10), range(3)):
        swarm = Swarm(nodes, seed=seed)
        swarm.run(2.0 + 0.1 * seed)
        swarm.vanish(swarm.peers[1])
        assert swarm.until_all_think(swarm.peers[1], State.DEAD) < 3.0, (nodes, seed)


def test_slow_nodes_accuse_nobody() -> None:
    swarm = Swarm(5, tick_s=0.3)
    for _ in range(100):
        swarm.run(0.2)
        assert worst(swarm) == State.ALIVE


def test_a_network_that_loses_a_tenth_removes_nobody_and_still_finds_the_dead() -> None:
    swarm = Swarm(12, loss=0.1)
    for _ in range(300):
        swarm.run(0.1)
        assert worst(swarm) <= State.SUSPECT
    swarm.vanish(swarm.peers[3])
    assert swarm.until_all_think(swarm.peers[3], State.DEAD) < 8.0
    assert all(peer.membership.state_of("node0004") <= State.SUSPECT for peer in swarm.running())


def test_several_killed_at_once_are_known_soon() -> None:
    swarm = Swarm(10)
    swarm.run(1.0)
    for peer in swarm.peers[:4]:
        swarm.kill(peer)
    for peer in swarm.peers[:4]:
        assert swarm.until_all_think(peer, State.DEAD) < 1.0
    assert all(peer.membership.count() == 6 for peer in swarm.running())
