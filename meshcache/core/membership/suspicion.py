"""How long a suspicion lasts before it becomes a death, as pure functions, and one node's record of a suspicion.

A suspected member has time to contradict. How much depends on how many others suspect it too: one witness may itself
be ill, so a lone accusation is given ``high`` seconds; each further *independent* witness shortens that, down to
``low``. With n members (the alive and the suspect, this node included) and c confirmations of the first accusation::

    low     = max(dead_after_s, suspicion_multiplier * max(1, log10(n)) * probe_interval_s)
    high    = suspicion_max_multiplier * low
    timeout = high - (high - low) * ln(c + 1) / ln(K + 1)        K = CONFIRMATIONS
    timeout = low                                                if n < K + 2: nobody is left to confirm

The logarithm of n is the time that a rumour takes through the cluster, and so its refutation; a small cluster has the
fixed floor ``dead_after_s`` instead.

A broken connection is better evidence than silence: the operating system of the other side said that the process is
gone. Where dialling again is refused too, and a second witness says the same (or nobody is there who could), the
suspicion lasts ``link_dead_after_s`` only.

Sources: SWIM (Das et al. 2002); Lifeguard (Dadgar et al. 2017) for the shrinking timeout.
"""

from __future__ import annotations

import math
from typing import Final

from meshcache.config import MembershipSettings

CONFIRMATIONS: Final = 2
"""K: independent confirmations after which a suspicion lasts its shortest."""

ACCUSERS_MAX: Final = CONFIRMATIONS + 1
"""Accusers that are remembered and passed on: more would change nothing."""

WITNESSES_OF_A_BROKEN_LINK: Final = 2

SYNC_MEMBERS: Final = 32
"""Up to this many members the interval of full exchanges is as configured; each doubling adds it once more."""


def confirmations_wanted(members: int) -> int:
    """Return K, or 0 in a cluster too small for K others besides the accuser and the accused."""
    return CONFIRMATIONS if members - 2 >= CONFIRMATIONS else 0


def bounds_s(settings: MembershipSettings, members: int) -> tuple[float, float]:
    """Return the shortest and the longest time that a suspicion lasts among so many members."""
    scale = max(1.0, math.log10(max(1, members)))
    low = max(settings.dead_after_s, settings.suspicion_multiplier * scale * settings.probe_interval_s)
    return low, settings.suspicion_max_multiplier * low


def timeout_s(confirmations: int, wanted: int, low_s: float, high_s: float) -> float:
    """Return how long a suspicion lasts that was confirmed so often, of ``wanted`` that would settle it."""
    if wanted < 1 or confirmations >= wanted:
        return low_s
    return max(low_s, high_s - (high_s - low_s) * math.log(confirmations + 1) / math.log(wanted + 1))


def sync_interval_s(settings: MembershipSettings, members: int) -> float:
    """Return the time between two full exchanges: a table grows with the cluster, so they become rarer."""
    if members <= SYNC_MEMBERS:
        return settings.sync_interval_s
    return settings.sync_interval_s * (1 + math.ceil(math.log2(members) - math.log2(SYNC_MEMBERS)))


class Suspicion:
    """What one node knows of the suspicion against one member."""

    __slots__ = ("accusers", "link_lost", "refused", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        """When this node learned of it; moved on by the time in which this node itself did not listen."""
        self.accusers: list[str] = []
        """Who accuses, as far as known, in the order in which this node heard of them."""
        self.link_lost = False
        """Our own connection to the accused broke, and does not stand again."""
        self.refused = False
        """Nobody took our call when we dialled again."""

    @property
    def is_gone(self) -> bool:
        """Tell whether there is more than silence: the connection broke, and nobody takes another."""
        return self.link_lost and self.refused

    def on_link_lost(self) -> None:
        """Our connection to the accused broke."""
        self.link_lost = True

    def on_refused(self) -> None:
        """Nobody listens where the accused was."""
        self.refused = True

    def on_link_restored(self) -> None:
        """Somebody listens there again."""
        self.link_lost = self.refused = False

    def postpone(self, by_s: float) -> None:
        """This node did not listen for so long: that time does not count."""
        self.since += by_s

    def begin_anew(self, now: float) -> None:
        """The time to refute begins now."""
        self.since = now

    def confirm(self, accuser: str) -> bool:
        """Add an accuser; True if it is one more, and not too many already."""
        if accuser in self.accusers or len(self.accusers) >= ACCUSERS_MAX:
            return False
        self.accusers.append(accuser)
        return True

    def timeout_s(self, settings: MembershipSettings, members: int, *, other_witnesses: bool) -> float:
        """Return how long it lasts. ``other_witnesses``: there are members, not suspect themselves, to confirm it."""
        low, high = bounds_s(settings, members)
        lasts = timeout_s(max(0, len(self.accusers) - 1), confirmations_wanted(members), low, high)
        witnessed = len(self.accusers) >= WITNESSES_OF_A_BROKEN_LINK or not other_witnesses
        if self.is_gone and witnessed:
            return min(lasts, settings.link_dead_after_s)
        return lasts
