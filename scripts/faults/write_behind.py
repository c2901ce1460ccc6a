"""The command line of ``scripts/chaos write-behind``. It is no scenario among the others: it needs a PostgreSQL."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Final

from . import kill_writer
from .private_postgres import NoPostgres

EXAMPLES: Final = """\
examples:
  scripts/chaos write-behind                            100,000 writes and three kills
  scripts/chaos write-behind --writes 1000 --kills 1    a look
  scripts/chaos write-behind --sync normal --seed 7     the queue does not wait for the disk; other moments to kill

PostgreSQL must be installed (on Debian and Ubuntu: apt install postgresql); it runs in a directory of its own.
Exit 1 if a write was lost, 2 if there is no PostgreSQL.
"""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments say; 1 if a write was lost."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos write-behind",
        description=kill_writer.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--writes", type=int, default=100_000, help="how many (100,000)")
    parser.add_argument("--kills", type=int, default=3, help="how often the writer is killed (3)")
    parser.add_argument("--sync", choices=("full", "normal"), default="full", help="of the queue's file (full)")
    parser.add_argument("--seed", type=int, default=1, help="when to kill (1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    try:
        result = kill_writer.experiment(options.writes, options.kills, options.sync, options.seed)
    except NoPostgres as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result) if options.json else kill_writer.table(result))
    return 0 if kill_writer.held(result) else 1
