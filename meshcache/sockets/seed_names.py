"""Looks the names of seeds up again and again: a name may stand for many nodes, and they change.

The headless service of a Kubernetes StatefulSet is such a name: it has one address for each pod. So has a DNS name with
several A records. All of them are seeds, and what is new behind the name is dialled within ``AGAIN_S``.

One machine often has an address of each family, so only hosts of one family are counted: those of IPv4 if there are
any. What a look-up found stays until another one finds something: a name server that is away changes nothing. One
thread looks up all names of a node, one after the other, since a look-up cannot be interrupted; a node without names
has no such thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from meshcache.address import join_address
from meshcache.sockets.dialling import Host, hosts_of, numeric

AGAIN_S: Final = 5.0
AGAIN_FAILED_S: Final = 1.0
"""When to look up again where a name was not found: a mesh may be starting at this moment."""


def of_one_family(hosts: list[Host]) -> list[str]:
    """Return the addresses of the nodes behind a name, in a fixed order."""
    ipv4 = [host for host in hosts if ":" not in host[0]]
    return sorted(join_address(*host) for host in ipv4 or hosts)


class SeedNames:
    """The seeds of one node that are names. ``wake`` is called, from a thread, when the hosts of one have changed."""

    def __init__(self, seeds: Iterable[str], wake: Callable[[], None]) -> None:
        self.found: deque[tuple[str, list[str]]] = deque()
        """Seeds, and the addresses for which they stand, for the node's thread to take."""
        self._names = [seed for seed in seeds if numeric(seed) is None]
        self._wake = wake
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to look up, if there is any name."""
        if self._names:
            threading.Thread(target=self._run, name="meshcache-seeds", daemon=True).start()

    def close(self) -> None:
        """Look up no more. A thread in the middle of a look-up ends after it."""
        self._closed.set()

    def _run(self) -> None:
        known: dict[str, list[str]] = {}
        while True:
            for name in self._names:
                try:
                    hosts = of_one_family(hosts_of(name))
                except (OSError, ValueError):  # ValueError: a name that cannot even be encoded
                    continue
                if self._closed.is_set():
                    return
                if hosts and known.get(name) != hosts:
                    known[name] = hosts
                    self.found.append((name, hosts))
                    self._wake()
            if self._closed.wait(AGAIN_S if len(known) == len(self._names) else AGAIN_FAILED_S):
                return
