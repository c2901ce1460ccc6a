"""The native module is built from the sources that are there, can be switched off, and can be done without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshcache import _native
from meshcache._native.build_hook import digest

ROOT = Path(__file__).parents[2]


def version_told(**environment: str) -> str:
    command = [sys.executable, "-m", "meshcache", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return found.stdout.strip()


def test_what_is_tested_was_built_from_the_present_sources() -> None:
    if _native.absent_because:
        pytest.skip(_native.describe())
    assert _native.compiled.built_from == digest(), "install again: scripts/test does"


def test_it_can_be_switched_off() -> None:
    assert version_told(MESHCACHE_PURE="1").endswith("(pure Python: MESHCACHE_PURE is set)")
    assert version_told(MESHCACHE_PURE="0") == version_told()
