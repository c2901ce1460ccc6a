"""What may be wrong with a value of the configuration, each as a function that says so.

A check takes a value and returns the end of the sentence "table.key: …", or None if the value is fine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from meshcache.address import split_address

WEIGHT_MAX: Final = 1000.0

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Check = Callable[[Any], str | None]
"""Says what is wrong with a value, as the end of the sentence "table.key: …"; None if it is fine."""


def positive(value: float) -> str | None:
    """Say what is wrong with a number that must be above zero."""
    return None if 0 < value < math.inf else f"must be greater than 0, is {value}"


def lifetime(value: float) -> str | None:
    """Say what is wrong with a lifetime of entries."""
    if value > 0:
        return None
    return f"must be greater than 0, is {value}; for entries that never expire write inf"


def positive_or_inf(value: float) -> str | None:
    """Say what is wrong with a time that may be without end."""
    return None if value > 0 else f"must be greater than 0, is {value}; for no end write inf"


def threshold(value: float) -> str | None:
    """Say what is wrong with a limit above which something is logged."""
    return None if value > 0 else f"must be greater than 0, is {value}; to have none logged write inf"


def at_least(low: int) -> Check:
    """Return a check that a number is not below this one."""
    return lambda value: None if value >= low else f"must be at least {low:,}, is {value:,}"


def one_of(*choices: str) -> Check:
    """Return a check that a text is one of these."""
    text = " or ".join(f'"{choice}"' for choice in choices)
    return lambda value: None if value in choices else f'must be {text}, is "{value}"'


def power_of_two(value: int) -> str | None:
    """Say what is wrong with a number that must be a power of two."""
    if value >= 1 and value & (value - 1) == 0 and value <= 1 << 20:
        return None
    return f"must be a power of two from 1 to {1 << 20:,}, is {value:,}"


def weight(value: float) -> str | None:
    """Say what is wrong with a node's share of the keys."""
    return positive(value) or (None if value <= WEIGHT_MAX else f"must be at most {WEIGHT_MAX:,.0f}, is {value}")


def name(value: str) -> str | None:
    """Say what is wrong with the name of a node or a mesh."""
    if _NAME.fullmatch(value):
        return None
    return (
        f"must be 1 to 64 letters, digits, dots, dashes or underscores and begin with a letter or digit, is {value!r}"
    )


def label(value: str) -> str | None:
    """Say what is wrong with the label of a host or a zone."""
    return None if len(value) <= 255 and value.isprintable() else "must be printable and at most 255 characters long"


def address(value: str) -> str | None:
    """Say what is wrong with an address."""
    try:
        split_address(value)
    except ValueError as problem:
        return str(problem)
    return None


def addresses(values: tuple[str, ...]) -> str | None:
    """Say what is wrong with one of several addresses."""
    return next((problem for problem in map(address, values) if problem), None)


def or_empty(check: Check) -> Check:
    """Return a check that also takes an empty text."""
    return lambda value: check(value) if value else None
