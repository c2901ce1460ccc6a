"""What a mesh costs that nobody uses: the processor time of each node at rest."""

from __future__ import annotations

import threading
import time
from typing import Final

from benchmark.measure import cpu_seconds

import meshcache

from .scenario import Options, Result
from .watch import Watch

NODES: Final = 3
BUSY_PERCENT_MAX: Final = 1.0
"""Of one core."""


def idle(options: Options) -> Result:
    """Start a mesh, let it settle, and watch it do nothing."""
    result = Result("idle", f"{NODES} nodes at rest")
    began = time.monotonic()
    with meshcache.LocalMesh(nodes=NODES) as mesh, Watch({}) as watch:
        watch.addresses = {f"node{i + 1}": address for i, address in enumerate(mesh.addresses)}
        watch.settle(watch.addresses, wholly=True)
        watch.close()  # who looks on costs something
        for node_id, percent in _busy_percent(mesh.pids, options.pick(3, 20)).items():
            result.check(f"{node_id}: share of a core", percent, BUSY_PERCENT_MAX, "%")
    result.elapsed_s = time.monotonic() - began
    return result


def _busy_percent(pids: dict[str, int], seconds: float) -> dict[str, float]:
    before = {node_id: cpu_seconds([pid]) for node_id, pid in pids.items()}
    began = time.monotonic()
    threading.Event().wait(seconds)
    elapsed_s = time.monotonic() - began
    return {node_id: 100 * (cpu_seconds([pid]) - before[node_id]) / elapsed_s for node_id, pid in pids.items()}
