"""Clocks, CPU time and memory of other processes, and the arithmetic from samples to medians.

A block is a fraction of a second of one contestant doing one thing. Blocks of the contestants alternate, because the
noise of a shared machine changes from minute to minute by more than the differences that we look for; what is
compared is the median over the blocks.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def say(text: str) -> None:
    """Tell a person, who may have asked for JSON on the standard output."""
    print(text, file=sys.stderr if "--json" in sys.argv else sys.stdout, flush=True)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the user and system time that these processes have used since they started.

    Linux gives every process a CPU clock with nanoseconds, for others to read: its id is the pid's complement, three
    bits up, and 2 for "as the scheduler counts" (``man 3 clock_getcpuclockid``). /proc/PID/stat counts in 10 ms.
    """
    try:
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)
    except OSError:
        return sum(_cpu_seconds_by_stat(pid) for pid in pids)


def _cpu_seconds_by_stat(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the memory that these processes hold; from ``smaps_rollup``, which is exact where ``stat`` may lag."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))
    return total


@dataclass(slots=True)
class Block:
    """What happened in one block. A call is what the program waits for: one key, a batch, or a wave of tasks."""

    keys_per_call: int
    calls_ns: list[int] = field(default_factory=list)
    """How long each call took."""
    elapsed_s: float = 0.0
    keys: int = 0
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0

    def summary(self) -> Summary:
        """Reduce the block to its numbers."""
        ordered = sorted(self.calls_ns)
        keys = self.keys or len(ordered) * self.keys_per_call
        return Summary(
            p50_us=percentile(ordered, 0.50) / 1e3,
            p99_us=percentile(ordered, 0.99) / 1e3,
            keys_per_s=keys / self.elapsed_s,
            server_us_per_key=self.server_cpu_s / keys * 1e6,
            client_us_per_key=self.client_cpu_s / keys * 1e6,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One block, or the medians over the blocks of a contestant."""

    p50_us: float
    p99_us: float
    keys_per_s: float
    server_us_per_key: float
    client_us_per_key: float


def percentile(ordered: Sequence[int], share: float) -> float:
    """Return the nearest-rank percentile of sorted samples; 0 where there are none."""
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else 0.0


def median_of(summaries: Sequence[Summary]) -> Summary:
    """Return the median of every number over the blocks."""
    return Summary(*(statistics.median(getattr(one, name) for one in summaries) for name in Summary.__slots__))


@contextmanager
def measured(block: Block, server_pids: Sequence[int]) -> Iterator[None]:
    """Charge to ``block`` the time that passes, and the CPU time of the servers and of this process."""
    gc.collect()
    server_before, client_before = cpu_seconds(server_pids), time.process_time()
    start = time.perf_counter()
    yield
    block.elapsed_s = time.perf_counter() - start
    block.client_cpu_s = time.process_time() - client_before
    block.server_cpu_s = cpu_seconds(server_pids) - server_before
