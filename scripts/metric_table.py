"""Write the table of a node's metrics into meshcache/node/GUIDE.md, between its markers ``metrics``.

Run it after a change of meshcache/metrics/families.py: ``python scripts/metric_table.py``. A test compares the two.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from benchmark.refresh_readme import replaced

from meshcache.metrics.families import rows

GUIDE: Final = Path(__file__).resolve().parent.parent / "meshcache/node/GUIDE.md"


def table() -> str:
    """Return the table in Markdown."""
    lines = [("Metric", "Type", "Labels", "What it tells"), ("---",) * 4]
    lines += [(f"`{name}`", kind, labels, text) for name, kind, labels, text in rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rewritten(guide: str) -> str:
    """Return the text of the guide with the table as it is now."""
    return replaced(guide, "metrics", table())


if __name__ == "__main__":
    GUIDE.write_text(rewritten(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {GUIDE.name}", file=sys.stderr)
