"""What keeps retries from making an outage worse: how many there may be, and not before an overloaded node wants them.

*The budget.* When nodes fail, every caller tries again, and so a mesh gets the most requests when it can bear the
least. So a client, with all that are derived from it, may make ``RETRIES_PER_CALL`` retries for each of its calls of
the last ``WINDOW_S`` or so, and ``RETRIES_PER_S`` besides, for clients that call rarely. When that is spent, a call
fails with its first failure. Only what may have cost a node work is charged. A request that was certainly not sent (the
connection is refused or gone, say) costs nothing, so the death of a node can not use the budget up.

Nothing is counted for a call that succeeds at once: its calls are worked out from the counts that a client keeps
anyway, when a retry is wanted.

*The holds.* An overloaded node says after what time it is worth asking again. Until then, and for a random time of up
to as much again, so that callers do not come back together, no call asks it a second time. A call's first attempt goes
there nevertheless: the node refuses it cheaply, or serves it.

Sources: Finagle's ``RetryBudget`` (a share of the requests and a minimum a second, over a window); gRPC proposal A6,
"Retry throttling"; "Handling Overload" in *Site Reliability Engineering* (2016).

Pure: time is an argument, in seconds of a monotonic clock. Threads share both without a lock: at worst a retry too many
is made.
"""

from __future__ import annotations

import random
from typing import Any, Final

RETRIES_PER_CALL: Final = 0.2
RETRIES_PER_S: Final = 10.0
WINDOW_S: Final = 10.0
RETRIES_AT_START: Final = RETRIES_PER_S * WINDOW_S
"""What a new client has, and what one that rests comes to."""
RETRY_AFTER_S: Final = 0.05
"""When to come back to an overloaded node that did not say."""
RETRY_AFTER_S_MAX: Final = 10.0
"""The longest that a node may ask for."""


class RetryBudget:
    """The retries that a client may still make: a bucket that calls and time fill, and that forgets with time."""

    __slots__ = ("_calls", "_left", "_looked_at")

    def __init__(self, now: float) -> None:
        self._left = RETRIES_AT_START
        self._calls = 0
        self._looked_at = now

    def spend(self, count: int, calls: int, now: float) -> bool:
        """Take ``count`` retries out, if so many are left; ``calls``: all that the client made so far."""
        self._fill(calls, now)
        if self._left < count:
            return False
        self._left -= count
        return True

    def _fill(self, calls: int, now: float) -> None:
        passed_s = max(0.0, now - self._looked_at)
        earned = RETRIES_PER_CALL * max(0, calls - self._calls) + RETRIES_PER_S * passed_s
        if passed_s > WINDOW_S:  # of the calls made since then, those of the last window
            earned *= WINDOW_S / passed_s
        self._left = self._left * max(0.0, 1 - passed_s / WINDOW_S) + earned
        self._calls = calls
        self._looked_at = now


class Holds:
    """The overloaded nodes of one client, and when each is worth asking again."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, address: str, retry_after_s: float, now: float, rng: random.Random) -> None:
        """Hold further attempts at an address back for the time that its node asks for, and some more at random."""
        until = now + rng.uniform(1, 2) * retry_after_s
        self._until[address] = max(until, self._until.get(address, 0.0))

    def current(self, now: float) -> set[str]:
        """Return the addresses that must not be asked a second time now."""
        if not self._until:
            return set()
        for address, until in list(self._until.items()):
            if until <= now:
                self._until.pop(address, None)
        return set(self._until)

    def until(self, address: str, now: float) -> float:
        """Return when an address may be asked again."""
        return max(now, self._until.get(address, now))


def retry_after_s(error: list[Any]) -> float:
    """Read a node's refusal ``[Code.OVERLOADED, milliseconds]``, of which older nodes send only the first."""
    told_ms = error[1] if len(error) > 1 else None
    if type(told_ms) is not int or told_ms < 0:
        return RETRY_AFTER_S
    return min(told_ms / 1000, RETRY_AFTER_S_MAX)
