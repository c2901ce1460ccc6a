"""A gateway in a thread of the test, and HTTP as plain as a test may need it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from meshcache import AsyncClient
from meshcache.gateway import server as gateway_server

PATIENCE_S = 20.0
VALUE_BYTES_MAX = 100_000


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


class RunningGateway:
    def __init__(self, port: int, server: gateway_server.Server) -> None:
        self.port = port
        self.server = server

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def raw(self, request: bytes) -> list[Response]:
        """Send bytes, and return all responses until the gateway ends the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            return responses(until_end(connection))

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **more: str
    ) -> Response:
        """Ask once. A body that is no bytes is sent as JSON."""
        given = {"Host": self.host, "Connection": "close"} | (headers or {})
        given |= {name.replace("_", "-"): value for name, value in more.items()}
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            if not isinstance(body, bytes):
                given = {"Content-Type": "application/json"} | given
            given.setdefault("Content-Length", str(len(data)))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in given.items())
        (response,) = self.raw(head.encode("latin-1") + b"\r\n" + data)
        return response

    def put(self, path: str, value: Any, **headers: str) -> Response:
        return self.ask("PUT", path, {"value": value}, None, **headers)

    def get(self, path: str, **headers: str) -> Response:
        return self.ask("GET", path, None, None, **headers)


def until_end(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            data += part
    return data


def responses(data: bytes) -> list[Response]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in [line.partition(": ") for line in lines]}
        size = int(headers.get("content-length", 0)) if "transfer-encoding" not in headers else len(data)
        found.append(Response(int(first.split()[1]), headers, data[:size]))
        data = data[size:]
    return found


@contextlib.contextmanager
def running_gateway(
    at: str, names: tuple[str, ...] = (), timeout_s: float = 5.0, **secured: Any
) -> Iterator[RunningGateway]:
    """Run a gateway over the mesh at an address. ``secured``: its tokens, or TLS."""
    listener = gateway_server.listen_at("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # so that what is not read is soon noticed
    ready, servers = threading.Event(), list[gateway_server.Server]()

    async def serve() -> None:
        async with AsyncClient(at, timeout=timeout_s) as client:
            server = gateway_server.server_of(client, names, ready.set, **secured)
            servers.append(server)
            await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="gateway")
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield RunningGateway(listener.getsockname()[1], servers[0])
    finally:
        servers[0].should_exit = True
        thread.join(PATIENCE_S)
        listener.close()
        assert not thread.is_alive()
