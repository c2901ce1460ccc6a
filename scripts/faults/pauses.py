"""A node that stands still for a while: nothing that it executes late, and nothing old that it answers."""

from __future__ import annotations

import threading
from typing import Final

import meshcache

from .load import audit
from .scenario import Options, Result, Stage, staged
from .watch import sum_of

PAUSES_S: Final = (0.2, 1.0, 5.0)
QUICK_PAUSES_S: Final = (0.2, 2.5)
HARMLESS_S: Final = 0.5
"""A node paused for less must not be removed."""


def pause(options: Options) -> Result:
    """SIGSTOP and SIGCONT; what was sent to the node meanwhile waits in its sockets."""
    result = Result("pause", "SIGSTOP and SIGCONT, 5 nodes, N=3 W=2 R=2")
    cluster = {"replicas": 3, "write_quorum": 2, "read_quorum": 2}
    longest_back_s = 0.0
    removed = through_it = 0
    with staged(result, options, nodes=5, cluster=cluster) as stage:
        stage.load.run_for(options.pick(0.5, 3))
        for number, seconds in enumerate(QUICK_PAUSES_S if options.quick else PAUSES_S * 3):
            victim = sorted(stage.expected)[number % 5]
            before = stage.watch.counters([victim])
            back_s, old = _pause(stage, victim, seconds)
            longest_back_s = max(longest_back_s, back_s)
            through_it += old
            rejoins = _rejoins(stage.watch.counters([victim])) - _rejoins(before)
            removed += bool(rejoins and seconds < HARMLESS_S)
        stage.finish(audits=2)
    result.check("stale values through a node just resumed", through_it, 0)
    result.check(f"nodes removed though paused for less than {HARMLESS_S} s", removed, 0)
    result.check("back in the mesh by itself after", longest_back_s, 10.0, "s")
    result.check("requests dropped because they came too late", int(result.details["counters"]["node.late"]))
    result.check_answers(failed_percent=0.1, unavailable_s=1.0)
    return result


def _rejoins(counters: dict[str, dict[str, float]]) -> float:
    return sum_of(counters)["node.rejoins"]


def _pause(stage: Stage, victim: str, seconds: float) -> tuple[float, int]:
    """Pause a node; return how long it took to be back, and how many stale values came through it meanwhile."""
    old: list[int] = []
    stage.load.mark(f"pause {victim} for {seconds} s")
    stage.mesh.pause(victim)
    stage.load.run_for(seconds)
    stage.mesh.resume(victim)
    stage.load.mark(f"resume {victim}")
    reader = threading.Thread(target=lambda: old.append(_read_through(stage, victim)))
    reader.start()
    back_s = stage.settle()
    reader.join()
    stage.load.run_for(stage.options.pick(0.3, 1))
    return back_s, sum(old)


def _read_through(stage: Stage, node_id: str) -> int:
    """Have a client that knows this node alone read all keys, at once and again: what it sees is the node's view."""
    old = 0
    for _ in range(3):
        with meshcache.Client([stage.watch.addresses[node_id]]) as cache:
            tally = audit(cache, stage.load.ledger)
        old += tally.between().stale + tally.between().wrong
        stage.result.details.setdefault("through_the_resumed", []).extend(tally.evidence[:3])
    return old
