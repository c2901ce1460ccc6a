"""Moving slots to their new owners: a node that gains a slot pulls it from the nodes that hold it.

When the ring changes, a node looks which slots it owns and does not *hold*. It pulls each of them from all other owners
of it, current and former, page by page, and merges what it gets by version. Tombstones, expiries and versions travel
with the records. While a node pulls, reads and writes involve the former owners too (view.py), so nothing is missed.
When the node holds all its slots, it says so in its fact (``synced``, the digest of the ring). When all members have
said so, the former ring is dropped everywhere, and only then do former owners drop what they no longer own.

That one rule covers a join, a death (the survivors hold the slots), a restart with empty memory (every slot is pulled),
and a leave: a node that leaves first gives itself the weight 0, so that it owns nothing in the ring that the others
then compute, and goes when all of them are synced to that ring. Slots that are held stay held when the ring changes
again. A pull in progress then goes on with the nodes that can still be asked, and ends if its slot is no longer wanted.
So a movement can be resumed or given up at any time.

A peer that was counted dead and is back as the same process may have served clients meanwhile, on its side of a split
network. So all that it has of this node's slots is pulled, also slots that are held; these keep their vote.

Before its pages each source is asked for its drop floors (drop_floors.py): what was cleared, and which tags were
invalidated, while this node was not there. Else this node could bring back, or let in later, what the others have
dropped.

A node that comes while others still move slots knows none of the rings before: the owners that it knows of may have
nothing yet. So it asks all members.

At most one page per source is under way, and ``BYTES_PER_S_MAX`` limits them all together, so that clients do not
notice the movement.

Sources: Infinispan's rebalance phases (read old, write all, then switch); Cassandra's bootstrap for the pull.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.drops import Drops
from meshcache.core.storage.pages import PAGE_BYTES, SLOTS_PER_PAGE
from meshcache.protocol import messages as m
from meshcache.protocol.ring import Ring

BYTES_PER_S_MAX: Final = 64 * 1024 * 1024
PAGE_DEADLINE_S: Final = 2.0


@dataclass(slots=True)
class _Source:
    """A node to pull from, and the slots to pull from it."""

    node_id: str
    slots: deque[int] = field(default_factory=deque)
    cursor: bytes = b""
    """The last key received of the first slot."""
    floors_from: bytes | None = b""
    """Where in the source's drop floors to go on; None: all of them are known."""
    asked_at: float | None = None


class Movement:
    """The slots that one node holds, and those it is pulling."""

    def __init__(self, coordinator: Coordinator, drops: Drops) -> None:
        self.coordinator = coordinator
        self.pulled_keys = 0
        self.pulled_bytes = 0
        self._drops = drops
        self._sources: dict[str, _Source] = {}
        self._missing: dict[int, int] = {}
        """Per slot that is being pulled: how many sources have more to give."""
        self._from_everybody = False
        self._alone = False
        self._came = True
        """Whether this node has just started, and has not held all its slots yet."""
        self._came_amid = False
        """Whether others were still moving slots when it came."""
        self._present: dict[str, None] = {}
        self._boots: dict[str, int] = {}
        """By peer, the boot of the process that was last seen there."""
        self._returned: dict[str, None] = {}
        """Peers that were gone and are back, with writes of their own that are not all pulled yet."""
        self._allowance_bytes = 0.0
        self._allowance_at = 0.0

    def statistics(self) -> dict[str, int]:
        """Return how far the movement is, and what it has moved since the start."""
        return {
            "slots_missing": len(self._missing),
            "pulled_keys": self.pulled_keys,
            "pulled_bytes": self.pulled_bytes,
        }

    def on_view(self, *, alone: bool) -> None:
        """Follow a change of the ring or of the members. ``alone``: no other node could hold anything."""
        coordinator = self.coordinator
        owned, held = coordinator.view.owned, coordinator.view.held
        if alone:
            held[:] = owned
        elif self._alone and self._from_everybody:
            held[:] = bytes(len(held))  # now there is somebody to ask
        self._alone = alone
        self._note_returns()
        progress, self._sources, self._missing = self._sources, {}, {}
        before_us = coordinator.view.without_us(coordinator.view.ring) if self._came else None
        if before_us is not None:
            rings = {before_us.digest, coordinator.view.digest}
            self._came_amid |= any(fact.weight and fact.synced not in rings for fact in coordinator.membership.peers())
        for slot, owns in enumerate(owned):
            if owns and (self._returned or not held[slot]):
                self._want(slot, before_us)
        for source in self._sources.values():
            old = progress.get(source.node_id)
            if old is not None:
                source.floors_from = old.floors_from
            if old is not None and old.slots and source.slots and old.slots[0] in source.slots:
                source.slots.remove(old.slots[0])  # go on where the page before ended
                source.slots.appendleft(old.slots[0])
                source.cursor = old.cursor
        coordinator.view.note_held()
        if self._missing:
            self.run()
        else:
            self._finish()

    def _note_returns(self) -> None:
        present = {fact.node_id: fact.boot for fact in self.coordinator.membership.peers()}
        back = [node_id for node_id, boot in present.items() if self._boots.get(node_id) == boot]
        self._returned |= {node_id: None for node_id in back if node_id not in self._present}
        self._returned = {node_id: None for node_id in self._returned if node_id in present}
        self._present = dict.fromkeys(present)
        self._boots |= present

    def distrust(self) -> None:
        """Count no slot as held until it has been pulled: this node was out of the ring, and has missed writes.

        The other nodes may have been cut off from each other as well, each side with rings of its own, so all are
        asked.
        """
        self.coordinator.view.distrust()
        self._from_everybody = True

    def _want(self, slot: int, before_us: Ring | None) -> None:
        view = self.coordinator.view
        before = [] if before_us is None else [before_us.owners[slot]]
        sets = [view.ring.owners[slot], *before, *view.former_owners(slot)]
        if view.held[slot]:
            holders = self._returned
        elif self._from_everybody or self._came_amid:
            holders = self._present
        else:
            owners = [node_id for owners in sets for node_id in owners if node_id in self._present]
            holders = dict.fromkeys([*owners, *self._returned])
        for node_id in holders:
            source = self._sources.get(node_id)
            if source is None:
                source = self._sources[node_id] = _Source(node_id)
            source.slots.append(slot)
        if holders:
            self._missing[slot] = len(holders)
        else:
            view.held[slot] = 1

    def run(self) -> None:
        """Ask for the next pages, as far as the byte limit allows. Housekeeping calls this every turn."""
        coordinator = self.coordinator
        elapsed_s = min(1.0, coordinator.instant.now - self._allowance_at)
        self._allowance_at = coordinator.instant.now
        self._allowance_bytes = min(self._allowance_bytes + elapsed_s * BYTES_PER_S_MAX, 4.0 * PAGE_BYTES)
        for source in list(self._sources.values()):
            if source.asked_at is not None and coordinator.instant.now - source.asked_at > PAGE_DEADLINE_S:
                source.asked_at = None
            if source.asked_at is None and self._allowance_bytes > 0:
                self._ask(source)

    def _ask(self, source: _Source) -> None:
        if source.floors_from is None:
            self._ask_for_page(source)
            return
        begin = source.floors_from
        if self.coordinator.pending.ask(
            self,
            (source, [], begin),
            source.node_id,
            self.coordinator.instant.now + PAGE_DEADLINE_S,
            lambda request, boot, deadline_ms, view: m.Floors(request, boot, deadline_ms, view, begin),
        ):
            source.asked_at = self.coordinator.instant.now

    def _ask_for_page(self, source: _Source) -> None:
        slots = [source.slots[i] for i in range(min(SLOTS_PER_PAGE, len(source.slots)))]
        cursor = source.cursor
        if self.coordinator.pending.ask(
            self,
            (source, slots, cursor),
            source.node_id,
            self.coordinator.instant.now + PAGE_DEADLINE_S,
            lambda request, boot, deadline_ms, view: m.Pull(request, boot, deadline_ms, view, slots, cursor),
        ):
            source.asked_at = self.coordinator.instant.now

    def _on_floors(self, asked: _Source, answer: m.FloorsReply) -> None:
        """Drop here what the source has dropped; then ask for more of its floors, or for its first page."""
        self._drops.learn(answer.floors)
        if self._sources.get(asked.node_id) is asked and asked.asked_at is not None:
            asked.asked_at = None
            asked.floors_from = answer.cursor if answer.floors else None
            self._ask(asked)

    def on_answer(
        self, group: tuple[_Source, list[int], bytes], node_id: str, answer: m.PullReply | m.FloorsReply
    ) -> None:
        """Merge a page, and ask for the next one."""
        asked, slots, cursor = group
        if isinstance(answer, m.FloorsReply):
            self._on_floors(asked, answer)
            return
        source = self._sources.get(node_id)
        keys, records = answer.keys, answer.records
        coordinator = self.coordinator
        if coordinator.view.void:
            counted = [pair for pair in zip(keys, records, strict=True) if coordinator.view.counts(*pair)]
            keys, records = [key for key, _ in counted], [record for _, record in counted]
        coordinator.replica.merge(keys, records)
        size = sum(map(len, records))
        self.pulled_keys += len(keys)
        self.pulled_bytes += size
        self._allowance_bytes -= size
        if source is not asked or source.asked_at is None:
            return  # it was asked for under another view: its records are merged, but prove nothing
        source.asked_at = None
        if list(source.slots)[: len(slots)] != slots or source.cursor != cursor:
            return
        finished = max(0, min(answer.finished, len(slots)))
        for _ in range(finished):
            self._through(source.slots.popleft())
        source.cursor = answer.cursor if finished < len(slots) else b""
        if not source.slots:
            del self._sources[node_id]
            self._returned.pop(node_id, None)
        elif self._allowance_bytes > 0:
            self._ask(source)
        if not self._missing:
            self._finish()

    def _through(self, slot: int) -> None:
        left = self._missing.get(slot, 0) - 1
        if left > 0:
            self._missing[slot] = left
        else:
            self._missing.pop(slot, None)
            self.coordinator.view.held[slot] = 1

    def _finish(self) -> None:
        """Tell the members that every slot is held, once per ring."""
        coordinator = self.coordinator
        self._sources = {}
        self._came = self._came_amid = False
        coordinator.view.note_held()
        self._from_everybody = self._from_everybody and self._alone
        coordinator.membership.announce_synced(coordinator.view.digest)

    def on_lost(self, group: tuple[_Source, list[int], bytes], node_id: str) -> None:  # noqa: ARG002  (its source says)
        """Ask again when the link is back; if the node is gone for good, the member table will say so."""
        group[0].asked_at = None

    on_reject = on_lost

    def on_timer(self) -> None:
        """Do nothing: housekeeping calls ``run``."""

    def replan(self) -> None:
        """Ask now: the link that came up may be to a source."""
        self.run()
