"""The client: what it decides is in this folder, pure; ``blocking`` (threads) and ``aio`` (asyncio) do the I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Find ``Client``, which programs may import from here; the modules in this folder do not need it."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from meshcache.client.blocking.client import Client  # noqa: PLC0415  (see above)

    return Client
