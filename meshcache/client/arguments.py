"""How the arguments of an operation are read, and the errors for arguments that make no sense."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal, TypeVar, cast

from meshcache.durations import in_seconds
from meshcache.errors import InvalidKey
from meshcache.protocol.messages import (
    DEFAULT_LEVEL,
    KEY_BYTES_MAX,
    LEVEL_ALL,
    LEVEL_ONE,
    LEVEL_QUORUM,
    TTL_DEFAULT,
    TTL_NEVER,
)
from meshcache.protocol.record import NEVER_MS, TAG_BYTES_MAX


class Sentinel(Enum):
    """Values that no cache can hold."""

    MISSING = "MISSING"
    DEFAULT = "DEFAULT"

    def __repr__(self) -> str:
        return f"meshcache.{self.value}"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return False


MISSING: Final = Sentinel.MISSING
"""Pass it as ``default`` to tell a miss from a cached None."""
DEFAULT: Final = Sentinel.DEFAULT
"""Given as ``ttl``: the client's default or, if it has none, the cluster's."""

T = TypeVar("T")


class NotKept:
    """What a loader returned, if the cache must not keep it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _DoNotCache:
    """The type of DO_NOT_CACHE."""

    def __call__(self, value: T) -> T:
        """Return what a loader is to return.

        For type checkers it is the value itself, which the loader's caller gets.
        """
        return cast(T, NotKept(value))

    def __repr__(self) -> str:
        return "meshcache.DO_NOT_CACHE"


DO_NOT_CACHE: Final = _DoNotCache()
"""``return DO_NOT_CACHE(value)`` in the loader of ``get_or_set``, or in a cached function: the caller gets the value,
but it is not stored, and the next caller computes it again. ``DO_NOT_CACHE`` alone means ``DO_NOT_CACHE(None)``."""


def bare(loaded: Any) -> Any:
    """Return the value that a loader returned, whether the cache may keep it or not."""
    if loaded is DO_NOT_CACHE:
        return None
    return loaded.value if type(loaded) is NotKept else loaded


def is_kept(loaded: Any) -> bool:
    """Tell whether the cache may keep what a loader returned."""
    return type(loaded) is not NotKept and loaded is not DO_NOT_CACHE


EARLY_MAX: Final = 100
Key = str | bytes
Tags = Iterable[str | bytes]
Ttl = float | timedelta | None | Literal[Sentinel.DEFAULT]
Consistency = str | tuple[int, int] | None

LEVELS: Final = {"one": LEVEL_ONE, "quorum": LEVEL_QUORUM, "all": LEVEL_ALL}


@dataclass(frozen=True, slots=True)
class Item:
    """A value, and what the cache knows about it."""

    value: Any
    version: bytes
    """To be passed to ``cas``; its bytes have no meaning for programs."""
    ttl: float
    """Seconds left; infinite: the value never expires."""
    stale: bool
    """Whether the value is past its lifetime, and is served because a new one is being computed."""
    near: bool = False
    """Whether it is from a copy in this process: see ``gets(near=True)``. Then ``ttl`` is what the copy has left."""


def milliseconds(ttl: object) -> int:
    """Return a lifetime as messages carry it; DEFAULT means the cluster's default here."""
    if ttl is None:
        return TTL_NEVER
    if ttl is DEFAULT:
        return TTL_DEFAULT
    ttl = in_seconds(ttl)
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"ttl must be seconds as int, float or timedelta, None or DEFAULT, is {ttl!r}")
    if not -math.inf < ttl < math.inf:
        raise ValueError(f"ttl must be a finite number of seconds, is {ttl!r}; None means that it never expires")
    if ttl <= 0:
        raise ValueError(f"ttl must be positive, is {ttl!r}: use None for no expiry, or delete() to drop the key")
    return min(max(1, round(min(ttl, NEVER_MS) * 1000)), NEVER_MS)


def early_factor(early: object) -> float:
    """Check the argument that says how early values are refreshed."""
    if isinstance(early, bool) or not isinstance(early, (int, float)):
        raise TypeError(f"early must be a number, is {early!r}")
    if not 0 <= early <= EARLY_MAX:
        raise ValueError(f"early must be 0 (never) to {EARLY_MAX}, is {early!r}; 1 suits most")
    return float(early)


def levels(consistency: object) -> tuple[int, int]:
    """Return write and read level of a consistency."""
    match consistency:
        case None:
            return DEFAULT_LEVEL, DEFAULT_LEVEL
        case str() if consistency in LEVELS:
            return LEVELS[consistency], LEVELS[consistency]
        case (int(w), int(r)) if not isinstance(w, bool) and not isinstance(r, bool) and w > 0 and r > 0:
            return w, r
    names = ", ".join(f'"{name}"' for name in LEVELS)
    raise ValueError(f"consistency must be {names} or two positive numbers (w, r), is {consistency!r}")


def consistency_of(w: int, r: int) -> Consistency:
    """Return the consistency that means these levels."""
    if (w, r) == (DEFAULT_LEVEL, DEFAULT_LEVEL):
        return None
    return next((name for name, level in LEVELS.items() if (w, r) == (level, level)), (w, r))


def ttl_of(ttl_ms: int) -> Ttl:
    """Return the lifetime that this number in a message means."""
    if ttl_ms == TTL_DEFAULT:
        return DEFAULT
    return None if ttl_ms == TTL_NEVER else ttl_ms / 1000


def namespace_bytes(prefix: str | bytes) -> bytes:
    """Check the prefix of a namespace."""
    if not isinstance(prefix, (str, bytes)):
        raise TypeError(f"a namespace must be str or bytes, is {type(prefix).__name__}")
    try:
        raw = prefix.encode() if isinstance(prefix, str) else prefix
    except UnicodeEncodeError as error:
        raise InvalidKey(f"the namespace {prefix!r:.80} is no valid text: {error}") from None
    if len(raw) >= KEY_BYTES_MAX:
        raise InvalidKey(f"the namespace takes {len(raw):,} bytes; with a key it may take {KEY_BYTES_MAX:,}")
    return raw


def raw_key(prefix: bytes, key: Key) -> bytes:
    """Return the key as nodes see it."""
    try:
        raw = prefix + (key.encode() if isinstance(key, str) else key)
    except (TypeError, UnicodeEncodeError) as error:
        raise _invalid_key(key, error) from None
    if not key or len(raw) > KEY_BYTES_MAX:
        raise _invalid_key(key, None, len(raw))
    return raw


def raw_keys(prefix: bytes, keys: list[Any]) -> list[bytes]:
    """Return many keys as nodes see them; fast where all are str."""
    try:
        raws = [prefix + key.encode() for key in keys] if prefix else [key.encode() for key in keys]
    except (AttributeError, UnicodeEncodeError):
        return [raw_key(prefix, key) for key in keys]
    if keys and (not all(keys) or max(map(len, raws)) > KEY_BYTES_MAX):
        return [raw_key(prefix, key) for key in keys]
    return raws


def _invalid_key(key: object, error: Exception | None, size: int = 0) -> InvalidKey:
    if not isinstance(key, (str, bytes)):
        return InvalidKey(f"a key must be str or bytes, is {type(key).__name__}")
    if error is not None:
        return InvalidKey(f"the key {key!r:.80} is no valid text: {error}")
    if not key:
        return InvalidKey(f"a key must not be empty; it takes 1 to {KEY_BYTES_MAX:,} bytes")
    return InvalidKey(f"the key {key!r:.80} takes {size:,} bytes with its namespace; the limit is {KEY_BYTES_MAX:,}")


def key_list(keys: object) -> list[Any]:
    """Return the keys as a list; a single key, where several are meant, is an error that says so."""
    if isinstance(keys, (str, bytes)):
        raise TypeError(f"keys must be an iterable of keys, is the single key {keys!r:.80}")
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of keys, is {type(keys).__name__}")
    return list(keys)


def raw_tags(prefix: bytes, tags: object) -> tuple[bytes, ...]:
    """Return tags as nodes see them, each once; the namespace is put before a tag as before a key."""
    if isinstance(tags, (str, bytes)):
        raise TypeError(f"tags must be an iterable of tags, is the single tag {tags!r:.80}")
    if not isinstance(tags, Iterable):
        raise TypeError(f"tags must be an iterable of tags, is {type(tags).__name__}")
    return tuple(dict.fromkeys([_raw_tag(prefix, tag) for tag in tags]))


def _raw_tag(prefix: bytes, tag: object) -> bytes:
    if not isinstance(tag, (str, bytes)):
        raise TypeError(f"a tag must be str or bytes, is {type(tag).__name__}")
    try:
        raw = prefix + (tag.encode() if isinstance(tag, str) else tag)
    except UnicodeEncodeError as error:
        raise ValueError(f"the tag {tag!r:.80} is no valid text: {error}") from None
    if not tag:
        raise ValueError(f"a tag must not be empty; it takes 1 to {TAG_BYTES_MAX:,} bytes")
    if len(raw) > TAG_BYTES_MAX:
        raise ValueError(
            f"the tag {tag!r:.80} takes {len(raw):,} bytes with its namespace; the limit is {TAG_BYTES_MAX:,}"
        )
    return raw
