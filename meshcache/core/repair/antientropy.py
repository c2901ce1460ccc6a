"""Anti-entropy: owners of a slot compare what they hold, all the time and a few slots at a time.

A node sends the digests of ``SLOTS_PER_S`` of its slots a second, some at a time, to another owner of them. The other
owner answers with the slots that differ and, for the first of these, with all its keys and versions. Of keys that both
hold, what is newer there is fetched and what is newer here is sent. Stores merge by version, so any order and any
repetition is safe.

A key that only the other owner holds may have been evicted here, and repair must not undo that: such a key is taken
only if nothing was evicted here for ``FILL_AFTER_MS``. Nor is the word of one owner enough where W + R > N: this node
may have forgotten something newer, and with an old copy it would vote for the old value. So such keys are read by
quorum, and the read repair of that read brings what is certain. Versions younger than ``SETTLE_MS`` are left alone,
since their writes may still be under way. While slots move, movement.py does this work.

Digests are made when they are asked for and kept until the slot changes: a mesh at rest compares bytes that it already
has.

Sources: Demers et al. 1987 for anti-entropy; Dynamo for digests by range (here a slot, where a tree would have leaves).
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.core.membership.members import State
from meshcache.core.operations import quorum
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.reads import QuorumRead
from meshcache.protocol import messages as m
from meshcache.protocol.record import VERSION_BYTES, expiry_bytes

INTERVAL_S: Final = 0.25
"""The least time between two rounds."""
SLOTS_PER_S: Final = 256
SLOTS_PER_ROUND: Final = 256
"""The most slots of one round. So a mesh at rest has one round a second, which costs little but its messages."""
CHANGED_PER_ROUND: Final = 64
"""How many slots have their digest computed in one round at most."""
ENTRIES_PER_ROUND: Final = 4000
"""How many entries are read for digests in one round at most: about three milliseconds."""
SETTLE_MS: Final = 2000
FILL_AFTER_MS: Final = 60_000
DEADLINE_S: Final = 2.0
BATCH_KEYS: Final = 512


class AntiEntropy:
    """The comparisons that one node makes with other owners."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.compared_slots = 0
        self.differing_slots = 0
        self.fetched = 0
        self.sent = 0
        self.passed_at: float | None = None
        """When the last pass over all slots was complete; None: none was yet."""
        self._next_slot = 0
        self._turn = 0
        """Which of a slot's other owners is asked: in each pass the next one."""
        self._next_at = 0.0
        self._evictions = 0
        self._evicted_ms = -FILL_AFTER_MS

    def run(self) -> None:
        """Begin a round if it is time. Housekeeping calls this."""
        coordinator = self.coordinator
        if coordinator.instant.now < self._next_at:
            return
        self._next_at = coordinator.instant.now + INTERVAL_S
        evictions = coordinator.store.statistics().evictions
        if evictions != self._evictions:
            self._evictions, self._evicted_ms = evictions, coordinator.instant.wall_ms
        if coordinator.view.former or not coordinator.membership.peers():
            return
        chosen = self._choose()
        for node_id, slots in chosen.items():
            self._compare(node_id, slots)
        self._next_at = max(self._next_at, coordinator.instant.now + sum(map(len, chosen.values())) / SLOTS_PER_S)

    def statistics(self) -> dict[str, Any]:
        """Return what was compared and repaired since the start. ``pass_age_s``: how long ago a pass ended."""
        age = None if self.passed_at is None else round(self.coordinator.instant.now - self.passed_at, 1)
        return {
            "compared_slots": self.compared_slots,
            "differing_slots": self.differing_slots,
            "fetched": self.fetched,
            "sent": self.sent,
            "pass_age_s": age,
        }

    @property
    def fills(self) -> bool:
        """Tell whether this node takes keys that it lacks: not while it may have evicted them itself."""
        return self.coordinator.instant.wall_ms - self._evicted_ms >= FILL_AFTER_MS

    def _choose(self) -> dict[str, list[int]]:
        """Return the next slots to compare, by the node to compare them with."""
        coordinator, view = self.coordinator, self.coordinator.view
        store, own_id = coordinator.store, coordinator.own_id
        alive = {fact.node_id for fact in coordinator.membership.peers() if fact.state == State.ALIVE}
        chosen: dict[str, list[int]] = {}
        count = changed = entries = 0
        while (
            self._next_slot < view.ring.slots
            and count < SLOTS_PER_ROUND
            and changed < CHANGED_PER_ROUND
            and entries < ENTRIES_PER_ROUND
        ):
            slot = self._next_slot
            self._next_slot += 1
            if not view.owned[slot] or not view.held[slot]:
                continue
            others = [node_id for node_id in view.ring.owners[slot] if node_id != own_id]
            partner = others[self._turn % len(others)] if others else ""
            if partner in alive:
                chosen.setdefault(partner, []).append(slot)
                count += 1
                cost = store.digest_cost(slot)
                changed += cost > 0
                entries += cost
        if self._next_slot >= view.ring.slots:
            self._next_slot = 0
            self._turn += 1
            self.passed_at = coordinator.instant.now
        return chosen

    def _compare(self, node_id: str, slots: list[int]) -> None:
        coordinator = self.coordinator
        digests = [coordinator.store.slot_digest(slot) for slot in slots]
        self.compared_slots += len(slots)
        coordinator.pending.ask(
            self,
            slots,
            node_id,
            coordinator.instant.now + DEADLINE_S,
            lambda request, boot, deadline_ms, view: m.Compare(request, boot, deadline_ms, view, slots, digests),
        )

    def answer(self, compare: m.Compare) -> m.CompareReply:
        """Answer a comparison: which slots differ, and the keys and versions of the first of them."""
        coordinator = self.coordinator
        slots, view = coordinator.view.ring.slots, coordinator.view
        differing = [
            slot
            for slot, digest in zip(compare.slots[:SLOTS_PER_ROUND], compare.digests, strict=False)
            if 0 <= slot < slots and view.held[slot] and coordinator.store.slot_digest(slot) != digest
        ]
        keys, versions = self._settled(differing[0]) if differing else ([], [])
        return m.CompareReply(compare.request, view.digest, differing, keys, versions)

    def _settled(self, slot: int) -> tuple[list[bytes], list[bytes]]:
        """Return keys and versions of a slot, without young and expired ones, as many as one message may hold."""
        store, wall_ms = self.coordinator.store, self.coordinator.instant.wall_ms
        before = (wall_ms - SETTLE_MS).to_bytes(6, "big")
        soon = expiry_bytes(wall_ms + SETTLE_MS)
        keys, versions = [], []
        for key in sorted(store.keys_of_slot(slot))[: m.BATCH_OPS_MAX]:
            record = store.peek(key)
            if record is not None and record[:6] <= before and record[16:22] > soon:
                keys.append(key)
                versions.append(record[:VERSION_BYTES])
        return keys, versions

    def on_answer(self, group: list[int], node_id: str, answer: m.CompareReply | m.ReadReply) -> None:
        """Take in the answer of the other owner: which slots differ, or the records that were fetched."""
        coordinator = self.coordinator
        if isinstance(answer, m.ReadReply):
            pairs = [
                (key, record) for key, record in zip(self._fetching(group), answer.records, strict=False) if record
            ]
            coordinator.replica.merge_repair([key for key, _ in pairs], [record for _, record in pairs])
            self.fetched += len(pairs)
            return
        self.differing_slots += len(answer.slots)
        if answer.slots and answer.slots[0] in group:
            self._reconcile(answer.slots[0], node_id, answer)
            rest = [slot for slot in answer.slots[1:] if slot in group]
            if rest:
                self._compare(node_id, rest)

    @staticmethod
    def _fetching(group: list[int] | list[bytes]) -> list[bytes]:
        return [key for key in group if isinstance(key, bytes)]

    def _reconcile(self, slot: int, node_id: str, theirs: m.CompareReply) -> None:
        coordinator = self.coordinator
        keys, versions = self._settled(slot)
        mine = dict(zip(keys, versions, strict=True))
        others = dict(zip(theirs.keys, theirs.versions, strict=True))
        # If a slot has more keys than a message may hold, only the part that both nodes have listed can be compared.
        limit = min((max(part) for part in (mine, others) if len(part) >= m.BATCH_OPS_MAX), default=None)
        listed = [key for key in others if limit is None or key <= limit]
        fetch = [key for key in listed if key in mine and mine[key] < others[key]]
        send = [key for key in listed if key in mine and mine[key] > others[key]]
        lacking = [key for key in listed if key not in mine and coordinator.store.peek(key) is None]
        if self.fills and lacking:
            if self._is_strict(slot):
                self._read(lacking[:BATCH_KEYS])
            else:
                fetch += lacking
        for start in range(0, len(fetch), BATCH_KEYS):
            self._fetch(node_id, fetch[start : start + BATCH_KEYS])
        for start in range(0, len(send), BATCH_KEYS):
            self._send(node_id, send[start : start + BATCH_KEYS])

    def _is_strict(self, slot: int) -> bool:
        cluster, owners = self.coordinator.config.cluster, len(self.coordinator.view.ring.owners[slot])
        r = quorum.level(m.DEFAULT_LEVEL, cluster.read_quorum, owners)
        return quorum.holders_only(r, quorum.level(m.DEFAULT_LEVEL, cluster.write_quorum, owners), owners)

    def _read(self, keys: list[bytes]) -> None:
        """Read keys by quorum, so that the read repair stores them here."""

        def done(results: list[Any]) -> None:
            self.fetched += sum(type(result) is bytes for result in results)

        deadline = self.coordinator.instant.now + DEADLINE_S
        QuorumRead(self.coordinator, keys, m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, deadline, done).start()

    def _fetch(self, node_id: str, keys: list[bytes]) -> None:
        self.coordinator.pending.ask(
            self,
            keys,
            node_id,
            self.coordinator.instant.now + DEADLINE_S,
            lambda request, boot, deadline_ms, view: m.Read(request, boot, deadline_ms, view, keys),
        )

    def _send(self, node_id: str, keys: list[bytes]) -> None:
        coordinator = self.coordinator
        found = [(key, record) for key in keys if (record := coordinator.store.peek(key)) is not None]
        self.sent += len(found)
        coordinator.pending.send_repair(node_id, [key for key, _ in found], [record for _, record in found])

    def on_lost(self, group: object, node_id: str) -> None:
        """Do nothing: the next pass comes to these slots again."""

    on_reject = on_lost

    def on_timer(self) -> None:
        """Do nothing: housekeeping calls ``run``."""

    def replan(self) -> None:
        """Do nothing: the next round works with the new ring."""
