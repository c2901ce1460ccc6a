"""Numbers as memcached reads them: with C's strtol and strtoul, whose rules clients have come to depend on.

Space before the number is skipped, a sign is allowed, and whatever follows after some space or a NUL is ignored. What
has more than 64 bits is refused; but what has more than the 32 of its use loses the rest.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)(?=[ \t\n\v\f\r\0]|\Z)")
_MODULUS: Final = 1 << 64
_SIGN_BIT: Final = 1 << 63


def signed(text: bytes) -> int | None:
    """Return the low 32 bits of a number, with their sign, or None: memcached's ``safe_strtol``."""
    if text.isdigit() and len(text) < 10:
        return int(text)
    found = _NUMBER.match(text)
    if found is None:
        return None
    number = _int(found.group(2))
    if found.group(1) == b"-":
        number = -number
    if not -_SIGN_BIT <= number < _SIGN_BIT:
        return None
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >= 1 << 31 else number


def unsigned_32(text: bytes) -> int | None:
    """Return the low 32 bits of a number, or None: memcached's ``safe_strtoul``."""
    number = unsigned_64(text)
    return None if number is None else number & 0xFFFFFFFF


def unsigned_64(text: bytes) -> int | None:
    """Return a number without sign, or None: memcached's ``safe_strtoull``. A small negative one is none."""
    if text.isdigit() and len(text) < 19:
        return int(text)
    found = _NUMBER.match(text)
    if found is None:
        return None
    number = _int(found.group(2))
    if number >= _MODULUS:
        return None
    if found.group(1) == b"-":
        number = -number % _MODULUS
    if number >= _SIGN_BIT and b"-" in text.partition(b"\0")[0]:
        return None
    return number


def _int(digits: bytes) -> int:
    """Return the number of any digits; of very many, one that is too large for every use."""
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= 20 else _MODULUS
