"""Which connections a client of asyncio uses: those of the running event loop, in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from meshcache.client.aio.connections import Mux
from meshcache.client.aio.pending import Gets, Pending
from meshcache.client.arguments import MISSING
from meshcache.client.closing import Closing
from meshcache.client.connection import CALLS_MAX, Attempt, Call, Connection, Outcome
from meshcache.client.delivery import Halt, Hedged, Wait
from meshcache.client.fast_path import SMALL_KEYS
from meshcache.client.flights import Flights
from meshcache.client.routing import Routing
from meshcache.client.session import Session
from meshcache.errors import ClientClosed, UsageError

_inherited: list[Mux] = []
"""Inherited over a fork: sockets and event loop are the parent's, and must be neither used nor collected here."""


class Hub:
    """Finds the connections of the running event loop in this process."""

    def __init__(self, connection: Callable[[str], Connection], routing: Routing) -> None:
        self._connection = connection
        self._routing = routing
        self._mux: Mux | None = None
        self._closing: Closing | None = None
        self._closed = False

    def post(self, call: Call) -> asyncio.Future[Outcome]:
        """Return the future outcome of a call."""
        mux = self._mux
        loop = asyncio.get_running_loop()
        if mux is None or mux.loop is not loop:
            mux = self._bind(loop)
        return mux.post(call)

    async def hedge(self, step: Hedged) -> list[Outcome]:
        """Send a call, and after a while another one for the same; return the outcome that counts."""
        (call,) = step
        under_way = {self.post(call): call}
        outcome: Outcome | None = None
        try:
            timeout_s: float | None = step.after_s
            while under_way and type(outcome) is not list:
                done, _ = await asyncio.wait(under_way, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    timeout_s = None
                    other = step.other(lambda _: True)
                    if other is not None:
                        under_way[self.post(other)] = other
                for future in done:
                    if type(outcome) is not list:
                        step.winner, outcome = under_way[future], future.result()
                    del under_way[future]
        finally:
            for future in under_way:
                future.cancel()
        assert outcome is not None
        return [outcome]

    def ask(self, attempts: list[Attempt]) -> list[Pending] | None:
        """Return what each attempt will come to, values or ``Tried``; None if one can not be sent at once."""
        mux = self._mux
        if mux is None or mux.loop is not asyncio.get_running_loop():
            return None
        return mux.ask(attempts)

    def gets(self, session: Session) -> Callable[[Any], Any]:
        """Return what takes in the key of a single get.

        It returns the value of the key's copy; or what the key will come to, Pending; or MISSING: ask in another way.
        """
        copy_of, attempt = session.copy_of, session.fast.get_of_any()
        if attempt is None:
            return copy_of
        most = CALLS_MAX, SMALL_KEYS
        prefix, running_loop = session.options.prefix, asyncio.get_running_loop
        gets: Callable[[Any], Any] = Gets(
            copy_of, MISSING, session.fast, self._routing, prefix, attempt, self._begin, self._full, most, running_loop
        )
        return gets

    def _begin(self, attempt: Attempt, address: str, started: float) -> Any:
        mux = self._mux
        if mux is None or mux.loop is not asyncio.get_running_loop():
            return None
        return mux.begin(attempt, address, started)

    def _full(self, address: str) -> None:
        if self._mux is not None:
            self._mux.full(address)

    def here(self) -> Mux:
        """Return the connections of the running loop."""
        loop = asyncio.get_running_loop()
        mux = self._mux
        return mux if mux is not None and mux.loop is loop else self._bind(loop)

    @property
    def flights(self) -> Flights | None:
        """The flights of the running loop, if it has any connections."""
        mux = self._mux
        if mux is None or mux.pid != os.getpid() or mux.loop is not asyncio.get_running_loop():
            return None
        return mux.flights

    def close(self) -> None:
        """Close every connection; later calls fail."""
        self._closed = True
        if self._closing is not None:
            self._closing()
        self._mux = None

    def _bind(self, loop: asyncio.AbstractEventLoop) -> Mux:
        if self._closed:
            raise ClientClosed
        old = self._mux
        if old is not None and self._closing is not None:
            if old.pid != os.getpid():
                self._closing.detach()
                _inherited.append(old)
            elif not old.loop.is_closed():
                raise UsageError("this client belongs to another event loop, which is still open: make one for each")
            else:
                self._closing()
        self._mux = mux = Mux(loop, self._connection, self._routing)
        self._closing = Closing(self, mux.close)
        return mux


async def told(step: Wait) -> None:
    """Wait until a caller's seat is told, or the time is over."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    step.seat.wake = lambda: None if woken.done() else woken.set_result(None)
    if not step.seat.told:
        await asyncio.wait({woken}, timeout=step.seconds)


async def halted(step: Halt) -> Any:
    """Cancel a load, unless that is done, and wait for its end, or until the time is over."""
    load = step.flight.load
    if not load.cancelling():
        load.cancel()
    return await asyncio.wait({load}, timeout=step.seconds)
