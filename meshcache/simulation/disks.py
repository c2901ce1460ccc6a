"""What outlives a node's process in the simulation: its snapshots.

As with real files (node/snapshots.py): a snapshot is written a block a turn, while the node serves; it counts when it
is complete; the two newest are kept; and one that was final is that no more once the node has started again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.core.storage.charges import PYTHON
from meshcache.core.storage.snapshot import Saved, Unusable, load

KEPT: Final = 2


class Disk:
    """The disk of one node."""

    def __init__(self, rng: random.Random, mean_interval_s: float) -> None:
        self.files: list[bytes] = []
        """Complete snapshots, the newest last."""
        self.reasons: list[str] = []
        """Why snapshots were not loaded."""
        self._rng = rng
        self._mean_interval_s = mean_interval_s
        self._final = False
        """The newest is final."""
        self._writing: Iterator[bytes] | None = None
        self._written: list[bytes] = []
        self._next_at = 0.0

    def load(self, config: Config, now: float, wall_ms: int) -> Saved | None:
        """Return what a process that starts now finds; the newest that it may use."""
        self._next_at = now + self._rng.expovariate(1 / self._mean_interval_s)
        self._writing = None
        for place, file in enumerate(reversed(self.files)):
            try:
                saved = load(file, config, wall_ms, PYTHON)
            except Unusable as problem:
                self.reasons.append(str(problem))
                continue
            saved.is_final = self._final and not place
            self._final = False
            return saved
        return None

    def take_turn(self, core: NodeCore, now: float) -> None:
        """Write a block, if there is one to be written."""
        assert core.saving is not None
        if self._writing is None:
            if now < self._next_at:
                return
            self._writing, self._written = core.saving.blocks(), []
        block = next(self._writing, None)
        if block is not None:
            self._written.append(block)
            return
        self._writing = None
        self._next_at = now + self._rng.expovariate(1 / self._mean_interval_s)
        self._keep(final=False)

    def finish(self, core: NodeCore) -> None:
        """Write the last snapshot of a process that has stopped to serve."""
        assert core.saving is not None
        self._written = list(core.saving.blocks(final=True))
        self._keep(final=True)

    def _keep(self, *, final: bool) -> None:
        self.files = [*self.files, b"".join(self._written)][-KEPT:]
        self._final = final

    def wipe(self) -> None:
        """Lose everything."""
        self.files, self._final, self._writing = [], False, None
