"""The tests of other projects, for our backends: they are in source distributions, which pip fetches once.

``scripts/test`` fetches them before the tests run; a test that needs one asks for it again, and is skipped with the
reason if it can not be had.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

FETCH_TIMEOUT_S: Final = 60.0


class NoSdist(Exception):
    """A source distribution can not be had; the text says why."""


def sdist(name: str) -> Path:
    """Return the folder with the sources of a package, of the version that is installed; skip the test without it."""
    try:
        return fetched(name)
    except NoSdist as error:
        pytest.skip(str(error))


def fetched(name: str) -> Path:
    """Return the folder with the sources of an installed package; fetch them if that was not done before."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise NoSdist(f"the package {name} is not installed") from None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshcache-tests"
    folder = home / f"{name}-{version}"
    if not folder.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as temporary:
            found = _unpacked(_downloaded(f"{name}=={version}", Path(temporary)))
            with contextlib.suppress(OSError):  # another test run was faster
                found.rename(folder)
    return folder


def _downloaded(requirement: str, folder: Path) -> Path:
    """Have pip put an archive into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    command += ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoSdist(f"pip did not fetch the sources of {requirement} within {FETCH_TIMEOUT_S:.0f} s") from None
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        raise NoSdist(f"pip can not fetch the sources of {requirement}: {done.stderr.strip()[-300:]}")
    return archives[0]


def _unpacked(archive: Path) -> Path:
    """Unpack an archive beside itself; return the one folder that is in it."""
    inside = archive.parent / "inside"
    with tarfile.open(archive) as tar:
        tar.extractall(inside, filter="data")
    (folder,) = inside.iterdir()
    return folder


def main(names: list[str]) -> int:
    """Fetch the sources of these packages; say which can not be had."""
    missing = 0
    for name in names:
        try:
            fetched(name)
        except NoSdist as error:
            print(f"the tests with {name}'s own suite will be skipped: {error}", file=sys.stderr)
            missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
