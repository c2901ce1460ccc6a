"""Server-sent events: a stream that goes on until its reader goes, what tells it has ended, or the gateway stops.

Source: "Server-sent events" in the HTML standard of the WHATWG.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from meshcache.gateway.answers import json_bytes
from meshcache.gateway.asgi import Headers, Receive, Scope, Send

HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
RETRY_MS: Final = 1000
"""After how long a browser comes back when a stream ends."""
BEGIN: Final = f"retry: {RETRY_MS}\n"

Put = Callable[[str], Awaitable[None]]
"""Sends a piece of the stream."""


def event_text(name: str, data: Any) -> str:
    """Return one event."""
    return f"event: {name}\ndata: {json_bytes(data).decode()}\n\n"


async def stream(
    scope: Scope, receive: Receive, send: Send, stopping: asyncio.Event, tell: Callable[[Put], Awaitable[None]]
) -> None:
    """Answer a request with what ``tell`` puts, until one of the ends comes. A HEAD is answered without it."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return

    async def put(text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def tell_all() -> None:
        await tell(put)

    tasks = [asyncio.create_task(work) for work in (tell_all(), _gone(receive), _set(stopping))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if stopping.is_set():
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass


async def _set(event: asyncio.Event) -> None:
    await event.wait()
