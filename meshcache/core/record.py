"""The stored unit: one ``bytes`` object that is the same in memory, on the wire and in a snapshot.

::

    offset  size  field
    0       16    version      hybrid logical clock (8) and boot id of the coordinator (8), see clock.py
    16      6     expires_ms   wall milliseconds since the epoch, big-endian; all ones: never
    22      2     flags        big-endian; the low byte is the codec's tag, the high byte is ours
    24      …     value        opaque to nodes

Every field compares as bytes, so that "newer" and "expired" cost one slice and one memcmp. One object per entry
takes half the memory of a tuple of fields, is invisible to the garbage collector, and is packed for the network
without being looked at (``scripts/bench_store`` measures it).

What a client sends for a write is the *content*: flags and value. The coordinator puts a *stamp* in front, version
and expiry, and the concatenation is the record. One stamp serves a whole batch.

A tombstone is a record with the TOMBSTONE flag and no value. It is the newest version of a deleted key; its expiry
is the end of its grace period.
"""

from __future__ import annotations

from typing import Final

VERSION_BYTES: Final = 16
STAMP_BYTES: Final = 22
HEADER_BYTES: Final = 24

NEVER_MS: Final = (1 << 48) - 1
"""The expiry of what never expires; also the greatest value that fits."""

TOMBSTONE: Final = 0x01
"""Bit of the first flag byte, ``record[22]``: the key was deleted at this version."""

TOMBSTONE_CONTENT: Final = bytes((TOMBSTONE, 0))


def expiry_bytes(expires_ms: int) -> bytes:
    """Return the six bytes that stand for ``expires_ms`` in a record, and that compare in its order."""
    return min(expires_ms, NEVER_MS).to_bytes(6, "big")


def stamp(version: bytes, expires_ms: int) -> bytes:
    """Return the 22 bytes that, put before a content, make it a record."""
    return version + expiry_bytes(expires_ms)


def tombstone(version: bytes, reap_ms: int) -> bytes:
    """Return the record of a delete, to be kept until ``reap_ms``."""
    return stamp(version, reap_ms) + TOMBSTONE_CONTENT


def version_of(record: bytes) -> bytes:
    """Return the 16 bytes of the version; two versions compare as bytes."""
    return record[:VERSION_BYTES]


def expires_ms_of(record: bytes) -> int:
    """Return the expiry in wall milliseconds; NEVER_MS: never."""
    return int.from_bytes(record[16:22], "big")


def content_of(record: bytes) -> bytes:
    """Return flags and value, which a new stamp makes a record again."""
    return record[STAMP_BYTES:]


def is_tombstone(record: bytes) -> bool:
    """Tell whether this record says that the key was deleted."""
    return bool(record[22] & TOMBSTONE)


def is_live(record: bytes, now_bytes: bytes) -> bool:
    """Tell whether a reader may see this record's value at ``now_bytes`` (``expiry_bytes`` of the wall time)."""
    return record[16:22] > now_bytes and not record[22] & TOMBSTONE


def is_valid(record: object) -> bool:
    """Tell whether something from the network has the shape of a record."""
    return type(record) is bytes and len(record) >= HEADER_BYTES
