"""Which store a node has: the native one where it was built, else its twin in Python. Nobody else chooses.

Both do the same; what an entry takes, and so is charged, differs.
"""

from __future__ import annotations

from typing import Any, cast

from meshcache._native import compiled
from meshcache.config import Config
from meshcache.core.storage.charges import Charges
from meshcache.core.storage.store import Store


def store_class() -> type[Store]:
    """Return the class of a node's store."""
    if compiled is None:
        return Store
    from meshcache.core.storage.native import NativeStore  # noqa: PLC0415  (what it derives from must be there)

    return cast(type[Store], NativeStore)  # its twin in every method: tests/native holds that


def store_of(config: Config, charges: Charges | None = None) -> Store:
    """Return an empty store for a node; ``charges``: others than those that its layout takes."""
    own: dict[str, Any] = {} if charges is None else {"charges": charges}
    return store_class()(
        slots=config.cluster.slots,
        max_entries=config.store.max_entries,
        max_bytes=config.store.max_bytes,
        grace_ms=int(config.store.tombstone_grace_s * 1000),
        eviction=config.store.eviction,
        **own,
    )
