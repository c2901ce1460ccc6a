"""What a mesh must forget when it loses members, under the strict partition policy; view.py says which slots, and why.

A node notes the losses that it sees itself, in every change of the member table, before it applies that change. It
drops what is void at once, before it answers anything more, so that no void record is pulled from here or counted.
"""

from __future__ import annotations

from meshcache.config import ClusterSettings
from meshcache.core.membership.members import State, keeps
from meshcache.core.membership.membership import Membership
from meshcache.core.outbox import Outbox
from meshcache.core.storage.store import Store
from meshcache.core.view import View
from meshcache.protocol.messages import Fact


class Losses:
    """The members that one node has seen go, or come back without what they held."""

    def __init__(
        self, cluster: ClusterSettings, store: Store, view: View, membership: Membership, outbox: Outbox
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._view = view
        self._membership = membership
        self._outbox = outbox
        self._seen: dict[str, Fact] = {}
        """The member table at the time of the last look."""

    def start_anew(self) -> None:
        """Count only losses from now on: this node has lost everything, and learns from the others what there is."""
        self._view.start_anew()
        self._seen = {}

    def note(self) -> list[int]:
        """Return the slots that may have lost an acknowledged write by the latest changes of the member table."""
        seen, self._seen = self._seen, {fact.node_id: fact for fact in self._membership.facts()}
        lost = [
            node_id
            for node_id, before in seen.items()
            if before.state <= State.SUSPECT and not keeps(self._seen.get(node_id), before)
        ]
        return self._view.lose(lost, self._cluster.write_quorum, self._cluster.read_quorum) if lost else []

    def void(self, slots: list[int], version: bytes) -> None:
        """Drop all that is held of these slots up to a version, the present one, and do not count it any more."""
        dropped = 0
        for slot in slots:
            self._view.void[slot] = version
            dropped += self._store.void_slot(slot, version)
        self._outbox.note("voided", slots=len(slots), dropped=dropped)
