"""Clients' requests that took long, for the log: which kind, how long, and who can find it again by its number.

A request is slow when the node has had it for ``log.slow_operation_s`` or longer before it answers: since it waited for
other owners, for its turn among the portions of large batches, or for a link. The time is that of the node's turns. One
that asks for a fill lease is left out: it is parked because another caller computes the value, and asked for that.

A mesh in trouble makes everything slow at once. So the log hears of one request of a kind, and then, when some time has
passed, of another one, with how many there were between the two and the longest of them.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.protocol import messages as m

TELL_AGAIN_S: Final = 10.0
"""Between two lines about slow requests of one kind."""
KEYS_TOLD: Final = 8


class SlowOperations:
    """What one node tells of slow requests."""

    def __init__(self, threshold_s: float, outbox: Outbox, instant: Instant) -> None:
        self.threshold_s = threshold_s
        self._outbox = outbox
        self._instant = instant
        self._told_at: dict[str, float] = {}
        self._left_out: dict[str, tuple[int, float]] = {}
        """By kind, how many the log has not heard of since, and what the longest of them took."""

    def look(self, origin: bytes, request: Any, began: float) -> None:
        """A request is answered now that came at ``began``."""
        seconds = self._instant.now - began
        if seconds < self.threshold_s or _is_parked(request):
            return
        kind = type(request).__name__.lower()
        left_out, longest_s = self._left_out.pop(kind, (0, 0.0))
        if self._instant.now - self._told_at.get(kind, -TELL_AGAIN_S) < TELL_AGAIN_S:
            self._left_out[kind] = left_out + 1, max(longest_s, seconds)
            return
        self._told_at[kind] = self._instant.now
        keys: list[bytes] = getattr(request, "keys", [])
        told: dict[str, object] = {"kind": kind, "seconds": round(seconds, 3), "keys": len(keys)}
        told |= {"request": request.request, "origin": origin.hex(), "left_out": left_out}
        told |= {"longest_left_out_s": round(longest_s, 3)} if left_out else {}
        self._outbox.note("slow_operation", **told)
        if keys:
            shown = [key.decode(errors="backslashreplace") for key in keys[:KEYS_TOLD]]
            self._outbox.note("slow_operation_keys", request=request.request, origin=origin.hex(), keys=shown)


def _is_parked(request: Any) -> bool:
    return isinstance(request, m.Update) and any(change[0] == m.Change.LEASE for change in request.changes)
