"""A program that does to one node what no honest one does, for a while, and then ends: see hostile.py.

Run as ``attacker.py ADDRESS PUBLISH ATTACK SECONDS``; prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import zmq

from meshcache.protocol import messages as m
from meshcache.protocol.wire import decode_frame, encode_frame

KEYS: Final = [b"large:%d" % i for i in range(8)]
DEADLINE_MS: Final = 5000
ARRIVALS_IDLE: Final = 2000
ARRIVALS_PER_S: Final = 100
OFFERED_PER_S: Final = 166_000
WINDOW: Final = 512
"""Requests under way at which a node answers as many as it can."""


class Stranger:
    """A raw connection to a node's ROUTER."""

    def __init__(self, address: str, routing_id: bytes = b"") -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 100_000)
        self.socket.setsockopt(zmq.RCVHWM, 1)
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.connect(f"tcp://{address}")
        self.number = 0
        self.boot = 0

    def hello(self) -> m.Welcome:
        """Be greeted."""
        self.socket.send(encode_frame(0, [m.Hello(m.PROTOCOL, "", None, b"")]))
        if not self.socket.poll(5000):
            raise TimeoutError("no greeting")
        (welcome,) = decode_frame(self.socket.recv())[1]
        assert isinstance(welcome, m.Welcome)
        self.boot = welcome.boot
        return welcome

    def request(self, kind: Any, *fields: Any, deadline_ms: int = DEADLINE_MS) -> bytes:
        """Return the frame of a request."""
        self.number += 1
        return encode_frame(0, [kind(self.number, self.boot, int(time.time() * 1000) + deadline_ms, b"", *fields)])

    def post(self, frame: bytes) -> bool:
        """Send, if that is possible."""
        with contextlib.suppress(zmq.Again):
            self.socket.send(frame, zmq.NOBLOCK)
            return True
        return False


def unread_replies(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Ask for 8 MB 250 times, and never read."""
    stranger = Stranger(address)
    stranger.hello()
    sent = sum(stranger.post(stranger.request(m.Get, 0, 0, False, KEYS, deadline_ms=30_000)) for _ in range(250))
    time.sleep(seconds)
    return {"sent": sent}


def unread_by_many(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """The same from fifty connections, each for less."""
    strangers = [Stranger(address) for _ in range(50)]
    for stranger in strangers:
        stranger.hello()
        for _ in range(5):
            stranger.post(stranger.request(m.Get, 0, 0, False, KEYS, deadline_ms=30_000))
    time.sleep(seconds)
    return {}


def unread_flood(address: str, _publish: str, seconds: float, count: int = 1) -> dict[str, Any]:
    """Ask for 8 MB 3,000 times as fast as it goes, and never read."""
    strangers = [Stranger(address) for _ in range(count)]
    for stranger in strangers:
        stranger.hello()
    sent, until = 0, time.monotonic() + seconds
    for _ in range(3000):
        for stranger in strangers:
            sent += stranger.post(stranger.request(m.Get, 0, 0, False, KEYS, deadline_ms=30_000))
    time.sleep(max(0.0, until - time.monotonic()))
    return {"sent": sent}


def unread_flood_by_many(address: str, publish: str, seconds: float) -> dict[str, Any]:
    """The same from twenty connections at once."""
    return unread_flood(address, publish, seconds, 20)


def _subscriber(publish: str) -> socket.socket:
    """Return a connection to a node's XPUB as a SUB opens it: ZMTP 3.1, NULL. libzmq would read, and protect itself."""
    host, port = publish.rsplit(":", 1)
    listener = socket.create_connection((host, int(port)))
    listener.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(16) + bytes(32))
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x03SUB"
    listener.sendall(b"\x04" + bytes([len(ready)]) + ready)
    return listener


def huge_subscription(_address: str, publish: str, seconds: float) -> dict[str, Any]:
    """Subscribe to a topic of 60 MB.

    On a socket of our own: libzmq may crash in who sends this, when the node cuts the connection in the middle.
    """
    topic = os.urandom(60_000_000)
    with _subscriber(publish) as listener:
        with contextlib.suppress(ConnectionError):
            listener.sendall(b"\x02" + (1 + len(topic)).to_bytes(8, "big") + b"\x01" + topic)
        time.sleep(seconds)
    return {}


def many_subscriptions(_address: str, publish: str, seconds: float) -> dict[str, Any]:
    """Subscribe to 100,000 topics."""
    listener: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    listener.setsockopt(zmq.LINGER, 0)
    listener.setsockopt(zmq.SNDHWM, 0)
    listener.connect(f"tcp://{publish}")
    for i in range(100_000):
        listener.setsockopt(zmq.SUBSCRIBE, b"%012d" % i)
    time.sleep(seconds)
    return {}


def deaf_subscribers(address: str, publish: str, seconds: float) -> dict[str, Any]:
    """Subscribe to everything, twenty times, and never read, while keys of 1 kB are deleted."""
    listeners = [_subscriber(publish) for _ in range(20)]
    for listener in listeners:
        listener.sendall(b"\0\1\1")
    stranger = Stranger(address)
    stranger.socket.setsockopt(zmq.RCVHWM, 1000)
    stranger.hello()
    until = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < until:
        keys = [b"%01000d" % ((sent * 256 + i) % 5000) for i in range(256)]
        sent += stranger.post(stranger.request(m.Delete, 1, int(m.EventKind.DELETE), keys))
        while stranger.socket.poll(20):
            stranger.socket.recv()
    return {"sent": sent}


def _in_flight(address: str, seconds: float, make: Callable[[Stranger, int], bytes], count: int = 20) -> dict[str, Any]:
    """Keep so many requests under way."""
    stranger = Stranger(address)
    stranger.hello()
    until, flying, answered, number = time.monotonic() + seconds, 0, 0, 0
    while time.monotonic() < until:
        while flying < count:
            number += 1
            flying += stranger.post(make(stranger, number))
        if stranger.socket.poll(500):
            stranger.socket.recv()
            answered += 1
            flying -= 1
        else:
            flying = 0
    return {"answered": answered, "sent": number}


def heavy_gets(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Get 4,096 keys at a time."""
    keys = [b"small:%d" % i for i in range(4096)]
    return _in_flight(address, seconds, lambda s, _: s.request(m.Get, 0, 0, False, keys))


def heavy_sets(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Set 4,096 keys at a time."""
    keys = [b"small:%d" % i for i in range(4096)]
    contents = [b"\0\0" + bytes(100)] * 4096
    return _in_flight(address, seconds, lambda s, _: s.request(m.Set, 0, -1, keys, contents))


def batches_of_gets(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Get 4,096 keys, again and again, one call after the other as an honest client does."""
    keys = [b"small:%d" % i for i in range(4096)]
    return _in_flight(address, seconds, lambda s, _: s.request(m.Get, 0, 0, False, keys), 1)


def batches_of_sets(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Set 4,096 keys, again and again, one call after the other."""
    keys = [b"small:%d" % i for i in range(4096)]
    contents = [b"\0\0" + bytes(100)] * 4096
    return _in_flight(address, seconds, lambda s, _: s.request(m.Set, 0, -1, keys, contents), 1)


def heavy_deletes(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Delete 4,096 keys of 1 kB at a time."""
    make = [[b"%d:%01000d" % (part, i) for i in range(4096)] for part in range(4)]
    kind = int(m.EventKind.DELETE)
    return _in_flight(address, seconds, lambda s, n: s.request(m.Delete, 0, kind, make[n % 4]))


def heavy_updates(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Count with 4,096 keys at a time."""
    keys = [b"n:%d" % i for i in range(4096)]
    changes = [[int(m.Change.INCR), 1, 0, -1]] * 4096
    return _in_flight(address, seconds, lambda s, _: s.request(m.Update, 0, 0, 0, keys, changes))


def heavy_tags(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Invalidate 4,096 tags at a time."""
    make = [[b"%d:tag:%d" % (part, i) for i in range(4096)] for part in range(20)]
    return _in_flight(address, seconds, lambda s, n: s.request(m.InvalidateTags, make[n % 20]))


def heavy_clears(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Clear prefixes that no key has."""
    return _in_flight(address, seconds, lambda s, n: s.request(m.Clear, b"none:%d" % n), 200)


def heavy_rumours(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Ping with 4,096 rumours."""
    stranger = Stranger(address)
    fact = stranger.hello().members[0]
    rumours = [m.Rumour(fact._replace(incarnation=i), []) for i in range(4096)]
    return _in_flight(address, seconds, lambda _, n: encode_frame(0, [m.Ping(n, "", b"", False, rumours)]))


def open_loop(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Offer OFFERED_PER_S single gets, come what may, and count what is answered within 0.25 s.

    Before that, what is answered if there are never more than WINDOW under way: the peak.
    """
    stranger = Stranger(address)
    stranger.socket.setsockopt(zmq.RCVHWM, 0)
    stranger.hello()
    peak = _offer(stranger, seconds / 2, WINDOW)
    found = _offer(stranger, seconds, 1 << 30)
    return {"peak_per_s": peak["answered"], "goodput_share": found["answered"] / peak["answered"], **found}


def _offer(stranger: Stranger, seconds: float, window: int) -> dict[str, float]:
    """Ask for small values, as long as fewer than ``window`` are under way, and OFFERED_PER_S at most.

    Returns what came of it in a second.
    """
    began = time.monotonic()
    until, counts = began + seconds, {"answered": 0, "late": 0, "refused": 0, "offered": 0, "blocked": 0}
    made: dict[int, float] = {}
    while time.monotonic() < until:
        now = time.monotonic()
        due = int((now - began) * OFFERED_PER_S) - counts["offered"]
        for _ in range(min(100, due, window - len(made))):
            frame = stranger.request(m.Get, 0, 0, False, [b"small:%d" % (stranger.number % 4096)], deadline_ms=250)
            if not stranger.post(frame):
                counts["blocked"] += 1
                break
            made[stranger.number] = now
            counts["offered"] += 1
        if len(made) >= window or due <= 0:
            stranger.socket.poll(1)
        _read_answers(stranger, made, counts)
    stranger.socket.poll(500)
    _read_answers(stranger, made, counts)
    took_s = time.monotonic() - began
    return {name: count / took_s for name, count in counts.items()}


def _read_answers(stranger: Stranger, made: dict[int, float], counts: dict[str, int]) -> None:
    with contextlib.suppress(zmq.Again):
        while True:
            for answer in decode_frame(stranger.socket.recv(zmq.NOBLOCK))[1]:
                if isinstance(answer, m.TurnedAway):
                    counts["refused"] += len(answer.requests)
                    for number in answer.requests:
                        made.pop(number, None)
                elif isinstance(answer, m.Reply | m.Reject):
                    age_s = time.monotonic() - made.pop(answer.request, 0.0)
                    what = ("answered" if age_s <= 0.25 else "late") if isinstance(answer, m.Reply) else "refused"
                    counts[what] += 1


def idle_connections(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Open as many connections as the node may have descriptors, and say nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    del soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count, until = int(os.environ.get("HOSTILE_CONNECTIONS", "1100")), time.monotonic() + seconds
    host, port = address.rsplit(":", 1)
    connections: list[socket.socket] = []
    failed = 0
    while time.monotonic() < until:
        if len(connections) < count:
            try:
                connections.append(socket.create_connection((host, int(port)), timeout=1.0))
            except OSError:
                failed += 1
                time.sleep(0.05)
        else:
            time.sleep(0.05)
    return {"opened": len(connections), "failed": failed}


def arrivals(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Keep 2,000 connections that do nothing, greeted, and open 100 more a second, of which each makes one call."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    context.set(zmq.MAX_SOCKETS, 8000)
    idle, unserved = [], 0
    for _ in range(ARRIVALS_IDLE):
        idle.append(Stranger(address))
        unserved += not _is_served(idle[-1])
    served, began = 0, time.monotonic()
    while (due_at := began + (served + unserved) / ARRIVALS_PER_S) < began + seconds:
        time.sleep(max(0.0, due_at - time.monotonic()))
        stranger = Stranger(address)
        is_served = _is_served(stranger)
        served, unserved = served + is_served, unserved + (not is_served)
        stranger.socket.close()
    still_served = sum(_is_served(stranger) for stranger in idle[::20])
    took_s = time.monotonic() - began
    return {"served": served, "unserved": unserved, "idle_served": still_served / len(idle[::20]), "took_s": took_s}


def _is_served(stranger: Stranger) -> bool:
    """Tell whether a connection is greeted and has one get answered."""
    try:
        stranger.hello()
    except TimeoutError:
        return False
    stranger.post(stranger.request(m.Get, 0, 0, False, [b"witness"]))
    return bool(stranger.socket.poll(5000)) and isinstance(decode_frame(stranger.socket.recv())[1][-1], m.Reply)


def half_messages(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Send messages that never end."""
    greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(16) + bytes(32)
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0) as connection:
            connection.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
            while time.monotonic() < until:
                connection.sendall(b"\x03" + (1 << 20).to_bytes(8) + bytes(1 << 20))
                sent += 1
    return {"megabytes": sent}


def harmless(address: str, _publish: str, seconds: float) -> dict[str, Any]:
    """Greet the node, and do no more: what attacks are compared with."""
    Stranger(address).hello()
    time.sleep(seconds)
    return {}


HARMLESS: Final = "harmless"

ATTACKS: Final[dict[str, Callable[[str, str, float], dict[str, Any]]]] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        unread_replies,
        unread_by_many,
        unread_flood,
        unread_flood_by_many,
        huge_subscription,
        many_subscriptions,
        deaf_subscribers,
        heavy_gets,
        heavy_sets,
        batches_of_gets,
        batches_of_sets,
        heavy_deletes,
        heavy_updates,
        heavy_tags,
        heavy_clears,
        heavy_rumours,
        open_loop,
        idle_connections,
        arrivals,
        half_messages,
    )
}

if __name__ == "__main__":
    told = {HARMLESS: harmless, **ATTACKS}[sys.argv[3]](sys.argv[1], sys.argv[2], float(sys.argv[4]))
    print(json.dumps(told), flush=True)
    os._exit(0)  # nothing of this is worth an orderly end
