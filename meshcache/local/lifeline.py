"""A child process that never outlives the process that started it.

The kernel tells the child: a pidfd of the parent becomes readable the moment the parent is gone, for whatever reason.
``PR_SET_PDEATHSIG`` alone would not be enough. It is bound to the *thread* that started the child, so that a mesh
started from a thread that ends would die with it, and a child that is stopped (SIGSTOP) does not act on SIGTERM. So
that signal is SIGCONT here: harmless to a running child, and a stopped one wakes up and finds its parent gone.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

STOP_GRACE_S: Final = 10.0
"""How long an orphan may take to stop in good order, before it ends at once."""

_POLL_INTERVAL_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


def watch_parent(parent_pid: int, on_loss: Callable[[], None]) -> None:
    """Call ``on_loss`` from a thread when the parent has ended.

    End this process if it still runs after STOP_GRACE_S.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT))

    def watch() -> None:
        _wait_for_end(parent_pid)
        on_loss()
        threading.Event().wait(STOP_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="meshcache-lifeline", daemon=True).start()


def _wait_for_end(parent_pid: int) -> None:
    try:
        parent = os.pidfd_open(parent_pid)
    except (AttributeError, OSError):
        _poll_for_end(parent_pid)
        return
    try:
        # The id may belong to another process by now, if the parent ended before we looked.
        if os.getppid() == parent_pid:
            select.select([parent], [], [])
    finally:
        os.close(parent)


def _poll_for_end(parent_pid: int) -> None:
    """Wait where there is no pidfd: when the parent ends, its child gets another parent."""
    pause = threading.Event()
    while os.getppid() == parent_pid:
        pause.wait(_POLL_INTERVAL_S)
