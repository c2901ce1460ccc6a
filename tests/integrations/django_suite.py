"""Django's own tests, run with our backend: a program, for a process of its own, since Django's settings are global.

``python django_suite.py SOURCES SEEDS PART`` runs the tests in the ``tests`` of Django's source distribution. PART is
"backend": the tests that each of Django's backends has to pass; or "users": those of what uses a cache, which Django
runs with its LocMemCache. The last line of the output is a summary in JSON.
"""

from __future__ import annotations

import json
import sys
import unittest
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import django
from django.conf import settings
from django.core.cache import caches
from django.test import TestCase, override_settings
from django.test.runner import DiscoverRunner

from meshcache.integrations.django import MeshCache

BACKEND: Final = "meshcache.integrations.django.MeshCache"
EXCLUDED: Final = {"cull", "zero_cull"}
"""Settings for backends that count their entries and cull them by themselves; nor have those of memcached and redis."""
USERS: Final = {
    "cache.tests": (
        "CacheUtils",
        "PrefixedCacheUtils",
        "CacheHEADTest",
        "CacheI18nTest",
        "PrefixedCacheI18nTest",
        "CacheMiddlewareTest",
        "TestWithTemplateResponse",
    ),
    "sessions_tests.tests": ("CacheSessionTests", "CacheDBSessionTests", "CacheDBSessionWithTimeZoneTests"),
    "template_tests.syntax_tests.test_cache": ("CacheTagTests", "CacheTests"),
}
"""By module, the classes with the tests of what uses a cache: the middleware, views, sessions, template fragments."""


def main() -> int:
    sources, seeds, part = sys.argv[1:]
    sys.path.insert(0, str(Path(sources) / "tests"))
    place = f"mesh://{seeds}/{part}-"  # a namespace of its own, since most tests clear the cache
    default = {"BACKEND": BACKEND, "LOCATION": place}
    settings.configure(
        CACHES={"default": default, "other": {"BACKEND": BACKEND, "LOCATION": f"{place}other-", "TIMEOUT": "1"}},
        DATABASES={name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=["django.contrib.sessions", "django.contrib.contenttypes", "cache", "sessions_tests"],
        LANGUAGE_CODE="en",
        ROOT_URLCONF="",
        SECRET_KEY="of a test",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=False,
    )
    django.setup()
    runner = Runner(verbosity=2, interactive=False)
    runner.kinds = kinds_of_backend(default) if part == "backend" else kinds_of_users()
    return min(1, runner.run_tests([]))


def kinds_of_backend(default: dict[str, Any]) -> list[type[unittest.TestCase]]:
    tests = import_module("cache.tests")
    kind = type("MeshCacheTests", (tests.BaseCacheTests, TestCase), {})
    return [override_settings(CACHES=tests.caches_setting_for_tests(base=default, exclude=EXCLUDED))(kind)]


def kinds_of_users() -> list[type[unittest.TestCase]]:
    found = [getattr(import_module(module), name) for module, names in USERS.items() for name in names]
    return [override_settings(CACHES=settings.CACHES)(type(kind.__name__, (kind,), {})) for kind in found]


class Runner(DiscoverRunner):
    """Runs the tests of given classes, and tells what became of them."""

    kinds: list[type[unittest.TestCase]]

    def build_suite(self, *_: Any, **__: Any) -> unittest.TestSuite:
        return unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, self.kinds))

    def suite_result(self, suite: unittest.TestSuite, result: Any, **more: Any) -> int:
        summary = {
            "operations": cast("MeshCache", caches["default"]).client.statistics().operations,
            "ran": result.testsRun,
            "failed": [test.id() for test, _ in result.failures + result.errors],
            "skipped": {test.id().rpartition(".")[2]: reason for test, reason in result.skipped},
        }
        print(json.dumps(summary))
        return super().suite_result(suite, result, **more)


if __name__ == "__main__":
    sys.exit(main())
