"""The figures of one client, for a program that exports metrics of its own with ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class _Counting(Protocol):
    def statistics(self) -> Any: ...


class ClientCollector:
    """A collector of a ``Client`` or an ``AsyncClient``, to be registered with what a program exports.

    All metrics have the label ``client``, its ``name`` here: give each client of a program another one. Clients that
    are derived from another count together with it. The library is imported when it collects, which is when the
    program's own exporter asks for it.
    """

    def __init__(self, client: _Counting, name: str = "default") -> None:
        self._client = client
        self._name = name

    def describe(self) -> list[Metric]:
        """Say nothing beforehand: to register it must not need the mesh."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what the client has counted."""
        told = self._client.statistics()
        for name, value, text in (
            ("operations", told.operations, "Requests of the client that nodes answered."),
            ("errors", told.errors, "Operations that failed in the end."),
            ("retries", told.retries, "Rounds of requests after the first of an operation."),
            ("hedged", told.hedged, "Reads for which a second node was asked, because the first took long."),
            ("hedges_won", told.hedges_won, "Those of them that the second node answered first."),
        ):
            yield self._family(name, "counter", text, [({}, value)])
        nodes = list(told.nodes.values())
        failed = [({"node": node.node_id}, node.failed) for node in nodes]
        yield self._family("node_failures", "counter", "Requests that a node did not answer.", failed)
        opened = [({"node": node.node_id}, int(node.breaker != "closed")) for node in nodes]
        yield self._family("breaker_open", "gauge", "1 while the breaker of a node is not closed, else 0.", opened)
        if told.near is not None:
            near = told.near
            yield self._family("near_hits", "counter", "Reads that the near cache served.", [({}, near.hits)])
            yield self._family("near_misses", "counter", "Reads that it did not serve.", [({}, near.misses)])
            yield self._family("near_entries", "gauge", "Copies that it holds.", [({}, near.entries)])
            yield self._family("near_live", "gauge", "1 while it may serve, else 0.", [({}, int(near.live))])

    def _family(self, name: str, kind: str, text: str, samples: Sequence[tuple[dict[str, str], float]]) -> Metric:
        from prometheus_client.core import Metric  # noqa: PLC0415  (see the class)

        metric = Metric(f"meshcache_client_{name}", text, kind)
        for labels, value in samples:
            full = metric.name + ("_total" if kind == "counter" else "")
            metric.add_sample(full, {"client": self._name, **labels}, value)
        return metric
