"""How a node goes in good order: it owns nothing more, waits until the others hold all that it held, and leaves."""

from __future__ import annotations

from collections.abc import Callable

from meshcache.core.membership.membership import Membership
from meshcache.core.outbox import Outbox


class Departure:
    """Whether one node is leaving, and how far it is."""

    def __init__(
        self, timeout_s: float, membership: Membership, outbox: Outbox, settled: Callable[[], bool], *, supervised: bool
    ) -> None:
        """``timeout_s``: how long it waits for the others at most. ``settled``: all owners hold all their slots."""
        self.begun = False
        self.gone = False
        """This node has left; the driver stops."""
        self.handed_over = False
        """It has left, and others go on with all that it held."""
        self._timeout_s = timeout_s
        self._membership = membership
        self._outbox = outbox
        self._settled = settled
        self._supervised = supervised
        self._leave_by = 0.0

    def begin(self, now: float) -> None:
        """Own nothing more."""
        self.begun = True
        self._leave_by = now + self._timeout_s
        self._outbox.note("leaving")
        self._membership.retire(now)

    def note_asked(self, origin: bytes) -> None:
        """Whoever reaches the port can ask for it. So say loudly that it was none of those who run this process."""
        self._outbox.note("asked_to_leave", origin=origin.hex(), by="a request", supervised=self._supervised)

    def run(self, now: float) -> None:
        """Leave, if all is handed over or the time is up. Where all nodes are leaving there is nobody to wait for."""
        if not self.begun or self.gone:
            return
        settled = self._settled()
        if settled or now >= self._leave_by:
            self.gone = True
            self.handed_over = settled and bool(self._membership.owners())
            self._outbox.note("left", handed_over=settled)
            self._membership.leave(now, handed_over=settled)
