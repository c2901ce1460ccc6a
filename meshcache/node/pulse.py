"""What other threads of a node may know of its loop: that it turns, and what it tells when it is asked.

The loop owns all state of the node, and nobody else may look at it. So a thread that wants to know something asks: it
sets a flag and wakes the loop, which takes one snapshot in its turn, of plain numbers, texts, lists and maps that
nobody changes any more, and hands it over whole. A question costs the loop one look at a flag in each turn.

A loop that stands still cannot say so, but its last turn can: the loop notes the time at the end of each. One that has
nothing to do turns at least ten times a second, for its housekeeping.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

Snapshot = dict[str, Any]


class Told(NamedTuple):
    """What the loop told, and when."""

    at: float
    """Monotonic seconds."""
    snapshot: Snapshot


class Pulse:
    """The time of the loop's last turn, and one question to it."""

    __slots__ = (
        "_wake_asker",
        "_wake_loop",
        "asked",
        "told",
        "turned_at",
    )

    def __init__(self, wake_loop: Callable[[], None]) -> None:
        self.turned_at = time.monotonic()
        """When the loop's last turn ended; set by the loop."""
        self.asked = False
        """The loop is to tell; set by who asks, and cleared by the loop."""
        self.told: Told | None = None
        """What it told last. Replaced whole, never changed."""
        self._wake_loop = wake_loop
        self._wake_asker: Callable[[], None] = _nobody

    def still_s(self) -> float:
        """Return for how long the loop has not ended a turn."""
        return max(0.0, time.monotonic() - self.turned_at)

    def listen(self, wake_asker: Callable[[], None]) -> None:
        """Call this, from the loop's thread, whenever the loop has told something."""
        self._wake_asker = wake_asker

    def ask(self) -> None:
        """Have the loop turn, and tell."""
        self.asked = True
        self._wake_loop()

    def since(self, moment: float) -> Snapshot | None:
        """Return what the loop told last, if that was not before this moment."""
        told = self.told
        return None if told is None or told.at < moment else told.snapshot

    def tell(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot and hand it over; called by the loop."""
        self.asked = False  # first: who asks meanwhile may have it taken once more
        self.told = Told(time.monotonic(), take())
        self._wake_asker()


def _nobody() -> None:
    """Nobody has asked."""
