"""HTTP beside a node's loop: a thread of its own, which must not get in the way of that.

::

    accept --> receive a request --> answer it, perhaps when the node's loop has told --> send --> the next request
                 (h11 reads it)       (endpoints.py)

The thread shares the interpreter with the node's loop, and only one of them can run at a time. So it rests: of every
moment in which it worked it lets four pass (``WORK_SHARE``), however many ask. The rest is bounds. A connection has a
deadline for whatever it is waiting for; one that does not keep it is cut, with status 408 if it had begun a request.
There are ``connections_max`` at most: for one more, that one goes which has kept this node waiting longest. A request
has ``REQUEST_BYTES_MAX`` of head and no body, and the next one of a connection is not looked at before the answer to
the last has gone.

Everything here is read only, and told to whoever reaches the port, or brings a token (endpoints.py). No page of another
site can read it through a visitor's browser: no answer allows that.

With TLS a handshake comes before the first request. It is one of the things that a connection has a deadline for, and
goes on as far as what has arrived allows, so one that stands still holds up nobody.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import h11

from meshcache.address import join_address, split_address
from meshcache.config import HttpSettings
from meshcache.errors import ConfigError
from meshcache.sockets.wakeup import Wakeup

REQUEST_BYTES_MAX: Final = 16_384
"""Of a request's first line and its headers."""
IDLE_S_MAX: Final = 120.0
"""How long a connection may be silent between two requests: longer than scrapers pause."""
LINGER_S: Final = 1.0
"""How long the other side may take to close a connection, too, that this one has closed."""
READ_BYTES: Final = 16_384
ACCEPTS_PER_ROUND: Final = 16
BACKLOG: Final = 128
WORK_SHARE: Final = 0.2
"""Of a processor, at most."""
ASK_AGAIN_S: Final = 0.05
"""How often it is looked whether what waits can be answered, if nobody says so: its time may be over."""
REST_S_MAX: Final = 0.1
REST_S_MIN: Final = 0.0002
STOP_S_MAX: Final = 5.0
BIND_RETRY_S: Final = 0.05

METHODS: Final = (b"GET", b"HEAD")
_NOT_YET: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Request(NamedTuple):
    """What is asked."""

    path: str
    accept: str
    """What forms of an answer are welcome, as in the header of that name."""
    asked_at: float
    """Monotonic seconds."""
    authorization: bytes = b""
    """The header of that name; empty if there is none."""
    peer: str = ""
    """The address of who asks."""


class Response(NamedTuple):
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Answer = Callable[[Request, float], Response | None]
"""Answers a request, given the time; None: not yet, ask again when the node's loop has told or the time is over."""


def failure(status: int, error: str, detail: str, *headers: tuple[str, str]) -> Response:
    """Return an answer that says why there is no other."""
    return Response(status, json.dumps({"error": error, "detail": detail}).encode(), headers=headers)


def listen(
    address: str,
    wait_s: float = 0.0,
    pause: Callable[[float], object] = time.sleep,
    *,
    setting: str = "node.http",
) -> socket.socket:
    """Return a TCP socket that listens; the port may be taken for a moment, ``wait_s`` at most.

    Raises ConfigError if it fails; ``setting`` is what names the address.
    """
    host, port = split_address(address)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listener = socket.create_server(where[:2], family=family, backlog=BACKLOG)
        except OSError as error:
            if time.monotonic() < deadline:
                pause(BIND_RETRY_S)
                continue
            raise ConfigError(f"{setting}: cannot listen on {address}: {error.strerror or error}") from None
        listener.setblocking(False)
        return listener


class _Connection:
    """One connection: what it has said so far, what it is still to be told, and until when it has time for that."""

    def __init__(self, connected: socket.socket, peer: str, now: float, timeout_s: float) -> None:
        self.socket = connected
        self.peer = peer
        self.shakes_hands = isinstance(connected, ssl.SSLSocket)
        """It is not encrypted yet."""
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
        self.request: Request | None = None
        """What it asked and has not been answered."""
        self.method = b""
        self.unsent = b""
        self.began = False
        """Some of a request is there."""
        self.more = False
        """What it sent has not been looked at to the end."""
        self.closing = False
        """It is closed as soon as all is sent."""
        self.ended = False
        """All is sent, and it was told so: what still comes is thrown away, lest the system takes back the answer."""
        self.since = now
        """Since when it has kept this node waiting."""
        self.deadline = now + timeout_s

    @property
    def owes(self) -> bool:
        """Tell whether it is the other side's turn: to ask, or to take its answer."""
        return self.request is None


class HttpServer:
    """The thread that answers. ``start`` and ``close`` are called from the thread of the node's loop."""

    def __init__(
        self,
        listener: socket.socket,
        settings: HttpSettings,
        answer: Answer,
        name: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``name`` is that of the thread; without ``tls`` it speaks plain HTTP."""
        self.address = join_address(*listener.getsockname()[:2])
        self.cut = 0
        """Connections that were closed before they were answered: too many, or too slow."""
        self.answered: dict[int, int] = {}
        """By status."""
        self._listener = listener
        self._settings = settings
        self._answer = answer
        self._tls = tls
        self._wakeup = Wakeup()
        self.wake = self._wakeup
        """To be called when what is asked may be answered now."""
        self._selector = selectors.DefaultSelector()
        self._connections: dict[_Connection, None] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more, and free the port."""
        self._stopping = True
        self._wakeup()
        if self._thread.ident is not None:
            self._thread.join(STOP_S_MAX)
        for connection in tuple(self._connections):
            self._drop(connection)
        self._listener.close()
        self._selector.close()
        self._wakeup.close()

    # -- the loop ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup.fd, selectors.EVENT_READ)
        while not self._stopping:
            ready = self._selector.select(self._sleep_s())
            worked_s = time.thread_time()
            self._turn(ready)
            rest_s = (time.thread_time() - worked_s) * (1 / WORK_SHARE - 1)
            if rest_s > REST_S_MIN and not self._stopping:
                time.sleep(min(rest_s, REST_S_MAX))

    def _sleep_s(self) -> float | None:
        """Return how long there is nothing to do, if nothing happens."""
        connections = self._connections
        if not connections:
            return None
        if any(connection.more for connection in connections):
            return 0.0
        sleep_s = max(0.0, min(connection.deadline for connection in connections) - time.monotonic())
        waits = any(connection.request is not None for connection in connections)
        return min(sleep_s, ASK_AGAIN_S) if waits else sleep_s

    def _turn(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Connection):
                self._serve(key.data, self._step)
            else:
                self._wakeup.clear()
        now = time.monotonic()
        for connection in tuple(self._connections):
            if connection.more:
                self._serve(connection, self._next_request)
            elif connection.request is not None:
                self._serve(connection, self._try_to_answer)
            if now >= connection.deadline and connection in self._connections:
                self._serve(connection, self._out_of_time)

    def _serve(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        """Do something for a connection that may have been closed meanwhile, by either side."""
        if connection in self._connections:
            try:
                step(connection)
            except (OSError, h11.ProtocolError):
                self._drop(connection)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_ROUND):
            try:
                connected, where = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left, say: one of ours goes, and the rest of this turn bounds the tries
                self._cut_idlest()
                time.sleep(REST_S_MAX)
                return
            if len(self._connections) >= self._settings.connections_max and not self._cut_idlest():
                self.cut += 1
                connected.close()
                continue
            connected.setblocking(False)
            try:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    connected = self._tls.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it is gone already
                connected.close()
                continue
            connection = _Connection(connected, str(where[0]), time.monotonic(), self._settings.request_timeout_s)
            self._connections[connection] = None
            self._selector.register(connected, selectors.EVENT_READ, connection)

    def _cut_idlest(self) -> bool:
        """Cut the connection that has kept this node waiting longest; False if all wait for their answers."""
        idlest = min((one for one in self._connections if one.owes), key=lambda one: one.since, default=None)
        if idlest is None:
            return False
        self.cut += 1
        self._drop(idlest)
        return True

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.socket.close()

    def _wait_for(self, connection: _Connection, events: int) -> None:
        """Wait for this of a connection; 0: for nothing, until it is answered."""
        selector = self._selector
        if connection.socket.fileno() not in selector.get_map():
            if events:
                selector.register(connection.socket, events, connection)
        elif events:
            selector.modify(connection.socket, events, connection)
        else:
            selector.unregister(connection.socket)

    # -- one connection ------------------------------------------------------------------------------------

    def _step(self, connection: _Connection) -> None:
        """Go on with a connection that has sent something, or takes what it is sent."""
        if connection.shakes_hands:
            self._shake_hands(connection)
        elif connection.unsent:
            self._send(connection)
        else:
            self._receive(connection)

    def _shake_hands(self, connection: _Connection) -> None:
        assert isinstance(connection.socket, ssl.SSLSocket)
        try:
            connection.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._wait_for(connection, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(connection, selectors.EVENT_WRITE)
        else:
            connection.shakes_hands = False
            self._wait_for(connection, selectors.EVENT_READ)
            self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)  # that holds the largest record of TLS: nothing of one stays back
        except _NOT_YET:
            return
        if not data:
            self._drop(connection)
            return
        if connection.ended:
            return
        if not connection.began:
            connection.began = True
            connection.since = time.monotonic()
            connection.deadline = connection.since + self._settings.request_timeout_s
        connection.protocol.receive_data(data)
        self._next_request(connection)

    def _next_request(self, connection: _Connection) -> None:
        """Take the next request of what was received, if it is there as a whole."""
        connection.more = False
        try:
            event = connection.protocol.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            what = "Headers too large" if status == 431 else "Bad request"
            connection.closing = True
            self._send_answer(connection, failure(status, what, str(error)))
            return
        if not isinstance(event, h11.Request):
            return
        now = time.monotonic()
        wanted = {b"accept", b"authorization", b"content-length"}
        headers = {name: value for name, value in event.headers if name in wanted}
        # What has a body is answered at once, and its connection closed: none of ours needs one.
        connection.closing = headers.get(b"content-length", b"0") != b"0" or any(
            name == b"transfer-encoding" for name, _ in event.headers
        )
        if not connection.closing:
            connection.protocol.next_event()  # the end of the request
        connection.method = event.method
        connection.began = False
        refusal, path = self._check(event)
        if refusal is not None:
            self._send_answer(connection, refusal)
            return
        accept = headers.get(b"accept", b"").decode("latin-1")
        connection.request = Request(path, accept, now, headers.get(b"authorization", b""), connection.peer)
        connection.deadline = now + self._settings.request_timeout_s
        self._wait_for(connection, 0)
        self._try_to_answer(connection)

    @staticmethod
    def _check(event: h11.Request) -> tuple[Response | None, str]:
        """Return what is wrong with a request, and its path."""
        if event.method not in METHODS:
            detail = f"only GET and HEAD are served here, not {event.method.decode('latin-1')}"
            return failure(405, "Method not allowed", detail, ("Allow", "GET, HEAD")), ""
        try:
            return None, urlsplit(event.target.decode("ascii")).path
        except ValueError as error:
            return failure(400, "Bad request", f"the target of the request is no URL: {error}"), ""

    def _try_to_answer(self, connection: _Connection) -> None:
        request = connection.request
        response = None if request is None else self._answer(request, time.monotonic())
        if response is not None:
            self._send_answer(connection, response)

    def _send_answer(self, connection: _Connection, response: Response) -> None:
        connection.request = None
        self.answered[response.status] = self.answered.get(response.status, 0) + 1
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        if connection.closing:
            headers.append(("Connection", "close"))
        protocol = connection.protocol
        parts = [protocol.send(h11.Response(status_code=response.status, headers=headers))]
        if connection.method != b"HEAD":
            parts.append(protocol.send(h11.Data(data=response.body)))
        parts.append(protocol.send(h11.EndOfMessage()))
        connection.unsent = b"".join(part for part in parts if part)
        connection.since = time.monotonic()
        connection.deadline = connection.since + self._settings.request_timeout_s
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        with contextlib.suppress(*_NOT_YET):
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        if connection.unsent:
            self._wait_for(connection, selectors.EVENT_WRITE)
            return
        protocol = connection.protocol
        if connection.closing or protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
            if isinstance(connection.socket, ssl.SSLSocket):
                with contextlib.suppress(OSError):  # it says that this is the end, and need not wait for the same
                    connection.socket.unwrap()
            connection.socket.shutdown(socket.SHUT_WR)
            connection.ended = True
            connection.deadline = time.monotonic() + LINGER_S
        else:
            protocol.start_next_cycle()
            connection.method = b""
            connection.since = time.monotonic()
            # Requests that were sent without waiting for this answer are there already, or some of one.
            connection.began = connection.more = bool(protocol.trailing_data[0])
            wait_s = self._settings.request_timeout_s if connection.more else IDLE_S_MAX
            connection.deadline = connection.since + wait_s
        self._wait_for(connection, selectors.EVENT_READ)

    def _out_of_time(self, connection: _Connection) -> None:
        """Close a connection that was too slow; if it was slow to ask, say so."""
        if connection.began and not connection.unsent and not connection.closing:
            connection.closing = True
            limit_s = self._settings.request_timeout_s
            self._send_answer(
                connection, failure(408, "Request timeout", f"the request was not there within {limit_s:g} s")
            )
        self.cut += bool(connection.began or connection.unsent)
        self._drop(connection)
