"""A node's memory and descriptors, watched: who takes more of them than there is for all is cut.

What a node may have is what its store accounts for, and ``EXCESS_BYTES_MAX`` for all else. libzmq bounds neither the
number of parts nor the bytes of a message that is not complete, nor the bytes that wait for a slow peer; so beyond that
the connections are looked at, and those that hold most are cut (connections.py), until it should be enough. If nobody
is to blame and memory exceeds ``RESET_BYTES`` all the same, the ROUTER is closed and bound anew.

Descriptors: a process that has none left can neither accept a connection nor open one, and libzmq turns in circles. The
kernel gives the lowest free number to a new descriptor, so one look at it tells when most are used. Then those
connections go that never said anything, and those that have been silent longest. Of the former there are never too
many: see strangers.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from meshcache.node.connections import BLAME_BYTES_MIN, DESCRIPTORS_MAX, Connections, Peer, open_connections, shut_down
from meshcache.node.strangers import Strangers

CHECK_S: Final = 0.1
CHECK_GROWING_S: Final = 0.01
GROWING_BYTES: Final = 4 << 20
"""More than before by so much: look again soon."""
EXCESS_BYTES_MAX: Final = 64 << 20
EXCESS_BYTES_GOAL: Final = 32 << 20
"""What cutting aims at; above it, free memory is given back to the system."""
HELD_FACTOR: Final = 2
"""What a connection holds takes so much of it at most: as it arrived, and decoded."""
RESET_BYTES: Final = 512 << 20
TRIM_S_MIN: Final = 0.5
TRIM_S_MAX: Final = 30.0
"""How often memory is given back: the less often the less that did."""
SPARE_SHARE: Final = 8
"""One descriptor in so many is to stay free, at most ``SPARE_MAX``."""
SPARE_MAX: Final = 256
IDLE_MS_MIN: Final = 1000
"""Who said or was told something since is not idle."""

LARGE_BLOCK_BYTES: Final = 16 << 20
"""Each is mapped by itself, and given back when it is freed. With 2 MiB a node takes three times as much CPU time for a
SET of 10 MB, nearly all of it for pages that it had a moment before."""
FREE_BYTES_MAX: Final = 16 << 20
"""More at the end of the heap is given back at once."""

STARTED_AT_S: Final = time.time()

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return this process's resident memory; 0 where the system does not say."""
    try:
        fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # a tenth of what Path.read_text takes
    except OSError:
        return 0
    try:
        return int(os.read(fd, 256).split()[1]) * _PAGE_BYTES
    except (OSError, ValueError):
        return 0
    finally:
        os.close(fd)


def process_statistics() -> dict[str, float]:
    """Return what the process takes, all its threads together, and since when it may be a node, as wall seconds."""
    return {
        "resident_bytes": resident_bytes(),
        "cpu_s": round(time.process_time(), 6),
        "started_at_s": round(STARTED_AT_S, 3),
    }


def return_free_memory() -> None:
    """Have glibc give free memory back to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def prepare_process() -> None:
    """Set up a process that is a node and nothing else: descriptors for many connections, and free memory given back.

    By itself glibc keeps more the larger the blocks are that were freed: after some replies of 8 MB, a hundred MB.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(DESCRIPTORS_MAX, hard) if hard != resource.RLIM_INFINITY else DESCRIPTORS_MAX
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, FREE_BYTES_MAX)


def _descriptors_max() -> int:
    """Return how many descriptors may be open before they are short."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = DESCRIPTORS_MAX
    return limit - min(SPARE_MAX, limit // SPARE_SHARE)


class Watch:
    """Looks after the memory and the descriptors of a node's process."""

    def __init__(
        self, sockets: Callable[[], Iterable[Connections]], stored_bytes: Callable[[], int], spare_fd: int
    ) -> None:
        """``spare_fd``: any descriptor that is open, to be duplicated."""
        self._sockets = sockets
        self._stored_bytes = stored_bytes
        self._fd = spare_fd
        self._empty_bytes = resident_bytes()
        self.next_at = 0.0
        """When to look again."""
        self._last_excess = 0
        self._strangers = Strangers(sockets)
        self._trim_at = 0.0
        self._trim_s = TRIM_S_MIN
        self._reset_bytes = RESET_BYTES

    def run(self, now: float) -> int:
        """Look; returns the excess if the sockets had better be closed and bound anew, else 0."""
        self.next_at = now + CHECK_S
        for connections in self._sockets():
            if connections.owing:
                connections.review()
        lowest_free = self._lowest_free()
        if lowest_free is None or lowest_free >= _descriptors_max():
            self._cut_idle()
        elif self._strangers.look(lowest_free):
            self.next_at = now + CHECK_GROWING_S
        excess = self._excess()
        if excess > self._last_excess + GROWING_BYTES:
            self.next_at = now + CHECK_GROWING_S
        self._last_excess = excess
        if excess > EXCESS_BYTES_MAX:
            cut = self._cut_to_blame(excess)
            if not cut and excess > self._reset_bytes:
                return excess
        if excess > EXCESS_BYTES_GOAL and now >= self._trim_at:
            self._trim(now, excess)
        return 0

    def was_reset(self) -> None:
        """What remains is not what connections hold: do not reset again for it."""
        return_free_memory()
        self._reset_bytes = max(RESET_BYTES, self._excess() + RESET_BYTES)

    def _excess(self) -> int:
        return resident_bytes() - self._empty_bytes - int(self._stored_bytes() * 1.15)

    def _trim(self, now: float, excess: int) -> None:
        return_free_memory()
        in_vain = excess - self._excess() < excess // 8
        self._trim_s = min(TRIM_S_MAX, 2 * self._trim_s) if in_vain else TRIM_S_MIN
        self._trim_at = now + self._trim_s

    def _cut_to_blame(self, excess: int) -> int:
        """Cut the connections that hold most, if they are what takes it; returns how many bytes they held."""
        found: list[tuple[int, Connections, int, Peer, Any]] = []
        for connections in self._sockets():
            by_fd = {connection.fd: (name, connection) for name, connection in connections.known.items()}
            for fd, traffic in open_connections(connections.port):
                name, connection = by_fd.get(fd, (None, None))
                held = traffic.received_bytes
                if connection is not None and connection.peer == traffic.peer:
                    held += connection.owed_bytes - connection.taken_bytes
                if held >= BLAME_BYTES_MIN:
                    found.append((held, connections, fd, traffic.peer, name))
        # What else a process needs memory for, a program around its node say, is nobody's fault here.
        theirs = min(excess, HELD_FACTOR * sum(entry[0] for entry in found))
        if theirs <= EXCESS_BYTES_MAX:
            return 0
        cut = 0
        for held, connections, fd, peer, name in sorted(found, key=lambda entry: -entry[0]):
            if cut >= theirs - EXCESS_BYTES_GOAL:
                break
            cut += held
            why, fields = "holds memory that is short", {"held_bytes": held, "excess_bytes": excess}
            if name is not None:
                connections.shut(name, why, **fields)
            elif shut_down(fd, peer):
                connections.note_cut(peer, why, **fields)
        if cut:
            self._trim_at = time.monotonic()
            self._trim_s = TRIM_S_MIN
        return cut

    def _lowest_free(self) -> int | None:
        """Return the lowest descriptor that is free; None if none is."""
        try:
            lowest = os.dup(self._fd)
        except OSError:
            return None
        os.close(lowest)
        return lowest

    def _cut_idle(self) -> None:
        """Cut one connection in four of those that are idle: who never said anything, and who is silent longest."""
        found: list[tuple[bool, int, Connections, int, Peer]] = []
        for connections in self._sockets():
            known = {connection.fd: connection.peer for connection in connections.known.values()}
            for fd, traffic in open_connections(connections.port):
                stranger = known.get(fd) != traffic.peer
                if stranger or traffic.idle_ms >= IDLE_MS_MIN:
                    found.append((stranger, traffic.idle_ms, connections, fd, traffic.peer))
        found.sort(key=lambda entry: entry[:2], reverse=True)
        for stranger, idle_ms, connections, fd, peer in found[: max(1, len(found) // 4)]:
            if shut_down(fd, peer):
                why = (
                    "never said anything, and descriptors are short" if stranger else "idle, and descriptors are short"
                )
                connections.note_cut(peer, why, idle_ms=idle_ms)
