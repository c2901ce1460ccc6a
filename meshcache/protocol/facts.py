"""Checks of facts that arrive from the network: the rules of the configuration, and bounds on numbers that grow.

A fact ends where a setting of the operator ends: in an address that is dialled, a name in the ring and the log, a
number that is counted on from. So each field must keep the same rule as its setting, before anything else sees it. A
field that breaks its rule raises ``ValueError`` here, and wire.py refuses the frame.

Numbers that grow have a bound far below the limit of their type, so that a node that has heard the greatest number can
still exceed it. ``boot`` and ``incarnation`` begin with the wall milliseconds of a process's start; 44 bits of these
last until the year 2527. members.py checks against the clock how far ahead of *now* an incarnation may be.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from meshcache import checks
from meshcache.address import is_one_machine, split_address
from meshcache.protocol.messages import Fact, Rumour
from meshcache.protocol.versions import fitted

FACTS_MAX: Final = 1024
"""How many facts one message may have, and how many members a node knows at most."""
ACCUSERS_MAX: Final = 8
DIGEST_BYTES: Final = 8
COUNTER_MAX: Final = (1 << 62) - 1
"""The greatest sequence number, and the greatest of all else that is counted from 0."""
WALL_MS_MAX: Final = (1 << 44) - 1
BOOT_MAX: Final = (WALL_MS_MAX << 16) | 0xFFFF
INCARNATION_MAX: Final = (WALL_MS_MAX << 8) | 0xFF
_TEXT_CHARACTERS_MAX: Final = 300
"""More than any rule allows; a longer text is refused without a further look."""
_KNOWN_MAX: Final = 4096
"""How many texts have their verdict remembered, since the same few hundred come again and again."""

Rule = Callable[[Any], str | None]
"""Returns what is wrong with a field, as the end of the sentence "fact: field …"; None if nothing is."""


def _text(check: Callable[[str], str | None]) -> Rule:
    known = lru_cache(maxsize=_KNOWN_MAX)(check)

    def rule(value: Any) -> str | None:
        if type(value) is not str or len(value) > _TEXT_CHARACTERS_MAX:
            return f"must be text of at most {_TEXT_CHARACTERS_MAX} characters"
        return known(value)

    return rule


def _number(most: int) -> Rule:
    def rule(value: Any) -> str | None:
        return None if type(value) is int and 0 <= value <= most else f"must be a number from 0 to {most:,}"

    return rule


def _weight(value: Any) -> str | None:
    """Check a weight like the setting, but allow 0 for a member that is leaving."""
    if (type(value) is float or type(value) is int) and 0 <= value <= checks.WEIGHT_MAX:
        return None
    return f"must be a number from 0 to {checks.WEIGHT_MAX:,.0f}"


def _synced(value: Any) -> str | None:
    if type(value) is bytes and len(value) <= DIGEST_BYTES:
        return None
    return f"must be at most {DIGEST_BYTES} bytes"


def _check_dialled(value: str) -> str | None:
    problem = checks.address(value)
    if problem is None and not is_one_machine(split_address(value)[0]):
        return "must be the very address that other nodes dial, not a wildcard"
    return problem


name: Final = _text(checks.name)
"""The rule for a node's id."""

_RULES: Final[dict[str, Rule]] = {
    "node_id": name,
    "address": _text(_check_dialled),
    "publish": _text(checks.or_empty(checks.address)),
    "http": _text(checks.or_empty(checks.address)),
    "host": _text(checks.label),
    "zone": _text(checks.label),
    "weight": _weight,
    "boot": _number(BOOT_MAX),
    "incarnation": _number(INCARNATION_MAX),
    "state": _number(4),
    "synced": _synced,
}
assert tuple(_RULES) == Fact._fields
_WEIGHT_AT: Final = Fact._fields.index("weight")


def fact(value: Any) -> Fact:
    """Return a fact from what was received. ValueError names the field and the rule that it breaks."""
    if type(value) is list and len(value) != len(_RULES):
        value = fitted(Fact, value)
    if type(value) is not list:
        raise TypeError(f"a fact has {len(_RULES)} fields")
    for (field, rule), said in zip(_RULES.items(), value, strict=True):
        problem = rule(said)
        if problem is not None:
            raise ValueError(f"{field} {problem:.200}")
    value[_WEIGHT_AT] = float(value[_WEIGHT_AT])
    return Fact(*value)


def fact_or_none(value: Any) -> Fact | None:
    """Return a fact from what was received, or None if that is None."""
    return None if value is None else fact(value)


def facts(value: Any) -> list[Fact]:
    """Return a list of facts from what was received."""
    return [fact(item) for item in _listed(value)]


def rumours(value: Any) -> list[Rumour]:
    """Return a list of facts, each with the members that accuse its member, from what was received."""
    found = []
    for item in _listed(value):
        said, accusers = item
        if type(accusers) is not list or len(accusers) > ACCUSERS_MAX or any(map(name, accusers)):
            raise ValueError(f"accusers must be at most {ACCUSERS_MAX} names of nodes")
        found.append(Rumour(fact(said), accusers))
    return found


def _listed(value: Any) -> list[Any]:
    if type(value) is not list or len(value) > FACTS_MAX:
        raise ValueError(f"must be a list of at most {FACTS_MAX:,} facts")
    return value
