"""What ends the sleep of a loop."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """Ends the sleep of a loop, from any thread or signal handler."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable while somebody wants the loop to wake."""

    def __call__(self) -> None:
        """Wake the loop; does nothing once it has ended."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """The loop is awake. A loop whose waits are edge-triggered need not say so."""
        with contextlib.suppress(OSError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """The loop has ended."""
        os.close(self.fd)
