"""What clients of memcached make of a node: Django's tests of its backend, and a client with a list of doors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from chaos_run import run_chaos
from fuzzing.memcached import Door, answers_of
from sdists import sdist

pytestmark = pytest.mark.process

PROGRAM: Final = Path(__file__).parent / "pymemcache_suite.py"
TIMEOUT_S: Final = 100
SKIPPED: Final = {
    "test_cull": "Culling isn't implemented.",
    "test_cull_delete_when_store_empty": "Culling isn't implemented.",
    "test_zero_cull": "Culling isn't implemented.",
}
"""Django skips them for every memcached: they count the entries of a cache in its own process."""


@pytest.fixture(scope="module")
def django_s_tests(door: Door) -> Iterator[subprocess.Popen[str]]:
    """Django's tests of its backend for pymemcache, under way: much of it is waiting for keys to expire."""
    command = [sys.executable, str(PROGRAM), str(sdist("django")), door.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        yield running
        running.kill()


def test_nothing_is_lost_when_a_node_is_killed_behind_a_client_with_a_list(
    django_s_tests: subprocess.Popen[str],
) -> None:
    """Beside the tests of Django, which are about another mesh."""
    result, log = run_chaos("hashclient", timeout_s=100)
    none = {name: result.get(name) for name in ("wrong", "stale", "lost", "backwards")}
    assert none == dict.fromkeys(none, 0), log
    assert result["lost_keys"] == 0
    assert result["passed"], (result["checks"], log)
    assert result["calls"] > 200


def commands_of(door: Door) -> int:
    """Return how many commands the node has answered."""
    (found,) = re.findall(rb"STAT meshcache_commands (\d+)", answers_of(door.address, [("say", b"stats\r\n")]))
    return int(found)


def test_django_s_tests_of_its_backend_for_pymemcache_pass(door: Door, django_s_tests: subprocess.Popen[str]) -> None:
    output, _ = django_s_tests.communicate(timeout=TIMEOUT_S)
    assert django_s_tests.returncode == 0, output
    summary = json.loads(output.splitlines()[-1])
    assert summary["failed"] == []
    assert summary["ran"] > 55
    assert summary["skipped"] == SKIPPED
    assert commands_of(door) > 2 * summary["ran"], "another server was tested"
