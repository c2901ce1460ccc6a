"""``POST /invalidate``, and ``GET /events``: changes of keys as server-sent events.

A stream begins with ``ready``: from then on every change of a key under the prefix is told, or ``gap`` in its place if
it may have been missed. Nothing is kept for those who come back: what they missed meanwhile is lost, so after each
``ready``, as after a ``gap``, a reader takes all that it holds for void. There are no event ids; a reader that
sends ``Last-Event-ID`` all the same is told ``gap`` at once.

A comment comes every ``KEEP_ALIVE_S`` seconds, so that both sides see when the other is gone. A reader that does not
read is told of a gap when its queue is full, and cut when not even that goes out.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.requests import Request

from meshcache.client.aio.client import AsyncClient
from meshcache.client.aio.streams import AsyncSubscription
from meshcache.client.arguments import raw_key
from meshcache.client.subscription import Invalidation, InvalidationKind
from meshcache.gateway import requests as asked
from meshcache.gateway.answers import json_answer, shown_key
from meshcache.gateway.asgi import Answer, Receive, Scope, Send
from meshcache.gateway.event_stream import BEGIN, Put, event_text, stream
from meshcache.gateway.refusals import Refusal, unavailable

KEYS_MAX: Final = 1000
STREAMS_MAX: Final = 200
KEEP_ALIVE_S: Final = 15.0
EVENTS_AT_ONCE: Final = 500
"""In one piece of the stream."""


class Invalidations:
    """Invalidates keys, and tells of those that were."""

    def __init__(self, client: AsyncClient, bodies: asked.Bodies) -> None:
        self._client = client
        self._bodies = bodies
        self._stopping = asyncio.Event()
        self.streams = 0

    def stop(self) -> None:
        """End all streams: the gateway stops."""
        self._stopping.set()

    async def invalidate(self, request: Request) -> Answer:
        """Drop keys, by name, tag or prefix."""
        asked.options_of(request, ())
        body = await self._bodies.read_json(request, asked.JSON_BYTES_MAX)
        asked.checked_fields(body, ("keys", "tags", "prefix"))
        keys = asked.listed(body, "keys", KEYS_MAX, asked.key_in_body)
        tags = asked.tags_of(body.get("tags", []), "tags")
        prefix = asked.key_in_body(body["prefix"], "prefix") if "prefix" in body else None
        if not keys and not tags and prefix is None:
            raise Refusal(400, "Invalid body", 'nothing to do: say which "keys", "tags" or "prefix"')
        done: dict[str, int] = {}
        if keys:
            done["keys"] = await self._client.invalidate(*keys)
        if tags:
            done["tags"] = await self._client.invalidate_tags(*tags)
        if prefix is not None:
            done["prefix"] = await self._client.invalidate_prefix(prefix)
        return json_answer({"invalidated": done})

    async def events(self, request: Request) -> EventStream:
        """Return the stream of what happens to the keys under a prefix."""
        options = asked.options_of(request, ("prefix",))
        prefix = options.get("prefix", "").encode("utf-8", "surrogateescape")
        if prefix:
            raw_key(b"", prefix)
        if self._stopping.is_set():
            raise unavailable("The gateway is stopping", "ask another one")
        if self.streams >= STREAMS_MAX:
            raise unavailable("Too many streams", f"a gateway serves {STREAMS_MAX} streams of events at a time")
        self.streams += 1
        try:
            subscription = self._client.subscribe(prefix)
            await subscription.__aenter__()  # before the answer begins: it may fail
        except BaseException:
            self.streams -= 1
            raise
        return EventStream(self, subscription, resumes="last-event-id" in request.headers)

    def ended(self) -> None:
        """Count a stream no more."""
        self.streams -= 1

    @property
    def stopping(self) -> asyncio.Event:
        """Set when the gateway stops."""
        return self._stopping


class EventStream:
    """One reader's stream: an ASGI application that sends until its reader goes, or the gateway stops."""

    def __init__(self, source: Invalidations, subscription: AsyncSubscription, *, resumes: bool) -> None:
        self._source = source
        self._subscription = subscription
        self._resumes = resumes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events."""
        try:
            await stream(scope, receive, send, self._source.stopping, self._tell)
        finally:
            self._source.ended()
            await self._subscription.__aexit__(None, None, None)

    async def _tell(self, put: Put) -> None:
        text = BEGIN + event_text("ready", {})
        if self._resumes:
            text += event_text("gap", {"node": ""})
        while True:
            await put(text)
            event = await self._subscription.wait(KEEP_ALIVE_S)
            if event is None:
                if self._subscription.feed.closed:
                    return
                text = ": still here\n\n"
                continue
            parts = [_told(event)]
            queue = self._subscription.feed.queue
            while queue and len(parts) < EVENTS_AT_ONCE:
                parts.append(_told(queue.popleft()))
            text = "".join(parts)


def _told(event: Invalidation) -> str:
    if event.kind is InvalidationKind.GAP:
        return event_text("gap", {"node": event.node})
    named: dict[str, Any] = dict(shown_key(event.key))
    if event.kind is InvalidationKind.TAG:
        named = {"tag": named.pop("key"), **named}
    return event_text(event.kind.value, {**named, "version": event.version.hex(), "node": event.node})
