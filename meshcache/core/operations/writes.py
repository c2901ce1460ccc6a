"""Quorum writes: a batch of records to all their owners in parallel, done when W owners have stored it.

During a ring change it takes W of each owner set, the current and the former (view.py says why). A replica that holds a
greater version refuses and says so; its answer moves the coordinator's clock past that version, and the keys concerned
are stamped and sent once more. Records that are not stored when the ring changes are sent to the new owners; what a
node has stored counts in any view. Repeating a write is safe: records are stored only if newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from meshcache.core.operations import quorum
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.view import Owners
from meshcache.protocol import messages as m
from meshcache.protocol.clock import clock_of
from meshcache.protocol.messages import Code, EventKind
from meshcache.protocol.record import VERSION_BYTES, version_of

LINGER_S: Final = 1.0
"""How long an answered write waits for the owners beyond W before it leaves them a hint."""
LINGERING_MAX: Final = 2000
LINGERING_BYTES_MAX: Final = 32 << 20
"""How many bytes answered writes that wait may keep; beyond that, hints are left at once."""

Stored = tuple[list[list[int | bytes]], list[int]]
"""What comes of storing records: see Store.merge."""

WriteDone = Callable[[dict[int, list[int]], set[int]], None]
"""Takes errors and what was live: see QuorumWrite."""


class WriteGroup:
    """Keys with the same owners, and which nodes have stored them."""

    __slots__ = ("acked", "asked", "former", "indices", "keys", "needed", "owners", "records")

    def __init__(
        self,
        owners: Owners,
        former: tuple[Owners, ...],
        keys: list[bytes],
        records: list[bytes],
        indices: list[int],
        needed: int = 0,
    ) -> None:
        self.owners = owners
        self.former = former
        self.keys = keys
        self.records = records
        self.indices = indices
        """The positions of these keys in the batch."""
        self.needed = needed
        self.acked: dict[str, None] = {}
        self.asked: dict[str, None] = {}

    def targets(self) -> Iterable[str]:
        """Return all nodes that are to store these records."""
        if not self.former:
            return self.owners
        return dict.fromkeys([*self.owners, *[node_id for owners in self.former for node_id in owners]])

    def received(self) -> int:
        """Return how many owners have stored the records."""
        return sum([node_id in self.acked for node_id in self.owners])

    def complete(self) -> bool:
        """Tell whether enough owners of each owner set have stored the records."""
        if self.received() < self.needed:
            return False
        return not self.former or all(
            sum(node_id in self.acked for node_id in owners) >= min(self.needed, len(owners)) for owners in self.former
        )


class QuorumWrite:
    """Store a batch of records at W of their owners.

    It is announced as ``kind`` in the invalidation stream when it is done.

    ``done(errors, live)`` is called once: ``errors`` maps indices to [Code.QUORUM, needed, received], ``live`` has the
    indices of keys of which a live record was replaced (reported for tombstones only).
    """

    __slots__ = (
        "__weakref__",
        "_complete",
        "_keys",
        "_records",
        "_restamp_allowed",
        "_restamped",
        "coordinator",
        "deadline",
        "done",
        "errors",
        "groups",
        "kind",
        "level",
        "live",
    )

    def __init__(
        self,
        coordinator: Coordinator,
        keys: list[bytes],
        records: list[bytes],
        level: int,
        deadline: float,
        kind: EventKind,
        done: WriteDone,
        *,
        restamp: bool = True,
    ) -> None:
        self.coordinator = coordinator
        self.deadline = deadline
        self.level = level
        self.kind = kind
        """The kind of event as which the write is announced."""
        self.done = done
        self.live: set[int] = set()
        self.errors: dict[int, list[int]] = {}
        self.groups: list[WriteGroup] = []
        self._complete: list[WriteGroup] = []
        self._restamp_allowed = restamp
        self._restamped: dict[int, bytes] = {}
        """By index, the version of keys that were stamped once more; no key is stamped a third time."""
        self._keys = keys
        self._records = records

    def start(self, stored: Iterable[Stored] = ()) -> None:
        """Store the records here and send them to the other owners; finish at once if that is enough.

        ``stored``: what came of storing them here, for the first groups, if that is done already.
        """
        coordinator, here = self.coordinator, iter(stored)
        for (owners, former), indices in coordinator.view.group_by_owner_sets(self._keys).items():
            if len(indices) == len(self._keys):
                group = WriteGroup(owners, former, self._keys, self._records, indices)
            else:
                keys = [self._keys[i] for i in indices]
                group = WriteGroup(owners, former, keys, [self._records[i] for i in indices], indices)
            self._start_group(group, next(here, None))
        if self.groups:
            coordinator.pending.begin(self, self.deadline)
        else:
            self._finish()

    def _start_group(self, group: WriteGroup, stored: Stored | None = None) -> None:
        coordinator = self.coordinator
        owners = group.owners
        group.needed = quorum.level(self.level, coordinator.config.cluster.write_quorum, len(owners))
        if group.needed > len(owners):
            self._fail(group)
            return
        targets = group.targets()
        if coordinator.own_id in targets:
            newer, live = stored or coordinator.replica.take_write(group.keys, group.records)
            self._note_ack(group, coordinator.own_id, newer, live)
        self._ask_missing(group)
        if not group.complete() and self._is_barred(group):
            self._fail(group)
        else:
            (self._complete if group.complete() else self.groups).append(group)

    def _is_barred(self, group: WriteGroup) -> bool:
        """Tell whether too few owners are left that may store the records, because of open breakers."""
        pending = self.coordinator.pending
        if pending.breakers.are_closed:
            return False
        reached = {self.coordinator.own_id, *group.acked, *group.asked}
        for owners in (group.owners, *group.former):
            left = [node_id for node_id in owners if node_id in reached or not pending.are_barred([node_id])]
            if len(left) < min(group.needed, len(owners)):
                return True
        return False

    def _ask_missing(self, group: WriteGroup) -> None:
        coordinator = self.coordinator
        keys, records = group.keys, group.records
        for node_id in group.targets():
            if node_id in group.acked or node_id in group.asked or node_id == coordinator.own_id:
                continue
            if coordinator.pending.ask_for_caller(
                self,
                group,
                node_id,
                self.deadline,
                lambda request, boot, deadline_ms, view: m.Write(
                    request, boot, deadline_ms, view, False, keys, records
                ),
            ):
                group.asked[node_id] = None

    def on_answer(self, group: WriteGroup, node_id: str, answer: m.WriteReply) -> None:
        """A replica has stored the group's records, or holds newer ones."""
        group.asked.pop(node_id, None)
        if self in self.coordinator.pending.lingering:
            group.acked[node_id] = None
            self._end_if_through()
        else:
            self._note_ack(group, node_id, answer.newer, answer.live)
            self._settle()

    def _note_ack(self, group: WriteGroup, node_id: str, newer: list[list[Any]], live: list[int]) -> None:
        group.acked[node_id] = None
        if live:
            self.live.update([group.indices[i] for i in live if 0 <= i < len(group.indices)])
        if newer and self._restamp_allowed:
            self._restamp(group, newer)

    def _restamp(self, group: WriteGroup, newer: list[list[Any]]) -> None:
        """Write keys once more, with a version past the greater one that a replica holds."""
        coordinator, indices = self.coordinator, group.indices
        places = [i for i, _ in newer if 0 <= i < len(indices) and indices[i] not in self._restamped]
        if not places:
            return
        for _, version in newer:
            coordinator.clock.merge(clock_of(version), coordinator.instant.wall_ms)
        coordinator.pending.note_restamps(len(places))
        clock, wall_ms = coordinator.clock, coordinator.instant.wall_ms
        # Each key gets a version of its own: a batch may have a key twice, and the later content must win again.
        records = [clock.tick(wall_ms) + group.records[i][VERSION_BYTES:] for i in places]
        self._restamped.update({indices[i]: version_of(record) for i, record in zip(places, records, strict=True)})
        keys = [group.keys[i] for i in places]
        self._start_group(WriteGroup(group.owners, group.former, keys, records, [indices[i] for i in places]))

    def on_lost(self, group: WriteGroup, node_id: str) -> None:
        """Ask the node again when its link is back: it may or may not have stored the records; repeating is safe."""
        group.asked.pop(node_id, None)
        if self in self.coordinator.pending.lingering:
            self.coordinator.keep_hint(node_id, group.keys, group.records)
            self._end_if_through()

    on_reject = on_lost
    """A node that refused the write is treated like one that did not answer: both can be asked again."""

    def replan(self) -> None:
        """Send records that are not stored yet to the nodes that own them now.

        What a node has stored counts in any view.
        """
        open_groups, self.groups = self.groups, []
        for old in open_groups:
            for (owners, former), places in self.coordinator.view.group_by_owner_sets(old.keys).items():
                whole = len(places) == len(old.keys)
                group = WriteGroup(
                    owners,
                    former,
                    old.keys if whole else [old.keys[i] for i in places],
                    old.records if whole else [old.records[i] for i in places],
                    old.indices if whole else [old.indices[i] for i in places],
                )
                group.acked = dict(old.acked)
                self._start_group(group)
        self._settle()

    def on_timer(self) -> None:
        """At the deadline, answer with what was reached; after the answer, end the wait for owners beyond W."""
        if self in self.coordinator.pending.lingering:
            self._hint_outstanding()
            self.coordinator.pending.end(self)
            return
        for group in self.groups:
            if not group.complete():
                self._fail(group)
        self.groups = []
        self._settle()

    def _fail(self, group: WriteGroup) -> None:
        received = group.received()
        self.errors.update({index: [int(Code.QUORUM), group.needed, received] for index in group.indices})

    def _settle(self) -> None:
        self._complete += [group for group in self.groups if group.complete()]
        self.groups = [group for group in self.groups if not group.complete()]
        if not self.groups and self in self.coordinator.pending.running:
            self.coordinator.pending.end(self)
            self._finish()

    def _finish(self) -> None:
        """Announce and answer. A failed write is announced, too: some replica may have stored it, or will by a hint."""
        restamped = self._restamped
        keys = [key for i, key in enumerate(self._keys) if i not in restamped] if restamped else self._keys
        if keys:
            self.coordinator.replica.publish(self.kind, version_of(self._records[-1]), keys)
        for i, version in restamped.items():
            self.coordinator.replica.publish(self.kind, version, [self._keys[i]])
        self.done(self.errors, self.live)
        self._linger()

    def _linger(self) -> None:
        """After the answer, give owners that were asked more time to store the records; leave the others a hint."""
        coordinator = self.coordinator
        outstanding = [group for group in self._complete if group.former or group.received() < len(group.owners)]
        if not outstanding:
            return
        for group in outstanding:
            for node_id in group.targets():
                if node_id not in group.acked and node_id not in group.asked and node_id != coordinator.own_id:
                    coordinator.keep_hint(node_id, group.keys, group.records)
        if any(group.asked for group in outstanding):
            pending = coordinator.pending
            if len(pending.lingering) < LINGERING_MAX and pending.lingering_bytes < LINGERING_BYTES_MAX:
                size = sum(map(len, self._keys)) + sum(map(len, self._records))
                pending.linger(self, size, coordinator.instant.now + LINGER_S)
            else:
                self._hint_outstanding()

    def _hint_outstanding(self) -> None:
        for group in self._complete:
            for node_id in group.asked:
                self.coordinator.keep_hint(node_id, group.keys, group.records)

    def _end_if_through(self) -> None:
        if not any(group.asked for group in self._complete):
            self.coordinator.pending.end(self)
