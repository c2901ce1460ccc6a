"""Tags: everything that bears one is dropped on every node, and no late copy of it is let in again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import DEFAULT, LOOSE, STRICT, Story

from meshcache.core.node import NodeCore
from meshcache.core.operations import drops
from meshcache.core.operations.replica import Replica
from meshcache.core.operations.writes import QuorumWrite
from meshcache.core.repair.movement import _Source
from meshcache.core.storage import drop_floors as floors
from meshcache.core.storage.drop_floors import Floors, bucket_of
from meshcache.errors import OperationTimeout, QuorumNotReached
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX, clock_of
from meshcache.protocol.messages import COARSE_TAGS, EventKind
from meshcache.protocol.record import NEVER_MS, Extras, is_tombstone, stamp, tombstone, version_of, with_extras
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS, NodeHost

NOW_MS = 1_800_000_000_000
GRACE_MS = 600_000


def version(number: int, now_ms: int = NOW_MS) -> bytes:
    return (((now_ms << 16) + number) << 64).to_bytes(16, "big")


def tagged(number: int, *tags: bytes, now_ms: int = NOW_MS) -> bytes:
    return stamp(version(number, now_ms), NOW_MS * 2) + with_extras(b"\0\1v", Extras(tags))


def core_of(host: NodeHost) -> NodeCore:
    assert host.core is not None
    return host.core


def put(story: Story, key: str, value: str, *tags: str, at: NodeHost | None = None) -> None:
    client = story.client if at is None else story.at(at)
    story.mesh.call(client, client.session.set(key, value, None, 1.0, tags))


def invalidate(story: Story, *tags: str, at: NodeHost | None = None, timeout: float | None = None) -> int:
    client = story.client if at is None else story.at(at)
    count: int = story.mesh.call(client, client.session.invalidate_tags(tags, timeout))
    return count


def live_copies(story: Story, key: str) -> int:
    records = [core_of(host).store.peek(key.encode()) for host in story.mesh.nodes.values() if host.core is not None]
    return sum(record is not None and not is_tombstone(record) for record in records)


# ---- floors


def test_a_floor_overrules_what_is_under_its_name_and_not_newer() -> None:
    held = Floors(GRACE_MS)
    assert not held
    assert held.set(EventKind.TAG, b"t", version(5), NOW_MS)
    assert held.set(EventKind.CLEAR, b"a:", version(3), NOW_MS)
    assert held
    keys = [b"k", b"k", b"k", b"k", b"a:1", b"a:1", b"a:1"]
    records = [
        tagged(4, b"s", b"t"),
        tagged(5, b"t"),
        tagged(6, b"t"),
        tagged(1, b"s"),
        tagged(3),
        tagged(4),
        tagged(1, b"t"),
    ]
    assert held.overruled(keys, records, NOW_MS) == {0: version(5), 1: version(5), 4: version(3), 6: version(5)}


def test_a_floor_says_nothing_when_it_is_known_or_over_or_from_the_future() -> None:
    held = Floors(GRACE_MS)
    assert held.set(EventKind.TAG, b"t", version(5), NOW_MS)
    assert not held.set(EventKind.TAG, b"t", version(5), NOW_MS)
    assert not held.set(EventKind.TAG, b"t", version(4), NOW_MS)
    assert held.set(EventKind.TAG, b"t", version(6), NOW_MS)
    assert not held.set(EventKind.TAG, b"u", version(0, NOW_MS - GRACE_MS), NOW_MS)
    assert not held.set(EventKind.TAG, b"u", b"\xff" * 16, NOW_MS)
    assert not held.set(EventKind.TAG, b"u", version(0, NOW_MS + LEAD_MS_MAX + 1), NOW_MS)
    assert len(held) == 1


def test_floors_are_forgotten_after_the_grace_and_then_cost_nothing() -> None:
    held = Floors(GRACE_MS)
    held.set(EventKind.TAG, b"t", version(5), NOW_MS)
    held.set(EventKind.CLEAR, b"", version(5), NOW_MS)
    assert held.overruled([b"k"], [tagged(1, b"t")], NOW_MS + GRACE_MS - 1)
    assert not held.overruled([b"k"], [tagged(1, b"t")], NOW_MS + GRACE_MS)
    assert not held
    assert len(held) == 0


def test_of_too_many_tags_the_oldest_become_coarse_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "TAGS_MAX", 4)
    monkeypatch.setattr(floors, "PREFIXES_MAX", 4)
    held = Floors(GRACE_MS)
    tags = [b"tag%d" % number for number in range(40)]
    for number, tag in enumerate(tags):
        held.set(EventKind.TAG, tag, version(number + 1), NOW_MS)
        held.set(EventKind.CLEAR, tag, version(number + 1), NOW_MS)
    records = [tagged(number + 1, tag) for number, tag in enumerate(tags)]
    assert list(held.overruled([b"k"] * 40, records, NOW_MS)) == list(range(40))
    assert held.overruled([b"k"], [tagged(41, *tags[:20])], NOW_MS) == {}
    assert len(held) == 44


@given(st.lists(st.tuples(st.sampled_from([0, 4, 5]), st.binary(min_size=2, max_size=3)), max_size=40))
def test_floors_are_handed_on_page_by_page(names: list[tuple[int, bytes]]) -> None:
    held, learned = Floors(GRACE_MS), Floors(GRACE_MS)
    for number, (kind, name) in enumerate(names):
        held.set(kind, name, version(number + 1), NOW_MS)
    cursor, pages = b"", 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floors, "PAGE_FLOORS", 3)
        while True:
            cursor, page = held.page(cursor)
            if not page:
                break
            assert len(page) <= 3
            pages += 1
            for kind, name, at in page:
                assert learned.set(kind, name, at, NOW_MS)
    assert pages == -(-len(held) // 3)
    assert len(learned) == len(held) == len(set(names))


# ---- what a node takes in


@pytest.fixture
def core() -> NodeCore:
    story = Story(1, {**DEFAULT, "write_quorum": 1})
    return core_of(story.node("n1"))


def stamped(core: NodeCore, number: int, *tags: bytes) -> bytes:
    return tagged(number, *tags, now_ms=core.coordinator.instant.wall_ms)


def test_a_late_copy_is_refused_and_takes_the_older_value_with_it(core: NodeCore) -> None:
    coordinator, store = core.coordinator, core.store
    floor = version(5, coordinator.instant.wall_ms)
    coordinator.replica.merge([b"old", b"new"], [stamped(core, 1), stamped(core, 8)])
    coordinator.replica.floors.set(EventKind.TAG, b"t", floor, coordinator.instant.wall_ms)
    keys = [b"none", b"old", b"new", b"untagged"]
    records = [stamped(core, 3, b"t"), stamped(core, 3, b"t"), stamped(core, 3, b"t"), stamped(core, 3)]
    newer, live = coordinator.replica.merge(keys, records)
    assert sorted(newer) == [[0, floor], [1, floor], [2, floor]]
    assert live == [1]
    assert store.peek(b"none") is None
    assert is_tombstone(store.peek(b"old") or b"")
    assert store.peek(b"new") == stamped(core, 8)
    assert store.peek(b"untagged") == stamped(core, 3)
    assert coordinator.replica.merge([b"none"], [stamped(core, 6, b"t")]) == ([], [])
    assert store.peek(b"none") == stamped(core, 6, b"t")


def test_answers_keep_to_the_indices_of_the_write_whatever_was_refused_of_it(core: NodeCore) -> None:
    coordinator = core.coordinator
    coordinator.replica.floors.set(
        EventKind.CLEAR, b"a", version(5, coordinator.instant.wall_ms), coordinator.instant.wall_ms
    )
    coordinator.replica.merge([b"b", b"c"], [stamped(core, 9), stamped(core, 1)])
    dead = tombstone(version(6, coordinator.instant.wall_ms), NOW_MS * 2)
    newer, live = coordinator.replica.merge([b"a", b"b", b"c"], [stamped(core, 1), stamped(core, 2), dead])
    assert sorted(newer) == [[0, version(5, coordinator.instant.wall_ms)], [1, version(9, coordinator.instant.wall_ms)]]
    assert live == [2]


@pytest.mark.parametrize("way", ["write", "hint", "read repair", "own write", "pull"])
def test_whatever_way_a_late_copy_takes_it_is_not_let_in(way: str) -> None:
    story = Story(2, DEFAULT)
    put(story, "key", "value", "t")
    late = core_of(story.owners("key")[0]).store.peek(b"key") or b""
    assert invalidate(story, "t") == 2
    for host in story.mesh.nodes.values():
        core_of(host).store.clear()
    core = core_of(story.owners("key")[0])
    coordinator = core.coordinator
    if way in {"write", "hint"}:
        request = m.Write(0, core.boot, 1 << 60, b"", way == "hint", [b"key"], [late])
        core.requests.replicas._on_write(b"peer", request)
    elif way == "read repair":
        coordinator.replica.merge_repair([b"key"], [late])
    elif way == "own write":
        QuorumWrite(
            coordinator,
            [b"key"],
            [late],
            1,
            core.coordinator.instant.now + 1,
            EventKind.SET,
            lambda *_: None,
            restamp=False,
        ).start()
    else:
        page = m.PullReply(1, b"", 1, b"", [b"key"], [late])
        core._movement.on_answer((_Source("n2"), [0], b""), "n2", page)
    assert core.store.peek(b"key") is None


def test_a_hint_that_was_overruled_is_not_waited_for_and_a_set_that_was_is_stamped_anew() -> None:
    story = Story(2, {**DEFAULT, "write_quorum": 1})
    core = core_of(story.node("n1"))
    ahead = core.clock.tick(core.coordinator.instant.wall_ms + 1000)
    core.coordinator.replica.floors.set(EventKind.TAG, b"t", ahead, core.coordinator.instant.wall_ms)
    core.clock.latest -= 1 << 26  # as of a coordinator that has not heard of it yet
    put(story, "key", "value", "t", at=story.node("n1"))
    assert story.get("key") == "value"


# ---- the whole mesh


@pytest.mark.parametrize("cluster", [DEFAULT, STRICT, LOOSE])
def test_all_that_bear_a_tag_go_on_every_node_and_nothing_else(cluster: dict[str, Any]) -> None:
    story = Story(4, cluster)
    for number in range(20):
        put(story, f"both{number}", "x", "t", "u")
        put(story, f"one{number}", "x", "u")
        put(story, f"none{number}", "x")
    assert invalidate(story, "t") == 20 * cluster["replicas"]
    assert all(story.get(f"both{number}") is None for number in range(20))
    assert all(live_copies(story, f"both{number}") == 0 for number in range(20))
    assert all(story.get(f"{name}{number}") == "x" for number in range(20) for name in ("one", "none"))
    assert invalidate(story, "t", "u") == 20 * cluster["replicas"]
    assert invalidate(story, "unknown") == 0
    assert invalidate(story) == 0


def test_what_is_written_after_is_kept_and_a_value_counts_by_its_last_tags() -> None:
    story = Story(3)
    put(story, "again", "x", "t")
    put(story, "changed", "x", "t")
    put(story, "changed", "y", "u")
    invalidate(story, "t")
    put(story, "again", "y", "t")
    assert (story.get("again"), story.get("changed")) == ("y", "y")
    assert invalidate(story, "t") == 2


def test_counting_and_touching_keep_the_tags_and_the_tags_of_a_namespace_are_its_own() -> None:
    story = Story(3)
    users, teams = story.client.session.derive(prefix="users:"), story.client.session.derive(prefix="teams:")
    for session in (users, teams):
        story.call(session.set("n", 1, None, None, ["t"]))
        story.call(session.incr("n", 1, None, None, None))
        story.call(session.touch("n", 60, None))
    assert story.call(users.invalidate_tags(["t"], None)) == 2
    assert story.call(users.get("n", None, None)) is None
    assert story.call(teams.get("n", None, None)) == 2
    assert invalidate(story, "teams:t") == 2


@pytest.mark.parametrize("verb", ["set", "set_many", "add", "replace", "cas"])
def test_every_way_of_storing_takes_tags(verb: str) -> None:
    story = Story(1, {**LOOSE, "replicas": 1})
    session = story.client.session
    if verb in {"replace", "cas"}:
        story.set("k", "old")
    match verb:
        case "set_many":
            story.call(session.set_many({"k": "v"}, None, None, ["t"]))
        case "cas":
            item = story.call(session.gets("k", None))
            assert story.call(session.cas("k", "v", item.version, None, None, ["t"])) is True
        case _:
            story.call(getattr(session, verb)("k", "v", None, None, ["t"]))
    assert story.get("k") == "v"
    assert story.call(session.get_many(["k"], None)) == {"k": "v"}
    assert invalidate(story, "t") == 1


def test_the_stream_tells_of_the_tags_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(2)
    seen: list[m.Event] = []
    core = core_of(story.node("n1"))

    def publish(replica: Replica, *event: Any) -> None:
        if replica is core.coordinator.replica:
            seen.append(m.Event(*event))

    monkeypatch.setattr(Replica, "publish", publish)
    invalidate(story, "t", "u", at=story.node("n1"))
    assert [(event.kind, event.keys) for event in seen] == [(EventKind.TAG, [b"t", b"u"])]
    frames = core.frames.stream([seen[0]], core.view.digest, subscribed=True)
    assert decode_frame(frames[0])[1][0].events == seen  # type: ignore[union-attr]


def test_an_older_value_without_the_tag_does_not_come_back_from_a_replica_that_missed_the_last_write() -> None:
    story = Story(2, LOOSE)
    first, second = story.owners("key")
    story.put(second, "key", "old", clock_ms=10)
    new = stamp(version(0, EPOCH_MS + 20), NEVER_MS) + with_extras(b"\0\1new", Extras((b"t",)))
    core_of(first).coordinator.replica.merge([b"key"], [new])
    assert story.get("key", story.at(first)) == "new"
    assert invalidate(story, "t") == 1
    story.mesh.run(10.0)
    for host in (first, second):
        assert story.get("key", story.at(host)) is None


def test_a_drop_overrules_what_a_node_with_the_same_clock_stamped_before() -> None:
    story = Story(2, {"replicas": 1, "write_quorum": 1, "slots": 16, "vnodes": 8})
    lesser, greater = sorted(story.mesh.nodes.values(), key=lambda host: host.core.boot if host.core else 0)
    assert lesser.core is not None
    assert greater.core is not None
    key = next(f"k{i}" for i in range(100) if story.owners(f"k{i}") == [greater])
    ahead = (greater.core.coordinator.instant.wall_ms + 1000) << 16
    greater.core.clock.latest = ahead
    put(story, key, "before", "t", at=greater)
    record = greater.core.store.peek(key.encode())
    assert record is not None
    lesser.core.clock.latest = clock_of(version_of(record)) - 1  # it has not heard of that write
    assert invalidate(story, "t", at=lesser) == 1
    assert story.get(key) is None


def test_a_member_that_does_not_answer_is_waited_for_and_its_silence_is_no_success() -> None:
    story = Story(3)
    put(story, "key", "value", "t")
    story.node("n3").pause()
    with pytest.raises((QuorumNotReached, OperationTimeout)):
        invalidate(story, "t", at=story.node("n1"), timeout=0.3)
    story.node("n3").resume()
    story.mesh.settle()
    invalidate(story, "t")
    assert live_copies(story, "key") == 0


def test_who_was_away_drops_what_was_invalidated_and_cleared_meanwhile() -> None:
    story = Story(3, {**DEFAULT, "replicas": 3, "write_quorum": 1})
    for number in range(10):
        put(story, f"t{number}", "x", "t")
        put(story, f"c{number}", "x")
    away = story.node("n3")
    story.mesh.cut(["n3"])
    story.mesh.wait_for(lambda: len(core_of(story.node("n1")).view.ring.members) == 2, within_s=60)
    invalidate(story, "t", at=story.node("n1"))
    here = story.at(story.node("n1"))
    story.mesh.call(here, here.session.derive(prefix="c").clear(None))
    assert core_of(away).store.peek(b"t0") is not None
    story.mesh.network.heal()
    story.mesh.settle(within_s=60)
    story.mesh.run(20.0)
    for number in range(10):
        assert live_copies(story, f"t{number}") == live_copies(story, f"c{number}") == 0
    assert all(story.get(f"{name}{number}") is None for name in "tc" for number in range(10))


def test_who_joins_refuses_late_copies_of_what_was_dropped_before_it_came() -> None:
    story = Story(2)
    put(story, "key", "value", "t")
    late = core_of(story.owners("key")[0]).store.peek(b"key") or b""
    invalidate(story, "t")
    story.call(story.client.session.derive(prefix="c").clear(None))
    story.mesh.add().start()
    story.mesh.settle()
    story.mesh.wait_for(lambda: core_of(story.node("n3")).settled)
    core = core_of(story.node("n3"))
    assert len(core.coordinator.replica.floors) == 2
    core.coordinator.replica.merge([b"elsewhere", b"c1"], [late, late])
    assert core.store.peek(b"elsewhere") is None
    assert core.store.peek(b"c1") is None


def test_coarse_floors_that_are_learned_drop_the_tags_of_their_buckets() -> None:
    story = Story(1, {**LOOSE, "replicas": 1})
    core = core_of(story.node("n1"))
    put(story, "key", "value", "t")
    put(story, "other", "value", "u")
    core._drops.learn([m.Floor(COARSE_TAGS, bucket_of(b"t"), core.clock.tick(core.coordinator.instant.wall_ms))])
    story.mesh.run(0.5)
    assert (story.get("key"), story.get("other")) == (None, "value")


def test_an_answer_under_another_view_does_not_count() -> None:
    story = Story(2)
    core = core_of(story.node("n1"))
    done: list[Any] = []
    drop = drops.Drop(
        core.coordinator, core._drops, EventKind.TAG, [b"t"], core.coordinator.instant.now + 5, done.append
    )
    drop.start()
    core._drops.run()
    drop.on_answer(drop.version, "n2", m.SweepReply(1, b"another", 3, False))
    assert not done
    core.set_time(core.coordinator.instant.now + 1)
    drop.on_timer()
    assert "n2" in drop._asked
    drop.on_answer(drop.version, "n2", m.SweepReply(1, core.view.digest, 0, False))
    assert done == [[3]]


@pytest.mark.parametrize("way", ["tag", "clear"])
def test_what_a_node_with_a_clock_ahead_has_stamped_goes_too(way: str) -> None:
    story = Story(3, {**LOOSE, "replicas": 1})
    owner = story.owners("key")[0]
    other = next(host for host in story.mesh.nodes.values() if host is not owner)
    core_of(owner).clock.tick(core_of(owner).coordinator.instant.wall_ms + 3000)
    put(story, "key", "value", "t", at=owner)
    assert core_of(other).clock.latest < core_of(owner).clock.latest
    if way == "tag":
        assert invalidate(story, "t", at=other) == 1
    else:
        client = story.at(other)
        assert story.mesh.call(client, client.session.clear(None)) == 1
    assert story.get("key") is None


def test_an_answer_about_a_version_that_was_replaced_does_not_count() -> None:
    story = Story(2)
    core = core_of(story.node("n1"))
    done: list[Any] = []
    drop = drops.Drop(
        core.coordinator, core._drops, EventKind.TAG, [b"t"], core.coordinator.instant.now + 5, done.append
    )
    drop.start()
    core._drops.run()
    first, digest = drop.version, core.view.digest
    drop.on_answer(first, "n2", m.SweepReply(1, digest, 1, True))
    assert drop.version > first
    core._drops.run()
    drop.on_answer(first, "n2", m.SweepReply(1, digest, 0, False))
    assert not done
    drop.on_answer(drop.version, "n2", m.SweepReply(2, digest, 1, True))
    assert done == [[2]]


def test_a_tag_of_many_entries_is_dropped_in_turns_that_stay_short() -> None:
    story = Story(1, {**LOOSE, "replicas": 1}, store={"max_entries": 20_000})
    core = core_of(story.node("n1"))
    wall_ms = core.coordinator.instant.wall_ms
    keys = [b"key%d" % number for number in range(10_000)]
    core.coordinator.replica.merge(keys, [tagged(1, b"t", now_ms=wall_ms - 1)] * len(keys))
    dropped: list[int] = []
    core._drops.begin(EventKind.TAG, [b"t"], core.clock.tick(wall_ms), dropped.append)
    turns, most, left = 0, 0, core.store.statistics().entries
    while not dropped:
        core._drops.run()
        most, left = max(most, left - core.store.statistics().entries), core.store.statistics().entries
        turns += 1
    assert dropped == [10_000]
    assert left == 0
    assert turns > 30
    assert most <= drops.ENTRIES_PER_TURN // drops.DROP_COST + drops.DROPS_PER_STEP


def test_a_node_that_lies_about_how_much_it_dropped_keeps_no_caller_from_its_answer() -> None:
    story = Story(2)
    core = core_of(story.node("n1"))
    put(story, "key", "value", "t")
    done: list[Any] = []
    drop = drops.Drop(
        core.coordinator, core._drops, EventKind.TAG, [b"t"], core.coordinator.instant.now + 5, done.append
    )
    drop.start()
    core._drops.run()
    drop.on_answer(drop.version, "n2", m.SweepReply(1, core.view.digest, (1 << 64) - 1, False))
    ((told,),) = done
    encode_frame(0, [m.Reply(1, b"", [told])])
