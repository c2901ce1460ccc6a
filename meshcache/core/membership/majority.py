"""The majority lease: under the strict partition policy a node serves only while more than half of all members answer.

Other nodes count a node dead ``link_dead_after_s`` after they lost it, at the earliest. So a node that serves only for
that long after it *asked* the members that answered has stopped before any other node takes its place: the two sides of
a partition never serve at the same time. The time of asking counts, not the time of the answer, because an answer may
have waited in a queue.

For this, every member must be asked all the time. Only under this policy does a node send more in a larger cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ROUNDS: Final = 4


class Majority:
    """When this node asked the members, and which of them have answered."""

    def __init__(self, lasts_s: float, now: float) -> None:
        self.lasts_s = lasts_s
        self._next_at = now
        self._asked: dict[int, float] = {}
        """When a ping was sent, by its number."""
        self._answered: dict[str, float] = {}
        """By member, when the latest ping was sent that this member answered."""

    def due(self, now: float) -> bool:
        """Tell whether it is time to ask all members again; forget pings that are too old to matter."""
        if now < self._next_at:
            return False
        self._next_at = now + self.lasts_s / ROUNDS
        self._asked = {number: at for number, at in self._asked.items() if now - at <= self.lasts_s}
        return True

    def ask(self, number: int, now: float) -> None:
        """Note that a ping was sent."""
        self._asked[number] = now

    def answer(self, node_id: str, number: int) -> None:
        """Note that a member answered a ping."""
        asked_at = self._asked.pop(number, None)
        if asked_at is not None:
            self._answered[node_id] = max(asked_at, self._answered.get(node_id, asked_at))

    def held(self, own_id: str, members: Iterable[str], now: float) -> bool:
        """Tell whether more than half of the members, this node included, have answered a recent enough ping."""
        since = now - self.lasts_s
        votes = [node_id == own_id or self._answered.get(node_id, since) > since for node_id in members]
        return 2 * sum(votes) > len(votes)
