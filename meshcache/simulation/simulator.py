"""One simulation from one seed: everything is drawn, then it runs, and the checkers look on.

A seed draws a *plan*: the size of the mesh, N, W and R, the weather, what clients do, and one of three kinds of
faults, of which each allows for other promises to be checked:

- ``weather``: frames are late, lost, doubled, overtake each other; no process is lost. Everything is checked.
- ``single``: also one process after the other crashes, pauses or leaves; the next only after the mesh has recovered
  and every key was read. All but the atomic operations are checked: a counter that is lost begins anew.
- ``chaos``: anything at any time: cuts, one-way cuts, several crashes at once, slow nodes, stores too small.

First anything goes; then the faults stop, and within RECOVERY_S the mesh must agree and serve every operation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from meshcache.simulation.history import History, Violation
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import CALM, Weather
from meshcache.simulation.workload import Mix, Workload

RECOVERY_S: Final = 10.0
"""In how much simulated time the mesh must have recovered when the faults have stopped."""

FAULTS_S: Final = 14.0
"""How long anything goes."""

PROOF_S: Final = 1.5
"""How long every operation must succeed after the recovery."""

_LEVELS: Final = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 2), (3, 3, 1), (3, 3, 2), (3, 2, 3))
_LOOSE_LEVELS: Final = ((2, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 3), (2, 1, 2))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed means."""

    seed: int
    kind: str = "weather"
    nodes: int = 3
    replicas: int = 2
    write_quorum: int = 2
    read_quorum: int = 1
    slots: int = 64
    weather: Weather = CALM
    skew_ms: int = 0
    """How far a node's wall clock may be off, either way."""
    turn_s: float = 0.0002
    clients: int = 3
    lanes: int = 1
    """Operations that one client has under way."""
    stray: float = 0.0
    """How often a client asks any node instead of an owner."""
    strikes: tuple[str, ...] = ("crash", "crash", "pause", "leave")
    """What happens to processes under ``single``."""
    timeout_s: float = 2.0
    transition_s: float = 3.0
    tombstone_grace_s: float = 600.0
    max_entries: int = 10_000
    max_bytes: int = 100_000_000
    mix: Mix = field(default_factory=Mix)

    @property
    def strict(self) -> bool:
        """Tell whether reads and writes, and writes and writes, always meet in a node."""
        n, w, r = min(self.replicas, self.nodes), self.write_quorum, self.read_quorum
        return w + r > n and 2 * w > n and self.max_entries > 1000

    @classmethod
    def draw(cls, seed: int) -> Plan:
        """Draw a plan; its own random numbers, so that plans can grow without changing what follows."""
        rng = random.Random(f"plan {seed}")
        kind = rng.choice(("weather", "weather", "single", "single", "single", "chaos"))
        loose = kind == "chaos" and rng.random() < 0.5
        n, w, r = rng.choice(_LOOSE_LEVELS if loose else _LEVELS)
        small = kind == "chaos" and rng.random() < 0.3
        return cls(
            seed=seed,
            kind=kind,
            nodes=rng.randint(max(3, n), 6),
            replicas=n,
            write_quorum=w,
            read_quorum=r,
            slots=rng.choice((16, 64, 256)),
            weather=_draw_weather(rng, kind),
            skew_ms=rng.choice((0, 5, 200, 2000)),
            turn_s=rng.choice((0.0001, 0.0005, 0.002)),
            clients=rng.randint(2, 4),
            lanes=rng.randint(1, 2),
            stray=rng.choice((0.0, 0.0, 0.1, 0.5)),
            timeout_s=rng.choice((0.5, 1.0, 2.0, 5.0)),
            transition_s=rng.choice((0.5, 1.0, 3.0)),
            tombstone_grace_s=rng.choice((3.0, 600.0)),
            max_entries=rng.choice((3, 6)) if small else 10_000,
            max_bytes=rng.choice((2_000, 100_000_000)) if small else 100_000_000,
            mix=Mix(
                values=rng.randint(1, 6),
                counters=rng.randint(1, 3),
                guards=rng.randint(1, 3),
                think_s=rng.choice((0.02, 0.1, 0.3)),
                padding=rng.choice((0, 0, 100)),
            ),
        )


def _draw_weather(rng: random.Random, kind: str) -> Weather:
    bad = kind == "chaos"
    return Weather(
        delay_s=rng.choice((0.0002, 0.002, 0.02) if not bad else (0.0005, 0.01, 0.1)),
        loss=rng.choice((0.0, 0.0, 0.01, 0.05) if not bad else (0.0, 0.05, 0.3)),
        duplication=rng.choice((0.0, 0.0, 0.1, 0.5)),
        in_order=rng.random() < 0.5,
        stale=rng.choice((0.0, 0.5)),
    )


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.mesh = Mesh(
            nodes=0, seed=plan.seed, trace=trace,
            cluster={
                "replicas": plan.replicas, "write_quorum": plan.write_quorum, "read_quorum": plan.read_quorum,
                "slots": plan.slots, "vnodes": 8,
            },
            membership={"transition_s": plan.transition_s},
            store={
                "max_entries": plan.max_entries, "max_bytes": plan.max_bytes,
                "tombstone_grace_s": plan.tombstone_grace_s,
            },
        )  # fmt: skip
        self.world = self.mesh.world
        rng = self.world.rng
        for _ in range(plan.nodes):
            skew_ms = rng.randint(-plan.skew_ms, plan.skew_ms)
            host = self.mesh.add(wall_offset_ms=skew_ms, rate=1 + rng.uniform(-5e-4, 5e-4), turn_s=plan.turn_s)
            host.on_turn = self._check_memory
        fresh = plan.strict and plan.kind != "chaos"
        self.history = History(
            fresh=fresh,
            atomic=fresh and plan.kind == "weather",
            durable=fresh and plan.write_quorum - 1 >= plan.read_quorum,
            skew_s=2 * plan.skew_ms / 1000 + 0.05,
        )
        self.workload = Workload(self.world, self.history, plan.mix)

    def run(self) -> Simulation:
        """Run it to its end. Raises Violation where a promise was broken."""
        plan, mesh, world = self.plan, self.mesh, self.world
        for host in mesh.nodes.values():
            world.at(world.rng.uniform(0, 0.5), host.start)
        world.run_until(0.5)
        self._converge("at the start")
        mesh.network.weather = plan.weather
        clients = [mesh.client(f"c{i + 1}", timeout_s=plan.timeout_s, stray=plan.stray) for i in range(plan.clients)]
        for client in clients:
            for _ in range(plan.lanes):
                self.workload.drive(client, plan.timeout_s)
        getattr(self, f"_{plan.kind}")()
        self._heal()
        self._converge("after the faults stopped")
        self._prove_service(clients)
        self.workload.stopped = True
        world.run_until(world.now + plan.timeout_s + 0.2)
        self.history.finish()
        self._check_rest()
        return self

    # The kinds of faults

    def _weather(self) -> None:
        self.world.run_until(self.world.now + FAULTS_S)

    def _single(self) -> None:
        world, mesh = self.world, self.mesh
        end = world.now + FAULTS_S
        reader = mesh.client("reader", timeout_s=5.0)
        while world.now < end:
            world.run_until(world.now + world.rng.uniform(0.2, 2.0))
            host = world.rng.choice(list(mesh.nodes.values()))
            what = world.rng.choice(self.plan.strikes)
            self._strike(host, what)
            world.run_until(world.now + world.rng.choice((0.05, 0.5, 1.5, 3.0, 6.0)))
            self._restore(host)
            self._converge(f"after a {what} of {host.name}", transitions=True)
            self.workload.reread(reader, 5.0)
            world.run_until_true(lambda: not any(op.client == "reader" for op in self.history.pending), within_s=6.0)

    def _chaos(self) -> None:
        world, mesh = self.world, self.mesh
        rng = world.rng
        end = world.now + FAULTS_S
        hosts = list(mesh.nodes.values())
        while world.now < end:
            world.run_until(world.now + rng.expovariate(1.0))
            what = rng.choice(("crash", "pause", "leave", "cut", "one way", "heal", "slow", "restore", "reset"))
            host = rng.choice(hosts)
            if what in {"crash", "pause", "leave"}:
                self._strike(host, what)
            elif what in {"cut", "one way"}:
                side = rng.sample(list(mesh.nodes), rng.randint(1, len(hosts) - 1))
                world.note(f"{what}: {' '.join(side)}")
                mesh.cut(side, one_way=what == "one way")
            elif what == "heal":
                mesh.network.heal()
            elif what == "slow":
                host.turn_s = rng.choice((self.plan.turn_s, 0.05, 0.3))
            elif what == "reset":
                for line in list(host.lines.values()):
                    line.break_down()
            else:
                self._restore(host)

    def _strike(self, host: NodeHost, what: str) -> None:
        if host.core is None:
            return
        if what == "leave" and not host.paused:
            host.leave()
        elif what == "pause":
            host.pause()
        else:
            host.crash()

    def _restore(self, host: NodeHost) -> None:
        if host.core is not None and not host.paused and not host.core.ready:
            self.world.run_until(self.world.now + 0.5)  # it is leaving: its process ends first
        if host.core is None:
            host.start()
        elif host.paused:
            host.resume()

    def _heal(self) -> None:
        self.world.note("the faults stop")
        self.mesh.network.heal()
        self.mesh.network.weather = Weather(delay_s=min(self.plan.weather.delay_s, 0.005))
        self.world.run_until(self.world.now + 0.4)  # who is leaving has left
        for host in self.mesh.nodes.values():
            host.turn_s = self.plan.turn_s
            self._restore(host)

    # What must hold

    def _converge(self, when: str, *, transitions: bool = False) -> None:
        within_s = RECOVERY_S + (self.plan.transition_s if transitions else 0.0)
        mesh = self.mesh
        if not self.world.run_until_true(
            lambda: not mesh.disagreements(transitions=transitions), within_s=within_s, step_s=0.1
        ):
            reasons = "; ".join(mesh.disagreements(transitions=transitions))
            raise Violation(f"convergence: not {when} within {within_s} s: {reasons}")

    def _prove_service(self, clients: list[Any]) -> None:
        world, history = self.world, self.history
        world.run_until(world.now + self.plan.timeout_s)  # what began during the faults is over, and so are doubts
        begun = len(history.operations)
        for client in clients:
            self.workload.reread(client, self.plan.timeout_s)
        world.run_until(world.now + PROOF_S)
        for operation in history.operations[begun:]:
            if operation.error is not None:
                raise Violation(f"service: the mesh has recovered, but {operation}")

    def _check_memory(self, host: NodeHost) -> None:
        assert host.core is not None
        store = host.core.store
        held = store.statistics()
        if held.bytes > store.max_bytes or held.entries > store.max_entries:
            raise Violation(f"memory: {host.name} holds {held.entries} entries and {held.bytes} bytes")

    def _check_rest(self) -> None:
        """When nobody asks any more, no node may be left with unfinished work."""
        for host in self.mesh.nodes.values():
            if host.core is not None and host.core.coordinator.pending:
                raise Violation(f"deadline: {host.name} still has {list(host.core.coordinator.pending)}")


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Simulation:
    """Run one seed. Raises Violation, with what a reader needs to find its cause."""
    return Simulation(Plan.draw(seed), trace).run()
