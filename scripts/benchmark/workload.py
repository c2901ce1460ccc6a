"""Keys, values that belong to them, and the loops that are timed."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from .clients import Calls

CALLS_MIN: Final = 3
"""A block has at least this many calls, however slow they are."""

SMALL_BYTES: Final = 100
KEY_BYTES: Final = 16
LOAD_BYTES_MAX: Final = 4_000_000
"""How much one call stores while rows are prepared."""


class WrongValue(Exception):
    """A contestant returned something else than what was stored."""


def key_of(index: int) -> str:
    """Return a key of KEY_BYTES bytes."""
    return f"k{index:015d}"


def value_for(key: str, size: int) -> bytes:
    """Return a value of ``size`` bytes that belongs to this key and no other."""
    unit = key.encode() + b"="
    return (unit * (size // len(unit) + 1))[:size]


def batches(keys: list[str], size: int) -> list[list[str]]:
    """Cut the keys into full batches."""
    return [keys[start : start + size] for start in range(0, len(keys) - size + 1, size)]


def around(items: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Go round the items for ever, each as the one argument of a call."""
    return itertools.cycle([(item,) for item in items])


def load(calls: Calls, keys: list[str], size: int) -> None:
    """Store a value of ``size`` bytes under each key."""
    per_call = max(1, min(1_000, LOAD_BYTES_MAX // size))
    for start in range(0, len(keys), per_call):
        calls.set_many({key: value_for(key, size) for key in keys[start : start + per_call]})


def verify(keys: list[str], found: Sequence[Any], size: int = SMALL_BYTES) -> None:
    """Compare what was found under these keys with what was stored."""
    for key, value in zip(keys, found, strict=True):
        if value != value_for(key, size):
            raise WrongValue(f"{key}: {str(value)[:60]!r} is not the {size:,} bytes that were stored")


def time_calls(call: Callable[..., Any], arguments: Iterator[tuple[Any, ...]], seconds: float) -> list[int]:
    """Call again and again until ``seconds`` have passed; return the nanoseconds of each call."""
    clock = time.perf_counter_ns
    calls_ns: list[int] = []
    append = calls_ns.append
    before = clock()
    end = before + int(seconds * 1e9)
    for argument in arguments:
        call(*argument)
        now = clock()
        append(now - before)
        before = now
        if now >= end and len(calls_ns) >= CALLS_MIN:
            break
    return calls_ns


async def gather_waves(get: Callable[[str], Awaitable[Any]], waves: list[list[str]], seconds: float) -> list[int]:
    """Gather one wave of gets after the other; check the last one and return the nanoseconds of each."""
    calls_ns: list[int] = []
    clock = time.perf_counter_ns
    wave, found = waves[0], []
    before = clock()
    end = before + int(seconds * 1e9)
    for wave in itertools.cycle(waves):
        found = await asyncio.gather(*[get(key) for key in wave])
        now = clock()
        calls_ns.append(now - before)
        before = now
        if now >= end and len(calls_ns) >= CALLS_MIN:
            break
    verify(wave, found)
    return calls_ns


async def loop_tasks(
    get: Callable[[str], Awaitable[Any]], keys: list[str], concurrent: int, seconds: float
) -> list[int]:
    """Let tasks get one key after another, each its own keys; return the nanoseconds of each get."""
    calls_ns: list[int] = []
    append = calls_ns.append
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)

    async def task(mine: list[str]) -> None:
        key, found = mine[0], None
        before = clock()
        for key in itertools.cycle(mine):
            found = await get(key)
            now = clock()
            append(now - before)
            before = now
            if now >= end:
                break
        verify([key], [found])

    await asyncio.gather(*[task(keys[index::concurrent]) for index in range(concurrent)])
    return calls_ns
