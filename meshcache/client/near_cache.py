"""The near cache as a session uses it: it turns keys and values into raw keys and records, and back.

Pure. near_store.py decides what may be kept and served.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, Final, TypeVar
from uuid import UUID

from meshcache._native import absent_because, compiled
from meshcache.client.arguments import MISSING, Item, Key
from meshcache.client.codec import PICKLE
from meshcache.client.compression import ZSTD
from meshcache.client.delivery import Flow
from meshcache.client.routing import HOT_KEYS_MAX, Routing
from meshcache.errors import ConfigError
from meshcache.protocol.messages import DEFAULT_LEVEL
from meshcache.protocol.near_store import USED, Copy, NearCache, NearStore
from meshcache.protocol.record import HEADER_BYTES, NEVER_MS, expires_ms_of, extras_of, version_of

T = TypeVar("T")

_UNCHANGEABLE: Final = frozenset(
    {bytes, str, int, float, bool, NoneType, complex, datetime, date, time, timedelta, Decimal, UUID}
)
"""Types of values that cannot be changed, so that all readers of a copy may get the same object."""


class Reading:
    """When a read began, by both clocks that count, and for which keys copies may be kept."""

    __slots__ = ("began", "raws", "strange_views", "ticket")

    def __init__(self, began: float, ticket: int, raws: frozenset[bytes], strange_views: int) -> None:
        self.began = began
        self.ticket = ticket
        self.raws = raws
        self.strange_views = strange_views


def pure_near_reads(
    found: dict[Key, Copy],
    near: NearStore,
    entries: OrderedDict[bytes, Copy],
    clock: Callable[[], float],
    decode: Callable[[bytes], Any],
    find: Callable[[Key], bool],
    missing: object,
) -> Callable[[Key], Any]:
    """Return a function that returns the value of a key's copy, or ``missing``.

    This is the hot path: it checks everything once, and takes no lock. ``find`` puts the copy of a key into ``found``
    and returns whether there is another one than before.
    """

    def value(key: Key) -> Any:
        while entries:
            try:
                copy = found[key]
                until, value, record, _, _ = copy
                now = clock()
                if now < until and now < near.live_until:
                    copy[USED] = True
                    near.hits += 1
                    return value if record is None else decode(record)
            except (KeyError, TypeError):
                pass  # not looked up before, or no valid key
            if not find(key):
                break
        return missing

    return value


near_reads: Final[Callable[..., Callable[[Key], Any]]] = pure_near_reads if absent_because else compiled.NearReads
"""What serves: the function above, or its twin in C (_native/near.c)."""


def _finder(found: dict[Key, Copy], near: NearStore, prefix: bytes) -> Callable[[Key], bool]:
    """Return a function that finds a copy by its raw key, and keeps it by the key as given: that is faster next time.

    It does not refer to its user, which would be a circle for the garbage collector, with all connections in it.
    """

    def find(key: Key) -> bool:
        try:
            raw = prefix + (key.encode() if isinstance(key, str) else key)
            copy = near.entries[raw]
            if found.get(key) is copy:
                return False
        except (KeyError, TypeError, UnicodeEncodeError):
            return False
        if len(found) >= near.entries_max:
            found.clear()
        found[key] = copy
        return True

    return find


class Copies:
    """The near cache, for one prefix and codec."""

    __slots__ = ("_clock", "_found", "_routing", "near", "value")

    def __init__(self, near: NearStore, routing: Routing, prefix: bytes, decode: Callable[[bytes], Any]) -> None:
        self.near = near
        self._routing = routing
        self._clock = routing.clock
        self._found: dict[Key, Copy] = {}
        """Copies by key as given; a copy here may be void by now."""
        find = _finder(self._found, near, prefix)
        self.value = near_reads(self._found, near, near.entries, routing.clock, decode, find, MISSING)
        """Returns the value of a key, or MISSING."""

    def item(self, key: Key) -> Item | None:
        """Return what is known of a copy that may be served."""
        value = self.value(key)
        copy = self._found.get(key)
        if value is MISSING or copy is None:
            return None
        until, _, _, version, _ = copy
        return Item(value, version, max(0.0, until - self._clock()), stale=False, near=True)

    def begin(self, raws: list[bytes]) -> Reading | None:
        """Note that a read of these keys begins; return None if no copies of them are to be kept."""
        near = self.near
        only = near.only
        if only is not None:
            if not only or not self._routing.hot_copy_s:
                return None  # no key is hot, or reads of this mesh must ask several nodes
            raws = [raw for raw in raws if raw in only]
            if not raws:
                return None
        near.misses += len(raws)
        near.on_use()
        return Reading(self._clock(), near.ticket(), frozenset(raws), self._routing.strange_views)

    def keep(self, raw: bytes, record: bytes, value: Any, reading: Reading | None) -> None:
        """Offer the answer of a read to the near cache."""
        if reading is None or raw not in reading.raws:
            return
        if reading.strange_views != self._routing.strange_views:
            return  # a node that does not own the key may have answered from a copy of its own: hotcopies.py
        now = self._clock()
        ttl_s = self.near.ttl_s
        if self.near.only is not None:
            if self._routing.hot.get(raw, 0.0) <= now:
                return
            ttl_s = self._routing.hot_copy_s
        until = reading.began + ttl_s
        extras = extras_of(record)
        expires_ms = min(expires_ms_of(record), extras.soft_expires_ms or NEVER_MS)
        if expires_ms < NEVER_MS:
            wall_ms = self._routing.wall_ms(now)
            until = min(until, now + (expires_ms - wall_ms) / 1000) if wall_ms is not None else now
        if now < until:
            shared = is_unchangeable(value, record)
            copy: Copy = [until, value if shared else None, None if shared else record, version_of(record), False]
            self.near.fill(raw, copy, reading.ticket, now, extras.tags)

    def while_writing(self, keys: list[bytes], flow: Flow[T]) -> Flow[T]:
        """Run a write, and void the copies of its keys before and after; also if it fails, since it may be executed."""
        self.near.on_own_write(keys, self._clock())
        try:
            return (yield from flow)
        finally:
            self.near.on_own_write(keys, self._clock())

    @contextlib.contextmanager
    def clearing(self, prefix: bytes) -> Iterator[None]:
        """Void the copies under a prefix, before and after."""
        self.near.on_own_clear(prefix, self._clock())
        try:
            yield
        finally:
            self.near.on_own_clear(prefix, self._clock())

    @contextlib.contextmanager
    def invalidating(self, tags: tuple[bytes, ...]) -> Iterator[None]:
        """Void the copies with one of these tags, before and after."""
        self.near.on_own_invalidation(tags, self._clock())
        try:
            yield
        finally:
            self.near.on_own_invalidation(tags, self._clock())


def is_unchangeable(value: Any, record: bytes) -> bool:
    """Tell whether all readers of a record may get this value itself, instead of decoding the record again.

    A tag from PICKLE on has a meaning only for clients that asked for that codec, compressed or not.
    """
    return type(value) in _UNCHANGEABLE and record[HEADER_BYTES - 1] & ~ZSTD < PICKLE


def near_store(
    near_cache: NearCache | bool | None, read_level: int, lock: AbstractContextManager[Any] | None, routing: Routing
) -> NearStore | None:
    """Return the store for the argument ``near_cache`` of a client; None means copies of hot keys."""
    if near_cache is None and read_level == DEFAULT_LEVEL:
        return NearStore(NearCache(HOT_KEYS_MAX), lock, only=routing.hot)
    if near_cache is None or near_cache is False:
        return None
    if near_cache is True:
        near_cache = NearCache()
    if not isinstance(near_cache, NearCache):
        raise TypeError(f"near_cache must be a NearCache, True or False, is {near_cache!r:.80}")
    if read_level != DEFAULT_LEVEL:
        raise ConfigError(
            "near_cache: copies serve reads of the cluster's own consistency only: leave consistency out, and use"
            " with_options(consistency=…) for reads that must ask the nodes"
        )
    return NearStore(near_cache, lock)
