"""An upgrade under load: every node changes from the code of an older commit to that of today, and back again.

Nodes of both versions are one mesh meanwhile, and clients of both use it. Neither way may cost a call or a value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .load import Plan
from .scenario import Options, Result, Stage, staged
from .trees import NoSuchCommit, running, tree_of

BEFORE_SNAPSHOTS: Final = "45adbc484ea8917451c65bcecf3b2ce2d6442ec7"
"""The last commit of protocol version 1."""
CLUSTER: Final = {"replicas": 2, "write_quorum": 2, "read_quorum": 1}


def upgrade(options: Options) -> Result:
    """All nodes in turn, to today's code and then back."""
    commit = options.commit or BEFORE_SNAPSHOTS
    result = Result("upgrade", f"3 nodes from {commit[:12]} to today's code and back, N=2 W=2 R=1")
    try:
        with tree_of(commit) as old:
            _upgrade(result, options, old)
    except NoSuchCommit as error:
        result.skipped = str(error)
    return result


def _upgrade(result: Result, options: Options, old: Path) -> None:
    plan = Plan(rate=options.rate, workers=4, trees=(old, old, None, None))
    with staged(result, options, nodes=3, cluster=CLUSTER, plan=plan, tree=old) as stage:
        stage.load.run_for(options.pick(0.5, 3))
        began_s = stage.load.now_s
        _roll(stage, None, "today's", options)
        upgraded_s = stage.load.now_s
        stage.load.run_for(options.pick(0.5, 3))
        _roll(stage, old, "the old", options)
        stage.load.run_for(options.pick(0.5, 3))
        stage.finish()
        for kind, tallies in (("old", stage.load.tallies[:2]), ("new", stage.load.tallies[2:])):
            calls = [tally.between() for tally in tallies]
            result.check(f"calls of {kind} clients", sum(part.calls for part in calls))
            result.check(f"failed calls of {kind} clients", sum(part.failed for part in calls), 0)
    result.check("upgraded after", upgraded_s - began_s, None, "s")
    result.check_answers(failed_percent=0.0)


def _roll(stage: Stage, tree: Path | None, name: str, options: Options) -> None:
    """Restart every node in good order with the code of a tree."""
    for node_id in sorted(stage.expected):
        stage.load.mark(f"stop {node_id}")
        stage.expected.discard(node_id)
        stage.mesh.stop(node_id)
        stage.settle()
        with running(tree):
            stage.start(node_id)
        stage.load.mark(f"{node_id} runs {name} code")
        stage.settle()
        stage.load.run_for(options.pick(0.2, 2))
