"""Which store a node has."""

from __future__ import annotations

from meshcache.config import Config
from meshcache.core.storage.charges import PYTHON, Charges
from meshcache.core.storage.store import Store


def store_of(config: Config, charges: Charges | None = None) -> Store:
    """Return an empty store for a node; ``charges``: others than those that its layout takes."""
    return Store(
        slots=config.cluster.slots,
        max_entries=config.store.max_entries,
        max_bytes=config.store.max_bytes,
        grace_ms=int(config.store.tombstone_grace_s * 1000),
        charges=charges or PYTHON,
    )
