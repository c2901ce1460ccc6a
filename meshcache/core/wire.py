"""Messages to frames and back: msgpack with limits, and a schema that every field is held against.

Anything from the network may be hostile. What decode accepts has the right number of fields, of the right types, with
bounded sizes and aligned lists; everything else is one ``ProtocolError`` that names the message and the field, and
costs the receiver one counter. msgpack itself is bounded too: an array header that announces more elements than
``BATCH_OPS_MAX`` is refused before anything is allocated for it, maps and extensions are all but shut.

Checks on whole lists run at C speed (``b"".join``, ``map``): about 0.1 µs a key, which a loop in Python would triple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from meshcache.core import messages as m
from meshcache.core.messages import BATCH_OPS_MAX, KEY_BYTES_MAX, KINDS, Event, Fact, Message
from meshcache.core.record import HEADER_BYTES, VERSION_BYTES
from meshcache.errors import ProtocolError

_KEY_LENGTHS: Final = range(1, KEY_BYTES_MAX + 1)
_TEXT_LENGTH_MAX: Final = 1024
_MAP_ITEMS_MAX: Final = 1024
_UINT64_MAX: Final = (1 << 64) - 1

_pack = msgpack.Packer().pack
"""One packer for all: a new one for each frame costs more than the frame. Not thread-safe by itself, but pack() holds
the GIL from its first byte to its last and keeps nothing between calls."""


def encode_frame(clock: int, messages: list[Message]) -> bytes:
    """Return the frame that carries these messages and, between nodes, the sender's clock."""
    packed: bytes = _pack([clock, *[(KINDS[type(message)], *message) for message in messages]])
    return packed


def decode_frame(frame: bytes) -> tuple[int, list[Message]]:
    """Return the sender's clock and the messages. Raises ProtocolError, and nothing else, on whatever else it is."""
    try:
        parts = msgpack.unpackb(
            frame,
            max_array_len=BATCH_OPS_MAX + 1,
            max_map_len=_MAP_ITEMS_MAX,
            max_ext_len=0,
            max_str_len=_TEXT_LENGTH_MAX * 64,
            max_bin_len=len(frame),
        )
    except Exception as error:  # noqa: BLE001  (msgpack raises ValueError, OverflowError, UnicodeDecodeError and more)
        raise ProtocolError(f"not a frame: {type(error).__name__}: {error}") from None
    if type(parts) is not list or not parts or type(parts[0]) is not int or not 0 <= parts[0] <= _UINT64_MAX:
        raise ProtocolError("not a frame: it must be an array that begins with the sender's clock")
    return parts[0], [_decode_message(parts[i]) for i in range(1, len(parts))]


def _decode_message(parts: Any) -> Message:
    if type(parts) is not list or not parts or type(parts[0]) is not int:
        raise ProtocolError("not a message: it must be an array that begins with its kind")
    schema = _SCHEMAS.get(parts[0])
    if schema is None:
        raise ProtocolError(f"unknown kind of message: {parts[0]}")
    cls, checks, aligned = schema
    if len(parts) != len(checks) + 1:
        raise ProtocolError(f"{cls.__name__} has {len(checks)} fields, not {len(parts) - 1}")
    fields = parts[1:]
    for i, check in enumerate(checks):
        try:
            fields[i] = check(fields[i])
        except (TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"{cls.__name__}.{cls._fields[i]}: {error}") from None
    if aligned and len(fields[-1]) != len(fields[-2]):
        raise ProtocolError(f"{cls.__name__}: {len(fields[-2])} keys, but {len(fields[-1])} {cls._fields[-1]}")
    return cls(*fields)  # type: ignore[no-any-return]  # the table holds message classes only


def _int(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value <= _UINT64_MAX:
        raise TypeError("must be an integer")
    return value


def _float(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise TypeError("must be a number")
    return float(value)


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError("must be a boolean")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise TypeError("must be bytes")
    return value


def _version(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != VERSION_BYTES:
        raise TypeError(f"must be {VERSION_BYTES} bytes")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > _TEXT_LENGTH_MAX:
        raise TypeError(f"must be text of at most {_TEXT_LENGTH_MAX} characters")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("must be a list")
    return value


def _settings(value: Any) -> dict[str, int | float | str]:
    if type(value) is not dict or not all(
        type(key) is str and type(item) in {int, float, str} for key, item in value.items()
    ):
        raise TypeError("must be a map of settings")
    return value


def _keys_to_read(value: Any) -> list[bytes]:
    b"".join(_list(value))  # a TypeError, unless all are bytes; their lengths do not matter: what is too long is a miss
    return value  # type: ignore[no-any-return]  # just checked


def _keys(value: Any) -> list[bytes]:
    b"".join(_list(value))
    if not all(map(_KEY_LENGTHS.__contains__, map(len, value))):
        raise ValueError(f"a key takes 1 to {KEY_BYTES_MAX} bytes")
    return value  # type: ignore[no-any-return]  # just checked


def _contents(value: Any) -> list[bytes]:
    if value and (set(map(type, _list(value))) != {bytes} or min(map(len, value)) < 2):
        raise TypeError("must be bytes, two of flags and the value")
    if any([content[0] for content in value]):  # noqa: C419  (a list is faster here than a generator)
        raise ValueError("the first flag byte belongs to the nodes and must be zero")
    return value  # type: ignore[no-any-return]  # just checked


def _records(value: Any) -> list[bytes]:
    if value and (set(map(type, _list(value))) != {bytes} or min(map(len, value)) < HEADER_BYTES):
        raise TypeError(f"must be records of at least {HEADER_BYTES} bytes")
    return value  # type: ignore[no-any-return]  # just checked


def _records_or_none(value: Any) -> list[bytes | None]:
    for record in _list(value):
        if record is not None and (type(record) is not bytes or len(record) < HEADER_BYTES):
            raise TypeError("must be records or null")
    return value  # type: ignore[no-any-return]  # just checked


_CHANGE_ARGUMENTS: Final[dict[int, tuple[type | tuple[type, ...], ...]]] = {
    m.Change.ADD: (bytes, int),
    m.Change.REPLACE: (bytes, int),
    m.Change.CAS: (bytes, int, bytes),
    m.Change.INCR: (int, (int, type(None)), int),
    m.Change.TOUCH: (int,),
}


def _changes(value: Any) -> list[list[Any]]:
    for change in _list(value):
        expected = _CHANGE_ARGUMENTS.get(change[0]) if type(change) is list and change else None
        if expected is None or len(change) != len(expected) + 1:
            raise TypeError("unknown change, or one with the wrong number of arguments")
        for argument, types in zip(change[1:], expected, strict=True):
            if not isinstance(argument, types) or isinstance(argument, bool):
                raise TypeError(f"change {change[0]}: wrong type of argument")
        if expected[0] is bytes:
            _contents([change[1]])
    return value  # type: ignore[no-any-return]  # just checked


_FACT_CHECKS: Final[tuple[Callable[[Any], Any], ...]] = (
    _text,
    _text,
    _text,
    _text,
    _text,
    _text,
    _float,
    _int,
    _int,
    _int,
    _bytes,
)


def _fact(value: Any) -> Fact:
    if type(value) is not list or len(value) != len(_FACT_CHECKS):
        raise TypeError(f"a fact has {len(_FACT_CHECKS)} fields")
    fact = Fact(*[check(field) for check, field in zip(_FACT_CHECKS, value, strict=True)])
    if not fact.node_id or not fact.address or not 0 <= fact.state <= 3 or not 0 <= fact.weight <= 1000:
        raise ValueError("node id, address, state or weight is out of range")
    if fact.boot < 0 or fact.incarnation < 0:
        raise ValueError("boot and incarnation are not negative")
    return fact


def _fact_or_none(value: Any) -> Fact | None:
    return None if value is None else _fact(value)


def _facts(value: Any) -> list[Fact]:
    return [_fact(item) for item in _list(value)]


def _events(value: Any) -> list[Event]:
    events = []
    for item in _list(value):
        kind, version, keys = item
        events.append(Event(_int(kind), _version(version), _keys_to_read(keys)))
    return events


def _results(value: Any) -> list[Any] | None:
    return None if value is None else _list(value)


def _indices(value: Any) -> list[int]:
    return [_int(item) for item in _list(value)]


def _versions(value: Any) -> list[bytes]:
    return [_version(item) for item in _list(value)]


def _newer(value: Any) -> list[list[Any]]:
    return [[_int(index), _version(version)] for index, version in _list(value)]


_REQUEST: Final = (_int, _int, _int, _bytes)
"""request, boot, deadline_ms, view: how every request begins."""

_ANSWER: Final = (_int, _bytes)
"""request, view: how every answer begins."""

_FIELDS: Final[dict[type[Message], tuple[Callable[[Any], Any], ...]]] = {
    m.Hello: (_int, _text, _fact_or_none),
    m.Welcome: (_int, _int, _text, _settings, _facts),
    m.Refused: (_text, _text),
    m.Ping: (_int, _text, _bytes),
    m.Ack: (_int, _int, _bytes, _facts),
    m.Facts: (_facts,),
    m.Get: (*_REQUEST, _int, _int, _bool, _keys_to_read),
    m.Set: (*_REQUEST, _int, _int, _keys, _contents),
    m.Delete: (*_REQUEST, _int, _int, _keys),
    m.Update: (*_REQUEST, _int, _int, _int, _keys, _changes),
    m.Clear: (*_REQUEST, _bytes),
    m.Inspect: (*_REQUEST, _text, _bytes),
    m.Reply: (*_ANSWER, _results),
    m.Reject: (*_ANSWER, _list),
    m.Read: (*_REQUEST, _keys_to_read),
    m.ReadReply: (*_ANSWER, _records_or_none, _indices),
    m.Write: (*_REQUEST, _bool, _keys, _records),
    m.WriteReply: (*_ANSWER, _newer, _indices),
    m.Sweep: (*_REQUEST, _version, _bytes),
    m.SweepReply: (*_ANSWER, _int),
    m.Pull: (*_REQUEST, _indices, _bytes),
    m.PullReply: (*_ANSWER, _int, _bytes, _keys, _records),
    m.Leave: _REQUEST,
    m.Compare: (*_REQUEST, _indices, _keys_to_read),
    m.CompareReply: (*_ANSWER, _indices, _keys, _versions),
    m.Invalidations: (_text, _int, _int, _events),
}

_ALIGNED: Final = (m.Set, m.Update, m.Write, m.PullReply, m.Compare, m.CompareReply)
"""Their last two fields are lists of equal length."""

_SCHEMAS: Final[dict[int, tuple[Any, tuple[Callable[[Any], Any], ...], bool]]] = {
    kind: (cls, _FIELDS[cls], cls in _ALIGNED) for cls, kind in KINDS.items()
}
