"""Renews the fill leases of the blocking client's loaders, in one thread, while any loader takes long.

A loader runs in its caller's thread, which therefore cannot renew the lease. The thread here starts with the first
loader, looks at all loaders twice in every interval, and ends when there was none for a while. A loader that is done
before the thread looks costs it nothing. The thread is a daemon: a program that ends does not wait for it.

There is no lock, which a fork could leave locked for ever: each step on the table is atomic. A loader is entered into
the table before its caller checks whether the thread runs, and the thread notes that it ends before it checks whether
there is a loader. So no loader is overlooked; at worst there are two threads for a while, which does no harm.

An exception from a signal handler leaves nothing behind either: an entry counts only as long as the loader's frame
holds its token.
"""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from meshcache.client.delivery import Compute, Flow
from meshcache.errors import MeshcacheError
from meshcache.sockets.waiting import pause, start_thread

Run = Callable[[Flow[bool]], bool]
"""Carries out a flow."""


class _Token:
    """Held by the frame of a loader: while it exists, the loader runs."""

    __slots__ = ("__weakref__",)


class _Due(NamedTuple):
    """When a loader's lease is to be renewed next, by which step and driver, in which process, and for which token."""

    at: float
    step: Compute
    run: Run
    pid: int
    token: weakref.ref[_Token]


class Renewals:
    """The loaders that run in the threads of this process."""

    def __init__(self) -> None:
        self._due: dict[int, _Due] = {}
        self._numbers = itertools.count(1)
        self._latest = 0
        self._pid = 0
        """The process in which the thread runs; 0: it does not run."""

    @contextmanager
    def during(self, step: Compute, run: Run) -> Iterator[None]:
        """Renew the lease of a loader until this ends."""
        pid = os.getpid()
        self._latest = number = next(self._numbers)
        token = _Token()
        try:
            self._due[number] = _Due(time.monotonic() + step.every_s, step, run, pid, weakref.ref(token))
            if self._pid != pid:
                self._start(pid, step.every_s)
            yield
        finally:
            self._due.pop(number, None)

    def _start(self, pid: int, every_s: float) -> None:
        self._pid = pid
        try:
            start_thread(partial(self._renew, every_s), "meshcache-renew")
        except BaseException:
            self._pid = 0  # the thread may have started nevertheless
            raise

    def _renew(self, every_s: float) -> None:
        pid = os.getpid()
        seen = 0
        while os.getpid() == pid:  # a greenlet is copied by a fork
            pause(every_s / 2)
            if not self._due and seen == self._latest:
                self._pid = 0
                if not self._due:
                    return
                self._pid = pid
            seen = self._latest
            now = time.monotonic()
            for number, due in list(self._due.items()):
                # From before a fork, and so the parent's; or the loader was interrupted.
                if due.pid != pid or due.token() is None:
                    self._due.pop(number, None)
                elif due.at <= now:
                    keep = _renew_one(due.step, due.run)
                    if not keep:
                        self._due.pop(number, None)
                    elif number in self._due:
                        self._due[number] = due._replace(at=now + due.step.every_s)


def _renew_one(step: Compute, run: Run) -> Any:
    try:
        return run(step.renew())
    except (MeshcacheError, RuntimeError):  # the client was closed, for example: the lease ends by itself
        return False
