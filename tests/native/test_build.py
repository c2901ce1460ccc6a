"""The native module is built from the sources that are there, can be switched off, and can be done without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
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


def wheel_of(folder: Path, **environment: str) -> tuple[Path, str]:
    """Build a wheel with what is installed here; return it, and what was said meanwhile."""
    shutil.copytree(ROOT / "meshcache", folder / "meshcache", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    built = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env=os.environ | environment
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel, built.stdout + built.stderr


def told_by(wheel: Path, folder: Path) -> str:
    """Unpack a wheel, and have what is in it say which of the two serves."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    program = "import meshcache; from meshcache import _native; print(meshcache.__file__, _native.describe())"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    file, _, told = found.stdout.strip().partition(" ")
    assert Path(file).is_relative_to(folder)
    return told


def test_without_a_compiler_the_wheel_is_pure_and_the_build_says_so(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    wheel, said = wheel_of(tmp_path / "source", CC="false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "without its native module" in said
    assert told_by(wheel, tmp_path / "unpacked").startswith("pure Python: not built")


def test_with_a_compiler_the_wheel_is_for_this_python(tmp_path: Path) -> None:
    if _native.absent_because:
        pytest.skip(_native.describe())
    (tmp_path / "source").mkdir()
    wheel, _ = wheel_of(tmp_path / "source")
    assert f"-cp{sys.version_info.major}{sys.version_info.minor}-" in wheel.name
    assert told_by(wheel, tmp_path / "unpacked") == _native.describe()


def test_where_the_native_module_must_be_built_a_failure_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        wheel_of(tmp_path / "source", CC="false", MESHCACHE_NATIVE="1")
