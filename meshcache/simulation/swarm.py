"""Hundreds of member tables on virtual time: what membership costs, and how soon every member knows of a change.

It has only ``Membership`` objects, with the handshake of their links, on a network without faults; whole nodes would
spend their time on rings of hundreds of members. Every frame is encoded and counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from meshcache.config import MembershipSettings
from meshcache.core.membership.members import State, first_incarnation
from meshcache.core.membership.membership import TICK_S, Membership
from meshcache.core.outbox import Outbox
from meshcache.protocol.messages import PROTOCOL, Ack, Fact, Gossip, Hello, Message, Nack, Ping, PingReq, Vouch, Welcome
from meshcache.protocol.wire import encode_frame
from meshcache.simulation.hosts import EPOCH_MS
from meshcache.simulation.network import RECONNECT_S, RESET_S
from meshcache.simulation.world import World

DELAY_S: Final = 0.0005
WARM_UP_S: Final = 2.0
STEADY_S: Final = 10.0
KNOWN_WITHIN_S: Final = 60.0
_SETTINGS: Final[dict[str, int | float | str]] = {
    "cluster": "meshcache",
    "slots": 1024,
    "vnodes": 150,
    "replicas": 3,
    "value_bytes_max": 1 << 24,
    "request_bytes_max": 1 << 26,
    "reply_bytes_max": 1 << 20,
}


class Peer:
    """One process: a member table and its links."""

    def __init__(self, swarm: Swarm, number: int, settings: MembershipSettings) -> None:
        self.swarm = swarm
        self.name = f"node{number:04}"
        self.address = f"10.0.{number // 250}.{number % 250 + 1}:7101"
        self.running = True
        self.paused = False
        self.waiting: list[Callable[[], None]] = []
        """What arrived while this process was paused."""
        self.dialled: dict[str, None] = {}
        self.outbox = Outbox()
        self.frames = 0
        self.bytes = 0
        boot = (EPOCH_MS + int(swarm.world.now * 1000)) << 16 | number
        fact = Fact(
            self.name, self.address, "", "", self.name, "", 1.0, boot, first_incarnation(boot >> 16), 0, bytes(8)
        )
        self.membership = Membership(settings, fact, self.outbox, random.Random(number), swarm.world.now)

    def tick(self, every_s: float) -> None:
        """Call ``tick`` again and again, every so many seconds."""
        if self.running:
            if not self.paused:
                self.membership.tick(self.swarm.world.now)
                self.perform()
            self.swarm.world.after(every_s, self.tick, every_s)

    def perform(self) -> None:
        """Send what is to be sent, and dial members that have no link yet."""
        sends, replies = self.outbox.sends, self.outbox.replies
        self.outbox.clear()
        if self.membership.changed:
            self.membership.take_changes()
            self._dial()
        for address, messages in sends.items():
            self._transmit(address, messages)
        for origin, messages in replies.items():
            self._transmit(origin.decode(), messages)

    def _dial(self) -> None:
        for fact in self.membership.peers():
            if fact.address not in self.dialled:
                self.dialled[fact.address] = None
                hello = Hello(PROTOCOL, "meshcache", self.membership.own, self.membership.digest())
                self._transmit(fact.address, [hello])

    def dial_seed(self, address: str) -> None:
        """Say HELLO to a member of the cluster to join."""
        self.dialled[address] = None
        self._transmit(address, [Hello(PROTOCOL, "meshcache", self.membership.own, self.membership.digest())])

    def _transmit(self, address: str, messages: list[Message]) -> None:
        self.frames += 1
        self.bytes += len(encode_frame(1 << 62, messages))
        target = self.swarm.by_address[address]
        self.swarm.transmit(target, lambda: target.receive(self, messages))

    def receive(self, sender: Peer, messages: list[Message]) -> None:
        """Take a frame, and answer it."""
        if not self.running:
            return
        if self.paused:
            self.waiting.append(lambda: self.receive(sender, messages))
            return
        for message in messages:
            self._take(sender, message, self.swarm.world.now)
        self.perform()

    def _take(self, sender: Peer, message: Message, now: float) -> None:
        table, origin = self.membership, sender.address.encode()
        if isinstance(message, Ping):
            self.outbox.reply(origin, table.on_ping(message, 0, now))
        elif isinstance(message, Ack):
            table.on_ack(sender.name, sender.address, message, now)
        elif isinstance(message, PingReq):
            table.on_ping_req(origin, message, now)
        elif isinstance(message, Vouch):
            table.on_vouch(message)
        elif isinstance(message, Nack):
            table.on_nack(message)
        elif isinstance(message, Gossip):
            told = table.on_gossip(message, now)
            if told:
                self.outbox.reply(origin, Gossip(told))
        elif isinstance(message, Hello) and message.member is not None:
            table.on_hello(message.member, now)
            members = [] if message.facts == table.digest() else table.facts()
            self.outbox.reply(origin, Welcome(table.own.boot, EPOCH_MS, self.name, _SETTINGS, members))
        elif isinstance(message, Welcome):
            table.on_welcome(sender.address, sender.name, message.members, now)

    def resume(self) -> None:
        """Go on after a pause: everything that arrived meanwhile is there at once."""
        self.paused = False
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            action()


class Swarm:
    """A cluster of a given number of members, which all know each other already."""

    def __init__(
        self,
        nodes: int,
        *,
        seed: int = 0,
        loss: float = 0.0,
        tick_s: float = TICK_S,
        settings: MembershipSettings | None = None,
    ) -> None:
        self.world = World(seed)
        self.loss = loss
        self.tick_s = tick_s
        self.settings = settings or MembershipSettings()
        self.peers: list[Peer] = []
        self.by_address: dict[str, Peer] = {}
        for _ in range(nodes):
            self.add()
        for peer in self.peers:
            for other in self.peers:
                if other is not peer:
                    peer.membership.take(other.membership.own, 0.0)
                    peer.dialled[other.address] = None
            peer.membership.changed = False

    def add(self) -> Peer:
        """Start one more process, which knows no other."""
        peer = Peer(self, len(self.peers), self.settings)
        self.peers.append(peer)
        self.by_address[peer.address] = peer
        self.world.after(self.world.rng.uniform(0, self.tick_s), peer.tick, self.tick_s)
        return peer

    def transmit(self, target: Peer, deliver: Callable[[], None]) -> None:
        """Deliver a frame after a moment, if it is not lost."""
        rng = self.world.rng
        if target.running and not (self.loss and rng.random() < self.loss):
            self.world.after(DELAY_S * (0.5 + rng.random()), deliver)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run_until(self.world.now + seconds)

    def running(self) -> list[Peer]:
        """Return the processes that run."""
        return [peer for peer in self.peers if peer.running and not peer.paused]

    def kill(self, peer: Peer) -> None:
        """End a process; the others' connections to it break, and dialling it again is refused."""
        self.vanish(peer)
        for other in self.running():
            self.world.after(self.world.rng.uniform(0, RESET_S), self._break, other, peer.address)

    def _break(self, other: Peer, address: str) -> None:
        other.membership.link_lost(address, self.world.now)
        other.perform()
        self.world.after(RECONNECT_S * self.world.rng.uniform(0.5, 1.5), other.membership.link_refused, address)

    def vanish(self, peer: Peer) -> None:
        """End a process and its whole machine: no other process is told."""
        peer.running = False

    def states(self, peer: Peer) -> list[State]:
        """Return in which state each of the other members sees a member."""
        return [other.membership.state_of(peer.name) for other in self.running() if other is not peer]

    def until_all_think(self, peer: Peer, state: State) -> float:
        """Let time pass until all others see a member in this state; return how long it took."""
        began = self.world.now

        def known() -> bool:
            return all(seen == state for seen in self.states(peer))

        if not self.world.run_until_true(known, within_s=KNOWN_WITHIN_S):
            raise AssertionError(f"not all know that {peer.name} is {state.name} within {KNOWN_WITHIN_S} s")
        return self.world.now - began

    def traffic(self) -> tuple[int, int]:
        """Return how many frames, and how many bytes in them, were sent so far."""
        return sum(peer.frames for peer in self.peers), sum(peer.bytes for peer in self.peers)


class Figures(NamedTuple):
    """What was measured of one size of cluster. Traffic is what one node sends; it receives as much."""

    nodes: int
    frames_per_s: float
    bytes_per_s: float
    join_s: float
    """The time until every member knows a newcomer, and the newcomer every member."""
    kill_s: float
    silent_s: float
    death_bytes: float
    """How many bytes one node sends because of one death, beyond the steady traffic."""


def measure(nodes: int, *, seed: int = 0, settings: MembershipSettings | None = None) -> Figures:
    """Simulate a cluster at rest, then a join, a killed process and one that falls silent."""
    swarm = Swarm(nodes, seed=seed, settings=settings)
    swarm.run(WARM_UP_S)
    frames, size = swarm.traffic()
    swarm.run(STEADY_S)
    frames_per_s, bytes_per_s = [
        (after - before) / STEADY_S / nodes for after, before in zip(swarm.traffic(), (frames, size), strict=True)
    ]
    newcomer = swarm.add()
    newcomer.dial_seed(swarm.peers[0].address)
    began = swarm.world.now
    swarm.until_all_think(newcomer, State.ALIVE)
    swarm.world.run_until_true(lambda: newcomer.membership.count() == nodes + 1, within_s=KNOWN_WITHIN_S)
    join_s = swarm.world.now - began
    swarm.run(WARM_UP_S)
    size, began = swarm.traffic()[1], swarm.world.now
    swarm.kill(swarm.peers[nodes // 2])
    kill_s = swarm.until_all_think(swarm.peers[nodes // 2], State.DEAD)
    swarm.run(WARM_UP_S)
    death_bytes = (swarm.traffic()[1] - size) / nodes - bytes_per_s * (swarm.world.now - began)
    swarm.vanish(swarm.peers[0])
    silent_s = swarm.until_all_think(swarm.peers[0], State.DEAD)
    return Figures(nodes, frames_per_s, bytes_per_s, join_s, kill_s, silent_s, death_bytes)
