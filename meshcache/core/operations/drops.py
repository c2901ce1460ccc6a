"""Clear and tag invalidation: have every node drop all keys under a prefix, or with a tag, in bounded steps.

The coordinator stamps the drop and asks every member to sweep. A node works through its slots, a few a turn, and
answers when it is through. From the moment it hears of the drop it also refuses what is not newer, see drop_floors.py.

A clear looks at every key and leaves nothing in place of what it drops: its floor stands for the tombstones of all
keys under the prefix. A tag leads to its bearers at once (tags.py), and each is replaced by a tombstone of the drop's
version: an older value of the same key may well not bear the tag, so that the floor of the tag would let it back in.

The drop must be newer than all that was written before it, also where a node with a clock ahead of the coordinator's
stamped it. So a node whose clock is past the drop's version says so, and then the coordinator, whose clock has followed
by its answer, stamps the drop once more and has everybody sweep again. Once is enough: what is newer than that was
written after the drop began.

A member may hold what was dropped without being asked: if it has just joined, and some that were asked know of it
before the coordinator does, it may have pulled from one of these what that one had yet to drop. So an answer counts
only if it was given under the coordinator's own view; else the node is asked again, until all agree who is there or
the time is up. Who joins later is told the floors before it pulls (movement.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.fill_leases import FillLeases
from meshcache.core.storage.drop_floors import bucket_of
from meshcache.protocol import messages as m
from meshcache.protocol.clock import wall_ms_of
from meshcache.protocol.messages import COARSE_TAGS, Code, EventKind
from meshcache.protocol.record import tombstone

ENTRIES_PER_TURN: Final = 2000
"""How many entries one turn looks at: about a millisecond."""

DROP_COST: Final = 10
"""Entries that could be looked at in the time of putting a tombstone in place of one."""

DROPS_PER_STEP: Final = 100

ASK_AGAIN_S: Final = 0.05


def _nobody_waits(dropped: int) -> None:
    """Take the end of a sweep that nobody asked for."""


@dataclass(slots=True)
class _Job:
    kind: int
    names: dict[bytes, bytes]
    """What to drop, with the version: prefixes for EventKind.CLEAR, tags for TAG, buckets of tags for COARSE_TAGS."""
    done: Callable[[int], None]
    slot: int = 0
    dropped: int = 0


class Drops:
    """The sweeps under way on one node."""

    def __init__(self, coordinator: Coordinator, fills: FillLeases) -> None:
        self._coordinator = coordinator
        self._fills = fills
        self._slots = coordinator.config.cluster.slots
        self.jobs: list[_Job] = []
        self._remember: Callable[[int, list[bytes]], None] | None = None

    def remember(self, remember: Callable[[int, list[bytes]], None] | None) -> None:
        """Have somebody told of kind and names of what is dropped from now on, until None takes its place."""
        self._remember = remember

    def begin(self, kind: int, names: list[bytes], version: bytes, done: Callable[[int], None]) -> None:
        """Drop all under these names that is not newer; call ``done`` with the number of live entries dropped.

        What was begun before with the same version is only waited for: nothing so old has been let in since.
        """
        floors, wall_ms = self._coordinator.replica.floors, self._coordinator.instant.wall_ms
        news = [name for name in names if floors.set(kind, name, version, wall_ms)]
        self.jobs.append(_Job(kind, dict.fromkeys(news, version), done))
        self._void_fills(kind, news)
        if self._remember is not None:
            self._remember(kind, names)

    def learn(self, floors: list[m.Floor]) -> None:
        """Take over what another node knows to be dropped, and drop it here."""
        news: dict[int, dict[bytes, bytes]] = {}
        for kind, name, version in floors:
            if self._coordinator.replica.floors.set(kind, name, version, self._coordinator.instant.wall_ms):
                news.setdefault(kind, {})[name] = version
        for kind, names in news.items():
            self.jobs.append(_Job(kind, names, _nobody_waits))
            self._void_fills(kind, list(names))

    def _void_fills(self, kind: int, names: list[bytes]) -> None:
        """What is being computed under a prefix may be old. Which tags it will bear is not known: see the floors."""
        if kind == EventKind.CLEAR:
            for prefix in names:
                self._fills.note_cleared(prefix)

    def run(self) -> None:
        """Do one turn's share."""
        budget = ENTRIES_PER_TURN
        while self.jobs and budget > 0:
            job = self.jobs[0]
            step = self._sweep_prefix if job.kind == EventKind.CLEAR else self._sweep_tags
            if not job.names or (job.kind != EventKind.CLEAR and not self._coordinator.store.has_tags):
                job.slot = self._slots
            while job.slot < self._slots and budget > 0:
                budget -= step(job)
            if job.slot == self._slots:
                self.jobs.pop(0)
                job.done(job.dropped)

    def _sweep_prefix(self, job: _Job) -> int:
        """Drop what is to be dropped in one slot; return what that cost."""
        store = self._coordinator.store
        cost = (len(store.keys_of_slot(job.slot)) + 1) * len(job.names)
        for prefix, version in job.names.items():
            job.dropped += store.sweep(job.slot, prefix, version)
        job.slot += 1
        return cost

    def _sweep_tags(self, job: _Job) -> int:
        """Drop bearers of one tag in one slot, or find that there are none left in it; return what that cost."""
        store, wall_ms = self._coordinator.store, self._coordinator.instant.wall_ms
        wanted = job.names
        if job.kind == COARSE_TAGS:
            buckets = [(tag, bucket_of(tag)) for tag in store.tags_in(job.slot)]
            wanted = {tag: job.names[bucket] for tag, bucket in buckets if bucket in job.names}
        elif len(tags := store.tags_in(job.slot)) < len(wanted):
            wanted = {tag: wanted[tag] for tag in tags if tag in wanted}
        for number, (tag, version) in enumerate(wanted.items()):
            keys = store.bearers(job.slot, tag, version, DROPS_PER_STEP)
            if keys:
                dead = tombstone(version, wall_ms_of(version) + self._coordinator.replica.floors.grace_ms)
                job.dropped += len(store.merge(keys, [dead] * len(keys), wall_ms)[1])
                self._fills.note_written(keys, [dead] * len(keys))
                return number + len(keys) * DROP_COST
        job.slot += 1
        return 1 + len(wanted) // 2


class Drop:
    """One clear or tag invalidation, at its coordinator.

    ``done(results)`` is called once, with [dropped] or [[Code.QUORUM, …]].
    """

    def __init__(
        self,
        coordinator: Coordinator,
        drops: Drops,
        kind: EventKind,
        names: list[bytes],
        deadline: float,
        done: Callable[[list[Any]], None],
    ) -> None:
        self.coordinator = coordinator
        self.drops = drops
        self.kind = kind
        self.names = names
        self.deadline = deadline
        self.done = done
        self.version = coordinator.clock.tick_past(coordinator.instant.wall_ms)
        self.dropped = 0
        self._through: dict[str, bytes] = {}
        """Per node that has answered, the view under which it did."""
        self._behind = False
        """Somebody's clock is past the version."""
        self._restamped = False
        self._asked: dict[str, None] = {}

    def start(self) -> None:
        """Sweep here and everywhere."""
        self.coordinator.pending.begin(self, self.deadline)
        self._sweep()

    def _sweep(self) -> None:
        self._through, self._asked = {}, {self.coordinator.own_id: None}
        self.drops.begin(self.kind, self.names, self.version, self._on_own)
        self.replan()

    def _on_own(self, dropped: int) -> None:
        self.dropped += dropped
        self._through[self.coordinator.own_id] = b""
        self._settle()

    def _lacking(self) -> list[str]:
        """Return the members that have not answered under the view of now."""
        view, own_id = self.coordinator.view, self.coordinator.own_id
        return [
            member.node_id
            for member in view.ring.members
            if self._through.get(member.node_id) != (b"" if member.node_id == own_id else view.digest)
        ]

    def replan(self) -> None:
        """Ask every member that lacks and is not being asked."""
        for node_id in self._lacking():
            if node_id not in self._asked and self.coordinator.pending.ask(
                self, self.version, node_id, self.deadline, self._request
            ):
                self._asked[node_id] = None
        self._settle()

    def _request(self, request: int, boot: int, deadline_ms: int, view: bytes) -> m.Message:
        if self.kind == EventKind.CLEAR:
            return m.Sweep(request, boot, deadline_ms, view, self.version, self.names[0])
        return m.SweepTags(request, boot, deadline_ms, view, self.version, self.names)

    def on_answer(self, group: bytes, node_id: str, answer: m.SweepReply) -> None:
        """A node is through with what it was asked to drop at a version, ``group``."""
        self.dropped += answer.dropped
        if group != self.version:
            return
        self._behind = self._behind or answer.ahead
        self._asked.pop(node_id, None)
        self._through[node_id] = answer.view
        if answer.view != self.coordinator.view.digest:
            self.coordinator.pending.wake(self, min(self.deadline, self.coordinator.instant.now + ASK_AGAIN_S))
        self._settle()

    def on_lost(self, group: bytes, node_id: str) -> None:
        """Ask again when the link is back; a sweep can be repeated."""
        if group == self.version:
            self._asked.pop(node_id, None)

    on_reject = on_lost

    def on_timer(self) -> None:
        """Ask again who answered under another view; at the deadline say how far it got."""
        if self.coordinator.instant.now < self.deadline:
            self.replan()
            return
        members = len(self.coordinator.view.ring.members)
        self._finish([[int(Code.QUORUM), members, min(members - len(self._lacking()), members - 1)]])

    def _settle(self) -> None:
        if self._lacking():
            return
        if self._behind and not self._restamped:
            self._restamped = True
            self.version = self.coordinator.clock.tick_past(self.coordinator.instant.wall_ms)
            self._sweep()
        else:
            self._finish([self.dropped])

    def _finish(self, results: list[Any]) -> None:
        if self in self.coordinator.pending.running:
            self.coordinator.pending.end(self)
            self.coordinator.replica.publish(self.kind, self.version, self.names)
            self.done(results)
