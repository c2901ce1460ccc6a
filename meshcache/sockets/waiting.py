"""How the blocking client waits: for a file descriptor, and for another thread.

Greenlets: gevent and eventlet put functions of their own in place of those of ``select`` and ``threading``
("monkey patching"), so that a wait lets other greenlets run. A wait inside libzmq would stop all of them. So every wait
goes through these two modules, looked up at that moment: a client may have been made before the patching. Where only
one of the two is patched, the other's waits are made of short pauses of the patched one.

Exceptions: a signal handler may raise between any two steps of the main thread, and a greenlet's timeout at any wait.
``threading.Condition``, ``Event`` and ``Future`` are written in Python: interrupted at the wrong step they keep their
lock for ever, or raise an error of their own. A bare lock in a ``with`` statement does not, nor do single operations of
dicts and deques; nothing else is used here. ``Thread.start`` waits for an Event, and so threads start by way of
another. Such an exception can lose one wake-up, and so a thread that waits looks again from time to time. A signal
handler may also use the client itself, so the client's locks can be taken twice by one thread (RLock).
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
"""A thread that waits looks again at least this often, in case a wake-up was lost."""
PAUSE_S_MIN: Final = 0.0005
PAUSE_S_MAX: Final = 0.005
"""The longest pause where a wait cannot be ended; each pause is twice as long as the one before."""


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
    else:  # eventlet removes the others
        select.select(descriptors, [], [], timeout_s)


def wait_writable(descriptors: Sequence[int], timeout_s: float) -> list[int]:
    """Return those that can be written, or failed to connect, as soon as there are any; none if the time is over."""
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
    """Wait for this time."""
    if not is_cooperative():
        time.sleep(timeout_s)
        return
    lock = threading.Lock()
    lock.acquire()
    wait_open(lock, timeout_s)


def wait_open(lock: threading.Lock, timeout_s: float) -> None:
    """Take a lock as soon as another thread opens it to wake this one; give up when the time is over."""
    if threads_are_greenlets() or not _select_is_patched():
        lock.acquire(timeout=timeout_s)
        return
    # That would stop this thread, and so the very greenlet that is to open the lock.
    until, pause_s = time.monotonic() + timeout_s, PAUSE_S_MIN
    while not lock.acquire(blocking=False) and time.monotonic() < until:
        select.select([], [], [], pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Run this in a daemon thread of this name, and return it; it may begin a little later.

    ``Thread.start``, interrupted, may end the new thread with a KeyError, or this one with a RuntimeError, since it
    changes tables of the interpreter in Python. So another thread calls it, in which no signal handler runs.

    Raises RuntimeError if no more threads can start.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    _thread.start_new_thread(_start, (thread, target))
    return thread


def _start(thread: threading.Thread, target: Callable[[], object]) -> None:
    try:
        thread.start()
    except RuntimeError:  # no thread is left but this one
        target()


class Waiters:
    """Threads that wait for something, woken in the order in which they came."""

    def __init__(self) -> None:
        self.queue: OrderedDict[threading.Lock, None] = OrderedDict()
        """One closed lock of each waiting thread; opening it wakes the thread. Others may look whether there is any."""

    def wait(self, look: Callable[[], T], deadline: float) -> T:
        """Return what ``look`` finds, as soon as that is true, or when the deadline is over.

        A thread that comes while others wait looks after they have looked.
        """
        found = None if self.queue else look()
        has_waited = False
        while not found:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            lock = threading.Lock()
            lock.acquire()
            try:
                self.queue[lock] = None
                if has_waited:
                    self.queue.move_to_end(lock, last=False)
                # A thread that changed something before this line did not see that this one waits.
                if has_waited or len(self.queue) == 1:
                    found = look()
                if not found:
                    wait_open(lock, min(left_s, LOOK_AGAIN_S))
                    found = look()
            finally:
                self.queue.pop(lock, None)
            has_waited = True
        return look() if found is None else found

    def wake(self) -> None:
        """Let the thread that has waited longest look again."""
        try:
            lock, _ = self.queue.popitem(last=False)
        except KeyError:
            return
        lock.release()

    def wake_all(self) -> None:
        """Let all threads look again."""
        for _ in range(len(self.queue)):
            self.wake()


def _select_is_patched() -> bool:
    return select.select.__module__ != "select"


def threads_are_greenlets() -> bool:
    """Tell whether the threads of this program are greenlets, all in one thread."""
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
