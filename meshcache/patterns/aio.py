# ruff: noqa: ASYNC109  (a timeout of ours is kept by the queue, and ends nothing that was accepted)
"""The patterns for asyncio: the flows of ``blocking.py``, awaited. ``load`` and ``store`` are coroutine functions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Generic, Self

from meshcache.client.aio.client import AsyncClient
from meshcache.client.arguments import DEFAULT, Ttl
from meshcache.client.codec import ValueCodec
from meshcache.durations import Timeout, in_seconds
from meshcache.patterns.backlog import Limits
from meshcache.patterns.behind import Behind, SetAside, is_outage
from meshcache.patterns.blocking import FLUSH_TIMEOUT_S, FULL_TIMEOUT_S
from meshcache.patterns.direct import Direct, deletions
from meshcache.patterns.durable import QueueStatistics
from meshcache.patterns.fences import FENCE_TTL_S, FenceCounts, Unfenced
from meshcache.patterns.journal import Sync
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
        """Drop keys whose rows have changed.

        Call it after the commit: before it, a reader may load the old row again.
        """
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
        """Return the values of the keys that exist. The cache is asked once; what it lacks is loaded key by key."""
        return await run_async(self._reading.get_many(keys, self._load))

    async def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows another program has changed."""
        await run_async(self._reading.invalidate(keys))


class _AsyncDirect(Generic[K, V]):
    """The common part of the two patterns that write straight to the database."""

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
        fence_ttl: Timeout = FENCE_TTL_S,
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
        """How the fences of this object's writes ended."""
        return self._direct.counts

    async def get(self, key: K) -> V | Missing:
        """Return the value of a key, loaded if the cache has none; MISSING if there is no such key."""
        return await run_async(self._direct.reading.get(key, self._load))

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of the keys that exist. The cache is asked once; what it lacks is loaded key by key."""
        return await run_async(self._direct.reading.get_many(keys, self._load))

    async def put(self, key: K, value: V) -> None:
        """Write a value to the database, in one call of ``store``. The class says what the cache holds afterwards."""
        await run_async(self._direct.write({key: value}, publish=self._publish))

    async def put_many(self, items: Mapping[K, V]) -> None:
        """Write several values, in one call of ``store``."""
        await run_async(self._direct.write(items, publish=self._publish))

    async def delete(self, *keys: K) -> None:
        """Have ``store`` delete keys: their value is MISSING."""
        await run_async(self._direct.write(deletions(keys), publish=self._publish))

    async def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows another program has changed."""
        await run_async(self._direct.reading.invalidate(keys))


class AsyncWriteThrough(_AsyncDirect[K, V]):
    """WriteThrough for asyncio. If a task is cancelled inside ``put``, its fence stays until it expires."""

    _publish = True


class AsyncInvalidateOnWrite(_AsyncDirect[K, V]):
    """InvalidateOnWrite for asyncio."""

    _publish = False

    @asynccontextmanager
    async def writing(self, *keys: K) -> AsyncIterator[None]:
        """Run a transaction of your own inside: afterwards, committed or not, the cache has no value of these keys."""
        names, writer = await run_async(self._direct.begin(keys))
        try:
            yield
        finally:
            await run_async(self._direct.end(names, writer))


class AsyncWriteBehind(Generic[K, V]):
    """WriteBehind for asyncio. It stores in a task of the event loop that uses it first; use it in ``async with``."""

    def __init__(
        self,
        cache: AsyncClient,
        path: str | os.PathLike[str],
        load: Callable[[K], Awaitable[V | Missing]],
        store: Callable[[list[Write[K, V]]], Awaitable[object]],
        *,
        ttl: Ttl = DEFAULT,
        absent_ttl: Ttl = DEFAULT,
        name: Name[K] = plain,
        codec: str | ValueCodec | None = None,
        sync: Sync = "full",
        limits: Limits = Limits(),  # noqa: B008  (it is frozen)
        full_timeout: Timeout = FULL_TIMEOUT_S,
        is_outage: Callable[[Exception], bool] = is_outage,
    ) -> None:
        """Open the queue. Raises QueueUnusable if another process has it open, or the file cannot be read."""
        self._behind: Behind[K, V] = Behind(
            cache,
            path,
            load,
            store,
            name=name,
            ttl=ttl,
            absent_ttl=absent_ttl,
            codec=codec,
            sync=sync,
            limits=limits,
            full_timeout=full_timeout,
            is_outage=is_outage,
        )
        self._storing: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | Missing:
        """Return the value that waits in the queue, else the cached one, else load it; MISSING: no such key."""
        return await run_async(self._behind.get(key))

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of the keys that exist."""
        return await run_async(self._behind.get_many(keys))

    async def put(self, key: K, value: V, *, timeout: Timeout | None = None) -> None:
        """Accept a write: when this returns, it is on disk. ``timeout``: how long to wait for room in the queue."""
        self._start()
        await run_async(self._behind.put({key: value}, timeout))

    async def put_many(self, items: Mapping[K, V], *, timeout: Timeout | None = None) -> None:
        """Accept several writes, all or none."""
        self._start()
        await run_async(self._behind.put(items, timeout))

    async def delete(self, *keys: K, timeout: Timeout | None = None) -> None:
        """Accept deletes; ``store`` gets them as writes of MISSING."""
        self._start()
        await run_async(self._behind.put(deletions(keys), timeout))

    async def flush(self, timeout: Timeout = FLUSH_TIMEOUT_S) -> None:
        """Wait until all writes accepted so far are in the database or set aside. Raises OperationTimeout."""
        self._start()
        await run_async(self._behind.flush(timeout))

    def statistics(self) -> QueueStatistics:
        """Return the counts and the state of the queue."""
        return self._behind.queue.statistics()

    def set_aside(self) -> list[SetAside[K, V]]:
        """Return the writes that the database refused too often."""
        return self._behind.set_aside()

    def retry(self, *sequences: int) -> None:
        """Store once more the writes that were set aside; see WriteBehind."""
        self._behind.queue.take_back(sequences, again=True)

    def discard(self, *sequences: int) -> None:
        """Drop writes that were set aside."""
        self._behind.queue.take_back(sequences, again=False)

    async def close(self, timeout: Timeout = FLUSH_TIMEOUT_S) -> int:
        """Accept nothing more and store what waits, like WriteBehind; returns how many writes are left."""
        if in_seconds(timeout) > 0:
            self._start()
        left = await run_async(self._behind.close(timeout))
        if self._storing is not None:
            if left:
                self._storing.cancel()
            await asyncio.wait([self._storing])
        return left

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self) -> None:
        """Begin to store; this needs a running event loop."""
        if self._storing is None:
            self._storing = asyncio.get_running_loop().create_task(run_async(self._behind.store_all()))
