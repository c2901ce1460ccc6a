"""Cached functions are pickled by name, as functions are, or it is said why not."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_node import fake_mesh

import meshcache

cache = meshcache.Client("127.0.0.1:1")
shared = meshcache.AsyncClient("127.0.0.1:1")


@cache.cached(ttl=60)
def square(number: int) -> int:
    return number * number


@shared.cached(ttl=60)
async def later(number: int) -> int:
    return number


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    @cache.cached(ttl=60)
    def price(self, item: str) -> str:
        return item

    @classmethod
    @cache.cached(ttl=60)
    def inner(cls, item: str) -> str:
        return item

    @cache.cached(ttl=60)
    @classmethod
    def outer(cls, item: str) -> str:
        return item

    @staticmethod
    @cache.cached(ttl=60)
    def still(item: str) -> str:
        return item

    class Shelf:
        @shared.cached(ttl=60)
        async def count(self, item: str) -> int:
            return 1


class Kiosk(Shop):
    @cache.cached(ttl=60)
    def price(self, item: str) -> str:
        return item

    @property
    def parents(self) -> Any:
        return super().price


@functools.lru_cache
@cache.cached(ttl=60)
def wrapped(number: int) -> int:
    return number


plain_square = cache.cached(ttl=60)(lambda number: number * number)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_function_is_found_by_its_name(protocol: int) -> None:
    functions: list[Any] = [square, later, Shop.price, Shop.still, Kiosk.price, Shop.Shelf.count]
    for function in functions:
        assert pickle.loads(pickle.dumps(function, protocol)) is function
        assert pickle.loads(pickle.dumps([function.refresh], protocol))[0].__self__ is function


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_method_takes_its_object_along(protocol: int) -> None:
    shop = Shop("one")
    methods: list[Any] = [shop.price, Shop.inner, shop.inner, Shop.outer, shop.outer, Kiosk("k").price, Kiosk.outer]
    for method in methods:
        for each in (method, pickle.loads(pickle.dumps(method.invalidate, protocol)).__self__):
            found: Any = pickle.loads(pickle.dumps(each, protocol))
            assert found.cache_key("tea") == method.cache_key("tea")
            assert found.function is method.function
    found = pickle.loads(pickle.dumps(shop.price, protocol))
    assert found._bound[0].name == "one"


def test_copies_are_the_function_itself() -> None:
    local = cache.cached()(lambda: 1)
    assert copy.copy(square) is square
    assert copy.deepcopy({"function": [square, local]}) == {"function": [square, local]}


def test_what_is_not_found_by_its_name_is_refused_in_words() -> None:
    def local(number: int) -> int:
        return number

    functions: list[Any] = [
        plain_square,
        cache.cached()(local),
        cache.cached()(max),
        cache.cached()(functools.partial(local, 1)),
        wrapped.__wrapped__,
        Kiosk("k").parents,
    ]
    for function in functions:
        for each in (function, function.refresh):
            with pytest.raises(pickle.PicklingError, match=r"can not pickle the cached .*the top of a module"):
                pickle.dumps(each)


MODULE = """
import meshcache
cache = meshcache.Client()
@cache.cached(ttl=60)
def square(number):
    return number * number
class Shop:
    @cache.cached(ttl=60)
    def price(self, number):
        return number + 1
    @classmethod
    @cache.cached(ttl=60)
    def twice(cls, number):
        return 2 * number
"""

PROGRAM = """
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
FUNCTIONS
def main():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
        for function in (square, Shop().price, Shop.twice, square.refresh, square.invalidate):
            print(function.__name__, list(pool.map(function, range(4))))
        keys = {square.cache_key(3), *pool.map(square.cache_key, [3, 3])}
        print(len(keys), cache.get(square.cache_key(3)))
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(square, [5]))
if __name__ == "__main__":
    main()
"""

IMPORT = "from functions import Shop, cache, square\n"

PRINTED = """square [0, 1, 4, 9]
price [1, 2, 3, 4]
twice [0, 2, 4, 6]
refresh [0, 1, 4, 9]
invalidate [1, 1, 1, 1]
1 None
[25]
"""


@pytest.mark.parametrize(
    ("method", "arguments", "functions"),
    [
        ("spawn", ["program.py"], MODULE),
        ("spawn", ["-m", "program"], MODULE),
        ("spawn", ["program.py"], IMPORT),
        ("fork", ["program.py"], MODULE),
        ("forkserver", ["program.py"], MODULE),
    ],
    ids=["spawn", "spawn-m", "spawn-module", "fork", "forkserver"],
)
def test_other_processes_run_cached_functions(
    tmp_path: Path, method: str, arguments: list[str], functions: str
) -> None:
    (tmp_path / "functions.py").write_text(MODULE)
    (tmp_path / "program.py").write_text(PROGRAM.replace("FUNCTIONS", functions))
    root = Path(meshcache.__file__).parent.parent
    with fake_mesh() as (node,):
        ran = subprocess.run(
            [sys.executable, *arguments, method],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "MESHCACHE_SEEDS": node.address, "PYTHONPATH": str(root)},
            timeout=100,
        )
    assert ran.stdout == PRINTED, ran.stderr
