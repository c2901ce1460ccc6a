"""The socket under the invalidation streams: one SUB, connected to every member, for either driver.

One socket is enough: frames name their node, those of one node keep their order, and each connection has a queue of its
own. After a break libzmq connects again by itself (and asks for the stream again as soon as the driver looks at the
socket, which both drivers do every 0.1 s at least); the numbers of the stream show what was missed.
"""

from __future__ import annotations

import zmq

from meshcache.address import join_address
from meshcache.keys import SecretKey
from meshcache.sockets.context import Context, end_context, open_context
from meshcache.sockets.curve import dialling
from meshcache.sockets.descriptors import as_os_error
from meshcache.sockets.options import set_options, subscriber


class Subscriber:
    """A SUB socket and the addresses that it is connected to, as given and as resolved."""

    def __init__(self, context: Context | None = None, key: SecretKey | None = None) -> None:
        """Open the socket, in this context or, if there is none, in one of its own. Raises OSError.

        ``key``: by which it proves to all nodes who it is.
        """
        found = context or open_context()
        self._own_context = found if context is None else None
        try:
            self.socket: zmq.Socket[bytes] = found.socket(zmq.SUB)
        except zmq.ZMQError as error:
            self._end_context()
            raise as_os_error(error) from None
        set_options(self.socket, {**subscriber(), **dialling(key)})
        self._connected: dict[str, str] = {}

    def missing(self, wanted: list[str]) -> list[str]:
        """Disconnect from addresses that are not wanted any more; return those that are wanted and not connected."""
        for address in [address for address in self._connected if address not in wanted]:
            self.disconnect(address)
        return [address for address in wanted if address not in self._connected]

    def connect(self, address: str, found: tuple[str, int]) -> None:
        """Connect to an address, which was resolved to a numeric host and a port."""
        if address not in self._connected:
            endpoint = f"tcp://{join_address(*found)}"
            self.socket.connect(endpoint)
            self._connected[address] = endpoint

    def disconnect(self, address: str) -> None:
        """Drop a connection and what is queued on it."""
        endpoint = self._connected.pop(address, None)
        if endpoint is not None and endpoint not in self._connected.values():
            self.socket.disconnect(endpoint)

    def close(self) -> None:
        """Close the socket, and its context if it has one of its own."""
        self._connected.clear()
        self.socket.close(0)
        self._end_context()

    def _end_context(self) -> None:
        context, self._own_context = self._own_context, None
        if context is not None:
            end_context(context)
