"""The asyncio driver's I/O: plain ZeroMQ sockets in the caller's event loop, and one message per node and turn.

Calls posted in one turn of the loop wait for its end; then those of one node that agree in kind and options leave as
one message. A task costs no timer and no system call of its own: one timer of 20 ms, that runs only while something is
under way, looks after deadlines and broken links.

A ZeroMQ socket announces by its file descriptor that its state may have changed, once. So after every wake-up and every
send its state is read again, and the timer reads it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import zmq

from meshcache.closing import Closing
from meshcache.core.messages import Welcome
from meshcache.core.wire import Frame
from meshcache.dealer import open_dealer, receiver, state_of
from meshcache.dialling import CONNECT_S, Host, dial, failure_of, numeric, probe_of, shun
from meshcache.errors import ClientClosed, ProtocolError, UsageError
from meshcache.failure import LINK_DOWN, LINK_LOST, NO_GREETING, NO_REPLY, NOT_GREETED, Failure, not_connected
from meshcache.flights import Flights
from meshcache.link import GREETING, Batch, Call, Link, Outcome
from meshcache.routing import Routing

TICK_S: Final = 0.02
FRAMES_PER_TURN: Final = 256


async def reached(address: str) -> Host:
    """Return a host that accepts connections at an address, or raise OSError: ``dialling.reach``, awaited.

    A look-up that hangs is in nobody's way: not in a thread that the loop would wait for in the end.
    """
    loop = asyncio.get_running_loop()
    host = numeric(address)
    if host is not None:
        with probe_of(host) as probe:
            await loop.sock_connect(probe, host)
            failure = failure_of(probe)
            if failure is not None:
                raise failure
        return host
    done = asyncio.Event()

    def tell(_: Future[Host]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(done.set)

    found = dial(address)
    found.add_done_callback(tell)
    await done.wait()
    return found.result()


class _Cargo:
    """A message in the making or under way, and who waits for its parts."""

    __slots__ = ("batch", "futures")

    def __init__(self, batch: Batch, future: asyncio.Future[Outcome]) -> None:
        self.batch = batch
        self.futures = [future]

    def deliver(self, outcome: Outcome) -> None:
        """Give each caller its part; one that was cancelled wants none."""
        for future, part in zip(self.futures, self.batch.split(outcome), strict=True):
            if not future.done():
                future.set_result(part)


class _Wire:
    """The link to one node with its socket, or on the way to one."""

    def __init__(self, mux: _Mux, address: str) -> None:
        self.address = address
        self.open: dict[tuple[Any, ...], _Cargo] = {}
        """What calls of this turn can still join."""
        self.queued: list[_Cargo] = []
        self.flying: dict[int, _Cargo] = {}
        self._mux = mux
        self._link = mux.link(address)
        self._socket: zmq.Socket[bytes] | None = None
        self._fd = -1
        self._host: Host | None = None
        self._connected = False
        self._asked_hello = False
        self._opening: asyncio.Task[None] | None = None

    def flush(self) -> None:
        """Send what is queued; open and greet first where that is due."""
        self.open.clear()
        socket = self._socket
        if socket is None:
            if self._opening is None:
                self._opening = self._mux.loop.create_task(self._open())
            return
        try:
            while self.queued and self._link.ready:
                number, frame = self._link.encode(self.queued[0].batch)
                socket.send(frame, zmq.NOBLOCK)
                self.flying[number] = self.queued.pop(0)
        except zmq.ZMQError:
            # Gone since the last use. Perhaps the node is back already: begin anew, nothing of this was sent.
            self._disconnect(LINK_LOST)
            self.flush()
            return
        self.on_event()

    def on_event(self) -> None:
        """Read the socket's state, and do what it allows."""
        socket = self._socket
        budget = FRAMES_PER_TURN
        try:
            while socket is not None:
                events = state_of(socket)
                if events & zmq.POLLIN:
                    if not budget:
                        self._mux.loop.call_soon(self.on_event)
                        return
                    budget -= 1
                    self._arrived(self._recv(zmq.NOBLOCK))
                elif not events & zmq.POLLOUT:
                    if self._asked_hello and not self._link.ready:
                        self._fail(NOT_GREETED)
                    elif self._connected:
                        self._disconnect(LINK_LOST)
                        self._requeue()
                    return
                elif self._link.ready or self._asked_hello or not self.queued:
                    self._connected = True
                    return
                else:
                    self._connected = self._asked_hello = True
                    socket.send(self._link.hello(), zmq.NOBLOCK)
                socket = self._socket
        except ProtocolError as error:
            self._fail(Failure(sent=True, late=False, why=f"broke the protocol: {error}"))
        except zmq.ZMQError:
            self._disconnect(LINK_LOST)
            self._requeue()

    def expire(self, now: float) -> bool:
        """Fail what is too late; True if anything is still under way."""
        if self._socket is not None:
            self.on_event()
        for number, cargo in list(self.flying.items()):
            if cargo.batch.deadline <= now:
                del self.flying[number]
                self._link.forget(number)
                cargo.deliver(NO_REPLY)
        late = [cargo for cargo in self.queued if cargo.batch.deadline <= now]
        if late:
            self.queued = [cargo for cargo in self.queued if cargo.batch.deadline > now]
            self.open.clear()
            if self._asked_hello:
                self._disconnect(LINK_LOST)
                self._requeue()
            for cargo in late:
                cargo.deliver(NO_GREETING)
        return bool(self.flying or self.queued)

    def close(self) -> None:
        """Close the link; whoever waits learns that it is gone."""
        if self._opening is not None and not self._mux.loop.is_closed():
            self._opening.cancel()
        self._disconnect(LINK_LOST)
        if not self._mux.loop.is_closed():
            for cargo in self.queued:
                cargo.deliver(LINK_LOST)
        self.queued = []

    def _arrived(self, frame: Frame) -> None:
        for number, outcome in self._link.accept(frame):
            if number != GREETING:
                cargo = self.flying.pop(number, None)
                if cargo is not None and not isinstance(outcome, Welcome):
                    cargo.deliver(outcome)
            elif isinstance(outcome, Failure):
                self._fail(outcome)
                return
            else:
                self._asked_hello = False
                self._mux.schedule(self)

    async def _open(self) -> None:
        """Connect. libzmq would not tell that nobody listens, so the kernel is asked first."""
        loop = self._mux.loop
        try:
            async with asyncio.timeout(CONNECT_S):
                self._host = await reached(self.address)
            self._socket = open_dealer(self._mux.context, *self._host)
        except OSError as error:
            self._fail(not_connected(error))
            return
        except zmq.ZMQError:  # closed meanwhile
            self._fail(LINK_DOWN)
            return
        finally:
            self._opening = None
        self._recv = receiver(self._socket)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self.on_event)
        self.on_event()

    def _requeue(self) -> None:
        """Go on with what was not sent, over a new connection."""
        if self.queued:
            self._mux.schedule(self)

    def _fail(self, failure: Failure) -> None:
        """Close, and tell everybody why."""
        queued, self.queued = self.queued, []
        self.open.clear()
        self._disconnect(failure)
        for cargo in queued:
            cargo.deliver(failure._replace(sent=False))

    def _disconnect(self, failure: Failure) -> None:
        """Drop the socket and what was under way on it; the next use opens a new one."""
        socket, self._socket = self._socket, None
        if socket is not None and not self._link.ready and self._host is not None:
            shun(self._host)
        loop_is_open = not self._mux.loop.is_closed()
        if socket is not None:
            if self._fd >= 0 and loop_is_open:
                self._mux.loop.remove_reader(self._fd)
            self._fd = -1
            socket.close(0)
        self._link = self._mux.link(self.address)
        self._connected = self._asked_hello = False
        flying, self.flying = self.flying, {}
        for cargo in flying.values() if loop_is_open else ():
            cargo.deliver(failure)


class _Mux:
    """All links in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: Callable[[str], Link], routing: Routing) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.link = link
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.flights = Flights(contextlib.nullcontext())
        self._routing = routing
        self._wires: dict[str, _Wire] = {}
        self._touched: dict[_Wire, None] = {}
        self._ticking = False
        self._closed = False

    def post(self, call: Call) -> asyncio.Future[Outcome]:
        """Return the outcome to come of a call, which leaves at the end of this turn."""
        wire = self._wires.get(call.address)
        if wire is None:
            wire = self._wires[call.address] = _Wire(self, call.address)
        future: asyncio.Future[Outcome] = self.loop.create_future()
        key = (call.kind, call.options, call.allowance_s)
        cargo = wire.open.get(key)
        if cargo is not None and cargo.batch.join(call, self._routing.settings.request_bytes_max // 2):
            cargo.futures.append(future)
            return future
        wire.open[key] = cargo = _Cargo(Batch(call), future)
        wire.queued.append(cargo)
        if wire not in self._touched:
            self.schedule(wire)
        return future

    def schedule(self, wire: _Wire) -> None:
        """Have a wire flushed at the end of this turn."""
        if self._closed:
            return
        if not self._touched:
            self.loop.call_soon(self._flush)
        self._touched[wire] = None

    def close(self) -> None:
        """Close every link."""
        if self._closed or self.pid != os.getpid():
            return
        self._closed = True
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self.context.term()

    def _flush(self) -> None:
        touched, self._touched = self._touched, {}
        for wire in touched:
            wire.flush()
        if not self._ticking and not self._closed:
            self._ticking = True
            self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._closed:
            return
        now = self._routing.clock()
        busy = [wire.expire(now) for wire in list(self._wires.values())]
        if any(busy) and not self._ticking:
            self._ticking = True
            self.loop.call_later(TICK_S, self._tick)


_graveyard: list[_Mux] = []
"""Inherited over a fork: sockets and event loop are the parent's, and not ours to touch, or to collect."""


class Hub:
    """Finds the links that belong to the running event loop and this process."""

    def __init__(self, link: Callable[[str], Link], routing: Routing) -> None:
        self._link = link
        self._routing = routing
        self._mux: _Mux | None = None
        self._closing: Closing | None = None
        self._closed = False

    def post(self, call: Call) -> asyncio.Future[Outcome]:
        """Return the outcome to come of a call."""
        mux = self._mux
        loop = asyncio.get_running_loop()
        if mux is None or mux.loop is not loop:
            mux = self._bind(loop)
        return mux.post(call)

    def here(self) -> _Mux:
        """Return what belongs to the running loop."""
        loop = asyncio.get_running_loop()
        mux = self._mux
        return mux if mux is not None and mux.loop is loop else self._bind(loop)

    @property
    def flights(self) -> Flights | None:
        """The flights of the running loop, if there can be any."""
        mux = self._mux
        if mux is None or mux.pid != os.getpid() or mux.loop is not asyncio.get_running_loop():
            return None
        return mux.flights

    def close(self) -> None:
        """Close every link; later calls fail."""
        self._closed = True
        if self._closing is not None:
            self._closing()
        self._mux = None

    def _bind(self, loop: asyncio.AbstractEventLoop) -> _Mux:
        if self._closed:
            raise ClientClosed
        old = self._mux
        if old is not None and self._closing is not None:
            if old.pid != os.getpid():
                self._closing.detach()
                _graveyard.append(old)
            elif not old.loop.is_closed():
                raise UsageError("this client belongs to another event loop, which is still open: make one for each")
            else:
                self._closing()
        self._mux = mux = _Mux(loop, self._link, self._routing)
        self._closing = Closing(self, mux.close)
        return mux
