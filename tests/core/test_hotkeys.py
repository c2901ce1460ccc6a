"""Heavy hitters: what is found, what is not, and in how much memory."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from story import DEFAULT, Story

import meshcache
from meshcache import LocalMesh
from meshcache.client.routing import HOT_KEYS_MAX, HOT_S
from meshcache.config import HotKeySettings
from meshcache.core.operations.hotkeys import COUNTERS_MAX, NOTED_READS_MAX, PANES, HotKeys


def measured(**changes: float) -> HotKeys:
    """Return a summary that counts every read, unless ``threshold_reads`` is given."""
    changed = replace(HotKeySettings(threshold_reads=100), **changes)  # type: ignore[arg-type]  # numbers, of the right kind
    return HotKeys(changed, random.Random(3), now=0.0)


def test_a_burst_makes_a_key_hot_at_its_hundredth_read() -> None:
    hot = measured()
    for _ in range(99):
        hot.note([b"k"], 0.0)
    hot.count(0.0)
    assert hot.among([b"a", b"k"]) == []
    hot.note([b"k"], 0.0)
    hot.count(0.0)
    assert hot.among([b"a", b"k"]) == [b"k"]
    assert hot.statistics() == {"hot": 1, "found": 1, "counters": 1}


def test_a_steady_rate_counts_for_what_it_amounts_to_in_a_window() -> None:
    for reads_per_s, expected in ((3, True), (1, False)):
        hot = measured()
        for second in range(600):
            hot.note([b"k"] * reads_per_s, float(second))
            hot.count(float(second))
        assert bool(hot.among([b"k"])) is expected, reads_per_s
        assert 0.6 * reads_per_s * 60 < hot.top(1)[0]["reads"] <= reads_per_s * 60


def test_a_hot_key_stays_hot_for_a_window_after_its_last_hundred_reads() -> None:
    hot = measured()
    hot.note([b"k"] * 100, 0.0)
    hot.count(0.0)
    hot.count(59.0)
    assert hot.among([b"k"]) == [b"k"]
    hot.count(60.0 + 60.0 / PANES)
    assert hot.among([b"k"]) == []


def test_nothing_is_hot_when_it_is_switched_off() -> None:
    hot = measured(enabled=False)
    for _ in range(5):
        hot.note([b"k"] * 5000, 0.0)
    hot.count(0.0)
    assert (hot.among([b"k"]), hot.top(9)) == ([], [])


def test_a_scan_neither_fills_the_memory_nor_hides_a_heavy_hitter() -> None:
    hot = measured(threshold_reads=250)
    rng = random.Random(5)
    for i in range(200_000):
        hot.note([b"hot" if rng.random() < 0.02 else b"scan:%d" % i], 0.0)
        assert len(hot._counts) <= 2 * COUNTERS_MAX + NOTED_READS_MAX
    hot.count(0.0)
    assert list(hot.until) == [b"hot"]


def test_above_some_threshold_a_sample_of_the_requests_stands_for_all() -> None:
    read: list[int] = []
    for seed in range(40):
        hot = HotKeys(HotKeySettings(threshold_reads=1000), random.Random(seed), now=0.0)
        reads = 0
        while not hot.until:
            # In step with every other one: a fixed stride would see all of one and none of the other.
            hot.note([b"k"] if reads % 2 else [b"other:%d" % reads], 0.0)
            hot.count(0.0)
            reads += 1
        read.append(reads // 2)
    assert 800 < sum(read) / len(read) < 1200
    assert 500 < min(read) <= max(read) < 1600


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 400)), max_size=60), st.integers(0, 1000))
def test_a_count_is_never_too_high_and_too_low_by_no_more_than_promised(
    runs: list[tuple[int, int]], shift: int
) -> None:
    hot = measured()
    true: Counter[bytes] = Counter()
    for key, reads in [*runs, *[(7000 + i + shift, 1) for i in range(9000)]]:
        name = b"%d" % key
        true[name] += reads
        hot.note([name] * reads, 0.0)
    hot.count(0.0)
    error_max = true.total() // COUNTERS_MAX
    estimates = {row["key"]: row["reads"] for row in hot.top(10_000)}
    assert all(count <= true[key] for key, count in estimates.items())
    assert all(estimates.get(key, 0) >= count - error_max for key, count in true.items())


def hits(story: Story) -> dict[str, int]:
    return {name: host.core.store.statistics().hits for name, host in story.mesh.nodes.items() if host.core is not None}


def test_reads_of_a_hot_key_are_spread_over_its_owners() -> None:
    for enabled in (True, False):
        story = Story(3, hot_keys={"threshold_reads": 20, "enabled": enabled})
        story.set("hot", 1)
        story.set("cold", 1)
        assert story.get("cold") == 1
        for _ in range(30):
            story.get("hot")
            story.mesh.run(0.06)
        assert list(story.client.session.routing.hot) == [b"hot"] * enabled
        before = hits(story)
        for _ in range(100):
            story.get("hot")
        gained = sorted(count - before[name] for name, count in hits(story).items())
        assert sum(gained) == 100
        assert gained == [0, 0, 100] if not enabled else gained[1] > 20 and gained[0] == 0


def test_what_a_node_says_of_hot_keys_is_bounded_and_forgotten() -> None:
    story = Story(2)
    routing, client = story.client.session.routing, story.client
    client.run(client.session.get("k", None, None), lambda *_: None)
    story.mesh.run(0.1)
    routing.note_hot([b"%d" % i for i in range(HOT_KEYS_MAX + 10)], 1.0)
    routing.note_hot([b"late"], 1.0)
    assert len(routing.hot) == HOT_KEYS_MAX
    assert b"late" not in routing.hot
    now = routing.clock()
    assert routing.spread(b"1", now, 0.0) != routing.spread(b"1", now, 0.99)
    assert routing.spread(b"late", now, 0.5) is None
    assert routing.spread(b"1", now + HOT_S, 0.5) is None
    story.mesh.run(HOT_S + 0.1)
    routing.note_hot([b"late"], 1.0)
    assert list(routing.hot) == [b"late"]


@pytest.mark.process
def test_clients_keep_copies_of_hot_keys_and_of_no_others() -> None:
    """With real processes: the simulator's clients do not follow the streams of a hot key."""
    with LocalMesh(nodes=3, hot_keys={"threshold_reads": 50}) as mesh, mesh.client() as reader, mesh.client() as writer:
        writer.set_many({"hot": [1], "cold": [2]})
        assert reader.near_statistics() is None
        deadline = time.monotonic() + 20
        while (found := reader.near_statistics()) is None or not found.hits:
            assert reader.get("hot") == [1]
            assert time.monotonic() < deadline, found
        assert list(reader._session.near.entries) == [b"hot"]  # type: ignore[union-attr]  # just seen to be there
        assert reader.get_many(["hot", "cold"]) == {"hot": [1], "cold": [2]}
        assert list(reader._session.near.entries) == [b"hot"]  # type: ignore[union-attr]  # as above
        copy = reader.get("hot")
        copy.append("changed by who got it")
        assert reader.get("hot") == [1]
        writer.set("hot", [3])
        while reader.get("hot") == [1]:
            assert time.monotonic() < deadline
        reader.set("hot", [4])
        assert reader.get("hot") == [4], "a client reads its own writes"
        with reader.with_options(consistency="quorum") as strict:
            before = reader.near_statistics()
            assert strict.get("hot") == [4]
            assert reader.near_statistics().hits == before.hits  # type: ignore[union-attr]  # as above


@pytest.mark.process
def test_who_wants_no_copies_gets_none() -> None:
    hot = {"threshold_reads": 20}
    with LocalMesh(nodes=2, hot_keys=hot) as mesh, meshcache.Client(mesh.addresses, near_cache=False) as plain:
        plain.set("hot", 1)
        while not plain._session.routing.hot:
            assert plain.get("hot") == 1
        assert [plain.get("hot") for _ in range(50)] == [1] * 50
        assert plain.near_statistics() is None
    cluster = {"replicas": 3, "write_quorum": 2, "read_quorum": 2}
    with LocalMesh(nodes=3, hot_keys=hot, cluster=cluster) as mesh, mesh.client() as strict:
        strict.set("hot", 1)
        while not strict._session.routing.hot:
            assert strict.get("hot") == 1
        assert [strict.get("hot") for _ in range(50)] == [1] * 50
        assert strict.near_statistics() is None, "a mesh that reads from a quorum is not satisfied with a copy"


def test_inspect_tells_the_keys_read_most() -> None:
    story = Story(1, {**DEFAULT, "replicas": 1, "write_quorum": 1}, hot_keys={"threshold_reads": 3})
    story.set("a", 1)
    for key in ("a", "a", "a", "b"):
        story.get(key)
    story.mesh.run(0.1)
    told = story.call(story.client.session.inspect("hot", b"", None, None))
    assert told == {"keys": [{"key": b"a", "reads": 3, "hot": True}, {"key": b"b", "reads": 1, "hot": False}]}
