"""The gateway's HTTP server: uvicorn, with bounds on what a connection may take before the application sees a request.

The application bounds bodies and its own work. What it never sees is bounded here, for each connection:

    header of a request         within HEADER_S, and HEADER_BYTES_MAX long: 408, 431
    rest of a refused body      read and thrown away for DISCARD_S; so that the refusal arrives
    framing around a body       chunks and trailers, FRAMING_BYTES_MAX and some for each byte of the body: 431
    pipelined requests          PIPELINED_MAX that wait: 400
    an answer that nobody reads less than READ_BYTES_MIN in WRITE_S, or the most of WAITING_BYTES_MAX for all: cut
    an idle connection          IDLE_S
    a handshake of TLS          see encrypted.py

and for all together ``connections_max``: one more takes the place of the connection that has sent nothing whole for
longest, or is refused with 503 where all are being served.

On SIGTERM or SIGINT the server takes no more connections, ends those that are idle, answers the requests at hand within
STOP_S, and returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from meshcache.address import join_address
from meshcache.client.aio.client import AsyncClient
from meshcache.errors import ConfigError
from meshcache.gateway.answers import json_bytes
from meshcache.gateway.app import Gateway
from meshcache.gateway.encrypted import EncryptedListener
from meshcache.web.tokens import Tokens

HEADER_S: Final = 5.0
HEADER_BYTES_MAX: Final = 16 << 10
HEADERS_MAX: Final = 100
DISCARD_S: Final = 2.0
FRAMING_BYTES_MAX: Final = 64 << 10
FRAMING_PER_BYTE_MAX: Final = 8
"""A chunk of one byte has five more around it."""
PIPELINED_MAX: Final = 32
WRITE_S: Final = 10.0
READ_BYTES_MIN: Final = 64 << 10
"""What a client must have read in that time."""
WAITING_BYTES_MAX: Final = 64 << 20
IDLE_S: Final = 60.0
CONNECTIONS_MAX: Final = 512
STOP_S: Final = 10.0


class Refused(Exception):
    """Raised while a request is being parsed: it ends the connection."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Outlet:
    """A transport that drops what is written to it when it is closing.

    A connection may break, or be cut, in the midst of an answer. uvloop tells so in the next turn of its loop, and
    until then it takes what is written for a mistake of who writes, and raises RuntimeError.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Write, if somebody may read it."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """One connection, within its bounds."""

    connections_max = CONNECTIONS_MAX

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        """For what the client has to do next: send a header, the rest of a body that nobody wants, or read."""
        self._in_header = True
        self._message_whole = True
        self._refused: Refused | None = None
        self._header_bytes = 0
        self._framing_bytes = 0
        self._body_bytes = 0
        self._reading_slowly: asyncio.TimerHandle | None = None
        self._ended = False
        """The last has been said; what still comes is thrown away."""
        self.idle_since = self.loop.time()

    # ---- a connection comes and goes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it, or refuse it."""
        if len(self.connections) >= self.connections_max and not self._make_room():
            transport.write(_refusal(503, "Too many connections", "the gateway has as many as it serves at a time"))
            transport.close()
        super().connection_made(cast("asyncio.Transport", Outlet(transport)))
        self._set_deadline(HEADER_S, self._header_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._clear_deadline()
        self._stop_watching_reader()
        super().connection_lost(exc)

    def _make_room(self) -> bool:
        """End the connection that has been waiting for its client for longest; False if all are being served."""
        idle = [each for each in self.connections if isinstance(each, Connection) and each.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.idle_since)
        oldest.transport.abort()
        self.connections.discard(oldest)
        return True

    @property
    def is_idle(self) -> bool:
        """Tell whether no request of it is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    @property
    def _is_over(self) -> bool:
        return self._ended or self.transport.is_closing()

    # ---- what it sends

    def data_received(self, data: bytes) -> None:
        """Take what has come, within the bounds."""
        if self._is_over:
            return
        if self._in_header:
            self._header_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        super().data_received(data)
        if self._is_over:
            return
        if self._in_header and not self._message_whole and self._deadline is None:
            self._set_deadline(HEADER_S, self._header_is_late)
        if self._in_header and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(Refused(431, f"a header may take {HEADER_BYTES_MAX:,} bytes"))
        elif self._framing_bytes - self._body_bytes > FRAMING_BYTES_MAX + FRAMING_PER_BYTE_MAX * self._body_bytes:
            self._refuse(Refused(431, "the body has more around it than in it"))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_header, self._message_whole = True, False
        self._framing_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Refuse what no URL contains: it would be dropped, and another key be meant."""
        if b"#" in url:
            self._fail(Refused(400, "a path has no #; as part of a key it is %23"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count it; trailers are headers too, and nobody wants them."""
        if not self._in_header:
            return
        if len(self.headers) >= HEADERS_MAX:
            self._fail(Refused(431, f"a request may have {HEADERS_MAX} headers"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The header is whole: the application may begin."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEADER_BYTES_MAX:
            self._fail(Refused(431, f"a header may take {HEADER_BYTES_MAX:,} bytes"))
        if not self.url.startswith(b"/"):
            self._fail(Refused(400, "a request names a path, which begins with a slash"))
        if len(self.pipeline) >= PIPELINED_MAX:
            self._fail(Refused(400, f"at most {PIPELINED_MAX} requests may wait on a connection"))
        self._in_header = False
        self._header_bytes = 0
        self._clear_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count it."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        super().on_message_complete()
        self._message_whole = self._in_header = True
        if self.cycle.response_complete:
            self._clear_deadline()

    def on_response_complete(self) -> None:
        """An answer is out; of a request that was refused, the rest may still come."""
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if self._message_whole or self.pipeline or self.transport.is_closing():
            return
        if self._in_header:
            self._set_deadline(HEADER_S, self._header_is_late)
        elif self.expect_100_continue:  # it may send its body, or its next request, and nothing tells which
            self.transport.close()
        else:
            self._set_deadline(DISCARD_S, self.transport.close)

    # ---- what it reads

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        super().pause_writing()
        waiting = [each for each in self.connections if isinstance(each, Connection) and each.unread_bytes]
        if sum(each.unread_bytes for each in waiting) > WAITING_BYTES_MAX:
            max(waiting, key=lambda each: each.unread_bytes).transport.abort()
        self._stop_watching_reader()
        self._watch_reader(self.unread_bytes)

    def resume_writing(self) -> None:
        """It has read."""
        self._stop_watching_reader()
        super().resume_writing()

    @property
    def unread_bytes(self) -> int:
        """Of what was written."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def _watch_reader(self, unread_bytes: int) -> None:
        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left > unread_bytes - READ_BYTES_MIN:
                self.transport.abort()
            else:
                self._watch_reader(left)

        self._reading_slowly = self.loop.call_later(WRITE_S, look)

    def _stop_watching_reader(self) -> None:
        if self._reading_slowly is not None:
            self._reading_slowly.cancel()
            self._reading_slowly = None

    def timeout_keep_alive_handler(self) -> None:
        """It has been idle for too long. If it has not even read, closing would wait for that."""
        if self.unread_bytes:
            self.transport.abort()
        super().timeout_keep_alive_handler()

    # ---- deadlines and refusals

    def _set_deadline(self, seconds: float, what: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, what)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _header_is_late(self) -> None:
        self._deadline = None
        if self.is_idle:
            self._refuse(Refused(408, f"a header must arrive within {HEADER_S:g} s"))

    def _fail(self, refused: Refused) -> None:
        """Refuse a request from within the parser, which stops at an error."""
        self._refused = refused
        raise refused

    def _refuse(self, refused: Refused) -> None:
        self._refused = refused
        self.send_400_response(refused.detail)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or beyond a bound, and end the connection."""
        refused = self._refused or Refused(400, msg)
        self._ended = True
        if not self.is_idle:  # an answer is under way, and nothing may be put into it
            self.transport.close()
            return
        self.transport.write(_refusal(refused.status, HTTPStatus(refused.status).phrase, refused.detail))
        if self.transport.can_write_eof():  # closing at once would take back what was written, if more has come
            self.transport.write_eof()
        self._set_deadline(DISCARD_S, self.transport.abort)


def _refusal(status: int, error: str, detail: str) -> bytes:
    body = json_bytes({"error": error, "detail": detail})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\nconnection: close\r\nx-content-type-options: nosniff\r\n"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        head += "retry-after: 1\r\n"
    return head.encode() + b"\r\n" + body


class Server(uvicorn.Server):
    """The server, which ends in order."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], object],
        on_stop: Callable[[], object],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._on_ready = on_ready
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets if self._tls is None else [])
        if self._tls is not None:
            listeners = [EncryptedListener(each, self._tls, self._connection) for each in sockets or []]
            self.servers += cast("list[asyncio.Server]", listeners)  # all that is asked of them is to close
        self._on_ready()

    def _connection(self) -> Connection:
        parts = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        return Connection(**parts, _loop=asyncio.get_running_loop())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is at hand."""
        self._on_stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have signals end the server, and nothing else: the process is to exit with 0."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        for number in handled:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


def listen_at(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        where = join_address(host, port)
        raise ConfigError(f"--listen: can not listen at {where}: {error.strerror or error}") from None


def server_of(
    client: AsyncClient,
    names: Iterable[str],
    on_ready: Callable[[], object],
    *,
    allow_writes: bool = False,
    tokens: Tokens | None = None,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Return a server that serves until a signal comes, or ``should_exit`` is set.

    ``names`` are host names that it answers to, beside addresses. Without ``tls`` it speaks plain HTTP.
    """
    gateway = Gateway(
        client,
        names,
        connections=lambda: len(server.server_state.connections),
        allow_writes=allow_writes,
        tokens=tokens,
    )
    config = uvicorn.Config(
        gateway,
        http=Connection,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(IDLE_S),
        timeout_graceful_shutdown=int(STOP_S),
    )
    quiet = logging.getLogger("uvicorn")  # what goes wrong is logged by app.py; the rest is what strangers send
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    server = Server(config, on_ready, gateway.stop, tls)
    return server
