"""What the meta commands do to the mesh; see flows.py.

**Recaching.** An item that was marked stale (``md`` with ``I``), whose time is almost over (``R``), or that was made
because there was none (``N``), has one client compute its value anew: the first is told ``W``, the others ``Z``. That
the ``W`` was given is noted in the item itself (``leased`` in its extras), at the key's first live owner like any other
change; so it outlives that node as the item does. It changes no value: the number that the winner was told is still
what its ``ms`` with ``C`` needs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final

from meshcache.node.memcached.asks import Asks, check
from meshcache.node.memcached.flows import NOT_NUMERIC, Flow, Outcome, added, change, counted, joined, read
from meshcache.protocol.memcached import values
from meshcache.protocol.memcached.commands import Meta, MetaDebug, MetaFlags
from meshcache.protocol.memcached.meta import echo, told
from meshcache.protocol.memcached.values import Item
from meshcache.protocol.messages import LEVEL_QUORUM, Change
from meshcache.protocol.record import HEADER_BYTES, NEVER_MS, STAMP_BYTES, content_of, expiry_bytes


def run(asks: Asks, command: Meta) -> Flow:
    """``mg``, ``ms``, ``md``, ``ma``."""
    return _FLOWS[command.verb](asks, command)


def debug(asks: Asks, command: MetaDebug) -> Flow:
    """``me``."""
    record = (yield from read(asks, [command.key]))[0]
    if record is None:
        return b"EN\r\n"
    item, wall_ms = Item(record), asks.instant.wall_ms
    expires = b"-1" if item.expires_ms == NEVER_MS else b"-" + item.ttl_told(wall_ms)
    size = len(record) + len(command.key)
    seen = command.name, expires, item.age_s(wall_ms), item.unique, size
    return b"ME %b exp=%b la=%d cas=%d fetch=no cls=1 size=%d\r\n" % seen


# ---- mg


class _Got:
    """What an ``mg`` found, and does to it."""

    __slots__ = ("expires_ms", "is_new", "is_stale", "item", "wins")

    def __init__(self, item: Item, *, is_stale: bool, is_new: bool) -> None:
        self.item = item
        self.is_stale = is_stale
        self.is_new = is_new
        self.expires_ms = item.expires_ms
        self.wins = is_new or (is_stale and not item.extras.leased)


def _get(asks: Asks, command: Meta) -> Flow:
    flags, key = command.flags, command.key
    if flags.vivify is None and flags.recache is None and flags.ttl is None:
        record = (yield from read(asks, [key]))[0]
        if record is None:
            return _absent(command)
        if not record[STAMP_BYTES]:  # it has no extras, and so no marks
            return _item_line(command, _Got(Item(record), is_stale=False, is_new=False), asks.instant.wall_ms)
    got: _Got | None = yield from change(asks, key, lambda item, wall_ms: _look(command, item, wall_ms))
    if got is None:
        return _absent(command)
    if got.is_new and any(token[0] == ord("c") for token in flags.tokens):
        got.item.unique = yield from _unique_of(asks, key, content_of(got.item.record))
    elif flags.ttl is not None and not got.is_new and not got.wins:
        left_ms = values.ttl_ms(flags.ttl, asks.instant.wall_ms)
        if left_ms is None:
            check((yield asks.delete([key]))[0])
        else:
            check((yield asks.update([key], [[Change.TOUCH, left_ms]]))[0])
    return _item_line(command, got, asks.instant.wall_ms)


def _look(command: Meta, item: Item | None, wall_ms: int) -> Outcome:
    """Work out what an ``mg`` makes of an item: a new one, or one with the mark that its ``W`` was given."""
    flags = command.flags
    if item is None:
        if flags.vivify is None:
            return Outcome(None)
        content = values.content(0, b"", leased=True)
        fresh = Item((wall_ms << 16).to_bytes(8, "big") + bytes(8) + expiry_bytes(NEVER_MS) + content)
        return Outcome(_Got(fresh, is_stale=False, is_new=True), content, _first_ttl_ms(flags, wall_ms))
    got = _Got(item, is_stale=item.is_stale(wall_ms), is_new=False)
    got.wins |= not item.extras.leased and _is_almost_over(flags, item.expires_ms, wall_ms)
    if not got.wins:
        return Outcome(got)
    content = item.marked(leased=True, soft_expires_ms=item.extras.soft_expires_ms)
    ttl = item.ttl_ms(wall_ms) if flags.ttl is None else values.ttl_ms(flags.ttl, wall_ms)
    return Outcome(got, content, ttl, is_mark=True)


def _is_almost_over(flags: MetaFlags, expires_ms: int, wall_ms: int) -> bool:
    """Tell whether less is left of an item's time than ``R`` says; that is judged by what a ``T`` before it has set."""
    for token in flags.tokens:
        if token[0] == ord("T"):
            expires_ms = _expires_ms(values.ttl_ms(flags.ttl or 0, wall_ms), wall_ms)
        elif token[0] == ord("R"):
            left_ms = values.ttl_ms(flags.recache or 0, wall_ms)
            return bool(left_ms) and expires_ms != NEVER_MS and expires_ms < wall_ms + (left_ms or 0)
    return False


def _item_line(command: Meta, got: _Got, wall_ms: int) -> bytes:
    flags, item = command.flags, got.item
    parts = [b"VA %d" % len(item.value) if flags.wants_value else b"HD"]
    for token in flags.tokens:
        letter = token[:1]
        if letter == b"T" or (letter == b"N" and got.is_new):
            exptime = flags.ttl if letter == b"T" else flags.vivify
            item.expires_ms = _expires_ms(values.ttl_ms(exptime or 0, wall_ms), wall_ms)
        elif letter in _TOLD:
            parts.append(_TOLD[letter](item, wall_ms))
        elif letter == b"O":
            parts.append(b" " + token)
        elif letter == b"k":
            parts.append(told(command.key, flags))
    parts.append(b" Z" if item.extras.leased and not got.is_new else b"")
    parts.append(b" X" if got.is_stale else b"")
    parts.append(b" W\r\n" if got.wins else b"\r\n")
    if flags.wants_value:
        parts += [item.value, b"\r\n"]
    return b"".join(parts)


_TOLD: Final[dict[bytes, Callable[[Item, int], bytes]]] = {
    b"s": lambda item, _: b" s%d" % len(item.value),
    b"t": lambda item, wall_ms: b" t" + item.ttl_told(wall_ms),
    b"c": lambda item, _: b" c%d" % item.unique,
    b"f": lambda item, _: b" f%d" % item.flags,
    b"l": lambda item, wall_ms: b" l%d" % item.age_s(wall_ms),
    b"h": lambda *_: b" h0",
}
"""What there is to tell of an item. Nodes do not note reads: it was last used when it was written, and never hit."""


def _absent(command: Meta) -> bytes:
    return b"" if command.flags.quiet else b"EN" + echo(command.key, command.flags) + b"\r\n"


def _first_ttl_ms(flags: MetaFlags, wall_ms: int) -> int | None:
    """Return the lifetime of an item that is made because there was none: of ``N`` and ``T``, the later word counts."""
    last = [token[0] for token in flags.tokens if token[0] in b"NT"][-1]
    return values.ttl_ms((flags.ttl if last == ord("T") else flags.vivify) or 0, wall_ms)


def _expires_ms(ttl_ms: int | None, wall_ms: int) -> int:
    if ttl_ms is None:
        return wall_ms
    return wall_ms + ttl_ms if ttl_ms else NEVER_MS


# ---- ms


def _set(asks: Asks, command: Meta) -> Flow:
    flags, key, wall_ms = command.flags, command.key, asks.instant.wall_ms
    content = values.content(flags.client_flags, command.value)
    ttl_ms = values.ttl_ms(flags.ttl or 0, wall_ms)
    if flags.mode in {b"", b"S"} and not flags.compares:
        if ttl_ms is None:
            check((yield asks.delete([key]))[0])
        else:
            results = yield asks.set([key], [content], ttl_ms)
            if results is not None:
                check(results[0])
        code = b"HD"
    else:
        stored: list[bytes] = []

        def compute(item: Item | None, now_ms: int) -> Outcome:
            outcome = _stored(flags, item, command.value, now_ms)
            stored[:] = [] if outcome.content is None else [outcome.content]
            return outcome

        code = yield from change(asks, key, compute)
        content = stored[0] if stored else content
    unique = 0
    if code == b"HD" and any(token[0] == ord("c") for token in flags.tokens):
        unique = yield from _unique_of(asks, key, content)
    if flags.quiet and code == b"HD":
        return b""
    parts = [code]
    for token in flags.tokens:
        if token[0] == ord("O"):
            parts.append(b" " + token)
        elif token[0] == ord("k"):
            parts.append(told(key, flags))
        elif token[0] == ord("c"):
            parts.append(b" c%d" % unique)
    return b"".join([*parts, b"\r\n"])


def _stored(flags: MetaFlags, item: Item | None, value: bytes, wall_ms: int) -> Outcome:
    """Work out an ``ms`` that depends on what is there."""
    mode, compares = flags.mode, flags.compares and flags.unique != 0
    swaps = flags.compares and mode in {b"", b"S", b"R"}
    content, ttl_ms = values.content(flags.client_flags, value), values.ttl_ms(flags.ttl or 0, wall_ms)
    if item is None:
        return Outcome(b"HD", content, ttl_ms) if mode == b"E" else Outcome(b"NF" if swaps else b"NS")
    matches = item.unique == flags.unique
    if mode == b"E":
        return Outcome(b"NS")
    if mode in {b"A", b"P"} and (matches or not compares):
        return joined(item, value, b"HD", wall_ms, before=mode == b"P")
    if (mode == b"R" and not swaps) or (swaps and compares and matches):
        return Outcome(b"HD", content, ttl_ms)
    if swaps and compares and flags.invalidates and flags.unique < item.unique:
        # It is older than what is there, and its client says so: better than nothing, until there is something new.
        leased = item.extras.leased
        stale = values.content(flags.client_flags, value, leased=leased, soft_expires_ms=wall_ms - values.STALE_FOR_MS)
        return Outcome(b"HD", stale, item.ttl_ms(wall_ms))
    return Outcome(b"EX")


# ---- md


def _delete(asks: Asks, command: Meta) -> Flow:
    flags = command.flags

    def compute(item: Item | None, wall_ms: int) -> Outcome:
        if item is None:
            return Outcome(b"NF")
        if flags.compares and item.unique != flags.unique:
            return Outcome(b"EX")
        if not flags.invalidates:
            return Outcome(b"HD", removes=True)
        content = item.marked(leased=False, soft_expires_ms=wall_ms - values.STALE_FOR_MS)
        ttl_ms = item.ttl_ms(wall_ms) if flags.ttl is None else values.ttl_ms(flags.ttl, wall_ms)
        return Outcome(b"HD", content, ttl_ms)

    if flags.compares or flags.invalidates:
        code: bytes = yield from change(asks, command.key, compute)
    else:
        code = b"HD" if check((yield asks.delete([command.key]))[0]) else b"NF"
    return b"" if flags.quiet and code == b"HD" else code + echo(command.key, flags) + b"\r\n"


# ---- ma


class _Counted:
    """What an ``ma`` made of an item."""

    __slots__ = ("content", "digits", "expires_ms", "is_new")

    def __init__(self, number: int, content: bytes, expires_ms: int, *, is_new: bool) -> None:
        self.digits = b"%d" % number
        self.content = content
        self.expires_ms = expires_ms
        self.is_new = is_new


def _arithmetic(asks: Asks, command: Meta) -> Flow:
    flags = command.flags
    rises = flags.mode in {b"", b"I", b"+"}

    def compute(item: Item | None, wall_ms: int) -> Outcome:
        later = None if flags.ttl is None else values.ttl_ms(flags.ttl, wall_ms)
        if item is None:
            if flags.vivify is None:
                return Outcome(b"NF")
            content = values.content(0, b"%d" % flags.initial)
            made = _Counted(flags.initial, content, NEVER_MS, is_new=True)
            return Outcome(made, content, _first_ttl_ms(flags, wall_ms))
        if not item.value:
            return Outcome(NOT_NUMERIC)
        if flags.compares and flags.unique and item.unique != flags.unique:
            return Outcome(b"EX")
        number = added(item.value, flags.delta, rises=rises)
        if number is None:
            return Outcome(NOT_NUMERIC)
        content = counted(item, number)
        made = _Counted(number, content, item.expires_ms, is_new=False)
        return Outcome(made, content, item.ttl_ms(wall_ms) if flags.ttl is None else later)

    made = yield from change(asks, command.key, compute)
    if isinstance(made, bytes):
        return made if made is NOT_NUMERIC else made + echo(command.key, flags) + b"\r\n"
    unique = 0
    if any(token[0] == ord("c") for token in flags.tokens):
        unique = yield from _unique_of(asks, command.key, made.content)
    if flags.quiet and not made.is_new:
        return b""
    return _counted_line(command, made, unique, asks.instant.wall_ms)


def _counted_line(command: Meta, made: _Counted, unique: int, wall_ms: int) -> bytes:
    flags = command.flags
    expires_ms = made.expires_ms
    parts = [b"VA %d" % len(made.digits) if flags.wants_value else b"HD"]
    for token in flags.tokens:
        letter = token[:1]
        if letter == b"c":
            parts.append(b" c%d" % unique)
        elif letter == b"t":
            parts.append(b" t" + (b"-1" if expires_ms == NEVER_MS else b"%d" % -((wall_ms - expires_ms) // 1000)))
        elif letter == b"T" or (letter == b"N" and made.is_new):
            exptime = flags.ttl if letter == b"T" else flags.vivify
            expires_ms = _expires_ms(values.ttl_ms(exptime or 0, wall_ms), wall_ms)
        elif letter == b"O":
            parts.append(b" " + token)
        elif letter == b"k":
            parts.append(told(command.key, flags))
    if flags.wants_value:
        parts.append(b"\r\n" + made.digits)
    return b"".join([*parts, b"\r\n"])


def _unique_of(asks: Asks, key: bytes, content: bytes) -> Generator[Any, Any, int]:
    """Return the ``cas unique`` of what was stored just now.

    If something else is there by now, it is a number that matches nothing any more.
    """
    record = check((yield asks.get([key], LEVEL_QUORUM))[0])
    if record is None or len(record) < HEADER_BYTES:
        return 0
    unique = values.unique_of(record)
    return unique if content_of(record) == content else unique - 1


_FLOWS: Final = {b"mg": _get, b"ms": _set, b"md": _delete, b"ma": _arithmetic}
