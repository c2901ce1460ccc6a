"""The flags of memcached's meta commands."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Any, Final

from meshcache.protocol.memcached import numbers
from meshcache.protocol.memcached.commands import BAD_FORMAT, MetaFlags

OPAQUE_BYTES_MAX: Final = 32
TOKENS_MAX: Final = 20
"""More words than these, with the end of the line as one, make "options flags too long"."""

_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=]")
_BAD_TOKEN: Final = b"CLIENT_ERROR bad token in command line format\r\n"
_TAKES: Final[dict[int, tuple[str, Callable[[bytes], int | None], bytes]]] = {
    ord("N"): ("vivify", numbers.signed, _BAD_TOKEN),
    ord("T"): ("ttl", numbers.signed, _BAD_TOKEN),
    ord("R"): ("recache", numbers.signed, _BAD_TOKEN),
    ord("F"): ("client_flags", numbers.unsigned_32, BAD_FORMAT),
    ord("C"): ("unique", numbers.unsigned_64, _BAD_TOKEN),
    ord("J"): ("initial", numbers.unsigned_64, b"CLIENT_ERROR invalid numeric initial value\r\n"),
    ord("M"): ("mode", numbers.signed, b""),
    ord("D"): ("delta", numbers.unsigned_64, b"CLIENT_ERROR invalid numeric delta value\r\n"),
}
"""Flags with something after the letter, a number but for M: where it goes, how it is read, the error if it is none."""
_SETS: Final = {ord("q"): "quiet", ord("v"): "wants_value", ord("I"): "invalidates"}
_MEANS_NOTHING: Final = frozenset(b"OPLkstcflhu")
"""Flags that only ask to be answered, or that mean nothing here."""


class BadFlags(Exception):
    """The flags are refused. ``line``: what memcached says of that."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


def read_flags(tokens: list[bytes], key: bytes) -> tuple[MetaFlags, bytes]:
    """Return what the flags say, and the key, which they may say is in base64. Raises BadFlags.

    All are looked at before one with a bad number is refused, with the last word on that; one that is unknown, or comes
    twice, is refused at once.
    """
    flags, problem = MetaFlags(), None
    seen = set()
    flags.tokens = tokens
    for token in tokens:
        letter = token[0]
        if letter >= 127 or letter in seen:
            raise BadFlags(b"CLIENT_ERROR duplicate flag\r\n")
        seen.add(letter)
        if letter in _TAKES:
            wrong = _take(token, flags)
            problem = problem or wrong if wrong is BAD_FORMAT else wrong or problem
        elif letter == ord("b"):
            flags.is_binary, decoded = True, from_base64(key)
            if decoded is None:
                problem = b"CLIENT_ERROR error decoding key\r\n"
            else:
                key = decoded
        elif letter in _SETS:
            setattr(flags, _SETS[letter], True)
        elif letter not in _MEANS_NOTHING:
            raise BadFlags(b"CLIENT_ERROR invalid flag\r\n")
    if problem is not None:
        raise BadFlags(problem)
    return flags, key


def _take(token: bytes, flags: MetaFlags) -> bytes | None:
    """Take a flag that has something after its letter; return what is wrong with that."""
    letter = token[0]
    if letter == ord("M"):
        flags.mode = token[1:]
        return None if len(token) == 2 else b"CLIENT_ERROR incorrect length for M token\r\n"
    name, read, line = _TAKES[letter]
    number = read(token[1:])
    if number is None:
        return line
    setattr(flags, name, number)
    flags.compares |= letter == ord("C")
    return None


def check_mode(flags: MetaFlags, modes: frozenset[bytes], line: bytes) -> None:
    """Raise BadFlags with this line unless the mode is one of these."""
    if flags.mode not in modes:
        raise BadFlags(line)


def check_opaque(flags: MetaFlags) -> None:
    """Raise BadFlags if the client's own mark is too long to be told."""
    if any(token[0] == ord("O") and len(token) > OPAQUE_BYTES_MAX for token in flags.tokens):
        raise BadFlags(b"CLIENT_ERROR opaque token too long\r\n")


def told(name: bytes, flags: MetaFlags) -> bytes:
    """Return how a key is told after ``k``."""
    return b" k" + binascii.b2a_base64(name, newline=False) + b" b" if flags.is_binary else b" k" + name


def echo(key: bytes, flags: MetaFlags) -> bytes:
    """Return the flags that are answered where there is no item: the client's mark, and the key."""
    parts: list[Any] = []
    for token in flags.tokens:
        if token[0] == ord("O"):
            parts.append(b" " + token)
        elif token[0] == ord("k"):
            parts.append(told(key, flags))
    return b"".join(parts)


def from_base64(text: bytes) -> bytes | None:
    """Return what is in base64, as memcached decodes it: other characters are skipped, and padding ends it."""
    chars = _NOT_BASE64.sub(b"", text)
    if not chars or len(chars) % 4:
        return None
    at = chars.find(b"=")
    padding = 0
    if at >= 0:
        end = at - at % 4 + 4
        padding = chars.count(b"=", end - 4, end)
        chars = chars[:end].replace(b"=", b"A")
    if padding > 2:
        return None
    decoded = binascii.a2b_base64(chars)
    return decoded[: len(decoded) - padding]
