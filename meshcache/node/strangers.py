"""Connections that never said anything, and what becomes of them when there are too many.

*Strangers* are handshakes that stall, which libzmq ends after three seconds (``HANDSHAKE_IVL``), and those that are
through with theirs and silent, which it leaves alone. Each takes memory, 4 KiB or 20, and a descriptor. Nobody honest
stays a stranger for long: clients and nodes say HELLO, and subscribers subscribe, as soon as they can. So of more than
``STRANGERS_MAX`` those go that have been silent longest, if that is ``SILENT_MS_MIN`` at least; and whoever comes
meanwhile gets in.

Whether there may be so many follows from how many descriptors are open: less the connections that are known, and less
what is open besides. If so, all descriptors are looked at. That takes some 20 µs of each; so it is done in steps of
``STEP``, one in a turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

from meshcache.node.connections import Connections, Peer, descriptors, shut_down, traffic_of

STRANGERS_MAX: Final = 1024
"""Of all ports together: a whole mesh and its clients may come at once."""
SILENT_MS_MIN: Final = 100
STEP: Final = 256
"""So many descriptors are looked at in one turn, or so many strangers cut."""


class Strangers:
    """Looks after the strangers at the sockets of one node."""

    def __init__(self, sockets: Callable[[], Iterable[Connections]]) -> None:
        self._sockets = sockets
        self._besides = 0
        """Descriptors that are open and no connections to these sockets, at the last pass over all."""
        self._to_look_at: list[int] = []
        """The descriptors that a pass has yet to look at; none: no pass is under way."""
        self._unseen = 0
        """How many descriptors were open when it began, less known connections and the strangers that it has found."""
        self._count = 0
        """How many strangers it has found that have not ended …"""
        self._silent: list[tuple[int, Connections, int, Peer]] = []
        """… and the silent ones among them: milliseconds, socket, descriptor and peer."""
        self._doomed: list[tuple[int, Connections, int, Peer]] = []
        """Those that are to be cut."""

    def look(self, lowest_free: int) -> bool:
        """See to it that there are not too many; return whether to go on soon. ``lowest_free``: a descriptor."""
        if self._doomed:
            self._cut_some()
        elif self._to_look_at:
            self._look_on()
        else:
            unknown = (_open_count() or lowest_free) - sum(len(connections.known) for connections in self._sockets())
            if unknown - self._besides <= STRANGERS_MAX:
                return False
            self._to_look_at = list(descriptors())
            self._unseen, self._count, self._silent = unknown, 0, []
        return True

    def _look_on(self) -> None:
        at = {connections.port: connections for connections in self._sockets()}
        known = {connection.fd for connections in at.values() for connection in connections.known.values()}
        some, self._to_look_at = self._to_look_at[:STEP], self._to_look_at[STEP:]
        for fd in some:
            traffic = None if fd in known else traffic_of(fd)
            connections = None if traffic is None else at.get(traffic.port)
            if traffic is None or connections is None:
                continue
            self._unseen -= 1
            if traffic.is_established:
                self._count += 1
                if traffic.idle_ms >= SILENT_MS_MIN:
                    self._silent.append((traffic.idle_ms, connections, fd, traffic.peer))
        if not self._to_look_at:
            self._besides = max(0, self._unseen)
            self._silent.sort(key=lambda each: each[0], reverse=True)
            self._doomed = self._silent[: max(0, self._count - STRANGERS_MAX)]

    def _cut_some(self) -> None:
        some, self._doomed = self._doomed[:STEP], self._doomed[STEP:]
        for idle_ms, connections, fd, peer in some:
            if shut_down(fd, peer):
                why = "never said anything, and too many others did not"
                connections.note_cut(peer, why, idle_ms=idle_ms, strangers_max=STRANGERS_MAX)


def _open_count() -> int:
    """Return how many descriptors are open; 0 where the system does not say (before Linux 6.2)."""
    try:
        return os.stat("/proc/self/fd").st_size  # noqa: PTH116  (a tenth of what Path.stat takes)
    except OSError:
        return 0
