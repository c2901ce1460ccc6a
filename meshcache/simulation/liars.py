"""A stranger that lies to nodes: about members, lives, versions and clocks, as a faulty or hostile program would.

Every lie is one that no node may believe, whoever says it. (A member, and without keys anybody, could also say things
that may be true; these are no lies.) So all promises must hold as if nothing had been said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgpack

from meshcache.core.membership.members import State, first_incarnation
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.messages import KINDS, Fact
from meshcache.protocol.record import NEVER_MS, expiry_bytes
from meshcache.protocol.wire import decode_frame
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import Line

HOUR_MS: Final = 3_600_000
SIMULATED_MS_MAX: Final = 120_000
"""A lie about time must still be a lie when it arrives, however long it was under way."""
LIES_PER_S: Final = 5.0
GHOSTS: Final = 40
NO_ADDRESSES: Final = ("garbage", "127.0.0.1:0", "", "0.0.0.0:7101", "a..b:7101")
NAME: Final = "liar"


class Liar:
    """Dials nodes, and tells them one lie after the other until it is stopped."""

    between_nodes = False

    def __init__(self, mesh: Mesh, lies: tuple[str, ...]) -> None:
        self.name = NAME
        self.routing_id = b"liar"
        self.stopped = False
        self._mesh = mesh
        self._lies = lies
        self._lines: dict[str, Line] = {}
        self._boots: dict[str, int] = {}
        """By address, the boot of the process that answered there last."""

    def begin(self) -> None:
        """Tell lies, again and again."""
        if not self.stopped:
            world = self._mesh.world
            world.after(world.rng.expovariate(LIES_PER_S), self.begin)
            host = world.rng.choice(list(self._mesh.nodes.values()))
            line = self._lines.get(host.address)
            if line is None:
                self._lines[host.address] = self._mesh.network.dial(self, host.address)
            elif line.up and host.core is not None:
                self._lie(line, host)

    def _lie(self, line: Line, host: NodeHost) -> None:
        what = self._mesh.world.rng.choice(self._lies)
        clock, messages = self._LIES[what](self, host)
        self._mesh.world.strike(what, f"to {host.name}")
        line.send(msgpack.packb([clock, *[[KINDS[type(one)], *one] for one in messages]]))

    # What the network calls

    def on_up(self, address: str) -> None:
        """See network.Dialler."""
        self._lines[address].send(msgpack.packb([0, [KINDS[m.Hello], m.PROTOCOL, "", None, b""]]))

    def on_down(self, address: str) -> None:
        """See network.Dialler."""

    def on_refused(self, address: str) -> None:
        """See network.Dialler."""

    def on_answer(self, address: str, frame: bytes) -> None:
        """See network.Dialler."""
        for message in decode_frame(frame)[1]:
            if isinstance(message, m.Welcome):
                self._boots[address] = message.boot

    # Lies

    def _wall_ms(self, host: NodeHost) -> int:
        return int(host.wall_s() * 1000)

    def _fact(self, host: NodeHost, node_id: str, address: str) -> Fact:
        wall_ms = self._wall_ms(host)
        return Fact(node_id, address, "", "", "h", "", 1.0, wall_ms << 16, first_incarnation(wall_ms), 0)

    def _lying_facts(self, host: NodeHost) -> tuple[int, list[m.Message]]:
        rng = self._mesh.world.rng
        said = self._fact(host, f"x{rng.randint(1, 9)}", rng.choice(NO_ADDRESSES))
        return 0, [m.Gossip([m.Rumour(said, [])])]

    def _lying_deaths(self, host: NodeHost) -> tuple[int, list[m.Message]]:
        rng = self._mesh.world.rng
        assert host.core is not None
        about = rng.choice(host.core.membership.facts())
        ahead = first_incarnation(self._wall_ms(host) + HOUR_MS)
        incarnation = rng.choice((ahead, (1 << 64) - 1, (1 << 64) - 1))
        state = rng.choice((State.SUSPECT, State.DEAD, State.LEFT))
        return 0, [m.Gossip([m.Rumour(about._replace(state=int(state), incarnation=incarnation), [])])]

    def _ghosts(self, host: NodeHost) -> tuple[int, list[m.Message]]:
        first = self._mesh.world.rng.randrange(1000)
        ghosts = [self._fact(host, f"ghost{first + i}", f"127.9.0.1:{8000 + first + i}") for i in range(GHOSTS)]
        return 0, [m.Gossip([m.Rumour(ghost, []) for ghost in ghosts])]

    def _lying_versions(self, host: NodeHost) -> tuple[int, list[m.Message]]:
        rng, wall_ms = self._mesh.world.rng, self._wall_ms(host)
        beyond = (wall_ms + rng.choice((10 * LEAD_MS_MAX + SIMULATED_MS_MAX, HOUR_MS))) << 16
        version = rng.choice((beyond.to_bytes(8, "big") + bytes(8), b"\xff" * 16))
        head = (0, self._boots.get(host.address, 0), wall_ms + 1000, b"")
        if rng.random() < 0.2:
            return 0, [m.Sweep(*head, version, b"")]
        record = version + expiry_bytes(NEVER_MS) + b"\0\1" + b"a lie"
        return 0, [m.Write(*head, rng.random() < 0.5, [b"v0", b"g0"], [record, record])]

    def _lying_clock(self, host: NodeHost) -> tuple[int, list[m.Message]]:
        clock = self._mesh.world.rng.choice(((self._wall_ms(host) + HOUR_MS) << 16, (1 << 64) - 1))
        return clock, [m.Ping(1, NAME, b"", False, [])]

    def _odd_pings(self, host: NodeHost) -> tuple[int, list[m.Message]]:  # noqa: ARG002  (as all are called)
        number = self._mesh.world.rng.choice((0, (1 << 62) - 1, (1 << 64) - 1, -1))
        return 0, [m.Ping(number, NAME, b"", True, []), m.PingReq(number, NAME)]

    _LIES: Final[dict[str, Callable[[Liar, NodeHost], tuple[int, list[m.Message]]]]] = {
        "lying facts": _lying_facts,
        "lying deaths": _lying_deaths,
        "ghosts": _ghosts,
        "lying versions": _lying_versions,
        "lying clock": _lying_clock,
        "odd pings": _odd_pings,
    }
    NAMES: Final = tuple(_LIES)
