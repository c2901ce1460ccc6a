"""Counters of one node: plain numbers, read by the statistics and by nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    requests: int = 0
    keys: int = 0
    malformed: int = 0
    """Frames or messages that did not follow the protocol."""
    late: int = 0
    """Requests dropped unexecuted because their deadline had passed."""
    stale_boot: int = 0
    """Requests that were meant for a former process."""
    refused: int = 0
    """Requests refused as not ready, overloaded or invalid."""
    clock_refused: int = 0
    """Messages refused, whole or in part, because the sender's clock or a version in them is too far ahead."""
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
    connections_cut: int = 0
    """Connections that the driver cut: they did not read, held memory or descriptors that were short, or the like."""
    router_resets: int = 0
    """How often the driver closed all connections because unfinished messages filled the memory."""
    longest_turn_ms: float = 0.0
    """The longest that the driver took for one turn of its loop: how long a request may have waited behind others."""
    longest_work_ms: dict[str, float] = field(default_factory=dict)
    """By kind, the most processor time that other work than clients' requests took at once, if the driver can tell."""

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
