"""Circuit breakers between nodes: a node that fails those who wait is not asked for a moment.

A node can be alive by every probe and yet be of no use: it is overloaded, say, or its disk or its network stalls for
what is larger than a probe. Each request that a client's operation sends to it then waits for nothing until its
deadline. So this node counts, for each other one, how the requests of its clients' operations end. When half of at
least ten in ten seconds have failed, the breaker *opens*: for ``OPEN_S`` such requests are not sent. Then one is, as a
probe (*half-open*), and closes the breaker if it is answered.

A failure is a request that was refused for overload, or not answered in time. Of the latter only those count that left
the node ``FAIR_S`` or more, so that an impatient client opens no breaker. What this node does by itself (probes of
members, hints, slots that move, repair) neither counts nor stops.

When there is a new link to the node, its breaker is forgotten: perhaps only the way to it was cut. To wait for a probe
would let operations fail for up to ``OPEN_S`` after the network is whole.

Nothing about quorums changes. Where the owners that may still be asked are too few, the operation fails at once with
what it would have come to at its deadline; where they are enough, the owner that was left out gets its hint. A member
that is *suspected* is asked whatever its breaker says: soon it is either cleared, or dead and no owner any more, and
operations that wait for that need not fail.

Source: Nygard 2007, "Release It!", for the breaker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meshcache.core.membership.members import State
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.protocol.breaker import Breaker

OPEN_S: Final = 1.0
"""How long a breaker stays open before a probe. Clients wait much longer, but they have other nodes to ask."""
FAIR_S: Final = 0.2
"""The least time in which a node is expected to answer …"""
ANSWER_S: Final = 1.0
"""… and after this time it has failed, although the request has more."""
STALL_S: Final = 0.5
"""If this node looks at the clock less often, it stood still, and answers may have come that it has not read."""


class Breakers:
    """The breakers of one node, by the id of the other, and the requests by which it judges."""

    __slots__ = (
        "_instant",
        "_outbox",
        "_state_of",
        "by_node",
        "looked_at",
        "open",
        "opened",
        "unanswered",
    )

    def __init__(self, instant: Instant, outbox: Outbox, state_of: Callable[[str], State]) -> None:
        """``state_of`` tells of a member, by its id, whether it is alive."""
        self.opened = 0
        """How often one opened."""
        self._instant = instant
        self._outbox = outbox
        self._state_of = state_of
        self.by_node: dict[str, tuple[int, Breaker]] = {}
        """With the boot of the process that each is about."""
        self.unanswered: dict[int, tuple[float, str]] = {}
        """By number of the request, in the order in which they were sent: when it has failed, and the node."""
        self.open: dict[str, Breaker] = {}
        """Those that are not closed."""
        self.looked_at = instant.now

    def admits(self, node_id: str, boot: int, deadline: float) -> bool:
        """Tell whether a request may be sent to a node; if its breaker is half-open, this request is the probe."""
        breaker = self.open.get(node_id)
        if breaker is None or self._state_of(node_id) != State.ALIVE:
            return True
        if self.by_node[node_id][0] != boot:
            self.begin_anew(node_id)
            return True
        if deadline - self._instant.now < FAIR_S or not breaker.admits(self._instant.now):
            return False
        self._outbox.note("breaker_half_open", node=node_id)
        return True

    def bars(self, node_id: str) -> bool:
        """Tell whether the breaker of a node is why it is not asked."""
        return node_id in self.open and self._state_of(node_id) == State.ALIVE

    @property
    def are_closed(self) -> bool:
        """Whether all of them are."""
        return not self.open

    def sent(self, number: int, node_id: str, boot: int, deadline: float) -> None:
        """Note a request that somebody waits for."""
        now = self._instant.now
        if deadline - now < FAIR_S:
            return
        if not self.unanswered:
            self.looked_at = now
        self.unanswered[number] = min(deadline, now + ANSWER_S), node_id
        known = self.by_node.get(node_id)
        if known is None or known[0] != boot:
            for gone in [each for each in self.by_node if self._state_of(each) > State.SUSPECT]:
                self.begin_anew(gone)
            self.begin_anew(node_id)
            self.by_node[node_id] = boot, Breaker(OPEN_S)

    def answered(self, number: int) -> None:
        """Note that a request was answered."""
        waited = self.unanswered.pop(number, None)
        if waited is not None and waited[1] in self.by_node:
            node_id = waited[1]
            if self.by_node[node_id][1].succeed(self._instant.now):
                self.open.pop(node_id, None)
                self._outbox.note("breaker_closed", node=node_id)

    def refused(self, number: int) -> None:
        """Note that a request was refused because the node is overloaded."""
        waited = self.unanswered.pop(number, None)
        if waited is not None:
            self._fail(waited[1])

    def forget(self, number: int) -> None:
        """Note that a request has an end that tells nothing of the node: its connection broke, say."""
        self.unanswered.pop(number, None)

    def look(self) -> None:
        """Count the requests whose time is over."""
        now = self._instant.now
        stood_still_s, self.looked_at = now - self.looked_at, now
        if stood_still_s > STALL_S:
            waiting = self.unanswered.items()
            self.unanswered = {number: (at + stood_still_s, node_id) for number, (at, node_id) in waiting}
        while self.unanswered:
            number, (at, node_id) = next(iter(self.unanswered.items()))
            if at > now:
                break
            del self.unanswered[number]
            self._fail(node_id)

    def statistics(self) -> dict[str, Any]:
        """Return what there is to tell, as plain values."""
        present = [node_id for node_id in self.by_node if self._state_of(node_id) <= State.SUSPECT]
        states = {node_id: self.by_node[node_id][1].state for node_id in present}
        return {
            "opened": self.opened,
            "open": {node_id: int(node_id in self.open) for node_id in states},
            "state": states,
        }

    def _fail(self, node_id: str) -> None:
        known = self.by_node.get(node_id)
        if known is not None and known[1].fail(self._instant.now):
            self.opened += 1
            self.open[node_id] = known[1]
            self._outbox.note("breaker_opened", node=node_id)

    def begin_anew(self, node_id: str) -> None:
        """Begin anew with a node, since another process answers there, or on a new link."""
        self.by_node.pop(node_id, None)
        if self.open.pop(node_id, None) is not None:
            self._outbox.note("breaker_closed", node=node_id)
