"""How long something takes, on a machine that may be busy with other work."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

TRIES = 10
PAUSE_S = 0.01
"""Between two looks at a condition."""
DELAY_S_MAX = 5.0
"""No machine on which these tests can run delays a process for longer."""


class _Takes:
    """A busy machine only ever adds time: so one of several tries must be short enough, and none may be too short."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self.least_s = least_s
        self.most_s = most_s
        self.seen: list[float] = []

    def is_told(self, took_s: float) -> bool:
        self.seen.append(round(took_s, 3))
        assert self.least_s <= took_s <= self.most_s + DELAY_S_MAX, self.seen
        assert took_s <= self.most_s or len(self.seen) < TRIES, self.seen
        return took_s <= self.most_s


def takes(measure: Callable[[], float], *, least_s: float = 0.0, most_s: float) -> None:
    """Fail unless the seconds that ``measure`` returns are between these limits."""
    expected = _Takes(least_s, most_s)
    while not expected.is_told(measure()):
        pass


async def takes_awaited(measure: Callable[[], Awaitable[float]], *, least_s: float = 0.0, most_s: float) -> None:
    """The same, awaited."""
    expected = _Takes(least_s, most_s)
    while not expected.is_told(await measure()):
        pass


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Return what ``condition`` tells as soon as that is true in the sense of ``if``; fail if it never is."""
    deadline = time.monotonic() + timeout_s + DELAY_S_MAX
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(PAUSE_S)
    return found
