"""Leases of the sync client's loaders, renewed by one thread while any loader takes long.

A loader runs in its caller's thread, which cannot renew the lease meanwhile. The thread here begins with the first
loader, looks up twice in every interval, and ends when there was none for a while; a loader that is done before the
thread looks up has cost it nothing. It is a daemon: a program that ends does not wait for it.

There is no lock, which a fork could leave closed for ever: each step on the table is atomic. A loader is entered before
its thread looks whether there is this thread, and the thread takes back its sign before it looks whether there is a
loader; so none is overlooked, and at worst there are two threads for a while, which is no matter.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from meshcache.delivery import Compute, Flow
from meshcache.errors import MeshcacheError

Run = Callable[[Flow[bool]], bool]
"""Carries out a flow."""


class Renewals:
    """What is being computed in the threads of this process."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, Compute, Run, int]] = {}
        """By number, when each is to be renewed next, how, and in which process."""
        self._numbers = itertools.count(1)
        self._latest = 0
        self._pid = 0
        """The process in which the thread runs; 0: it does not."""

    @contextmanager
    def during(self, step: Compute, run: Run) -> Iterator[None]:
        """Renew the lease of a loader until this ends."""
        pid = os.getpid()
        self._latest = number = next(self._numbers)
        self._due[number] = (time.monotonic() + step.every_s, step, run, pid)
        if self._pid != pid:
            self._pid = pid
            threading.Thread(target=self._renew, args=(step.every_s,), name="meshcache-renew", daemon=True).start()
        try:
            yield
        finally:
            self._due.pop(number, None)

    def _renew(self, every_s: float) -> None:
        pid = os.getpid()
        seen = 0
        while True:
            time.sleep(every_s / 2)
            if not self._due and seen == self._latest:
                self._pid = 0
                if not self._due:
                    return
                self._pid = pid
            seen = self._latest
            now = time.monotonic()
            for number, (at, step, run, born) in list(self._due.items()):
                if born != pid:
                    self._due.pop(number, None)  # before a fork: it is the parent's
                elif at <= now:
                    keep = _renew_one(step, run)
                    if not keep:
                        self._due.pop(number, None)
                    elif number in self._due:
                        self._due[number] = (now + step.every_s, step, run, born)


def _renew_one(step: Compute, run: Run) -> Any:
    try:
        return run(step.renew())
    except (MeshcacheError, RuntimeError):  # the client was closed, say: the lease ends by itself
        return False
