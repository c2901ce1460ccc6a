"""``@cache.cached``: a function whose results are kept in the cache, computed once in the whole cluster.

The key is made of the function's name and its arguments, so that processes that run the same code share the results::

    module.function:(argument,argument,…)    in the order of the signature

Arguments are brought into one form first: by position or by name, given or left to their default, the same call has the
same key. Text, numbers, truth values, None, and tuples, lists, sets and dicts of these stand as they are, each type for
itself (1, 1.0, True and "1" differ). Dates, Decimals, UUIDs and enums are told by type and value. Anything else has no
form that other processes would agree on, and is refused; ``key=`` says how to make one. What would be longer than
READABLE_MAX ends in a hash of the whole.

The first argument of a method, named ``self`` or ``cls``, is left out: two instances share their results. A method
whose result depends on its instance says so with ``key=``, which is given all arguments.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Generic, ParamSpec, Protocol, Self, TypeVar, overload
from uuid import UUID

from meshcache.arguments import Key

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
"""What ``invalidate`` returns: a number, or an awaitable of one."""

READABLE_MAX: Final = 200
"""Bytes of a key that is written out; a longer one ends in a hash."""
HASH_BYTES: Final = 16
NESTED_MAX: Final = 16
_OWN_NAMES: Final = ("self", "cls")


class Cache(Protocol):
    """What a cached function needs of its client. Of an AsyncClient all of it is awaitable."""

    @property
    def get_or_set(self) -> Callable[..., Any]:
        """See Client."""

    @property
    def refresh(self) -> Callable[..., Any]:
        """See Client."""

    @property
    def invalidate(self) -> Callable[..., Any]:
        """See Client."""


class Cached(Generic[P, R, C]):
    """A function with its results in the cache; also as a method."""

    __name__: str

    def __init__(
        self, cache: Cache, function: Callable[P, R], key: Callable[P, Key] | None, options: dict[str, Any]
    ) -> None:
        functools.update_wrapper(self, function)
        self._cache = cache
        self._function = function
        self._own_key = key
        self._options = options
        self._signature = inspect.signature(function)
        names = list(self._signature.parameters)
        self._skipped = names[0] if names and names[0] in _OWN_NAMES else None
        self._name = f"{function.__module__}.{function.__qualname__}".replace(".<locals>", "")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or have it computed."""
        key = self.cache_key(*args, **kwargs)
        result: R = self._cache.get_or_set(key, lambda: self._function(*args, **kwargs), **self._options)
        return result

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Drop the result of this call from the cache, everywhere; returns how many there were, 0 or 1."""
        dropped: C = self._cache.invalidate(self.cache_key(*args, **kwargs))
        return dropped

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the result of this call now, store it, and return it."""
        key = self.cache_key(*args, **kwargs)
        result: R = self._cache.refresh(key, lambda: self._function(*args, **kwargs), **self._options)
        return result

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of this call, without the client's namespace.

        Raises TypeError where the arguments do not fit the function, or one has no form that can be part of a key.
        """
        if self._own_key is not None:
            key = self._own_key(*args, **kwargs)
            if not isinstance(key, (str, bytes)):
                raise TypeError(f"{self._name}: key= must return str or bytes, returned {key!r:.80}")
            return f"{self._name}:{key}" if isinstance(key, str) else f"{self._name}:".encode() + key
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            parts = [_form(value, 0) for name, value in bound.arguments.items() if name != self._skipped]
        except TypeError as error:
            raise TypeError(f"{self._name}: {error}; give cached() a key= that makes one") from None
        return _bounded(f"{self._name}:({','.join(parts)})")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> CachedMethod[R, C]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Self | CachedMethod[R, C]:
        """Be a method: the instance becomes the first argument."""
        return self if instance is None else CachedMethod(self, instance)


class CachedMethod(Generic[R, C]):
    """A cached method with its instance. What it takes is checked when it is called: ``Cached`` keeps the signature."""

    def __init__(self, cached: Cached[..., R, C], instance: object) -> None:
        functools.update_wrapper(self, cached)
        self._cached = cached
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """See Cached."""
        return self._cached(self._instance, *args, **kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> C:
        """See Cached."""
        return self._cached.invalidate(self._instance, *args, **kwargs)

    def refresh(self, *args: Any, **kwargs: Any) -> R:
        """See Cached."""
        return self._cached.refresh(self._instance, *args, **kwargs)

    def cache_key(self, *args: Any, **kwargs: Any) -> Key:
        """See Cached."""
        return self._cached.cache_key(self._instance, *args, **kwargs)


class CachedBy:
    """What ``Client.cached`` returns: put it before a plain function."""

    def __init__(self, cache: Cache, key: Callable[..., Key] | None, options: dict[str, Any]) -> None:
        self._cache = cache
        self._key = key
        self._options = options

    def __call__(self, function: Callable[P, R]) -> Cached[P, R, int]:
        """Return the function with its results in the cache."""
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is a coroutine function: it needs an AsyncClient's cached()")
        return Cached(self._cache, function, self._key, self._options)


class AsyncCachedBy:
    """What ``AsyncClient.cached`` returns: put it before a coroutine function."""

    def __init__(self, cache: Cache, key: Callable[..., Key] | None, options: dict[str, Any]) -> None:
        self._cache = cache
        self._key = key
        self._options = options

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Cached[P, Awaitable[R], Awaitable[int]]:
        """Return the function with its results in the cache."""
        if not inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"{name} is no coroutine function: it needs a Client's cached()")
        return Cached(self._cache, function, self._key, self._options)


def _bounded(key: str) -> str:
    raw = key.encode("utf-8", "surrogatepass")
    if len(raw) <= READABLE_MAX and key.isprintable():
        return key
    digest = hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest()
    return raw[: READABLE_MAX - 1 - len(digest)].decode("utf-8", "ignore") + "#" + digest


def _form(value: Any, depth: int) -> str:  # noqa: PLR0911  (a table in the form of a function)
    """Return a text that stands for a value, and for no other."""
    if depth > NESTED_MAX:
        raise TypeError(f"an argument is nested deeper than {NESTED_MAX} levels")
    kind = type(value)
    if value is None or kind in {bool, int, float, str, bytes}:
        return repr(value)
    if kind is tuple:
        return "(" + "".join(_form(item, depth + 1) + "," for item in value) + ")"
    if kind is list:
        return "[" + ",".join(_form(item, depth + 1) for item in value) + "]"
    if kind in {set, frozenset}:
        return kind.__name__ + "{" + ",".join(sorted(_form(item, depth + 1) for item in value)) + "}"
    if isinstance(value, Mapping):
        items = [f"{_form(name, depth + 1)}:{_form(item, depth + 1)}" for name, item in value.items()]
        return "{" + ",".join(sorted(items)) + "}"
    if isinstance(value, Enum):
        return f"{kind.__module__}.{kind.__qualname__}.{value.name}"
    if kind in {datetime, date, time, timedelta, Decimal, UUID}:
        return repr(value)
    raise TypeError(f"an argument of type {kind.__qualname__} has no form that can be part of a key")
