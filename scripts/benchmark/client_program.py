"""One client program: see ``load``. It does what a row does, with nothing else in its process."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from . import rows
from .clients import NotOffered
from .servers import Server


def run(spec: dict[str, Any]) -> None:
    """Open the session of the row, then run a block for each line of the standard input."""
    kind, options = spec["row"]
    row: rows.Row = getattr(rows, kind)(**options)
    with ExitStack() as stack:
        try:
            block_of = stack.enter_context(row.session(Server(**spec["server"]), spec["contestant"]))
        except NotOffered as error:
            answer({"not_offered": str(error)})
            return
        answer({"ready": True})
        for line in sys.stdin:
            answer(asdict(block_of(float(line))))


def answer(value: dict[str, Any]) -> None:
    """Write one line to the benchmark."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
