"""Which entry goes next when a store is full: the rings of its entries, and what moves them.

``before`` and ``after`` are columns of the store. They link its entries into rings, each with a sentinel: indices 0 to
2. What is appended to a ring comes before its sentinel, and what is first comes after it. Ring ``DEAD`` has the
tombstones, oldest first, whatever the policy; the store itself decides when they go. A policy has the live entries.

A policy is told of reads late: the store notes the indices it hits, and has the notes replayed before anything else
moves in the rings or leaves them. So the order is exact whenever an eviction depends on it. Only what clients read is
noted. Writes of any kind, repairs and movement between nodes are no uses for S3-FIFO; LRU counts a write as one.

LRU. Ring ``LIVE`` runs from the least to the most recently used entry, and the first goes. Nothing else need be known,
so the store keeps this order itself, without a call: its hot path.

S3-FIFO (Yang et al., SOSP 2023). Most keys of most caches are used once, and are not worth what they displace. So a new
entry has to prove itself in a small queue before it may stay in the main one, and what was judged too soon is known by
its ghost. Here it is exactly this; all numbers are constants below:

- Each live entry is in one of two queues, ``SMALL`` or ``LIVE`` (the main queue), and has a count of *uses*, 0 to 3.
- A *read* adds one to the uses, up to 3, and moves nothing. An *overwrite* of a live entry changes neither its place
  nor its uses. A tombstone in place of a live entry leaves the queues; a live record in its place comes in anew.
- The small queue is *over its share* when it has more entries than ``max(1, max_entries // 4)`` or more bytes than
  ``max_bytes // 4``. Its bytes are what keys and records are charged (charges.py), without tags.
- An entry *enters* with no uses. It is appended to the main queue if a ghost of its key is found, which is removed by
  that, or if the store has never evicted and the small queue is over its share: the entries that fill a store have
  nobody to prove themselves against. Else it is appended to the small queue.
- A *victim* is looked for at the head of the small queue if that is over its share or the main queue is empty, else at
  the head of the main queue. The entry for which room is made is passed over: the entry after it is looked at, or, if
  it is alone, the head of the other queue; only if there is no other live entry at all does it go itself. The entry
  looked at goes if it has expired, whatever its uses (a rival only as long as it lives). Else, without uses, it goes,
  and if it was in the small queue, its ghost stays. With uses, it gets another chance: from the small queue it is
  appended to the main queue, its uses are 0; in the main queue it is appended again, its uses less by one. Then the
  search goes on. After ``CHANCES_MAX`` of these, the next one looked at goes, whatever its uses; this bounds a search.

Ghosts. A ghost is 32 bits: the crc32 of the key, 1 if that is 0. A key that is no ghost is taken for one with a
probability of about ghosts / 2^32. Ghosts are in buckets of ``WAYS``, bucket ``(hash * buckets) >> 32``, the latest
first; a new one pushes the last out. So ghosts leave about in the order in which they came, with no links, at four
bytes each. The table has ``-(-(entries + entries // 4) // WAYS)`` buckets, by the live entries when it was made. It is
made, empty, when the first ghost comes, and again when there are more live entries than it has places, or fewer than an
eighth. It takes no more than ``max_bytes // 32``: where that is less than a bucket, there are no ghosts; where it
limits the table, the number of entries no longer makes it grow. Its bytes count towards the byte limit.
"""

from __future__ import annotations

from array import array
from typing import Final, Protocol
from zlib import crc32

from meshcache.core.storage.charges import Charges
from meshcache.protocol.record import TOMBSTONE

LIVE: Final = 0
DEAD: Final = 1
SMALL: Final = 2
RINGS: Final = 3
"""The sentinels take so many indices."""

SMALL_SHARE: Final = 4
"""The small queue may have this part of the entries and of the bytes: one in four."""

CHANCES_MAX: Final = 64
"""How many entries one search for a victim may give another chance."""

WAYS: Final = 8
"""The ghosts in a bucket."""

GHOST_SHARE: Final = 32
"""Ghosts may take this part of the byte limit: one in 32."""

_GHOST_BYTES: Final = 4
_BUCKET_BYTES: Final = WAYS * _GHOST_BYTES
_NO_GHOST: Final = bytes(_GHOST_BYTES)

_USES: Final = 3
"""The bits of a mark that count uses."""
_IN_SMALL: Final = 4
"""The bit of a mark that says that the entry is in the small queue."""
_USED: Final = bytes([mark if mark & _USES == _USES else mark + 1 for mark in range(2 * _IN_SMALL)])
"""By mark, what a use makes of it."""


def is_s3fifo(eviction: str) -> bool:
    """Tell which of the two policies a name means."""
    if eviction not in {"lru", "s3fifo"}:
        raise ValueError(f'eviction is {eviction!r}; it must be "lru" or "s3fifo"')
    return eviction == "s3fifo"


class Recency(Protocol):
    """What every policy does for a store."""

    def replay(self) -> None:
        """Take in the reads of the indices that the store has noted, in their order, and empty its list."""


class LeastRecentlyUsed:
    """The order of ring LIVE is the order of the last uses."""

    def __init__(self, before: array[int], after: array[int], noted: list[int]) -> None:
        self._before = before
        self._after = after
        self._noted = noted

    def replay(self) -> None:
        """Move the entries that were read to the recent end of their ring, in the order of the last read of each."""
        noted = self._noted
        if not noted:
            return
        before, after = self._before, self._after
        last = before[LIVE]
        # While this runs, after[last] and before[LIVE] are out of date: nothing below reads them.
        for index in reversed(dict.fromkeys(reversed(noted))):
            if index != last:
                previous, following = before[index], after[index]
                after[previous] = following
                before[following] = previous
                after[last] = index
                before[index] = last
                last = index
        after[last] = LIVE
        before[LIVE] = last
        noted.clear()


class S3Fifo:
    """A small and a main queue, uses, and ghosts. Its store tells it what enters, changes and leaves."""

    def __init__(
        self,
        before: array[int],
        after: array[int],
        noted: list[int],
        keys: list[bytes],
        records: list[bytes],
        *,
        max_entries: int,
        max_bytes: int,
        charges: Charges,
    ) -> None:
        self._charge = charges.untagged_bytes
        self._before = before
        self._after = after
        self._noted = noted
        self._keys = keys
        self._records = records
        self._small_entries_max = max(1, max_entries // SMALL_SHARE)
        self._small_bytes_max = max_bytes // SMALL_SHARE
        self.marks = bytearray()
        """By index, the uses, and whether the entry is in the small queue; 0 for what is not live."""
        self.ghosts = Ghosts(max_bytes // GHOST_SHARE)
        self.small_evictions = self.promotions = self.ghost_hits = 0
        self.clear()

    def clear(self) -> None:
        """Forget all entries and ghosts; what was counted stays."""
        self.marks[:] = bytes(RINGS)
        self.ghosts.clear()
        self.small_entries = self.small_bytes = 0
        self._has_evicted = False

    def replay(self) -> None:
        """Count the uses."""
        marks, used, noted = self.marks, _USED, self._noted
        for index in noted:
            marks[index] = used[marks[index]]
        noted.clear()

    def enter(self, index: int) -> None:
        """Put an entry that is in no ring into the one it belongs to."""
        marks, key, record = self.marks, self._keys[index], self._records[index]
        if index == len(marks):
            marks.append(0)
        ring = SMALL
        if record[22] & TOMBSTONE:
            ring = DEAD
        elif self.ghosts.take(key):
            self.ghost_hits += 1
            ring = LIVE
        elif not self._has_evicted and self._is_over_share():
            ring = LIVE
        else:
            marks[index] = _IN_SMALL
            self.small_entries += 1
            self.small_bytes += self._charge(key, record)
        before, after = self._before, self._after
        last = before[ring]
        before[index], after[index] = last, ring
        after[last] = before[ring] = index

    def leave(self, index: int, record: bytes) -> None:
        """Forget what is known of an entry but its links; ``record`` is what it was counted with."""
        if self.marks[index] & _IN_SMALL:
            self.small_entries -= 1
            self.small_bytes -= self._charge(self._keys[index], record)
        self.marks[index] = 0

    def replace(self, index: int, record: bytes) -> None:
        """Take note that the record of an entry was replaced by the one that it has now."""
        present = self._records[index]
        if (record[22] | present[22]) & TOMBSTONE:
            self.leave(index, record)
            previous, following = self._before[index], self._after[index]
            self._after[previous], self._before[following] = following, previous
            self.enter(index)
        elif self.marks[index] & _IN_SMALL:
            key = self._keys[index]
            self.small_bytes += self._charge(key, present) - self._charge(key, record)

    def victim(self, written: int, now_bytes: bytes, entries: int) -> int:
        """Return the entry that goes next, of so many live ones, and leave its ghost; ``written`` is the last to go."""
        before, after, marks, records = self._before, self._after, self.marks, self._records
        self._has_evicted = True
        chances = CHANCES_MAX
        while True:
            ring = SMALL if self._is_over_share() or after[LIVE] == LIVE else LIVE
            index = after[ring]
            if index == written and entries > 1:
                index = after[written]
                if index == ring:
                    index = after[LIVE if ring == SMALL else SMALL]
            mark, record = marks[index], records[index]
            is_over = record[16:22] <= now_bytes or not (mark & _USES and chances)
            if mark & _IN_SMALL:
                self.small_entries -= 1
                self.small_bytes -= self._charge(self._keys[index], record)
                marks[index] = 0
            if is_over:
                break
            previous, following = before[index], after[index]
            after[previous], before[following] = following, previous
            last = before[LIVE]
            before[index], after[index] = last, LIVE
            after[last] = before[LIVE] = index
            if mark & _IN_SMALL:
                self.promotions += 1
            else:
                marks[index] = mark - 1
            chances -= 1
        if mark & _IN_SMALL and record[16:22] > now_bytes:
            self.small_evictions += 1
            self.ghosts.add(self._keys[index], entries)
        return index

    def _is_over_share(self) -> bool:
        return self.small_entries > self._small_entries_max or self.small_bytes > self._small_bytes_max


class Ghosts:
    """Hashes of the keys that went from the small queue."""

    def __init__(self, bytes_max: int) -> None:
        self._buckets_max = bytes_max // _BUCKET_BYTES
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.bytes = 0
        self._table = bytearray()
        self._buckets = 0
        self._entries_min = self._entries_max = 0
        """For how many live entries the table is made."""

    def add(self, key: bytes, entries: int) -> None:
        """Remember a key; the store has so many live entries."""
        if not self._entries_min <= entries <= self._entries_max:
            self._make(entries)
        if self._buckets:
            hashed = crc32(key) or 1
            start = (hashed * self._buckets >> 32) * _BUCKET_BYTES
            table, end = self._table, start + _BUCKET_BYTES
            table[start:end] = hashed.to_bytes(_GHOST_BYTES, "big") + table[start : end - _GHOST_BYTES]

    def take(self, key: bytes) -> bool:
        """Tell whether this key is remembered, and forget it."""
        hashed = crc32(key) or 1
        start = (hashed * self._buckets >> 32) * _BUCKET_BYTES
        table, end = self._table, start + _BUCKET_BYTES
        ghost = hashed.to_bytes(_GHOST_BYTES, "big")
        at = table.find(ghost, start, end)
        while at % _GHOST_BYTES and at >= 0:  # bytes of two ghosts
            at = table.find(ghost, at + 1, end)
        if at < 0:
            return False
        table[at:end] = table[at + _GHOST_BYTES : end] + _NO_GHOST
        return True

    def _make(self, entries: int) -> None:
        wanted = -(-(entries + entries // 4) // WAYS)
        self._buckets = min(wanted, self._buckets_max)
        self.bytes = self._buckets * _BUCKET_BYTES
        self._table = bytearray(self.bytes)
        self._entries_min = self._buckets * WAYS // 8
        self._entries_max = self._buckets * WAYS if self._buckets == wanted else 1 << 62
