"""Hot keys (heavy hitters): which keys are read so often that readers should keep a copy for a moment.

A node measures the reads that it serves itself, since only it sees all of them. It never keeps a count for each key:
that would cost more memory than the entries, and a scan would fill it with keys read once. What it keeps is a *summary*
in the sense of Misra and Gries ("Finding repeated elements", 1982), fed by batches as in Agarwal et al., "Mergeable
summaries" (PODS 2012): the counts of all keys of a batch are added; when there are more than twice ``COUNTERS_MAX``
counters, the (``COUNTERS_MAX`` + 1)-th greatest count is subtracted from each, and counters that reach zero are
dropped. So a count is never too high, and too low by at most (reads of the window) / ``COUNTERS_MAX``: a key with more
than that share of all reads is never missed.

The window slides by decay: each ``PANES``-th of it, a ``PANES``-th of every count is taken away. A burst of
``threshold_reads`` reads makes a key hot at once; a steady rate does when it comes to as many reads in a window.

A key that was found hot stays so for one window, and longer if it is still read that often. For the copies take most of
its reads away from the node, which must not make the key look cold at once.

Counting every read would cost 0.15 µs a key, a sixth of what a node spends on it, so one request in ``threshold_reads /
SAMPLES_MIN`` is counted and stands for all. The gaps between them have random lengths: with gaps of a fixed length, a
key that is read at the same intervals would be counted never, or always. Thresholds below 2 * ``SAMPLES_MIN`` are
counted exactly. The sampled requests' keys are appended to a list, and counted by thousands (``scripts/bench hotkeys``
compares the ways).
"""

from __future__ import annotations

import random
from collections import Counter
from heapq import nlargest
from typing import Any, Final

from meshcache.config import HotKeySettings

COUNTERS_MAX: Final = 1024
"""Counters kept after each pruning: a key with more than 0.1 % of the reads is never missed."""

NOTED_READS_MAX: Final = 4096
"""How many reads are noted before they are counted: bounds the memory, and the counting to about a millisecond."""

SAMPLES_MIN: Final = 128
"""In how many counted requests a key must be before it is hot: with so many the rate is right within 9 % (1 sigma)."""

PANES: Final = 8
"""In how many steps the window slides."""


class HotKeys:
    """The keys that this node is asked for most often. ``until`` has those that are hot now."""

    __slots__ = (
        "_copy_ttl_ms",
        "_counts",
        "_decay_at",
        "_gap_max",
        "_noted",
        "_random",
        "_stride",
        "_threshold",
        "_window_s",
        "found",
        "left",
        "until",
    )

    def __init__(self, settings: HotKeySettings, rng: random.Random, now: float) -> None:
        self._threshold = settings.threshold_reads
        self._window_s = settings.window_s
        self._copy_ttl_ms = max(1, round(settings.copy_ttl_s * 1000))
        self._stride = max(1, settings.threshold_reads // SAMPLES_MIN) if settings.enabled else 0
        """One request in this many is counted; 0: none."""
        self._gap_max = 2 * self._stride - 1
        self._random = rng.random
        self.left = self._stride
        """How many requests come before the next one that is counted."""
        self._noted: list[bytes] = []
        self._counts: dict[bytes, int] = {}
        self._decay_at = now + self._window_s / PANES
        self.until: dict[bytes, float] = {}
        """Per hot key, the monotonic time until which it counts as hot. Changed in place."""
        self.found = 0
        """How often a key became hot."""

    def note(self, keys: list[bytes], now: float) -> None:
        """Take note of a request to read these keys."""
        self.left -= 1
        if self.left:
            return
        self.left = 1 + int(self._random() * self._gap_max)
        self._noted += keys
        if len(self._noted) >= NOTED_READS_MAX:
            self.count(now)

    def count(self, now: float) -> None:
        """Count the noted reads, and let the window slide; housekeeping calls this, too."""
        if self._noted:
            batch, self._noted = Counter(self._noted), []
            self._add(batch, now)
        while now >= self._decay_at:
            self._decay_at += self._window_s / PANES
            self._counts = {key: left for key, n in self._counts.items() if (left := n - -(-n // PANES))}
            for key in [key for key, until in self.until.items() if until <= now]:
                del self.until[key]
            if not self._counts and not self.until:
                self._decay_at = max(self._decay_at, now + self._window_s / PANES)

    def _add(self, batch: Counter[bytes], now: float) -> None:
        counts, threshold, stride = self._counts, self._threshold, self._stride
        for key, reads in batch.items():
            counts[key] = total = counts.get(key, 0) + reads * stride
            if total >= threshold:
                self.found += key not in self.until
                self.until[key] = now + self._window_s
        if len(counts) > 2 * COUNTERS_MAX:
            least = nlargest(COUNTERS_MAX + 1, counts.values())[-1]
            self._counts = {key: n - least for key, n in counts.items() if n > least}

    def among(self, keys: list[bytes]) -> list[bytes]:
        """Return those of the keys that are hot."""
        until = self.until
        return [] if until.keys().isdisjoint(keys) else [key for key in keys if key in until]

    @property
    def copy_ttl_ms(self) -> int:
        """How long a copy of a hot key may be used."""
        return self._copy_ttl_ms

    def top(self, count: int) -> list[dict[str, Any]]:
        """Return the keys that are read most, each with about how many reads it had in the last window."""
        counts = self._counts
        keys = nlargest(count, counts, key=counts.__getitem__)
        return [{"key": key, "reads": counts[key], "hot": key in self.until} for key in keys]

    def statistics(self) -> dict[str, Any]:
        """Return what ``meshcache stats`` shows of this part, as plain values."""
        return {"hot": len(self.until), "found": self.found, "counters": len(self._counts)}
