"""What tasks wait for on the fast path: one call takes a key in, and one call tells all who wait for a message.

Where many tasks each get one key after another, most of a call was not the cache's work but asyncio's: a future costs
a callback and a handle of the loop for each task. So a ``Pending`` is a future that does less. All that wait for one
message are told and woken together, in one callback of the loop: it enters each task's context and has it make its
step, in the order in which they asked, as the loop would have done one by one. Nothing else may be under way then, for
a task that goes on may do anything.

A ``Gathering`` is what an open message and those who fill it share: ``Gets`` adds a single key to it without a look at
the message. Anything unusual is for the message's own side: to open one, and to close it (connections.py).

The classes here are what those in C have to do (_native/pending.c), which serve where they could be built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import Any, Final

from meshcache._native import absent_because, compiled
from meshcache.client.connection import Attempt
from meshcache.client.frames import frames
from meshcache.client.routing import Routing

ADDRESSES_MAX: Final = 1024
"""For so many addresses, at most, the latest gathering is kept: nodes come and go."""
_WAITING: Final = object()
_CANCELLED: Final = object()


class PurePending:
    """What one attempt will come to: to a task it is a future, which only one can wait for."""

    __slots__ = ("_answer", "_asyncio_future_blocking", "_loop", "_message", "_waiter", "attempt", "key", "started")

    def __init__(self, loop: asyncio.AbstractEventLoop, attempt: Attempt, key: Any, started: float) -> None:
        """``key``: the one that is asked for, if the attempt is one of many that differ by their keys; else None."""
        self.attempt, self.key, self.started = attempt, key, started
        self._asyncio_future_blocking = False
        self._loop = loop
        self._answer: Any = _WAITING
        self._message: Any = None
        self._waiter: tuple[Callable[[Any], object], Context] | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that it belongs to."""
        return self._loop

    def done(self) -> bool:
        """Tell whether there is an answer, or nobody waits for one any more."""
        return self._answer is not _WAITING

    def result(self) -> Any:
        """Return the answer."""
        if self._answer is _CANCELLED:
            raise asyncio.CancelledError if self._message is None else asyncio.CancelledError(self._message)
        if self._answer is _WAITING:
            raise asyncio.InvalidStateError("there is no answer yet")
        return self._answer

    def cancel(self, msg: Any = None) -> bool:
        """Wait no more; return False if it is too late for that."""
        if self.done():
            return False
        self._answer, self._message = _CANCELLED, msg
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._loop.call_soon(waiter[0], self, context=waiter[1])
        return True

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Call back when there is an answer."""
        context = context or copy_context()
        if self.done():
            self._loop.call_soon(callback, self, context=context)
        elif self._waiter is None:
            self._waiter = callback, context
        else:
            raise RuntimeError("somebody waits for it already")

    def __await__(self) -> Generator[Any, None, Any]:
        while not self.done():
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def _tell(self, answer: Any) -> None:
        if not self.done():
            self._answer = answer

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter[1].run(waiter[0], self)


class PureGathering:
    """The keys of a message that is being filled, and who waits for what they come to."""

    __slots__ = ("is_open", "keys", "loop", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_open = True
        """Whether more can be added."""
        self.keys: list[Any] = []
        self.waiting: list[Any] = []

    def tell(self, answers: list[Any]) -> list[Any]:
        """Give each who waits its answer, except where that was cancelled; return them all, for ``wake``.

        It is done with them then: what they hold may be large, and the gathering is kept until the next one begins.
        """
        waiting, self.waiting, self.keys = self.waiting, [], []
        for pending, answer in zip(waiting, answers, strict=True):
            pending._tell(answer)  # noqa: SLF001  (of this module)
        return waiting


def pure_wake(waiting: list[Any]) -> None:
    """Have those go on who wait. If one of them ends the program, this can be called again for the others."""
    for pending in waiting:
        pending._wake()  # noqa: SLF001  (of this module)


class PureGets:
    """Takes single keys in, to be asked for under one set of options."""

    def __init__(
        self,
        copy_of: Callable[[Any], Any],
        missing: object,
        fast: Any,
        routing: Routing,
        prefix: bytes,
        attempt: Attempt,
        begin: Callable[[Attempt, str, float], Any],
        full: Callable[[str], object],
        most: tuple[int, int],
        running_loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        """``copy_of`` returns the value of a key of which there is a copy, else ``missing``.

        ``attempt``: any of them, without its key, address and times; ``fast``: says whether the fast path is open.

        ``begin`` is given it, an address and a time, and returns the gathering to join there; None if there can be
        none. ``full`` is given the address of a gathering that has the most callers: ``most`` is so many, and so many
        keys.
        """
        self._copy_of, self._missing = copy_of, missing
        self._fast, self._routing, self._prefix, self._attempt = fast, routing, prefix, attempt
        self._begin, self._full = begin, full
        self._callers_max, self._keys_max = most
        self._running_loop = running_loop
        self._open: dict[str, Any] = {}

    def __call__(self, key: Any) -> Any:
        """Return the value of a key's copy, or what the key will come to, or ``missing``: ask in another way."""
        value = self._copy_of(key)
        return self._ask_for(key) if value is self._missing else value

    def _ask_for(self, key: Any) -> Any:
        routing = self._routing
        started = routing.clock()
        if not self._fast.is_open or started >= routing.due:
            return self._missing
        address = frames.owner_of(self._prefix, key, routing.first, routing.hot)
        if address is None:
            return self._missing
        loop = self._running_loop()
        gathering = self._open.get(address)
        if gathering is None or not self._can_be_joined(gathering, loop):
            gathering = self._begin(self._attempt, address, started)
            if gathering is None:
                return self._missing
            if len(self._open) >= ADDRESSES_MAX:
                self._open.clear()
            self._open[address] = gathering
        pending = PurePending(loop, self._attempt, key, started)
        gathering.keys.append(key)
        gathering.waiting.append(pending)
        if len(gathering.waiting) == self._callers_max:
            self._full(address)
        return pending

    def _can_be_joined(self, gathering: Any, loop: asyncio.AbstractEventLoop) -> bool:
        return (
            gathering.is_open
            and gathering.loop is loop
            and len(gathering.waiting) < self._callers_max
            and len(gathering.keys) < self._keys_max
        )


_native: Final = not absent_because
Pending: Final[Any] = compiled.Pending if _native else PurePending
Gathering: Final[Any] = compiled.Gathering if _native else PureGathering
Gets: Final[Any] = compiled.Gets if _native else PureGets
wake: Final[Callable[[list[Any]], None]] = compiled.wake if _native else pure_wake
"""What serves: what is above, or its twins in C."""
