"""Copies of hot keys at a node that does not own them, for clients whose request this node would have to pass on.

Clients know the ring and ask owners. So these copies serve clients that do not know it, and the moments in which a
client works with an older ring. Without them the node would pass every read of a hot key on to the key's owners.
Instead it keeps what the owners answered for ``hot_keys.copy_ttl_s``, by the rules of a client's near cache
(near_store.py). A copy is void when a stream announces a write of its key: the node follows the invalidation streams of
all other members (invalidation.py), from the first such read on and until there was none for ``IDLE_S``, and it hears
what it announces itself.

A copy answers only reads at the mesh's own consistency, and only where that means one replica. And it answers only
clients that work with another ring than this node: their near cache keeps nothing of such an answer (near_cache.py),
since a copy of a copy could be twice as old as a copy may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from meshcache.core.membership.membership import Membership
from meshcache.core.operations.hotkeys import COUNTERS_MAX, HotKeys
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.core.view import View
from meshcache.protocol.invalidation import Streams
from meshcache.protocol.messages import DEFAULT_LEVEL, Event, Get, Invalidations
from meshcache.protocol.near_store import TTL_MAX_S, NearCache, NearStore
from meshcache.protocol.record import expires_ms_of, is_live, version_of

IDLE_S: Final = 60.0
"""For how long after the last read that could have used a copy the streams are still followed."""

_UNTIL: Final = 0
_RECORD: Final = 2


class HotCopies:
    """The copies that one node keeps, and the streams that void them."""

    __slots__ = (
        "_digest",
        "_enabled",
        "_hits",
        "_hot",
        "_instant",
        "_membership",
        "_misses",
        "_near",
        "_outbox",
        "_streams",
        "_view",
        "_wanted_until",
        "followed",
    )

    def __init__(
        self, hot: HotKeys, view: View, membership: Membership, outbox: Outbox, instant: Instant, *, enabled: bool
    ) -> None:
        """``enabled``: whether a read at the mesh's own consistency asks one replica only."""
        self._hot = hot
        self._view = view
        self._membership = membership
        self._outbox = outbox
        self._instant = instant
        self._enabled = enabled
        self._near = NearStore(NearCache(2 * COUNTERS_MAX, ttl=min(TTL_MAX_S, hot.copy_ttl_ms / 1000)), only=hot.until)
        self._streams = Streams()
        self._streams.tell(self._near)
        self._wanted_until = -math.inf
        self.followed: list[str] = []
        """The publish addresses that the driver was told to follow."""
        self._digest = b""
        self._hits = 0
        """How many keys were answered from a copy."""
        self._misses = 0

    def read(self, get: Get) -> list[bytes | None] | None:
        """Return per key a copy or None; None instead of a list if no key is hot, or copies must not be used."""
        instant, hot = self._instant, self._hot
        if get.r != DEFAULT_LEVEL or not self._enabled or not hot.among(get.keys):
            return None
        if get.view == self._view.digest:
            return None
        near, now = self._near, instant.now
        self._wanted_until = now + IDLE_S
        if now >= near.live_until:
            return [None] * len(get.keys)
        records: list[bytes | None] = []
        for key in get.keys:
            copy = near.entries.get(key)
            fresh = copy is not None and now < copy[_UNTIL] and is_live(copy[_RECORD], instant.now_bytes)
            records.append(copy[_RECORD] if copy is not None and fresh else None)
            self._hits += fresh
        return records

    def keeping(self, keys: list[bytes], done: Callable[[list[Any]], None]) -> Callable[[list[Any]], None]:
        """Wrap ``done`` for a read of these keys that begins now, so that it also keeps copies of the hot keys."""
        near, instant = self._near, self._instant
        ticket, began = near.ticket(), instant.now
        hot = dict.fromkeys(self._hot.among(keys))
        self._misses += len(hot)

        def keep(results: list[Any]) -> None:
            for key, record in zip(keys, results, strict=True):
                if key in hot and type(record) is bytes and is_live(record, instant.now_bytes):
                    left_s = (expires_ms_of(record) - instant.wall_ms) / 1000
                    until = min(began + near.ttl_s, instant.now + left_s)
                    near.fill(key, [until, None, record, version_of(record), key], ticket, instant.now)
            done(results)

        return keep

    def on_announced(self, event: Event) -> None:
        """Void copies by what this node itself announces. While it follows no stream, it has no copies."""
        if self.followed:
            self._near.on_event(self._membership.own_id, event, self._instant.now)

    def on_stream(self, message: Invalidations) -> None:
        """Void copies by what another member announced."""
        self._streams.receive(message, self._instant.now)
        self._near.follow(self._streams.live_until)

    def on_lost(self) -> None:
        """Void all copies, because a frame that cannot be read may have announced anything."""
        self._streams.lose_all(self._instant.now)

    def run(self) -> None:
        """Follow the streams of all members while copies are useful, and notice a silent stream."""
        now, digest = self._instant.now, self._view.digest
        if now >= self._wanted_until and not self.followed:
            return
        members = {fact.node_id: fact.publish for fact in self._membership.peers()}
        wanted = sorted(members.values()) if now < self._wanted_until else []
        if wanted != self.followed or digest != self._digest:
            self.followed, self._digest = wanted, digest
            self._near.suspend()
            self._streams.follow(members if wanted else {}, self._digest, now)
            self._outbox.follow_streams(wanted)
        self._streams.review(now)
        self._near.follow(self._streams.live_until)

    def statistics(self) -> dict[str, int]:
        """Return what ``meshcache stats`` shows of this part, as plain values."""
        near = self._near
        return {
            "copies": len(near.entries),
            "copy_hits": self._hits,
            "copy_misses": self._misses,
            "copies_refused": near.refused,
            "streams_followed": len(self.followed),
        }
