"""The table of members: facts, the order in which they replace each other, and what follows from them.

Facts merge by the maximum of a total order, so that any loss, repetition or reordering of gossip ends in the same
table. membership.py explains what the incarnations mean and which node says what to whom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from meshcache.core.membership.suspicion import Suspicion
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.facts import FACTS_MAX
from meshcache.protocol.messages import Fact
from meshcache.protocol.ring import RingMember


class State(IntEnum):
    """The states of a member, as ranks: of two facts with the same incarnation the one with the greater state wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3
    FORGOTTEN = 4
    """An operator said that this node will not come back. It is kept like the others that are gone, so that no late
    rumour revives it; but it is not shown, not dialled, and not counted for a majority."""


_LIFE_BITS: Final = 8
"""The lower bits of an incarnation count the suspicions that a node refuted in one life. A node that refutes more than
they can count begins a new life. That is harmless: it only overrules a death in the former life."""


def first_incarnation(wall_ms: int) -> int:
    """Return the incarnation of a process that starts."""
    return wall_ms << _LIFE_BITS


def latest_incarnation(wall_ms: int) -> int:
    """Return the greatest incarnation that can be true by now: that of a node that started just now with a fast clock.

    The bound moves on with time, and a new life adds one millisecond, so an incarnation that a node raises above the
    bound is within it again a millisecond later.
    """
    return next_life(first_incarnation(wall_ms + LEAD_MS_MAX)) - 1


def next_life(incarnation: int) -> int:
    """Return the least incarnation that overrules a death in the life of this one."""
    return ((incarnation >> _LIFE_BITS) + 1) << _LIFE_BITS


def keeps(fact: Fact | None, before: Fact) -> bool:
    """Tell whether a member still has what it had at the time of the fact ``before``, or has handed it all over.

    A process that starts begins a life with nothing, and under the strict policy so does one that was counted dead; it
    has taken over again when it is in sync. A node that hands over before it leaves says so by its weight.
    """
    if fact is None or fact.state in {State.DEAD, State.FORGOTTEN}:
        return False
    if fact.state == State.LEFT:
        return not fact.weight
    return bool(fact.synced) or fact.incarnation >> _LIFE_BITS == before.incarnation >> _LIFE_BITS


def supersedes(new: Fact, old: Fact) -> bool:
    """Tell whether ``new`` replaces ``old``. The merge is idempotent, commutative and associative."""
    return _rank(new) > _rank(old)


def _rank(fact: Fact) -> tuple[int, bool, int, int, int]:
    return fact.incarnation >> _LIFE_BITS, fact.state >= State.DEAD, fact.incarnation, fact.state, fact.boot


@dataclass(slots=True)
class Member:
    """One member: the fact about it, and what this node itself knows beside the fact."""

    fact: Fact
    since: float
    """When this node learned of the present state."""

    def postpone(self, by_s: float) -> None:
        """Leave out a time in which this node itself did not run."""
        self.since += by_s


class MemberTable:
    """The table of all members that one node has."""

    def __init__(self, own: Fact, note: Callable[..., None], now: float) -> None:
        self.own_id = own.node_id
        self.members: dict[str, Member] = {}
        self.suspicions: dict[str, Suspicion] = {}
        """By id of the suspect."""
        self.ring_changed = True
        """The set of members that own slots changed, and the node has not followed that change yet."""
        self.changed = True
        """Something in the table changed since ``take_changes``."""
        self.refused = 0
        """How many facts were refused, because they cannot be true or name more members than there may be."""
        self.died: list[str] = []
        """Addresses of nodes declared dead since ``take_changes``."""
        self._note = note
        self._digest = 0
        self._facts: list[Fact] | None = None
        self._peers: list[Fact] | None = None
        self.put(own, now)

    @property
    def own(self) -> Fact:
        """The fact that this node states about itself."""
        return self.members[self.own_id].fact

    def facts(self) -> list[Fact]:
        """Return the whole table, in the order of node ids."""
        if self._facts is None:
            self._facts = [self.members[node_id].fact for node_id in sorted(self.members)]
        return self._facts

    def digest(self) -> bytes:
        """Return eight bytes that are equal where two tables are. The gone do not count: each forgets them in time."""
        return self._digest.to_bytes(8, "big")

    def ring_members(self) -> list[RingMember]:
        """Return the members that own slots: the alive and the suspect.

        A suspect stays an owner until it is declared dead.
        """
        return [RingMember(f.node_id, f.weight, f.host, f.zone) for f in self.owners()]

    def owners(self) -> list[Fact]:
        """Return the facts of the members that own slots: not of those that are gone or are leaving."""
        return [f for f in self.facts() if f.state <= State.SUSPECT and f.weight > 0]

    def count(self) -> int:
        """Return how many members are alive or suspect, this node included."""
        return len(self.peers()) + 1

    def peers(self) -> list[Fact]:
        """Return the facts of the other members that are alive or suspect."""
        if self._peers is None:
            self._peers = [f for f in self.facts() if f.state <= State.SUSPECT and f.node_id != self.own_id]
        return self._peers

    def state_of(self, node_id: str) -> State:
        """Return the state of a node; dead if nothing is known of it."""
        member = self.members.get(node_id)
        return State(member.fact.state) if member is not None else State.DEAD

    def gone(self, node: str) -> list[Fact]:
        """Return the nodes that are dead or have left and have this id or, if there is none, this address.

        Raises ValueError, which says what to do, if there is no such node.
        """
        found = [f for f in self.facts() if f.node_id == node] or [f for f in self.facts() if f.address == node]
        if not found:
            shown = ", ".join(f.node_id for f in self.facts() if f.state != State.FORGOTTEN)
            raise ValueError(f"there is no node {node!r}; the mesh has {shown}")
        if gone := [f for f in found if f.state >= State.DEAD]:
            return gone
        if found[0].state == State.SUSPECT:
            raise ValueError(f"{node} is silent, but not declared dead: see `meshcache status`, and try again then")
        raise ValueError(f"{node} is alive: have it leave first, with `meshcache leave {node}`")

    def take_changes(self) -> list[str]:
        """Mark all changes as followed; return the addresses of nodes declared dead, which are to be redialled."""
        self.changed = False
        died, self.died = self.died, []
        return died

    def conflict(self, newcomer: Fact) -> str | None:
        """Say why a newcomer cannot have the id that it claims, or None.

        A restart on the same address is no conflict.
        """
        held = self.members.get(newcomer.node_id)
        if held is None or held.fact.boot == newcomer.boot:
            return None
        if newcomer.node_id == self.own_id:
            return f"node id {newcomer.node_id!r} is in use by this node at {held.fact.address}"
        if held.fact.state == State.ALIVE and held.fact.address != newcomer.address:
            return f"node id {newcomer.node_id!r} is in use by the node at {held.fact.address}"
        return None

    def take(self, fact: Fact, now: float) -> bool:
        """Merge a fact about another member; return True if it is news."""
        held = self.members.get(fact.node_id)
        if held is not None and not supersedes(fact, held.fact):
            return False
        if held is None and fact.state >= State.DEAD:
            # There is nothing to overrule here, and a rumour of a dead node must not be passed on for ever.
            return False
        if held is None and len(self.members) >= FACTS_MAX and not self._forget_longest_gone():
            self.refused += 1
            return False
        self.put(fact, now)
        return True

    def put(self, fact: Fact, now: float) -> None:
        """Replace the fact about a member, and update all that follows from it."""
        node_id = fact.node_id
        held = self.members.get(node_id)
        owned_before = held is not None and held.fact.state <= State.SUSPECT
        if owned_before != (fact.state <= State.SUSPECT) or held is None or _placement(held.fact) != _placement(fact):
            self.ring_changed = True
        known = held is not None and held.fact.state == fact.state and held.fact.boot == fact.boot
        if not known and (held is not None or node_id != self.own_id):
            state = State(fact.state).name.lower()
            self._note("member", member=node_id, state=state, address=fact.address, boot=fact.boot)
        if owned_before and fact.state == State.DEAD:
            self.died.append(fact.address)
        if fact.state != State.SUSPECT:
            self.suspicions.pop(node_id, None)
        elif held is None or held.fact.state != State.SUSPECT or held.fact.incarnation != fact.incarnation:
            self.suspicions[node_id] = Suspicion(now)
        if held is not None:
            self._digest ^= _hash(held.fact)
        self._digest ^= _hash(fact)
        self.members[node_id] = Member(fact, now)
        self.changed = True
        self._facts = self._peers = None

    def contradictions(self) -> list[str]:
        """Describe every contradiction within this table; there is none unless the program is wrong."""
        digest = 0
        for member in self.members.values():
            digest ^= _hash(member.fact)
        suspects = {node_id for node_id, member in self.members.items() if member.fact.state == State.SUSPECT}
        return [
            *(["the digest of the members is not theirs"] if digest != self._digest else []),
            *(["this node is not among the members"] if self.own_id not in self.members else []),
            *(["suspects and suspicions differ"] if suspects != self.suspicions.keys() else []),
        ]

    def _forget_longest_gone(self) -> bool:
        gone = [member for member in self.members.values() if member.fact.state >= State.DEAD]
        if not gone:
            return False
        del self.members[min(gone, key=_since).fact.node_id]
        return True

    def forget(self, before: float) -> None:
        """Forget the dead and those that left, if this node learned of that before this time."""
        for node_id, member in list(self.members.items()):
            if member.fact.state >= State.DEAD and member.since < before and node_id != self.own_id:
                del self.members[node_id]
                self._facts = None
                self.changed = True


def _since(member: Member) -> float:
    return member.since


def _placement(fact: Fact) -> tuple[float, str, str]:
    return fact.weight, fact.host, fact.zone


def _hash(fact: Fact) -> int:
    """Return what a fact contributes to the digest of a table; the exclusive or of all is the digest."""
    if fact.state >= State.DEAD:
        return 0
    text = f"{fact.node_id} {fact.boot} {fact.incarnation} {fact.state}"
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "big")
