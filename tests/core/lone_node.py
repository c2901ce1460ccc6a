"""One node core, without its sockets and its driver, for tests that drive it by hand: alone, or with one peer."""

from __future__ import annotations

import random
from typing import Any

from meshcache.config import Config
from meshcache.core.membership.members import State, first_incarnation
from meshcache.core.node import NodeCore
from meshcache.core.outbox import Effects
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Fact, Rumour
from meshcache.protocol.record import NEVER_MS, expiry_bytes
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS

START = 1000.0
STRANGER = b"stranger"
GRACE_MS = 600_000


class Lone:
    """A node core driven by hand: time passes only when it is told to."""

    def __init__(self, *seeds: str, wiring: dict[str, Any] | None = None, **tables: Any) -> None:
        tables = {"cluster": {"slots": 64, "vnodes": 8, "replicas": 1, "write_quorum": 1}, **tables}
        node = {"id": "n1", "listen": "127.0.0.1:7101", "seeds": list(seeds)}
        config = Config.from_tables(node=node, **tables)
        self.now = START
        self.core = NodeCore(
            config, boot=EPOCH_MS << 16, rng=random.Random(1), now=START, wall_ms=EPOCH_MS, **(wiring or {})
        )
        self.replicas = config.cluster.replicas
        self.number = 0
        self.dialled: dict[str, None] = {}
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.sent: list[tuple[str, Any]] = []
        self.turn()

    @property
    def wall_ms(self) -> int:
        return EPOCH_MS + int((self.now - START) * 1000)

    def turn(self, pass_s: float = 0.0) -> Effects:
        self.now += pass_s
        self.core.tick(self.now)
        effects = self.core.drain()
        for address in effects.disconnect:
            self.dialled.pop(address, None)
        self.dialled.update(dict.fromkeys(effects.connect))
        self.notes += effects.notes
        self.sent += [(to, message) for to, frame in effects.sends for message in decode_frame(frame)[1]]
        return effects

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.05) + 1):
            self.turn(0.05)

    def tell(self, *messages: m.Message, origin: bytes = STRANGER, clock: int = 0) -> list[m.Message]:
        """Have it receive a frame; return what it answers in the same turn."""
        self.core.receive_request(origin, encode_frame(clock, list(messages)), self.now)
        return self.answers(self.turn())

    @staticmethod
    def answers(effects: Effects) -> list[m.Message]:
        return [message for _, frame in effects.replies for message in decode_frame(frame)[1]]

    def answer(self, address: str, *messages: m.Message) -> Effects:
        self.core.receive_answer(address, encode_frame(0, list(messages)), self.now)
        return self.turn()

    def head(self) -> tuple[int, int, int, bytes]:
        self.number += 1
        return self.number, self.core.boot, self.wall_ms + 5000, b""

    def get(self, key: bytes) -> bytes | None:
        (reply,) = self.tell(m.Get(*self.head(), m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, False, [key]), origin=b"client")
        assert isinstance(reply, m.Reply)
        assert reply.results is not None
        record = reply.results[0]
        return None if record is None or record[22] & 1 else record[24:]

    def set(self, key: bytes, value: bytes) -> bool:
        request = m.Set(*self.head(), m.DEFAULT_LEVEL, m.TTL_NEVER, [key], [b"\0\0" + value])
        (reply,) = self.tell(request, origin=b"client")
        return isinstance(reply, m.Reply) and reply.results is None

    def members(self) -> list[str]:
        return [fact.node_id for fact in self.core.membership.facts() if fact.state <= State.SUSPECT]

    def welcome(self, fact: Fact, *others: Fact) -> None:
        """The connection to a node stands, and it answers there."""
        self.core.link_up(fact.address, self.now)
        self.turn()
        settings: dict[str, int | float | str] = {"slots": 64, "vnodes": 8, "replicas": self.replicas}
        self.answer(fact.address, m.Welcome(fact.boot, self.wall_ms, fact.node_id, settings, [fact, *others]))

    def stats(self) -> dict[str, Any]:
        (reply,) = self.tell(m.Inspect(*self.head(), "stats", b""), origin=b"client")
        assert isinstance(reply, m.Reply)
        assert reply.results is not None
        found: dict[str, Any] = reply.results[0]
        return found


def fact(node_id: str = "n2", address: str = "", **changes: Any) -> Fact:
    address = address or f"127.0.0.2:{7000 + int(node_id[1:]) % 60_000}"
    born = first_incarnation(EPOCH_MS)
    return Fact(node_id, address, "", "", "h", "", 1.0, (EPOCH_MS << 16) + 1, born, 0)._replace(**changes)


def gossip(*facts: Fact) -> m.Gossip:
    return m.Gossip([Rumour(one, []) for one in facts])


def record(version: bytes, value: bytes = b"planted") -> bytes:
    return version + expiry_bytes(NEVER_MS) + b"\0\0" + value


class Pair:
    """A node with one peer, which is played by hand: it may answer anything."""

    def __init__(self, *, joins: bool = False, **cluster: Any) -> None:
        """``joins``: the node comes to the mesh of its peer, instead of the other way round."""
        cluster = {"slots": 64, "vnodes": 8, "replicas": 2, "write_quorum": 2, "read_quorum": 2, **cluster}
        self.peer = fact("n2")
        patient = {"probe_interval_s": 1000.0, "ack_timeout_s": 1000.0, "transition_s": 0.1}
        self.lone = Lone(*[self.peer.address] * joins, cluster=cluster, membership=patient)
        if not joins:
            self.lone.tell(gossip(self.peer))
        self.lone.welcome(self.peer)

    def asked_for(self, kind: Any) -> Any:
        """Let time pass until the node asks its peer for something; return what it asked last."""
        for _ in range(100):
            found = [message for _, message in self.lone.sent if isinstance(message, kind)]
            if found:
                return found[-1]
            self.lone.turn(0.05)
        raise AssertionError("it did not ask")

    def asked(self, effects: Effects) -> list[Any]:
        return [message for _, frame in effects.sends for message in decode_frame(frame)[1]]

    def request(self, message: m.Message, kind: Any) -> Any:
        """Have a client ask the node for something; return what the node asks its peer for."""
        self.lone.core.receive_request(b"client", encode_frame(0, [message]), self.lone.now)
        (asked,) = [one for one in self.asked(self.lone.turn()) if isinstance(one, kind)]
        return asked

    def play(self, *messages: m.Message) -> list[m.Message]:
        return self.lone.answers(self.lone.answer(self.peer.address, *messages))

    def store_large(self, keys: list[bytes]) -> bytes:
        """Have a client write values of 400 kB; return the record of one."""
        change = m.Set(*self.lone.head(), 1, 0, keys, [bytes(400_000)] * len(keys))
        self.lone.core.receive_request(b"writer", encode_frame(0, [change]), self.lone.now)
        self.lone.turn()
        return self.lone.core.store.peek(keys[0]) or b""

    def get(self, keys: list[bytes], origin: bytes = b"client") -> bool:
        """Have a client ask for keys; return whether the turn is to end."""
        get = m.Get(*self.lone.head(), m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, False, keys)
        return self.lone.core.receive_request(origin, encode_frame(0, [get]), self.lone.now)

    def reads(self) -> list[m.Read]:
        """End the turn; return the reads that the peer is asked for in it."""
        return [one for one in self.asked(self.lone.turn()) if isinstance(one, m.Read)]
