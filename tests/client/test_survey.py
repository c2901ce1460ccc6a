"""Values that contain themselves, or too much, are refused in time linear in what is there."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest

import meshcache
from meshcache.client import plain
from meshcache.client.codec import Codec
from meshcache.client.survey import ELEMENTS_MAX, NESTED_MAX
from meshcache.errors import SerializationError
from meshcache.protocol.record import stamp

STAMP = stamp(bytes(16), 1)


def round_trip(value: Any) -> Any:
    return Codec().decode(STAMP + Codec().encode(value))


def cpu_s(work: Callable[[], object]) -> float:
    """The least of some runs: what else the machine does counts as little as can be."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def family(children: int, each: int) -> dict[str, Any]:
    """A parent with children that point back, and that hold some data of their own."""
    parent: dict[str, Any] = {"name": "p", "children": []}
    for i in range(children):
        parent["children"].append({"data": [str(i)] * each, "parent": parent})
    return parent


def itself(kind: str) -> Any:
    """A container of every type that can be one, in a loop."""
    match kind:
        case "list":
            a: list[Any] = [1]
            a.append(a)
            return a
        case "dict":
            b: dict[str, Any] = {"x": 1}
            b["me"] = b
            return b
        case "tuple":
            c: tuple[list[Any], int] = ([], 1)
            c[0].append(c)
            return c
        case "deque":
            d: deque[Any] = deque([1])
            d.append(d)
            return d
        case "OrderedDict":
            e: OrderedDict[str, Any] = OrderedDict(x=1)
            e["me"] = [e]
            return e
        case "defaultdict":
            f: defaultdict[str, Any] = defaultdict(list)
            f["me"].append((f,))
            return f
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "deque", "OrderedDict", "defaultdict"])
def test_what_contains_itself_is_refused_with_its_place(kind: str) -> None:
    with pytest.raises(
        SerializationError, match=f"can not encode {kind} at value.*: it contains itself, it is value once"
    ):
        Codec().encode(itself(kind))
    with pytest.raises(
        SerializationError, match=r"at value\[1\]\['x'\].*contains itself, it is value\[1\]\['x'\] once"
    ):
        Codec().encode([0, {"x": itself(kind)}])


def test_the_place_of_a_loop_is_exact() -> None:
    with pytest.raises(SerializationError) as caught:
        Codec().encode({"family": family(16, 0)})
    assert str(caught.value) == (
        "can not encode dict at value['family']['children'][0]['parent']: "
        "it contains itself, it is value['family'] once more"
    )


def test_registered_instances_that_point_at_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Node:
        def __init__(self) -> None:
            self.links: list[Node] = []

    monkeypatch.setattr(plain, "_by_type", dict(plain._by_type))
    monkeypatch.setattr(plain, "_by_name", dict(plain._by_name))
    meshcache.codec.register(Node, "test.Node", lambda node: list(node.links), lambda _: Node())
    a, b = Node(), Node()
    a.links, b.links = [b, b, b], [a, a, a]
    with pytest.raises(SerializationError, match="contains itself"):
        Codec().encode(a)
    b.links = []
    assert type(round_trip([a, b])[0]) is Node


def test_a_loop_is_found_in_time_linear_in_the_value() -> None:
    """Each way to be slow has its case: many children, much data beside the loop, and long ways around it."""

    def refuse(value: Any) -> None:
        with pytest.raises(SerializationError, match="contains itself"):
            Codec().encode(value)

    wide, heavy = family(2_000, 2), family(2, 50_000)
    beside: list[Any] = [list(range(200_000)), tuple(range(200_000))]
    beside.append(beside)
    ring: list[Any] = []
    for _ in range(900):
        ring = [ring]
    end = ring
    while end:
        end = end[0]
    end.append(ring)
    square: list[list[Any]] = [[] for _ in range(300)]
    for row in square:
        row.extend(square)
    for value, elements in ((wide, 10_000), (heavy, 100_000), (beside, 400_000), (ring, 900), (square, 90_000)):
        # A microsecond or two an element is what it takes; what was refused by depth alone took a thousand of them.
        assert cpu_s(lambda value=value: refuse(value)) < 0.05 + 40e-6 * elements  # type: ignore[misc]  # bound at once


def test_a_type_that_is_refused_is_found_as_fast() -> None:
    """It is the last thing that is looked at, of a value with many ways to it."""
    culprit: list[Any] = [object()]
    value: list[Any] = [culprit]
    for _ in range(200):
        value = [value, value, value]

    def refuse() -> None:
        with pytest.raises(SerializationError, match=r"can not encode object at value\[0\]\[0\]"):
            Codec().encode(value)

    assert cpu_s(refuse) < 0.2


def test_shared_parts_are_legal_and_come_back_equal() -> None:
    part = {"a": [1, 2]}
    for value in ([part, part], {"x": part, "y": [part, (part,)]}, [(), (), ((),)], [[part] * 3] * 3):
        assert round_trip(value) == value
    diamond: Any = [1]
    for _ in range(12):
        diamond = [diamond, diamond]
    assert round_trip(diamond) == diamond


def test_what_would_be_written_out_too_often_is_refused_at_once() -> None:
    value: Any = ["leaf"]
    for _ in range(100):
        value = [value, value]

    def refuse() -> None:
        with pytest.raises(SerializationError, match=f"stored at each of them.* {ELEMENTS_MAX:,} elements"):
            Codec().encode(value)

    assert cpu_s(refuse) < 0.2


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: [v]}])
def test_depth_has_a_limit_that_is_told(wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    levels = 0
    while levels < 240:
        value = wrap(value)
        levels += 1
    assert round_trip(value) == value
    for _ in range(20_000):
        value = wrap(value)

    def refuse() -> None:
        with pytest.raises(SerializationError, match=f"at most {NESTED_MAX:,} levels") as caught:
            Codec().encode(value)
        assert len(str(caught.value)) < 1000

    assert cpu_s(refuse) < 0.5
    while value != 1:  # level by level, or freeing it may be too deep for the interpreter
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]


def test_exactly_so_many_levels_are_stored() -> None:
    value: Any = 1
    for _ in range(NESTED_MAX):
        value = [value]
    back = round_trip(value)
    for _ in range(NESTED_MAX):
        (back,) = back
    assert back == 1
    with pytest.raises(SerializationError, match="levels"):
        Codec().encode([value])


def test_the_place_is_short_and_asks_nothing_of_strange_keys() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(SerializationError, match=r"can not encode .*Rude at key of value"):
        Codec().encode({Rude(): 1})
    with pytest.raises(SerializationError, match=r"at value\[tuple\]") as caught:
        Codec().encode({("x" * 1000,): {"y" * 1000: object()}})
    assert len(str(caught.value)) < 500
