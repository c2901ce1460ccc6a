"""The dashboard: one page, its style and its script, and the stream of pictures that it draws.

The page comes from here alone, and may load, send and say nothing to anywhere else: its Content-Security-Policy sees to
that, and to it that no key or value that looks like a script could run as one.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources
from typing import Any, Final

from starlette.requests import Request

from meshcache.gateway import requests as asked
from meshcache.gateway.asgi import Answer, Receive, Scope, Send
from meshcache.gateway.event_stream import BEGIN, Put, event_text, stream
from meshcache.gateway.refusals import unavailable
from meshcache.gateway.watch import Watch

PAGES: Final = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", b"text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", b"text/javascript; charset=utf-8"),
}
"""By path, the file and its type."""
WATCHERS_MAX: Final = 100
SEND_S: Final = 10.0
"""A page that takes no picture for so long is gone."""
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Dashboard:
    """Serves the page, and what it shows."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._stopping = asyncio.Event()
        self.watchers = 0

    def stop(self) -> None:
        """End all streams: the gateway stops."""
        self._stopping.set()
        self._watch.stop()

    async def page(self, request: Request) -> Answer:
        """Return the page, or a part of it."""
        asked.options_of(request, ())
        name, kind = PAGES[request.url.path]
        body = _file(name)
        return Answer(
            body,
            200,
            [
                (b"content-type", kind),
                (b"content-length", b"%d" % len(body)),
                (b"content-security-policy", _POLICY),
                (b"referrer-policy", b"no-referrer"),
                (b"cache-control", b"no-cache"),
            ],
        )

    async def stream(self, request: Request) -> PictureStream:
        """Return the stream of pictures."""
        asked.options_of(request, ())
        if self._stopping.is_set():
            raise unavailable("The gateway is stopping", "ask another one")
        if self.watchers >= WATCHERS_MAX:
            raise unavailable("Too many dashboards", f"a gateway draws for {WATCHERS_MAX} pages at a time")
        return PictureStream(self, self._watch, self._stopping)


class PictureStream:
    """What one page is sent: the points so far, then every new picture. One that reads slowly misses some."""

    def __init__(self, dashboard: Dashboard, watch: Watch, stopping: asyncio.Event) -> None:
        self._dashboard = dashboard
        self._watch = watch
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send pictures until the page is closed, or the gateway stops."""
        self._dashboard.watchers += 1
        try:
            await stream(scope, receive, send, self._stopping, self._tell)
        finally:
            self._dashboard.watchers -= 1

    async def _tell(self, put: Put) -> None:
        text = BEGIN + event_text("history", list(self._watch.points))
        picture: dict[str, Any] | None = None
        while True:
            async with asyncio.timeout(SEND_S):
                await put(text)
            picture = await self._watch.next(picture)
            if "trouble" in picture:
                text = event_text("trouble", {"reason": picture["trouble"]})
            else:
                text = event_text("picture", picture)


@cache
def _file(name: str) -> bytes:
    return resources.files("meshcache.gateway").joinpath("page", name).read_bytes()
