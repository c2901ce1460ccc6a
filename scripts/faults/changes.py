"""Changes on purpose: nodes that join, leave and restart in good order cost neither a call nor a value."""

from __future__ import annotations

from typing import Final

from .load import Plan
from .scenario import Options, Result, Stage, ratio, staged

ENTRIES_MAX: Final = 2_000
"""Of each node."""
VALUE_BYTES: Final = 1_000
P99_RATIO_MAX: Final = 3.0
HIT_RATE_DIP_MAX: Final = 1.0
CLUSTER: Final = {"replicas": 3, "write_quorum": 2, "read_quorum": 2}


def _plan(options: Options, nodes: int) -> Plan:
    """Return a load whose keys fill half of the cache."""
    keys = int(nodes * ENTRIES_MAX * 0.5 / CLUSTER["replicas"])
    return Plan(rate=options.rate, keys=keys, value_bytes=VALUE_BYTES)


def join_leave(options: Options) -> Result:
    """One node joins, then another one leaves."""
    result = Result("join-leave", "one of 5 joins and another leaves, cache half full, N=3 W=2 R=2")
    quiet_s = options.pick(1.5, 8)
    with staged(
        result, options, nodes=5, cluster=CLUSTER, plan=_plan(options, 5), store={"max_entries": ENTRIES_MAX}
    ) as stage:
        stage.load.run_for(options.pick(0.25, 1))
        began_s = stage.load.now_s
        stage.load.run_for(quiet_s)
        calm_until_s = stage.load.mark("add a node")
        newcomer = stage.mesh.add()
        stage.expected.add(newcomer)
        join_s = stage.settle()
        stage.load.mark(f"{newcomer} has its slots")
        stage.load.run_for(quiet_s)
        leave_s = _leave(stage, "node2")
        stage.load.run_for(quiet_s)
        stage.finish()
    result.check("join complete after", join_s, None, "s")
    result.check("leave complete after", leave_s, None, "s")
    _check_smoothness(result, began_s, calm_until_s)
    return result


def _leave(stage: Stage, node_id: str) -> float:
    began_s = stage.load.mark(f"stop {node_id} (SIGTERM)")
    stage.expected.discard(node_id)
    stage.mesh.stop(node_id)
    took_s = stage.load.mark(f"{node_id} is gone") - began_s
    stage.settle()
    return took_s


def rolling(options: Options) -> Result:
    """Every node restarts in good order, one after the other."""
    nodes = int(options.pick(3, 5))
    result = Result("rolling", f"graceful restart of all {nodes} in turn, cache half full, N=3 W=2 R=2")
    with staged(
        result, options, nodes=nodes, cluster=CLUSTER, plan=_plan(options, nodes), store={"max_entries": ENTRIES_MAX}
    ) as stage:
        stage.load.run_for(options.pick(0.25, 1))
        began_s = stage.load.now_s
        stage.load.run_for(options.pick(1, 5))
        calm_until_s = stage.load.now_s
        for node_id in sorted(stage.expected):
            _leave(stage, node_id)
            stage.start(node_id)
            stage.settle()
            stage.load.run_for(options.pick(0.2, 1))
        total_s = stage.load.now_s - calm_until_s
        stage.finish()
    result.check("all restarted after", total_s, None, "s")
    _check_smoothness(result, began_s, calm_until_s)
    return result


def _check_smoothness(result: Result, began_s: float, calm_until_s: float) -> None:
    tally = result.tally
    before, after = tally.between(began_s, calm_until_s), tally.between(calm_until_s)
    lowest = tally.lowest_hit_rate(calm_until_s, result.elapsed_s)
    dip = None if lowest is None or before.hit_rate is None else before.hit_rate - lowest
    result.check_answers(failed_percent=0.0)
    result.check("dip of the hit rate, worst second", dip, HIT_RATE_DIP_MAX, "points")
    result.check("p99 before", before.quantile_ms(0.99), None, "ms")
    result.check("p99 from then on", after.quantile_ms(0.99), None, "ms")
    result.check("p99, times that before", ratio(after.quantile_ms(0.99), before.quantile_ms(0.99)), P99_RATIO_MAX)
