"""The clients that the backends of one process share.

Frameworks make a backend for each thread, each request or each name in the settings, and throw it away when they like;
connections must outlive that. So backends with the same arguments get the same client: one for threads, and one for
each event loop.

There is no lock: what is shared changes by single operations on dicts, which are atomic. A fork at any moment leaves
nothing held, and clients themselves know that they are in another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any, Final

from meshcache.client.aio.client import AsyncClient
from meshcache.client.blocking.client import Client

_clients: Final[dict[Hashable, Client]] = {}
_of_loops: Final[dict[Hashable, LoopClients]] = {}


class LoopClients:
    """The clients for asyncio with the same arguments: each belongs to one event loop.

    A loop that is closed leaves its client, and what that has learned of the mesh, to the next new loop. So there are
    never more clients than loops were open at the same time, also where each request has a loop of its own.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._by_loop: dict[asyncio.AbstractEventLoop, AsyncClient] = {}

    def __len__(self) -> int:
        return len(self._by_loop)

    def here(self) -> AsyncClient:
        """Return the client of the running event loop. Raises RuntimeError if none runs."""
        loop = asyncio.get_running_loop()
        client = self._by_loop.get(loop)
        if client is None:
            client = self._left_behind() or AsyncClient(**self._arguments)
            self._by_loop[loop] = client  # no other thread has this loop
        return client

    def _left_behind(self) -> AsyncClient | None:
        """Return the client of a loop that is closed."""
        for loop in list(self._by_loop):
            if loop.is_closed() and (client := self._by_loop.pop(loop, None)) is not None:
                return client
        return None


def shared_client(arguments: dict[str, Any]) -> Client:
    """Return this process's client with these arguments. Raises TypeError if one of them is not hashable."""
    key = _key(arguments)
    client = _clients.get(key)
    return _clients.setdefault(key, Client(**arguments)) if client is None else client


def shared_loop_clients(arguments: dict[str, Any]) -> LoopClients:
    """Return this process's clients for asyncio with these arguments."""
    return _of_loops.setdefault(_key(arguments), LoopClients(arguments))


def _key(arguments: dict[str, Any]) -> Hashable:
    for name, value in arguments.items():
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{name} must be hashable, so that the same client can be found again: {value!r:.80}"
            ) from None
    return tuple(sorted(arguments.items()))
