"""Which nodes hold a key: by the current ring, and for a while by the former ones.

Nodes learn of a change of the ring at different times. Until all have, a coordinator that still works with the former
ring reads from the former owners. So a coordinator that knows the new ring writes to both: a write counts as done when
W owners of the current ring *and* W owners of each former ring have it (joint quorums, as in Raft's membership change
and Infinispan's "write all" phase). What the current owners lack is looked for at the former ones. A coordinator that
does not know the new ring yet writes to the former owners only; those former owners that do know the new ring pass the
write on to the new owners. And a node gives no page of a slot to a node that works with another ring, because later
writes could then miss the node that pulls. A former ring is dropped when every member has said that it holds all its
slots of the current one (``Fact.synced``), but not before ``transition_s`` has passed. With the former ring, nodes drop
what they hold of slots that they no longer own.

Under the strict partition policy the view also tells which slots a mesh must forget. A write is acknowledged once W of
the N owners have it. When W or more owners of a slot are lost before others have taken over from them, exactly these
may have had the last write, and the remaining owners would vote for an older value. Owners that a network partition
cuts off count as lost, too, although they still serve for a moment. In that case all that is left of the slot is
*void*: no node may pull it or count it, at or below the version at which the loss was seen. Losses are counted for each
ring of the view by itself, until all owners are synced. A node that hands over before it leaves is not lost. Fewer than
W losses cost nothing: with N = 3 and W = 2, any one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from meshcache.protocol.record import VERSION_BYTES
from meshcache.protocol.ring import Ring

FORMER_MAX: Final = 8
"""How many former rings are kept while members change faster than slots move; beyond that the oldest is given up."""

Owners = tuple[str, ...]
"""Node ids in preference order."""


@dataclass(frozen=True, slots=True)
class Former:
    """A ring that other nodes may still work with."""

    ring: Ring
    keep_until: float
    lost: dict[str, None] = field(default_factory=dict)
    """Members of the ring that lost what they held, and from which the others have not taken over yet."""


class View:
    """The rings that one node works with."""

    __slots__ = (
        "_former_owners",
        "_own_id",
        "_present",
        "apart",
        "digest",
        "former",
        "held",
        "holds_all",
        "lost",
        "owned",
        "owner_sets",
        "ring",
        "void",
    )

    def __init__(self, own_id: str, ring: Ring) -> None:
        self.ring = ring
        self.digest = ring.digest
        """What requests carry as ``view``."""
        self.former: list[Former] = []
        """The former rings, the oldest first."""
        self.lost: dict[str, None] = {}
        """The same as ``Former.lost``, for the current ring."""
        self.void: dict[int, bytes] = {}
        """By slot, the version up to which nothing counts: the owners that were lost may have had the last write."""
        self.owned = bytearray()
        """Per slot: 1 if this node is an owner in the current ring."""
        self.held = bytearray(ring.slots)
        """Per slot: 1 if this node has everything that is stored of it. That is: it pulled the slot, and receives every
        write since. What a node says of other slots is no vote. A former owner holds its slots until the former rings
        are dropped; see also ``change``."""
        self.apart = bytearray(ring.slots)
        """Per slot: 1 if this node held it, and may have missed writes since, but may also have some that no other node
        has: while it was counted dead, say. Others may pull it."""
        self.owner_sets: list[Owners] = []
        """By slot the owners, for which their order does not count: equal sets are the same object."""
        self.holds_all = False
        """Whether this node owns and holds every slot; then no key needs to be looked up."""
        self._own_id = own_id
        self._former_owners: dict[int, tuple[Owners, ...]] = {}
        self._present: dict[str, None] = {}
        self._note_ownership()

    def change(self, ring: Ring, former: Ring, keep_until: float, *, was_synced: bool) -> None:
        """Work with a new ring. Keep the former one, which others may still use, until ``keep_until`` at least.

        ``was_synced``: this node has said that it holds all its slots of the ring so far. If all have said so, others
        may have dropped the rings before that one by now, and this node may not know. Writes then reached it only as an
        owner in the ring so far. What it holds besides may be the only copy all the same, so it goes on giving that.
        """
        if was_synced:
            for slot, owned in enumerate(self.owned):
                if self.held[slot] and not owned:
                    self.held[slot], self.apart[slot] = 0, 1
        lost, self.lost = self.lost, {}
        self.ring = ring
        self.digest = ring.digest
        self._former_owners = {}
        self._note_ownership()
        self._keep(Former(former, keep_until, lost))

    def without_us(self, ring: Ring) -> Ring:
        """Return a ring as it looks to nodes that do not count this node as a member."""
        others = [member for member in ring.members if member.node_id != self._own_id]
        return Ring.build(others, slots=ring.slots, vnodes=ring.vnodes, replicas=ring.replicas)

    def keep(self, other: Ring, keep_until: float) -> None:
        """Keep a ring that others work with and this node never worked with, until ``keep_until`` at least."""
        self._keep(Former(other, keep_until))

    def _keep(self, former: Former) -> None:
        if former.ring.members and former.ring.digest != self.ring.digest:
            self.former.append(former)
            del self.former[:-FORMER_MAX]
            self._former_owners = {}

    def distrust(self) -> None:
        """Count no slot as held: this node was out of the ring, and has missed writes."""
        self.apart = bytearray(map(max, self.apart, self.held))
        self.held = bytearray(self.ring.slots)
        self.note_held()

    def left_over(self, slot: int) -> bool:
        """Tell whether writes of a slot do not reach this node, so that what it has of the slot may be old."""
        return not (self.owned[slot] or self.held[slot] or self.apart[slot])

    def start_anew(self) -> None:
        """Forget the former rings and their losses: this node has lost everything, and learns from the others."""
        self.former, self.lost, self.void = [], {}, {}
        self._former_owners = {}

    def gained(self, ring: Ring) -> list[int]:
        """Return the slots that this node owns in a new ring and in no ring that it works with so far.

        What the node holds of these slots came from coordinators that counted it as a former owner. Later writes did
        not reach it, so it must not vote with that.
        """
        own_id = self._own_id
        known = [self.ring, *[former.ring for former in self.former]]
        return [
            slot
            for slot, owners in enumerate(ring.owners)
            if own_id in owners and not any(own_id in before.owners[slot] for before in known)
        ]

    def expire(self, now: float) -> bool:
        """Drop the former rings once all members are synced; return True if that was done."""
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
        """Return the other nodes that own a key now and did not own it in the former ring with this digest."""
        slot = self.ring.slot_of(key)
        for former in self.former:
            if former.ring.digest == digest:
                before = (*former.ring.owners[slot], self._own_id)
                return [node_id for node_id in self.ring.owners[slot] if node_id not in before]
        return []

    @property
    def settling(self) -> bool:
        """Tell whether former rings or losses wait to be dropped until all members are synced."""
        return bool(self.former or self.lost)

    def counts(self, key: bytes, record: bytes | None) -> bool:
        """Tell whether a record that some node holds of a key counts, that is, is not void."""
        return record is None or record[:VERSION_BYTES] > self.void.get(self.ring.slot_of(key), b"")

    def note_held(self) -> None:
        """Update ``holds_all`` after a change of ``held`` or of the ring."""
        self.holds_all = all(self.held) and all(self.owned)

    def note_present(self, node_ids: list[str]) -> None:
        """Note who can be asked.

        Nodes that are gone count in no owner set, those that are leaving only in former ones.
        """
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
        return self._group(keys, self.ring.owners)

    def group_by_owner_sets(self, keys: list[bytes]) -> dict[tuple[Owners, tuple[Owners, ...]], list[int]]:
        """Return the same, but keys of the same owners in another order are one group, with the order of the first.

        For writes, which all owners are asked for: so there are fewer groups.
        """
        if not keys:  # whoever asks for nothing is answered at once
            return {}
        owners_of, mask = self.ring.owners, self.ring.slots - 1
        groups = self._group(keys, self.owner_sets).items()
        return {(owners_of[crc32(keys[indices[0]]) & mask], former): indices for (_, former), indices in groups}

    def _group(self, keys: list[bytes], owners_of: list[Owners]) -> dict[tuple[Owners, tuple[Owners, ...]], list[int]]:
        ring, former, mask = self.ring, self.former, self.ring.slots - 1
        if len(ring.members) == 1 and not former:
            return {(owners_of[0], ()): list(range(len(keys)))}
        slots = [crc32(key) & mask for key in keys]
        groups: dict[Any, list[int]] = {}
        if not former:  # the usual case, in half the time that the general case takes
            for i, slot in enumerate(slots):
                groups.setdefault(owners_of[slot], []).append(i)
            return {(owners, ()): indices for owners, indices in groups.items()}
        for i, slot in enumerate(slots):
            groups.setdefault((owners_of[slot], self.former_owners(slot)), []).append(i)
        return groups

    def _note_ownership(self) -> None:
        self.owned = bytearray(self._own_id in owners for owners in self.ring.owners)
        sets: dict[frozenset[str], Owners] = {}
        found = {owners: sets.setdefault(frozenset(owners), owners) for owners in dict.fromkeys(self.ring.owners)}
        self.owner_sets = [found[owners] for owners in self.ring.owners]
