"""Placement: even, stable under change, the same everywhere, and never two copies where one failure takes both."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.protocol.ring import COPIES_SLACK, PRIMARY_SLACK, Ring, RingMember, _Auction, slot_of

SLOTS = 1024
BENCH = Path(__file__).parents[2] / "scripts" / "bench"

LABELS = st.sampled_from(["", "a", "b", "c"])
MEMBERS = st.lists(
    st.builds(RingMember, st.text(max_size=12), st.sampled_from([0.5, 1.0, 1.0, 2.0, 3.7]), LABELS, LABELS),
    max_size=9,
    unique_by=lambda member: member.node_id,
)


def build(members: list[RingMember] | int, *, slots: int = SLOTS, vnodes: int = 150, replicas: int = 2) -> Ring:
    if isinstance(members, int):
        members = [RingMember(f"node{i}") for i in range(1, members + 1)]
    return Ring.build(members, slots=slots, vnodes=vnodes, replicas=replicas)


def primaries(ring: Ring) -> Counter[str]:
    return Counter(owners[0] for owners in ring.owners)


def copies(ring: Ring) -> Counter[str]:
    return Counter(node for owners in ring.owners for node in owners)


def fingerprint(ring: Ring) -> str:
    return hashlib.sha256(json.dumps(ring.owners).encode()).hexdigest()[:16]


def many_sets(count: int, size: int) -> list[list[RingMember]]:
    rng = random.Random(size)
    return [[RingMember(f"{rng.getrandbits(48):012x}") for _ in range(size)] for _ in range(count)]


# ---- evenness


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 10, 11, 20])
def test_primaries_are_even(nodes: int) -> None:
    fair = SLOTS / nodes
    for members in [[RingMember(f"node{i}") for i in range(1, nodes + 1)], *many_sets(8, nodes)]:
        loads = primaries(build(members))
        assert len(loads) == nodes
        assert max(abs(load - fair) for load in loads.values()) <= max(fair * PRIMARY_SLACK, 1)


@pytest.mark.parametrize("nodes", [3, 5, 10])
def test_keys_are_even_within_five_percent(nodes: int) -> None:
    ring = build(nodes)
    loads = Counter(ring.preference_list(b"user:%d" % k)[0] for k in range(100_000))
    assert max(abs(load / (100_000 / nodes) - 1) for load in loads.values()) < 0.05


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("nodes", [4, 5, 10])
def test_copies_are_even(nodes: int, replicas: int) -> None:
    fair = SLOTS * replicas / nodes
    for members in many_sets(8, nodes):
        loads = copies(build(members, replicas=replicas))
        assert max(abs(load - fair) for load in loads.values()) <= max(fair * COPIES_SLACK, 1)


@pytest.mark.parametrize("nodes", [100, 300])
def test_many_nodes_with_few_slots_each_still_differ_by_one_slot_only(nodes: int) -> None:
    loads = primaries(build(nodes))
    assert len(loads) == nodes
    assert max(loads.values()) - min(loads.values()) <= 1


@pytest.mark.parametrize(
    ("low", "high"),
    [([8, 9, 9, 11], [12, 10, 11, 13]), ([0, 0, 0, 0], [12, 10, 11, 13]), ([8, 9, 9, 11], [40, 40, 40, 40])],
)
def test_what_prices_leave_out_of_bounds_is_settled(low: list[int], high: list[int]) -> None:
    """Of large clusters the rounds may run out; here there are none."""
    rng = random.Random(5)
    rows = [[rng.random() + 0.01, rng.random() + 0.01, rng.random() + 5, rng.random() + 5] for _ in range(40)]
    auction = _Auction(rows, [1.0] * 4, low, high)
    auction.run(0)
    assert auction.loads[2:] == [0, 0]
    auction.settle()
    assert all(least <= load <= most for least, load, most in zip(low, auction.loads, high, strict=True))
    assert auction.loads == [auction.owner.count(node) for node in range(4)]


def test_weight_is_the_share() -> None:
    members = [RingMember("a", 2.0), RingMember("b"), RingMember("c"), RingMember("d", 0.5)]
    ring = build(members)
    for loads, total, slack in [(primaries(ring), SLOTS, PRIMARY_SLACK), (copies(ring), 2 * SLOTS, COPIES_SLACK)]:
        for member in members:
            fair = total * member.weight / 4.5
            assert abs(loads[member.node_id] - fair) <= max(fair * slack, 1)


@pytest.mark.parametrize("weight", [0.0, -3.0, float("nan"), float("inf"), 1e300, 5e-324])
def test_a_senseless_weight_from_the_network_does_no_harm(weight: float) -> None:
    ring = build([RingMember("a"), RingMember("b", weight), RingMember("c")], slots=64, vnodes=4)
    assert all(len(set(owners)) == 2 for owners in ring.owners)


# ---- movement


@pytest.mark.parametrize("nodes", [3, 4, 5, 9, 10])
def test_a_join_or_leave_moves_little_more_than_it_must(nodes: int) -> None:
    moved, moved_copies = [], []
    for members in many_sets(12, nodes + 1):
        large, small = build(members), build(members[:-1])
        pairs = list(zip(large.owners, small.owners, strict=True))
        moved.append(sum(a[0] != b[0] for a, b in pairs) * (nodes + 1) / SLOTS)
        moved_copies.append(sum(len(set(a) - set(b)) for a, b in pairs) * (nodes + 1) / SLOTS / 2)
    assert sum(moved) / len(moved) < 1.2
    assert max(moved) <= 1.3
    assert max(moved_copies) <= 1.3


# ---- the same everywhere


def test_the_order_of_members_is_irrelevant() -> None:
    members = [RingMember(f"n{i}", 1.0 + i % 3, f"h{i % 4}", f"z{i % 2}") for i in range(8)]
    ring = build(members)
    for seed in range(5):
        shuffled = random.Random(seed).sample(members, len(members))
        again = Ring(tuple(sorted(shuffled)), SLOTS, 150, 2)  # not the memoised one
        assert (again.owners, again.digest) == (ring.owners, ring.digest)
        assert build(shuffled) is ring


def test_of_two_members_with_one_id_the_same_one_counts_in_any_order() -> None:
    one, two = RingMember("a", 1.0, "h1"), RingMember("a", 2.0, "h2")
    assert build([one, two]).members == build([two, one]).members == (two,)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_another_process_with_another_hash_seed_agrees(hash_seed: str) -> None:
    program = (
        "import hashlib, json; from meshcache.protocol.ring import Ring, RingMember;"
        "r = Ring.build({RingMember(f'n{i}', 1.0 + i % 3, f'h{i % 4}', f'z{i % 2}') for i in range(8)},"
        " slots=1024, vnodes=150, replicas=3);"
        "print(r.digest.hex(), hashlib.sha256(json.dumps(r.owners).encode()).hexdigest()[:16])"
    )
    environ = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    members = [RingMember(f"n{i}", 1.0 + i % 3, f"h{i % 4}", f"z{i % 2}") for i in range(8)]
    ring = build(members, replicas=3)
    assert done.stdout.split() == [ring.digest.hex(), fingerprint(ring)]


def test_placement_is_pinned() -> None:
    """A mesh whose nodes disagree about owners loses data: changing these values is changing the protocol."""
    ring = build(5, replicas=3)
    assert ring.slot_of(b"user:1") == 642
    assert ring.preference_list(b"user:1") == ("node5", "node4", "node2")
    assert ring.owners[0] == ("node5", "node2", "node4")
    assert ring.owners[511] == ("node3", "node1", "node4")
    assert ring.digest.hex() == "833416ffb854c11c"
    assert fingerprint(ring) == "551dc497224c90af"


def test_placement_of_many_nodes_is_pinned() -> None:
    assert fingerprint(build(23)) == "0a4aeb6ff694a8c6"


def test_placement_with_weights_and_domains_is_pinned() -> None:
    members = [
        RingMember("a", 1.0, "h1", "z1"),
        RingMember("b", 2.0, "h1", "z1"),
        RingMember("c", 0.5, "h2", "z2"),
        RingMember("d", 1.0, "", "z3"),
        RingMember("é", 1.5),
    ]
    ring = build(members, slots=256, vnodes=40)
    assert ring.digest.hex() == "d19b235c042492a2"
    assert fingerprint(ring) == "ba68c7e8dc93bbb2"


def test_the_digest_tells_apart_whatever_changes_placement() -> None:
    base = [RingMember("a"), RingMember("b"), RingMember("c")]
    rings = [
        build(base),
        build(base, slots=512),
        build(base, vnodes=149),
        build(base, replicas=3),
        build(base[:2]),
        build([*base[:2], RingMember("d")]),
        build([*base[:2], RingMember("c", 2.0)]),
        build([*base[:2], RingMember("c", 1.0, "h")]),
        build([*base[:2], RingMember("c", 1.0, "", "h")]),
        build([]),
    ]
    assert len({ring.digest for ring in rings}) == len(rings)
    assert {len(ring.digest) for ring in rings} == {8}


# ---- failure domains


def test_copies_go_to_different_zones() -> None:
    members = [RingMember(f"n{i}", zone=f"z{i % 3}") for i in range(9)]
    zones = {member.node_id: member.zone for member in members}
    for owners in build(members, replicas=3).owners:
        assert len({zones[node] for node in owners}) == 3


def test_copies_go_to_different_hosts_of_one_zone() -> None:
    members = [RingMember(f"n{i}", host=f"h{i // 2}", zone="only") for i in range(8)]
    hosts = {member.node_id: member.host for member in members}
    for owners in build(members, replicas=3).owners:
        assert len({hosts[node] for node in owners}) == 3


def test_when_zones_run_out_hosts_still_differ() -> None:
    members = [RingMember(f"n{i}", host=f"h{i // 2}", zone=f"z{i // 4}") for i in range(8)]
    place = {member.node_id: member for member in members}
    for owners in build(members, replicas=3).owners:
        assert len({place[node].zone for node in owners}) == 2
        assert len({place[node].host for node in owners}) == 3


def test_one_host_for_all_is_no_obstacle() -> None:
    members = [RingMember(f"n{i}", host="laptop", zone="desk") for i in range(3)]
    ring = build(members)
    assert all(len(set(owners)) == 2 for owners in ring.owners)
    assert max(abs(load / (SLOTS * 2 / 3) - 1) for load in copies(ring).values()) < COPIES_SLACK


def test_no_label_shares_nothing() -> None:
    """Nodes without labels may go together; a labelled pair may not."""
    members = [RingMember("a", zone="z"), RingMember("b", zone="z"), RingMember("c"), RingMember("d")]
    seen = {frozenset(owners) for owners in build(members).owners}
    assert frozenset("cd") in seen
    assert frozenset("ab") not in seen


def test_zones_of_unequal_size_keep_primaries_even_and_copies_even_within_a_zone() -> None:
    members = [RingMember(f"n{i}", zone="big" if i < 4 else "mid" if i < 7 else "small") for i in range(9)]
    ring = build(members, replicas=3)
    assert max(abs(load - SLOTS / 9) for load in primaries(ring).values()) <= SLOTS / 9 * PRIMARY_SLACK
    loads = copies(ring)
    for names, fair in [("0123", SLOTS / 4), ("456", SLOTS / 3), ("78", SLOTS / 2)]:
        assert all(abs(loads[f"n{i}"] / fair - 1) <= COPIES_SLACK for i in names)


# ---- shape


def test_an_empty_ring_has_no_owners() -> None:
    ring = build([])
    assert ring.owners == [()] * SLOTS
    assert ring.preference_list(b"k") == ()
    assert ring.members == ()


def test_more_replicas_than_members_gives_every_member_a_copy() -> None:
    assert all(sorted(owners) == ["node1", "node2"] for owners in build(2, replicas=5).owners)


def test_slot_of_is_the_crc32() -> None:
    assert slot_of(b"user:1", 1024) == crc32(b"user:1") % 1024 == build(3).slot_of(b"user:1")
    assert slot_of(b"user:1", 1) == 0


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"slots": 1000}, {"vnodes": 0}, {"replicas": 0}])
def test_senseless_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Ring.build([RingMember("a")], **({"slots": 64, "vnodes": 4, "replicas": 2} | wrong))


@settings(max_examples=60, deadline=None)
@given(MEMBERS, st.integers(1, 4), st.sampled_from([1, 16, 128]), st.randoms(use_true_random=False))
def test_every_ring_keeps_its_invariants(
    members: list[RingMember], replicas: int, slots: int, rng: random.Random
) -> None:
    ring = build(members, slots=slots, vnodes=8, replicas=replicas)
    assert build(rng.sample(members, len(members)), slots=slots, vnodes=8, replicas=replicas).owners == ring.owners
    place = {member.node_id: member for member in members}
    zones = len({member.zone or index for index, member in enumerate(members)})
    assert len(ring.owners) == slots
    for owners in ring.owners:
        assert len(owners) == len(set(owners)) == min(replicas, len(members))
        held_zones = {place[node].zone or index for index, node in enumerate(owners)}
        assert len(held_zones) == min(replicas, zones)
    total = sum(member.weight for member in members)
    for member in members:
        fair = slots * member.weight / total
        held = sum(owners[0] == member.node_id for owners in ring.owners)
        assert abs(held - fair) <= max(fair * PRIMARY_SLACK, 1)


def test_the_measurement_prints_json() -> None:
    command = [sys.executable, str(BENCH), "ring", "--json", "--keys", "2000", "--sets", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert {row["nodes"] for row in measured["evenness"]} == {3, 5, 10}
    ours = [row for row in measured["movement"] if row["ring"] == "meshcache"]
    assert [row["nodes"] for row in ours] == [3, 4, 5, 9, 10]
    assert all(row["primaries"][0] < 1.3 for row in ours)
