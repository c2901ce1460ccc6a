"""Clients with near caches in bad conditions: streams lose frames, and nodes are killed, paused and cut off.

Eight readers with near caches read a few keys all the time; two writers, without near caches, write them. W + R > N,
and one node is struck at a time, so that the answers of the nodes are fresh and only near caches can serve stale
values. The bound of staleness (``near_staleness`` in history.py) is:

- ``ttl``, if that is less than what follows, whatever happens
- with a longer ttl: when a write is acknowledged its coordinator publishes the event, and then repeats the number of
  its stream. Whatever frames are lost, either a later one arrives and shows the gap, or none does, and SILENCE_S after
  the last frame that arrived nothing is served any more. That frame was published before the event: so the bound is
  SILENCE_S, plus the time that a frame may be under way.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from meshcache.client.options import TIMEOUT_S
from meshcache.protocol.invalidation import SILENCE_S
from meshcache.protocol.near_store import NearCache
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.history import History, Violation
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import STREAM, Weather
from meshcache.simulation.workload import Mix, Workload

READERS: Final = 8
WRITERS: Final = 2
FAULTS_S: Final = 8.0
RECOVERY_S: Final = 15.0
UNDER_WAY_S: Final = 0.1
"""No frame is under way for longer in this weather, including the turns of the processes."""

_READS: Final = {"get": 8.0, "get_many": 1.0}
_WRITES: Final = {"set": 6.0, "set_many": 1.0, "delete": 1.0}


def _mix(keys: int, operations: dict[str, float], think_s: float) -> Mix:
    return Mix(keys, operations=tuple(operations), weights=tuple(operations.values()), short_lived=0.0, think_s=think_s)


@dataclass(frozen=True, slots=True)
class NearPlan:
    """What a seed means: the settings of one run."""

    seed: int
    nodes: int
    levels: tuple[int, int, int]
    """N, W and R."""
    ttl_s: float
    stream_loss: float
    delay_s: float
    keys: int
    write_pause_s: float
    """The mean time between two writes of a writer: the rarer a key is written, the longer an old copy could stay."""
    strikes: tuple[str, ...] = ("crash", "pause", "deaf", "leave")

    @property
    def bound_s(self) -> float:
        """Return how stale a read may be."""
        return min(self.ttl_s, SILENCE_S + UNDER_WAY_S)

    @classmethod
    def draw(cls, seed: int) -> NearPlan:
        """Draw a plan."""
        rng = random.Random(f"near {seed}")
        return cls(
            seed=seed,
            nodes=rng.randint(3, 5),
            levels=rng.choice(((2, 2, 1), (3, 2, 2), (3, 3, 1))),
            ttl_s=rng.choice((0.3, 1.0, 60.0, 60.0)),
            stream_loss=rng.choice((0.0, 0.01, 0.1, 0.4)),
            delay_s=rng.choice((0.0002, 0.002)),
            keys=rng.randint(1, 6),
            write_pause_s=rng.choice((0.05, 0.3)),
        )


class NearSimulation:
    """One run of a plan."""

    def __init__(self, plan: NearPlan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        n, w, r = plan.levels
        self.mesh = Mesh(
            nodes=plan.nodes,
            seed=plan.seed,
            weather=Weather(delay_s=plan.delay_s),
            trace=trace,
            cluster={"replicas": n, "write_quorum": w, "read_quorum": r, "slots": 16, "vnodes": 8},
            membership={"transition_s": 0.5},
        )
        self.world = self.mesh.world
        self.history = History(fresh=True, atomic=False, stale_s=plan.bound_s)
        self.readers: list[ClientHost] = []

    def run(self) -> NearSimulation:
        """Run the plan to its end. Raises Violation if the bound was broken."""
        mesh, world = self.mesh, self.world
        mesh.start()
        mesh.network.stream_loss = self.plan.stream_loss
        keys = self.plan.keys
        workloads = [
            Workload(world, self.history, _mix(keys, _READS, 0.01), TIMEOUT_S),
            Workload(world, self.history, _mix(keys, _WRITES, self.plan.write_pause_s), TIMEOUT_S, 1_000_000),
        ]
        near_cache = NearCache(ttl=self.plan.ttl_s)
        self.readers = [mesh.client(f"r{i + 1}", near_cache=near_cache) for i in range(READERS)]
        for reader in self.readers:
            workloads[0].drive(reader)
        for i in range(WRITERS):
            writer = mesh.client(f"w{i + 1}", stray=0.2)
            workloads[1].drive(writer)
        end = world.now + FAULTS_S
        while world.now < end:
            self._strike()
        for workload in workloads:
            workload.stopped = True
        world.run_until(world.now + 2.5)
        self.history.finish()
        return self

    def _strike(self) -> None:
        """Let something happen to one node, and wait until the mesh has recovered."""
        world, mesh = self.world, self.mesh
        world.run_until(world.now + world.rng.uniform(0.3, 2.0))
        host = world.rng.choice(list(mesh.nodes.values()))
        what = world.rng.choice(self.plan.strikes)
        if what == "deaf":  # its stream does not reach some subscribers, while everything else works
            for reader in world.rng.sample(self.readers, READERS // 2):
                mesh.network.cut(host.name + STREAM, reader.name)
        elif what == "pause":
            host.pause()
        elif what == "leave":
            host.leave()
        else:
            host.crash()
        world.run_until(world.now + world.rng.choice((0.1, 0.6, 1.5, 4.0)))
        self._restore(host)
        if not world.run_until_true(lambda: not mesh.disagreements(transitions=True), within_s=RECOVERY_S, step_s=0.1):
            raise Violation(f"convergence: not after a {what} of {host.name}: {mesh.disagreements(transitions=True)}")

    def _restore(self, host: NodeHost) -> None:
        self.mesh.network.heal()
        if host.core is not None and not host.paused and not host.core.ready:
            self.world.run_until(self.world.now + 0.5)  # if it is leaving, its process ends first
        if host.core is None:
            host.start()
        elif host.paused:
            host.resume()
