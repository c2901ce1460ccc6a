"""A SET that was begun natively, and waits until the other owners of its keys have stored it: see writes.c.

Most of these come to the same end: each owner answers that it has stored the records, and nothing else happens. That
takes no more than a count, which is natively kept in ``left``. Whatever else happens to such a write, it then is a
``QuorumWrite`` in the state that it would have come to: ``_resume`` makes it that, once. It stays the same object, as
the tables of pending.py know it. Only the groups in them are positions at first, and are looked up here.

Most never need a constructor: they are made without, and given their attributes one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from meshcache.core.operations.writes import QuorumWrite, WriteGroup
from meshcache.protocol.messages import EventKind

if TYPE_CHECKING:
    from meshcache.core.operations.coordinator import Coordinator
    from meshcache.core.operations.pending import Operation
    from meshcache.core.operations.writes import WriteDone
    from meshcache.core.view import Owners


class Resumes(Protocol):
    """What knows how a SET is answered."""

    def resumed(
        self, operation: Operation, origin: bytes, fields: tuple[Any, ...], kept: int
    ) -> tuple[Coordinator, WriteDone]:
        """Return the parts of the node, and what takes the outcome of a SET that is under way."""


class UsualWrite(QuorumWrite):
    """A SET that all owners must store, and that has been sent to all of them.

    It is made natively, with these attributes. The constructor of QuorumWrite is called when that is wanted.
    """

    __slots__ = ("_resumed", "fields", "first", "kept", "left", "origin", "places", "records", "requests", "until")

    requests: Resumes
    origin: bytes
    fields: tuple[Any, ...]
    records: list[bytes]
    places: list[tuple[Owners, list[int]]]
    """By group, the owners and the positions of their keys."""
    first: int
    """The number of the first request."""
    left: int
    """How many owners have not answered yet."""
    until: float
    """The deadline."""
    kept: int
    """The number under which the bytes are counted, or 0."""
    _resumed: list[WriteGroup]

    def on_answer(self, group: Any, node_id: str, answer: Any) -> None:
        """See QuorumWrite."""
        super().on_answer(self._group(group, node_id), node_id, answer)

    def on_lost(self, group: Any, node_id: str) -> None:
        """See QuorumWrite."""
        super().on_lost(self._group(group, node_id), node_id)

    on_reject = on_lost

    def on_timer(self) -> None:
        """See QuorumWrite."""
        self._resume()
        super().on_timer()

    def replan(self) -> None:
        """See QuorumWrite."""
        self._resume()
        super().replan()

    def _group(self, group: Any, node_id: str) -> WriteGroup:
        """Return a group, which may be given by its position. The node has just ended its wait for this group."""
        if type(group) is not int:
            return group  # type: ignore[no-any-return]  # what this operation has asked for
        self._resume((group, node_id))
        return self._resumed[group]

    def _resume(self, at_hand: tuple[int, str] | None = None) -> None:
        """Become a QuorumWrite. ``at_hand``: who still counts as asked, though nothing waits for its answer now."""
        if hasattr(self, "_resumed"):
            return
        self.left = 0
        level, keys = self.fields[4], self.fields[6]
        coordinator, done = self.requests.resumed(self, self.origin, self.fields, self.kept)
        super().__init__(coordinator, keys, self.records, level, self.until, EventKind.SET, done)
        number, resumed = self.first, []
        for place, (owners, indices) in enumerate(self.places):
            records = [self.records[i] for i in indices]
            group = WriteGroup(owners, (), [keys[i] for i in indices], records, indices, len(owners))
            group.acked[coordinator.own_id] = None
            for node_id in owners:
                if node_id != coordinator.own_id:
                    asked = number in coordinator.pending.waiting or (place, node_id) == at_hand
                    (group.asked if asked else group.acked)[node_id] = None
                    number += 1
            resumed.append(group)
            (self._complete if group.complete() else self.groups).append(group)
        self._resumed = resumed
