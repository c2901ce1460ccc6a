"""The circuit breaker: it tells when a node fails so often that it is better not asked, and when to try it again.

What an open breaker means is for its user to say. A client takes the node last, so that a breaker alone never makes an
operation fail (client/routing.py). A node, which must reach certain others or none, does not ask it
(core/operations/breakers.py). Time is an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from typing import Final

WINDOW_S: Final = 10
CALLS_MIN: Final = 10
FAILURE_RATIO: Final = 0.5
OPEN_S: Final = 30.0


class Breaker:
    """Closed: all calls pass. Open: half of at least ten calls in ten seconds failed. Half-open: one call is a probe.

    Threads may share a breaker without a lock: a count that is lost changes nothing important.
    """

    __slots__ = ("_open_s", "_probing", "buckets", "open_until")

    def __init__(self, open_s: float = OPEN_S) -> None:
        """``open_s``: how long it stays open before each probe."""
        self._open_s = open_s
        # One [second, successes, failures] for each second of the window; the oldest is used again.
        self.buckets = [[-1, 0, 0] for _ in range(WINDOW_S)]
        self.open_until = 0.0
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether every call passes."""
        return not self.open_until

    @property
    def state(self) -> str:
        """As people call it: "closed", "open" or "half-open"."""
        if not self.open_until:
            return "closed"
        return "half-open" if self._probing else "open"

    @property
    def probe_at(self) -> float:
        """When an open breaker lets the next probe pass; infinite for a closed one."""
        return self.open_until or math.inf

    def admits(self, now: float) -> bool:
        """Tell whether a call may pass; if the breaker is open, the call that may pass is the probe."""
        if not self.open_until:
            return True
        if now < self.open_until:
            return False
        # The probe is under way; if its outcome is never noted, the next probe may go as long after it.
        self.open_until = now + self._open_s
        self._probing = True
        return True

    def succeed(self, now: float, count: int = 1) -> bool:
        """Count successes; return True if they closed the breaker."""
        if self.open_until:
            self.reset()
            return True
        second = int(now)
        bucket = self.buckets[second % WINDOW_S]
        if bucket[0] == second:
            bucket[1] += count
        else:
            bucket[:] = [second, count, 0]
        return False

    def fail(self, now: float) -> bool:
        """Count a failure; return True if it opened the breaker."""
        if self.open_until:
            if self._probing:
                self._probing = False
                self.open_until = now + self._open_s
            return False
        self._bucket(now)[2] += 1
        oldest = int(now) - WINDOW_S
        successes = sum(bucket[1] for bucket in self.buckets if bucket[0] > oldest)
        failures = sum(bucket[2] for bucket in self.buckets if bucket[0] > oldest)
        if successes + failures < CALLS_MIN or failures < FAILURE_RATIO * (successes + failures):
            return False
        self.open_until = now + self._open_s
        return True

    def reset(self) -> None:
        """Close the breaker and forget its counts: the node is a new process now, or has answered."""
        for bucket in self.buckets:
            bucket[0] = -1
        self.open_until = 0.0
        self._probing = False

    def _bucket(self, now: float) -> list[int]:
        second = int(now)
        bucket = self.buckets[second % WINDOW_S]
        if bucket[0] != second:
            bucket[:] = [second, 0, 0]
        return bucket
