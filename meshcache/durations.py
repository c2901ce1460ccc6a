"""Durations as people write them: ``30``, ``250ms``, ``5m``, ``1h30m``; and back, for people to read."""

from __future__ import annotations

import math
import re
from typing import Final

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
