"""More callers than one process can serve at a time: goodput must not collapse, whatever their number.

Every caller calls again as soon as it has its answer, or its error. The program that they are in is busy all the time,
so what is told is its goodput: calls answered in a second. It may not depend much on how many wait, and after a node
stood still or was killed it must come back by itself. The figures hold for a machine that has nothing else to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import meshcache

from .callers import SLOTS_PER_S
from .scenario import Options, Result

CALLERS: Final = Path(__file__).with_name("callers.py")
NODE: Final = "node1"
FEW: Final = 500
GOODPUT_SHARE: Final = 0.6
"""Of the goodput of FEW tasks, 10,000 must have as much."""
STILL_S: Final = 2.0
RECOVERED: Final = 0.1
"""Of the goodput before: from there on the callers are served again."""


@dataclass
class _Run:
    """What came of one crowd."""

    succeeded: Counter[int]
    """By the slot of time in which the call ended, see callers.py."""
    told: dict[str, Any]
    seconds: float
    hurt_at: float | None = None
    healed_at: float | None = None
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Calls answered in a second."""
        return self.succeeded.total() / self.seconds

    def recovery_s(self) -> float | None:
        """Return how long after the node was healed its callers were served again; None: not at all."""
        assert self.hurt_at is not None
        assert self.healed_at is not None
        before = [count for slot, count in self.succeeded.items() if slot < int(self.hurt_at * SLOTS_PER_S)]
        enough = RECOVERED * max(before, default=0)
        slots = [slot for slot, count in self.succeeded.items() if slot > self.healed_at * SLOTS_PER_S - 1]
        served = [slot for slot in slots if self.succeeded[slot] >= max(1, enough)]
        return max(0.0, min(served) / SLOTS_PER_S - self.healed_at) if served else None


def _run(
    mesh: meshcache.LocalMesh,
    kind: str,
    count: int,
    operation: str,
    timeout_s: float,
    seconds: float,
    hurt: Callable[[meshcache.LocalMesh], tuple[float, float]] | None = None,
) -> _Run:
    """Let a crowd of callers loose, in a process of its own, and meanwhile hurt the node."""
    arguments = [",".join(mesh.addresses), kind, str(count), operation, str(timeout_s), str(seconds)]
    with subprocess.Popen([sys.executable, str(CALLERS), *arguments], stdout=subprocess.PIPE, text=True) as callers:
        try:
            assert callers.stdout is not None
            callers.stdout.readline()  # the first call was answered
            hurt_at, healed_at = (None, None) if hurt is None else hurt(mesh)
            told = json.loads(callers.communicate(timeout=4 * seconds + 60)[0])
        except BaseException:
            callers.kill()
            raise
    succeeded = Counter({int(slot): number for slot, number in told["succeeded"].items()})
    return _Run(succeeded, told, seconds, hurt_at, healed_at, Counter(told["failed"]))


def _stand_still(mesh: meshcache.LocalMesh) -> tuple[float, float]:
    time.sleep(STILL_S)
    hurt_at = time.monotonic()
    mesh.pause(NODE)
    time.sleep(STILL_S)
    mesh.resume(NODE)
    return hurt_at, time.monotonic()


def _restart(mesh: meshcache.LocalMesh) -> tuple[float, float]:
    time.sleep(STILL_S)
    hurt_at = time.monotonic()
    mesh.kill(NODE)
    mesh.start(NODE)
    mesh.wait_ready()
    return hurt_at, time.monotonic()


def overload(options: Options) -> Result:
    """One node, N=1: it is the client that is put to the test."""
    result = Result("overload", "crowds of callers that share one client, 1 node")
    began = time.monotonic()
    quick, seconds = options.quick, options.pick(3, 6)
    with meshcache.LocalMesh(nodes=1, cluster={"replicas": 1, "write_quorum": 1}) as mesh:

        def crowd(kind: str, count: int, operation: str, timeout_s: float) -> _Run:
            run = _run(mesh, kind, count, operation, timeout_s, seconds)
            _tell(result, f"{count:,} {kind}, {operation}, timeout {timeout_s:g} s", run)
            return run

        few = crowd("tasks", FEW, "get", 1.0)
        for count, timeout_s in ((2000, 1.0), (10_000, 1.0), (10_000, 0.2), (20_000, 5.0)):
            many = crowd("tasks", count, "get", timeout_s)
            share = few.goodput / max(1.0, many.goodput)
            goal = 1 / GOODPUT_SHARE if timeout_s == 1.0 else None
            result.check(f"goodput of {FEW} tasks to that of {count:,}, timeout {timeout_s:g} s", share, goal, "x")
        for operation in ("set", "incr") if quick else ("set", "get_many", "get_or_set", "incr"):
            crowd("tasks", 2000, operation, 1.0)
        for count in (200,) if quick else (200, 1000):
            run = crowd("threads", count, "get", 1.0)
            result.check(f"failed calls of {count:,} threads", run.failed.total(), 0)
        for kind, count in (("tasks", 10_000),) if quick else (("tasks", 10_000), ("threads", 1000)):
            for what, hurt in (("stood still", _stand_still), ("was killed", _restart)):
                run = _run(mesh, kind, count, "get", 1.0, seconds + 3 * STILL_S, hurt)
                name = f"{count:,} {kind}, the node {what}"
                _tell(result, name, run)
                result.check(f"{name}: served again after", run.recovery_s(), 1.0, "s")
    result.elapsed_s = time.monotonic() - began
    return result


def _tell(result: Result, name: str, run: _Run) -> None:
    result.check(f"{name}: goodput", round(run.goodput), None, "calls/s")
    result.check(f"{name}: failed calls", run.failed.total())
    for quantile in ("p50", "p99"):
        took_s = run.told[f"{quantile}_s"]
        result.check(f"{name}: {quantile}", None if took_s is None else took_s * 1000, None, "ms")
    for reason, count in run.failed.items():
        result.tally.errors[f"{name}: {reason}"] += count
