"""The faults of a simulation that are events: what happens to hosts, and to the links between them.

FAULTS names every fault that seeds draw, also those that are rates of the weather or habits of the clients. Each is
counted by its name when it happens, so that a test can see that none has vanished, and shows in the trace: as a line
``fault: …``, or as a mark on a frame (network.py).

Two plans use them. Under ``single`` one *strike* after the other happens to a mesh that has recovered from the one
before, and at most one process is lost at a time. Under ``chaos`` everything of a seed's *menu* happens at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from meshcache.core.node import NodeCore
from meshcache.core.operations.writes import QuorumWrite
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import SEED_NUMBERS, Mesh

FAULTS: Final[Mapping[str, str]] = {
    # on frames
    "drop": "a frame is lost",
    "duplicate": "a frame between nodes arrives twice",
    "reorder": "a frame overtakes another one",
    "stale delivery": "a frame of a broken connection is given to the next process at its address",
    "pipe full": "a frame is refused, since too many are under way",
    "answer dropped": "an answer is dropped, since too many are under way",
    # between hosts
    "clog": "nothing that one host sends to another arrives, until all of it does",
    "swizzle": "hosts are clogged one after the other, and unclogged in another order",
    "cut": "hosts and the others do not hear each other",
    "halves": "the mesh falls into halves",
    "isolate": "one node and the others do not hear each other",
    "bridge": "halves do not hear each other, but one node hears both",
    "majorities": "every node hears its neighbours on a circle, and no two the same ones",
    "one way": "some nodes are not heard by the others, but hear them",
    "flap": "a cut comes and goes",
    "heal": "all cuts and clogs end",
    "reset": "all connections of a node break",
    "cut client": "a client and a node do not hear each other, or one does not hear the other",
    # processes
    "crash": "a process is killed, and its memory lost",
    "pause": "a process is stopped for a while",
    "long pause": "a process was stopped for longer than it takes to be declared dead",
    "suspend": "a machine stands still, and its clock too",
    "slow": "a process takes long for each turn",
    "leave": "a node leaves without handing anything over",
    "retire": "a node hands over what it holds, and leaves",
    "join": "another node comes",
    "swap": "one node comes while another one retires",
    "storm": "many nodes come, go and die at the same moment",
    "two retire": "two nodes hand over and leave at the same time",
    "move": "a node comes back at another address",
    "impostor": "a second process comes with the id of a node",
    "jump": "a node comes back with another wall time",
    "wild clock": "a node comes back with a wall clock that is minutes off",
    "skew": "a node starts with a wall clock that is off",
    "drift": "a node's clocks run fast or slow",
    "crash while joining": "a process dies after it was given a part of its slots",
    "crash while handing over": "a process dies before all of its slots are handed over",
    "crash while writing": "a process dies when a write that it coordinates has been sent to some",
    # strangers
    "lying facts": "a node is told of a member at an address that is none",
    "lying deaths": "a node is told that a member is gone, as of a time that nobody can have seen",
    "ghosts": "a node is told of many members that are not there",
    "lying versions": "a node is told to store or drop something as of a time that is yet to come",
    "lying clock": "a node is told of a clock that is far ahead",
    "odd pings": "a node is pinged by nobody, with a number at the edge of its type",
    # stores
    "eviction": "a store drops live entries for its limits",
    "tombstone overflow": "a store drops tombstones before their time for its limit",
    "flood": "a client stores many keys at once",
    # clients
    "hot key": "a client asks for the one key that all ask for",
    "hasty call": "a call has a deadline of milliseconds",
    "retry": "a call got no answer, and is tried again",
    "abandoned call": "a caller goes away with all that it has under way",
}

ONCE: Final = (
    "crash",
    "pause",
    "leave",
    "retire",
    "join",
    "swap",
    "two retire",
    "slow",
    "suspend",
    "move",
    "impostor",
    "jump",
    "cut client",
    "crash while joining",
    "crash while handing over",
    "crash while writing",
)
"""The strikes of ``single``: at most one process loses what it holds."""

LOSSLESS: Final = ("retire", "join", "swap", "two retire", "impostor", "cut client")
"""The strikes during which nothing may be lost."""

CHAOS: Final = (
    "crash",
    "pause",
    "leave",
    "cut",
    "one way",
    "heal",
    "slow",
    "restore",
    "reset",
    "clog",
    "swizzle",
    "halves",
    "isolate",
    "bridge",
    "majorities",
    "flap",
    "suspend",
    "retire",
    "join",
    "storm",
    "move",
    "impostor",
    "jump",
    "wild clock",
    "cut client",
    "crash while joining",
    "crash while handing over",
    "crash while writing",
)
"""The faults from which ``chaos`` draws its menus."""

BETWEEN: Final = (
    "heal",
    "reset",
    "clog",
    "swizzle",
    "cut",
    "halves",
    "isolate",
    "bridge",
    "majorities",
    "one way",
    "flap",
)
"""The faults between hosts; the others happen to hosts."""

WILD_CLOCK_MS: Final = 600_000
SLOW_TURN_S_MAX: Final = 0.5
AMBUSH_TURNS_MAX: Final = {"crash while joining": 6, "crash while handing over": 10, "crash while writing": 2}
CLOG_S: Final = (0.05, 0.5, 5.0)


def _joins(core: NodeCore) -> bool:
    return not core.gone and core.coordinator.pending.background["movement"].statistics()["slots_missing"] > 0


def _hands_over(core: NodeCore) -> bool:
    return core.membership.own.weight == 0 and not core.gone


def _writes(core: NodeCore) -> bool:
    return any(isinstance(operation, QuorumWrite) for operation in core.coordinator.pending.running)


class Faults:
    """Makes faults happen to a mesh, and ends them."""

    def __init__(self, mesh: Mesh, *, skew_ms: int, turn_s: float, replicas: int) -> None:
        self.mesh = mesh
        self.world = mesh.world
        self.skew_ms = skew_ms
        self.turn_s = turn_s
        self.replicas = replicas
        self.spares: dict[str, None] = {}
        """Hosts that are part of the mesh only for a time: nobody restores them."""
        self.impostors: list[NodeHost] = []
        self.over = False

    # What befalls hosts

    def strike(self, what: str, host: NodeHost) -> list[NodeHost]:
        """Let something happen to a host; return the hosts that are to be restored after it."""
        return self._STRIKES[what](self, what, host)

    def _crash(self, what: str, host: NodeHost) -> list[NodeHost]:
        if host.core is not None:
            self.world.strike(what, host.name)
            host.crash()
        return [host]

    def _pause(self, what: str, host: NodeHost) -> list[NodeHost]:
        if host.running:
            self.world.strike(what, host.name)
            host.suspend() if what == "suspend" else host.pause()
        return [host]

    def _slow(self, what: str, host: NodeHost) -> list[NodeHost]:
        factor = self.world.rng.choice((2, 10, 100, 1000))
        host.turn_s = min(self.turn_s * factor, SLOW_TURN_S_MAX)
        self.world.strike(what, f"{host.name}: {host.turn_s:.4f} s a turn")
        return [host]

    def _leave(self, what: str, host: NodeHost) -> list[NodeHost]:
        if host.running:
            self.world.strike(what, host.name)
            assert host.core is not None
            host.retire() if what == "retire" else host.leave()
        return [host]

    def _join(self, what: str, host: NodeHost) -> list[NodeHost]:  # noqa: ARG002  (as all are called)
        down = [name for name in self.spares if self.mesh.nodes[name].core is None]
        if not down:
            return []
        spare = self.mesh.nodes[self.world.rng.choice(down)]
        self.world.strike(what, spare.name)
        spare.start()
        return []

    def _swap(self, what: str, host: NodeHost) -> list[NodeHost]:
        if host.running:
            self.world.strike(what, host.name)
            self._join("join", host)
            self._leave("retire", host)
        return [host]

    def _two_retire(self, what: str, host: NodeHost) -> list[NodeHost]:
        others = [other for other in self.mesh.nodes.values() if other.running and other is not host]
        if not host.running or len(others) <= self.replicas:
            return []
        other = self.world.rng.choice(others)
        self.world.strike(what, f"{host.name} {other.name}")
        return self._leave("retire", host) + self._leave("retire", other)

    def _storm(self, what: str, host: NodeHost) -> list[NodeHost]:  # noqa: ARG002  (as all are called)
        self.world.strike(what)
        for other in self.mesh.nodes.values():
            how = self.world.rng.choice(("start", "retire", "leave", "crash", "", ""))
            if how == "start" and other.core is None:
                other.start()
            elif how and how != "start":
                self.strike(how, other)
        return []

    def _move(self, what: str, host: NodeHost) -> list[NodeHost]:
        seeds = [f"n{number}" for number in SEED_NUMBERS]
        if host.name not in seeds:  # so that the others find their seeds at the same addresses
            if host.core is not None:
                host.crash()
            self.mesh.move(host)
            self.world.strike(what, f"{host.name} to {host.address}")
        return [host]

    def _impostor(self, what: str, host: NodeHost) -> list[NodeHost]:
        impostor = self.mesh.impostor(host)
        self.impostors.append(impostor)
        self.world.strike(what, f"{impostor.address} is {host.name}, too")
        impostor.start()
        return []

    def _cut_client(self, what: str, host: NodeHost) -> list[NodeHost]:
        if self.mesh.clients:
            rng, network = self.world.rng, self.mesh.network
            client = rng.choice(self.mesh.clients)
            ways = rng.choice(((True, True), (True, False), (False, True)))
            self.world.strike(what, f"{client.name}-{host.name}" + ("" if all(ways) else " one way"))
            if ways[0]:
                network.cut(client.name, host.name)
            if ways[1]:
                network.cut(host.name, client.name)
        return []

    def _jump(self, what: str, host: NodeHost) -> list[NodeHost]:
        rng = self.world.rng
        if what == "wild clock":
            offset_ms = rng.choice((-WILD_CLOCK_MS, WILD_CLOCK_MS))
        else:
            offset_ms = rng.randint(-self.skew_ms, self.skew_ms)
        if host.core is not None:
            host.crash()
        self.world.strike(what, f"{host.name} from {host.wall_offset_ms} ms to {offset_ms} ms")
        host.wall_offset_ms = offset_ms
        return [host]

    def _ambush(self, what: str, host: NodeHost) -> list[NodeHost]:
        """Let a host crash while it is doing something. The fault is counted when it happens."""
        at_it: Callable[[NodeCore], bool]
        if what == "crash while joining":
            if host.core is not None:
                host.crash()
            host.start()
            at_it = _joins
        elif what == "crash while handing over":
            self._leave("retire", host)
            at_it = _hands_over
        else:
            at_it = _writes
        if host.running:
            host.ambush(what, at_it, self.world.rng.randint(0, AMBUSH_TURNS_MAX[what]))
        return [host]

    _STRIKES: Final[dict[str, Callable[[Faults, str, NodeHost], list[NodeHost]]]] = {
        "crash": _crash,
        "pause": _pause,
        "suspend": _pause,
        "slow": _slow,
        "leave": _leave,
        "retire": _leave,
        "join": _join,
        "swap": _swap,
        "two retire": _two_retire,
        "storm": _storm,
        "move": _move,
        "cut client": _cut_client,
        "impostor": _impostor,
        "jump": _jump,
        "wild clock": _jump,
        "crash while joining": _ambush,
        "crash while handing over": _ambush,
        "crash while writing": _ambush,
    }

    def restore(self, host: NodeHost) -> None:
        """Make a host's process run, without any fault."""
        host.call_off()
        host.turn_s = self.turn_s
        if host.paused:
            host.resume()
        if host.core is None and host.name not in self.spares:
            host.start()

    def end(self) -> None:
        """End all faults that do not end by themselves."""
        self.over = True
        self.mesh.network.heal()
        for impostor in self.impostors:
            if impostor.core is not None:
                impostor.crash()
        for host in self.mesh.nodes.values():
            host.call_off()
            if abs(host.wall_offset_ms) > self.skew_ms:
                host.wall_offset_ms = 0
                if host.core is not None:
                    host.crash()

    # What lies between hosts

    def disturb(self, what: str, host: NodeHost) -> None:
        """Let something happen between hosts; ``host`` is one of them, where the fault is about one host."""
        network = self.mesh.network
        if what == "heal":
            self.world.strike(what)
            network.heal()
        elif what == "reset":
            self.world.strike(what, host.name)
            for line in list(host.lines.values()):
                line.break_down()
        elif what == "clog":
            self._clog()
        elif what == "swizzle":
            self._swizzle()
        else:
            pairs = self._pairs(what, host)
            self.world.strike(what, " ".join(f"{source}-{target}" for source, target in pairs))
            for source, target in pairs:
                network.cut(source, target)
            if what == "flap":
                self._flap(pairs, cut=True, times=self.world.rng.randint(2, 10))

    def clog_shortly(self, for_s: float) -> None:
        """Hold a link back for so short a time that nobody is suspected for it."""
        self._clog(for_s)

    def _clog(self, for_s: float | None = None) -> None:
        rng = self.world.rng
        source, target = rng.sample(list(self.mesh.nodes), 2)
        for_s = rng.choice(CLOG_S) * rng.random() if for_s is None else for_s
        self.world.strike("clog", f"{source}-{target} for {for_s:.3f} s")
        self.mesh.network.clog(source, target, for_s)

    def _swizzle(self) -> None:
        rng, names = self.world.rng, list(self.mesh.nodes)
        self.world.strike("swizzle")
        for name in rng.sample(names, rng.randint(2, len(names))):
            self.world.after(rng.random(), self._clog_host, name, rng.uniform(0.1, 2.0))

    def _clog_host(self, name: str, for_s: float) -> None:
        if not self.over:
            self.world.note(f"{name} is clogged for {for_s:.3f} s")
            for other in self.mesh.nodes:
                if other != name:
                    self.mesh.network.clog(name, other, for_s)
                    self.mesh.network.clog(other, name, for_s)

    def _flap(self, pairs: list[tuple[str, str]], *, cut: bool, times: int) -> None:
        if self.over:
            return
        for source, target in pairs:
            if cut:
                self.mesh.network.cut(source, target)
            else:
                self.mesh.network.mend(source, target)
        if times:
            delay_s = self.world.rng.uniform(0.02, 0.6)
            self.world.after(delay_s, lambda: self._flap(pairs, cut=not cut, times=times - 1))
        else:
            for source, target in pairs:
                self.mesh.network.mend(source, target)

    def _pairs(self, what: str, host: NodeHost) -> list[tuple[str, str]]:
        """Return which hosts do not hear which others, as (from, to)."""
        rng, names = self.world.rng, list(self.mesh.nodes)
        bridge = ""
        if what == "isolate":
            side = [host.name]
        elif what in {"halves", "bridge"}:
            side = rng.sample(names, len(names) // 2)
            bridge = rng.choice(names) if what == "bridge" else ""
        elif what == "majorities":
            order = rng.sample(names, len(names))
            near = max(1, len(names) // 4)
            return [
                (one, other)
                for i, one in enumerate(order)
                for j, other in enumerate(order)
                if near < abs(i - j) < len(names) - near
            ]
        else:
            side = rng.sample(names, rng.randint(1, len(names) - 1))
        out = [(here, there) for here in side for there in names if there not in side and bridge not in (here, there)]
        return out if what == "one way" else out + [(there, here) for here, there in out]
