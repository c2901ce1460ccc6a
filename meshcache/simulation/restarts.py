"""Meshes with snapshots that are stopped and killed, whole and in part, while clients write, delete and invalidate.

A seed draws N, W and R, the partition policy, how old snapshots get, and the clocks. Again and again one of these
happens (``STRIKES``):

- ``crash``, ``leave``, ``retire``: one node goes, and comes back with what it finds. The others have gone on.
- ``stop all``: all nodes are stopped within a moment, some by leaving at once and some by handing over; they come back
  one after the other, some with another clock, and sometimes one has lost its disk. If that is the one that stopped
  last, what it acknowledged alone, after the others had stopped, is lost: under "available" that may be undone, and
  nothing else.
- ``stop rest``: one node crashes; the others go on for a while, and are then stopped like that.
- ``kill all``: all nodes are killed at the same time. Under the policy "available" they may come back with what is
  older than the last writes, so that freshness is only checked where this is not drawn, or the policy is strict.

What must hold: the promises of history.py, ``fresh`` above all; after ``stop all`` under "available" whatever nobody
has changed is there again (``warm``), but nothing of what was deleted or cleared; and the mesh recovers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from meshcache.core.repair.recall import DONE, RETURN_WAIT_S
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.disks import Disk
from meshcache.simulation.history import History, Violation
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import Weather
from meshcache.simulation.workload import Mix, Workload

STRIKES: Final = ("crash", "leave", "retire", "stop all", "stop all", "stop rest", "kill all")
ROUNDS: Final = 5
RECOVERY_S: Final = 15.0
RECALL_S: Final = RETURN_WAIT_S + 10.0
"""How soon after the last node is back all must have taken in what they found, or dropped it."""
LEAVE_TIMEOUT_S: Final = 6.0
KEEPSAKES: Final = 30
"""Keys that are written once; of every three one is deleted and one cleared later."""
SIMULATED_S_MAX: Final = 200.0

_LEVELS: Final = ((1, 1, 1), (2, 2, 1), (2, 2, 1), (3, 2, 2), (3, 2, 2), (3, 3, 1))


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """What a seed means."""

    seed: int
    nodes: int
    levels: tuple[int, int, int]
    """N, W and R."""
    strict: bool
    """The partition policy."""
    interval_s: float
    """Mean time between two snapshots of a node."""
    skew_ms: int
    """How far a node's wall clock may be off, either way."""
    jumps: bool
    """A node may come back with another wall clock."""
    delay_s: float
    strikes: tuple[str, ...]
    think_s: float
    tagged: float
    short_lived: float = 0.3
    values: int = 6
    grace_s: float = 600.0

    @property
    def fresh(self) -> bool:
        """Tell whether no read may be stale."""
        return self.strict or "kill all" not in self.strikes

    @classmethod
    def draw(cls, seed: int) -> RestartPlan:
        """Draw a plan."""
        rng = random.Random(f"restarts {seed}")
        strict = rng.random() < 0.3
        count = rng.randint(2, 4)
        strikes = tuple(rng.choice(STRIKES) for _ in range(count))
        levels = rng.choice(_LEVELS if not strict else _LEVELS[1:])
        if levels[0] == 1:  # a node that is lost takes the last write with it
            strikes = tuple(strike if strike in {"retire", "stop all"} else "stop all" for strike in strikes)
        return cls(
            seed=seed,
            nodes=rng.randint(3, 5),
            levels=levels,
            strict=strict,
            interval_s=rng.choice((0.3, 1.0, 4.0)),
            skew_ms=rng.choice((0, 200, 2000)),
            jumps=rng.random() < 0.7,
            delay_s=rng.choice((0.0002, 0.002, 0.02)),
            strikes=strikes,
            think_s=rng.choice((0.02, 0.1)),
            tagged=rng.choice((0.0, 0.5)),
        )


class RestartSimulation:
    """One run of a plan."""

    def __init__(self, plan: RestartPlan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        n, w, r = plan.levels
        self.mesh = Mesh(
            nodes=0,
            seed=plan.seed,
            weather=Weather(delay_s=plan.delay_s),
            trace=trace,
            cluster={
                "replicas": n, "write_quorum": w, "read_quorum": r, "slots": 16, "vnodes": 8,
                "partition_policy": "strict" if plan.strict else "available",
            },
            membership={"transition_s": 0.5, "leave_timeout_s": LEAVE_TIMEOUT_S},
            store={"tombstone_grace_s": plan.grace_s},
            snapshot={"enabled": True},
        )  # fmt: skip
        self.world = self.mesh.world
        self.history = History(
            fresh=plan.fresh, atomic=False, skew_s=2 * plan.skew_ms / 1000 + 0.05 + 1e-3 * SIMULATED_S_MAX
        )
        self.workload = Workload(self.world, self.history, self._mix(), 2.0)
        self.rounds: dict[str, int] = {}
        """How often each strike happened."""
        self.taken_in = 0
        self._stopped_at: dict[str, float] = {}
        """By node, when it was stopped the last time together with all others."""
        self._gone: dict[str, str] = {}
        """Keepsakes that must not show again, and why."""
        for _ in range(plan.nodes):
            host = self.mesh.add(wall_offset_ms=self._offset_ms(), rate=1 + self.world.rng.uniform(-5e-4, 5e-4))
            host.disk = Disk(random.Random(f"{host.name} {plan.seed}"), plan.interval_s)

    def _mix(self) -> Mix:
        plan = self.plan
        return Mix(
            values=plan.values,
            think_s=plan.think_s,
            short_lived=plan.short_lived,
            operations=("get", "get_many", "set", "set_many", "delete", "touch"),
            weights=(8.0, 2.0, 5.0, 1.0, 2.0, 0.5),
            tagged=plan.tagged,
            invalidations=0.02 if plan.tagged else 0.0,
        )

    def _offset_ms(self) -> int:
        return self.world.rng.randint(-self.plan.skew_ms, self.plan.skew_ms)

    def run(self) -> RestartSimulation:
        """Run it to its end. Raises Violation where a promise was broken."""
        mesh, world = self.mesh, self.world
        self._start_all(within_s=1.0)
        self._converge("at the start")
        reader = mesh.client("reader", timeout_s=5.0)
        self._write_keepsakes(reader)
        for i in range(3):
            self.workload.drive(mesh.client(f"c{i + 1}", timeout_s=2.0, stray=0.2))
        for number in range(ROUNDS):
            world.run_until(world.now + world.rng.uniform(0.5, 3.0))
            what = world.rng.choice(self.plan.strikes)
            if what != "stop rest":
                self._change_keepsakes(reader, number)
            self.rounds[what] = self.rounds.get(what, 0) + 1
            world.note(f"strike: {what}")
            if what == "stop rest":
                self._strike_one_and_the_rest(reader, number)
            elif what.endswith("all"):
                self._strike_all(what)
            else:
                self._strike_one(what)
            self._converge(f"after a {what}")
            self._await_recall(what)
            self.workload.reread(reader)
            self._look_at_keepsakes(reader, what)
        self.workload.stopped = True
        world.run_until(world.now + 3.0)
        self.history.finish()
        if not world.run_until_true(lambda: not mesh.differences(), within_s=15.0, step_s=0.25):
            raise Violation(f"agreement: {'; '.join(mesh.differences())}")
        return self

    # -- what happens --------------------------------------------------------------------------------------

    def _start_all(self, *, within_s: float) -> None:
        for number, host in enumerate(self.mesh.nodes.values()):
            # The first is a seed of all: nodes whose seeds are not there begin meshes of their own.
            self.world.after(self.world.rng.uniform(0, within_s) if number else 0.0, self._start, host)
        self.world.run_until(self.world.now + within_s)

    def _start(self, host: NodeHost) -> None:
        if host.core is None:
            host.start()

    def _strike_one(self, what: str) -> None:
        world = self.world
        host = world.rng.choice(list(self.mesh.nodes.values()))
        getattr(host, what)()
        if not world.run_until_true(lambda: host.core is None, within_s=LEAVE_TIMEOUT_S + 2.0):
            raise Violation(f"exit: {host.name} does not end after a {what}")
        world.run_until(world.now + world.rng.choice((0.05, 0.5, 1.5, 3.0)))
        self._come_back(host)
        host.start()

    def _strike_one_and_the_rest(self, client: ClientHost, number: int) -> None:
        world = self.world
        host = world.rng.choice(list(self.mesh.nodes.values()))
        host.crash()
        world.run_until(world.now + world.rng.uniform(2.0, 4.0))
        self._change_keepsakes(client, number)
        world.run_until(world.now + world.rng.uniform(0.0, 2.0))
        self._strike_all("stop rest")

    def _strike_all(self, what: str) -> None:
        world = self.world
        hosts = list(self.mesh.nodes.values())
        # Who hands over leaves an empty snapshot: a disk may only be lost where nobody did.
        loses = what == "stop all" and self.plan.levels[1] > 1 and world.rng.random() < 0.2
        ways = ("crash",) if what == "kill all" else ("leave",) if loses else ("leave", "retire")
        for host in world.rng.sample(hosts, len(hosts)):
            how = world.rng.choice(ways)
            world.after(0.0 if what == "kill all" else world.rng.choice((0.0, 0.01, 0.1)), self._stop, host, how)
        if not world.run_until_true(lambda: all(host.core is None for host in hosts), within_s=LEAVE_TIMEOUT_S + 2.0):
            raise Violation("exit: not all nodes end")
        world.run_until(world.now + world.rng.choice((0.0, 1.0, 5.0)))
        for host in hosts:
            self._come_back(host)
        if loses:
            self._lose_disk(world.rng.choice(hosts))
        self._start_all(within_s=world.rng.choice((0.1, 1.0, 5.0)))

    def _stop(self, host: NodeHost, how: str) -> None:
        self._stopped_at[host.name] = self.world.now
        if host.core is not None:
            getattr(host, how)()

    def _lose_disk(self, host: NodeHost) -> None:
        self.world.note(f"{host.name} has lost its disk")
        assert host.disk is not None
        host.disk.wipe()
        alone_since = max(at for name, at in self._stopped_at.items() if name != host.name)
        if self._stopped_at[host.name] > alone_since and not self.plan.strict:
            self.history.lose(alone_since)

    def _come_back(self, host: NodeHost) -> None:
        if self.plan.jumps and self.world.rng.random() < 0.5:
            host.wall_offset_ms = self._offset_ms()

    # -- what must hold ------------------------------------------------------------------------------------

    def _converge(self, when: str) -> None:
        mesh = self.mesh
        if not self.world.run_until_true(
            lambda: not mesh.disagreements(transitions=True), within_s=RECOVERY_S, step_s=0.1
        ):
            raise Violation(f"convergence: not {when}: {mesh.disagreements(transitions=True)}")

    def _await_recall(self, what: str) -> None:
        def waiting() -> list[str]:
            return [f"{name} is {told['recall']}" for name, told in self._statistics() if told["recall"] != DONE]

        if not self.world.run_until_true(lambda: not waiting(), within_s=RECALL_S, step_s=0.1):
            raise Violation(f"recall: not within {RECALL_S} s after a {what}: {waiting()}")
        self.taken_in += sum(told["taken_in"] for _, told in self._statistics())

    def _statistics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for host in self.mesh.nodes.values():
            if host.core is not None:
                yield host.name, host.core.coordinator.pending.background["snapshots"].statistics()

    def _write_keepsakes(self, client: ClientHost) -> None:
        for number in range(KEEPSAKES):
            prefix = ("kept", "deleted", "cleared")[number % 3]
            key = f"{prefix}:{number % 3}:{number}" if prefix != "cleared" else f"cleared{number % 5}:{number}"
            self.mesh.call(client, client.session.set(key, key, None, 5.0, ()))

    def _change_keepsakes(self, client: ClientHost, number: int) -> None:
        """Delete some, and clear some."""
        for place in range(number, KEEPSAKES, ROUNDS):
            if place % 3 == 1:
                key = f"deleted:1:{place}"
                self.mesh.call(client, client.session.delete(key, 5.0))
                self._gone[key] = f"deleted in round {number}"
        self.mesh.call(client, client.session.clear(5.0, f"cleared{number}:"))
        for place in range(KEEPSAKES):
            if place % 3 == 2 and place % 5 == number:
                self._gone[f"cleared{number}:{place}"] = f"cleared in round {number}"

    def _look_at_keepsakes(self, client: ClientHost, what: str) -> None:
        keys = [f"kept:0:{number}" for number in range(0, KEEPSAKES, 3)]
        found = self.mesh.call(client, client.session.get_many([*keys, *self._gone], 5.0))
        for key, why in self._gone.items():
            if key in found and self.plan.fresh:
                raise Violation(f"fresh: {key} is back after a {what}, though it was {why}")
        missing = [key for key in keys if key not in found]
        # The strict policy forgets what may be old; and who is killed may not have taken a snapshot yet.
        certain = self.plan.levels[1] > 1 or not {"kill all", "stop rest"}.intersection(self.plan.strikes)
        if missing and not self.plan.strict and certain and "kill all" not in self.plan.strikes:
            raise Violation(f"warm: after a {what} {missing} are gone")
