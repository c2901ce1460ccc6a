"""kill -9 under load: no stale or wrong value, hardly a failed call, and no key out of reach for long."""

from __future__ import annotations

from typing import Any, Final

from .scenario import Options, Result, Stage, staged

FAILED_PERCENT_MAX: Final = 0.1
UNAVAILABLE_S_MAX: Final = 1.0
DOWN_S: Final = (0.0, 0.5, 2.0, 3.0)
"""How long a killed node stays away: some come back before anybody has noticed."""
QUICK_DOWN_S: Final = 1.5


def kill9(options: Options) -> Result:
    """Five nodes, N=3 W=2 R=2: quorums that overlap."""
    cluster = {"replicas": 3, "write_quorum": 2, "read_quorum": 2}
    return _run(Result("kill9", "kill -9, 5 nodes, N=3 W=2 R=2"), options, 5, cluster, rounds=20)


def kill9_default(options: Options) -> Result:
    """Three nodes, N=2 W=2 R=1: what a mesh does by default."""
    cluster = {"replicas": 2, "write_quorum": 2, "read_quorum": 1}
    return _run(Result("kill9-default", "kill -9, 3 nodes, N=2 W=2 R=1"), options, 3, cluster, rounds=10)


def _run(result: Result, options: Options, nodes: int, cluster: dict[str, Any], rounds: int) -> Result:
    count = options.rounds or int(options.pick(1, rounds))
    with staged(result, options, nodes=nodes, cluster=cluster) as stage:
        stage.load.run_for(options.pick(0.5, 3))
        downs_s = [options.pick(QUICK_DOWN_S, DOWN_S[number % len(DOWN_S)]) for number in range(count)]
        repairs_s = [_round(stage, down_s) for down_s in downs_s]
        stage.finish()
    result.details["kills"] = count
    result.check("kills", count)
    result.check_answers(failed_percent=FAILED_PERCENT_MAX, unavailable_s=UNAVAILABLE_S_MAX)
    result.check("all copies in place again after", max(repairs_s), None, "s")
    return result


def _round(stage: Stage, down_s: float) -> float:
    """Kill a node, start it again, and wait until nothing is missing any more; return how long that took."""
    victim = stage.random.choice(sorted(stage.expected))
    stage.kill(victim)
    began_s = stage.load.now_s
    stage.load.run_for(down_s)
    stage.start(victim)
    stage.settle()
    took_s = stage.load.now_s - began_s - down_s
    stage.load.run_for(0.5 + stage.random.random())
    return took_s
