"""What a mesh must forget when it loses members, under the strict partition policy: view.py says which slots, and why.

A node counts the losses that it sees itself, in every change of the member table before it follows that. What it then
finds void it drops at once, before it answers anything more: neither is it pulled from here, nor does it count.
"""

from __future__ import annotations

from meshcache.core.membership.members import State, keeps
from meshcache.core.operations.coordinator import Coordinator
from meshcache.protocol.messages import Fact


class Losses:
    """The members that one node has seen go, or come back with nothing."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._seen: dict[str, Fact] = {}
        """The member table as it was last looked at."""

    def start_anew(self) -> None:
        """Count only what is lost from now on: this node has lost all itself, and learns from others what there is."""
        self._coordinator.view.start_anew()
        self._seen = {}

    def note(self) -> list[int]:
        """Return the slots of which an acknowledged write may be lost, by what has changed in the member table."""
        coordinator = self._coordinator
        seen, self._seen = self._seen, {fact.node_id: fact for fact in coordinator.membership.facts()}
        lost = [
            node_id
            for node_id, before in seen.items()
            if before.state <= State.SUSPECT and not keeps(self._seen.get(node_id), before)
        ]
        cluster = coordinator.config.cluster
        return coordinator.view.lose(lost, cluster.write_quorum, cluster.read_quorum) if lost else []

    def void(self, slots: list[int]) -> None:
        """Forget all there is of these slots, up to now."""
        coordinator = self._coordinator
        version = coordinator.clock.tick(coordinator.wall_ms)
        dropped = 0
        for slot in slots:
            coordinator.view.void[slot] = version
            dropped += coordinator.store.void_slot(slot, version)
        coordinator.outbox.note("voided", slots=len(slots), dropped=dropped)
