"""Who is a member: facts that merge, heartbeats that renew them, suspicion that ages them.

A *fact* says of one member where it is, which process it is (``boot``), and whether it is alive, suspect, dead or
left. Facts merge by the maximum of a total order: any loss, repetition or reordering of gossip ends in the same table
(``supersedes`` is the whole rule). Only the member itself raises its incarnation, to refute what is said of it; it
starts at the wall milliseconds of its boot, so that a mass restart cannot leave a live node shadowed by a rumour.

The upper bits of an incarnation number the member's *lives*. To refute a suspicion it raises the lower bits, and
that does not bring it back once it is dead to somebody: only a new life does, which it begins when it hears of its
death. So no node returns to the ring that has not heard, and forgotten what it held: it has missed writes.

::

    alive --silence or broken link--> suspect --dead_after_s without refutation--> dead
      ^-- a greater incarnation, from the member itself --' <---------------------'
    any --the member says so--> left                                          (from dead: in a new life)

Every ``heartbeat_interval_s`` a node pings its peers (at most FANOUT of them, round robin in a shuffled order). Ping
and ack carry the digest of the sender's table; where they differ, the ack brings the whole table and the pinger
answers with its own. News is also pushed at once. A node that stalled itself (its ticks came late) does not hold the
silence against the others.

Sources: SWIM (Das et al. 2002) for incarnations and suspicion; Cassandra for the boot time as generation.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from meshcache.config import MembershipSettings
from meshcache.core.messages import Ack, Fact, Facts, Message, Ping
from meshcache.core.outbox import Outbox
from meshcache.core.ring import RingMember

FANOUT: Final = 8
"""Peers pinged in one interval, so that the load of a node does not grow with the cluster."""


class State(IntEnum):
    """Ranks by which facts of one incarnation merge: the greater wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


_LIFE_BITS: Final = 8
"""The lower bits of an incarnation count the suspicions refuted in one life. More than they can count begin a new
life, which is harmless: it only means that a death in the former one is overruled."""


def first_incarnation(wall_ms: int) -> int:
    """Return the incarnation of a process that starts."""
    return wall_ms << _LIFE_BITS


def next_life(incarnation: int) -> int:
    """Return the least incarnation that overrules a death in this one."""
    return ((incarnation >> _LIFE_BITS) + 1) << _LIFE_BITS


def supersedes(new: Fact, old: Fact) -> bool:
    """Tell whether ``new`` replaces ``old``. A join: idempotent, commutative, associative."""
    return _rank(new) > _rank(old)


def _rank(fact: Fact) -> tuple[int, bool, int, int, int]:
    return fact.incarnation >> _LIFE_BITS, fact.state >= State.DEAD, fact.incarnation, fact.state, fact.boot


@dataclass(slots=True)
class Member:
    """A fact, and what this node itself knows beside it."""

    fact: Fact
    heard_at: float
    """When it last answered or pinged us, on our monotonic clock."""
    since: float
    """When this node learned of the present state."""


class Membership:
    """The table of members of one node."""

    def __init__(self, config: MembershipSettings, own: Fact, outbox: Outbox, rng: random.Random, now: float) -> None:
        self.own_id = own.node_id
        self.members: dict[str, Member] = {own.node_id: Member(own, now, now)}
        self.ring_changed = True
        """The set of members that own slots changed; the node rebuilds its ring and resets this."""
        self.changed = True
        """Something in the table changed; the node follows it and resets this."""
        self.removed = False
        """Others had declared this node dead. The node forgets its data and resets this."""
        self.died: list[str] = []
        """Addresses of nodes newly declared dead; the node redials them and clears this."""
        self.sequence = 0
        """Number of the last round of pings; acks repeat it."""
        self._config = config
        self._outbox = outbox
        self._rng = rng
        self._digest: bytes | None = None
        self._round: list[str] = []
        self._next_ping = now
        self._ticked_at = now

    @property
    def own(self) -> Fact:
        """What this node says of itself."""
        return self.members[self.own_id].fact

    def facts(self) -> list[Fact]:
        """Return the whole table, in the order of node ids."""
        return [self.members[node_id].fact for node_id in sorted(self.members)]

    def digest(self) -> bytes:
        """Return eight bytes that are equal where two tables are. The gone do not count: each forgets them in time."""
        if self._digest is None:
            known = [f for f in self.facts() if f.state <= State.SUSPECT]
            text = "\n".join(f"{f.node_id} {f.boot} {f.incarnation} {f.state}" for f in known)
            self._digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8]
        return self._digest

    def ring_members(self) -> list[RingMember]:
        """Return who owns slots: the alive and the suspect. A suspect stays an owner until it is declared dead."""
        return [RingMember(f.node_id, f.weight, f.host, f.zone) for f in self.owners()]

    def owners(self) -> list[Fact]:
        """Return the facts of those who own slots: not of the gone, nor of those that are leaving."""
        return [f for f in self.facts() if f.state <= State.SUSPECT and f.weight > 0]

    def peers(self) -> list[Fact]:
        """Return the facts of the other members that are alive or suspect."""
        return [f for f in self.facts() if f.state <= State.SUSPECT and f.node_id != self.own_id]

    def state_of(self, node_id: str) -> State:
        """Return what is known of a node; dead if nothing is."""
        member = self.members.get(node_id)
        return State(member.fact.state) if member is not None else State.DEAD

    def conflict(self, newcomer: Fact, now: float) -> str | None:
        """Say why a newcomer's id cannot be its own, or None. A restart on the same address is no conflict."""
        held = self.members.get(newcomer.node_id)
        if held is None or held.fact.boot == newcomer.boot:
            return None
        if newcomer.node_id == self.own_id:
            return f"node id {newcomer.node_id!r} is in use by this node at {held.fact.address}"
        alive = held.fact.state == State.ALIVE and now - held.heard_at < self._config.suspect_after_s
        if alive and held.fact.address != newcomer.address:
            return f"node id {newcomer.node_id!r} is in use by the node at {held.fact.address}"
        return None

    def merge(self, facts: Iterable[Fact], now: float) -> None:
        """Take facts into the table, refute what is wrong about this node, and pass on what was news."""
        news = [fact for fact in facts if self._merge_one(fact, now)]
        if news:
            self._spread(news)

    def heard(self, node_id: str, now: float) -> None:
        """Note that a node gave a sign of life."""
        member = self.members.get(node_id)
        if member is not None:
            member.heard_at = now

    def on_ping(self, ping: Ping, wall_ms: int, now: float) -> Ack:
        """Answer a heartbeat, with the whole table if the other side's differs."""
        self.heard(ping.node_id, now)
        digest = self.digest()
        return Ack(ping.sequence, wall_ms, digest, [] if ping.facts == digest else self.facts())

    def on_ack(self, node_id: str, address: str, ack: Ack, now: float) -> None:
        """Merge what an ack brought; if the tables still differ, the other side lacks something: send ours."""
        self.heard(node_id, now)
        if ack.members:
            self.merge(ack.members, now)
            if self.digest() != ack.facts:
                self._outbox.send(address, Facts(self.facts()))

    def suspect_address(self, address: str, now: float) -> None:
        """Suspect whoever is at ``address``: its link broke."""
        for fact in self.peers():
            if fact.address == address and fact.state == State.ALIVE:
                self._declare(fact, State.SUSPECT, now)

    def leave(self, now: float) -> None:
        """Tell everybody that this node goes away on purpose."""
        self._say(now, state=int(State.LEFT))

    def retire(self, now: float) -> None:
        """Tell everybody that this node wants to own nothing any more, so that it can leave."""
        self._say(now, weight=0.0)

    def announce_synced(self, digest: bytes) -> None:
        """Tell everybody that this node holds all its slots of the ring with this digest."""
        if self.own.synced != digest and self.own.state == State.ALIVE:
            self._say(self._ticked_at, synced=digest)

    def _say(self, now: float, **changes: Any) -> None:
        fact = self.own._replace(incarnation=self.own.incarnation + 1, **changes)
        self._set(fact, now)
        self._spread([fact])

    def tick(self, now: float) -> None:
        """Ping, and age what was not heard of."""
        interval_s = self._config.heartbeat_interval_s
        stalled_s = now - self._ticked_at - interval_s
        if stalled_s > interval_s:
            for member in self.members.values():  # we did not listen: no silence of theirs
                member.heard_at += stalled_s
                member.since += stalled_s
        self._ticked_at = now
        if self.own.state != State.LEFT and now >= self._next_ping:
            self._next_ping = now + interval_s
            self._ping_some()
        self._age(now)

    # -- inner workings ------------------------------------------------------------------------------------

    def _ping_some(self) -> None:
        peers = {fact.node_id: fact for fact in self.peers()}
        if len(peers) <= FANOUT:
            chosen = list(peers)
        else:
            chosen = [node_id for node_id in self._round if node_id in peers][:FANOUT]
            self._round = self._round[FANOUT:]
            if len(chosen) < FANOUT:
                self._round = sorted(peers)
                self._rng.shuffle(self._round)
        self.sequence += 1
        for node_id in chosen:
            fact = peers[node_id]
            self._outbox.send(fact.address, Ping(self.sequence, self.own_id, self.digest()))
            if fact.state == State.SUSPECT:  # the accused must hear of it to refute it
                self._outbox.send(fact.address, Facts([fact]))

    def _age(self, now: float) -> None:
        config = self._config
        rounds = max(1.0, (len(self.members) - 1) / FANOUT)
        for member in list(self.members.values()):
            fact = member.fact
            if fact.node_id == self.own_id:
                continue
            if fact.state == State.ALIVE and now - member.heard_at > config.suspect_after_s * rounds:
                self._declare(fact, State.SUSPECT, now)
            elif fact.state == State.SUSPECT and now - member.since > config.dead_after_s:
                self._declare(fact, State.DEAD, now)
            elif fact.state >= State.DEAD and now - member.since > config.forget_after_s:
                del self.members[fact.node_id]
                self._digest = None

    def _declare(self, fact: Fact, state: State, now: float) -> None:
        self.merge([fact._replace(state=int(state))], now)

    def _merge_one(self, fact: Fact, now: float) -> bool:
        if fact.node_id == self.own_id:
            return self._refute(fact, now)
        held = self.members.get(fact.node_id)
        if held is not None and not supersedes(fact, held.fact):
            return False
        if held is None and fact.state >= State.DEAD:
            return False  # nothing here to overrule, and a rumour of the dead must not live for ever
        self._set(fact, now)
        return True

    def _refute(self, said: Fact, now: float) -> bool:
        own = self.own
        if said == own or not supersedes(said, own) or own.state == State.LEFT:
            return False
        if said.state >= State.DEAD:
            self.removed = self.removed or said.boot == own.boot
            self._set(own._replace(incarnation=next_life(said.incarnation)), now)
        else:
            self._set(own._replace(incarnation=said.incarnation + 1), now)
        return True

    def _set(self, fact: Fact, now: float) -> None:
        held = self.members.get(fact.node_id)
        owned_before = held is not None and held.fact.state <= State.SUSPECT
        if owned_before != (fact.state <= State.SUSPECT) or held is None or _placement(held.fact) != _placement(fact):
            self.ring_changed = True
        heard_at = now
        if held is not None and fact.state == State.SUSPECT:
            heard_at = held.heard_at
        state = State(fact.state).name.lower()
        if held is None or held.fact.state != fact.state or held.fact.boot != fact.boot:
            self._outbox.note("member", member=fact.node_id, state=state, address=fact.address, boot=fact.boot)
        if owned_before and fact.state == State.DEAD:
            self.died.append(fact.address)
        self.members[fact.node_id] = Member(fact, heard_at, now)
        self.changed = True
        self._digest = None

    def _spread(self, news: list[Fact]) -> None:
        """Push news at once: to everyone in a small cluster, to a random few in a large one."""
        targets = [fact for fact in self.facts() if fact.node_id != self.own_id and fact.state <= State.SUSPECT]
        if len(targets) > 2 * FANOUT:
            targets = self._rng.sample(targets, FANOUT)
        own = [self.own if fact.node_id == self.own_id else fact for fact in news]
        message: Message = Facts(own)
        for target in targets:
            self._outbox.send(target.address, message)


def _placement(fact: Fact) -> tuple[float, str, str]:
    return fact.weight, fact.host, fact.zone
