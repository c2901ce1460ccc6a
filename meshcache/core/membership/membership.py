"""Who is a member: facts that merge, probes that test them, suspicion that ages them, rumours that spread them.

A *fact* says of one member where it is, which process it is (``boot``), and whether it is alive, suspect, dead or
left. Facts merge by the maximum of a total order: any loss, repetition or reordering of gossip ends in the same table
(``supersedes`` is the whole rule). Only the member itself raises its incarnation, to refute what is said of it; it
starts at the wall milliseconds of its boot, so that a mass restart cannot leave a live node shadowed by a rumour.

The upper bits of an incarnation number the member's *lives*. To refute a suspicion it raises the lower bits, and that
does not bring it back where it is counted dead already. Only a new life does, which it begins when it hears of its
death. So a node that was counted dead returns to the ring only after it has heard of that and has forgotten what it
held, because it has missed writes. For the same reason a death is believed wherever it is heard, also in a table (where
memberlist would only suspect): a member that some nodes write to and others do not does more harm than a member that
has to come back.

::

    alive --a probe failed, a link broke, others say so--> suspect --nobody refutes it in time--> dead
      ^-- a greater incarnation, from the member itself ------' <----------------------------------'
    any --the member says so--> left                                          (from dead: in a new life)
    dead or left --an operator says so--> forgotten

- A node that is not known yet, or is known as gone, becomes a member when it has answered at its own address
  (newcomers.py).
- No incarnation is taken that is further ahead of the wall clock than clocks may differ: else one false claim could
  never be overruled.
- Each ``probe_interval_s`` one member is probed, directly and then through others (probing.py). A few of the members
  that hear of a suspicion probe the suspect next, so that it is soon confirmed or refuted.
- suspicion.py says how long a suspect has to refute, and what shortens that time.
- A rumour is pushed to a few members at once, and is then passed on with probes and acks, as often as rumours.py says.
  Probes and acks carry the digest of the sender's table; where two go on differing for longer than rumours take, and
  every ``sync_interval_s`` with some member, whole tables are exchanged.
- A node that is suspect or dead by our table is told so as soon as it speaks to us, and a node that repeats an old fact
  about us is told the present one: two nodes in touch never go on disagreeing about each other.
- Under the strict partition policy only a node with a majority declares others dead. Else each side of a partition
  would declare the other dead, and when it heals, the minority's gossip would remove members of the majority.
- A node that stalled (its ticks came late) counts no silence of that time against others, and first asks for news.

The traffic of a node in a steady cluster is therefore the same in one of 3 and in one of 500; but see majority.py.

Sources: SWIM (Das et al. 2002); Lifeguard (Dadgar et al. 2017); Cassandra for the boot time as generation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

from meshcache.config import MembershipSettings
from meshcache.core.membership.majority import Majority
from meshcache.core.membership.members import MemberTable, State, latest_incarnation, next_life, supersedes
from meshcache.core.membership.newcomers import Newcomers
from meshcache.core.membership.probing import Prober
from meshcache.core.membership.rumours import RumourQueue, retransmits
from meshcache.core.membership.suspicion import Suspicion, sync_interval_s
from meshcache.core.outbox import Outbox
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.facts import WALL_MS_MAX
from meshcache.protocol.messages import Ack, Fact, Gossip, Nack, Ping, PingReq, Rumour, Vouch

TICK_S: Final = 0.05
"""The time between two calls of ``tick``; the driver may double it while nothing is suspect."""

STALL_S: Final = 0.2
"""A tick that comes later than expected by so much tells that this node itself did not run."""

FORGET_CHECK_S: Final = 1.0

WITNESSES_CALLED: Final = 8
"""About how many of the members that hear of a suspicion probe the suspect next, and so confirm or refute it."""


class Membership(MemberTable):
    """The table of members of one node, and what the node says and hears about members."""

    def __init__(
        self,
        config: MembershipSettings,
        own: Fact,
        outbox: Outbox,
        rng: random.Random,
        now: float,
        *,
        linked: Callable[[str], bool] = lambda _: True,
        answers: Callable[[Fact], bool] = lambda _: True,
        wall_ms: Callable[[], int] = lambda: WALL_MS_MAX,
        majority: Majority | None = None,
    ) -> None:
        """``linked`` tells whether the link to an address stands: no rumour is spent on a link that does not.

        ``answers``: see Newcomers. ``wall_ms`` returns the wall time, to refuse incarnations from the future.
        """
        super().__init__(own, outbox.note, now)
        self.removed = False
        """Whether others counted this node dead, or a former process of its id, and it has not seen to that yet."""
        self.newcomers = Newcomers(answers)
        self.sequence = 0
        """The number of the last ping; acks repeat it."""
        self.accused = 0
        """Times this node suspected another one by its own experience."""
        self.majority = majority
        """Under the strict partition policy, the majority lease; None otherwise."""
        self.prober = Prober(config, rng, now)
        self.rumours = RumourQueue()
        self._allowed: frozenset[str] | None = None
        """The ids of those who may be members; None: anybody may."""
        self._config = config
        self._outbox = outbox
        self._linked = linked
        self._wall_ms = wall_ms
        self._rng = rng
        self._ticked_at = now
        self._gossip_at = now
        self._forget_at = now
        self._syncs: dict[int, None] = {}
        """Numbers of the pings that asked for a whole table."""
        self._sync_at = now + config.sync_interval_s * rng.random()
        self._resync: tuple[str, float] | None = None
        """A member whose table differs from ours, and when to ask for it if rumours have not made them equal."""
        self._tell_next: list[str] = []
        """The rest of a shuffled list of members to push news to: taking turns reaches more of them than chance."""

    # -- what others say -----------------------------------------------------------------------------------

    def merge(self, facts: Iterable[Fact], now: float) -> None:
        """Take facts into the table, refute what is wrong about this node, and pass on what was news."""
        self.hear([Rumour(fact, []) for fact in facts], now)

    def hear(self, rumours: Iterable[Rumour], now: float, origin: bytes = b"", *, vouched: bool = False) -> None:
        """Do the same as ``merge``, and count which member accuses which.

        ``origin``: the connection on which the member itself says so. ``vouched``: a newcomer need not answer first.
        """
        alone = not self.peers()
        news = [fact for fact, accusers in rumours if self._hear_one(fact, accusers, now, origin, vouched=vouched)]
        news += self._see_to_newcomers(now)
        if news:
            # What a newcomer claims to know of the cluster, the cluster itself knows already.
            self._spread([self.own] if alone and len(news) > 1 else news)

    def heard(self, node_id: str) -> None:
        """Note that a node gave a sign of life."""
        self.prober.heard(node_id)

    def on_hello(self, member: Fact, now: float, origin: bytes = b"") -> None:
        """Take in a node that introduces itself on the link that it dialled."""
        self.hear([Rumour(member, [])], now, origin)
        self.heard(member.node_id)

    def on_welcome(self, address: str, node_id: str, facts: list[Fact], now: float, *, vouched: bool = False) -> None:
        """Take in the node that answered our HELLO at ``address``, with its table if it differs from ours.

        ``vouched``: this node joins by way of that node, and takes over who is a member there.
        """
        self.newcomers.on_answer(address, node_id, now)
        self.hear([Rumour(fact, []) for fact in facts], now, vouched=vouched)
        self.heard(node_id)
        told = self._contradiction(node_id, facts)
        if told:
            self._outbox.send(address, Gossip(told))

    def on_ping(self, ping: Ping, wall_ms: int, now: float) -> Ack:
        """Answer a probe."""
        self.heard(ping.node_id)
        self.hear(ping.rumours, now)
        if ping.sync and ping.facts != self.digest():
            return Ack(ping.sequence, wall_ms, self.digest(), [self._rumour(fact) for fact in self.facts()])
        told = self._contradiction(ping.node_id, [rumour.fact for rumour in ping.rumours])
        return Ack(ping.sequence, wall_ms, self.digest(), self._with_news(told))

    def on_ack(self, node_id: str, address: str, ack: Ack, now: float) -> None:
        """Take in the ack of a ping; ``node_id`` is empty while no node has introduced itself at ``address``."""
        self.heard(node_id)
        if self.majority is not None and node_id:
            self.majority.answer(node_id, ack.sequence)
        relay = self.prober.relays.pop(ack.sequence, None)
        if relay is not None and node_id:
            self._outbox.reply(relay.origin, Vouch(relay.sequence))
        self.hear(ack.rumours, now)
        if ack.sequence in self._syncs:
            del self._syncs[ack.sequence]
            if ack.facts != self.digest():  # the other table lacks something
                self._outbox.send(address, Gossip([self._rumour(fact) for fact in self.facts()]))
            return
        told = self._contradiction(node_id, [rumour.fact for rumour in ack.rumours])
        if told:
            self._outbox.send(address, Gossip(told))
        if ack.facts != self.digest() and node_id in self.members and self._resync is None:
            self._resync = node_id, now + self._patience_s()

    def on_ping_req(self, origin: bytes, request: PingReq, now: float) -> None:
        """Ping a target for another member, whose own ping it did not answer."""
        member = self.members.get(request.target)
        if member is None or member.fact.state > State.SUSPECT or request.target == self.own_id:
            self._outbox.reply(origin, Nack(request.sequence))
        elif self.prober.relay(self.sequence + 1, origin, request.sequence, now):
            self._ping(member.fact)

    def on_vouch(self, vouch: Vouch) -> None:
        """Take in that a helper heard from the target of our probe."""
        probe = self.prober.probes.get(vouch.sequence)
        if probe is not None:
            self.heard(probe.target)

    def on_nack(self, nack: Nack) -> None:
        """Take in that a helper heard nothing from the target either."""
        self.prober.on_nack(nack.sequence)

    def on_gossip(self, gossip: Gossip, now: float) -> list[Rumour]:
        """Take in rumours that were pushed; return what contradicts them, for the sender."""
        self.hear(gossip.rumours, now)
        return self._contradiction("", [rumour.fact for rumour in gossip.rumours])

    def note_followed(self) -> None:
        """Note that the node works with the ring of these members, and has forgotten what it had to forget."""
        self.ring_changed = self.removed = False

    @property
    def is_calm(self) -> bool:
        """Tell whether nobody is suspect or on trial, and no rumour is to be told."""
        return self.majority is None and not (len(self.newcomers) or self.suspicions or len(self.rumours))

    def statistics(self) -> dict[str, int]:
        """Return how many members are known, and how many facts were refused."""
        return {
            "members": len(self.members),
            "suspects": len(self.suspicions),
            "suspicions": self.accused,
            "probes": self.sequence,
            "probes_failed": self.prober.failed,
            "newcomers": len(self.newcomers),
            "newcomers_given_up": self.newcomers.given_up,
            "facts_refused": self.refused,
            "rumours": len(self.rumours),
            "probes_open": len(self.prober.probes),
        }

    # -- what happens to links -----------------------------------------------------------------------------

    def link_lost(self, address: str, now: float) -> None:
        """Suspect the node at ``address``, because the connection to it broke."""
        for fact in self.peers():
            if fact.address == address:
                self._accuse(fact.node_id, now)
                self.suspicions[fact.node_id].on_link_lost()

    def link_refused(self, address: str) -> None:
        """Note that ``address`` refuses connections."""
        for suspicion in self._suspicions_at(address):
            suspicion.on_refused()
        if self.newcomers.on_refused(address):
            self.changed = True

    def link_restored(self, address: str) -> None:
        """Note that ``address`` accepts connections again: a suspect there has the full time to refute."""
        for suspicion in self._suspicions_at(address):
            suspicion.on_link_restored()

    def _suspicions_at(self, address: str) -> list[Suspicion]:
        return [held for node_id, held in self.suspicions.items() if self.members[node_id].fact.address == address]

    # -- what this node says of itself ---------------------------------------------------------------------

    def leave(self, now: float, *, handed_over: bool = False) -> None:
        """Tell all members that this node leaves on purpose; its weight says whether others have all that it held."""
        self._say(now, state=int(State.LEFT), weight=0.0 if handed_over else self.own.weight or 1.0)
        for fact in self.peers():
            self._outbox.send(fact.address, Gossip([self._rumour(self.own)]))

    def retire(self, now: float) -> None:
        """Tell all members that this node is to own no slots any more, so that it can leave."""
        self._say(now, weight=0.0)

    def dismiss(self, node: str, now: float) -> None:
        """Give up the node that is gone and has this id or address, and tell all members. ValueError says why not.

        Each member is told directly, because digests would not show which of them a rumour did not reach.
        """
        facts = [fact._replace(state=int(State.FORGOTTEN)) for fact in self.gone(node)]
        self.merge(facts, now)
        for peer in self.peers():
            self._outbox.send(peer.address, Gossip([self._rumour(fact) for fact in facts]))

    def announce_synced(self, digest: bytes) -> None:
        """Tell all members that this node holds all its slots of the ring with this digest."""
        if self.own.synced != digest and self.own.state == State.ALIVE:
            self._say(self._ticked_at, synced=digest)

    def _say(self, now: float, **changes: Any) -> None:
        fact = self.own._replace(incarnation=self.own.incarnation + 1, **changes)
        self.put(fact, now)
        self._spread([fact])

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send probes and rumours that are due, and end suspicions that nobody refuted in time."""
        late_s = now - self._ticked_at - TICK_S
        self._ticked_at = now
        if late_s > STALL_S:
            self._recover(late_s, now)
        if self.own.state == State.LEFT:
            return
        admitted = self._see_to_newcomers(now)
        if admitted:
            self._spread(admitted)
        for relay in self.prober.overdue(now):
            self._outbox.reply(relay.origin, Nack(relay.sequence))
        self._probe(now)
        if self.majority is not None and self.majority.due(now):
            self._ask_all(self.majority, now)
        if len(self.rumours) and now >= self._gossip_at:
            self._gossip_at = now + self._config.gossip_interval_s
            self._push()
        self._sync(now)
        self._age(now)

    def _recover(self, late_s: float, now: float) -> None:
        """After a stall, leave that time out of all suspicions, trust this node's judgement less, and ask for news."""
        self.prober.judge(+1)
        self.prober.postpone(late_s)
        for suspicion in self.suspicions.values():
            # What the other machine's operating system said is true, however late it was heard.
            if not suspicion.is_gone:
                suspicion.postpone(late_s)
        for member in self.members.values():
            if member.fact.state >= State.DEAD:
                member.postpone(late_s)
        if late_s > self._config.link_dead_after_s and self.own.state != State.LEFT:
            self._sync_with(self._some_peers(self._config.indirect_probes))
            self._sync_at = now + sync_interval_s(self._config, self.count())

    def _see_to_newcomers(self, now: float) -> list[Fact]:
        """Make members of the newcomers that have answered, and begin further trials; return the new facts."""
        if not len(self.newcomers):
            return []
        if self.newcomers.step(now):
            self.changed = True
        answered = [fact for fact in self.newcomers.take_answered(now) if self._is_allowed(fact.node_id)]
        admitted = [fact for fact in answered if self.take(fact, now)]
        for fact in admitted:
            self._note_change(fact, now)
        return admitted

    def _probe(self, now: float) -> None:
        prober = self.prober
        for number, probe in list(prober.probes.items()):
            if self.state_of(probe.target) > State.SUSPECT:
                del prober.probes[number]
            elif now >= probe.ends_at:
                prober.fail(number, expected=self.state_of(probe.target) == State.SUSPECT)
                self._accuse(probe.target, now)
            elif now >= probe.ask_at and probe.helpers < 0:
                ids = [fact.node_id for fact in self.peers() if fact.state == State.ALIVE]
                for node_id in prober.helpers(probe, ids):
                    self._outbox.send(self.members[node_id].fact.address, PingReq(number, probe.target))
        if prober.due(now):
            target = prober.next_target([fact.node_id for fact in self.peers()], now)
            if target is not None:
                self._ping(self.members[target].fact)
                prober.begin(self.sequence, target, now)

    def in_majority(self, now: float) -> bool:
        """Tell whether more than half of all members, the dead included, have just answered this node (majority.py).

        It is always true where the partition policy does not ask for it.
        """
        if self.majority is None:
            return True
        members = [fact.node_id for fact in self.facts() if fact.state <= State.DEAD]
        return self.majority.held(self.own_id, members, now)

    def _age(self, now: float) -> None:
        if self.suspicions and not self.in_majority(now):  # a minority removes nobody, and begins to wait anew
            for suspicion in self.suspicions.values():
                suspicion.begin_anew(now)
        for node_id, suspicion in list(self.suspicions.items()):
            others = any(fact.state == State.ALIVE and fact.node_id != node_id for fact in self.peers())
            if now - suspicion.since >= suspicion.timeout_s(self._config, self.count(), other_witnesses=others):
                fact = self.members[node_id].fact
                self._outbox.note(
                    "declared_dead", member=node_id, accusers=suspicion.accusers, link_lost=suspicion.link_lost
                )
                self.merge([fact._replace(state=int(State.DEAD))], now)
        if now >= self._forget_at:
            self._forget_at = now + FORGET_CHECK_S
            self.forget(now - self._config.forget_after_s)

    # -- telling -------------------------------------------------------------------------------------------

    def _rumour(self, fact: Fact) -> Rumour:
        suspicion = self.suspicions.get(fact.node_id)
        return Rumour(fact, list(suspicion.accusers) if suspicion is not None else [])

    def _contradiction(self, node_id: str, said: list[Fact]) -> list[Rumour]:
        """Return what a member must hear now: what our table says against it, and our own fact if it is wrong."""
        told = []
        if node_id in self.members and self.state_of(node_id) > State.ALIVE:
            told.append(self._rumour(self.members[node_id].fact))
        if any(fact.node_id == self.own_id and fact != self.own for fact in said):
            told.append(self._rumour(self.own))
        return told

    def _with_news(self, told: list[Rumour]) -> list[Rumour]:
        ids = [rumour.fact.node_id for rumour in told]
        return told + [rumour for rumour in self.rumours.take(self.count()) if rumour.fact.node_id not in ids]

    def _ping(self, fact: Fact, *, sync: bool = False) -> None:
        self.sequence += 1
        # The suspect must hear of it, to refute it.
        accused = [self._rumour(fact)] if fact.state == State.SUSPECT else []
        rumours = self._with_news(accused)
        self._outbox.send(fact.address, Ping(self.sequence, self.own_id, self.digest(), sync, rumours))

    def _ask_all(self, majority: Majority, now: float) -> None:
        for fact in self.peers():
            self._ping(fact)
            majority.ask(self.sequence, now)

    def _some_peers(self, count: int) -> list[Fact]:
        peers = [fact for fact in self.peers() if self._linked(fact.address)]
        return self._rng.sample(peers, min(count, len(peers)))

    def _sync(self, now: float) -> None:
        """Exchange whole tables: at intervals with some member, and with one whose table seems to differ from ours."""
        if now >= self._sync_at:
            self._sync_at = now + sync_interval_s(self._config, self.count())
            self._sync_with(self._some_peers(1))
        if self._resync is not None and now >= self._resync[1]:
            node_id, self._resync = self._resync[0], None
            self._sync_with([fact for fact in self.peers() if fact.node_id == node_id])

    def _sync_with(self, peers: list[Fact]) -> None:
        self._syncs = {}
        for fact in peers:
            self._ping(fact, sync=True)
            self._syncs[self.sequence] = None

    def _patience_s(self) -> float:
        """Return how long two tables may differ before they are exchanged: until rumours had their time."""
        return self._config.gossip_interval_s * retransmits(self.count())

    def _spread(self, news: list[Fact]) -> None:
        """Pass facts on: a few of them at once, and the rest with what is sent anyway."""
        for fact in news:
            self.rumours.add(self._rumour(self.members[fact.node_id].fact))
        self._push()

    def _next_to_tell(self, count: int) -> list[Fact]:
        peers = {fact.node_id: fact for fact in self.peers() if self._linked(fact.address)}
        chosen: dict[str, Fact] = {}
        while len(chosen) < min(count, len(peers)):
            if not self._tell_next:
                self._tell_next = sorted(peers)
                self._rng.shuffle(self._tell_next)
            node_id = self._tell_next.pop()
            if node_id in peers:
                chosen[node_id] = peers[node_id]
        return list(chosen.values())

    def _push(self) -> None:
        for target in self._next_to_tell(self._config.gossip_fanout):
            rumours = self.rumours.take(self.count())
            if rumours:
                self._outbox.send(target.address, Gossip(rumours))

    # -- the table -----------------------------------------------------------------------------------------

    def _accuse(self, node_id: str, now: float) -> None:
        """Suspect a member because of what this node itself has seen; tell others, and the member itself."""
        self.accused += 1
        fact = self.members[node_id].fact
        self.hear([Rumour(fact._replace(state=int(State.SUSPECT)), [self.own_id])], now)
        self._outbox.send(fact.address, Gossip([self._rumour(self.members[node_id].fact)]))

    def _hear_one(
        self, fact: Fact, accusers: list[str], now: float, origin: bytes = b"", *, vouched: bool = False
    ) -> bool:
        """Merge one rumour; return True if it is news."""
        own = fact.node_id == self.own_id
        if not own and not self._may_tell_of(fact):
            self.refused += 1
            return False
        # About itself a node takes whatever incarnation a node with a fast clock can believe: it must refute it.
        if fact.incarnation > latest_incarnation(self._wall_ms() + own * LEAD_MS_MAX):
            self.refused += 1
            return False
        if own:
            return self._refute(fact, now)
        if not vouched and self._comes(fact):
            self.newcomers.add(fact, now, origin)
            return False
        news = self.take(fact, now)
        held = self.members.get(fact.node_id)
        suspicion = self.suspicions.get(fact.node_id)
        if news:
            self._note_change(fact, now)
        if suspicion is not None and held is not None and held.fact.incarnation == fact.incarnation:
            for accuser in accusers:
                if accuser != fact.node_id and suspicion.confirm(accuser):
                    news = True
        return news

    def allow(self, nodes: frozenset[str] | None, now: float) -> None:
        """Have only these nodes as members from now on; None: whoever says that it is one. Others are given up."""
        self._allowed = nodes
        doomed = [member.fact for member in self.members.values() if not self._is_allowed(member.fact.node_id)]
        facts = [fact._replace(state=int(State.FORGOTTEN)) for fact in doomed if fact.node_id != self.own_id]
        self.merge(facts, now)

    def _is_allowed(self, node_id: str) -> bool:
        return self._allowed is None or node_id in self._allowed

    def _may_tell_of(self, fact: Fact) -> bool:
        """Tell whether a fact may be taken: of a node that may not be a member, only that a former one is gone."""
        return self._is_allowed(fact.node_id) or (fact.node_id in self.members and fact.state > State.SUSPECT)

    def _comes(self, fact: Fact) -> bool:
        """Tell whether a fact would make a node a member, or move a member to another address."""
        if fact.state > State.SUSPECT:
            self.newcomers.overrule(fact)
            return False
        held = self.members.get(fact.node_id)
        if held is None:
            return True
        if held.fact.state <= State.SUSPECT and held.fact.address == fact.address:
            return False
        return supersedes(fact, held.fact)

    def _note_change(self, fact: Fact, now: float) -> None:
        if self._resync is not None:  # rumours are under way
            self._resync = self._resync[0], now + self._patience_s()
        if fact.state == State.SUSPECT and self._rng.random() * self.count() < WITNESSES_CALLED:
            self.prober.hasten(fact.node_id)

    def _refute(self, said: Fact, now: float) -> bool:
        own = self.own
        if said == own or not supersedes(said, own) or own.state == State.LEFT:
            return False
        if said.state >= State.DEAD:
            # Of whichever process it was said: who believed it wrote nothing to this id. So this node has missed
            # writes, and is in sync with no ring until it has pulled them.
            self.removed = True
            self.put(own._replace(incarnation=next_life(said.incarnation), synced=b""), now)
        else:
            self.put(own._replace(incarnation=said.incarnation + 1), now)
        self.prober.judge(+1)
        return True
