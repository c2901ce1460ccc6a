"""The door of a node that changes over to keys: at one port, it takes those who encrypt and those who do not.

A socket of ZeroMQ listens either with CURVE or without. But a mesh that serves cannot change all its nodes and clients
at one moment, and they know a node by one address. So with ``security.permissive`` the node's sockets listen twice, at
ports of the loopback interface that the kernel chooses, once with CURVE and once without; and the door accepts at the
address of the node, sees what mechanism a peer greets with, and passes its bytes on to the one or to the other.

A greeting of ZMTP 3 (ZeroMQ RFC 23) has 64 bytes. A peer sends all of its own as soon as it has read the first eleven
of ours, and the mechanism is in it. The listening socket says the same eleven first, so they are left out of what it
says. Nothing else is changed, delayed, or even looked at.

This costs a thread with a loop of its own, two copies of each byte, and two descriptors more for each connection: it is
meant for the days of a change, and ``permissive = false`` ends it. Connections are bounded, and so are the bytes under
way: where one side does not read, the other is not read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from typing import Final

from meshcache.sockets.dialling import Host

GREETING_BYTES: Final = 64
GREETING_BEGINS: Final = b"\xff" + bytes(7) + b"\x01\x7f\x03"
"""The signature, and the version, as every libzmq says them first."""
MECHANISM: Final = slice(12, 32)
CURVE: Final = b"CURVE"
GREETING_S: Final = 3.0
"""How long a peer may take for its greeting."""
CHUNK_BYTES: Final = 1 << 16
CONNECTIONS_MAX: Final = 4096
BACKLOG: Final = 512
CLOSE_S: Final = 2.0


class Doorway:
    """Accepts at one address, in a thread, and passes on to the socket that listens as the peer speaks."""

    def __init__(self, listener: socket.socket, plain: Host, encrypted: Host, name: str) -> None:
        """``listener`` is bound, and belongs to the doorway from now on."""
        self._listener = listener
        self._plain = plain
        self._encrypted = encrypted
        self._connections: set[asyncio.Task[None]] = set()
        self.without_key: deque[str] = deque(maxlen=CONNECTIONS_MAX)
        """The hosts of those who came without a key, until the node has taken note: they are still to change."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and close every connection."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        loop = self._loop
        try:
            loop.run_until_complete(
                asyncio.start_server(self._enter, sock=self._listener, backlog=BACKLOG, limit=CHUNK_BYTES)
            )
            loop.run_forever()
            loop.run_until_complete(self._dismiss_all())
        finally:
            self._listener.close()
            loop.close()

    async def _dismiss_all(self) -> None:
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._connections.add(task)
        try:
            # Only close() cancels; asyncio's streams of Python 3.11 take that for an error of their own.
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See how a peer greets, and be its connection to the socket that listens like that until one side ends."""
        writer.write(GREETING_BEGINS)
        async with asyncio.timeout(GREETING_S):
            greeting = await reader.readexactly(GREETING_BYTES)
            encrypts = greeting[MECHANISM].rstrip(b"\0") == CURVE
            if not encrypts:
                self.without_key.append(str(writer.get_extra_info("peername", ("unknown",))[0]))
            inner_reader, inner_writer = await asyncio.open_connection(
                *(self._encrypted if encrypts else self._plain), limit=CHUNK_BYTES
            )
        try:
            inner_writer.write(greeting)
            async with asyncio.timeout(GREETING_S):  # to what is no greeting at all, libzmq may say something else
                await inner_reader.readexactly(len(GREETING_BEGINS))
            ways = [_copy(reader, inner_writer), _copy(inner_reader, writer)]
            both = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in both:
                    way.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            inner_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy what comes until it ends; wait where the other side does not read."""
    while told := await reader.read(CHUNK_BYTES):
        writer.write(told)
        await writer.drain()
