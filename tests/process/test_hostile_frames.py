"""Single frames, each sent to a fresh node on real sockets: it serves on, and who is honest notices nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from test_server import Caller, config, counters, free_port
from timing import eventually

from meshcache.core.membership.members import first_incarnation
from meshcache.core.membership.newcomers import TRIALS_MAX
from meshcache.node.links import Links
from meshcache.node.node import Node
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Fact, Rumour
from meshcache.protocol.wire import encode_frame

pytestmark = pytest.mark.process

Told = Callable[[Caller, str], list[m.Message]]
"""Makes messages for a caller and the id of the node that it calls."""


def links_of(node: Node) -> Links:
    """What a node that runs has dialled."""
    assert node._server is not None
    return node._server.links


def fact(node_id: str = "x", address: str = "127.0.0.1:9", **changes: Any) -> Fact:
    wall_ms = time.time_ns() // 1_000_000
    born = first_incarnation(wall_ms)
    return Fact(node_id, address, "", "", "h", "", 1.0, wall_ms << 16, born, 0)._replace(**changes)


def gossip(*facts: Fact) -> list[m.Message]:
    return [m.Gossip([Rumour(one, []) for one in facts])]


def crowd(count: int) -> list[Fact]:
    return [fact(f"x{i}", f"127.{i // 60_000 + 1}.{i // 250 % 250}.{i % 250 + 1}:9") for i in range(count)]


FRAMES: dict[str, Told] = {
    "no address": lambda caller, node_id: gossip(fact(address="garbage")),
    "port 0": lambda caller, node_id: gossip(fact(address="127.0.0.1:0")),
    "no address in HELLO": lambda caller, node_id: [m.Hello(m.PROTOCOL, "meshcache", fact(address="garbage"), b"")],
    "no address in PING": lambda caller, node_id: [m.Ping(1, "x", b"", True, [Rumour(fact(address=":1"), [])])],
    "multicast": lambda caller, node_id: gossip(fact(address="224.0.0.1:80")),
    "a scope that is none": lambda caller, node_id: gossip(fact(address="[fe80::1%none]:80")),
    "broadcast": lambda caller, node_id: gossip(fact(address="255.255.255.255:80")),
    "no such hosts": lambda caller, node_id: gossip(*[fact(f"x{i}", f"no{i}.invalid:9") for i in range(200)]),
    "dead for ever": lambda caller, node_id: gossip(fact(node_id, state=2, incarnation=(1 << 64) - 1)),
    "suspect for ever": lambda caller, node_id: gossip(fact(node_id, state=1, incarnation=(1 << 64) - 1)),
    "left, far ahead": lambda caller, node_id: gossip(fact(node_id, state=3, incarnation=1 << 55)),
    "400 members": lambda caller, node_id: gossip(*crowd(400)),
    "4,000 members": lambda caller, node_id: gossip(*crowd(4000)),
    "50 with one address": lambda caller, node_id: gossip(*[fact(f"x{i}") for i in range(50)]),
    "a sequence at its edge": lambda caller, node_id: [m.Ping((1 << 64) - 1, "x", b"", True, [])],
    "a long prefix": lambda caller, node_id: [m.Clear(*caller.head(), b"p" * 100_000)],
    "everything swept, as of the end of time": lambda caller, node_id: [m.Sweep(*caller.head(), b"\xff" * 16, b"")],
    "an immortal record": lambda caller, node_id: [
        m.Write(*caller.head(), False, [b"k"], [b"\xff" * 22 + b"\0\0planted"])
    ],
    "an immortal tombstone": lambda caller, node_id: [m.Write(*caller.head(), True, [b"k"], [b"\xff" * 22 + b"\1\0"])],
}


def is_served(caller: Caller, value: bytes) -> None:
    assert caller.set({b"k": value}).results is None
    assert caller.get(b"k").results[0][24:] == value


@pytest.mark.parametrize("told", FRAMES)
def test_a_node_serves_on(told: str) -> None:
    with Node(config(free_port(), membership={"join_wait_s": 0.3})) as node:
        honest, stranger = Caller(node.config.node.listen), Caller(node.config.node.listen)
        is_served(honest, b"before")
        stranger.socket.send(encode_frame(0, FRAMES[told](stranger, node.config.node.node_id)))
        for i in range(20):
            is_served(honest, b"%d" % i)
        status = honest.exchange(m.Inspect(*honest.head(), "status", b"")).results[0]
        assert [member["node_id"] for member in status["members"]] == [node.config.node.node_id]
        assert status["ready"]
        assert len(links_of(node).dealers) <= TRIALS_MAX
        assert honest.exchange(m.Delete(*honest.head(), 0, m.EventKind.DELETE, [b"k"])).results == [True]
        honest.close()
        stranger.close()


def test_what_cannot_be_dialled_is_counted_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when there are no descriptors left."""
    monkeypatch.setattr("meshcache.node.links.DIAL_AGAIN_S", 0.05)
    with Node(config(free_port())) as other, Node(config(free_port())) as node:
        caller = Caller(node.config.node.listen)
        opened = links_of(node)._open
        failures = [zmq.ZMQError(zmq.ETERM), OSError(24, "Too many open files"), ValueError("no address")]

        def fail_at_first(address: str, host: tuple[str, int]) -> None:
            if failures:
                raise failures.pop()
            opened(address, host)

        monkeypatch.setattr(links_of(node), "_open", fail_at_first)
        there = fact(other.config.node.node_id, other.config.node.listen)
        caller.socket.send(encode_frame(0, gossip(there)))
        eventually(lambda: counters(caller)["failed"].get("connecting") == 3)
        eventually(lambda: len(links_of(node).dealers) == 1)
        is_served(caller, b"v")
        caller.close()
