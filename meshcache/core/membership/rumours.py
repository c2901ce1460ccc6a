"""Rumours to pass on: each is told a fixed number of times, and those told least go first.

A rumour that every member passes on ``4 * ceil(log10(n + 1))`` times reaches all of n members with near certainty
(epidemic spread: a member that one node does not reach is told by another), and is then no longer told. So the traffic
of a node follows the number of changes and the logarithm of the cluster, not its size. Members that a rumour does not
reach are found by the comparison of digests.

There is one rumour per member: newer news about the member replaces older news.

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
"""Rumours in one message, about 8 kB. When many are new at once (at a ring change every member speaks), they are spread
over several messages."""


def retransmits(members: int) -> int:
    """Return how many times one node passes a rumour on, among so many members."""
    return RETRANSMIT_MULTIPLIER * math.ceil(math.log10(members + 1))


@dataclass(slots=True)
class _Told:
    rumour: Rumour
    times: int = 0


class RumourQueue:
    """The rumours that one node passes on, and how often it has told each."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def __len__(self) -> int:
        return len(self._told)

    def add(self, rumour: Rumour) -> None:
        """Pass a rumour on from the beginning, in place of an older one about the same member."""
        self._told[rumour.fact.node_id] = _Told(rumour)

    def take(self, members: int) -> list[Rumour]:
        """Return the rumours for the next message, and count them as told once more."""
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
