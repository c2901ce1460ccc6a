"""How soon the others know that a node is gone, and whether a busy machine makes them accuse a node that is not."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import meshcache

from .scenario import Options, Result
from .watch import Watch, sum_of

KILLED_S_MAX: Final = 1.0
SILENT_S_MAX: Final = 3.0
NODES: Final = 5


def detect(options: Options) -> Result:
    """Lose nodes to kill -9 and SIGSTOP, then give the machine more to do than it can."""
    result = Result("detect", "detection: kill -9, SIGSTOP, full CPU; 5 nodes")
    began = time.monotonic()
    rounds = int(options.pick(1, 5))
    logs = options.logs / result.name if options.logs else None
    with meshcache.LocalMesh(nodes=NODES, data_dir=logs) as mesh:
        addresses = {f"node{i + 1}": address for i, address in enumerate(mesh.addresses)}
        with Watch(addresses) as watch:
            watch.settle(addresses)
            for name, goal_s in (("killed", KILLED_S_MAX), ("silent", SILENT_S_MAX)):
                times = [_lose(mesh, watch, number, name) for number in range(rounds)]
                result.check(f"{name}: suspect to all after", max(suspect for suspect, _ in times), None, "s")
                result.check(f"{name}: dead to all after", max(dead for _, dead in times), goal_s, "s")
            _accuse(result, mesh, watch, options.pick(4, 20))
    result.elapsed_s = time.monotonic() - began
    return result


def _lose(mesh: meshcache.LocalMesh, watch: Watch, number: int, how: str) -> tuple[float, float]:
    """Kill or stop a node; return when all others took it for suspect, and for dead. Then bring it back."""
    victim = sorted(watch.addresses)[number % NODES]
    others = [node_id for node_id in watch.addresses if node_id != victim]
    for node_id in others:
        watch.view(node_id)  # connect now, not while it is timed
    (mesh.kill if how == "killed" else mesh.pause)(victim)
    seen = watch.times_until(others, victim, timeout_s=15.0)
    (mesh.start if how == "killed" else mesh.resume)(victim)
    watch.settle(watch.addresses)
    missing = float("inf")
    suspect = max(times.get("suspect", missing) for times in seen.values())
    return suspect, max(times.get("dead", missing) for times in seen.values())


def _accuse(result: Result, mesh: meshcache.LocalMesh, watch: Watch, seconds: float) -> None:
    """Leave the nodes little of the processors, and count whom they accuse."""
    logs_before = {node_id: len(mesh.log(node_id)) for node_id in watch.addresses}
    before = sum_of(watch.counters(watch.addresses))
    processes = 2 * (os.cpu_count() or 1)
    with burning(processes):
        threading.Event().wait(seconds)
    watch.settle(watch.addresses)
    after = sum_of(watch.counters(watch.addresses))
    written = [mesh.log(node_id)[length:] for node_id, length in logs_before.items()]
    notes = [line for text in written for line in text.splitlines() if "member" in line]
    result.check(f"false deaths, {processes} busy processes for {seconds:g} s", _count(notes, "dead"), 0)
    result.check("false suspicions meanwhile", _count(notes, "suspect"), 0)
    result.check("nodes that had to rejoin meanwhile", int(after["node.rejoins"] - before["node.rejoins"]), 0)
    result.check("longest turn of a node's loop", after["node.longest_turn_ms"], None, "ms")
    result.details["accusations"] = notes[:20]


def _count(notes: list[str], state: str) -> int:
    return sum(f"state={state}" in line or f'"state": "{state}"' in line for line in notes)


@contextmanager
def burning(processes: int) -> Iterator[None]:
    """Keep processors busy."""
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=_burn, args=(os.getpid(),), daemon=True) for _ in range(processes)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def _burn(parent: int) -> None:
    while os.getppid() == parent:
        sum(range(100_000))
