"""The sync driver's I/O, done in the caller's thread: no hand-over to another one, and no lock around a wait.

ZeroMQ sockets belong to one thread at a time. A *channel* is a set of connections, at most one to each node; a thread
takes a channel for one step of a flow and puts it back. The last one used is the first one taken, so a single thread
always finds the same warm connections.

A socket's receive timeout is one slice: when nothing came for so long, look whether the connection is still there and
whether the deadline is over. (A poll before each receive would cost five times as much.) Where threads are greenlets,
the socket is asked without waiting, and the slice is spent where others run meanwhile: waiting.py.

An exception may come between any two steps: from a signal handler, or a greenlet's timeout. A channel that was on its
way from the free ones then is neither free nor busy; it counts no more, and another is made. One whose step was
interrupted forgets what it asked for; answers that still come are of no known number.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import zmq

from meshcache.client.closing import Closing
from meshcache.client.connection import GREETING, Call, Connection, Outcome, Unsendable
from meshcache.client.failure import (
    CONNECTION_LOST,
    NO_CONNECTION,
    NO_GREETING,
    NO_REPLY,
    NO_TIME,
    NO_TIME_TO_ANSWER,
    NOT_CONNECTED,
    NOT_GREETED,
    Failure,
    not_connected,
)
from meshcache.errors import ClientClosed, ProtocolError
from meshcache.protocol.messages import Welcome
from meshcache.protocol.wire import Frame
from meshcache.sockets.context import LINK_DESCRIPTORS, Context, end_context, open_context
from meshcache.sockets.dealer import open_dealer, receiver, state_of
from meshcache.sockets.descriptors import as_os_error, require_descriptors
from meshcache.sockets.dialling import Host, reach, shun
from meshcache.sockets.waiting import Waiters, is_cooperative, wait_readable

CHANNELS_MAX: Final = 16
PARKED_MAX: Final = 64
"""Threads of one process that are parked at nodes at a time, each for a key of its own; more of them wait for these."""
SLICE_MS: Final = 20


class _Wire:
    """A connection and its socket."""

    __slots__ = ("_fd", "_is_cooperative", "_pid", "arrived", "connection", "host", "recv", "send", "socket")

    def __init__(self, socket: zmq.Socket[bytes], connection: Connection, host: Host) -> None:
        self.socket = socket
        self.connection = connection
        self.host = host
        self.send: Callable[..., Any] = socket.send
        self.recv = receiver(socket)
        """Return a frame, or raise zmq.Again if none came within a slice."""
        self.arrived: dict[int, Any] = {}
        """Answers to other calls of this step than the one waited for."""
        self._fd = int(socket.getsockopt(zmq.FD))
        self._pid = os.getpid()
        self._is_cooperative = False
        self.adapt()

    def adapt(self) -> None:
        """Wait as the threads of this program are to wait, which may have changed since the connection was opened."""
        if self._is_cooperative or not is_cooperative():
            return
        self._is_cooperative = True
        recv = self.recv

        def receive(_flags: int) -> Frame:
            try:
                return recv(zmq.NOBLOCK)
            except zmq.Again:
                self.wait(SLICE_MS / 1000)
            return recv(zmq.NOBLOCK)

        self.recv = receive

    def is_connected(self, deadline: float) -> bool:
        """Wait until something can be sent; False if that can not be by the deadline."""
        while not state_of(self.socket) & zmq.POLLOUT:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self.wait(min(left_s, SLICE_MS / 1000))
        return True

    def wait(self, timeout_s: float) -> None:
        """Wait until the socket's state may have changed. Raises ZMQError if it is of another process now."""
        wait_readable([self._fd], timeout_s)
        if self._pid != os.getpid():  # greenlets go on after a fork; the socket is the parent's
            raise zmq.ZMQError(zmq.ENOTSOCK)


_Ticket = tuple[_Wire, int, float, float]
"""Of a call that was sent: where, its number, when, and until when to wait."""


class Channel:
    """Links of one thread at a time."""

    __slots__ = ("__weakref__", "_connection", "_pool", "_wires", "busy")

    def __init__(self, pool: _Pool, connection: Callable[[str], Connection]) -> None:
        self._pool = pool
        self._connection = connection
        self._wires: dict[str, _Wire] = {}
        self.busy = False
        """Some thread has it."""

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

    def forget(self) -> None:
        """Expect no answer any more: who waited for one was interrupted."""
        for wire in self._wires.values():
            wire.connection.forget_all()
            wire.arrived.clear()

    def close(self) -> None:
        """Close every connection."""
        for address in list(self._wires):
            self._drop(address)

    def __del__(self) -> None:
        """Close what nobody will use: an exception took it out of its user's hands."""
        if self._pool.pid == os.getpid():
            self.close()

    def _post(self, call: Call, again: bool = True) -> _Ticket | Failure | Unsendable:
        wire = self._wires.get(call.address)
        if wire is None or not wire.connection.ready:
            again = again and wire is not None
            found = self._greet(call, wire)
            if isinstance(found, Failure):
                return self._post(call, again=False) if again and not found.late else found
            wire = found
        sent_at = time.monotonic()
        deadline = call.deadline(sent_at)
        try:
            number, frame = wire.connection.encode(call, deadline)
        except Exception as error:
            if wire.connection.can_encode(call, deadline):
                raise  # a signal's handler raised that in the middle of it
            return Unsendable(error)  # whatever its fields are: the other calls of this step go on
        try:
            wire.send(frame, zmq.NOBLOCK)
        except zmq.ZMQError:
            self._drop(call.address)
            # The node may be back since the connection broke.
            return self._post(call, again=False) if again else NOT_CONNECTED
        return wire, number, sent_at, deadline

    def _collect(self, call: Call, ticket: _Ticket | Failure | Unsendable) -> Outcome:
        if isinstance(ticket, (Failure, Unsendable)):
            return ticket
        wire, number, sent_at, deadline = ticket
        outcome: Outcome = self._wait(wire, number, deadline)
        if outcome is NO_REPLY:
            is_fair = call.is_fair(sent_at)
            wire.connection.forget(number, silent=is_fair)
            return outcome if is_fair else NO_TIME_TO_ANSWER
        return outcome

    def _wait(self, wire: _Wire, number: int, deadline: float) -> Any:
        """Return what answers this number, or why nothing does."""
        arrived = wire.arrived
        if number in arrived:
            return arrived.pop(number)
        connection = wire.connection
        while True:
            try:
                found = connection.accept(wire.recv(0))
            except zmq.Again:
                wire.adapt()
                events = state_of(wire.socket)
                if not events & (zmq.POLLIN | zmq.POLLOUT):
                    self._drop(connection.address)
                    return CONNECTION_LOST
                if events & zmq.POLLIN:
                    continue  # it came while this thread waited for its turn: that is not to be called late
                found = []
            except zmq.ZMQError:
                return CONNECTION_LOST
            except ProtocolError as error:
                self._drop(connection.address)
                return Failure(sent=True, late=False, why=f"broke the protocol: {error}")
            for other, outcome in found:
                arrived[other] = outcome
            if number in arrived:
                return arrived.pop(number)
            if time.monotonic() >= deadline:
                return NO_REPLY

    def _greet(self, call: Call, wire: _Wire | None) -> _Wire | Failure:
        """Return a connection that is ready for requests, made new if there is none."""
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
                return not_connected(as_os_error(error))
        connection = wire.connection
        answer: Any = NO_REPLY
        try:
            if wire.is_connected(deadline):
                answer = self._hello(wire, deadline)
                if connection.is_clock_vague:
                    answer = self._hello(wire, deadline)  # this one does not have to wait for whatever kept the first
        except zmq.ZMQError:
            answer = NOT_CONNECTED
        if type(answer) is Welcome or connection.ready:
            return wire
        self._drop(call.address)
        shun(wire.host)
        if answer is NO_REPLY:
            return NO_GREETING if call.is_fair(now) else NO_TIME
        return NOT_GREETED if answer is CONNECTION_LOST else answer._replace(sent=False)

    def _hello(self, wire: _Wire, deadline: float) -> Any:
        wire.arrived.pop(GREETING, None)
        try:
            wire.send(wire.connection.hello(), zmq.NOBLOCK)
        except zmq.ZMQError:
            return NOT_CONNECTED
        return self._wait(wire, GREETING, deadline)

    def _open(self, address: str, deadline: float) -> _Wire:
        """Connect, or raise OSError: libzmq would not tell that nobody listens, so the kernel is asked first."""
        require_descriptors(LINK_DESCRIPTORS)
        context = self._pool.context()
        host = reach(address, max(0.001, deadline - time.monotonic()))
        socket = open_dealer(context, *host, slice_ms=SLICE_MS)
        wire = self._wires[address] = _Wire(socket, self._connection(address), host)
        return wire

    def _drop(self, address: str) -> None:
        wire = self._wires.pop(address, None)
        if wire is not None:
            wire.socket.close(0)


class _Pool:
    """Channels of one process, and the ZeroMQ context under them."""

    def __init__(self, channels_max: int = CHANNELS_MAX, *, parking: _Pool | None = None) -> None:
        self.pid = os.getpid()
        self.channels_max = channels_max
        self.parking = parking
        """The channels for calls that may be parked."""
        self.free: list[Channel] = []
        self.channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        """All there are: free, busy, or lost."""
        self.waiters = Waiters()
        """Threads that wait for a free one."""
        self.closed = False
        self._lock = threading.RLock()
        self._context: Context | None = None

    def context(self) -> Context:
        """Return the context, made when the first connection needs it. Raises OSError."""
        with self._lock:
            if self._context is None:
                self._context = open_context()
            return self._context

    def take(self, connection: Callable[[str], Connection], taken: list[Channel]) -> bool:
        """Put a free channel into ``taken``, or a new one; False if all there may be are in use.

        Raises ClientClosed.
        """
        if self.closed:
            raise ClientClosed
        try:
            taken.append(self.free.pop())
        except IndexError:
            with self._lock:
                if len(self.channels) >= self.channels_max:
                    # One may be just on its way to being busy: that is no matter, it counts again when it is free.
                    lost = [channel for channel in self.channels if not channel.busy and channel not in self.free]
                    self.channels.difference_update(lost)
                if len(self.channels) < self.channels_max:
                    taken.append(Channel(self, connection))
                    self.channels.update(taken)
        return bool(taken)

    def close(self) -> None:
        """Close all that is free, and the context with the last one; others follow when they are put back."""
        if self.pid != os.getpid():
            return
        if self.parking is not None:
            self.parking.close()
        self.closed = True
        while self.free:
            channel = self.free.pop()
            channel.close()
            self.channels.discard(channel)
        self.waiters.wake_all()
        with self._lock:
            context = None if self.channels else self._context
            if context is not None:
                self._context = None
                end_context(context)


def _pools() -> _Pool:
    return _Pool(parking=_Pool(PARKED_MAX))


_graveyard: list[_Pool] = []
"""Pools inherited over a fork. Their sockets are the parent's: closing them, or collecting them, is not ours to do."""


class Channels:
    """Takes steps to channels, from any thread and after any fork."""

    def __init__(self, connection: Callable[[str], Connection]) -> None:
        self._connection = connection
        self._pool = _pools()
        self._closing = Closing(self, self._pool.close)
        _everyone.add(self)

    def exchange(self, calls: list[Call], *, parked: bool = False) -> list[Outcome]:
        """Carry out the calls of one step; a channel that is not free in time is a failure like any other.

        What may be ``parked`` has channels of its own: else those who wait for a value could take all of them, and
        those who bring it none would be left.
        """
        pool = self._pool
        if parked or pool.pid != os.getpid():
            pool = self._pool_for(parked)
        try:
            # Who came first is served first: none of a crowd starves.
            channel = None if pool.waiters else pool.free.pop()
        except IndexError:
            channel = None
        if channel is None:
            return self._exchange_later(pool, calls, parked)
        channel.busy = True
        try:
            return channel.exchange(calls)
        except BaseException:
            channel.forget()
            raise
        finally:
            channel.busy = False
            pool.free.append(channel)
            if pool.waiters or pool.closed:
                self._returned(pool)

    def close(self) -> None:
        """Close every connection; later calls fail."""
        self._pool.close()
        self._closing.detach()

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

    def _pool_for(self, parked: bool) -> _Pool:
        pool = self.after_fork()
        if not parked:
            return pool
        assert pool.parking is not None
        return pool.parking

    def _exchange_later(self, pool: _Pool, calls: list[Call], parked: bool) -> list[Outcome]:
        """Carry out the calls of a step over a channel that is new, or has to be waited for."""
        taken: list[Channel] = []  # from the first moment on it is in here, and so put back

        def take() -> bool:
            nonlocal pool
            pool = self._pool_for(parked)  # looked up each time: a greenlet that waits here goes on after a fork
            return pool.take(self._connection, taken)

        try:
            if not pool.waiters.wait(take, min(call.until for call in calls)):
                return [NO_TIME] * len(calls)
            (channel,) = taken
            channel.busy = True
            return channel.exchange(calls)
        except BaseException:
            for channel in taken:
                channel.forget()
            raise
        finally:
            for channel in taken:
                channel.busy = False
            pool.channels.update(taken)
            pool.free += taken
            if pool.waiters or pool.closed:
                self._returned(pool)

    def _returned(self, pool: _Pool) -> None:
        if pool.closed:
            pool.close()
        else:
            pool.waiters.wake()


_everyone: weakref.WeakSet[Channels] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channels in list(_everyone):
        channels.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
