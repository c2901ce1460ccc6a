"""Which requests a node executes: what comes to a former process, too late, or on top of too much is refused here.

Every request passes ``Admission.admit`` first, that of a client and that of another node; what it refuses is answered
at once and costs next to nothing.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.core.counters import Counters
from meshcache.core.operations.backlog import Backlog
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.surroundings import Readers, Serves
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code

DEADLINE_S_MAX: Final = 60.0
"""No client can make a node keep an operation for longer than this."""


class Admission:
    """What decides for one node which requests are executed, and answers those that are not."""

    __slots__ = (
        "_boot",
        "_by_kind",
        "_config",
        "_coordinator",
        "_counters",
        "_instant",
        "_node",
        "_outbox",
        "_view",
        "backlog",
        "readers",
    )

    def __init__(self, coordinator: Coordinator, counters: Counters, boot: int, node: Serves) -> None:
        self._coordinator = coordinator
        self._config = coordinator.config
        self._outbox = coordinator.outbox
        self._view = coordinator.view
        self._instant = coordinator.instant
        self._counters = counters
        self._by_kind = counters.requests_by_kind
        self._boot = boot
        self._node = node
        self.readers = Readers()
        self.backlog = Backlog(
            coordinator.config.limits,
            coordinator.instant,
            lambda: len(coordinator.pending.running),
            lambda: sum(self._by_kind.answered.values()) + sum(self._by_kind.failed.values()),
        )

    def heed(self, readers: Readers) -> None:
        """Use from now on what the driver knows of the connections that ask."""
        self.readers = readers

    def admit(self, origin: bytes, request: Any, *, from_client: bool = True) -> bool:
        """Refuse a request that must not be executed: for a former process, too late, or more than this node can do."""
        if request.boot != self._boot:
            self._counters.stale_boot += 1
            self.reject(origin, request, [int(Code.STALE_BOOT)])
            return False
        if request.deadline_ms < self._instant.wall_ms:
            self._counters.late += 1
            return False
        if from_client:
            self._counters.requests += 1
            if not self._node.ready:
                self.reject(origin, request, [int(Code.NOT_READY)])
                return False
            if len(self._coordinator.pending.running) >= self._config.limits.pending_max or origin in self.readers.deaf:
                self.reject_overloaded(origin, request)
                return False
        return True

    def admits_more(self) -> bool:
        """Tell whether one more request of a client would be executed."""
        return self._node.ready and len(self._coordinator.pending.running) < self._config.limits.pending_max

    def reject(self, origin: bytes, request: Any, error: list[Any]) -> None:
        """Refuse a request, with nothing done."""
        self._counters.refused += 1
        self._by_kind.note_refused(type(request).__name__, Code(error[0]).name.lower())
        self._outbox.reply(origin, m.Reject(request.request, self._view.digest, error))

    def reject_overloaded(self, origin: bytes, request: Any, waiting_us: float = 0.0) -> None:
        """Refuse a request because there is too much to do, and say when to come back; see Backlog.retry_after_ms."""
        self.reject(origin, request, [int(Code.OVERLOADED), self.backlog.retry_after_ms(waiting_us)])

    def reply(self, origin: bytes, request: int, results: list[Any] | None) -> None:
        """Answer a client's request."""
        self._outbox.reply(origin, m.Reply(request, self._view.digest, results))

    def deadline(self, request: Any) -> float:
        """Return when the time of a request is over, by the clock of the turns."""
        remaining_s: float = (request.deadline_ms - self._instant.wall_ms) / 1000
        return self._instant.now + min(remaining_s, DEADLINE_S_MAX)
