"""Leases of the sync client's loaders, renewed by one thread while any loader takes long.

A loader runs in its caller's thread, which cannot renew the lease meanwhile. The thread here begins with the first
loader, looks up twice in every interval, and ends when there was none for a while; a loader that is done before the
thread looks up has cost it nothing. It is a daemon: a program that ends does not wait for it.

There is no lock, which a fork could leave closed for ever: each step on the table is atomic. A loader is entered before
its thread looks whether there is this thread, and the thread takes back its sign before it looks whether there is a
loader; so none is overlooked, and at worst there are two threads for a while, which is no matter.

Nor does an exception from a signal handler leave anything: an entry counts only as long as its loader's frame holds its
token.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from meshcache.client.delivery import Compute, Flow
from meshcache.errors import MeshcacheError
from meshcache.sockets.waiting import pause

Run = Callable[[Flow[bool]], bool]
"""Carries out a flow."""


class _Token:
    """Held by the frame of a loader."""

    __slots__ = ("__weakref__",)


class _Due(NamedTuple):
    """When a loader's lease is to be renewed next, how, in which process, and for whom."""

    at: float
    step: Compute
    run: Run
    pid: int
    token: weakref.ref[_Token]


class Renewals:
    """What is being computed in the threads of this process."""

    def __init__(self) -> None:
        self._due: dict[int, _Due] = {}
        self._numbers = itertools.count(1)
        self._latest = 0
        self._pid = 0
        """The process in which the thread runs; 0: it does not."""

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
            threading.Thread(target=self._renew, args=(every_s,), name="meshcache-renew", daemon=True).start()
        except BaseException:
            self._pid = 0  # it may have started all the same
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
                if due.pid != pid or due.token() is None:  # before a fork: it is the parent's; or it was interrupted
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
    except (MeshcacheError, RuntimeError):  # the client was closed, say: the lease ends by itself
        return False
