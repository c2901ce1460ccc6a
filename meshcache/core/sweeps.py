"""Clear: have every node drop all keys under a prefix, in bounded steps.

The coordinator stamps the clear and asks every member to sweep. A node works through its slots, a few a turn, and
answers when it is through. From the moment it hears of the clear it also refuses records under the prefix that are
not newer, for as long as a late write or repair could bring one (the tombstone grace): that one *floor* stands for the
tombstones of all keys dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from meshcache.core import messages as m
from meshcache.core.coordinator import Coordinator
from meshcache.core.messages import Code, EventKind

ENTRIES_PER_TURN: Final = 2000
"""How many entries one turn looks at: about a millisecond."""

FLOORS_MAX: Final = 1024
"""Clears remembered at most; the oldest is forgotten first."""


@dataclass(slots=True)
class _Job:
    prefix: bytes
    version: bytes
    done: Callable[[int], None]
    slot: int = 0
    dropped: int = 0


class Sweeps:
    """The sweeps under way on one node, and the floors they leave."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._jobs: list[_Job] = []
        self._floors: list[tuple[bytes, bytes, int]] = []
        """Prefix, version, and the wall time in ms until which it holds."""

    @property
    def busy(self) -> bool:
        """Tell whether there is work for the next turn."""
        return bool(self._jobs)

    def begin(self, prefix: bytes, version: bytes, done: Callable[[int], None]) -> None:
        """Drop everything under ``prefix`` that is not newer; call ``done`` with the number of live entries dropped."""
        coordinator = self._coordinator
        grace_ms = int(coordinator.config.store.tombstone_grace_s * 1000)
        self._floors.append((prefix, version, coordinator.wall_ms + grace_ms))
        del self._floors[:-FLOORS_MAX]
        self._jobs.append(_Job(prefix, version, done))
        coordinator.fills.note_cleared(prefix)

    def run(self) -> None:
        """Do one turn's share of the first sweep."""
        if not self._jobs:
            return
        job = self._jobs[0]
        store, slots = self._coordinator.store, self._coordinator.config.cluster.slots
        looked_at = 0
        while job.slot < slots and looked_at < ENTRIES_PER_TURN:
            looked_at += len(store.keys_of_slot(job.slot)) + 1
            job.dropped += store.sweep(job.slot, job.prefix, job.version)
            job.slot += 1
        if job.slot == slots:
            self._jobs.pop(0)
            job.done(job.dropped)

    def admit(self, keys: list[bytes], records: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return those records that no clear has overruled."""
        now_ms = self._coordinator.wall_ms
        self._floors = [floor for floor in self._floors if floor[2] > now_ms]
        for prefix, version, _ in self._floors:
            kept = [
                (key, record)
                for key, record in zip(keys, records, strict=True)
                if record[:16] > version or not key.startswith(prefix)
            ]
            keys, records = [key for key, _ in kept], [record for _, record in kept]
        return keys, records

    @property
    def has_floors(self) -> bool:
        """Tell whether ``admit`` has anything to say."""
        return bool(self._floors)


class Clear:
    """One clear, at its coordinator. ``done(results)`` is called once, with [dropped] or [[Code.QUORUM, …]]."""

    def __init__(
        self,
        coordinator: Coordinator,
        sweeps: Sweeps,
        prefix: bytes,
        deadline: float,
        done: Callable[[list[Any]], None],
    ) -> None:
        self.coordinator = coordinator
        self.sweeps = sweeps
        self.prefix = prefix
        self.deadline = deadline
        self.done = done
        self.version = coordinator.clock.tick(coordinator.wall_ms)
        self.dropped: dict[str, int] = {}
        """Per node that is through, how many entries it dropped."""
        self._asked: dict[str, None] = {}

    def start(self) -> None:
        """Sweep here and everywhere."""
        self.coordinator.begin(self, self.deadline)
        self._asked[self.coordinator.own_id] = None
        self.sweeps.begin(self.prefix, self.version, self._on_own)
        self.replan()

    def _on_own(self, dropped: int) -> None:
        self.dropped[self.coordinator.own_id] = dropped
        self._settle()

    def replan(self) -> None:
        """Ask every member that has not been asked."""
        for member in self.coordinator.view.ring.members:
            node_id = member.node_id
            if node_id not in self._asked and node_id not in self.dropped and self.coordinator.ask(
                self, None, node_id, self.deadline,
                lambda request, boot, deadline_ms, view: m.Sweep(
                    request, boot, deadline_ms, view, self.version, self.prefix
                ),
            ):  # fmt: skip
                self._asked[node_id] = None
        self._settle()

    def on_answer(self, group: None, node_id: str, answer: m.SweepReply) -> None:  # noqa: ARG002  (one group only)
        """A node is through."""
        self.dropped[node_id] = answer.dropped
        self._settle()

    def on_lost(self, group: None, node_id: str) -> None:  # noqa: ARG002  (one group only)
        """Ask again when the link is back; a sweep can be repeated."""
        self._asked.pop(node_id, None)

    on_reject = on_lost

    def on_timer(self) -> None:
        """The deadline: say how far it got."""
        members = len(self.coordinator.view.ring.members)
        self._finish([[int(Code.QUORUM), members, min(len(self.dropped), members - 1)]])

    def _settle(self) -> None:
        if all(member.node_id in self.dropped for member in self.coordinator.view.ring.members):
            self._finish([sum(self.dropped.values())])

    def _finish(self, results: list[Any]) -> None:
        if self in self.coordinator.pending:
            self.coordinator.end(self)
            self.coordinator.publish(EventKind.CLEAR, self.version, [self.prefix])
            self.done(results)
