"""One node, without its sockets, and what strangers tell it: it serves on, and believes what can be true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lone_node import GRACE_MS, STRANGER, Lone, Pair, fact, gossip, record

from meshcache.core.failures import LOG_EVERY_S
from meshcache.core.handshake import SLOW_SEED_S
from meshcache.core.invariants import InvariantBroken
from meshcache.core.membership.members import State, first_incarnation, latest_incarnation, next_life
from meshcache.core.membership.newcomers import GATHER_S, TRIAL_S, TRIALS_MAX, WAITING_MAX
from meshcache.core.operations.fill_leases import STUCK_S
from meshcache.core.operations.reads import QuorumRead
from meshcache.core.operations.surroundings import Readers
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.facts import BOOT_MAX, FACTS_MAX, INCARNATION_MAX
from meshcache.protocol.messages import Code
from meshcache.protocol.record import NEVER_MS, Extras, expires_ms_of, stamp, tombstone, with_extras
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS


@pytest.fixture
def lone() -> Lone:
    return Lone()


# What is said of this node


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD, State.LEFT])
@pytest.mark.parametrize("incarnation", [INCARNATION_MAX, 1 << 50, first_incarnation(EPOCH_MS + 3_600_000)])
def test_what_is_said_of_a_node_from_the_future_is_not_believed(lone: Lone, state: State, incarnation: int) -> None:
    own = lone.core.membership.own
    for _ in range(3):
        lone.tell(gossip(own._replace(state=int(state), incarnation=incarnation)))
    assert lone.core.membership.own == own
    assert lone.core.ready
    assert lone.stats()["membership"]["facts_refused"] == 3


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD, State.LEFT])
def test_what_is_said_of_a_node_at_the_bound_can_be_refuted_again_and_again(lone: Lone, state: State) -> None:
    for _ in range(50):
        said = latest_incarnation(lone.wall_ms)
        (answer,) = lone.tell(gossip(lone.core.membership.own._replace(state=int(state), incarnation=said)))
        assert isinstance(answer, m.Gossip)
        refuted = answer.rumours[0].fact
        assert refuted.state == State.ALIVE
        assert refuted.incarnation > said
        lone.wait(0.1)
        assert refuted.incarnation <= latest_incarnation(lone.wall_ms), "others believe it a moment later"
        assert lone.core.ready


def test_a_node_that_starts_anew_comes_back_from_a_death_at_the_bound() -> None:
    lone = Lone("127.0.0.1:7102")
    said = lone.core.membership.own._replace(state=int(State.DEAD), boot=1, incarnation=latest_incarnation(EPOCH_MS))
    lone.welcome(fact("n2", "127.0.0.1:7102"), said)
    assert lone.core.membership.own.state == State.ALIVE
    assert lone.core.membership.own.incarnation >= next_life(said.incarnation)
    assert not lone.core.membership.removed


def test_a_boot_from_the_future_is_only_a_name(lone: Lone) -> None:
    own = lone.core.membership.own
    lone.tell(gossip(own._replace(boot=BOOT_MAX, state=int(State.DEAD), incarnation=own.incarnation + 1)))
    assert lone.core.membership.own.boot == own.boot
    assert lone.core.membership.own.state == State.ALIVE
    assert lone.set(b"k", b"v")


# Who is said to be a member


def test_who_has_not_answered_owns_nothing_and_is_not_passed_on(lone: Lone) -> None:
    lone.tell(gossip(fact("n2")))
    lone.wait(TRIAL_S / 2)
    assert lone.members() == ["n1"]
    assert lone.core.view.ring.members[0].node_id == "n1"
    assert list(lone.dialled) == [fact("n2").address]
    lone.wait(TRIAL_S)
    assert lone.members() == ["n1"]
    assert lone.dialled == {}, "the trial is over"
    assert lone.stats()["membership"]["newcomers_given_up"] == 1


def test_who_answers_at_its_address_becomes_a_member(lone: Lone) -> None:
    lone.tell(gossip(fact("n2")))
    lone.welcome(fact("n2"))
    lone.turn()
    assert lone.members() == ["n1", "n2"]
    assert [member.node_id for member in lone.core.view.ring.members] == ["n1", "n2"]


def test_who_answers_under_another_name_is_not_the_one_who_was_said_to_be_there(lone: Lone) -> None:
    lone.tell(gossip(*[fact(f"n{i}", "127.0.0.2:7000") for i in range(2, 52)]))
    lone.welcome(fact("n9", "127.0.0.2:7000"))
    lone.wait(GATHER_S)
    assert lone.members() == ["n1", "n9"]


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_who_was_gone_must_answer_again(lone: Lone, state: State) -> None:
    two = fact("n2")
    lone.tell(gossip(two))
    lone.welcome(two)
    lone.tell(gossip(two._replace(state=int(state))))
    lone.turn()
    risen = two._replace(incarnation=next_life(two.incarnation))
    lone.core.link_down(two.address, lone.now)
    lone.tell(gossip(risen))
    assert lone.members() == ["n1"]
    lone.welcome(risen)
    assert lone.members() == ["n1", "n2"]


def test_who_is_said_to_have_moved_must_answer_there(lone: Lone) -> None:
    two = fact("n2")
    lone.tell(gossip(two))
    lone.welcome(two)
    lone.tell(gossip(two._replace(address="127.0.0.9:9", incarnation=two.incarnation + 256)))
    assert lone.core.membership.members["n2"].fact.address == two.address
    assert "127.0.0.9:9" in lone.dialled


def test_of_hundreds_who_are_said_to_be_there_a_few_are_dialled_at_a_time(lone: Lone) -> None:
    crowd = [fact(f"n{i}", f"127.0.{i // 250}.{i % 250 + 1}:9") for i in range(2, FACTS_MAX + 1)]
    lone.tell(gossip(*crowd))
    lone.tell(gossip(*[one._replace(node_id=f"m{i}") for i, one in enumerate(crowd)]))
    assert len(lone.core.membership.newcomers) <= WAITING_MAX
    for _ in range(100):
        lone.turn(0.05)
        assert len(lone.dialled) <= TRIALS_MAX
        assert len(lone.core.peers.links) <= TRIALS_MAX
    assert lone.members() == ["n1"]
    assert lone.set(b"k", b"v")


def test_who_introduces_itself_is_tried_before_those_who_are_hearsay(lone: Lone) -> None:
    lone.tell(gossip(*[fact(f"n{i}", f"127.0.0.3:{i}") for i in range(2, WAITING_MAX + 2)]))
    lone.tell(m.Hello(m.PROTOCOL, "meshcache", fact("n2000"), b""), origin=b"n2000")
    lone.wait(TRIAL_S)
    assert fact("n2000").address in lone.dialled
    lone.welcome(fact("n2000"))
    lone.wait(GATHER_S)
    assert lone.members() == ["n1", "n2000"]


def test_one_connection_introduces_one_newcomer_at_a_time(lone: Lone) -> None:
    for i in range(2, 400):
        lone.core.receive_request(
            STRANGER, encode_frame(0, [m.Hello(m.PROTOCOL, "meshcache", fact(f"n{i}"), b"")]), lone.now
        )
    assert len(lone.core.membership.newcomers) == 1


def test_many_who_answer_at_once_make_one_new_ring(lone: Lone) -> None:
    crowd = [fact(f"n{i}") for i in range(2, 12)]
    lone.tell(gossip(*crowd))
    before = lone.core.counters.ring_changes
    for one in crowd:
        lone.welcome(one)
    lone.wait(GATHER_S)
    assert len(lone.members()) == 11
    assert lone.core.counters.ring_changes == before + 1


def test_no_more_are_dialled_than_the_driver_can_open() -> None:
    lone = Lone(wiring={"links_max": 3})
    lone.tell(gossip(*[fact(f"n{i}") for i in range(2, 20)]))
    lone.wait(0.2)
    assert len(lone.dialled) == 3


def test_a_member_count_has_an_end(lone: Lone) -> None:
    table = lone.core.membership
    for i in range(2, FACTS_MAX + 50):
        table.take(fact(f"n{i}"), lone.now)
    assert len(table.members) == FACTS_MAX
    table.take(fact("n5", state=int(State.DEAD)), lone.now)
    assert table.take(fact("n5000"), lone.now), "in place of one that is gone"
    assert len(table.members) == FACTS_MAX


def test_only_a_seed_can_stop_a_node_and_only_before_it_has_joined() -> None:
    lone = Lone("127.0.0.1:7102")
    lone.tell(gossip(fact("n3")))
    lone.core.link_up(fact("n3").address, lone.now)
    lone.answer(fact("n3").address, m.Refused("id", "go away"))
    assert lone.core.fatal is None
    lone.answer(fact("n3").address, m.Welcome(1, 1, "n3", {"slots": 8}, []))
    assert lone.core.fatal is None
    lone.answer("127.0.0.1:7102", m.Refused("id", "it is taken"))
    assert lone.core.fatal is not None
    assert "it is taken" in lone.core.fatal


def begun_alone() -> Lone:
    """Return a node whose seed did not answer in time."""
    lone = Lone("127.0.0.1:7102")
    assert not lone.core.ready
    lone.wait(lone.core.config.membership.join_wait_s + 0.2)
    assert lone.core.ready
    assert lone.core.fatal is None
    return lone


@pytest.mark.parametrize("denied", [True, False])
def test_a_seed_that_is_slow_to_refuse_stops_a_node_that_has_begun_alone(*, denied: bool) -> None:
    lone = begun_alone()
    if denied:
        lone.core.link_denied("127.0.0.1:7102", "the node refuses this key")
    else:
        lone.core.link_up("127.0.0.1:7102", lone.now)
        lone.answer("127.0.0.1:7102", m.Refused("cluster", "this node refuses this one"))
    assert "refuse" in str(lone.core.fatal)


@pytest.mark.parametrize("denied", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_a_node_that_is_part_of_a_mesh_or_has_been_alone_for_long_goes_on(*, denied: bool, joined: bool) -> None:
    lone = begun_alone()
    if joined:
        lone.tell(gossip(fact("n3")))
        lone.wait(0.2)
        lone.welcome(fact("n3"))
        assert lone.members() == ["n1", "n3"]
    else:
        lone.wait(SLOW_SEED_S)
    if denied:
        lone.core.link_denied("127.0.0.1:7102", "the node refuses this key")
    else:
        lone.core.link_up("127.0.0.1:7102", lone.now)
        lone.answer("127.0.0.1:7102", m.Refused("cluster", "this node refuses this one"))
    assert lone.core.fatal is None
    assert lone.core.ready


def test_who_is_dialled_before_a_seed_answers_serves_nothing_until_it_knows_the_mesh() -> None:
    """It heard of a mesh of three, and knew itself alone to be there: what it then was told to drop, others kept."""
    lone = Lone("127.0.0.1:7999")
    first, *others = fact("n2"), fact("n3"), fact("n4")
    lone.tell(m.Hello(m.PROTOCOL, "meshcache", first, b""), origin=b"n2")
    lone.welcome(first, *others)
    assert not lone.core.ready
    lone.wait(0.3)
    assert not lone.core.ready, "those that it was told of are on trial"
    for other in others:
        lone.welcome(other, first, *others)
    lone.wait(0.5)
    assert lone.core.ready
    assert lone.members() == ["n1", "n2", "n3", "n4"]
    assert len(lone.core.view.ring.members) == 4


def test_who_is_told_of_members_that_do_not_answer_joins_all_the_same() -> None:
    lone = Lone("127.0.0.1:7999")
    first = fact("n2")
    lone.tell(m.Hello(m.PROTOCOL, "meshcache", first, b""), origin=b"n2")
    lone.welcome(first, fact("n3"), fact("n4"))
    lone.wait(1.0)
    assert not lone.core.ready
    lone.wait(1.5)
    assert lone.core.ready


def test_a_node_takes_over_the_members_of_the_seed_by_which_it_joins_and_of_nobody_else() -> None:
    lone = Lone("127.0.0.1:7102")
    lone.welcome(fact("n2", "127.0.0.1:7102"), fact("n3"))
    assert lone.members() == ["n1", "n2", "n3"]
    lone.core.link_down("127.0.0.1:7102", lone.now)
    lone.welcome(fact("n2", "127.0.0.1:7102"), fact("n3"), fact("n4"))
    assert lone.members() == ["n1", "n2", "n3"]


# Versions


def late_versions(now_ms: int) -> list[bytes]:
    hour = (now_ms + 3_600_000) << 16
    just = (now_ms + LEAD_MS_MAX + 1) << 16
    return [b"\xff" * 16, hour.to_bytes(8, "big") + bytes(8), just.to_bytes(8, "big") + bytes(8)]


def at_the_bound(now_ms: int) -> bytes:
    return ((now_ms + LEAD_MS_MAX << 16) | 0xFFFF).to_bytes(8, "big") + b"\xff" * 8


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("repair", [False, True])
def test_no_write_makes_a_key_immortal(lone: Lone, which: int, repair: bool) -> None:
    version = late_versions(lone.wall_ms)[which]
    lone.set(b"k", b"before")
    lone.tell(m.Write(*lone.head(), repair, [b"k", b"new"], [record(version), record(version)]))
    assert (lone.get(b"k"), lone.get(b"new")) == (b"before", None)
    assert lone.set(b"k", b"after")
    assert lone.get(b"k") == b"after"
    assert lone.stats()["node"]["clock_refused"] == 1
    assert lone.core.clock.latest >> 16 < lone.wall_ms + LEAD_MS_MAX


def test_a_write_within_the_allowed_lead_is_stored_and_can_be_overruled(lone: Lone) -> None:
    version = at_the_bound(lone.wall_ms)
    (reply,) = lone.tell(m.Write(*lone.head(), False, [b"k"], [record(version)]))
    assert isinstance(reply, m.WriteReply)
    assert lone.get(b"k") == b"planted"
    assert lone.stats()["node"]["clock_refused"] == 0
    lone.wait(LEAD_MS_MAX / 1000 + 0.1)
    assert lone.set(b"k", b"after")
    assert lone.get(b"k") == b"after"


def test_what_a_repair_brings_is_stored_but_for_what_cannot_be(lone: Lone) -> None:
    good, late = (lone.wall_ms << 16).to_bytes(8, "big") + bytes(8), late_versions(lone.wall_ms)[0]
    (reply,) = lone.tell(m.Write(*lone.head(), True, [b"a", b"b"], [record(good), record(late)]))
    assert isinstance(reply, m.WriteReply)
    assert (lone.get(b"a"), lone.get(b"b")) == (b"planted", None)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("kind", [m.Sweep, m.SweepTags])
def test_no_drop_from_the_future_is_begun(lone: Lone, which: int, kind: Any) -> None:
    version = late_versions(lone.wall_ms)[which]
    lone.set(b"k", b"before")
    assert lone.tell(kind(*lone.head(), version, b"" if kind is m.Sweep else [b"t"])) == []
    lone.wait(0.2)
    assert lone.get(b"k") == b"before"
    assert len(lone.core.coordinator.replica.floors) == 0
    assert lone.set(b"k", b"after")


def test_a_tombstone_is_kept_for_the_grace_at_most(lone: Lone) -> None:
    version = (lone.wall_ms << 16).to_bytes(8, "big") + bytes(8)
    lone.tell(m.Write(*lone.head(), False, [b"k"], [tombstone(version, NEVER_MS)]))
    held = lone.core.store.peek(b"k")
    assert held is not None
    assert expires_ms_of(held) <= lone.wall_ms + GRACE_MS + LEAD_MS_MAX


@pytest.mark.parametrize("which", range(3))
def test_no_answer_of_a_replica_wins_with_a_version_from_the_future(which: int) -> None:
    pair = Pair()
    late = late_versions(pair.lone.wall_ms)[which]
    read = pair.request(m.Get(*pair.lone.head(), 2, 0, False, [b"k"]), m.Read)
    (reply,) = pair.play(m.ReadReply(read.request, b"", [record(late)], []))
    assert isinstance(reply, m.Reply)
    assert reply.results == [None]
    assert pair.lone.core.store.peek(b"k") is None
    assert pair.lone.core.clock.latest >> 16 < pair.lone.wall_ms + LEAD_MS_MAX


@pytest.mark.parametrize("which", range(3))
def test_no_page_of_a_slot_brings_a_version_from_the_future(which: int) -> None:
    pair = Pair(joins=True)
    core = pair.lone.core
    late, good = late_versions(pair.lone.wall_ms)[which], (EPOCH_MS << 16).to_bytes(8, "big") + bytes(8)
    movement = core.coordinator.pending.background["movement"]
    pair.play(m.FloorsReply(pair.asked_for(m.Floors).request, b"", b"", [m.Floor(4, b"", late)]))
    assert len(core.coordinator.replica.floors) == 0
    pull = pair.asked_for(m.Pull)
    late = late_versions(pair.lone.wall_ms)[which]
    pair.play(m.PullReply(pull.request, b"", len(pull.slots), b"", [b"a", b"b"], [record(late), record(good)]))
    assert core.store.peek(b"a") is None
    assert core.store.peek(b"b") == record(good)
    assert movement.statistics()["slots_missing"] == 0


def test_no_comparison_has_a_node_fetch_a_version_from_the_future() -> None:
    pair = Pair()
    core = pair.lone.core
    late = late_versions(pair.lone.wall_ms)[0]
    synced = pair.peer._replace(synced=core.view.digest, incarnation=pair.peer.incarnation + 1)
    pair.play(gossip(synced))
    anti_entropy = core.coordinator.pending.background["anti_entropy"]
    compare = pair.asked_for(m.Compare)
    effects = pair.lone.answer(
        pair.peer.address, m.CompareReply(compare.request, b"", compare.slots[:1], [b"a"], [late])
    )
    assert not [one for one in pair.asked(effects) if isinstance(one, m.Read)]
    assert anti_entropy.statistics()["fetched"] == 0


def test_a_replica_that_claims_to_hold_newer_from_the_future_moves_no_clock() -> None:
    pair = Pair(read_quorum=1)
    write = pair.request(m.Set(*pair.lone.head(), 2, 0, [b"k"], [b"\0\0v"]), m.Write)
    pair.play(m.WriteReply(write.request, b"", [[0, b"\xff" * 16], [-1, b"\xff" * 16], [1 << 40, b"\xff" * 16]], []))
    assert pair.lone.core.clock.latest >> 16 < pair.lone.wall_ms + LEAD_MS_MAX
    pair.lone.wait(0.2)
    assert pair.lone.core.ready


def test_other_nodes_are_asked_for_no_more_than_a_reply_has_room_for() -> None:
    pair = Pair()
    keys = [b"k%d" % i for i in range(20)]
    large = pair.store_large(keys)
    few = pair.lone.core.config.limits.reply_bytes_max // len(large)

    def ask() -> int:
        """Have a client ask for all keys; return for how many the peer was asked."""
        pair.get(keys)
        reads = pair.reads()
        replies = pair.play(*[m.ReadReply(read.request, b"", [large] * len(read.keys), []) for read in reads])
        (reply,) = [one for one in replies if isinstance(one, m.Reply)]
        assert reply.results == [large] * few + [[int(Code.MORE)]] * (len(keys) - few)
        return sum(len(read.keys) for read in reads)

    assert ask() == len(keys), "of a new connection nobody knows how much a key brings"
    for _ in range(10):
        assert ask() == few


class Deaf(Readers):
    """Connections that read, until it is told of one that it does not."""

    def __init__(self) -> None:
        self.deaf: set[bytes] = set()


def test_what_waits_of_a_connection_that_became_deaf_is_dropped_without_reading_it() -> None:
    pair, readers = Pair(), Deaf()
    pair.lone.core.heed(readers)
    for _ in range(4):  # one runs, the others wait
        assert not pair.get([b"k%d" % i for i in range(32)])
    reads = pair.reads()
    readers.deaf.add(b"client")
    effects = pair.lone.answer(pair.peer.address, *[m.ReadReply(one.request, b"", [None] * 32, []) for one in reads])
    replies = [one for one in pair.lone.answers(effects) if isinstance(one, m.Reply)]
    assert [reply.results for reply in replies].count([[int(Code.OVERLOADED)]] * 32) == 3
    assert not [one for one in pair.asked(effects) if isinstance(one, m.Read)]
    assert not pair.lone.core.coordinator.pending.running


def test_a_connection_that_asks_for_more_than_can_be_read_ends_the_turn() -> None:
    pair = Pair()
    keys = [b"k%d" % i for i in range(20)]
    large = pair.store_large(keys)
    assert not pair.get(keys)
    pair.play(*[m.ReadReply(read.request, b"", [large] * len(read.keys), []) for read in pair.reads()])
    asked = [pair.get(keys) for _ in range(15)]
    assert asked == sorted(asked), "what has room does not end it"
    assert asked[-1]
    assert not asked[1]
    assert not pair.get(keys, origin=b"another")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (m.Get, (0, 0, False, [])),
        (m.Set, (0, m.TTL_NEVER, [], [])),
        (m.Delete, (0, int(m.EventKind.DELETE), [])),
        (m.Update, (0, 0, 0, [], [])),
    ],
)
def test_who_asks_for_no_keys_is_answered(lone: Lone, kind: Any, fields: tuple[Any, ...]) -> None:
    (reply,) = lone.tell(kind(*lone.head(), *fields))
    assert isinstance(reply, m.Reply)
    assert not reply.results
    assert not lone.core.counters.failed


# What fails, fails alone


def test_a_request_whose_handling_fails_is_dropped_and_told_once_in_a_while(
    lone: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    lone.set(b"k", b"v")
    store_read = lone.core.store.read

    def stumble(keys: list[bytes], now_bytes: bytes) -> list[bytes | None]:
        if b"stumble" in keys:
            raise KeyError("a bug")
        return store_read(keys, now_bytes)

    monkeypatch.setattr(lone.core.store, "read", stumble)
    bad = m.Get(*lone.head(), 0, 0, False, [b"stumble"])
    for _ in range(5):
        answers = lone.tell(bad, m.Get(*lone.head(), 0, 0, False, [b"k"]))
        assert len(answers) == 1, "the other one in the frame is answered"
    told = [fields for event, fields in lone.notes if event == "failed"]
    assert len(told) == 1
    assert (told[0]["kind"], told[0]["origin"]) == ("Get", STRANGER.hex())
    assert "KeyError: 'a bug'" in str(told[0]["error"])
    assert "test_hostile.py:" in str(told[0]["at"])
    lone.turn(LOG_EVERY_S)
    lone.tell(m.Get(*lone.head(), 0, 0, False, [b"stumble"]))
    told = [fields for event, fields in lone.notes if event == "failed"]
    assert [fields["more"] for fields in told] == [0, 4]
    assert lone.stats()["node"]["failed"] == {"Get": 6}
    assert lone.get(b"k") == b"v"


def test_an_answer_whose_handling_fails_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    monkeypatch.setattr(pair.lone.core.membership, "on_ack", lambda *_: 1 // 0)
    pair.play(m.Ack(1, 1, b"", []))
    assert pair.lone.stats()["node"]["failed"] == {"Ack": 1}


def test_an_answer_that_cannot_be_encoded_spoils_no_other(lone: Lone) -> None:
    outbox = lone.core.outbox
    outbox.reply(b"one", m.Reply(1, b"", [1 << 70]))
    outbox.reply(b"one", m.Reply(2, b"", [2]))
    outbox.reply(b"two", m.Reply(3, b"", [object()]))
    outbox.reply(b"two", m.Reply(4, b"", [4]))
    outbox.send("127.0.0.2:7000", m.Ping(1 << 64, "n1", b"", False, []))
    effects = lone.turn()
    assert [message[0] for _, frame in effects.replies for message in decode_frame(frame)[1]] == [2, 4]
    assert effects.sends == []
    assert lone.core.counters.failed == {"encoding Reply": 2, "encoding Ping": 1}


def test_an_operation_whose_turn_fails_ends_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    coordinator = pair.lone.core.coordinator
    pair.request(m.Get(*pair.lone.head(), 2, 0, False, [b"a"]), m.Read)
    pair.request(m.Get(*pair.lone.head(), 2, 0, False, [b"b"]), m.Read)
    first, second = coordinator.pending.running
    monkeypatch.setattr(first, "replan", lambda: 1 // 0)
    monkeypatch.setattr(second, "on_timer", lambda: 1 // 0)
    coordinator.pending.replan()
    assert list(coordinator.pending.running) == [second]
    pair.lone.wait(6.0)
    assert list(coordinator.pending.running) == []
    assert pair.lone.core.counters.failed == {"QuorumRead": 2}


def test_a_key_is_not_left_locked_by_an_update_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(replicas=2, write_quorum=1, read_quorum=2)
    coordinator, key = pair.lone.core.coordinator, b"k"
    while coordinator.view.ring.preference_list(key)[0] != "n1":
        key += b"k"
    update = m.Update(*pair.lone.head(), 1, 2, 0, [key], [[int(m.Change.INCR), 1, 0, 0]])
    read = pair.request(update, m.Read)
    with monkeypatch.context() as broken:
        broken.setattr("meshcache.core.operations.updates.compute", lambda *_: 1 // 0)
        pair.play(m.ReadReply(read.request, b"", [None], []))
    assert pair.lone.core.counters.failed == {"ReadReply": 1}
    again = pair.request(update._replace(request=pair.lone.head()[0]), m.Read)
    (reply,) = [r for r in pair.play(m.ReadReply(again.request, b"", [None], [])) if isinstance(r, m.Reply)]
    assert reply.results == [1]


def test_a_fill_lease_is_not_left_waiting_for_a_read_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    coordinator, key = pair.lone.core.coordinator, b"k"
    while coordinator.view.ring.preference_list(key)[0] != "n1":
        key += b"k"
    lease = m.Update(*pair.lone.head(), 0, 0, 0, [key], [[int(m.Change.LEASE), 1000, b"", b"me"]])
    pair.request(lease, m.Read)
    (read,) = [operation for operation in coordinator.pending.running if isinstance(operation, QuorumRead)]
    monkeypatch.setattr(read, "on_timer", lambda: 1 // 0)
    pair.lone.wait(STUCK_S + 6.0)
    assert pair.lone.core.fills.table == {}
    assert pair.lone.core.counters.failed == {"QuorumRead": 1}


def test_a_broken_invariant_stops_the_node(lone: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone.core.membership, "on_gossip", lambda *_: 1 // 0)
    lone.tell(gossip(fact("n2")))
    lone.core.membership._digest ^= 1
    with pytest.raises(InvariantBroken, match="digest of the members"):
        lone.tell(gossip(fact("n2")))


def test_what_a_handler_left_half_done_in_the_store_stops_the_node(lone: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone.core.store.tags, "add", lambda *_: 1 // 0)
    version = (lone.wall_ms << 16).to_bytes(8, "big") + bytes(8)
    tagged = stamp(version, lone.wall_ms + 1000) + with_extras(b"\0\1v", Extras((b"t",)))
    with pytest.raises(InvariantBroken, match="the store has"):
        lone.tell(m.Write(*lone.head(), False, [b"k"], [tagged]))


def test_a_failed_assertion_is_not_taken_for_a_failed_message(lone: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("a contradiction")

    monkeypatch.setattr(lone.core.membership, "on_gossip", broken)
    with pytest.raises(AssertionError, match="a contradiction"):
        lone.tell(gossip(fact("n2")))


def test_kinds_of_failures_have_an_end(lone: Lone) -> None:
    for i in range(1000):
        lone.core.fail(f"kind {i}", "", ValueError("x"))
    assert len(lone.core.counters.failed) < 300
    assert sum(lone.core.counters.failed.values()) == 1000


# Answers that nobody asked for


@pytest.mark.parametrize(
    "answer",
    [
        lambda number: m.WriteReply(number, b"", [], []),
        lambda number: m.PullReply(number, b"", 1, b"", [], []),
        lambda number: m.CompareReply(number, b"", [], [], []),
        lambda number: m.FloorsReply(number, b"", b"", []),
        lambda number: m.SweepReply(number, b"", 0, False),
        lambda number: m.Reply(number, b"", [None]),
    ],
)
def test_an_answer_of_another_kind_is_none(answer: Callable[[int], m.Message]) -> None:
    pair = Pair()
    read = pair.request(m.Get(*pair.lone.head(), 2, 0, False, [b"k"]), m.Read)
    assert pair.play(answer(read.request)) == []
    (reply,) = pair.play(m.ReadReply(read.request, b"", [None], []))
    assert isinstance(reply, m.Reply)
    stats = pair.lone.stats()["node"]
    assert (stats["malformed"], stats["failed"]) == (1, {})


def test_an_answer_behind_one_that_closed_the_link_is_none(lone: Lone) -> None:
    """As when somebody answers under another name than the newcomer's, and answers more in the same frame."""
    two = fact("n2")
    lone.tell(gossip(two))
    lone.core.link_up(two.address, lone.now)
    lone.turn()
    settings: dict[str, int | float | str] = {"slots": 64, "vnodes": 8, "replicas": 1}
    gone = two._replace(state=int(State.DEAD), incarnation=next_life(two.incarnation))
    others = m.Welcome(5, lone.wall_ms, "n9", settings, [gone])
    lone.answer(two.address, others, m.Reply(1, b"", None), m.Ack(1, 1, b"", []), m.SweepReply(1, b"", 0, False))
    assert lone.core.counters.failed == {}
    assert two.address not in lone.core.peers.links


def test_an_answer_of_another_node_is_none() -> None:
    pair = Pair()
    read = pair.request(m.Get(*pair.lone.head(), 2, 0, False, [b"k"]), m.Read)
    other = fact("n3")
    pair.lone.tell(m.Hello(m.PROTOCOL, "meshcache", other, b""))
    pair.lone.core.link_up(other.address, pair.lone.now)
    settings: dict[str, int | float | str] = {"slots": 64, "vnodes": 8, "replicas": 2}
    pair.lone.answer(other.address, m.Welcome(other.boot, pair.lone.wall_ms, "n3", settings, []))
    planted = record((EPOCH_MS << 16).to_bytes(8, "big") + bytes(8))
    effects = pair.lone.answer(other.address, m.ReadReply(read.request, b"", [planted], []))
    assert pair.lone.answers(effects) == []
    assert pair.lone.core.store.peek(b"k") is None


def test_a_replica_that_answers_nothing_is_not_asked_for_it_for_ever() -> None:
    pair = Pair()
    asked = pair.request(m.Get(*pair.lone.head(), 2, 0, False, [b"k"]), m.Read)
    for _ in range(100):
        again = [
            one
            for one in pair.asked(pair.lone.answer(pair.peer.address, m.ReadReply(asked.request, b"", [], [])))
            if isinstance(one, m.Read)
        ]
        if not again:
            break
        (asked,) = again
    assert not again


@pytest.mark.parametrize("key", [b"", b"k" * (m.KEY_BYTES_MAX + 1)], ids=["empty", "too long"])
def test_a_key_that_cannot_be_written_is_not_repaired(key: bytes) -> None:
    """Nobody would take a page of a slot with such a key in it, and so nobody could join any more."""
    pair = Pair(read_quorum=1)
    read = pair.request(m.Get(*pair.lone.head(), 0, 0, False, [key]), m.Read)
    planted = record((EPOCH_MS << 16).to_bytes(8, "big") + bytes(8))
    pair.play(m.ReadReply(read.request, b"", [planted], []))
    assert pair.lone.core.store.peek(key) is None


# Who has a node leave


def test_who_is_asked_to_leave_says_so_loudly() -> None:
    lone = Lone("127.0.0.1:7102", wiring={"supervised": True})
    lone.welcome(fact("n2", "127.0.0.1:7102"))
    lone.wait(0.1)
    lone.tell(m.Leave(*lone.head()))
    told = [fields for event, fields in lone.notes if event == "asked_to_leave"]
    assert told == [{"origin": STRANGER.hex(), "by": "a request", "supervised": True}]
    (reply,) = lone.tell(m.Inspect(*lone.head(), "status", b""), origin=b"client")
    assert isinstance(reply, m.Reply)
    assert reply.results is not None
    assert reply.results[0]["leave_asked_by"] == STRANGER.hex()


def test_a_node_that_its_own_process_has_leave_accuses_nobody() -> None:
    lone = Lone("127.0.0.1:7102")
    lone.welcome(fact("n2", "127.0.0.1:7102"))
    lone.core.retire(lone.now)
    lone.turn()
    assert "asked_to_leave" not in [event for event, _ in lone.notes]


def test_a_large_reply_ends_the_turn_and_one_value_of_half_a_megabyte_does_not(lone: Lone) -> None:
    keys = [b"k%d" % number for number in range(8)]
    for key in keys:
        assert lone.set(key, bytes(500_000))
    assert lone.set(b"long", bytes(1_000_000))

    def ends_the_turn(*names: bytes) -> bool:
        get = m.Get(*lone.head(), m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, False, list(names))
        ended = lone.core.receive_request(b"client", encode_frame(0, [get]), lone.now)
        assert lone.turn().replies
        return ended

    assert ends_the_turn(*keys)
    assert ends_the_turn(b"long")
    assert not ends_the_turn(keys[0])
