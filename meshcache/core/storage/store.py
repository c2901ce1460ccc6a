"""What one node holds: records by key, within an entry limit and a byte limit.

Layout. Every entry has an index into parallel columns (``_records``, ``_keys``, ``_before``, ``_after``, and one of the
calendar); one dict per slot leads from key to index. So no table is so large that its resize would take noticeable
time, an entry costs no object of its own but one int, the columns hold nothing that the garbage collector would follow,
and a slot can be listed or dropped alone.

Recency. ``_before`` and ``_after`` link the entries into rings; which entry goes next is said in recency.py. The order
of LRU is kept here, by the writes and the noted reads. A tombstone is never evicted because it was not *used*, but when
its grace period ends or the tombstones outgrow their share.

Reads only note the indices they hit. The notes are replayed before anything else moves in the rings or leaves them.

Expiry. When an entry expires is booked in a calendar: calendar.py.

Traces. When a value expires, an older value with a longer life may still be on its way here, or be held by a replica
that missed the newer one; it must not come back. So where that is possible, a value that expires leaves a tombstone of
its version, a *trace*: until ``SETTLE_MS`` after the write, and as long as the value that it replaced would have lived,
but no longer than a delete is remembered. A value that outlives both times leaves no trace: the usual case.

Bytes. What an entry is charged is said in charges.py, and written out here where it counts. The flags
of a record are zero in all but tombstones and records with extras: where they are zero, nothing else need be checked.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Any, Final
from zlib import crc32

from meshcache.core.counters import StoreStatistics
from meshcache.core.storage.calendar import Calendar
from meshcache.core.storage.charges import PYTHON, Charges, check_limits
from meshcache.core.storage.recency import DEAD, LIVE, RINGS, LeastRecentlyUsed, Recency, S3Fifo, is_s3fifo
from meshcache.core.storage.tags import TagIndex
from meshcache.protocol.clock import past_revisions, wall_ms_of
from meshcache.protocol.record import (
    EXTRAS,
    HEADER_BYTES,
    NEVER_MS,
    TOMBSTONE,
    VERSION_BYTES,
    expires_ms_of,
    expiry_bytes,
    same_extras,
    tombstone,
    version_of,
)

TOMBSTONE_SHARE: Final = 0.05
"""The part of the byte limit that tombstones may take from live entries."""

SETTLE_MS: Final = 10_000
"""For so long after a write, older writes of its key may still arrive: late ones, hints, repairs."""

NOTED_READS_MAX: Final = 4096
"""Reads noted before they are replayed; bounds the replay to about a millisecond."""

COMPACTED_ENTRIES_MAX: Final = 4096
"""Entries of slot tables that one merge copies at most, and then one table more; bounds it to a few milliseconds."""

_NOTHING: Final = LIVE
"""The index of a key that is not held. Its record, that of the sentinel, reads as expired."""
_SENTINEL_RECORD: Final = bytes(HEADER_BYTES)
_NEVER: Final = expiry_bytes(NEVER_MS)


class Store:
    """The records of one node. The store reads no clock: the wall time, in milliseconds, is an argument."""

    def __init__(
        self,
        *,
        slots: int,
        max_entries: int,
        max_bytes: int,
        grace_ms: int = 0,
        eviction: str = "lru",
        charges: Charges = PYTHON,
    ) -> None:
        check_limits(slots, max_entries, max_bytes)
        self.slots = slots
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.charges = charges
        self._key_pad, self._key_mask, self._record_pad, self._overhead = charges
        self._grace_ms = grace_ms
        """For so long after a write, any replica may still hold what was there before the write."""
        self._mask = slots - 1
        self._tombstone_bytes_max = int(max_bytes * TOMBSTONE_SHARE)
        self._tables: list[dict[bytes, int]] = [{} for _ in range(slots)]
        self._table_bytes = [0] * slots
        self._changed = bytearray(b"\1" * slots)
        """Per slot: 1 if its digest is out of date."""
        self._digests = [b""] * slots
        self.floors = [b""] * slots
        """Eviction floors: per slot, the greatest version that was evicted or dropped."""
        self._compactable = 0
        self._hits = self._misses = self._evictions = self._expirations = 0
        self._tombstones_reaped = self._tombstones_dropped = self._refused = 0
        # These objects live as long as the store: in a process that calls gc.freeze() after making the store, the
        # garbage collector never visits them again, however much they grow.
        self._records: list[bytes] = []
        self._keys: list[bytes] = []
        self._before = array("I")
        self._after = array("I")
        self._covers: dict[int, int] = {}
        """By index, until when (ms) an older value of the key would live, where that is longer than the record."""
        self._free: list[int] = []
        self.tags = TagIndex(slots)
        self._noted: list[int] = []
        self._calendar = Calendar()
        self._book = self._calendar.book
        self._queues = self._make_queues() if is_s3fifo(eviction) else None
        """Under S3-FIFO, what is to be told of every entry; the order of LRU is kept here."""
        recency: Recency = self._queues or LeastRecentlyUsed(self._before, self._after, self._noted)
        self._replay = recency.replay
        """Takes in the noted reads."""
        self._now_bytes = expiry_bytes(0)
        """The time of the present merge, or of the read that frees what has expired."""
        self._reset()

    def _reset(self) -> None:
        self._changed[:] = b"\1" * len(self._changed)
        self.floors[:] = [b""] * len(self.floors)
        self._records[:] = [_SENTINEL_RECORD] * RINGS
        self._keys[:] = [b""] * RINGS
        for column in (self._before, self._after):
            column[:] = array("I", range(RINGS))
        self._calendar.clear(RINGS)
        if self._queues is not None:
            self._queues.clear()
        self._free.clear()
        self.tags.clear()
        self._noted.clear()
        self._covers.clear()
        self._entries = self._tombstones = self._bytes = self._tombstone_bytes = 0

    def _make_queues(self) -> S3Fifo:
        return S3Fifo(
            self._before,
            self._after,
            self._noted,
            self._keys,
            self._records,
            max_entries=self.max_entries,
            max_bytes=self.max_bytes,
            charges=self.charges,
        )

    # Reading

    def read(self, keys: list[bytes], now_bytes: bytes) -> list[bytes | None]:
        """Return the record held for each key, also a tombstone; None where there is none, or it has expired."""
        tables, records, mask, noted = self._tables, self._records, self._mask, self._noted
        indices = [tables[crc32(key) & mask].get(key, _NOTHING) for key in keys]
        found: list[Any] = [records[index] for index in indices]
        # Usually all keys are hits: one more pass shows that, and then the notes are one copy. The pass looks at
        # ``found`` and not at ``records`` again, which would touch half of the records' memory: 3 µs of 100 keys.
        if [None for record in found if record[16:22] <= now_bytes or record[22] & TOMBSTONE]:
            indices = self._sort_out(indices, found, now_bytes)
        noted += indices
        self._hits += len(indices)
        self._misses += len(keys) - len(indices)
        if len(noted) >= NOTED_READS_MAX:
            self._replay()
        return found

    def _sort_out(self, indices: list[int], found: list[bytes | None], now_bytes: bytes) -> list[int]:
        """Set to None what is not held or has expired, free the latter, and return the indices of the live records."""
        records = self._records
        hits: list[int] = []
        overdue: dict[int, None] = {}
        for position, index in enumerate(indices):
            record = records[index]
            if record[16:22] <= now_bytes:
                found[position] = None
                if index != _NOTHING:
                    overdue[index] = None
            elif not record[22] & TOMBSTONE:
                hits.append(index)
        if overdue:
            self._replay()
            self._now_bytes = now_bytes
            for index in overdue:
                self._free_overdue(index)
        return hits

    def peek(self, key: bytes) -> bytes | None:
        """Return the record held, whatever its state, without counting a read."""
        index = self._tables[crc32(key) & self._mask].get(key)
        return None if index is None else self._records[index]

    def keys_of_slot(self, slot: int) -> list[bytes]:
        """Return the keys of one slot, also those of tombstones."""
        return list(self._tables[slot])

    def keys_of_ring(self, ring: int) -> list[bytes]:
        """Return the keys of one of the rings of recency.py, in its order."""
        self._replay()
        keys, index = [], self._after[ring]
        while index >= RINGS:
            keys.append(self._keys[index])
            index = self._after[index]
        return keys

    def slot_digest(self, slot: int) -> bytes:
        """Return eight bytes that are equal where two stores hold the same keys at the same versions."""
        if self._changed[slot]:
            self._changed[slot] = 0
            records = self._records
            held = sorted([key + records[index][:VERSION_BYTES] for key, index in self._tables[slot].items()])
            self._digests[slot] = hashlib.md5(b"\0".join(held), usedforsecurity=False).digest()[:8]
        return self._digests[slot]

    def digest_cost(self, slot: int) -> int:
        """Return how many entries ``slot_digest`` would have to look at."""
        return len(self._tables[slot]) if self._changed[slot] else 0

    # Writing

    def above_floor(self, keys: list[bytes], records: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return the part of a repair that may be stored: no record that may be older than one that was forgotten here.

        A replica must never come to hold less than it once did, or it would vote for an old value. What the replica
        evicted is not remembered by key, but by the greatest version evicted in each slot, the eviction floor: a repair
        of a key that is not held must be above it. So forgetting costs misses, and never a stale read.
        """
        tables, floors, mask = self._tables, self.floors, self._mask
        if not any(floors):
            return keys, records
        kept = [
            (key, record)
            for key, record in zip(keys, records, strict=True)
            if record[:VERSION_BYTES] > floors[crc32(key) & mask] or key in tables[crc32(key) & mask]
        ]
        return [key for key, _ in kept], [record for _, record in kept]

    def merge(self, keys: list[bytes], records: list[bytes], now_ms: int) -> tuple[list[list[int | bytes]], list[int]]:
        """Store each record unless a greater version is held.

        Return ``newer``, pairs of the index of a refused record and the version held, and ``live``, the indices of
        tombstones that replaced a live record. An equal version is already stored. A record that has expired, or that
        is larger than the whole store, is not stored; the older record that it replaces is dropped all the same, so
        that an older value never shows again.
        """
        self._replay()
        self._now_bytes = now_bytes = expiry_bytes(now_ms)
        self._calendar.turn_to(now_ms)
        self._compactable = COMPACTED_ENTRIES_MAX
        tables, held_records, mask = self._tables, self._records, self._mask
        changed, queues = self._changed, self._queues
        before, after = self._before, self._after
        newer: list[list[int | bytes]] = []
        live: list[int] = []
        for position, (key, record) in enumerate(zip(keys, records, strict=True)):
            slot = crc32(key) & mask
            changed[slot] = 1
            index = tables[slot].get(key)
            expiry = record[16:22]
            if index is None and expiry > now_bytes:
                self._insert(slot, key, record)
                continue
            held = _SENTINEL_RECORD if index is None else held_records[index]
            version = record[:VERSION_BYTES]
            if not held[:VERSION_BYTES] < version:
                if held[:VERSION_BYTES] > version:
                    newer.append([position, held[:VERSION_BYTES]])
                continue
            flags, flags_held = record[22], held[22]
            ring = flags & TOMBSTONE
            if ring and not flags_held & TOMBSTONE and held[16:22] > now_bytes:
                live.append(position)
            if index is None or expiry <= now_bytes:
                self._merge_expired(key, record, index, now_ms)
                continue
            if (flags or flags_held) and not same_extras(record, held):
                self._count(slot, index, key, held, -1)
                self._count(slot, index, key, record)
            elif len(record) != len(held):
                other = ((len(key) + self._key_pad) & self._key_mask) + self._record_pad
                self._bytes += ((other + len(record)) & -16) - ((other + len(held)) & -16)
            held_records[index] = record
            if queues is None:
                previous, following = before[index], after[index]
                after[previous], before[following] = following, previous
                last = before[ring]
                before[index], after[index] = last, ring
                after[last] = before[ring] = index
            else:
                queues.replace(index, held)
            # A later expiry keeps the booking of the earlier one.
            if expiry < held[16:22]:
                self._shorten(index, record, held)
            if self._bytes > self.max_bytes or self._entries > self.max_entries:
                self._make_room(index)
        return newer, live

    def _shorten(self, index: int, record: bytes, held: bytes) -> None:
        """Book a record that expires earlier than the one it has replaced, which may still show at another replica."""
        self._book(index, record)
        if not record[22] & TOMBSTONE:
            self._covers[index] = max(self._covers.get(index, 0), self._covered_until(record, held))

    def _merge_expired(self, key: bytes, record: bytes, index: int | None, now_ms: int) -> None:
        """Drop the record that is replaced by one that has already expired, and leave a trace of the latter."""
        until_ms = wall_ms_of(record) + SETTLE_MS
        if index is not None:
            until_ms = max(until_ms, self._covered_until(record, self._records[index]))
            self._remove(index)
        if until_ms > now_ms and not record[22] & TOMBSTONE:
            self._insert(crc32(key) & self._mask, key, tombstone(version_of(record), until_ms))

    def _insert(self, slot: int, key: bytes, record: bytes) -> None:
        before, after = self._before, self._after
        table = self._tables[slot]
        flags = record[22]
        ring = flags & TOMBSTONE
        last = before[ring]
        if self._free:
            index = self._free.pop()
            self._records[index] = record
            self._keys[index] = key
            before[index] = last
            after[index] = ring
            table[key] = index
            if table.__sizeof__() != self._table_bytes[slot]:
                self._compact(slot)
        else:
            table[key] = index = len(before)
            self._records.append(record)
            self._keys.append(key)
            before.append(last)
            after.append(ring)
            self._calendar.booked.append(0)
        if self._queues is None:
            after[last] = before[ring] = index
        else:
            self._queues.enter(index)
        if flags:
            self._count(slot, index, key, record)
        else:
            self._entries += 1
            size = ((len(key) + self._key_pad) & self._key_mask) + len(record) + self._record_pad
            self._bytes += (size & -16) + self._overhead
        if record[16:22] != _NEVER:
            self._book(index, record)
        if self._bytes > self.max_bytes or self._entries > self.max_entries:
            self._make_room(index)

    def _compact(self, slot: int) -> None:
        """Make a slot's dict as small as it can be, after inserts and deletes have made it resize.

        A dict counts deleted entries as used until it resizes, and then takes room for three times what it holds: up to
        60 bytes an entry more than a fresh one. A copy is compact; it is worth its time while it leaves room for a
        quarter more inserts. The dict object stays the same one, see __init__. Slots fill at the same rate and so need
        this at the same time: what exceeds the budget of a merge is left to the next insert into the slot.
        """
        if self._compactable <= 0:
            return
        table = self._tables[slot]
        self._compactable -= len(table)
        places = 8
        while places * 2 // 3 < len(table):
            places *= 2
        if len(table) * 5 <= places * 2 // 3 * 4:
            fresh = dict(table)
            table.clear()
            table.update(fresh)
        self._table_bytes[slot] = table.__sizeof__()

    def _count(self, slot: int, index: int, key: bytes, record: bytes, sign: int = 1) -> None:
        """Add a record that has taken its place to the counts; with -1, subtract one that leaves it."""
        size = ((len(key) + self._key_pad) & self._key_mask) + len(record) + self._record_pad
        size = (size & -16) + self._overhead
        if record[22] & EXTRAS:
            size += self.tags.add(slot, index, record) if sign > 0 else self.tags.remove(slot, index, record)
        self._bytes += sign * size
        if record[22] & TOMBSTONE:
            self._tombstones += sign
            self._tombstone_bytes += sign * size
        else:
            self._entries += sign

    # Dropping

    def drop_slot(self, slot: int) -> int:
        """Drop all that one slot holds, and return how many records that were, tombstones included."""
        self._replay()
        indices = list(self._tables[slot].values())
        for index in indices:
            self._remove(index)
        self.floors[slot] = b""
        return len(indices)

    def void_slot(self, slot: int, version: bytes) -> int:
        """Drop all that one slot holds, and store no repair of it that is not newer than this version."""
        dropped = self.drop_slot(slot)
        self.floors[slot] = version
        return dropped

    def sweep(self, slot: int, prefix: bytes, version: bytes) -> int:
        """Drop a slot's entries with this prefix and no greater version; return their number. Tombstones stay."""
        self._replay()
        records = self._records
        doomed = [
            index
            for key, index in self._tables[slot].items()
            if key.startswith(prefix)
            and records[index][:VERSION_BYTES] <= version
            and not records[index][22] & TOMBSTONE
        ]
        for index in doomed:
            self._remove(index)
        return len(doomed)

    def bury(
        self, slot: int, tag: bytes, version: bytes, *, until_ms: int, now_ms: int, limit: int
    ) -> dict[bytes, bool]:
        """Put tombstones in place of a slot's entries with this tag and a lower version; drops.py has their versions.

        Return the keys of those replaced, ``limit`` at most, and whether each was live.
        """
        self._replay()
        self._calendar.turn_to(now_ms)
        records, now_bytes = self._records, expiry_bytes(now_ms)
        found = [i for i in self.tags.bearers_of(slot, tag) if records[i][:VERSION_BYTES] < version][:limit]
        buried = {self._keys[i]: records[i][16:22] > now_bytes for i in found}
        for index in found:
            self._leave_trace(index, tombstone(past_revisions(version_of(records[index])), until_ms))
            self._changed[slot] = 1
        return buried

    def clear(self) -> None:
        """Drop everything at once. It takes as long as there are entries; ``drop_slot`` does it in small steps."""
        for table in self._tables:
            table.clear()
        self._reset()

    def _remove(self, index: int) -> None:
        """Forget one entry. The noted reads must have been replayed."""
        before, after = self._before, self._after
        previous, following = before[index], after[index]
        after[previous] = following
        before[following] = previous
        if self._covers:
            self._covers.pop(index, None)
        key, record = self._keys[index], self._records[index]
        if self._queues is not None and self._queues.marks[index]:
            self._queues.leave(index, record)
        slot = crc32(key) & self._mask
        del self._tables[slot][key]
        self._changed[slot] = 1
        if record[22]:
            self._count(slot, index, key, record, -1)
        else:
            self._entries -= 1
            size = ((len(key) + self._key_pad) & self._key_mask) + len(record) + self._record_pad
            self._bytes -= (size & -16) + self._overhead
        self._keys[index] = self._records[index] = b""
        self._free.append(index)

    def _make_room(self, written: int) -> None:
        """Evict until the store is within its limits, after an entry was written; the written entry is the last to go.

        If that entry exceeds the byte limit by itself, it is refused, and no other entry is evicted for it.
        """
        if self._bytes > self.max_bytes and self._is_too_large(written):
            self._refused += 1
            self._remove(written)
            return
        after, queues = self._after, self._queues
        while (excess := self._entries > self.max_entries) or self._bytes > self.max_bytes:
            if not excess and (self._tombstone_bytes > self._tombstone_bytes_max or not self._entries):
                self._tombstones_dropped += 1
                self._forget(after[DEAD])
                continue
            index = after[LIVE]
            if queues is not None:
                ghost_bytes = queues.ghosts.bytes
                index = queues.victim(written, self._now_bytes, self._entries)
                self._bytes += queues.ghosts.bytes - ghost_bytes
                if self._records[index][16:22] <= self._now_bytes:
                    self._free_overdue(index)
                    continue
            self._evictions += 1
            self._forget(index)

    def _is_too_large(self, index: int) -> bool:
        """Tell whether the byte limit, without what ghosts take of it, has no room for this entry."""
        ghost_bytes = 0 if self._queues is None else self._queues.ghosts.bytes
        return self.charges.entry_bytes(self._keys[index], self._records[index]) > self.max_bytes - ghost_bytes

    def _forget(self, index: int) -> None:
        """Evict a record that is still valid: from now on, nothing as old is taken from repairs of its slot."""
        slot = crc32(self._keys[index]) & self._mask
        version = self._records[index][:VERSION_BYTES]
        if version > self.floors[slot]:  # noqa: PLR1730  # max() would be one call more in each eviction
            self.floors[slot] = version
        self._remove(index)

    # Expiry

    def expire(self, now_ms: int, budget: int) -> bool:
        """Free entries that have expired, checking ``budget`` entries at most; tell whether more are due."""
        settled = expiry_bytes(max(0, now_ms - SETTLE_MS))
        self._replay()
        now_bytes = expiry_bytes(now_ms)
        self._calendar.turn_to(now_ms)
        taken, is_more_due = self._calendar.take(now_ms, budget)
        for index in taken:
            record = self._records[index]
            if not record:
                continue
            if record[16:22] <= now_bytes:
                self._free_expired(index, now_ms, settled)
            elif record[16:22] != _NEVER:
                self._book(index, record)
        return is_more_due

    def _free_overdue(self, index: int) -> None:
        """Free an entry that was found to have expired, by a read or a write at ``_now_bytes``."""
        now_ms = int.from_bytes(self._now_bytes, "big")
        self._free_expired(index, now_ms, expiry_bytes(max(0, now_ms - SETTLE_MS)))

    def _free_expired(self, index: int, now_ms: int, settled: bytes) -> None:
        """Free an expired entry. If it was written before ``settled``, only a longer life before it needs a trace."""
        record = self._records[index]
        if record[22] & TOMBSTONE:
            self._tombstones_reaped += 1
            self._remove(index)
            return
        self._expirations += 1
        if record[:6] > settled or index in self._covers:
            until_ms = max(wall_ms_of(record) + SETTLE_MS, self._covers.get(index, 0))
            if until_ms > now_ms:
                self._leave_trace(index, tombstone(version_of(record), until_ms))
                return
        self._remove(index)

    def _leave_trace(self, index: int, trace: bytes) -> None:
        key, before, after = self._keys[index], self._before, self._after
        slot = crc32(key) & self._mask
        record = self._records[index]
        self._count(slot, index, key, record, -1)
        self._count(slot, index, key, trace)
        if self._queues is not None:
            self._queues.leave(index, record)
        self._records[index] = trace
        self._covers.pop(index, None)
        previous, following = before[index], after[index]
        after[previous], before[following] = following, previous
        last = before[DEAD]
        before[index], after[index] = last, DEAD
        after[last] = before[DEAD] = index
        self._book(index, trace)

    def _covered_until(self, record: bytes, held: bytes) -> int:
        """Return until when some replica that missed this record may still show the value held here before."""
        return min(expires_ms_of(held), wall_ms_of(record) + self._grace_ms)

    def statistics(self) -> StoreStatistics:
        """Return the counters as they are now."""
        queues = self._queues
        return StoreStatistics(
            entries=self._entries,
            tombstones=self._tombstones,
            bytes=self._bytes,
            tombstone_bytes=self._tombstone_bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            expirations=self._expirations,
            tombstones_reaped=self._tombstones_reaped,
            tombstones_dropped=self._tombstones_dropped,
            refused=self._refused,
            bookings=self._calendar.bookings,
            covers=len(self._covers),
            tags=len(self.tags),
            bearers=self.tags.bearers,
            small_entries=queues.small_entries if queues else 0,
            small_evictions=queues.small_evictions if queues else 0,
            promotions=queues.promotions if queues else 0,
            ghost_hits=queues.ghost_hits if queues else 0,
            ghost_bytes=queues.ghosts.bytes if queues else 0,
        )

    def contradictions(self) -> list[str]:
        """Describe what contradicts itself in tables, columns and counts: nothing in a right program. O(slots)."""
        held = sum(map(len, self._tables))
        calendar = self._calendar.booked
        lengths = {len(self._records), len(self._keys), len(self._before), len(self._after), len(calendar)}
        if lengths == {held + len(self._free) + RINGS} and held == self._entries + self._tombstones:
            return []
        return [f"the store has {held} keys, but {self._entries} entries and {self._tombstones} tombstones"]
