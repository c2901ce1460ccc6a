"""The texts of arguments: one value each, the same in every process."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time as clock
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, localcontext
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import meshcache
from meshcache.client.forms import NESTED_MAX, form
from meshcache.client.naming import Names


class Colour(Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796  (an alias)
    BLUE = 2


class Size(IntEnum):
    S = 1
    M = 2


class Kind(StrEnum):
    A = "a"
    B = "b"


class Right(IntFlag):
    READ = 1
    WRITE = 2


class Door(Flag):
    OPEN = 1
    LOCKED = 2


class Status(Enum):
    """As the members of services that grow: whatever is not known yet is UNKNOWN, with the number that came."""

    OK = 0

    @classmethod
    def _missing_(cls, value: object) -> Status:
        unknown = object.__new__(cls)
        unknown._name_ = "UNKNOWN"
        unknown._value_ = value  # type: ignore[assignment]  # whatever came
        return unknown


Odd = Enum("Odd", {"a": 1, "a,b": 2, "b": 3})  # names that are no identifiers


class Money(int):
    currency = "EUR"


class Text(str):
    __slots__ = ()


class Zone(tzinfo):
    """Two of them look the same and differ."""

    def __init__(self, hours: int) -> None:
        self.hours = hours

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=self.hours)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "zone"

    def __repr__(self) -> str:
        return "Zone()"


def text(value: Any) -> str:
    return form(value, Names().of_class)


def number(bits: int) -> float:
    value: float = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
    return value


DAY = datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001  (what differs by its zone is the point)

DIFFERENT: list[Any] = [
    None,
    "None",
    True,
    1,
    1.0,
    "1",
    b"1",
    Decimal(1),
    complex(1),
    "True",
    False,
    0,
    0.0,
    -0.0,
    complex(0, -0.0),
    0j,
    math.nan,
    -math.nan,
    number(0x7FF8000000000001),
    math.inf,
    -math.inf,
    "nan",
    Decimal("1.0"),
    Decimal("1.00"),
    Decimal("1E+2"),
    Decimal(100),
    Decimal("-0"),
    Decimal(0),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("NaN12"),
    Decimal("Infinity"),
    1 << 300,
    (1 << 300) + 1,
    -(1 << 300),
    hex(1 << 300),
    "",
    "\ud800",
    "\ud801",
    "a",
    b"a",
    "a,b",
    "'a'",
    "a'",
    'a"',
    "\\",
    "\n",
    "é",
    "e\u0301",
    "\x00",
    "\uff41",
    (),
    [],
    {},
    set(),
    frozenset(),
    ((),),
    [()],
    (1,),
    [1],
    {1},
    frozenset({1}),
    ("a", "b"),
    ("a','b",),
    ["a", "b"],
    [["a"], "b"],
    [["a", "b"]],
    {"a": 1},
    [("a", 1)],
    {"a": 1, "b": 2},
    {"a": {"b": 2}},
    {1: 1},
    {True: 1},
    {1.0: 1},
    OrderedDict(a=1, b=2),
    OrderedDict(b=2, a=1),
    Counter(a=1, b=2),
    MappingProxyType({"a": 1, "b": 2}),
    MappingProxyType(OrderedDict(a=1, b=2)),
    defaultdict(int, a=1, b=2),
    defaultdict(list, a=1, b=2),
    defaultdict(None, a=1, b=2),
    Colour.RED,
    Colour.BLUE,
    "RED",
    Size.S,
    Size.M,
    Kind.A,
    Kind.B,
    Colour,
    Size,
    int,
    "int",
    str,
    type(None),
    *(Right(bits) for bits in (0, 1, 2, 3, 4, 8, 16, 9)),
    *(Door(bits) for bits in (0, 1, 2, 3)),
    Status.OK,
    Status(7),
    Status(8),
    (Odd["a"], Odd["b"]),
    (Odd["a,b"],),
    Odd["a,b"],
    date(2026, 10, 25),
    DAY,
    "2026-10-25",
    DAY.replace(fold=1),
    DAY.replace(tzinfo=UTC),
    DAY.replace(tzinfo=timezone(timedelta(0), "Zulu")),
    DAY.replace(tzinfo=timezone(timedelta(hours=1))),
    DAY.replace(tzinfo=ZoneInfo("Europe/Berlin")),
    DAY.replace(tzinfo=ZoneInfo("Europe/Paris")),
    DAY.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    DAY.replace(microsecond=1),
    time(2, 30),
    time(2, 30, fold=1),
    time(2, 30, tzinfo=UTC),
    timedelta(1),
    timedelta(seconds=1),
    UUID(int=1),
    str(UUID(int=1)),
    ...,
]


def test_different_values_have_different_texts() -> None:
    seen: dict[str, Any] = {}
    for value in DIFFERENT:
        assert text(value) not in seen, f"{value!r} and {seen[text(value)]!r}"
        seen[text(value)] = value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Colour.RED, Colour.CRIMSON),
        ({"a": 1, "b": {"c", "d", "e"}}, {"b": {"e", "d", "c"}, "a": 1}),
        (Counter(a=1, b=2), Counter(b=2, a=1)),
        (Right.READ | Right.WRITE, Right.WRITE | Right.READ),
        (DAY.replace(tzinfo=timezone(timedelta(0))), DAY.replace(tzinfo=UTC)),
        (DAY.replace(tzinfo=ZoneInfo("Europe/Berlin")), DAY.replace(tzinfo=ZoneInfo.no_cache("Europe/Berlin"))),
        (Status(7), Status(7)),
        (float("nan"), math.nan),
    ],
)
def test_what_is_the_same_has_the_same_text(one: Any, other: Any) -> None:
    assert text(one) == text(other)


class Shape:
    """An object that says what it equals, and how it looks: both mean nothing to others."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # as the language makes it of the above

    def __repr__(self) -> str:
        return "1"


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Shape(),
        Money(1),
        Text("a"),
        DAY.replace(tzinfo=Zone(1)),
        time(1, tzinfo=Zone(1)),
        iter([]),
        len,
        lambda: 1,
        bytearray(b"a"),
        memoryview(b"a"),
        UserDict(a=1),
        ChainMap({"a": 1}),
        MappingProxyType(UserDict(a=1)),
        defaultdict(lambda: 1),
        type("Sub", (dict,), {})(a=1),
        type("Sub", (list,), {})([1]),
        list[int],
        int | str,
        type("Stamp", (datetime,), {})(2026, 1, 1),
        type("Sub", (float,), {})(1.0),
        range(3),
        [object()],
        {"a": object()},
        {object(): 1},
        (Text("a"),),
        Status(object()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_be_more_than_it_shows_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"for a key|part of a key"):
        text(value)


def test_a_decimal_does_not_depend_on_the_settings_of_its_thread() -> None:
    with localcontext(Context(capitals=0, prec=2)):
        small = text(Decimal("1.2345E+10"))
    assert small == text(Decimal("1.2345E+10"))


def test_values_that_contain_themselves_and_values_of_very_many_parts_are_refused_at_once() -> None:
    ring: list[Any] = []
    ring += [ring] * 16
    shared: list[Any] = []
    for _ in range(NESTED_MAX - 1):
        shared = [shared] * 16
    deep: list[Any] = []
    for _ in range(NESTED_MAX + 1):
        deep = [deep]
    looped: dict[str, Any] = {}
    looped["a"] = looped
    for value in (ring, shared, deep, looped):
        began = clock.process_time()
        with pytest.raises(TypeError, match=r"levels|values"):
            text(value)
        assert clock.process_time() - began < 5.0


def test_classes_that_a_function_makes_are_told_apart_or_refused() -> None:
    def make(size: int) -> type:
        class Box:
            limit = size

        return Box

    names = Names()
    one, two = make(1), make(2)
    assert form(one, names.of_class) == form(one, names.of_class)
    with pytest.raises(TypeError, match="several classes"):
        form(two, names.of_class)
    del one
    with pytest.raises(TypeError, match="several classes"):
        form(two, names.of_class)


class Replaced:
    """Another class has its name by now."""


OLD = Replaced


class Replaced:  # type: ignore[no-redef]
    """And this is it."""


class Alike(type):
    """Its classes say that they are all the same."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __hash__(cls) -> int:
        return 1


class One(metaclass=Alike):
    """A class of such a kind."""


class Two(metaclass=Alike):
    """And another."""


def test_classes_are_told_apart_by_what_they_are() -> None:
    names = Names()
    assert form(Replaced, names.of_class) == form(Replaced, names.of_class)
    with pytest.raises(TypeError, match="several classes"):
        form(OLD, names.of_class)
    assert form(One, names.of_class) != form(Two, names.of_class)


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(),
    st.floats(width=64),
    st.sampled_from(["", "1", "a", ","]),
    st.text(alphabet="a1,:'\"()[]{}\\<># \n\ud800é", max_size=4),
    st.binary(max_size=2),
    st.decimals(allow_nan=False) | st.sampled_from([Decimal("1E+2"), Decimal(100), Decimal("NaN")]),
    st.dates(),
    st.timedeltas(),
    st.datetimes(timezones=st.none() | st.just(UTC) | st.sampled_from([ZoneInfo("Europe/Berlin")])),
    st.times(),
    st.uuids(),
    st.complex_numbers(),
    st.sampled_from(list(Colour) + list(Size) + list(Kind)),
    st.builds(Right, st.integers(0, 20)),
    st.builds(Status, st.integers(0, 3)),
    st.sampled_from([int, str, Colour]),
)


@st.composite
def scalars(draw: st.DrawFn) -> Any:
    """One of these, with a short name: hypothesis writes out of what a strategy is made."""
    return draw(SCALARS)


HASHABLE = st.recursive(
    scalars(), lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=4
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(HASHABLE, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3).map(OrderedDict),
        st.dictionaries(HASHABLE, inner, max_size=3).map(MappingProxyType),
    ),
    max_leaves=8,
)


def exact(value: Any) -> Any:
    """What a value is, in terms that Python compares exactly: the judge of the texts, and made otherwise than they."""
    kind = type(value)
    if kind is float:
        return kind, struct.pack(">d", value)
    if kind is complex:
        return kind, struct.pack(">dd", value.real, value.imag)
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind in {datetime, time}:
        zone = getattr(value.tzinfo, "key", value.tzinfo)
        return (
            kind,
            tuple(getattr(value, name, 0) for name in ("year", "month", "day")),
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            value.fold,
            zone,
        )
    if kind in {tuple, list}:
        return kind, tuple(map(exact, value))
    if kind in {set, frozenset}:
        return kind, frozenset(map(exact, value))
    if kind is dict:
        return kind, frozenset((exact(name), exact(item)) for name, item in value.items())
    if kind is OrderedDict:
        return kind, tuple((exact(name), exact(item)) for name, item in value.items())
    if kind is MappingProxyType:
        return kind, exact(value.copy())
    return kind, value._value_ if isinstance(value, Enum) else value


@PATIENT
@given(VALUES, VALUES)
def test_two_values_have_one_text_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (text(one) == text(other)) == (exact(one) == exact(other))


@PATIENT
@given(st.data())
def test_values_of_the_same_parts_have_one_text_only_if_they_are_the_same(data: st.DataObject) -> None:
    """Of few parts, arranged in many ways, many pairs are nearly the same."""
    parts: st.SearchStrategy[Any] = st.sampled_from(
        ["", "a", "a,", "'a'", "(", ")", "1", 1, 1.0, True, None, (), [], "None", b"a", {}]
    )
    arranged = st.recursive(
        parts, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=4
    )
    one, other = data.draw(arranged), data.draw(arranged)
    assert (text(one) == text(other)) == (exact(one) == exact(other))


def printed(seed: str) -> str:
    program = "from test_forms import DIFFERENT, text\nfor value in DIFFERENT: print(ascii(text(value)))"
    root = Path(meshcache.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
    ).stdout


def test_texts_do_not_depend_on_the_process() -> None:
    here = [ascii(text(value)) for value in DIFFERENT]
    assert printed("1").splitlines() == printed("2").splitlines() == here
