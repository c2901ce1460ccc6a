"""What a gateway counts, for Prometheus: a few children of a few families, looked up once each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request

from meshcache.client.aio.client import AsyncClient
from meshcache.gateway import requests as asked
from meshcache.gateway.asgi import Answer
from meshcache.metrics.client import ClientCollector

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})


class Metrics:
    """Requests by route, method and status, and how long they took; what is open now; what the client counts."""

    def __init__(self, client: AsyncClient, connections: Callable[[], int], streams: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "meshcache_gateway_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "meshcache_gateway_request_duration_seconds",
            "From a request's header to the end of its answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._gauge("meshcache_gateway_connections", "Connections of clients, open now.", connections)
        self._gauge("meshcache_gateway_event_streams", "Streams of events, open now.", streams)
        self.registry.register(ClientCollector(client, "gateway"))
        self._counted: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    def _gauge(self, name: str, about: str, find: Callable[[], float]) -> None:
        Gauge(name, about, registry=self.registry).set_function(find)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. Routes are few: a path that is none counts as ``other``."""
        which = route, method if method in _METHODS else "other", status
        try:
            self._counted[which].inc()
            self._timed[route].observe(seconds)
        except KeyError:
            self._counted[which] = self._requests.labels(*map(str, which))
            self._timed[route] = self._seconds.labels(route)
            self._counted[which].inc()
            self._timed[route].observe(seconds)

    async def answer(self, request: Request) -> Answer:
        """Return all of it as text."""
        asked.options_of(request, ())
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body = encode(self.registry)
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        return Answer(body, 200, [*headers, (b"cache-control", b"no-store")])
