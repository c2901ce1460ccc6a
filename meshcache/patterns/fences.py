"""Writing to the database and to the cache, so that no crash, failure or race leaves an old value in the cache.

The database is written first, since it decides what is true. Things can go wrong between its commit and the cache:

1. a writer that dies there leaves the old value in the cache;
2. two writers can commit in one order and reach the cache in the other;
3. a reader can load before the commit and store after it.

So a writer puts a *fence* in the place of the value before it writes to the database. A reader that finds a fence reads
the database and stores nothing. After the commit the writer replaces the fence by the new value with compare-and-set,
which tells whether anything happened to the key in between. This answers the three dangers, in their order:

1. the fence of a writer that died expires after ``fence_ttl``; then the key is missing, and is loaded;
2. the fence lists its writers, each with what is left of its ``fence_ttl``. A writer that was not alone from beginning
   to end cannot know whose write the database applied last. It leaves the fence *contended*, and no writer publishes a
   value: the last one to finish ends the fence;
3. a reader's lease is voided by the fence, so what it loaded before is refused.

Fences change by compare-and-set, so none of several writers is forgotten. There is no compare-and-delete: a fence is
ended by replacing it, again with compare-and-set, by one without writers that expires at once.

One danger remains, and is bounded by ``ttl``: the fence is no lock on the database. If it disappears early (a node
evicted it, all its copies died, the transaction took longer than ``fence_ttl``) and a reader stores the old value just
then, *and* the writer dies before it has invalidated the key, the old value stays for its lifetime.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from meshcache.client.arguments import MISSING, Item, Key, Ttl
from meshcache.durations import Timeout, seconds
from meshcache.errors import MeshcacheError
from meshcache.patterns.marks import SPENT, UNTRACKED, Cache, Fence, stored
from meshcache.patterns.steps import Flow

FENCE_TTL_S: Final = 5.0
EXCHANGES_MAX: Final = 8
"""How often a fence is changed by compare-and-set; then it is overwritten by one that no writer may end."""
SETTLE_ATTEMPTS: Final = 4
PAUSE_S: Final = 0.05
Unfenced = Literal["raise", "write"]


@dataclass(slots=True)
class FenceCounts:
    """How fences ended, as counts."""

    published: int = 0
    """The new value took the place of the fence."""
    dropped: int = 0
    """The key was left without a value: several wrote it at once, ``store`` failed, or there was nothing to publish."""
    lost: int = 0
    """The fence was gone before the write to the database was done; the key was invalidated."""
    unsettled: int = 0
    """The cache could not be reached after the write to the database; the fence was left to expire."""
    unfenced: int = 0
    """The write was made without a fence, because the cache could not be reached."""


class Fences:
    """The fences of one pattern's writes."""

    def __init__(
        self, cache: Cache, fence_ttl: Timeout, if_unfenced: Unfenced, rng: random.Random | None = None
    ) -> None:
        if if_unfenced not in {"raise", "write"}:
            raise ValueError(f'if_unfenced must be "raise" or "write", is {if_unfenced!r}')
        self.counts = FenceCounts()
        self._cache = cache
        self._ttl_ms = math.ceil(1000 * seconds(fence_ttl))
        self._unfenced = if_unfenced
        self._rng = rng or random.Random()

    def write(
        self, values: Mapping[Key, Any], store: Callable[[], Any], lifetime: Callable[[Any], Ttl] | None
    ) -> Flow[None]:
        """Store to the database with fences; then publish the values for their lifetime, or leave the keys empty.

        Raises the error of ``store``; then the database may have the writes or not, and the keys have no value. If the
        cache fails after the database has the writes, nothing is raised: the write is done, and the fence keeps the old
        value out.
        """
        writer = yield from self.raise_fences(values)
        try:
            yield store
        except Exception:
            yield from self.drop(values, writer)
            raise
        if lifetime is None:
            yield from self.drop(values, writer)
            return
        for name, value in values.items():
            yield from self._settle(name, writer, value, lifetime(value))

    def raise_fences(self, names: Iterable[Key]) -> Flow[str]:
        """Put a fence on every key; return the id of the writer for which they stand.

        Raises the cache's error if that fails: nothing was written to the database then. With ``if_unfenced="write"``
        the write goes on, and if the writer dies, the cached value stays until its lifetime is over.
        """
        writer = secrets.token_hex(6)
        raised: list[Key] = []
        for name in dict.fromkeys(names):
            try:
                yield from self._join(name, writer)
            except MeshcacheError:
                if self._unfenced == "raise":
                    yield from self.drop(raised, writer)
                    raise
                self.counts.unfenced += 1
            raised.append(name)
        return writer

    def drop(self, names: Iterable[Key], writer: str) -> Flow[None]:
        """End a write without publishing: the keys then have no value."""
        for name in names:
            yield from self._settle(name, writer, MISSING, None, publish=False)

    def _settle(self, name: Key, writer: str, value: Any, ttl: Ttl, *, publish: bool = True) -> Flow[None]:
        """End the writer's part in a fence; try again if the cache fails, and at last leave the fence to expire."""
        for attempt in range(SETTLE_ATTEMPTS):
            if attempt:
                yield self._rng.uniform(0, PAUSE_S * 2**attempt)
            try:
                yield from self._end(name, writer, value, ttl, publish=publish)
            except MeshcacheError:
                continue
            return
        self.counts.unsettled += 1

    def _end(self, name: Key, writer: str, value: Any, ttl: Ttl, *, publish: bool) -> Flow[None]:
        for _ in range(EXCHANGES_MAX):
            item: Item | None = yield lambda: self._cache.gets(name)
            fence = Fence.of(item.value, item.ttl) if item is not None else None
            if item is None or fence is None:
                # Evicted, expired, or invalidated by others; a value that is there now may have been loaded before the
                # commit.
                yield lambda: self._cache.invalidate(name)
                self.counts.lost += 1
                return
            published = publish and fence.is_only(writer)
            if published:
                ended = yield partial(self._cache.cas, name, stored(value), item.version, ttl=ttl)
            else:
                rest = fence.left(writer)
                if rest is fence:
                    return  # it expires by itself
                ended = yield partial(self._cache.cas, name, str(rest), item.version, ttl=rest.ttl_ms / 1000)
            if ended:
                self.counts.published += published
                self.counts.dropped += not published
                return
        yield from self._give_up(name)

    def _join(self, name: Key, writer: str) -> Flow[None]:
        """Put up a fence, or join the one that is there."""
        for _ in range(EXCHANGES_MAX):
            item: Item | None = yield lambda: self._cache.gets(name)
            fence = Fence.of(item.value, item.ttl) if item is not None else None
            joined = (fence or Fence((), SPENT)).joined(writer, self._ttl_ms)
            ttl_s = joined.ttl_ms / 1000
            if item is None:
                done = yield partial(self._cache.add, name, str(joined), ttl=ttl_s)
            else:
                done = yield partial(self._cache.cas, name, str(joined), item.version, ttl=ttl_s)
            if done:
                return
        yield from self._give_up(name)

    def _give_up(self, name: Key) -> Flow[None]:
        """Put up a fence that no writer may replace by a value, and that expires: too many write this key at once."""
        yield lambda: self._cache.set(name, str(Fence((), UNTRACKED, self._ttl_ms)), ttl=self._ttl_ms / 1000)
