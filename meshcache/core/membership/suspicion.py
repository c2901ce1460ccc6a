"""How long a suspicion lasts before it becomes a death, as pure functions, and one node's record of a suspicion.

A suspected member has time to refute. How much depends on how many others suspect it, too: a single accuser may itself
be the node with the trouble, so a lone accusation leaves ``high`` seconds; each further *independent* accusation
shortens that, down to ``low``. With n members (the alive and the suspect, this node included) and c confirmations of
the first accusation::

    low     = max(dead_after_s, suspicion_multiplier * max(1, log10(n)) * probe_interval_s)
    high    = suspicion_max_multiplier * low
    timeout = high - (high - low) * ln(c + 1) / ln(K + 1)        K = CONFIRMATIONS
    timeout = low                                                if n < K + 2: too few are left to confirm

The logarithm of n stands for the time that a rumour, and its refutation, take through the cluster; in a small cluster
the fixed minimum ``dead_after_s`` counts instead.

A broken connection is better evidence than silence: the operating system of the other side said that the process is
gone. Where dialling again is refused, too, and a second accuser says the same (or there is no other member that could),
the suspicion lasts only ``link_dead_after_s``.

Sources: SWIM (Das et al. 2002); Lifeguard (Dadgar et al. 2017) for the shrinking timeout.
"""

from __future__ import annotations

import math
from typing import Final

from meshcache.config import MembershipSettings

CONFIRMATIONS: Final = 2
"""K: how many independent confirmations make a suspicion as short as it can be."""

ACCUSERS_MAX: Final = CONFIRMATIONS + 1
"""How many accusers are remembered and passed on; more would change nothing."""

WITNESSES_OF_A_BROKEN_LINK: Final = 2

SYNC_MEMBERS: Final = 32
"""Up to so many members the interval of full exchanges is as configured; each doubling adds the interval once more."""


def confirmations_wanted(members: int) -> int:
    """Return K, or 0 in a cluster too small for K others besides the accuser and the accused."""
    return CONFIRMATIONS if members - 2 >= CONFIRMATIONS else 0


def bounds_s(settings: MembershipSettings, members: int) -> tuple[float, float]:
    """Return the shortest and the longest time that a suspicion lasts among this number of members."""
    scale = max(1.0, math.log10(max(1, members)))
    low = max(settings.dead_after_s, settings.suspicion_multiplier * scale * settings.probe_interval_s)
    return low, settings.suspicion_max_multiplier * low


def timeout_s(confirmations: int, wanted: int, low_s: float, high_s: float) -> float:
    """Return how long a suspicion with so many confirmations lasts; ``wanted`` of them make it shortest."""
    if wanted < 1 or confirmations >= wanted:
        return low_s
    return max(low_s, high_s - (high_s - low_s) * math.log(confirmations + 1) / math.log(wanted + 1))


def sync_interval_s(settings: MembershipSettings, members: int) -> float:
    """Return the time between two full exchanges: a table grows with the cluster, so they become rarer."""
    if members <= SYNC_MEMBERS:
        return settings.sync_interval_s
    return settings.sync_interval_s * (1 + math.ceil(math.log2(members) - math.log2(SYNC_MEMBERS)))


class Suspicion:
    """What one node knows of the suspicion of one member."""

    __slots__ = ("accusers", "link_lost", "refused", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        """When this node learned of the suspicion; times in which this node itself did not run are left out."""
        self.accusers: list[str] = []
        """The members that accuse, as far as known, in the order in which this node heard of them."""
        self.link_lost = False
        """Whether this node's own connection to the suspect broke and does not stand again."""
        self.refused = False
        """Whether the suspect's address refused the connection when this node dialled again."""

    @property
    def is_gone(self) -> bool:
        """Tell whether there is more than silence: the connection broke, and dialling again was refused."""
        return self.link_lost and self.refused

    def on_link_lost(self) -> None:
        """Note that this node's connection to the suspect broke."""
        self.link_lost = True

    def on_refused(self) -> None:
        """Note that the suspect's address refused a connection."""
        self.refused = True

    def on_link_restored(self) -> None:
        """Note that the suspect's address accepts connections again."""
        self.link_lost = self.refused = False

    def postpone(self, by_s: float) -> None:
        """Leave out a time in which this node itself did not run."""
        self.since += by_s

    def begin_anew(self, now: float) -> None:
        """Let the time to refute begin now."""
        self.since = now

    def confirm(self, accuser: str) -> bool:
        """Add an accuser; return True if it is new, and there are not too many already."""
        if accuser in self.accusers or len(self.accusers) >= ACCUSERS_MAX:
            return False
        self.accusers.append(accuser)
        return True

    def timeout_s(self, settings: MembershipSettings, members: int, *, other_witnesses: bool) -> float:
        """Return how long the suspicion lasts. ``other_witnesses``: members that are not suspect could confirm it."""
        low, high = bounds_s(settings, members)
        lasts = timeout_s(max(0, len(self.accusers) - 1), confirmations_wanted(members), low, high)
        witnessed = len(self.accusers) >= WITNESSES_OF_A_BROKEN_LINK or not other_witnesses
        if self.is_gone and witnessed:
            return min(lasts, settings.link_dead_after_s)
        return lasts
