"""The decorator: keys from arguments, plain and async functions, methods."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache.decorator import READABLE_MAX, CachedBy
from meshcache.forms import NESTED_MAX


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

    key = CachedBy(None, None, {})(f).cache_key(*args, **kwargs)  # type: ignore[arg-type]  # the cache is not asked
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
    assert Shop.kind("tea") == "Shop tea"  # type: ignore[arg-type, call-arg]  # mypy knows no other class methods
    assert Shop.tax("tea") == "tax of tea"
    assert Shop.price(one, "tea") == "one tea"


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
        (1, 1.0), (1, True), (1, "1"), ("a", b"a"), (None, "None"), ((1, 2), [1, 2]), ([1, 2], [[1], 2]),
        (("a", "b"), ("a','b",)), ({1}, frozenset({1})), ({"a": 1}, [("a", 1)]), (Colour.RED, Colour.BLUE),
        (Colour.RED, "RED"), (Decimal(1), 1), (UUID(int=1), str(UUID(int=1))), ((1,), 1), ((), ((),)),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01"), ("x" * 500 + "a", "x" * 500 + "b"),
    ],
)  # fmt: skip
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
            [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(meshcache.__file__).parent.parent)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
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


def test_the_signature_is_kept_for_type_checkers(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import meshcache\n"
        "cache = meshcache.Client()\n"
        "@cache.cached(ttl=60)\n"
        "def square(number: int) -> float: ...\n"
        "reveal_type(square(1))\n"
        "reveal_type(square.invalidate(1))\n"
        "square('1')\n"
        "shared = meshcache.AsyncClient()\n"
        "@shared.cached(ttl=60)\n"
        "async def half(number: int) -> float: ...\n"
        "async def main() -> None:\n"
        "    reveal_type(await half(1))\n"
        "    reveal_type(await half.invalidate(1))\n"
        "    await half()\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)], cwd=Path(meshcache.__file__).parent.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.partition("program.py:")[2] for line in found.stdout.splitlines()]
    assert any('Revealed type is "float"' in line.replace("builtins.", "") for line in lines if line.startswith("5:"))
    assert any('Revealed type is "int"' in line.replace("builtins.", "") for line in lines if line.startswith("6:"))
    assert any(line.startswith("7: error: Argument 1") for line in lines)
    assert any('Revealed type is "float"' in line.replace("builtins.", "") for line in lines if line.startswith("12:"))
    assert any('Revealed type is "int"' in line.replace("builtins.", "") for line in lines if line.startswith("13:"))
    assert any(line.startswith("14: error:") for line in lines)
