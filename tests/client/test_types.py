"""What type checkers make of a user's program: right code has no error, and each mistake has one, where it is."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_node import fake_mesh

import meshcache
from meshcache.client.aio.streams import AsyncSubscription
from meshcache.client.blocking.streams import Subscription
from meshcache.patterns import WriteBehind, WriteThrough

PROGRAM = """
import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, assert_type

import meshcache

HALF_A_SECOND = timedelta(seconds=0.5)
cache = meshcache.Client(timeout=HALF_A_SECOND, ttl=timedelta(minutes=5))
shared = meshcache.AsyncClient("127.0.0.1:7101", timeout=0.5)


@cache.cached(ttl=60, timeout=HALF_A_SECOND, stale_ttl=timedelta(seconds=5))
def square(number: int) -> float:
    return number * number


assert_type(square(1), float)
assert_type(square(number=1), float)
assert_type(square.refresh(1), float)
assert_type(square.invalidate(1), int)
square("1")  # mistake
square()  # mistake
square.invalidate("1")  # mistake
square.refresh(numbr=1)  # mistake
square.cache_key(1, 2)  # mistake
wanted: Callable[[int], float] = square
wrong: Callable[[str], float] = square  # mistake


@cache.cached(key=str.lower)
def told(name: str) -> dict[str, int]:
    if not name:
        return meshcache.DO_NOT_CACHE({})
    if name == "wrong":
        return meshcache.DO_NOT_CACHE(1)  # mistake
    return {name: 1}


assert_type(told("a"), dict[str, int])


class Shop:
    @cache.cached(ttl=60)
    def price(self, item: str, *, tax: bool = True) -> float:
        return 1.0 if tax else 0.5

    @classmethod
    @cache.cached(ttl=60)
    def inner(cls, item: str) -> bytes:
        return item.encode()

    @cache.cached(ttl=60)
    @classmethod
    def outer(cls, item: str) -> bytes:
        return item.encode()

    @staticmethod
    @cache.cached(ttl=60)
    def inner_still(item: str) -> int:
        return len(item)

    @cache.cached(ttl=60)
    @staticmethod
    def outer_still(item: str) -> int:
        return len(item)

    @property
    @cache.cached(ttl=60)
    def total(self) -> int:
        return 1

    @shared.cached(ttl=60)
    async def stock(self, item: str) -> int:
        return len(item)

    @shared.cached(ttl=60)
    @classmethod
    async def find(cls, item: str) -> int:
        return len(item)

    @classmethod
    @shared.cached(ttl=60)
    async def seek(cls, item: str) -> int:
        return len(item)


class Kiosk(Shop):
    def cheaper(self) -> float:
        return self.price("tea") + super().price("tea")


shop = Shop()
assert_type(shop.price("tea"), float)
assert_type(shop.price("tea", tax=False), float)
assert_type(Shop.price(shop, "tea"), float)
assert_type(Kiosk().price(item="tea"), float)
assert_type(shop.price.invalidate("tea"), int)
assert_type(shop.price.refresh("tea", tax=True), float)
shop.price(1)  # mistake
shop.price("tea", False)  # mistake
shop.price()  # mistake
shop.price.refresh(1)  # mistake
shop.price.invalidate(shop, "tea")  # mistake
Shop.price("tea")  # mistake
assert_type(Shop.inner("tea"), bytes)
assert_type(shop.inner("tea"), bytes)
assert_type(Kiosk.inner("tea"), bytes)
Shop.inner(1)  # mistake
assert_type(Shop.outer("tea"), bytes)
assert_type(shop.outer("tea"), bytes)
assert_type(Kiosk.outer.invalidate("tea"), int)
Shop.outer(1)  # mistake
assert_type(Shop.inner_still("tea"), int)
assert_type(shop.inner_still("tea"), int)
shop.inner_still(1)  # mistake
assert_type(Shop.outer_still("tea"), int)
assert_type(shop.outer_still("tea"), int)
assert_type(Shop.outer_still.invalidate("tea"), int)
shop.outer_still(1)  # mistake
assert_type(shop.total, int)

twice = cache.cached(ttl=60)(functools.partial(square, 2))
assert_type(twice(), float)


class Scaled:
    def __call__(self, number: int) -> int:
        return number


scaled = cache.cached()(Scaled())
assert_type(scaled(1), int)
scaled("1")  # mistake


async def main() -> None:
    assert_type(await shop.stock("tea"), int)
    assert_type(await shop.stock.invalidate("tea"), int)
    assert_type(await Shop.find("tea"), int)
    assert_type(await Shop.find.refresh("tea"), int)
    assert_type(await Shop.seek("tea"), int)
    await shop.stock(1)  # mistake
    await Shop.find(1)  # mistake
    shop.stock("tea") + 1  # mistake
    task = asyncio.create_task(shop.stock("tea"))
    assert_type(await task, int)
    later: Callable[[str], Awaitable[int]] = shop.stock
    await later("tea")
    async with shared.lock("name", timeout=HALF_A_SECOND):
        await shared.get("key", timeout=HALF_A_SECOND)
    async with shared.subscribe("users:", timeout=HALF_A_SECOND) as events:
        await events.wait(timeout=HALF_A_SECOND)


@cache.cached
def bare(number: int) -> int:  # mistake
    return number


@shared.cached()
def plain(number: int) -> int:  # mistake
    return number


def timed(value: Any) -> None:
    cache.set("key", value, timeout=HALF_A_SECOND)
    cache.get_or_set("key", lambda: value, timeout=HALF_A_SECOND)
    cache.with_options(timeout=HALF_A_SECOND).get("key", timeout="1")  # mistake
    with cache.lock("name", timeout=HALF_A_SECOND), cache.subscribe("users:", timeout=HALF_A_SECOND) as events:
        events.wait(HALF_A_SECOND)
    meshcache.LocalMesh(nodes=1).wait_ready(HALF_A_SECOND)
""".lstrip()

ROOT = Path(meshcache.__file__).parent.parent
MISTAKES = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# mistake")}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def place(line: int) -> int:
    """Of a decorated function the decorators may be blamed, too."""
    lines = PROGRAM.splitlines()
    while line not in MISTAKES and lines[line - 1].startswith("@"):
        line += 1
    return line


def test_mypy_finds_the_mistakes_and_nothing_else(program: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    found = re.findall(r"program\.py:(\d+): error: ", ran.stdout)
    assert {place(int(line)) for line in found} == MISTAKES, ran.stdout + ran.stderr


def test_pyright_finds_the_mistakes_and_nothing_else(program: Path) -> None:
    pytest.importorskip("basedpyright", reason="the type checker basedpyright is not installed")
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(program)],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    found = [each for each in json.loads(ran.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    assert {place(each["range"]["start"]["line"] + 1) for each in found} == MISTAKES, ran.stdout


def test_a_timeout_may_be_a_timedelta_wherever_one_is_taken(tmp_path: Path) -> None:
    short = timedelta(milliseconds=1)
    long = timedelta(seconds=20)
    with fake_mesh() as (node,), meshcache.Client(node.address, timeout=long) as cache:
        cache.set("key", 1, timeout=long)
        assert cache.with_options(timeout=long).get("key", timeout=long) == 1
        assert cache.cached(timeout=long)(len)("abc") == 3
        with cache.lock("name", timeout=long):
            assert cache.lock("name", timeout=short).acquire() is False
    follower: Any = SimpleNamespace(detach=lambda _: None)
    assert Subscription(follower, b"", b"").wait(short) is None

    async def wait() -> object:
        return await AsyncSubscription(follower, b"", b"", follower, None).wait(short)

    assert asyncio.run(wait()) is None
    empty = meshcache.LocalMesh.__new__(meshcache.LocalMesh)
    empty._nodes = {}
    empty.wait_ready(short)
    with meshcache.Client("127.0.0.1:1") as nowhere:
        queue: WriteBehind[str, int] = WriteBehind(
            nowhere, tmp_path / "queue", lambda _: 1, lambda _: None, name=str, full_timeout=long
        )
        queue.flush(long)
        assert queue.close(long) == 0
        _: WriteThrough[str, int] = WriteThrough(nowhere, lambda _: 1, lambda _: None, name=str, fence_ttl=long)


@pytest.mark.parametrize("client", [meshcache.Client, meshcache.AsyncClient])
def test_every_operation_says_so(client: type) -> None:
    named = [getattr(client, name) for name in dir(client) if not name.startswith("_")]
    operations = [each for each in named if callable(each)]
    said = [inspect.signature(operation).parameters.get("timeout") for operation in [client, *operations]]
    assert {each.annotation for each in said if each is not None} == {"Timeout | None"}
