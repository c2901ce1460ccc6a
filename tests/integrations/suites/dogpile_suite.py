"""The tests that dogpile.cache has for backends, for ours, with a mesh at MESHCACHE_SEEDS."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from dogpile.testing.fixtures import _GenericBackendTestSuite, _GenericMutexTestSuite, _GenericSerializerTestSuite

SEEDS = os.environ["MESHCACHE_SEEDS"]


class TestGeneric(_GenericBackendTestSuite):
    backend = "meshcache"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"seeds": SEEDS}}


class TestGenericWithLock(TestGeneric):
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"seeds": SEEDS, "distributed_lock": True}}


class TestSerializer(_GenericSerializerTestSuite, TestGeneric):
    pass


class TestMutex(_GenericMutexTestSuite):
    backend = "meshcache"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"seeds": SEEDS, "distributed_lock": True}}


class TestMutexWithTimeout(TestMutex):
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"seeds": SEEDS, "distributed_lock": True, "lock_timeout": 1}}
