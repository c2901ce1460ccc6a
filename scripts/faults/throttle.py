"""A share of a processor for one process, by Linux's control groups: so a node is slower than those who load it.

On a machine with few cores, the programs that offer ten times what a node can do would take the processor that it
needs, and what is measured would be the scheduler. A node that has a tenth of a core is overloaded by little.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PERIOD_US: Final = 50_000
"""Within each period the process runs for its share of it, and then stands still."""
ROOT: Final = Path("/sys/fs/cgroup")
EMPTY_WITHIN_S: Final = 10.0


class CannotThrottle(Exception):
    """This machine has no control group that can be made here."""


@contextmanager
def throttled(pid: int, share: float) -> Iterator[None]:
    """Let a process and its threads have this share of one core for a while, and before all others.

    Raises CannotThrottle.
    """
    quota_us = int(share * PERIOD_US)
    first = ROOT / "cpu"  # version 1 of control groups has a folder for each kind
    group = (first if first.is_dir() else ROOT) / f"meshcache-{os.getpid()}-{pid}"
    try:
        group.mkdir()
        if first.is_dir():
            (group / "cpu.cfs_period_us").write_text(f"{PERIOD_US}", encoding="ascii")
            (group / "cpu.shares").write_text("262144", encoding="ascii")
            (group / "cpu.cfs_quota_us").write_text(f"{quota_us}", encoding="ascii")
        else:
            (group / "cpu.weight").write_text("10000", encoding="ascii")
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}", encoding="ascii")
        (group / "cgroup.procs").write_text(f"{pid}", encoding="ascii")
    except OSError as error:
        raise CannotThrottle(f"{error}: run this as root, where {ROOT} can be written") from None
    try:
        yield
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Give the processes back to the group above, and remove this one."""
    for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
        (group.parent / "cgroup.procs").write_text(pid, encoding="ascii")
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while True:
        try:
            group.rmdir()
        except OSError:  # a process that has just ended is still in it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
