"""One node, without its sockets: messages and the time come in, effects go out.

A driver (server.py with ZeroMQ, simulator.py with a virtual network) calls, in turns::

    receive_request(origin, frame, now)    something arrived on our ROUTER; answers go back to ``origin``
    receive_answer(address, frame, now)    something arrived on the DEALER that we dialled to ``address``
    link_up / link_down / undeliverable    what happened to such a DEALER
    tick(now)                              at next_deadline() at the latest
    drain() -> Effects                     what is to be done outside, once a turn

None of them blocks, and none raises whatever the network sent: a peer's mistake is a counter and a dropped message.

What is checked of a message, and what becomes of errors while it is handled: failures.py.

``now`` is monotonic (clock.LocalClock). The node's wall time is the one at its start, moved on by ``now``, so that it
never goes back while the node runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from meshcache.config import Config
from meshcache.core import invariants
from meshcache.core.access import Access
from meshcache.core.account import account, why_not_ready
from meshcache.core.assembly import coordinator_of, membership_of
from meshcache.core.claims import Claims
from meshcache.core.counters import Counters
from meshcache.core.departure import Departure
from meshcache.core.early import Early, Take
from meshcache.core.failures import Failures
from meshcache.core.frames import Frames
from meshcache.core.handshake import Handshake
from meshcache.core.leftovers import Leftovers
from meshcache.core.membership.members import State
from meshcache.core.operations.drops import Drops
from meshcache.core.operations.fill_leases import FillLeases
from meshcache.core.operations.hotcopies import HotCopies
from meshcache.core.operations.hotkeys import HotKeys
from meshcache.core.operations.instant import Instant
from meshcache.core.operations.pending import Pending
from meshcache.core.operations.requests import Requests
from meshcache.core.operations.surroundings import Readers
from meshcache.core.outbox import Effects, Outbox
from meshcache.core.peers import LINKS_MAX, Peers
from meshcache.core.repair.antientropy import AntiEntropy
from meshcache.core.repair.hints import Handoff, Hints
from meshcache.core.repair.losses import Losses
from meshcache.core.repair.movement import Movement
from meshcache.core.repair.recall import Recall
from meshcache.core.repair.saving import Saving
from meshcache.core.storage.charges import Charges
from meshcache.core.storage.choice import store_of
from meshcache.core.storage.snapshot import Saved
from meshcache.core.view import View
from meshcache.errors import ProtocolError
from meshcache.protocol import messages as m
from meshcache.protocol.clock import HybridClock
from meshcache.protocol.messages import Code, Message
from meshcache.protocol.ring import Ring
from meshcache.protocol.wire import DeadlinePeek, Frame, decode_frame

HOUSEKEEPING_S: Final = 0.05
"""How often the node looks at what is not urgent to the millisecond: heartbeats, handshakes, expiry."""
HOUSEKEEPING_CALM_S: Final = 0.1
"""The same while no member is suspect and no slot moves: these turns are half of what an idle node costs."""

PUBLISH_IDLE_S: Final = 0.25
"""How often the number of the invalidation stream is repeated when nothing happens."""


class NodeCore:
    """A node as a pure object: see the module's text for how it is driven."""

    def __init__(
        self,
        config: Config,
        *,
        boot: int,
        rng: random.Random,
        now: float,
        wall_ms: int,
        supervised: bool = False,
        processor_s: Callable[[], float] = float,
        links_max: int = LINKS_MAX,
        host: Callable[[], dict[str, Any]] = dict,  # tells of the process and its machine, when somebody asks
        saved: Saved | None = None,
        charges: Charges | None = None,
    ) -> None:
        """``supervised``: another process restarts this one. ``links_max``: as many as the driver can open.

        ``processor_s`` returns the processor time that the driver's thread has used, or 0 if the driver cannot tell.
        ``saved``: what there is of this node's former life. ``charges``: what entries are charged; see ``store_of``.
        """
        self.config = config
        self.boot = boot
        self.counters = Counters()
        self.outbox = Outbox()
        self.failures = Failures(self.outbox.note, self.counters.failed)
        self._processor_s = processor_s
        self._instant = Instant(now, wall_ms)
        self.clock = HybridClock(boot)
        self.store = store_of(config, charges)
        self.peers = Peers(config.cluster.name, config.node.seeds, self.outbox, self._instant, links_max)
        self.membership = membership_of(config, boot, self.peers, self.outbox, self._instant, rng)
        self.view = View(config.node.node_id, self._build_ring())
        hints, hot = Hints(), HotKeys(config.hot_keys, rng, now)
        copies = HotCopies(
            hot, self.view, self.membership, self.outbox, self._instant, enabled=config.cluster.read_quorum == 1
        )
        self._pending = Pending(self.view, self.peers, self.outbox, self._instant, self.membership.state_of, self.fail)
        parts = self.store, self.view, self.membership, self.clock, self.outbox, self._instant, self._pending
        self.coordinator = coordinator_of(config, *parts, copies.on_announced, hints.add, self.fail)
        self._build_gates()
        self._begin_background(hints, saved)
        self.requests = self._make_requests(hot, copies, host)
        self._usual = self.requests.usual
        self._early = Early(self.clock, self._instant, self.counters, self.requests.who)
        self.handshake = self._make_handshake()
        self._losses = Losses(config.cluster, self.store, self.view, self.membership, self.outbox)
        self._followed: tuple[bytes, tuple[str, ...]] | None = None
        self._returning = False
        """Whether this node was counted dead and is back, and some member is not in sync with that yet."""
        self._in_touch_at = now
        """When no member was missing for the last time: if this node was cut off, then not before this time."""
        self._departure = Departure(
            config.membership.leave_timeout_s, self.membership, self.outbox, lambda: self.settled, supervised=supervised
        )
        self.doubt: int | None = None
        """After a stall, the number of a ping whose ack shows that the others still count on this node; else None."""
        self._publish_at = self._housekeeping_at = now
        self.disturbed = True
        """Whether anything but usual requests has come since ``next_deadline`` was called; see ``replies``."""
        self._on_request, self._on_answer = self._request_handlers(), self._answer_handlers()

    def _build_gates(self) -> None:
        """Put the checks before the handlers, and shield the node from errors that concern only one message."""
        self._claims = Claims(lambda: self._instant.wall_ms, self.coordinator.replica.floors.grace_ms, self.counters)
        self._peek = DeadlinePeek(self.boot)
        bytes_max = self.config.limits.request_bytes_max
        self.frames = Frames(self.clock, self.membership.own_id, self.boot, bytes_max, self.fail)

    def _begin_background(self, hints: Hints, saved: Saved | None) -> None:
        """Begin what the node does by itself; it runs in this order."""
        self.fills = FillLeases(self.coordinator)
        self._drops = Drops(self.coordinator, self.fills)
        self._leftovers = Leftovers(self.store, self.view, self._drops, self._instant)
        self._movement = Movement(self.coordinator, self._drops)
        self._anti_entropy = AntiEntropy(self.coordinator)
        self._pending.begin_background("movement", self._movement)
        self._pending.begin_background("hints", Handoff(self.coordinator, hints))
        self._pending.begin_background("anti_entropy", self._anti_entropy)
        self._pending.begin_background("fills", self.fills)
        self._begin_snapshots(saved)

    def _begin_snapshots(self, saved: Saved | None) -> None:
        self.saving: Saving | None = None
        self.recall: Recall | None = None
        if self.config.snapshot.enabled:
            self.saving = Saving(self.coordinator, saved, lambda: self._departure.handed_over)
            self.recall = Recall(self.coordinator, self._drops, self.saving, saved, lambda: self.handshake.joined)
            self._pending.begin_background("snapshots", self.recall)

    def _make_handshake(self) -> Handshake:
        parts = self.config, self.membership, self.peers, self.outbox, self._instant, self.boot, self.requests.who
        return Handshake(*parts, follow=self._follow_members_now, link_made=self._pending.on_link_made)

    def _make_requests(self, hot: HotKeys, copies: HotCopies, host: Callable[[], dict[str, Any]]) -> Requests:
        return Requests(
            self.coordinator,
            self._drops,
            self.fills,
            hot,
            copies,
            self.counters,
            self.boot,
            self,
            lambda: self.membership.in_majority(self._instant.now),
            lambda origin: self.retire(self._instant.now, origin),
            self._anti_entropy.answer,
            self.recall,
            lambda: {"links": self.peers.statistics(), "host": host()},
        )

    def _request_handlers(self) -> dict[type[Any], Callable[[bytes, Any], None]]:
        """Return what takes each kind of message on the ROUTER, given its origin and the message."""
        requests = self.requests.handlers()
        handlers: dict[type[Any], Callable[[bytes, Any], None]] = {
            **requests,
            m.Pull: partial(self._timed, "page_sent", requests[m.Pull]),
            m.Compare: partial(self._timed, "slots_compared", requests[m.Compare]),
            m.Ping: self._on_ping,
            m.PingReq: lambda origin, request: self.membership.on_ping_req(origin, request, self._instant.now),
            m.Gossip: self._on_gossip,
            m.Hello: self.handshake.on_hello,
        }
        checked = {kind: self._claims.gated(kind, handler) for kind, handler in handlers.items()}
        return (
            checked
            if not self.config.security.key_file
            else Access(self.requests.who, self.view, self.outbox, self.counters).gated(checked)
        )

    def _answer_handlers(self) -> dict[type[Any], Callable[[str, Any], None]]:
        """Return what takes each kind of message on a DEALER, given the address that was dialled and the message."""
        handlers: dict[type[Any], Callable[[str, Any], None]] = {
            **dict.fromkeys((m.ReadReply, m.WriteReply, m.SweepReply, m.FloorsReply, m.Reply), self._on_reply),
            m.PullReply: partial(self._timed, "page_taken", self._on_reply),
            m.CompareReply: partial(self._timed, "slots_compared", self._on_reply),
            m.Reject: self._on_reject,
            m.Ack: self._on_ack,
            m.Vouch: lambda _, vouch: self.membership.on_vouch(vouch),
            m.Nack: lambda _, nack: self.membership.on_nack(nack),
            m.Gossip: lambda _, gossip: self.membership.hear(gossip.rumours, self._instant.now),
            m.Welcome: self.handshake.on_welcome,
            m.Refused: self.handshake.on_refused,
        }
        return {kind: self._claims.gated(kind, handler) for kind, handler in handlers.items()}

    # -- what the driver calls -----------------------------------------------------------------------------

    def receive_request(self, origin: bytes, frame: Frame, now: float, *, is_unusual: bool = False) -> bool:
        """Take a frame from the ROUTER; True if the turn should end: enough is to be answered, or too much asked.

        What comes after a request for more than can be read is better taken by who can refuse much at once.
        """
        self.set_time(now)
        self.counters.requests_in_bytes += len(frame)
        before, refused = self.outbox.reply_bytes, self.requests.reads_refused
        if self._is_for_python(self._usual and not is_unusual and self._usual.serve, origin, frame):
            self._take(self._on_request, origin, self._decode(origin, frame, self.receive_request))
        # What other nodes answered in this turn does not count against the clients that ask now.
        has_enough = before < self.outbox.reply_bytes and self.outbox.has_enough_to_reply()
        return has_enough or refused != self.requests.reads_refused

    def past_by_now(self) -> Callable[[Frame], bool | None]:
        """Return a check of undecoded frames: is a client's request past its deadline? None for any other frame."""
        return self._peek.past_by(self._instant.wall_ms)

    def turn_away(self, origin: bytes, frames: list[bytes], retry_after_ms: int) -> None:
        """Refuse as overloaded, with nothing done, requests that are not past their deadlines by ``past_by_now``."""
        numbers = [self._peek.number_of(frame) for frame in frames]
        self.requests.turn_away(origin, numbers, retry_after_ms)

    def receive_stream(self, frame: Frame, now: float) -> None:
        """Take a frame that another member published; see Effects.follow."""
        self.set_time(now)
        self.counters.answers_in_bytes += len(frame)
        try:
            _, messages = decode_frame(frame)
            streams = [self._claims.admitted(message) for message in messages if isinstance(message, m.Invalidations)]
        except ProtocolError:
            self.counters.malformed += 1
            streams = [None]
        for stream in streams:
            if stream is None:
                self.requests.copies.on_lost()
            else:
                self.requests.copies.on_stream(stream)

    def receive_answer(self, address: str, frame: Frame, now: float) -> bool:
        """Take a frame from the DEALER to ``address``; True if the turn should end, as in ``receive_request``."""
        self.set_time(now)
        self.counters.answers_in_bytes += len(frame)
        if self._is_for_python(self._usual and self._usual.take, address, frame) and address in self.peers.links:
            self._take(self._on_answer, address, self._decode(address, frame, self.receive_answer))
        return self.outbox.has_enough_to_reply()

    def _is_for_python(self, serve: Any, sender: bytes | str, frame: Frame) -> bool:
        """Serve a frame by this function, if there is one; tell whether nothing was done with it so far."""
        try:
            served = bool(serve) and serve(sender, frame)
        except Exception as error:  # noqa: BLE001  (as in _take)
            served = None
            self.fail(type(decode_frame(frame)[1][0]).__name__, sender, error)
        self.disturbed |= served is not True
        return served is False

    def _take(self, handlers: dict[type[Any], Callable[..., None]], origin: object, messages: list[Message]) -> None:
        for message in messages:
            handler = handlers.get(type(message))
            if handler is None:
                self.counters.note_unhandled(message)
                continue
            try:
                handler(origin, message)
            except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this message)
                self.fail(type(message).__name__, origin, error)

    def fail(self, kind: str, origin: object, error: Exception) -> None:
        """Count a failure that concerns one message, operation or connection only, and go on.

        Raises the error anew where it may concern more: the module's docstring says when.
        """
        if isinstance(error, AssertionError):
            raise error
        self.failures.add(kind, origin, error, self._instant.now)
        self.check()

    def check(self) -> None:
        """Raise InvariantBroken if a part of this node contradicts itself or another part."""
        invariants.check(self.config.cluster.slots, self.store, self.view, self.membership, self.clock)

    def link_up(self, address: str, now: float) -> None:
        """Note that the connection to ``address`` stands."""
        self.set_time(now)
        self.counters.links_up += 1
        self.outbox.note("link_up", address=address)
        self.membership.link_restored(address)
        self.peers.on_up(address, self.membership.own, self.membership.digest())

    def link_down(self, address: str, now: float) -> None:
        """Note that the connection to ``address`` broke: requests there are lost, and the node there is suspect."""
        self.set_time(now)
        self.counters.links_down += 1
        self.outbox.note("link_down", address=address)
        self._link_lost(address)
        self.membership.link_lost(address, now)

    def link_refused(self, address: str, now: float) -> None:
        """Note that ``address`` refused the connection when the driver dialled it (again)."""
        self.set_time(now)
        self.membership.link_refused(address)

    def link_denied(self, address: str, why: str) -> None:
        """Note that the handshake with ``address`` failed, which no further attempt will change soon."""
        self.outbox.note("link_denied", address=address, why=why)
        self.handshake.on_denied(address, why)

    def allow(self, nodes: frozenset[str] | None, now: float) -> None:
        """From now on have only these nodes as members; None: whoever says that it is one."""
        self.set_time(now)
        self.membership.allow(nodes, now)

    def undeliverable(self, address: str, now: float) -> None:
        """Note that a frame for ``address`` could not be sent: not connected, or the pipe is full."""
        self.set_time(now)
        self.counters.undeliverable += 1
        link = self.peers.links.get(address)
        if link is not None and link.node_id:
            self._pending.on_link_lost(link.node_id)

    def tick(self, now: float) -> None:
        """Do what time asks for. It is called every turn, and mostly finds nothing due."""
        self.set_time(now)
        if now >= self._early.next_at:
            self._early.run()
        if self._pending.timers or self._pending.waiting:
            self._pending.tick()
        if now >= self._housekeeping_at:
            self._timed("housekeeping", self._keep_house, now)
            self._housekeeping_at = now + (HOUSEKEEPING_CALM_S if self._is_calm() else HOUSEKEEPING_S)
        if self.membership.changed:
            self._timed("change_of_members", self._follow_members, now)
        self.requests.run()
        if self._leftovers.is_more or self._drops.jobs:
            self._timed("expiry_and_drops", self._leftovers.run)

    def _timed(self, work: str, do: Callable[..., None], *arguments: Any) -> None:
        """Do something that may take long."""
        began_s = self._processor_s()
        do(*arguments)
        self.counters.note_work(work, self._processor_s() - began_s)

    def next_deadline(self) -> float:
        """Return when tick has to be called at the latest, if nothing happens before."""
        self.disturbed = False
        if self._leftovers.is_more or self._drops.jobs or self.requests.is_more:
            return self._instant.now
        timer = self._pending.next_deadline() if self._pending.timers else None
        own = min(self._housekeeping_at, self._early.next_at)
        return own if timer is None else min(own, timer)

    def drain(self) -> Effects:
        """Return the effects of this turn, and begin the next."""
        outbox = self.outbox
        sends = self.frames.of(outbox.sends) if outbox.sends else []
        replies = self.frames.of(outbox.replies) if outbox.replies else []
        publish: list[bytes] = []
        if outbox.events or outbox.idle:
            self.counters.published += bool(outbox.events)
            publish = self.frames.stream(outbox.events, self.view.digest, subscribed=outbox.subscribed)
        effects = Effects(outbox.disconnect, outbox.connect, sends, replies, publish, outbox.notes, outbox.follow)
        outbox.clear()
        return effects

    def replies(self) -> list[tuple[bytes, bytes]]:
        """Return the replies of a turn not ``disturbed``, which needs no tick, and no ``drain`` but for its events."""
        return self.frames.of(self.outbox.take_replies())

    def note_subscribers(self, present: bool) -> None:
        """Note whether anybody subscribes to the invalidation stream. A new subscriber must be told its number."""
        self.outbox.note_subscribers(present=present)

    def retire(self, now: float, origin: bytes | None = None) -> None:
        """Hand over what this node owns, then leave; ``gone`` says when that is done. ``origin``: who asked for it."""
        if origin is not None:
            self._departure.note_asked(origin)
        if not self._departure.begun:
            self.set_time(now)
            self._departure.begin(now)
            self._follow_members(now)

    @property
    def gone(self) -> bool:
        """Tell whether this node has handed its slots over and left; then the driver stops."""
        return self._departure.gone

    def heed(self, readers: Readers) -> None:
        """Use from now on what the driver knows of the connections that ask."""
        self.requests.heed(readers)

    def account(self) -> dict[str, Any]:
        """Return what this node tells of itself, as plain values that nobody changes any more; see account.py."""
        hindrances = why_not_ready(
            self.membership, self._instant.now, joined=self.handshake.joined, in_doubt=self.doubt is not None
        )
        return account(self.coordinator, self.peers, self.requests.statistics(), hindrances)

    @property
    def settled(self) -> bool:
        """Tell whether all owners hold all their slots of the ring that this node knows."""
        return all(fact.synced == self.view.digest for fact in self.membership.owners())

    def leave(self, now: float) -> None:
        """Tell the others that this node goes away on purpose, and take no more requests."""
        self.set_time(now)
        self.membership.leave(now)

    @property
    def fatal(self) -> str | None:
        """Why this node cannot be part of the cluster (its id is taken, say). The driver stops with this text."""
        return self.handshake.fatal

    @property
    def ready(self) -> bool:
        """Tell whether clients are served: as ``why_not_ready`` has it, but quickly."""
        if not self.handshake.joined or self.doubt is not None or self.membership.own.state > State.SUSPECT:
            return False
        if self.membership.removed:  # it must first forget its data
            return False
        return self.membership.majority is None or self.membership.in_majority(self._instant.now)

    # -- time, members, background -------------------------------------------------------------------------

    def set_time(self, now: float) -> None:
        """Begin what happens at this time."""
        instant = self._instant
        if now == instant.now:
            return
        membership = self.config.membership
        if now - instant.now > membership.link_dead_after_s and self.membership.peers():
            self.doubt = self.membership.sequence
            self.outbox.note("stalled", seconds=round(now - instant.now, 3))
        instant.move(now)

    def _build_ring(self) -> Ring:
        cluster = self.config.cluster
        return Ring.build(
            self.membership.ring_members(), slots=cluster.slots, vnodes=cluster.vnodes, replicas=cluster.replicas
        )

    def _follow_members(self, now: float) -> None:
        """Let ring, links and pending operations follow the member table."""
        membership = self.membership
        died = membership.take_changes()
        if membership.removed and self.handshake.served:  # else it only starts, and has nothing yet
            self.counters.rejoins += 1
            self._rejoin(now)
        for address in died:
            self.peers.redial(address)
        known = [fact for fact in membership.facts() if fact.state <= State.DEAD]
        self.peers.dial(membership.own, known, membership.newcomers.dialled())
        doomed = self._losses.note() if membership.majority is not None else []
        self.view.note_present([fact.node_id for fact in membership.facts() if fact.state <= State.SUSPECT])
        if membership.ring_changed or membership.removed:
            self._change_ring(now)
        membership.note_followed()
        if doomed:
            self.counters.slots_voided += len(doomed)
            self._losses.void(doomed, self.clock.tick(self._instant.wall_ms))
        followed = (self.view.digest, tuple(fact.node_id for fact in membership.peers()))
        if self.handshake.joined and followed != self._followed:
            self._followed = followed
            self._movement.on_view(alone=not followed[1])

    def _change_ring(self, now: float) -> None:
        """Work with the ring of the present members; keep the former one for nodes that do not know of the change."""
        ring, view = self._build_ring(), self.view
        keep_until = now + self.config.membership.transition_s
        if ring.digest != view.digest:
            self.counters.ring_changes += 1
            early = self.requests.replicas.written_early(ring.digest)
            for slot in view.gained(ring):
                self.store.drop_slot(slot)
                view.held[slot] = 0
            self.store.merge([key for key, _ in early], [record for _, record in early], self._instant.wall_ms)
            former = view.without_us(ring) if not self.handshake.served else view.ring
            view.change(ring, former, keep_until, was_synced=self.membership.own.synced == view.digest)
            self.outbox.note("ring", members=[member.node_id for member in ring.members])
        if self._returning:
            view.keep(view.without_us(ring), keep_until)
        self._pending.replan()

    def _rejoin(self, now: float) -> None:
        """Come back after this node was counted dead: it missed writes, and after the grace also deletes."""
        self._returning = True
        away_s = now - self._in_touch_at
        # Under the strict policy the others may have had to forget what this node holds: it comes back with nothing.
        empty = self.membership.majority is not None or away_s > self.config.store.tombstone_grace_s
        if empty:
            self.store.clear()
            self._losses.start_anew()
        self.outbox.note("rejoined", away_s=round(away_s, 1), empty=empty)
        self._movement.distrust()
        self._followed = None

    def _keep_house(self, now: float) -> None:
        self.membership.tick(now)
        self.handshake.greet()
        if self.handshake.join_without_seeds(now) and not self.membership.peers():
            self.outbox.note("alone", seeds=self.config.node.seeds)
        if self.doubt is not None and not self.membership.peers():
            self.doubt = None
        if self.doubt is None and all(fact.state != State.DEAD for fact in self.membership.facts()):
            self._in_touch_at = now
        for part in self._pending.background.values():
            part.run()
        self._departure.run(now)
        self.requests.keep_house(now)
        if self.view.settling and self.settled and not self.gone and self.view.expire(now):
            self._returning = False
            self._leftovers.note_slots_of_others()
        if now >= self._publish_at:
            self._publish_at = now + PUBLISH_IDLE_S
            self.outbox.repeat_number()
        self._leftovers.look()

    def _is_calm(self) -> bool:
        """Tell whether no member is suspect, no rumour is to be told, and no slot moves."""
        return (
            self.handshake.joined
            and self.doubt is None
            and not self._departure.begun
            and self.membership.is_calm
            and not self.view.former
            and self.membership.own.synced == self.view.digest
        )

    def _link_lost(self, address: str) -> None:
        if node_id := self.peers.on_down(address):
            self._pending.on_link_lost(node_id)

    # -- frames --------------------------------------------------------------------------------------------

    def _decode(self, sender: bytes | str, frame: Frame, take: Take) -> list[Message]:
        try:
            clock, messages = decode_frame(frame)
        except ProtocolError:
            self.counters.malformed += 1
            return []
        return [] if clock and not self._early.merge(sender, frame, clock, take) else messages

    # -- answers, and gossip -------------------------------------------------------------------------------

    def _on_reply(self, address: str, answer: Any) -> None:
        link = self.peers.links.get(address)  # what came before it in the frame may have closed it
        if link is not None and not self._pending.on_answer(link.node_id, answer):
            self.counters.malformed += 1

    def _on_reject(self, address: str, reject: m.Reject) -> None:
        if reject.error[:1] == [Code.STALE_BOOT]:
            self._link_lost(address)
        else:
            self._on_reply(address, reject)

    def _follow_members_now(self) -> None:
        self._timed("change_of_members", self._follow_members, self._instant.now)

    def _on_ping(self, origin: bytes, ping: m.Ping) -> None:
        self.outbox.reply(origin, self.membership.on_ping(ping, self._instant.wall_ms, self._instant.now))

    def _on_ack(self, address: str, ack: m.Ack) -> None:
        link = self.peers.links.get(address)
        if link is None:
            return  # what came before it in the frame told that nobody is to be found there
        link.sample_offset(ack.wall_ms, self._instant.wall_ms)
        self.membership.on_ack(link.node_id, address, ack, self._instant.now)
        if self.doubt is not None and self.doubt < ack.sequence <= self.membership.sequence:
            self._follow_members(self._instant.now)  # a node that was removed must forget its data first
            self.doubt = None

    def _on_gossip(self, origin: bytes, gossip: m.Gossip) -> None:
        told = self.membership.on_gossip(gossip, self._instant.now)
        if told:
            self.outbox.reply(origin, m.Gossip(told))
