"""The right to serve under the strict partition policy: a majority of all members has just answered.

Others count a node dead ``link_dead_after_s`` after they lost it, at the earliest. So a node that serves only for that
long after it *asked* those who answered has stopped before anybody takes its place: never do both sides of a
partition serve. The time of asking counts, not that of the answer, which may have waited in a queue.

For that, every member has to be asked all the time; only under this policy do nodes send more in a larger cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ROUNDS: Final = 4


class Majority:
    """Who answered what was asked when."""

    def __init__(self, lasts_s: float, now: float) -> None:
        self.lasts_s = lasts_s
        self._next_at = now
        self._asked: dict[int, float] = {}
        """When, by number of the ping."""
        self._answered: dict[str, float] = {}
        """By member, when the latest question was asked that it answered."""

    def due(self, now: float) -> bool:
        """Tell whether it is time to ask everybody again; forget questions too old to matter."""
        if now < self._next_at:
            return False
        self._next_at = now + self.lasts_s / ROUNDS
        self._asked = {number: at for number, at in self._asked.items() if now - at <= self.lasts_s}
        return True

    def ask(self, number: int, now: float) -> None:
        """Note a ping."""
        self._asked[number] = now

    def answer(self, node_id: str, number: int) -> None:
        """Note its ack."""
        asked_at = self._asked.pop(number, None)
        if asked_at is not None:
            self._answered[node_id] = max(asked_at, self._answered.get(node_id, asked_at))

    def held(self, own_id: str, members: Iterable[str], now: float) -> bool:
        """Tell whether more than half of the members have answered what was asked just now; this node agrees."""
        since = now - self.lasts_s
        votes = [node_id == own_id or self._answered.get(node_id, since) > since for node_id in members]
        return 2 * sum(votes) > len(votes)
