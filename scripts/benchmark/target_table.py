"""Measure what the targets need, and say of each whether it is reached: what, the measured ratio, the target.

The rows are those of ``scripts/bench``, with its servers, all contestants interleaved; besides them it runs
``scripts/bench near --hits`` and looks at the memory of an entry. Hit ratios need traces, which are not part of this
project: replay yours by ``scripts/bench eviction --json`` into a file, and name it.

The exit status is 1 where a target is missed or a contestant failed. A target without a figure is shown as such.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import against_peers, near, report
from .measure import say
from .targets import HIT_RATIOS, NEAR, TARGETS, lines, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results import Results

NEAR_ROUNDS: Final = 9
EXAMPLES: Final = """\
examples:
  scripts/bench targets                                every target, in about ten minutes
  scripts/bench targets --quick                        a look: short blocks; the figures are no more than a hint
  scripts/bench targets --only 'mesh-*'                those that need rows of this name (near, memory: what is no row)
  scripts/bench targets --hit-ratios out/eviction.json with what scripts/bench eviction --json has found
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench targets",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="short blocks and few of them")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="rows of this name; repeatable")
    parser.add_argument("--rounds", metavar="N", help="as of scripts/bench")
    parser.add_argument("--seconds", metavar="S", help="as of scripts/bench")
    parser.add_argument("--hit-ratios", type=Path, metavar="FILE", help="what scripts/bench eviction --json printed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def read_hit_ratios(path: Path) -> list[dict[str, Any]]:
    """Read what ``scripts/bench eviction --json`` printed; SystemExit where it is something else."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        for row in rows:
            float(row["lru"]), float(row["s3fifo"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"--hit-ratios {path}: {type(error).__name__}: {error}") from None
    return rows


def needed(globs: list[str]) -> list[str]:
    """Return the rows that the targets need, each once, and what stands in place of rows."""
    return [row for row in dict.fromkeys(target.row for target in TARGETS) if against_peers.wanted(row, globs)]


def measure(rows: list[str], options: argparse.Namespace) -> Results:
    """Measure the rows, memory and near hits, so far as they are among what is needed."""
    arguments = ["--quick"] if options.quick else []
    for name in ("rounds", "seconds"):
        if value := getattr(options, name):
            arguments += [f"--{name}", value]
    of_peers = [row for row in rows if row not in {NEAR, HIT_RATIOS}]
    for row in of_peers:
        arguments += ["--only", row]
    peers = against_peers.parse(arguments)
    against_peers.prepare_process()
    results = against_peers.new_results(peers)
    if of_peers:
        against_peers.run_all(results, against_peers.select(peers), peers)
    if NEAR in rows:
        say("near hits")
        if importlib.util.find_spec("cachetools") is None:
            results.unavailable["cachetools"] = "the Python package is not installed (pip install '.[bench]')"
        with redirect_stdout(sys.stderr):
            results.near_hit_ns = near.hits(3 if options.quick else NEAR_ROUNDS)
    return results


def main(arguments: Sequence[str]) -> int:
    """Measure, and print one line for each target."""
    options = parse(arguments)
    hit_ratios = read_hit_ratios(options.hit_ratios) if options.hit_ratios else []
    rows = needed(options.only)
    if not rows:
        print(f"no target needs a row of this name: {', '.join(options.only)}", file=sys.stderr)
        return 2
    try:
        results = measure(rows, options)
    except KeyboardInterrupt:
        print("interrupted; every server is stopped", file=sys.stderr)
        return 130
    results.hit_ratios = hit_ratios
    if options.json:
        print(json.dumps(report.as_json(results), indent=1))
    else:
        print(table(results, whole=not options.only))
    for failure in results.failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if results.failed or any(verdict.passed is False for verdict in verdicts(results)) else 0


def table(results: Results, *, whole: bool) -> str:
    """Return what depends on what, then the targets; ``whole``: also those without a figure."""
    about = [f"{name}: {text}" for name, text in results.header.items()]
    about += [f"left out {name}: {reason}" for name, reason in results.unavailable.items()]
    about += [
        f"left out {contestant} of {row.row.name}: {reason}"
        for row in results.rows.values()
        for contestant, reason in row.skipped.items()
    ]
    found = verdicts(results)
    reached, missed = (sum(verdict.passed is passed for verdict in found) for passed in (True, False))
    rest = len(found) - reached - missed
    end = f"{reached} reached, {missed} missed" + (f", {rest} without a figure" if whole and rest else "")
    return "\n".join([*about, "", *lines(results, also_unmeasured=whole), "", end])
