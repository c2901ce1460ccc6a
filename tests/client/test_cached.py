"""The decorator: keys from arguments, plain and async functions, methods."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MethodType
from typing import Any
from uuid import UUID

import pytest
from fake_node import FakeNode, fake_mesh
from starlette.background import BackgroundTask

import meshcache
from meshcache.client.decorator import READABLE_MAX, CachedBy
from meshcache.client.forms import NESTED_MAX
from meshcache.client.naming import Names

ROOT = Path(__file__).parents[2]


class Colour(Enum):
    RED = 1
    BLUE = 2


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as (node,):
        yield node


@pytest.fixture
def cache(node: FakeNode) -> Iterator[meshcache.Client]:
    with meshcache.Client(node.address) as cache:
        yield cache


def key_of(*args: Any, **kwargs: Any) -> str:
    """The key of a call of f(a, b=2, *rest, c=3, **more), without the name."""

    def f(a: Any, b: Any = 2, *rest: Any, c: Any = 3, **more: Any) -> None:
        pass

    no_client: Any = None  # it is not asked
    key = CachedBy(no_client, None, {}, Names(), b"", no_client, no_client)(f).cache_key(*args, **kwargs)
    assert isinstance(key, str)
    return key.partition(":")[2]


def test_a_result_is_computed_once_and_kept(cache: meshcache.Client) -> None:
    calls: list[int] = []

    @cache.cached(ttl=60)
    def square(number: int) -> int:
        """Multiply."""
        calls.append(number)
        return number * number

    assert [square(3), square(3), square(number=3), square(4)] == [9, 9, 9, 16]
    assert calls == [3, 4]
    assert square.__name__ == "square"
    assert square.__doc__ == "Multiply."
    assert cache.get(square.cache_key(3)) == 9


def test_none_is_a_result_like_any_other(cache: meshcache.Client) -> None:
    calls: list[int] = []

    @cache.cached(ttl=60)
    def find(number: int) -> None:
        calls.append(number)

    assert [find(1), find(1)] == [None, None]
    assert calls == [1]


def test_invalidate_and_refresh_take_the_arguments_of_a_call(cache: meshcache.Client) -> None:
    values = iter(range(10))

    @cache.cached(ttl=60, stale_ttl=10)
    def count(name: str) -> int:
        return next(values)

    assert [count("a"), count("b"), count("a")] == [0, 1, 0]
    assert count.invalidate("a") == 1
    assert count.invalidate("a") == 0
    assert [count("a"), count("b")] == [2, 1]
    assert count.refresh("b") == 3
    assert [count("a"), count("b")] == [2, 3]


def test_what_the_function_raises_is_raised_and_not_kept(cache: meshcache.Client) -> None:
    @cache.cached(ttl=60)
    def invert(number: int) -> float:
        return 1 / number

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            invert(0)
    assert invert(2) == 0.5


def test_coroutine_functions_are_for_the_async_client(node: FakeNode) -> None:
    async def run() -> None:
        async with meshcache.AsyncClient(node.address) as cache:
            calls: list[int] = []

            @cache.cached(ttl=60)
            async def square(number: int) -> int:
                calls.append(number)
                await asyncio.sleep(0)
                return number * number

            assert await asyncio.gather(*(square(5) for _ in range(20))) == [25] * 20
            assert calls == [5]
            assert await square.invalidate(5) == 1
            assert await square.refresh(5) == 25
            assert calls == [5, 5]
            with pytest.raises(TypeError, match="no coroutine function"):
                cache.cached()(lambda: 1)  # type: ignore[arg-type, return-value]  # the mistake in question

    asyncio.run(run())
    with meshcache.Client(node.address) as cache:

        async def wrong() -> None: ...

        with pytest.raises(TypeError, match="AsyncClient"):
            cache.cached()(wrong)


def test_a_method_leaves_its_instance_out_unless_told(cache: meshcache.Client) -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name
            self.calls = 0

        @cache.cached(ttl=60)
        def price(self, item: str) -> str:
            self.calls += 1
            return f"{self.name} {item}"

        @cache.cached(ttl=60, key=lambda self, item: f"{self.name}/{item}")
        def stock(self, item: str) -> str:
            return f"{self.name} {item}"

        @classmethod
        @cache.cached(ttl=60)
        def kind(cls, item: str) -> str:
            return f"{cls.__name__} {item}"

        @staticmethod
        @cache.cached(ttl=60)
        def tax(item: str) -> str:
            return f"tax of {item}"

    one, two = Shop("one"), Shop("two")
    assert [one.price("tea"), two.price("tea")] == ["one tea", "one tea"]
    assert [one.stock("tea"), two.stock("tea")] == ["one tea", "two tea"]
    assert one.price.cache_key("tea") == two.price.cache_key(item="tea")
    assert one.stock.cache_key("tea") != two.stock.cache_key("tea")
    assert one.price.invalidate("tea") == 1
    assert two.price("tea") == "two tea"
    assert one.price.refresh("tea") == "one tea"
    assert two.calls == 1
    assert Shop.kind("tea") == "Shop tea"
    assert Shop.tax("tea") == "tax of tea"
    assert Shop.price(one, "tea") == "one tea"


class Base:
    """Methods that two classes inherit, in both orders of the decorators."""

    unit = "base"

    @classmethod
    def add_methods(cls, cache: meshcache.Client) -> type[Base]:
        """Return a class like this one, whose methods are cached."""

        class Cached(Base):
            @classmethod
            @cache.cached(ttl=60)
            def inner(cls, number: int) -> str:
                return f"{cls.unit} {number}"

            @cache.cached(ttl=60)
            @classmethod
            def outer(cls, number: int) -> str:
                return f"{cls.unit} {number}"

            @cache.cached(ttl=60)
            def plain(self, number: int) -> str:
                return f"{self.unit} {number}"

            @property
            @cache.cached(ttl=60)
            def total(self) -> str:
                return self.unit

            @staticmethod
            @cache.cached(ttl=60)
            def still(number: int) -> int:
                return number

            @cache.cached(ttl=60)
            @staticmethod
            def outer_still(number: int) -> int:
                return number

        return Cached


def test_methods_that_two_classes_inherit_have_keys_of_their_own(cache: meshcache.Client) -> None:
    base: Any = Base.add_methods(cache)
    one: Any = type("One", (base,), {"unit": "one"})
    two: Any = type("Two", (base,), {"unit": "two"})
    for kind, unit in ((base, "base"), (one, "one"), (two, "two"), (one, "one")):
        for method in (kind.inner, kind().inner, kind.outer, kind().outer, kind().plain):
            assert method(1) == f"{unit} 1"
            assert method.refresh(1) == f"{unit} 1"
            assert method.invalidate(1) == 1
            assert method(1) == f"{unit} 1"
        assert kind().total == unit
        assert [kind.still(3), kind().still(3), kind.outer_still(3), kind().outer_still(3)] == [3, 3, 3, 3]
        assert kind.plain(kind(), 1) == f"{unit} 1"
    assert one().plain(number=1) == "one 1"
    with pytest.raises(TypeError, match="several classes"):
        type("One", (base,), {"unit": "other"})().plain(1)


def test_a_class_is_an_argument_like_any_other(cache: meshcache.Client) -> None:
    @cache.cached(ttl=60)
    def fetch(cls: type, pk: int) -> str:
        return f"{cls.__name__} {pk}"

    assert [fetch(int, 1), fetch(str, 1), fetch(int, 1), fetch(Colour, 1)] == ["int 1", "str 1", "int 1", "Colour 1"]

    @cache.cached(ttl=60)
    def look(self: object, pk: int) -> str:
        return f"{self!r} {pk}"

    assert [look(1, 1), look(2, 1)] == ["1 1", "2 1"]
    with pytest.raises(TypeError, match="type object has no form"):
        look(object(), 1)


def test_an_object_that_is_a_value_counts_by_it_or_needs_a_key(cache: meshcache.Client) -> None:
    class Size(Enum):
        SMALL = 1
        LARGE = 2

        @cache.cached(ttl=60)
        def litres(self) -> int:
            litres: int = 10 * self.value
            return litres

    class Money(int):
        @cache.cached(ttl=60)
        def shown(self) -> str:
            return f"{int(self)}"

        @cache.cached(ttl=60, key=lambda self: str(int(self)))
        def told(self) -> str:
            return f"{int(self)}"

    assert [Size.SMALL.litres(), Size.LARGE.litres()] == [10, 20]
    with pytest.raises(TypeError, match=r"Money.*give cached\(\) a key="):
        Money(1).shown()
    assert [Money(1).told(), Money(2).told()] == ["1", "2"]


def test_where_python_binds_class_methods_otherwise_nothing_is_confused(cache: meshcache.Client) -> None:
    class Shop:
        @cache.cached(ttl=60)
        def kind(cls, item: str = "tea") -> str:  # noqa: N805  (as below a @classmethod)
            return item

    bound: Any = MethodType(Shop.kind, Shop)  # what Python 3.13 makes of @classmethod over it
    assert bound("milk") == "milk"
    with pytest.raises(TypeError, match="put cached"):
        bound.invalidate("milk")


def test_a_namespace_applies_to_functions_too(cache: meshcache.Client) -> None:
    shop = cache.namespace("shop:")

    @shop.cached(ttl=60)
    def price() -> int:
        return 7

    assert price() == 7
    assert cache.get(f"shop:{price.cache_key()!s}") == 7
    shop.clear()
    assert cache.get(f"shop:{price.cache_key()!s}") is None


def test_the_same_call_has_the_same_key_however_it_is_written() -> None:
    same = {key_of(1), key_of(a=1), key_of(1, 2), key_of(1, b=2), key_of(1, c=3), key_of(b=2, c=3, a=1)}
    assert same == {"(1,2,(),3,{})"}
    assert key_of(1, x=1, y=2) == key_of(1, y=2, x=1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (1, "1"),
        ("a", b"a"),
        (None, "None"),
        ((1, 2), [1, 2]),
        ([1, 2], [[1], 2]),
        (("a", "b"), ("a','b",)),
        ({1}, frozenset({1})),
        ({"a": 1}, [("a", 1)]),
        (Colour.RED, Colour.BLUE),
        (Colour.RED, "RED"),
        (Decimal(1), 1),
        (UUID(int=1), str(UUID(int=1))),
        ((1,), 1),
        ((), ((),)),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01"),
        ("x" * 500 + "a", "x" * 500 + "b"),
    ],
)
def test_different_arguments_have_different_keys(one: Any, other: Any) -> None:
    assert key_of(one) != key_of(other)


def test_arguments_without_order_have_one_key() -> None:
    assert key_of({"a": 1, "b": {"c", "d", "e"}}) == key_of({"b": {"e", "d", "c"}, "a": 1})


def test_long_arguments_are_hashed_and_the_key_stays_readable() -> None:
    key = key_of("x" * 5000)
    assert len(key.encode()) <= READABLE_MAX
    assert key.startswith("('xxx")
    assert key_of("ü" * 5000) != key_of("ü" * 4999)


def test_keys_do_not_depend_on_the_process() -> None:
    program = "from test_cached import key_of; print(key_of({'a', 'b', 'c'}, {'x': (1, None)}))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_arguments_without_a_form_are_refused_with_a_hint() -> None:
    nested: list[Any] = []
    for _ in range(NESTED_MAX + 1):
        nested = [nested]
    for argument in (object(), [object()], nested):
        with pytest.raises(TypeError, match=r"f: an argument.*; give cached\(\) a key="):
            key_of(argument)
    with pytest.raises(TypeError, match="missing a required argument"):
        key_of()


def test_a_key_function_must_return_a_key(cache: meshcache.Client) -> None:
    @cache.cached(ttl=60, key=lambda number: number)
    def square(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="must return str or bytes"):
        square(1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, "ttl must be positive"),
        ({"ttl": 1, "stale_ttl": 0}, "stale_ttl must be positive"),
        ({"ttl": None, "stale_ttl": 1}, "stale_ttl needs a ttl"),
        ({"stale_ttl": 1}, "stale_ttl needs a ttl"),
        ({"ttl": 1, "early": -1}, "early must be"),
    ],
)
def test_mistakes_are_told_when_the_function_is_decorated(
    cache: meshcache.Client, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        cache.cached(**options)
    with pytest.raises(ValueError, match=error):
        cache.get_or_set("k", 1, **options)


def test_a_key_of_ones_own_that_is_too_long_is_hashed(cache: meshcache.Client) -> None:
    shop = cache.namespace("n" * 100)

    @shop.cached(ttl=60, key=lambda url: url)
    def fetch(url: str) -> str:
        return url[-1]

    @shop.cached(ttl=60, key=lambda url: url.encode("utf-8", "surrogatepass"))
    def raw(url: str) -> str:
        return url[-1]

    for function in (fetch, raw):
        long = ["x" * 5000 + end for end in "ab"]
        assert [function(url) for url in [*long, *long]] == ["a", "b", "a", "b"]
        keys = [function.cache_key(url) for url in [*long, "y" * 500, "é" * 700, "é" * 701, "\ud800"]]
        assert len(set(keys)) == len(keys)
        for key in keys:
            assert len(key if isinstance(key, bytes) else key.encode()) <= 1024 - 100
        assert str(function.cache_key("y" * 500)).strip("b'").endswith("y" * 500), "as it is, while there is room"
        taken = function.cache_key(long[0])
        url = (taken if isinstance(taken, str) else taken.decode()).partition(":")[2]
        assert function.cache_key(url) != taken, "nobody makes a key that is a longer one's"


def test_a_result_that_is_not_to_be_kept_is_computed_again(cache: meshcache.Client, node: FakeNode) -> None:
    calls: list[int] = []

    @cache.cached(ttl=60)
    def load(number: int) -> list[int] | None:
        calls.append(number)
        if number < 0:
            return meshcache.DO_NOT_CACHE([number])
        return meshcache.DO_NOT_CACHE if number == 0 else [number]  # type: ignore[return-value]  # forgotten parentheses

    assert [load(-1), load(-1), load(0), load(0), load(1), load(1)] == [[-1], [-1], None, None, [1], [1]]
    assert calls == [-1, -1, 0, 0, 1]
    assert load.refresh(-1) == [-1]
    assert cache.get_or_set("k", lambda: meshcache.DO_NOT_CACHE(None)) is None
    assert cache.get("k", default=meshcache.MISSING) is meshcache.MISSING
    assert cache.get_or_set("k", 7) == 7
    assert cache.refresh("k", lambda: meshcache.DO_NOT_CACHE(8)) == 8
    assert cache.get("k") == 7, "what there was is there still"
    with pytest.raises(TypeError):
        cache.set("k", meshcache.DO_NOT_CACHE(1))

    async def run() -> None:
        async with meshcache.AsyncClient(node.address) as shared:

            @shared.cached(ttl=60)
            async def find(number: int) -> int:
                calls.append(number)
                return meshcache.DO_NOT_CACHE(number)

            calls.clear()
            assert [await find(5), await find(5)] == [5, 5]
            assert calls == [5, 5]

    asyncio.run(run())


def test_cached_coroutine_functions_are_coroutine_functions(node: FakeNode) -> None:
    ran: list[Any] = []

    async def run() -> None:
        async with meshcache.AsyncClient(node.address) as cache:

            @cache.cached(ttl=60)
            async def profile(number: int) -> int:
                ran.append(number)
                return number

            class Shop:
                @cache.cached(ttl=60)
                async def price(self, number: int) -> int:
                    ran.append(number)
                    return number

                @classmethod
                @cache.cached(ttl=60)
                async def inner(cls, number: int) -> int:
                    ran.append(number)
                    return number

                @cache.cached(ttl=60)
                @classmethod
                async def outer(cls, number: int) -> int:
                    ran.append(number)
                    return number

                async def __call__(self, number: int) -> int:
                    ran.append(number)
                    return number

            shop = Shop()
            held: Any = cache.cached(ttl=60)(functools.partial(profile.function, 9))
            called = cache.cached(ttl=60)(shop)
            bound = cache.cached(ttl=60)(Shop.__call__.__get__(shop))
            functions: list[Any] = [profile, shop.price, shop.inner, Shop.inner, shop.outer, Shop.outer, called, bound]
            for number, function in enumerate(functions):
                for each in (function, function.refresh, function.invalidate, functools.partial(function, number)):
                    assert inspect.iscoroutinefunction(each), each
                    assert asyncio.iscoroutinefunction(each), each
                    has_all = isinstance(each, functools.partial)
                    task: BackgroundTask = BackgroundTask(each, *(() if has_all else (number,)))
                    assert task.is_async, each
                    await task()
                assert ran == [number] * 3, "once, refreshed, and once again after it was invalidated"
                ran.clear()
            assert inspect.iscoroutinefunction(held)
            assert await held() == 9
            assert not inspect.iscoroutinefunction(profile.cache_key)
            assert list(inspect.signature(profile).parameters) == ["number"]
            assert list(inspect.signature(shop.price).parameters) == ["number"]
            assert list(inspect.signature(Shop.outer).parameters) == ["number"]
            wrapped: list[Any] = [len, functools.partial(len), Yielding, lambda: profile(1)]
            for function in wrapped:
                with pytest.raises(TypeError, match="is no coroutine function: it needs a Client"):
                    cache.cached()(function)

    asyncio.run(run())
    with meshcache.Client(node.address) as cache:
        plain = cache.cached(ttl=60)(ran.append)
        assert not inspect.iscoroutinefunction(plain)
        assert not inspect.iscoroutinefunction(plain.refresh)
        assert not BackgroundTask(plain, 1).is_async


def test_no_coroutine_is_stored_and_it_is_said_what_to_do(cache: meshcache.Client) -> None:
    async def load() -> int:
        raise AssertionError("never begun")

    class Later:
        def __await__(self) -> Any:
            raise AssertionError("never begun")

    async def call() -> int:
        return 1

    cases: list[Any] = [load, lambda: load(), load(), Later, functools.partial(load)]  # noqa: PLW0108  (its type counts)
    for case in cases:
        with pytest.raises(TypeError, match="AsyncClient"):
            cache.get_or_set("k", case)
        with pytest.raises(TypeError, match="AsyncClient"):
            cache.refresh("k", lambda: load())  # noqa: PLW0108  (as above)
    assert not cache.exists("k")
    assert cache.get_or_set("k", 1) == 1

    @cache.cached(ttl=60)
    def hidden(number: int) -> Any:
        return load()

    with pytest.raises(TypeError, match="AsyncClient"):
        hidden(1)


def test_the_decorator_without_parentheses_says_what_to_do(cache: meshcache.Client) -> None:
    functions: list[Any] = [len, lambda: 1, classmethod(max), staticmethod(len), Colour]
    for function in functions:
        with pytest.raises(TypeError, match=r"@cache.cached\(\) with parentheses"):
            cache.cached(function)
        with pytest.raises(TypeError, match=r"@cache.cached\(\) with parentheses"):
            meshcache.AsyncClient().cached(function)


def yielding(number: Any) -> Iterator[int]:
    yield number


async def yielding_later(number: int) -> AsyncIterator[int]:
    yield number


OF_ALL: Any = property(len)


class Yielding:
    def __call__(self, number: int) -> Iterator[int]:
        yield number


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (yielding, "generator"),
        (yielding_later, "generator"),
        (functools.partial(yielding, 1), "generator"),
        (Yielding(), "generator"),
        (functools.partial(Yielding(), 1), "generator"),
        (Yielding().__call__, "generator"),
        (classmethod(yielding), "generator"),
        (staticmethod(yielding_later), "generator"),
        (property(len), "put @property over it"),
        (functools.cached_property(len), "put @property over it"),
        (7, "is for functions"),
        (None, "is for functions"),
        (classmethod(OF_ALL), "put @property"),
    ],
)
def test_what_can_not_be_cached_is_refused_when_it_is_decorated(
    cache: meshcache.Client, function: Any, error: str
) -> None:
    with pytest.raises(TypeError, match=error):
        cache.cached()(function)
    with pytest.raises(TypeError, match=error):
        meshcache.AsyncClient().cached()(function)


def test_what_is_cached_is_not_cached_twice(cache: meshcache.Client) -> None:
    with pytest.raises(TypeError, match="cached already"):
        cache.cached()(cache.cached()(len))


def test_a_recursive_function_takes_few_frames(cache: meshcache.Client, node: FakeNode) -> None:
    depths: list[int] = []

    @cache.cached(ttl=60)
    def fib(number: int) -> int:
        depths.append(len(inspect.stack(0)))
        return number if number < 2 else fib(number - 1) + fib(number - 2)

    assert fib(20) == 6765
    assert {one - other for other, one in itertools.pairwise(depths[:20])} == {3}
    assert fib(200) == 280571172992510140037611932413038677189525

    @cache.cached(ttl=60)
    def fail(number: int) -> int:
        return 1 // number + fail(number - 1)

    with pytest.raises(ZeroDivisionError):
        fail(100)

    async def run() -> int:
        async with meshcache.AsyncClient(node.address) as shared:

            @shared.cached(ttl=60)
            async def fib(number: int) -> int:
                return number if number < 2 else await fib(number - 1) + await fib(number - 2)

            return await fib(200)

    cache.clear()
    assert asyncio.run(run()) == 280571172992510140037611932413038677189525
