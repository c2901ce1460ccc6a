"""What ends the sleep of a loop."""

from __future__ import annotations

import contextlib
import os
import threading


class Wakeup:
    """Ends the sleep of a loop, from any thread or signal handler."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable while somebody wants the loop to wake; -1 once it has ended."""
        self._lock = threading.RLock()
        """Held to write to the descriptor and to close it: its number may be another's at once, and a socket of ZeroMQ
        that is woken for nothing ends the process. A signal handler may come while its thread holds it."""

    def __call__(self) -> None:
        """Wake the loop; does nothing once it has ended."""
        with self._lock, contextlib.suppress(OSError):
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """The loop is awake. A loop whose waits are edge-triggered need not say so."""
        with contextlib.suppress(OSError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """The loop has ended."""
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)
