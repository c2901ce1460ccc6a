"""Django's own tests of its backend for pymemcache pass, unmodified, with a node instead of a memcached."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
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


def commands_of(door: Door) -> int:
    """Return how many commands the node has answered."""
    (found,) = re.findall(rb"STAT meshcache_commands (\d+)", answers_of(door.address, [("say", b"stats\r\n")]))
    return int(found)


def test_the_tests_of_pymemcache_s_backend_pass(door: Door) -> None:
    before = commands_of(door)
    command = [sys.executable, str(PROGRAM), str(sdist("django")), door.address]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["failed"] == []
    assert summary["ran"] > 55
    assert summary["skipped"] == SKIPPED
    assert commands_of(door) - before > 2 * summary["ran"], "another server was tested"
