"""Counters of one node: plain numbers, read by the statistics and by nobody else."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from meshcache.protocol.messages import Message, Unknown

_SECOND_WORD: Final = re.compile("(?<=[a-z])(?=[A-Z])")

CLIENT_KINDS: Final = ("Get", "Set", "Delete", "Update", "Clear", "InvalidateTags")
"""The requests of clients, as their messages are called."""


SLOW_TURN_S: Final = 0.001
"""A turn of the driver's loop that takes longer is counted by how long it took."""
SLOW_TURNS_S: Final = (SLOW_TURN_S, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""The upper ends of their classes."""
LAG_WINDOW_S: Final = 10.0
BATCH_BITS_MAX: Final = 64
"""More keys than 2 to the power of this fit into no frame, however wrong its sender is."""
BATCH_BITS: Final = 13
"""A batch has up to 2 ** 12 keys."""


@dataclass(slots=True)
class LoopCounters:
    """How the driver's loop turns."""

    turns: int = 0
    busy_s: float = 0.0
    """In turns: not asleep, but perhaps without a processor."""
    slow_turns: list[int] = field(default_factory=lambda: [0] * (len(SLOW_TURNS_S) + 1))
    """Those longer than the first of ``SLOW_TURNS_S``, by the class of their length."""
    lag_s: float = 0.0
    """The latest that it came to something that was due, within this window …"""
    lag_before_s: float = 0.0
    """… and within the one before."""
    _window_ends_at: float = 0.0

    def note_slow(self, took_s: float) -> None:
        """Count a turn that took longer than ``SLOW_TURN_S``."""
        self.slow_turns[bisect_left(SLOW_TURNS_S, took_s)] += 1

    def note_lag(self, lag_s: float, now: float) -> None:
        """Note how late it came to something that is due ten times a second."""
        if now >= self._window_ends_at:
            self._window_ends_at = now + LAG_WINDOW_S
            self.lag_before_s, self.lag_s = self.lag_s, 0.0
        self.lag_s = max(self.lag_s, lag_s)

    def statistics(self) -> dict[str, Any]:
        """Return what there is to tell, as plain values."""
        slow = self.slow_turns
        counts = [self.turns - sum(slow), *slow[1:]]
        turn_s = {"bounds": list(SLOW_TURNS_S), "counts": counts, "sum": round(self.busy_s, 6)}
        return {"turns": self.turns, "turn_s": turn_s, "lag_s": round(max(self.lag_s, self.lag_before_s), 6)}


@dataclass(slots=True)
class RequestCounters:
    """What became of requests, by the kind of message; and how many keys they had."""

    answered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLIENT_KINDS, 0))
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLIENT_KINDS, 0))
    """Answered, but some key of it in vain: too few nodes, or too little time."""
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLIENT_KINDS, 0))
    """Not executed. Those from nodes are among them."""
    refused_for: dict[str, int] = field(default_factory=dict)
    """The same by reason."""
    batches: list[int] = field(default_factory=lambda: [0] * BATCH_BITS_MAX)
    """Clients' requests by their keys: at most 1, 2, 4, and so on."""

    def note_refused(self, kind: str, reason: str, count: int = 1) -> None:
        """Count what was not executed."""
        self.refused[kind] = self.refused.get(kind, 0) + count
        self.refused_for[reason] = self.refused_for.get(reason, 0) + count

    def statistics(self, keys: int) -> dict[str, Any]:
        """Return what there is to tell, as plain values; ``keys``: how many all batches had."""
        kinds = dict.fromkeys([*self.answered, *self.refused])
        requests = {
            _SECOND_WORD.sub("_", kind).lower(): {
                "answered": self.answered.get(kind, 0),
                "failed": self.failed.get(kind, 0),
                "refused": self.refused.get(kind, 0),
            }
            for kind in kinds
        }
        bounds = [1 << bit for bit in range(BATCH_BITS - 1)]
        counts = self.batches[: len(bounds)]
        batch_keys = {"bounds": bounds, "counts": [*counts, sum(self.batches[len(counts) :])], "sum": keys}
        return {"requests": requests, "refused_for": dict(self.refused_for), "batch_keys": batch_keys}


@dataclass(slots=True)
class MemcachedCounters:
    """What happened at the memcached door."""

    connections: int = 0
    """Those there are now, by the driver's last look."""
    accepted: int = 0
    refused: int = 0
    """Connections that were too many by memcached.connections_max."""
    unauthenticated: int = 0
    """Wrong passwords."""
    commands: int = 0
    errors: int = 0
    """Commands that were answered with an error."""
    in_bytes: int = 0
    out_bytes: int = 0
    closed_slow: int = 0
    """Connections closed because they did not read what they were answered …"""
    closed_half: int = 0
    """… because the rest of a command did not come …"""
    closed_malformed: int = 0
    """… and because what came is not the protocol."""


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    requests: int = 0
    keys: int = 0
    malformed: int = 0
    """Frames or messages that did not follow the protocol."""
    unknown: int = 0
    """Messages of kinds that only later versions of the protocol know."""
    late: int = 0
    """Requests dropped unexecuted because their deadline had passed."""
    stale_boot: int = 0
    """Requests that were meant for a former process."""
    refused: int = 0
    """Requests refused as not ready, overloaded or invalid."""
    clock_refused: int = 0
    """Messages refused, whole or in part, because the sender's clock or a version in them is too far ahead."""
    forbidden: int = 0
    """Messages refused because the sender's key does not allow them."""
    keys_refused: int = 0
    """Connections that were not let in: they had no key, a wrong one, or one that was taken back."""
    without_key: int = 0
    """Connections without a key that were let in all the same, while the mesh changes over to keys."""
    http_refused: int = 0
    """Requests by HTTP that were refused because they brought no valid token."""
    failed: dict[str, int] = field(default_factory=dict)
    """By kind, messages, operations and connections that were dropped because handling them failed."""
    undeliverable: int = 0
    rejoins: int = 0
    """How often this node learned that it had been declared dead, and forgot its data."""
    ring_changes: int = 0
    slots_voided: int = 0
    """Under the strict policy: slots dropped because too many of their owners were lost at the same time."""
    published: int = 0
    """Numbers of the invalidation stream that were used."""
    connections: int = 0
    """Connections of clients and nodes that the driver knows now, by its last look."""
    connections_cut: int = 0
    """Connections that the driver cut: they did not read, held memory or descriptors that were short, or the like."""
    connections_refused: int = 0
    """Those among them that were too many by limits.connections_max."""
    router_resets: int = 0
    """How often the driver closed all connections because unfinished messages filled the memory."""
    longest_turn_ms: float = 0.0
    """The longest that the driver took for one turn of its loop: how long a request may have waited behind others."""
    requests_in_bytes: int = 0
    """Frames that came in on connections that others dialled: from clients, and from nodes that ask."""
    answers_in_bytes: int = 0
    """Frames that came in on connections that this node dialled, those of the streams that it reads included."""
    answers_out_bytes: int = 0
    """Frames that went out to those who asked …"""
    requests_out_bytes: int = 0
    """… to nodes that this one asks …"""
    published_bytes: int = 0
    """… and into the invalidation stream, once for each who reads it."""
    links_up: int = 0
    """Times a connection that this node dialled came to stand …"""
    links_down: int = 0
    """… and times one broke."""
    longest_work_ms: dict[str, float] = field(default_factory=dict)
    """By kind, the most processor time that other work than clients' requests took at once, if the driver can tell."""

    loop: LoopCounters = field(default_factory=LoopCounters)
    requests_by_kind: RequestCounters = field(default_factory=RequestCounters)
    memcached: MemcachedCounters | None = None
    """None: there is no such door."""

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return all, as plain values, by what it is about."""
        parts = {"loop", "requests_by_kind", "memcached"}
        own = {name: getattr(self, name) for name in self.__slots__ if name not in parts}
        own |= {name: dict(value) for name, value in own.items() if isinstance(value, dict)}
        return {
            "node": own,
            "loop": self.loop.statistics(),
            "operations": self.requests_by_kind.statistics(self.keys),
            **({} if self.memcached is None else {"memcached": asdict(self.memcached)}),
        }

    def note_unhandled(self, message: Message) -> None:
        """Count a message that the node does nothing about."""
        if isinstance(message, Unknown):
            self.unknown += 1
        else:
            self.malformed += 1

    def note_work(self, work: str, seconds: float) -> None:
        """Note how long a piece of work took."""
        if seconds * 1000 > self.longest_work_ms.get(work, 0.0):
            self.longest_work_ms[work] = round(seconds * 1000, 3)


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a store holds, and what has happened since it was made."""

    entries: int
    """Records that are no tombstones; those that expired within the last moments included."""
    tombstones: int
    bytes: int
    """Accounted bytes, tombstones included."""
    tombstone_bytes: int
    hits: int
    """Live records that reads returned."""
    misses: int
    """Keys that reads found absent, expired or deleted."""
    evictions: int
    """Live entries dropped for a limit."""
    expirations: int
    """Entries freed because their lifetime was over, found by a read or by the calendar."""
    tombstones_reaped: int
    """Tombstones freed at the end of their grace period."""
    tombstones_dropped: int
    """Tombstones dropped for the byte limit, before the end of their grace period."""
    refused: int
    """Records larger than the whole byte limit."""
    bookings: int
    """Length of the expiry calendar."""
    covers: int
    """Entries that leave a trace when they expire, because what they replaced would have lived longer."""
    tags: int
    """Tags in the index, each once for every slot in which an entry has it."""
    bearers: int
    """Pairs of an entry and one of its tags."""
    small_entries: int
    """Entries in the small queue of S3-FIFO; this and what follows is zero under LRU."""
    small_evictions: int
    """Evictions from the small queue: of entries that were not read since they came."""
    promotions: int
    """Entries that went on from the small to the main queue."""
    ghost_hits: int
    """Entries that came into the main queue because they had been evicted from the small one not long ago."""
    ghost_bytes: int
    """What the ghosts take of the byte limit."""
