"""A channel of the blocking driver: a set of connections, and how one thread sends over them and waits.

A wait for an answer takes one slice at most: if nothing came for so long, check whether the connection still stands and
whether the deadline is over. Where threads are greenlets, waiting.py waits, and other greenlets run.

A step that was interrupted leaves requests behind whose answers may still arrive: the channel forgets that it waited
for them, and drops answers with unknown numbers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import zmq

from meshcache.client.connection import GREETING, Attempt, Call, Connection, Outcome, Tried, Unsendable
from meshcache.client.delivery import Hedged
from meshcache.client.failure import (
    CONNECTION_LOST,
    FORKED,
    FORKED_UNSENT,
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
from meshcache.errors import ProtocolError
from meshcache.protocol.messages import Welcome
from meshcache.protocol.wire import Frame
from meshcache.sockets.allocator import LARGE_FRAME_BYTES, expect_large_blocks
from meshcache.sockets.context import LINK_DESCRIPTORS, Context
from meshcache.sockets.curve import HANDSHAKE_DESCRIPTORS, HandshakeWatch
from meshcache.sockets.dealer import open_dealer, receiver, sender, state_of, waiting_receiver
from meshcache.sockets.descriptors import as_os_error, require_descriptors
from meshcache.sockets.dialling import Host, reach, shun
from meshcache.sockets.waiting import is_cooperative, wait_readable

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
        "opened_at",
        "receive",
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
        self.opened_at = time.monotonic()
        self.send = sender(socket)
        self.recv = receiver(socket)
        """Takes flags and returns a frame, or raises zmq.Again if there is none."""
        self.receive: Callable[[], Frame] = waiting_receiver(socket, self.recv, SLICE_MS)
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
        self.receive = self._receive_beside_greenlets

    def _receive_beside_greenlets(self) -> Frame:
        try:
            return self.recv(zmq.NOBLOCK)
        except zmq.Again:
            self.wait(SLICE_MS / 1000)
        return self.recv(zmq.NOBLOCK)

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
        self.receive = _receive_nothing  # to wait for a closed socket would end the process
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

    __slots__ = ("__weakref__", "_connection", "_context", "_pid", "_sockets", "busy")

    def __init__(self, context: Callable[[], Context], connection: Callable[[str], Connection]) -> None:
        self._context = context
        self._connection = connection
        self._sockets: dict[str, _NodeSocket] = {}
        self.busy = False
        """Whether a thread has taken it."""
        self._pid = os.getpid()  # the last, for __del__

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection on which requests can be sent."""
        return any(node_socket.connection.ready for node_socket in list(self._sockets.values()))

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

    def ask(self, attempts: list[Attempt]) -> list[Any] | Tried:
        """Send every attempt, wait for every answer, and return what they come to, if all is as usual.

        Else what was sent is waited for like any call. Raises what the codec of a value raises.
        """
        if len(attempts) > 1:
            return self._ask_several(attempts)
        attempt = attempts[0]
        one = self._begin(attempt)
        if one is None:
            return Tried()
        node_socket, number, _, _ = one
        connection = node_socket.connection
        try:
            frame = node_socket.receive()
        except zmq.ZMQError as error:
            return self._try(attempts, [one], [partial(_fail, error)])
        answer = connection.read(attempt, number, frame)
        if answer is None:
            return self._try(attempts, [one], [partial(_return, frame)])
        connection.routing.succeeded(attempt.address, attempt.started)
        return [answer]

    def _ask_several(self, attempts: list[Attempt]) -> list[Any] | Tried:
        sent = [self._begin(attempt) for attempt in attempts]
        received = [None if one is None else _receive(one[0]) for one in sent]
        answers = []
        for attempt, one, receive in zip(attempts, sent, received, strict=True):
            with contextlib.suppress(zmq.ZMQError):
                if one is not None and receive is not None:
                    answers.append(one[0].connection.read(attempt, one[1], receive()))
        if len(answers) < len(attempts) or None in answers:
            return self._try(attempts, sent, received)
        for attempt, one in zip(attempts, sent, strict=True):
            if one is not None:
                one[0].connection.routing.succeeded(attempt.address, attempt.started)
        return answers

    def _begin(self, attempt: Attempt) -> _Sent | None:
        """Send an attempt; None: it is not to be sent this way, and was not."""
        node_socket = self._sockets.get(attempt.address)
        if node_socket is None or not node_socket.connection.ready or node_socket.connection.is_clock_vague:
            return None
        sent_at = time.monotonic()
        deadline = sent_at + attempt.allowance_s
        deadline = min(deadline, attempt.until)
        number, frame = node_socket.connection.write(attempt, deadline)
        if frame is None:
            return None
        if len(frame) >= LARGE_FRAME_BYTES:
            expect_large_blocks()
        try:
            node_socket.send(frame, zmq.NOBLOCK)
        except zmq.ZMQError:
            self._drop(attempt.address)
            return None
        return node_socket, number, sent_at, deadline

    def _try(
        self,
        attempts: list[Attempt],
        sent: Sequence[_Sent | None],
        received: Sequence[Callable[[], Frame] | None],
    ) -> Tried:
        """Wait for what was sent as for any call, beginning with what was received already."""
        tried = Tried(attempts[0].started)
        for attempt, one, receive in zip(attempts, sent, received, strict=True):
            if one is not None:
                call = attempt.call()
                node_socket, number, _, _ = one
                node_socket.connection.expect(number, call)
                tried.made.append((call, attempt.places, self._collect(call, one, receive)))
        for node_socket in self._sockets.values():
            node_socket.arrived.clear()
        return tried

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
            return FORKED if self._is_inherited() else CONNECTION_LOST
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
        if getattr(self, "_pid", None) == os.getpid():  # it has none if it was interrupted while it was made
            self.close()

    def _is_inherited(self) -> bool:
        """Tell whether this is another process by now: greenlets go on after a fork, and the sockets are the parent's.

        That happens only where greenlets are switched, and so while one waits.
        """
        return self._pid != os.getpid()

    def _post(self, call: Call, again: bool = True) -> _Sent | Failure | Unsendable:
        if self._is_inherited():
            return FORKED_UNSENT
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

    def _collect(
        self, call: Call, one: _Sent | Failure | Unsendable, received: Callable[[], Frame] | None = None
    ) -> Outcome:
        """Return the outcome of a call; ``received`` does again what the first receive did."""
        if isinstance(one, (Failure, Unsendable)):
            return one
        if self._is_inherited():
            return FORKED
        node_socket, number, sent_at, deadline = one
        outcome: Outcome = self._wait(node_socket, number, deadline, received)
        if outcome is NO_REPLY:
            is_fair = call.is_fair(sent_at)
            node_socket.connection.give_up(number, sent_at, is_fair=is_fair)
            return outcome if is_fair else NO_TIME_TO_ANSWER
        return outcome

    def _wait(
        self, node_socket: _NodeSocket, number: int, deadline: float, received: Callable[[], Frame] | None = None
    ) -> Any:
        """Return the answer with this number, or the reason why there is none."""
        arrived = node_socket.arrived
        if number in arrived:
            return arrived.pop(number)
        connection = node_socket.connection
        while True:
            receive, received = received or node_socket.receive, None
            try:
                found = connection.accept(receive())
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
                return FORKED if self._is_inherited() else CONNECTION_LOST
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
            found = self._connect(call, now, deadline)
            if isinstance(found, Failure):
                return found
            node_socket = found
        connection = node_socket.connection
        answer: Any = NO_REPLY
        try:
            if not node_socket.is_connected(deadline):
                answer = NO_REPLY if node_socket.denied is None else denied(node_socket.denied)
            else:
                answer = self._hello(node_socket, deadline)
                if connection.wants_greeting and connection.ready:
                    answer = self._hello(node_socket, deadline)  # this one need not wait for whatever delayed the first
        except zmq.ZMQError:
            answer = NOT_CONNECTED
        if self._is_inherited():
            return FORKED_UNSENT
        if type(answer) is Welcome or connection.ready:
            return node_socket
        return self._not_greeted(call, node_socket, answer, is_fair=call.is_fair(now))

    def _connect(self, call: Call, now: float, deadline: float) -> _NodeSocket | Failure:
        """Make a new connection, or return why there is none."""
        try:
            return self._open(call.address, deadline) or FORKED_UNSENT
        except TimeoutError:
            return NO_CONNECTION if call.is_fair(now) else NO_TIME
        except OSError as error:
            return not_connected(as_os_error(error))

    def _not_greeted(self, call: Call, node_socket: _NodeSocket, answer: Any, *, is_fair: bool) -> Failure:
        """Return why a connection is not ready; keep it as long as the node may only be busy.

        A node that is busy answers later; to be connected to anew would cost it even more.
        """
        connection = node_socket.connection
        waited_s = time.monotonic() - node_socket.opened_at
        is_stuck = connection.is_stuck if connection.is_asked else waited_s >= connection.greeting.patience_s
        if is_stuck:
            connection.greeting.note_replaced()
        if is_stuck or answer is not NO_REPLY:
            self._drop(call.address)
            shun(node_socket.host)
        if answer is not NO_REPLY:
            failure: Failure = answer
            return NOT_GREETED if failure is CONNECTION_LOST else failure._replace(sent=False)
        if not is_fair:
            return NO_TIME
        connection.routing.windows.note_overload(call.address, time.monotonic())
        return NO_GREETING if connection.is_asked else NO_CONNECTION

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
            if connection.is_stuck:
                connection.greeting.note_replaced()
                return False
            if isinstance(arrived.pop(GREETING, None), Failure):
                return False
            if connection.wants_greeting:
                node_socket.send(connection.hello(), zmq.NOBLOCK)
        except (zmq.ZMQError, ProtocolError):
            return False
        return True

    def _open(self, address: str, deadline: float) -> _NodeSocket | None:
        """Connect, or raise OSError: libzmq does not report a refused connection, so the kernel is asked first.

        None: this is another process by now, and the context is the parent's.

        Nobody would notice that a node has left for ever, since sockets are looked at only when they are used. So this
        is the moment to close such connections: nodes that come under new names lead here, too.
        """
        for known in [known for known, other in self._sockets.items() if other.connection.is_needless]:
            self._drop(known)
        require_descriptors(LINK_DESCRIPTORS + HANDSHAKE_DESCRIPTORS)
        context = self._context()
        host = reach(address, max(0.001, deadline - time.monotonic()))
        if self._is_inherited():
            return None
        connection = self._connection(address)
        socket, handshake = open_dealer(context, *host, key=connection.key)
        node_socket = self._sockets[address] = _NodeSocket(socket, handshake, connection, host)
        return node_socket

    def _drop(self, address: str) -> None:
        node_socket = self._sockets.pop(address, None)
        if node_socket is not None:
            node_socket.close()


def _receive_nothing() -> Frame:
    raise zmq.ZMQError(zmq.ENOTSOCK)


def _receive(node_socket: _NodeSocket) -> Callable[[], Frame]:
    """Receive once; return a function that does the same again, whatever came of it."""
    try:
        return partial(_return, node_socket.receive())
    except zmq.ZMQError as error:
        return partial(_fail, error)


def _return(frame: Frame) -> Frame:
    """Receive a frame again."""
    return frame


def _fail(error: zmq.ZMQError) -> Frame:
    """Fail to receive again."""
    raise error
