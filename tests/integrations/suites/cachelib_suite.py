"""cachelib's own tests for our backend: with their conftest, and a mesh at MESHCACHE_SEEDS."""

from __future__ import annotations

from typing import Any

import pytest
from clear import ClearTests
from common import CommonTests
from delete_many_with_prefix import DeleteManyWithPrefixTests
from has import HasTests
from serializer import SerializerTests

from meshcache.integrations.cachelib import MeshCache


class Repr:
    """A serializer of no use but for tests."""

    def dumps(self, value: Any) -> bytes:
        return repr(value).encode()

    def loads(self, bvalue: bytes) -> Any:
        return eval(bvalue.decode())


class SerializedCache(MeshCache):
    serializer = Repr()


@pytest.fixture(autouse=True, params=[MeshCache, SerializedCache])
def cache_factory(request: pytest.FixtureRequest, key_prefix: str | None) -> None:
    def make(_: object, *args: Any, **kwargs: Any) -> MeshCache:
        cache: MeshCache = request.param(*args, **{"key_prefix": key_prefix or "", **kwargs})
        cache.clear()
        return cache

    request.cls.cache_factory = make


class TestMeshCache(CommonTests, ClearTests, HasTests, DeleteManyWithPrefixTests, SerializerTests):
    pass
