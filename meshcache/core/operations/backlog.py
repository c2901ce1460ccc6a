"""What a node has to do, and when whoever is refused for it had better come back.

A refusal costs next to nothing; but a client that asks again at once pays for it with its next request, and so does the
node. So a refusal says how long the present work will take: the operations under way, and the portions that wait, each
by the rate at which such work has been done of late. It is a hint, within ``RETRY_AFTER_MS_MIN`` and ``_MAX``: too
short, and there is one more refusal; too long, and a client stays away from a node that has time for it.

The bytes of the requests that are under way are bounded here, too: for one connection, so that it makes only itself
wait, and for all. How many operations there are says little of them, as one may have a kilobyte or many megabytes. What
is smaller than ``COUNTED_BYTES_MIN`` is not counted: as many of these as ``limits.pending_max`` allows take no memory
that matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshcache.config import LimitSettings
from meshcache.core.operations.instant import Instant

RETRY_AFTER_MS_MIN: Final = 10
RETRY_AFTER_MS_MAX: Final = 2000
MEASURE_S: Final = 0.25
"""The rate is measured over so long at least."""
LATEST_WEIGHT: Final = 0.5
"""The weight of the latest measurement in the rate."""
COUNTED_BYTES_MIN: Final = 4096
"""A change of less is not counted by those who take on requests; a batch that is run in portions always is."""
SWEEP_S: Final = 1.0
"""How often requests are looked for that ended without an answer; what fails is never answered."""


class Backlog:
    """The work that one node has taken on."""

    __slots__ = (
        "_by_origin",
        "_ended",
        "_instant",
        "_limits",
        "_measured",
        "_number",
        "_running",
        "_sweep_at",
        "_taken_on",
        "bytes",
        "rate_per_s",
    )

    def __init__(
        self, limits: LimitSettings, instant: Instant, running: Callable[[], int], ended: Callable[[], int]
    ) -> None:
        """``running`` returns how many operations are under way, ``ended`` how many requests were answered so far."""
        self._limits = limits
        self._instant = instant
        self._running = running
        self._ended = ended
        self.rate_per_s = 0.0
        """How many requests were answered in a second, of late."""
        self._measured = instant.now, 0
        self._number = 0
        self._taken_on: dict[int, tuple[bytes, int, float]] = {}
        """By number: the connection, the bytes, and until when."""
        self._by_origin: dict[bytes, int] = {}
        self.bytes = 0
        """Of all requests that are counted."""
        self._sweep_at = instant.now

    def run(self) -> None:
        """Measure the rate, and forget what has ended without an answer; housekeeping calls this."""
        now = self._instant.now
        since, before = self._measured
        if now >= since + MEASURE_S:
            ended = self._ended()
            self.rate_per_s += LATEST_WEIGHT * ((ended - before) / (now - since) - self.rate_per_s)
            self._measured = now, ended
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            for number in [number for number, taken in self._taken_on.items() if taken[2] < now]:
                self.end(number)

    def retry_after_ms(self, waiting_us: float = 0.0) -> int:
        """Return when to come back; ``waiting_us``: the work that waits in portions."""
        ahead_ms = 1000 * self._running() / max(1.0, self.rate_per_s) + waiting_us / 1000
        return max(RETRY_AFTER_MS_MIN, min(RETRY_AFTER_MS_MAX, int(ahead_ms)))

    def begin(self, origin: bytes, size: int, deadline: float) -> int:
        """Take on a request of so many bytes; return its number for ``end``, or 0 if there are too many bytes.

        A request of any size is taken on if it is the only one, of its connection and of all.
        """
        own, limits = self._by_origin.get(origin, 0), self._limits
        if own and own + size > limits.client_in_flight_bytes_max:
            return 0
        if self.bytes and self.bytes + size > limits.in_flight_bytes_max:
            return 0
        self._number += 1
        self._taken_on[self._number] = (origin, size, deadline)
        self._by_origin[origin] = own + size
        self.bytes += size
        return self._number

    def end(self, number: int) -> None:
        """Note that a request was answered."""
        taken = self._taken_on.pop(number, None)
        if taken is None:
            return
        origin, size, _ = taken
        self.bytes -= size
        left = self._by_origin[origin] - size
        if left:
            self._by_origin[origin] = left
        else:
            del self._by_origin[origin]
