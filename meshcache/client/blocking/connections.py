"""The blocking driver's I/O, in the caller's thread: no hand-over to another thread, and no lock held while waiting.

ZeroMQ sockets belong to one thread at a time. A *channel* is a set of connections, at most one to each node; a thread
takes a channel for one step of a flow and puts it back. The channel that was used last is taken first, so a single
thread always finds the same open connections.

A socket's receive timeout is one slice: if nothing came for so long, check whether the connection still stands and
whether the deadline is over. (A poll before each receive would cost five times as much.) Where threads are greenlets,
the socket is read without waiting, and the slice is spent in waiting.py, where other greenlets run.

An exception may come between any two steps: from a signal handler, or a greenlet's timeout. A channel that was being
taken at that moment is neither free nor busy; it is not counted any more, and another is made. A channel whose step was
interrupted forgets what it asked for; answers that still arrive have unknown numbers and are dropped.
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
from meshcache.client.delivery import Hedged
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
    denied,
    not_connected,
)
from meshcache.errors import ClientClosed, ProtocolError
from meshcache.protocol.messages import Welcome
from meshcache.protocol.wire import Frame
from meshcache.sockets.allocator import LARGE_FRAME_BYTES, expect_large_blocks
from meshcache.sockets.context import LINK_DESCRIPTORS, Context, end_context, open_context
from meshcache.sockets.curve import HANDSHAKE_DESCRIPTORS, HandshakeWatch
from meshcache.sockets.dealer import open_dealer, receiver, state_of
from meshcache.sockets.descriptors import as_os_error, require_descriptors
from meshcache.sockets.dialling import Host, reach, shun
from meshcache.sockets.waiting import Waiters, is_cooperative, wait_readable

CHANNELS_MAX: Final = 16
PARKED_MAX: Final = 64
"""How many threads of one process are parked at nodes at a time, each for its own key; others wait for these."""
SLICE_MS: Final = 20


class _NodeSocket:
    """A connection and its socket."""

    __slots__ = (
        "_handshake",
        "_is_cooperative",
        "_pid",
        "arrived",
        "connection",
        "denied",
        "fd",
        "host",
        "recv",
        "send",
        "socket",
    )

    def __init__(
        self, socket: zmq.Socket[bytes], handshake: HandshakeWatch, connection: Connection, host: Host
    ) -> None:
        self.socket = socket
        self._handshake = handshake
        self.denied: str | None = None
        """Why the handshake failed."""
        self.connection = connection
        self.host = host
        self.send: Callable[..., Any] = socket.send
        self.recv = receiver(socket)
        """Returns a frame, or raises zmq.Again if none came within a slice."""
        self.arrived: dict[int, Any] = {}
        """Answers that arrived for other calls of this step than the one being waited for."""
        self.fd = int(socket.getsockopt(zmq.FD))
        self._pid = os.getpid()
        self._is_cooperative = False
        self.adapt()

    def adapt(self) -> None:
        """Wait as this program's threads do: since the connection was opened, they may have become greenlets."""
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
        """Wait until something can be sent; return False if that does not happen by the deadline."""
        while not state_of(self.socket) & zmq.POLLOUT:
            self.denied = self._handshake.failure()
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self.denied is not None:
                return False
            self.wait(min(left_s, SLICE_MS / 1000))
        self._handshake.end()
        return True

    def state(self) -> int:
        """Return what can be done with the socket now. Raises ZMQError if this is another process by now."""
        if self._pid != os.getpid():
            raise zmq.ZMQError(zmq.ENOTSOCK)
        return state_of(self.socket)

    def close(self) -> None:
        """Close the socket."""
        self._handshake.end()
        self.socket.close(0)

    def wait(self, timeout_s: float) -> None:
        """Wait until the socket's state may have changed. Raises ZMQError if this is another process by now."""
        wait_readable([self.fd], timeout_s)
        if self._pid != os.getpid():  # greenlets go on after a fork; the socket is the parent's
            raise zmq.ZMQError(zmq.ENOTSOCK)


_Sent = tuple[_NodeSocket, int, float, float]
"""A call that was sent: its connection, its number, when it was sent, and until when to wait."""


class Channel:
    """A set of connections, at most one to each node; one thread uses it at a time."""

    __slots__ = ("__weakref__", "_connection", "_pool", "_sockets", "busy")

    def __init__(self, pool: _Pool, connection: Callable[[str], Connection]) -> None:
        self._pool = pool
        self._connection = connection
        self._sockets: dict[str, _NodeSocket] = {}
        self.busy = False
        """Whether a thread has taken it."""

    def exchange(self, calls: list[Call]) -> list[Outcome]:
        """Send every call, then wait for every answer, for each until its deadline."""
        if len(calls) == 1:
            call = calls[0]
            if type(calls) is Hedged:
                return [self._hedge(calls)]
            return [self._collect(call, self._post(call))]
        sent: list[Any] = [None] * len(calls)
        node_sockets = self._sockets
        # Calls that must connect first may take long: they must not delay the others.
        for i in sorted(range(len(calls)), key=lambda i: calls[i].address not in node_sockets):
            sent[i] = self._post(calls[i])
        outcomes = [self._collect(call, one) for call, one in zip(calls, sent, strict=True)]
        for node_socket in node_sockets.values():
            node_socket.arrived.clear()
        return outcomes

    def _hedge(self, step: Hedged) -> Outcome:
        """Send a call, and after a while another one for the same; return the outcome that counts.

        The other one goes only where a connection stands: to open one would take longer than the wait that it saves.
        """
        (call,) = step
        first = self._post(call)
        if isinstance(first, (Failure, Unsendable)):
            return first
        under_way = {call: first}
        outcome = self._first(step, under_way, min(first[2] + step.after_s, first[3]))
        other = step.other(self._is_ready) if outcome is None else None
        second = None if other is None else self._post(other)
        if other is not None and second is not None and not isinstance(second, (Failure, Unsendable)):
            under_way[other] = second
        while under_way and type(outcome) is not list:
            outcome = self._first(step, under_way, max([one[3] for one in under_way.values()]))
            if outcome is None:
                step.winner, one = under_way.popitem()
                outcome = self._collect(step.winner, one)
        for node_socket, number, _, _ in under_way.values():
            node_socket.connection.forget(number, silent=False)
            node_socket.arrived.clear()
        return outcome  # type: ignore[return-value]  # there was one call at least

    def _first(self, step: Hedged, under_way: dict[Call, _Sent], until: float) -> Outcome | None:
        """Return the first outcome of these calls, and take that call out; None if there is none in time."""
        while True:
            for call, (node_socket, number, _, _) in under_way.items():
                outcome = self._look(node_socket, number)
                if outcome is not None:
                    step.winner = call
                    del under_way[call]
                    return outcome
            left_s = until - time.monotonic()
            if left_s <= 0:
                return None
            wait_readable([node_socket.fd for node_socket, _, _, _ in under_way.values()], left_s)

    def _look(self, node_socket: _NodeSocket, number: int) -> Outcome | None:
        """Return the outcome of a call that was sent, if there is one by now."""
        arrived, connection = node_socket.arrived, node_socket.connection
        try:
            while number not in arrived:
                events = node_socket.state()
                if events & zmq.POLLIN:
                    arrived.update(connection.accept(node_socket.recv(zmq.NOBLOCK)))
                elif events & zmq.POLLOUT:
                    return None
                else:
                    self._drop(connection.address)
                    return CONNECTION_LOST
        except zmq.Again:
            return None
        except zmq.ZMQError:
            return CONNECTION_LOST
        except ProtocolError as error:
            self._drop(connection.address)
            return Failure(sent=True, late=False, why=f"broke the protocol: {error}")
        return arrived.pop(number)  # type: ignore[no-any-return]

    def _is_ready(self, address: str) -> bool:
        """Tell whether requests can be sent to an address at once."""
        node_socket = self._sockets.get(address)
        return node_socket is not None and node_socket.connection.ready

    def forget(self) -> None:
        """Stop waiting for all answers: the thread that waited was interrupted."""
        for node_socket in self._sockets.values():
            node_socket.connection.forget_all()
            node_socket.arrived.clear()

    def close(self) -> None:
        """Close every connection."""
        for address in list(self._sockets):
            self._drop(address)

    def __del__(self) -> None:
        """Close a channel that an exception took from its user, so that nobody will use it."""
        if self._pool.pid == os.getpid():
            self.close()

    def _post(self, call: Call, again: bool = True) -> _Sent | Failure | Unsendable:
        node_socket = self._sockets.get(call.address)
        if node_socket is None or not node_socket.connection.ready:
            again = again and node_socket is not None
            found = self._greet(call, node_socket)
            if isinstance(found, Failure):
                return self._post(call, again=False) if again and not found.late else found
            node_socket = found
        elif node_socket.connection.is_clock_vague and not self._ask_again(node_socket):
            self._drop(call.address)
            return self._post(call, again)
        sent_at = time.monotonic()
        deadline = call.deadline(sent_at)
        try:
            number, frame = node_socket.connection.encode(call, deadline)
        except Exception as error:
            if node_socket.connection.can_encode(call, deadline):
                raise  # a signal handler raised that while the call was encoded
            return Unsendable(error)  # whatever its fields are: the other calls of this step go on
        if len(frame) >= LARGE_FRAME_BYTES:
            expect_large_blocks()
        try:
            node_socket.send(frame, zmq.NOBLOCK)
        except zmq.ZMQError:
            self._drop(call.address)
            # The node may be back since the connection broke.
            return self._post(call, again=False) if again else NOT_CONNECTED
        return node_socket, number, sent_at, deadline

    def _collect(self, call: Call, one: _Sent | Failure | Unsendable) -> Outcome:
        if isinstance(one, (Failure, Unsendable)):
            return one
        node_socket, number, sent_at, deadline = one
        outcome: Outcome = self._wait(node_socket, number, deadline)
        if outcome is NO_REPLY:
            is_fair = call.is_fair(sent_at)
            node_socket.connection.forget(number, silent=is_fair)
            return outcome if is_fair else NO_TIME_TO_ANSWER
        return outcome

    def _wait(self, node_socket: _NodeSocket, number: int, deadline: float) -> Any:
        """Return the answer with this number, or the reason why there is none."""
        arrived = node_socket.arrived
        if number in arrived:
            return arrived.pop(number)
        connection = node_socket.connection
        while True:
            try:
                found = connection.accept(node_socket.recv(0))
            except zmq.Again:
                node_socket.adapt()
                events = state_of(node_socket.socket)
                if not events & (zmq.POLLIN | zmq.POLLOUT):
                    self._drop(connection.address)
                    return CONNECTION_LOST
                if events & zmq.POLLIN:
                    continue  # it came while this thread waited for its turn, and so does not count as late
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

    def _greet(self, call: Call, node_socket: _NodeSocket | None) -> _NodeSocket | Failure:
        """Return a connection that is ready for requests; make a new one if there is none."""
        now = time.monotonic()
        if now >= call.until:
            return NO_TIME
        deadline = call.deadline(now)
        if node_socket is None:
            try:
                node_socket = self._open(call.address, deadline)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    return NO_CONNECTION if call.is_fair(now) else NO_TIME
                return not_connected(as_os_error(error))
        connection = node_socket.connection
        answer: Any = NO_REPLY
        try:
            if not node_socket.is_connected(deadline):
                answer = NO_REPLY if node_socket.denied is None else denied(node_socket.denied)
            else:
                answer = self._hello(node_socket, deadline)
                if connection.is_clock_vague:
                    answer = self._hello(node_socket, deadline)  # this one need not wait for whatever delayed the first
        except zmq.ZMQError:
            answer = NOT_CONNECTED
        if type(answer) is Welcome or connection.ready:
            return node_socket
        # A node that is busy answers later; to be connected to anew would cost it even more.
        if answer is not NO_REPLY or not connection.is_asked or connection.is_stuck:
            self._drop(call.address)
            shun(node_socket.host)
        if answer is NO_REPLY:
            return NO_GREETING if call.is_fair(now) else NO_TIME
        return NOT_GREETED if answer is CONNECTION_LOST else answer._replace(sent=False)

    def _hello(self, node_socket: _NodeSocket, deadline: float) -> Any:
        """Return the greeting, or why there is none; ask for it, unless that is done already."""
        connection = node_socket.connection
        if not connection.is_asked:
            node_socket.arrived.pop(GREETING, None)
            try:
                node_socket.send(connection.hello(), zmq.NOBLOCK)
            except zmq.ZMQError:
                return NOT_CONNECTED
        return self._wait(node_socket, GREETING, deadline)

    def _ask_again(self, node_socket: _NodeSocket) -> bool:
        """Ask a node for its clock, without waiting for the answer; return False if the connection is of no use."""
        connection, arrived = node_socket.connection, node_socket.arrived
        try:
            while node_socket.state() & zmq.POLLIN:
                arrived.update(connection.accept(node_socket.recv(zmq.NOBLOCK)))
            if isinstance(arrived.pop(GREETING, None), Failure) or connection.is_stuck:
                return False
            if connection.wants_greeting:
                node_socket.send(connection.hello(), zmq.NOBLOCK)
        except (zmq.ZMQError, ProtocolError):
            return False
        return True

    def _open(self, address: str, deadline: float) -> _NodeSocket:
        """Connect, or raise OSError: libzmq does not report a refused connection, so the kernel is asked first.

        Nobody would notice that a node has left for ever, since sockets are looked at only when they are used. So this
        is the moment to close such connections: nodes that come under new names lead here, too.
        """
        for known in [known for known, other in self._sockets.items() if other.connection.is_needless]:
            self._drop(known)
        require_descriptors(LINK_DESCRIPTORS + HANDSHAKE_DESCRIPTORS)
        context = self._pool.context()
        host = reach(address, max(0.001, deadline - time.monotonic()))
        connection = self._connection(address)
        socket, handshake = open_dealer(context, *host, slice_ms=SLICE_MS, key=connection.key)
        node_socket = self._sockets[address] = _NodeSocket(socket, handshake, connection, host)
        return node_socket

    def _drop(self, address: str) -> None:
        node_socket = self._sockets.pop(address, None)
        if node_socket is not None:
            node_socket.close()


class _Pool:
    """The channels of one process, and the ZeroMQ context that they use."""

    def __init__(self, channels_max: int = CHANNELS_MAX, *, parking: _Pool | None = None) -> None:
        self.pid = os.getpid()
        self.channels_max = channels_max
        self.parking = parking
        """The channels for calls that may be parked."""
        self.free: list[Channel] = []
        self.channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        """All channels: free, busy, or lost."""
        self.waiters = Waiters()
        """Threads that wait for a free channel."""
        self.closed = False
        self._lock = threading.RLock()
        self._context: Context | None = None

    def context(self) -> Context:
        """Return the ZeroMQ context; the first connection makes it. Raises OSError."""
        with self._lock:
            if self._context is None:
                self._context = open_context()
            return self._context

    def take(self, connection: Callable[[str], Connection], taken: list[Channel]) -> bool:
        """Put a free channel into ``taken``, or a new one; return False if all are in use and no more may be made.

        Raises ClientClosed.
        """
        if self.closed:
            raise ClientClosed
        try:
            taken.append(self.free.pop())
        except IndexError:
            with self._lock:
                if len(self.channels) >= self.channels_max:
                    # One may be about to become busy; it does not matter, since it counts again when it is free.
                    lost = [channel for channel in self.channels if not channel.busy and channel not in self.free]
                    self.channels.difference_update(lost)
                if len(self.channels) < self.channels_max:
                    taken.append(Channel(self, connection))
                    self.channels.update(taken)
        return bool(taken)

    def close(self) -> None:
        """Close all free channels, and the context with the last one; busy ones are closed when they are put back."""
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


_inherited: list[_Pool] = []
"""Pools inherited over a fork. Their sockets are the parent's, and must be neither closed nor collected here."""


class Channels:
    """Carries out steps over channels, from any thread and after any fork."""

    def __init__(self, connection: Callable[[str], Connection]) -> None:
        self._connection = connection
        self._pool = _pools()
        self._closing = Closing(self, self._pool.close)
        _all_channels.add(self)

    def exchange(self, calls: list[Call], *, parked: bool = False) -> list[Outcome]:
        """Carry out the calls of one step; if no channel becomes free in time, that is a failure like any other.

        Calls that may be ``parked`` have channels of their own: else callers that wait for a value could take all
        channels, and none would be left for the callers that bring it.
        """
        pool = self._pool
        if parked or pool.pid != os.getpid():
            pool = self._pool_for(parked)
        try:
            # Threads are served in the order in which they came, so that every one has its turn.
            channel = None if pool.waiters.queue else pool.free.pop()
        except IndexError:
            channel = None
        if channel is None:
            return self._exchange_later(pool, calls, parked)
        channel.busy = True
        try:
            # Not returned from here: an exception between that and the first step of ``finally`` would skip both.
            outcomes = channel.exchange(calls)
        except BaseException:
            channel.forget()
            raise
        finally:
            channel.busy = False
            pool.free.append(channel)
            if pool.waiters.queue or pool.closed:
                self._returned(pool)
        return outcomes

    def close(self) -> None:
        """Close every connection; later calls fail."""
        self._pool.close()
        self._closing.detach()

    def after_fork(self) -> _Pool:
        """Begin anew in a child process, without touching anything of the parent's."""
        old = self._pool
        if old.pid != os.getpid():
            _inherited.append(old)
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
        """Carry out the calls of a step over a channel that must be made or waited for."""
        taken: list[Channel] = []  # a channel is in here from the first moment on, and so is always put back

        def take() -> bool:
            nonlocal pool
            pool = self._pool_for(parked)  # looked up each time: a greenlet that waits here goes on after a fork
            return pool.take(self._connection, taken)

        try:
            if not pool.waiters.wait(take, min(call.until for call in calls)):
                return [NO_TIME] * len(calls)
            (channel,) = taken
            channel.busy = True
            outcomes = channel.exchange(calls)
        except BaseException:
            for channel in taken:
                channel.forget()
            raise
        finally:
            for channel in taken:
                channel.busy = False
            pool.channels.update(taken)
            pool.free += taken
            if pool.waiters.queue or pool.closed:
                self._returned(pool)
        return outcomes

    def _returned(self, pool: _Pool) -> None:
        if pool.closed:
            pool.close()
        else:
            pool.waiters.wake()


_all_channels: weakref.WeakSet[Channels] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channels in list(_all_channels):
        channels.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
