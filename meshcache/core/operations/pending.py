"""The operations that are under way at one node: which of them waits for which answer, and until when.

An operation is a small object that is fed answers, broken links, ring changes and its deadline; there is no suspended
frame, because members may change under it. Only this table keeps it alive. An error in an operation ends that
operation, and the others go on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from weakref import ref

from meshcache.core.membership.members import State
from meshcache.core.operations.breakers import Breakers
from meshcache.core.operations.instant import Instant
from meshcache.core.operations.latencies import Latencies
from meshcache.core.outbox import Outbox
from meshcache.core.peers import Peers
from meshcache.core.view import View
from meshcache.protocol import messages as m

ENDED_MAX: Final = 64
"""Requests of operations that have ended are looked for and forgotten only when there are more than this."""
REPAIR_DEADLINE_MS: Final = 1_000
"""A repair that arrives later is not worth executing."""

KINDS: Final = {
    "QuorumRead": "read",
    "QuorumWrite": "write",
    "UsualWrite": "write",
    "UpdateBatch": "update",
    "Drop": "drop",
    "Explain": "explain",
}
"""What the operations are called for people, by the names of their classes."""

MakeRequest = Callable[[int, int, int, bytes], m.Message]
"""Makes a request of (request number, boot, deadline_ms, view)."""


class Operation(Protocol):
    """An operation that is under way at a node."""

    def on_answer(self, group: Any, node_id: str, answer: Any) -> None:
        """Take in what a node answered."""

    def on_lost(self, group: Any, node_id: str) -> None:
        """Note that the link broke, so that this node's answer will not come."""

    def on_reject(self, group: Any, node_id: str) -> None:
        """Note that the node did not execute what it was asked."""

    def on_timer(self) -> None:
        """Do what the timer was set for."""

    def replan(self) -> None:
        """Find out anew which nodes to ask, because the ring or the links changed."""


class Background(Operation, Protocol):
    """A part of a node that works by itself for as long as the node runs."""

    def run(self) -> None:
        """Do what is due; housekeeping calls this."""

    def statistics(self) -> dict[str, Any]:
        """Return what ``meshcache stats`` shows of this part, as plain values."""


class Pending:
    """The operations under way, their timers, and the requests to other nodes that they wait for."""

    __slots__ = (
        "_at_end",
        "_fail",
        "_instant",
        "_outbox",
        "_view",
        "background",
        "breakers",
        "latencies",
        "lingering",
        "lingering_bytes",
        "number",
        "peers",
        "read_bytes",
        "repairs",
        "restamps",
        "running",
        "timers",
        "waiting",
    )

    def __init__(
        self,
        view: View,
        peers: Peers,
        outbox: Outbox,
        instant: Instant,
        state_of: Callable[[str], State],
        fail: Callable[[str, object, Exception], None],
    ) -> None:
        """``state_of`` tells of a member, by its id, whether it is alive.

        ``fail`` logs what an operation raised, or raises it anew.
        """
        self.running: dict[Operation, float] = {}
        """Operations whose caller still waits for an answer, and when each began."""
        self.latencies = Latencies(KINDS)
        self.lingering: dict[Operation, int] = {}
        """Operations that are answered and still wait for slower owners, and how many bytes each keeps for them."""
        self.lingering_bytes = 0
        self.background: dict[str, Background] = {}
        """By name, the parts that work by themselves."""
        self.read_bytes = 0
        """The bytes that other nodes answered to reads that are still running."""
        self.repairs = 0
        """How many records were written back to owners that answered a read with an older one or none."""
        self.restamps = 0
        """How many records were stamped once more, because a replica held a newer one."""
        self._view = view
        self.peers = peers
        self._outbox = outbox
        self._instant = instant
        self.breakers = Breakers(instant, outbox, state_of)
        self._fail = fail
        self._at_end: dict[Operation, Callable[[], None]] = {}
        """The functions to call when an operation ends, in whatever way."""
        self.waiting: dict[int, tuple[Operation, Any, str, type[Any]]] = {}
        """By request number: the operation that waits, with which of its parts, for which node and kind of answer."""
        self.timers: list[tuple[float, int, ref[Operation]]] = []
        """The timers, as a heap. It keeps no operation alive: most have ended long before their deadlines."""
        self.number = 0
        """Of the last request or timer."""

    # -- asking and being answered -------------------------------------------------------------------------

    def ask(self, operation: Operation, group: Any, node_id: str, deadline: float, make: MakeRequest) -> bool:
        """Send a request to a node; False if there is no established link to it."""
        link = self.peers.by_node.get(node_id)
        if link is None:
            return False
        self.number += 1
        deadline_ms = self._instant.wall_ms + int((deadline - self._instant.now) * 1000) + link.offset_ms
        message = make(self.number, link.boot, deadline_ms, self._view.digest)
        self.waiting[self.number] = (operation, group, node_id, m.ANSWERS[type(message)])
        self._outbox.send(link.address, message)
        return True

    def ask_for_caller(
        self, operation: Operation, group: Any, node_id: str, deadline: float, make: MakeRequest
    ) -> bool:
        """Do the same for an operation that a client waits for; False also if the node's breaker is open."""
        link = self.peers.by_node.get(node_id)
        if link is None or not self.breakers.admits(node_id, link.boot, deadline):
            return False
        self.ask(operation, group, node_id, deadline, make)
        self.breakers.sent(self.number, node_id, link.boot, deadline)
        return True

    def are_barred(self, node_ids: Iterable[str]) -> bool:
        """Tell whether all these nodes could be asked, but for their breakers; False if there are none."""
        found = list(node_ids)
        links, bars = self.peers.by_node, self.breakers.bars
        return bool(found) and all(node_id in links and bars(node_id) for node_id in found)

    def on_answer(self, node_id: str, answer: Any) -> bool:
        """Hand the answer of a node to the operation that waits for it; drop it if none waits any more.

        Return False if the request went to another node, or asks for another kind of answer: then it is no answer.
        """
        waiting = self.waiting.get(answer.request)
        if waiting is None:
            return True
        operation, group, asked, kind = waiting
        if asked != node_id or type(answer) not in (kind, m.Reject):
            return False
        del self.waiting[answer.request]
        self._judge(answer)
        if self._knows(operation):
            if isinstance(answer, m.Reject):
                operation.on_reject(group, node_id)
            else:
                operation.on_answer(group, node_id, answer)
        return True

    def _judge(self, answer: Any) -> None:
        """Count an answer for the breaker of the node that gave it."""
        if not isinstance(answer, m.Reject):
            self.breakers.answered(answer.request)
        elif answer.error[:1] == [m.Code.OVERLOADED]:
            self.breakers.refused(answer.request)
        else:
            self.breakers.forget(answer.request)

    def on_link_lost(self, node_id: str) -> None:
        """Give up the requests to this node on the link that broke."""
        lost = [request for request, waiting in self.waiting.items() if waiting[2] == node_id]
        for request in lost:
            operation, group, _, _ = self.waiting.pop(request)
            self.breakers.forget(request)
            self._shielded(operation, operation.on_lost, group, node_id)

    def on_link_made(self, node_id: str) -> None:
        """Begin anew with a node to which there is a new link."""
        self.breakers.begin_anew(node_id)
        self.replan()

    def replan(self) -> None:
        """Tell all operations that the ring or the links changed."""
        for operation in [*self.running, *self.background.values()]:
            self._shielded(operation, operation.replan)

    def _shielded(self, operation: Operation, turn: Callable[..., None], *arguments: Any) -> None:
        """Let an operation do something, if it has not ended. If that raises an error, end only this operation."""
        if not self._knows(operation):
            return
        try:
            turn(*arguments)
        except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this operation)
            self.end(operation)
            self._fail(type(operation).__name__, "", error)

    def begin(self, operation: Operation, timer_at: float, at_end: Callable[[], None] | None = None) -> None:
        """Keep an operation until ``end``, call its on_timer at ``timer_at``, and ``at_end`` however it ends."""
        self.running[operation] = self._instant.now
        if at_end is not None:
            self._at_end[operation] = at_end
        self.wake(operation, timer_at)

    def begin_background(self, name: str, part: Background) -> None:
        """Keep a part that works by itself, for as long as the node runs."""
        self.background[name] = part

    def wake(self, operation: Operation, timer_at: float) -> None:
        """Call a pending operation's on_timer at that time."""
        self.number += 1
        heapq.heappush(self.timers, (timer_at, self.number, ref(operation)))

    def linger(self, operation: Operation, size: int, timer_at: float) -> None:
        """Keep an answered operation, and what it keeps for owners that have not stored it, until ``timer_at``."""
        self.lingering[operation] = size
        self.lingering_bytes += size
        self.wake(operation, timer_at)

    def end(self, operation: Operation) -> None:
        """Forget an operation; answers to it that are still under way are dropped."""
        began = self.running.pop(operation, None)
        if began is not None:
            self.latencies.note(operation, began, self._instant.now)
        self.lingering_bytes -= self.lingering.pop(operation, 0)
        at_end = self._at_end.pop(operation, None)
        if at_end is not None:
            at_end()

    def send_repair(self, node_id: str, keys: list[bytes], records: list[bytes]) -> None:
        """Have a node store records that it lacks. Nobody waits for the answer: request number 0."""
        link = self.peers.by_node.get(node_id)
        if link is not None and keys:
            deadline_ms = self._instant.wall_ms + link.offset_ms + REPAIR_DEADLINE_MS
            self._outbox.send(link.address, m.Write(0, link.boot, deadline_ms, self._view.digest, True, keys, records))

    def note_read(self, change_bytes: int) -> None:
        """Add to the bytes kept for running reads; less than 0: they are not kept any more."""
        self.read_bytes += change_bytes

    def note_repairs(self, count: int) -> None:
        """Count records that a read writes back."""
        self.repairs += count

    def note_restamps(self, count: int) -> None:
        """Count records that a write stamps once more."""
        self.restamps += count

    def _knows(self, operation: Operation | None) -> bool:
        return operation in self.running or operation in self.lingering or operation in self.background.values()

    def tick(self) -> None:
        """Run the timers that are due, and forget the requests of operations that ended."""
        self.breakers.look()
        while self.timers and self.timers[0][0] <= self._instant.now:
            operation = heapq.heappop(self.timers)[2]()
            if operation is not None:
                self._shielded(operation, operation.on_timer)
        waiting = len(self.waiting)
        if waiting > ENDED_MAX and waiting > ENDED_MAX + 2 * (len(self.running) + len(self.lingering)):
            self.waiting = {n: waiting for n, waiting in self.waiting.items() if self._knows(waiting[0])}

    def next_deadline(self) -> float | None:
        """Return when the next timer of a pending operation is due."""
        while self.timers and not self._knows(self.timers[0][2]()):
            heapq.heappop(self.timers)
        return self.timers[0][0] if self.timers else None
