"""meshcache: a distributed cache for Python teams, a peer-to-peer mesh over ZeroMQ."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

from meshcache.errors import (
    AuthFailed,
    ClientClosed,
    ConfigError,
    InvalidKey,
    KeyMissing,
    LockNotOwned,
    MeshcacheError,
    NodeUnavailable,
    NotANumber,
    OperationError,
    OperationTimeout,
    Overloaded,
    ProtocolError,
    QueueFull,
    QueueUnusable,
    QuorumNotReached,
    SerializationError,
    UsageError,
    ValueTooLarge,
)

if TYPE_CHECKING:
    from meshcache.client import codec
    from meshcache.client.aio.client import AsyncClient
    from meshcache.client.arguments import DEFAULT, DO_NOT_CACHE, MISSING, Item
    from meshcache.client.blocking.client import Client
    from meshcache.client.subscription import Invalidation, InvalidationKind
    from meshcache.config import Config
    from meshcache.local.launcher import LocalMesh
    from meshcache.node.node import Node
    from meshcache.protocol.near_store import NearCache

__version__ = "0.1.0"

__all__ = [
    "DEFAULT",
    "DO_NOT_CACHE",
    "MISSING",
    "AsyncClient",
    "AuthFailed",
    "Client",
    "ClientClosed",
    "Config",
    "ConfigError",
    "InvalidKey",
    "Invalidation",
    "InvalidationKind",
    "Item",
    "KeyMissing",
    "LocalMesh",
    "LockNotOwned",
    "MeshcacheError",
    "NearCache",
    "Node",
    "NodeUnavailable",
    "NotANumber",
    "OperationError",
    "OperationTimeout",
    "Overloaded",
    "ProtocolError",
    "QueueFull",
    "QueueUnusable",
    "QuorumNotReached",
    "SerializationError",
    "UsageError",
    "ValueTooLarge",
    "codec",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES: Final = {
    "AsyncClient": "meshcache.client.aio.client",
    "Client": "meshcache.client.blocking.client",
    "Config": "meshcache.config",
    "DEFAULT": "meshcache.client.arguments",
    "DO_NOT_CACHE": "meshcache.client.arguments",
    "Invalidation": "meshcache.client.subscription",
    "InvalidationKind": "meshcache.client.subscription",
    "Item": "meshcache.client.arguments",
    "LocalMesh": "meshcache.local.launcher",
    "MISSING": "meshcache.client.arguments",
    "NearCache": "meshcache.protocol.near_store",
    "Node": "meshcache.node.node",
}
"""Imported when first used: a program that only wants the errors, or a node, does not pay for the rest."""


def __getattr__(name: str) -> Any:
    if name == "codec":
        return importlib.import_module("meshcache.client.codec")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
