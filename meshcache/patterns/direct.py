"""The flows of the patterns that write straight to the database; ``blocking.py`` and ``aio.py`` carry them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic

from meshcache.client.arguments import MISSING, Key, Ttl
from meshcache.durations import Timeout
from meshcache.patterns.fences import FenceCounts, Fences, Unfenced
from meshcache.patterns.marks import Cache, K, Missing, Name, V, Write, named
from meshcache.patterns.reading import Reading
from meshcache.patterns.steps import Flow


class Direct(Generic[K, V]):
    """Reads, and writes with fences."""

    def __init__(
        self,
        cache: Cache,
        store: Callable[[list[Write[K, V]]], Any],
        *,
        name: Name[K],
        ttl: Ttl,
        absent_ttl: Ttl,
        fence_ttl: Timeout,
        if_unfenced: Unfenced,
    ) -> None:
        self.reading: Reading[K, V] = Reading(cache, name, ttl, absent_ttl)
        self._store = store
        self._fences = Fences(cache, fence_ttl, if_unfenced)

    @property
    def counts(self) -> FenceCounts:
        """How the fences ended so far."""
        return self._fences.counts

    def write(self, items: Mapping[K, V | Missing], *, publish: bool) -> Flow[None]:
        """Store items; then publish them to the cache, or leave the keys without a value."""
        names = {named(self.reading.name, key): value for key, value in items.items()}
        if not names:
            return
        writes = [Write(key, value) for key, value in items.items()]
        lifetime = self.reading.lifetime if publish else None
        yield from self._fences.write(names, lambda: self._store(writes), lifetime)

    def begin(self, keys: Iterable[K]) -> Flow[tuple[list[Key], str]]:
        """Put up fences for a write that the caller will make itself."""
        names = [named(self.reading.name, key) for key in keys]
        return names, (yield from self._fences.raise_fences(names))

    def end(self, names: list[Key], writer: str) -> Flow[None]:
        """End the fences that ``begin`` put up."""
        yield from self._fences.drop(names, writer)


def deletions(keys: Iterable[K]) -> dict[K, Missing]:
    """Return keys as items that are to be deleted."""
    return dict.fromkeys(keys, MISSING)
