"""The time of one turn of a node: the same for all its parts, so that all decisions of a turn agree.

The wall clock is read when the node starts. From then on the wall time is moved on by the monotonic clock: it never
goes back while the node runs.
"""

from __future__ import annotations

from meshcache.protocol.record import expiry_bytes


class Instant:
    """The present time, in the three forms that the parts of a node compare with."""

    __slots__ = ("now", "now_bytes", "started", "wall_ms", "wall_ms_at_start")

    def __init__(self, now: float, wall_ms: int) -> None:
        self.started = now
        self.wall_ms_at_start = wall_ms
        self.move(now)

    def move(self, now: float) -> None:
        """Move on to another time; the node calls this once per event. Turns that are taken natively do it in C."""
        self.now = now
        """The monotonic time, in seconds."""
        self.wall_ms = wall_ms = self.wall_ms_at_start + int((now - self.started) * 1000)
        self.now_bytes = expiry_bytes(wall_ms)
        """``wall_ms`` in the form in which records hold their expiry."""
