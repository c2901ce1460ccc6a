"""Measure snapshots with real nodes: what writing one costs those who read meanwhile, and how soon a mesh is back.

A mesh of two nodes, N = 2, so that each holds every entry. A client reads single keys all the time; the longest that it
waited says how long anybody was held up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import meshcache
from meshcache.errors import MeshcacheError

NODES: Final = 2
BATCH: Final = 4096
WAIT_S: Final = 300.0
EXAMPLES: Final = """\
examples:
  scripts/bench snapshots                       a million entries in each node, about two minutes
  scripts/bench snapshots --entries 100000      a look
"""


class Reader:
    """A client that reads one key after the other, and knows the longest time that it waited."""

    def __init__(self, mesh: meshcache.LocalMesh, entries: int) -> None:
        self.waits: list[float] = []
        self._client = mesh.client(timeout=5.0)
        self._entries = entries
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.is_set():
            number = (number + 7919) % self._entries
            began = time.monotonic()
            try:
                self._client.get(f"key{number}")
            except MeshcacheError:
                continue
            self.waits.append(time.monotonic() - began)

    def stop(self) -> dict[str, float]:
        """Return the longest wait and the 99th percentile, in milliseconds."""
        self._stopped.set()
        self._thread.join()
        waits = sorted(self.waits) or [0.0]
        return {"longest_ms": round(waits[-1] * 1000, 1), "p99_ms": round(waits[len(waits) * 99 // 100] * 1000, 1)}


def wait_for(condition: Callable[[], Any], pause_s: float = 0.05) -> float:
    """Return how long it took until a condition held."""
    began, pause = time.monotonic(), threading.Event()
    while not condition():
        if time.monotonic() - began > WAIT_S:
            raise TimeoutError("nothing happened")
        pause.wait(pause_s)
    return time.monotonic() - began


def memory_mb(pid: int) -> int:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def measure(entries: int, value_bytes: int) -> dict[str, Any]:
    """Run it all; return the figures."""
    store = {"max_entries": entries * 2, "max_bytes": entries * (value_bytes + 600), "default_ttl_s": 3600.0}
    snapshot = {"enabled": True, "interval_s": 3600.0}
    found: dict[str, Any] = {"entries": entries, "value_bytes": value_bytes}
    with (
        tempfile.TemporaryDirectory() as directory,
        meshcache.LocalMesh(NODES, data_dir=directory, store=store, snapshot=snapshot) as mesh,
        mesh.client(timeout=30.0) as client,
    ):

        def told(node: str) -> Any:
            return client.inspect("stats", node=node)["snapshots"]

        value = bytes(value_bytes)
        for start in range(0, entries, BATCH):
            client.set_many({f"key{i}": value for i in range(start, min(start + BATCH, entries))})
        node = mesh.addresses[0]
        found["memory_mb"] = memory_mb(mesh.pids["node1"])
        reader = Reader(mesh, entries)
        threading.Event().wait(3.0)
        found["reads_before"] = reader.stop()
        reader = Reader(mesh, entries)
        client.inspect("snapshot", node=node)
        wait_for(lambda: told(node)["written"])
        found["reads_while_written"] = reader.stop()
        found["written"] = {name: told(node)[name] for name in ("entries", "bytes", "seconds", "longest_step_ms")}
        found["memory_after_mb"] = memory_mb(mesh.pids["node1"])
        for pid in mesh.pids.values():
            os.kill(pid, signal.SIGTERM)
        found["stop_s"] = round(wait_for(lambda: not mesh.pids), 2)
        began = time.monotonic()
        mesh.start()
        mesh.wait_ready(WAIT_S)
        found["ready_s"] = round(time.monotonic() - began, 2)
        reader = Reader(mesh, entries)
        wait_for(lambda: all(told(address)["recall"] == "done" for address in mesh.addresses))
        found["all_back_s"] = round(time.monotonic() - began, 2)
        found["reads_while_taken_in"] = reader.stop()
        found["longest_turn_ms"] = round(client.inspect("stats", node=node)["node"]["longest_turn_ms"], 1)
        found["longest_work_ms"] = client.inspect("stats", node=node)["node"]["longest_work_ms"]
        found["taken_in"] = [told(address)["taken_in"] for address in mesh.addresses]
        found["memory_restarted_mb"] = memory_mb(mesh.pids["node1"])
    return found


def main(arguments: Sequence[str]) -> int:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench snapshots", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--entries", type=int, default=1_000_000, help="in each node (1000000)")
    parser.add_argument("--value-bytes", type=int, default=100, help="of a value (100)")
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.entries, options.value_bytes), indent=2))
    return 0
