"""What a soak puts into its nodes: Python imports this file by itself where the path has its folder.

A thread tells of the memory (allocations.py). And there are the leaks of ``scripts/soak --plant``, each of which makes
something grow that a careless change could make grow.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any, Final

from ageing.allocations import MEMORY_DIR, MEMORY_S, keep_telling

KEPT: Final[list[Any]] = []


def _floors() -> None:
    """Drops are remembered for ever: each leaves a floor, and nothing takes it away."""
    from meshcache.core.storage.drop_floors import Floors  # noqa: PLC0415

    Floors._forget = lambda self, now_ms: None  # type: ignore[method-assign]  # noqa: ARG005, SLF001


def _memory() -> None:
    """Something of every write is kept, where no count tells of it."""
    from meshcache.core.storage.choice import store_class  # noqa: PLC0415

    store = store_class()
    merge = store.merge

    def merge_and_keep(self: Any, keys: list[bytes], records: list[bytes], now_ms: int) -> Any:
        KEPT.append(b"".join(records)[:500] + bytes(500))
        return merge(self, keys, records, now_ms)

    store.merge = merge_and_keep  # type: ignore[method-assign]


def _descriptors() -> None:
    """Every snapshot leaves a file open."""
    from meshcache.node.snapshots import Snapshots  # noqa: PLC0415

    run = Snapshots.run

    def run_and_open(self: Snapshots, saving: Any) -> None:
        if len(KEPT) < 64 * saving.written:
            KEPT.append(os.open(os.devnull, os.O_RDONLY))
        run(self, saving)

    Snapshots.run = run_and_open  # type: ignore[method-assign]


LEAKS: Final = {"floors": _floors, "memory": _memory, "descriptors": _descriptors}

if leak := LEAKS.get(os.environ.get("SOAK_PLANT", "")):
    leak()

# The clients tell of themselves (callers.py); a node is known by its command.
if MEMORY_DIR in os.environ and "node" in sys.orig_argv:
    arguments = Path(os.environ[MEMORY_DIR]), float(os.environ[MEMORY_S])
    threading.Thread(target=keep_telling, args=arguments, name="soak-memory", daemon=True).start()
