"""Commands of memcached's text protocol, drawn at random, most of them right, all of them on few keys.

A sequence is a list of steps:

- ``("say", bytes)``: a command, sent in one piece with those before it
- ``("cut",)``: what was said so far is sent by itself
- ``("turn",)``: what was said so far is sent, and answered, before the next
- ``("alone", bytes)``: a turn, and then a command
- ``("cas", key, bytes)``: a command with ``{cas}`` in it, for which the key's cas unique of that moment is looked up

Turns take place only in sequences that are right in form: after a data block of the wrong length nobody could tell
where the answer to a turn is. memcached counts in place, and pads with blanks what became shorter, unless the item
waits to be sent: so what counts has a turn before it, and never works in the other sequences. A lifetime is either
none, over at once, or much longer than a sequence takes.
"""

from __future__ import annotations

import base64
import random
import re
import time
from typing import Any, Final

Step = tuple[Any, ...]

PLAIN: Final = (b"a", b"b", b"c:1", b"k" * 240, b"\xc3\xa9\xff")
BINARY: Final = (b"bin ary", b"\x00\x01\r\n")
"""Keys that only base64 can name: of others memcached remembers how they were named when they were written."""
KEYS: Final = (*PLAIN, *BINARY)
VALUES: Final = (b"", b"x", b"hello", b"line\r\nline", b"END\r\n", b"\0\xff\x80", b"y" * 1500, b"STORED\r\n")
NUMBERS: Final = (b"0", b"1", b"9", b"10", b"99", b"100", b"18446744073709551615", b"18446744073709551614", b"007")
NO_NUMBERS: Final = (b"18446744073709551616", b" 5", b"5 ", b"1e3", b"+3", b"0x10", b"9" * 30)
"""None has a minus: memcached looks for one behind the end of a number of 2**63 or more, in what was there before."""
DELTAS: Final = (b"1", b"1", b"2", b"10", b"100", b"0", b"18446744073709551615", b"9223372036854775808")
BAD_NUMBERS: Final = (b"-1", b"abc", b"18446744073709551616", b"1.5", b"", b"1x")
BAD_META_FLAGS: Final = (b"z", b"T", b"Tx", b"v", b"c", b"N", b"Cx", b"b", b"D-1", b"k", b"q")
OPAQUE_TOO_LONG: Final = b"O" + b"0" * 32
"""memcached looks at it last: what it refuses then to mg and ma has been done already, so they go without."""
FLAGS: Final = (b"0", b"0", b"1", b"2", b"16", b"4294967295")
BAD_FLAGS: Final = (b"4294967296", b"-1", b"x", b"99999999999999999999")
LIFETIMES: Final = (b"0", b"0", b"0", b"100", b"5000", b"2592000", b"-1", b"-100", b"2592001")
OVER: Final = (b"-1", b"-100", b"2592001", b"99999999999")
"""Of both, those that are over when they begin: of the last, 32 bits are looked at."""
RECACHES: Final = (b"30", b"30", b"4000", b"0", b"-1")
"""None is near a lifetime, where what is left would be compared with it by the fraction of a second."""
BAD_LIFETIMES: Final = (b"x", b"99999999999", b"1.5", b"--1")
NO_UNIQUE: Final = b"18446744073709551615"
"""A cas unique that no item ever has."""
LONGEST: Final = b"l" * 250
LONG: Final = b"l" * 251
TOO_LARGE: Final = 1_100_000
"""Bytes of a value that no server takes which has its limit at 1 MB."""
_LINES: Final = tuple(
    line.strip("|").encode().replace(b"LONG", LONG) + b"\r\n"
    for line in """\
||
| |
|nonsense|
|GET a|
|  get a|
|get  a|
|get a |
|get|
|gets|
|gat|
|gat 0|
|set|
|set a|
|set a 0 0|
|set a 0 0 1 noreply extra|
|incr|
|incr a|
|incr LONG 1|
|touch|
|touch a|
|touch LONG 1|
|delete|
|delete LONG|
|delete a 0|
|delete a 5|
|delete a 0 noreply|
|delete a b c d|
|verbosity|
|verbosity 0|
|verbosity x y z|
|flush_all x|
|flush_all -1|
|version x|
|version noreply|
|stats nothing|
|mn x|
|mg|
|mg a z|
|mg a vv|
|mg LONG v|
|ms|
|ms a|
|ms a S1|
|ms a abc|
|ms a -1|
|md|
|ma|
|ma a Mx|
|ma a M|
|me|
|me nothing|""".splitlines()
)
NONSENSE: Final = (*_LINES, b"\n", b"get a" + b" " * 200 + b"b\r\n", b"cas a 0 0 1\r\nx\r\n")
ALONE: Final = (
    *(verb + keys for verb in (b"get ", b"gets ", b"gat 0 ") for keys in (LONG, LONG + b" b", b"none " + LONG)),
    b"nonsense" * 300,
    b"get " + b" ".join(b"a" * 200 for _ in range(100)),
)
"""Lines that have a turn before and after them: what memcached does depends on what it has read and sent by then."""
ORDERLY: Final = tuple(
    line + b"\r\n"
    for line in (
        b"version",
        b"stats",
        b"stats reset",
        b"verbosity 1",
        b"verbosity 1 noreply",
        b"flush_all",
        b"flush_all 0",
        b"flush_all noreply",
        b"flush_all 0 noreply",
    )
)


# What nobody has patience for, the last: data blocks whose end does not come in the same sequence.
_HARMFUL: Final = re.compile(
    rb"flush"  # another delay of which would have its effect later
    rb"|g[^\n]*([^ \n]{251}|\Z)"  # see ALONE
    rb"|[^\n]* C(?!18446744073709551615[ \r\n])\d"  # a number that is older here, and newer there
    rb"|(ms +[^ \n]+|[a-z]+ +[^ \n]+ +[^ \n]+ +[^ \n]+) +(?!(?:1499|150[01]|2147483647|4294967296|9{20})[^\d])\d{4}"
)


class Draw:
    """Draws sequences; the same seed draws the same."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._wrong = 0.0
        """How often a part of a command is wrong, in this sequence."""

    def sequence(self) -> list[Step]:
        """Return the steps of one connection."""
        self._wrong = self._rng.choice((0.0, 0.0, 0.03, 0.15))
        steps: list[Step] = []
        for _ in range(self._rng.choice((1, 2, 4, 8, 16, 30))):
            steps += self._steps()
        return [*steps, *self._end()]

    def _end(self) -> list[Step]:
        """Return what completes a data block that is short of some bytes, or else, now and then, a farewell."""
        if self._wrong:
            return [("say", b"\r\n" + b"mn\r\n" * 400)]
        quits = self._rng.random() < 0.1
        return [("say", self._rng.choice((b"quit\r\n", b"quit noreply\r\n")))] if quits else []

    def _steps(self) -> list[Step]:
        if self._wrong and self._rng.random() < self._wrong:
            return [("say", self._rng.choice(NONSENSE)) if self._rng.random() < 0.7 else ("say", self._damaged())]
        chance = self._rng.random()
        if not self._wrong and chance < 0.05:
            return [("turn",)]
        if not self._wrong and chance < 0.06:
            return [("alone", self._rng.choice(ALONE) + b"\r\n"), ("turn",)]
        if not self._wrong and chance < 0.12:
            return [self._by_cas()]
        if chance < 0.18:
            return [("cut",)]
        command = self.command()
        alone = command.startswith((b"incr", b"decr", b"ma ")) and not self._wrong
        return [("alone" if alone else "say", command)]

    def command(self) -> bytes:
        """Return one command, with its data block."""
        kinds = (self._store, self._get, self._gat, self._count, self._touch, self._delete, self._orderly)
        metas = (self._meta_get, self._meta_set, self._meta_delete, self._meta_count, self._meta_debug)
        drawn = self._rng.choices((*kinds, *metas), (8, 6, 2, 4, 2, 2, 1, 8, 8, 4, 5, 1))[0]
        return drawn()

    def _damaged(self) -> bytes:
        """Return a command with a few bytes changed; never one that could wait for a time to come."""
        text = bytearray(self.command())
        for _ in range(self._rng.choice((1, 1, 2))):
            where = self._rng.randrange(len(text))
            if self._rng.random() < 0.4:
                del text[where : where + self._rng.choice((1, 1, 2, 5))]
            else:
                text[where:where] = self._rng.choice((b" ", b"\n", b"\r", b"\r\n", b"z", b"=", b"\t", b"O1 "))
            if not text:
                return b"\r\n"
        return bytes(text) if not _HARMFUL.match(text) else b"flush_all x\r\n"

    def _one(self, right: tuple[bytes, ...], wrong: tuple[bytes, ...]) -> bytes:
        return self._rng.choice(wrong if self._rng.random() < self._wrong else right)

    def _key(self) -> bytes:
        return self._one(PLAIN[:3] if self._rng.random() < 0.8 else PLAIN, (LONG, b""))

    def _keys(self, most: tuple[int, ...]) -> bytes:
        """Return keys to read; none is too long."""
        return b" ".join(self._key().replace(LONG, LONGEST) for _ in range(self._rng.choice(most)))

    def _lifetime(self) -> bytes:
        if self._rng.random() < 0.05:
            return b"%d" % (int(time.time()) // 10_000 * 10_000 + 20_000)  # so that one seed draws the same for hours
        return self._one(LIFETIMES, BAD_LIFETIMES)

    def _value(self) -> bytes:
        chance = self._rng.random()
        if chance < 0.5:
            return self._rng.choice(NUMBERS)
        return self._rng.choice(NO_NUMBERS if chance < 0.6 else VALUES)

    def _noreply(self) -> bytes:
        chance = self._rng.random()
        return b" noreply" if chance < 0.15 else b" noreplyx" if chance < 0.15 + self._wrong / 5 else b""

    def _data(self, value: bytes) -> tuple[bytes, bytes]:
        """Return a length and a data block; seldom such that they do not fit."""
        if self._rng.random() >= self._wrong:
            return b"%d" % len(value), value + b"\r\n"
        if self._rng.random() < 0.01:
            return b"%d" % TOO_LARGE, b"get a\r\n" * (TOO_LARGE // 7) + b"z" * (TOO_LARGE % 7) + b"\r\n"
        return self._rng.choice(
            (
                (b"%d" % (len(value) + 1), value + b"\r\n"),
                (b"%d" % max(0, len(value) - 1), value + b"\r\n"),
                (b"%d" % len(value), value + b"\n"),
                (b"%d" % len(value), value + b"\n\r"),
                (b"%d" % len(value), value),
                (b"-1", value + b"\r\n"),
                (b"abc", value + b"\r\n"),
                (b"2147483647", value + b"\r\n"),
                (b"4294967296", value + b"\r\n"),
                (b"99999999999999999999", value + b"\r\n"),
            )
        )

    def _store(self) -> bytes:
        verb = self._rng.choices((b"set", b"add", b"replace", b"append", b"prepend", b"cas"), (6, 2, 2, 2, 2, 1))[0]
        length, block = self._data(self._value())
        flags = self._one(FLAGS, BAD_FLAGS)
        unique = b" " + self._one((b"0", NO_UNIQUE), BAD_NUMBERS) if verb == b"cas" else b""
        return b"%s %s %s %s %s%s%s\r\n%s" % (
            verb, self._key(), flags, self._lifetime(), length, unique, self._noreply(), block
        )  # fmt: skip

    def _by_cas(self) -> Step:
        key, value = self._rng.choice(PLAIN[:3]), self._value()
        between = self._store() if self._rng.random() < 0.3 else b""
        if self._rng.random() < 0.5:
            head = b"cas %s %s %s %d {cas}%s" % (key, self._rng.choice(FLAGS), b"0", len(value), self._noreply())
            return ("cas", key, between + head + b"\r\n" + value + b"\r\n")
        verb = self._rng.choice((b"ms", b"md", b"ma"))
        flags = self._flags(
            {b"ms": (b"c", b"k", b"q", b"I"), b"md": (b"k", b"q", b"I", b"T100"), b"ma": (b"v", b"c", b"q")}[verb]
        )
        block = value + b"\r\n" if verb == b"ms" else b""
        length = b" %d" % len(value) if verb == b"ms" else b""
        return ("cas", key, b"%s %s%s C{cas}%s\r\n%s" % (verb, key, length, flags, block))

    def _get(self) -> bytes:
        return self._rng.choice((b"get ", b"get ", b"gets ")) + self._keys((1, 1, 1, 2, 3, 8, 30)) + b"\r\n"

    def _gat(self) -> bytes:
        return b"%s %s %s\r\n" % (self._rng.choice((b"gat", b"gats")), self._lifetime(), self._keys((1, 1, 3)))

    def _count(self) -> bytes:
        verb = self._rng.choice((b"incr", b"decr"))
        return b"%s %s %s%s\r\n" % (verb, self._key(), self._delta(), self._noreply())

    def _delta(self) -> bytes:
        """Return what to count by; in sequences without turns nothing that works, see above."""
        if self._wrong:
            return b"abc"
        return self._rng.choice(DELTAS if self._rng.random() < 0.85 else BAD_NUMBERS)

    def _touch(self) -> bytes:
        return b"touch %s %s%s\r\n" % (self._key(), self._lifetime(), self._noreply())

    def _delete(self) -> bytes:
        return b"delete %s%s\r\n" % (self._key(), self._noreply())

    def _orderly(self) -> bytes:
        return self._rng.choice(ORDERLY)

    def _named(self) -> tuple[bytes, bytes]:
        """Return a key for a meta command, and the flag that it needs."""
        if self._rng.random() > 0.15:
            return self._key(), b""
        key = base64.b64encode(self._rng.choice(BINARY))
        if self._rng.random() < self._wrong:
            key = self._rng.choice((key[:-1], b"====", b"a", b"@@@@", b"YQ"))
        return key, b" b"

    def _flags(self, offered: tuple[bytes, ...], most: int = 5) -> bytes:
        """Return some of the flags, each with a blank before it."""
        chosen = self._rng.sample(offered, self._rng.randint(0, min(most, len(offered))))
        if self._rng.random() < 0.3:
            chosen.append(b"O" + self._rng.choice((b"1", b"abc", b"0" * 31, b"x,y")))
        if self._rng.random() < self._wrong:
            chosen.append(self._rng.choice(BAD_META_FLAGS))
        elif self._rng.random() < self._wrong and b"v" not in offered:
            chosen.append(OPAQUE_TOO_LONG)
        if any(flag[:1] in b"NT" and flag[1:] in OVER for flag in chosen):  # then there is no item to have a cas unique
            chosen = [flag for flag in chosen if flag != b"c"]
        self._rng.shuffle(chosen)
        return b"".join(b" " + flag for flag in chosen)

    def _meta_get(self) -> bytes:
        key, base64_flag = self._named()
        recache = b"R" + self._one(RECACHES, BAD_LIFETIMES)
        offered: tuple[bytes, ...] = (b"t", b"s", b"v", b"v", b"f", b"c", b"h", b"l", b"k", b"q", recache)
        offered += (b"T" + self._lifetime(),)
        if not base64_flag:
            offered += (b"N" + self._lifetime(),)
        return b"mg %s%s%s\r\n" % (key, base64_flag, self._flags(offered))

    def _meta_set(self) -> bytes:
        key, base64_flag = self._named()
        length, block = self._data(self._value())
        mode = b"M" + self._one((b"E", b"A", b"P", b"R", b"S", b"set", b"a", b"p"), (b"x", b""))
        flags = b"F" + self._one(FLAGS, BAD_FLAGS)
        offered = (b"c", b"k", b"q", b"I", flags, b"T" + self._lifetime(), mode, b"C" + NO_UNIQUE)
        return b"ms %s %s%s%s\r\n%s" % (key, length, base64_flag, self._flags(offered), block)

    def _meta_delete(self) -> bytes:
        key, base64_flag = self._named()
        offered = (b"k", b"q", b"I", b"T" + self._lifetime(), b"C" + NO_UNIQUE)
        return b"md %s%s%s\r\n" % (key, base64_flag, self._flags(offered))

    def _meta_count(self) -> bytes:
        key, base64_flag = self._named()
        initial = b"J" + self._one(NUMBERS, BAD_NUMBERS)
        offered: tuple[bytes, ...] = (b"v", b"t", b"c", b"k", b"q", initial, b"C" + NO_UNIQUE)
        if not base64_flag:
            offered += (b"N" + self._lifetime(),)
        flags = self._flags(offered, 6)
        if self._wrong or self._rng.random() < 0.6:
            flags += b" D" + self._delta()
        if self._rng.random() < 0.5:  # memcached forgets the new lifetime of what becomes longer
            lifetime = self._rng.choice((b"0", b"5000", b"2592000"))
            flags += b" M" + self._rng.choice((b"D", b"-", b"d")) + self._rng.choice((b"", b"", b" T" + lifetime))
        elif self._rng.random() < 0.5:
            flags += b" M" + self._one((b"I", b"+", b"incr"), (b"x", b""))
        return b"ma %s%s%s\r\n" % (key, base64_flag, flags)

    def _meta_debug(self) -> bytes:
        return b"me %s\r\n" % self._key()
