"""What a client knows of the mesh (members, their health, the ring), and which node it asks.

Pure: no socket, and no clock except the one that it is given. Threads share it without a lock: the table of first
choices and the ring are replaced as a whole, never changed in place, and a lost count or due time is corrected a moment
later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from zlib import crc32

from meshcache.client.failure import NOT_READY
from meshcache.client.greetings import Greetings
from meshcache.client.hedging import Hedging
from meshcache.client.rests import Rests
from meshcache.client.retries import Holds, RetryBudget
from meshcache.client.windows import Windows
from meshcache.keys import SecretKey
from meshcache.protocol.breaker import Breaker
from meshcache.protocol.coordinators import coordinators
from meshcache.protocol.messages import DEFAULT_LEVEL, LEVEL_ALL, LEVEL_QUORUM, Fact, Welcome
from meshcache.protocol.ring import Ring, RingMember
from meshcache.protocol.versions import fitted

ALIVE: Final = 0
SUSPECT: Final = 1

REFRESH_S: Final = 30.0
"""The members are asked for at least this often while the client is used …"""
REFRESH_MIN_S: Final = 1.0
"""… and at most this often, however many answers show another view …"""
REFRESH_FAILING_S: Final = 0.2
"""… or this often while nodes fail: their keys are served again as soon as this client knows the new members."""
DOUBT_S: Final = 1.0
"""For how long a node that has just failed is asked after the others …"""
DOUBT_S_MAX: Final = 4.0
"""… and the most: it is twice as long each time that the node fails again."""
SLOW_S: Final = 1.0
"""A node that has too much to do, but has answered since so long ago, is slow and not dead …"""
SLOW_PATIENCE: Final = 2
"""… and an attempt there may take so many times as long."""
HOT_S: Final = 10.0
"""For how long a key counts as hot after a node last said so."""
SMALL_BYTES: Final = 1 << 20
"""Up to this size, an attempt gets no more time for its size."""
HOT_KEYS_MAX: Final = 4096
"""How many keys count as hot at most; further ones are ignored."""


class Settings:
    """What clients must know of the cluster, as in WELCOME, with defaults for what an older node does not send."""

    __slots__ = (
        "read_quorum",
        "replicas",
        "reply_bytes_max",
        "request_bytes_max",
        "slots",
        "small_bytes",
        "stream",
        "value_bytes_max",
        "vnodes",
        "write_quorum",
    )

    def __init__(self, told: dict[str, int | float | str]) -> None:
        def number(name: str, default: int) -> int:
            value = told.get(name, default)
            return value if isinstance(value, int) and value > 0 else default

        self.slots = number("slots", 1024)
        self.vnodes = number("vnodes", 150)
        self.replicas = number("replicas", 1)
        self.read_quorum = number("read_quorum", 0)
        self.write_quorum = number("write_quorum", 0)
        """0 for both: the node did not say."""
        self.value_bytes_max = number("value_bytes_max", 1 << 24)
        self.reply_bytes_max = number("reply_bytes_max", 1 << 23)
        self.request_bytes_max = number("request_bytes_max", 1 << 26)
        self.small_bytes = min(SMALL_BYTES, self.request_bytes_max // 2)
        """A request with fewer bytes of keys and values is one message, which gets no more time for its size."""
        self.stream = told.get("stream") != 0
        """Whether this client may follow the stream of announcements."""


class Peer:
    """One node, as this client sees it."""

    __slots__ = (
        "address",
        "answered",
        "answered_at",
        "boot",
        "breaker",
        "doubt_s",
        "doubted_until",
        "failed",
        "node_id",
        "state",
        "wall_offset_ms",
    )

    def __init__(self, address: str) -> None:
        self.address = address
        self.node_id = ""
        self.state = ALIVE
        self.boot = 0
        self.wall_offset_ms: float | None = None
        """The node's wall clock minus our monotonic clock, both in milliseconds."""
        self.breaker = Breaker()
        self.doubted_until = 0.0
        self.doubt_s = 0.0
        """How long the last doubt was meant to last."""
        self.answered_at = -math.inf
        """When the latest request was made that the node answered."""
        self.answered = 0
        self.failed = 0
        """Requests that it answered, and that it did not; a count that threads lose shifts nothing."""

    def doubt(self, now: float) -> None:
        """Ask the node after the others for a while."""
        if now >= self.doubted_until:  # else it is one of many requests that failed for the same reason
            answered = self.answered_at >= self.doubted_until - self.doubt_s
            self.doubt_s = DOUBT_S if answered else min(max(DOUBT_S, 2 * self.doubt_s), DOUBT_S_MAX)
            self.doubted_until = now + self.doubt_s

    def is_new_process(self, boot: int) -> None:
        """Forget what is known of a former process of this node."""
        if boot != self.boot:
            if self.boot:
                self.breaker.reset()
                self.doubted_until = 0.0
            self.boot = boot


class Routing:
    """Finds the first usable owner of each key, and which node to ask next."""

    value_bytes = 0
    """How long the values of a batch are expected to be, by those of the last large one; 0: short (parts.py)."""

    def __init__(self, seeds: tuple[str, ...], clock: Callable[[], float], key: SecretKey | None = None) -> None:
        self.seeds, self.clock = seeds, clock
        self.key = key
        """By which this client proves to nodes who it is."""
        self.settings = Settings({})
        self.known = False
        """Whether a node has answered, so that settings and ring are the cluster's."""
        self.ring, self.digest = Ring.build([], slots=1, vnodes=1, replicas=1), b""
        self.strange_views = 0
        """How many answers came from nodes that work with another ring."""
        self.peers: dict[str, Peer] = {}
        """The members of the ring, by address."""
        self.first: list[str | None] = [None]
        """By slot the address to ask first; None: use ``pick``, since a probe may be due. Its length is a power of
        two."""
        self._gathered: list[str | None] = [None]
        """The same for batches of writes that all owners must store: see ``first_of_batch``."""
        self.only: str | None = None
        """The address to ask first if it is the same for all slots: then no key needs to be hashed."""
        self.hot: dict[bytes, float] = {}
        """Per hot key, until when it counts as hot: reads of it are spread over its owners. Changed in place."""
        self.hot_copy_s = 0.0
        """How long a copy of a hot key may be used; 0: not at all, since reads of this mesh ask several nodes."""
        self.streams: dict[str, tuple[str, int]] = {}
        """By node id, the address at which each member publishes its invalidations, and its boot."""
        self.on_members: Callable[[], None] = _nothing
        """Called when members or owners changed, in the thread that learned of it."""
        self.errors = 0
        """Operations that failed in the end."""
        self.retries = 0
        """Rounds of requests after the first of an operation."""
        self.hedging = Hedging()
        self.unfinished = 0
        """Answers after which something was to be asked again, or had failed."""
        self.gone_answered = self.gone_failed = 0
        """What nodes counted that are no members any more."""
        self.rests, self.holds = Rests(), Holds()
        """Addresses that are not asked for a moment; overloaded nodes that are not asked again for a moment."""
        self.windows, self.greetings = Windows(), Greetings()
        """How many requests may be under way at each node; what is known of its clock."""
        self._retry_budget = RetryBudget(clock())
        self.failed_at = -math.inf
        """When a node last failed to answer."""
        self.lag_s = 0.0
        """How late the program does what is due, because it has too much to do. Drivers set it."""
        self.due = 0.0
        """When the hot path must call ``review``: to refresh the members, let a breaker probe, or end a doubt."""
        self._refresh_at, self._refreshed_at = math.inf, -math.inf
        self._ask_next = ""
        self._addresses: dict[str, str] = {}
        self._told: tuple[dict[str, tuple[str, int]], bytes] = ({}, b"")
        """The members and the ring for which ``on_members`` was called last."""

    # ---- what nodes tell

    def welcome(self, address: str, welcome: Welcome, wall_ms: float, now: float) -> None:
        """Take in a greeting; ``wall_ms``: what the node's wall clock shows more than ours."""
        self.settings = Settings(welcome.settings)
        self.rests.end(address, shut_only=True)
        self.learn(welcome.members, now)
        peer = self.peers.get(address)
        if peer is not None:
            peer.wall_offset_ms = wall_ms
            peer.is_new_process(welcome.boot)

    def learn(self, members: Iterable[Fact], now: float) -> None:
        """Take in the member table of a node."""
        facts = [fact for fact in members if fact.state <= SUSPECT]
        peers: dict[str, Peer] = {}
        for fact in facts:
            peer = self.peers.get(fact.address) or Peer(fact.address)
            peer.node_id = fact.node_id
            peer.state = fact.state if fact.weight > 0 else SUSPECT  # it is about to leave: do not ask it first
            peer.is_new_process(fact.boot)
            peers[fact.address] = peer
        settings = self.settings
        self.ring = Ring.build(
            [RingMember(fact.node_id, fact.weight, fact.host, fact.zone) for fact in facts if fact.weight > 0],
            slots=settings.slots,
            vnodes=settings.vnodes,
            replicas=settings.replicas,
        )
        streams = {fact.node_id: (fact.publish, fact.boot) for fact in facts}
        self.streams = streams
        gone = [peer for address, peer in self.peers.items() if address not in peers]
        self.gone_answered += sum(peer.answered for peer in gone)
        self.gone_failed += sum(peer.failed for peer in gone)
        self.peers = peers
        self.rests.keep(self.addresses())
        self.windows.keep(self.addresses())
        self.greetings.keep(self.addresses())
        self._addresses = {fact.node_id: fact.address for fact in facts}
        self._refreshed_at = now
        self._refresh_at = now + REFRESH_S
        self.review(now)
        # An exception from a signal handler may end this anywhere. Until the digest is set, answers show another view,
        # and so the members are asked for again; if ``on_members`` was not called for a change, it is called for the
        # next table.
        self.digest = self.ring.digest
        self.known = True
        if self._told != (streams, self.digest):
            self.on_members()
            self._told = (streams, self.digest)

    def note_view(self, address: str, digest: bytes) -> None:
        """Compare the view that an answer carried with ours; if they differ, ask that node for the members soon."""
        if digest != self.digest and digest:
            self.strange_views += 1
            self._ask_next = address
            self._refresh_by(self._refreshed_at + REFRESH_MIN_S)

    def succeeded(self, address: str, asked_at: float, count: int = 1) -> None:
        """Note that a request was answered, or so many in one message."""
        peer = self.peers.get(address)
        if peer is None:
            return
        peer.answered_at = asked_at
        peer.answered += count
        if peer.breaker.succeed(asked_at, count) or peer.doubted_until > asked_at:
            peer.doubted_until = 0.0
            self.review(self.clock())

    def failed(self, address: str, now: float) -> None:
        """Note that a request was not answered or sent: doubt the node, and ask another one for the members."""
        self.failed_at = now
        peer = self.peers.get(address)
        if peer is not None:
            before = peer.breaker.probe_at, peer.doubted_until
            peer.failed += 1
            peer.breaker.fail(now)
            peer.doubt(now)
            if self._ask_next == address:
                self._ask_next = ""
            self._refresh_by(self._refreshed_at + REFRESH_FAILING_S)
            if before != (peer.breaker.probe_at, peer.doubted_until):
                self.review(now)

    def note_silence(self, address: str, sent_at: float) -> None:
        """Note that a request was not answered in time: if none was that was made later, the node has too many."""
        peer = self.peers.get(address)
        if peer is None or peer.answered_at < sent_at:
            self.windows.note_overload(address, self.clock())

    def patience(self, address: str, now: float) -> int:
        """Return how many times as long an attempt may take at an address.

        What a slow node answers too late it has done for nobody, and the next attempt makes it slower.
        """
        if address not in self.windows.narrow:
            return 1
        peer = self.peers.get(address)
        return SLOW_PATIENCE if peer is not None and now - peer.answered_at < SLOW_S else 1

    def woke(self, address: str) -> None:
        """Note that a node answers that was not asked for a while."""
        if self.rests.end(address):
            self.review(self.clock())

    def not_ready(self, address: str, now: float) -> None:
        """Note that a node does not serve yet: ask the others first, and this one again soon."""
        self.rests.begin(address, NOT_READY, now)
        peer = self.peers.get(address)
        if peer is not None:
            peer.doubt(now)
            self.review(now)

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return self.gone_answered + sum([peer.answered for peer in list(self.peers.values())])

    def affords(self, retries: int, now: float) -> bool:
        """Tell whether this client may make so many retries, and charge them to its budget."""
        calls = self.answered - self.unfinished + self.errors
        return self._retry_budget.spend(retries, calls, now)

    def wall_ms(self, now: float) -> float | None:
        """Return the wall clock of the mesh, as some node told it."""
        for peer in self.peers.values():
            if peer.wall_offset_ms is not None:
                return now * 1000 + peer.wall_offset_ms
        return None

    def note_hot(self, keys: list[bytes], copy_s: float) -> None:
        """Note keys that are read very often, by the word of a node."""
        now = self.clock()
        self.hot_copy_s = copy_s
        if len(self.hot) + len(keys) > HOT_KEYS_MAX:
            for key in [key for key, until in list(self.hot.items()) if until <= now]:
                self.hot.pop(key, None)
        self.hot.update(dict.fromkeys(keys[: HOT_KEYS_MAX - len(self.hot)], now + HOT_S))

    # ---- whom to ask

    def first_of_batch(self, write_level: int) -> list[str | None]:
        """Return by slot the address to ask first for a batch of plain writes of this level.

        Where all owners must store a key, any of them may coordinate it, and then it is the one with which the batch
        takes few messages (coordinators.py), as long as that node is well. A write is done only when every owner has
        stored it, and an owner that holds something newer says so, and has it stamped anew. So it gets a version above
        all that was written before it, whoever coordinated that; and every owner that stamps a later write has seen
        it. Where fewer owners are enough, another coordinator might know neither.
        """
        settings = self.settings
        needs_all = write_level == LEVEL_ALL or write_level >= settings.replicas
        if write_level == DEFAULT_LEVEL:
            needs_all = settings.write_quorum >= settings.replicas
        elif write_level == LEVEL_QUORUM:
            needs_all = settings.replicas <= 2
        return self._gathered if needs_all else self.first

    def spread(self, key: bytes, now: float, chance: float) -> str | None:
        """Return one of the owners of a hot key, chosen by ``chance`` in [0, 1); None where reads cannot be spread."""
        if self.hot.get(key, 0.0) <= now:
            return None
        peers = self.peers
        owners = [peers.get(self._addresses.get(node_id, "")) for node_id in self.ring.owners[self.slot_of(key)]]
        usable = [peer.address for peer in owners if peer is not None and self._rank(peer, now) == 0]
        return usable[int(chance * len(usable))] if usable else None

    def other_owner(self, key: bytes, address: str, now: float) -> str | None:
        """Return an owner of a key that is well, and not the one at ``address``."""
        for node_id in self.ring.owners[self.slot_of(key)]:
            peer = self.peers.get(self._addresses.get(node_id, ""))
            if peer is None or peer.address == address or self._rank(peer, now) or peer.address in self.rests:
                continue
            if self.holds.until(peer.address, now) <= now:
                return peer.address
        return None

    def slot_of(self, key: bytes) -> int:
        """Return the slot of a key."""
        return crc32(key) & (len(self.first) - 1)

    def review(self, now: float) -> None:
        """Compute the first choices anew, and when to do that again."""
        ring = self.ring
        peers = self.peers
        usable = {p.node_id: p.address for p in peers.values() if self._rank(p, now) == 0}
        probing = {p.node_id for p in peers.values() if p.breaker.probe_at <= now}
        probing |= {p.node_id for p in peers.values() if p.address in self.rests and p.node_id in usable}
        addresses: dict[tuple[str, ...], str | None] = {}
        for owners in set(ring.owners):
            address = None
            if not owners or owners[0] not in probing:
                address = next((usable[node_id] for node_id in owners if node_id in usable), None)
            addresses[owners] = address
        self.first = [addresses[owners] for owners in ring.owners]
        self.only = self.first[0] if len(set(self.first)) == 1 else None
        well = {node_id: address for node_id, address in usable.items() if node_id not in probing}
        chosen = zip(coordinators(ring), self.first, strict=True)
        self._gathered = [first and well.get(node_id, first) for node_id, first in chosen]
        dues = [self._refresh_at]
        dues += [p.doubted_until for p in peers.values() if p.doubted_until > now]
        dues += [p.breaker.probe_at for p in peers.values() if p.breaker.probe_at > now]
        self.due = min(dues)

    def addresses(self) -> set[str]:
        """Return every address that this client knows: members and seeds."""
        return {*self.peers, *self.seeds}

    def pick(self, slot: int | None, avoid: set[str], now: float) -> str | None:
        """Return the best address to ask; None when all were tried. A breaker or a suspicion only changes the order."""
        best = None
        best_rank = math.inf
        for rank, peer in self._ranked(slot, now):
            if peer.address in avoid:
                continue
            if rank < best_rank:
                best, best_rank = peer, rank
        if best is not None:
            return best.address
        return next((seed for seed in self.seeds if seed not in avoid), None)

    def _ranked(self, slot: int | None, now: float) -> Iterator[tuple[float, Peer]]:
        """Yield every peer with its rank: by health first, then by its place in the preference list."""
        peers = self.peers
        owners = self.ring.owners[slot] if slot is not None and self.known else ()
        probe = peers.get(self._addresses.get(owners[0], "")) if owners else None
        if probe is not None and not probe.breaker.is_closed and probe.breaker.admits(now):
            yield -1, probe
        for i, node_id in enumerate(owners):
            peer = peers.get(self._addresses.get(node_id, ""))
            if peer is not None:
                yield self._rank(peer, now) * 2 + i / 1024, peer
        turn = (slot or 0) % max(1, len(peers))
        everyone = list(peers.values())
        for i, peer in enumerate(everyone[turn:] + everyone[:turn]):
            if peer.node_id not in owners:
                yield self._rank(peer, now) * 2 + 1 + i / 1024, peer

    def _rank(self, peer: Peer, now: float) -> int:
        if not peer.breaker.is_closed:
            return 3
        if peer.doubted_until > now:
            return 2
        return 1 if peer.state == SUSPECT else 0

    def address_of(self, node: str) -> str | None:
        """Return the address of a member given by id. An address is returned as it is, since the node may be new."""
        return node if ":" in node else self._addresses.get(node)

    # ---- when to ask for the members

    def take_refresh(self, now: float) -> bool:
        """Tell whether the caller should ask for the members now; no other caller is told so for a while."""
        if now < self._refresh_at:
            return False
        self._refreshed_at = now
        self._refresh_at = now + REFRESH_S
        self.review(now)
        return True

    def whom_to_refresh(self, now: float) -> str | None:
        """Return the node to ask for the members: one that showed another view, else the best that answered lately."""
        address, self._ask_next = self._ask_next, ""
        if address or not self.peers:
            return address or self.pick(None, set(), now)
        return min(self.peers.values(), key=lambda peer: (self._rank(peer, now), -peer.answered_at)).address

    def _refresh_by(self, at: float) -> None:
        self._refresh_at = min(self._refresh_at, at)
        self.due = min(self.due, self._refresh_at)


def _nothing() -> None:
    """Do nothing: the default of ``on_members``, until somebody wants to be told."""


def parse_members(results: list[Any]) -> list[Fact]:
    """Read the answer to INSPECT "view"; return an empty list if it is malformed: the next one may be better."""
    try:
        return [Fact(*(fitted(Fact, list(row)) or row)) for row in results[0]["members"]]
    except (TypeError, KeyError, IndexError):
        return []
