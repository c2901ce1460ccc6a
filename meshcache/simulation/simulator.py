"""One simulation from one seed: everything is drawn, then it runs while the checkers watch.

A seed draws a *plan*: the size of the mesh, N, W and R, the weather, what clients do, and one of four kinds of faults.
The kind decides which promises can be checked:

- ``weather``: frames are late, lost, doubled, held back, overtake each other; no process is lost. All is checked.
- ``single``: also one process after the other crashes, pauses, leaves, moves (faults.ONCE); the next only after the
  mesh has recovered and every key was read. All but the atomic operations are checked: a lost counter begins anew.
- ``split``: under the strict partition policy, cuts through the mesh and lost processes, several at a time. Reads must
  be fresh all the time, whichever node a client asks.
- ``chaos``: anything at any time (faults.CHAOS): cuts of any shape, several crashes at once, storms, wrong clocks,
  stores too small.

In some meshes of each kind a stranger lies to the nodes (liars.py); the same promises must hold.

First the faults happen; then they stop, and within RECOVERY_S the mesh must agree on its members and its ring, and
serve every operation. When the clients have stopped, owners that hold a key must agree on its version within AGREED_S.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from meshcache.core.membership.members import State
from meshcache.core.node import NodeCore
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.faults import BETWEEN, CHAOS, LOSSLESS, ONCE, Faults
from meshcache.simulation.history import History, Violation
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.liars import Liar
from meshcache.simulation.loads import WAIT_S, Loads
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import CALM, Weather
from meshcache.simulation.workload import Mix, Workload

RECOVERY_S: Final = 10.0
"""In how much simulated time the mesh must have recovered after the faults have stopped."""

AGREED_S: Final = 15.0
"""In how much simulated time after the last operation no two owners may hold different versions of a key any more: a
few passes of anti-entropy, once writes count as settled."""

LEAVE_TIMEOUT_S: Final = 8.0
"""How long a node that cannot hand everything over tries; shorter than in production, since no operator acts here."""

ID_CHECK_S: Final = 5.0
"""How soon a second process with the id of a node must have ended."""

CLOG_S_MAX: Final = 0.2
"""For how long ``weather`` holds a link back: too short for any node to be declared dead."""

FAULTS_S: Final = 14.0
"""How long faults happen."""

SIMULATED_S_MAX: Final = 120.0
"""About how long a simulation lasts at most; drifting clocks differ by no more than they gain in it."""

PROOF_S: Final = 1.5
"""How long every operation must succeed after the recovery."""

SPLIT: Final = 0.25
"""Which share of the seeds of kind ``single`` becomes ``split``."""

LIED_TO: Final = 0.3
"""Which share of the seeds has a stranger that lies to nodes."""

S3FIFO: Final = 0.5
"""Which share of the seeds has stores that evict by S3-FIFO."""

_LEVELS: Final = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 2), (3, 3, 1), (3, 3, 2), (3, 2, 3))
_LOOSE_LEVELS: Final = ((2, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 3), (2, 1, 2))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed means: the settings of one simulation."""

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
    drift: float = 5e-4
    """How much faster or slower than the others a node's clocks may run."""
    turn_s: float = 0.0002
    clients: int = 3
    lanes: int = 1
    """How many operations one client has under way."""
    stray: float = 0.0
    """How often a client asks any node instead of an owner."""
    spares: int = 0
    """How many nodes join later."""
    strikes: tuple[str, ...] = ("crash", "crash", "pause", "leave")
    """What happens under ``single``: again and again one of these, one at a time."""
    menu: tuple[str, ...] = CHAOS
    """What happens under ``chaos``."""
    pace: float = 1.0
    """How many events a second there are in chaos."""
    clogs: float = 0.0
    """How many links a second are held back for a moment under ``weather`` and ``single``."""
    timeout_s: float = 2.0
    transition_s: float = 3.0
    tombstone_grace_s: float = 600.0
    max_entries: int = 10_000
    max_bytes: int = 100_000_000
    eviction: str = "lru"
    mix: Mix = field(default_factory=Mix)
    lies: tuple[str, ...] = ()
    """What a stranger tells nodes: again and again one of these, one at a time."""
    loaded: int = 0
    """How many keys have values that are computed from a source."""
    load_s: float = 0.05

    @property
    def events(self) -> tuple[str, ...]:
        """The faults that this plan may have, without those of frames and callers."""
        happens = {"single": self.strikes, "chaos": self.menu}.get(self.kind, ())
        small = ("eviction", "tombstone overflow") if self.max_bytes < 1_000_000 else ()
        return (*happens, *small, *self.lies, *(("flood",) if self.mix.floods else ()))

    @property
    def losses(self) -> int:
        """How many processes, at most, are lost at a time with what they hold; chaos has no such number."""
        return int(self.kind != "weather" and not all(strike in LOSSLESS for strike in self.strikes))

    @property
    def strict(self) -> bool:
        """Tell whether reads and writes, and writes and writes, always meet in a node."""
        n, w, r = min(self.replicas, self.nodes), self.write_quorum, self.read_quorum
        return w + r > n and 2 * w > n and self.max_entries > 1000

    @classmethod
    def draw(cls, seed: int) -> Plan:
        """Draw a plan. It has random numbers of its own, so that plans can grow without changing what follows."""
        rng = random.Random(f"plan {seed}")
        kind = rng.choice(("weather", "weather", "single", "single", "single", "chaos"))
        loose = kind == "chaos" and rng.random() < 0.5
        n, w, r = rng.choice(_LOOSE_LEVELS if loose else _LEVELS)
        small = kind == "chaos" and rng.random() < 0.3
        if kind == "single" and random.Random(f"split {seed}").random() < SPLIT:
            kind = "split"
        plan = cls(
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
        return plan._with_more(rng, small=small)

    def _with_more(self, rng: random.Random, *, small: bool) -> Plan:
        """Draw the extras of a plan; each by itself, and often none."""
        tight = self.kind == "chaos" and rng.random() < 0.3
        mix = replace(
            self.mix,
            hot=rng.choice((0.0, 0.0, 0.9)),
            hasty=rng.choice((0.0, 0.0, 0.05, 0.3)),
            abandoned=rng.choice((0.0, 0.0, 0.02, 0.1)),
            floods=rng.choice((0.0, 0.02)) if small or tight else 0.0,
        )
        usual = ("crash", "crash", "pause", "leave")
        strikes = tuple(rng.sample(ONCE, rng.randint(2, 5))) if rng.random() < 0.8 else usual
        menu = (*rng.sample(CHAOS, rng.randint(4, 12)), "restore", "heal")
        plan = replace(
            self,
            weather=replace(self.weather, pipe_frames=rng.choice((0, 0, 0, 4, 16))),
            drift=rng.choice((0.0, 5e-4, 5e-3)),
            spares=rng.choice((0, 1, 2)),
            strikes=strikes,
            menu=menu if rng.random() < 0.9 else CHAOS,
            pace=rng.choice((0.5, 1.0, 1.0, 3.0)),
            clogs=rng.choice((0.0, 0.0, 0.5, 3.0)),
            max_bytes=rng.choice((2_000, 10_000)) if tight else self.max_bytes,
            mix=mix,
            loaded=rng.choice((0, 0, 1, 2)),
            load_s=rng.choice((0.01, 0.1, 1.0)),
            lies=_draw_lies(self.seed),
            eviction=_draw_eviction(self.seed),
        )
        if rng.random() < 0.5:
            return plan
        tagged, invalidations = rng.choice((0.3, 1.0)), rng.choice((0.01, 0.05))
        return replace(plan, mix=replace(mix, tagged=tagged, invalidations=invalidations))


def _draw_weather(rng: random.Random, kind: str) -> Weather:
    bad = kind == "chaos"
    return Weather(
        delay_s=rng.choice((0.0002, 0.002, 0.02) if not bad else (0.0005, 0.01, 0.1)),
        loss=rng.choice((0.0, 0.0, 0.01, 0.05) if not bad else (0.0, 0.05, 0.3)),
        duplication=rng.choice((0.0, 0.0, 0.1, 0.5)),
        in_order=rng.random() < 0.5,
        stale=rng.choice((0.0, 0.5)),
    )


def _draw_lies(seed: int) -> tuple[str, ...]:
    """Draw the lies of a stranger; from other random numbers, so that nothing else depends on them."""
    rng = random.Random(f"lies {seed}")
    return tuple(rng.sample(Liar.NAMES, rng.randint(1, len(Liar.NAMES)))) if rng.random() < LIED_TO else ()


def _draw_eviction(seed: int) -> str:
    """Draw how stores evict; from other random numbers, too."""
    return "s3fifo" if random.Random(f"eviction {seed}").random() < S3FIFO else "lru"


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.mesh = Mesh(
            nodes=0,
            seed=plan.seed,
            trace=trace,
            cluster={
                "replicas": plan.replicas,
                "write_quorum": plan.write_quorum,
                "read_quorum": plan.read_quorum,
                "slots": plan.slots,
                "vnodes": 8,
                "partition_policy": "strict" if plan.kind == "split" else "available",
            },
            membership={"transition_s": plan.transition_s, "leave_timeout_s": LEAVE_TIMEOUT_S},
            store={
                "max_entries": plan.max_entries,
                "max_bytes": plan.max_bytes,
                "eviction": plan.eviction,
                # A tombstone's grace ends by the clock of the node that holds it: it must be longer than clocks can
                # differ.
                "tombstone_grace_s": plan.tombstone_grace_s + 2 * plan.skew_ms / 1000,
            },
        )
        self.world = self.mesh.world
        self.faults = Faults(self.mesh, skew_ms=plan.skew_ms, turn_s=plan.turn_s, replicas=plan.replicas)
        self._forgotten: dict[str, tuple[int, int]] = {}
        """Per host, the evictions and the dropped tombstones of its process that were counted already."""
        for number in range(plan.nodes + plan.spares):
            host = self._add_host()
            if number >= plan.nodes:
                self.faults.spares[host.name] = None
        fresh = plan.strict and plan.kind != "chaos"
        self.history = History(
            fresh=fresh,
            atomic=fresh and plan.kind == "weather",
            durable=fresh and plan.kind != "split" and plan.write_quorum - plan.losses >= plan.read_quorum,
            holds=plan.write_quorum >= plan.read_quorum,
            skew_s=2 * plan.skew_ms / 1000 + 0.05 + 2 * plan.drift * SIMULATED_S_MAX,
        )
        self.liar = Liar(self.mesh, plan.lies)
        self.workload = Workload(self.world, self.history, plan.mix, plan.timeout_s)
        self.loads = Loads(
            self.world,
            self.history,
            keys=plan.loaded,
            load_s=plan.load_s,
            think_s=plan.mix.think_s,
            timeout_s=plan.timeout_s,
        )

    def _add_host(self) -> NodeHost:
        plan, rng = self.plan, self.world.rng
        skew_ms = rng.randint(-plan.skew_ms, plan.skew_ms)
        rate = 1 + rng.uniform(-plan.drift, plan.drift)
        host = self.mesh.add(wall_offset_ms=skew_ms, rate=rate, turn_s=plan.turn_s)
        host.on_turn = self._check_memory
        for fault, applies in (("skew", skew_ms), ("drift", plan.drift)):
            if applies:
                self.world.strike(fault, f"{host.name}: {skew_ms} ms off, rate {rate:.6f}")
        return host

    def run(self) -> Simulation:
        """Run the plan to its end. Raises Violation if a promise was broken."""
        plan, mesh, world = self.plan, self.mesh, self.world
        for host in mesh.nodes.values():
            if host.name not in self.faults.spares:
                world.at(world.rng.uniform(0, 0.5), host.start)
        world.run_until(0.5)
        self._converge("at the start")
        mesh.network.weather = plan.weather
        clients = [mesh.client(f"c{i + 1}", timeout_s=plan.timeout_s, stray=plan.stray) for i in range(plan.clients)]
        for client in clients:
            for _ in range(plan.lanes):
                self.workload.drive(client)
        for i in range(plan.clients if plan.loaded else 0):
            self.loads.drive(mesh.client(f"l{i + 1}", timeout_s=plan.timeout_s, stray=plan.stray))
        if plan.lies:
            self.liar.begin()
        getattr(self, f"_{plan.kind}")()
        self._heal()
        self._converge("after the faults stopped")
        self._prove_service(clients)
        self.workload.stopped = self.loads.stopped = True
        world.run_until(world.now + plan.timeout_s + 0.2)
        world.run_until_true(lambda: not self.history.pending, within_s=2 * (plan.timeout_s + WAIT_S))
        world.run_until(world.now + 0.2)
        self.history.finish()
        self._check_rest()
        self._agree()
        return self

    # The kinds of faults

    def _weather(self) -> None:
        self._clog_now_and_then()
        self.world.run_until(self.world.now + FAULTS_S)

    def _clog_now_and_then(self) -> None:
        if self.plan.clogs and not self.faults.over:
            rng = self.world.rng
            self.world.after(rng.expovariate(self.plan.clogs), self._clog_now_and_then)
            self.faults.clog_shortly(rng.random() * CLOG_S_MAX)

    def _single(self) -> None:
        world, mesh = self.world, self.mesh
        end = world.now + FAULTS_S
        reader = mesh.client("reader", timeout_s=5.0)
        self._clog_now_and_then()
        while world.now < end:
            world.run_until(world.now + world.rng.uniform(0.2, 2.0))
            host = world.rng.choice([host for host in mesh.nodes.values() if host.core is not None])
            what = world.rng.choice(self.plan.strikes)
            hosts = self.faults.strike(what, host)
            world.run_until(world.now + world.rng.choice((0.05, 0.5, 1.5, 3.0, 6.0)))
            mesh.network.heal()
            if what == "impostor":
                self._expect_refusal()
            for struck in hosts:
                self._restore(struck)
            self._converge(f"after a {what} of {host.name}", transitions=True)
            self.workload.reread(reader)
            world.run_until_true(lambda: not any(op.client == "reader" for op in self.history.pending), within_s=6.0)

    def _split(self) -> None:
        world, mesh = self.world, self.mesh
        rng = world.rng
        end = world.now + FAULTS_S
        reader = mesh.client("reader", timeout_s=5.0)
        while world.now < end:
            world.run_until(world.now + rng.uniform(0.2, 2.0))
            side = rng.sample(list(mesh.nodes), rng.randint(1, len(mesh.nodes) - 1))
            struck: list[NodeHost] = []
            if rng.random() < 0.7:
                world.note(f"cut: {' '.join(side)}")
                mesh.cut(side)
            while rng.random() < 0.4:
                world.run_until(world.now + rng.choice((0.0, 0.05, 1.0)))
                running = [host for host in mesh.nodes.values() if host.core is not None]
                struck += self.faults.strike(rng.choice(("crash", "pause")), rng.choice(running)) if running else []
            world.run_until(world.now + rng.choice((0.2, 1.0, 2.5, 5.0)))
            mesh.network.heal()
            for host in struck:
                self._restore(host)
            self._converge(f"after a cut of {' '.join(side)}", transitions=True)
            self.workload.reread(reader)
            world.run_until_true(lambda: not any(op.client == "reader" for op in self.history.pending), within_s=6.0)

    def _chaos(self) -> None:
        world, mesh = self.world, self.mesh
        rng = world.rng
        end = world.now + FAULTS_S
        hosts = list(mesh.nodes.values())
        while world.now < end:
            world.run_until(world.now + rng.expovariate(self.plan.pace))
            what = rng.choice(self.plan.menu)
            host = rng.choice(hosts)
            if what == "restore":
                self._restore(host)
            elif what in BETWEEN:
                self.faults.disturb(what, host)
            else:
                self.faults.strike(what, host)

    def _restore(self, host: NodeHost) -> None:
        """Make a host run without faults; if it is leaving, after its process has ended."""
        core = host.core
        if core is not None and not host.paused and self._leaves(core):
            self.world.run_until_true(lambda: host.core is not core, within_s=LEAVE_TIMEOUT_S + 1.0)
        self.faults.restore(host)

    @staticmethod
    def _leaves(core: NodeCore) -> bool:
        own = core.membership.own
        return own.weight == 0 or own.state == State.LEFT

    def _heal(self) -> None:
        self.world.note("the faults stop")
        self.faults.end()
        self.liar.stopped = True
        self.workload.patient = self.loads.patient = True
        self.mesh.network.weather = Weather(delay_s=min(self.plan.weather.delay_s, 0.005))
        for host in self.mesh.nodes.values():
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

    def _expect_refusal(self) -> None:
        for impostor in self.faults.impostors:
            if not self.world.run_until_true(lambda: impostor.core is None, within_s=ID_CHECK_S):  # noqa: B023  (now)
                raise Violation(f"identity: a second {impostor.name} runs at {impostor.address}")

    def _prove_service(self, clients: list[ClientHost]) -> None:
        world, history = self.world, self.history
        # After that, operations of the time of the faults are over, and so are doubts about nodes.
        world.run_until(world.now + self.plan.timeout_s)
        begun = len(history.operations)
        for client in clients:
            self.workload.reread(client)
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
        forgotten = held.evictions, held.tombstones_dropped
        if forgotten != self._forgotten.get(host.name, (0, 0)):
            known = self._forgotten.get(host.name, (0, 0))
            self._forgotten[host.name] = forgotten
            for fault, count, before in zip(("eviction", "tombstone overflow"), forgotten, known, strict=True):
                if count > before:
                    self.world.strike(fault, f"{host.name} drops {count - before}")

    def _agree(self) -> None:
        """Check, after the clients have stopped, that owners come to hold the same versions."""
        if not self.world.run_until_true(lambda: not self.mesh.differences(), within_s=AGREED_S, step_s=0.25):
            raise Violation(f"agreement: not within {AGREED_S} s: {'; '.join(self.mesh.differences())}")

    def _check_rest(self) -> None:
        """Check that no node has unfinished work when nobody asks any more, and that none was refused without cause."""
        if not {"impostor", "move"}.intersection(self.plan.events):
            for host in self.mesh.nodes.values():
                if host.refused:
                    raise Violation(f"identity: {host.name} was refused, though nobody else has its id")
        hosts = [host for host in self.mesh.nodes.values() if host.core is not None]

        def busy() -> list[NodeHost]:
            return [host for host in hosts if host.core is not None and host.core.coordinator.pending.running]

        if self.world.run_until_true(lambda: not busy(), within_s=3.0):  # owners may just be comparing what they hold
            return
        for host in busy():
            assert host.core is not None
            raise Violation(f"deadline: {host.name} still has {list(host.core.coordinator.pending.running)}")


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Simulation:
    """Run one seed. Raises Violation, with all that a reader needs to find its cause."""
    return Simulation(Plan.draw(seed), trace).run()
