"""What a client counts of what it did, and how a program exports that."""

from __future__ import annotations

import prometheus_client
import pytest
from fake_node import fake_mesh
from prometheus_client.parser import text_string_to_metric_families as parse

import meshcache
from meshcache.metrics import ClientCollector
from meshcache.protocol.breaker import CALLS_MIN, OPEN_S, Breaker


def exported(cache: meshcache.Client) -> dict[tuple[str, str], float]:
    registry = prometheus_client.CollectorRegistry()
    registry.register(ClientCollector(cache, "mine"))
    text = prometheus_client.generate_latest(registry).decode()
    samples = [sample for family in parse(text) for sample in family.samples]
    assert {sample.labels["client"] for sample in samples} == {"mine"}
    return {(sample.name, sample.labels.get("node", "")): sample.value for sample in samples}


def test_a_client_tells_what_nodes_answered_and_what_failed() -> None:
    with fake_mesh(2) as nodes:
        first, second = nodes
        with meshcache.Client([first.address, second.address], timeout=1) as cache:
            cache.set_many({f"k{n}": n for n in range(20)})
            before = cache.statistics()
            for n in range(20):
                cache.get(f"k{n}")
            told = cache.statistics()
            assert told.operations - before.operations == 20
            assert (told.errors, told.retries, told.failed, told.near) == (0, 0, 0, None)
            assert (told.hedged, told.hedges_won) == (0, 0)
            assert {node.breaker for node in told.nodes.values()} == {"closed"}
            assert {node.address for node in told.nodes.values()} == {first.address, second.address}
            assert all(node.answered for node in told.nodes.values())
            assert sum(node.answered for node in told.nodes.values()) == told.operations
            derived = cache.namespace("x:")
            derived.get("k")
            assert cache.statistics().operations == told.operations + 1 == derived.statistics().operations
            found = exported(cache)
            assert found["meshcache_client_operations_total", ""] == told.operations + 1
            assert found["meshcache_client_errors_total", ""] == 0
            assert found["meshcache_client_hedged_total", ""] == found["meshcache_client_hedges_won_total", ""] == 0
            assert {value for (name, _), value in found.items() if name == "meshcache_client_breaker_open"} == {0}


def test_an_operation_that_fails_is_an_error_and_its_requests_have_failed() -> None:
    with fake_mesh() as (node,), meshcache.Client(node.address, timeout=0.2) as cache:
        cache.set("k", 1)
        node.stop()
        with pytest.raises((meshcache.OperationTimeout, meshcache.NodeUnavailable)):
            cache.get("k")
        told = cache.statistics()
        assert told.errors == 1
        assert told.failed >= 1
        assert exported(cache)["meshcache_client_errors_total", ""] == 1
        assert sum(v for (name, _), v in exported(cache).items() if name == "meshcache_client_node_failures_total") >= 1
        assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
        assert cache.statistics().errors == 2


def test_a_breaker_tells_its_state() -> None:
    breaker = Breaker()
    assert breaker.state == "closed"
    for _ in range(CALLS_MIN):
        breaker.fail(1.0)
    assert breaker.state == "open"
    assert breaker.admits(2.0 + OPEN_S)
    assert breaker.state == "half-open"
    breaker.succeed(2.0 + OPEN_S)
    assert breaker.state == "closed"
