"""The command line: run scenarios, report, plot."""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import meshcache

from . import report
from .attacker import ATTACKS
from .busy import busy
from .changes import join_leave, rolling
from .detection import detect
from .hashclient import hashclient
from .hostile import hostile
from .idle import idle
from .kills import kill9, kill9_default
from .near import near
from .overload import overload
from .partitions import partition, partition_strict
from .pauses import pause
from .scenario import Options, Result
from .stampede import stampede
from .surge import surge
from .upgrade import upgrade

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SCENARIOS: Final[dict[str, Callable[[Options], Result]]] = {
    "kill9": kill9,
    "kill9-default": kill9_default,
    "detect": detect,
    "pause": pause,
    "join-leave": join_leave,
    "rolling": rolling,
    "near": near,
    "partition": partition,
    "partition-strict": partition_strict,
    "hashclient": hashclient,
    "idle": idle,
    "hostile": hostile,
    "stampede": stampede,
    "overload": overload,
    "surge": surge,
    "upgrade": upgrade,
}
WRITE_BEHIND: Final = "write-behind"
EXAMPLES: Final = """\
scenarios: {names}

subcommand: write-behind kills a process that writes behind a cache into a PostgreSQL; it has its own --help

examples:
  scripts/chaos --quick                  all of them, short
  scripts/chaos kill9 --rounds 50        fifty kills
  scripts/chaos pause --logs out/logs --debug
  scripts/chaos stampede --rounds 200 --beside 4
  scripts/chaos write-behind --writes 1000 --kills 1

What is checked: *wrong* values belong to another key or were never written; *stale* ones are older than the last one
acknowledged before the read began; *missed* ones were acknowledged, not deleted, and not found. A key is unavailable
from the first call on it that did not succeed to the end of the first one that did.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Put meshes of real processes under load, hurt them, and check every answer.",
        epilog=EXAMPLES.format(names=", ".join(SCENARIOS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which to run (all)")
    parser.add_argument("--quick", action="store_true", help="short versions")
    parser.add_argument(
        "--rounds", type=int, default=0, help="kills of the kill9 scenarios (20 and 10), of stampede (1)"
    )
    parser.add_argument("--beside", type=int, default=0, help="processes that keep the machine busy meanwhile (0)")
    parser.add_argument("--rate", type=float, default=600.0, help="calls a second (600); stay below saturation")
    parser.add_argument(
        "--attacks",
        nargs="+",
        default=[],
        choices=list(ATTACKS),
        metavar="NAME",
        help=f"of hostile: {', '.join(ATTACKS)} (all)",
    )
    parser.add_argument("--from", dest="commit", default="", help="of upgrade: the commit with the old code")
    parser.add_argument("--seed", type=int, default=1, help="whom to hurt, and when (1)")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where JSON and plots go (out)")
    parser.add_argument("--logs", type=Path, help="keep the nodes' logs there")
    parser.add_argument("--debug", action="store_true", help="nodes log at level debug")
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and write nothing")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.scenarios if name not in SCENARIOS]:
        parser.error(
            f"no such scenario: {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}; and, alone, {WRITE_BEHIND}"
        )
    return options


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments say; 1 if a goal was missed."""
    if arguments and arguments[0] == WRITE_BEHIND:
        from .write_behind import main as write_behind  # noqa: PLC0415  (it needs psycopg, the others do not)

        return write_behind(arguments[1:])
    parsed = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    options = Options(
        quick=parsed.quick,
        rounds=parsed.rounds,
        rate=parsed.rate,
        seed=parsed.seed,
        logs=parsed.logs,
        debug=parsed.debug,
        beside=parsed.beside,
        attacks=tuple(parsed.attacks),
        commit=parsed.commit,
    )
    results = []
    for name in dict.fromkeys(parsed.scenarios or SCENARIOS):
        print(f"== {name}", file=sys.stderr, flush=True)
        results.append(_attempt(name, options))
        print(report.table(results[-1:]), file=sys.stderr if parsed.json else sys.stdout, flush=True)
    if parsed.json:
        print(json.dumps(_as_json(results)))
    else:
        _write(results, parsed.out, plot=not parsed.no_plot)
    return 0 if all(result.passed for result in results) else 1


def _attempt(name: str, options: Options) -> Result:
    """Run a scenario; one that breaks off is a result too, and the others still run."""
    try:
        with busy(options.beside):
            return SCENARIOS[name](options)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        result = Result(name, "broke off")
        result.check("scenarios that broke off", 1, 0)
        result.tally.evidence.append(traceback.format_exc())
        result.tally.errors[f"{type(error).__name__}: {error}"] += 1
        return result


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _as_json(results: list[Result]) -> dict[str, Any]:
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, check=False)
    return {
        "meshcache": meshcache.__version__,
        "commit": commit.stdout.decode().strip() or "unknown",
        "python": platform.python_version(),
        "results": [result.as_json() for result in results],
    }


def _write(results: list[Result], out: Path, *, plot: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "chaos.json").write_text(json.dumps(_as_json(results), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out / 'chaos.json'}")
    try:
        from .plot import draw  # noqa: PLC0415

        files = [file for result in results if plot for file in draw(result, out / f"chaos-{result.name}")]
    except ImportError:
        print("no plot: matplotlib is not installed (pip install '.[bench]')")
    else:
        for file in files:
            print(f"wrote {file}")
