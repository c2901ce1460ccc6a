"""What the patterns put into the cache besides values, and the types that they share.

Marks are strings that no program stores by accident. So values are stored as they are without a pattern, and any codec
that takes strings works:

* *absent*: the database was asked, and has no such key; * a *fence*: a writer is writing this key to the database.
Readers do not trust the cache then; see ``fences.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, Self, TypeVar

from meshcache.client.aio.client import AsyncClient
from meshcache.client.arguments import MISSING, Key, Sentinel, raw_key
from meshcache.client.blocking.client import Client

K = TypeVar("K")
V = TypeVar("V")
Missing = Literal[Sentinel.MISSING]
Cache = Client | AsyncClient
Name = Callable[[K], Key]
"""Returns the name of a database key in the cache."""

MARK: Final = "\0meshcache.patterns\0"
ABSENT: Final = MARK + "absent"
_FENCE: Final = MARK + "fence"
WRITERS_MAX: Final = 16
"""A fence lists no more writers than this, so that its size is bounded."""
PLAIN: Final = "plain"
CONTENDED: Final = "contended"
"""Several writers were active at the same time: nobody knows which write was the last, and none may publish."""
LASTING_MAX_S: Final = 1e9
UNTRACKED: Final = "untracked"
"""There are too many writers to list; none may end this fence, it expires."""
SPENT: Final = "spent"
"""No writer is active any more; the fence counts as gone."""


@dataclass(frozen=True, slots=True)
class Write(Generic[K, V]):
    """A write, as the store function of the program gets it."""

    key: K
    value: V | Missing
    """``meshcache.MISSING``: the key is to be deleted."""
    sequence: int = 0
    """For write-behind: greater for a later write, so that a store function can refuse older ones. Else 0."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The writers that are writing a key to the database now, and for how many milliseconds each may still count.

    A writer that died is forgotten when its time is over, however often others write meanwhile. The time is measured by
    what is left of the fence's own lifetime, which the nodes measure; so the clocks of the writers do not matter.
    """

    writers: tuple[tuple[str, int], ...]
    state: str = PLAIN
    untracked_ms: int = 0

    @classmethod
    def of(cls, value: object, seconds_left: float) -> Self | None:
        """Return the fence that a cached value stands for, as of now; None if it is no fence."""
        if type(value) is not str or not value.startswith(_FENCE):
            return None
        try:
            _, state, lasting, *writers = value[len(MARK) :].split(" ")
            elapsed_ms = max(0, int(lasting) - math.ceil(1000 * min(seconds_left, LASTING_MAX_S)))
            pairs = [(writer, int(left) - elapsed_ms) for writer, left in (each.split(":") for each in writers)]
        except ValueError:
            return None
        alive = tuple(pair for pair in pairs if pair[1] > 0)
        if state == UNTRACKED:
            return cls((), UNTRACKED, int(lasting) - elapsed_ms)
        return cls(alive, state) if alive else cls((), SPENT)

    @property
    def ttl_ms(self) -> int:
        """The lifetime of the fence."""
        if self.state == UNTRACKED:
            return self.untracked_ms
        return max((left for _, left in self.writers), default=1)

    def is_only(self, writer: str) -> bool:
        """Tell whether no other writer was active since this one began."""
        return self.state == PLAIN and [name for name, _ in self.writers] == [writer]

    def joined(self, writer: str, ttl_ms: int) -> Self:
        """Return the fence with one more writer."""
        if self.state == SPENT:
            return type(self)(((writer, ttl_ms),))
        if self.state == UNTRACKED or len(self.writers) >= WRITERS_MAX:
            return type(self)((), UNTRACKED, max(ttl_ms, self.ttl_ms))
        return type(self)((*self.writers, (writer, ttl_ms)), self.state)

    def left(self, writer: str) -> Self:
        """Return the fence after a writer has finished without publishing."""
        if self.state in {UNTRACKED, SPENT}:
            return self
        rest = tuple(each for each in self.writers if each[0] != writer)
        return type(self)(rest, CONTENDED) if rest else type(self)((), SPENT)

    def __str__(self) -> str:
        writers = (f"{writer}:{left}" for writer, left in self.writers)
        return " ".join((_FENCE, self.state, str(self.ttl_ms), *writers))


def is_mark(value: object) -> bool:
    """Tell whether a cached value is a mark, and not the program's."""
    return type(value) is str and value.startswith(MARK)


def plain(key: object) -> Key:
    """Return the name of a key that is a string, bytes or a number: the key itself, as text."""
    if type(key) is int:
        return str(key)
    if isinstance(key, str | bytes):
        return key
    raise TypeError(f"keys of type {type(key).__name__} need name=, a function that returns a str or bytes for each")


def named(name: Name[K], key: K) -> Key:
    """Return the name of a key, checked before it is used."""
    found = name(key)
    raw_key(b"", found)
    return found


def stored(value: V | Missing) -> V | str:
    """Return what the cache stores for a value of the database."""
    return ABSENT if value is MISSING else value
