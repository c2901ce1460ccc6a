"""The instant that a turn of the node works with: one for all its parts, so that all that is decided in it agrees.

The wall clock is read when the node starts, and carried on by the steady one: it never goes back while the node runs.
"""

from __future__ import annotations

from meshcache.protocol.record import expiry_bytes


class Instant:
    """What time it is, in the three forms that the parts of a node compare with."""

    __slots__ = ("_started", "_wall_ms_at_start", "now", "now_bytes", "wall_ms")

    def __init__(self, now: float, wall_ms: int) -> None:
        self._started = now
        self._wall_ms_at_start = wall_ms
        self.move(now)

    def move(self, now: float) -> None:
        """Go on to another instant; called once per event."""
        self.now = now
        """Monotonic seconds."""
        self.wall_ms = wall_ms = self._wall_ms_at_start + int((now - self._started) * 1000)
        self.now_bytes = expiry_bytes(wall_ms)
        """``wall_ms`` as records hold their expiry."""
