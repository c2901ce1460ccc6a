from __future__ import annotations

import contextlib
import enum
import math
import pickle
import uuid
from collections import OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.client.codec import Codec
from meshcache.errors import ConfigError, SerializationError
from meshcache.protocol.record import stamp
from meshcache.protocol.wire import LARGE_BYTES, Pieces

STAMP = stamp(bytes(16), 1)


def round_trip(value: Any, codec: Codec | None = None) -> Any:
    codec = codec or Codec()
    return codec.decode(STAMP + codec.encode(value))


def same(a: Any, b: Any) -> bool:
    """Equal, of the same type, all the way down; NaN is itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    return bool(a == b)


zones = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=45)), ZoneInfo("Europe/Berlin")])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.dates(),
    st.times(timezones=st.sampled_from([None, UTC])),
    st.datetimes(timezones=zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.complex_numbers(allow_nan=False),
    st.fractions(),
    st.ip_addresses(),
    st.sampled_from(HTTPStatus),
)
hashables = st.recursive(
    scalars, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)), max_leaves=5
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashables, max_size=3),
        st.frozensets(hashables, max_size=3),
        st.dictionaries(hashables, inner, max_size=4),
        st.lists(inner, max_size=4).map(deque),
        st.dictionaries(hashables, inner, max_size=4).map(OrderedDict),
        st.dictionaries(hashables, inner, max_size=4).map(lambda items: defaultdict(list, items)),
    ),
    max_leaves=12,
)


@given(values)
def test_what_comes_back_equals_what_went_in(value: Any) -> None:
    assert same(round_trip(value), value)


@given(st.binary(max_size=200), st.integers(0, 255))
def test_hostile_bytes_decode_or_raise_serialization_error(data: bytes, tag: int) -> None:
    codec = Codec()
    with contextlib.suppress(SerializationError):
        codec.decode(STAMP + bytes((0, tag)) + data)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (b"\x00\xff", b"\0\0\x00\xff"),
        ("é", b"\0\1\xc3\xa9"),
        (-17, b"\0\2-17"),
        ((1 << 63) - 1, b"\0\2" + b"9223372036854775807"),
        (True, b"\0\3\xc3"),
        (None, b"\0\3\xc0"),
    ],
)
def test_layout(value: Any, content: bytes) -> None:
    assert Codec().encode(value) == content


def test_what_a_flag_costs() -> None:
    assert Codec().encode(1 << 63)[:2] == b"\0\3"
    assert Codec().encode(-(1 << 63))[:2] == b"\0\2"


@pytest.mark.parametrize("buffer", [bytearray(b"ab"), memoryview(b"ab"), memoryview(b"aXbX")[::2]])
def test_buffers_come_back_as_bytes(buffer: Any) -> None:
    assert round_trip(buffer) == b"ab"
    assert type(round_trip(buffer)) is bytes


def test_nan_and_infinities() -> None:
    assert math.isnan(round_trip([math.nan])[0])
    assert round_trip([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert round_trip(Decimal("NaN")).is_nan()


def test_fold_and_zone_survive() -> None:
    second = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    back = round_trip(second)
    assert (back, back.fold, back.tzinfo) == (second, 1, second.tzinfo)
    assert round_trip(datetime(2024, 1, 1)).tzinfo is None  # noqa: DTZ001  (naive on purpose)
    assert round_trip(time(1, 2, tzinfo=UTC)) == time(1, 2, tzinfo=UTC)
    assert type(round_trip(date(2024, 1, 1))) is date


class Colour(enum.IntEnum):
    RED = 3


def test_deep_nesting_works_both_ways_or_is_refused() -> None:
    value: Any = ()
    for _ in range(150):
        value = ([value],)
    assert round_trip(value) == value
    for _ in range(2000):
        value = [value]
    with pytest.raises(SerializationError):
        Codec().encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xc7\x01\x63a",
        b"\x92\xc7\x00\x02\x90",
        b"",
    ],
)
def test_bombs_are_refused_at_once(data: bytes) -> None:
    with pytest.raises(SerializationError, match="can not decode"):
        Codec().decode(STAMP + b"\0\3" + data)


@pytest.mark.parametrize("data", [b"", b"12x", b"9" * 5000, b"\xff"])
def test_a_broken_int_is_an_error(data: bytes) -> None:
    with pytest.raises(SerializationError):
        Codec().decode(STAMP + b"\0\2" + data)


def test_what_has_no_codec_is_named_with_its_place() -> None:
    with pytest.raises(SerializationError, match="object at value\\['users'\\]\\[1\\]"):
        Codec().encode({"users": [1, object()]})
    with pytest.raises(SerializationError, match="can not encode Colours"):
        Codec().encode(enum.Enum("Colours", "RED").RED)  # type: ignore[attr-defined]  # made by the call
    with pytest.raises(TypeError):
        Codec().encode(print)


def test_pickle_only_by_name_on_both_sides() -> None:
    pickled = Codec("pickle").encode(Colour.RED)
    assert pickled[:2] == b"\0\4"
    assert Codec("pickle").decode(STAMP + pickled) is Colour.RED
    with pytest.raises(SerializationError, match='codec="pickle"'):
        Codec().decode(STAMP + pickled)
    assert Codec("pickle").encode(5) == b"\0\0025"
    with pytest.raises(SerializationError):
        Codec("pickle").encode(lambda: 0)


class Reverse:
    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value)[::-1]

    def decode(self, data: bytes) -> Any:
        return pickle.loads(data[::-1])


def test_own_codec_gets_every_value_and_still_reads_the_others() -> None:
    own = Codec(Reverse())
    for value in (1, "a", b"a", {"a": uuid.UUID(int=1)}):
        assert own.encode(value)[:2] == b"\0\5"
        assert round_trip(value, own) == value
        assert own.decode(STAMP + Codec().encode(value)) == value
    with pytest.raises(SerializationError, match="codec of its own"):
        Codec().decode(STAMP + own.encode(1))
    with pytest.raises(SerializationError):
        own.decode(STAMP + b"\0\5garbage")


@pytest.mark.parametrize("codec", ["json", 5, object()])
def test_unknown_codecs_are_refused(codec: Any) -> None:
    with pytest.raises(ConfigError, match="codec"):
        Codec(codec)


@pytest.mark.parametrize("codec", [Codec(), Codec("pickle"), Codec(compress="zstd"), Codec(Reverse())])
@pytest.mark.parametrize("value", [bytes(LARGE_BYTES - 1), bytes(LARGE_BYTES), "x" * LARGE_BYTES, 1])
def test_a_content_is_what_is_encoded_whether_in_pieces_or_not(codec: Codec, value: Any) -> None:
    assert bytes(codec.content(value)) == codec.encode(value)
    in_pieces = codec.chosen in {None, "pickle"} and codec.compress != "zstd" and value == bytes(LARGE_BYTES)
    assert (type(codec.content(value)) is Pieces) is in_pieces
