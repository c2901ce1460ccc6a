"""Reading a key: from the cache, and from the database if the cache has no answer.

It is ``get_or_set``: one caller loads a missing key, and the result of a slow load is not stored if the key was written
or invalidated meanwhile. Two things are added. First, that the database has no such key is an answer, too, and is
cached (*absent*); else each look-up of a key that does not exist would reach the database. Second, while the key is
fenced because its row is being written, readers go to the database and store nothing. They do the same while the cache
fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Generic

from meshcache.client.arguments import DEFAULT, MISSING, Ttl, bare, milliseconds
from meshcache.client.fallbacks import OUTAGES
from meshcache.errors import MeshcacheError
from meshcache.patterns.marks import ABSENT, Cache, K, Missing, Name, V, is_mark, named, stored
from meshcache.patterns.steps import Flow


class Reading(Generic[K, V]):
    """How a pattern reads keys."""

    def __init__(self, cache: Cache, name: Name[K], ttl: Ttl, absent_ttl: Ttl) -> None:
        for lifetime in (ttl, absent_ttl):
            milliseconds(lifetime)
        self.cache = cache
        self.name = name
        self.ttl = ttl
        self.absent_ttl = ttl if absent_ttl is DEFAULT else absent_ttl

    def get(self, key: K, load: Callable[[K], Any]) -> Flow[V | Missing]:
        """Return the value of a key, loaded if the cache has none; MISSING if the database has none."""
        name = named(self.name, key)
        loaded_absent = False

        def checked(value: Any) -> Any:
            nonlocal loaded_absent
            loaded_absent = value is MISSING
            return stored(value)

        def compute() -> Any:
            value = load(key)
            return _awaited(value, checked) if inspect.isawaitable(value) else checked(value)

        found = yield lambda: self.cache.get_or_set(name, compute, ttl=self.ttl)
        if not is_mark(found):
            return found  # type: ignore[no-any-return]  # a value of the user
        if found == ABSENT:
            if loaded_absent and self.absent_ttl != self.ttl:
                yield from self._shorten(name)
            return MISSING
        return bare((yield lambda: load(key)))  # type: ignore[no-any-return]  # a value of the user

    def get_many(self, keys: Iterable[K], load: Callable[[K], Any]) -> Flow[dict[K, V]]:
        """Return the values of the keys that the database has; keys that the cache lacks are loaded one by one."""
        names = {key: named(self.name, key) for key in keys}
        try:
            found = yield lambda: self.cache.get_many(list(names.values()))
        except OUTAGES as error:
            self.cache.fallbacks.count(error, loads=len(names))
            return (yield from self._load_many(names, load))
        values: dict[K, V] = {}
        for key, name in names.items():
            value = found.get(name, MISSING)
            if value is MISSING or (is_mark(value) and value != ABSENT):
                value = yield from self.get(key, load)
            if value is not MISSING and value != ABSENT:
                values[key] = value
        return values

    def _load_many(self, keys: Iterable[K], load: Callable[[K], Any]) -> Flow[dict[K, V]]:
        """Read from the database only, so that a cache that fails is not asked again for each key."""
        values: dict[K, V] = {}
        for key in keys:
            value = yield partial(load, key)
            if value is not MISSING:
                values[key] = value
        return values

    def invalidate(self, keys: Iterable[K]) -> Flow[None]:
        """Drop keys from the cache."""
        names = [named(self.name, key) for key in keys]
        if names:
            yield lambda: self.cache.invalidate(*names)

    def lifetime(self, value: object) -> Ttl:
        """Return how long a written value is kept."""
        return self.absent_ttl if value is MISSING else self.ttl

    def _shorten(self, name: str | bytes) -> Flow[None]:
        """Give an absence its own lifetime.

        It was stored with the lifetime of a value, since get_or_set must know that before the loader runs. If another
        value has come by now, it gets the lifetime of an absence: a miss sooner than needed, never a wrong value.
        """
        try:
            yield lambda: self.cache.touch(name, self.absent_ttl)
        except MeshcacheError:
            return  # then the absence lives as long as a value would


async def _awaited(value: Awaitable[Any], checked: Callable[[Any], Any]) -> Any:
    return checked(await value)
