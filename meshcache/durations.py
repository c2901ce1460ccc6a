"""Durations: as people write and read them (``30``, ``250ms``, ``1h30m``), and as arguments of calls."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any, Final

Timeout = float | timedelta
"""In seconds, if it is a number."""
TIMEOUT_S_MAX: Final = 1_000_000.0
"""More than eleven days. A longer timeout counts as this one: beyond, clocks, sockets and threads give up, each with
a limit of its own (a poll's milliseconds end at 2^31)."""

_UNITS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""In seconds, longest first: the order in which a duration names them."""

_NUMBER: Final = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_DURATION: Final = re.compile(r"\s*".join(rf"(?:{_NUMBER}\s*{unit})?" for unit in _UNITS))
_EXAMPLES: Final = "30 (seconds), 250ms, 5m or 1h30m"


def seconds_of(text: str) -> float:
    """Return the seconds that a text stands for: a plain number, or numbers with the units d, h, m, s and ms.

    Raises ValueError, which says how to write it, on anything else and on what is not finite. The sign is the caller's
    business.
    """
    stripped = text.strip()
    with_units = _DURATION.fullmatch(stripped)
    if stripped and with_units is not None:
        numbers = zip(with_units.groups(), _UNITS.values(), strict=True)
        return sum(float(number) * unit_s for number, unit_s in numbers if number is not None)
    try:
        seconds = float(stripped) if stripped.isascii() else math.nan
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"must be a duration, such as {_EXAMPLES}, is {text!r}")
    return seconds


def text_of(seconds: float) -> str:
    """Return a duration in its largest unit, without a fraction: ``4s``, ``12m``, ``3h``, ``2d``."""
    unit, unit_s = next(((unit, unit_s) for unit, unit_s in _UNITS.items() if seconds >= unit_s >= 1.0), ("s", 1.0))
    return f"{seconds // unit_s:.0f}{unit}"


def in_seconds(duration: Any) -> Any:
    """Return a duration as a number, if it is one."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def seconds(timeout: object) -> float:
    """Check a timeout, and return it in seconds; one above TIMEOUT_S_MAX counts as that."""
    timeout = in_seconds(timeout)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, is {timeout!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, is {timeout!r}")
    return float(min(timeout, TIMEOUT_S_MAX))


def waiting_s(timeout: object) -> float | None:
    """Check how long to wait for something that may not come: None is no limit, and 0 or less is not at all."""
    timeout = in_seconds(timeout)
    if timeout is None:
        return None
    if isinstance(timeout, (int, float)) and timeout <= 0:
        return 0.0
    return seconds(timeout)
