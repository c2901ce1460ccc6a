"""Values of types that msgpack lacks are turned into types that it has, and back.

msgpack has no tuples, sets, dates, decimals. Scalars are stored as msgpack extensions with a payload of their own. A
container is stored as an array whose first element is an empty extension, the *mark*. So a value of any depth is
decoded in one pass of one decoder, and neither deep nesting nor a hostile value makes the decoder call itself.

Every other type has a *form*: a name, a function that makes a plain value of an instance, and one that makes an
instance of a plain value. An instance is stored as an array of a mark, the name and the plain value. Some types of the
standard library have a form from the start, under names that begin with "python."; users add theirs with ``register``.

A form is found by the exact type: a subclass may hold more than its base class shows, so it needs a form of its own.
When a value is read, its name is looked up among the forms that exist. Stored bytes can never cause an import, or a
call of anything but a form's ``decode``.
"""

from __future__ import annotations

import builtins
import struct
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from http import HTTPMethod, HTTPStatus
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import chain
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgpack

T = TypeVar("T")

NAME_BYTES_MAX: Final = 255
RESERVED: Final = "python."
"""The names of the forms that exist from the start begin with this."""

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
_FORM: Final = 12
"""The codes of the extensions. They are append-only: a code is never used for something else."""

MARK: Final = b"\xc7\x00"
"""How msgpack begins an extension without payload; its code follows. Bytes without this have no marked container."""

_MICROSECOND: Final = timedelta(microseconds=1)


class Form(NamedTuple):
    """How instances of one type are stored."""

    type: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_by_type: dict[type, Form] = {}
_by_name: dict[str, Form] = {}
"""Forms are only added or replaced, by single operations on dicts, which are atomic: so there is no lock."""


def register(type: type[T], name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:  # noqa: A002
    """Have instances of a type of your own stored as plain values, in every client of this process.

    ``encode`` gets an instance and returns a plain value: of the types that can be stored, registered ones included.
    ``decode`` gets an equal plain value and returns an instance equal to the first. ``name`` (1 to 255 bytes in UTF-8)
    is stored with every instance, so it must mean the same type in every program that shares the mesh, for as long as
    values live. Reading a value whose name is not registered raises SerializationError. The registration is for the
    exact type, also within other values and as a key of a dict; subclasses need names of their own.

    Registering a type again under its name replaces the functions, and so does a class that was defined anew, as when a
    module is reloaded. Raises ValueError if the name is that of another type, if the type has another name, or if the
    type can be stored without a form; TypeError if an argument has a wrong type. It can be called at any time, from any
    thread.
    """
    if not isinstance(type, builtins.type):
        raise TypeError(f"codec.register: type must be a class, is {type!r:.80}")
    if not isinstance(name, str):
        raise TypeError(f"codec.register: name must be str, is {name!r:.80}")
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX:
        raise ValueError(f"codec.register: name must take 1 to {NAME_BYTES_MAX} bytes, is {name!r:.80}")
    for what, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise TypeError(f"codec.register: {what} must be a function, is {function!r:.80}")
    held = _by_type.get(type)
    if type in LEAVES or type in CONTAINERS or (held is not None and held.name.startswith(RESERVED)):
        raise ValueError(f"codec.register: {full_name(type)} is stored as what it is; there is nothing to register")
    if name.startswith(RESERVED):
        raise ValueError(f"codec.register: names that begin with {RESERVED!r} are taken, is {name!r}")
    if held is not None and held.name != name:
        raise ValueError(f"codec.register: {full_name(type)} is registered already, as {held.name!r}")
    form = Form(type, name, encode, decode)
    other = _by_name.setdefault(name, form)
    if full_name(other.type) != full_name(type):
        raise ValueError(f"codec.register: the name {name!r} is that of {full_name(other.type)}; choose another")
    _by_name[name] = _by_type[type] = form


def form_of(kind: type) -> Form | None:
    """Return the form of exactly this type."""
    return _by_type.get(kind)


def full_name(kind: type) -> str:
    """Return the name of a class with the name of its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def advice(kind: type) -> str:
    """Return why an instance of this type cannot be stored, and what to do instead."""
    if kind.__module__.partition(".")[0] == "msgpack":
        return "msgpack's extension types are not for values: store what it stands for"
    register_it = f"give it a form with meshcache.codec.register({kind.__qualname__}, …)"
    base = next((base for base in kind.__mro__[1:] if base in LEAVES or base in CONTAINERS), None)
    if issubclass(kind, Enum):
        return f"an enumeration of one's own has no codec: store its value or name, or {register_it}"
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return f"a named tuple has no codec, and would come back as a plain tuple: store tuple(value), or {register_it}"
    if base is not None and base is not NoneType:
        text = f"{full_name(kind)} has no codec, and would come back as a plain {base.__name__}"
        return f"{text}: store {base.__name__}(value), or {register_it}"
    return f'no codec for {full_name(kind)}: {register_it}, or use codec="pickle" if you trust all who write'


# ---- from values to what msgpack has


def translate(value: Any) -> Any:
    """Turn a value that msgpack lacks into one that it has; msgpack then goes on with the result."""
    translator = _TRANSLATORS.get(type(value))
    if translator is not None:
        return translator(value)
    form = _by_type.get(type(value))
    if form is None:
        raise TypeError(advice(type(value)))
    return framed(form, form.encode(value))


def framed(form: Form, plain: Any) -> list[Any]:
    """Return the array for an instance of which its form has made ``plain``."""
    return [msgpack.ExtType(_FORM, b""), form.name, plain]


def _zone(value: datetime | time) -> int | str | None:
    """Return the offset in microseconds, the name of the zone, or None."""
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

NATIVE: Final = frozenset({NoneType, bool, int, float, str, bytes, bytearray, memoryview})
"""Types that msgpack packs by itself and that hold no other values."""

LEAVES: Final = NATIVE | {datetime, date, time, timedelta, Decimal, uuid.UUID, complex}
"""All types that hold no other values."""

CONTAINERS: Final[dict[type, Callable[[Any], Iterable[Any]]]] = {
    list: iter,
    dict: lambda v: chain(v, v.values()),
    tuple: iter,
    set: iter,
    frozenset: iter,
}
"""Types that hold other values, and the function that returns these; a type with a form holds what its form returns."""


# ---- and back


class _Mark:
    """The first element in the array of a container that msgpack lacks."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[Any]], Any]) -> None:
        self.build = build


def _reform(items: list[Any]) -> Any:
    """Return the instance for a name and a plain value."""
    name, plain = items
    form = _by_name.get(name) if type(name) is str else None
    if form is None:
        raise ValueError(f"it holds a {name!r:.80}, which is not registered here: call meshcache.codec.register first")
    try:
        return form.decode(plain)
    except Exception as error:
        raise ValueError(f"{form.name!r}: its decode raised {type(error).__name__}: {error}") from error


_MARKS: Final = {_TUPLE: _Mark(tuple), _SET: _Mark(set), _FROZENSET: _Mark(frozenset), _FORM: _Mark(_reform)}


def restore_container(items: list[Any]) -> Any:
    """Return the value for an array: the ``list_hook`` of msgpack."""
    if items and type(items[0]) is _Mark:
        return items[0].build(items[1:])
    return items


def restore(code: int, data: bytes) -> Any:
    """Return the value for an extension: the ``ext_hook`` of msgpack."""
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


# ---- forms that are here from the start


_FACTORIES: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
} | {kind.__name__: kind for kind in (Counter, OrderedDict, defaultdict, deque, Decimal, Fraction)}
"""The factories that a stored defaultdict may have."""


def _plain_defaultdict(value: defaultdict[Any, Any]) -> list[Any]:
    factory = value.default_factory
    if factory is None:
        return [None, dict(value)]
    name = getattr(factory, "__name__", "")
    if _FACTORIES.get(name) is not factory:
        names = ", ".join(sorted(_FACTORIES, key=str.lower))
        raise TypeError(f"the factory of a stored defaultdict must be None or one of {names}; is {factory!r:.80}")
    return [name, dict(value)]


def _defaultdict(plain: list[Any]) -> defaultdict[Any, Any]:
    name, items = plain
    return defaultdict(None if name is None else _FACTORIES[name], items)


def _zone_key(value: ZoneInfo) -> str:
    if not value.key:
        raise TypeError("a ZoneInfo made from a file has no key by which to find it again")
    return value.key


def _timezone(plain: list[Any]) -> timezone:
    offset, *name = plain
    return timezone(offset, *name) if name or offset else UTC


def _deque(plain: list[Any]) -> deque[Any]:
    maxlen, items = plain
    return deque(items, maxlen)


_FORMS: Final[tuple[tuple[type, Callable[[Any], Any], Callable[[Any], Any]], ...]] = (
    (OrderedDict, dict, OrderedDict),
    (Counter, dict, Counter),
    (defaultdict, _plain_defaultdict, _defaultdict),
    (deque, lambda v: [v.maxlen, list(v)], _deque),
    (range, lambda v: [v.start, v.stop, v.step], lambda plain: range(*plain)),
    (Fraction, lambda v: [v.numerator, v.denominator], lambda plain: Fraction(*plain)),
    (timezone, lambda v: list(v.__getinitargs__()), _timezone),
    (ZoneInfo, _zone_key, ZoneInfo),
    (HTTPStatus, lambda v: v.value, HTTPStatus),
    (HTTPMethod, lambda v: v.value, HTTPMethod),
    *[
        (kind, str, kind)
        for kind in (
            IPv4Address,
            IPv4Interface,
            IPv4Network,
            IPv6Address,
            IPv6Interface,
            IPv6Network,
            PosixPath,
            PurePosixPath,
            PureWindowsPath,
        )
    ],
)

for _kind, _encode, _decode in _FORMS:
    _by_type[_kind] = _by_name[RESERVED + _kind.__name__] = Form(_kind, RESERVED + _kind.__name__, _encode, _decode)
