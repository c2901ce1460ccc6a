"""The gateway as an ASGI application: the routes, and what is done for every request.

Stateless: everything that is asked for is asked of the mesh, through one client. Starlette finds the route, by the path
as it was sent (requests.py says why); around it, each request is checked (guard.py, and for a token where one is
needed), timed and counted, and whatever goes wrong becomes JSON.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import cache
from importlib import metadata, resources
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route, Router

from meshcache.client.aio.client import AsyncClient
from meshcache.errors import MeshcacheError
from meshcache.gateway.asgi import Answer, Message, Receive, Scope, Send
from meshcache.gateway.batch import Batches
from meshcache.gateway.cluster import Cluster
from meshcache.gateway.dashboard import PAGES, Dashboard
from meshcache.gateway.entries import Entries
from meshcache.gateway.guard import PROTECTION, Guard
from meshcache.gateway.invalidations import Invalidations
from meshcache.gateway.metrics import Metrics
from meshcache.gateway.refusals import Refusal, refusal_of
from meshcache.gateway.requests import Bodies, options_of
from meshcache.gateway.watch import Watch
from meshcache.web.tokens import CHALLENGE, Tokens

_log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("meshcache.gateway"),
    wrapper_class=structlog.stdlib.BoundLogger,
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.processors.format_exc_info,
        structlog.stdlib.render_to_log_kwargs,
    ],
)
_LEVELS: Final = {
    "http_file_read": logging.INFO,
    "http_file_refused": logging.ERROR,
    "http_refused": logging.WARNING,
}
_OPEN_PATHS: Final = frozenset({"/health", *PAGES})
"""They need no token: probes often have no place for one, and the page, which tells nothing itself, asks for it."""
_KEYED: Final = ("/cache/", "/cluster/explain/")
"""What paths with a key in them begin with."""


class Gateway:
    """The application. ``stop()`` ends its streams; the client is closed by whoever made it."""

    def __init__(
        self,
        client: AsyncClient,
        names: Iterable[str] = (),
        *,
        connections: Callable[[], int] = lambda: 0,
        allow_writes: bool = False,
        tokens: Tokens | None = None,
    ) -> None:
        """``allow_writes``: the dashboard may delete keys. It is for people; programs have the paths for that.

        Without ``tokens`` nobody needs one.
        """
        bodies = Bodies()
        cluster = Cluster(client)
        entries = Entries(client, cluster, bodies)
        self._invalidations = Invalidations(client, bodies)
        self._metrics = Metrics(client, connections, lambda: self._invalidations.streams)
        self._guard = Guard(names)
        self._tokens = tokens
        watch = Watch(client, allow_writes=allow_writes, streams=lambda: self._invalidations.streams)
        self._dashboard = Dashboard(watch)
        self.router = Router(
            [
                Route("/cache/{key:path}", entries.answer, methods=["GET", "PUT", "DELETE"]),
                Route("/cache:batch", Batches(client, bodies).answer, methods=["POST"]),
                Route("/invalidate", self._invalidations.invalidate, methods=["POST"]),
                Route("/events", self._invalidations.events, methods=["GET"]),
                Route("/cluster/status", cluster.status, methods=["GET"]),
                Route("/cluster/distribution", cluster.distribution, methods=["GET"]),
                Route("/cluster/explain/{key:path}", cluster.explain, methods=["GET"]),
                Route("/health", cluster.health, methods=["GET"]),
                Route("/metrics", self._metrics.answer, methods=["GET"]),
                Route("/openapi.json", _openapi, methods=["GET"]),
                *[Route(path, self._dashboard.page, methods=["GET"], include_in_schema=False) for path in PAGES],
                Route("/dashboard/stream", self._dashboard.stream, methods=["GET"], include_in_schema=False),
            ],
            redirect_slashes=False,
        )
        self._fixed = frozenset(route.path for route in self.router.routes if isinstance(route, Route))

    def stop(self) -> None:
        """Serve no streams any more."""
        self._invalidations.stop()
        self._dashboard.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise TypeError(f"the gateway answers HTTP, not {scope['type']}")
        began = time.perf_counter()
        path = scope["raw_path"].decode("latin-1")
        scope = {**scope, "path": path, "root_path": "", "app": self}
        status = 0

        async def send_protected(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *PROTECTION]
            await send(message)

        try:
            try:
                self._guard.check(scope["method"], scope["headers"])
                if self._tokens is not None and path not in _OPEN_PATHS:
                    _check_token(self._tokens, scope)
                await self.router(scope, receive, send_protected)
            except Exception as error:
                if status:  # the answer has begun: all that can be done is to break it off
                    _log.error("request_failed", route=self._route_of(path), exc_info=error)
                    raise
                await self._answer_to(error, path)(scope, receive, send_protected)
        finally:
            self._metrics.count(self._route_of(path), scope["method"], status, time.perf_counter() - began)

    def _answer_to(self, error: Exception, path: str) -> Answer:
        match error:
            case Refusal():
                return error.answer()
            case MeshcacheError():
                return refusal_of(error).answer()
            case HTTPException(status_code=404):
                return Refusal(404, "No such path", "GET /openapi.json tells which there are").answer()
            case HTTPException(status_code=405):
                allowed = (error.headers or {}).get("Allow", "")
                allow = ", ".join(sorted(allowed.split(", ")))
                return Refusal(405, "Wrong method", f"this path takes {allow}", headers={"Allow": allow}).answer()
        _log.error("request_failed", route=self._route_of(path), exc_info=error)
        return Refusal(500, "The gateway failed", "its log says more").answer()

    def _route_of(self, path: str) -> str:
        """Return the route that a path belongs to, as the metrics name it."""
        for prefix in _KEYED:
            if path.startswith(prefix):
                return prefix + "{key}"
        return path if path in self._fixed else "other"


def tell(event: str, **fields: object) -> None:
    """Write an event of the gateway to the log."""
    _log.log(_LEVELS[event], event, **fields)


def _check_token(tokens: Tokens, scope: Scope) -> None:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    fault = tokens.fault(given[0] if len(given) == 1 else b"", (scope["client"] or ("unknown",))[0])
    if fault is not None:
        raise Refusal(401, "Unauthorized", fault, headers=dict([CHALLENGE]))


@cache
def openapi_text() -> str:
    """Return the description of this interface."""
    text = resources.files("meshcache.gateway").joinpath("openapi.json").read_text(encoding="utf-8")
    return text.replace('"version": "0"', f'"version": "{metadata.version("meshcache")}"')


async def _openapi(request: Request) -> Answer:
    options_of(request, ())
    body = openapi_text().encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return Answer(body, 200, [*headers, (b"cache-control", b"no-cache")])
