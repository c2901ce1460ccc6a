"""What arguments of the command line are read as. A text that is none of it is refused in words, with what it may be.

argparse by itself names the function that refused a text ("invalid count value"), which tells nobody what to type.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from meshcache.durations import seconds_of

T = TypeVar("T")


def _in_words(read: Callable[[str], T]) -> Callable[[str], T]:
    """Have argparse say what ``read`` says of a text that it refuses, instead of the name of a function."""

    def reader(text: str) -> T:
        try:
            return read(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return reader


@_in_words
def seconds(text: str) -> float:
    """A time that is longer than 0."""
    duration_s = seconds_of(text)
    if duration_s <= 0:
        raise ValueError(f"must be longer than 0, is {text!r}")
    return duration_s


@_in_words
def lifetime(text: str) -> float | None:
    """A time to live; None: for ever."""
    if text == "never":
        return None
    duration_s = seconds_of(text)
    if duration_s <= 0:
        raise ValueError(f"must be longer than 0, is {text!r}: write never for a key that never expires")
    return duration_s


def _number(kind: Callable[[str], T], what: str, text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"must be {what}, is {text!r:.60}") from None


@_in_words
def whole(text: str) -> int:
    """A whole number."""
    return _number(int, "a whole number", text)


@_in_words
def count(text: str) -> int:
    """A number of things."""
    value = _number(int, "a whole number of at least 1", text)
    if value < 1:
        raise ValueError(f"must be at least 1, is {text!r}")
    return value


@_in_words
def share(text: str) -> float:
    """A part of a whole."""
    value = _number(float, "a number from 0 to 1", text)
    if not 0 <= value <= 1:
        raise ValueError(f"must be from 0 to 1, is {text!r}")
    return value
