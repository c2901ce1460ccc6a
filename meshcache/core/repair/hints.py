"""Hinted handoff: writes that an owner has missed are kept for it, in bounded memory, until it can take them.

A write is done when W owners have acknowledged it. For the owners that have not, the coordinator keeps the records, the
latest per key, and delivers them when the owner answers again. Hints never count towards W. They are for a node that is
slow, paused or cut off for a moment. A node that is declared dead asks for all that it missed when it comes back
(movement.py), so its hints are dropped. Hints that do not fit into the memory are dropped, too, the oldest first, and
left to anti-entropy.

Source: Dynamo (DeCandia et al. 2007), with Cassandra's rule that hints do not count.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.core.membership.members import State
from meshcache.core.operations.coordinator import Coordinator
from meshcache.protocol import messages as m

HINT_BYTES_MAX: Final = 8 * 1024 * 1024
"""The bytes of keys and records kept for one node at most."""
PAGE_KEYS: Final = 512
PAGE_BYTES: Final = 256 * 1024
DELIVER_DEADLINE_S: Final = 2.0


class Hints:
    """The records that one coordinator keeps for owners that missed them."""

    def __init__(self) -> None:
        self.kept = 0
        self.delivered = 0
        self.dropped = 0
        self._waiting: dict[str, dict[bytes, bytes]] = {}
        self._bytes: dict[str, int] = {}

    def statistics(self) -> dict[str, Any]:
        """Return the number of hints by node, and what became of earlier hints."""
        return {
            "waiting": {node_id: len(hints) for node_id, hints in self._waiting.items()},
            "kept": self.kept,
            "delivered": self.delivered,
            "dropped": self.dropped,
        }

    def add(self, node_id: str, keys: list[bytes], records: list[bytes]) -> None:
        """Keep records for a node that missed them."""
        hints = self._waiting.setdefault(node_id, {})
        size = self._bytes.get(node_id, 0)
        for key, record in zip(keys, records, strict=True):
            held = hints.pop(key, None)
            if held is not None:
                size -= len(key) + len(held)
            hints[key] = record if held is None or record > held else held
            size += len(key) + len(hints[key])
            self.kept += 1
        while size > HINT_BYTES_MAX and hints:
            oldest = next(iter(hints))
            size -= len(oldest) + len(hints.pop(oldest))
            self.dropped += 1
        self._bytes[node_id] = size

    def nodes(self) -> list[str]:
        """Return the nodes for which something is kept, or was kept and is delivered by now."""
        return list(self._waiting)

    def has(self, node_id: str) -> bool:
        """Tell whether something is kept for a node."""
        return bool(self._waiting.get(node_id))

    def page(self, node_id: str) -> tuple[list[bytes], list[bytes]]:
        """Return the oldest keys and records that are kept for a node, as many as one message may bring."""
        keys: list[bytes] = []
        records: list[bytes] = []
        size = 0
        for key, record in self._waiting[node_id].items():
            if keys and (len(keys) >= PAGE_KEYS or size + len(record) > PAGE_BYTES):
                break
            keys.append(key)
            records.append(record)
            size += len(record)
        return keys, records

    def on_delivered(self, node_id: str, keys: list[bytes], records: list[bytes]) -> None:
        """Forget records that a node has stored, or for which it has newer ones."""
        hints = self._waiting.get(node_id, {})
        for key, record in zip(keys, records, strict=True):
            if hints.get(key) == record:
                del hints[key]
                self._bytes[node_id] -= len(key) + len(record)
                self.delivered += 1

    def drop(self, node_id: str) -> None:
        """Forget a node and all that is kept for it."""
        self.dropped += len(self._waiting.pop(node_id))
        self._bytes.pop(node_id, None)


class Handoff:
    """Delivers the hints of one coordinator to the owners that missed them."""

    def __init__(self, coordinator: Coordinator, hints: Hints) -> None:
        self.coordinator = coordinator
        self.hints = hints
        self._asked_at: dict[str, float] = {}

    def statistics(self) -> dict[str, Any]:
        """Return the number of hints by node, and what became of earlier hints."""
        return self.hints.statistics()

    def run(self) -> None:
        """Deliver to the nodes that answer again; forget hints for nodes that are gone. Housekeeping calls this."""
        now = self.coordinator.instant.now
        for node_id in self.hints.nodes():
            state = self.coordinator.membership.state_of(node_id)
            if state >= State.DEAD or not self.hints.has(node_id):
                self.hints.drop(node_id)
                self._asked_at.pop(node_id, None)
            elif state == State.ALIVE and now - self._asked_at.get(node_id, -DELIVER_DEADLINE_S) >= DELIVER_DEADLINE_S:
                self._deliver(node_id)

    def _deliver(self, node_id: str) -> None:
        keys, records = self.hints.page(node_id)
        if keys and self.coordinator.pending.ask(
            self,
            (keys, records),
            node_id,
            self.coordinator.instant.now + DELIVER_DEADLINE_S,
            lambda request, boot, deadline_ms, view: m.Write(request, boot, deadline_ms, view, True, keys, records),
        ):
            self._asked_at[node_id] = self.coordinator.instant.now

    def on_answer(self, group: tuple[list[bytes], list[bytes]], node_id: str, answer: m.WriteReply) -> None:  # noqa: ARG002
        """Forget what the node has stored by now, and go on with its next hints."""
        self.hints.on_delivered(node_id, *group)
        self._asked_at.pop(node_id, None)
        if self.hints.has(node_id):
            self._deliver(node_id)

    def on_lost(self, group: object, node_id: str) -> None:  # noqa: ARG002  (the hints are still there)
        """Do nothing: the hints are kept, and housekeeping tries again."""
        self._asked_at.pop(node_id, None)

    on_reject = on_lost

    def on_timer(self) -> None:
        """Do nothing: housekeeping calls ``run``."""

    def replan(self) -> None:
        """Deliver now: the link that came up may be to a node with hints."""
        self.run()
