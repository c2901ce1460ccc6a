"""A real Prometheus watches a real mesh, with the rules that are in configs/prometheus."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import watching
from private_prometheus import INTERVAL_S, Prometheus, private_prometheus
from timing import DELAY_S_MAX, eventually

from meshcache import LocalMesh
from meshcache.contradictions import HTTP_PORT_OFFSET

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed: apt install prometheus"
    ),
]

MAY_FIND_NOTHING = {
    "meshcache_comparison_age_seconds",  # before all slots were compared
    "meshcache_hints",  # while nobody misses a write
    "meshcache_messages_failed_total",  # while none fails
    "meshcache_requests_refused_total",  # while none is refused
}
"""Metrics that have no samples in a mesh that is well."""
SCRAPES_MAX = 3
"""What happened is told by one of the next scrapes, and judged by the evaluation after it."""


class Watched(NamedTuple):
    """A mesh, and who watches it."""

    mesh: LocalMesh
    instances: list[str]
    """Where Prometheus asks its nodes."""
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with LocalMesh(nodes=3, cluster={"replicas": 2}) as mesh:
        addresses = [address.rpartition(":") for address in mesh.addresses]
        instances = [f"{host}:{int(port) + HTTP_PORT_OFFSET}" for host, _, port in addresses]
        with private_prometheus(tmp_path_factory.mktemp("prometheus"), instances) as prometheus:
            eventually(lambda: prometheus.find("sum(meshcache_ready)") == [({}, 3.0)], 30.0)
            yield Watched(mesh, instances, prometheus)


def test_every_panel_of_the_dashboard_finds_something(watched: Watched) -> None:
    with watched.mesh.client() as cache:
        cache.set_many({f"k{number}": number for number in range(100)})
        cache.get_many([f"k{number}" for number in range(150)])
        cache.incr("n", 1, initial=0)

        def empty() -> list[str]:
            cache.get_many([f"k{number}" for number in range(50)])
            return [
                query.place
                for query in watching.queries_of_panels()
                if not watched.prometheus.find(query.text)
                and not {name for name, _ in watching.selected(query.text)} & MAY_FIND_NOTHING
            ]

        eventually(lambda: not empty(), 30.0)


def seconds(text: str) -> float:
    number, unit = float(text[:-1]), text[-1]
    return number * {"s": 1, "m": 60, "h": 3600}[unit]


def test_a_node_that_is_killed_is_alerted_on(watched: Watched) -> None:
    mesh, instances, prometheus = watched
    eventually(lambda: prometheus.find("sum(up)") == [({}, 3.0)])
    assert prometheus.firing() == set()
    held_s = seconds(watching.alerts()["MeshcacheNodeDown"]["for"])
    down = {("MeshcacheNodeDown", instances[1])}
    mesh.kill("node2")
    killed_at = time.monotonic()
    eventually(lambda: prometheus.firing() == down, held_s + SCRAPES_MAX * INTERVAL_S + DELAY_S_MAX)
    assert time.monotonic() - killed_at >= held_s
    [text] = [
        alert["annotations"]["description"]
        for alert in prometheus.told("alerts")["alerts"]
        if alert["labels"]["alertname"] == "MeshcacheNodeDown"
    ]
    assert f"http://{instances[1]}/health" in text
    mesh.start("node2")
    eventually(lambda: prometheus.firing() == set(), 30.0)
