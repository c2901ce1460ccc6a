"""Meshcache beside its peers: select rows, start servers, alternate the contestants, report."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from meshcache import _native

from . import gate, report
from .clients import NotOffered
from .gate import MEMORY_ROW, GateError, Release
from .memory import memory_per_entry
from .results import Results, RowResult
from .rows import ALL, ROWS, Row
from .servers import SERVERS, Server, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from .rows import Run

ROOT: Final = Path(__file__).resolve().parent.parent.parent
AGAIN_MAX: Final = 2
"""How often a row is measured anew that seems to have lost: one run of some seconds may be bad luck."""

UNKNOWN: Final = "unknown"

DESCRIPTION: Final = """\
Measure meshcache beside redis and memcached on this machine, in one run.

The program starts what it measures on free loopback ports: a mesh of one node (the like-for-like comparison), a mesh
of three, and, where they are installed, redis-server and memcached without persistence. It stops them in every case.
The contestants take turns, block by block (A B C A B C ...), so that the noise of the machine hits all alike; compare
the ratios of one run, never the times of two. Every block checks values against what was stored.
"""
EPILOG: Final = """\
examples:
  scripts/bench --quick                     a look, in less than a minute
  scripts/bench                             the figures to quote, in about ten minutes
  scripts/bench --full --out out/nightly    more rounds, and 1,000 values of 1 MB in one call (1 GB in each store)
  scripts/bench --only 'get_many*' --only get --rounds 21
  scripts/bench --only get --profile        where the microseconds of a single get go
  scripts/bench --json-only | jq .targets
  scripts/bench --gate                      has any row lost more than 10 % since the last release?
  scripts/bench --keep-as-release           measure, and keep the ratios for --gate

how to read it: "server us/key" is the CPU time of the server's process, "client us/key" that of the client program,
each per key; p50 and p99 are of what the program waits for (a get, a batch, a wave). Peers come from their own
libraries: pip install '.[bench]' brings redis-py with hiredis, valkey-glide, pymemcache and matplotlib. A peer that is
not installed is left out, which the report says.

--gate holds the ratios to the peers against those of the last release, in scripts/benchmark/release.json. It fails
where a row has lost more than 10 %, also when it is measured anew, and writes nothing.
"""


def say(text: str) -> None:
    """Tell the progress, on the standard error."""
    print(text, file=sys.stderr, flush=True)


class Fleet:
    """The servers, each started when it is first needed."""

    def __init__(self, unavailable: dict[str, str]) -> None:
        self._stack = ExitStack()
        self._running: dict[str, Server] = {}
        self._unavailable = unavailable
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._running.clear()

    def server(self, kind: str) -> Server | None:
        """Return the server of this kind, or None where there is none to be had."""
        if kind in self._unavailable:
            return None
        if kind not in self._running:
            try:
                self._running[kind] = self._stack.enter_context(SERVERS[kind]())
            except Unavailable as error:
                self._unavailable[kind] = str(error)
                say(f"skipping {kind}: {error}")
                return None
            self.versions[kind] = self._running[kind].version
        return self._running[kind]


def measure_row(row: Row, fleet: Fleet, rounds: int, seconds: float) -> RowResult:
    """Open a session on every contestant, then let them take turns."""
    result = RowResult(row)
    with ExitStack() as sessions:
        runs: dict[str, Run] = {}
        for contestant in row.contestants:
            server = fleet.server(contestant.split()[0])
            if server is None:
                continue
            try:
                runs[contestant] = sessions.enter_context(row.session(server, contestant))
                runs[contestant](seconds / 4)  # the first calls fill caches and connect
            except NotOffered as error:
                result.skipped[contestant] = str(error)
                runs.pop(contestant, None)
            except Exception as error:  # noqa: BLE001  (one contestant's failure must not cost the others' results)
                result.failed[contestant] = f"{type(error).__name__}: {error}"
                runs.pop(contestant, None)
        for _ in range(rounds):
            for contestant, run in list(runs.items()):
                try:
                    summary = run(seconds * row.seconds_factor).summary()
                except Exception as error:  # noqa: BLE001  (as above)
                    result.failed[contestant] = f"{type(error).__name__}: {error}"
                    del runs[contestant]
                else:
                    result.blocks.setdefault(contestant, []).append(summary)
    return result


def measure_again(results: Results, fleet: Fleet, release: Release, options: argparse.Namespace) -> None:
    """Measure rows anew that seem to have lost since the release; all their blocks count."""
    for _ in range(AGAIN_MAX):
        for name in gate.judge(release.ratios, gate.ratios_of(results), ()).lost:
            say(f"once more, as it seems to have lost: {name}")
            result = results.rows[name]
            again = measure_row(result.row, fleet, options.rounds, options.seconds)
            for contestant, blocks in again.blocks.items():
                result.blocks.setdefault(contestant, []).extend(blocks)
            results.failed += [f"{name}, {contestant}: {reason}" for contestant, reason in again.failed.items()]


def run_all(results: Results, rows: list[Row], options: argparse.Namespace, release: Release | None = None) -> None:
    """Measure the rows in their order, then memory on servers that nobody has used."""
    started = time.monotonic()
    with Fleet(results.unavailable) as fleet:
        for number, row in enumerate(rows, 1):
            say(f"[{time.monotonic() - started:4.0f} s] {number}/{len(rows)} {row.name}: {row.title}")
            result = measure_row(row, fleet, options.rounds, options.seconds)
            results.rows[row.name] = result
            results.failed += [f"{row.name}, {name}: {reason}" for name, reason in result.failed.items()]
        if release is not None:
            measure_again(results, fleet, release, options)
        results.header.update({f"server {kind}": version for kind, version in fleet.versions.items()})
    if options.profile:
        say(f"[{time.monotonic() - started:4.0f} s] stages of a get")
        try:
            results.profile = importlib.import_module("benchmark.stages").profile(results)
        except Exception as error:  # noqa: BLE001  (as above)
            results.failed.append(f"profile: {type(error).__name__}: {error}")
    if not wanted(MEMORY_ROW, options.only):
        return
    for kind in ALL:
        say(f"[{time.monotonic() - started:4.0f} s] memory of {kind}, {options.entries:,} entries")
        with Fleet(results.unavailable) as fleet:
            server = fleet.server(kind)
            if server is not None:
                try:
                    results.memory[kind] = memory_per_entry(server, options.entries)
                except Exception as error:  # noqa: BLE001  (as above)
                    results.failed.append(f"memory, {kind}: {type(error).__name__}: {error}")


def wanted(name: str, globs: list[str]) -> bool:
    """Tell whether a row was asked for."""
    return not globs or any(fnmatchcase(name, glob) for glob in globs)


def header() -> dict[str, str]:
    """Return what the figures depend on."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = commit != UNKNOWN and _git("status", "--porcelain")
    versions = f"Python {platform.python_version()}"
    try:
        zmq = importlib.import_module("zmq")
        versions += f", libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}"
    except ImportError:
        pass
    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": versions + _glide_versions(),
        "native module": _native.describe(),
        "commit": f"{commit} with changes" if changed else commit,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _glide_versions() -> str:
    found = ""
    for package in ("valkey-glide", "valkey-glide-sync"):
        try:
            found += f", {package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            found += f", no {package}"
    return found


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return UNKNOWN
    return answer.stdout.strip() if answer.returncode == 0 else UNKNOWN


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; the presets fill in what was not said."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG + "\nrows: " + ", ".join([*(row.name for row in ROWS), MEMORY_ROW]),
    )
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument("--quick", action="store_true", help="fewer rows and rounds: less than a minute")
    preset.add_argument("--full", action="store_true", help="every row and more rounds: about half an hour")
    parser.add_argument(
        "--only", metavar="GLOB", action="append", default=[], help="only rows of this name; repeatable"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each contestant has its turn in each row")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long one block lasts")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out", metavar="DIR", help="for bench.json, bench.svg and bench.png"
    )
    parser.add_argument("--json-only", action="store_true", help="print the JSON instead of the table; write no files")
    parser.add_argument("--profile", action="store_true", help="also show where the time of a get goes (rows: get)")
    purpose = parser.add_mutually_exclusive_group()
    purpose.add_argument("--gate", action="store_true", help="fail if a row has lost over 10 %% since the last release")
    purpose.add_argument("--keep-as-release", action="store_true", help="keep the ratios for --gate; every row")
    parser.add_argument("--list", action="store_true", help="list the rows")
    options = parser.parse_args(argv)
    if options.keep_as_release and (options.only or options.quick):
        parser.error("--keep-as-release measures every row: leave out --only and --quick")
    rounds, seconds, entries = (
        (3, 0.1, 50_000) if options.quick else (15, 0.3, 200_000) if options.full else (7, 0.2, 200_000)
    )
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or seconds
    options.entries = entries
    return options


def select(options: argparse.Namespace) -> list[Row]:
    """Return the rows to measure; a row that is named runs whatever the preset says."""
    if options.only:
        return [row for row in ROWS if wanted(row.name, options.only)]
    return [row for row in ROWS if options.full or not (row.full_only or (options.quick and not row.quick))]


def write(results: Results, folder: Path) -> None:
    """Write JSON and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "bench.json"]
    written[0].write_text(json.dumps(report.as_json(results), indent=1) + "\n")
    pictures = [folder / "bench.svg", folder / "bench.png"]
    try:
        if report.plot(results, pictures):
            written += pictures
    except ImportError:
        say("no plot: matplotlib is not installed (pip install '.[bench]')")
    say("written: " + ", ".join(str(path) for path in written))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """End as by an exception, so that every server is stopped on the way out."""
    del frame
    raise SystemExit(128 + number)


def prepare_process() -> None:
    """End by exceptions, so that servers are stopped, and allow many connections."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # 1,000 tasks of redis.asyncio take as many connections


def new_results(options: argparse.Namespace) -> Results:
    """Return what a run fills in."""
    return Results(header(), {"rounds": options.rounds, "seconds": options.seconds, "entries": options.entries})


def tell(results: Results, options: argparse.Namespace) -> None:
    """Print what was measured, and write files."""
    if options.json_only:
        print(json.dumps(report.as_json(results), indent=1))
    else:
        print(report.table(results))
        write(results, options.out)
    if options.keep_as_release and not results.failed:
        gate.keep(results)
        say(f"written: {gate.RELEASE}")


def pass_gate(results: Results, release: Release, rows: list[Row], options: argparse.Namespace) -> bool:
    """Say what each row has lost since the release; True where none has lost too much."""
    asked = {row.name for row in rows} | (release.ratios.keys() - {MEMORY_ROW, *(row.name for row in ROWS)})
    if wanted(MEMORY_ROW, options.only):
        asked.add(MEMORY_ROW)
    judgement = gate.judge(release.ratios, gate.ratios_of(results), asked)
    print(gate.text(release, results, judgement))
    return judgement.passed


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 where a contestant failed, or 130 after Ctrl-C."""
    options = parse(argv)
    rows = select(options)
    if options.list:
        print("\n".join(f"{row.name:26}{row.title}" for row in ROWS))
        return 0
    if not rows and not wanted(MEMORY_ROW, options.only):
        say(f"no row is named so: {', '.join(options.only)} (scripts/bench --list shows them)")
        return 2
    try:
        release = gate.read() if options.gate else None
    except GateError as error:
        say(str(error))
        return 2
    prepare_process()
    results = new_results(options)
    try:
        run_all(results, rows, options, release)
    except KeyboardInterrupt:
        say("interrupted; every server is stopped")
        return 130
    passed = True
    if release is None:
        tell(results, options)
    else:
        passed = pass_gate(results, release, rows, options)
    for failure in results.failed:
        say(f"failed: {failure}")
    return 0 if passed and not results.failed else 1
