"""Taking from a list of steps all that a finding does not need.

Source: Zeller and Hildebrandt 2002, delta debugging: leave out ever smaller parts, as long as the finding stays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from fuzzing.episodes import Step


def kind_of(finding: str) -> str:
    """Return what makes two findings the same: how they begin, whatever the numbers are."""
    return re.sub(r"[0-9]+", "#", finding)[:60]


def shrink(steps: list[Step], still_found: Callable[[list[Step]], bool], *, within_s: float = 30.0) -> list[Step]:
    """Return as few of the steps as still lead to the finding, as far as time allows."""
    deadline = time.monotonic() + within_s
    size = len(steps) // 2
    while size and time.monotonic() < deadline:
        start, removed = 0, False
        while start < len(steps) and time.monotonic() < deadline:
            shorter = steps[:start] + steps[start + size :]
            if still_found(shorter):
                steps, removed = shorter, True
            else:
                start += size
        if not removed:
            size //= 2
    return steps
