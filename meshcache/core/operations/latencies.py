"""How long coordinated operations took: those for which this node had to wait for others.

An operation begins in one turn of the node and ends in a later one, and the core knows the times of both: what lies
between them is waiting for other owners. Its answer leaves with the other frames of the turn in which it ends, when the
driver says so; so the time to the end of that turn is what its caller waited for, but for the network. What is answered
in the turn in which it came is not counted here: it waited for nobody.

The classes of a histogram are fixed, and each is a plain count. A large batch is run in portions, each of which is an
operation; an update that stores something is one, and the write that stores it another.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The upper ends of the classes; one more has all that took longer."""
ENDED_MAX: Final = 4096
"""Ended operations that may wait for the end of their turn; with a driver that does not tell of it, all would."""


class Histogram:
    """Counts by class, and the sum of what was counted."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def statistics(self) -> dict[str, Any]:
        """Return a copy as plain values."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": round(self.total, 6)}


class Latencies:
    """The times of one node's coordinated operations, by kind."""

    __slots__ = (
        "ended",
        "kinds",
        "taken",
        "waited_s",
    )

    def __init__(self, kinds: dict[str, str]) -> None:
        """``kinds`` names them: by the name of their class, what they are to be called."""
        self.ended: list[tuple[str, float, float]] = []
        """Of the turn at hand: class, when it began, and when its turn began that ended it."""
        self.kinds = kinds
        self.taken = {kind: Histogram(BOUNDS_S) for kind in dict.fromkeys(kinds.values())}
        self.waited_s = dict.fromkeys(self.taken, 0.0)

    def note(self, operation: object, began: float, now: float) -> None:
        """An operation that waited for others has ended."""
        self.ended.append((type(operation).__name__, began, now))
        if len(self.ended) >= ENDED_MAX:
            self.end_turn(now)

    def end_turn(self, now: float) -> None:
        """What ended in this turn has left the node."""
        ended, self.ended = self.ended, []
        for name, began, turn_at in ended:
            kind = self.kinds.get(name)
            if kind is not None:
                self.taken[kind].add(now - began)
                self.waited_s[kind] += turn_at - began

    def statistics(self) -> dict[str, Any]:
        """Return what there is to tell, as plain values."""
        taken = {kind: histogram.statistics() for kind, histogram in self.taken.items()}
        return {"duration_s": taken, "waiting_s": {kind: round(s, 6) for kind, s in self.waited_s.items()}}
