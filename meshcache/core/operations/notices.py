"""What an operator must hear of: entries are evicted because of a limit, and the mesh has fewer nodes than copies.

Neither is an error, and no caller sees one: a write is acknowledged, and later its key is a miss. So the node says it
in its log and in its status. A full cache evicts all the time: the log shows the first eviction at once, and then once
a minute how many there were. That there are fewer nodes than copies is logged only when it lasts: it is normal while
nodes start one after the other.
"""

from __future__ import annotations

from typing import Final

from meshcache.config import Config
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.core.storage.store import Store
from meshcache.core.view import View

TELL_AGAIN_S: Final = 60.0
"""The time between two lines in the log about evictions."""

TOO_FEW_AFTER_S: Final = 5.0
"""How long the ring must be unchanged before the log says that it has too few nodes."""


class Notices:
    """What one node tells its operator, in the log and in its status."""

    def __init__(self, config: Config, store: Store, view: View, outbox: Outbox, instant: Instant) -> None:
        self._config = config
        self._store = store
        self._view = view
        self._outbox = outbox
        self._instant = instant
        self._lost = 0
        """How many entries were evicted or refused because of a limit since the start, at the last look."""
        self._lost_at: float | None = None
        self._told = 0
        """How many of these the log has told of."""
        self._refused = 0
        """How many of these were larger than the whole store."""
        self._tell_at = instant.now
        self._ring = b""
        self._ring_since = instant.now
        self._too_few = False
        """Whether the log has said that there are too few nodes."""

    @property
    def evicted_s_ago(self) -> float | None:
        """How many seconds ago an entry was evicted or refused because of a limit; None: never."""
        return None if self._lost_at is None else round(self._instant.now - self._lost_at, 1)

    def run(self) -> None:
        """Log what is new."""
        self._look_at_store()
        self._look_at_ring()

    def _look_at_store(self) -> None:
        held, now = self._store.statistics(), self._instant.now
        lost = held.evictions + held.refused
        if lost > self._lost:
            self._lost, self._lost_at = lost, now
        if lost > self._told and now >= self._tell_at:
            settings = self._config.store
            too_large = held.refused > self._refused  # records that are too large for the whole store
            by_entries = not too_large and held.entries / settings.max_entries >= held.bytes / settings.max_bytes
            self._outbox.note(
                "evicting",
                entries=lost - self._told,
                limit="store.max_entries" if by_entries else "store.max_bytes",
                limit_is=settings.max_entries if by_entries else settings.max_bytes,
                advice="raise it, add nodes, or give keys shorter lifetimes",
            )
            self._told, self._refused, self._tell_at = lost, held.refused, now + TELL_AGAIN_S

    def _look_at_ring(self) -> None:
        ring, replicas, now = self._view.ring, self._config.cluster.replicas, self._instant.now
        if ring.digest != self._ring:
            self._ring, self._ring_since = ring.digest, now
        too_few = len(ring.members) < replicas
        if too_few == self._too_few or (too_few and now - self._ring_since < TOO_FEW_AFTER_S):
            return
        self._too_few = too_few
        if too_few:
            self._outbox.note(
                "too_few_nodes",
                nodes=len(ring.members),
                replicas=replicas,
                advice="a key has only as many copies as there are nodes: add nodes, or lower cluster.replicas",
            )
        else:
            self._outbox.note("enough_nodes", nodes=len(ring.members), replicas=replicas)
