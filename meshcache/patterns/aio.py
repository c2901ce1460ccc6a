"""The patterns for asyncio: the flows of ``blocking.py``, awaited. ``load`` and ``store`` are coroutine functions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Generic

from meshcache.aio import AsyncClient
from meshcache.arguments import DEFAULT, Ttl
from meshcache.patterns.direct import Direct, deletions
from meshcache.patterns.fences import FENCE_TTL_S, FenceCounts, Unfenced
from meshcache.patterns.marks import K, Missing, Name, V, Write, plain
from meshcache.patterns.reading import Reading
from meshcache.patterns.steps import run_async


class AsyncCacheAside(Generic[K, V]):
    """CacheAside for asyncio."""

    def __init__(
        self, cache: AsyncClient, *, ttl: Ttl = DEFAULT, absent_ttl: Ttl = DEFAULT, name: Name[K] = plain
    ) -> None:
        self._reading: Reading[K, V] = Reading(cache, name, ttl, absent_ttl)

    async def get(self, key: K, load: Callable[[K], Awaitable[V | Missing]]) -> V | Missing:
        """Return the value of a key. If the cache has none, ``load`` it; MISSING says that there is no such key."""
        return await run_async(self._reading.get(key, load))

    async def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows have changed. Call it after the commit: before, a reader may load the old row again."""
        await run_async(self._reading.invalidate(keys))


class AsyncReadThrough(Generic[K, V]):
    """ReadThrough for asyncio."""

    def __init__(
        self,
        cache: AsyncClient,
        load: Callable[[K], Awaitable[V | Missing]],
        *,
        ttl: Ttl = DEFAULT,
        absent_ttl: Ttl = DEFAULT,
        name: Name[K] = plain,
    ) -> None:
        self._load = load
        self._reading: Reading[K, V] = Reading(cache, name, ttl, absent_ttl)

    async def get(self, key: K) -> V | Missing:
        """Return the value of a key, loaded if the cache has none; MISSING if there is no such key."""
        return await run_async(self._reading.get(key, self._load))

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of those keys that exist. The cache is asked once; what it lacks is loaded key by key."""
        return await run_async(self._reading.get_many(keys, self._load))

    async def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows somebody else has changed."""
        await run_async(self._reading.invalidate(keys))


class _AsyncDirect(Generic[K, V]):
    """What the two patterns that write straight to the database share."""

    _publish: bool

    def __init__(
        self,
        cache: AsyncClient,
        load: Callable[[K], Awaitable[V | Missing]],
        store: Callable[[list[Write[K, V]]], Awaitable[object]],
        *,
        ttl: Ttl = DEFAULT,
        absent_ttl: Ttl = DEFAULT,
        name: Name[K] = plain,
        fence_ttl: float = FENCE_TTL_S,
        if_unfenced: Unfenced = "raise",
    ) -> None:
        self._load = load
        self._direct: Direct[K, V] = Direct(
            cache,
            store,
            name=name,
            ttl=ttl,
            absent_ttl=absent_ttl,
            fence_ttl=fence_ttl,
            if_unfenced=if_unfenced,
        )

    @property
    def counts(self) -> FenceCounts:
        """What became of the fences of this object's writes."""
        return self._direct.counts

    async def get(self, key: K) -> V | Missing:
        """Return the value of a key, loaded if the cache has none; MISSING if there is no such key."""
        return await run_async(self._direct.reading.get(key, self._load))

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of those keys that exist. The cache is asked once; what it lacks is loaded key by key."""
        return await run_async(self._direct.reading.get_many(keys, self._load))

    async def put(self, key: K, value: V) -> None:
        """Write a value to the database, in one call of ``store``. See the class for what the cache holds then."""
        await run_async(self._direct.write({key: value}, publish=self._publish))

    async def put_many(self, items: Mapping[K, V]) -> None:
        """Write several values, in one call of ``store``."""
        await run_async(self._direct.write(items, publish=self._publish))

    async def delete(self, *keys: K) -> None:
        """Have ``store`` delete keys: their value is MISSING."""
        await run_async(self._direct.write(deletions(keys), publish=self._publish))

    async def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows somebody else has changed."""
        await run_async(self._direct.reading.invalidate(keys))


class AsyncWriteThrough(_AsyncDirect[K, V]):
    """WriteThrough for asyncio. A task that is cancelled inside ``put`` leaves the fence to expire."""

    _publish = True


class AsyncInvalidateOnWrite(_AsyncDirect[K, V]):
    """InvalidateOnWrite for asyncio."""

    _publish = False

    @asynccontextmanager
    async def writing(self, *keys: K) -> AsyncIterator[None]:
        """Put a transaction of your own inside: in the end, committed or not, the cache has forgotten these keys."""
        names, writer = await run_async(self._direct.begin(keys))
        try:
            yield
        finally:
            await run_async(self._direct.end(names, writer))
