"""A scenario of scripts/chaos, run as a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos"


def run_chaos(name: str, *options: str, timeout_s: float) -> tuple[dict[str, Any], str]:
    """Run the short version of a scenario; return its result, and what it wrote to standard error."""
    finished = subprocess.run(
        [sys.executable, str(CHAOS), name, "--quick", "--json", *options],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert finished.stdout, finished.stderr
    (result,) = json.loads(finished.stdout)["results"]
    return result, finished.stderr
