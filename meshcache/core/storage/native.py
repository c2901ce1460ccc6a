"""The native twin of ``Store``: the same interface and the same results, in memory of its own.

What is called often, or changes what is held, is in C (meshcache/_native/store.c). The rest is here, as in the twin.
``NATIVE`` charges are what its entries take.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Final, Self

from meshcache._native import compiled
from meshcache.core.counters import StoreStatistics
from meshcache.core.storage.charges import NATIVE, Charges, check_limits
from meshcache.core.storage.recency import RINGS, is_s3fifo
from meshcache.core.storage.store import TOMBSTONE_SHARE
from meshcache.core.storage.tags import TagIndex
from meshcache.protocol.record import VERSION_BYTES

_COUNTS: Final = [field.name for field in fields(StoreStatistics) if field.name not in {"tags", "bearers"}]


class NativeStore(compiled.Entries):
    """The records of one node; see ``Store``."""

    def __new__(
        cls,
        *,
        slots: int,
        max_entries: int,
        max_bytes: int,
        grace_ms: int = 0,
        eviction: str = "lru",
        charges: Charges = NATIVE,
    ) -> Self:
        """Make an empty store."""
        check_limits(slots, max_entries, max_bytes)
        limits = slots, max_entries, max_bytes, int(max_bytes * TOMBSTONE_SHARE)
        return super().__new__(cls, *limits, grace_ms, is_s3fifo(eviction), charges, TagIndex(slots))

    def slot_digest(self, slot: int) -> bytes:
        """See ``Store.slot_digest``."""
        if self.take_changed(slot):
            held = b"\0".join(sorted(self.versioned_keys(slot)))
            self.digests[slot] = hashlib.md5(held, usedforsecurity=False).digest()[:8]
        return self.digests[slot]

    def digest_cost(self, slot: int) -> int:
        """See ``Store.digest_cost``."""
        return self.count_of_slot(slot) if self.is_changed(slot) else 0

    def above_floor(self, keys: list[bytes], records: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """See ``Store.above_floor``."""
        floors = self.floors
        if not any(floors):
            return keys, records
        kept = [
            (key, record)
            for key, record in zip(keys, records, strict=True)
            if record[:VERSION_BYTES] > floors[self.slot_of(key)] or key in self
        ]
        return [key for key, _ in kept], [record for _, record in kept]

    def void_slot(self, slot: int, version: bytes) -> int:
        """See ``Store.void_slot``."""
        dropped = self.drop_slot(slot)
        self.floors[slot] = version
        return dropped

    def bury(
        self, slot: int, tag: bytes, version: bytes, *, until_ms: int, now_ms: int, limit: int
    ) -> dict[bytes, bool]:
        """See ``Store.bury``."""
        return self.bury_entries(self.tags.bearers_of(slot, tag), version, until_ms, now_ms, limit)

    def statistics(self) -> StoreStatistics:
        """See ``Store.statistics``."""
        counts = dict(zip(_COUNTS, self.counts(), strict=True))
        return StoreStatistics(**counts, tags=len(self.tags), bearers=self.tags.bearers)

    def contradictions(self) -> list[str]:
        """See ``Store.contradictions``."""
        (held, indices, free), figures = self.sizes(), self.statistics()
        if indices == held + free + RINGS and held == figures.entries + figures.tombstones:
            return []
        return [f"the store has {held} keys, but {figures.entries} entries and {figures.tombstones} tombstones"]
