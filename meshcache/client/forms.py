"""The text that stands for an argument in the key of a cached function.

It is injective: two values have the same text only if Python shows no difference between them, so no two different
calls share a key. It is stable: the text is the same in every process, whatever the seed of its hashes, so that all
processes find what one of them stored. A value whose type promises neither is refused, with a TypeError.

Types are looked up exactly: an instance of a subclass may hold more than its base class shows. A str is written as
Python writes it, in quotes; a container is written with the brackets of its type. So every text shows where it ends,
and texts in a row can be told apart. Sets and dicts are equal in any order, and are written in the order of their
texts.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from types import EllipsisType, MappingProxyType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

NESTED_MAX: Final = 16
"""How deep an argument may be nested; this also refuses an argument that contains itself."""
PARTS_MAX: Final = 100_000
"""How many values an argument may consist of; a list that it holds several times is counted each time."""
_DECIMAL_BITS_MAX: Final = 256
"""Integers with more bits are written in base 16, which takes linear time and which Python does not limit."""


def form(value: Any, class_name: Callable[[type], str]) -> str:
    """Return the text that stands for this value, and for no other.

    ``class_name`` returns the name of a class, and raises TypeError if the name could also be another class's. A value
    for which there is no text raises a TypeError that names its type.
    """
    scalar = _SCALARS.get(type(value))
    return _Writing(class_name).form(value, 0) if scalar is None else scalar(value)


def is_fixed(value: Any) -> bool:
    """Tell whether a value that has a text will always have the same one: nothing in it can be changed."""
    kind = type(value)
    if kind in {tuple, frozenset}:
        return all(map(is_fixed, value))
    return kind in _SCALARS or kind in {datetime, time} or isinstance(value, (Enum, type))


class _Writing:
    """Writes one argument as a text, and counts the values that it consists of."""

    __slots__ = ("class_name", "parts")

    def __init__(self, class_name: Callable[[type], str]) -> None:
        self.class_name = class_name
        self.parts = 0

    def form(self, value: Any, depth: int) -> str:
        self.parts += 1
        if depth > NESTED_MAX:
            raise TypeError(f"an argument is nested deeper than {NESTED_MAX} levels")
        if self.parts > PARTS_MAX:
            raise TypeError(f"an argument is made of more than {PARTS_MAX:,} values")
        kind = type(value)
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            return scalar(value)
        container = _CONTAINERS.get(kind)
        if container is not None:
            return container(self, value, depth + 1)
        if isinstance(value, Enum):
            return self.member(value, depth + 1)
        if isinstance(value, type):
            return f"<{self.class_name(value)}>"
        raise TypeError(f"an argument of type {kind.__qualname__} has no form that can be part of a key")

    def forms(self, values: Iterable[Any], depth: int) -> list[str]:
        return [self.form(value, depth) for value in values]

    def pairs(self, mapping: Any, depth: int) -> list[str]:
        return [f"{self.form(name, depth)}:{self.form(value, depth)}" for name, value in mapping.items()]

    def member(self, value: Enum, depth: int) -> str:
        """Write an enum member by its name; flags, and values that are no member, by their value."""
        name = self.class_name(type(value))
        if not isinstance(value, Flag) and type(value)._member_map_.get(value._name_) is value:
            return f"{name}.{value._name_}" if value._name_.isidentifier() else f"{name}[{value._name_!r}]"
        return f"{name}({self.form(value._value_, depth)})"


def _integer(value: int) -> str:
    return repr(value) if value.bit_length() <= _DECIMAL_BITS_MAX else hex(value)


def _real(value: float) -> str:
    return repr(value) if value == value else f"nan({struct.pack('>d', value).hex()})"  # noqa: PLR0124  (no number)


def _decimal(value: Decimal) -> str:
    return f"Decimal('{str(value).upper()}')"  # whether the E is a capital depends on a setting of the thread


def _moment(value: datetime | time) -> str:
    """Write a datetime or time. Its time zone must have a text, too."""
    kind = type(value).__name__
    return f"{kind}('{value.replace(tzinfo=None).isoformat()}',{value.fold},{_zone(value.tzinfo)})"


def _zone(zone: tzinfo | None) -> str:
    if zone is None or type(zone) is timezone:
        return repr(zone)
    if type(zone) is ZoneInfo and zone.key is not None:
        return f"ZoneInfo({zone.key!r})"
    raise TypeError(f"an argument with a time zone of type {type(zone).__qualname__} has no form for a key")


_SCALARS: Final[dict[type, Callable[[Any], str]]] = {
    type(None): repr,
    EllipsisType: repr,
    bool: repr,
    int: _integer,
    float: _real,
    complex: lambda value: f"complex({_real(value.real)},{_real(value.imag)})",
    str: repr,
    bytes: repr,
    date: repr,
    timedelta: repr,
    Decimal: _decimal,
    UUID: repr,
}

_Container = Callable[[_Writing, Any, int], str]

_CONTAINERS: Final[dict[type, _Container]] = {
    datetime: lambda _, value, __: _moment(value),
    time: lambda _, value, __: _moment(value),
    tuple: lambda to, value, depth: "(" + "".join(text + "," for text in to.forms(value, depth)) + ")",
    list: lambda to, value, depth: "[" + ",".join(to.forms(value, depth)) + "]",
    set: lambda to, value, depth: "set{" + ",".join(sorted(to.forms(value, depth))) + "}",
    frozenset: lambda to, value, depth: "frozenset{" + ",".join(sorted(to.forms(value, depth))) + "}",
    dict: lambda to, value, depth: "{" + ",".join(sorted(to.pairs(value, depth))) + "}",
    Counter: lambda to, value, depth: "Counter{" + ",".join(sorted(to.pairs(value, depth))) + "}",
    OrderedDict: lambda to, value, depth: "OrderedDict{" + ",".join(to.pairs(value, depth)) + "}",
    defaultdict: lambda to, value, depth: (
        f"defaultdict({to.form(value.default_factory, depth)},{to.form(dict(value), depth)})"
    ),
    MappingProxyType: lambda to, value, depth: f"mappingproxy({to.form(value.copy(), depth)})",
}
