"""One node, without its sockets: messages and the time come in, effects go out.

A driver (server.py with ZeroMQ, simulator.py with a virtual network) calls, in turns::

    receive_request(origin, frame, now)    something arrived on our ROUTER; answers go back to ``origin``
    receive_answer(address, frame, now)    something arrived on the DEALER that we dialled to ``address``
    link_up / link_down / undeliverable    what happened to such a DEALER
    tick(now)                              at next_deadline() at the latest
    drain() -> Effects                     what is to be done outside, once a turn

None of them blocks, and none raises whatever the network sent: a peer's mistake is a counter and a dropped message.
``now`` is monotonic; the node's wall clock is the one it was started with, carried on by ``now``, so that it never
jumps while the node runs.

The path of a GET: session.py of the client, then ``_on_get`` here, then reads.py if this node alone cannot answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from meshcache.config import Config
from meshcache.core import inspection
from meshcache.core import messages as m
from meshcache.core.clock import HybridClock
from meshcache.core.coordinator import Coordinator
from meshcache.core.membership import Membership, State
from meshcache.core.messages import Code, EventKind, Fact, Message
from meshcache.core.outbox import Effects, Outbox
from meshcache.core.peers import Peers
from meshcache.core.reads import QuorumRead
from meshcache.core.record import HEADER_BYTES, expiry_bytes, tombstone
from meshcache.core.ring import Ring
from meshcache.core.store import Store
from meshcache.core.sweeps import Clear, Sweeps
from meshcache.core.updates import UpdateBatch, Updates
from meshcache.core.view import View
from meshcache.core.wire import decode_frame, encode_frame
from meshcache.core.writes import QuorumWrite
from meshcache.errors import ProtocolError

EXPIRATIONS_PER_TURN: Final = 256
SLOTS_DROPPED_PER_TURN: Final = 4
"""Bounds on the background work of one turn, so that no request waits long for it."""

DEADLINE_S_MAX: Final = 60.0
"""No client can make a node keep an operation for longer."""

HOUSEKEEPING_S: Final = 0.05
"""How often the node looks at what is not urgent to the millisecond: heartbeats, handshakes, expiry."""

PUBLISH_IDLE_S: Final = 0.25
"""How often the number of the invalidation stream is repeated when nothing happens."""

_FRAME_OVERHEAD: Final = 64


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    requests: int = 0
    keys: int = 0
    malformed: int = 0
    """Frames or messages that were none of ours."""
    late: int = 0
    """Requests dropped unexecuted because their deadline had passed."""
    stale_boot: int = 0
    """Requests that were meant for a former process."""
    refused: int = 0
    """Requests refused as not ready, overloaded or invalid."""
    clock_refused: int = 0
    """Frames refused because the sender's clock is too far ahead."""
    undeliverable: int = 0
    rejoins: int = 0
    """Times this node learned that it had been declared dead, and forgot its data."""
    ring_changes: int = 0
    published: int = 0
    """Turns of the invalidation stream."""


class NodeCore:
    """A node as a pure object: see the module's text for how it is driven."""

    def __init__(self, config: Config, *, boot: int, rng: random.Random, now: float, wall_ms: int) -> None:
        node, cluster = config.node, config.cluster
        self.config = config
        self.boot = boot
        self.counters = Counters()
        self.outbox = Outbox()
        self.subscribers = True
        """False spares the encoding of a stream that nobody receives; its numbers go on all the same."""
        self.longest_turn_s = 0.0
        """The longest that the driver took for one turn."""
        self.fatal: str | None = None
        """Why this node cannot be part of the cluster (its id is taken, say). The driver stops with this text."""
        self._started = now
        self._now = now
        self._wall_ms_at_start = wall_ms
        own = Fact(
            node.node_id, node.listen, node.publish_address, node.http_address, node.host_label, node.zone,
            node.weight, boot, wall_ms, int(State.ALIVE),
        )  # fmt: skip
        self.clock = HybridClock(boot)
        self.store = Store(slots=cluster.slots, max_entries=config.store.max_entries, max_bytes=config.store.max_bytes)
        self.membership = Membership(config.membership, own, self.outbox, rng, now)
        self.peers = Peers(cluster.name, node.seeds, self.outbox)
        self.view = View(own.node_id, self._build_ring())
        self.coordinator = Coordinator(
            config, self.store, self.view, self.membership, self.peers, self.clock, self.outbox
        )
        self._updates = Updates(self.coordinator)
        self._sweeps = Sweeps(self.coordinator)
        self._joined = not [seed for seed in node.seeds if seed != node.listen]
        self._doubt: int | None = None
        """After a stall: the ping whose ack shows that the others still count on this node."""
        self._sequence = 0
        self._publish_at = now
        self._housekeeping_at = now
        self._slots_to_drop: list[int] = []
        self._backlog = False
        """There is background work for the next turn."""
        self._on_request: dict[type[Any], Callable[[bytes, Any], None]] = {
            m.Get: self._on_get,
            m.Set: self._on_set,
            m.Delete: self._on_delete,
            m.Update: self._on_update,
            m.Clear: self._on_clear,
            m.Inspect: self._on_inspect,
            m.Read: self._on_read,
            m.Write: self._on_write,
            m.Sweep: self._on_sweep,
            m.Ping: self._on_ping,
            m.Facts: self._on_facts,
            m.Hello: self._on_hello,
        }
        self._set_time(now)

    # -- what the driver calls -----------------------------------------------------------------------------

    def receive_request(self, origin: bytes, frame: bytes, now: float) -> None:
        """Take a frame from the ROUTER."""
        self._set_time(now)
        for message in self._decode(frame):
            handler = self._on_request.get(type(message))
            if handler is None:
                self.counters.malformed += 1
            else:
                handler(origin, message)

    def receive_answer(self, address: str, frame: bytes, now: float) -> None:
        """Take a frame from the DEALER to ``address``."""
        self._set_time(now)
        link = self.peers.links.get(address)
        for message in self._decode(frame) if link is not None else ():
            if isinstance(message, m.Ack):
                self._on_ack(address, message)
            elif isinstance(message, m.Welcome):
                self._on_welcome(address, message)
            elif isinstance(message, m.Refused):
                self._on_refused(address, message)
            elif isinstance(message, m.ReadReply | m.WriteReply | m.SweepReply | m.Reply | m.Reject):
                if isinstance(message, m.Reject) and message.error[:1] == [Code.STALE_BOOT]:
                    self._link_lost(address)
                self.coordinator.on_answer(message.request, message)
            else:
                self.counters.malformed += 1

    def link_up(self, address: str, now: float) -> None:
        """The connection to ``address`` stands."""
        self._set_time(now)
        self.peers.on_up(address, self.membership.own)

    def link_down(self, address: str, now: float) -> None:
        """The connection to ``address`` broke: what was asked there is lost, and whoever is there is suspect."""
        self._set_time(now)
        self._link_lost(address)
        self.membership.suspect_address(address, now)

    def undeliverable(self, address: str, now: float) -> None:
        """A frame for ``address`` could not be handed over: not connected, or the pipe is full."""
        self._set_time(now)
        self.counters.undeliverable += 1
        link = self.peers.links.get(address)
        if link is not None and link.node_id:
            self.coordinator.on_link_lost(link.node_id)

    def tick(self, now: float) -> None:
        """Do what time asks for. It is called every turn, and mostly finds nothing due."""
        self._set_time(now)
        self.coordinator.tick()
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self._keep_house(now)
        if self.membership.changed:
            self._follow_members(now)
        if self._backlog:
            self._background()

    def next_deadline(self) -> float:
        """Return when tick has to be called at the latest."""
        if self._backlog:
            return self._now
        timer = self.coordinator.next_deadline()
        return self._housekeeping_at if timer is None else min(self._housekeeping_at, timer)

    def drain(self) -> Effects:
        """Return the effects of this turn, and begin the next."""
        outbox, clock = self.outbox, self.clock.latest
        effects = Effects(outbox.disconnect, outbox.connect)
        for address, messages in outbox.sends.items():
            effects.sends += [(address, encode_frame(clock, part)) for part in self._parts(messages)]
        for origin, messages in outbox.replies.items():
            effects.replies += [(origin, encode_frame(clock, part)) for part in self._parts(messages)]
        if outbox.events or outbox.idle:
            self._sequence += bool(outbox.events)
            self.counters.published += bool(outbox.events)
            if self.subscribers:
                stream = m.Invalidations(self.membership.own_id, self.boot, self._sequence, outbox.events)
                effects.publish.append(encode_frame(clock, [stream]))
        outbox.clear()
        return effects

    def leave(self, now: float) -> None:
        """Tell the others that this node goes away on purpose, and take no more requests."""
        self._set_time(now)
        self.membership.leave(now)

    @property
    def ready(self) -> bool:
        """Tell whether clients are served: the node has joined, is not in doubt of it, and does not leave."""
        return self._joined and self._doubt is None and self.membership.own.state <= State.SUSPECT

    # -- time, members, background -------------------------------------------------------------------------

    def _set_time(self, now: float) -> None:
        if now == self._now and self.coordinator.now_bytes:
            return
        membership = self.config.membership
        if now - self._now > membership.suspect_after_s + membership.dead_after_s and self.membership.peers():
            self._doubt = self.membership.sequence
        self._now = now
        coordinator = self.coordinator
        coordinator.now = now
        coordinator.wall_ms = wall_ms = self._wall_ms_at_start + int((now - self._started) * 1000)
        coordinator.now_bytes = expiry_bytes(wall_ms)

    def _build_ring(self) -> Ring:
        cluster = self.config.cluster
        return Ring.build(
            self.membership.ring_members(), slots=cluster.slots, vnodes=cluster.vnodes, replicas=cluster.replicas
        )

    def _follow_members(self, now: float) -> None:
        """Let ring, links and pending operations follow the member table."""
        membership = self.membership
        membership.changed = False
        if membership.removed:
            membership.removed = False
            self.counters.rejoins += 1
            self.store.clear()  # while it was counted dead, it missed writes
        for address in membership.died:
            self.peers.redial(address)
        membership.died.clear()
        self.peers.dial(membership.own, [fact for fact in membership.facts() if fact.state <= State.DEAD])
        if membership.ring_changed:
            membership.ring_changed = False
            ring = self._build_ring()
            if ring.digest != self.view.digest:
                self.counters.ring_changes += 1
                self.view.change(ring, now + self.config.membership.transition_s)
                self.coordinator.replan()

    def _keep_house(self, now: float) -> None:
        self.membership.tick(now)
        for link in self.peers.links.values():
            if link.up and not link.established:
                self.peers.hello(link, self.membership.own)
        if not self._joined and now >= self._started + self.config.membership.join_wait_s:
            self._joined = True  # nobody there: this node is the first, and goes on calling its seeds
        if self._doubt is not None and not self.membership.peers():
            self._doubt = None
        if self.view.expire(now):
            self._slots_to_drop = [slot for slot, owned in enumerate(self.view.owned) if not owned]
        if now >= self._publish_at:
            self._publish_at = now + PUBLISH_IDLE_S
            self.outbox.idle = True
        self._backlog = True

    def _background(self) -> None:
        """Do one turn's share of what can wait: sweeps, slots that others own, expired entries."""
        self._sweeps.run()
        if self.view.former:
            self._slots_to_drop = []  # the ring changed again: decide anew when that is over
        for slot in self._slots_to_drop[-SLOTS_DROPPED_PER_TURN:]:
            if not self.view.owned[slot]:
                self.store.drop_slot(slot)
        del self._slots_to_drop[-SLOTS_DROPPED_PER_TURN:]
        more_expired = self.store.expire(self.coordinator.wall_ms, EXPIRATIONS_PER_TURN)
        self._backlog = more_expired or self._sweeps.busy or bool(self._slots_to_drop)

    def _link_lost(self, address: str) -> None:
        node_id = self.peers.on_down(address)
        if node_id:
            self.coordinator.on_link_lost(node_id)

    # -- frames --------------------------------------------------------------------------------------------

    def _decode(self, frame: bytes) -> list[Message]:
        try:
            clock, messages = decode_frame(frame)
        except ProtocolError:
            self.counters.malformed += 1
            return []
        if clock and not self.clock.merge(clock, self.coordinator.wall_ms):
            self.counters.clock_refused += 1
            return []
        return messages

    def _parts(self, messages: list[Message]) -> list[list[Message]]:
        """Split a turn's messages for one destination so that no frame exceeds what the other side accepts."""
        if len(messages) == 1:
            return [messages]
        limit = self.config.limits.request_bytes_max // 2
        parts: list[list[Message]] = [[]]
        size = 0
        for message in messages:
            weight = _weight(message)
            if size + weight > limit and parts[-1]:
                parts.append([])
                size = 0
            parts[-1].append(message)
            size += weight
        return parts

    # -- the handshake and gossip --------------------------------------------------------------------------

    def _on_hello(self, origin: bytes, hello: m.Hello) -> None:
        refusal = self._refusal(hello)
        if refusal is not None:
            self.outbox.reply(origin, refusal)
            return
        if hello.member is not None:
            self.membership.merge([hello.member], self._now)
            self.membership.heard(hello.member.node_id, self._now)
        cluster, limits = self.config.cluster, self.config.limits
        settings: dict[str, int | float | str] = {
            "cluster": cluster.name,
            "slots": cluster.slots,
            "vnodes": cluster.vnodes,
            "replicas": cluster.replicas,
            "value_bytes_max": limits.value_bytes_max,
            "request_bytes_max": limits.request_bytes_max,
            "reply_bytes_max": limits.reply_bytes_max,
        }
        members = self.membership.facts()
        own_id = self.membership.own_id
        self.outbox.reply(origin, m.Welcome(self.boot, self.coordinator.wall_ms, own_id, settings, members))

    def _refusal(self, hello: m.Hello) -> m.Refused | None:
        name = self.config.cluster.name
        if hello.protocol != m.PROTOCOL:
            text = f"this node speaks protocol {m.PROTOCOL}, not {hello.protocol}: use the same version of meshcache"
            return m.Refused("protocol", text)
        if hello.cluster not in {"", name} or (hello.member is not None and not hello.cluster):
            return m.Refused("cluster", f"this node belongs to cluster {name!r}, not {hello.cluster!r}")
        if hello.member is not None:
            conflict = self.membership.conflict(hello.member, self._now)
            if conflict is not None:
                return m.Refused("id", f"{conflict}: give each node its own [node] id")
        return None

    def _on_welcome(self, address: str, welcome: m.Welcome) -> None:
        if welcome.boot == self.boot:  # a seed under another name is this node itself
            return
        cluster = self.config.cluster
        for name in ("slots", "vnodes", "replicas"):
            theirs = welcome.settings.get(name)
            if theirs != getattr(cluster, name):
                self._refuse_to_run(
                    f"cluster.{name} is {getattr(cluster, name)} here and {theirs} at {address}: they must agree"
                )
                return
        news = self.peers.on_welcome(address, welcome, self.coordinator.wall_ms)
        self.membership.merge(welcome.members, self._now)
        self.membership.heard(welcome.node_id, self._now)
        self._joined = True
        self._follow_members(self._now)
        if news:
            self.coordinator.replan()

    def _on_refused(self, address: str, refused: m.Refused) -> None:
        self._refuse_to_run(f"the node at {address} refused this one: {refused.text}")

    def _refuse_to_run(self, text: str) -> None:
        """Stop a node that never was part of the cluster; one that is goes on."""
        if not self._joined:
            self.fatal = text

    def _on_ping(self, origin: bytes, ping: m.Ping) -> None:
        self.outbox.reply(origin, self.membership.on_ping(ping, self.coordinator.wall_ms, self._now))

    def _on_ack(self, address: str, ack: m.Ack) -> None:
        link = self.peers.links[address]
        link.sample_offset(ack.wall_ms, self.coordinator.wall_ms)
        self.membership.on_ack(link.node_id, address, ack, self._now)
        if self._doubt is not None and ack.sequence > self._doubt:
            self._follow_members(self._now)  # forget first what a removed node must forget
            self._doubt = None

    def _on_facts(self, origin: bytes, facts: m.Facts) -> None:  # noqa: ARG002  (gossip has no answer)
        self.membership.merge(facts.members, self._now)

    # -- operations of clients -----------------------------------------------------------------------------

    def _admit(self, origin: bytes, request: Any, *, from_client: bool = True) -> bool:
        """Refuse what must not be executed: meant for a former process, too late, or more than this node can do."""
        if request.boot != self.boot:
            self.counters.stale_boot += 1
            self._reject(origin, request, [int(Code.STALE_BOOT)])
            return False
        if request.deadline_ms < self.coordinator.wall_ms:
            self.counters.late += 1
            return False
        if from_client:
            self.counters.requests += 1
            if not self.ready:
                self._reject(origin, request, [int(Code.NOT_READY)])
                return False
            if len(self.coordinator.pending) >= self.config.limits.pending_max:
                self._reject(origin, request, [int(Code.OVERLOADED)])
                return False
        return True

    def _reject(self, origin: bytes, request: Any, error: list[Any]) -> None:
        self.counters.refused += 1
        self.outbox.reply(origin, m.Reject(request.request, self.view.digest, error))

    def _reply(self, origin: bytes, request: int, results: list[Any] | None) -> None:
        self.outbox.reply(origin, m.Reply(request, self.view.digest, results))

    def _deadline(self, request: Any) -> float:
        remaining_s: float = (request.deadline_ms - self.coordinator.wall_ms) / 1000
        return self._now + min(remaining_s, DEADLINE_S_MAX)

    def _level_refused(self, origin: bytes, request: Any, *levels: int) -> bool:
        replicas = self.config.cluster.replicas
        for level in levels:
            if level > replicas or level < m.LEVEL_ALL:
                text = f"consistency asks for {level} replicas; cluster.replicas is {replicas}"
                self._reject(origin, request, [int(Code.INVALID), text])
                return True
        return False

    def _on_get(self, origin: bytes, get: m.Get) -> None:
        if not self._admit(origin, get) or (
            (get.r > 0 or get.w > 0) and self._level_refused(origin, get, get.r, get.w)
        ):
            return
        keys = get.keys
        self.counters.keys += len(keys)
        coordinator, view = self.coordinator, self.view
        if self._reads_one(get.r) and not view.former and self._owns(keys):
            # The usual read: this node owns the keys, and one holder is enough.
            records = self.store.read(keys, coordinator.now_bytes)
            if None not in records or not self._must_ask_others(get.w):
                self._reply_records(origin, get, records)
                return
            absent = [i for i, record in enumerate(records) if record is None]

            def fill(found: list[Any]) -> None:
                for i, record in zip(absent, found, strict=True):
                    records[i] = record
                self._reply_records(origin, get, records)

            absent_keys = [keys[i] for i in absent]
            QuorumRead(coordinator, absent_keys, get.r, get.w, self._deadline(get), fill).start()
            return
        QuorumRead(
            coordinator, keys, get.r, get.w, self._deadline(get),
            lambda records: self._reply_records(origin, get, records),
        ).start()  # fmt: skip

    def _reads_one(self, level: int) -> bool:
        configured = self.config.cluster.read_quorum
        return self.coordinator.level(level, configured, min(self.config.cluster.replicas, self._size())) == 1

    def _must_ask_others(self, write_level: int) -> bool:
        """Tell whether absence here proves nothing: there are other owners, and W + 1 > N."""
        owners = min(self.config.cluster.replicas, self._size())
        return owners > 1 and 1 + self.coordinator.level(write_level, self.config.cluster.write_quorum, owners) > owners

    def _size(self) -> int:
        return len(self.view.ring.members)

    def _owns(self, keys: list[bytes]) -> bool:
        if self.view.owns_all:
            return True
        owned, mask = self.view.owned, self.view.ring.slots - 1
        return all([owned[crc32(key) & mask] for key in keys])  # noqa: C419  (a list is faster than a generator)

    def _reply_records(self, origin: bytes, get: m.Get, records: list[Any]) -> None:
        if get.meta:
            records = [r[:HEADER_BYTES] if type(r) is bytes else r for r in records]
        elif len(records) > 1:
            records = self._within_budget(records)
        self._reply(origin, get.request, records)

    def _within_budget(self, records: list[Any]) -> list[Any]:
        """Replace what exceeds the size of a reply by [Code.MORE]; the first record always goes."""
        budget = self.config.limits.reply_bytes_max
        sizes = [len(record) for record in records if record is not None]
        if sum(sizes) <= budget:
            return records
        for i, record in enumerate(records):
            if record is not None:
                budget -= len(record)
                if budget < 0 and i:
                    records = [*records[:i], *[[int(Code.MORE)]] * (len(records) - i)]
                    break
        return records

    def _on_set(self, origin: bytes, request: m.Set) -> None:
        if not self._admit(origin, request) or self._level_refused(origin, request, request.w):
            return
        keys, contents = request.keys, request.contents
        size, limit = max(map(len, contents), default=2) - 2, self.config.limits.value_bytes_max
        if size > limit:
            self._reject(origin, request, [int(Code.TOO_LARGE), size, limit])
            return
        self.counters.keys += len(keys)
        coordinator = self.coordinator
        expires_ms = coordinator.expires_ms(request.ttl_ms)
        stamp = coordinator.stamp(expires_ms)
        if len(keys) == 1 or len(dict.fromkeys(keys)) == len(keys):
            records = [stamp + content for content in contents]
        else:  # a key twice in one batch: the later content must have the greater version
            records = [coordinator.stamp(expires_ms) + content for content in contents]
            stamp = records[-1]

        def done(errors: dict[int, list[int]], live: set[int]) -> None:  # noqa: ARG001  (of interest to deletes)
            coordinator.publish(EventKind.SET, stamp[:16], keys)
            results = [errors.get(i) for i in range(len(keys))] if errors else None
            self._reply(origin, request.request, results)

        QuorumWrite(coordinator, keys, records, request.w, self._deadline(request), done).start()

    def _on_delete(self, origin: bytes, request: m.Delete) -> None:
        if not self._admit(origin, request) or self._level_refused(origin, request, request.w):
            return
        keys, coordinator = request.keys, self.coordinator
        self.counters.keys += len(keys)
        version = coordinator.clock.tick(coordinator.wall_ms)
        grace_ms = int(self.config.store.tombstone_grace_s * 1000)
        record = tombstone(version, coordinator.wall_ms + grace_ms)

        def done(errors: dict[int, list[int]], live: set[int]) -> None:
            kind = EventKind.INVALIDATE if request.kind == EventKind.INVALIDATE else EventKind.DELETE
            coordinator.publish(kind, version, keys)
            self._reply(origin, request.request, [errors.get(i, i in live) for i in range(len(keys))])

        QuorumWrite(coordinator, keys, [record] * len(keys), request.w, self._deadline(request), done).start()

    def _on_update(self, origin: bytes, request: m.Update) -> None:
        if not self._admit(origin, request) or self._level_refused(origin, request, request.w, request.r):
            return
        limit = self.config.limits.value_bytes_max
        for change in request.changes:
            if type(change[1]) is bytes and len(change[1]) - 2 > limit:
                self._reject(origin, request, [int(Code.TOO_LARGE), len(change[1]) - 2, limit])
                return
        self.counters.keys += len(request.keys)
        UpdateBatch(
            self._updates, request, self._deadline(request),
            lambda results: self._reply(origin, request.request, results),
        ).start()  # fmt: skip

    def _on_clear(self, origin: bytes, request: m.Clear) -> None:
        if self._admit(origin, request):
            self._backlog = True
            Clear(
                self.coordinator, self._sweeps, request.prefix, self._deadline(request),
                lambda results: self._reply(origin, request.request, results),
            ).start()  # fmt: skip

    def _on_inspect(self, origin: bytes, request: m.Inspect) -> None:
        if not self._admit(origin, request, from_client=False):
            return
        coordinator = self.coordinator
        if request.what == "explain":
            inspection.Explain(
                coordinator, request.key, self._deadline(request),
                lambda results: self._reply(origin, request.request, results),
            ).start()  # fmt: skip
            return
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "view": lambda: inspection.view(coordinator),
            "status": lambda: inspection.status(coordinator, ready=self.ready),
            "stats": lambda: inspection.statistics(coordinator, self.counters),
            "replica": lambda: inspection.replica(coordinator, request.key),
        }
        make = makers.get(request.what)
        if make is None:
            text = f"inspect knows view, status, stats, explain and replica, not {request.what!r}"
            self._reject(origin, request, [int(Code.INVALID), text])
        else:
            self._reply(origin, request.request, [make()])

    # -- operations of other coordinators ------------------------------------------------------------------

    def _on_read(self, origin: bytes, read: m.Read) -> None:
        if not self._admit(origin, read, from_client=False):
            return
        records = self.store.read(read.keys, self.coordinator.now_bytes)
        budget, count = self.config.limits.reply_bytes_max, 0
        for record in records:
            budget -= len(record) if record is not None else 0
            if budget < 0 and count:
                break
            count += 1
        self.outbox.reply(origin, m.ReadReply(read.request, self.view.digest, records[:count]))

    def _on_write(self, origin: bytes, write: m.Write) -> None:
        if not self._admit(origin, write, from_client=False):
            return
        keys, records = write.keys, write.records
        if self._sweeps.has_floors:
            keys, records = self._sweeps.admit(keys, records)
        newer, live = self.store.merge(keys, records, self.coordinator.wall_ms)
        if write.request:
            self.outbox.reply(origin, m.WriteReply(write.request, self.view.digest, newer, live))

    def _on_sweep(self, origin: bytes, sweep: m.Sweep) -> None:
        if self._admit(origin, sweep, from_client=False):
            self._backlog = True
            self._sweeps.begin(
                sweep.prefix, sweep.version,
                lambda dropped: self.outbox.reply(origin, m.SweepReply(sweep.request, self.view.digest, dropped)),
            )  # fmt: skip


def _weight(message: Message) -> int:
    """Return about how many bytes a message takes, where it can be many."""
    if isinstance(message, m.Write | m.ReadReply):
        return _FRAME_OVERHEAD + sum([len(record) + 32 for record in message.records if record is not None])
    if isinstance(message, m.Reply) and message.results is not None:
        return _FRAME_OVERHEAD + sum([len(record) + 8 for record in message.results if type(record) is bytes])
    return _FRAME_OVERHEAD
