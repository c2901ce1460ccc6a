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
its ghost. Here it is exactly this, with what follows under "Regret"; all numbers are constants below:

- Each live entry is in one of two queues, ``SMALL`` or ``LIVE`` (the main queue), and has a count of *uses*, 0 to 3.
- A *read* adds one to the uses, up to 3, and moves nothing. An *overwrite* of a live entry changes neither its place
  nor its uses. A tombstone in place of a live entry leaves the queues; a live record in its place comes in anew.
- The small queue is *over its share*, ``share`` of 64, when it has more entries than ``max(1, max_entries * share //
  64)`` or more bytes than ``max_bytes * share // 64``. Its bytes are what keys and records are charged (charges.py),
  without tags. The share is a quarter, unless there is much regret.
- An entry *enters* with no uses. It is appended to the main queue if a ghost of its key is found, which is removed by
  that, and there is no doubt; or if there is no ghost, the store has never evicted, and the small queue is over its
  share: the entries that fill a store have nobody to prove themselves against. Else it is appended to the small queue.
- A *victim* is looked for at the head of the small queue if that is over its share or the main queue is empty, else at
  the head of the main queue. The entry for which room is made is passed over: the entry after it is looked at, or, if
  it is alone, the head of the other queue; only if there is no other live entry at all does it go itself. The entry
  looked at goes if it has expired, whatever its uses (a rival only as long as it lives). Else, without uses, it goes,
  and if it was in the small queue, its ghost stays. With uses, it gets another chance: from the small queue it is
  appended to the main queue, its uses are 0; in the main queue it is appended again, its uses less by one. Then the
  search goes on. After ``CHANCES_MAX`` of these, the next one looked at goes, whatever its uses; this bounds a search.

Regret. A small queue loses where the keys that came last are the next to be read, as in sweeps to and fro. So the store
counts, from 0 on, by about how many hits LRU is ahead, as ARC does with its ghosts (Megiddo and Modha, FAST 2003): that
is its *regret*. Reads cost nothing more for it. Below, *entries* are the live ones at the last search for a victim.

- A ghost is *near* if LRU would still have its key: if its place in its bucket, from 0, times the buckets, is less than
  ``entries - entries * share // 64``. The product is about how many ghosts have come since it came.
- There is *doubt* while the regret is at least ``entries // 8 + 4`` and less than ``entries + 4``.
- A near ghost that is found makes the regret one more. But if it is enough for doubt already, and the head of the main
  queue has uses, then that head is appended again, its uses less by one, and the regret is one less, though not less
  than enough for doubt: LRU would have had the one key, and not the other.
- Only then is the ring of the entry chosen. In doubt it is the small one: ghosts drive nothing out of the main queue.
- An entry that enters without a ghost makes the regret one less, if it is not 0 and not enough for doubt. Returns have
  to come in a row.
- A chance that is given in the main queue makes the regret 2 less, but not less than 0: that queue is worth its room.
- While the regret is enough for doubt, or for more, an entry with uses stays in the small queue for its first chance:
  it is appended there again, its uses are 0. When it is given its second, whatever the regret is then, that becomes 2
  less, and the entry goes on to the main queue.
- When the regret changes, ``share`` becomes ``16 + over * 64 // entries``, but no more than 64, where ``over`` is what
  the regret has beyond ``entries + 4``, or 0. So one sweep back over what a store has let go brings doubt only. If the
  regret goes on growing, the main queue was not worth the protection, and the small queue takes its room.

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

WHOLE: Final = 64
"""Shares are in parts of so many."""

SMALL_SHARE: Final = 16
"""The small queue may have this part of the entries and of the bytes while there is not much regret."""

DOUBT_SHARE: Final = 8
DOUBT_MIN: Final = 4
"""There is doubt from this part of the entries and so many more on, one in eight and four, to all and so many more."""

REUSE_WORTH: Final = 2
"""A chance that is given to an entry of the main queue makes the regret so much less."""

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
_STAYED: Final = 8
"""The bit of a mark that says that it has had a chance there."""
_USED: Final = bytes([mark if mark & _USES == _USES else mark + 1 for mark in range(2 * _STAYED)])
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
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.marks = bytearray()
        """By index, the uses, and whether the entry is in the small queue and has stayed; 0 for what is not live."""
        self.ghosts = Ghosts(max_bytes // GHOST_SHARE)
        self.small_evictions = self.promotions = self.ghost_hits = 0
        self.clear()

    def clear(self) -> None:
        """Forget all entries and ghosts; what was counted stays."""
        self.marks[:] = bytes(RINGS)
        self.ghosts.clear()
        self.small_entries = self.small_bytes = 0
        self.regret = self._entries = 0
        self._has_evicted = False
        self._set_share(SMALL_SHARE)

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
        elif (place := self.ghosts.take(key)) >= 0:
            self.ghost_hits += 1
            if place * self.ghosts.buckets < self._entries - self._entries * self.share // WHOLE:
                self._take_near_ghost()
            ring = SMALL if self._doubt_from() <= self.regret < self._doubt_to() else LIVE
        elif not self._has_evicted and self._is_over_share():
            ring = LIVE
        elif 0 < self.regret < self._doubt_from():
            self._set_regret(self.regret - 1)
        if ring == SMALL:
            marks[index] = _IN_SMALL
            self.small_entries += 1
            self.small_bytes += self._charge(key, record)
        self._append(index, ring)

    def _take_near_ghost(self) -> None:
        head = self._after[LIVE]
        if self.regret >= self._doubt_from() and self.marks[head] & _USES:  # the sentinel of an empty queue has no uses
            self.marks[head] -= 1
            self._unlink(head)
            self._append(head, LIVE)
            self._set_regret(max(self.regret - 1, self._doubt_from()))
        else:
            self._set_regret(self.regret + 1)

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
            self._unlink(index)
            self.enter(index)
        elif self.marks[index] & _IN_SMALL:
            key = self._keys[index]
            self.small_bytes += self._charge(key, present) - self._charge(key, record)

    def victim(self, written: int, now_bytes: bytes, entries: int) -> int:
        """Return the entry that goes next, of so many live ones, and leave its ghost; ``written`` is the last to go."""
        after, marks, records = self._after, self.marks, self._records
        self._has_evicted = True
        self._entries = entries
        chances = CHANCES_MAX
        while True:
            ring = SMALL if self._is_over_share() or after[LIVE] == LIVE else LIVE
            index = after[ring]
            if index == written and entries > 1:
                index = after[written]
                if index == ring:
                    index = after[LIVE if ring == SMALL else SMALL]
            mark, record = marks[index], records[index]
            has_expired = record[16:22] <= now_bytes
            if has_expired or not (mark & _USES and chances):
                break
            if self.regret and mark & (_IN_SMALL | _STAYED) != _IN_SMALL:
                self._set_regret(max(0, self.regret - REUSE_WORTH))
            ring = LIVE
            if not mark & _IN_SMALL:
                marks[index] = mark - 1
            elif self.regret >= self._doubt_from() and not mark & _STAYED:
                marks[index] = _IN_SMALL | _STAYED
                ring = SMALL
            else:
                self.promotions += 1
                self.leave(index, record)
            self._unlink(index)
            self._append(index, ring)
            chances -= 1
        if mark & _IN_SMALL:
            self.leave(index, record)
            if not has_expired:
                self.small_evictions += 1
                self.ghosts.add(self._keys[index], entries)
        return index

    def _unlink(self, index: int) -> None:
        before, after = self._before, self._after
        previous, following = before[index], after[index]
        after[previous], before[following] = following, previous

    def _append(self, index: int, ring: int) -> None:
        before, after = self._before, self._after
        last = before[ring]
        before[index], after[index] = last, ring
        after[last] = before[ring] = index

    def _is_over_share(self) -> bool:
        return self.small_entries > self._small_entries_max or self.small_bytes > self._small_bytes_max

    def _doubt_from(self) -> int:
        return self._entries // DOUBT_SHARE + DOUBT_MIN

    def _doubt_to(self) -> int:
        return self._entries + DOUBT_MIN

    def _set_regret(self, regret: int) -> None:
        self.regret = regret
        share = min(WHOLE, SMALL_SHARE + max(0, regret - self._doubt_to()) * WHOLE // self._entries)
        if share != self.share:
            self._set_share(share)

    def _set_share(self, share: int) -> None:
        self.share = share
        """The part of the entries and of the bytes that the small queue may have."""
        self._small_entries_max = max(1, self._max_entries * share // WHOLE)
        self._small_bytes_max = self._max_bytes * share // WHOLE


class Ghosts:
    """Hashes of the keys that went from the small queue."""

    def __init__(self, bytes_max: int) -> None:
        self._buckets_max = bytes_max // _BUCKET_BYTES
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.bytes = 0
        self._table = bytearray()
        self.buckets = 0
        self._entries_min = self._entries_max = 0
        """For how many live entries the table is made."""

    def add(self, key: bytes, entries: int) -> None:
        """Remember a key; the store has so many live entries."""
        if not self._entries_min <= entries <= self._entries_max:
            self._make(entries)
        if self.buckets:
            hashed = crc32(key) or 1
            start = (hashed * self.buckets >> 32) * _BUCKET_BYTES
            table, end = self._table, start + _BUCKET_BYTES
            table[start:end] = hashed.to_bytes(_GHOST_BYTES, "big") + table[start : end - _GHOST_BYTES]

    def take(self, key: bytes) -> int:
        """Return the place of this key in its bucket, 0 is the latest's, and forget it; -1: it is not remembered."""
        hashed = crc32(key) or 1
        start = (hashed * self.buckets >> 32) * _BUCKET_BYTES
        table, end = self._table, start + _BUCKET_BYTES
        ghost = hashed.to_bytes(_GHOST_BYTES, "big")
        at = table.find(ghost, start, end)
        while at % _GHOST_BYTES and at >= 0:  # bytes of two ghosts
            at = table.find(ghost, at + 1, end)
        if at < 0:
            return -1
        table[at:end] = table[at + _GHOST_BYTES : end] + _NO_GHOST
        return (at - start) // _GHOST_BYTES

    def _make(self, entries: int) -> None:
        wanted = -(-(entries + entries // 4) // WAYS)
        self.buckets = min(wanted, self._buckets_max)
        self.bytes = self.buckets * _BUCKET_BYTES
        self._table = bytearray(self.bytes)
        self._entries_min = self.buckets * WAYS // 8
        self._entries_max = self.buckets * WAYS if self.buckets == wanted else 1 << 62
