"""The stored unit: one ``bytes`` object that is the same in memory, on the wire and in a snapshot.

::

    offset  size  field
    0       16    version      hybrid logical clock (8) and boot id of the coordinator (8), see clock.py
    16      6     expires_ms   wall milliseconds since the epoch, big-endian; all ones: never
    22      2     flags        big-endian; the low byte is the codec's tag, the high byte is ours
    24      …     value        opaque to nodes

    with the flag EXTRAS:
    24      2     length       big-endian, of the extras
    26      …     extras       msgpack map of what the entry has besides its value, see Extras
    …       …     value

Every field compares as bytes, so that "newer" and "expired" cost one slice and one memcmp. One object per entry
takes half the memory of a tuple of fields, is invisible to the garbage collector, and is packed for the network
without being looked at (``scripts/bench store`` measures it).

What a client sends for a write is the *content*: flags and value. The coordinator puts a *stamp* in front, version
and expiry, and the concatenation is the record. One stamp serves a whole batch.

A tombstone is a record with the TOMBSTONE flag and no value. It is the newest version of a deleted key; its expiry
is the end of its grace period.

*Extras* are what an entry has besides its value: its tags, when it becomes stale, how long it took to compute. They are
part of the content, so that every step that keeps the content keeps them, and a record without extras has no byte for
them. Clients write them and skip them when they decode; nodes read only the tags. A client's extras are checked against
the limits below when they arrive (``check_content``). A record from another node is read leniently: if its extras are
malformed, it counts as having none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgpack

VERSION_BYTES: Final = 16
STAMP_BYTES: Final = 22
HEADER_BYTES: Final = 24

NEVER_MS: Final = (1 << 48) - 1
"""The expiry of a record that never expires; also the greatest value that fits."""

TOMBSTONE: Final = 0x01
"""Bit of the first flag byte, ``record[22]``: the key was deleted at this version."""

EXTRAS: Final = 0x02
"""Bit of the first flag byte: extras precede the value."""

TOMBSTONE_CONTENT: Final = bytes((TOMBSTONE, 0))

CONTENT_FLAG_BYTES: Final = len(TOMBSTONE_CONTENT)

TAGS_MAX: Final = 32
"""The most tags of one entry."""

TAG_BYTES_MAX: Final = 1024
"""The most bytes of one tag, with its namespace; the same as for a key."""

EXTRAS_BYTES_MAX: Final = 4096
"""The most bytes of all extras of one entry as they are stored: tags, and a byte or two for each."""

_TAGS: Final = 1
_SOFT_EXPIRES_MS: Final = 2
_LOAD_MS: Final = 3
_CLIENT_FLAGS: Final = 4
_LEASED: Final = 5
_KINDS_MAX: Final = 16
"""The most kinds of extras in one map: five are known today; kinds that a newer version adds are skipped."""
CLIENT_FLAGS_MAX: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Extras:
    """What an entry has besides its value."""

    tags: tuple[bytes, ...] = ()
    """The tags by which the entry can be dropped, together with all others that have the tag."""
    soft_expires_ms: int | None = None
    """The wall milliseconds from which the value is stale: still served, while one caller computes a new one."""
    load_ms: int | None = None
    """How long it took to compute the value; early refresh depends on it."""
    client_flags: int | None = None
    """The flags that a client of memcached gave the value, where the codec's tag does not say them."""
    leased: bool = False
    """Whether such a client was told to compute the value anew."""


NO_EXTRAS: Final = Extras()


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
    """Return flags and value, which become a record again with a new stamp."""
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


# ---- extras


def with_extras(content: bytes, extras: Extras) -> bytes:
    """Return a content without extras as one with these. Raises ValueError that names the field and the limit."""
    said: dict[int, Any] = {}
    if extras.tags:
        said[_TAGS] = extras.tags
    if extras.soft_expires_ms is not None:
        said[_SOFT_EXPIRES_MS] = extras.soft_expires_ms
    if extras.load_ms is not None:
        said[_LOAD_MS] = extras.load_ms
    if extras.client_flags is not None:
        said[_CLIENT_FLAGS] = extras.client_flags
    if extras.leased:
        said[_LEASED] = 1
    if not said:
        return content
    problem = _problem(said | {_TAGS: list(extras.tags)})
    if problem is not None:
        raise ValueError(problem)
    packed: bytes = msgpack.packb(said)
    _check_size(len(packed))
    return bytes((content[0] | EXTRAS, content[1])) + len(packed).to_bytes(2, "big") + packed + content[2:]


def split_content(content: bytes) -> tuple[bytes, bytes]:
    """Return what precedes the value of a content, flags and extras, and the value. Raises ValueError if cut short."""
    end = _value_at(content, 0)
    return content[:end], content[end:]


def without_extras(record: bytes) -> bytes:
    """Return a record as it would be without its extras. Raises ValueError if they are cut short."""
    return record[:STAMP_BYTES] + bytes((record[22] & ~EXTRAS, record[23])) + record[_value_at(record, STAMP_BYTES) :]


def without_value(record: bytes) -> bytes:
    """Return a record up to its value, with its extras."""
    if not record[22] & EXTRAS:
        return record[:HEADER_BYTES]
    try:
        return record[: _value_at(record, STAMP_BYTES)]
    except ValueError:  # cut short, and so ignored
        return record[:22] + bytes((record[22] & ~EXTRAS, record[23]))


def extras_of(record: bytes) -> Extras:
    """Return the extras of a record; none if they are malformed."""
    if not record[22] & EXTRAS:
        return NO_EXTRAS
    said = _unpacked(record, HEADER_BYTES)
    if said is None or _problem(said) is not None:
        return NO_EXTRAS
    return Extras(
        tuple(dict.fromkeys(said.get(_TAGS, ()))),
        said.get(_SOFT_EXPIRES_MS),
        said.get(_LOAD_MS),
        said.get(_CLIENT_FLAGS),
        bool(said.get(_LEASED)),
    )


def tags_of(record: bytes) -> tuple[bytes, ...]:
    """Return the tags of ``extras_of``, in half its time."""
    if not record[22] & EXTRAS:
        return ()
    said = _unpacked(record, HEADER_BYTES)
    return () if said is None or _problem(said) is not None else tuple(dict.fromkeys(said.get(_TAGS, ())))


def same_extras(record: bytes, other: bytes) -> bool:
    """Tell whether two records have the same extras, byte by byte, and neither is a tombstone."""
    if not record[22] == other[22] == EXTRAS or record[24:26] != other[24:26]:
        return False
    end = 26 + int.from_bytes(record[24:26], "big")
    return record[26:end] == other[26:end]


def check_content(content: bytes) -> None:
    """Raise ValueError that names the field and the limit, unless a client may send this content."""
    if not content[0]:
        return
    if content[0] != EXTRAS:
        raise ValueError("the first flag byte belongs to the nodes: of its bits clients may set EXTRAS only")
    _check_size(int.from_bytes(content[2:4], "big"))
    said = _unpacked(content, CONTENT_FLAG_BYTES)
    if said is None:
        raise ValueError("extras: must be a map by small integers, with its length before it")
    problem = _problem(said)
    if problem is not None:
        raise ValueError(problem)


def _value_at(data: bytes, flags_at: int) -> int:
    """Return where the value begins in a content or a record whose flags are at ``flags_at``."""
    start = flags_at + CONTENT_FLAG_BYTES
    if not data[flags_at] & EXTRAS:
        return start
    end = start + 2 + int.from_bytes(data[start : start + 2], "big")
    if end > len(data):
        raise ValueError("the extras are cut short")
    return end


def _unpacked(data: bytes, start: int) -> dict[int, Any] | None:
    """Return the map that follows its length at ``start``; None if there is none within the limits."""
    length = int.from_bytes(data[start : start + 2], "big")
    end = start + 2 + length
    if length > EXTRAS_BYTES_MAX or len(data) < end:
        return None
    try:
        said = msgpack.unpackb(
            data[start + 2 : end],
            strict_map_key=False,
            max_array_len=TAGS_MAX,
            max_map_len=_KINDS_MAX,
            max_bin_len=TAG_BYTES_MAX,
            max_ext_len=0,
        )
    except Exception:  # noqa: BLE001  (msgpack raises ValueError, OverflowError, UnicodeDecodeError, TypeError and more)
        return None
    return said if type(said) is dict else None


def _check_size(size: int) -> None:
    if size > EXTRAS_BYTES_MAX:
        raise ValueError(f"tags and what else an entry carries take {size:,} bytes; the limit is {EXTRAS_BYTES_MAX:,}")


def _problem(said: dict[int, Any]) -> str | None:
    """Return what is wrong with the known extras, naming field and limit; None if nothing is."""
    tags = said.get(_TAGS, [])
    if type(tags) is not list or any(type(tag) is not bytes for tag in tags):
        return "tags: must be a list of bytes"
    if len(tags) > TAGS_MAX:
        return f"tags: an entry has at most {TAGS_MAX}, not {len(tags)}"
    for tag in tags:
        if not 1 <= len(tag) <= TAG_BYTES_MAX:
            return f"tags: {tag!r:.80} takes {len(tag):,} bytes with its namespace; it may take 1 to {TAG_BYTES_MAX:,}"
    for name, key in (("soft_expires_ms", _SOFT_EXPIRES_MS), ("load_ms", _LOAD_MS)):
        number = said.get(key, 0)
        if type(number) is not int or not 0 <= number <= NEVER_MS:
            return f"{name}: must be milliseconds from 0 to {NEVER_MS}, is {number!r:.80}"
    client_flags = said.get(_CLIENT_FLAGS, 0)
    if type(client_flags) is not int or not 0 <= client_flags <= CLIENT_FLAGS_MAX:
        return f"client_flags: must be from 0 to {CLIENT_FLAGS_MAX}, is {client_flags!r:.80}"
    return None
