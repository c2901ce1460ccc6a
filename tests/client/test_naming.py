"""The names of functions in keys: what is another function has another name, or is refused."""

from __future__ import annotations

import functools
import importlib
import math
import operator
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache.client.decorator import CachedBy
from meshcache.client.naming import Names

ROOT = Path(meshcache.__file__).parent.parent
OTHER = "another function is cached under this name"


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as (node,):
        yield node


@pytest.fixture
def cache(node: FakeNode) -> Iterator[meshcache.Client]:
    with meshcache.Client(node.address) as cache:
        yield cache


class Keys:
    """Decorates functions as one client does, and tells the keys of their calls."""

    def __init__(self) -> None:
        self.names = Names()

    def of(self, function: Any, *args: Any, key: Any = None) -> Any:
        no_client: Any = None  # it is not asked
        decorator: Any = CachedBy(no_client, key, {}, self.names, b"", no_client, no_client)
        return decorator(function).cache_key(*args)


class Table:
    """Has no text, and tells nothing of what is in it."""


def times(factor: Any) -> Callable[[int], Any]:
    def multiply(number: int) -> Any:
        return (factor, number)

    return multiply


def around(function: Any, *_: Any) -> Any:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def shown(function: Any, mark: Any) -> Any:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return (mark, function(*args))

    return inner


def top(number: int) -> int:
    return number


def test_what_a_function_at_the_top_of_a_module_is_called() -> None:
    assert Keys().of(top, 1) == f"{__name__}.top:(1)"


def test_lambdas_are_told_apart_by_what_they_do(cache: meshcache.Client) -> None:
    double = cache.cached()(lambda number: 2 * number)
    triple = cache.cached()(lambda number: 3 * number)
    assert (double(5), triple(5), double(5)) == (10, 15, 10)
    keys = Keys()
    assert keys.of(lambda n: n + 1, 1) == keys.of(lambda n: n + 1, 1)
    assert keys.of(lambda n: [i for i in range(n)], 1) != keys.of(lambda n: [i for i in range(n, 9)], 1)  # noqa: C416
    assert keys.of(lambda n: n in {"a", "b"}, 1) != keys.of(lambda n: n in {"a", "c"}, 1)


def test_functions_of_one_factory_are_told_apart_by_what_they_close_over(cache: meshcache.Client) -> None:
    double, triple = cache.cached()(times(2)), cache.cached()(times(3))
    assert (double(5), triple(5), double(5)) == ((2, 5), (3, 5), (2, 5))
    keys = Keys()
    distinct = [
        1,
        True,
        "1",
        (1, 2),
        ("1", 2),
        None,
        Table,
        int,
        top,
        math.sin,
        len,
        times(1),
        times(2),
        math,
        sys,
        functools.partial(top, 1),
        functools.partial(top, 2),
        "abc".join,
        "abd".join,
    ]
    assert len({keys.of(times(factor), 1) for factor in distinct}) == len(distinct)
    assert keys.of(times(2), 1) == keys.of(times(2), 1) == Keys().of(times(2), 1)


@pytest.mark.parametrize("make", [Table, lambda: iter([1]), lambda: [1], dict, lambda: ([],), lambda: times([])])
def test_what_has_no_text_or_can_change_is_known_once(make: Callable[[], Any]) -> None:
    keys = Keys()
    first = make()
    assert keys.of(times(first), 1) == keys.of(times(first), 1)
    with pytest.raises(TypeError, match=rf"multiply.*: {OTHER}; give cached\(\) a key="):
        keys.of(times(make()), 1)
    del first  # what it stored is there still
    with pytest.raises(TypeError, match=OTHER):
        keys.of(times(make()), 1)
    assert keys.of(times(make()), 1, key=str) == f"{__name__}.times.<locals>.multiply:1"
    assert keys.of(times([1, 2]), 1) != keys.of(times([2, 3]), 1), "as they are when the function is decorated"


def test_what_counts_in_a_local_function_is_as_it_was_when_it_was_decorated(cache: meshcache.Client) -> None:
    calls = 0
    seen: list[int] = []

    @cache.cached(ttl=60)
    def count(number: int) -> int:
        nonlocal calls
        calls += 1
        seen.append(number)
        return calls

    assert [count(1), count(1), count(2), count(1)] == [1, 1, 2, 1]
    assert seen == [1, 2]


def test_a_recursive_local_function_and_super_are_no_matter() -> None:
    keys = Keys()

    def make() -> Any:
        def fib(n: int) -> int:
            return n if n < 2 else int(fib(n - 1) + fib(n - 2))

        return fib

    assert keys.of(make(), 1) == keys.of(make(), 1)

    def late() -> Any:
        def first() -> Any:
            return second

        name = keys.of(first)
        second = 1
        return name

    late()
    with pytest.raises(TypeError, match=OTHER):
        late()


def test_two_local_functions_of_one_name_are_refused() -> None:
    keys = Keys()
    for factor in (1, 2):
        if factor == 1:

            def work(number: int) -> int:
                return number

            keys.of(work, 1)
        else:

            def work(number: int) -> int:
                return 2 * number

            with pytest.raises(TypeError, match=OTHER):
                keys.of(work, 1)


def test_wrappers_around_one_function_are_told_apart() -> None:
    keys = Keys()
    assert keys.of(shown(top, 1), 1) != keys.of(shown(top, 2), 1)
    assert keys.of(shown(top, 2), 1) == keys.of(shown(top, 2), 1)
    with pytest.raises(TypeError, match=OTHER):
        keys.of(around(top), 1)
    keys.of(shown(top, Table()), 1)
    with pytest.raises(TypeError, match=OTHER):
        keys.of(shown(top, Table()), 1)


def test_what_closes_over_classes_that_a_function_makes_is_refused() -> None:
    def make(size: int) -> Any:
        class Box:
            limit = size

            @staticmethod
            def hold(number: int) -> int:
                return Box.limit * number

        return Box

    keys = Keys()
    keys.of(make(1).hold, 1)
    with pytest.raises(TypeError, match="several classes"):
        keys.of(make(2).hold, 1)
    with pytest.raises(TypeError, match="several classes"):
        keys.of(times((make(3),)), 1)


def test_partials_are_told_apart_by_what_they_hold(cache: meshcache.Client) -> None:
    calls: list[Any] = []

    def add(one: Any, other: Any = 0, *more: Any) -> Any:
        calls.append(one)
        return (one, other, *more)

    two, three = cache.cached()(functools.partial(add, 2)), cache.cached()(functools.partial(add, 3))
    named = cache.cached()(functools.partial(add, other=2))
    assert (two(1), three(1), named(1), two(1)) == ((2, 1), (3, 1), (1, 2), (2, 1))
    assert len(calls) == 3
    assert two.invalidate(1) == 1
    assert two.refresh(1) == (2, 1)
    keys = Keys()
    held: list[Any] = [
        functools.partial(add),
        functools.partial(add, 1),
        functools.partial(add, "1"),
        functools.partial(add, one=1),
        functools.partial(max, 1, key=len),
        functools.partial(max, 1),
        functools.partial(max, 1, "key", len),
    ]
    names = [keys.names.of_function(b"", one, alone=True) for one in held]
    assert len(set(names)) == len(names)
    keys.of(functools.partial(add, Table()), 1)
    with pytest.raises(TypeError, match=OTHER):
        keys.of(functools.partial(add, Table()), 1)


class Scaled:
    """Called like a function."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, number: int) -> int:
        return self.factor * number

    def scale(self, number: int) -> int:
        return self.factor * number


class Pair(NamedTuple):
    one: int
    other: int

    def add(self, number: int) -> int:
        return self.one + self.other + number


class Colour(Enum):
    RED = 1
    BLUE = 2

    def mix(self, number: int) -> int:
        return number


def test_objects_that_are_called_and_bound_methods_are_known_once(cache: meshcache.Client) -> None:
    twice = Scaled(2)
    assert cache.cached()(twice)(5) == 10
    assert cache.cached()(twice)(5) == 10
    with pytest.raises(TypeError, match=rf"Scaled.__call__: {OTHER}"):
        cache.cached()(Scaled(3))
    assert cache.cached()(twice.scale)(5) == 10
    with pytest.raises(TypeError, match=rf"Scaled.scale: {OTHER}"):
        cache.cached()(Scaled(3).scale)
    keys = Keys()
    assert keys.of(Colour.RED.mix, 1) != keys.of(Colour.BLUE.mix, 1)
    keys.of(Pair(1, 2).add, 1)
    with pytest.raises(TypeError, match=OTHER):
        keys.of(Pair(1, 3).add, 1)


def test_functions_that_are_written_in_c_have_a_name_and_need_no_signature(cache: meshcache.Client) -> None:
    assert cache.cached()(max)(3, 5, 4) == 5
    assert cache.cached()(min)(3, 5, 4) == 3
    assert cache.cached()(math.factorial)(5) == 120
    assert cache.cached()(int)("12") == 12
    assert cache.cached()(str.upper)("a") == "A"
    assert cache.cached()("-".join)(("a", "b")) == "a-b"
    assert cache.cached()("+".join)(("a", "b")) == "a+b"
    fill: Any = dict.fromkeys
    assert cache.cached()(fill)("ab", 1) == {"a": 1, "b": 1}
    assert cache.cached()(operator.itemgetter(1))((1, 2)) == 2
    with pytest.raises(TypeError, match=OTHER):
        cache.cached()(operator.itemgetter(0))
    assert cache.cached()(functools.lru_cache(top))(4) == 4
    assert Keys().of(max, 1, 2) == "builtins.max:((1,2,),{})"


def test_a_namespace_and_another_client_have_names_of_their_own(node: FakeNode, cache: meshcache.Client) -> None:
    shop = cache.namespace("shop:")
    cache.cached()(times(Table()))
    shop.cached()(times(Table()))
    with pytest.raises(TypeError, match=OTHER):
        cache.with_options(timeout=1).cached()(times(Table()))
    with meshcache.Client(node.address) as other:
        other.cached()(times(Table()))


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_that_is_loaded_anew_warns_where_a_function_has_changed(
    importable: Path, recwarn: pytest.WarningsRecorder
) -> None:
    source = importable / "reloaded_module.py"
    source.write_text("def load(x):\n    return x\ndef same(x):\n    return 'same'\n")
    keys = Keys()
    module = importlib.import_module("reloaded_module")
    assert keys.of(module.load, 1) == "reloaded_module.load:(1)"
    keys.of(module.same, 1)
    source.write_text("# changed\ndef load(x):\n    return x + 1\ndef same(x):\n    return 'same'\n")
    importlib.reload(module)
    assert not recwarn
    keys.of(module.same, 1)
    assert not recwarn, "it does the same, further down"
    with pytest.warns(UserWarning, match=rf"reloaded_module.load: {OTHER}; give cached\(\) a key=") as warned:
        keys.of(module.load, 1)
    assert warned[0].filename == __file__, "where it is decorated"
    keys.of(module.load, 1)
    assert not recwarn


def test_what_exec_makes_is_told_apart_by_what_it_does() -> None:
    keys, made = Keys(), []
    for body in ("x", "x + 1"):
        space: dict[str, Any] = {}
        exec(f"def load(x):\n    return {body}", space)
        made.append(keys.of(space["load"], 1))
    assert made[0] != made[1]
    assert made[0].endswith(".load:(1)")
    exec("def load(x):\n    return x", space)
    with pytest.raises(TypeError, match=OTHER):  # the same text, and other global variables
        keys.of(space["load"], 1)


PROGRAM = """
import sys
import meshcache
cache = meshcache.Client("127.0.0.1:1")
@cache.cached()
def load(x):
    return BODY
class Shop:
    @cache.cached()
    def price(self, x):
        return 1
if __name__ == "__main__":
    print(load.cache_key(1))
    print(cache.cached()(lambda x: BODY).cache_key(1))
    print(Shop().price.cache_key(1))
"""


def keys_of(*arguments: str, cwd: Path, body: str = "x", seed: str = "0", given: str | None = None) -> list[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        input=None if given is None else given.replace("BODY", body),
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    ).stdout.split()


def test_two_programs_differ_and_one_is_the_same_in_every_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text(PROGRAM.replace("BODY", "x in {'a', 'b', 'c'}"))
    first = keys_of("app.py", cwd=tmp_path / "one", seed="1")
    again = keys_of("one/../one/app.py", cwd=tmp_path, seed="2")
    second = keys_of("app.py", cwd=tmp_path / "two")
    assert first == again
    assert not set(first) & set(second)
    as_module = keys_of("-m", "app", cwd=tmp_path / "one")
    assert as_module[0] == "app.load:(1)"
    assert as_module[2] == "app.Shop.price:(app.Shop(),1)"


def test_what_is_typed_in_is_told_apart_by_what_it_does(tmp_path: Path) -> None:
    first = keys_of("-", cwd=tmp_path, given=PROGRAM, seed="1")
    again = keys_of("-c", PROGRAM.replace("BODY", "x"), cwd=tmp_path, seed="2")
    other = keys_of("-", cwd=tmp_path, given=PROGRAM, body="x + 1")
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_names_that_other_texts_could_be_taken_for_stand_in_quotes() -> None:
    keys = Keys()
    odd = types.FunctionType(top.__code__, globals(), "odd")
    odd.__qualname__ = "a:(1),b"
    assert re.fullmatch(r"'[\w.]+\.a:\(1\),b':\(2\)", keys.of(odd, 2))


def test_names_beyond_a_limit_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshcache.client.naming.NAMES_MAX", 10)
    keys = Keys()
    for number in range(50):
        keys.of(functools.partial(times(Table()), number))
    assert len(keys.names._objects) == 10


def test_functions_called_underscore_are_told_apart() -> None:
    keys = Keys()

    @functools.singledispatch
    def size(value: Any) -> int:
        return 0

    @size.register
    def _(value: int) -> int:
        return value

    first = size.dispatch(int)

    @size.register
    def _(value: str) -> int:
        return len(value)

    assert keys.of(first, 1) != keys.of(size.dispatch(str), 1)
