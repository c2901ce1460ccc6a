"""What the classic commands do to the mesh, as flows: generators that yield requests and are sent their results.

A flow returns what its client is told. It raises Refused where the mesh cannot do what it should.

What depends on the present value (``append``, ``incr``, ``cas`` …) is read, worked out, and stored by compare and swap
at the key's first live owner, by the whole version that was read; if somebody else was quicker, all over again, from a
quorum now, and ``ATTEMPTS_MAX`` times at most. An ``exptime`` that is over means that nothing may be found any more:
the key is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final

from meshcache.node.memcached.asks import CONTENDED, Asks, Refused, check
from meshcache.protocol.memcached import numbers, values
from meshcache.protocol.memcached.commands import Arithmetic, Delete, Retrieve, Store, Touch, Unstorable
from meshcache.protocol.memcached.values import Item
from meshcache.protocol.messages import DEFAULT_LEVEL, LEVEL_QUORUM, Change, Code
from meshcache.protocol.record import version_of

ATTEMPTS_MAX: Final = 16
KEYS_AT_ONCE: Final = 250
"""How many keys of a large ``get`` are read at once …"""
BYTES_AT_ONCE: Final = 1 << 20
"""… and about how many bytes of them are written before the client must have read some."""
MAX_64: Final = 1 << 64
NOT_NUMERIC: Final = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
STORED: Final = b"STORED\r\n"
NOT_FOUND: Final = b"NOT_FOUND\r\n"

Flow = Generator[Any, Any, bytes]
"""Yields requests, or bytes that are to be written; returns the end of the answer."""


class Outcome:
    """What a change makes of an item: what the client is told, and what is to be stored or removed, if anything."""

    __slots__ = ("content", "is_mark", "removes", "reply", "ttl_ms")

    def __init__(
        self,
        reply: Any,
        content: bytes | None = None,
        ttl_ms: int | None = 0,
        *,
        removes: bool = False,
        is_mark: bool = False,
    ) -> None:
        """``is_mark``: the value stays what it is, and so does its ``cas unique``."""
        self.reply = reply
        self.content = content if ttl_ms is not None else None
        self.ttl_ms = ttl_ms
        self.is_mark = is_mark
        self.removes = removes or (content is not None and ttl_ms is None)


Compute = Callable[[Item | None, int], Outcome]
"""Works out a change of an item (None: there is none) at a time in wall milliseconds."""


def change(asks: Asks, key: bytes, compute: Compute) -> Generator[Any, Any, Any]:
    """Change one item as ``compute`` says, and nobody in between; return its reply."""
    level = DEFAULT_LEVEL
    for _ in range(ATTEMPTS_MAX):
        record = check((yield asks.get([key], level))[0])
        instant = asks.instant
        record = values.live(record, instant.now_bytes)
        outcome = compute(None if record is None else Item(record), instant.wall_ms)
        if outcome.content is not None:
            ttl_ms = outcome.ttl_ms
            swap: list[Any] = [Change.ADD, outcome.content, ttl_ms]
            if record is not None:
                kind = Change.MARK if outcome.is_mark else Change.CAS
                swap = [kind, outcome.content, ttl_ms, version_of(record)]
        elif outcome.removes and record is not None:
            swap = [Change.DROP, version_of(record)]
        else:
            return outcome.reply
        if check((yield asks.update([key], [swap]))[0]):
            return outcome.reply
        level = LEVEL_QUORUM
    raise Refused(CONTENDED)


def retrieve(asks: Asks, command: Retrieve) -> Flow:
    """``get``, ``gets``, ``gat``, ``gats``."""
    for start in range(0, len(command.keys), KEYS_AT_ONCE):
        keys = command.keys[start : start + KEYS_AT_ONCE]
        records = yield from read(asks, keys)
        if command.exptime is not None:
            records = yield from _touched(asks, keys, records, command.exptime)
        parts, size = [], 0
        for key, record in zip(keys, records, strict=True):
            part = values.lines([key], [record], unique=command.unique)
            parts += part
            size += len(record or b"")
            if size > BYTES_AT_ONCE:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)
    return b"END\r\n"


def read(asks: Asks, keys: list[bytes]) -> Generator[Any, Any, list[bytes | None]]:
    """Return the live records of some keys, however many answers that takes."""
    found: dict[bytes, bytes | None] = {}
    left = list(dict.fromkeys(keys))
    while left:
        results = yield asks.get(left)
        now_bytes = asks.instant.now_bytes
        more = []
        for key, result in zip(left, results, strict=True):
            if type(result) is list and result[:1] == [Code.MORE]:
                more.append(key)
            else:
                found[key] = values.live(check(result), now_bytes)
        left = more
    return [found[key] for key in keys]


def _touched(
    asks: Asks, keys: list[bytes], records: list[bytes | None], exptime: int
) -> Generator[Any, Any, list[bytes | None]]:
    """Give those that there are another lifetime; return those that there still were."""
    there = [key for key, record in dict(zip(keys, records, strict=True)).items() if record is not None]
    if not there:
        return records
    left_ms = values.ttl_ms(exptime, asks.instant.wall_ms)
    if left_ms is None:
        results = yield asks.delete(there)
    else:
        results = yield asks.update(there, [[Change.TOUCH, left_ms]] * len(there))
    done = dict(zip(there, map(check, results), strict=True))
    ends = left_ms is None  # then a key that is named twice is there once only
    return [
        record if (done.pop(key, False) if ends else done.get(key)) else None
        for key, record in zip(keys, records, strict=True)
    ]


def store(asks: Asks, command: Store) -> Flow:
    """``add``, ``replace``, ``append``, ``prepend``, ``cas``, and a ``set`` whose time is over."""
    verb, key = command.verb, command.key
    if verb == b"set":
        check((yield asks.delete([key]))[0])
        return STORED

    def compute(item: Item | None, wall_ms: int) -> Outcome:
        if item is None:
            if verb == b"add":
                return Outcome(STORED, values.content(command.flags, command.value), ttl(wall_ms))
            return Outcome(NOT_FOUND if verb == b"cas" else b"NOT_STORED\r\n")
        if verb == b"add":
            return Outcome(b"NOT_STORED\r\n")
        if verb == b"cas" and item.unique != command.unique:
            return Outcome(b"EXISTS\r\n")
        if verb in {b"append", b"prepend"}:
            return joined(item, command.value, STORED, wall_ms, before=verb == b"prepend")
        return Outcome(STORED, values.content(command.flags, command.value), ttl(wall_ms))

    def ttl(wall_ms: int) -> int | None:
        return values.ttl_ms(command.exptime, wall_ms)

    reply: bytes = yield from change(asks, key, compute)
    return reply


def joined(item: Item, value: bytes, reply: Any, wall_ms: int, *, before: bool) -> Outcome:
    """Return what becomes of an item with something put before or after its value."""
    whole = value + item.value if before else item.value + value
    return Outcome(reply, item.with_value(whole, keeps_marks=False), item.ttl_ms(wall_ms))


def delete(asks: Asks, command: Delete) -> Flow:
    """``delete``."""
    existed = check((yield asks.delete([command.key]))[0])
    return b"DELETED\r\n" if existed else NOT_FOUND


def remove(asks: Asks, command: Unstorable) -> Flow:
    """Delete what a value that was not taken would have replaced: it must not be found instead."""
    if command.key:
        check((yield asks.delete([command.key]))[0])
    return command.line


def touch(asks: Asks, command: Touch) -> Flow:
    """``touch``."""
    left_ms = values.ttl_ms(command.exptime, asks.instant.wall_ms)
    if left_ms is None:
        done = check((yield asks.delete([command.key]))[0])
    else:
        done = check((yield asks.update([command.key], [[Change.TOUCH, left_ms]]))[0])
    return b"TOUCHED\r\n" if done else NOT_FOUND


def arithmetic(asks: Asks, command: Arithmetic) -> Flow:
    """``incr`` and ``decr``."""

    def compute(item: Item | None, wall_ms: int) -> Outcome:
        if item is None:
            return Outcome(NOT_FOUND)
        number = added(item.value, command.delta, rises=command.rises)
        if number is None:
            return Outcome(NOT_NUMERIC)
        return Outcome(b"%d\r\n" % number, counted(item, number), item.ttl_ms(wall_ms))

    reply: bytes = yield from change(asks, command.key, compute)
    return reply


def added(value: bytes, delta: int, *, rises: bool) -> int | None:
    """Return a number, a sum of 64 bits or a difference of 0 at least; None if the value is no number."""
    number = numbers.unsigned_64(value) if value else None
    if number is None:
        return None
    return (number + delta) % MAX_64 if rises else max(0, number - delta)


def counted(item: Item, number: int) -> bytes:
    """Return the content of an item with another number. It gets no shorter: spaces follow, as memcached has it."""
    digits = b"%d" % number
    fits = len(digits) <= len(item.value)
    return item.with_value(digits.ljust(len(item.value)), keeps_marks=fits)
