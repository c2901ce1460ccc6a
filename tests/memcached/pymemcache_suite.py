"""Django's own tests of its backend for pymemcache, unmodified: a program, since Django's settings are global.

``python pymemcache_suite.py SOURCES ADDRESS`` runs ``PyMemcacheCacheTests`` of Django's source distribution against
what listens at ADDRESS. The last line of the output is a summary in JSON.
"""

from __future__ import annotations

import json
import sys
import unittest
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import django
from django.conf import settings
from django.test.runner import DiscoverRunner

BACKEND: Final = "django.core.cache.backends.memcached.PyMemcacheCache"


def main() -> int:
    sources, address = sys.argv[1:]
    sys.path.insert(0, str(Path(sources) / "tests"))
    settings.configure(
        CACHES={"default": {"BACKEND": BACKEND, "LOCATION": address}},
        DATABASES={name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=["cache"],
        LANGUAGE_CODE="en",
        ROOT_URLCONF="",
        SECRET_KEY="of a test",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=False,
    )
    django.setup()
    return min(1, Runner(verbosity=2, interactive=False).run_tests([]))


class Runner(DiscoverRunner):
    """Runs the tests of the backend, and tells what became of them."""

    def build_suite(self, *_: Any, **__: Any) -> unittest.TestSuite:
        return unittest.defaultTestLoader.loadTestsFromTestCase(import_module("cache.tests").PyMemcacheCacheTests)

    def suite_result(self, suite: unittest.TestSuite, result: Any, **more: Any) -> int:
        summary = {
            "ran": result.testsRun,
            "failed": [test.id() for test, _ in result.failures + result.errors],
            "skipped": {test.id().rpartition(".")[2]: reason for test, reason in result.skipped},
        }
        print(json.dumps(summary))
        return super().suite_result(suite, result, **more)


if __name__ == "__main__":
    sys.exit(main())
