"""Who is connected to a node's bound sockets: what each was sent and has not taken, and how to cut one.

libzmq bounds what waits for a connection by the number of messages, not by bytes, and tells neither how much waits nor
which connection is to blame when memory grows. But every message that arrives tells the descriptor of the TCP
connection that it came on, and the kernel tells of a descriptor how many bytes the other side has acknowledged and how
many have come in. So::

    owed    = bytes handed to libzmq for this connection - bytes that the other side acknowledged
    unread  = bytes that came in on it                   - bytes taken from libzmq

*Owed* is replies or announcements that somebody does not read. Who is owed more than ``OWED_BYTES_MAX``, or more than
``OWED_BYTES_SMALL`` while all together are owed more than ``OWED_BYTES_TOTAL``, is served no more until it has read
(``Connections.deaf``); who does not read on for ``DEAF_S`` is cut. *Unread* is messages that are not complete, or that
come faster than the node takes them; it is looked at only when memory is short.

What a connection has asked for may wait in libzmq when it closes, and arrives all the same. To answer that would take
as long as if somebody read it: thousands of large replies, while the others wait. So a connection stays deaf once it is
closed. Its name is not given again; only a name that the other side has chosen may come back, with a new connection.

To cut is to shut the TCP connection down. libzmq then finds it closed, and frees all that it holds for it. An honest
peer connects again. A descriptor may be closed and given to another connection at any time, by libzmq's own thread; so
whatever is done with one is done only if it still leads to the peer that was seen on it.

The kernel's figures are those of Linux (``struct tcp_info``, since 4.6). Where they are missing nobody is cut.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from meshcache.core.operations.surroundings import Readers
from meshcache.keys import ANYBODY, NOBODY, AllowedKey

OWED_BYTES_MAX: Final = 16 << 20
"""For one connection: two replies of the usual limit."""
OWED_BYTES_SMALL: Final = 1 << 20
OWED_BYTES_TOTAL: Final = 48 << 20
"""For all connections of a socket together. What one turn adds comes on top."""
ROOM_BYTES_MIN: Final = 2 << 20
"""All together are owed too much when there is no room for so much more: twice what a reply has then at most."""
REVIEW_BYTES: Final = 12 << 20
"""All are looked at when so much more was handed over."""
DEAF_S: Final = 1.0
"""Somebody who is served no more, and has not read ``READ_ON_BYTES`` in this time, is cut."""
READ_ON_BYTES: Final = 64 << 10
ASK_AFTER_BYTES: Final = 1 << 20
"""So much may be handed over before the kernel is asked what was acknowledged."""
DESCRIPTORS_MAX: Final = 1 << 16
CUT_NAMES_MAX: Final = 4096
OLDEST_LOOKED_AT: Final = 2
"""With each connection that comes, so many are looked at, whether they have closed …"""
OLDEST_LOOKED_AT_IF_FULL: Final = 64
"""… and so many if there are too many."""
GIVEN_NAME_BYTES: Final = 5
"""A name that libzmq gives to a connection has a zero and a number of 32 bits."""
QUIET_S: Final = 0.05
"""libzmq has written what it could, if nothing was handed to it for so long."""
TELL_S: Final = 1.0
"""How often at most the log tells of connections that were cut."""
BLAME_BYTES_MIN: Final = 4 << 20
"""When memory is short: a connection that holds less is not to blame."""

_TCP_INFO_BYTES: Final = 192
_ESTABLISHED: Final = 1
"""The state of TCP, which comes first in ``struct tcp_info``."""
_UNACKED_AT: Final = 24
"""In ``struct tcp_info``: tcpi_unacked, segments that are sent and not acknowledged …"""
_LAST_DATA_AT: Final = 44
"""… tcpi_last_data_sent, last_ack_sent, last_data_recv: milliseconds since then …"""
_ACKED_AT: Final = 120
"""… tcpi_bytes_acked and tcpi_bytes_received, 64 bits each …"""
_NOT_SENT_AT: Final = 144
"""… and tcpi_notsent_bytes. All others here have 32 bits."""


Peer = tuple[Any, ...]


class Traffic:
    """What the kernel tells of a TCP connection."""

    __slots__ = ("acked_bytes", "idle_ms", "is_established", "is_through", "peer", "port", "received_bytes")

    def __init__(self, peer: Peer, port: int, told: bytes) -> None:
        self.peer = peer
        self.port = port
        """The local one."""
        self.is_established: bool = told[0] == _ESTABLISHED
        """No side has ended it."""
        self.acked_bytes, self.received_bytes = struct.unpack_from("=QQ", told, _ACKED_AT)
        sent_ms, _, received_ms = struct.unpack_from("=III", told, _LAST_DATA_AT)
        self.idle_ms: int = min(sent_ms, received_ms)
        (unacked,) = struct.unpack_from("=I", told, _UNACKED_AT)
        (not_sent,) = struct.unpack_from("=I", told, _NOT_SENT_AT)
        self.is_through: bool = not unacked and not not_sent
        """All that libzmq has written is acknowledged; and it writes whenever it can."""


def traffic_of(fd: int) -> Traffic | None:
    """Return what the kernel tells of a descriptor; None if it is no TCP connection (any more)."""
    try:
        connection = socket.socket(fileno=fd)
    except (OSError, ValueError):
        return None
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(told) < _NOT_SENT_AT + 4:
            return None
        return Traffic(connection.getpeername(), connection.getsockname()[1], told)
    except (OSError, IndexError, TypeError):
        return None
    finally:
        connection.detach()


def shut_down(fd: int, peer: Peer) -> bool:
    """Shut a connection down, if the descriptor still leads to this peer; True if that was done."""
    with contextlib.suppress(OSError, ValueError):
        connection = socket.socket(fileno=fd)
        try:
            if connection.getpeername() == peer:
                connection.shutdown(socket.SHUT_RDWR)
                return True
        finally:
            connection.detach()
    return False


class Connection:
    """One that sent something."""

    __slots__ = (
        "asked_at",
        "deaf_since",
        "fd",
        "inode",
        "key",
        "owed_then_bytes",
        "peer",
        "read_bytes",
        "subscriptions",
        "taken_bytes",
        "unasked_bytes",
    )

    def __init__(self, fd: int, traffic: Traffic | None) -> None:
        self.fd = fd
        self.peer: Peer = () if traffic is None else traffic.peer
        self.taken_bytes = 0
        """Of the messages that were taken from it."""
        self.owed_then_bytes = 0
        """What it was owed when the kernel was asked."""
        self.unasked_bytes = 0
        """Handed over since the kernel was asked."""
        self.asked_at = 0.0
        self.read_bytes = 0 if traffic is None else traffic.acked_bytes
        """What it had acknowledged when the kernel was asked."""
        self.deaf_since: tuple[float, int] | None = None
        """While it is served no more: since when it has not read on, and what it had read then."""
        self.subscriptions = 0
        self.key = ANYBODY
        """By which it was let in."""
        self.inode = 0
        """Of the descriptor's socket, where that matters."""

    @property
    def owed_bytes(self) -> int:
        """As far as is known: what was acknowledged since the kernel was asked is not yet counted off."""
        return self.owed_then_bytes + self.unasked_bytes

    def take(self, size: int) -> None:
        """A frame of so many bytes was taken; over the connection it came with its flags and its length."""
        self.taken_bytes += size + 2 if size < 256 else size + 9


class _OfTheirSockets(dict[Any, Connection]):
    """Finds a connection only while its descriptor still has the socket that it was met on.

    A name is chosen by who connects. Once its connection is closed, another may come with the same one: it must not
    find the rights of the first. To look takes a microsecond.
    """

    def get(self, name: Any, default: Any = None) -> Any:
        connection = dict.get(self, name)
        if connection is None:
            return default
        try:
            is_same = os.fstat(connection.fd).st_ino == connection.inode
        except OSError:
            is_same = False
        return connection if is_same else default


class Connections(Readers):
    """The connections of one bound socket, by what names them: a routing id, or a descriptor."""

    __slots__ = (
        "_connections_max",
        "_let_in",
        "_tell",
        "_tell_at",
        "_untold",
        "bytes_left",
        "cut",
        "deaf",
        "known",
        "port",
        "refused",
        "review_at_bytes",
    )

    def __init__(
        self,
        port: int,
        tell: Callable[..., None] = lambda *_, **__: None,
        connections_max: int = DESCRIPTORS_MAX,
        let_in: Callable[[str], AllowedKey] | None = None,
    ) -> None:
        """``tell`` takes events for the log. Of more than ``connections_max`` the newest is refused.

        ``let_in`` returns the key of a user id, where connections need keys.
        """
        self.port = port
        self._connections_max = connections_max
        self.refused = 0
        """How many were refused because there were too many."""
        self._tell = tell
        self._let_in = let_in
        self.known: dict[Any, Connection] = {} if let_in is None else _OfTheirSockets()
        self.deaf: set[Any] = set()
        """Those that are served no more until they have read, and those that were cut."""
        self.cut = 0
        """How many were cut."""
        self._untold = 0
        self._tell_at = 0.0
        self.bytes_left = OWED_BYTES_TOTAL
        """What can still be handed over before all together are owed too much."""
        self.review_at_bytes = OWED_BYTES_TOTAL - REVIEW_BYTES
        """When so much is left, all are looked at."""

    def meet(self, name: Any, fd: int, user: str = "") -> Connection:
        """Note a connection that is new, or has its name from one that is no more. ``user``: who it was let in as."""
        self.known[name] = connection = Connection(fd, traffic_of(fd))
        if not _is_given(name):
            self.deaf.discard(name)
        if self._let_in is not None:
            connection.key = self._let_in(user)
            with contextlib.suppress(OSError):
                connection.inode = os.fstat(fd).st_ino
        self._look_at_oldest(OLDEST_LOOKED_AT)
        return connection

    def who(self, origin: bytes) -> AllowedKey:
        """See Readers."""
        connection = dict.get(self.known, origin)
        return NOBODY if connection is None else connection.key

    def follow_keys(self) -> None:
        """Cut those whose keys are allowed no more; let new rights hold for the others."""
        if self._let_in is None:
            return
        for name, connection in list(self.known.items()):
            connection.key = self._let_in(connection.key.public)
            if not connection.key.rights:
                self.shut(name, "its key is allowed no more")

    def are_too_many(self) -> bool:
        """Tell whether there are more connections than there may be."""
        if len(self.known) > self._connections_max:
            self._look_at_oldest(OLDEST_LOOKED_AT_IF_FULL)
        return len(self.known) > self._connections_max

    def refuse(self, name: Any) -> None:
        """Cut a connection that is one too many."""
        connection = self.known.get(name)
        if connection is not None and connection.peer:
            self.refused += 1
            self.shut(name, "is one too many", connections_max=self._connections_max)

    def _look_at_oldest(self, count: int) -> None:
        """Forget those that have closed, among the ones that were not looked at for longest.

        So what is known of connections is bounded by how many there are, and no turn looks at all of them.
        """
        for name in tuple(islice(self.known, count)):
            connection = self.known[name]
            if not connection.peer or self.is_still(connection):
                self.known[name] = self.known.pop(name)  # behind the others
            else:
                self.lose(name)

    def lose(self, name: Any) -> None:
        """Note that a connection has closed: what it still asks for is not worth doing."""
        connection = self.known.pop(name, None)
        if connection is not None:
            self.bytes_left += connection.owed_bytes
        self._note_closed(name)

    def _note_closed(self, name: Any) -> None:
        if _is_given(name):
            self._serve_no_more(name)
        else:
            self.deaf.discard(name)

    def _serve_no_more(self, name: Any) -> None:
        if len(self.deaf) > CUT_NAMES_MAX:
            self.deaf.clear()  # who of them is still there is found to be deaf again
        self.deaf.add(name)

    def hand(self, name: Any, size: int) -> None:
        """So many bytes were handed to libzmq for this connection."""
        connection = self.known.get(name)
        if connection is None:
            return
        connection.unasked_bytes = unasked_bytes = connection.unasked_bytes + size
        self.bytes_left = bytes_left = self.bytes_left - size
        if unasked_bytes > ASK_AFTER_BYTES:
            self._ask(name, connection)
            if connection.owed_then_bytes > OWED_BYTES_MAX:
                self.review()
        if bytes_left < self.review_at_bytes:
            self.review()

    def review(self) -> None:
        """Look at all that are owed something; cut those that have been deaf for too long."""
        for name, connection in list(self.known.items()):
            if connection.owed_bytes:
                self._ask(name, connection)
        self.bytes_left = OWED_BYTES_TOTAL - sum(connection.owed_bytes for connection in self.known.values())
        self.review_at_bytes = self.bytes_left - REVIEW_BYTES
        # What would exceed the total is not sent; so the total is reached when there is no room for a reply any more.
        limit = OWED_BYTES_SMALL if self.bytes_left < ROOM_BYTES_MIN else OWED_BYTES_MAX
        now = time.monotonic()
        for name, connection in list(self.known.items()):
            if connection.owed_bytes <= limit:
                if connection.deaf_since is not None:
                    connection.deaf_since = None
                    self.deaf.discard(name)
                continue
            self.deaf.add(name)
            since = connection.deaf_since
            if since is None or connection.read_bytes >= since[1] + READ_ON_BYTES:
                connection.deaf_since = now, connection.read_bytes
            elif now - since[0] > DEAF_S:
                self.shut(name, "does not read what it is sent", owed_bytes=connection.owed_bytes)

    @property
    def owing(self) -> bool:
        """Tell whether somebody is owed so much that it is worth a look."""
        return self.bytes_left < OWED_BYTES_TOTAL - OWED_BYTES_SMALL

    def shut(self, name: Any, why: str, **fields: object) -> None:
        """Cut a connection, and say why. What it still asks for is not worth doing: it stays among the deaf."""
        connection = self.known.pop(name, None)
        self._serve_no_more(name)
        if connection is not None and shut_down(connection.fd, connection.peer):
            self.note_cut(connection.peer, why, **fields)

    def note_cut(self, peer: Peer, why: str, **fields: object) -> None:
        """Count a connection that was cut; log one of many, with their number."""
        self.cut += 1
        self._untold += 1
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell("connection_cut", peer=peer[:2], why=why, count=self._untold, **fields)
            self._untold, self._tell_at = 0, now + TELL_S

    @staticmethod
    def is_still(connection: Connection) -> bool:
        """Tell whether a connection's descriptor still leads to the same peer."""
        traffic = traffic_of(connection.fd)
        return traffic is not None and traffic.peer == connection.peer

    def forget(self, name: Any) -> None:
        """Forget a connection that is known to be closed."""
        self.known.pop(name, None)
        self._note_closed(name)

    def _ask(self, name: Any, connection: Connection) -> None:
        """Count off what the other side has acknowledged."""
        # What was handed over just now may not have come to the kernel yet.
        now = time.monotonic()
        quiet = not connection.unasked_bytes and now > connection.asked_at + QUIET_S
        before = connection.owed_bytes
        if connection.unasked_bytes:
            connection.unasked_bytes, connection.asked_at = 0, now
        traffic = traffic_of(connection.fd)
        if traffic is None or traffic.peer != connection.peer:
            self.forget(name)
            owed_bytes = 0
        else:
            read_bytes = traffic.acked_bytes - connection.read_bytes
            connection.read_bytes = traffic.acked_bytes
            # What libzmq dropped because of too many messages was handed over, and is owed no more.
            owed_bytes = 0 if quiet and traffic.is_through else max(0, before - read_bytes)
        connection.owed_then_bytes = owed_bytes
        self.bytes_left += before - owed_bytes


def _is_given(name: Any) -> bool:
    """Tell whether a ROUTER gave this name to a connection: such names begin with a zero, and none is given twice."""
    return type(name) is bytes and len(name) == GIVEN_NAME_BYTES and not name[0]


def open_connections(port: int) -> Iterator[tuple[int, Traffic]]:
    """Yield every connection that this process has accepted at a port, those that never said anything included."""
    for fd in descriptors():
        traffic = traffic_of(fd) if _is_socket(fd) else None
        if traffic is not None and traffic.port == port:
            yield fd, traffic


def descriptors() -> Iterable[int]:
    """Return the open descriptors. To list them takes one; where none is left, all are open that there can be."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  (numbers, not paths)
    except OSError:
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], DESCRIPTORS_MAX))


def _is_socket(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    return False
