"""How the sync client waits: for a file descriptor, and for what another thread does.

Greenlets: gevent and eventlet put functions of their own in place of those of ``select`` and ``threading``
("monkey patching"), so that a wait lets other greenlets run. A wait inside libzmq would stop all of them. So every wait
goes through these two modules, looked up at that moment: a client may have been made before the patching. Where only
one of the two is patched, the other's waits are made of short pauses of the patched one.

Exceptions: a signal handler may raise between any two steps of the main thread, and a greenlet's timeout at any wait.
``threading.Condition``, ``Event`` and ``Future`` are written in Python: interrupted at the wrong step they keep their
lock for ever. A bare lock in a ``with`` statement does not, nor do single operations of dicts and deques; nothing else
is used here. What such an exception can take with it is one wake-up, and so who waits looks again now and then.
A signal handler may also use the client itself, so the client's locks are such as their thread may take again (RLock).
"""

from __future__ import annotations

import _thread
import math
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

LOOK_AGAIN_S: Final = 0.25
"""Who waits looks at least this often, in case a wake-up was lost."""
PAUSE_S_MIN: Final = 0.0005
PAUSE_S_MAX: Final = 0.005
"""Pauses where there is no way to be woken; each is twice as long as the one before, up to this."""


def is_cooperative() -> bool:
    """Tell whether a wait must let other greenlets run."""
    return _select_is_patched() or threads_are_greenlets()


def wait_readable(descriptors: Sequence[int], timeout_s: float) -> None:
    """Return when one of these can be read, or the time is over, or sometimes for no reason."""
    if threads_are_greenlets() and not _select_is_patched():
        until, pause_s = time.monotonic() + timeout_s, PAUSE_S_MIN
        while not _poll(descriptors, 0) and time.monotonic() < until:
            pause(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
    elif hasattr(select, "poll"):
        _poll(descriptors, max(1, math.ceil(timeout_s * 1000)))
    else:  # eventlet takes the others away
        select.select(descriptors, [], [], timeout_s)


def wait_writable(descriptors: Sequence[int], timeout_s: float) -> list[int]:
    """Return those that can be written, or failed to connect, as soon as there are some; none if the time is over."""
    if threads_are_greenlets() and not _select_is_patched():
        until, pause_s = time.monotonic() + timeout_s, PAUSE_S_MIN
        while not (found := _polled(descriptors, 0)) and time.monotonic() < until:
            pause(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        return found
    if hasattr(select, "poll"):
        return _polled(descriptors, max(1, math.ceil(timeout_s * 1000)))
    return list(select.select([], descriptors, [], timeout_s)[1])


def pause(timeout_s: float) -> None:
    """Wait for so long."""
    if not is_cooperative():
        time.sleep(timeout_s)
        return
    lock = threading.Lock()
    lock.acquire()
    wait_open(lock, timeout_s)


def wait_open(lock: threading.Lock, timeout_s: float) -> None:
    """Take a lock as soon as whoever wakes us opens it; not at all if the time is over before."""
    if threads_are_greenlets() or not _select_is_patched():
        lock.acquire(timeout=timeout_s)
        return
    # It would stop this thread, and so the very greenlet that is to open it.
    until, pause_s = time.monotonic() + timeout_s, PAUSE_S_MIN
    while not lock.acquire(blocking=False) and time.monotonic() < until:
        select.select([], [], [], pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


class Waiters:
    """Threads that wait for something, woken in the order in which they came."""

    def __init__(self) -> None:
        self._closed: OrderedDict[threading.Lock, None] = OrderedDict()
        """A lock of each waiting thread; it is opened to wake it."""

    def __bool__(self) -> bool:
        """Somebody waits."""
        return bool(self._closed)

    def wait(self, look: Callable[[], T], deadline: float) -> T:
        """Return what ``look`` finds, as soon as that is something true, or when the deadline is over.

        Who comes while others wait looks after them.
        """
        found = None if self._closed else look()
        has_waited = False
        while not found:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            lock = threading.Lock()
            lock.acquire()
            try:
                self._closed[lock] = None
                if has_waited:
                    self._closed.move_to_end(lock, last=False)
                # Whoever changed something before this line did not see that we wait.
                if has_waited or len(self._closed) == 1:
                    found = look()
                if not found:
                    wait_open(lock, min(left_s, LOOK_AGAIN_S))
                    found = look()
            finally:
                self._closed.pop(lock, None)
            has_waited = True
        return look() if found is None else found

    def wake(self) -> None:
        """Have who has waited longest look again."""
        try:
            lock, _ = self._closed.popitem(last=False)
        except KeyError:
            return
        lock.release()

    def wake_all(self) -> None:
        """Have everybody look again."""
        for _ in range(len(self._closed)):
            self.wake()


def _select_is_patched() -> bool:
    return select.select.__module__ != "select"


def threads_are_greenlets() -> bool:
    """Tell whether what a program takes for threads are greenlets, all in one thread."""
    return _thread.start_new_thread.__module__ != "_thread"


def _poll(descriptors: Sequence[int], timeout_ms: int) -> bool:
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_ms))


def _polled(descriptors: Sequence[int], timeout_ms: int) -> list[int]:
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLOUT)
    return [descriptor for descriptor, _ in poller.poll(timeout_ms)]
