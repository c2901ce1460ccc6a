"""A crowd misses one key at once: its value is computed once, and once more if who computes it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import meshcache

from .scenario import Options, Result

CROWD: Final = Path(__file__).with_name("crowd.py")
LOAD_S: Final = 0.5
CROWD_S_MAX: Final = 120.0
TAKEOVER_S_MAX: Final = 2 * LOAD_S + 3.5
"""The killed loader's half, the lease's last 2.5 s, the next loader, and a second for the crowd."""


def run_crowd(addresses: list[str], kind: str, count: int, key: str, *, kill: bool = False) -> dict[str, Any]:
    """Run a crowd in a process of its own, and return what came of it."""
    command = [sys.executable, str(CROWD), ",".join(addresses), kind, str(count), key, str(LOAD_S), str(int(kill))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=CROWD_S_MAX, check=False)
    if found.returncode:
        raise RuntimeError(f"the crowd failed:\n{found.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(found.stdout)
    return told


def stampede(options: Options) -> Result:
    """Three nodes, N=2 W=2 R=1."""
    result = Result("stampede", "a crowd misses one key at once, 3 nodes, N=2 W=2 R=1")
    began = time.monotonic()
    count = int(options.pick(40, 200))
    with meshcache.LocalMesh(nodes=3) as mesh:
        for kind, kill in (("tasks", False), ("threads", False), ("processes", False), ("processes", True)):
            name = f"{count} {kind}" + (", the one that computes killed" if kill else "")
            told = run_crowd(list(mesh.addresses), kind, count, f"{kind} {kill}", kill=kill)
            answers = told["answers"]
            right = [answer for answer in answers if answer["value"] == f"value of {(told['loads'] or [0])[-1]}"]
            result.check(f"{name}: loads", len(told["loads"]), 2 if kill else 1)
            result.check(f"{name}: without the value", count - kill - len(right), 0)
            longest_s = max(answer["took_s"] for answer in answers)
            result.check(f"{name}: longest call", longest_s, TAKEOVER_S_MAX if kill else None, "s")
            for answer in answers:
                if answer["error"] is not None:
                    result.tally.errors[answer["error"]] += 1
    result.elapsed_s = time.monotonic() - began
    return result
