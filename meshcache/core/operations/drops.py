"""Clear and tag invalidation: every node drops all keys under a prefix, or with a tag, in bounded steps.

The coordinator stamps the drop with a version and asks every member to sweep. A node works through its slots, a few a
turn, and answers when all are swept. From the moment it hears of the drop it also refuses records that are not newer,
see drop_floors.py.

A clear looks at every key and leaves nothing in place of what it drops: its floor does the work of tombstones for all
keys under the prefix. A tag leads at once to the entries that have it (tags.py), and each is replaced by a tombstone:
an older value of the same key may not have the tag, so that the floor of the tag would let it in again. The tombstone
beats what it replaces and all its revisions (clock.py), also where that is not dropped: at an owner that leaves. But it
must not have the version of the drop. This node may have missed a newer value without the tag, which other owners
acknowledged before the drop began; such a tombstone would beat it at all of them.

The drop must be newer than all that was written before it, also by a node whose clock is ahead of the coordinator's. So
a node whose clock is past the drop's version says so. The answer also moves the coordinator's clock on; the coordinator
then stamps the drop once more and has every member sweep again. Once is enough: what is newer than the second version
was written after the drop began.

A member may hold what was dropped without having been asked. If it has just joined, and some members know of it before
the coordinator does, it may have pulled records from a member that had yet to drop them. So an answer counts only if it
was given under the coordinator's own view. Else the node is asked again, until all agree on the members or the time is
over. A node that joins later is told the floors before it pulls (movement.py).
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
"""Replacing one entry by a tombstone takes as long as looking at this many entries."""

DROPS_PER_STEP: Final = 100

DROPPED_MAX: Final = (1 << 63) - 1
"""What a caller is told at most: of a node that lies about its number, the sum must still fit into an answer."""
ASK_AGAIN_S: Final = 0.05


def _nobody_waits(dropped: int) -> None:
    """Take the result of a sweep whose result nobody wants."""


@dataclass(slots=True)
class _Job:
    kind: int
    names: dict[bytes, bytes]
    """The names to drop, with the version: prefixes for EventKind.CLEAR, tags for TAG, buckets for COARSE_TAGS."""
    done: Callable[[int], None]
    slot: int = 0
    dropped: int = 0


class Drops:
    """The sweeps that one node is running."""

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
        """Drop what is under these names and not newer; then call ``done`` with the number of live entries dropped.

        If a sweep with the same version was begun before, only its end is waited for: no record so old has come in
        since.
        """
        floors, wall_ms = self._coordinator.replica.floors, self._coordinator.instant.wall_ms
        news = [name for name in names if floors.set(kind, name, version, wall_ms)]
        self.jobs.append(_Job(kind, dict.fromkeys(news, version), done))
        self._void_fills(kind, news)
        if self._remember is not None:
            self._remember(kind, names)

    def learn(self, floors: list[m.Floor]) -> None:
        """Take over the drop floors that another node knows, and drop what they cover."""
        news: dict[int, dict[bytes, bytes]] = {}
        for kind, name, version in floors:
            if self._coordinator.replica.floors.set(kind, name, version, self._coordinator.instant.wall_ms):
                news.setdefault(kind, {})[name] = version
        for kind, names in news.items():
            self.jobs.append(_Job(kind, names, _nobody_waits))
            self._void_fills(kind, list(names))

    def _void_fills(self, kind: int, names: list[bytes]) -> None:
        """Void the fill leases under a cleared prefix. For tags there is no such step: see the drop floors.

        A value that is being computed may be old, and which tags it will have is not known yet.
        """
        if kind == EventKind.CLEAR:
            for prefix in names:
                self._fills.note_cleared(prefix)

    def run(self) -> None:
        """Sweep as much as one turn allows."""
        budget = ENTRIES_PER_TURN
        while self.jobs and budget > 0:
            job = self.jobs[0]
            step = self._sweep_prefix if job.kind == EventKind.CLEAR else self._sweep_tags
            if not job.names or (job.kind != EventKind.CLEAR and not self._coordinator.store.tags.bearers):
                job.slot = self._slots
            while job.slot < self._slots and budget > 0:
                budget -= step(job)
            if job.slot == self._slots:
                self.jobs.pop(0)
                job.done(job.dropped)

    def _sweep_prefix(self, job: _Job) -> int:
        """Drop what is to be dropped in one slot; return what that cost, in entries looked at."""
        store = self._coordinator.store
        cost = (len(store.keys_of_slot(job.slot)) + 1) * len(job.names)
        for prefix, version in job.names.items():
            job.dropped += store.sweep(job.slot, prefix, version)
        job.slot += 1
        return cost

    def _sweep_tags(self, job: _Job) -> int:
        """Drop entries with one tag in one slot, or find that none is left; return the cost, in entries looked at."""
        store, wall_ms = self._coordinator.store, self._coordinator.instant.wall_ms
        wanted = job.names
        if job.kind == COARSE_TAGS:
            buckets = [(tag, bucket_of(tag)) for tag in store.tags.tags_in(job.slot)]
            wanted = {tag: job.names[bucket] for tag, bucket in buckets if bucket in job.names}
        elif len(tags := store.tags.tags_in(job.slot)) < len(wanted):
            wanted = {tag: wanted[tag] for tag in tags if tag in wanted}
        for number, (tag, version) in enumerate(wanted.items()):
            until_ms = wall_ms_of(version) + self._coordinator.replica.floors.grace_ms
            buried = store.bury(job.slot, tag, version, until_ms=until_ms, now_ms=wall_ms, limit=DROPS_PER_STEP)
            if buried:
                job.dropped += sum(buried.values())
                self._fills.note_written(list(buried), [tombstone(version, until_ms)] * len(buried))
                return number + len(buried) * DROP_COST
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
        """By node that has answered, the view under which it did."""
        self._behind = False
        """Whether the clock of some node is past the version of the drop."""
        self._restamped = False
        self._asked: dict[str, None] = {}

    def start(self) -> None:
        """Sweep here, and have all members sweep."""
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
        """Return the members that have not answered under the present view."""
        view, own_id = self.coordinator.view, self.coordinator.own_id
        return [
            member.node_id
            for member in view.ring.members
            if self._through.get(member.node_id) != (b"" if member.node_id == own_id else view.digest)
        ]

    def replan(self) -> None:
        """Ask every member whose answer is missing and that is not being asked."""
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
        """Note that a node has dropped what it was asked to drop at the version ``group``."""
        self.dropped = min(self.dropped + answer.dropped, DROPPED_MAX)
        if group != self.version:
            return
        self._behind = self._behind or answer.ahead
        self._asked.pop(node_id, None)
        self._through[node_id] = answer.view
        if answer.view != self.coordinator.view.digest:
            self.coordinator.pending.wake(self, min(self.deadline, self.coordinator.instant.now + ASK_AGAIN_S))
        self._settle()

    def on_lost(self, group: bytes, node_id: str) -> None:
        """Do nothing: the node is asked again when the link is back, since a sweep can be repeated."""
        if group == self.version:
            self._asked.pop(node_id, None)

    on_reject = on_lost

    def on_timer(self) -> None:
        """Ask the nodes again that answered under another view; at the deadline answer with what was reached."""
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
