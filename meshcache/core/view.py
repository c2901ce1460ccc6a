"""Which nodes hold a key: the current ring, and for a while the former ones.

Nodes learn of a change at different times. Until all have, a coordinator that still works with the former ring reads
from the former owners, so whoever knows the new ring writes to both: a write counts as done when W owners of the
current ring *and* W owners of each former ring have it (joint quorums, as in Raft's membership change and Infinispan's
"write all" phase). What the current owners lack is looked for at the former ones. Who does not know the new ring yet
writes to the former owners only; those of them who do know it pass that on to the new ones. And nobody is given a page
of a slot by who works with another ring than it does, for then what is written later could pass it by. A former ring is
dropped when every member has said that it holds all its slots of the current one (``Fact.synced``), but not before
``transition_s`` has passed; with it goes what nodes hold of slots that they no longer own.

Under the strict partition policy the view also tells which slots a mesh must forget. A write is acknowledged once W of
the N owners have it; when as many as W owners of a slot are lost before the others have taken over from them, those
may have been the ones, and whoever is left of the owners would vote for what was there before. The owners that a
network partition cuts off are lost like that, and they do serve on for a moment. So then all that is left of such a
slot is *void*: nobody may take it, or count it, at or below the version at which the loss was seen. What is lost is
counted for each ring of the view by itself, until all owners are synced. A node that hands over before it leaves is
not lost. Fewer losses cost nothing: of N = 3, W = 2, any one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from meshcache.protocol.record import VERSION_BYTES
from meshcache.protocol.ring import Ring

FORMER_MAX: Final = 8
"""Former rings kept at most while members come and go faster than slots are moved; the oldest is given up."""

Owners = tuple[str, ...]
"""Node ids in preference order."""


@dataclass(frozen=True, slots=True)
class Former:
    """A ring that others may still work with."""

    ring: Ring
    keep_until: float
    lost: dict[str, None] = field(default_factory=dict)
    """Its members that have lost what they held, as far as the others have not taken over from them."""


class View:
    """The rings that one node works with."""

    def __init__(self, own_id: str, ring: Ring) -> None:
        self.ring = ring
        self.former: list[Former] = []
        """Oldest first."""
        self.lost: dict[str, None] = {}
        """As ``Former.lost``, of the current ring."""
        self.void: dict[int, bytes] = {}
        """By slot, the version up to which nothing counts: owners were lost that may have had the last write."""
        self.owned = bytearray()
        """Per slot 1 if this node is an owner in the current ring."""
        self.held = bytearray(ring.slots)
        """Per slot 1 if this node has all that there is of it: it pulled the slot, and gets every write since. What
        it says of other slots is no vote. A former owner holds its slots until the former rings are dropped."""
        self.apart = bytearray(ring.slots)
        """Per slot 1 if this node held it while it was counted dead: others may not know yet what was written here."""
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
        lost, self.lost = self.lost, {}
        self.ring = ring
        self._former_owners = {}
        self._note_ownership()
        self._keep(Former(former, keep_until, lost))

    def without_us(self, ring: Ring) -> Ring:
        """Return a ring as others know it that do not count this node."""
        others = [member for member in ring.members if member.node_id != self._own_id]
        return Ring.build(others, slots=ring.slots, vnodes=ring.vnodes, replicas=ring.replicas)

    def keep(self, other: Ring, keep_until: float) -> None:
        """Reckon with those who work with another ring, which this node never did, until ``keep_until`` at least."""
        self._keep(Former(other, keep_until))

    def _keep(self, former: Former) -> None:
        if former.ring.members and former.ring.digest != self.ring.digest:
            self.former.append(former)
            del self.former[:-FORMER_MAX]
            self._former_owners = {}

    def distrust(self) -> None:
        """Hold nothing for certain: this node was out of the ring, and has missed writes."""
        self.apart = bytearray(map(max, self.apart, self.held))
        self.held = bytearray(self.ring.slots)
        self.note_held()

    def left_over(self, slot: int) -> bool:
        """Tell whether writes of a slot pass this node by, so that what it has of it may be old."""
        return not (self.owned[slot] or self.held[slot] or self.apart[slot])

    def start_anew(self) -> None:
        """Forget the former rings and what was lost in them: this node has lost all itself, and learns from others."""
        self.former, self.lost, self.void = [], {}, {}
        self._former_owners = {}

    def gained(self, ring: Ring) -> list[int]:
        """Return the slots that this node owns in a new ring and in none that it works with so far.

        What it holds of them came from coordinators that counted it as a former owner. Later writes passed it by, so
        it must not vote with that.
        """
        own_id = self._own_id
        known = [self.ring, *[former.ring for former in self.former]]
        return [
            slot
            for slot, owners in enumerate(ring.owners)
            if own_id in owners and not any(own_id in before.owners[slot] for before in known)
        ]

    def expire(self, now: float) -> bool:
        """Drop the former rings, once all members are synced; True if that was done."""
        if any(former.keep_until > now for former in self.former):
            return False
        self.former, self.lost, self.void = [], {}, {}
        self._former_owners = {}
        for slot, owned in enumerate(self.owned):
            self.held[slot] &= owned
        self.apart = bytearray(self.ring.slots)
        return True

    def lose(self, node_ids: list[str], write_quorum: int, read_quorum: int) -> list[int]:
        """Note members that lost what they held; return the slots that may have lost an acknowledged write by it.

        Where W + R <= N none is returned: there, reads may return older values anyway.
        """
        doomed = bytearray(self.ring.slots)
        for ring, lost in [(self.ring, self.lost), *[(former.ring, former.lost) for former in self.former]]:
            members = dict.fromkeys(member.node_id for member in ring.members)
            more = [node_id for node_id in node_ids if node_id in members and node_id not in lost]
            lost.update(dict.fromkeys(more))
            for slot, owners in enumerate(ring.owners if more else ()):
                needed = min(write_quorum, len(owners))
                if needed + min(read_quorum, len(owners)) > len(owners) and any(one in owners for one in more):
                    doomed[slot] |= sum([one in lost for one in owners]) >= needed
        return [slot for slot, is_doomed in enumerate(doomed) if is_doomed]

    def owners_since(self, digest: bytes, key: bytes) -> list[str]:
        """Return the others that own a key now and did not in a former ring, given its digest."""
        slot = self.ring.slot_of(key)
        for former in self.former:
            if former.ring.digest == digest:
                before = (*former.ring.owners[slot], self._own_id)
                return [node_id for node_id in self.ring.owners[slot] if node_id not in before]
        return []

    @property
    def settling(self) -> bool:
        """Tell whether there is something to forget once all members are synced."""
        return bool(self.former or self.lost)

    def counts(self, key: bytes, record: bytes | None) -> bool:
        """Tell whether what somebody holds of a key is not void."""
        return record is None or record[:VERSION_BYTES] > self.void.get(self.ring.slot_of(key), b"")

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
            for former in self.former:
                owners = tuple(node_id for node_id in former.ring.owners[slot] if node_id in self._present)
                if owners and sorted(owners) != current:
                    found[owners] = None
            known = self._former_owners[slot] = tuple(found)
        return known

    def group_by_owners(self, keys: list[bytes]) -> dict[tuple[Owners, tuple[Owners, ...]], list[int]]:
        """Return the indices of the keys by (owners, former owners)."""
        ring, former = self.ring, self.former
        owners_of, mask = ring.owners, ring.slots - 1
        if len(ring.members) == 1 and not former:
            return {(owners_of[0], ()): list(range(len(keys)))}
        slots = [crc32(key) & mask for key in keys]
        groups: dict[Any, list[int]] = {}
        if not former:  # mostly: half the time of what follows
            for i, slot in enumerate(slots):
                groups.setdefault(owners_of[slot], []).append(i)
            return {(owners, ()): indices for owners, indices in groups.items()}
        for i, slot in enumerate(slots):
            groups.setdefault((owners_of[slot], self.former_owners(slot)), []).append(i)
        return groups

    def _note_ownership(self) -> None:
        self.owned = bytearray(self._own_id in owners for owners in self.ring.owners)
