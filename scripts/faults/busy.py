"""Processes that keep the processors busy: what holds only on an idle machine does not hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SPIN: Final = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"
"""It ends with the process that started it."""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes computing meanwhile."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
