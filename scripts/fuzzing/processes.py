"""Frames for a mesh of three processes, beside an honest client that must not notice.

With keys, they come from those who have one: a client that may read, and a node that is not in the mesh.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import AbstractContextManager
from typing import Final

import zmq

from fuzzing.episodes import REQUESTS
from fuzzing.frames import KEYS, Draw, Scene
from fuzzing.judging import JudgedMesh, judged, open_mesh, secured_mesh
from meshcache.keys import SecretKey, read_secret_key
from meshcache.protocol import messages as m
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.sockets.curve import dialling
from meshcache.sockets.options import set_options

GREETING_S: Final = 5.0
DEADLINE_MS: Final = 5000


class Stranger:
    """A connection to one node, which says whatever is drawn."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: SecretKey | None) -> None:
        self.socket = context.socket(zmq.DEALER)
        set_options(self.socket, dialling(key))
        self.socket.linger = 0
        self.socket.sndhwm = 0
        self.socket.connect(f"tcp://{address}")
        self.scene = Scene(time.time_ns() // 1_000_000)
        self._number = 0
        self._greet()

    def _greet(self) -> None:
        """Learn what the node tells everybody."""
        self.socket.send(encode_frame(0, [m.Hello(m.PROTOCOL, "", None, b"")]))
        deadline = time.monotonic() + GREETING_S
        while time.monotonic() < deadline:
            if self.socket.poll(100):
                for message in decode_frame(self.socket.recv())[1]:
                    if isinstance(message, m.Welcome):
                        self.scene.boot, self.scene.facts = message.boot, message.members
                        return

    def tell(self, frame: bytes) -> None:
        """Send a frame, and throw away what came."""
        self.socket.send(frame)
        while self.socket.poll(0):
            self.socket.recv()

    def valid_frame(self, rng: random.Random) -> bytes:
        """Return what any client may ask."""
        self._number += 1
        deadline_ms = self.scene.wall_ms + DEADLINE_MS
        asked = m.Get(self._number, self.scene.boot, deadline_ms, b"", 0, 0, meta=False, keys=[rng.choice(KEYS)])
        return encode_frame(0, [asked])


class Strangers:
    """Company (see Company) that says frames to all nodes."""

    def __init__(self, mesh: JudgedMesh, names: tuple[str, ...], seed: int) -> None:
        """``names``: whose keys they have; where there are no keys, one of each name says the same things."""
        self._draw = Draw(random.Random(f"fuzz {seed}"))
        self._harmless = random.Random(seed)  # of its own: how much is drawn from it depends on time
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        keys = [read_secret_key(mesh.key_file(name), "client", "node") if mesh.keys else None for name in names]
        self._all = [Stranger(self._context, address, key) for address in mesh.mesh.addresses for key in keys]
        if not all(stranger.scene.boot for stranger in self._all):
            self.close()
            raise RuntimeError("a node did not welcome a stranger: nothing would be tested")

    def hostile(self) -> int:
        """Say a frame to each node, over each connection."""
        for stranger in self._all:
            stranger.scene.wall_ms = time.time_ns() // 1_000_000
            stranger.tell(self._draw.frame(REQUESTS, stranger.scene))
        return len(self._all)

    def harmless(self) -> int:
        """Ask each node for a key, over each connection."""
        for stranger in self._all:
            stranger.scene.wall_ms = time.time_ns() // 1_000_000
            stranger.tell(stranger.valid_frame(self._harmless))
        return len(self._all)

    def close(self) -> None:
        """End all connections."""
        self._context.destroy(linger=0)


def storm(frames: int, seconds: float, seed: int, rate_per_s: float, *, keys: bool) -> int:
    """Send frames to the processes; 1 if what must not be has been."""
    names = ("reader", "n2") if keys else ("anybody",)
    how: AbstractContextManager[JudgedMesh] = secured_mesh() if keys else open_mesh()
    with how as mesh:
        text, found = judged(mesh, lambda: Strangers(mesh, names, seed), frames, seconds, rate_per_s)
    print(f"seed {seed}, {'with' if keys else 'without'} keys: {text}")
    for one in found:
        print(f"finding: {one}", file=sys.stderr)
    return int(bool(found))
