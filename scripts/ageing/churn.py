"""What is done to the mesh meanwhile: one thing after the other, drawn at random. One node is spared.

Nodes are killed and come back at once or after they were taken for dead, restart in good order, stand still; guests
with names that nobody has heard join and leave; processes with clients come and are killed.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import meshcache

from .callers import Callers

SPARED: Final = "node1"
GUESTS_MAX: Final = 1
PASSING_MAX: Final = 2


class Churn:
    """Decides what is done next, and does it. ``run`` returns at once, or after a node has left in good order."""

    def __init__(self, mesh: meshcache.LocalMesh, callers: Callers, seed: int, interval_s: float) -> None:
        self.done: Counter[str] = Counter()
        self._mesh = mesh
        self._callers = callers
        self._random = random.Random(seed)
        self._interval_s = interval_s
        self._next_at = time.monotonic() + interval_s
        self._later: list[tuple[float, Callable[[str], None], str]] = []
        self.expected = set(mesh.pids)
        """The nodes that should run now."""
        self._residents = sorted(self.expected - {SPARED})
        self._guests: list[str] = []
        self._deck: list[Callable[[], str]] = []

    def run(self) -> str:
        """Do what is due; return what that was, in words."""
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            entry[1](entry[2])
            return f"{entry[1].__name__} {entry[2]}"
        if now < self._next_at or self._later:
            return ""
        self._next_at = now + self._random.uniform(0.5, 1.5) * self._interval_s
        if not self._deck:
            self._deck = [
                self._kill_briefly,
                self._kill_for_long,
                self._restart,
                self._pause,
                self._guest,
                self._client_process,
                self._guest,
                self._client_process,
            ]
            self._random.shuffle(self._deck)
        act = self._deck.pop()
        self.done[act.__name__.strip("_").replace("_", " ")] += 1
        return act()

    def settle(self) -> None:
        """Let everything be as it should."""
        for _, act, node_id in self._later:
            act(node_id)
        self._later.clear()

    def _in(self, seconds: float, act: Callable[[str], None], node_id: str) -> None:
        self._later.append((time.monotonic() + seconds, act, node_id))

    def _kill(self, node_id: str) -> None:
        self.expected.discard(node_id)
        self._mesh.kill(node_id)

    def start(self, node_id: str) -> None:
        """Start a node that has ended."""
        self._mesh.start(node_id)
        self.expected.add(node_id)

    def resume(self, node_id: str) -> None:
        """Let a node go on that stands still."""
        self._mesh.resume(node_id)

    def _kill_briefly(self) -> str:
        node_id = self._random.choice(self._residents)
        self._kill(node_id)
        self._in(self._random.uniform(0.0, 0.4), self.start, node_id)
        return f"kill -9 {node_id}"

    def _kill_for_long(self) -> str:
        node_id = self._random.choice(self._residents)
        self._kill(node_id)
        self._in(self._random.uniform(2.0, 4.0), self.start, node_id)
        return f"kill -9 {node_id}"

    def _restart(self) -> str:
        node_id = self._random.choice(self._residents)
        self.expected.discard(node_id)
        self._mesh.stop(node_id)
        self.start(node_id)
        return f"restart {node_id}"

    def _pause(self) -> str:
        node_id = self._random.choice(self._residents)
        self._mesh.pause(node_id)
        self._in(self._random.choice([0.3, 1.0, 3.0]), self.resume, node_id)
        return f"pause {node_id}"

    def _guest(self) -> str:
        if len(self._guests) < GUESTS_MAX:
            self._guests.append(self._mesh.add())
            self.expected.add(self._guests[-1])
            return f"{self._guests[-1]} joins"
        node_id = self._guests.pop(0)
        self.expected.discard(node_id)
        self._mesh.stop(node_id)
        return f"{node_id} leaves"

    def _client_process(self) -> str:
        if self._callers.passing < PASSING_MAX:
            self._callers.come()
            return "a process with clients comes"
        self._callers.kill_one()
        return "kill -9 a process with clients"
