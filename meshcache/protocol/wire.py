"""Messages to frames and back: msgpack with limits, and a schema for every field.

Anything from the network may be hostile. What decode accepts has fields of the right types, with bounded sizes and
aligned lists, and as many as there are, unless it comes from another version (versions.py). Anything else raises a
``ProtocolError`` that names the message and the field, and is only counted by the receiver. msgpack itself is bounded
too: an array header that announces more elements than ``BATCH_OPS_MAX`` is refused before anything is allocated for it,
and maps and extensions are hardly allowed.

Checks run at C speed: one check of the types of all fields of a message, then one of the content of the few fields that
need it, with ``b"".join`` and ``map`` for whole lists. That takes about 0.1 µs a key; a loop in Python takes three
times as long. The frame of one GET is decoded in 1.4 µs; with a check in Python for each field it would be 2.4 µs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from operator import itemgetter
from types import NoneType
from typing import Any, Final, NamedTuple

import msgpack

from meshcache.errors import ProtocolError
from meshcache.protocol import facts, versions
from meshcache.protocol import messages as m
from meshcache.protocol.messages import (
    BATCH_OPS_MAX,
    COARSE_TAGS,
    KEY_BYTES_MAX,
    KINDS,
    Event,
    EventKind,
    Floor,
    Message,
)
from meshcache.protocol.record import HEADER_BYTES, VERSION_BYTES, check_content

_TEXT_LENGTH_MAX: Final = 1024
_MAP_ITEMS_MAX: Final = 1024
_UINT64_MAX: Final = (1 << 64) - 1
_SHORT_FRAME_BYTES: Final = 1024
"""In a shorter frame nothing can exceed a limit, since msgpack bounds each length by the frame's. Not giving msgpack
the limits halves the time. Extensions are refused at every length."""

_FRAME_OF_ONE: Final = b"\x92"
_FROM_CLIENT: Final = _FRAME_OF_ONE + b"\0"
"""The first bytes of a frame of one message without a clock, as clients send it."""
_NUMBER_AT: Final = 4
"""Where the number of a request is: after the two bytes above, the head of the message and its kind. A number takes one
byte, or one byte that says whether 1, 2, 4 or 8 follow."""
_BOOT_ENDS_BY: Final = 24

LARGE_BYTES: Final = 1 << 16
"""Byte strings from this size on, to which msgpack gives a length of four bytes, are put into a frame as they are."""


class Pieces:
    """A byte string in two parts, which are put together only in the frame: a large one is so copied once less."""

    __slots__ = ("head", "rest")

    def __init__(self, head: bytes, rest: bytes) -> None:
        self.head = head
        self.rest = rest

    def __len__(self) -> int:
        return len(self.head) + len(self.rest)

    def __bytes__(self) -> bytes:
        return self.head + self.rest


def _whole(value: object) -> bytes:
    """Return what the packer does not know in a form that it knows."""
    if type(value) is Pieces:
        return bytes(value)
    raise TypeError(f"a frame has no {type(value).__qualname__}")


_packer = msgpack.Packer(default=_whole)
"""One packer for all: a new one for each frame would cost more than the frame. It is not thread-safe by itself, but
pack() holds the GIL from its first byte to its last and keeps nothing between calls."""
_pack = _packer.pack
_array_head: Callable[[int], bytes] = _packer.pack_array_header
_unpack = msgpack.unpackb


def encode_frame(clock: int, messages: Sequence[Message | bytes]) -> bytes:
    """Return the frame that carries these messages and, between nodes, the sender's clock.

    A message may be there as a frame of its own already, with an earlier clock perhaps.
    """
    packed: bytes
    if len(messages) == 1:  # the usual case
        message = messages[0]
        if type(message) is not bytes and _is_large(message):
            return _joined(clock, message)
        if type(message) is not bytes:
            packed = _pack((clock, (KINDS[type(message)], *message)))  # type: ignore[index]  # not bytes
        elif len(message) >= LARGE_BYTES or message.startswith(head := _FRAME_OF_ONE + _pack(clock)):
            packed = message  # where it is large: a clock of a moment ago does no harm, and a copy takes milliseconds
        else:
            packed = head + _alone(message)
        return packed
    if bytes not in map(type, messages):
        packed = _pack([clock, *[(KINDS[type(message)], *message) for message in messages]])  # type: ignore[index]
        return packed
    parts = [
        _alone(message) if type(message) is bytes else _pack((KINDS[type(message)], *message))  # type: ignore[index]
        for message in messages
    ]
    return b"".join([_array_head(len(messages) + 1), _pack(clock), *parts])


def _alone(frame: bytes) -> bytes:
    """Return the message of a frame that has one: without the head of the frame and its clock."""
    clock_bytes = 1 if frame[1] < 0x80 else 1 + (1 << (frame[1] & 3))  # as in DeadlinePeek.number_of
    return frame[1 + clock_bytes :]


def _is_large(message: Any) -> bool:
    last = message[-1]
    return type(last) is list and bool(last) and type(last[0]) in {bytes, Pieces} and len(last[0]) >= LARGE_BYTES


def _joined(clock: int, message: Any) -> bytes:
    """Return the same frame of one message whose last field is a list of large byte strings.

    The packer would copy these twice, into its buffer and out of it, and keep a buffer of that size for ever.
    """
    *fields, values = message
    parts = [_FRAME_OF_ONE, _pack(clock), _array_head(1 + len(message)), _pack(KINDS[type(message)])]
    parts += map(_pack, fields)
    parts.append(_array_head(len(values)))
    for value in values:
        if type(value) is bytes and len(value) >= LARGE_BYTES:
            parts += (b"\xc6" + len(value).to_bytes(4, "big"), value)
        elif type(value) is Pieces and len(value) >= LARGE_BYTES:
            parts += (b"\xc6" + len(value).to_bytes(4, "big"), value.head, value.rest)
        else:
            parts.append(_pack(value))
    return b"".join(parts)


Frame = bytes | memoryview
"""A frame as it arrives; no decoded message refers to it."""


def decode_frame(frame: Frame) -> tuple[int, list[Message]]:
    """Return the sender's clock and the messages. Raises ProtocolError, and nothing else, on anything malformed."""
    try:
        if len(frame) <= _SHORT_FRAME_BYTES:
            parts = _unpack(frame, max_ext_len=0)
        else:
            parts = _unpack(
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
    if len(parts) == 2:  # the usual case
        return parts[0], [_decode_message(parts[1])]
    return parts[0], [_decode_message(message) for message in parts[1:]]


class DeadlinePeek:
    """Tells whether the deadline of a client's request is over, without decoding the request.

    A request begins with its number, the boot of the process for which it is meant, and its deadline. The last two have
    64 bits, and so always the same length; and as they are written with the most significant byte first, they compare
    as bytes.
    """

    HEAD: Final = _FROM_CLIENT
    """How the frames begin of which there may be something to tell."""

    def __init__(self, boot: int) -> None:
        self._boot_mark: bytes = _pack(boot)

    def past_by(self, wall_ms: int) -> Callable[[Frame], bool | None]:
        """Return a check of a frame: True if it is a request whose deadline is over at this time, else False.

        It returns None for any other frame than a client's request, and for a request to another process.
        """
        boot_mark, wall_mark = self._boot_mark, _pack(wall_ms)
        boot_bytes, wall_bytes = len(boot_mark), len(wall_mark)

        def is_past(frame: Frame) -> bool | None:
            if type(frame) is not bytes or not frame.startswith(_FROM_CLIENT):
                return None
            at = frame.find(boot_mark, 0, _BOOT_ENDS_BY)
            if at < 0:
                return None
            at += boot_bytes
            return frame[at : at + wall_bytes] < wall_mark

        return is_past

    @staticmethod
    def number_of(frame: Frame) -> int:
        """Return the number of a request for which ``past_by`` did not return None."""
        first = frame[_NUMBER_AT]
        if first < 0x80:
            return first
        return int.from_bytes(frame[_NUMBER_AT + 1 : _NUMBER_AT + 1 + (1 << (first & 3))], "big")


def _decode_message(parts: Any) -> Message:
    if type(parts) is not list or not parts or type(parts[0]) is not int:
        raise ProtocolError("not a message: it must be an array that begins with its kind")
    schema = _SCHEMAS.get(parts[0])
    if schema is None:
        if not 0 < parts[0] <= versions.KIND_MAX:
            raise ProtocolError(f"no kind of message: {parts[0]}")
        return m.Unknown(parts[0])
    if tuple(map(type, parts)) not in schema.signatures:
        parts = _of_another_version(parts, schema)
    for i, check in schema.checks:
        try:
            parts[i] = check(parts[i])
        except Exception as error:  # noqa: BLE001  (a check that stumbles over a value has found it wrong)
            raise ProtocolError(f"{schema.cls.__name__}.{schema.cls._fields[i - 1]}: {error}") from None
    if schema.aligned and len(parts[-1]) != len(parts[-2]):
        last = schema.cls._fields[-1]
        raise ProtocolError(f"{schema.cls.__name__}: {len(parts[-2])} keys, but {len(parts[-1])} {last}")
    del parts[0]
    return tuple.__new__(schema.cls, parts)  # type: ignore[no-any-return]  # the table holds message classes only


def _of_another_version(parts: list[Any], schema: _Schema) -> list[Any]:
    """Return the parts as this version has them. Raises ProtocolError if one has a wrong type, or is missing."""
    kind, *fields = parts
    known = versions.fitted(schema.cls, fields)
    if known is None or (int, *map(type, known)) not in schema.signatures:
        raise ProtocolError(_mismatch(schema.cls, known or fields))
    return [kind, *known]


def _mismatch(cls: Any, fields: list[Any]) -> str:
    """Say which field has a wrong type, or that the number of fields is wrong."""
    expected = _FIELDS[cls]
    if len(fields) != len(expected):
        return f"{cls.__name__} has {len(expected)} fields, not {len(fields)}"
    for name, value, field in zip(cls._fields, fields, expected, strict=True):
        if type(value) not in field.types:
            kinds = " or ".join(kind.__name__ for kind in field.types)
            return f"{cls.__name__}.{name}: must be {kinds}, is {type(value).__name__}"
    raise AssertionError(cls)


def _int(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value <= _UINT64_MAX:
        raise TypeError("must be an integer")
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
    if type(value) is not str or len(value) > _TEXT_LENGTH_MAX or not value.isprintable():
        raise TypeError(f"must be printable text of at most {_TEXT_LENGTH_MAX} characters")
    return value


def _name(value: Any) -> str:
    problem = facts.name(value)
    if problem is not None:
        raise ValueError(problem)
    return value  # type: ignore[no-any-return]  # just checked


def _counter(value: int) -> int:
    if not 0 <= value <= facts.COUNTER_MAX:
        raise ValueError(f"must be a number from 0 to {facts.COUNTER_MAX:,}")
    return value


def _wall_ms(value: int) -> int:
    if not 0 <= value <= facts.WALL_MS_MAX:
        raise ValueError(f"must be milliseconds from 0 to {facts.WALL_MS_MAX:,}")
    return value


def _digest(value: bytes) -> bytes:
    if len(value) > facts.DIGEST_BYTES:
        raise ValueError(f"must be at most {facts.DIGEST_BYTES} bytes")
    return value


def _cursor(value: bytes) -> bytes:
    if len(value) > KEY_BYTES_MAX + 1:
        raise ValueError(f"must be at most {KEY_BYTES_MAX + 1} bytes")
    return value


def _prefix(value: bytes) -> bytes:
    if len(value) > KEY_BYTES_MAX:
        raise ValueError(f"must be at most {KEY_BYTES_MAX} bytes, as a key")
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
    b"".join(_list(value))  # a TypeError, unless all are bytes; a key that is too long is simply a miss
    return value  # type: ignore[no-any-return]  # just checked


def _keys(value: Any) -> list[bytes]:
    b"".join(_list(value))
    lengths = set(map(len, value))
    if 0 in lengths or max(lengths, default=1) > KEY_BYTES_MAX:
        raise ValueError(f"a key takes 1 to {KEY_BYTES_MAX} bytes")
    return value  # type: ignore[no-any-return]  # just checked


_first_byte: Final = itemgetter(0)


def _contents(value: Any) -> list[bytes]:
    if value and (set(map(type, _list(value))) != {bytes} or min(map(len, value)) < 2):
        raise TypeError("must be bytes, two of flags and the value")
    if any(map(_first_byte, value)):
        for content in value:
            check_content(content)
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
    m.Change.LEASE: (int, bytes, bytes),
    m.Change.FILL: (bytes, int, bytes),
    m.Change.HOLD: (int, bytes),
    m.Change.DROP: (bytes,),
    m.Change.ACQUIRE: (bytes, int),
    m.Change.EXTEND: (bytes, int),
    m.Change.RELEASE: (bytes,),
    m.Change.MARK: (bytes, int, bytes),
}
_LOCK_CHANGES: Final = (m.Change.ACQUIRE, m.Change.EXTEND, m.Change.RELEASE)


def _is_bytes(value: object) -> bool:
    return type(value) is bytes


def _changes(value: Any) -> list[list[Any]]:
    for change in _list(value):
        expected = _CHANGE_ARGUMENTS.get(change[0]) if type(change) is list and change else None
        if expected is None or len(change) != len(expected) + 1:
            raise TypeError("unknown change, or one with the wrong number of arguments")
        for argument, types in zip(change[1:], expected, strict=True):
            if not isinstance(argument, types) or isinstance(argument, bool):
                raise TypeError(f"change {change[0]}: wrong type of argument")
        is_lock = change[0] in _LOCK_CHANGES
        if expected[0] is bytes and len(expected) > 1 and not is_lock:
            _contents([change[1]])
        tokens = filter(_is_bytes, change[1:] if is_lock else change[2:])
        if change[0] >= m.Change.LEASE and max(map(len, tokens), default=0) > m.TOKEN_BYTES:
            raise ValueError(f"versions and tokens take {m.TOKEN_BYTES} bytes")
    return value  # type: ignore[no-any-return]  # just checked


def _events(value: Any) -> list[Event]:
    events = []
    for item in _list(value):
        kind, version, keys = item
        events.append(Event(_int(kind), _version(version), _keys_to_read(keys)))
    return events


def _floors(value: Any) -> list[Floor]:
    floors = []
    for item in _list(value):
        kind, name, version = item
        if kind not in (COARSE_TAGS, EventKind.CLEAR, EventKind.TAG) or len(_bytes(name)) > KEY_BYTES_MAX:
            raise ValueError("a floor is of a prefix, a tag, or a bucket of tags")
        floors.append(Floor(_int(kind), name, _version(version)))
    return floors


def _indices(value: Any) -> list[int]:
    return [_int(item) for item in _list(value)]


def _versions(value: Any) -> list[bytes]:
    return [_version(item) for item in _list(value)]


def _newer(value: Any) -> list[list[Any]]:
    return [[_int(index), _version(version)] for index, version in _list(value)]


class _Field(NamedTuple):
    """What a field may be: its exact types, and a check of its content."""

    types: tuple[type, ...]
    check: Callable[[Any], Any] | None = None


class _Schema(NamedTuple):
    """What a message may be, prepared for one check of all fields."""

    cls: Any
    signatures: frozenset[tuple[type, ...]]
    """The types of its parts, the kind first."""
    checks: tuple[tuple[int, Callable[[Any], Any]], ...]
    """The checks of content, by position in the parts."""
    aligned: bool


_INT: Final = _Field((int,))
"""msgpack has no integer beyond 64 bits."""
_BOOL: Final = _Field((bool,))
_BYTES: Final = _Field((bytes,))
_VERSION: Final = _Field((bytes,), _version)
_VERSIONS: Final = _Field((list,), _versions)
_TEXT: Final = _Field((str,), _text)
_LIST: Final = _Field((list,))
_RESULTS: Final = _Field((list, NoneType))
_NAME: Final = _Field((str,), _name)
_COUNTER: Final = _Field((int,), _counter)
_WALL_MS: Final = _Field((int,), _wall_ms)
_DIGEST: Final = _Field((bytes,), _digest)
_CURSOR: Final = _Field((bytes,), _cursor)
_PREFIX: Final = _Field((bytes,), _prefix)
_FACTS: Final = _Field((list,), facts.facts)
_RUMOURS: Final = _Field((list,), facts.rumours)
_KEYS: Final = _Field((list,), _keys)
_KEYS_TO_READ: Final = _Field((list,), _keys_to_read)
_RECORDS: Final = _Field((list,), _records)
_INDICES: Final = _Field((list,), _indices)
_FACT_OR_NONE: Final = _Field((list, NoneType), facts.fact_or_none)
_SETTINGS: Final = _Field((dict,), _settings)
_CONTENTS: Final = _Field((list,), _contents)
_CHANGES: Final = _Field((list,), _changes)
_RECORDS_OR_NONE: Final = _Field((list,), _records_or_none)
_NEWER: Final = _Field((list,), _newer)
_EVENTS: Final = _Field((list,), _events)
_FLOORS: Final = _Field((list,), _floors)

_REQUEST: Final = (_INT, _INT, _INT, _DIGEST)
"""request, boot, deadline_ms, view: how every request begins."""

_ANSWER: Final = (_INT, _DIGEST)
"""request, view: how every answer begins."""

_CLIENT_REQUEST: Final = (_INT, _INT, _INT, _BYTES)
_CLIENT_ANSWER: Final = (_INT, _BYTES)
"""The same between clients and nodes. Views are compared and never kept there, so their length does not matter."""

_FIELDS: Final[dict[type[Message], tuple[_Field, ...]]] = {
    m.Hello: (_INT, _TEXT, _FACT_OR_NONE, _DIGEST),
    m.Welcome: (_COUNTER, _WALL_MS, _NAME, _SETTINGS, _FACTS),
    m.Refused: (_TEXT, _TEXT),
    m.Ping: (_COUNTER, _NAME, _DIGEST, _BOOL, _RUMOURS),
    m.Ack: (_COUNTER, _WALL_MS, _DIGEST, _RUMOURS),
    m.Gossip: (_RUMOURS,),
    m.PingReq: (_COUNTER, _NAME),
    m.Vouch: (_COUNTER,),
    m.Nack: (_COUNTER,),
    m.Get: (*_CLIENT_REQUEST, _INT, _INT, _BOOL, _KEYS_TO_READ),
    m.Set: (*_CLIENT_REQUEST, _INT, _INT, _KEYS, _CONTENTS),
    m.Delete: (*_CLIENT_REQUEST, _INT, _INT, _KEYS),
    m.Update: (*_CLIENT_REQUEST, _INT, _INT, _INT, _KEYS, _CHANGES),
    m.Clear: (*_CLIENT_REQUEST, _PREFIX),
    m.InvalidateTags: (*_CLIENT_REQUEST, _KEYS),
    m.Inspect: (*_CLIENT_REQUEST, _TEXT, _BYTES),
    m.Reply: (*_CLIENT_ANSWER, _RESULTS),
    m.Reject: (*_CLIENT_ANSWER, _LIST),
    m.Hot: (_INT, _KEYS_TO_READ),
    m.TurnedAway: (_BYTES, _INDICES),
    m.Read: (*_REQUEST, _KEYS_TO_READ),
    m.ReadReply: (*_ANSWER, _RECORDS_OR_NONE, _INDICES),
    m.Write: (*_REQUEST, _BOOL, _KEYS, _RECORDS),
    m.WriteReply: (*_ANSWER, _NEWER, _INDICES),
    m.Sweep: (*_REQUEST, _VERSION, _PREFIX),
    m.SweepTags: (*_REQUEST, _VERSION, _KEYS),
    m.SweepReply: (*_ANSWER, _COUNTER, _BOOL),
    m.Pull: (*_REQUEST, _INDICES, _CURSOR),
    m.Recall: (*_REQUEST, _INDICES, _CURSOR),
    m.PullReply: (*_ANSWER, _INT, _CURSOR, _KEYS, _RECORDS),
    m.Floors: (*_REQUEST, _CURSOR),
    m.FloorsReply: (*_ANSWER, _CURSOR, _FLOORS),
    m.Leave: _CLIENT_REQUEST,
    m.Forget: (*_CLIENT_REQUEST, _TEXT),
    m.Compare: (*_REQUEST, _INDICES, _KEYS_TO_READ),
    m.CompareReply: (*_ANSWER, _INDICES, _KEYS, _VERSIONS),
    m.Invalidations: (_NAME, _COUNTER, _COUNTER, _DIGEST, _EVENTS),
}

_ALIGNED: Final = (m.Set, m.Update, m.Write, m.PullReply, m.Compare, m.CompareReply)
"""Messages whose last two fields are lists of equal length."""


def _schema(cls: type[Message]) -> _Schema:
    fields = _FIELDS[cls]
    return _Schema(
        cls,
        frozenset(product((int,), *[field.types for field in fields])),
        tuple((i, field.check) for i, field in enumerate(fields, 1) if field.check is not None),
        cls in _ALIGNED,
    )


_SCHEMAS: Final[dict[int, _Schema]] = {kind: _schema(cls) for cls, kind in KINDS.items()}


_MESSAGE_OVERHEAD: Final = 64


def weight_of(message: Message | bytes) -> int:
    """Return about how many bytes a message takes, for the kinds that can be large."""
    if isinstance(message, bytes):
        return len(message)
    if isinstance(message, m.Write | m.ReadReply | m.PullReply):
        return _MESSAGE_OVERHEAD + sum([len(record) + 32 for record in message.records if isinstance(record, bytes)])
    if isinstance(message, m.FloorsReply):
        return _MESSAGE_OVERHEAD + sum([len(floor.name) + 32 for floor in message.floors])
    if isinstance(message, m.Reply) and message.results is not None:
        return _MESSAGE_OVERHEAD + sum([len(record) + 8 for record in message.results if type(record) is bytes])
    return _MESSAGE_OVERHEAD
