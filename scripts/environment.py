"""The environment of the programs beside this file: the .venv that ``scripts/run`` and ``scripts/test`` make.

So they work from any directory, without an activated environment, and always with the meshcache of this tree. Whatever
needs meshcache or a library is imported after ``enter()``: the Python that began may have neither.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def enter(program: str) -> None:
    """Go on in the Python of the .venv, if there is one and this is another; ``program`` is the file that began."""
    python = VENV / "bin/python"
    if python.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), program, *sys.argv[1:]])  # noqa: S606
    sys.path.insert(0, str(ROOT))
