"""Flask-Caching's own tests for our backend: with their conftest, and a mesh at MESHCACHE_SEEDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from test_backend_cache import GenericCacheTests

from meshcache.integrations.flask_caching import MeshCache


class TestMeshCache(GenericCacheTests):
    _can_use_fast_sleep = False

    @pytest.fixture
    def make_cache(self) -> Iterator[Callable[[], MeshCache]]:
        cache = MeshCache(key_prefix="werkzeug-test-case:")
        yield lambda: cache
        cache.clear()
