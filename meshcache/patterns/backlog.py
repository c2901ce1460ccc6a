"""The writes that write-behind has accepted and not yet stored: pure, without a disk, a clock or a thread.

Writes wait by key, in their order. A *batch* has the newest write of each of the keys that waited longest; older writes
of these keys need not be stored any more (coalescing). Only one batch is out at a time, so the writes of a key reach
the database in their order. Between keys no order is kept.

A write that the database refuses is tried alone the next time, after a random pause whose limit doubles (full jitter),
and is set aside after ``attempts`` refusals; writes of other keys go on meanwhile. While the database cannot be
reached, everything waits, and no attempt counts against a write.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

ENTRY_OVERHEAD_BYTES: Final = 300
"""About how much memory a waiting write takes beside its key and value."""


@dataclass(slots=True, eq=False)
class Entry:
    """One write, with key and value as bytes."""

    sequence: int
    key: bytes
    value: bytes | None
    """None: a delete."""
    released: bool = False
    """Whether the cache was told, so that the write may be stored; see ``behind.py``."""
    refusals: int = 0

    @property
    def size(self) -> int:
        """Its bytes, as they count for the limit."""
        return len(self.key) + len(self.value or b"") + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how it is stored. Times are in seconds."""

    max_entries: int = 100_000
    max_bytes: int = 256 << 20
    batch_keys: int = 500
    linger_s: float = 0.01
    """How long a write waits for others to share its batch."""
    attempts: int = 8
    pause_min_s: float = 0.1
    pause_max_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes", "batch_keys", "attempts"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an int of at least 1, is {getattr(self, name)!r}")
        for name in ("linger_s", "pause_min_s", "pause_max_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of seconds, is {getattr(self, name)!r}")


class Backlog:
    """The writes that wait, in memory; the journal on disk holds the same."""

    def __init__(self, limits: Limits, rng: random.Random) -> None:
        self.limits = limits
        self.bytes = 0
        self.by_sequence: OrderedDict[int, Entry] = OrderedDict()
        self.away = 0
        """How often in a row the database could not be reached."""
        self._rng = rng
        self._keys: OrderedDict[bytes, deque[Entry]] = OrderedDict()
        self._since: OrderedDict[bytes, float] = OrderedDict()
        """Keys that may be stored in a common batch, with the time since when they wait; the longest first."""
        self._refused: list[tuple[float, bytes]] = []
        """Keys that are stored alone, with the time when; a heap."""
        self._alone: dict[bytes, float] = {}
        self._resume = 0.0
        self._out = False

    def __len__(self) -> int:
        return len(self.by_sequence)

    def newest(self, key: bytes) -> Entry | None:
        """Return the last write of a key among those that wait."""
        waiting = self._keys.get(key)
        return waiting[-1] if waiting else None

    @property
    def oldest(self) -> int | None:
        """The sequence number of the write that was accepted first."""
        return next(iter(self.by_sequence), None)

    def append(self, entry: Entry, now: float) -> None:
        """Add a write that is on disk.

        Sequence numbers grow, except for writes that were set aside and are tried again.
        """
        waiting = self._keys.get(entry.key)
        if waiting is None:
            waiting = self._keys[entry.key] = deque()
        if waiting and entry.sequence < waiting[-1].sequence:
            ordered = sorted((*waiting, entry), key=lambda each: each.sequence)
            waiting.clear()
            waiting.extend(ordered)
        else:
            waiting.append(entry)
        if self.by_sequence and entry.sequence < next(reversed(self.by_sequence)):
            self.by_sequence[entry.sequence] = entry
            self.by_sequence.move_to_end(entry.sequence, last=False)
        else:
            self.by_sequence[entry.sequence] = entry
        self.bytes += entry.size
        self._wait(entry.key, now)

    def release(self, entry: Entry, now: float) -> None:
        """Allow a write to be stored, as soon as the earlier writes of its key may be."""
        entry.released = True
        self._wait(entry.key, now)

    def due(self) -> float:
        """Return when ``take`` has a batch; infinite: only after something else happens."""
        if self._out:
            return math.inf
        due = math.inf
        if self._since:
            first = next(iter(self._since.values()))
            full = len(self._since) >= self.limits.batch_keys
            due = first if full else first + self.limits.linger_s
        if self._refused:
            due = min(due, self._refused[0][0])
        return max(due, self._resume)

    def take(self, now: float, *, hurry: bool = False) -> list[Entry]:
        """Return a batch, if one is due; with ``hurry`` no write waits for others."""
        if self._out or now < self._resume:
            return []
        while self._refused and self._refused[0][0] <= now:
            _, key = heapq.heappop(self._refused)
            del self._alone[key]
            if self._ready(key):
                self._out = True
                return [self._candidate(key)]
        if not self._since or not (hurry or now >= self.due()):
            return []
        batch: list[Entry] = []
        while self._since and len(batch) < self.limits.batch_keys:
            key, _ = self._since.popitem(last=False)
            if self._ready(key):
                batch.append(self._candidate(key))
        self._out = bool(batch)
        return batch

    def stored(self, entry: Entry) -> list[int]:
        """Forget a write that is in the database, and the older ones of its key; return their sequence numbers."""
        self.away = 0
        waiting = self._keys[entry.key]
        gone = []
        while waiting and waiting[0].sequence <= entry.sequence:
            gone.append(self._forget(waiting.popleft()))
        if not waiting:
            del self._keys[entry.key]
        return gone

    def refused(self, entry: Entry, now: float) -> bool:
        """Note that the database refused a write; return True if the write is now set aside, and forgotten here."""
        self.away = 0
        entry.refusals += 1
        if entry.refusals >= self.limits.attempts:
            waiting = self._keys[entry.key]
            waiting.remove(entry)
            self._forget(entry)
            if not waiting:
                del self._keys[entry.key]
            return True
        self._since.pop(entry.key, None)
        self._alone[entry.key] = now + self._pause_s(entry.refusals)
        heapq.heappush(self._refused, (self._alone[entry.key], entry.key))
        return False

    def unreachable(self, now: float) -> None:
        """Note that the database cannot be reached: everything waits."""
        self.away += 1
        self._resume = now + self._pause_s(self.away)

    def returned(self, batch: list[Entry], now: float) -> None:
        """End the batch that is being stored: those of its writes that are still here wait again."""
        self._out = False
        for entry in batch:
            self._wait(entry.key, now)

    def _ready(self, key: bytes) -> bool:
        waiting = self._keys.get(key)
        return waiting is not None and waiting[0].released

    def _candidate(self, key: bytes) -> Entry:
        """Return the newest write of a key that is released together with all writes before it."""
        waiting = self._keys[key]
        return list(takewhile(lambda entry: entry.released, waiting))[-1]

    def _wait(self, key: bytes, now: float) -> None:
        """Let a key wait for a common batch, unless it waits already, is stored alone, or has nothing to store."""
        if key not in self._since and key not in self._alone and self._ready(key):
            self._since[key] = now

    def _forget(self, entry: Entry) -> int:
        del self.by_sequence[entry.sequence]
        self.bytes -= entry.size
        return entry.sequence

    def _pause_s(self, times: int) -> float:
        longest = min(self.limits.pause_max_s, self.limits.pause_min_s * 2 ** min(times - 1, 32))
        return self._rng.uniform(longest / 2, longest)
