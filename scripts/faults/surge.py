"""Twice and ten times as many calls as a node can serve, from honest clients that go on by the clock.

The node has SHARE of one core (throttle.py), so that the clients, who have the rest, can offer so much: they are
PROCESSES programs, see offered.py. First the peak: the calls that the node answers in a second with enough of them
under way. Then, by the same clients: half of the peak for a while; FACTORS times the peak; half of the peak again.
*Goodput* is what was answered in a second, within the timeout of a call. *Back to normal* is when, after the surge,
every call is answered again, no later than three times as late as before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import meshcache

from .hostile import resident_bytes
from .offered import SLOT_S
from .scenario import Options, Result
from .throttle import throttled

OFFERED: Final = Path(__file__).with_name("offered.py")
SHARE: Final = 0.06
PROCESSES: Final = 2
FACTORS: Final = (2, 10)
TIMEOUT_S: Final = 1.0
LOST_GOODPUT_MAX: Final = 0.2
PEAK_MIB_MAX: Final = 128
NORMAL_WITHIN_S: Final = 2.0
NORMAL_LATENESS: Final = 3.0
"""How many times as late as before is normal."""
LATENCY_S_MIN: Final = 0.05
"""Below this, how late an answer was tells of the throttle and not of the node."""


def surge(options: Options) -> Result:
    """One node, N=1."""
    result = Result("surge", "more calls than a node can serve, 1 node with a sixteenth of a core")
    began = time.monotonic()
    store = {"max_entries": 100_000, "max_bytes": 100_000_000}
    with meshcache.LocalMesh(nodes=1, cluster={"replicas": 1, "write_quorum": 1}, store=store) as mesh:
        with mesh.client() as cache:
            cache.set_many({f"small:{i}": "x" * 100 for i in range(4096)}, ttl=None)
        with throttled(mesh.pids["node1"], SHARE):
            for kind in ("tasks", "threads"):
                peak = _peak(mesh, kind, options.pick(3, 10))
                result.check(f"{kind}: peak", round(peak), None, "calls/s")
                for factor in FACTORS:
                    _surge(mesh, result, kind, factor, peak, options)
    result.elapsed_s = time.monotonic() - began
    return result


def _peak(mesh: meshcache.LocalMesh, kind: str, seconds: float) -> float:
    """Return how many calls the node answers in a second at best."""
    (stage,) = _offer(mesh, kind, [(0, seconds)])[0]
    counts = [slot.get("answered", 0) for slot in stage["slots"][2:-1]]
    answered: int = sum(counts)
    return answered / (len(counts) * SLOT_S)


def _surge(mesh: meshcache.LocalMesh, result: Result, kind: str, factor: float, peak: float, options: Options) -> None:
    seconds, calm_s = options.pick(5, 60), options.pick(3, 6)
    stages, grown_mib = _offer(mesh, kind, [(peak / 2, calm_s), (peak * factor, seconds), (peak / 2, calm_s)])
    before, during, after = (stage["slots"] for stage in stages)
    what = f"{kind}, {factor:g} times the peak"
    total = {name: sum(slot.get(name, 0) for slot in during) for slot in during for name in slot if name != "p99_s"}
    goodput = total.get("answered", 0) / seconds
    result.check(f"{what}: offered", round(sum(total.values()) / seconds), None, "calls/s")
    result.check(f"{what}: goodput", round(goodput), None, "calls/s")
    result.check(f"{what}: share of the peak that is lost", 1 - goodput / peak, LOST_GOODPUT_MAX, "x")
    for name, count in sorted(total.items()):
        if name.startswith("failed"):
            result.tally.errors[f"{what}: {name}"] += count
        elif name != "answered":
            result.check(f"{what}: {name}", round(count / seconds), None, "calls/s")
    result.check(f"{what}: failed otherwise", sum(n for name, n in total.items() if name.startswith("failed")), 0)
    result.check(f"{what}: memory at most", grown_mib, PEAK_MIB_MAX, "MiB")
    result.check(f"{what}: back to normal after", _normal_after_s(before, after), NORMAL_WITHIN_S, "s")


def _normal_after_s(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> float | None:
    """Return after how long every call is answered again, and in time; None: not at all."""
    usual_s = max(LATENCY_S_MIN, sorted(slot["p99_s"] or TIMEOUT_S for slot in before)[len(before) // 2])

    def is_normal(slot: dict[str, Any]) -> bool:
        answered_only = set(slot) <= {"answered", "p99_s"}
        return answered_only and slot["p99_s"] is not None and slot["p99_s"] <= NORMAL_LATENESS * usual_s

    normal = [is_normal(slot) for slot in after]
    if not normal or not normal[-1]:
        return None
    return (len(normal) - normal[::-1].index(False)) * SLOT_S if False in normal else 0.0


def _offer(mesh: meshcache.LocalMesh, kind: str, plan: list[tuple[float, float]]) -> tuple[list[dict[str, Any]], float]:
    """Let a client run through the stages; return what came of them, and by how many MiB the node grew at most."""
    pid = mesh.pids["node1"]
    before = peak = resident_bytes(pid)
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            peak = max(peak, resident_bytes(pid))

    watching = threading.Thread(target=watch)
    watching.start()
    stages = [f"{rate / PROCESSES}:{seconds}" for rate, seconds in plan]
    command = [sys.executable, str(OFFERED), ",".join(mesh.addresses), kind, str(TIMEOUT_S), *stages]
    limit_s = sum(seconds for _, seconds in plan) * 3 + 60
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    try:
        told = [json.loads(client.communicate(timeout=limit_s)[0]) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
        stop.set()
        watching.join()
    return [_added(same) for same in zip(*told, strict=True)], (peak - before) / 2**20


def _added(stages: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Add up what several clients counted in one stage."""
    slots = []
    for same in zip_longest(*[stage["slots"] for stage in stages], fillvalue={"p99_s": None}):
        counts: Counter[str] = Counter()
        for slot in same:
            counts.update({name: count for name, count in slot.items() if name != "p99_s"})
        slots.append({**counts, "p99_s": max([slot["p99_s"] for slot in same if slot["p99_s"]], default=None)})
    return {**stages[0], "slots": slots}
