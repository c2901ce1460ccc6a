"""Pages: a bounded share of the slots of one node, for a node that pulls them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from meshcache.core.storage.store import Store
from meshcache.protocol import messages as m

PAGE_BYTES: Final = 256 * 1024
"""The bytes of records in one page: about a millisecond of work on each side."""
SLOTS_PER_PAGE: Final = 64


def page_of(
    store: Store, slots: list[int], cursor: bytes, left_over: Callable[[int], bool]
) -> tuple[int, bytes, list[bytes], list[bytes]]:
    """Return one page of these slots, from ``cursor`` on in the first: (finished, cursor, keys, records).

    A slot that is ``left_over`` is left out: what this node has of it may be old.
    """
    keys: list[bytes] = []
    records: list[bytes] = []
    size = 0
    for number, slot in enumerate(slots):
        held = [] if left_over(slot) else store.keys_of_slot(slot)
        rest = held if not cursor else [key for key in held if key > cursor]
        for key in heapq.nsmallest(m.BATCH_OPS_MAX, rest) if len(rest) > m.BATCH_OPS_MAX else sorted(rest):
            record = store.peek(key)
            if record is None:
                continue
            keys.append(key)
            records.append(record)
            size += len(record) + len(key)
            if size >= PAGE_BYTES or len(keys) >= m.BATCH_OPS_MAX:
                return number, key, keys, records
        cursor = b""
    return len(slots), b"", keys, records
