"""The command line of ``scripts/bench``: a subcommand for each measurement, and without one the one against peers.

Each is a module of its own, imported when it is asked for: none needs the libraries of another.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple


class Subcommand(NamedTuple):
    """A measurement: the module that has its ``main()``, and what it tells."""

    module: str
    summary: str


AGAINST_PEERS: Final = "against-peers"
SUBCOMMANDS: Final = {
    AGAINST_PEERS: Subcommand("against_peers", "meshcache beside redis and memcached; the same as no subcommand"),
    "targets": Subcommand("target_table", "what is to be reached, and whether it is: one line for each"),
    "store": Subcommand("store", "memory per entry, longest calls, and time per key of a node's store"),
    "client": Subcommand("client", "what a call costs its client, with the native module and without"),
    "eviction": Subcommand("eviction", "hit ratios of lru, s3fifo and the optimum on traces of requests"),
    "near": Subcommand("near", "what a hit in a near cache costs, and how soon a write makes copies void"),
    "compression": Subcommand("compression", "what compressing values costs and saves"),
    "large": Subcommand("large", "where the time of large values goes, beside redis and the least that ZeroMQ takes"),
    "queue": Subcommand("queue", "what it costs to accept a write in the queue of WriteBehind"),
    "gateway": Subcommand("gateway", "single GETs over HTTP, and 200 connections that are slow"),
    "memcached": Subcommand("memcached", "pymemcache against a node's memcached door and against memcached"),
    "http": Subcommand("http", "what health checks and scrapes cost those who use the cache"),
    "hotkeys": Subcommand("hotkeys", "what finding hot keys costs, and what it brings"),
    "ring": Subcommand("ring", "how evenly keys are spread, and how many move when a node joins or leaves"),
    "scale": Subcommand("scale", "throughput per node CPU second of meshes of 1, 2, 3 and 5 nodes"),
    "keys": Subcommand("keys", "what encryption and the check of rights cost"),
    "native": Subcommand("native", "what a node spends on a key with the native module and without"),
    "snapshots": Subcommand("snapshots", "what writing a snapshot costs readers, and how soon a mesh is back"),
    "compare": Subcommand("compare", "the speed of this tree beside that of a commit"),
    "screenshot": Subcommand("screenshot", "take the README's picture of the dashboard"),
    "metric-table": Subcommand("metric_table", "write the table of metrics of meshcache/node/GUIDE.md anew"),
    "refresh-readme": Subcommand("refresh_readme", "measure, and write the tables of GUIDE.md and README.md anew"),
}
OVERVIEW: Final = """\
usage: scripts/bench [SUBCOMMAND] [OPTION …]

Measure meshcache. Each subcommand has its own --help, with examples:

{subcommands}

examples:
  scripts/bench                        beside redis and memcached: the figures to quote, in less than five minutes
  scripts/bench store --quick          what an entry takes and a key costs, in less than 20 s
  scripts/bench compare HEAD~5         has this tree become slower?

Without a subcommand it is against-peers, whose help follows.
"""


def overview() -> str:
    """Say what there is."""
    lines = [f"  {name:16}{each.summary}" for name, each in SUBCOMMANDS.items()]
    return OVERVIEW.format(subcommands="\n".join(lines))


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments say, and return its exit status."""
    name, rest = AGAINST_PEERS, list(arguments)
    if rest and not rest[0].startswith("-"):
        name, *rest = rest
    elif rest and rest[0] in {"-h", "--help"}:
        print(overview())
    if name not in SUBCOMMANDS:
        print(f"scripts/bench: no such subcommand: {name}; there are: {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{__package__}.{SUBCOMMANDS[name].module}")
    status: int = module.main(rest)
    return status
