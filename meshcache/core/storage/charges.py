"""The limits of a store, and what an entry is charged: what the allocator takes for its key and record, and the rest.

Each layout of the store has figures of its own, calibrated against the resident memory of a process by
``scripts/bench store``. An entry with tags is charged for those, too (tags.py). So that the two layouts can be held
against each other, either takes the other's figures: then they evict the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from meshcache.core.storage.tags import tag_bytes
from meshcache.protocol.record import EXTRAS, tags_of


class Charges(NamedTuple):
    """How one layout charges.

    Above 512 bytes malloc adds a header of eight bytes, and above 128 kB it may round to pages: under 3 %, not charged.
    """

    key_pad: int
    key_mask: int
    """Key and pad are rounded down by this mask …"""
    record_pad: int
    """… and these, with record and pad, to a multiple of 16."""
    overhead: int
    """And what the entry takes besides."""

    def entry_bytes(self, key: bytes, record: bytes) -> int:
        """Return what an entry is charged."""
        size = self.untagged_bytes(key, record)
        return size + tag_bytes(tags_of(record)) if record[22] & EXTRAS else size

    def untagged_bytes(self, key: bytes, record: bytes) -> int:
        """Return the same without what it is charged for tags."""
        return ((((len(key) + self.key_pad) & self.key_mask) + len(record) + self.record_pad) & -16) + self.overhead


PYTHON: Final = Charges(48, -16, 48, 112)
"""Key and record are objects: 33 bytes of header, each rounded to 16. And a share of a dict, an int, five columns, the
calendar."""

NATIVE: Final = Charges(0, -1, 23, 56)
"""Key and record are one block, with eight bytes before them. And 32 bytes of an entry, a share of a table, the
calendar."""


def check_limits(slots: int, max_entries: int, max_bytes: int) -> None:
    """Raise ValueError that names what makes no sense for a store."""
    if slots < 1 or slots & (slots - 1):
        raise ValueError(f"slots is {slots}; it must be a power of two")
    if max_entries < 1 or max_bytes < 1:
        raise ValueError(f"max_entries is {max_entries} and max_bytes {max_bytes}; both must be positive")
