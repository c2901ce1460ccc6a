"""The native module: what costs most on the way of a request, in C, where it could be built.

Every function and class in it has a twin in Python, which is the specification: the same interface, the same results to
the byte. Where there is no compiler, or ``MESHCACHE_PURE`` is set to anything but 0, the twins serve. Who uses either
asks ``compiled``, once, when it is imported; nothing else in the package knows how that came about.

Each C file beside this one begins with its theory. ``build_hook.py`` compiles them when the package is installed.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["NATIVE", "PURE_VARIABLE", "absent_because", "compiled", "describe"]

PURE_VARIABLE: Final = "MESHCACHE_PURE"
"""The environment variable that switches the native module off."""

NATIVE: Final = "native"
"""What ``describe`` says where it serves."""

absent_because = ""
"""Why ``compiled`` is None, if it is."""

try:
    if os.environ.get(PURE_VARIABLE, "0") not in {"", "0"}:
        raise ImportError(f"{PURE_VARIABLE} is set")  # noqa: TRY301  (as if it were not there)
    import meshcache._native._compiled as compiled  # "from … import" would not tell a missing module from a broken one
except ModuleNotFoundError:
    compiled = None  # type: ignore[assignment]  # a module has no type that could be written down
    absent_because = "not built: install a C compiler and Python's headers, then install meshcache again"
except ImportError as error:
    compiled = None  # type: ignore[assignment]  # as above
    absent_because = str(error)


def describe() -> str:
    """Say in a few words which of the two serves."""
    return f"pure Python: {absent_because}" if absent_because else NATIVE
