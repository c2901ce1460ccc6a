"""``./scripts/run --demo`` does its steps on real processes, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

DEMO: Final = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"

pytestmark = pytest.mark.process


def test_the_demo_walks_through_the_main_job() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("ok: ") >= 10
