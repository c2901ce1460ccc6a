"""Real processes: data follows the members, missed writes are delivered, and owners come to agree."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from test_server import Caller
from timing import eventually

import meshcache
from meshcache.protocol import messages as m
from meshcache.protocol.record import expiry_bytes

pytestmark = pytest.mark.process

KEYS = 3000


@pytest.fixture
def mesh() -> Iterator[meshcache.LocalMesh]:
    with meshcache.LocalMesh(nodes=3, membership={"transition_s": 0.5}) as running:
        yield running


def fill(cache: meshcache.Client, count: int = KEYS) -> dict[str, int]:
    values = {f"key:{i}": i for i in range(count)}
    assert cache.set_many(values, ttl=None) == []
    return values


def alive(cache: meshcache.Client) -> list[str]:
    return [member["address"] for member in cache.inspect("status")["members"] if member["state"] == "alive"]


def copies(cache: meshcache.Client) -> int:
    return sum(int(cache.inspect("stats", node=address)["store"]["entries"]) for address in alive(cache))


def settled(cache: meshcache.Client) -> bool:
    statuses = [cache.inspect("status", node=address) for address in alive(cache)]
    return all(not status["changing"] and not status["slots_missing"] for status in statuses)


def test_after_a_death_every_key_has_all_its_copies_again(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        values = fill(cache)
        mesh.kill("node2")
        eventually(lambda: len(alive(cache)) == 2 and settled(cache) and copies(cache) == 2 * KEYS)
        mesh.kill("node1")
        assert cache.get_many(values) == values


def test_a_node_that_comes_back_empty_is_filled_again(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        values = fill(cache)
        for victim in ("node1", "node2", "node3"):  # each in its turn: no key survives this without being copied
            mesh.kill(victim)
            mesh.start(victim)
            mesh.wait_ready()
            eventually(lambda: settled(cache) and copies(cache) == 2 * KEYS)
        assert cache.get_many(values) == values


def test_a_leaving_node_hands_over_what_it_owns_and_nothing_is_lost() -> None:
    # One copy of each key: what is not handed over is gone. And it takes longer than a node that does not wait for it.
    one_copy = {"replicas": 1, "write_quorum": 1, "read_quorum": 1}
    # A node that a busy machine makes look dead would lose them, too.
    patient = {"transition_s": 0.5, "dead_after_s": 20.0, "link_dead_after_s": 10.0}
    with (
        meshcache.LocalMesh(nodes=3, cluster=one_copy, membership=patient) as mesh,
        mesh.client(timeout=20) as cache,
    ):
        values = {f"key:{i}": b"%d" % i * 5000 for i in range(KEYS)}
        assert cache.set_many(values, ttl=None) == []
        for node_id in ("node1", "node2", "node3"):
            mesh.stop(node_id)
            assert cache.get_many(values) == values
            mesh.start(node_id)
            mesh.wait_ready()
        assert cache.get_many(values) == values


def test_a_joining_node_takes_its_share_with_ttl_and_tombstones(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        values = fill(cache)
        cache.set_many(dict.fromkeys(list(values)[:500], 0), ttl=100)
        cache.delete_many(list(values)[500:1000])
        joined = mesh.add()
        mesh.wait_ready()
        address = mesh.addresses[-1]
        eventually(lambda: settled(cache))
        assert cache.inspect("stats", node=joined)["store"]["tombstones"] > 0
        assert cache.inspect("stats", node=address)["movement"]["pulled_keys"] > KEYS // 4
        found = cache.get_many(values)
        assert len(found) == KEYS - 500
        assert all(95 < (cache.ttl(key) or 0) < 101 for key in list(values)[:20])


def test_writes_that_a_paused_replica_missed_are_delivered(mesh: meshcache.LocalMesh) -> None:
    slow_to_accuse = {"dead_after_s": 10.0}
    cluster = {"replicas": 3, "write_quorum": 2, "read_quorum": 2}
    with (
        meshcache.LocalMesh(nodes=3, cluster=cluster, membership=slow_to_accuse) as patient,
        patient.client() as cache,
    ):
        eventually(lambda: settled(cache))
        patient.pause("node3")
        cache.set_many({f"key:{i}": i for i in range(200)}, ttl=None)
        eventually(lambda: sum(cache.inspect("stats", node=n)["hints"]["kept"] for n in ("node1", "node2")) == 200)
        patient.resume("node3")
        eventually(lambda: sum(cache.inspect("stats", node=n)["hints"]["delivered"] for n in ("node1", "node2")) == 200)
        eventually(lambda: int(cache.inspect("stats", node="node3")["store"]["entries"]) == 200)


def test_owners_that_differ_come_to_agree(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as cache:
        fill(cache, 100)
        eventually(lambda: settled(cache))
        explained = cache.inspect("explain", key=b"key:7")
        owners = [replica["node_id"] for replica in explained["replicas"]]
        address = next(s["address"] for s in cache.inspect("status")["members"] if s["node_id"] == owners[1])
        caller = Caller(address)  # one replica alone learns of a newer value
        newer = (int(time.time() * 1000) - 2500).to_bytes(6, "big") + bytes(10)
        older = bytes.fromhex(explained["replicas"][0]["version"])
        version = max(newer, (int.from_bytes(older, "big") + (1 << 64)).to_bytes(16, "big"))
        record = version + expiry_bytes(1 << 47) + b"\0\1" + b"newer"
        caller.exchange(m.Write(*caller.head(), False, [b"key:7"], [record]))
        eventually(lambda: len({r["version"] for r in cache.inspect("explain", key=b"key:7")["replicas"]}) == 1)
        assert cache.get("key:7") == "newer"
        caller.close()
