"""Hedged reads: when a node has not answered for longer than usual, another owner of the key is asked as well.

The longest waits are mostly for one node that stands still for a moment: it collects garbage, or its processor has
other work. The other owner answers meanwhile, and its answer is as good: this is only done for reads of one key that
ask a single owner (R = 1). What the other one says afterwards is dropped.

*When*: after the 95th percentile of the latest times of this client's own reads, so about one read in twenty is asked
twice; and never before ``DELAY_S_MIN``, since it would take as long to send another request. *How often*: at most
``SHARE`` of the reads, so that a mesh that is slow as a whole is not given more to do.

Source: Dean and Barroso, "The Tail at Scale" (2013).

Pure. Threads share it without a lock: a time that is lost changes nothing.
"""

from __future__ import annotations

import math
from typing import Final

PERCENTILE: Final = 0.95
DELAY_S_MIN: Final = 0.002
SHARE: Final = 0.05
SAVED_MAX: Final = 64.0
"""How many hedges may come at once: all that a node keeps waiting when it stands still, of a busy client."""
SAMPLES: Final = 256
"""Of how many reads the percentile is, once there are so many …"""
SAMPLES_MIN: Final = 32
"""… and how often it is worked out anew; before that many reads none is hedged."""


class Hedging:
    """The times of one client's reads, and how many may be hedged."""

    __slots__ = ("_count", "_saved", "_taken_s", "delay_s", "hedged", "won")

    def __init__(self) -> None:
        self.delay_s = math.inf
        """After what time another node is asked."""
        self.hedged = 0
        """Reads for which a second node was asked."""
        self.won = 0
        """Those of them that it answered first."""
        self._taken_s: list[float] = []
        self._count = 0
        self._saved = 0.0

    def note(self, taken_s: float, *, won: bool = False) -> None:
        """Take in how long a read took; ``won``: it was the second node that answered."""
        self.won += won
        taken = self._taken_s
        if len(taken) < SAMPLES:
            taken.append(taken_s)
        else:
            taken[self._count % SAMPLES] = taken_s
        self._count += 1
        self._saved = min(self._saved + SHARE, SAVED_MAX)
        if not self._count % SAMPLES_MIN:
            self.delay_s = max(DELAY_S_MIN, sorted(taken)[int(PERCENTILE * (len(taken) - 1))])

    def takes(self) -> bool:
        """Tell whether a read may be hedged, and charge that."""
        if self._saved < 1:
            return False
        self._saved -= 1
        self.hedged += 1
        return True
