"""Never something older: after members were lost, removed, and came back."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from story import DEFAULT, STRICT, Story

from meshcache.core.membership.members import State, keeps
from meshcache.core.operations.replica_requests import EARLY_S
from meshcache.core.storage.choice import store_class
from meshcache.core.storage.store import SETTLE_MS, Store
from meshcache.core.view import View
from meshcache.errors import MeshcacheError
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Fact
from meshcache.protocol.record import NEVER_MS, expiry_bytes, stamp
from meshcache.protocol.ring import Ring, RingMember
from meshcache.protocol.wire import decode_frame, encode_frame

MAJORITY_ONLY = {"partition_policy": "strict"}
ONE = {"replicas": 1, "write_quorum": 1, "read_quorum": 1, "slots": 16, "vnodes": 8}
KEYS = [f"key:{i}" for i in range(60)]


def write(story: Story, value: str, keys: list[str], at: str) -> list[str]:
    """Set keys through one node; return those that were acknowledged."""
    client, done = story.at(story.node(at)), []
    for key in keys:
        try:
            story.set(key, value, client, timeout=0.3)
        except MeshcacheError:
            continue
        done.append(key)
    return done


def members_of(story: Story, name: str) -> int:
    core = story.node(name).core
    assert core is not None
    return len(core.view.ring.members)


def gone_from(story: Story, name: str, left: int) -> bool:
    return members_of(story, name) == left


def voided(story: Story) -> int:
    return sum(host.core.counters.slots_voided for host in story.mesh.nodes.values() if host.core is not None)


def read(story: Story, keys: list[str], at: str) -> list[Any]:
    client = story.at(story.node(at))
    return [story.get(key, client, timeout=2.0) for key in keys]


def shared(story: Story, *names: str) -> list[str]:
    return [key for key in KEYS if {*names} <= {*story.mesh.owners(key)}]


def test_what_a_minority_acknowledged_after_the_cut_is_never_followed_by_something_older() -> None:
    story = Story(5, STRICT | MAJORITY_ONLY)
    write(story, "before", KEYS, "n3")
    both = shared(story, "n1", "n2")
    story.mesh.cut(["n1", "n2"])
    acknowledged = write(story, "after", both, "n1")
    assert acknowledged, "the minority serves until its lease ends"
    story.mesh.wait_for(lambda: members_of(story, "n5") == 3)
    assert set(read(story, acknowledged, "n5")) == {None}
    others = [key for key in KEYS if key not in both]
    assert set(read(story, others, "n4")) == {"before"}
    rewritten = write(story, "later", acknowledged[::2], "n4")
    assert read(story, rewritten, "n3") == ["later"] * len(rewritten)
    story.mesh.run(2.0)
    story.mesh.network.heal()
    story.mesh.settle()
    for node in ("n1", "n5"):
        assert read(story, rewritten, node) == ["later"] * len(rewritten)
        assert "before" not in read(story, acknowledged, node)
        assert set(read(story, others, node)) == {"before"}


def test_one_lost_node_costs_no_entry() -> None:
    for cluster in (STRICT, DEFAULT):
        story = Story(4, cluster | MAJORITY_ONLY)
        write(story, "kept", KEYS, "n3")
        story.node("n1").crash()
        story.mesh.wait_for(partial(gone_from, story, "n3", 3))
        assert set(read(story, KEYS, "n2")) == {"kept"}
        story.node("n1").start()
        story.mesh.settle()
        assert set(read(story, KEYS, "n1")) == {"kept"}
        assert not voided(story)


def test_two_lost_at_once_take_with_them_what_both_had_and_nothing_else() -> None:
    story = Story(5, STRICT | MAJORITY_ONLY)
    write(story, "kept", KEYS, "n3")
    both = shared(story, "n1", "n2")
    story.node("n1").crash()
    story.node("n2").crash()
    story.mesh.wait_for(lambda: members_of(story, "n4") == 3)
    found = dict(zip(KEYS, read(story, KEYS, "n4"), strict=True))
    assert {key for key, value in found.items() if value is None} == {*both}
    story.node("n1").start()
    story.node("n2").start()
    story.mesh.settle()
    assert {key for key in KEYS if story.get(key) is None} == {*both}


def test_under_the_available_policy_two_lost_at_once_cost_nothing() -> None:
    story = Story(5, STRICT)
    write(story, "kept", KEYS, "n3")
    story.node("n1").crash()
    story.node("n2").crash()
    story.mesh.wait_for(lambda: members_of(story, "n4") == 3)
    assert set(read(story, KEYS, "n4")) == {"kept"}


def test_nodes_lost_one_after_the_other_cost_nothing_once_the_others_have_taken_over() -> None:
    story = Story(7, STRICT | MAJORITY_ONLY)
    write(story, "kept", KEYS, "n7")
    for name in ("n1", "n2", "n3"):
        story.node(name).crash()
        story.mesh.wait_for(lambda: not story.mesh.disagreements(transitions=True), within_s=15.0)
    assert set(read(story, KEYS, "n7")) == {"kept"}
    assert not voided(story)


def test_nodes_that_hand_over_before_they_leave_cost_nothing() -> None:
    story = Story(5, STRICT | MAJORITY_ONLY)
    write(story, "kept", KEYS, "n5")
    for name in ("n1", "n2"):
        host = story.node(name)
        assert host.core is not None
        host.core.retire(host.clock())
        story.mesh.wait_for(partial(getattr, host.core, "gone"))
        story.mesh.run(0.2)
        host.crash()
    story.mesh.settle()
    assert set(read(story, KEYS, "n5")) == {"kept"}
    assert not voided(story)


def test_a_minority_declares_nobody_dead_and_the_majority_keeps_its_ring_after_the_heal() -> None:
    story = Story(5, STRICT | MAJORITY_ONLY)
    story.mesh.cut(["n1", "n2"])
    story.mesh.run(8.0)
    for name in ("n1", "n2"):
        core = story.node(name).core
        assert core is not None
        assert [core.membership.state_of(other) for other in ("n3", "n4", "n5")] == [State.SUSPECT] * 3
    story.mesh.network.heal()
    story.mesh.settle()
    rejoins = [host.core.counters.rejoins for host in story.mesh.nodes.values() if host.core is not None]
    assert rejoins == [1, 1, 0, 0, 0]


def test_when_no_side_has_a_majority_nothing_is_lost() -> None:
    story = Story(3, STRICT | MAJORITY_ONLY)
    write(story, "kept", KEYS, "n3")
    for name in ("n1", "n2"):
        story.mesh.cut([name])
    story.mesh.run(8.0)
    assert write(story, "refused", KEYS[:3], "n1") == []
    story.mesh.network.heal()
    story.mesh.settle()
    assert set(read(story, KEYS, "n2")) == {"kept"}


def test_a_paused_node_that_was_removed_comes_back_with_nothing_and_is_filled() -> None:
    story = Story(4, STRICT | MAJORITY_ONLY)
    write(story, "before", KEYS, "n3")
    paused = story.node("n1")
    paused.pause()
    story.mesh.wait_for(lambda: members_of(story, "n2") == 3)
    write(story, "after", KEYS, "n3")
    paused.resume()
    story.mesh.settle()
    assert set(read(story, KEYS, "n1")) == {"after"}
    story.mesh.run(5.0)
    assert {value for key in KEYS for value in story.held(key).values()} <= {b"after", None}


def test_a_removed_node_asks_those_who_took_its_place_before_it_answers() -> None:
    story = Story(3, ONE)
    (key, *_) = [key for key in KEYS if story.mesh.owners(key) == ["n1"]]
    story.set(key, "before")
    removed = story.node("n1")
    removed.pause()
    story.mesh.wait_for(lambda: members_of(story, "n3") == 2)
    story.set(key, "after", story.at(story.node("n3")))
    (holder,) = [name for name, value in story.held(key).items() if value == b"after"]
    story.mesh.network.cut("n1", holder)
    story.mesh.network.cut(holder, "n1")
    removed.resume()
    story.mesh.wait_for(lambda: removed.core is not None and removed.core.counters.rejoins == 1)
    with pytest.raises(MeshcacheError):
        story.get(key, story.at(removed), timeout=0.5)
    story.mesh.network.heal()
    story.mesh.settle()
    assert story.get(key, story.at(removed)) == "after"


def test_a_write_that_comes_before_the_news_of_the_ring_is_kept() -> None:
    story = Story(3, ONE)
    (key, *_) = [key for key in KEYS if story.mesh.owners(key) == ["n1"]]
    story.node("n1").crash()
    story.mesh.wait_for(lambda: "n1" not in story.mesh.owners(key))
    (heir,) = story.owners(key)
    (other,) = [name for name in ("n2", "n3") if name != heir.name]
    story.node("n1").start()
    story.mesh.settle()
    story.mesh.run(7.0)
    story.node("n1").crash()
    story.mesh.run(0.5)
    heir.pause()  # the news of the death and the write reach it at the same time
    story.mesh.wait_for(lambda: members_of(story, other) == 2)
    outcome: list[Exception | None] = []
    client = story.at(story.node(other))
    client.run(client.session.set(key, "early", None, 4.0), lambda result, error, _: outcome.append(error))
    story.mesh.run(0.1)
    heir.resume()
    story.mesh.settle()
    assert outcome == [None]
    assert story.get(key) == "early"


def test_a_value_that_expired_on_the_other_side_does_not_uncover_an_older_one() -> None:
    story = Story(3, ONE)
    (key, *_) = [key for key in KEYS if story.mesh.owners(key) == ["n1"]]
    story.set(key, "before")
    removed = story.node("n1")
    removed.pause()
    story.mesh.wait_for(lambda: members_of(story, "n3") == 2)
    heir = story.at(story.node("n3"))
    story.mesh.call(heir, heir.session.set(key, "for a moment", 0.3, None))
    story.mesh.run(1.0)
    removed.resume()
    story.mesh.settle()
    story.mesh.run(3.0)
    assert story.get(key, story.at(removed)) is None


# What an expired value leaves in a store

BEGIN_MS = 1_800_000_000_000
GRACE_MS = 600_000


def record(written_ms: int, lives_ms: int | None) -> bytes:
    version = ((BEGIN_MS + written_ms) << 16).to_bytes(8, "big") + bytes(8)
    return stamp(version, NEVER_MS if lives_ms is None else BEGIN_MS + written_ms + lives_ms) + b"\0\1value"


def store_of(*records: bytes) -> Store:
    store = store_class()(slots=4, max_entries=100, max_bytes=100_000, grace_ms=GRACE_MS)
    for one in records:
        put(store, one, int.from_bytes(one[:6], "big") - BEGIN_MS)
    return store


def put(store: Store, one: bytes, at_ms: int) -> bool:
    store.merge([b"k"], [one], BEGIN_MS + at_ms)
    return store.peek(b"k") == one


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize(
    ("older_ms", "lives_ms", "hidden_until_ms"),
    [
        (None, 60_000, 1000 + GRACE_MS),  # for as long as a delete would hide it
        (120_000, 60_000, 120_000),  # until it would have expired itself
        (2_000, 1_500, 1000 + SETTLE_MS),  # for as long as it may be late
    ],
)
def test_an_expired_value_hides_what_is_older(
    older_ms: int | None, lives_ms: int, hidden_until_ms: int, lazily: bool
) -> None:
    older = record(0, older_ms)
    store = store_of(older, record(1000, lives_ms))
    over_ms = 1000 + lives_ms + 500
    if lazily:
        assert store.read([b"k"], expiry_bytes(BEGIN_MS + over_ms)) == [None]
    else:
        store.expire(BEGIN_MS + over_ms, 100)
    held = store.statistics()
    assert (held.entries, held.tombstones, held.expirations) == (0, 1, 1)
    for at_ms in (over_ms, hidden_until_ms - 1):
        store.expire(BEGIN_MS + at_ms, 100)
        assert not put(store, older, at_ms)
    store.expire(BEGIN_MS + hidden_until_ms + 500, 100)
    held = store.statistics()
    assert (held.tombstones, held.bytes, held.tombstone_bytes) == (0, 0, 0)


def test_a_value_that_comes_when_it_has_expired_hides_what_is_older() -> None:
    older, late = record(0, None), record(1000, 200)
    for store in (store_of(), store_of(older)):
        assert not put(store, late, 2000)
        assert not put(store, older, 2000)


def test_a_value_that_lived_long_and_covered_nothing_longer_leaves_nothing() -> None:
    store = store_of(record(0, 60_000), record(1000, 60_000))
    store.expire(BEGIN_MS + 61_500, 100)
    assert store.statistics().tombstones == 0
    assert store.peek(b"k") is None


# The rule by itself


def ring(*names: str, replicas: int = 3) -> Ring:
    members = [RingMember(name, 1.0, name, "") for name in names]
    return Ring.build(members, slots=16, vnodes=8, replicas=replicas)


def test_a_slot_is_lost_with_as_many_owners_as_a_write_waits_for() -> None:
    whole = ring("a", "b", "c", "d", "e")
    view = View("e", whole)
    assert view.lose(["a"], 2, 2) == []
    expected = [slot for slot, owners in enumerate(whole.owners) if {"a", "b"} <= {*owners}]
    assert expected
    assert view.lose(["b"], 2, 2) == expected
    assert view.lose(["b"], 2, 2) == [], "a loss counts once"


def test_losses_count_in_each_ring_until_all_are_in_sync() -> None:
    whole, smaller = ring("a", "b", "c", "d", "e"), ring("b", "c", "d", "e")
    for settled in (False, True):
        view = View("e", whole)
        assert view.lose(["a"], 2, 2) == []
        view.change(smaller, whole, 1.0, was_synced=False)
        if settled:
            assert view.expire(2.0)
        found = view.lose(["b"], 2, 2)
        assert bool(found) is not settled


@pytest.mark.parametrize(("write_quorum", "read_quorum", "doomed"), [(1, 1, False), (1, 3, True), (3, 1, False)])
def test_nothing_is_forgotten_where_reads_may_be_old_anyway(write_quorum: int, read_quorum: int, doomed: bool) -> None:
    assert bool(View("e", ring("a", "b", "c")).lose(["a"], write_quorum, read_quorum)) is doomed


def test_what_is_left_over_is_handed_to_nobody_but_what_was_held_apart_is() -> None:
    whole = ring("a", "b", "c", "d", "e")
    view = View("a", whole)
    (slot, *_) = [slot for slot, owners in enumerate(whole.owners) if "a" not in owners]
    assert view.left_over(slot)
    view.held[slot] = 1
    view.distrust()
    assert not view.held[slot]
    assert not view.left_over(slot), "it was written to while it was counted dead"
    assert view.expire(1.0)
    assert view.left_over(slot)


def test_what_came_by_a_ring_that_is_not_known_yet_is_shown_to_readers_by_that_ring() -> None:
    """Two nodes join at a time, and a write by the ring of both is acknowledged by one that knows only of itself."""
    story = Story(2, ONE)
    core = story.node("n1").core
    assert core is not None
    instant, origin = core.coordinator.instant, b"other"
    key = next(key.encode() for key in KEYS if [*story.mesh.owners(key)] == ["n2"])
    head, version = (core.boot, instant.wall_ms + 60_000), core.clock.tick(instant.wall_ms)
    written = stamp(version, NEVER_MS) + b"\0\0early"

    def ask(request: m.Read | m.Write) -> Any:
        core.drain()
        core.receive_request(origin, encode_frame(0, [request]), instant.now)
        ((_, frame),) = core.drain().replies
        (reply,) = decode_frame(frame)[1]
        return reply

    def shown(view: bytes) -> Any:
        reply = ask(m.Read(2, *head, view, [key]))
        assert reply.voteless == [0]
        return reply.records[0]

    assert isinstance(ask(m.Write(1, *head, b"theirs", False, [key], [written])), m.WriteReply)
    assert shown(b"theirs") == written
    assert shown(b"another") is None
    assert shown(core.view.digest) is None
    story.mesh.run(EARLY_S + 1)
    head = (core.boot, instant.wall_ms + 60_000)
    assert shown(b"theirs") is None, "a ring that comes again is another"


def test_a_ring_that_comes_again_finds_nothing_of_its_former_time() -> None:
    story = Story(2, ONE)
    core = story.node("n1").core
    assert core is not None
    replicas, instant = core.requests.replicas, core.coordinator.instant
    version = core.clock.tick(instant.wall_ms)
    write = m.Write(
        0, core.boot, instant.wall_ms + 60_000, b"theirs", False, [b"k"], [stamp(version, NEVER_MS) + b"\0\0v"]
    )
    core.receive_request(b"other", encode_frame(0, [write]), instant.now)
    assert [key for key, _ in replicas.written_early(b"theirs")] == [b"k"]
    assert replicas.written_early(b"theirs") == []


def test_what_is_void_counts_no_more_and_what_is_newer_does() -> None:
    view = View("a", ring("a", "b", "c"))
    slot = view.ring.slot_of(b"k")
    view.void[slot] = (5).to_bytes(16, "big")
    assert not view.counts(b"k", (5).to_bytes(16, "big") + bytes(8))
    assert view.counts(b"k", (6).to_bytes(16, "big") + bytes(8))
    assert view.counts(b"k", None)


def test_who_keeps_what_it_had() -> None:
    before = Fact("n", "h:1", "", "", "h", "", 1.0, 7, 5 << 8, int(State.ALIVE), b"ring")
    assert keeps(before._replace(incarnation=before.incarnation + 1, state=int(State.SUSPECT)), before)
    assert not keeps(None, before)
    assert not keeps(before._replace(state=int(State.DEAD)), before)
    assert not keeps(before._replace(incarnation=6 << 8, synced=b""), before)
    assert keeps(before._replace(incarnation=6 << 8), before), "it has taken over again"
    assert not keeps(before._replace(state=int(State.LEFT)), before)
    assert keeps(before._replace(state=int(State.LEFT), weight=0.0), before)
