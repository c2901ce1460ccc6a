"""The asyncio driver's I/O: plain ZeroMQ sockets in the caller's event loop, and one message per node and turn.

Calls posted in one turn of the loop wait for its end; then those of one node that agree in kind and options leave as
one message, or sooner, when it is full. A task costs no timer and no system call of its own: one timer of 20 ms, that
runs only while something is under way, looks after deadlines and broken connections.

The file descriptor of a ZeroMQ socket shows only once that the socket's state may have changed. So after every wake-up
and every send the state is read again, and the timer reads it, too.

Thousands of tasks can keep the loop busy for longer than a call may take. What follows from that:

- A deadline is judged only when all that has arrived was read, and an attempt counts from when it leaves.
- Delays that a busy loop has caused count against no node, and break no connection. *Attended time*
  (``Mux.attended_s``) measures how long the loop waited for a connection or a greeting: it stands still while the loop
  is too busy to run its timer.
- A limited number of requests is under way on a connection, and fewer where a node has too many (windows.py). The
  others wait here, where further calls join them, and are dropped unsent when hardly any time of their caller is left:
  else a node would work through requests for which nobody waits.
- Answers, and even more failures, wake tasks that take the loop's time: so one turn gives a limited number of them
  (outcomes.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from meshcache.client.aio.dialling import reached
from meshcache.client.aio.messages import AttemptMessage, Message
from meshcache.client.aio.outcomes import AnyMessage, Outcomes
from meshcache.client.aio.pending import Pending
from meshcache.client.arguments import MISSING
from meshcache.client.connection import (
    CALLS_MAX,
    FAIR_SHARE,
    GREETING,
    Attempt,
    Batch,
    Call,
    Connection,
    Outcome,
    Unsendable,
)
from meshcache.client.failure import (
    CONNECTION_LOST,
    NO_CONNECTION,
    NO_GREETING,
    NO_REPLY,
    NO_TIME,
    NO_TIME_TO_ANSWER,
    NO_TURN,
    NOT_GREETED,
    Failure,
    denied,
    not_connected,
)
from meshcache.client.flights import Flights
from meshcache.client.frames import frames
from meshcache.client.routing import Routing
from meshcache.errors import ProtocolError
from meshcache.protocol.messages import Welcome
from meshcache.protocol.wire import Frame
from meshcache.sockets.allocator import LARGE_FRAME_BYTES, expect_large_blocks
from meshcache.sockets.context import LINK_DESCRIPTORS, Context, end_context, open_context
from meshcache.sockets.curve import HANDSHAKE_DESCRIPTORS, HandshakeWatch
from meshcache.sockets.dealer import NOBLOCK, READABLE, WRITABLE, open_dealer, receiver, sender, state_reader
from meshcache.sockets.descriptors import as_os_error, require_descriptors
from meshcache.sockets.dialling import CONNECT_S, Host, shun

TICK_S: Final = 0.02
LAG_S: Final = 0.05
"""If the timer runs later than this, the loop is too busy to notice what happens in time."""
FRAMES_PER_TURN: Final = 256
FRAMES_PER_TICK: Final = 4096
UNDER_WAY_MAX: Final = 256
"""How many requests are under way on one connection at a time. More would only wait at the node, or fill the socket,
which then looks dead."""
PARKED_MAX: Final = 1024
"""The same for requests that may be parked at the node; all together are fewer than a socket's queue takes."""


def _key_of(attempt: Attempt) -> tuple[Any, ...]:
    """Return what attempts must have in common to be sent in one message."""
    return (attempt.operation.kind, attempt.allowance_s, *attempt.fields[:3])


class _NodeSocket:
    """The socket to one node and the protocol's side of it; also while it is being opened, or closed."""

    def __init__(self, mux: Mux, address: str) -> None:
        self.address = address
        self.open: dict[tuple[Any, ...], AnyMessage] = {}
        """Messages of this turn that further calls can still join."""
        self.lines: tuple[deque[AnyMessage], deque[AnyMessage]] = (deque(), deque())
        """Messages to be sent; the second line is for requests that may be parked, which must not delay the others."""
        self.under_way: dict[int, AnyMessage] = {}
        self._under_way_counts = [0, 0]
        """How many of each line are under way."""
        self._attempts_under_way = 0
        self._mux = mux
        self._connection = mux.connection(address)
        self._socket: zmq.Socket[bytes] | None = None
        self._handshake: HandshakeWatch | None = None
        """Until it has succeeded."""
        self._fd = -1
        self._host: Host | None = None
        self._connected = False
        self._step_since = 0.0
        """Since when it has been connecting, or waiting for its greeting, in attended time."""
        self._heard_at = 0.0
        """When something came from the node, in attended time."""
        self._opening: asyncio.Task[None] | None = None

    def flush(self) -> None:
        """Send what is queued; first connect and greet where that is needed."""
        if self._socket is None:
            self._begin_to_wait()
            if self._opening is None:
                self._step_since = self._mux.attended_s()
                self._opening = self._mux.loop.create_task(self._open())
            return
        self.send()
        self.on_event()

    def send(self) -> None:
        """Send the messages that may be sent now; calls can still join those that may not."""
        socket = self._socket
        if socket is None or not self._connection.ready:
            self._begin_to_wait()
            return
        now, window = self._mux.clock(), self._connection.routing.windows.limit(self.address)
        for line, limit in ((0, min(window, UNDER_WAY_MAX)), (1, PARKED_MAX)):
            queue = self.lines[line]
            while queue and self._under_way_counts[line] < limit:
                message = self._next(queue, now)
                if message is None:
                    continue
                try:
                    number, frame = message.write(self._connection, now)
                except Exception as error:  # noqa: BLE001  (whatever its fields are: it must not stop the others)
                    self._set_aside(message, error)
                    continue
                if frame is None:
                    self._mux.outcomes.deliver(message, None)
                    continue
                if len(frame) >= LARGE_FRAME_BYTES:
                    expect_large_blocks()
                try:
                    self._send(frame, NOBLOCK)
                except zmq.ZMQError:
                    # The connection broke since its last use. Perhaps the node is back already: connect anew, nothing
                    # of this was sent.
                    queue.appendleft(message)
                    self._disconnect(CONNECTION_LOST)
                    self._requeue()
                    return
                self.under_way[number] = message
                self._under_way_counts[line] += 1
                self._attempts_under_way += type(message) is AttemptMessage
            if queue:
                self._wait_for_turns(queue)

    def _next(self, queue: deque[AnyMessage], now: float) -> AnyMessage | None:
        """Take a message that is to be sent, without the calls for which that is too late; None if none is left."""
        message: AnyMessage | None = queue.popleft()
        assert message is not None
        if self.open.get(message.key) is message:
            del self.open[message.key]
        message.shut()
        late: AnyMessage | None = None
        if message.until <= now or not message.is_wanted():
            late, message = message, None
        elif message.waits_since:
            late, message = message.parted(now)
        if late is not None:
            self._mux.outcomes.deliver(late, NO_TIME)
        return message

    def _begin_to_wait(self) -> None:
        """Note since when the queued messages have waited for a connection; no call can join them any more."""
        self._shut_open()
        for queue in self.lines:
            self._wait_for_turns(queue)

    def _shut_open(self) -> None:
        """Let no call join any message that is queued."""
        for message in self.open.values():
            message.shut()
        self.open.clear()

    def _wait_for_turns(self, queue: deque[AnyMessage]) -> None:
        """Note since when these messages have waited because enough are under way; calls still join the latest."""
        for message in reversed(queue):
            if message.waits_since:
                break
            message.waits_since = self._mux.attended_s()

    def _on_readable(self) -> None:
        self._mux.outcomes.take_in(self.on_event)

    def on_event(self, frames_max: int = FRAMES_PER_TURN) -> bool:
        """Take in what has arrived, and greet if that is needed; return False if there is more, for the next turn."""
        socket = self._socket
        try:
            while socket is not None:
                events = self._state()
                if events & READABLE:
                    if not frames_max:
                        self._mux.loop.call_soon(self._on_readable)
                        return False
                    frames_max -= 1
                    self._arrived(self._recv(NOBLOCK))
                elif not events & WRITABLE:
                    if self._connection.is_asked and not self._connection.ready:
                        self._fail(NOT_GREETED)
                    elif self._handshake is not None and (why := self._handshake.failure()) is not None:
                        self._fail(denied(why))
                    elif self._connected:
                        self._disconnect(CONNECTION_LOST)
                        self._requeue()
                    return True
                else:
                    self._connected = True
                    self._end_handshake()
                    connection = self._connection
                    if not connection.wants_greeting or not (connection.ready or self._is_needed()):
                        return True
                    self._step_since = self._mux.attended_s()
                    self._send(connection.hello(), NOBLOCK)
                socket = self._socket
        except ProtocolError as error:
            self._fail(Failure(sent=True, late=False, why=f"broke the protocol: {error}"))
        except zmq.ZMQError:
            self._disconnect(CONNECTION_LOST)
            self._requeue()
        return True

    def expire(self, now: float, attended_s: float) -> bool:
        """Fail the messages whose time is over; return True if anything is still under way."""
        was_ready = self._connection.ready
        if self.on_event(FRAMES_PER_TICK):
            for number, message in list(self.under_way.items()):
                if message.deadline <= now:
                    self._end(number)
                    self._connection.give_up(number, message.sent_at, is_fair=message.is_fair())
                    self._mux.outcomes.deliver(message, NO_REPLY if message.is_fair() else NO_TIME_TO_ANSWER)
        if was_ready and not self._connection.ready:
            self._step_since = attended_s
        for queue in self.lines:
            self._expire_queued(queue, now, attended_s)
        if self._connection.ready and self._is_needed():
            self._mux.schedule(self)
        greeting = self._connection.greeting
        has_waited = attended_s - self._step_since >= greeting.patience_s
        wanted = self._connection.is_asked if self._connection.ready else self._is_needed()
        if has_waited and wanted and self._socket is not None:
            greeting.note_replaced()
            self._disconnect(CONNECTION_LOST)
            self._requeue()
        return bool(self.under_way) or self._is_needed()

    def _expire_queued(self, queue: deque[AnyMessage], now: float, attended_s: float) -> None:
        """Fail queued messages that cannot be sent in time.

        Only a wait that this loop did not cause counts against the node.
        """
        ready = self._connection.ready
        since = self._heard_at if ready else self._step_since
        late: list[tuple[AnyMessage, Failure]] = []
        kept: list[AnyMessage] = []
        for message in queue:
            waited_s = attended_s - max(message.waits_since or attended_s, since)
            allowance_s = message.allowance_s
            if waited_s < allowance_s and message.until > now:
                kept.append(message)
            elif waited_s < FAIR_SHARE * allowance_s:
                late.append((message, NO_TIME))
            else:
                late.append((message, NO_TURN if ready else NO_GREETING if self._connected else NO_CONNECTION))
        if late:
            self._shut_open()
            queue.clear()
            queue.extend(kept)
            for message, failure in late:
                self._mux.outcomes.deliver(message, failure)

    def close(self) -> None:
        """Close the connection; all callers that wait learn that it is gone."""
        if self._opening is not None and not self._mux.loop.is_closed():
            self._opening.cancel()
        self._fail(CONNECTION_LOST)

    def _arrived(self, frame: Frame) -> None:
        self._heard_at = self._mux.attended_s()
        if self._attempts_under_way:
            if self._is_usual(frame):
                if self._is_needed():
                    self._mux.schedule(self)
                return
            for sent, attempts in self.under_way.items():
                if isinstance(attempts, AttemptMessage):
                    self._connection.expect(sent, attempts.batch.whole())
        for number, outcome in self._connection.accept(frame):
            if number != GREETING:
                message = self._end(number)
                if message is not None and not isinstance(outcome, Welcome):
                    self._mux.outcomes.deliver(message, outcome)
            elif isinstance(outcome, Failure):
                self._fail(outcome)
                return
        if self._is_needed():
            self._mux.schedule(self)

    def _is_usual(self, frame: Frame) -> bool:
        """Take a frame in if it is the usual answer to attempts."""
        connection = self._connection
        answer = frames.decode_reply(frame, connection.routing.digest, MISSING)
        if answer is None:
            return False
        number, values = answer
        message = self.under_way.get(number)
        if not isinstance(message, AttemptMessage) or not message.take(values):
            return False
        self._end(number)
        connection.forget(number, silent=False)
        connection.routing.windows.note_answer(self.address)
        connection.routing.succeeded(self.address, message.futures[-1].started, len(message.futures))
        self._mux.outcomes.deliver(message, None)
        return True

    def _end(self, number: int) -> AnyMessage | None:
        """Return the message that was under way with this number; it is under way no more."""
        message = self.under_way.pop(number, None)
        if message is not None:
            self._under_way_counts[message.line] -= 1
            self._attempts_under_way -= type(message) is AttemptMessage
        return message

    @property
    def is_ready(self) -> bool:
        """Whether requests can be sent at once."""
        return self._connection.ready

    @property
    def is_needless(self) -> bool:
        """Whether nobody waits for it, and its node has left."""
        return not self.under_way and not self._is_needed() and self._connection.is_needless

    def _is_needed(self) -> bool:
        """Tell whether anything is to be sent."""
        return bool(self.lines[0] or self.lines[1])

    def _set_aside(self, message: AnyMessage, error: Exception) -> None:
        """Fail a call that cannot be encoded, and no other call of the same message."""
        calls, queue = message.batch.calls, self.lines[message.line]
        if len(calls) == 1 or isinstance(message, AttemptMessage):
            self._mux.outcomes.deliver(message, Unsendable(error))
            return
        for call, future in zip(reversed(calls), reversed(message.futures), strict=True):
            queue.appendleft(Message(Batch(call), future))

    async def _open(self) -> None:
        """Connect. libzmq does not report a refused connection, so the kernel is asked first."""
        loop = self._mux.loop
        try:
            require_descriptors(LINK_DESCRIPTORS + HANDSHAKE_DESCRIPTORS)
            context = self._mux.context()
            async with asyncio.timeout(CONNECT_S):
                self._host = await reached(self.address)
            self._socket, self._handshake = open_dealer(context, *self._host, key=self._connection.key)
        except OSError as error:
            self._fail(not_connected(as_os_error(error)))
            return
        finally:
            self._opening = None
        self._send, self._recv = sender(self._socket), receiver(self._socket)
        self._state = state_reader(self._socket)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._on_readable)
        self.on_event()

    def _requeue(self) -> None:
        """Send what was not sent yet over a new connection."""
        if self._is_needed():
            self._mux.schedule(self)

    def _fail(self, failure: Failure) -> None:
        """Close the connection, and tell all callers why."""
        self._shut_open()
        queued = [message for queue in self.lines for message in queue]
        for queue in self.lines:
            queue.clear()
        self._disconnect(failure)
        self._mux.outcomes.fail(queued, failure._replace(sent=False))

    def _disconnect(self, failure: Failure) -> None:
        """Close the socket and drop the requests under way on it; the next use opens a new one."""
        socket, self._socket = self._socket, None
        if socket is not None and not self._connection.ready and self._host is not None:
            shun(self._host)
        if socket is not None:
            if self._fd >= 0 and not self._mux.loop.is_closed():
                self._mux.loop.remove_reader(self._fd)
            self._fd = -1
            self._end_handshake()
            socket.close(0)
        self._connection = self._mux.connection(self.address)
        self._connected = False
        under_way, self.under_way = self.under_way, {}
        self._under_way_counts = [0, 0]
        self._attempts_under_way = 0
        self._mux.outcomes.fail(under_way.values(), failure)

    def _end_handshake(self) -> None:
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.end()


class Mux:
    """The multiplexer: all connections of one event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: Callable[[str], Connection], routing: Routing
    ) -> None:
        self.loop = loop
        self.clock = routing.clock
        self.pid = os.getpid()
        self.connection = connection
        self._context: Context | None = None
        self.flights = Flights(contextlib.nullcontext())
        self._routing = routing
        self._sockets: dict[str, _NodeSocket] = {}
        self._touched: dict[_NodeSocket, None] = {}
        self.outcomes = Outcomes(loop)
        self._stood_still_s = 0.0
        self._ticks_at = 0.0
        self._ticking = False
        self._closed = False

    def post(self, call: Call) -> asyncio.Future[Outcome]:
        """Return the future outcome of a call, which is sent at the end of this turn."""
        node_socket = self._sockets.get(call.address)
        if node_socket is None:
            self._drop_needless()
            node_socket = self._sockets[call.address] = _NodeSocket(self, call.address)
        future: asyncio.Future[Outcome] = self.loop.create_future()
        key = (call.request.kind, call.request.options, call.allowance_s)
        message = node_socket.open.get(key)
        if isinstance(message, Message) and message.batch.join(call, self._routing.settings.small_bytes):
            message.futures.append(future)
            if len(message.futures) == CALLS_MAX:
                node_socket.send()
            return future
        node_socket.open[key] = message = Message(Batch(call), future, key)
        node_socket.lines[message.line].append(message)
        if node_socket not in self._touched:
            self.schedule(node_socket)
        return future

    def ask(self, attempts: list[Attempt]) -> list[Pending] | None:
        """Return what each attempt will come to, values or ``Tried``; None if one can not be sent at once."""
        sockets = self._sockets
        for attempt in attempts:
            node_socket = sockets.get(attempt.address)
            if node_socket is None or not node_socket.is_ready:
                return None
        return [self._ask(attempt, sockets[attempt.address]) for attempt in attempts]

    def _ask(self, attempt: Attempt, node_socket: _NodeSocket) -> Pending:
        pending = Pending(self.loop, attempt, None, attempt.started)
        message = self._joinable(attempt, node_socket)
        if not message.join(attempt, pending):
            message = self._begin(attempt, node_socket)
            message.join(attempt, pending)
        if len(message.futures) == CALLS_MAX:
            node_socket.send()
        return pending

    def begin(self, attempt: Attempt, address: str, started: float) -> Any:
        """Return the gathering which single gets like this one can join; None if one can not be sent at once."""
        node_socket = self._sockets.get(address)
        if node_socket is None or not node_socket.is_ready:
            return None
        fields = (*attempt.fields[:-1], self._routing.settings.small_bytes)
        first = attempt._replace(address=address, started=started, until=started + attempt.until, fields=fields)
        message = self._joinable(first, node_socket)
        if not message.has_room(1):
            message = self._begin(first, node_socket)
        message.until = min(message.until, first.until)
        return message.gathering

    def full(self, address: str) -> None:
        """Send what is to be sent to a node: a message has the most calls."""
        node_socket = self._sockets.get(address)
        if node_socket is not None:
            node_socket.send()

    def _joinable(self, attempt: Attempt, node_socket: _NodeSocket) -> AttemptMessage:
        """Return the open message of attempts like this one, or a new one."""
        message = node_socket.open.get(_key_of(attempt))
        return message if isinstance(message, AttemptMessage) else self._begin(attempt, node_socket)

    def _begin(self, attempt: Attempt, node_socket: _NodeSocket) -> AttemptMessage:
        """Begin a message of attempts like this one, and let no more join the one before."""
        key = _key_of(attempt)
        if key in node_socket.open:
            node_socket.open[key].shut()
        node_socket.open[key] = message = AttemptMessage(attempt, self.loop, key)
        node_socket.lines[0].append(message)
        if node_socket not in self._touched:
            self.schedule(node_socket)
        return message

    def _drop_needless(self) -> None:
        """Forget the nodes that have left for ever: another one, asked for the first time, is the sign of a change."""
        for address, node_socket in list(self._sockets.items()):
            if node_socket.is_needless and node_socket not in self._touched:
                del self._sockets[address]
                node_socket.close()

    def attended_s(self) -> float:
        """Return the attended time: it passes only while the loop runs its timers in time."""
        return self.clock() - self._stood_still_s

    def schedule(self, node_socket: _NodeSocket) -> None:
        """Have a connection flushed at the end of this turn."""
        if self._closed:
            return
        if not self._touched:
            self.loop.call_soon(self._flush)
        self._touched[node_socket] = None

    def close(self) -> None:
        """Close every connection."""
        if self._closed or self.pid != os.getpid():
            return
        self._closed = True
        for node_socket in self._sockets.values():
            node_socket.close()
        self._sockets.clear()
        self.outcomes.end()
        context, self._context = self._context, None
        if context is not None:
            end_context(context)

    def context(self) -> Context:
        """Return the ZeroMQ context; the first connection makes it. Raises OSError."""
        if self._context is None:
            self._context = open_context()
        return self._context

    def _flush(self) -> None:
        touched, self._touched = self._touched, {}
        self.outcomes.begin_turn()
        for node_socket in touched:
            node_socket.flush()
        self._keep_ticking()

    def _keep_ticking(self) -> None:
        if not self._ticking and not self._closed:
            self._ticking = True
            self._ticks_at = self.clock() + TICK_S
            self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._closed:
            return
        now = self.clock()
        lag_s = max(0.0, now - self._ticks_at - LAG_S)
        self._stood_still_s += lag_s
        self.outcomes.begin_turn()
        attended_s = self.attended_s()
        busy = [node_socket.expire(now, attended_s) for node_socket in list(self._sockets.values())]
        self._routing.lag_s = lag_s if any(busy) else 0.0
        if any(busy):
            self._keep_ticking()
