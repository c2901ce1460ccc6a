"""The memcached door: a port of the node for whoever speaks memcached's text protocol.

It listens, has the connections, and gives each its turn. Their descriptors are in the loop's own epoll, and unlike
those of ZeroMQ (poller.py) they are announced as long as there is something to read: so idle ones cost nothing.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from meshcache.config import MemcachedSettings
from meshcache.core.counters import MemcachedCounters
from meshcache.core.node import NodeCore
from meshcache.node.memcached.asks import Asks, check
from meshcache.node.memcached.connection import Bounds, Connection
from meshcache.node.memcached.flows import Flow
from meshcache.node.memcached.session import Session, Surroundings
from meshcache.node.memcached.statistics import statistics
from meshcache.node.poller import Inlets
from meshcache.protocol.memcached.commands import Flush, Stats
from meshcache.protocol.memcached.values import ttl_ms
from meshcache.web.followed import Tell

ACCEPTED_PER_TURN: Final = 64
TOO_MANY: Final = b"ERROR Too many open connections\r\n"
READS: Final = select.EPOLLIN | select.EPOLLRDHUP
WRITES: Final = select.EPOLLOUT
GONE: Final = select.EPOLLERR | select.EPOLLHUP
LATE_S: Final = 1.0
"""How long after its deadline a request of the core counts as unanswered."""


class Door:
    """The port and its connections; a crowd to the node's loop (poller.py)."""

    def __init__(
        self,
        listener: socket.socket,
        core: NodeCore,
        inlets: Inlets,
        settings: MemcachedSettings,
        tell: Tell,
        tls: ssl.SSLContext | None,
        is_user: Callable[[bytes, bytes], bool] | None,
    ) -> None:
        """``is_user`` checks user and password; None: nobody is asked."""
        self._listener = listener
        self._core = core
        self._settings = settings
        self._tell = tell
        self._tls = tls
        self._is_user = is_user
        self._asks = Asks(core)
        self.counters = core.counters.memcached = MemcachedCounters()
        self._surroundings = Surroundings(self._flush, self._stats, is_user, self.counters)
        limits = core.config.limits
        self._bounds = Bounds(limits.value_bytes_max, settings.in_flight_bytes_max, settings.stall_s)
        self._answer_s = limits.operation_timeout_s + LATE_S
        self._inlets = inlets
        self.woken: list[tuple[int, int]] = []
        self._connections: dict[int, Connection] = {}
        self._ready: dict[Connection, None] = {}
        """Those that can go on without anything new."""
        self._timed: dict[Connection, None] = {}
        """Those that owe something, or are owed something."""
        self._waiting: dict[bytes, Connection | None] = {}
        """Those that wait for the core's answer, by the name that it knows. None: nobody takes it any more."""
        self._flush_at: float | None = None
        """When the mesh is to be cleared."""
        self._number = 0
        inlets.attend(listener.fileno(), select.EPOLLIN, self)

    def close(self) -> None:
        """Close the port and all connections."""
        for connection in list(self._connections.values()):
            connection.close()
        self._listener.close()

    # -- the loop's turns ----------------------------------------------------------------------------------

    def has_input(self) -> bool:
        """See Inlet."""
        return bool(self._ready or self.woken)

    def drain(self, now: float) -> bool:
        """See Inlet."""
        self._core.set_time(now)
        self._asks.disturbs = False
        ready, self._ready = self._ready, {}
        events, self.woken = self.woken, []
        connections = self._connections
        for fd, event in events:
            connection = connections.get(fd)
            if connection is None:
                self._accept(now)
            elif event & GONE:
                self._close(connection)
            else:
                ready.pop(connection, None)
                self._guarded(self._serve, connection, now)
        for connection in ready:
            if connections.get(connection.fd) is connection:
                self._guarded(self._serve, connection, now)
        if self._asks.disturbs:
            self._core.disturbed = True
        return bool(self._ready)

    def collect(self, now: float) -> None:
        """Take from the core's outbox what the door's connections wait for, and go on with these."""
        if not self._waiting:
            return
        for origin, told in self._asks.collect(self._waiting):
            connection = self._waiting.pop(origin)
            if connection is not None:
                self._guarded(self._resume, connection, now, told)

    def look(self, now: float) -> None:
        """Do what time asks for; called several times a second."""
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_at = None
            self._flush_now(now)
        for connection in [each for each in self._timed if now >= each.deadline]:
            session = connection.session
            if not connection.deadline:
                del self._timed[connection]  # it has gone on since
            elif session.waits:
                self._waiting[session.name] = None
                self._guarded(self._resume, connection, now, None)
            else:
                self.counters.closed_slow += connection.wants_to_write
                self.counters.closed_half += not connection.wants_to_write
                self._close(connection)
        self.counters.connections = len(self._connections)

    def _flush_now(self, now: float) -> None:
        """Clear the mesh because it is time: nobody waits for the answer."""
        self._core.set_time(now)
        session = Session(self._asks, self._surroundings, self._asks.name(0))
        session.queue.append(Flush(0, quiet=True))
        session.run()
        if session.waits:
            self._waiting[session.name] = None

    # -- connections ---------------------------------------------------------------------------------------

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            try:
                connected, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors, say
                self._core.fail("memcached connection", "", error)
                return
            self._enter(connected, str(address[0]), now)

    def _enter(self, connected: socket.socket, peer: str, now: float) -> None:
        connected.setblocking(False)
        if len(self._connections) >= self._settings.connections_max:
            self.counters.refused += 1
            if self._tls is None:
                try_to_send(connected, TOO_MANY)
            connected.close()
            return
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connected = self._tls.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
        self._number += 1
        session = Session(self._asks, self._surroundings, self._asks.name(self._number))
        connection = Connection(connected, peer, session, self._bounds)
        self._connections[connection.fd] = connection
        self.counters.accepted += 1
        connection.interest = READS
        self._inlets.attend(connection.fd, READS, self)
        if self._tls is not None:
            self._note_time(connection, now, moved=True)

    def _guarded(self, work: Callable[..., None], connection: Connection, *given: Any) -> None:
        """Do something with a connection. What fails in that concerns nobody but it."""
        try:
            work(connection, *given)
        except OSError:
            self._close(connection)
        except Exception as error:  # noqa: BLE001  (of whatever kind)
            self._close(connection)
            self._core.fail("memcached connection", connection.peer, error)

    def _serve(self, connection: Connection, now: float) -> None:
        """Give a connection its turn."""
        moved = 0
        if connection.is_shaking_hands and not connection.shake_hands():
            return
        if connection.wants_to_read:
            moved = connection.read()
            self.counters.in_bytes += moved
        elif connection.wants_to_write:
            moved = connection.write()
            self.counters.out_bytes += moved
        connection.advance()
        self._settle(connection, now, moved=moved > 0)

    def _resume(self, connection: Connection, now: float, told: list[Any] | None) -> None:
        """Go on with the command that waits, by what the core has told its connection; None: it told nothing."""
        connection.deadline = 0.0
        if told is None:
            connection.session.give_up()
        else:
            connection.session.take(told)
        self._settle(connection, now, moved=True)

    def _settle(self, connection: Connection, now: float, *, moved: bool) -> None:
        """Send what there is, and see what a connection waits for now."""
        session = connection.session
        if session.out:
            sent = connection.write()
            self.counters.out_bytes += sent
            moved |= sent > 0
        if connection.is_idle and connection.interest == READS and not connection.is_done:
            if connection.deadline:
                self._note_time(connection, now, moved=moved)
            return
        if session.waits:
            self._waiting[session.name] = connection
            connection.deadline = now + self._answer_s
            self._timed[connection] = None
        elif connection.is_done:
            if session.ends:
                self.counters.closed_malformed += 1
                self._tell("memcached_closed", peer=connection.peer, why=session.ends)
            self._close(connection)
            return
        else:
            self._note_time(connection, now, moved=moved)
            if connection.can_go_on:
                self._ready[connection] = None
                self._inlets.stir(self)  # also where the door is told to go on without being woken
        wants = (READS if connection.wants_to_read else 0) | (WRITES if connection.wants_to_write else 0)
        if wants != connection.interest:
            connection.interest = wants
            self._inlets.attend_to(connection.fd, wants)

    def _note_time(self, connection: Connection, now: float, *, moved: bool) -> None:
        connection.take_time(now, moved=moved)
        if connection.deadline:
            self._timed[connection] = None
        else:
            self._timed.pop(connection, None)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        self._inlets.dismiss(connection.fd)
        self._timed.pop(connection, None)
        self._ready.pop(connection, None)
        if connection.session.waits:
            self._waiting[connection.session.name] = None
        connection.close()

    # -- what commands ask of the door ---------------------------------------------------------------------

    def _flush(self, command: Flush) -> Flow:
        instant = self._asks.instant
        if command.exptime > 0 and (left_ms := ttl_ms(command.exptime, instant.wall_ms)):
            self._flush_at = instant.now + left_ms / 1000
        else:
            self._flush_at = None
            check((yield self._asks.clear())[0])
        return b"OK\r\n"

    def _stats(self, command: Stats) -> bytes:
        return statistics(command.about, self._core, self.counters, self._settings)


def try_to_send(connected: socket.socket, line: bytes) -> None:
    """Send a line if the kernel takes it; nobody depends on it."""
    try:
        connected.send(line)
    except OSError:
        return
