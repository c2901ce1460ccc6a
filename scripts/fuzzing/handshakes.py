"""Bytes for the ports of nodes with keys, from those who never get as far as a message.

Each case is a connection of its own: it says something and is then left open, until OPEN_MAX later ones are there. So
some hundreds of handshakes stall at any time. The dialogue of a client with a valid key is recorded by a relay; what
is said of it again is cut, damaged or whole, and no node may take it, because a node's part is new each time.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import zmq

from fuzzing.judging import judged, secured_mesh
from meshcache.keys import read_secret_key
from meshcache.local.processes import ports_of
from meshcache.protocol import messages as m
from meshcache.protocol.wire import encode_frame
from meshcache.sockets.curve import dialling
from meshcache.sockets.options import set_options

OPEN_MAX: Final = 300
CONNECT_S: Final = 1.0
RECORD_S: Final = 5.0
CHUNK_BYTES: Final = 1 << 16
MECHANISMS: Final = (b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"garbage", b"", b"\xff" * 20)
HTTP_SHARE: Final = 0.15
STREAM_SHARE: Final = 0.3
"""Of what is no HTTP, how much goes to the port of announcements."""
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
HTTP: Final = (
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer " + b"x" * 9000 + b"\r\n\r\n",
    b"POST /stats HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\nslow",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET /" + b"%00" * 3000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000,
)


class Intruder:
    """Company (see Company) that opens one connection after the other, and says something at each."""

    def __init__(self, addresses: list[str], dialogue: bytes, rng: random.Random) -> None:
        self._ports = [ports_of(int(address.rpartition(":")[2])) for address in addresses]
        self._dialogue = dialogue
        self._rng = rng
        self._cut = 0
        self._open: deque[socket.socket] = deque()

    def hostile(self) -> int:
        """Open a connection, and say what is wrong."""
        return self._say(self._http, self._zmtp)

    def harmless(self) -> int:
        """Open a connection, and say what is right, as far as that goes without a key."""
        return self._say(lambda: HEALTH, lambda: greeting(b"CURVE", 0))

    def _say(self, http: Callable[[], bytes], zmtp: Callable[[], bytes]) -> int:
        requests_port, stream_port, http_port = self._rng.choice(self._ports)
        if self._rng.random() < HTTP_SHARE:
            port, said = http_port, http()
        else:
            port, said = stream_port if self._rng.random() < STREAM_SHARE else requests_port, zmtp()
        with contextlib.suppress(OSError):
            dialled = socket.create_connection(("127.0.0.1", port), CONNECT_S)
            self._open.append(dialled)
            while len(self._open) > OPEN_MAX:
                self._open.popleft().close()
            dialled.sendall(said)
            return 1
        return 0

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._open.pop().close()

    def _http(self) -> bytes:
        said = bytearray(self._rng.choice(HTTP))
        if self._rng.random() < 0.5:
            said[self._rng.randrange(len(said))] ^= 1 << self._rng.randrange(8)
        return bytes(said)

    def _zmtp(self) -> bytes:
        rng, chance = self._rng, self._rng.random()
        if chance < 0.15:
            return rng.randbytes(rng.randint(0, 300))
        if chance < 0.4:
            end = rng.choice((64, 64, rng.randint(0, 64)))
            return (greeting(rng.choice(MECHANISMS), rng.randint(0, 1)) + rng.randbytes(rng.randint(0, 300)))[
                : end + 300
            ]
        if chance < 0.65:
            self._cut = (self._cut + 1) % len(self._dialogue)
            return self._dialogue[: self._cut]
        damaged = bytearray(self._dialogue)
        for _ in range(rng.randint(0, 3)):  # 0: it is replayed as it was
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        return bytes(damaged)


def greeting(mechanism: bytes, as_server: int) -> bytes:
    """Return a greeting of ZMTP 3.1 (ZeroMQ RFC 37)."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism[:20].ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def recorded_dialogue(address: str, key_file: str) -> bytes:
    """Return all that a client with a valid key says to a node until it is welcome, as it is on the wire."""
    host, _, port = address.rpartition(":")
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener, zmq.Context() as context:
        listener.settimeout(RECORD_S)
        with context.socket(zmq.DEALER) as dealer:
            set_options(dealer, {zmq.LINGER: 0, **dialling(read_secret_key(key_file, "client"))})
            dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
            dealer.send(encode_frame(0, [m.Hello(m.PROTOCOL, "", None, b"")]))
            near, _ = listener.accept()
            with near, socket.create_connection((host, int(port)), RECORD_S) as far:
                relay = threading.Thread(target=_relay, args=(near, far, said), daemon=True)
                relay.start()
                if not dealer.poll(int(RECORD_S * 1000)):
                    raise TimeoutError("the node did not welcome a client with a valid key")
                dealer.close(0)
                relay.join(RECORD_S)
    return bytes(said)


def _relay(near: socket.socket, far: socket.socket, said: bytearray) -> None:
    """Pass bytes on until one side ends, and keep what the near one says."""
    while ready := select.select([near, far], [], [], RECORD_S)[0]:
        for side in ready:
            chunk = side.recv(CHUNK_BYTES)
            if not chunk:
                return
            (far if side is near else near).sendall(chunk)
            if side is near:
                said += chunk


def knock(count: int, seconds: float, seed: int, rate_per_s: float) -> int:
    """Open so many connections to nodes with keys; 1 if what must not be has been."""
    with secured_mesh() as mesh:
        addresses, rng = mesh.mesh.addresses, random.Random(f"fuzz {seed}")
        dialogue = recorded_dialogue(addresses[0], mesh.key_file("honest"))
        text, found = judged(mesh, lambda: Intruder(addresses, dialogue, rng), count, seconds, rate_per_s)
    print(f"seed {seed}, a dialogue of {len(dialogue)} bytes: {text}")
    for one in found:
        print(f"finding: {one}", file=sys.stderr)
    return int(bool(found))
