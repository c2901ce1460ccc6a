"""What this node holds, as operations change it: the store, and all that must follow when something is stored.

Every record that comes to a node is merged here. What a clear or a tag invalidation has dropped stays out, the fill
leases hear of each write (fill_leases.py), and what a repair changes is announced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sized

from meshcache.config import StoreSettings
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.core.storage.drop_floors import Floors
from meshcache.core.storage.store import Store
from meshcache.protocol import messages as m
from meshcache.protocol.clock import HybridClock, wall_ms_of
from meshcache.protocol.messages import EventKind
from meshcache.protocol.record import NEVER_MS, expiry_bytes, is_tombstone, tombstone, version_of


class Replica:
    """This node as a replica of the slots that it holds.

    ``on_announced`` is called with each announcement of the node.
    """

    __slots__ = (
        "_clock",
        "_instant",
        "_note_written",
        "_on_announced",
        "_outbox",
        "default_ttl_ms",
        "floors",
        "memory",
        "store",
        "watched",
    )

    def __init__(
        self,
        settings: StoreSettings,
        store: Store,
        clock: HybridClock,
        outbox: Outbox,
        instant: Instant,
        on_announced: Callable[[m.Event], None],
    ) -> None:
        self.store = store
        self.floors = Floors(int(settings.tombstone_grace_s * 1000))
        ttl_s = settings.default_ttl_s
        self.default_ttl_ms = m.TTL_NEVER if ttl_s == math.inf else max(1, round(ttl_s * 1000))
        self._clock = clock
        self._outbox = outbox
        self._instant = instant
        self._on_announced = on_announced
        self.watched: Sized = ()
        self._note_written: Callable[[list[bytes], list[bytes]], None] = lambda *_: None
        """Told of what is stored; see ``watch``."""
        self.memory: Callable[[list[bytes], list[bytes]], None] | None = None
        """Told of all that is written here; see ``remember``."""

    def expires_ms(self, ttl_ms: int) -> int:
        """Return the expiry that the ``ttl_ms`` of a message means."""
        if ttl_ms == m.TTL_DEFAULT:
            ttl_ms = self.default_ttl_ms
        return self._instant.wall_ms + ttl_ms if ttl_ms > 0 else NEVER_MS

    def merge(self, keys: list[bytes], records: list[bytes]) -> tuple[list[list[int | bytes]], list[int]]:
        """Store each record unless a newer one is held, or a clear or tag invalidation has dropped it.

        Everything that comes to this node is stored by this method. It returns what ``Store.merge`` returns; for a
        dropped record, the version of the drop stands for the greater version held.
        """
        overruled = self.floors.overruled(keys, records, self._instant.wall_ms) if self.floors else None
        if overruled:
            return self._merge_what_is_left(keys, records, overruled)
        outcome = self.store.merge(keys, records, self._instant.wall_ms)
        if self.watched:
            self._note_written(keys, records)
        return outcome

    def take_write(self, keys: list[bytes], records: list[bytes]) -> tuple[list[list[int | bytes]], list[int]]:
        """Do as ``merge`` with what is being written, as against what comes from another copy."""
        if self.memory is not None:
            self.memory(keys, records)
        return self.merge(keys, records)

    def remember(self, remember: Callable[[list[bytes], list[bytes]], None] | None) -> None:
        """Have somebody told of all that is written here, until None takes its place."""
        self.memory = remember

    def watch(self, keys: Sized, note_written: Callable[[list[bytes], list[bytes]], None]) -> None:
        """Call ``note_written`` with the keys and records that are stored here, whenever ``keys`` is not empty."""
        self.watched, self._note_written = keys, note_written

    def _merge_what_is_left(
        self, keys: list[bytes], records: list[bytes], overruled: dict[int, bytes]
    ) -> tuple[list[list[int | bytes]], list[int]]:
        """Merge a batch of which some records were dropped: ``overruled`` gives the drop's version by their index.

        What a dropped record would have replaced goes with it: a newer version was written and dropped, so no older one
        may stay.
        """
        admitted, kept = list(records), []
        for i, record in enumerate(records):
            if i in overruled:
                admitted[i] = tombstone(overruled[i], wall_ms_of(overruled[i]) + self.floors.grace_ms)
                held = self.store.peek(keys[i])
                if held is None or version_of(held) >= version_of(record):
                    continue
            kept.append(i)
        newer, live = self.store.merge([keys[i] for i in kept], [admitted[i] for i in kept], self._instant.wall_ms)
        if self.watched:
            self._note_written(keys, admitted)
        greater: list[list[int | bytes]] = [[kept[int(place)], version] for place, version in newer]
        told = {place for place, _ in greater}
        greater += [[i, floor] for i, floor in overruled.items() if i not in told]
        return greater, [kept[place] for place in live]

    def merge_repair(self, keys: list[bytes], records: list[bytes]) -> tuple[list[list[int | bytes]], list[int]]:
        """Store the records of a repair, except for keys of which this node has forgotten something as new.

        What a repair replaces is announced: a coordinator that died in the middle of a write announced nothing, and
        near caches must hear that their copies of the old value are void.
        """
        keys, records = self.store.above_floor(keys, records)
        replaced: dict[tuple[EventKind, bytes], list[bytes]] = {}
        for key, record in zip(keys, records, strict=True) if self._outbox.subscribed else ():
            held = self.store.peek(key)
            if held is not None and version_of(held) < version_of(record):
                kind = EventKind.DELETE if is_tombstone(record) else EventKind.SET
                replaced.setdefault((kind, version_of(record)), []).append(key)
        for (kind, version), changed in replaced.items():
            self.publish(kind, version, changed)
        return self.merge(keys, records)

    def stamp(self, expires_ms: int) -> bytes:
        """Return a new version with this expiry: put before a content, they make a record."""
        return self._clock.tick(self._instant.wall_ms) + expiry_bytes(expires_ms)

    def publish(self, kind: EventKind, version: bytes, keys: list[bytes]) -> None:
        """Put what happened to these keys into this node's invalidation stream."""
        event = m.Event(int(kind), version, keys)
        self._outbox.events.append(event)
        self._on_announced(event)
