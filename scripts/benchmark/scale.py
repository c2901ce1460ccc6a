"""How much of a node's throughput is left when there are more nodes.

Meshes of 1, 2, 3 and 5 nodes run at the same time, and take turns. Each node is pinned to one core, the first to the
first, and so on round the cores that there are; client programs run where the kernel puts them. On a machine with fewer
cores than nodes the rate by the clock can not grow, so what is compared is the work that nodes do for it: keys a second
of their CPU time, all nodes of a mesh together, rest included. Perfect scaling is 1.00 for any number of nodes.

There are as many client programs as nodes, so that each node has the same to do; with a fixed number of programs
(--programs) the more nodes, the longer each sleeps between two requests, the colder it wakes, and the fewer requests it
finds when it does.

A batch goes to every node that owns a key of it, so with more nodes each gets a smaller part, and what a request costs
beyond its keys comes more often: that is the loss to look for. Rows with one copy of each key compare like with like;
with two copies (N=2 W=2 R=1) a write is work for two nodes, from two nodes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import ExitStack
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .load import ClientPrograms
from .measure import cpu_seconds, median_of, say
from .rows import AsyncRow, ManyRow, Row, SingleRow
from .servers import ONE_COPY, TWO_COPIES, mesh
from .workload import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .measure import Summary
    from .servers import Server

NODES: Final = (1, 2, 3, 5)
REST_S: Final = 3.0
ONLY: Final = ("meshcache",)
LOADS: Final[dict[str, Row]] = {
    "get": SingleRow(name="get", title="one get at a time", call="get", contestants=ONLY),
    "set": SingleRow(name="set", title="one set at a time", call="set", contestants=ONLY, write=True),
    "gets": AsyncRow(name="gets", title="64 tasks that get", call="get", contestants=ONLY, concurrent=64, tasks=True),
    **{
        operation: ManyRow(
            name=operation,
            title=f"{operation} of 100",
            call="batch",
            contestants=ONLY,
            count=100,
            size=SMALL_BYTES,
            write=operation == "set_many",
        )
        for operation in ("get_many", "set_many")
    },
}
EXAMPLES: Final = """\
examples:
  scripts/bench scale                                 all loads, one copy and two, in about five minutes
  scripts/bench scale --rounds 2 --seconds 0.2        a look
  scripts/bench scale --only get_many --copies 1      one curve
  scripts/bench scale --programs 2                    the same clients, whatever the number of nodes
  scripts/bench scale --nodes 1 2 3 5 8 --json        for other programs
"""


class Point(NamedTuple):
    """What one mesh did with one load, in medians over the rounds."""

    load: str
    copies: int
    nodes: int
    keys_per_s: float
    node_us_per_key: float
    keys_per_node_cpu_s: float
    efficiency: float
    """Keys a node CPU second, beside those of the mesh of the fewest nodes in the same run."""
    low: float
    high: float
    """Quartiles of the efficiency by round."""


def pin(pid: int, core: int) -> None:
    """Have all threads of a process run on this core only."""
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  (names are what is wanted)
        os.sched_setaffinity(int(task), {core})


def start(stack: ExitStack, nodes: int, copies: int) -> Server:
    """Start a mesh, each of whose nodes has one core."""
    cluster = ONE_COPY if copies == 1 or nodes == 1 else TWO_COPIES
    server = stack.enter_context(mesh("meshcache", nodes=nodes, cluster=cluster))
    for pid, core in zip(server.pids, cycle(sorted(os.sched_getaffinity(0))), strict=False):
        pin(pid, core)
    return server


def points(load: str, copies: int, blocks: dict[int, list[Summary]]) -> list[Point]:
    """Reduce the blocks of all meshes to one point each."""
    base = blocks[min(blocks)]
    found = []
    for nodes, summaries in blocks.items():
        median = median_of(summaries)
        by_round = [one.server_us_per_key / each.server_us_per_key for one, each in zip(base, summaries, strict=True)]
        low, _, high = statistics.quantiles(by_round, n=4) if len(by_round) > 1 else by_round * 3
        found.append(
            Point(
                load=load,
                copies=copies,
                nodes=nodes,
                keys_per_s=median.keys_per_s,
                node_us_per_key=median.server_us_per_key,
                keys_per_node_cpu_s=1e6 / median.server_us_per_key,
                efficiency=median_of(base).server_us_per_key / median.server_us_per_key,
                low=low,
                high=high,
            )
        )
    return found


def at_rest(servers: dict[int, Server]) -> dict[int, float]:
    """Return the part of a core that the nodes of each mesh use while nobody calls them."""
    before = {nodes: cpu_seconds(server.pids) for nodes, server in servers.items()}
    time.sleep(REST_S)
    return {nodes: (cpu_seconds(server.pids) - before[nodes]) / REST_S for nodes, server in servers.items()}


def measure(copies: int, options: argparse.Namespace) -> tuple[list[Point], dict[int, float]]:
    """Run the loads one after the other, each on all meshes in turns; return the points, and what rest costs."""
    found = []
    with ExitStack() as stack:
        servers = {nodes: start(stack, nodes, copies) for nodes in options.nodes}
        rest = at_rest(servers)
        for load in options.only:
            say(f"{LOADS[load].title}, {copies} {'copy' if copies == 1 else 'copies'}")
            blocks: dict[int, list[Summary]] = {nodes: [] for nodes in servers}
            with ExitStack() as sessions:
                programs = {}
                for nodes, server in servers.items():
                    count = options.programs or nodes
                    programs[nodes] = sessions.enter_context(ClientPrograms(LOADS[load], server, "meshcache", count))
                for each in programs.values():
                    each.block(options.seconds / 4)  # the first calls fill caches and connect
                for turn in range(options.rounds):
                    for nodes in list(programs)[:: 1 if turn % 2 else -1]:
                        blocks[nodes].append(programs[nodes].block(options.seconds).summary())
            found += points(load, copies, blocks)
    return found, rest


def table(found: list[Point], rest: dict[int, float]) -> str:
    """Show the points as text."""
    lines = [f"{'':28}{'nodes':>6}{'keys/s':>11}{'node us/key':>13}{'keys/node CPU s':>17}   beside the fewest"]
    for point in found:
        what = f"{LOADS[point.load].title}, N={point.copies}"
        lines.append(
            f"{what:28}{point.nodes:>6}{point.keys_per_s:>11,.0f}{point.node_us_per_key:>13.2f}"
            f"{point.keys_per_node_cpu_s:>17,.0f}   {point.efficiency:.2f} ({point.low:.2f} - {point.high:.2f})"
        )
    lines += [f"{nodes} nodes at rest use {share:.1%} of a core" for nodes, share in rest.items()]
    return "\n".join(lines)


def as_json(found: list[Point], rest: dict[int, float]) -> dict[str, Any]:
    """Return the points as plain values."""
    rows = [{**point._asdict(), "title": LOADS[point.load].title} for point in found]
    return {"cores": len(os.sched_getaffinity(0)), "rest": rest, "points": rows}


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a line for each number of nodes."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench scale",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES, metavar="N", help="sizes of meshes (1 2 3 5)")
    parser.add_argument("--only", nargs="+", choices=LOADS, default=list(LOADS), help="which loads")
    parser.add_argument("--copies", type=int, choices=(1, 2), help="of each key; by default one, then two")
    parser.add_argument("--programs", type=int, metavar="N", help="client programs of each mesh (one for each node)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each mesh with each load (9)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="length of a turn (0.5)")
    parser.add_argument("--json", action="store_true", help="print JSON; the progress goes to standard error")
    options = parser.parse_args(arguments)
    if min(*options.nodes, options.rounds, 1 if options.programs is None else options.programs) < 1:
        parser.error("--nodes, --rounds and --programs must be at least 1")
    found: list[Point] = []
    rest: dict[int, float] = {}
    for copies in [options.copies] if options.copies else (1, 2):
        points_found, rest = measure(copies, options)
        found += points_found
    print(json.dumps(as_json(found, rest)) if options.json else table(found, rest))
    return 0
