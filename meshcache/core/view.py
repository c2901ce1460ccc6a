"""Which nodes hold a key: the current ring, and for a while the former ones.

Nodes learn of a change at different times. Until all have, a coordinator that still works with the former ring reads
from the former owners, so whoever knows the new ring writes to both: a write counts as done when W owners of the
current ring *and* W owners of each former ring have it (joint quorums, as in Raft's membership change and Infinispan's
"write all" phase). What the current owners lack is looked for at the former ones. A former ring is dropped when
every member has said that it holds all its slots of the current one (``Fact.synced``), but not before ``transition_s``
has passed; with it goes what nodes hold of slots that they no longer own.
"""

from __future__ import annotations

from typing import Final

from meshcache.core.ring import Ring

FORMER_MAX: Final = 8
"""Former rings kept at most while members come and go faster than slots are moved; the oldest is given up."""

Owners = tuple[str, ...]
"""Node ids in preference order."""


class View:
    """The rings that one node works with."""

    def __init__(self, own_id: str, ring: Ring) -> None:
        self.ring = ring
        self.former: list[tuple[Ring, float]] = []
        """Former rings and when each is dropped, oldest first."""
        self.owned = bytearray()
        """Per slot 1 if this node is an owner in the current ring."""
        self.held = bytearray(ring.slots)
        """Per slot 1 if this node has all that there is of it: it pulled the slot, and gets every write since. What
        it says of other slots is no vote. A former owner holds its slots until the former rings are dropped."""
        self.holds_all = False
        """This node holds every slot, and owns it: no key needs a look."""
        self._own_id = own_id
        self._former_owners: dict[int, tuple[Owners, ...]] = {}
        self._present: dict[str, None] = {}
        self._note_ownership()

    @property
    def digest(self) -> bytes:
        """What requests carry as ``view``."""
        return self.ring.digest

    def change(self, ring: Ring, former: Ring, keep_until: float) -> None:
        """Work with a new ring; keep the one that others may still work with until ``keep_until`` at least."""
        if former.members and former.digest != ring.digest:
            self.former.append((former, keep_until))
            del self.former[:-FORMER_MAX]
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
        """Drop the former rings, once all members are synced; True if that was done."""
        if not self.former or any(keep_until > now for _, keep_until in self.former):
            return False
        self.former = []
        self._former_owners = {}
        for slot, owned in enumerate(self.owned):
            self.held[slot] &= owned
        return True

    def note_held(self) -> None:
        """Work out ``holds_all``, after a change of ``held`` or of the ring."""
        self.holds_all = all(self.held) and all(self.owned)

    def note_present(self, node_ids: list[str]) -> None:
        """Note who can be asked: the gone count in no owner set, those that are leaving do in the former ones."""
        self._present = dict.fromkeys(node_ids)
        self._former_owners = {}

    def former_owners(self, slot: int) -> tuple[Owners, ...]:
        """Return the former owner sets of a slot that differ from the current one, without nodes that are gone."""
        if not self.former:
            return ()
        known = self._former_owners.get(slot)
        if known is None:
            current = sorted(self.ring.owners[slot])
            found: dict[Owners, None] = {}
            for ring, _ in self.former:
                owners = tuple(node_id for node_id in ring.owners[slot] if node_id in self._present)
                if owners and sorted(owners) != current:
                    found[owners] = None
            known = self._former_owners[slot] = tuple(found)
        return known

    def _note_ownership(self) -> None:
        self.owned = bytearray(self._own_id in owners for owners in self.ring.owners)
