"""What an entry is charged of a store's byte limit: what the allocator takes for its key and record, and the rest.

``ENTRY_OVERHEAD_BYTES`` is calibrated against the resident memory of a process by ``scripts/bench store``. An entry
with tags is charged for those, too (tags.py).
"""

from __future__ import annotations

from typing import Final

from meshcache.core.storage.tags import tag_bytes
from meshcache.protocol.record import EXTRAS, tags_of

ENTRY_OVERHEAD_BYTES: Final = 112
"""What an entry takes besides its key and record objects: its share of a dict, an int, five columns, the calendar."""


def entry_bytes(key: bytes, record: bytes) -> int:
    """Return what an entry is charged: 33 bytes of object header and rounding to 16 for each of the two, and the rest.

    Above 512 bytes malloc adds a header of eight bytes, and above 128 kB it may round to pages: under 3 %, not charged.
    """
    size = ((len(key) + 48) & -16) + ((len(record) + 48) & -16) + ENTRY_OVERHEAD_BYTES
    return size + tag_bytes(tags_of(record)) if record[22] & EXTRAS else size
