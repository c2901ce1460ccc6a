"""The size of every table within an object: of a client there are no counts to ask for, so its attributes are followed.

Tables that a change adds are found by themselves. What is reached by several ways is counted once, under the first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

TABLES: Final = (dict, list, set, deque, bytearray)
FOLLOWED_MAX: Final = 100
"""Of one table, so many values are looked into."""


def census(root: object, name: str) -> dict[str, int]:
    """Return the length of every table, by its path; the tables of all objects that one table has are added up."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    left: deque[tuple[str, Any]] = deque([(name, root)])
    while left:
        path, thing = left.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, TABLES):
            found[path] = found.get(path, 0) + len(thing)
            left += [(f"{path}[]", value) for value in _values(thing) if _is_followed(value)]
        else:
            left += [(f"{path}.{each}", value) for each, value in _attributes(thing) if _is_followed(value)]
    return found


def _is_followed(thing: object) -> bool:
    return isinstance(thing, TABLES) or type(thing).__module__.startswith("meshcache.")


def _attributes(thing: object) -> Iterator[tuple[str, Any]]:
    names = dict.fromkeys(getattr(thing, "__dict__", ()))
    for kind in type(thing).__mro__:
        slots = getattr(kind, "__slots__", ())
        names |= dict.fromkeys([slots] if isinstance(slots, str) else slots)
    for each in list(names):
        value = getattr(thing, each, None)
        if not isinstance(value, type):
            yield each, value


def _values(table: Any) -> list[Any]:
    if isinstance(table, bytearray):
        return []
    try:
        return list(islice(table.values() if isinstance(table, dict) else table, FOLLOWED_MAX))
    except RuntimeError:  # another thread changed it meanwhile: the next census is as good
        return []
