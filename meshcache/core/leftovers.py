"""What a node's store holds that is of no use any more, and goes a little at a time: no request waits long for it."""

from __future__ import annotations

from typing import Final

from meshcache.core.operations.drops import Drops
from meshcache.core.operations.instant import Instant
from meshcache.core.storage.store import Store
from meshcache.core.view import View

EXPIRATIONS_PER_TURN: Final = 256
SLOTS_DROPPED_PER_TURN: Final = 4


class Leftovers:
    """Entries whose lifetime is over, what ``clear`` and tags drop, and slots that others own by now."""

    def __init__(self, store: Store, view: View, drops: Drops, instant: Instant) -> None:
        self._store = store
        self._view = view
        self._drops = drops
        self._instant = instant
        self._slots: list[int] = []
        self.is_more = False
        """There is something to do in the next turn, besides what is to be dropped."""

    def note_slots_of_others(self) -> None:
        """All owners hold what is theirs: what this node holds besides can go."""
        self._slots = [slot for slot, owned in enumerate(self._view.owned) if not owned]

    def look(self) -> None:
        """See in the next turn whether something has expired."""
        self.is_more = True

    def run(self) -> None:
        """Do one turn's share."""
        self._drops.run()
        if self._view.former:
            self._slots = []  # the ring changed again: decide anew when that is over
        for slot in self._slots[-SLOTS_DROPPED_PER_TURN:]:
            if not self._view.owned[slot]:
                self._store.drop_slot(slot)
        del self._slots[-SLOTS_DROPPED_PER_TURN:]
        more_expired = self._store.expire(self._instant.wall_ms, EXPIRATIONS_PER_TURN)
        self.is_more = more_expired or bool(self._slots)
