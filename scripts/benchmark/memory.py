"""Memory per entry: how much a fresh server grows when it is loaded, less the keys and values themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .clients import connect
from .measure import resident_bytes
from .workload import KEY_BYTES, SMALL_BYTES, key_of, load, value_for, verify

if TYPE_CHECKING:
    from .servers import Server

WARM_ENTRIES: Final = 2_000
"""Loaded before the first look, so that connections and buffers are not charged to the entries."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes per entry beyond its key and value."""

    entries: int
    resident: float
    """By the growth of the server's resident memory."""
    accounted: float | None
    """By the server's own books, where we can read them."""


def memory_per_entry(server: Server, entries: int) -> Memory:
    """Load a server that nobody has used yet."""
    calls = connect(server)
    try:
        load(calls, [key_of(index) for index in range(WARM_ENTRIES)], SMALL_BYTES)
        before = resident_bytes(server.pids)
        keys = [key_of(WARM_ENTRIES + index) for index in range(entries)]
        load(calls, keys, SMALL_BYTES)
        grown = resident_bytes(server.pids) - before
        last = keys[-1]
        verify([keys[0], last], [calls.get(keys[0]), calls.get(last)])
        assert len(value_for(last, SMALL_BYTES)) == SMALL_BYTES
        payload = KEY_BYTES + SMALL_BYTES
        accounted = calls.accounted_bytes()
        held = entries + WARM_ENTRIES
        return Memory(entries, grown / entries - payload, None if accounted is None else accounted / held - payload)
    finally:
        calls.close()
