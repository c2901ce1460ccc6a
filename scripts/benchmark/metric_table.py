"""Write the table of a node's metrics into meshcache/node/GUIDE.md, between its markers ``metrics``.

Run it after a change of meshcache/metrics/families.py: ``scripts/bench metric-table``. A test compares the two.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmark.refresh_readme import replaced
from meshcache.metrics.families import rows

GUIDE: Final = Path(__file__).resolve().parents[2] / "meshcache/node/GUIDE.md"


def table() -> str:
    """Return the table in Markdown."""
    lines = [("Metric", "Type", "Labels", "What it tells"), ("---",) * 4]
    lines += [(f"`{name}`", kind, labels, text) for name, kind, labels, text in rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rewritten(guide: str) -> str:
    """Return the text of the guide with the table as it is now."""
    return replaced(guide, "metrics", table())


def main(arguments: Sequence[str]) -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench metric-table",
        description="Write the table of a node's metrics into meshcache/node/GUIDE.md, as the code has them.",
        epilog="examples:\n  scripts/bench metric-table        after a change of meshcache/metrics/families.py\n"
        "  scripts/bench metric-table --check",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it is out of date")
    options = parser.parse_args(arguments)
    if options.check:
        return int(rewritten(GUIDE.read_text(encoding="utf-8")) != GUIDE.read_text(encoding="utf-8"))
    GUIDE.write_text(rewritten(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {GUIDE.name}")
    return 0
