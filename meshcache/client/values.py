"""What records mean for readers: which are hits, which are stale, and which make no sense."""

from __future__ import annotations

import math
from typing import Any, Final

from meshcache.client.arguments import Key
from meshcache.client.codec import Codec
from meshcache.client.routing import Routing
from meshcache.errors import ProtocolError, SerializationError
from meshcache.protocol.record import EXTRAS, HEADER_BYTES, NEVER_MS, STAMP_BYTES, TOMBSTONE, expires_ms_of, extras_of

FLAGS_AT: Final = STAMP_BYTES
"""The position of the flags in a record."""


def is_hit(record: Any) -> bool:
    """Tell whether a node's answer for a key is a live record. Raises ProtocolError if it makes no sense."""
    if record is None:
        return False
    if type(record) is bytes and len(record) >= HEADER_BYTES:
        return not record[FLAGS_AT] & TOMBSTONE
    raise ProtocolError(f"the node answered {record!r:.80} instead of a record")


def is_stale(record: bytes, routing: Routing) -> bool:
    """Tell whether a live record is past the lifetime that its writer gave the value."""
    if not record[STAMP_BYTES] & EXTRAS:
        return False
    soft_expires_ms = extras_of(record).soft_expires_ms
    wall_ms = routing.wall_ms(routing.clock())
    return soft_expires_ms is not None and wall_ms is not None and wall_ms >= soft_expires_ms


def decoded(codec: Codec, record: bytes, key: Key) -> Any:
    """Return the value of a live record, stale or not."""
    try:
        return codec.decode(record)
    except SerializationError as error:
        raise SerializationError(f"{key!r:.80}: {error}") from error


def seconds_left(record: bytes, routing: Routing) -> float:
    """Return how long a live record counts as a value; infinite: for ever."""
    expires_ms = extras_of(record).soft_expires_ms or expires_ms_of(record)
    if expires_ms >= NEVER_MS:
        return math.inf
    wall_ms = routing.wall_ms(routing.clock())
    return 0.0 if wall_ms is None else max(0.0, (expires_ms - wall_ms) / 1000)
