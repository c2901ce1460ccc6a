"""Which nodes hold a key: the current ring, and for a while the former ones.

Nodes learn of a change at different times. Until all have, a coordinator that still works with the former ring reads
from the former owners, so whoever knows the new ring writes to both: a write counts as done when W owners of the
current ring *and* W owners of each former ring have it (joint quorums, as in Raft's membership change and Infinispan's
"write all" phase). ``transition_s`` after a change the former ring is dropped, and with it what nodes hold of slots
that they no longer own. For the same time, what the current owners lack is looked for at the former ones.
"""

from __future__ import annotations

from meshcache.core.ring import Ring

Owners = tuple[str, ...]
"""Node ids in preference order."""


class View:
    """The rings that one node works with."""

    def __init__(self, own_id: str, ring: Ring) -> None:
        self.ring = ring
        self.former: list[tuple[Ring, float]] = []
        """Former rings and when each is dropped, oldest first."""
        self.owns_all = False
        """This node owns every slot: no key needs a look."""
        self.owned = bytearray()
        """Per slot 1 if this node is an owner in the current ring."""
        self._own_id = own_id
        self._former_owners: dict[int, tuple[Owners, ...]] = {}
        self._note_ownership()

    @property
    def digest(self) -> bytes:
        """What requests carry as ``view``."""
        return self.ring.digest

    def change(self, ring: Ring, drop_at: float) -> None:
        """Work with a new ring; keep the old one until ``drop_at``, unless nobody was in it but this node."""
        if any(member.node_id != self._own_id for member in self.ring.members):
            self.former.append((self.ring, drop_at))
        self.ring = ring
        self._former_owners = {}
        self._note_ownership()

    def gained(self, ring: Ring) -> list[int]:
        """Return the slots that this node owns in a new ring and in none that it works with so far.

        What it holds of them came from coordinators that counted it as a former owner. Later writes passed it by, so
        it must not vote with that.
        """
        own_id = self._own_id
        known = [self.ring, *[former for former, _ in self.former]]
        return [
            slot
            for slot, owners in enumerate(ring.owners)
            if own_id in owners and not any(own_id in before.owners[slot] for before in known)
        ]

    def expire(self, now: float) -> bool:
        """Drop former rings whose time is over; True if the last one went."""
        if not self.former:
            return False
        self.former = [(ring, drop_at) for ring, drop_at in self.former if drop_at > now]
        self._former_owners = {}
        return not self.former

    def former_owners(self, slot: int) -> tuple[Owners, ...]:
        """Return the former owner sets of a slot that differ from the current one, without nodes that are gone."""
        if not self.former:
            return ()
        known = self._former_owners.get(slot)
        if known is None:
            current = sorted(self.ring.owners[slot])
            members = {member.node_id: None for member in self.ring.members}
            found: dict[Owners, None] = {}
            for ring, _ in self.former:
                owners = tuple(node_id for node_id in ring.owners[slot] if node_id in members)
                if owners and sorted(owners) != current:
                    found[owners] = None
            known = self._former_owners[slot] = tuple(found)
        return known

    def _note_ownership(self) -> None:
        self.owned = bytearray(self._own_id in owners for owners in self.ring.owners)
        self.owns_all = all(self.owned)
