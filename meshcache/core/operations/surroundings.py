"""What the requests of a node depend on beside the core: those who read the answers, and the node's former life."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Protocol

from meshcache.core.storage.store import Store
from meshcache.keys import ANYBODY, AllowedKey


class Readers:
    """What the driver knows of the connections that ask: by default, that all read what they are sent."""

    deaf: Container[bytes] = ()
    """Connections that do not read what they are sent; they are not served until they do."""
    bytes_left: int = 1 << 62
    """How much more can be sent to all connections together until some of it has been read."""

    def who(self, origin: bytes) -> AllowedKey:  # noqa: ARG002  (those who know of keys ask for it)
        """Return by which key a connection was let in."""
        return ANYBODY


class Serves(Protocol):
    """What knows whether the node serves clients."""

    @property
    def ready(self) -> bool:
        """Tell whether it does."""


class Past(Protocol):
    """What this node found in its snapshot, and the snapshots that it takes: see recall.py."""

    @property
    def found(self) -> Store | None:
        """The records found; None: not yet."""

    def status(self) -> dict[str, Any]:
        """Say how far it is with them."""

    def save(self) -> dict[str, Any]:
        """Have a snapshot taken; return the counts."""
