"""The sync driver's I/O, done in the caller's thread: no hand-over to another one, and no lock around a wait.

ZeroMQ sockets belong to one thread at a time. A *channel* is a set of links, at most one to each node; a thread takes
a channel for one step of a flow and puts it back. The last one used is the first one taken, so a single thread always
finds the same warm links.

A socket's receive timeout is one slice: when nothing came for so long, look whether the connection is still there and
whether the deadline is over. (A poll before each receive would cost five times as much.)
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from meshcache.closing import Closing
from meshcache.core.messages import Welcome
from meshcache.dealer import open_dealer, receiver, state_of
from meshcache.dialling import Host, reach, shun
from meshcache.errors import ClientClosed, ProtocolError
from meshcache.failure import (
    LINK_DOWN,
    LINK_LOST,
    NO_CONNECTION,
    NO_GREETING,
    NO_REPLY,
    NO_TIME,
    NO_TIME_TO_ANSWER,
    NOT_GREETED,
    Failure,
    not_connected,
)
from meshcache.link import GREETING, Call, Link, Outcome, Unsendable

CHANNELS_MAX: Final = 16
PARKED_MAX: Final = 64
"""Threads of one process that are parked at nodes at a time, each for a key of its own; more of them wait for these."""
SLICE_MS: Final = 20

Context = zmq.Context[zmq.Socket[bytes]]


class _Wire:
    """A link and its socket."""

    __slots__ = ("arrived", "host", "link", "recv", "send", "socket")

    def __init__(self, socket: zmq.Socket[bytes], link: Link, host: Host) -> None:
        self.socket = socket
        self.link = link
        self.host = host
        self.send: Callable[..., Any] = socket.send
        self.recv = receiver(socket)
        self.arrived: dict[int, Any] = {}
        """Answers to other calls of this step than the one waited for."""


_Ticket = tuple[_Wire, int, float]
"""Of a call that was sent: where, its number, and when."""


class Channel:
    """Links of one thread at a time."""

    def __init__(self, context: Context, link: Callable[[str], Link]) -> None:
        self._context = context
        self._link = link
        self._wires: dict[str, _Wire] = {}

    def exchange(self, calls: list[Call]) -> list[Outcome]:
        """Send every call, then wait for every answer, each no longer than its deadline."""
        if len(calls) == 1:
            call = calls[0]
            return [self._collect(call, self._post(call))]
        tickets: list[Any] = [None] * len(calls)
        wires = self._wires
        # Those that must connect first may be slow about it: they must not hold up the others.
        for i in sorted(range(len(calls)), key=lambda i: calls[i].address not in wires):
            tickets[i] = self._post(calls[i])
        outcomes = [self._collect(call, ticket) for call, ticket in zip(calls, tickets, strict=True)]
        for wire in wires.values():
            wire.arrived.clear()
        return outcomes

    def close(self) -> None:
        """Close every link."""
        for address in list(self._wires):
            self._drop(address)

    def _post(self, call: Call, again: bool = True) -> _Ticket | Failure | Unsendable:
        wire = self._wires.get(call.address)
        if wire is None or not wire.link.ready:
            again = again and wire is not None
            found = self._greet(call, wire)
            if isinstance(found, Failure):
                return self._post(call, again=False) if again and not found.late else found
            wire = found
        sent_at = time.monotonic()
        try:
            number, frame = wire.link.encode(call, call.deadline(sent_at))
        except Exception as error:  # noqa: BLE001  (whatever its fields are: the other calls of this step go on)
            return Unsendable(error)
        try:
            wire.send(frame, zmq.NOBLOCK)
        except zmq.ZMQError:
            self._drop(call.address)
            # The node may be back since the link broke.
            return self._post(call, again=False) if again else LINK_DOWN
        return wire, number, sent_at

    def _collect(self, call: Call, ticket: _Ticket | Failure | Unsendable) -> Outcome:
        if isinstance(ticket, (Failure, Unsendable)):
            return ticket
        wire, number, sent_at = ticket
        outcome: Outcome = self._wait(wire, number, call.deadline(sent_at))
        if outcome is NO_REPLY:
            is_fair = call.is_fair(sent_at)
            wire.link.forget(number, silent=is_fair)
            return outcome if is_fair else NO_TIME_TO_ANSWER
        return outcome

    def _wait(self, wire: _Wire, number: int, deadline: float) -> Any:
        """Return what answers this number, or why nothing does."""
        arrived = wire.arrived
        if number in arrived:
            return arrived.pop(number)
        link = wire.link
        while True:
            try:
                found = link.accept(wire.recv(0))
            except zmq.Again:
                events = state_of(wire.socket)
                if not events & (zmq.POLLIN | zmq.POLLOUT):
                    self._drop(link.address)
                    return LINK_LOST
                if events & zmq.POLLIN:
                    continue  # it came while this thread waited for its turn: that is not to be called late
                found = []
            except zmq.ZMQError:
                return LINK_LOST
            except ProtocolError as error:
                self._drop(link.address)
                return Failure(sent=True, late=False, why=f"broke the protocol: {error}")
            for other, outcome in found:
                arrived[other] = outcome
            if number in arrived:
                return arrived.pop(number)
            if time.monotonic() >= deadline:
                return NO_REPLY

    def _greet(self, call: Call, wire: _Wire | None) -> _Wire | Failure:
        """Return a link that is ready for requests, made new if there is none."""
        now = time.monotonic()
        if now >= call.until:
            return NO_TIME
        deadline = call.deadline(now)
        if wire is None:
            try:
                wire = self._open(call.address, deadline)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    return NO_CONNECTION if call.is_fair(now) else NO_TIME
                return not_connected(error)
        link = wire.link
        answer: Any = NO_REPLY
        left_ms = max(0, int((deadline - time.monotonic()) * 1000))
        if wire.socket.poll(left_ms, zmq.POLLOUT):
            answer = self._hello(wire, deadline)
            if link.is_clock_vague:
                answer = self._hello(wire, deadline)  # this one does not have to wait for whatever kept the first
        if type(answer) is Welcome or link.ready:
            return wire
        self._drop(call.address)
        shun(wire.host)
        if answer is NO_REPLY:
            return NO_GREETING if call.is_fair(now) else NO_TIME
        return NOT_GREETED if answer is LINK_LOST else answer._replace(sent=False)

    def _hello(self, wire: _Wire, deadline: float) -> Any:
        wire.arrived.pop(GREETING, None)
        try:
            wire.send(wire.link.hello(), zmq.NOBLOCK)
        except zmq.ZMQError:
            return LINK_DOWN
        return self._wait(wire, GREETING, deadline)

    def _open(self, address: str, deadline: float) -> _Wire:
        """Connect, or raise OSError: libzmq would not tell that nobody listens, so the kernel is asked first."""
        host = reach(address, max(0.001, deadline - time.monotonic()))
        socket = open_dealer(self._context, *host)
        socket.setsockopt(zmq.RCVTIMEO, SLICE_MS)
        wire = self._wires[address] = _Wire(socket, self._link(address), host)
        return wire

    def _drop(self, address: str) -> None:
        wire = self._wires.pop(address, None)
        if wire is not None:
            wire.socket.close(0)


class _Waiter:
    """A thread that waits for a channel."""

    __slots__ = ("arrived", "channel")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.arrived = threading.Lock()
        self.arrived.acquire()


class _Pool:
    """Channels of one process, and the ZeroMQ context under them."""

    def __init__(self, channels_max: int = CHANNELS_MAX, *, parking: _Pool | None = None) -> None:
        self.pid = os.getpid()
        self.channels_max = channels_max
        self.parking = parking
        """The channels for calls that may be parked."""
        self.free: list[Channel] = []
        self.count = 0
        self.waiters: deque[_Waiter] = deque()
        """Threads that wait for a channel, in the order in which they came."""
        self.lock = threading.Lock()
        self.closed = False
        self.context: Context = zmq.Context()

    def close(self) -> None:
        """Close all that is free, and the context with the last one; others follow when they are put back."""
        if self.pid != os.getpid():
            return
        if self.parking is not None:
            self.parking.close()
        with self.lock:
            self.closed = True
            while self.free:
                self.free.pop().close()
                self.count -= 1
            if not self.count:
                self.context.term()
            while self.waiters:
                self.waiters.popleft().arrived.release()

    def hand_over(self) -> None:
        """Give what is free to those who have waited longest. To be called with the lock held."""
        while self.free and self.waiters:
            waiter = self.waiters.popleft()
            waiter.channel = self.free.pop()
            waiter.arrived.release()


def _pools() -> _Pool:
    return _Pool(parking=_Pool(PARKED_MAX))


_graveyard: list[_Pool] = []
"""Pools inherited over a fork. Their sockets are the parent's: closing them, or collecting them, is not ours to do."""


class Channels:
    """Takes steps to channels, from any thread and after any fork."""

    def __init__(self, link: Callable[[str], Link]) -> None:
        self._link = link
        self._pool = _pools()
        self._closing = Closing(self, self._pool.close)
        _everyone.add(self)

    def exchange(self, calls: list[Call], *, parked: bool = False) -> list[Outcome]:
        """Carry out the calls of one step; a channel that is not free in time is a failure like any other.

        What may be ``parked`` has channels of its own: else those who wait for a value could take all of them, and
        those who bring it none would be left.
        """
        pool = self._pool
        if pool.pid != os.getpid():
            pool = self.after_fork()
        if parked:
            assert pool.parking is not None
            pool = pool.parking
        try:
            if pool.waiters:
                raise IndexError  # noqa: TRY301  (who came first is served first: none of a crowd starves)
            channel = pool.free.pop()
        except IndexError:
            found = self._another(pool, min(call.until for call in calls))
            if isinstance(found, Failure):
                return [found] * len(calls)
            channel = found
        try:
            return channel.exchange(calls)
        finally:
            pool.free.append(channel)
            if pool.waiters or pool.closed:
                self._returned(pool)

    def close(self) -> None:
        """Close every link; later calls fail."""
        self._closing()

    def after_fork(self) -> _Pool:
        """Begin anew in a child process; nothing of the parent's is touched."""
        old = self._pool
        if old.pid != os.getpid():
            _graveyard.append(old)
            self._closing.detach()
            self._pool = _pools()
            self._pool.closed = old.closed
            if self._pool.parking is not None:
                self._pool.parking.closed = old.closed
            self._closing = Closing(self, self._pool.close)
        return self._pool

    def _another(self, pool: _Pool, until: float) -> Channel | Failure:
        """Make a channel, or wait for one."""
        with pool.lock:
            if pool.closed:
                raise ClientClosed
            if pool.count < pool.channels_max:
                pool.count += 1
                return Channel(pool.context, self._link)
            waiter = _Waiter()
            pool.waiters.append(waiter)
            pool.hand_over()  # one may have been put back by a thread that saw nobody waiting
        if not waiter.arrived.acquire(timeout=max(0.0, until - time.monotonic())):
            with pool.lock:
                if waiter in pool.waiters:
                    pool.waiters.remove(waiter)
        if waiter.channel is not None:
            return waiter.channel
        if pool.closed:
            raise ClientClosed
        return NO_TIME

    def _returned(self, pool: _Pool) -> None:
        if pool.closed:
            pool.close()
        else:
            with pool.lock:
                pool.hand_over()


_everyone: weakref.WeakSet[Channels] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channels in list(_everyone):
        channels.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
