"""Frames for a mesh of three processes, beside an honest client that must not notice.

With keys, they come from those who have one: a client that may read, and a node that is not in the mesh.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Final

import zmq

import meshcache
from fuzzing.episodes import REQUESTS
from fuzzing.frames import Draw, Scene
from fuzzing.judging import judged, secured_mesh
from meshcache.keys import SecretKey, read_secret_key
from meshcache.protocol import messages as m
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.sockets.curve import dialling
from meshcache.sockets.options import set_options

PAUSE_S: Final = 0.0005
"""Between two frames: what is looked for here is what a frame does, not what a flood does."""
GREETING_S: Final = 5.0


class Stranger:
    """A connection to one node, which says whatever is drawn."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: SecretKey | None = None) -> None:
        self.socket = context.socket(zmq.DEALER)
        set_options(self.socket, dialling(key))
        self.socket.linger = 0
        self.socket.sndhwm = 0
        self.socket.connect(f"tcp://{address}")
        self.scene = Scene(time.time_ns() // 1_000_000)
        self.greet()

    def greet(self) -> None:
        """Learn what the node tells everybody."""
        self.socket.send(encode_frame(0, [m.Hello(m.PROTOCOL, "", None, b"")]))
        deadline = time.monotonic() + GREETING_S
        while time.monotonic() < deadline:
            if self.socket.poll(100):
                for message in decode_frame(self.socket.recv())[1]:
                    if isinstance(message, m.Welcome):
                        self.scene.boot, self.scene.facts = message.boot, message.members
                        return

    def tell(self, draw: Draw) -> None:
        """Send a frame, and throw away what came."""
        self.scene.wall_ms = time.time_ns() // 1_000_000
        self.socket.send(draw.frame(REQUESTS, self.scene))
        while self.socket.poll(0):
            self.socket.recv()


class Honest:
    """A client that reads and writes keys that nobody else uses, and notes for how long it was not served."""

    def __init__(self, mesh: meshcache.LocalMesh) -> None:
        self.longest_s = 0.0
        self.calls = 0
        self.wrong = 0
        self._mesh = mesh
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join(10)

    def _run(self) -> None:
        with self._mesh.client(timeout=5.0) as cache:
            served = time.monotonic()
            while not self._ended.wait(0.002):
                self.calls += 1
                try:
                    cache.set("honest", self.calls, ttl=None)
                    self.wrong += cache.get("honest") not in {self.calls, None}  # whoever sweeps all may take it
                except meshcache.MeshcacheError as error:
                    print(f"honest client: {error}", file=sys.stderr)
                    continue
                now = time.monotonic()
                self.longest_s, served = max(self.longest_s, now - served), now


def storm(frames: int, seconds: float, seed: int) -> int:
    """Send frames to the processes; 1 if one of them ended, or the client was told something wrong."""
    draw = Draw(random.Random(f"fuzz {seed}"))
    deadline = time.monotonic() + seconds
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pause = threading.Event()
    with meshcache.LocalMesh(nodes=3) as mesh:
        pids = dict(mesh.pids)
        honest = Honest(mesh)
        strangers = [Stranger(context, address) for address in mesh.addresses]
        sent = 0
        while sent < frames and time.monotonic() < deadline and mesh.pids == pids:
            for stranger in strangers:
                stranger.tell(draw)
            sent += len(strangers)
            pause.wait(PAUSE_S)
        honest.end()
        failed = mesh.pids != pids or honest.wrong > 0
        mesh.wait_ready()
        print(
            f"seed {seed}: {sent:,} frames; processes {'ended' if mesh.pids != pids else 'all live'}; honest client: "
            f"{honest.calls:,} calls, {honest.wrong} wrong, longest without service {honest.longest_s * 1000:.0f} ms"
        )
    context.destroy(linger=0)
    return int(failed)


def storm_with_keys(frames: int, seconds: float, seed: int) -> int:
    """Send frames over CURVE to the processes; 1 if what must not be has been."""
    draw, pause = Draw(random.Random(f"fuzz {seed}")), threading.Event()
    with secured_mesh() as secured, zmq.Context() as context:
        keys = [read_secret_key(secured.key_file(name), "client", "node") for name in ("reader", "n2")]
        strangers = [Stranger(context, address, key) for address in secured.mesh.addresses for key in keys]
        if not all(stranger.scene.boot for stranger in strangers):
            raise RuntimeError("a node did not welcome a stranger with a valid key: nothing would be tested")

        def flood(until: float) -> int:
            sent = 0
            while time.monotonic() < until:
                for stranger in strangers:
                    stranger.tell(draw)
                sent += len(strangers)
                pause.wait(PAUSE_S)
            return sent

        text, found = judged(secured, flood, frames, seconds)
        for stranger in strangers:
            stranger.socket.close(0)
    print(f"seed {seed}, with keys: {text}")
    for one in found:
        print(f"finding: {one}", file=sys.stderr)
    return int(bool(found))
