"""What a node tells systemd: that it is ready, that it stops, and, while its loop turns, that it lives.

The protocol is one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. A name that begins with
``@`` is in the abstract namespace, which no file system shows.

The watchdog's beat is sent by the thread of the node's loop, in its turns, and by no other. A thread that beat on its
own would go on while the loop is stuck, and systemd would never restart the node. The loop beats at half of the time
that systemd waits.

Nothing here raises: a node whose supervisor is gone serves on. A message that cannot be sent at once is dropped, since
the loop must not wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Self

NAME_BYTES_MAX: Final = 107
"""Of a socket's path: what the kernel takes."""
NO_BEAT: Final = float("inf")


class Notifier:
    """The way to the supervisor; one that leads nowhere if there is none."""

    def __init__(self, path: str = "", watchdog_s: float = 0.0) -> None:
        """``path``: of the supervisor's socket, or empty; ``watchdog_s``: how long it waits for a beat, 0 for ever."""
        self._path = path
        self._socket: socket.socket | None = None
        self._every_s = watchdog_s / 2
        self._beat_at = time.monotonic() if path and watchdog_s > 0 else NO_BEAT

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Self:
        """Return the way to the supervisor that the environment names. Values that make no sense count as not given."""
        path = environ.get("NOTIFY_SOCKET", "")
        if path[:1] not in {"/", "@"} or len(os.fsencode(path)) > NAME_BYTES_MAX:
            return cls()
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        return cls(path, int(usec) / 1e6 if watched and usec.isascii() and usec.isdigit() else 0.0)

    def ready(self) -> None:
        """Tell that the node has joined, and serves."""
        self._send("READY=1\nSTATUS=serves")

    def stopping(self, status: str) -> None:
        """Tell that the node stops, and what it still does."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def beat(self) -> None:
        """Tell that the loop turns, if it is time to; called from the loop's turns."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self._every_s
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._path:
            return
        where = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(text.encode(), where)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
