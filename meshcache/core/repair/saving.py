"""Taking a snapshot: the blocks of what this node holds, one bounded step each, while it serves.

The driver asks for the next block between turns, writes it, and says how it went; nothing is held up meanwhile. What a
snapshot is a picture of is told in snapshot.py. Left out are slots that others own by now and that writes pass this
node by: what it has of them may be old.

What the node found in its own snapshot and has not taken in yet (recall.py) is put into the next one again, and that
is then as old as the former one was: a node that is stopped in its first minute loses nothing of its past.

A node that has handed over all that it held to others, who go on with it, leaves a snapshot without records: else it
would come back with what they have changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.storage import snapshot
from meshcache.core.storage.store import Store
from meshcache.protocol import messages as m


class Saving:
    """The snapshots that one node takes, and how that went."""

    def __init__(self, coordinator: Coordinator, saved: snapshot.Saved | None, handed_over: Callable[[], bool]) -> None:
        """``handed_over`` tells whether this node has left, and others go on with all that it held."""
        self._config = coordinator.config
        self._coordinator = coordinator
        self._handed_over = handed_over
        self._former = saved
        """What was found at the start, as long as it has not been taken in."""
        self.asked = 0
        """How often somebody has asked for a snapshot now."""
        self.written = self.failures = 0
        self.reason = ""
        """Why the last attempt failed."""
        self._bytes = self._entries = 0
        self._seconds = 0.0
        self._taken_at: float | None = None
        self.longest_step_s = 0.0

    def ask(self) -> dict[str, Any]:
        """Have the driver take a snapshot as soon as it can; return the counts up to now."""
        self.asked += 1
        return self.statistics()

    def forget_former(self) -> None:
        """What was found at the start is taken in, or of no use."""
        self._former = None

    def on_written(self, size: int, seconds: float, taken_at: float) -> None:
        """A snapshot is in its place on the disk; ``taken_at``: when it was begun."""
        self.written += 1
        self.reason = ""
        self._bytes, self._seconds, self._taken_at = size, round(seconds, 3), taken_at

    def on_failed(self, reason: str) -> None:
        """There is no new snapshot, for this reason."""
        self.failures += 1
        self.reason = reason

    def on_step(self, seconds: float) -> None:
        """One step took so long."""
        self.longest_step_s = max(self.longest_step_s, seconds)

    def statistics(self) -> dict[str, Any]:
        """Return the counts, and the size, the duration and the age of the last snapshot."""
        age = None if self._taken_at is None else round(self._coordinator.instant.now - self._taken_at, 1)
        return {
            "written": self.written,
            "failures": self.failures,
            "reason": self.reason,
            "age_s": age,
            "bytes": self._bytes,
            "entries": self._entries,
            "seconds": self._seconds,
            "longest_step_ms": round(self.longest_step_s * 1000, 3),
        }

    def blocks(self, *, final: bool = False) -> Iterator[bytes]:
        """Return the blocks of a snapshot, each in one bounded step. ``final``: nothing more will be acknowledged."""
        handed_over = self._handed_over()
        head = self._head(final=final, with_records=not handed_over)
        front = snapshot.head_block(head) + snapshot.floors_block(self._floors())
        yield front
        count = entries = 0
        stores = [] if handed_over else [self._coordinator.store]
        if stores and self._former is not None:
            stores.append(self._former.store)
        for store in stores:
            for slot in range(self._config.cluster.slots):
                if store is self._coordinator.store and self._is_old(slot):
                    continue
                for held, packed in _slot_blocks(store, slot):
                    count += 1
                    entries += held
                    yield packed
        self._entries = entries
        yield front
        yield snapshot.end_block(count)

    def _is_old(self, slot: int) -> bool:
        """Tell whether others own a slot, and write past this node. Where all are leaving nobody does."""
        view = self._coordinator.view
        return view.left_over(slot) and bool(view.ring.owners[slot])

    def _head(self, *, final: bool, with_records: bool) -> snapshot.Head:
        coordinator, former = self._coordinator, self._former
        view, wall_ms = coordinator.view, coordinator.instant.wall_ms
        rings = [view.ring, *[each.ring for each in view.former]]
        members = dict.fromkeys(member.node_id for ring in rings for member in ring.members) if with_records else {}
        if former is not None and with_records:
            members |= dict.fromkeys(former.head.members)
            wall_ms = min(wall_ms, former.head.wall_ms)
        return snapshot.Head(
            cluster=self._config.cluster.name,
            node_id=coordinator.own_id,
            slots=self._config.cluster.slots,
            ring=view.digest,
            members=tuple(sorted(members)),
            clock=max(coordinator.clock.latest, 0 if former is None else former.clock),
            wall_ms=wall_ms,
            final=final and not view.void and (former is None or former.complete),
        )

    def _floors(self) -> list[m.Floor]:
        cursor = b""
        found: list[m.Floor] = []
        while True:
            cursor, page = self._coordinator.replica.floors.page(cursor)
            if not page:
                return found
            found += page


def _slot_blocks(store: Store, slot: int) -> Iterator[tuple[int, bytes]]:
    """Return the blocks of one slot, with the number of records in each; the last tells what was evicted, too."""
    keys: list[bytes] = []
    records: list[bytes] = []
    size = 0
    for key in store.keys_of_slot(slot):
        record = store.peek(key)
        if record is None:  # it went between two steps
            continue
        keys.append(key)
        records.append(record)
        size += len(key) + len(record)
        if len(keys) >= snapshot.BLOCK_ENTRIES or size >= snapshot.BLOCK_BYTES:
            yield len(keys), snapshot.slot_block(slot, store.floors[slot], keys, records)
            keys, records, size = [], [], 0
    if keys or store.floors[slot]:
        yield len(keys), snapshot.slot_block(slot, store.floors[slot], keys, records)
