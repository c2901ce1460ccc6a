"""Compare the speed of this tree with that of a commit.

Both run at the same time, a node and a client of each, and are measured in turns of a fraction of a second, so that
whatever else the machine does meets both. Processes of one program differ by some percent among themselves, for as long
as they live; so they are started several times. The ratio is that of the medians, before to now: above 1, this tree is
faster.

The native module of the commit is built first, where it has one; with ``--pure``, both trees run without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshcache._native import PURE_VARIABLE, compiled

ROOT: Final = Path(__file__).resolve().parent.parent.parent
WORKER: Final = ROOT / "scripts/benchmark/worker.py"
Figures = list[tuple[float, ...]]
"""Of each turn, in µs an operation: wall time, and processor time of both processes, of the client and of the node."""
OPERATIONS: Final = ("get", "set", "get_many", "set_many", "gets_64", "near")
EXAMPLES: Final = """\
examples:
  scripts/bench compare HEAD~5                      all operations, in about two minutes
  scripts/bench compare main --only get set         only these two
  scripts/bench compare HEAD --only get             this very tree twice: how much the figures differ by chance
  scripts/bench compare HEAD~5 --pure               both without their native modules
  scripts/bench compare v0.1 --starts 1 --rounds 2  a look
"""


class Side:
    """A node and a client that run one tree."""

    def __init__(self, tree: Path, port: int, *, pure: bool) -> None:
        environment = environment_of(tree, pure=pure)
        node = ["-m", "meshcache", "node", "--id", "n", "--listen", f"127.0.0.1:{port}", "--set", "cluster.replicas=1"]
        settings = ["--set", "cluster.write_quorum=1", "--set", "store.max_entries=50000", "--set", "log.level=error"]
        command = [sys.executable, *node, *settings]
        self.node = subprocess.Popen(command, env=environment, cwd=tree, stdout=subprocess.PIPE, text=True)
        assert self.node.stdout is not None
        if self.node.stdout.readline() != "ready\n":
            raise RuntimeError(f"the node of {tree} did not start")
        # -P: not the modules beside it, of which one is named as one of Python's own.
        self.client = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), f"127.0.0.1:{port}"],
            env=environment,
            cwd=tree,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def measure(self, operation: str, seconds: float) -> tuple[float, float, float, float]:
        """Return wall time, and processor time of both processes, of the client and of the node, in µs an operation."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        before = [processor_ns(process.pid) for process in (self.client, self.node)]
        self.client.stdin.write(f"{operation} {seconds}\n")
        self.client.stdin.flush()
        told = json.loads(self.client.stdout.readline())
        after = [processor_ns(process.pid) for process in (self.client, self.node)]
        client, node = ((end - begin) / told["count"] / 1e3 for begin, end in zip(before, after, strict=True))
        return told["seconds"] / told["count"] * 1e6, client + node, client, node

    def close(self) -> None:
        """End both processes."""
        for process in (self.client, self.node):
            process.terminate()
            process.wait()


def environment_of(tree: Path, *, pure: bool) -> dict[str, str]:
    """Return the environment in which a tree runs; what it does not know would stop it."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    environment.pop(PURE_VARIABLE, None)
    if pure and (tree / "meshcache/_native").is_dir():
        environment[PURE_VARIABLE] = "1"
    return environment


def build_native(tree: Path) -> None:
    """Build the native module of a tree, if it has one."""
    if (tree / "meshcache/_native/build_hook.py").is_file():
        build = "from meshcache._native.build_hook import SOURCES, compile_into; compile_into(SOURCES)"
        environment = environment_of(tree, pure=False)
        subprocess.run([sys.executable, "-c", build], cwd=tree, env=environment, check=True, stdout=sys.stderr)


def processor_ns(pid: int) -> int:
    """Return the processor time of all threads of a process."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total


def measure(
    base: Path, starts: int, rounds: int, seconds: float, operations: list[str], *, pure: bool
) -> dict[str, list[Figures]]:
    """Measure both trees in turns; return the figures of both, by operation."""
    found: dict[str, list[Figures]] = {operation: [[], []] for operation in operations}
    for start in range(starts):
        port = 24_000 + (os.getpid() + 2 * start) % 3000
        sides = Side(base, port, pure=pure), Side(ROOT, port + 1, pure=pure)
        try:
            for operation in operations:
                for turn in range(rounds + 1):
                    for which in (0, 1) if turn % 2 else (1, 0):
                        measured = sides[which].measure(operation, seconds)
                        if turn:  # the first turn is to warm up
                            found[operation][which].append(measured)
        finally:
            for side in sides:
                side.close()
        print(f"{start + 1} of {starts} starts", file=sys.stderr, flush=True)
    return found


def tell(operation: str, figures: list[Figures]) -> None:
    """Print the ratios of the medians."""
    old, new = ([statistics.median(column) for column in zip(*side, strict=True)] for side in figures)
    print(
        f"{operation:10} wall {old[0] / new[0]:.3f}   processor time {old[1] / new[1]:.3f}"
        f"   ({old[1]:.1f} µs before, {new[1]:.1f} µs now;"
        f" client {old[2]:.1f} and {new[2]:.1f}, node {old[3]:.1f} and {new[3]:.1f})",
        flush=True,
    )


def main(arguments: Sequence[str]) -> int:
    """Compare, and print a line for each operation."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench compare",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--starts", type=int, default=5, help="how often to start the processes (5)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each in one start (5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn (0.3)")
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS), help="which operations")
    parser.add_argument("--pure", action="store_true", help="without the native modules of both")
    options = parser.parse_args(arguments)
    known = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{options.commit}^{{commit}}"]
    if subprocess.run(known, stdout=subprocess.DEVNULL, check=False).returncode:
        parser.error(f"{options.commit}: no commit of this repository; see git log")
    pure = options.pure or compiled is None
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), options.commit], check=True)
        try:
            if not pure:
                build_native(tree)
            found = measure(tree, options.starts, options.rounds, options.seconds, options.only, pure=pure)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    for operation, figures in found.items():
        tell(operation, figures)
    return 0
