"""Accepts connections, and hands each over as soon as its TLS handshake is done.

A connection that does not get so far takes little, but anybody can open many. So the time of a handshake is bounded,
and how many are under way at once: one more takes the place of the oldest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from typing import Final

HANDSHAKE_S: Final = 5.0
GOODBYE_S: Final = 2.0
"""How long the other side may take to say that it closes, too."""
HANDSHAKES_MAX: Final = 128
ACCEPT_AGAIN_S: Final = 0.1
"""After an error: no descriptor is left, say."""


class EncryptedListener:
    """Listens at a socket, for as long as the loop runs or until it is closed."""

    def __init__(
        self, listener: socket.socket, tls: ssl.SSLContext, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """``protocol`` makes what serves one connection."""
        listener.setblocking(False)
        self._listener = listener
        self._tls = tls
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._handshakes: dict[asyncio.Task[None], None] = {}
        """The oldest first."""
        self._unbegun: set[socket.socket] = set()
        """Connections that no transport owns yet: a task that is cancelled too soon never comes to close its own."""
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more, and give up handshakes that are under way."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                connected, _ = await self._loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if len(self._handshakes) >= HANDSHAKES_MAX:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            self._unbegun.add(connected)
            task = self._loop.create_task(self._shake_hands(connected))
            self._handshakes[task] = None
            task.add_done_callback(functools.partial(self._forget, connected))

    def _forget(self, connected: socket.socket, handshake: asyncio.Task[None]) -> None:
        self._handshakes.pop(handshake, None)
        if connected in self._unbegun:
            self._unbegun.remove(connected)
            connected.close()

    async def _shake_hands(self, connected: socket.socket) -> None:
        self._unbegun.remove(connected)
        connected.setblocking(False)
        with contextlib.suppress(OSError):  # what is no TLS, or too slow, or gone, gets no answer
            await self._loop.connect_accepted_socket(
                self._protocol,
                connected,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
