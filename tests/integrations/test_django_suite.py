"""Django's own tests pass with our backend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from sdists import sdist

from meshcache import LocalMesh

pytestmark = pytest.mark.process

PROGRAM: Final = Path(__file__).parent / "django_suite.py"
PARTS: Final = ("backend", "users")
TIMEOUT_S: Final = 100
SKIPPED: Final = {
    "test_cull": "Culling isn't implemented.",
    "test_cull_delete_when_store_empty": "Culling isn't implemented.",
    "test_zero_cull": "Culling isn't implemented.",
}
"""They count the entries of one process's cache; Django skips them for memcached and redis, too."""


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[int, str]]:
    """Run all of it, the parts at the same time: much of it is waiting for keys to expire."""
    sources = sdist("django")
    with LocalMesh(nodes=3) as mesh:
        running = {}
        for part in PARTS:
            command = [sys.executable, str(PROGRAM), str(sources), ",".join(mesh.addresses), part]
            running[part] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            outputs = {part: process.communicate(timeout=TIMEOUT_S)[0] for part, process in running.items()}
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    return {part: (process.returncode, outputs[part]) for part, process in running.items()}


@pytest.mark.parametrize(("part", "least", "skipped"), [("backend", 50, SKIPPED), ("users", 150, {})])
def test_djangos_own_tests_pass(
    runs: dict[str, tuple[int, str]], part: str, least: int, skipped: dict[str, str]
) -> None:
    code, output = runs[part]
    assert code == 0, output
    summary = json.loads(output.splitlines()[-1])
    assert summary["failed"] == []
    assert summary["ran"] > least
    assert summary["operations"] > summary["ran"], "another cache was tested"
    assert summary["skipped"] == skipped
