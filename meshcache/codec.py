"""Values to bytes and back, on the client; nodes never look inside.

What a client stores is a *content*: two flag bytes and the value. The first flag byte belongs to the nodes and is
zero here (if the entry carries extras, record.py puts them behind the flags, and marks them in that byte); the second
is the tag that says how to read the value, whichever client wrote it::

    0  bytes       as they are (bytearray and memoryview come back as bytes)
    1  str         UTF-8; lone surrogates survive
    2  int         decimal digits, so that nodes can count; within 64 bits, and no bool
    3  anything    msgpack with tagged types: what comes back equals what went in
    4  anything    pickle: only if both the writer and the reader asked for it by name
    5  anything    the caller's own codec

msgpack has no tuples, sets, dates, decimals. A container that it lacks travels as an array whose first element is an
empty extension, the mark; so a value of any depth is decoded by one pass of one decoder, and neither deep nesting nor
a hostile value makes it call itself. Scalars travel as extensions with a payload of their own.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final, Protocol, runtime_checkable
from zoneinfo import ZoneInfo

import msgpack

from meshcache.core.record import EXTRAS, HEADER_BYTES, STAMP_BYTES, without_extras
from meshcache.errors import ConfigError, SerializationError

BYTES: Final = 0
STR: Final = 1
INT: Final = 2
MSGPACK: Final = 3
PICKLE: Final = 4
CUSTOM: Final = 5

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1

_TUPLE: Final = 1
_SET: Final = 2
_FROZENSET: Final = 3
_DATETIME: Final = 4
_DATE: Final = 5
_TIME: Final = 6
_TIMEDELTA: Final = 7
_DECIMAL: Final = 8
_UUID: Final = 9
_BIG_INT: Final = 10
_COMPLEX: Final = 11

_MARK: Final = b"\xc7\x00"
"""How msgpack writes an extension without payload; its code follows. Bytes without this hold no marked container."""

_MICROSECOND: Final = timedelta(microseconds=1)


@runtime_checkable
class ValueCodec(Protocol):
    """What ``codec=`` takes: any object with these two methods, inverse to each other."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes to store."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the value of stored bytes."""
        ...


class Codec:
    """What one client does with values: ``encode`` to contents; for records ``readers``, by both flag bytes in turn.

    That the first of them chooses the table spares those without extras every question about them.
    """

    __slots__ = ("_encoders", "_fallback", "readers")

    def __init__(self, codec: str | ValueCodec | None = None) -> None:
        """``codec``: None or "msgpack", "pickle", or an object with encode and decode, which then gets every value."""
        readers: list[Callable[[bytes], Any]] = [_refuse] * 256
        skipping = [lambda record: readers[record[HEADER_BYTES - 1]](without_extras(record))] * 256
        self.readers = [skipping if flags & EXTRAS else readers for flags in range(256)]
        readers[:4] = [_read_bytes, _read_str, _read_int, _read_msgpack]
        self._encoders: dict[type, Callable[[Any], bytes]] = {
            bytes: b"\0\0".__add__,
            str: _encode_str,
            int: _encode_int,
            bytearray: _encode_buffer,
            memoryview: _encode_buffer,
        }
        self._fallback: Callable[[Any], bytes] = _encode_msgpack
        if codec == "pickle":
            import pickle  # noqa: PLC0415  (asked for by name, which says that the network is trusted)

            self._fallback = lambda value: b"\0\4" + pickle.dumps(value, protocol=5)
            readers[PICKLE] = lambda record: pickle.loads(record[HEADER_BYTES:])  # noqa: S301  (as above)
        elif codec is not None and not isinstance(codec, str):
            if not isinstance(codec, ValueCodec):
                raise ConfigError(f"codec: must have the methods encode and decode, {type(codec).__name__} has not")
            own = codec
            self._encoders = {}
            self._fallback = lambda value: b"\0\5" + own.encode(value)
            readers[CUSTOM] = lambda record: own.decode(record[HEADER_BYTES:])
        elif codec not in {None, "msgpack"}:
            raise ConfigError(f'codec: must be "msgpack", "pickle" or an object with encode and decode, is {codec!r}')

    def encode(self, value: Any) -> bytes:
        """Return the content of a value. Raises SerializationError that names the type and where it is."""
        encoder = self._encoders.get(type(value), self._fallback)
        try:
            return encoder(value)
        except SerializationError:
            raise
        except Exception as error:
            where = _locate(value) if self._fallback is _encode_msgpack else ""
            raise SerializationError(f"can not encode {where or type(value).__qualname__}: {error}") from error

    def decode(self, record: bytes) -> Any:
        """Return the value of a live record. Raises SerializationError, and nothing else."""
        try:
            return self.readers[record[STAMP_BYTES]][record[HEADER_BYTES - 1]](record)
        except SerializationError:
            raise
        except Exception as error:
            size = len(record) - HEADER_BYTES
            why = f"{type(error).__name__}: {error}"
            raise SerializationError(f"can not decode the {size:,} bytes stored: {why}") from error


# ---- encoding


def _encode_str(value: str) -> bytes:
    return b"\0\1" + value.encode("utf-8", "surrogatepass")


def _encode_int(value: int) -> bytes:
    if _INT_MIN <= value <= _INT_MAX:
        return b"\0\2%d" % value
    return _encode_msgpack(value)


def _encode_buffer(value: bytearray | memoryview) -> bytes:
    return b"\0\0" + bytes(value)


def _encode_msgpack(value: Any) -> bytes:
    return b"\0\3" + _pack(value)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=_translate, strict_types=True, unicode_errors="surrogatepass")
    return packed


def _translate(value: Any) -> Any:
    """Put something that msgpack lacks in terms of what it has; msgpack then goes on with the answer."""
    translator = _TRANSLATORS.get(type(value))
    if translator is not None:
        return translator(value)
    for base, plain in _PLAIN_BASES:
        if isinstance(value, base):
            return plain(value)
    raise TypeError(f"no codec for {type(value).__module__}.{type(value).__qualname__}")


def _zone(value: datetime | time) -> int | str | None:
    """Return an offset in microseconds, the name of a zone, or None."""
    if value.tzinfo is None:
        return None
    if isinstance(value.tzinfo, ZoneInfo) and value.tzinfo.key:
        return value.tzinfo.key
    offset = value.utcoffset()
    if offset is None:
        raise TypeError(f"a {type(value).__name__} with a time zone that has no fixed offset")
    return offset // _MICROSECOND


def _moment(code: int, value: datetime | time, day: tuple[int, ...]) -> msgpack.ExtType:
    fields = (*day, value.hour, value.minute, value.second, value.microsecond, value.fold, _zone(value))
    return msgpack.ExtType(code, msgpack.packb(fields))


def _big_int(value: int) -> msgpack.ExtType:
    return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _days(value: timedelta) -> msgpack.ExtType:
    return msgpack.ExtType(_TIMEDELTA, msgpack.packb((value.days, value.seconds, value.microseconds)))


_TRANSLATORS: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: lambda v: [msgpack.ExtType(_TUPLE, b""), *v],
    set: lambda v: [msgpack.ExtType(_SET, b""), *v],
    frozenset: lambda v: [msgpack.ExtType(_FROZENSET, b""), *v],
    datetime: lambda v: _moment(_DATETIME, v, (v.year, v.month, v.day)),
    date: lambda v: msgpack.ExtType(_DATE, struct.pack(">HBB", v.year, v.month, v.day)),
    time: lambda v: _moment(_TIME, v, ()),
    timedelta: _days,
    Decimal: lambda v: msgpack.ExtType(_DECIMAL, str(v).encode()),
    uuid.UUID: lambda v: msgpack.ExtType(_UUID, v.bytes),
    int: _big_int,
    complex: lambda v: msgpack.ExtType(_COMPLEX, struct.pack(">dd", v.real, v.imag)),
}
"""By exact type: a subclass may mean more than its base can say."""

_PLAIN_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (bytes, lambda v: bytes.__getitem__(v, slice(None))),
    (int, int.__int__),
    (float, float.__float__),
    (dict, lambda v: dict(v.items())),
    (list, lambda v: v[:] if type(v[:]) is list else list(v)),
    (tuple, lambda v: [msgpack.ExtType(_TUPLE, b""), *v]),
)
"""A subclass of these (IntEnum, OrderedDict, named tuple) equals its base with the same content: that is stored."""


def _locate(value: Any, path: str = "value", depth: int = 0) -> str:
    """Return where in ``value`` something can not be encoded: the way to it and its type, "" if not found."""
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        children = [(f"{path}[{key!r:.40}]", item) for key, item in value.items()]
        children += [(f"key of {path}", key) for key in value]
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    for where, child in children if depth < 16 else ():
        found = _locate(child, where, depth + 1)
        if found:
            return found
    if children:
        return ""
    try:
        _pack(value)
    except Exception:  # noqa: BLE001  (whatever it is, this is the place)
        return f"{type(value).__qualname__} at {path}" if depth else type(value).__qualname__
    return ""


# ---- decoding


def _read_bytes(record: bytes) -> bytes:
    return record[HEADER_BYTES:]


def _read_str(record: bytes) -> str:
    return record[HEADER_BYTES:].decode("utf-8", "surrogatepass")


def _read_int(record: bytes) -> int:
    return int(record[HEADER_BYTES:])


def _read_msgpack(record: bytes) -> Any:
    """Decode a tree. msgpack bounds each length by what is there, and the depth by 1,024."""
    data = record[HEADER_BYTES:]
    return msgpack.unpackb(
        data,
        ext_hook=_restore,
        list_hook=_restore_container if _MARK in data else None,
        strict_map_key=False,
        unicode_errors="surrogatepass",
    )


def _refuse(record: bytes) -> Any:
    tag = record[HEADER_BYTES - 1]
    if tag == PICKLE:
        raise SerializationError('the value is a pickle: only a client with codec="pickle" reads those')
    if tag == CUSTOM:
        raise SerializationError("the value was stored by a client with a codec of its own; give this one the same")
    raise SerializationError(f"the value has the unknown codec tag {tag}; was it stored by a newer version?")


class _Mark:
    """Stands first in the array of a container that msgpack lacks."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[Any]], Any]) -> None:
        self.build = build


_MARKS: Final = {_TUPLE: _Mark(tuple), _SET: _Mark(set), _FROZENSET: _Mark(frozenset)}


def _restore_container(items: list[Any]) -> Any:
    if items and type(items[0]) is _Mark:
        return items[0].build(items[1:])
    return items


def _restore(code: int, data: bytes) -> Any:
    if not data and code in _MARKS:
        return _MARKS[code]
    restorer = _RESTORERS.get(code)
    if restorer is None:
        raise ValueError(f"unknown extension type {code}")
    return restorer(data)


def _tzinfo(zone: int | str | None) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    return timezone(timedelta(microseconds=zone)) if zone else UTC


def _restore_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = msgpack.unpackb(data)
    return datetime(year, month, day, hour, minute, second, microsecond, _tzinfo(zone), fold=fold)


def _restore_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold, zone = msgpack.unpackb(data)
    return time(hour, minute, second, microsecond, _tzinfo(zone), fold=fold)


_RESTORERS: Final[dict[int, Callable[[bytes], Any]]] = {
    _DATETIME: _restore_datetime,
    _DATE: lambda data: date(*struct.unpack(">HBB", data)),
    _TIME: _restore_time,
    _TIMEDELTA: lambda data: timedelta(*msgpack.unpackb(data)),
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: uuid.UUID(bytes=data),
    _BIG_INT: lambda data: int.from_bytes(data, "big", signed=True),
    _COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
}
