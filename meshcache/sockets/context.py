"""ZeroMQ contexts: opened so that this cannot end the process, and ended so that this cannot hang.

When a context's first socket is made, its threads start; each opens an epoll descriptor, and libzmq 4.3.5 calls abort()
if it gets none. Later failures are reported or retried: a socket that cannot be made is an error, and a connection that
cannot be opened or accepted is tried again. (Measured: a context takes 5 descriptors, each socket 1, each connection
1.) So a context is opened here, with its threads, after a check that enough descriptors are left. Another thread may
take some between the check and the use: SPARE is for that. A program that opens more than SPARE at that very moment can
still be ended.
"""

from __future__ import annotations

import sys
import threading
from typing import Final

import zmq

from meshcache.sockets.descriptors import as_os_error, require_descriptors
from meshcache.sockets.waiting import is_cooperative, start_thread, wait_open

Context = zmq.Context[zmq.Socket[bytes]]

CONTEXT_DESCRIPTORS: Final = 6
"""How many descriptors libzmq opens for a context and its first socket."""
LINK_DESCRIPTORS: Final = 2
"""How many descriptors libzmq opens for one more socket and its connection."""
SPARE: Final = 6
"""How many descriptors other threads may take between the check and the use."""
END_S: Final = 2.0
"""How long the end of a context is waited for."""


def open_context(sockets_max: int | None = None) -> Context:
    """Return a context whose threads run: making its sockets can fail, but not end the process.

    ``sockets_max``: the most sockets, if they are more than libzmq's own limit. Raises OSError.
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
    """Close a context's sockets and end it: once, and while no thread uses them.

    Ending waits for sockets to which only the traceback of an exception refers, for example of one from a signal
    handler while they were made. So a thread does it, and goes on alone if that takes long.
    """
    once = threading.Lock()
    ended = threading.Lock()
    ended.acquire()

    def end() -> None:
        if once.acquire(blocking=False):
            try:
                context.destroy(0)
            finally:
                ended.release()

    if is_cooperative() or sys.is_finalizing():  # no other thread would run beside this one, or none at all
        end()
        return
    try:
        start_thread(end, "meshcache-close")
    except RuntimeError:  # no more threads can start, or the interpreter ends
        end()
    else:
        wait_open(ended, wait_s)
