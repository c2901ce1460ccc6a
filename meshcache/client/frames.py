"""The fast path's frames: from what a user wrote to a request's frame, and from a reply's frame to values, in one step.

A usual GET or SET needs no object for a key, a request, a message or a record: only the keys and values as given, and
two frames. The functions below do that, and only that. They return None for anything unusual: an argument that is not
quite right, keys too many or too long, a frame that is not one REPLY with the expected number, view and count. Then
the general way does it anew (session.py, delivery.py, protocol/wire.py), and says what is wrong if something is. So it
does no harm that the twins in C may find a frame unusual that these read: one of a newer version, for example.

They are written with what the general way is made of, and so say what their twins in C have to do (_native/client.c),
which serve where they could be built. ``frames`` is whichever of the two serves here.

What a result in a reply comes to: a value of type bytes, str or int; ``missing``; or the record, in a tuple of its own,
if its reader has to look closer: at its marks, or with its codec.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final
from zlib import crc32

from meshcache._native import absent_because, compiled
from meshcache.client.arguments import raw_key
from meshcache.client.codec import BYTES, CODEC_AT, INT, STR
from meshcache.errors import InvalidKey, ProtocolError
from meshcache.protocol.messages import BATCH_OPS_MAX, Get, Reply, Set
from meshcache.protocol.record import CONTENT_FLAG_BYTES, HEADER_BYTES, STAMP_BYTES, TOMBSTONE
from meshcache.protocol.wire import Frame, decode_frame, encode_frame

INT_DIGITS_MAX: Final = 18
"""Numbers with more digits, or other signs than digits and a minus, are read by the codec."""


def encode_get(
    number: int,
    boot: int,
    deadline_ms: int,
    view: bytes,
    r: int,
    w: int,
    prefix: bytes,
    keys: list[Any],
    bytes_max: int,
) -> bytes | None:
    """Return the frame of a GET; None also if the keys take ``bytes_max`` or more."""
    raws = _raws(prefix, keys)
    if raws is None or sum(map(len, raws)) >= bytes_max:
        return None
    return encode_frame(0, [Get(number, boot, deadline_ms, view, r, w, False, raws)])


def encode_set(
    number: int,
    boot: int,
    deadline_ms: int,
    view: bytes,
    w: int,
    ttl_ms: int,
    prefix: bytes,
    keys: list[Any],
    values: list[Any],
    encode: Callable[[Any], bytes],
    encode_all: bool,  # noqa: ARG001  (the twin need not be told which values it may encode by itself)
    value_bytes_max: int,
    bytes_max: int,
) -> bytes | None:
    """Return the frame of a SET of different keys. Raises what ``encode`` raises.

    ``encode_all``: ``encode`` makes the content of every value; else only of those that are not bytes, str or int.
    """
    raws = _raws(prefix, keys) if len(set(map(type, keys))) == 1 else None  # "a" and b"a" would be the same key
    if raws is None or len(values) != len(keys):
        return None
    left = bytes_max - sum(map(len, raws))
    if raws and left <= 0:
        return None
    contents = []
    for value in values:
        content = encode(value)
        left -= len(content)
        if left <= 0 or len(content) - CONTENT_FLAG_BYTES > value_bytes_max:
            return None
        contents.append(content)
    return encode_frame(0, [Set(number, boot, deadline_ms, view, w, ttl_ms, raws, contents)])


def owner_of(prefix: bytes, key: Any, first: list[str | None], hot: dict[bytes, float]) -> str | None:
    """Return the address to ask for a key. ``first``: by slot the first choice, which may be None, as for hot keys."""
    raws = _raws(prefix, [key])
    if raws is None or raws[0] in hot:
        return None
    return first[crc32(raws[0]) & (len(first) - 1)]


def share_out(
    prefix: bytes, keys: list[Any], first: list[str | None], hot: dict[bytes, float]
) -> dict[str, list[int]] | None:
    """Return by address the places of the keys to ask for there; None if that is unusual for any of them."""
    shares: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        address = owner_of(prefix, key, first, hot)
        if address is None:
            return None
        shares.setdefault(address, []).append(i)
    return shares


def decode_value(frame: Frame, number: int, view: bytes, missing: object) -> Any:
    """Return the result of a GET of one key."""
    values = _values(frame, number, view, missing)
    return None if values is None or len(values) != 1 else values[0]


def decode_values(frame: Frame, number: int, view: bytes, keys: list[Any]) -> tuple[dict[Any, Any], list[Any]] | None:
    """Return what the keys have, without those that have nothing; and the keys that have a record in a tuple."""
    values = _values(frame, number, view, None)
    if values is None or len(values) != len(keys):
        return None
    pairs = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    return dict(pairs), [key for key, value in pairs if type(value) is tuple]


def decode_done(frame: Frame, number: int, view: bytes) -> bool | None:
    """Return True if a SET stored every key."""
    return True if decode_reply(frame, view, None) == (number, None) else None


def decode_reply(frame: Frame, view: bytes, missing: object) -> tuple[int, list[Any] | None] | None:
    """Return the number of the request that a frame answers, and its results, or None if a SET stored every key."""
    try:
        _, messages = decode_frame(frame)
    except ProtocolError:
        return None
    reply = messages[0] if len(messages) == 1 else None
    if not isinstance(reply, Reply) or reply.view != view:
        return None
    results = reply.results
    if results is None:
        return reply.request, None
    if not all(map(_is_record_or_none, results)):
        return None
    return reply.request, [_value(record, missing) for record in results]


def _raws(prefix: bytes, keys: list[Any]) -> list[bytes] | None:
    if not 0 < len(keys) <= BATCH_OPS_MAX or not set(map(type, keys)) <= {str, bytes}:
        return None
    try:
        return [raw_key(prefix, key) for key in keys]
    except InvalidKey:
        return None


def _values(frame: Frame, number: int, view: bytes, missing: object) -> list[Any] | None:
    answer = decode_reply(frame, view, missing)
    return None if answer is None or answer[0] != number else answer[1]


def _is_record_or_none(result: Any) -> bool:
    return result is None or (type(result) is bytes and len(result) >= HEADER_BYTES)


def _value(record: bytes | None, missing: object) -> Any:
    if record is None or record[STAMP_BYTES] & TOMBSTONE:
        return missing
    read = None if record[STAMP_BYTES] else _READERS.get(record[CODEC_AT])
    try:
        return (record,) if read is None else read(record[HEADER_BYTES:])
    except ValueError:
        return (record,)


def _str(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _int(value: bytes) -> int:
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > INT_DIGITS_MAX:
        raise ValueError
    return int(value)


_READERS: Final[dict[int, Callable[[bytes], Any]]] = {BYTES: bytes, STR: _str, INT: _int}

PURE: Final = SimpleNamespace(
    encode_get=encode_get,
    encode_set=encode_set,
    owner_of=owner_of,
    share_out=share_out,
    decode_value=decode_value,
    decode_values=decode_values,
    decode_done=decode_done,
    decode_reply=decode_reply,
)
"""The functions of this module."""

frames: Final[Any] = PURE if absent_because else compiled
"""What serves: the functions above, or those in C."""
