"""Copies of hot keys at a node that does not own them: for who asks a node that must ask others.

Clients know the ring and ask owners; so this is for those that do not, and for the moments in which a client works with
an older ring. Such a node would pass every read of a hot key on to its owners. Instead it keeps what they answered for
``hot_keys.copy_ttl_s``, by the rules of a client's near cache (near_store.py): voided by the invalidation streams of
all other members, which the node follows (invalidation.py) from the first such read on and until there was none for
``IDLE_S``, and by what it announces itself.

Only reads at the mesh's own consistency are answered from copies, and only where that is one replica. And only of who
works with another ring than this node: its near cache keeps nothing of such an answer (near_cache.py), for a copy of a
copy could be twice as old as either may be.
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
"""The streams are followed for so long after the last read that could have used a copy."""

_UNTIL: Final = 0
_RECORD: Final = 2


class HotCopies:
    """The copies of one node, and the streams that void them."""

    def __init__(
        self, hot: HotKeys, view: View, membership: Membership, outbox: Outbox, instant: Instant, *, enabled: bool
    ) -> None:
        """``enabled``: a read at the mesh's own consistency asks one replica."""
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
        self._followed: list[str] = []
        """Publish addresses that the driver was told to follow."""
        self._digest = b""
        self._hits = 0
        """Keys that were answered from a copy."""
        self._misses = 0

    def read(self, get: Get) -> list[bytes | None] | None:
        """Return per key a copy or None; None if none of the keys is hot, or copies will not do."""
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
        """Return ``done`` for a read of these keys that begins now, such that it keeps copies of what is hot."""
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
        """This node announces something itself. While it follows nobody it has no copy, and takes note of nothing."""
        if self._followed:
            self._near.on_event(self._membership.own_id, event, self._instant.now)

    def on_stream(self, message: Invalidations) -> None:
        """Take what another member announced."""
        self._streams.receive(message, self._instant.now)
        self._near.follow(self._streams.live_until)

    def on_lost(self) -> None:
        """Something arrived that can not be read."""
        self._streams.lose_all(self._instant.now)

    def run(self) -> None:
        """Follow the members, as long as copies are of use, and look for silence."""
        now, digest = self._instant.now, self._view.digest
        if now >= self._wanted_until and not self._followed:
            return
        members = {fact.node_id: fact.publish for fact in self._membership.peers()}
        wanted = sorted(members.values()) if now < self._wanted_until else []
        if wanted != self._followed or digest != self._digest:
            self._followed, self._digest = wanted, digest
            self._near.suspend()
            self._streams.follow(members if wanted else {}, self._digest, now)
            self._outbox.follow_streams(wanted)
        self._streams.review(now)
        self._near.follow(self._streams.live_until)

    def statistics(self) -> dict[str, int]:
        """Return what there is to tell, as plain values."""
        near = self._near
        return {
            "copies": len(near.entries),
            "copy_hits": self._hits,
            "copy_misses": self._misses,
            "copies_refused": near.refused,
            "streams_followed": len(self._followed),
        }
