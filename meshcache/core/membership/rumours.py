"""News to pass on: each so many times, the least told first.

A rumour that every member passes on ``4 * ceil(log10(n + 1))`` times reaches all of n members with near certainty
(epidemic spread: who is missed by one is told by another), and then dies out, so that the traffic of a node follows
the number of changes and the logarithm of the cluster, not its size. Whom it misses all the same, the comparison of
digests finds.

There is one rumour per member: what is newer about it takes the place of what was older.

Sources: SWIM, section 4.1; memberlist for the factor 4.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final

from meshcache.protocol.messages import Rumour

RETRANSMIT_MULTIPLIER: Final = 4

RUMOURS_PER_MESSAGE: Final = 64
"""About 8 kB: a flood of news (a ring change, of which every member speaks) is spread over several messages."""


def retransmits(members: int) -> int:
    """Return how many times one node passes a rumour on, among so many members."""
    return RETRANSMIT_MULTIPLIER * math.ceil(math.log10(members + 1))


@dataclass(slots=True)
class _Told:
    rumour: Rumour
    times: int = 0


class RumourQueue:
    """What one node passes on, and how often it has done so."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def __len__(self) -> int:
        return len(self._told)

    def add(self, rumour: Rumour) -> None:
        """Pass this on, from the beginning, in place of anything else about this member."""
        self._told[rumour.fact.node_id] = _Told(rumour)

    def take(self, members: int) -> list[Rumour]:
        """Return what the next message carries, and count it as told."""
        if not self._told:
            return []
        limit = retransmits(members)
        chosen = heapq.nsmallest(RUMOURS_PER_MESSAGE, self._told.values(), key=_times)
        for told in chosen:
            told.times += 1
            if told.times >= limit:
                del self._told[told.rumour.fact.node_id]
        return [told.rumour for told in chosen]


def _times(told: _Told) -> int:
    return told.times
