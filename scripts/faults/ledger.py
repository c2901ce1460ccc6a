"""What a read may return: the state of every key, shared by all processes of a load.

Each key has one writer, which numbers its changes (sets and deletes alike). It notes a change here before it asks for
it and again when it is acknowledged, so that a reader in any process knows, from what was acknowledged before its read
began and attempted before it ended, exactly what it may see:

- a number less than the one acknowledged before the read began is *stale*;
- a number never attempted, or a value that names another key, is *wrong*;
- no value, where one was acknowledged and no delete has been attempted since, is *lost*.

A change of unknown outcome (its call failed) may be seen or not; both are accepted until the next acknowledged one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple


class Verdict(Enum):
    """What a read turned out to be."""

    HIT = auto()
    ABSENT = auto()
    """No value, as it may be."""
    LOST = auto()
    STALE = auto()
    WRONG = auto()
    BACKWARDS = auto()
    """Not stale, but older than what the same reader has seen before."""


class Floor(NamedTuple):
    """What was known of a key when a read began."""

    number: int
    deleted: bool


class Ledger:
    """Arrays in shared memory: one slot per key, written by the key's writer only."""

    def __init__(self, keys: int) -> None:
        self._acknowledged = RawArray("q", keys)
        """The last acknowledged number, times two; plus one if that was a delete. One cell, so that it is atomic."""
        self._attempted = RawArray("q", keys)
        self._delete_attempted = RawArray("q", keys)

    def __len__(self) -> int:
        return len(self._acknowledged)

    def attempt(self, key: int, *, delete: bool) -> int:
        """Number a change that is about to be asked for."""
        number: int = self._attempted[key] + 1
        self._attempted[key] = number
        if delete:
            self._delete_attempted[key] = number
        return number

    def acknowledge(self, key: int, number: int, *, delete: bool) -> None:
        """Note that a change is certain now."""
        self._acknowledged[key] = number * 2 + delete

    def floor(self, key: int) -> Floor:
        """Return what is certain of a key; to be taken before a read begins."""
        word = self._acknowledged[key]
        return Floor(word >> 1, bool(word & 1) or not word)

    def judge(self, key: int, floor: Floor, value: Any) -> tuple[Verdict, int]:
        """Hold what a read returned (None: nothing) against what was certain before; also return the number read."""
        if value is None:
            absent = floor.deleted or self._delete_attempted[key] > floor.number
            return (Verdict.ABSENT if absent else Verdict.LOST), 0
        number = number_in(key, value)
        if number is None or number > self._attempted[key]:
            return Verdict.WRONG, 0
        return (Verdict.STALE if number < floor.number else Verdict.HIT), number


def name_of(key: int) -> str:
    """Return the key as the cache has it."""
    return f"chaos:{key}"


def value_of(key: int, number: int, padding: bytes) -> dict[str, Any]:
    """Return a value that says which key and which change it belongs to."""
    return {"key": name_of(key), "number": number, "padding": padding}


def number_in(key: int, value: Any) -> int | None:
    """Return the number in a value; None if it is no value of this key."""
    if not isinstance(value, Mapping) or value.get("key") != name_of(key):
        return None
    number = value.get("number")
    return number if isinstance(number, int) else None
