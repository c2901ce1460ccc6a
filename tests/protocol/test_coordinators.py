"""Who coordinates a batch: few coordinators of keys with the same owners, and as many keys for each node as before."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.protocol.coordinators import MEMBERS_MAX, SLACK, _break_circles, coordinators
from meshcache.protocol.ring import Ring, RingMember

SIZES = st.dictionaries(
    st.tuples(st.integers(0, 6), st.sampled_from(["a", "b", "c", "d", "e"])), st.integers(1, 100), max_size=20
)
IDS = st.sampled_from(["a", "b", "c", "d", "ä", "node1", "10.0.0.1:7101"])
LABELS = st.sampled_from(["", "a", "b", "c"])
MEMBERS = st.lists(
    st.builds(RingMember, IDS, st.sampled_from([0.5, 1.0, 1.0, 2.0]), LABELS, LABELS),
    max_size=7,
    unique_by=lambda member: member.node_id,
)


def build(nodes: int, replicas: int = 2) -> Ring:
    members = [RingMember(f"node{i}") for i in range(1, nodes + 1)]
    return Ring.build(members, slots=1024, vnodes=150, replicas=replicas)


def first_owners(ring: Ring) -> list[str]:
    return [owners[0] if owners else "" for owners in ring.owners]


def parts_of(ring: Ring, chosen: list[str]) -> set[tuple[frozenset[str], str]]:
    return {(frozenset(owners), node) for owners, node in zip(ring.owners, chosen, strict=True)}


def test_of_three_nodes_with_two_copies_each_has_one_peer() -> None:
    ring = build(3)
    peers = {node: owners - {node} for owners, node in parts_of(ring, coordinators(ring))}
    assert sorted(map(len, peers.values())) == [1, 1, 1]
    assert len(parts_of(ring, coordinators(ring))) == 3
    assert len(parts_of(ring, first_owners(ring))) == 6


@pytest.mark.parametrize(
    ("nodes", "replicas", "most"), [(3, 2, 3), (4, 2, 9), (4, 3, 6), (5, 2, 12), (5, 3, 14), (8, 2, 32), (12, 3, 230)]
)
def test_there_are_about_as_many_parts_as_sets(nodes: int, replicas: int, most: int) -> None:
    ring = build(nodes, replicas)
    assert len(parts_of(ring, coordinators(ring))) <= most


@pytest.mark.parametrize(("nodes", "replicas"), [(0, 2), (1, 2), (3, 1), (2, 2), (3, 3), (MEMBERS_MAX + 1, 2)])
def test_where_nothing_is_gained_it_is_the_first_owner(nodes: int, replicas: int) -> None:
    ring = build(nodes, replicas)
    assert coordinators(ring) == first_owners(ring)


@settings(max_examples=60, deadline=None)
@given(MEMBERS, st.integers(1, 3), st.randoms(use_true_random=False))
def test_each_slot_has_an_owner_and_each_node_about_its_share(
    members: list[RingMember], replicas: int, rng: random.Random
) -> None:
    ring = Ring.build(members, slots=256, vnodes=30, replicas=replicas)
    chosen = coordinators(ring)
    assert all(node in owners or not owners for owners, node in zip(ring.owners, chosen, strict=True))
    before, after = Counter(first_owners(ring)), Counter(chosen)
    assert before.keys() == after.keys()
    for node, count in before.items():
        assert count * (1 - SLACK) <= after[node] <= count * (1 + SLACK)
    assert len(parts_of(ring, chosen)) <= len(parts_of(ring, first_owners(ring)))
    rng.shuffle(members)
    coordinators.cache_clear()
    again = Ring.build(members, slots=256, vnodes=30, replicas=replicas)
    assert coordinators(again) == chosen


@given(SIZES)
def test_broken_circles_leave_all_sums_and_a_forest(sizes: dict[tuple[int, str], int]) -> None:
    broken = _break_circles(sizes)
    assert all(size > 0 for size in broken.values())
    for end in (0, 1):
        sums = [Counter[object](), Counter[object]()]
        for count, parts in zip(sums, (sizes, broken), strict=True):
            for part, size in parts.items():
                count[part[end]] += size
        assert sums[0] == sums[1]
    points = {end for part in broken for end in part}
    trees = {point: point for point in points}

    def tree_of(point: object) -> object:
        while trees[point] != point:  # type: ignore[index]
            point = trees[point]  # type: ignore[index]
        return point

    for number, node in broken:
        one, other = tree_of(number), tree_of(node)
        assert one != other, "a circle"
        trees[one] = other  # type: ignore[index, assignment]
