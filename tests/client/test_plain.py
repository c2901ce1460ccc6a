"""Types that come back as what they were, those that are refused, and those that users register."""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
import threading
import urllib.parse
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from http import HTTPMethod, HTTPStatus
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
import pytest
from fake_node import fake_mesh

import meshcache
from meshcache.client import plain
from meshcache.client.codec import Codec
from meshcache.errors import SerializationError
from meshcache.protocol.record import stamp

STAMP = stamp(bytes(16), 1)


def round_trip(value: Any) -> Any:
    return Codec().decode(STAMP + Codec().encode(value))


@pytest.fixture(autouse=True)
def _forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(plain, "_by_type", dict(plain._by_type))
    monkeypatch.setattr(plain, "_by_name", dict(plain._by_name))


STANDARD: list[Any] = [
    OrderedDict([("b", 1), ("a", (2, 3))]),
    Counter("abracadabra"),
    Counter({"a": -1, ("b", 1): 2.5}),
    defaultdict(list, {"a": [1]}),
    defaultdict(None, {"a": 1}),
    defaultdict(defaultdict, {"a": defaultdict(int, {"b": 1})}),
    *[defaultdict(kind) for kind in (int, float, bool, str, bytes, set, dict, tuple, Counter, OrderedDict, deque)],
    deque([1, "a", (2,)]),
    deque([1, 2], maxlen=2),
    range(3),
    range(10, -5, -3),
    Fraction(-7, 3),
    Fraction(1 << 100, 3),
    UTC,
    timezone(timedelta(hours=-3, minutes=30)),
    timezone(timedelta(0), "GMT"),
    ZoneInfo("Europe/Berlin"),
    HTTPStatus.NOT_FOUND,
    HTTPMethod.GET,
    ip_address("10.0.0.1"),
    ip_address("fe80::1%eth0"),
    ip_network("10.0.0.0/8"),
    ip_network("2001:db8::/32"),
    ip_interface("10.0.0.1/8"),
    ip_interface("2001:db8::1/32"),
    Path("/tmp/a b"),
    PurePosixPath("a/../é"),
    PureWindowsPath("C:\\x"),
]


@pytest.mark.parametrize("value", STANDARD, ids=repr)
def test_types_of_the_standard_library_come_back_as_they_were(value: Any) -> None:
    for back in (round_trip(value), round_trip({"deep": [(value, 1)]})["deep"][0][0]):
        assert back == value
        assert type(back) is type(value)
        assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value", [HTTPStatus.OK, Fraction(1, 3), ip_address("::1"), Path("/a"), range(3), UTC], ids=repr
)
def test_they_can_be_keys_and_members_of_sets(value: Any) -> None:
    assert round_trip({value: 1, (value, 2): 3}) == {value: 1, (value, 2): 3}
    (back,) = round_trip({value})
    assert type(back) is type(value)


def test_a_bounded_deque_and_a_default_keep_working() -> None:
    last = round_trip(deque([1, 2], maxlen=2))
    last.append(3)
    assert list(last) == [2, 3]
    groups = round_trip(defaultdict(list))
    groups["new"].append(1)
    assert groups == {"new": [1]}
    order = round_trip(OrderedDict(a=1, b=2))
    order.move_to_end("a")
    assert list(order) == ["b", "a"]


class Colour(enum.IntEnum):
    RED = 3


class Mood(enum.StrEnum):
    GOOD = "good"


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


class Shape(enum.Enum):
    ROUND = "round"


class Point(NamedTuple):
    x: int
    y: int


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024  (the plain kind is the one to test)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class Data(bytes):
    pass


class Items(list[Any]):
    pass


class Table(dict[Any, Any]):
    pass


class Triple(tuple[Any, ...]):
    __slots__ = ()


class Group(set[Any]):
    pass


class Tally(Counter[Any]):
    pass


class Exact(Decimal):
    pass


@dataclasses.dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str


OWN: list[Any] = [
    Colour.RED,
    Mood.GOOD,
    Right.READ,
    Right.READ | Right.WRITE,
    Right(0),
    Right(8),
    Shape.ROUND,
    Point(1, 2),
    Pair(1, 2),
    iter([]),
    object(),
    ValueError("a"),
    defaultdict(lambda: 1),
    defaultdict(Items),
    Text("a"),
    Number(1),
    Number(1 << 70),
    Real(1.5),
    Data(b"a"),
    Items([1]),
    Table(a=1),
    Triple((1,)),
    Group({1}),
    Tally("a"),
    Exact(1),
    urllib.parse.urlsplit("http://a/b"),
    Money(Decimal(1), "EUR"),
    Money,
    len,
    lambda: 0,
    ...,
    msgpack.ExtType(1, b""),
    msgpack.ExtType(99, b"a"),
    msgpack.Timestamp(7),
]


@pytest.mark.parametrize("value", OWN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda value: value, ""),
        (lambda value: [0, {"a": (value,)}], r" at value\[1\]\['a'\]\[0\]"),
        (lambda value: deque([value]), r" at value \(as 'python.deque'\)\[1\]\[0\]"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(value: Any, wrap: Callable[[Any], Any], place: str) -> None:
    with pytest.raises(SerializationError, match=f"can not encode {type(value).__name__}{place}: "):
        Codec().encode(wrap(value))


@pytest.mark.parametrize("value", [Colour.RED, Text("a"), Point(1, 2), Money(Decimal(1), "EUR")], ids=repr)
def test_so_it_is_as_a_key(value: Any) -> None:
    with pytest.raises(SerializationError, match=f"can not encode {type(value).__name__} at key of value: .*register"):
        Codec().encode({value: 1})
    with pytest.raises(SerializationError, match=r"at key of value\[1\]\[0\]"):
        Codec().encode([0, {(value,): 1}])


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (Point(1, 2), "store tuple"),
        (Colour.RED, "store its value or name"),
        (Text("a"), "store str"),
        (Money(Decimal(1), "EUR"), "codec.register.*pickle"),
        (defaultdict(lambda: 1), "None or one of bool"),
        (msgpack.Timestamp(7), "extension types are not for values"),
    ],
)
def test_what_is_refused_is_told_what_to_do(value: Any, advice: str) -> None:
    with pytest.raises(SerializationError, match=advice):
        Codec().encode(value)


def test_results_of_functions_are_the_same_from_the_first_call_on_or_refused_by_it() -> None:
    with fake_mesh() as (node,), meshcache.Client(node.address) as cache:

        @cache.cached(ttl=60)
        def load(name: str) -> Any:
            calls.append(name)
            return {"text": Text("a"), "point": Point(1, 2), "tally": Counter("aab")}[name]

        calls: list[str] = []
        for name in ("text", "point"):
            for _ in range(2):
                with pytest.raises(SerializationError, match="register"):
                    load(name)
        assert [type(load("tally")) for _ in range(3)] == [Counter] * 3
        assert calls == ["text", "text", "point", "point", "tally"]
        with pytest.raises(SerializationError, match="at value"):
            cache.set_many({"a": 1, "b": [Text("b")]})
        assert cache.get("a") is None


# ---- types of one's own


def register_money(name: str = "shop.Money") -> None:
    meshcache.codec.register(Money, name, lambda m: (m.amount, m.currency), lambda plain: Money(*plain))


def test_a_registered_type_comes_back_wherever_it_stands() -> None:
    euro = Money(Decimal("9.99"), "EUR")
    register_money()
    meshcache.codec.register(Colour, "shop.Colour", lambda c: c.name, Colour.__getitem__)
    meshcache.codec.register(Right, "shop.Right", int, Right)
    meshcache.codec.register(Point, "shop.Point", tuple, lambda plain: Point(*plain))
    meshcache.codec.register(Text, "shop.Text", str, Text)
    value = {
        "price": euro,
        euro: [Colour.RED, Right.READ | Right.WRITE, {Point(1, 2), Point(3, 4)}],
        Text("k"): (Text("v"), deque([euro]), {Colour.RED: defaultdict(int, {Point(0, 0): 1})}),
    }
    back = round_trip(value)
    assert back == value
    assert [type(key) for key in back] == [str, Money, Text]
    assert type(back["k"][1]) is deque
    assert type(next(iter(back["k"][2]))) is Colour
    for alone in (euro, Colour.RED, Right(8), Point(1, 2), Text("")):
        assert round_trip(alone) == alone
        assert type(round_trip(alone)) is type(alone)


def test_forms_may_be_made_of_others_and_hold_lists_of_themselves() -> None:
    @dataclasses.dataclass
    class Order:
        total: Money
        parts: list[Any]

    register_money()
    meshcache.codec.register(Order, "shop.Order", vars, lambda plain: Order(**plain))
    order = Order(Money(Decimal(2), "EUR"), [Order(Money(Decimal(1), "EUR"), []) for _ in range(2)])
    assert round_trip(order) == order


def test_encode_is_called_once_for_each_instance() -> None:
    calls = []

    def encode(money: Money) -> Any:
        calls.append(money)
        return [str(money.amount), money.currency]

    meshcache.codec.register(Money, "shop.Money", encode, lambda plain: Money(Decimal(plain[0]), plain[1]))
    euro, dollar = Money(Decimal(1), "EUR"), Money(Decimal(1), "USD")
    assert round_trip([euro, dollar, euro, {"a": euro}]) == [euro, dollar, euro, {"a": euro}]
    assert calls == [euro, dollar]


def test_a_subclass_of_a_registered_type_needs_a_name_of_its_own() -> None:
    class Gold(Money):
        pass

    register_money()
    with pytest.raises(SerializationError, match=r"can not encode .*Gold at value"):
        Codec().encode([Gold(Decimal(1), "XAU")])
    meshcache.codec.register(Gold, "shop.Gold", lambda m: (m.amount, m.currency), lambda plain: Gold(*plain))
    assert type(round_trip(Gold(Decimal(1), "XAU"))) is Gold
    assert type(round_trip(Money(Decimal(1), "XAU"))) is Money


def test_unknown_names_are_refused_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    register_money()
    stored = Codec().encode({"price": Money(Decimal(1), "EUR")})
    monkeypatch.setattr(plain, "_by_name", {})
    with pytest.raises(SerializationError, match=r"'shop\.Money'.* not registered here.*codec\.register"):
        Codec().decode(STAMP + stored)


@pytest.mark.parametrize(
    "name", ["os.system", "this", "python.this", "python.eval", "eval", "", b"python.deque", 7, None]
)
def test_stored_bytes_name_nothing_but_what_is_registered(name: Any) -> None:
    before = set(sys.modules)
    with pytest.raises(SerializationError, match="not registered here"):
        Codec().decode(STAMP + b"\0\3" + msgpack.packb([msgpack.ExtType(12, b""), name, "echo"]))
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "items",
    [
        [],
        ["python.deque"],
        ["python.deque", 1, 2],
        ["python.range", [1, 2, 0]],
        ["python.Fraction", [1, 0]],
        ["python.defaultdict", ["eval", {}]],
        ["python.defaultdict", 5],
        ["python.HTTPStatus", 7],
        ["python.ZoneInfo", "../x"],
        ["python.IPv4Address", "x"],
        ["python.timezone", []],
        ["python.OrderedDict", 5],
    ],
)
def test_hostile_forms_are_serialization_errors(items: list[Any]) -> None:
    data = msgpack.packb([msgpack.ExtType(12, b""), *items])
    with pytest.raises(SerializationError, match="can not decode"):
        Codec().decode(STAMP + b"\0\3" + data)


def test_what_the_functions_of_a_form_raise_is_told_with_the_place() -> None:
    meshcache.codec.register(Money, "shop.Money", lambda m: m.colour, lambda plain: plain["x"])  # type: ignore[attr-defined]  # the mistake in question
    with pytest.raises(SerializationError, match=r"Money at value\[0\]: AttributeError: .*colour") as caught:
        Codec().encode([Money(Decimal(1), "EUR")])
    assert isinstance(caught.value.__cause__, AttributeError)
    meshcache.codec.register(Money, "shop.Money", lambda m: m.currency, lambda plain: plain["x"])
    with pytest.raises(SerializationError, match=r"'shop\.Money': its decode raised TypeError"):
        round_trip([Money(Decimal(1), "EUR")])


def test_a_form_that_makes_nothing_plain_is_refused() -> None:
    meshcache.codec.register(Money, "shop.Money", lambda m: Money(m.amount, m.currency), lambda plain: plain)
    with pytest.raises(SerializationError, match="levels of containers"):
        Codec().encode(Money(Decimal(1), "EUR"))
    meshcache.codec.register(Money, "shop.Money", lambda m: m, lambda plain: plain)
    with pytest.raises(SerializationError, match="contains itself"):
        Codec().encode(Money(Decimal(1), "EUR"))
    meshcache.codec.register(Money, "shop.Money", lambda m: object(), lambda plain: plain)
    with pytest.raises(SerializationError, match=r"object at value \(as 'shop\.Money'\)"):
        Codec().encode(Money(Decimal(1), "EUR"))


def test_names_and_types_are_unique() -> None:
    register_money()
    register_money()  # again: the module was loaded twice
    with pytest.raises(ValueError, match=r"'shop\.Money' is that of .*Money"):
        meshcache.codec.register(Point, "shop.Money", tuple, lambda plain: Point(*plain))
    with pytest.raises(ValueError, match=r"registered already, as 'shop\.Money'"):
        register_money("shop.Cash")
    with pytest.raises(SerializationError):
        Codec().encode(Point(1, 2))
    anew = dataclasses.make_dataclass("Money", ["amount", "currency"], frozen=True)
    anew.__module__, anew.__qualname__ = Money.__module__, Money.__qualname__
    meshcache.codec.register(anew, "shop.Money", lambda m: [m.amount, m.currency], lambda plain: anew(*plain))
    assert type(round_trip(Money(Decimal(1), "EUR"))) is anew, "as after a module was reloaded"


@pytest.mark.parametrize(
    "kind",
    [int, str, bytes, bool, type(None), list, dict, tuple, set, frozenset, bytearray, Decimal, deque, type(Path())],
)
def test_what_is_stored_as_it_is_can_not_be_registered(kind: Any) -> None:
    with pytest.raises(ValueError, match="stored as what it is"):
        meshcache.codec.register(kind, "shop.kind", str, kind)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((Money(Decimal(1), "EUR"), "shop.Money", str, str), TypeError),
        (("Money", "shop.Money", str, str), TypeError),
        ((Money, b"shop.Money", str, str), TypeError),
        ((Money, "", str, str), ValueError),
        ((Money, "x" * 256, str, str), ValueError),
        ((Money, "python.Money", str, str), ValueError),
        ((Money, "shop.Money", None, str), TypeError),
        ((Money, "shop.Money", str, "decode"), TypeError),
    ],
)
def test_mistakes_of_registration_are_told(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"codec\.register: "):
        meshcache.codec.register(*arguments)
    with pytest.raises(SerializationError):
        Codec().encode(Money(Decimal(1), "EUR"))


def test_of_many_threads_that_want_one_name_one_gets_it() -> None:
    kinds = [type(f"Kind{i}", (), {}) for i in range(32)]
    ready = threading.Barrier(len(kinds))
    won: list[Any] = []

    def run(kind: Any) -> None:
        ready.wait(20)
        try:
            meshcache.codec.register(kind, "shop.kind", lambda _: 1, lambda _: kind())
            won.append(kind)
        except ValueError:
            pass

    threads = [threading.Thread(target=run, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(won) == 1
    assert type(round_trip(won[0]())) is won[0]
