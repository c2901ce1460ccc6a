"""The command line of ``scripts/soak``, and one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from faults.watch import Watch

import meshcache

from . import report
from .allocations import MEMORY_DIR, MEMORY_S, RESIDENT, memory_told
from .callers import KINDS, Callers
from .churn import SPARED, Churn
from .samples import Lives, busy_share, node_sample, process_sample
from .schedule import Schedule
from .slopes import MIB, Finding, judge

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SCRIPTS: Final = ROOT / "scripts"
WITHIN: Final = Path(__file__).parent / "within"
LEAKS: Final = ("floors", "memory", "descriptors")
UNJUDGED: Final = ("cpu_s", "anonymous_bytes", "snapshots.entries", "snapshots.bytes")
"""What is no level, or only repeats another one now and then: a snapshot has what the store had, which is judged."""
PROGRESS_S: Final = 10.0
SHORT_LIFE_S: Final = 60.0
EXAMPLES: Final = """\
examples:
  scripts/soak --minutes 30                     what grows by more than 1 MiB an hour, and what else grows
  scripts/soak --minutes 480 --json soak.json   over night, with every sample
  scripts/soak --minutes 3 --plant memory       a leak that must be found: exit 1

The verdict is about the node that is never killed and the two processes with clients that live all the time; of others
it is only told. What came before 35 % of the time is not judged. Exit 1: something grows, or an answer was wrong.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Run a mesh and its clients for long, with all that happens to meshes, and say what grows.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes, one of which is never hurt (3)")
    parser.add_argument("--rate", type=float, default=240.0, help="checked calls and errands a second (240)")
    parser.add_argument("--memory", type=float, default=1.0, metavar="MIB", help="what may be added an hour (1)")
    parser.add_argument("--seed", type=int, default=1, help="what is done to the mesh, and in which order (1)")
    parser.add_argument("--plant", choices=LEAKS, help="plant a leak into the nodes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings and samples there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the memory and the tables (SVG or PNG)")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the nodes' logs and snapshots there")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.nodes < 2 or options.rate <= 0:
        parser.error("--minutes and --rate must be above 0, and --nodes at least 2")
    return options


@dataclass
class Soak:
    """What came of a run."""

    elapsed_s: float = 0.0
    processors: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    """Nodes that ended by themselves."""

    @property
    def problems(self) -> list[str]:
        """Return all that makes the run fail, in words."""
        found = [f"{each.life}: {each.name} grows" for each in self.findings if each.decides and each.grows]
        found += [f"{node_id} ended by itself" for node_id in self.ended]
        for kind, seen in self.answers.items():
            found += [
                f"{kind}: {seen[name]} answers {name}"
                for name in ("wrong", "stale", "backwards", "near_stale")
                if seen[name]
            ]
        return found


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments say; 1 if something grows, or an answer was wrong."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if options.plant:
        os.environ["SOAK_PLANT"] = options.plant
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(WITHIN), str(SCRIPTS), os.environ.get("PYTHONPATH")]))
    lives, schedule = Lives(), Schedule(60 * options.minutes)
    with tempfile.TemporaryDirectory(prefix="meshcache-soak-memory-") as memory:
        os.environ |= {MEMORY_DIR: memory, MEMORY_S: str(schedule.sample_s)}
        soak = run(options, schedule, lives)
    print(report.table(soak.findings))
    for kind, seen in soak.answers.items():
        print(f"\n{kind}: {seen}")
    print(f"\n{soak.elapsed_s:.0f} s, {soak.processors:.2f} processors busy on average; done to the mesh: {soak.done}")
    for problem in soak.problems:
        print(f"FAILED: {problem}")
    if not soak.problems:
        print("nothing grows, no answer was wrong")
    if options.json:
        options.json.write_text(json.dumps(_as_json(soak, lives), indent=1) + "\n", encoding="utf-8")
    if options.plot:
        _draw(lives, schedule, options.plot)
    return 1 if soak.problems else 0


def _draw(lives: Lives, schedule: Schedule, file: Path) -> None:
    try:
        from .plot import draw  # noqa: PLC0415

        draw(lives, file, (SPARED, *KINDS), schedule.warmup_s)
    except ImportError:
        print("no plot: matplotlib is not installed (pip install '.[bench]')")
    else:
        print(f"wrote {file}")


def run(options: argparse.Namespace, schedule: Schedule, lives: Lives) -> Soak:
    """Run a mesh for as long as the schedule says, keep samples of all processes in ``lives``, and judge them."""
    soak = Soak()
    with tempfile.TemporaryDirectory(prefix="meshcache-soak-") as scratch:
        where = options.logs or Path(scratch)
        settings: dict[str, Any] = {"nodes": options.nodes, "data_dir": where, **schedule.tables()}
        with meshcache.LocalMesh(**settings) as mesh, Watch({}) as watch:
            addresses = list(mesh.addresses)
            with Callers(
                addresses,
                rate=options.rate,
                ttl_s_max=schedule.ttl_s_max,
                warming_s=schedule.warming_s,
                sample_s=schedule.sample_s,
            ) as callers:
                churn = Churn(mesh, callers, options.seed, schedule.churn_s)
                began = time.monotonic()
                _look_on(mesh, watch, callers, churn, schedule, lives)
                soak.elapsed_s = time.monotonic() - began
                churn.settle()
                soak.answers = callers.finish()
            soak.ended = sorted(churn.expected - set(mesh.pids))
            soak.done = dict(churn.done)
    soak.processors = busy_share(lives, {}, soak.elapsed_s)
    soak.findings = findings(lives, schedule, options.memory)
    return soak


def _look_on(
    mesh: meshcache.LocalMesh, watch: Watch, callers: Callers, churn: Churn, schedule: Schedule, lives: Lives
) -> None:
    """Take samples and let things happen, until the time is over."""
    pause = threading.Event()
    began = time.monotonic()
    sample_at, tell_at, what = 0.0, 0.0, ""
    while (now_s := time.monotonic() - began) < schedule.duration_s:
        if happened := churn.run():
            what = happened
            print(f"{now_s:7.1f} s  {happened}", file=sys.stderr, flush=True)
        if now_s >= sample_at:
            sample_at = now_s + schedule.sample_s
            _sample(mesh, watch, callers, now_s, lives)
        if now_s >= tell_at:
            tell_at = now_s + PROGRESS_S
            names = (SPARED, *callers.living)
            sizes = {name: lives.latest(name).get(RESIDENT, 0.0) / MIB for name in names}
            print(report.progress(now_s, schedule.duration_s, sizes, what), file=sys.stderr, flush=True)
        pause.wait(0.05)


def _sample(mesh: meshcache.LocalMesh, watch: Watch, callers: Callers, now_s: float, lives: Lives) -> None:
    ids = [f"node{number + 1}" for number in range(len(mesh.addresses))]
    watch.addresses = dict(zip(ids, mesh.addresses, strict=True))
    for node_id, pid in mesh.pids.items():
        memory = memory_told(Path(os.environ[MEMORY_DIR]), pid)
        lives.note(node_id, pid, now_s, process_sample(pid) | node_sample(watch, node_id) | memory)
    reports = callers.reports()
    for kind, process in callers.living.items():
        if process.pid is not None:
            lives.note(kind, process.pid, now_s, process_sample(process.pid) | reports.get(kind, {}))


def findings(lives: Lives, schedule: Schedule, memory_mib_per_hour: float) -> list[Finding]:
    """Judge every process: those that lived all the time, and of the others what came after their own warm-up."""
    found = []
    for life in lives.all:
        decides = life.name == SPARED or not life.name.startswith("node")
        from_s = schedule.warmup_s if decides else max(schedule.warmup_s, life.begin_s + SHORT_LIFE_S)
        times_s, series = life.series(from_s)
        for name in UNJUDGED:
            series.pop(name, None)
        name = life.name if decides else f"{life.name} from {life.begin_s:.0f} s"
        found += judge(name, times_s, series, memory_mib_per_hour=memory_mib_per_hour, decides=decides)
    return found


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _as_json(soak: Soak, lives: Lives) -> dict[str, Any]:
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, check=False)
    return {
        "meshcache": meshcache.__version__,
        "commit": commit.stdout.decode().strip() or "unknown",
        "python": platform.python_version(),
        "elapsed_s": soak.elapsed_s,
        "processors": soak.processors,
        "problems": soak.problems,
        "findings": [finding.as_json() for finding in soak.findings],
        "answers": soak.answers,
        "done": soak.done,
        "lives": [
            {"name": life.name, "pid": life.pid, "times_s": life.times_s, "samples": life.samples} for life in lives.all
        ],
    }
