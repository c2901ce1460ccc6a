"""ZeroMQ contexts: made where that can not end the process, and ended where that can not hang.

When a context's first socket is made, its threads start; each opens an epoll descriptor, and libzmq 4.3.5 calls abort()
if it gets none. Later failures are reported or retried: a socket that can not be made is an error, a connection that
can not be opened or accepted is tried again. (Measured: a context takes 5, each socket 1, each connection 1.)
So a context is made here, with its threads, after a look whether enough descriptors are left. Between the look and the
use another thread may take some: SPARE is for that. A program that opens more than these at that very moment can still
be ended.
"""

from __future__ import annotations

import sys
import threading
from typing import Final

import zmq

from meshcache.sockets.descriptors import as_os_error, require_descriptors
from meshcache.sockets.waiting import is_cooperative

Context = zmq.Context[zmq.Socket[bytes]]

CONTEXT_DESCRIPTORS: Final = 6
"""What libzmq opens for a context and its first socket."""
LINK_DESCRIPTORS: Final = 2
"""What it opens for one more socket and its connection."""
SPARE: Final = 6
"""What other threads may take between the look and the use."""
END_S: Final = 2.0
"""How long the end of a context is waited for."""


def open_context(sockets_max: int | None = None) -> Context:
    """Return a context whose threads run: making sockets of it can fail, but not end the process.

    ``sockets_max``: more than libzmq's own limit, if more are needed. Raises OSError.
    """
    require_descriptors(CONTEXT_DESCRIPTORS + SPARE)
    try:
        context: Context = zmq.Context()
    except zmq.ZMQError as error:
        raise as_os_error(error) from None
    try:
        context.linger = 0
        if sockets_max is not None:
            context.max_sockets = sockets_max
        context.socket(zmq.DEALER).close(0)
    except BaseException as error:
        end_context(context, wait_s=0.0)
        if isinstance(error, zmq.ZMQError):
            raise as_os_error(error) from None
        raise
    return context


def end_context(context: Context, wait_s: float = END_S) -> None:
    """Close a context's sockets and end it: once, and with nobody in them.

    That waits for sockets of which only the traceback of an exception knows: one from a signal handler as they were
    made. So a thread of its own does it, and is left to it if it takes long.
    """
    once = threading.Lock()

    def end() -> None:
        if once.acquire(blocking=False):
            context.destroy(0)

    if is_cooperative() or sys.is_finalizing():  # another thread would be none, or never run
        end()
        return
    thread = threading.Thread(target=end, name="meshcache-close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter ends
        end()
    else:
        thread.join(wait_s)
