"""Looks names up in a few threads, because libzmq, or the node's loop, would stall all connections meanwhile.

Of the hosts that a name stands for the first that answers is taken (dialling.py). The number of threads is fixed,
however many names there are, since any program can tell a node addresses. A name that cannot be found is tried again,
after the others, for as long as it is wanted.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from meshcache.sockets.dialling import CONNECT_S, Host, hosts_of, race

THREADS_MAX: Final = 8
AGAIN_S: Final = 2.0


def find_host(address: str) -> Host:
    """Return a host of a name that answers, else one that may answer later: libzmq goes on trying. Raises OSError."""
    hosts = hosts_of(address)
    if not hosts:
        raise OSError(errno.EADDRNOTAVAIL, "the name stands for no address")
    try:
        return race(hosts, CONNECT_S)
    except OSError:
        return hosts[0]


class Resolver:
    """The look-ups of one node. ``wake`` is called, from a thread, when something was found."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.found: deque[tuple[str, Host]] = deque()
        """Addresses as given and as found, for the node's thread to take."""
        self._wake = wake
        self._wanted: dict[str, float] = {}
        """Addresses not found yet, with the time of the next attempt; inf while a thread is looking it up."""
        self._found_at: dict[str, float] = {}
        """When each address in use was found."""
        self._threads = 0
        self._change = threading.Condition()
        self._closed = False

    def want(self, address: str) -> None:
        """Look up an address, until it is found or forgotten."""
        with self._change:
            if address in self._wanted or self._closed:
                return
            self._wanted[address] = time.monotonic()
            if self._threads < THREADS_MAX:
                self._threads += 1
                threading.Thread(target=self._run, name="meshcache-resolve", daemon=True).start()
            else:
                self._change.notify()

    def want_again(self, address: str) -> bool:
        """Look an address up once more if the last time is a while ago; return True if so."""
        due = time.monotonic() >= self._found_at.get(address, 0.0) + AGAIN_S
        if due:
            self.want(address)
        return due

    def forget(self, address: str) -> None:
        """Do not look an address up any more."""
        with self._change:
            self._wanted.pop(address, None)
            self._found_at.pop(address, None)
            self._change.notify_all()

    def close(self) -> None:
        """End all look-ups. A thread in the middle of one ends after it."""
        with self._change:
            self._closed = True
            self._wanted.clear()
            self._change.notify_all()

    def _run(self) -> None:
        while (address := self._next()) is not None:
            try:
                host = find_host(address)
            except (OSError, ValueError):  # ValueError: a name that cannot even be encoded
                self._try_later(address)
            else:
                self._note_found(address, host)

    def _next(self) -> str | None:
        """Wait for the next address to be tried; None: all others are being looked up, and this thread ends."""
        with self._change:
            while self._wanted:
                address = min(self._wanted, key=self._wanted.__getitem__)
                wait_s = self._wanted[address] - time.monotonic()
                if wait_s == math.inf:
                    break
                if wait_s <= 0:
                    self._wanted[address] = math.inf
                    return address
                self._change.wait(wait_s)
            self._threads -= 1
            return None

    def _try_later(self, address: str) -> None:
        with self._change:
            if address in self._wanted:
                self._wanted[address] = time.monotonic() + AGAIN_S

    def _note_found(self, address: str, host: Host) -> None:
        with self._change:
            wanted = self._wanted.pop(address, None) is not None
            if wanted:
                self._found_at[address] = time.monotonic()
        if wanted:
            self.found.append((address, host))
            self._wake()
