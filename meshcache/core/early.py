"""The clocks of frames that arrive: each moves this node's clock, and who is ahead of what is allowed must wait.

A peer's clock may be ``LEAD_MS_MAX`` ahead of the wall clock here (clock.py). Once somebody has moved a node's clock to
that bound, what the node says is at the bound as well; and to a peer whose wall clock is a millisecond behind, it is
beyond. Were it dropped, an honest node's write would be lost, and its caller would wait until it asks again. So a frame
that is ahead of the bound by ``EARLY_MS_MAX`` at most, as much as honest wall clocks differ, is kept for so long, and
then taken as if it had arrived by then. What is further ahead is refused.

Only nodes have a clock to tell of. That of a connection with a client's key is not heeded.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

from meshcache.core.counters import Counters
from meshcache.core.operations.instant import Instant
from meshcache.keys import AllowedKey
from meshcache.protocol.clock import LEAD_MS_MAX, HybridClock
from meshcache.protocol.wire import Frame

EARLY_MS_MAX: Final = 100
"""How long a frame may be kept: longer than the wall clocks of machines that keep time differ."""
EARLY_FRAMES_MAX: Final = 64
"""Of one sender; beyond that, they are refused as those that are further ahead …"""
EARLY_BYTES_MAX: Final = 16 << 20
"""… and so they are if all that are kept have more bytes than this."""

Take = Callable[[Any, Frame, float], object]
"""Takes a frame: the connection on which a request came, or the address that was dialled for an answer; frame; now."""


class Early:
    """Merges the clocks of frames into a node's, and keeps the frames that are early."""

    def __init__(
        self, clock: HybridClock, instant: Instant, counters: Counters, who: Callable[[bytes], AllowedKey]
    ) -> None:
        """``who`` returns the key of a connection."""
        self.next_at = math.inf
        """When the next frame is to be taken."""
        self._clock = clock
        self._instant = instant
        self._counters = counters
        self._who = who
        self._kept: list[tuple[float, int, Take, bytes | str, bytes]] = []
        """A heap, by the time at which each is to be taken, and the order of arrival."""
        self._number = 0
        self._bytes = 0
        self._counts: dict[bytes | str, int] = {}

    def merge(self, sender: bytes | str, frame: Frame, clock: int, take: Take) -> bool:
        """Merge the clock of a frame; False if it is refused, or kept for ``take``."""
        if isinstance(sender, bytes) and self._who(sender).kind == "client":
            return True
        if self._clock.merge(clock, self._instant.wall_ms):
            return True
        if not self._keep(sender, frame, (clock >> 16) - self._instant.wall_ms - LEAD_MS_MAX, take):
            self._counters.clock_refused += 1
        return False

    def _keep(self, sender: bytes | str, frame: Frame, early_ms: int, take: Take) -> bool:
        count = self._counts.get(sender, 0)
        if early_ms > EARLY_MS_MAX or count >= EARLY_FRAMES_MAX or self._bytes + len(frame) > EARLY_BYTES_MAX:
            return False
        self._counts[sender] = count + 1
        self._bytes += len(frame)
        self._number += 1
        heapq.heappush(self._kept, (self._instant.now + early_ms / 1000, self._number, take, sender, bytes(frame)))
        self.next_at = self._kept[0][0]
        return True

    def run(self) -> None:
        """Take what need not wait any longer."""
        now = self._instant.now
        while self.next_at <= now:
            _, _, take, sender, frame = heapq.heappop(self._kept)
            self.next_at = self._kept[0][0] if self._kept else math.inf
            self._bytes -= len(frame)
            self._counts[sender] -= 1
            if not self._counts[sender]:
                del self._counts[sender]
            take(sender, frame, now)
