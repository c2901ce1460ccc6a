"""One connection of the door: its bytes on the way in and out, and until when it may take for them.

Nothing is read from a client that does not read its answers, or that is ahead of them by ``AHEAD_BYTES_MAX``: what it
sends then waits in the kernel, and in the end with the client.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from meshcache.node.memcached.session import Session
from meshcache.protocol.memcached.commands import NO_MEMORY, Command, Quit, Say
from meshcache.protocol.memcached.grammar import Parsed, is_binary, parse, parse_authentication

READ_BYTES: Final = 1 << 15
"""What is read at once of those who pipeline …"""
READ_BYTES_MAX: Final = 1 << 20
"""… and of a value, whose length is known."""
AHEAD_BYTES_MAX: Final = 1 << 16
SLOWEST_BYTES_PER_S: Final = 1 << 18
"""A value that comes more slowly has more than its time."""
COUNTED_BYTES_MIN: Final = 1 << 16
"""A value of less than this is not counted as being under way."""


class Bounds:
    """What all connections together may have under way."""

    def __init__(self, value_bytes_max: int, in_flight_bytes_max: int, stall_s: float) -> None:
        self.value_bytes_max = value_bytes_max
        self.in_flight_bytes_max = in_flight_bytes_max
        self.stall_s = stall_s
        self.in_flight_bytes = 0
        """Bytes of values that are on their way in."""


class Connection:
    """A client's connection."""

    __slots__ = (
        "_began", "_bounds", "_buffer", "_chunks", "_counted", "_have", "_needed", "_parse_next", "_peer_ended",
        "_socket", "_swallow", "_unsent", "deadline", "fd", "interest", "is_shaking_hands", "peer", "session",
    )  # fmt: skip

    def __init__(self, connected: socket.socket, peer: str, session: Session, bounds: Bounds) -> None:
        self._socket = connected
        self._bounds = bounds
        self.fd = connected.fileno()
        self.peer = peer
        self.session = session
        self.is_shaking_hands = isinstance(connected, ssl.SSLSocket)
        self.deadline = 0.0
        """By when it must have sent or read more; 0: it owes nothing."""
        self.interest = 0
        """What the door waits for, of this connection."""
        self._began = False
        self._buffer = b""
        """What has come and is not read as commands yet."""
        self._chunks: list[bytes] = []
        """What has come since, of a command that needs more: to be joined once."""
        self._have = 0
        """Bytes in both."""
        self._needed = 0
        """From how many bytes on it is worth while to look at them."""
        self._parse_next = False
        """The buffer may have commands that were not looked at."""
        self._counted = 0
        """Bytes of the value under way that are counted."""
        self._swallow = 0
        """Bytes that are to be thrown away when they come."""
        self._unsent = b""
        self._peer_ended = False

    def close(self) -> None:
        """Close the socket."""
        self._bounds.in_flight_bytes -= self._counted
        self._counted = 0
        self._socket.close()

    @property
    def wants_to_read(self) -> bool:
        """Whether more of it may come."""
        if self._unsent or self._peer_ended:
            return False
        # What is not complete needs more, and the grammar bounds it; commands that are can wait for those before them.
        return self._have < AHEAD_BYTES_MAX or (self.session.is_free and not self._parse_next)

    @property
    def wants_to_write(self) -> bool:
        """Whether it has something to tell that does not fit into the kernel."""
        return bool(self._unsent)

    @property
    def is_done(self) -> bool:
        """Whether it is to be closed now."""
        session = self.session
        if self._unsent or session.waits:
            return False
        return session.ends is not None or (self._peer_ended and not session.queue and not self._parse_next)

    @property
    def is_idle(self) -> bool:
        """Whether it owes nothing and is owed nothing."""
        session = self.session
        return session.is_free and not (self._have or self._unsent or self._swallow or self.is_shaking_hands)

    def shake_hands(self) -> bool:
        """Go on with the handshake of TLS; tell whether it is over. Raises OSError if it failed."""
        assert isinstance(self._socket, ssl.SSLSocket), "only those have one"
        try:
            self._socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self.is_shaking_hands = False
        return True

    def read(self) -> int:
        """Take what has come; return how many bytes. Raises OSError if the connection is lost."""
        size = min(max(READ_BYTES, self._needed - self._have), READ_BYTES_MAX)
        try:
            data = self._socket.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        if not data:
            self._peer_ended = True
            return 0
        size = len(data)
        if self._swallow:
            data, self._swallow = data[self._swallow :], max(0, self._swallow - size)
            if not data:
                return size
        if not self._have:
            if self._began and self.session.answer_at_once(data):
                return size
            self._buffer = data
            self._have = len(data)
        else:
            self._chunks.append(data)
            self._have += len(data)
        self._parse_next = self._have >= self._needed
        return size

    @property
    def has_more(self) -> bool:
        """Whether the socket has decrypted more than it was asked for, which no kernel tells of."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def advance(self) -> None:
        """Run the commands that are there, as far as they go."""
        session = self.session
        if not session.is_free:
            session.run()
        if self._parse_next and not self._unsent and session.is_free:
            session.queue.extend(self._commands())
            session.run()

    @property
    def can_go_on(self) -> bool:
        """Whether there is more that can be done at once."""
        session = self.session
        if self._unsent or session.waits or session.ends is not None:
            return False
        return self._parse_next or not session.is_free or (self.wants_to_read and self.has_more)

    def _commands(self) -> list[Command]:
        data = self._buffer
        if self._chunks:
            data = b"".join([data, *self._chunks])
            self._chunks = []
        if not self._began:
            self._began = True
            if is_binary(data):
                return [Quit("binary_protocol")]
        parsed = parse(data, self._bounds.value_bytes_max) if self.session.is_trusted else parse_authentication(data)
        commands, used, needed = parsed
        left = len(data) - used
        self._parse_next = bool(commands) and left > 0 and not needed
        if left <= 0:
            self._buffer, self._swallow, self._have = b"", -left, 0
        else:
            self._buffer = data[used:] if used else data
            self._have = left
        self._needed = needed
        if commands:
            self.deadline = 0.0
        if needed > COUNTED_BYTES_MIN or self._counted:
            self._count(parsed, commands)
        return commands

    def _count(self, parsed: Parsed, commands: list[Command]) -> None:
        """Count the bytes of the value under way; where all have too many, throw it away when it comes."""
        bounds = self._bounds
        bounds.in_flight_bytes -= self._counted
        self._counted = parsed.needed if parsed.needed > COUNTED_BYTES_MIN else 0
        bounds.in_flight_bytes += self._counted
        if bounds.in_flight_bytes > bounds.in_flight_bytes_max:
            bounds.in_flight_bytes -= self._counted
            self._counted = 0
            self._swallow = parsed.needed - self._have
            is_quiet = self._buffer.partition(b"\n")[0].rstrip().endswith(b" noreply")
            self._buffer, self._have, self._needed = b"", 0, 0
            commands.append(Say(b"" if is_quiet else NO_MEMORY))

    def take_time(self, now: float, *, moved: bool) -> None:
        """Note by when it must have gone on. ``moved``: something has come or gone just now."""
        if self.is_idle:
            self.deadline = 0.0
        elif not self.deadline or (moved and self._unsent):
            value_s = max(self._needed, self._swallow) / SLOWEST_BYTES_PER_S
            self.deadline = now + self._bounds.stall_s + value_s

    def write(self) -> int:
        """Send what is to be told, as far as the kernel takes it; return how many bytes. Raises OSError."""
        session = self.session
        if session.out:
            told = session.out[0] if len(session.out) == 1 else b"".join(session.out)
            session.out.clear()
            if self._unsent:
                told = self._unsent + told
        else:
            told = self._unsent
        if not told:
            return 0
        try:
            sent = self._socket.send(told)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        self._unsent = told[sent:]
        session.unsent = len(self._unsent)
        return sent
