"""A crowd misses one key at once: its value is computed once, and once more if who computes it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import meshcache

from .scenario import Options, Result

CROWD: Final = Path(__file__).with_name("crowd.py")
LOAD_S: Final = 0.5
CROWD_S_MAX: Final = 150.0
TAKEOVER_S_MAX: Final = 2 * LOAD_S + 3.5
"""The killed loader's half, the lease's last 2.5 s, the next loader, and a second for the crowd."""


class Hung(Exception):
    """A crowd did not end; says where its processes were."""


def run_crowd(addresses: list[str], kind: str, count: int, key: str, *, kill: bool = False) -> dict[str, Any]:
    """Run a crowd in a process of its own, and return what came of it."""
    command = [sys.executable, str(CROWD), ",".join(addresses), kind, str(count), key, str(LOAD_S), str(int(kill))]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        crowd = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)
        try:
            failed = crowd.wait(CROWD_S_MAX)
        except subprocess.TimeoutExpired:
            failed = -1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(crowd.pid, signal.SIGKILL)
            crowd.wait()
        out.seek(0)
        log.seek(0)
        said = log.read()
        if "Timeout (" in said or failed == -1:  # the watchdog of some process
            raise Hung(said[-4000:])
        if failed:
            raise RuntimeError(f"the crowd failed:\n{said[-2000:]}")
        told: dict[str, Any] = json.load(out)
        return told


class Crowds:
    """What came of crowds of one kind."""

    def __init__(self, expected: int, loads: int) -> None:
        self.expected = expected
        """How many should get the value."""
        self.loads = loads
        """How many should compute it."""
        self.wrong_loads = self.hung = self.without = 0
        self.longest_s = 0.0
        self.errors: Counter[str] = Counter()

    def add(self, told: dict[str, Any]) -> None:
        """Count what came of one."""
        answers, loads = told["answers"], told["loads"]
        right = [answer for answer in answers if loads and answer["value"] == f"value of {loads[-1]}"]
        self.wrong_loads += len(loads) != self.loads
        self.without += self.expected - len(right)
        self.longest_s = max([self.longest_s, *(answer["took_s"] for answer in answers)])
        self.errors.update(answer["error"] for answer in answers if answer["error"] is not None)

    def check(self, result: Result, name: str, longest_s: float | None) -> None:
        """Add the figures."""
        result.check(f"{name}: not computed {self.loads} times", self.wrong_loads, 0)
        result.check(f"{name}: without the value", self.without, 0)
        result.check(f"{name}: hung", self.hung, 0)
        result.check(f"{name}: longest call", self.longest_s, longest_s, "s")
        result.tally.errors.update(self.errors)


def stampede(options: Options) -> Result:
    """Three nodes, N=2 W=2 R=1."""
    result = Result("stampede", "a crowd misses one key at once, 3 nodes, N=2 W=2 R=1")
    began = time.monotonic()
    count = int(options.pick(40, 200))
    with meshcache.LocalMesh(nodes=3) as mesh:
        addresses = list(mesh.addresses)
        for kind in ("tasks", "threads", "processes"):
            tally = Crowds(count, 1)
            tally.add(run_crowd(addresses, kind, count, kind))
            tally.check(result, f"{count} {kind}", None)
        killed = Crowds(count - 1, 2)
        rounds = max(1, options.rounds)
        for number in range(rounds):
            try:
                killed.add(run_crowd(addresses, "processes", count, f"kill {number}", kill=True))
            except Hung as error:
                killed.hung += 1
                result.tally.evidence.append(str(error))
        name = f"{count} processes, the one that computes killed"
        killed.check(
            result, name + (f", {rounds} times" if rounds > 1 else ""), None if options.beside else TAKEOVER_S_MAX
        )
    result.elapsed_s = time.monotonic() - began
    return result
