"""The patterns for threads; each method carries out a flow. ``aio.py`` has the same for asyncio."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Generic, Self

from meshcache.client.arguments import DEFAULT, Ttl
from meshcache.client.blocking.client import Client
from meshcache.client.codec import ValueCodec
from meshcache.durations import Timeout
from meshcache.patterns.backlog import Limits
from meshcache.patterns.behind import Behind, SetAside, is_outage
from meshcache.patterns.direct import Direct, deletions
from meshcache.patterns.durable import QueueStatistics
from meshcache.patterns.fences import FENCE_TTL_S, FenceCounts, Unfenced
from meshcache.patterns.journal import Sync
from meshcache.patterns.marks import K, Missing, Name, V, Write, plain
from meshcache.patterns.reading import Reading
from meshcache.patterns.steps import must_not_be_coroutine, run

FULL_TIMEOUT_S: Final = 5.0
FLUSH_TIMEOUT_S: Final = 30.0


class CacheAside(Generic[K, V]):
    """The program uses both itself: it says at each read how to load, and invalidates the keys that it has written.

    ``name`` returns the name of a key in the cache; strings, bytes and integers are their own names. Use a client with
    a namespace to separate patterns that have the same keys. ``ttl`` bounds how long an old value can be read if the
    program dies, or cannot reach the cache, between its commit and ``invalidate``. If the database has no such key,
    that is cached, too, for ``absent_ttl``, which by default is ``ttl``.
    """

    def __init__(self, cache: Client, *, ttl: Ttl = DEFAULT, absent_ttl: Ttl = DEFAULT, name: Name[K] = plain) -> None:
        self._reading: Reading[K, V] = Reading(cache, name, ttl, absent_ttl)

    def get(self, key: K, load: Callable[[K], V | Missing]) -> V | Missing:
        """Return the value of a key. If the cache has none, ``load`` it; MISSING says that there is no such key."""
        return run(self._reading.get(key, load))

    def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows have changed.

        Call it after the commit: before it, a reader may load the old row again.
        """
        run(self._reading.invalidate(keys))


class ReadThrough(Generic[K, V]):
    """The cache loads: ``load`` returns the value of a key, or MISSING. The other arguments are those of CacheAside."""

    def __init__(
        self,
        cache: Client,
        load: Callable[[K], V | Missing],
        *,
        ttl: Ttl = DEFAULT,
        absent_ttl: Ttl = DEFAULT,
        name: Name[K] = plain,
    ) -> None:
        must_not_be_coroutine(load=load)
        self._load = load
        self._reading: Reading[K, V] = Reading(cache, name, ttl, absent_ttl)

    def get(self, key: K) -> V | Missing:
        """Return the value of a key, loaded if the cache has none; MISSING if there is no such key."""
        return run(self._reading.get(key, self._load))

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of the keys that exist. The cache is asked once; what it lacks is loaded key by key."""
        return run(self._reading.get_many(keys, self._load))

    def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows another program has changed."""
        run(self._reading.invalidate(keys))


class _Direct(Generic[K, V]):
    """The common part of the two patterns that write straight to the database."""

    _publish: bool

    def __init__(
        self,
        cache: Client,
        load: Callable[[K], V | Missing],
        store: Callable[[list[Write[K, V]]], object],
        *,
        ttl: Ttl = DEFAULT,
        absent_ttl: Ttl = DEFAULT,
        name: Name[K] = plain,
        fence_ttl: Timeout = FENCE_TTL_S,
        if_unfenced: Unfenced = "raise",
    ) -> None:
        must_not_be_coroutine(load=load, store=store)
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

    def get(self, key: K) -> V | Missing:
        """Return the value of a key, loaded if the cache has none; MISSING if there is no such key."""
        return run(self._direct.reading.get(key, self._load))

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of the keys that exist. The cache is asked once; what it lacks is loaded key by key."""
        return run(self._direct.reading.get_many(keys, self._load))

    def put(self, key: K, value: V) -> None:
        """Write a value to the database, in one call of ``store``. The class says what the cache holds afterwards."""
        run(self._direct.write({key: value}, publish=self._publish))

    def put_many(self, items: Mapping[K, V]) -> None:
        """Write several values, in one call of ``store``."""
        run(self._direct.write(items, publish=self._publish))

    def delete(self, *keys: K) -> None:
        """Have ``store`` delete keys: their value is MISSING."""
        run(self._direct.write(deletions(keys), publish=self._publish))

    def invalidate(self, *keys: K) -> None:
        """Drop keys whose rows another program has changed."""
        run(self._direct.reading.invalidate(keys))


class WriteThrough(_Direct[K, V]):
    """Writes go to the database, then to the cache, so that readers find the new value there at once.

    ``store`` gets a list of writes and must have committed them when it returns; if it raises an error, it may have
    written them or not. ``put`` raises the error of ``store``. It raises the cache's error if no fence could be put up,
    before anything is stored; with ``if_unfenced="write"`` it stores nevertheless, and if the program then dies, the
    old value can stay in the cache for ``ttl``. ``fence_ttl`` must be longer than ``store`` takes; when a writer has
    died, readers go to the database for that time. ``fences.py`` says why all this is needed.
    """

    _publish = True


class InvalidateOnWrite(_Direct[K, V]):
    """Writes go to the database, and the key is dropped from the cache; the next reader loads it.

    Arguments and errors are those of WriteThrough. Use this pattern where the cached value is not the written one, but
    joined, rendered or aggregated.
    """

    _publish = False

    @contextmanager
    def writing(self, *keys: K) -> Iterator[None]:
        """Run a transaction of your own inside: afterwards, committed or not, the cache has no value of these keys."""
        names, writer = run(self._direct.begin(keys))
        try:
            yield
        finally:
            run(self._direct.end(names, writer))


class WriteBehind(Generic[K, V]):
    """Writes are accepted when they are in a queue on disk, and reach the database in batches, later.

    ``path`` is the file of the queue, on a local disk; one process at a time can have it open. Writes that an earlier
    process left in it are stored first. ``store`` gets a list of writes, one for each key, and must have committed them
    all when it returns. After a crash a batch can be stored twice; with ``sequence`` the store function can refuse
    writes that it already has. With ``sync="full"`` an accepted write survives the loss of power, with ``"normal"``
    only the end of the process.

    ``limits`` says how much may wait and how it is stored. A write for which there is no room within ``full_timeout``
    seconds raises QueueFull. ``is_outage`` decides for an error of ``store`` whether everything waits, or the write is
    at fault and is set aside after ``limits.attempts``. ``codec`` says how keys and values are kept on disk.
    """

    def __init__(
        self,
        cache: Client,
        path: str | os.PathLike[str],
        load: Callable[[K], V | Missing],
        store: Callable[[list[Write[K, V]]], object],
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
        must_not_be_coroutine(load=load, store=store)
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
        self._storing = threading.Thread(
            target=lambda: run(self._behind.store_all()), name="meshcache-write-behind", daemon=True
        )
        self._storing.start()

    def get(self, key: K) -> V | Missing:
        """Return the value that waits in the queue, else the cached one, else load it; MISSING: no such key."""
        return run(self._behind.get(key))

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of the keys that exist."""
        return run(self._behind.get_many(keys))

    def put(self, key: K, value: V, *, timeout: Timeout | None = None) -> None:
        """Accept a write: when this returns, it is on disk. ``timeout``: how long to wait for room in the queue."""
        run(self._behind.put({key: value}, timeout))

    def put_many(self, items: Mapping[K, V], *, timeout: Timeout | None = None) -> None:
        """Accept several writes, all or none."""
        run(self._behind.put(items, timeout))

    def delete(self, *keys: K, timeout: Timeout | None = None) -> None:
        """Accept deletes; ``store`` gets them as writes of MISSING."""
        run(self._behind.put(deletions(keys), timeout))

    def flush(self, timeout: Timeout = FLUSH_TIMEOUT_S) -> None:
        """Wait until all writes accepted so far are in the database or set aside. Raises OperationTimeout."""
        run(self._behind.flush(timeout))

    def statistics(self) -> QueueStatistics:
        """Return the counts and the state of the queue."""
        return self._behind.queue.statistics()

    def set_aside(self) -> list[SetAside[K, V]]:
        """Return the writes that the database refused too often.

        They take room in the queue until retried or discarded.
        """
        return self._behind.set_aside()

    def retry(self, *sequences: int) -> None:
        """Store once more the writes that were set aside.

        They keep their sequence numbers: ``store`` must refuse a write whose key was written since.
        """
        self._behind.queue.take_back(sequences, again=True)

    def discard(self, *sequences: int) -> None:
        """Drop writes that were set aside."""
        self._behind.queue.take_back(sequences, again=False)

    def close(self, timeout: Timeout = FLUSH_TIMEOUT_S) -> int:
        """Accept nothing more and store what waits, for at most ``timeout`` seconds; 0: store nothing more.

        Returns how many writes are left in the file, for the process that opens it next. If a call of ``store`` is
        still under way, it is not waited for; the writes that it stores will be stored again.
        """
        left = run(self._behind.close(timeout))
        if not left:
            self._storing.join()
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
