"""What the patterns put into the cache besides values, and the types that they share.

Marks are strings that no program stores by accident, so that values keep the form they have without a pattern, and any
codec that takes strings will do:

* *absent*: the database was asked, and has no such key;
* a *fence*: somebody is writing this key to the database. Readers do not trust the cache then; see ``fences.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, Self, TypeVar

from meshcache.aio import AsyncClient
from meshcache.arguments import MISSING, Key, Sentinel, raw_key
from meshcache.client import Client

K = TypeVar("K")
V = TypeVar("V")
Missing = Literal[Sentinel.MISSING]
Cache = Client | AsyncClient
Name = Callable[[K], Key]
"""How a key of the database is called in the cache."""

MARK: Final = "\0meshcache.patterns\0"
ABSENT: Final = MARK + "absent"
_FENCE: Final = MARK + "fence"
WRITERS_MAX: Final = 16
"""A fence does not list more writers than this; so it has a bounded size."""
PLAIN: Final = "plain"
CONTENDED: Final = "contended"
"""Several were at it at the same time, so nobody knows which write was the last; none may publish its value."""
UNTRACKED: Final = "untracked"
"""So many that they are not listed; nobody may end this fence, it expires."""
SPENT: Final = "spent"
"""Nobody is at it any more; it is as good as gone."""


@dataclass(frozen=True, slots=True)
class Write(Generic[K, V]):
    """A write as the store function of the user gets it."""

    key: K
    value: V | Missing
    """``meshcache.MISSING``: the key is to be deleted."""
    sequence: int = 0
    """Of write-behind: greater for a later write, so that a store function can refuse what it had before. Else 0."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Who is writing a key to the database at the moment."""

    writers: tuple[str, ...]
    state: str = PLAIN

    @classmethod
    def of(cls, value: object) -> Self | None:
        """Return the fence that a value of the cache is, if it is one."""
        if type(value) is not str or not value.startswith(_FENCE):
            return None
        _, state, *writers = value[len(MARK) :].split(" ")
        return cls(tuple(writers), state)

    def joined(self, writer: str) -> Self:
        """Return the fence with one writer more."""
        if self.state == SPENT:
            return type(self)((writer,))
        if self.state == UNTRACKED or len(self.writers) >= WRITERS_MAX:
            return type(self)((), UNTRACKED)
        return type(self)((*self.writers, writer), self.state)

    def left(self, writer: str) -> Self:
        """Return the fence when a writer is done who does not publish."""
        if self.state in {UNTRACKED, SPENT}:
            return self
        if self.writers == (writer,):
            return type(self)((), SPENT)
        return type(self)(tuple(other for other in self.writers if other != writer), CONTENDED)

    def __str__(self) -> str:
        return " ".join((_FENCE, self.state, *self.writers))


def is_mark(value: object) -> bool:
    """Tell whether a value of the cache is one of ours and none of the user's."""
    return type(value) is str and value.startswith(MARK)


def plain(key: object) -> Key:
    """Return the name of a key that is a string, bytes or a number: itself, in text."""
    if type(key) is int:
        return str(key)
    if isinstance(key, str | bytes):
        return key
    raise TypeError(f"keys of type {type(key).__name__} need name=, a function that returns a str or bytes for each")


def named(name: Name[K], key: K) -> Key:
    """Return the name of a key, checked before anything is done with it."""
    found = name(key)
    raw_key(b"", found)
    return found


def stored(value: V | Missing) -> V | str:
    """Return what the cache holds for what the database says."""
    return ABSENT if value is MISSING else value
