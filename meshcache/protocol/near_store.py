"""The near cache: copies in the client's own process, which the invalidation streams void.

What is promised, and why it holds:

- **Age.** A copy is served for ``ttl`` at most, counted from when the read that brought it *began*, and never past the
  key's own expiry. That alone bounds staleness, whatever is lost, by a local monotonic clock: a served value was the
  answer of a read that began at most ``ttl`` ago. All other rules make the usual case better than this bound.
- **Announcements.** An event voids a copy with a lower version; an event of a tag, the copies with that tag. An event
  with the copy's own version announces the very value that is held.
- **Doubt.** After a gap (invalidation.py) every copy is dropped. While the streams are not live (some member has not
  been heard of for 0.75 s, was never heard of, or works with another ring) nothing is served and nothing is kept: a
  write that such a member coordinates would not be announced here.
- **Fills.** A read takes a *ticket* before it starts. Its answer is kept only if, since then, not everything was
  dropped, this client did not write the key, and no greater version of the key or of one of its tags was announced;
  also not in the last moments before: a replica that lags must not bring an old value back. Announcements are
  remembered for a bounded number of keys and tags; a ticket older than a forgotten announcement is void.
- **Own writes.** The writer voids its copy before and after a write, so that its next read comes from the mesh.

A store may be limited to some keys (``only``): those that nodes call hot, in a client that was given no near cache. It
ignores all others, so that a mesh with many writes and a few hot keys costs it almost nothing.

Misses are not kept. Copies are kept decoded if a reader cannot change the value (text, bytes, numbers, None). Others
are kept as the record, and each reader gets a value of its own: decoding costs a fifth of ``copy.deepcopy``.

Which copy goes when there are too many: a hit marks its copy as used, which costs a third of moving it to the end of an
order. The oldest goes, unless it is marked: then it gets a second chance, without its mark, behind all others (Corbató,
"A paging experiment with the Multics system", 1968, known as CLOCK). After ``CHANCES_MAX`` of these the next one goes,
whatever its mark, so that no fill takes long.

Threads: a lock, given by the driver, is held for the moments in which something is kept or voided. A hit takes none:
each of its steps on the table is atomic, and whether a hit comes before or after a concurrent event is undefined
anyway. The counts of hits and misses may be a little low when threads collide.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple

from meshcache.protocol.messages import Event, EventKind

ENTRIES_MAX: Final = 10_000_000
TTL_MAX_S: Final = 86_400.0
RECENT_MAX: Final = 8_192
"""How many keys have their latest announced version remembered …"""
RECENT_S: Final = 5.0
"""… and for how long at most: a write that was announced and then failed must not keep its key out for ever."""
CLEARS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class NearCache:
    """A near cache as ``Client(near_cache=…)`` takes it; True stands for ``NearCache()``.

    ``max_entries``: how many copies are kept; those go first that were not used since they came. ``ttl``: for how many
    seconds a copy may be served, and so how stale a value can be, even if every invalidation is lost.
    """

    max_entries: int = 10_000
    ttl: float = 1.0

    def __post_init__(self) -> None:
        count, ttl = self.max_entries, self.ttl
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"near_cache: max_entries must be an int, is {count!r}")
        if not 1 <= count <= ENTRIES_MAX:
            raise ValueError(f"near_cache: max_entries must be 1 to {ENTRIES_MAX:,}, is {count:,}")
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
            raise TypeError(f"near_cache: ttl must be a number of seconds, is {ttl!r}")
        if not 0 < ttl <= TTL_MAX_S:
            raise ValueError(f"near_cache: ttl must be above 0 and at most {TTL_MAX_S:,.0f} seconds, is {ttl!r}")


@dataclass(frozen=True, slots=True)
class NearStatistics:
    """The counts of a near cache."""

    hits: int
    misses: int
    """Reads that had to ask the mesh, without those at an explicit consistency level."""
    fills: int
    refused_fills: int
    """Answers that were not kept, because something newer was announced, or the streams were not live."""
    invalidations: int
    """Copies voided by an announcement."""
    gaps: int
    """How often a number or a boot showed that announcements were missed."""
    flushes: int
    """How often everything was dropped."""
    entries: int
    live: bool
    """Whether all members are followed, so that copies are kept and served."""


class _Whole:
    """Drops everything if a change of the tables is interrupted, since a half-done change cannot be repaired."""

    __slots__ = ("_store",)

    def __init__(self, store: NearStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._store.drop_all()


Copy = list[Any]
"""Until when it may be served; the value, or the record if a reader could change the value; the version; whether it was
used. It is a list, because readers keep references to it by the keys that they are given (near_cache.py): it is voided
in place, in one step, and so is void for all of them."""

_VERSION: Final = 3
USED: Final = 4
CHANCES_MAX: Final = 64
"""How many copies one fill may give a second chance."""


class _Announced(NamedTuple):
    number: int
    at: float
    version: bytes
    """The greatest version that was announced; empty: none was."""
    own: int
    """The number of this client's latest write; 0: it wrote nothing."""


class NearStore:
    """The copies, and what must be known to decide which answers may be kept. ``now`` is monotonic seconds."""

    def __init__(
        self,
        options: NearCache,
        lock: AbstractContextManager[Any] | None = None,
        only: Collection[bytes] | None = None,
    ) -> None:
        self.ttl_s = float(options.ttl)
        self.only = only
        """The keys of which copies may be kept; None: all keys. A key must be among them when its read begins and until
        it ends."""
        self.entries: OrderedDict[bytes, Copy] = OrderedDict()
        """By raw key. Readers look here themselves, and serve a copy only before its own time and ``live_until`` are
        over."""
        self.on_use: Callable[[], object] = int
        """Called when a read begins of which a copy is to be kept: the streams must be followed from then on."""
        self.live_until = -math.inf
        self.hits = self.misses = self.fills = self.refused = self.invalidations = self.flushes = 0
        self.entries_max = options.max_entries
        self._lock = nullcontext() if lock is None else lock
        self._whole = _Whole(self)
        self._number = 0
        """Counts announcements, writes and drops; a ticket is the count at its time."""
        self._void_below = 0
        """Tickets below this are void: since then everything was dropped, or an announcement was forgotten."""
        self._recent: OrderedDict[bytes, _Announced] = OrderedDict()
        self._clears: OrderedDict[bytes, _Announced] = OrderedDict()
        """The same as ``_recent``, by prefix."""
        self._invalidated: OrderedDict[bytes, _Announced] = OrderedDict()
        """The same as ``_recent``, by tag."""
        self._tags: dict[bytes, tuple[bytes, ...]] = {}
        """By raw key, the tags of the copies that have any."""
        self._bearers: dict[bytes, dict[bytes, None]] = {}
        """By tag, the raw keys of the copies that have it."""

    @property
    def used(self) -> bool:
        """Tell whether copies are read from here; if only hot keys are kept: whether there was any hot key."""
        return self.only is None or self.misses > 0

    # Reads

    def ticket(self) -> int:
        """Return a ticket for ``fill``: it says when the read began."""
        return self._number

    def fill(self, key: bytes, copy: Copy, ticket: int, now: float, tags: tuple[bytes, ...] = ()) -> None:
        """Keep the answer of a read, unless it may be out of date."""
        with self._lock, self._whole:
            if (
                now >= self.live_until
                or ticket < self._void_below
                or not self._is_newest(key, copy[_VERSION], ticket)
                or not self._are_current(tags, copy[_VERSION], ticket)
            ):
                self.refused += 1
                return
            if tags or key in self._tags:
                self._note_tags(key, tags)
            entries = self.entries
            if len(entries) >= self.entries_max and key not in entries:
                self._drop(self._oldest_unused())
            held = entries.setdefault(key, copy)
            if held is not copy:
                held[:] = copy
            entries.move_to_end(key)
            self.fills += 1

    def _oldest_unused(self) -> bytes:
        entries = self.entries
        for _ in range(CHANCES_MAX):
            key = next(iter(entries))
            held = entries[key]
            if not held[USED]:
                return key
            held[USED] = False
            entries.move_to_end(key)
        return next(iter(entries))

    def _is_newest(self, key: bytes, version: bytes, ticket: int) -> bool:
        announced = self._recent.get(key)
        if announced is not None and (announced.version > version or announced.own > ticket):
            return False
        for prefix, clear in self._clears.items():
            if (clear.version > version or clear.own > ticket) and key.startswith(prefix):
                return False
        held = self.entries.get(key)
        return held is None or held[_VERSION] <= version

    def _are_current(self, tags: tuple[bytes, ...], version: bytes, ticket: int) -> bool:
        for tag in tags:
            announced = self._invalidated.get(tag)
            if announced is not None and (announced.version > version or announced.own > ticket):
                return False
        return True

    def _note_tags(self, key: bytes, tags: tuple[bytes, ...]) -> None:
        """Note that the copy of a key has these tags now."""
        for tag in self._tags.pop(key, ()):
            bearers = self._bearers[tag]
            del bearers[key]
            if not bearers:
                del self._bearers[tag]
        if tags:
            self._tags[key] = tags
            for tag in tags:
                self._bearers.setdefault(tag, {})[key] = None

    # Writes of this client

    def on_own_write(self, keys: Iterable[bytes], now: float) -> None:
        """Drop the copies of keys that this client is about to write, or has just written."""
        with self._lock, self._whole:
            for key in keys if self.only is None else [key for key in keys if key in self.only]:
                self._drop(key)
                self._remember(self._recent, RECENT_MAX, key, b"", now, own=True)

    def on_own_clear(self, prefix: bytes, now: float) -> None:
        """Drop everything under a prefix that this client clears."""
        with self._lock, self._whole:
            self._drop_prefix(prefix, None)
            self._remember(self._clears, CLEARS_MAX, prefix, b"", now, own=True)

    def on_own_invalidation(self, tags: Iterable[bytes], now: float) -> None:
        """Drop everything with one of the tags that this client invalidates."""
        with self._lock, self._whole:
            for tag in tags:
                self._drop_bearers(tag, None)
                self._remember(self._invalidated, RECENT_MAX, tag, b"", now, own=True)

    # What the streams say: see invalidation.Listener

    def on_event(self, node_id: str, event: Event, now: float) -> None:  # noqa: ARG002  (a version is enough)
        """Drop the copies that are older than this event."""
        kind, version, keys = event
        with self._lock, self._whole:
            if kind in {EventKind.SET, EventKind.DELETE, EventKind.INVALIDATE}:
                for key in keys if self.only is None else [key for key in keys if key in self.only]:
                    held = self.entries.get(key)
                    if held is not None and held[_VERSION] < version:
                        self._drop(key)
                        self.invalidations += 1
                    self._remember(self._recent, RECENT_MAX, key, version, now)
            elif kind == EventKind.CLEAR:
                for prefix in keys:
                    self.invalidations += self._drop_prefix(prefix, version)
                    self._remember(self._clears, CLEARS_MAX, prefix, version, now)
            elif kind == EventKind.TAG:
                for tag in keys:
                    self.invalidations += self._drop_bearers(tag, version)
                    self._remember(self._invalidated, RECENT_MAX, tag, version, now)
            else:  # a kind that only newer versions of meshcache know: drop everything
                self.drop_all()

    def on_gap(self, node_id: str, now: float) -> None:  # noqa: ARG002  (it may concern any key)
        """Drop everything, and refuse the answers of reads that are under way."""
        with self._lock, self._whole:
            self.drop_all()

    def follow(self, live_until: float) -> None:
        """Keep and serve copies until then; -inf: the streams are not live."""
        if live_until > -math.inf:
            self.live_until = live_until
        elif self.live_until > -math.inf:
            self.suspend()

    def suspend(self) -> None:
        """Drop everything, and neither serve nor keep copies until the streams are live again."""
        with self._lock, self._whole:
            self.live_until = -math.inf
            self.drop_all()

    def after_fork(self, lock: AbstractContextManager[Any]) -> None:
        """Begin anew in a child process, where the streams are not followed yet and no thread holds the lock."""
        self._lock = lock
        self.suspend()

    def statistics(self, gaps: int, now: float) -> NearStatistics:
        """Return the counts; ``gaps`` is the count of the streams."""
        return NearStatistics(
            self.hits,
            self.misses,
            self.fills,
            self.refused,
            self.invalidations,
            gaps,
            self.flushes,
            len(self.entries),
            now < self.live_until,
        )

    def drop_all(self) -> None:
        """Drop every copy, and refuse the answers of reads that are under way. The caller must hold the lock."""
        self._number += 1
        self._void_below = self._number
        self.flushes += bool(self.entries)
        for held in self.entries.values():
            _void(held)
        self.entries.clear()
        self._tags.clear()
        self._bearers.clear()

    def _drop(self, key: bytes) -> None:
        held = self.entries.pop(key, None)
        if held is not None:
            _void(held)
            if key in self._tags:
                self._note_tags(key, ())

    def _drop_bearers(self, tag: bytes, version: bytes | None) -> int:
        """Drop the copies with a tag, only those below ``version`` if it is given; return their number."""
        bearers = self._bearers.get(tag, {})
        dropped = [key for key in bearers if version is None or self.entries[key][_VERSION] < version]
        for key in dropped:
            self._drop(key)
        return len(dropped)

    def _drop_prefix(self, prefix: bytes, version: bytes | None) -> int:
        """Drop the copies under a prefix, only those below ``version`` if it is given; return their number."""
        dropped = [
            key
            for key, held in self.entries.items()
            if key.startswith(prefix) and (version is None or held[_VERSION] < version)
        ]
        for key in dropped:
            self._drop(key)
        return len(dropped)

    def _remember(
        self,
        memory: OrderedDict[bytes, _Announced],
        count_max: int,
        key: bytes,
        version: bytes,
        now: float,
        own: bool = False,
    ) -> None:
        number = self._number = self._number + 1
        before = memory.pop(key, None)
        own_number = number if own else 0
        if before is not None:
            version = max(before.version, version)
            own_number = max(before.own, own_number)
        memory[key] = _Announced(number, now, version, own_number)
        while len(memory) > count_max or next(iter(memory.values())).at < now - RECENT_S:
            _, oldest = memory.popitem(last=False)
            self._void_below = max(self._void_below, oldest.number)


def _void(copy: Copy) -> None:
    """Make a copy void for all that still refer to it; in one step, so that no reader sees it half done."""
    copy[:] = (-math.inf, None, None, b"", False)
